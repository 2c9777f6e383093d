"""The data of a fit: points, what each of them weighs, what their columns are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core import Process, as_tensor, check_points, drift_at, field_jacobian, name_of
from ..eigenbasis import Axis, Circle, Eigenbasis, Interval, Moments, walls_of, warn

_WITH_BASIS = "OrnsteinUhlenbeck, TorusBrownian, BoxBrownian, DoubleWell, Langevin or Product"


@dataclass(frozen=True, eq=False)
class Sample:
    """Points ``x`` ``(N, d)`` in the state space, with positive weights.

    ``weights`` ``(N,)`` float64 with sum one, None where all points weigh the same; ``exact``,
    whether they are nodes of a quadrature, whose averages have no error; ``columns``, names of the
    coordinates, or None; ``dropped``, the number of rows left out for a NaN.
    """

    x: Tensor
    weights: Tensor | None = None
    exact: bool = False
    columns: tuple[str, ...] | None = None
    dropped: int = 0

    @property
    def size(self) -> float:
        r"""The number of equal weights with the same variance, ``1 / \sum_n w_n^2`` (Kish 1965)."""
        if self.weights is None:
            return len(self.x)
        return round(1 / float(self.weights.square().sum()), 6)  # of equal weights the number

    def moments(self, basis: Eigenbasis) -> Moments:
        """Averages of ``basis`` with their variances, zero where the sample is exact."""
        moments = basis.moments(self.x, self.weights)
        if self.exact:
            return replace(moments, variance=torch.zeros_like(moments.variance))
        return replace(moments, n_points=max(1, round(self.size)))

    def part(self, rows: Tensor) -> Sample:
        """The points of ``rows`` ``(N,)`` bool."""
        x, weights = self.x[rows], self.weights
        if weights is not None:
            weights = weights[rows] / weights[rows].sum()
        return replace(self, x=x, weights=weights)

    def share(self, rows: Tensor) -> float:
        """The weight of ``rows`` ``(N,)`` bool."""
        return float(rows.double().mean() if self.weights is None else self.weights[rows].sum())


def read_sample(
    x: Any, process: Process, weights: Any = None, exact: bool = False, nan: str = "raise",
    wrap: bool = False,
) -> Sample:  # fmt: skip
    """Check what a fit is given; arguments and errors are those of
    :func:`markovscore.fit_spectral`."""
    chart, outer = process.chart, process
    if chart is not None:
        process = chart.inner
    if process.eigenbasis is None:
        raise ValueError(_without_basis(process, x))
    if nan not in ("raise", "drop"):
        raise ValueError(f"nan: expected 'raise' or 'drop', found {nan!r}")
    columns = column_names(x)
    x = check_points(x, outer.dim, "x", finite=False).detach()
    x = x if chart is None else chart.to_inner(x)
    w = None if weights is None else _check_weights(weights, len(x)).to(x.device)
    missing = x.isnan().any(1)
    dropped = int(missing.sum()) if nan == "drop" else 0
    if dropped:
        _warn_of_dropped(x, columns)
        x, w = x[~missing], None if w is None else w[~missing]
    if w is not None:
        x, w = x[w > 0], w[w > 0]
    if len(x) == 0:
        raise ValueError(
            "x: expected at least one row with numbers and a positive weight, found none"
        )
    x = check_points(x, process.dim, "x")
    x = process.project(x) if wrap else _check_inside(x, process, columns, chart is None)
    _check_reached(x, process.eigenbasis(2).axes, chart is None)
    return Sample(x, None if w is None else w / w.sum(), exact, columns, dropped)


def _without_basis(process: Process, x: Any) -> str:
    found = f"{name_of(process)} has no eigenbasis: expected {_WITH_BASIS}"
    points = check_points(x, process.dim, "x", finite=False)[:64].detach().double()
    points = points[points.isfinite().all(1)]
    curl = 0.0
    if len(points) and points.shape[1] > 1:
        J = field_jacobian(lambda y, t: drift_at(process, y, t), points, 0.0).value
        curl = 0.5 * float((J - J.mT).abs().max())
    if curl > 1e-9:
        found += (
            f"; the process is not reversible: the curl of its drift is up to {curl:.3g} at "
            "these points, where that of a gradient is zero"
        )
    return found


def column_names(x: Any) -> tuple[str, ...] | None:
    """The names of the columns of a data frame, else None."""
    names = getattr(x, "columns", None)
    return None if names is None else tuple(str(name) for name in names)


def _warn_of_dropped(x: Tensor, columns: tuple[str, ...] | None) -> None:
    missing = x.isnan()
    names = columns or [f"column {i}" for i in range(x.shape[1])]
    counts = [f"{int(n)} in {name}" for n, name in zip(missing.sum(0), names, strict=True) if n]
    warn(f"x: dropped {int(missing.any(1).sum())} of {len(x)} rows with NaN: {', '.join(counts)}")


def _check_weights(weights: Any, n: int) -> Tensor:
    weights = as_tensor(weights, "weights", torch.float64).detach()
    if weights.shape != (n,) or not bool((weights >= 0).all() & weights.isfinite().all()):
        raise ValueError(
            f"weights: expected {n} finite non-negative numbers, one for each point; found "
            + (f"shape {tuple(weights.shape)}" if weights.shape != (n,) else _worst(weights))
        )
    if not float(weights.sum()) > 0:
        raise ValueError("weights: expected a positive sum, found 0: no point counts")
    return weights


def _worst(weights: Tensor) -> str:
    row = int((~((weights >= 0) & weights.isfinite())).nonzero()[0])
    return f"{float(weights[row])} in row {row}"


def _check_inside(
    x: Tensor, process: Process, columns: tuple[str, ...] | None, plain: bool
) -> Tensor:
    outside = ~process.contains(x)
    if not bool(outside.any()):
        return x
    row = int(outside.nonzero()[0])
    point = x[row].tolist()
    found = point if columns is None else dict(zip(columns, point, strict=True))
    raise ValueError(
        f"x: expected points in the state space of {name_of(process)}; found "
        f"{int(outside.sum())} of {len(x)} outside, the first in row {row}: {found}; "
        + _way_in(x, process, plain)
    )


def _check_reached(x: Tensor, axes: Sequence[Axis], plain: bool) -> None:
    """Functions that are found between walls know nothing of points beyond them, and data move the
    walls no further than where the prior has something; ``plain``: of a process that is not seen
    through units."""
    walls, limits = walls_of(axes)
    first, last = x.double().aminmax(dim=0)
    ends = torch.stack([first, last]).cpu()[:, : len(axes)]
    beyond = ((ends[0] < limits[0]) | (ends[1] > limits[1])).nonzero()[:, 0]
    if len(beyond) == 0:
        return
    i = int(beyond[0])
    low, high = limits[:, i].tolist()
    fixed = torch.equal(walls[:, i], limits[:, i])
    outside = int(((x[:, i] < low) | (x[:, i] > high)).sum())
    raise ValueError(
        f"x: expected points between {low:.4g} and {high:.4g} in coordinate {i}, "
        + ("the walls" if fixed else "where the prior's density is above e^-32 of its largest")
        + f", found {outside} of {len(x)} outside, from {float(ends[0, i]):.4g} to "
        f"{float(ends[1, i]):.4g}: {_way_between(walls, ends, fixed, plain)}"
    )


def _way_between(walls: Tensor, ends: Tensor, fixed: bool, plain: bool) -> str:
    """What would bring points with these ends ``(2, d)`` between walls ``(2, d)``: others, where
    they were given; other units; another prior."""
    ways = []
    if fixed:
        low, high = float(ends[0].min()), float(ends[1].max())
        spare = 0.05 * (high - low)
        ways.append(f"pass wider walls to the process, box=({low - spare:.4g}, {high + spare:.4g})")
    if not plain:
        ways.append("change the matrix and the shift of its Affine")
    elif bool((walls[0] < 0).all() & (walls[1] > 0).all()):
        ways.append(f"divide x by {1.02 * float((ends / walls).max()):.3g}")
    else:
        ways.append("scale the data")
    return ", or ".join([*ways, "take a wider prior"])


def _way_in(x: Tensor, process: Process, plain: bool) -> str:
    """What would bring the points in; ``plain``: of a process that is not seen through units."""
    wrap = "pass wrap=True, which brings them back in by the rule of the process"
    if not plain:
        return f"{wrap}, or change the matrix and the shift of its Affine"
    axes, largest = process.eigenbasis(2).axes, x.abs().amax(0).tolist()
    pairs = zip(axes, largest, strict=True)
    if any(axis == Circle() and 30 <= size <= 360 for axis, size in pairs):
        return "these look like degrees: pass torch.deg2rad(x), or a period of 360"
    fits = [_fit_in(axis, column) for axis, column in zip(axes, x.T, strict=True)]
    scales, shifts = (
        f"[{', '.join(f'{v:.6g}' for v in part)}]" for part in zip(*fits, strict=True)
    )
    return f"{wrap}, or change the units: Affine(process, {scales}, {shifts})"


def _fit_in(axis: Axis, column: Tensor) -> tuple[float, float]:
    """Scale and shift of coordinates in which a column is inside its axis, with a tenth to
    spare."""
    low, high = float(column.min()), float(column.max())
    if isinstance(axis, Circle):
        ends = -axis.period / 2, axis.period / 2
    elif isinstance(axis, Interval):
        ends = axis.low, axis.high
    else:
        return 1.0, 0.0
    if ends[0] <= low and high < ends[1]:
        return 1.0, 0.0
    scale = 1.1 * max(high - low, 1e-3 * abs(high)) / (ends[1] - ends[0])
    return scale, (low + high) / 2 - scale * (ends[0] + ends[1]) / 2
