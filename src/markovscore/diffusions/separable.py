r"""Forward processes ``dY = f(Y, t) dt + G(t) dW`` on ``[0, horizon]``.

A diffusion is any object with ``drift(y, t) -> (B, d)`` and ``dispersion(t)``; nothing has to be
inherited. Samplers also read ``dim``, ``horizon`` and ``prior`` (the law at the horizon), and use
``project`` (back into the state space) and ``drift_divergence`` where the object has them; else
they take the identity and exact automatic differentiation.

``y`` is ``(B, d)``, images are flat rows. Both methods get ``t`` as a tensor with the dtype and
device of ``y`` that broadcasts against it: 0-dim, one time for all rows, or ``(B, 1)``, one for
each; so ``torch.cos(t) - y`` is right in every call. ``dispersion(t)`` returns one of

* a number ``g``, for ``g I``: a float, 0-dim, or ``(B, 1)`` for times ``(B, 1)``;
* a matrix ``(d, m)``, or ``(B, d, m)`` for times ``(B, 1)``: ``t[..., None] * G`` is both;
* ``markovscore.Diagonal(sigma)``, a size for each coordinate: ``(d,)``, or ``(B, d)`` for
  ``(B, 1)``.

Other shapes are refused, a bare ``(d,)`` among them, whatever ``B`` is. A score ``s(x, t)`` gets
its times 0-dim or ``(B,)``, as networks expect.

The canonical processes have ``G = sqrt2 I``, so that the generator is the Laplacian plus the drift
term and the carré du champ is ``grad h . grad g``. Time is the process's own clock. Their methods
run inside solvers and training loops, so they check the sign of ``t`` and nothing else.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _kernels1d as kernels
from ._fields import Time, drift_at, value_and_divergence
from ._linear import cholesky, linear_transition, stationary_factor
from ._modes import full_precision, lasting
from ._prior_tools import inner_bounds, with_rounding
from ._validate import (
    as_tensor,
    check_from_start,
    check_number,
    check_precision,
    check_time,
    expand_like,
    takes_arrays,
)
from .eigenbasis import Cosine, Fourier, Hermite
from .priors import Gaussian, Source, UniformBox, UniformTorus

SQRT2 = math.sqrt(2.0)


def _time(t: Time) -> Tensor:
    """``t`` as a tensor; a number becomes 0-dim float64, which promotes no tensor it meets."""
    return t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64, device="cpu")


def _times_of(t: Time, var: Tensor) -> Tensor:
    """``t``: 0-dim, or one for each row of ``var`` ``(B or 1, ...)``, of its rank."""
    t = check_time(t, len(var) if var.ndim and len(var) > 1 else None, like=var)
    return t.reshape(-1, *[1] * (var.ndim - 1)) if t.ndim and var.ndim else t


def _check_horizon(horizon: float) -> float:
    return check_number(horizon, "horizon", positive=True)


@takes_arrays
class Diffusion:
    """Base class: ``drift`` and ``dispersion`` are the model, the rest has exact defaults.

    The package calls both with ``t`` as a tensor, 0-dim or ``(B, 1)``, dtype and device of ``y``
    ``(B, d)``; a score it calls with ``t`` 0-dim or ``(B,)``. The methods of the classes here also
    take a float and ``(B,)``.

    Attributes:
        dim: number of coordinates ``d``.
        horizon: end of the time interval, in the process's clock.
        prior: law at the horizon (``markovscore.priors``), None where it is not known.
    """

    dim: int
    horizon: float
    prior: Any = None

    def drift(self, y: Tensor, t: Time) -> Tensor:
        """``f(y, t)``, shape ``(B, d)``, for ``t`` 0-dim or ``(B, 1)``."""
        raise NotImplementedError(f"{type(self).__name__} needs drift(y, t) -> (B, d)")

    def dispersion(self, t: Time) -> Tensor:
        """``G(t)``: a number, 0-dim or ``(B, 1)``; a matrix, ``(d, m)`` or ``(B, d, m)``; or
        :class:`Diagonal`. The second forms are for ``t`` ``(B, 1)``."""
        raise NotImplementedError(f"{type(self).__name__} needs dispersion(t)")

    def drift_divergence(self, y: Tensor, t: Time) -> Tensor:
        """``div f(y, t)``, shape ``(B,)``, exact by ``torch.func``."""
        return value_and_divergence(lambda y, t: drift_at(self, y, t), y, t)[1]

    def project(self, y: Tensor) -> Tensor:
        """Bring points back into the state space; the identity on ``R^d``."""
        return y

    def contains(self, x: Tensor) -> Tensor:
        """True for the rows of ``x`` in the state space, shape ``(B,)``."""
        return torch.isfinite(x).all(dim=1)


@takes_arrays
class _Separable(Diffusion):
    """``G = sqrt2 I`` and independent coordinates: an isotropic Gaussian stays of one known form.

    A subclass gives ``evolve_gaussian(mean, var, t)``, the moments at time ``t`` of a start from
    ``N(mean, var I)``, and the kernel that its state space makes of them (plain, wrapped,
    reflected) by the elementwise ``_axis_log_prob`` and ``_axis_score``. A transition is the case
    ``var = 0``; mixtures broadcast ``y`` ``(B, 1, d)`` to ``mean`` ``(M, d)`` and ``var`` ``(M,)``.
    """

    elementwise = True
    _axis_log_prob: Callable[..., Tensor]
    _axis_score: Callable[..., Tensor]
    std: Callable[..., Tensor]
    evolve_gaussian: Callable[..., tuple[Tensor, Tensor]]

    def dispersion(self, t: Time) -> Tensor:
        """``sqrt2``, a 0-dim tensor."""
        return torch.tensor(SQRT2, dtype=torch.float64, device="cpu")

    def log_kernel(self, y: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Log density at ``y`` ``(..., d)`` of the kernel with these moments, shape ``(...)``."""
        return self._axis_log_prob(y, mean, var.unsqueeze(-1)).sum(-1)

    def kernel_score(self, y: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Gradient of :meth:`log_kernel` in ``y``, shape ``(..., d)``."""
        return self._axis_score(y, mean, var.unsqueeze(-1))

    def log_transition(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        """``log p(Y_t = y | Y_0 = x0)``, shape ``(B,)``; ``t > 0``."""
        return self.log_kernel(y, *self._transition_moments(x0, t))

    def transition_score(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        """``grad_y log p(Y_t = y | Y_0 = x0)``, shape ``(B, d)``; ``t > 0``."""
        return self.kernel_score(y, *self._transition_moments(x0, t))

    def _transition_moments(self, x0: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        start = torch.zeros_like(x0[:, 0])
        t = expand_like(t, start)
        return self.evolve_gaussian(x0, start, t)

    def _noise(self, x0: Tensor, t: Time, generator: Source) -> Tensor:
        z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        return expand_like(self.std(t), x0) * z


@takes_arrays
class _Driftless(_Separable):
    """Brownian motion ``dY = sqrt2 dW`` confined by ``project``."""

    def drift(self, y: Tensor, t: Time) -> Tensor:
        """Zero, shape ``(B, d)``."""
        return torch.zeros_like(y)

    def drift_divergence(self, y: Tensor, t: Time) -> Tensor:
        """Zero, shape ``(B,)``."""
        return torch.zeros_like(y[:, 0])

    def evolve_gaussian(self, mean: Tensor, var: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """``mean`` ``(..., d)`` and ``var + 2t`` ``(...)``, before wrapping or reflection."""
        return mean, var + 2 * _times_of(t, var)

    def std(self, t: Time) -> Tensor:
        """``sqrt(2 t)``: the noise scale before it is wrapped or reflected."""
        return (2 * _time(t)).sqrt()

    def sample_transition(self, x0: Tensor, t: Time, generator: Source = None) -> Tensor:
        """Exact draws of ``Y_t`` given ``Y_0 = x0`` ``(B, d)``, shape ``(B, d)``; ``t >= 0``."""
        return self.project(x0 + self._noise(x0, t, generator))


@takes_arrays
class OrnsteinUhlenbeck(_Separable):
    r"""``dY = -Y dt + sqrt2 dW``, stationary law ``N(0, I)``, eigenvalues ``-|k|_1``.

    The transition is :math:`\mathcal N(e^{-t} x_0, (1 - e^{-2t}) I)`. A VP schedule is this
    process at the time ``int_0^t beta / 2``: ``VariancePreserving``.
    """

    def __init__(self, dim: int, horizon: float = 5.0) -> None:
        self.prior = Gaussian(dim)
        self.dim, self.horizon = self.prior.dim, _check_horizon(horizon)

    def drift(self, y: Tensor, t: Time) -> Tensor:
        """``-y``, shape ``(B, d)``."""
        return -y

    def drift_divergence(self, y: Tensor, t: Time) -> Tensor:
        """``-d``, shape ``(B,)``."""
        return torch.full_like(y[:, 0], -self.dim)

    def std(self, t: Time) -> Tensor:
        """``sqrt(1 - e^{-2t})``, accurate for tiny ``t``."""
        return (-torch.expm1(-2 * _time(t))).sqrt()

    def ou_time(self, t: Time) -> Tensor:
        """``t`` in float64: the time of this process, as ``VariancePreserving.ou_time``."""
        return _time(t).double()

    def sample_transition(self, x0: Tensor, t: Time, generator: Source = None) -> Tensor:
        """Exact draws of ``Y_t`` given ``Y_0 = x0`` ``(B, d)``, shape ``(B, d)``; ``t >= 0``."""
        return torch.exp(-expand_like(t, x0)) * x0 + self._noise(x0, t, generator)

    def evolve_gaussian(self, mean: Tensor, var: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """``e^{-t} mean`` ``(..., d)`` and ``e^{-2t} var + 1 - e^{-2t}`` ``(...)``."""
        t = _times_of(t, var)
        noise = -torch.expm1(-2 * t)
        return torch.exp(-t).unsqueeze(-1) * mean, torch.exp(-2 * t) * var + noise

    _axis_log_prob = staticmethod(kernels.normal_log_prob)
    _axis_score = staticmethod(kernels.normal_score)

    def eigenbasis(self, n_functions: int) -> Hermite:
        """The ``n_functions`` slowest non-constant eigenfunctions: normalised Hermite products."""
        return Hermite(self.dim, n_functions)


@takes_arrays
class TorusBrownian(_Driftless):
    """``dY = sqrt2 dW`` on the torus ``[-pi, pi)^d``, uniform law, eigenvalues ``-|k|^2``.

    The transition is the *wrapped* normal of variance ``2t`` on each axis: all images count.
    """

    def __init__(self, dim: int, horizon: float = 4.0) -> None:
        self.prior = UniformTorus(dim)
        self.dim, self.horizon = self.prior.dim, _check_horizon(horizon)

    def project(self, y: Tensor) -> Tensor:
        """Wrap to ``[-pi, pi)``; points inside are returned unchanged."""
        turns = torch.floor((y + math.pi) / (2 * math.pi))
        # Rounding may land just outside, and so do the numbers nearest to -pi and pi in float32.
        low, high = inner_bounds(-math.pi, math.pi, y.dtype, half_open=True)
        return (y - 2 * math.pi * turns).clamp(low, high)

    def contains(self, x: Tensor) -> Tensor:
        """True for rows in ``[-pi, pi]^d``, to the rounding of float32; shape ``(B,)``."""
        return (x.abs() <= with_rounding(-math.pi, math.pi)[1]).all(dim=1)

    _axis_log_prob = staticmethod(kernels.wrapped_normal_log_prob)
    _axis_score = staticmethod(kernels.wrapped_normal_score)

    def eigenbasis(self, n_functions: int) -> Fourier:
        """The ``n_functions`` slowest non-constant eigenfunctions: real Fourier modes."""
        return Fourier(self.dim, n_functions)


@takes_arrays
class BoxBrownian(_Driftless):
    """``dY = sqrt2 dW`` reflected in the walls of ``[low, high]^d``, uniform law.

    Eigenvalues ``-pi^2 |k|^2 / (high - low)^2``; the default horizon leaves ``e^{-pi^2/2} = 0.7%``
    of the slowest one.
    """

    reflects = True

    def __init__(self, dim: int, low: float = 0.0, high: float = 1.0, horizon: float | None = None):
        self.prior = UniformBox(dim, low, high)
        self.dim, self.low, self.high = self.prior.dim, self.prior.low, self.prior.high
        default = 0.5 * (self.high - self.low) ** 2
        self.horizon = _check_horizon(default if horizon is None else horizon)

    def project(self, y: Tensor) -> Tensor:
        """Reflect into the box, as often as needed; points inside are returned unchanged."""
        length = self.high - self.low
        folded = self.low + length - (torch.remainder(y - self.low, 2 * length) - length).abs()
        low, high = inner_bounds(self.low, self.high, y.dtype)
        return torch.where((y >= low) & (y <= high), y, folded.clamp(low, high))

    def contains(self, x: Tensor) -> Tensor:
        """True for rows in ``[low, high]^d``, to the rounding of float32; shape ``(B,)``."""
        low, high = with_rounding(self.low, self.high)
        return ((x >= low) & (x <= high)).all(dim=1)

    def _axis_log_prob(self, y: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return kernels.reflected_normal_log_prob(y, mean, var, self.low, self.high)

    def _axis_score(self, y: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return kernels.reflected_normal_score(y, mean, var, self.low, self.high)

    def eigenbasis(self, n_functions: int) -> Cosine:
        """The ``n_functions`` slowest non-constant eigenfunctions: products of cosines."""
        return Cosine(self.dim, n_functions, self.low, self.high)


@takes_arrays
class LinearSDE(Diffusion):
    r"""Linear time-invariant SDE ``dY = F Y dt + G dW``.

    The transition is :math:`\mathcal N(e^{Ft} x_0, \int_0^t e^{Fu} G G^T e^{F^T u} du)`, both
    matrices in float64 by series and doubling, once for each distinct time of the batch. ``G`` may
    be rank-deficient as long as its noise reaches every direction through ``F``.

    Args:
        F: drift matrix ``(d, d)``.
        G: dispersion matrix ``(d, m)``.
        horizon: end of the time interval.

    The prior is the stationary Gaussian where ``F`` is stable, else None: assign your own.

    Raises:
        ValueError: shapes that do not fit, or non-finite entries.
    """

    @lasting
    def __init__(self, F: Tensor, G: Tensor, horizon: float = 5.0) -> None:
        F, G = as_tensor(F, "F", torch.float64), as_tensor(G, "G", torch.float64)
        if F.ndim != 2 or F.shape[0] != F.shape[1] or G.ndim != 2 or G.shape[0] != F.shape[0]:
            raise ValueError(
                f"expected F (d, d) and G (d, m), found {tuple(F.shape)} and {tuple(G.shape)}"
            )
        if not bool(torch.isfinite(F).all() and torch.isfinite(G).all()):
            raise ValueError("expected finite F and G, found NaN or inf")
        self.F, self.G, self.dim = F, G, F.shape[0]
        self.horizon = _check_horizon(horizon)
        factor = stationary_factor(F, G @ G.T)
        self.prior = None if factor is None else Gaussian(self.dim, scale=factor)

    @full_precision
    def drift(self, y: Tensor, t: Time) -> Tensor:
        """``F y``, shape ``(B, d)``."""
        return y @ self.F.to(y).T

    def dispersion(self, t: Time) -> Tensor:
        """``G``, shape ``(d, m)``; as ``t`` where it is a tensor, else float64."""
        return self.G.to(t) if isinstance(t, Tensor) and t.is_floating_point() else self.G

    def drift_divergence(self, y: Tensor, t: Time) -> Tensor:
        """``tr F``, shape ``(B,)``."""
        return torch.full_like(y[:, 0], float(self.F.trace()))

    def _moments(self, x0: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """Mean ``(B, d)`` and Cholesky factor of the covariance, ``(1 or B, d, d)``."""
        check_precision(x0, "x0")
        t = check_time(t, len(x0)).reshape(-1).cpu()
        check_from_start(t, after=True)
        distinct, row = torch.unique(t, return_inverse=True)
        mean_map, covariance = linear_transition(self.F, self.G @ self.G.T, distinct)
        factor = cholesky(covariance, distinct)[row].to(x0)
        mean = (mean_map[row].to(x0) @ x0.unsqueeze(-1)).squeeze(-1)
        return mean, factor

    @full_precision
    def std(self, t: Time) -> Tensor:
        """Root mean square of the transition's standard deviations, ``sqrt(tr P / d)``."""
        t = _time(t)
        covariance = linear_transition(self.F, self.G @ self.G.T, t.reshape(-1).double().cpu())[1]
        variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
        return variance.sqrt().reshape(t.shape).to(t)

    @full_precision
    def sample_transition(
        self, x0: Tensor, t: Time, generator: torch.Generator | None = None
    ) -> Tensor:
        """Exact draws of ``Y_t`` given ``Y_0 = x0`` ``(B, d)``, shape ``(B, d)``; ``t > 0``."""
        mean, factor = self._moments(x0, t)
        z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        return mean + (factor @ z.unsqueeze(-1)).squeeze(-1)

    @full_precision
    def _whiten(self, y: Tensor, x0: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """``z`` ``(B, d, 1)`` with ``y = mean + factor z``, and the factor."""
        mean, factor = self._moments(x0, t)
        factor = factor.expand(y.shape[0], -1, -1)
        centred = (y - mean).unsqueeze(-1)
        return torch.linalg.solve_triangular(factor, centred, upper=False), factor

    def log_transition(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        """``log p(Y_t = y | Y_0 = x0)``, shape ``(B,)``; ``t > 0``."""
        z, factor = self._whiten(y, x0, t)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * z.square().sum((1, 2)) - log_det - 0.5 * self.dim * math.log(2 * math.pi)

    def transition_score(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        """``grad_y log p(Y_t = y | Y_0 = x0)``, shape ``(B, d)``; ``t > 0``."""
        z, factor = self._whiten(y, x0, t)
        return -torch.linalg.solve_triangular(factor.mT, z, upper=True).squeeze(-1)
