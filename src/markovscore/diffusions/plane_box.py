"""Where a law in the plane is: a box around it, found from its density alone."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..eigenbasis import levels

_TAIL = 1e-8  # of the law, left out
_FARTHEST = 1e6
_FAINT = 45.0  # log density below its maximum that is no part of the law
_COARSE, _FINE = 801, 257  # points along a side
_SHRINKS = 0.9
_ZOOMS = 40
_RESOLVED = 16  # points of the last grid, at least, with a density above half the largest


def plane_box(log_density: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, float]:
    """``low`` and ``high`` ``(2,)`` of a box beyond which there is 1e-8 of the law, and how far
    below its maximum the log density is there.

    Looked for on a grid that is even near zero and geometric far out, then on even ones that zoom.

    Raises ``ValueError`` for a law whose tails do not end within a million.
    """
    reach = torch.asinh(torch.tensor(1e3 * _FARTHEST, dtype=torch.float64))
    side = torch.sinh(torch.linspace(-1, 1, _COARSE, dtype=torch.float64) * reach) / 1e3
    sides = [side, side]
    level = _on_grid(log_density, sides)
    edge = max(float(part.max()) for part in (level[0], level[-1], level[:, 0], level[:, -1]))
    if not edge < -_FAINT:
        raise ValueError(
            f"prior: expected a density whose tails end within {_FARTHEST:g} of zero, found a log "
            f"density of {edge:.3g} there, relative to its maximum: pass box=(low, high)"
        )
    ends = _around(level > -_FAINT, sides)
    for _ in range(_ZOOMS):
        sides = [torch.linspace(*end, _FINE, dtype=torch.float64) for end in ends]
        level = _on_grid(log_density, sides)
        found = _around(level > -_FAINT, sides)
        shrunk = min((b - a) / (d - c) for (a, b), (c, d) in zip(found, ends, strict=True))
        ends = found
        if shrunk > _SHRINKS:
            break
    if int((level > math.log(0.5)).sum()) < _RESOLVED:
        raise ValueError(
            "prior: expected tails that end not far from the law, found a log density less than "
            f"{_FAINT:g} below its maximum within {[[round(v, 3) for v in end] for end in ends]}, "
            "which is too wide for a grid: pass box=(low, high)"
        )
    sorted_levels = level.flatten().sort().values
    below = sorted_levels.exp().cumsum(0)
    depth = -float(sorted_levels[int(torch.searchsorted(below, _TAIL * below[-1]))])
    low, high = torch.tensor(_around(level > -depth, sides), dtype=torch.float64).T
    return low, high, depth


def _on_grid(log_density: Callable[[Tensor], Tensor], sides: list[Tensor]) -> Tensor:
    """Relative to the maximum, on the product of two sides."""
    grid = torch.cartesian_prod(*sides)
    level = levels(log_density, grid).reshape(len(sides[0]), len(sides[1]))
    return level - level[level.isfinite()].max()


def _around(some: Tensor, sides: list[Tensor]) -> list[tuple[float, float]]:
    """The ends of the smallest box around points of a grid, and a cell more."""
    ends = []
    for axis, side in enumerate(sides):
        at = some.any(1 - axis).nonzero()[:, 0]
        first, last = max(int(at[0]) - 1, 0), min(int(at[-1]) + 1, len(side) - 1)
        ends.append((float(side[first]), float(side[last])))
    return ends
