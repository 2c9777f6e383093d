"""Mixtures whose law is known at every time of a diffusion."""

from typing import Any

import torch
from torch import Tensor

from ..core import (
    DiffusionLike,
    as_diffusion,
    as_tensor,
    check_from_start,
    check_points,
    check_time,
    lasting,
    name_of,
)
from .toy import Draw


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
    def __init__(self, diffusion: DiffusionLike, means: Any, scales: Any, weights: Any = None):
        process = as_diffusion(diffusion)
        if process.evolve_gaussian is None:
            raise TypeError(
                "diffusion: expected one with evolve_gaussian, log_kernel and kernel_score, found "
                f"{name_of(process)}: use OrnsteinUhlenbeck, TorusBrownian or BoxBrownian"
            )
        means = check_points(as_tensor(means, "means", torch.float64), process.dim, "means")
        if not bool(process.contains(means).all()):
            raise ValueError(
                f"means: expected points in the domain of {name_of(process)}, found "
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
        self.diffusion, self._process, self.dim = diffusion, process, means.shape[1]
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
        draw = Draw(n, generator, dtype, device)
        z = torch.stack([draw.normal() for _ in range(self.dim)], dim=1)
        m = torch.multinomial(
            self.weights.to(z.device), draw.n, replacement=True, generator=generator
        )
        x0 = self._process.project(self.means.to(z)[m] + self.scales.to(z)[m, None] * z)
        later = bool((check_from_start(check_time(t, n, "t")) > 0).any())
        return self._process.sample_transition(x0, t, generator) if later else x0

    def log_prob(self, x: Tensor, t: float | Tensor = 0.0) -> Tensor:
        """``log rho_t(x)``, ``(B,)``, at ``x`` ``(B, d)`` and ``t >= 0``: one, or one a row."""
        x = check_points(x, self.dim)
        return torch.logsumexp(self._log_terms(x, *self._components(x, t)), dim=1)

    def score(self, x: Tensor, t: float | Tensor = 0.0) -> Tensor:
        """``grad log rho_t(x)``, ``(B, d)``; arguments as in ``log_prob``."""
        x = check_points(x, self.dim)
        mean, var = self._components(x, t)
        posterior = torch.softmax(self._log_terms(x, mean, var), dim=1)
        pull = self._process.kernel_score(x[:, None], mean, var)
        return (posterior[..., None] * pull).sum(1)

    __call__ = score

    def _components(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Means ``([B or 1,] M, d)`` and variances ``([B,] M)`` at ``t``, dtype of ``x``."""
        t = check_from_start(check_time(t, len(x), like=x))
        means, variances = self.means.to(x), self.scales.to(x).square()
        if t.ndim:  # one row of components for each time
            means, variances = means[None], variances[None]
        return self._process.evolve_gaussian(means, variances, t)

    def _log_terms(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Log of weight times density of each component at ``x`` ``(B, d)``, ``(B, M)``."""
        return self.weights.to(x).log() + self._process.log_kernel(x[:, None], mean, var)


def mixture_1d(diffusion: DiffusionLike) -> DiffusedMixture:
    """The one-dimensional trial mixture of the book, on any diffusion of dimension one.

    Weights .3, .4, .3; means -1.5, 0, 1.2; standard deviations .25, .3, .2. In the box, use
    ``BoxBrownian(1, -4.0, 4.0)``.
    """
    means = [[-1.5], [0.0], [1.2]]
    return DiffusedMixture(diffusion, means, [0.25, 0.3, 0.2], weights=[0.3, 0.4, 0.3])
