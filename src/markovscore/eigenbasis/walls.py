"""The walls of coordinates whose functions are found numerically, and those that data ask for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .axes import Axis
from .numerical import Numerical

_MARGIN = 0.05  # of the distance of the walls, between a wall that moved and the points


def walls_of(axes: Sequence[Axis]) -> tuple[Tensor, Tensor]:
    """The walls, and how far out they may go, ``(2, d)`` each: infinite where there are none."""
    nowhere = (-torch.inf, torch.inf) * 2
    rows = [
        (axis.low, axis.high, *axis.limits) if isinstance(axis, Numerical) else nowhere
        for axis in axes
    ]
    found = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4).T
    return found[:2], found[2:]


def around(axes: Sequence[Axis], x: Tensor) -> tuple[Axis, ...]:
    """The coordinates with their walls beyond all points ``(N, d)``, as far as they may go: those
    that are alike stay one, and where all points are between the walls nothing moves."""
    first, last = x.detach().double().aminmax(dim=0)
    alike: dict[Numerical, list[int]] = {}
    for i, axis in enumerate(axes):
        if isinstance(axis, Numerical):
            alike.setdefault(axis, []).append(i)
    made = {
        axis: _reaching(axis, float(first[own].min()), float(last[own].max()))
        for axis, own in alike.items()
    }
    return tuple(made[axis] if isinstance(axis, Numerical) else axis for axis in axes)


def _reaching(axis: Numerical, first: float, last: float) -> Numerical:
    """With walls beyond these points."""
    margin = _MARGIN * (max(last, axis.high) - min(first, axis.low))
    low = axis.low if first >= axis.low else max(first - margin, axis.limits[0])
    high = axis.high if last <= axis.high else min(last + margin, axis.limits[1])
    return axis if (low, high) == (axis.low, axis.high) else axis.between(low, high)


def moved_walls(axes: Sequence[Axis]) -> Tensor | None:
    """Walls ``(2, d)`` that are not where the process has them, for a file: not numbers where they
    are, and None where all are."""
    nowhere = torch.nan, torch.nan
    rows = [
        (axis.low, axis.high) if isinstance(axis, Numerical) and axis.moved else nowhere
        for axis in axes
    ]
    walls = torch.tensor(rows, dtype=torch.float64).reshape(-1, 2).T
    return None if bool(walls.isnan().all()) else walls


def between(axes: Sequence[Axis], walls: Tensor) -> tuple[Axis, ...]:
    """The inverse of :func:`moved_walls`: the coordinates with their walls at ``(2, d)``."""
    pairs = [(axis, (low, high)) for axis, (low, high) in zip(axes, walls.T.tolist(), strict=True)]
    made: dict[tuple[Axis, tuple[float, float]], Axis] = {
        (axis, ends): axis.between(*ends)
        for axis, ends in dict.fromkeys(pairs)
        if isinstance(axis, Numerical) and ends[0] < ends[1]
    }
    return tuple(made.get(pair, pair[0]) for pair in pairs)
