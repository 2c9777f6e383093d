r"""Whole Euler-Maruyama integrations in one launch, with the path-shift target along the way.

.. math:: y_{i+1} = y_i + h f(y_i) + \sqrt h\, \sigma z_i

for drifts ``f`` that the kernel knows, in steps of equal length ``h``: those of the process's own
clock, in which it runs at unit rate: ``dY = f(Y) dtau + sigma dW`` (``markovscore.simulation``).
The ``z_i`` are drawn inside the kernel from counters (``markovscore.kernels.philox``), so a path
depends on the seed, its row and its steps alone. Over a window of ``N`` steps the target for the
score at its end is, in the same loop and without a stored path,

.. math:: -\frac{1}{N \sigma \sqrt h} \sum_i [z_i - i h\, J(y_i)^\top z_i]

(``markovscore.path_shift`` with the linear weight ``i / N``); the swimmer has the rule of
``ActiveSwimmer.shift_target``.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core import (
    Grid,
    IdentityClock,
    LinearMap,
    Walk,
    check_finite,
    check_points,
    check_steps,
    check_time,
)
from .dispatch import unsupported, use_triton
from .path_drift import PathDrift
from .philox import four_normals, seed_tensor

MAX_COORDINATES = 8


@dataclass(frozen=True, eq=False)
class Steps:
    """``count`` steps of equal ``length`` in the clock: a number, or one for each row ``(B,)``."""

    count: int
    length: float | Tensor


def kernel_limit(drift: PathDrift, y0: Tensor) -> str | None:
    """Why the kernel cannot take this drift and these points, None if it can."""
    if drift.coordinates > MAX_COORDINATES:
        return f"expected at most {MAX_COORDINATES} coordinates, found {drift.coordinates}"
    return unsupported(y0)


def euler_paths(
    drift: PathDrift,
    y0: Tensor,
    before: Steps | None,
    window: Steps | None = None,
    *,
    seed: int | Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Points at the window's start and end, and the path-shift target; see the module's text.

    Args:
        drift: a :class:`PathDrift`.
        y0: ``(B, d)``, float32 or float64 for the kernel; ``B = 0`` will do.
        before: the steps from ``y0`` to the window; None: the window starts at ``y0``.
        window: the steps of the window, of positive length, two or more for the swimmer; None:
            there is none.
        seed: of the noise, 64 bits: an int, or one int64 in a tensor. The phases draw from
            different counters, so ``before`` and ``window`` one after the other with one seed give
            what they give together.

    Returns:
        ``y_s``, ``y_t`` and ``target``, ``(B, d)`` each, dtype and device of ``y0``. Without a
        window ``y_t`` is ``y_s`` and the target None; without ``before``, ``y_s`` is ``y0``. The
        noise is in float32 for both types: a path in float64 has the same noise as in float32.

    Raises:
        TypeError, ValueError: malformed points, steps or seed; a path that is not finite or
            diverges, by which a cubic drift is meant to have grown a thousandfold in one step
            (``h y^2 > 1e9`` after it): the row, and the step at which it happened.
    """
    y0 = _check_start(drift, y0)
    first, second = _grid(drift, before, y0, "before"), _grid(drift, window, y0, "window")
    key = seed_tensor(seed, y0.device)
    if use_triton("euler_paths", y0, limit=kernel_limit(drift, y0)):
        from ._triton import paths

        lengths = (_lengths(drift, first, y0), _lengths(drift, second, y0))
        table, size = drift.table.to(y0), drift.coordinates
        *found, bad = paths.run(y0.contiguous(), drift.kind, table, size, *lengths, key)
    else:
        *found, bad = _twin(drift, y0, first, second, key)
    if bad is not None:
        _diverged(drift, y0, first, second, key, bad)
    y_s, y_t, target = found
    return y_s, y_t, target


def _check_start(drift: PathDrift, y0: Tensor) -> Tensor:
    elementwise = drift.coordinates == 1
    columns = None if elementwise else drift.coordinates
    if isinstance(y0, Tensor) and y0.ndim == 2 and len(y0) == 0:
        check_points(y0.new_zeros(1, y0.shape[1]), columns, "y0")
        return y0
    # A start that is not finite stays so: it is found at the end, without a pass over the data.
    return check_points(y0, columns, "y0", finite=False)


def _grid(drift: PathDrift, steps: Steps | None, y0: Tensor, name: str) -> Grid | None:
    """The checked steps, in the clock: the process has no other time."""
    if steps is None:
        return None
    count = check_steps(steps.count)
    h = check_time(steps.length, len(y0), name).reshape(-1).cpu()
    shift = name == "window"
    if not bool(((h > 0) if shift else (h >= 0)).all() & torch.isfinite(h).all()):
        bound = "positive" if shift else "non-negative"
        raise ValueError(f"{name}: expected finite {bound} lengths, found {h.tolist()[:3]}")
    if shift and drift.kind == "swimmer" and count < 2:
        raise ValueError(
            f"steps: expected at least 2 for the swimmer's window, found {count}: the noise needs "
            "two steps to reach x"
        )
    return Grid(IdentityClock(), torch.zeros_like(h), count * h, count, autonomous=True)


def _lengths(drift: PathDrift, grid: Grid | None, y0: Tensor) -> tuple[int, Tensor] | None:
    """The number of steps, ``h`` and ``sigma sqrt(h)`` ``(1 or B, 2)``, as the kernel has them."""
    if grid is None:
        return None
    h = grid.step[0]
    return grid.count, torch.stack([h, drift.noise * h.sqrt()], 1).to(y0)


# The twin


def _twin(
    drift: PathDrift, y0: Tensor, before: Grid | None, window: Grid | None, seed: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, int | None]:
    """``y_s``, ``y_t``, the target, and the first row that diverged, if one did."""
    drift, rows = replace(drift, table=drift.table.to(y0)), torch.arange(len(y0), device=y0.device)
    y_s, target, bad = y0, None, torch.zeros(len(y0), dtype=torch.bool, device=y0.device)
    if before is not None:
        walk = _walk(drift, y0, before, seed, rows, 0)
        for _ in walk:
            pass
        y_s = walk.y
        bad |= drift.diverged(y_s, _column(before, y_s))
    y_t = y_s
    if window is not None:
        follow = _swimmer_target if drift.kind == "swimmer" else _linear_target
        y_t, target = follow(drift, _walk(drift, y_s, window, seed, rows, 1))
        bad |= drift.diverged(y_t, _column(window, y_t)) | ~torch.isfinite(target).all(1)
    return y_s, y_t, target, int(bad.nonzero()[0]) if bool(bad.any()) else None


def _walk(drift: PathDrift, y: Tensor, grid: Grid, seed: Tensor, rows: Tensor, stream: int) -> Walk:
    """The steps from ``y``, with the normals that the counters of ``rows`` give."""
    four = y.new_empty(0)

    def draw(i: int, G: LinearMap, y: Tensor) -> Tensor:
        nonlocal four
        if i % 4 == 0:
            four = four_normals(seed, rows, G.columns(y.shape[1]), i // 4, stream).to(y)
        return four[i % 4]

    return Walk(drift, y, grid, draw, watched=False)


def _points(walk: Walk) -> Iterator[Tensor]:
    """``y_1 .. y_N``."""
    for step in walk:
        if step.i:
            yield step.y
    yield walk.y


def _column(grid: Grid, y: Tensor) -> Tensor:
    """``h`` as ``(1 or B, 1)``, of the dtype of ``y``."""
    return grid.step[0, :, None].to(y)


def _linear_target(drift: PathDrift, walk: Walk) -> tuple[Tensor, Tensor]:
    """The end, and ``-sum_i [z_i - i h J^T z_i] / (N sigma sqrt(h))``."""
    total, h = torch.zeros_like(walk.y), _column(walk.grid, walk.y)
    for step in walk:
        step.drift, product = drift.drift_and_vjp(step.y, step.time, step.z)
        total = total + step.z - step.h * step.i * product
    return walk.y, -total / (walk.grid.count * drift.noise * h.sqrt())


def _swimmer_target(drift: PathDrift, walk: Walk) -> tuple[Tensor, Tensor]:
    """The end, and ``ActiveSwimmer.shift_target``, as the steps go by: the sum by nodes, for
    ``u_i`` meets the noise that led there and that which follows."""
    rest, gamma = walk.grid.count - 1, float(drift.table)
    along_v, along_x, last = 3 * [torch.zeros_like(walk.y[:, :1])]
    for step in walk:
        (b, a), (b_next, a_next) = (_shift(i, rest) for i in (step.i, step.i + 1))
        slope = 3 * step.y[:, :1].square()
        change = last - (1 - gamma * step.h) * step.z
        along_v = along_v + (rest * (b_next - b) + rest * b * step.h * slope) * change
        along_x = along_x + ((a_next - a) / step.h + a * slope) * change
        last = step.z
    # At the end u is (1, 3 x^2): the last noise is that of v alone.
    slope, root = 3 * walk.y[:, :1].square(), drift.noise * _column(walk.grid, walk.y).sqrt()
    return walk.y, -torch.cat([along_x - slope * along_v, along_v + last], 1) / root


def _shift(i: int, rest: int) -> tuple[float, float]:
    """The two paths ``a`` at node ``i``, the first less its factor ``rest h``."""
    rho = max(i - 1, 0) / rest
    return rho**2 * (rho - 1), rho**2 * (3 - 2 * rho)


def _diverged(
    drift: PathDrift, y0: Tensor, before: Grid | None, window: Grid | None, seed: Tensor, row: int
) -> None:
    """Follow the bad row alone, by its own counters, and say where it left the numbers."""
    check_finite(y0, "y0")
    y, slope = y0[row : row + 1], drift.slope(y0[row : row + 1])
    for stream, grid in enumerate((before, window)):
        if grid is None:
            continue
        if len(grid.end) > 1:
            one = slice(row, row + 1)
            grid = replace(grid, start=grid.start[one], end=grid.end[one])
        count, h = grid.count, float(grid.step[0])
        walk = _walk(drift, y, grid, seed, torch.tensor([row], device=y0.device), stream)
        for i, y in enumerate(_points(walk), 1):
            if bool(drift.diverged(y, _column(grid, y)).any()):
                trial = min(0.5 * h, 1 / slope) if 0 < slope < math.inf else 0.5 * h
                raise ValueError(
                    f"the particles diverge in step {i} of {count} of {h:g} in the clock, the "
                    f"first in row {row} (started at {y0[row].tolist()[:8]}): the step is too long "
                    f"for the drift's slope {slope:.3g} there, try a step of at most {trial:.2g}, "
                    f"that is steps >= {math.ceil(count * h / trial)}"
                )
    raise ValueError(
        f"the path of row {row} (started at {y0[row].tolist()[:8]}) or its target is not finite: "
        "take shorter steps, or float64"
    )
