"""Sets of multi-indices: the slowest ones, hyperbolic crosses, and where a multi-index stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .axes import Axis

_MAX_TABLE = 2**24  # entries of a look-up table over a grid; beyond, codes are sorted
_GROWTH = 1.25
_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, odd: spreads codes over 64 bits


def index_set(axes: Sequence[Axis], n_functions: int, cross: bool = False) -> Tensor:
    """The non-zero multi-indices ``k`` of smallest ``sum_i |lambda_{k_i}|`` that make
    ``n_functions`` real functions; with ``cross`` of smallest ``prod_i (1 + |lambda_{k_i}|)``, in
    units of the slowest rate: a hyperbolic cross.

    Entries of waves run over ``Z`` up to a common sign: the first non-zero one is positive. A
    multi-index with a wave makes two functions, another one. Ties are in lexicographic order, so
    the set is deterministic, and, but for the last functions, complete below its last level.
    Returns ``(M, d)``, int64.
    """
    if n_functions % 2 and all(axis.wave for axis in axes):
        raise ValueError(
            "waves come in pairs cos(k.x), sin(k.x): expected an even n_functions, found "
            f"{n_functions}; use {n_functions + 1}"
        )
    if len(axes) == 1:
        count = n_functions // 2 if axes[0].wave else n_functions
        return torch.arange(1, count + 1)[:, None]
    one = torch.ones(1, dtype=torch.int64)
    unit = min(-float(axis.rates(one)) for axis in set(axes))

    def price(axis: Axis, k: Tensor) -> Tensor:
        rate = axis.rates(k) / -unit
        return rate.log1p() if cross else rate

    bound = math.log(2) if cross else 1.0
    while True:
        k, cost = _within(axes, price, bound)
        k = k[np.lexsort((*k.numpy().T[::-1], np.round(cost.numpy(), 9)))]
        chosen = _filled(1 + _has_wave(axes, k).long(), n_functions)
        if chosen:
            return k[chosen]
        bound *= _GROWTH


def _filled(made: Tensor, n_functions: int) -> list[int]:
    """The first rows that make so many functions, if there are; a pair that would be one too many
    is left out."""
    chosen, left = [], n_functions
    for row, count in enumerate(made.tolist()):
        if count <= left:
            chosen.append(row)
            left -= count
        if left == 0:
            return chosen
    return []


def _within(
    axes: Sequence[Axis], price: Callable[[Axis, Tensor], Tensor], bound: float
) -> tuple[Tensor, Tensor]:
    """All non-zero multi-indices of cost up to ``bound`` and their costs, grown axis by axis."""
    k, spent = torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    waving = torch.zeros(1, dtype=torch.bool)
    limit = bound * (1 + 1e-9)
    for axis in axes:
        last = 1
        while float(price(axis, torch.tensor([last]))) <= limit:
            last *= 2
        entries = torch.arange(-last if axis.wave else 0, last + 1)
        total = spent[:, None] + price(axis, entries.abs())
        allowed = total <= limit
        if axis.wave:
            allowed &= waving[:, None] | (entries >= 0)
        row, column = allowed.nonzero(as_tuple=True)
        k = torch.cat([k[row], entries[column, None]], 1)
        spent = total[row, column]
        waving = waving[row] | ((entries[column] != 0) & axis.wave)
    some = k.any(1)
    return k[some], spent[some]


def _has_wave(axes: Sequence[Axis], k: Tensor) -> Tensor:
    """Which multi-indices ``(..., d)`` have a wave, ``(...)``."""
    return k[..., [axis.wave for axis in axes]].any(-1)


def orientation(axes: Sequence[Axis], m: Tensor) -> Tensor:
    """Sign of the first non-zero entry of the waves in ``m`` ``(..., d)``; one where there is
    none."""
    sign = torch.zeros_like(m[..., 0])
    for i, axis in enumerate(axes):
        if axis.wave:
            sign = torch.where(sign == 0, m[..., i].sign(), sign)
    return torch.where(sign == 0, 1, sign)


def distinct(m: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct multi-indices among ``m`` ``(n, d)``, zero first, and where each row stands.

    By a table over the grid that they span, in linear time, where that is small; else by sorting
    64-bit codes, of which no two different rows share one (this is checked).
    """
    low = m.amin(0)
    widths = (m.amax(0) - low + 1).tolist()
    if math.prod(widths) <= _MAX_TABLE:
        codes = _mixed_radix(m - low, widths)
        present = torch.zeros(math.prod(widths), dtype=torch.bool)
        present[codes] = True
        found = present.nonzero()[:, 0]
        place = torch.empty(len(present), dtype=torch.int64)
        place[found] = torch.arange(len(found))
        where = place[codes]
    else:
        where = _hashed(m).unique(return_inverse=True)[1]
    table = m.new_empty(int(where.max()) + 1, m.shape[1])
    table[where] = m
    if not torch.equal(table[where], m):
        raise ArithmeticError("two multi-indices share a code: choose another multiplier")
    return _zero_first(table.long(), where)


def _zero_first(table: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    zero = ~table.any(1)
    order = torch.cat([zero.nonzero()[:, 0], (~zero).nonzero()[:, 0]])
    return table[order], order.argsort()[where]


def _mixed_radix(m: Tensor, widths: list[int]) -> Tensor:
    code = torch.zeros(len(m), dtype=torch.int64)
    for column, width in zip(m.unbind(1), widths, strict=True):
        code.mul_(width).add_(column)
    return code


def _hashed(m: Tensor) -> Tensor:
    """``sum_i m_i c^{i+1}`` modulo ``2^64``."""
    code, power = torch.zeros(len(m), dtype=torch.int64), 1
    for column in m.unbind(1):
        power = power * _MULTIPLIER % 2**64
        code += column.long() * (power - 2**64 if power >= 2**63 else power)
    return code


def places(indices: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from multi-indices ``(M, d)`` to their rows in ``indices``."""
    where = {tuple(row): i for i, row in enumerate(indices.tolist())}

    def place(wanted: Tensor) -> Tensor:
        rows = [where[tuple(row)] for row in wanted.tolist()]
        return torch.tensor(rows, dtype=torch.int64)

    return place


def closed_below(indices: Tensor, axes: Sequence[int]) -> Tensor:
    """``indices`` ``(M, d)`` and all that have smaller entries along ``axes``; without
    repetition."""
    found = indices
    for i in axes:
        rows = found.repeat_interleave(found[:, i] + 1, 0)
        first = torch.cat([torch.zeros(1, dtype=torch.int64), (found[:, i] + 1).cumsum(0)[:-1]])
        rows[:, i] = torch.arange(len(rows)) - first.repeat_interleave(found[:, i] + 1)
        found = rows.unique(dim=0)
    return found
