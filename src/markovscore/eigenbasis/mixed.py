r"""Averages for products of polynomials with waves or cosines.

Of a row :math:`\Phi_k = W_{k}(u)\, \phi_{n}(y)`, with waves and cosines ``W`` of some coordinates
and Hermite polynomials of the others, the average over the law at time ``t`` of two rows needs the
Gram matrix of the data alone:

.. math:: E_{\rho_t} W_j^{\pm} W_k\, \phi_n \phi_{n'} = e^{-|j \pm k|^2 t}
          \sum_{l} c_l(n)\, c_l(n')\, E_{\rho_0} W_j^{\pm} W_k\, \phi_{n-l} \phi_{n'-l},
          \qquad c_l(n)^2 = \tbinom{n}{l} e^{-2 (n-l) t} (1 - e^{-2 t})^l ,

for each sign of the frequencies (the addition theorem of the polynomials, as in
:class:`~markovscore.eigenbasis.moments.PolynomialMoments`). All terms over ``l`` have one sign on
the diagonal, so that nothing cancels, whatever the degree; an expansion of
:math:`\phi_n \phi_{n'}` in polynomials of degree up to ``n + n'`` has coefficients that grow like
:math:`2^n`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Self

import torch
from torch import Tensor

from .axes import Axis, Line
from .indices import places
from .moments import JITTER, MatrixMoments, Shifts, diffused, shifts
from .rows import Rows


def grams(axes: Sequence[Axis], indices: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """``E W_j^{+-} W_k phi_n phi_n'`` over all pairs of multi-indices ``(L, d)``, ``(S, L, L)``:
    for each pattern of :func:`patterns` that of the part with these signs of the frequencies.

    Complex where there are waves, which are normalised as ``e^{i k.u}``.
    """
    boxes = [i for i, axis in enumerate(axes) if not (axis.wave or isinstance(axis, Line))]
    bare = indices.clone()
    bare[:, boxes] = 0
    rows = Rows.of(axes, bare)
    total: Tensor | float = 0.0
    for points, w in zip(x.split(rows.block), weights.split(rows.block), strict=True):
        values = rows.values(points) / rows.norms.to(points)[:, None]
        parts = [
            values * math.prod(_cosine(axes[i], points[:, i], indices[:, i], s) for i, s in chosen)
            for sines in product((False, True), repeat=len(boxes))
            for chosen in [list(zip(boxes, sines, strict=True))]
        ]
        f = torch.stack(parts)
        total = total + _paired(f, w.to(f.dtype))
    assert isinstance(total, Tensor)
    # cos(j-k) = cos cos + sin sin, cos(j+k) = cos cos - sin sin, axis by axis
    for i in range(len(boxes)):
        even, odd = total.unflatten(1, (2**i, 2, -1)).unbind(2)
        total = torch.stack([even + odd, even - odd], 2).flatten(1, 3)
    return total.flatten(0, 1)


def _cosine(axis: Axis, x: Tensor, k: Tensor, sine: bool) -> Tensor:
    """The normalised cosines of a box, or their sines, ``(M, B)``."""
    values, slopes, _ = axis.jet(x, k)
    if not sine:
        return values
    speed = (-axis.rates(k)).sqrt().to(x)[:, None]
    return -slopes / torch.where(speed == 0, 1, speed)


def _paired(f: Tensor, w: Tensor) -> Tensor:
    """``E f_j^* f_k`` and ``E f_j f_k``, of what is real once: ``(1 or 2, ..., L, L)``."""
    weighted = (f * w).mT
    if not f.is_complex():
        return (f @ weighted)[None]
    return torch.stack([f.conj() @ weighted, f @ weighted])


def patterns(axes: Sequence[Axis]) -> Tensor:
    """The sign of the second frequency along each axis, ``(S, d)``: of waves one for all, of boxes
    each; zero along lines."""
    boxes = [i for i, axis in enumerate(axes) if not (axis.wave or isinstance(axis, Line))]
    waves = [i for i, axis in enumerate(axes) if axis.wave]
    found = []
    for signs in product(*[(-1, 1)] * (bool(waves) + len(boxes))):
        row = torch.zeros(len(axes), dtype=torch.int64)
        row[waves] = signs[0] if waves else 0
        row[boxes] = torch.tensor(signs[bool(waves) :], dtype=torch.int64)
        found.append(row)
    return torch.stack(found)


@dataclass(frozen=True, kw_only=True)
class MixedMoments(MatrixMoments):
    """Products of polynomials with waves or cosines: ``A_t`` from the Gram matrices of the data.

    ``axes``; ``indices`` ``(M, d)`` of the basis; ``closed`` ``(L, d)``, the same with all lower
    degrees, among which the basis has the positions ``own`` ``(M,)``; ``grams`` ``(S, L, L)``, see
    :func:`grams`; ``order`` ``(K,)``: which of the functions, real parts before the imaginary ones,
    is the first, the second and so on, None for as they are.
    """

    axes: tuple[Axis, ...]
    indices: Tensor
    closed: Tensor
    own: Tensor
    grams: Tensor
    order: Tensor | None = None

    def reordered(self, order: Tensor) -> Self:
        ours = order if self.order is None else self.order[order]
        return replace(super().reordered(order), order=ours)

    def energy(self, times: Tensor) -> Tensor:
        """``A_t`` ``(T, K, K)``, one time after the other."""
        found = torch.stack([self._energy(float(t)) for t in times + self.heat])
        found *= self.mix
        found.diagonal(dim1=1, dim2=2).sub_((1 - self.mix + JITTER) * self.rates)
        return found

    def _energy(self, t: float) -> Tensor:
        decay = torch.exp(t * self._pair_rates)
        averages = self.grams
        for axis in self._lines:
            averages = diffused(averages, self.closed[:, axis], self._shifts[axis], t)
        total = self._slopes * averages[:, self.own[:, None], self.own]
        for rows, roots in self._lowered:
            total = total + roots * averages[:, rows[:, None], rows]
        found = self._real(decay * total)
        return found if self.order is None else found[self.order[:, None], self.order]

    def _real(self, total: Tensor) -> Tensor:
        """``E Gamma`` of the real functions, from that of the rows for each pattern."""
        waving = [axis.wave for axis in self.axes]
        waves = self.indices[:, waving].any(1)
        boxes = int(math.log2(len(total))) - any(waving)
        if not any(waving):
            return total.sum(0) / 2**boxes
        norm = (2.0 ** (0.5 * waves.double())).to(total.real)
        difference, plus = total.unflatten(0, (2, -1)).sum(1) * (norm[:, None] * norm / 2**boxes)
        even, odd = (difference + plus) / 2, (plus - difference) / 2
        return torch.cat(
            [
                torch.cat([even.real, even.imag[:, waves]], 1),
                torch.cat([odd.imag, -odd.real[:, waves]], 1)[waves],
            ]
        )

    @cached_property
    def _lines(self) -> list[int]:
        return [i for i, axis in enumerate(self.axes) if isinstance(axis, Line)]

    @cached_property
    def _unit_rates(self) -> Tensor:
        """Squared frequency of each axis, zero along lines, ``(d,)``."""
        one = torch.ones(1, dtype=torch.int64)
        rates = [0.0 if isinstance(a, Line) else -float(a.rates(one)) for a in self.axes]
        return torch.tensor(rates, dtype=torch.float64)

    @cached_property
    def _pair_rates(self) -> Tensor:
        """``-|j +- k|^2`` of all pairs for each pattern, ``(S, M, M)``."""
        k, found = self.indices.double(), []
        for signs in patterns(self.axes).double():
            both = k[:, None] + signs * k
            found.append(-(both.square() @ self._unit_rates))
        return torch.stack(found).to(self.grams.device)

    @cached_property
    def _slopes(self) -> Tensor:
        """``-+ j.k``, the factor of the derivatives along waves and boxes, ``(S, M, M)``."""
        k = self.indices.double()
        found = [(k * (-signs * self._unit_rates)) @ k.T for signs in patterns(self.axes).double()]
        return torch.stack(found).to(self.grams.device)

    @cached_property
    def _lowered(self) -> list[tuple[Tensor, Tensor]]:
        """Along each line the rows of ``phi_{n-1}``, and ``sqrt(n n')`` ``(M, M)``."""
        place, found = places(self.closed), []
        for axis in self._lines:
            lower = self.indices.clone()
            lower[:, axis] = (lower[:, axis] - 1).clamp(min=0)  # of degree 0: no part
            root = self.indices[:, axis].double().sqrt().to(self.grams.device)
            found.append((place(lower), root[:, None] * root))
        return found

    @cached_property
    def _shifts(self) -> dict[int, Shifts]:
        return {axis: shifts(self.closed, axis) for axis in self._lines}
