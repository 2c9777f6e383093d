r"""Averages of eigenfunctions in the plane over data.

Points are given to the nodes of the elements by the weights of interpolation, :math:`c_0`, with
which the average of every function of the elements is right; the semigroup of the elements itself
brings them to the time ``t``,

.. math:: c_t = e^{t L^T} c_0, \qquad
          A_t[j,k] = \sum_q c_t[q]\, \nabla\phi_j(x_q) \cdot \nabla\phi_k(x_q) :

all modes that the nodes have, not those of the basis alone, or :math:`A_t` would be indefinite.
The exponential is taken by Lanczos' method with the matrix inverted, one pole for each decade of
time. In :math:`\log t` the entries of :math:`A_t` are smooth: they are found at Chebyshev's
points of each decade, and between them by the polynomial through these. These laws are nearly
combinations of a few, and :math:`A_t` is linear in the law: it is summed over the nodes for the
few alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..core import lasting
from .moments import JITTER, MatrixMoments
from .plane import Mesh, factorised

_KRYLOV = 44  # vectors, by which the exponentials of a decade are right to 1e-10
_LEVELS = 16  # of a decade, between which A_t is a polynomial to 1e-8
_START = -9  # decade, before which nothing has moved
_SAME = 1e-8  # of laws that are a combination of others, to relative accuracy
_COLUMNS = 64  # of A_t at a time: below the diagonal little is computed


@dataclass(frozen=True, kw_only=True)
class PlaneMoments(MatrixMoments):
    """``laws`` of points, and of each its share: of all points one, less one where a part is left
    out."""

    laws: list[tuple[float, Laws]]

    def reordered(self, order: Tensor) -> Self:
        if torch.equal(order, torch.arange(len(order))):
            return self
        moved = [(share, law.reordered(order)) for share, law in self.laws]
        return replace(super().reordered(order), laws=moved)

    def without(self, part: Self, share: float) -> Self:
        rest = 1 / (1 - share)
        laws = [(rest * own, law) for own, law in self.laws]
        laws += [(-share * rest * own, law) for own, law in part.laws]
        return replace(self, mean=rest * (self.mean - share * part.mean), laws=laws)

    @lasting
    def energy(self, times: Tensor) -> Tensor:
        later = times.double().cpu() + self.heat
        out = later.new_zeros(len(later), *[len(self.rates)] * 2)
        for share, law in self.laws:
            law.add_energy(later, self.mix * share, out)
        out.diagonal(dim1=1, dim2=2).sub_((JITTER + 1 - self.mix) * self.rates)
        return out


class Laws:
    """The law of points at all times: ``start`` ``(N,)`` at the nodes, and what functions with
    ``gradients`` ``(2, N, K)`` and ``rates`` ``(K,)`` have of it.

    Orthonormal combinations of its laws are kept, with their matrices, as they were needed.
    """

    def __init__(self, mesh: Mesh, start: Tensor, gradients: Tensor, rates: Tensor) -> None:
        self.mesh, self.start, self.gradients, self.rates = mesh, start, gradients, rates
        # What a node has of all matrices, relative to the energies of the functions.
        size = gradients.square().sum(0) @ (-1 / rates)
        self._size = size.clamp(min=1e-12 * float(size.max()))
        self._directions = start.new_zeros(0, len(start))
        self._matrices: list[Tensor] = []
        self._shares: dict[int, Tensor] = {}

    def reordered(self, order: Tensor) -> Laws:
        return Laws(self.mesh, self.start, self.gradients[:, :, order], self.rates[order])

    def add_energy(self, times: Tensor, share: float, out: Tensor) -> None:
        """``share`` times ``A_t`` at times ``(T,)``, added to ``out`` ``(T, K, K)``."""
        decades = times.clamp(min=10.0**_START).log10().floor().long()
        decades = torch.where(times < 10.0**_START, _START - 1, decades)
        for decade in decades.unique().tolist():
            rows = decades == decade
            own = self._of_decade(decade)
            own = share * _between(times[rows].log10() - decade, len(own)) @ own
            found, done = out[rows].flatten(1), 0
            for matrices in self._matrices:
                if done < own.shape[1]:
                    found.addmm_(own[:, done : done + len(matrices)], matrices.flatten(1))
                    done += len(matrices)
            out[rows] = found.unflatten(1, out.shape[1:])

    def _of_decade(self, decade: int) -> Tensor:
        """The laws at the levels of a decade as combinations of the directions, ``(L, R)``; before
        the first, that of the points alone."""
        if decade not in self._shares:
            laws = self.start[None]
            if decade >= _START:
                laws = evolved(self.mesh, self.start, 10.0 ** (decade + _chebyshev()))
            self._extend(laws * self._size)
            self._shares[decade] = (laws * self._size) @ self._directions.T
        return self._shares[decade]

    def _extend(self, laws: Tensor) -> None:
        """Directions of what laws ``(L, N)`` have beyond those that there are."""
        left = laws
        new: list[Tensor] = []
        scale = float(laws.norm(dim=1).max())
        for _ in range(2):  # to rounding
            left = left - (left @ self._directions.T) @ self._directions
        while True:
            norms = left.norm(dim=1)
            if float(norms.max()) <= _SAME * scale:
                break
            direction = left[int(norms.argmax())] / norms.max()
            known = torch.stack([*self._directions, *new]) if new else self._directions
            direction = direction - (direction @ known.T) @ known
            new.append(direction / direction.norm())
            left = left - (left @ new[-1])[:, None] * new[-1]
        if new:
            self._directions = torch.cat([self._directions, torch.stack(new)])
            matrices = [_gram(self.gradients, own / self._size) for own in new]
            self._matrices.append(torch.stack(matrices))


def plane_moments(
    mesh: Mesh, values: Tensor, gradients: Tensor, rates: Tensor, x: Tensor, weights: Tensor | None
) -> PlaneMoments:
    """Averages over points ``(n, 2)`` with weights ``(n,)``, by default ``1/n``, of functions with
    ``values`` ``(N, K)`` and ``gradients`` ``(2, N, K)`` at the nodes."""
    x = x.cpu()
    w = torch.full_like(x[:, 0], 1 / len(x)) if weights is None else weights.cpu().double()
    law = deposit(mesh, x, w)
    mean = law @ values
    variance = (law @ values.square() - mean.square()).clamp(min=0)
    return PlaneMoments(
        mean=mean,
        variance=variance / max(1.0, 1 / float(w.square().sum()) - 1),
        rates=rates,
        n_points=len(x),
        laws=[(1.0, Laws(mesh, law, gradients, rates))],
    )


def deposit(mesh: Mesh, x: Tensor, weights: Tensor) -> Tensor:
    """The law of weighted points ``(n, 2)`` as weights of the nodes, ``(N,)``.

    Raises ``ValueError`` for points beyond the elements.
    """
    number, first, second = mesh.interpolation(x)
    beyond = number < 0
    if bool(beyond.any()):
        sides = mesh.across, mesh.along
        ends = " x ".join(f"[{side.low:.3g}, {side.high:.3g}]" for side in sides)
        point = [round(value, 3) for value in x[beyond][0].tolist()]
        raise ValueError(
            f"x: expected points where the prior is, within {ends}, found {int(beyond.sum())} of "
            f"{len(x)} beyond the tails of the prior, the first at {point}: scale the data, or "
            "pass box=(low, high) to the process"
        )
    own = weights[:, None, None] * first[:, :, None] * second[:, None, :]
    return torch.zeros_like(mesh.mass).index_add_(0, mesh.places[number].flatten(), own.flatten())


def evolved(mesh: Mesh, law: Tensor, times: Tensor) -> Tensor:
    """``e^{t L^T} c`` ``(T, N)`` of a law ``c`` ``(N,)`` at positive times ``(T,)`` of a decade."""
    middle = math.sqrt(float(times.min()) * float(times.max()))
    shift = round(_KRYLOV / (2**0.5 * middle), 6)
    root = mesh.mass.sqrt()
    basis, small, norm = _krylov(_inverse(mesh, shift), (law / root).numpy())
    values, vectors = np.linalg.eigh(small)
    rates = (1 / np.clip(values, 1e-300, None) - shift).clip(min=0)
    shares = np.exp(-times.numpy()[:, None] * rates) * (norm * vectors[0]) @ vectors.T
    return torch.from_numpy(shares @ basis) * root


@lru_cache(maxsize=8)
def _inverse(mesh: Mesh, shift: float) -> Callable[[Any], Any]:
    solve: Callable[[Any], Any] = factorised(mesh.matrix, shift).solve
    return solve


def _krylov(operator: Callable[[Any], Any], start: Any) -> tuple[Any, Any, float]:
    """Lanczos' method: orthonormal vectors ``(m, N)``, the operator between them ``(m, m)``, and
    the norm of the first."""
    norm = float(np.linalg.norm(start))
    basis = np.zeros((_KRYLOV, len(start)))
    basis[0] = start / norm
    small = np.zeros((_KRYLOV, _KRYLOV))
    for m in range(_KRYLOV):
        found = operator(basis[m])
        own = basis[: m + 1]
        for _ in range(2):  # to rounding, also where the first leaves little
            shares = own @ found
            found -= shares @ own
            small[m, m] += shares[-1]
        left = float(np.linalg.norm(found))
        if m + 1 == _KRYLOV or left < 1e-13 * small[0, 0]:
            return basis[: m + 1], small[: m + 1, : m + 1], norm
        basis[m + 1] = found / left
        small[m, m + 1] = small[m + 1, m] = left
    raise AssertionError


def _chebyshev() -> Tensor:
    """Points in ``[0, 1]``."""
    angles = math.pi * (torch.arange(_LEVELS, dtype=torch.float64) + 0.5) / _LEVELS
    return 0.5 * (1 - angles.cos())


def _between(s: Tensor, levels: int) -> Tensor:
    """Weights ``(T, L)`` of the values at Chebyshev's points, at ``s`` ``(T,)`` in ``[0, 1]``; of
    one value alone, one."""
    if levels == 1:
        return torch.ones_like(s)[:, None]
    degrees = torch.arange(levels, dtype=torch.float64)
    at, own = ((2 * x - 1).clamp(-1, 1).arccos()[:, None] * degrees for x in (s, _chebyshev()))
    scale = torch.full_like(degrees, 2 / levels)
    scale[0] = 1 / levels
    return (at.cos() * scale) @ own.cos().T


def _gram(gradients: Tensor, law: Tensor) -> Tensor:
    """``sum_q c_q grad phi_j . grad phi_k`` ``(K, K)``, from the part above the diagonal."""
    rows = gradients.flatten(0, 1)
    count, weights = rows.shape[1], law.repeat(2)[:, None]
    out = rows.new_zeros(count, count)
    for start in range(0, count, _COLUMNS):
        end = min(start + _COLUMNS, count)
        out[:end, start:end] = rows[:, :end].T @ (weights * rows[:, start:end])
    return out.triu() + out.triu(1).T
