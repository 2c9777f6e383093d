"""Linear processes: any ``dY = F Y dt + G dW``, and particles in a moving trap."""

import math

import torch
from torch import Tensor

from ..core import (
    Dense,
    Time,
    as_tensor,
    check_from_start,
    check_number,
    check_precision,
    check_time,
    cholesky,
    expand_like,
    full_precision,
    lasting,
    linear_transition,
    stationary_factor,
    takes_arrays,
)
from .base import Diffusion, as_time, check_horizon
from .priors import Gaussian, check_dim


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
        self.horizon = check_horizon(horizon)
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

    def _moments(self, x0: Tensor, t: Time) -> tuple[Tensor, Dense]:
        """Mean ``(B, d)`` and Cholesky factor of the covariance."""
        check_precision(x0, "x0")
        t = check_time(t, len(x0)).reshape(-1).cpu()
        check_from_start(t, after=True)
        distinct, row = torch.unique(t, return_inverse=True)
        mean_map, covariance = linear_transition(self.F, self.G @ self.G.T, distinct)
        factor = cholesky(covariance, distinct)[row].to(x0)
        return Dense(mean_map[row].to(x0)) @ x0, Dense(factor)

    @full_precision
    def std(self, t: Time) -> Tensor:
        """Root mean square of the transition's standard deviations, ``sqrt(tr P / d)``."""
        t = as_time(t)
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
        return mean + factor @ z

    @full_precision
    def _whiten(self, y: Tensor, x0: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """``z`` ``(B, d, 1)`` with ``y = mean + factor z``, and the factor."""
        mean, factor = self._moments(x0, t)
        C = factor.value.expand(y.shape[0], -1, -1)
        return torch.linalg.solve_triangular(C, (y - mean).unsqueeze(-1), upper=False), C

    def log_transition(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        """``log p(Y_t = y | Y_0 = x0)``, shape ``(B,)``; ``t > 0``."""
        z, factor = self._whiten(y, x0, t)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * z.square().sum((1, 2)) - log_det - 0.5 * self.dim * math.log(2 * math.pi)

    def transition_score(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        """``grad_y log p(Y_t = y | Y_0 = x0)``, shape ``(B, d)``; ``t > 0``."""
        z, factor = self._whiten(y, x0, t)
        return -torch.linalg.solve_triangular(factor.mT, z, upper=True).squeeze(-1)


@takes_arrays
class TrappedParticles(Diffusion):
    r"""``N`` particles in a moving harmonic trap; exactly Gaussian, at any size.

    .. math:: dx_i = (-\tfrac12 x_i + \mu_t - \tfrac12 \bar x)\, dt + \sqrt{2D}\, dW_i, \qquad
              \mu_t = R\,(\cos \omega t, \sin \omega t), \qquad x_i \in \mathbb R^2

    (Boffi and Vanden-Eijnden 2023, arXiv:2206.04642). The drift is ``mu_t - x_i`` plus
    ``(x_i - xbar) / 2``: the particles repel each other. The centre ``xbar`` relaxes at rate 1
    towards the trap and the deviations from it at rate 1/2, so that from an isotropic start the
    covariance is ``a(t)`` on the deviations and ``b(t)`` on the centre.
    A row holds ``x_1, y_1, x_2, y_2, ...``.

    Args:
        n_particles: ``N``; the dimension is ``2 N``.
        D: noise strength.
        radius, omega: of the trap's circle; one turn in two units of time (our choice).
        start_scale: standard deviation around the trap at ``t = 0`` of ``initial`` (our choice).
        horizon: end of the time interval; ``prior`` is the exact law there.
    """

    @lasting
    def __init__(
        self,
        n_particles: int = 50,
        D: float = 0.25,
        radius: float = 2.0,
        omega: float = math.pi,
        start_scale: float = 0.5,
        horizon: float = 5.0,
    ) -> None:
        self.n_particles, self.dim = check_dim(n_particles), 2 * check_dim(n_particles)
        self.D, self.radius = check_number(D, "D", positive=True), check_number(radius, "radius")
        self.omega, self.horizon = check_number(omega, "omega"), check_horizon(horizon)
        self.start_scale = check_number(start_scale, "start_scale", positive=True)
        self.initial, self.prior = self.law(0.0), self.law(self.horizon)

    def trap(self, t: Time) -> Tensor:
        """``mu_t``, shape ``(..., 2)`` for ``t`` of shape ``(...)``."""
        angle = self.omega * as_time(t)
        return self.radius * torch.stack([angle.cos(), angle.sin()], -1)

    def drift(self, y: Tensor, t: Time) -> Tensor:
        """``-x_i / 2 + mu_t - xbar / 2``, shape ``(B, 2 N)``."""
        x = self._particles(y)
        pull = self.trap(expand_like(t, y)[:, 0])[:, None] - 0.5 * x.mean(1, keepdim=True)
        return (pull - 0.5 * x).flatten(1)

    def dispersion(self, t: Time) -> Tensor:
        """``sqrt(2 D)``, 0-dim."""
        return torch.tensor(math.sqrt(2 * self.D), dtype=torch.float64, device="cpu")

    def drift_jacobian(self, y: Tensor, t: Time) -> Tensor:
        """``-(I + 1 1^T / N) / 2`` for each axis of the plane, shape ``(B, 2 N, 2 N)``."""
        n, eye = self.n_particles, torch.eye(2, dtype=y.dtype, device=y.device)
        couple = torch.eye(n, dtype=y.dtype, device=y.device) + 1 / n
        return (-0.5 * torch.kron(couple, eye)).expand(len(y), -1, -1)

    def drift_and_vjp(self, y: Tensor, t: Time, v: Tensor) -> tuple[Tensor, Tensor]:
        """``f(y, t)`` and ``J^T v`` at a cost linear in ``N``."""
        u = self._particles(v)
        return self.drift(y, t), -0.5 * (u + u.mean(1, keepdim=True)).flatten(1)

    def drift_divergence(self, y: Tensor, t: Time) -> Tensor:
        """``-(N + 1)``, shape ``(B,)``."""
        return torch.full_like(y[:, 0], -(self.n_particles + 1.0))

    @lasting
    def law(self, t: float) -> Gaussian:
        """The exact law at time ``t`` of a start from ``initial``, in ``R^{2N}``."""
        t = check_number(t, "t")
        mean = self._centre(torch.tensor(self.radius + 0j, dtype=torch.complex128), as_time(t))
        a, b = self._variances(as_time(t), self.start_scale**2)
        n, eye = self.n_particles, torch.eye(2, dtype=torch.float64)
        block = a * torch.eye(n, dtype=torch.float64) + (b - a) / n
        factor = torch.kron(torch.linalg.cholesky(block).contiguous(), eye)
        return Gaussian(self.dim, torch.view_as_real(mean).repeat(n), factor)

    def std(self, t: Time) -> Tensor:
        """Root mean square of the transition's standard deviations, the shape of ``t``."""
        a, b = self._variances(as_time(t), 0.0)
        return (a + (b - a) / self.n_particles).sqrt()

    def sample_transition(
        self, x0: Tensor, t: Time, generator: torch.Generator | None = None
    ) -> Tensor:
        """Exact draws of ``Y_t`` given ``Y_0 = x0`` ``(B, 2 N)``; ``t > 0``."""
        mean, a, b = self._moments(x0, t)
        z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        return mean + self._scaled(z, a.sqrt(), b.sqrt())

    def log_transition(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        """``log p(Y_t = y | Y_0 = x0)``, shape ``(B,)``; ``t > 0``."""
        mean, a, b = self._moments(x0, t)
        z = self._scaled(y - mean, a.rsqrt(), b.rsqrt())
        log_det = (self.n_particles - 1) * a.log() + b.log()  # half of it: the plane has two axes
        return -0.5 * z.square().sum(1) - log_det[:, 0, 0] - self.n_particles * math.log(math.tau)

    def transition_score(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        """``grad_y log p(Y_t = y | Y_0 = x0)``, shape ``(B, 2 N)``; ``t > 0``."""
        mean, a, b = self._moments(x0, t)
        return -self._scaled(y - mean, 1 / a, 1 / b)

    def _particles(self, y: Tensor) -> Tensor:
        return y.reshape(len(y), self.n_particles, 2)

    def _scaled(self, z: Tensor, deviation: Tensor, centre: Tensor) -> Tensor:
        """``z`` with its deviations and its centre multiplied by different factors."""
        z = self._particles(z)
        mean = z.mean(1, keepdim=True)
        return (deviation * (z - mean) + centre * mean).flatten(1)

    def _variances(self, t: Tensor, start: float) -> tuple[Tensor, Tensor]:
        """``a(t)`` and ``b(t)``, from ``a' = -a + 2 D`` and ``b' = -2 b + 2 D``."""
        grown, centre = -torch.expm1(-t), -torch.expm1(-2 * t)
        return start * (1 - grown) + 2 * self.D * grown, start * (1 - centre) + self.D * centre

    def _centre(self, start: Tensor, t: Tensor) -> Tensor:
        """``xbar(t)`` without noise, in the complex plane, from ``xbar' = -xbar + R e^{i w t}``."""
        decay = torch.exp(-t)
        driven = (torch.exp(1j * self.omega * t) - decay) / (1 + 1j * self.omega)
        return decay * start + self.radius * driven

    def _moments(self, x0: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        """Mean ``(B, 2 N)``, and ``a``, ``b``, each ``(1 or B, 1, 1)``."""
        t = expand_like(t, self._particles(x0))
        check_from_start(t, after=True)
        centred = self._scaled(x0, torch.exp(-0.5 * t), torch.exp(-t))
        pulled = torch.view_as_real(self._centre(torch.zeros_like(t), t)[:, :, 0])
        mean = (self._particles(centred) + pulled).flatten(1)
        return mean, *self._variances(t, 0.0)
