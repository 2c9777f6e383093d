r"""The random times of an objective, and the weights that make up for how they are drawn.

Every objective is an average over ``t`` uniform on ``[t_min, t_max]``. Drawn with another density
``q``, each term carries the weight ``1 / ((t_max - t_min) q(t))``, so that its mean is the same.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ._fields import noise_at
from ._validate import check_generator, check_number
from .linear_maps import Diagonal, Scalar

KINDS = ("uniform", "log", "importance")
# Pieces of the table behind "importance": over seven decades each is 1.6% long in t.
_PIECES = 1024


def check_time_range(
    diffusion: Any, t_min: float, t_max: float | None, times: str
) -> tuple[float, float]:
    """``t_min`` and ``t_max``, the diffusion's horizon where that is None.

    Raises:
        ValueError: not ``0 < t_min < t_max <= horizon``, or an unknown time sampler.
    """
    horizon = float(getattr(diffusion, "horizon", math.inf))
    t_min = check_number(t_min, "t_min")
    high = horizon if t_max is None else check_number(t_max, "t_max", finite=False)
    if not 0 < t_min < high < math.inf:
        raise ValueError(
            f"expected 0 < t_min < t_max < inf, found t_min = {t_min}, t_max = {high}: "
            "t_max=None takes the diffusion's horizon"
        )
    if times not in KINDS:
        raise ValueError(f"times: expected 'uniform', 'log' or 'importance', found {times!r}")
    return t_min, high


class TimeSampler:
    """Times in ``[t_min, t_max]`` and their weights; ``kind`` as in ``DenoisingSM``.

    The density of ``"importance"`` is tabulated once: that of ``log t`` is constant on each of
    1024 equal pieces, with the value of ``t |G(t)|^2 / std(t)^2`` in its middle. Draws invert its
    distribution function exactly, and the weights are those of the density that is drawn, so the
    pieces' length costs a little variance and no bias.

    Raises:
        TypeError: ``"importance"`` for a diffusion without ``std``.
        ValueError: as :func:`check_time_range`; ``"importance"`` for a dispersion that is a matrix,
            or where ``|G|^2 / std^2`` is not finite and positive.
    """

    def __init__(self, diffusion: Any, t_min: float, t_max: float | None, kind: str) -> None:
        self.low, self.high = check_time_range(diffusion, t_min, t_max, kind)
        self.kind, self._log_span = kind, math.log(self.high / self.low)
        if kind == "importance":
            self._share = self._tabulate(diffusion)
            self._start = torch.cat([torch.zeros(1).double(), self._share.cumsum(0)[:-1]])

    def draw(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A time and its weight ``1 / ((t_max - t_min) q(t))`` for each row, ``(B,)`` each, with
        the dtype and device of ``x0``."""
        check_generator(generator, x0.device)
        span = self.high - self.low
        if self.kind == "importance":
            log_t, density = self._invert(len(x0), generator)
            t = (self.low * log_t.exp()).clamp(max=self.high)
            return t.to(x0), (t / (span * density)).to(x0)
        u = torch.rand(len(x0), generator=generator, dtype=x0.dtype, device=x0.device)
        if self.kind == "uniform":
            return self.low + span * u, torch.ones_like(u)
        t = self.low * torch.exp(self._log_span * u)
        return t, t * (self._log_span / span)

    def _invert(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws of ``log(t / t_min)`` and their density, float64 ``(n,)``."""
        device, length = generator.device, self._log_span / _PIECES
        if self._share.device != device:
            self._share, self._start = self._share.to(device), self._start.to(device)
        u = torch.rand(n, generator=generator, dtype=torch.float64, device=device)
        piece = torch.searchsorted(self._start, u, right=True) - 1
        share = self._share[piece]
        inside = ((u - self._start[piece]) / share).clamp(max=1)
        return length * (piece + inside), share / length

    def _tabulate(self, diffusion: Any) -> Tensor:
        """The probability of every piece, float64."""
        if not callable(getattr(diffusion, "std", None)):
            raise TypeError(
                "times: 'importance' expected a diffusion with std(t), the noise scale, found "
                f"{type(diffusion).__name__} without it: define it, or use 'uniform' or 'log'"
            )
        middle = (torch.arange(_PIECES, dtype=torch.float64) + 0.5) / _PIECES
        t = self.low * torch.exp(self._log_span * middle)
        rows = t.new_zeros(()).expand(_PIECES, getattr(diffusion, "dim", 1))
        G = noise_at(diffusion, rows, t)
        if not isinstance(G, Scalar):
            kind = "diagonal" if isinstance(G, Diagonal) else "matrix"
            raise ValueError(
                "times: 'importance' expected a scalar dispersion, found "
                f"{type(diffusion).__name__} with a {kind}: use 'uniform' or 'log'"
            )
        mass = t * (G.rows / torch.as_tensor(diffusion.std(t), dtype=torch.float64)).square()
        good = torch.isfinite(mass) & (mass > 0)
        if not bool(good.all()):
            at = int((~good).nonzero()[0])
            raise ValueError(
                "times: 'importance' expected finite positive |G(t)| / std(t), found "
                f"|G / std|^2 = {float(mass[at] / t[at]):g} at t = {float(t[at]):g}: use 'uniform' "
                "or 'log'"
            )
        return mass / mass.sum()
