"""Training objectives: what a network is asked to minimise so that it becomes a score.

An objective has two methods, ``losses(score, x0, generator) -> (B,)`` and its mean
``loss(score, x0, generator) -> ()``; ``score`` is any callable ``(x (B, d), t (B,)) -> (B, d)``.
"""

from typing import Any

import torch
from torch import Tensor

from ..core import (
    DiffusionLike,
    Process,
    Score,
    as_diffusion,
    as_score,
    check_field,
    check_points,
    expand_like,
    name_of,
    noise_norm,
)
from .draws import TimeSampler


class DenoisingSM:
    r"""Denoising score matching with the exact transition density ``q`` of the diffusion.

    .. math:: L(s) = \frac{1}{T - t_{min}} \int_{t_{min}}^{T}
              E\, \lambda(t) \| s(y_t, t) - \nabla_y \log q(y_t | x_0) \|^2 dt,
              \qquad x_0 \sim \rho_0,\ y_t \sim q(\cdot | x_0)

    (Vincent 2011, Neural Computation 23(7); Song et al. 2021, arXiv:2011.13456, equation 7).
    Its minimiser is the score of ``rho_t``, and ``L(s) - L(r)`` equals the same difference of the
    explicit losses ``E lambda |s - grad log rho_t|^2``: the two differ by a constant in ``s``.

    Args:
        diffusion: has ``sample_transition``, ``transition_score``, ``dispersion``, ``contains``,
            ``std``, ``dim`` and ``horizon`` (``OrnsteinUhlenbeck``, ``TorusBrownian``,
            ``BoxBrownian``, ``LinearSDE``, ``VariancePreserving``).
        t_min: smallest time, positive: the variance of the target grows as ``1/t``.
        t_max: largest time ``T``; None is the diffusion's horizon.
        weighting: ``"likelihood"`` takes the norm ``|G(t)^T r|^2`` for the residual ``r``, which
            bounds the likelihood (Song et al. 2021, arXiv:2101.09258, theorem 1); ``"variance"``
            takes ``lambda(t) = std(t)^2``, the "simple" loss of DDPM (Ho et al. 2020,
            arXiv:2006.11239, equation 14).
        times: how the integral over ``t`` is sampled, one of the rows below. The expected loss is
            the same integral for all three, each term being divided by the density of its time;
            what changes is the variance, and what a network learns first.

    ==============  =====================================  =========================================
    times           density of ``t``                       with the likelihood weighting a term is
    ==============  =====================================  =========================================
    "uniform"       constant                               ``|G|^2 |r|^2``: the smallest times, with
                                                           ``|r|^2`` as ``1 / std^2``, dominate
    "log"           proportional to ``1 / t``              ``t |G|^2 |r|^2``: each decade of ``t``
                                                           counts alike
    "importance"    proportional to ``|G|^2 / std(t)^2``   a constant times ``std(t)^2 |r|^2``, the
                                                           squared error of the predicted noise
    ==============  =====================================  =========================================

    ``"importance"`` (Song et al. 2021, arXiv:2101.09258, section on importance sampling) needs the
    diffusion's ``std`` and a scalar dispersion. It is ``"log"`` where the variance is proportional
    to ``t`` (Brownian motion), and the one to use where ``beta(t)`` varies. With the variance
    weighting, ``"log"`` and ``"importance"`` leave little weight to small times.

    Raises:
        TypeError: the diffusion has no exact transition, or no ``std`` for ``"importance"``.
        ValueError: not ``0 < t_min < t_max``, an unknown weighting or time sampler,
            ``"importance"`` with a matrix dispersion; at a call, data that are malformed, not
            finite, or outside the diffusion's domain.
    """

    def __init__(
        self,
        diffusion: DiffusionLike,
        t_min: float = 1e-3,
        t_max: float | None = None,
        weighting: str = "likelihood",
        times: str = "uniform",
    ):
        process = as_diffusion(diffusion)
        for method in ("sample_transition", "transition_score"):
            if getattr(process, method) is None:
                raise TypeError(
                    "diffusion: expected an exact transition (sample_transition and "
                    f"transition_score), found {name_of(process)} without {method}: define "
                    "it, or use OrnsteinUhlenbeck, VariancePreserving, TorusBrownian, BoxBrownian "
                    "or LinearSDE"
                )
        self._times = TimeSampler(process, t_min, t_max, times)
        if weighting not in ("likelihood", "variance"):
            raise ValueError(f"weighting: expected 'likelihood' or 'variance', found {weighting!r}")
        self._process = process
        self.diffusion: Any = diffusion
        self.t_min, self.t_max = self._times.low, self._times.high
        self.weighting, self.times = weighting, times

    def __repr__(self) -> str:
        d = self.diffusion
        return (
            f"DenoisingSM({type(d).__name__}(dim={d.dim}, horizon={float(d.horizon)}), "
            f"t_min={self.t_min}, t_max={self.t_max}, weighting={self.weighting!r}, "
            f"times={self.times!r})"
        )

    def loss(self, score: Score, x0: Tensor, generator: torch.Generator) -> Tensor:
        """Unbiased estimate of ``L(score)``, 0-dim: the mean of ``losses``."""
        return self.losses(score, x0, generator).mean()

    def losses(self, score: Score, x0: Tensor, generator: torch.Generator) -> Tensor:
        """One independent, unbiased estimate of ``L(score)`` per data point; shape ``(B,)``.

        ``x0`` is ``(B, d)``, floating point, finite, in the diffusion's domain; the result has its
        dtype and device, and ``generator`` must be on that device.
        """
        as_score(score)
        x0 = check_data(self._process, x0)
        t, importance = self._times.draw(x0, generator)
        y = self._process.sample_transition(x0, t, generator)
        residual = check_field(score(y, t), y, "score") - self._process.transition_score(y, x0, t)
        return importance * self._squared_norm(residual, t)

    def _squared_norm(self, residual: Tensor, t: Tensor) -> Tensor:
        """``|G(t)^T r|^2`` or ``std(t)^2 |r|^2`` for rows ``r``, ``(B,)``."""
        if self.weighting == "variance":
            scaled = expand_like(self._process.std(t), residual) * residual
            return scaled.square().sum(-1)
        return noise_norm(self._process, residual, t)


# What all objectives share


def check_data(process: Process, x0: Tensor) -> Tensor:
    """``x0`` as checked points ``(B, d)`` in the process's domain, where it names one.

    Raises:
        TypeError, ValueError: malformed points, or points outside.
    """
    x0 = check_points(x0, process.dim, name="x0")
    inside = process.contains(x0)
    if not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        raise ValueError(
            f"x0: expected points in the domain of {name_of(process)}, found row "
            f"{row} = {x0[row].tolist()}: scale the data, or use diffusion.project(x0)"
        )
    return x0
