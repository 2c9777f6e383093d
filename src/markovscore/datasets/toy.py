"""Data: two-dimensional toy sets, and mixtures whose law is known at every time of a diffusion.

The images, :func:`load_digits` and :func:`load_cifar10`, are defined in :mod:`markovscore.images`.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ._modes import lasting
from ._validate import (
    as_tensor,
    check_from_start,
    check_generator,
    check_integer,
    check_points,
    check_time,
)
from .images import load_cifar10 as load_cifar10
from .images import load_digits as load_digits

TOY_NAMES = (
    "8gaussians",
    "2spirals",
    "pinwheel",
    "checkerboard",
    "rings",
    "moons",
    "swissroll",
)


def toy(
    name: str,
    n: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """``n`` independent points ``(n, 2)`` of the toy set ``name``, one of ``TOY_NAMES``.

    The sets are those common since FFJORD (Grathwohl et al. 2019, arXiv:1810.01367); other code
    differs in scales and noise, and the exact definitions here are in the source of this module.
    The points have ``dtype`` (default: torch's) and lie on ``device`` (default: the generator's, or
    the CPU), at a distance of a few units from the origin.

    Raises:
        ValueError: an unknown name (the message lists the known ones), or ``n < 1``.
    """
    samplers = (
        _eight_gaussians,
        _two_spirals,
        _pinwheel,
        _checkerboard,
        _rings,
        _moons,
        _swissroll,
    )
    if name not in TOY_NAMES:
        raise ValueError(f"name: expected one of {', '.join(TOY_NAMES)}, found {name!r}")
    draw = _Draw(n, generator, dtype, device)
    return samplers[TOY_NAMES.index(name)](draw)


class _Draw:
    """Independent draws ``(n,)``, all from one generator."""

    def __init__(
        self,
        n: int,
        generator: torch.Generator | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ):
        check_generator(generator)
        if device is None and generator is not None:
            device = generator.device
        self.n, self.generator = check_integer(n, "n"), generator
        self.dtype, self.device = dtype, device

    def uniform(self) -> Tensor:
        return torch.rand(self.n, generator=self.generator, dtype=self.dtype, device=self.device)

    def normal(self) -> Tensor:
        return torch.randn(self.n, generator=self.generator, dtype=self.dtype, device=self.device)

    def choice(self, high: int) -> Tensor:
        return torch.randint(high, (self.n,), generator=self.generator, device=self.device)


def _stack(x1: Tensor, x2: Tensor) -> Tensor:
    return torch.stack([x1, x2], dim=1)


def _eight_gaussians(draw: _Draw) -> Tensor:
    """Standard deviation 0.5 around eight points on a circle of radius 4; all divided by 1.414."""
    angle = draw.choice(8) * (math.pi / 4)
    noise = _stack(draw.normal(), draw.normal())
    return (4 * _stack(angle.cos(), angle.sin()).to(noise) + 0.5 * noise) / 1.414


def _two_spirals(draw: _Draw) -> Tensor:
    """``+- (-u cos u + U/2, u sin u + U/2) / 3`` with ``u = 3 pi sqrt(U)``, plus ``0.1 Z``."""
    u = 3 * math.pi * draw.uniform().sqrt()
    arm = _stack(-u * u.cos() + draw.uniform() / 2, u * u.sin() + draw.uniform() / 2)
    sign = 1 - 2 * draw.choice(2)[:, None]
    return sign * arm / 3 + 0.1 * _stack(draw.normal(), draw.normal())


def _pinwheel(draw: _Draw) -> Tensor:
    """Five arms: ``(1 + 0.3 Z, 0.1 Z)`` rotated by ``2 pi arm / 5 + exp(r) / 4``, times 2."""
    r, q = 1 + 0.3 * draw.normal(), 0.1 * draw.normal()
    angle = draw.choice(5) * (2 * math.pi / 5) + 0.25 * r.exp()
    c, s = angle.cos(), angle.sin()
    return 2 * _stack(r * c - q * s, r * s + q * c)


def _checkerboard(draw: _Draw) -> Tensor:
    """Uniform on eight unit squares of ``[-2, 2]^2``: those like ``[0, 1]^2`` on a chess board."""
    x1 = 4 * draw.uniform() - 2
    x2 = draw.uniform() - 2 * draw.choice(2) + x1.floor().remainder(2)
    return _stack(x1, x2)


def _rings(draw: _Draw) -> Tensor:
    """Four circles of radii 0.75, 1.5, 2.25, 3 with equal probability, plus ``0.08 Z``."""
    radius, angle = 0.75 * (draw.choice(4) + 1), 2 * math.pi * draw.uniform()
    noise = _stack(draw.normal(), draw.normal())
    return radius[:, None] * _stack(angle.cos(), angle.sin()) + 0.08 * noise


def _moons(draw: _Draw) -> Tensor:
    """Half circles of radius 2 about ``(-1, -0.2)`` (upper) and ``(1, 0.8)``, plus ``0.2 Z``."""
    angle, lower = math.pi * draw.uniform(), draw.choice(2)
    sign = 1 - 2 * lower
    x1, x2 = sign * angle.cos() + lower, sign * angle.sin() + lower / 2
    noise = _stack(draw.normal(), draw.normal())
    return 2 * (_stack(x1, x2) + 0.1 * noise) + noise.new_tensor([-1.0, -0.2])


def _swissroll(draw: _Draw) -> Tensor:
    """``u = 3 pi (1 + 2U) / 2``, ``(u cos u, u sin u) / 5`` plus ``0.2 Z``."""
    u = 1.5 * math.pi * (1 + 2 * draw.uniform())
    noise = _stack(draw.normal(), draw.normal())
    return (_stack(u * u.cos(), u * u.sin()) + noise) / 5


class DiffusedMixture:
    r"""A mixture of isotropic Gaussians at time 0 and its exact law at every later time.

    .. math:: \rho_t = \sum_m w_m \prod_i k_t(x_i; \mu_{mi}, \sigma_m^2), \qquad
              \partial_i \log \rho_t = \sum_m r_m\, \partial_i \log k_t(x_i; \mu_{mi}, \sigma_m^2)

    with ``k_t`` the law at ``t`` of one coordinate started from ``N(mu, sigma^2)`` - plain under
    ``OrnsteinUhlenbeck``, wrapped on the torus, reflected in the box - and ``r_m`` the posterior
    probabilities of the components. The diffusion supplies ``k_t``: ``evolve_gaussian``,
    ``log_kernel`` and ``kernel_score``. The law at time 0 is itself wrapped or reflected, and
    outside a torus or box its periodic or even continuation is evaluated.
    Calling the mixture gives its score, so it stands wherever a score is expected.

    Args:
        diffusion: ``OrnsteinUhlenbeck``, ``TorusBrownian`` or ``BoxBrownian``.
        means: ``(M, d)``, in the domain.
        scales: standard deviations, a number or ``(M,)``, positive.
        weights: ``(M,)``, positive; normalised here. Default: equal.

    Raises:
        TypeError: the diffusion cannot evolve an isotropic Gaussian.
        ValueError: shapes, scales or weights other than above.
    """

    @lasting
    def __init__(self, diffusion: Any, means: Any, scales: Any, weights: Any = None):
        if not callable(getattr(diffusion, "evolve_gaussian", None)):
            raise TypeError(
                "diffusion: expected one with evolve_gaussian, log_kernel and kernel_score, found "
                f"{type(diffusion).__name__}: use OrnsteinUhlenbeck, TorusBrownian or BoxBrownian"
            )
        means = check_points(as_tensor(means, "means", torch.float64), diffusion.dim, "means")
        if not bool(diffusion.contains(means).all()):
            raise ValueError(
                f"means: expected points in the domain of {type(diffusion).__name__}, found "
                f"{means.tolist()}: scale them, or use diffusion.project(means)"
            )
        scales = as_tensor(scales, "scales", torch.float64)
        scales = scales.expand(len(means)) if scales.ndim == 0 else scales
        weights = [1.0] * len(means) if weights is None else weights
        weights = as_tensor(weights, "weights", torch.float64)
        for name, value in (("scales", scales), ("weights", weights)):
            if value.shape != (len(means),) or not bool((value > 0).all() & value.isfinite().all()):
                raise ValueError(
                    f"{name}: expected {len(means)} finite positive numbers, one for each row of "
                    f"means, found {value.tolist()}"
                )
        self.diffusion, self.dim = diffusion, diffusion.dim
        self.means, self.scales, self.weights = means, scales, weights / weights.sum()

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        t: float = 0.0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """``n`` independent draws ``(n, d)`` from the law at time ``t >= 0``."""
        draw = _Draw(n, generator, dtype, device)
        z = torch.stack([draw.normal() for _ in range(self.dim)], dim=1)
        m = torch.multinomial(
            self.weights.to(z.device), draw.n, replacement=True, generator=generator
        )
        x0 = self.diffusion.project(self.means.to(z)[m] + self.scales.to(z)[m, None] * z)
        later = bool((check_from_start(check_time(t, n, "t")) > 0).any())
        return self.diffusion.sample_transition(x0, t, generator) if later else x0

    def log_prob(self, x: Tensor, t: float | Tensor = 0.0) -> Tensor:
        """``log rho_t(x)``, ``(B,)``, at ``x`` ``(B, d)`` and ``t >= 0``: one, or one a row."""
        x = check_points(x, self.dim)
        return torch.logsumexp(self._log_terms(x, *self._components(x, t)), dim=1)

    def score(self, x: Tensor, t: float | Tensor = 0.0) -> Tensor:
        """``grad log rho_t(x)``, ``(B, d)``; arguments as in ``log_prob``."""
        x = check_points(x, self.dim)
        mean, var = self._components(x, t)
        posterior = torch.softmax(self._log_terms(x, mean, var), dim=1)
        pull = self.diffusion.kernel_score(x[:, None], mean, var)
        return (posterior[..., None] * pull).sum(1)

    __call__ = score

    def _components(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Means ``([B or 1,] M, d)`` and variances ``([B,] M)`` at ``t``, dtype of ``x``."""
        t = check_from_start(check_time(t, len(x), like=x))
        means, variances = self.means.to(x), self.scales.to(x).square()
        if t.ndim:  # one row of components for each time
            means, variances = means[None], variances[None]
        return self.diffusion.evolve_gaussian(means, variances, t)

    def _log_terms(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Log of weight times density of each component at ``x`` ``(B, d)``, ``(B, M)``."""
        return self.weights.to(x).log() + self.diffusion.log_kernel(x[:, None], mean, var)


def mixture_1d(diffusion: Any) -> DiffusedMixture:
    """The one-dimensional trial mixture of the book, on any diffusion of dimension one.

    Weights .3, .4, .3; means -1.5, 0, 1.2; standard deviations .25, .3, .2. In the box, use
    ``BoxBrownian(1, -4.0, 4.0)``.
    """
    means = [[-1.5], [0.0], [1.2]]
    return DiffusedMixture(diffusion, means, [0.25, 0.3, 0.2], weights=[0.3, 0.4, 0.3])
