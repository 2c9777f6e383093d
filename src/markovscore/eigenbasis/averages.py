"""Averages of eigenfunctions over data, for each kind of product basis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core import as_tensor
from .axes import Axis, Line
from .indices import closed_below, places
from .mixed import MixedMoments, grams
from .moments import Moments, PolynomialMoments, ProductMoments
from .numerical import Numerical
from .products import products
from .quadrature import quadrature_moments
from .rows import Rows

CACHE_ENTRIES = 2**20  # of a working block of features
_DENSE = 8  # entries of a table over all features for each function, up to which it is faster


def moments(
    axes: Sequence[Axis], indices: Tensor, x: Tensor, weights: Tensor | None = None
) -> Moments:
    """Averages over points ``(N, d)``, float64, with weights ``(N,)``, by default ``1/N``: all that
    the functions on ``axes`` with multi-indices ``(M, d)`` need."""
    w = quadrature_weights(x, weights)
    n = len(x) if weights is None else 1 / float(w.square().sum())
    if any(isinstance(axis, Numerical) for axis in axes):
        return quadrature_moments(axes, indices, x, w, n)
    lines = [i for i, axis in enumerate(axes) if isinstance(axis, Line)]
    if not lines:
        return _trigonometric(axes, indices, x, w, n)
    if len(lines) == len(axes):
        return _polynomial(axes, indices, x, w, n)
    return _mixed(axes, indices, x, w, n, lines)


def quadrature_weights(x: Tensor, weights: Tensor | None) -> Tensor:
    """Quadrature weights, uniform where none are given."""
    if weights is None:
        return x.new_full((len(x),), 1 / len(x), dtype=torch.float64)
    return as_tensor(weights, "weights", torch.float64).to(x.device)


def rates_of(axes: Sequence[Axis], indices: Tensor) -> Tensor:
    """``lambda`` of multi-indices ``(M, d)``: ``(M,)`` float64."""
    columns = zip(axes, indices.unbind(1), strict=True)
    return torch.stack([axis.rates(k) for axis, k in columns]).sum(0)


def _real(values: Tensor, waves: Tensor) -> Tensor:
    """Real parts of all rows ``(M,)``, then the imaginary parts of the waves."""
    if not values.is_complex():
        return values
    return torch.cat([values.real, values.imag[waves.to(values.device)]])


def _variance(mean: Tensor, square: Tensor, waves: Tensor, n: float) -> Tensor:
    """Squared standard errors of the averages of the real functions, from averages of ``Phi`` and
    ``|Phi|^2``: a cosine and its sine share theirs equally. ``n``: the effective number of
    points, ``1 / sum_n w_n^2``."""
    waves = waves.to(square.device)
    each = (square - mean.abs().square()).clamp(min=0) / (1 + waves.double())
    both = torch.cat([each, each[waves]]) if mean.is_complex() else each
    return both / max(1, n - 1)


def _trigonometric(
    axes: Sequence[Axis], indices: Tensor, x: Tensor, w: Tensor, n: float
) -> ProductMoments:
    found = products(axes, indices)
    mean, square = table_averages(axes, found.table, x, w)
    table_rates = rates_of(axes, found.table)
    rates = torch.cat([table_rates, table_rates[found.waves]])
    own = rates[found.own]
    energy = (rates[found.places] - own[:, None] - own) / 2
    return ProductMoments(
        mean=_real(mean, found.waves),
        variance=_variance(mean, square, found.waves, n),
        rates=rates.to(x.device),
        n_points=len(x),
        own=found.own.to(x.device),
        own_rates=own.to(x.device),
        places=found.places.to(x.device),
        weights=(found.values * energy).to(x.device),
    )


def table_averages(
    axes: Sequence[Axis], table: Tensor, x: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Averages of the normalised ``Phi_m`` and of ``|Phi_m|^2`` for multi-indices ``(G, d)``.

    On equal axes by a table over all products of their features, a matrix product, where that is
    not much longer than ``table``; else one function after the other, ``O(N G)``.
    """
    axis, reach = axes[0], int(table.abs().max())
    dense = axis.count(reach) ** len(axes) <= _DENSE * len(table)
    if not (dense and all(other == axis for other in axes)):
        return Rows.of(axes, table).averages(x, weights)
    change = axis.functions(reach)
    grid = _transformed(mean_features(axis, x, weights, reach), change)
    if not axis.wave:
        squares = _transformed(mean_features(axis, x, weights, reach, 2), change.square())
        where = tuple(table.T)
        return grid[where], squares[where]
    norm = (math.sqrt(2) ** table.any(1).double()).to(x)
    return norm * grid[tuple((table + reach).T)], norm.square()


def _transformed(grid: Tensor, change: Tensor) -> Tensor:
    """``grid`` ``(F, ..., F)`` with ``change`` ``(n, F)`` applied along each axis."""
    grid, change = grid.to(change.dtype), change.to(grid.device)
    for axis in range(grid.ndim):
        grid = (grid.movedim(axis, -1) @ change.T).movedim(-1, axis)
    return grid


def mean_features(axis: Axis, x: Tensor, weights: Tensor, order: int, power: int = 1) -> Tensor:
    """``sum_n w_n prod_i f_{a_i}(x_{n,i})^power``, ``(F, ..., F)``, on equal axes; bounded memory.

    ``power=2`` gives the second moments that the standard errors of the averages need.
    """
    width, dim = axis.count(order), x.shape[1]
    chunk = max(256, CACHE_ENTRIES // width ** max(1, dim - 1))
    total = x.new_zeros(width ** max(0, dim - 1), width)
    for points, w in zip(x.split(chunk), weights.split(chunk), strict=True):
        f = axis.features(points.T, order) ** power
        left = w[None]
        for i in range(dim - 1):
            left = (left[:, None] * f[None, :, i]).flatten(0, 1)
        total.addmm_(left, f[:, -1].T)
    return total.reshape((width,) * dim)


def _polynomial(
    axes: Sequence[Axis], indices: Tensor, x: Tensor, w: Tensor, n: float
) -> PolynomialMoments:
    mean, square = Rows.of(axes, indices).averages(x, w)
    lower = _lower(indices, list(range(len(axes))))
    return PolynomialMoments(
        mean=mean,
        variance=_variance(mean, square, torch.zeros(len(indices), dtype=torch.bool), n),
        rates=rates_of(axes, indices).to(mean),
        n_points=len(x),
        indices=indices,
        lower=lower,
        root=_root(axes, lower, x, w),
    )


def _lower(indices: Tensor, lines: list[int]) -> Tensor:
    """All multi-indices that a derivative along ``lines`` can hold, closed below."""
    steps = torch.eye(indices.shape[1], dtype=torch.int64)[lines]
    below = torch.cat([indices - step for step in steps])
    below = below[(below[:, lines] >= 0).all(1)]
    return closed_below(below.unique(dim=0), lines)


def _root(axes: Sequence[Axis], lower: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """Upper triangular ``R``, ``R^T R = E[phi phi^T]`` over ``lower``: QR, block by block."""
    rows, root = Rows.of(axes, lower), x.new_zeros(0, len(lower))
    for points, w in zip(x.split(4096), weights.split(4096), strict=True):
        columns = rows.values(points).T
        root = torch.linalg.qr(torch.cat([root, w.sqrt()[:, None] * columns]), mode="r").R
    return torch.nn.functional.pad(root, (0, 0, 0, max(0, len(lower) - len(root))))


def _mixed(
    axes: Sequence[Axis], indices: Tensor, x: Tensor, w: Tensor, n: float, lines: list[int]
) -> MixedMoments:
    rows = Rows.of(axes, indices)
    mean, square = rows.averages(x, w)
    closed = closed_below(indices, lines)
    rates = rates_of(axes, indices).to(x)
    waves = rows.waves.to(x.device)
    return MixedMoments(
        mean=_real(mean, rows.waves),
        variance=_variance(mean, square, rows.waves, n),
        rates=torch.cat([rates, rates[waves]]) if mean.is_complex() else rates,
        n_points=len(x),
        axes=tuple(axes),
        indices=indices,
        closed=closed,
        own=places(closed)(indices),
        grams=grams(axes, closed, x, w),
    )
