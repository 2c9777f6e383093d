r"""Averages for bases with coordinates that have no table of products: ``A_t`` by quadrature.

Of the law at time ``t`` the averages of the data give the density relative to the stationary one,

.. math:: \frac{\rho_t}{\pi}(x) = \sum_m e^{\lambda_m t} M_m\, \phi_m(x), \qquad
          A_t[j,k] = \sum_m e^{\lambda_m t} M_m \sum_q w_q\, \phi_m(x_q)\,
          \nabla\phi_j(x_q) \cdot \nabla\phi_k(x_q),

with nodes and weights of ``pi``. Products of two functions have components far
beyond twice their number, large ones where the functions grow in the tails of ``pi``: with as many
averages as functions ``A_t`` is indefinite. So ``m`` runs over *all* functions that the nodes have.
The points are given to the nodes by the weights of interpolation, with which averages of the
products are right to the accuracy of the elements at every ``t >= 0``, also where the sum over
``m`` is negative at a node; cutting it off there would change the law. Of waves and cosines ``m``
goes to twice their number, which is all that there is. Functions are products, and so are the
sums over nodes: of each coordinate, over triples of its own functions.
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

from ..core import lasting, remembered
from .axes import Axis
from .moments import JITTER, MatrixMoments
from .numerical import DEGREE, Numerical

_MORE = 8  # averages beyond twice the functions of a coordinate, by which shrinkage judges
_GONE = -36.0  # exponent of what is no part of a double
_MOST = 2**25  # entries of a grid
_BLOCK = 2**22  # entries of a working block: 32 MiB in double precision


@dataclass(frozen=True, eq=False)
class Grid:
    """One coordinate: ``rates`` ``(m,)`` of its modes, ``modes`` ``(Q, m)`` at the nodes, times
    their weights, and the basis' functions ``values``, ``slopes`` ``(n, Q)``."""

    rates: Tensor
    modes: Tensor
    values: Tensor
    slopes: Tensor

    @cached_property
    @lasting
    def even(self) -> Tensor:
        """Averages of a mode times two functions, ``(n (n+1)/2, m)``."""
        return self._triples(self.values)

    @cached_property
    @lasting
    def odd(self) -> Tensor:
        """Averages of a mode times two slopes."""
        return self._triples(self.slopes)

    def _triples(self, values: Tensor) -> Tensor:
        row, column = torch.tril_indices(len(values), len(values))
        return (values[row] * values[column]) @ self.modes

    def live(self, time: float) -> int:
        """How many of the first modes have something left at that time."""
        left = (self.rates * time > _GONE).nonzero()
        return int(left[-1]) + 1


@remembered
def grid_of(axis: Axis, order: int) -> Grid:
    """For the functions up to ``order``; of waves and cosines, with the modes up to twice that,
    beyond which products of two have nothing."""
    if isinstance(axis, Numerical):
        found = axis.spectrum(order)
        nodes, weights = found.elements.nodes, found.mass
        rates, modes = found.eigenvalues, found.functions
        values, slopes = modes[:, : order + 1].T, found.slopes(order + 1).T
    else:
        nodes, weights = axis.quadrature(2 * order)
        rates, modes = axis.real_rates(2 * order), axis.jets(nodes, 2 * order, 1)[0].T
        values, slopes = axis.jets(nodes, order, 2)
    return Grid(rates, weights[:, None] * modes, values, slopes)


@dataclass(frozen=True, kw_only=True)
class QuadratureMoments(MatrixMoments):
    """``A_t`` from the averages of all products of the coordinates' modes.

    ``averages`` ``(m_1, ..., m_d)``; ``grids``, of each coordinate; ``factors`` ``(P, d)``,
    products of real functions of one coordinate each, which stand at ``own`` ``(P,)`` among the
    ``mean``; ``combine`` ``(K, P)``, the basis' functions as sums of them, or None where they are
    the same; ``own_rates`` ``(K,)``.
    """

    averages: Tensor
    grids: list[Grid]
    factors: Tensor
    own: Tensor
    combine: Tensor | None
    own_rates: Tensor

    def slope(self, times: Tensor) -> Tensor:
        mean = self.mean[self.own]
        if self.combine is not None:
            mean = self.combine @ mean
        return -self.mix * self.own_rates * self._decay(self.own_rates, times) * mean

    def slope_errors(self, times: Tensor) -> Tensor:
        variance = self.variance[self.own]
        if self.combine is not None:
            variance = self.combine.square() @ variance
        decay = self.mix * self.own_rates.abs() * self._decay(self.own_rates, times)
        return decay * variance.sqrt()

    def energy(self, times: Tensor) -> Tensor:
        out = torch.stack([self._energy(float(t)) for t in times])
        out.diagonal(dim1=1, dim2=2).sub_(JITTER * self.own_rates)
        return out

    def _energy(self, time: float) -> Tensor:
        live = [grid.live(time + self.heat) for grid in self.grids]
        law = self.mix * self.averages[tuple(slice(count) for count in live)]
        for i, (grid, count) in enumerate(zip(self.grids, live, strict=True)):
            decay = torch.exp((time + self.heat) * grid.rates[:count])
            law = law * decay.reshape(-1, *[1] * (len(live) - 1 - i))
        law[(0,) * law.ndim] = 1
        if len(live) == 1:  # fewer products than the triples have
            (grid,) = self.grids
            found = (grid.slopes * (grid.modes[:, : live[0]] @ law)) @ grid.slopes.T
            return found[self.factors, self.factors.T]
        even, odd = law, None
        for i, (grid, count) in enumerate(zip(self.grids, live, strict=True)):
            # of the coordinates so far none had slopes, or one; the first goes to the end
            rest, shape = even.reshape(count, -1), even.shape[1:]
            slopes = grid.odd[:, :count] @ rest
            if odd is not None:
                slopes = slopes.addmm_(grid.even[:, :count], odd.reshape(count, -1))
            odd = slopes.T.reshape(*shape, -1)
            if i < len(live) - 1:
                even = (grid.even[:, :count] @ rest).T.reshape(*shape, -1)
        assert odd is not None
        found = torch.take(odd, self._pairs)
        return found if self.combine is None else self.combine @ found @ self.combine.T

    @cached_property
    def _pairs(self) -> Tensor:
        """Where the product of each pair stands among all pairs, ``(P, P)``."""
        places = []
        for k in self.factors.unbind(1):
            high, low = torch.maximum(k[:, None], k), torch.minimum(k[:, None], k)
            places.append(high * (high + 1) // 2 + low)
        return flat(places, [len(grid.even) for grid in self.grids])

    def reordered(self, order: Tensor) -> Self:
        ours = {"own_rates": self.own_rates[order]}
        if self.combine is None:
            ours |= {"factors": self.factors[order], "own": self.own[order]}
        else:
            ours["combine"] = self.combine[order]
        return replace(self, **ours)  # type: ignore[arg-type]


def flat(places: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Positions ``(...)`` in an array of ``shape``."""
    found = torch.zeros_like(places[0])
    for place, length in zip(places, shape, strict=True):
        found = found * length + place
    return found


def quadrature_moments(
    axes: Sequence[Axis], indices: Tensor, x: Tensor, w: Tensor, n: float
) -> QuadratureMoments:
    """Averages over points ``(N, d)`` with weights ``(N,)``, as of
    :func:`markovscore.eigenbasis.averages.moments`; ``n``, the effective number of points."""
    x, w = x.cpu(), w.cpu()
    orders = [int(k.abs().max()) for k in indices.unbind(1)]
    grids = [grid_of(axis, order) for axis, order in zip(axes, orders, strict=True)]
    sizes = [len(grid.rates) for grid in grids]
    pairs = [len(grid.values) * (len(grid.values) + 1) // 2 for grid in grids]
    if max(math.prod(sizes), math.prod(pairs)) > _MOST:
        raise ValueError(
            "n_functions: expected averages that fit on a grid, found "
            f"{' x '.join(map(str, sizes))} of them: take fewer functions, or fewer "
            "coordinates"
        )
    law = _deposit(axes, orders, x, w, 1)
    squares = law if all(_numerical(axes)) else _deposit(axes, orders, x, w, 2)
    factors, combine = _factored(axes, indices, orders)
    # Among the modes of a wave, up to twice the order, the sines stand behind all cosines.
    own = torch.tensor(orders)
    places = torch.where(factors > own, factors + own, factors)
    counts = [
        min(len(grid.rates), 2 * order + _MORE) if yes else len(grid.rates)
        for grid, order, yes in zip(grids, orders, _numerical(axes), strict=True)
    ]
    rates = [grid.rates[:count] for grid, count in zip(grids, counts, strict=True)]
    own_rates = torch.stack([rate[k] for rate, k in zip(rates, places.unbind(1), strict=True)]).sum(
        0
    )
    if combine is not None:  # a function is a sum of products that share its rate
        own_rates = (combine != 0).double() @ own_rates / (combine != 0).sum(1)
    mean = _means(axes, orders, law, counts, 1).flatten()
    square = _means(axes, orders, squares, counts, 2).flatten()
    return QuadratureMoments(
        mean=mean,
        variance=(square - mean.square()).clamp(min=0) / max(1, n - 1),
        rates=_summed(rates),
        n_points=len(x),
        averages=_means(axes, orders, law, sizes, 1),
        grids=grids,
        factors=factors,
        own=flat(places.unbind(1), counts),
        combine=combine,
        own_rates=own_rates,
    )


def _numerical(axes: Sequence[Axis]) -> list[bool]:
    return [isinstance(axis, Numerical) for axis in axes]


def _deposit(
    axes: Sequence[Axis], orders: Sequence[int], x: Tensor, w: Tensor, power: int
) -> Tensor:
    """The law of the points, ``(L_1, ..., L_d)``: of a coordinate found numerically its weights at
    the nodes, so that it has the right average of any polynomial on the elements; of another the
    averages of its real functions, raised to ``power``."""
    solved = _numerical(axes)
    columns = list(zip(axes, orders, x.unbind(1), strict=True))
    first = [one for one, yes in zip(columns, solved, strict=True) if yes]
    other = [one for one, yes in zip(columns, solved, strict=True) if not yes]
    nodes = [len(axis.quadrature(order)[0]) for axis, order, _ in first]
    values = [axis.jets(column, 2 * order, 1)[0].T ** power for axis, order, column in other]
    widths = [value.shape[1] for value in values]
    total = x.new_zeros(math.prod(nodes), math.prod(widths))
    entries = (DEGREE + 1) ** len(nodes) * math.prod(widths)
    for rows in torch.arange(len(x)).split(max(1, _BLOCK // entries)):
        place, weight = torch.zeros(len(rows), 1, dtype=torch.int64), w[rows, None]
        for (axis, order, column), count in zip(first, nodes, strict=True):
            own, shares = axis.nodal(column[rows], order)  # type: ignore[attr-defined]
            place = (place[:, :, None] * count + own[:, None]).flatten(1)
            weight = (weight[:, :, None] * shares[:, None]).flatten(1)
        dense = torch.ones_like(w[rows, None])
        for value in values:
            dense = (dense[:, :, None] * value[rows][:, None]).flatten(1)
        shared = (weight[:, :, None] * dense[:, None]).flatten(0, 1)
        total.index_add_(0, place.flatten(), shared)
    stand = [i for yes in (True, False) for i, one in enumerate(solved) if one is yes]
    law = total.reshape(*nodes, *widths)
    return law.permute([stand.index(i) for i in range(len(axes))])


def _means(
    axes: Sequence[Axis], orders: Sequence[int], law: Tensor, shape: Sequence[int], power: int
) -> Tensor:
    """Averages ``shape`` of products of real functions, raised to ``power`` as ``law`` was."""
    for axis, order, count in zip(axes, orders, shape, strict=True):
        left = law.reshape(len(law), -1).T
        if isinstance(axis, Numerical):
            left = left @ axis.spectrum(order).functions[:, :count] ** power
        law = left.reshape(*law.shape[1:], count)
    return law


def _summed(rates: Sequence[Tensor]) -> Tensor:
    """``lambda`` of all products, ``(G,)``."""
    total = rates[0].new_zeros(())
    for rate in rates:
        total = total[..., None] + rate
    return total.flatten()


def _factored(
    axes: Sequence[Axis], indices: Tensor, orders: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Products of real functions ``(P, d)`` that make the basis' functions, and how, ``(K, P)``.

    ``sqrt2 Re`` and ``sqrt2 Im`` of ``prod_i e^{i k_i u_i}`` over the waves are sums of products
    of cosines and sines: ``cos`` once, or ``i sin`` for each.
    """
    waves = [i for i, axis in enumerate(axes) if axis.wave]
    if not waves:
        return indices, None
    rows: list[tuple[int, ...]] = []
    entries: dict[tuple[int, ...], list[tuple[int, float]]] = {}
    moving = indices[:, waves].any(1).tolist()
    sines = iter(range(len(indices), len(indices) + sum(moving)))
    for number, (row, moves) in enumerate(zip(indices.tolist(), moving, strict=True)):
        sine = next(sines) if moves else None
        turning = [i for i in waves if row[i] != 0]
        for chosen in product((False, True), repeat=len(turning)):
            digits, factor = list(row), 2.0 ** (0.5 * (bool(turning) - len(turning)))
            for i, odd in zip(turning, chosen, strict=True):
                digits[i] = abs(row[i]) + (orders[i] if odd else 0)
                factor *= (row[i] > 0) * 2 - 1 if odd else 1
            count = sum(chosen)
            function = sine if count % 2 else number
            assert function is not None
            sign = -1.0 if count % 4 in (2, 3) else 1.0
            entries.setdefault(tuple(digits), []).append((function, sign * factor))
    rows = list(entries)
    combine = torch.zeros(len(indices) + sum(moving), len(rows), dtype=torch.float64)
    for column, key in enumerate(rows):
        for function, factor in entries[key]:
            combine[function, column] = factor
    return torch.tensor(rows), combine
