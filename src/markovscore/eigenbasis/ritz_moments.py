r"""Averages over data of eigenfunctions in a span.

Where the functions come from a span, the products :math:`\nabla\phi_j \cdot \nabla\phi_k` are not
in it, and :math:`A_t` made of their projections is indefinite at small times: its small
eigenvalues, which the data's few degrees of freedom leave, are less than what projection misses.
So the law is moved instead: particles, drawn evenly from the points by their weights, are
simulated by Euler's method, and

.. math:: A_t[j,k] = \frac1n \sum_i \nabla\phi_j(Y^i_t) \cdot \nabla\phi_k(Y^i_t)

is positive by construction. Levels are five in a decade of time; between them, and before the
first, :math:`A_t` is linear in :math:`\log t`, and in :math:`t`. The slopes :math:`b_t` need no
simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from ..core import lasting
from .moments import JITTER, MatrixMoments
from .span import Span

PARTICLES = 200  # for each function: with 50 the tails of flows are noise
_PER_DECADE, _FIRST = 5, -20  # levels, of which the first is at 1e-4
_STEP = 0.05  # of Euler's method, in squares of the smallest scale
_FEWEST = 4  # steps between two levels
_BLOCK = 2**10  # particles at a time


class Paths:
    """Particles of ``dY = grad log pi(Y) dt + sqrt2 dW``, at levels of time.

    ``score``: ``(n, d) -> (n, d)``; ``start`` ``(n, d)``; ``scale``, the smallest of the law. Level
    ``l`` is at the time ``10^(l / 5)``; before level -20 there is the start alone. The same
    particles for the same start.
    """

    def __init__(self, score: Callable[[Tensor], Tensor], start: Tensor, scale: float) -> None:
        self._score, self._step = score, _STEP * scale**2
        self._generator = torch.Generator().manual_seed(0)
        self._states = [start]  # at time zero, then at the levels from the first on

    def at(self, level: int) -> Tensor:
        """The particles ``(n, d)`` at a level, ``_FIRST - 1`` being time zero."""
        while len(self._states) <= level - _FIRST + 1:
            last = _FIRST + len(self._states) - 2
            before = 0.0 if last < _FIRST else level_time(last)
            self._states.append(self._moved(self._states[-1], level_time(last + 1) - before))
        return self._states[level - _FIRST + 1]

    def _moved(self, y: Tensor, time: float) -> Tensor:
        steps = max(_FEWEST, math.ceil(time / self._step))
        h = time / steps
        for _ in range(steps):
            noise = torch.randn(y.shape, generator=self._generator, dtype=y.dtype)
            y = y + h * self._score(y) + math.sqrt(2 * h) * noise
        return y


def level_time(level: int) -> float:
    """``10^(l / 5)``."""
    return 10.0 ** (level / _PER_DECADE)


def drawn_evenly(x: Tensor, weights: Tensor, count: int) -> Tensor:
    """Of points ``(N, d)``, ``count`` in numbers as near to their weights ``(N,)`` as can be, at
    random where these are fractions (Kitagawa 1996)."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(x), generator=generator)
    ends = weights[order].cumsum(0)
    at = (torch.arange(count, dtype=torch.float64) + 0.5) / count * ends[-1]
    return x[order[torch.searchsorted(ends, at).clamp(max=len(x) - 1)]]


@dataclass(frozen=True, kw_only=True)
class RitzMoments(MatrixMoments):
    """``functions`` ``(M, K)`` in the ``span``; ``paths``; ``tables``: of a level the matrix, as
    it was asked for."""

    span: Span
    functions: Tensor
    paths: Paths
    tables: dict[int, Tensor] = field(default_factory=dict)

    def reordered(self, order: Tensor) -> Self:
        if torch.equal(order.cpu(), torch.arange(len(order))):
            return self
        moved = super().reordered(order)
        return replace(moved, functions=self.functions[:, order.cpu()], tables={})

    @lasting
    def energy(self, times: Tensor) -> Tensor:
        later = times.double().cpu() + self.heat
        place = _PER_DECADE * later.clamp(min=1e-300).log10()
        lower = place.floor().long().clamp(min=_FIRST - 1)
        first = lower < _FIRST
        share = torch.where(first, later / level_time(_FIRST), place - lower)[:, None, None]
        before, after = (torch.stack([self._table(int(i)) for i in lower + j]) for j in (0, 1))
        out = self.mix * before.lerp(after, share)
        out.diagonal(dim1=1, dim2=2).sub_((JITTER + 1 - self.mix) * self.rates)
        return out

    def _table(self, level: int) -> Tensor:
        """``A_t`` ``(K, K)`` at a level."""
        if level not in self.tables:
            particles = self.paths.at(level)
            total = particles.new_zeros(*[len(self.rates)] * 2)
            for points in particles.split(_BLOCK):
                slopes = self.span.fields(points, self.functions)[1:-1]
                rows = slopes.movedim(1, 0).flatten(1)  # (K, d B)
                total += rows @ rows.T
            self.tables[level] = total / len(particles)
        return self.tables[level]
