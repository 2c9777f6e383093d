r"""Processes with ``G = sqrt2 I`` and independent coordinates, whose law is known in closed form.

Ornstein-Uhlenbeck, Brownian motion on the torus and in a box, and the variance-preserving process,
which is the first in another clock. The generator is the Laplacian plus the drift term, and the
carré du champ is ``grad h . grad g``. Their methods run inside solvers and training loops, so they
check the sign of ``t`` and nothing else.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import Time, expand_like, lasting, takes_arrays
from ..eigenbasis import Cosine, Fourier, Hermite
from .axis_laws import (
    normal_log_prob,
    normal_score,
    reflected_normal_log_prob,
    reflected_normal_score,
    wrapped_normal_log_prob,
    wrapped_normal_score,
)
from .base import SQRT2, Diffusion, as_time, check_horizon, times_of
from .clock import make_clock
from .priors import Gaussian, Source, UniformBox, UniformTorus, inner_bounds, with_rounding


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
        return mean, var + 2 * times_of(t, var)

    def std(self, t: Time) -> Tensor:
        """``sqrt(2 t)``: the noise scale before it is wrapped or reflected."""
        return (2 * as_time(t)).sqrt()

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
        self.dim, self.horizon = self.prior.dim, check_horizon(horizon)

    def drift(self, y: Tensor, t: Time) -> Tensor:
        """``-y``, shape ``(B, d)``."""
        return -y

    def drift_divergence(self, y: Tensor, t: Time) -> Tensor:
        """``-d``, shape ``(B,)``."""
        return torch.full_like(y[:, 0], -self.dim)

    def std(self, t: Time) -> Tensor:
        """``sqrt(1 - e^{-2t})``, accurate for tiny ``t``."""
        return (-torch.expm1(-2 * as_time(t))).sqrt()

    def ou_time(self, t: Time) -> Tensor:
        """``t`` in float64: the time of this process, as ``VariancePreserving.ou_time``."""
        return as_time(t).double()

    def sample_transition(self, x0: Tensor, t: Time, generator: Source = None) -> Tensor:
        """Exact draws of ``Y_t`` given ``Y_0 = x0`` ``(B, d)``, shape ``(B, d)``; ``t >= 0``."""
        return torch.exp(-expand_like(t, x0)) * x0 + self._noise(x0, t, generator)

    def evolve_gaussian(self, mean: Tensor, var: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """``e^{-t} mean`` ``(..., d)`` and ``e^{-2t} var + 1 - e^{-2t}`` ``(...)``."""
        t = times_of(t, var)
        noise = -torch.expm1(-2 * t)
        return torch.exp(-t).unsqueeze(-1) * mean, torch.exp(-2 * t) * var + noise

    _axis_log_prob = staticmethod(normal_log_prob)
    _axis_score = staticmethod(normal_score)

    def eigenbasis(self, n_functions: int) -> Hermite:
        """The ``n_functions`` slowest non-constant eigenfunctions: normalised Hermite products."""
        return Hermite(self.dim, n_functions)


@takes_arrays
class TorusBrownian(_Driftless):
    """``dY = sqrt2 dW`` on the torus ``[-p/2, p/2)^d``, uniform law, eigenvalues
    ``-(2 pi / p)^2 |k|^2``.

    The transition is the *wrapped* normal of variance ``2t`` on each axis: all images count. Angles
    in degrees have the ``period`` 360. By default the period ``p`` is ``2 pi`` and the horizon 4,
    or as much in the units of the slowest eigenvalue.
    """

    def __init__(self, dim: int, horizon: float | None = None, period: float = 2 * math.pi) -> None:
        self.prior = UniformTorus(dim, period)
        self.dim, self.period = self.prior.dim, self.prior.period
        self._speed = 2 * math.pi / self.period
        self.horizon = check_horizon(4.0 / self._speed**2 if horizon is None else horizon)

    def project(self, y: Tensor) -> Tensor:
        """Wrap to ``[-p/2, p/2)``; points inside are returned unchanged."""
        half = self.period / 2
        turns = torch.floor((y + half) / self.period)
        # Rounding may land just outside, and so do the numbers nearest to -pi and pi in float32.
        low, high = inner_bounds(-half, half, y.dtype, half_open=True)
        return (y - self.period * turns).clamp(low, high)

    def contains(self, x: Tensor) -> Tensor:
        """True for rows in ``[-p/2, p/2]^d``, to the rounding of float32; shape ``(B,)``."""
        return (x.abs() <= with_rounding(0.0, self.period / 2)[1]).all(dim=1)

    def _axis_log_prob(self, y: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        u = self._speed
        return wrapped_normal_log_prob(u * y, u * mean, u**2 * var) + math.log(u)

    def _axis_score(self, y: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        u = self._speed
        return u * wrapped_normal_score(u * y, u * mean, u**2 * var)

    def eigenbasis(self, n_functions: int) -> Fourier:
        """The ``n_functions`` slowest non-constant eigenfunctions: real Fourier modes."""
        return Fourier(self.dim, n_functions, self.period)


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
        self.horizon = check_horizon(default if horizon is None else horizon)

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
        return reflected_normal_log_prob(y, mean, var, self.low, self.high)

    def _axis_score(self, y: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return reflected_normal_score(y, mean, var, self.low, self.high)

    def eigenbasis(self, n_functions: int) -> Cosine:
        """The ``n_functions`` slowest non-constant eigenfunctions: products of cosines."""
        return Cosine(self.dim, n_functions, self.low, self.high)


@takes_arrays
class VariancePreserving(_Separable):
    r"""``dY = -beta(t) / 2 Y dt + sqrt(beta(t)) dW``, stationary law ``N(0, I)``, linear ``beta``.

    .. math:: Y_t \mid Y_0 = x_0 \sim \mathcal N\big(e^{-\tau / 2} x_0,\ (1 - e^{-\tau}) I\big),
              \qquad \tau(t) = \int_0^t \beta

    (Song et al. 2021, arXiv:2011.13456, section 3.4 and appendix C, with their default ``beta``
    from 0.1 to 20 on the normalised time ``[0, 1]``; Ho et al. 2020, arXiv:2006.11239, in the limit
    of many steps). It is :class:`OrnsteinUhlenbeck` at the time ``tau(t) / 2``, which is what
    :meth:`ou_time` returns: whatever is known in closed form there, such as an OISM fit at the time
    ``u``, holds here at the ``t`` with ``ou_time(t) = u``, that is ``clock.inverse(2 u)``.

    Times are turned into ``tau`` in float64 by a product, never a difference, and
    ``1 - e^{-tau}`` by ``expm1``: a float32 ``t`` is as good down to ``1e-6`` as at 1.

    Args:
        dim: number of coordinates ``d``.
        beta: a positive number, or a pair ``(beta(0), beta(horizon))`` for a linear function.
        horizon: end of the time interval.

    Attributes:
        clock: ``tau``; simulation, windows and linearisation count in it, as for ``Langevin``.

    Raises:
        TypeError: ``beta`` is a function: ``Langevin(Gaussian(dim), beta)`` takes one.
        ValueError: ``beta`` not finite and positive, ``dim < 1``, or a bad horizon.
    """

    autonomous = True

    @lasting
    def __init__(
        self, dim: int, beta: float | tuple[float, float] = (0.1, 20.0), horizon: float = 1.0
    ) -> None:
        if callable(beta):
            raise TypeError(
                "beta: expected a number or a pair (beta(0), beta(horizon)), found a function: "
                "Langevin(Gaussian(dim), beta) takes one, and simulates"
            )
        self.horizon = check_horizon(horizon)
        self.clock = make_clock(beta, self.horizon)
        self._unit = OrnsteinUhlenbeck(dim, float(self.ou_time(self.horizon)))
        self.dim, self.prior = self._unit.dim, self._unit.prior

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that build this process, for a file."""
        beta = self.clock.rate(torch.tensor([0.0, self.horizon], dtype=torch.float64)).tolist()
        return {"dim": self.dim, "beta": beta, "horizon": self.horizon}

    def beta(self, t: Time) -> Tensor:
        """``beta(t)``, float64, the shape of ``t``."""
        return self.clock.rate(as_time(t).double())

    def ou_time(self, t: Time) -> Tensor:
        """``int_0^t beta / 2``, the time of ``OrnsteinUhlenbeck``; float64, the shape of ``t``."""
        return 0.5 * self.clock.elapsed(as_time(t).double())

    def drift(self, y: Tensor, t: Time) -> Tensor:
        """``-beta(t) / 2 y``, shape ``(B, d)``."""
        return expand_like(-0.5 * self.beta(t), y) * y

    def dispersion(self, t: Time) -> Tensor:
        """``sqrt(beta(t))``, float64, the shape of ``t``."""
        return self.beta(t).sqrt()

    def drift_jacobian(self, y: Tensor, t: Time) -> Tensor:
        """The diagonal, ``-beta(t) / 2`` everywhere, shape ``(B, d)``."""
        return expand_like(-0.5 * self.beta(t), y).expand_as(y)

    def drift_and_vjp(self, y: Tensor, t: Time, v: Tensor) -> tuple[Tensor, Tensor]:
        """``f(y, t)`` and ``J^T v``, ``(B, d)`` each."""
        slope = expand_like(-0.5 * self.beta(t), y)
        return slope * y, slope * v

    def drift_divergence(self, y: Tensor, t: Time) -> Tensor:
        """``-d beta(t) / 2``, shape ``(B,)``."""
        return expand_like(-0.5 * self.dim * self.beta(t), y[:, 0]).expand(len(y))

    def std(self, t: Time) -> Tensor:
        """``sqrt(1 - e^{-tau(t)})``, dtype and shape of ``t``."""
        return self._unit.std(self.ou_time(t)).to(as_time(t))

    def sample_transition(self, x0: Tensor, t: Time, generator: Source = None) -> Tensor:
        """Exact draws of ``Y_t`` given ``Y_0 = x0`` ``(B, d)``, shape ``(B, d)``; ``t >= 0``."""
        return self._unit.sample_transition(x0, self.ou_time(t), generator)

    def evolve_gaussian(self, mean: Tensor, var: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """``e^{-tau/2} mean`` ``(..., d)`` and ``e^{-tau} var + 1 - e^{-tau}`` ``(...)``."""
        return self._unit.evolve_gaussian(mean, var, self.ou_time(t))

    _axis_log_prob = staticmethod(OrnsteinUhlenbeck._axis_log_prob)
    _axis_score = staticmethod(OrnsteinUhlenbeck._axis_score)
