"""Score and divergence of additive OISM in one pass over the points, and their derivative.

A program takes ``BLOCK`` columns and some rows. Where all rows have one time it interpolates the
coefficients of its columns once and keeps them in registers: what it reads and writes for each
element is then ``x`` and the score. Where every row has a time of its own, two levels of the table
are read for each row, ``2 K`` numbers an element; no intermediate ``(K, B, d)`` is made.
"""

# mypy: disable-error-code="assignment"  # tuples grow
import math
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..additive_score import REACH
from ..dispatch import row_blocks
from .bad_rows import first, new_cell, note

# A warp has a row of 128 columns, so that sums over a row stay inside it; 8 rows: 8 elements a
# thread. Rows with times of their own have 2 K loads an element under way with half of that.
BLOCK, ROWS, OWN_ROWS = 128, 8, 4
WARPS = 4
STAGES = 3  # two tiles of 4 KiB a program arrive while one is worked on
# Programs for each of 132 multiprocessors to have 16 to itself, four at a time; and the rows over
# which a program's coefficients are read at most: 6 KiB to 256 KiB of points at K = 6.
PROGRAMS, MAX_ROWS = 2112, 256


@triton.constexpr_function
def _root(n):
    return math.sqrt(n)


@triton.jit
def _sqrt(x):
    # tl.sqrt is approximate in single precision, and tl.sqrt_rn has no other.
    return tl.sqrt_rn(x) if x.dtype == tl.float32 else tl.sqrt(x)


@triton.jit
def _ends(ends, column, mask, columns):
    """Centre, scale, low and high of each column."""
    scale = tl.load(ends + columns + column, mask, 1.0)
    low = tl.load(ends + 2 * columns + column, mask, 0.0)
    return (
        tl.load(ends + column, mask, 0.0),
        scale,
        low,
        tl.load(ends + 3 * columns + column, mask, 0.0),
    )


@triton.jit
def _frame(times, row, mask, n_times, centre, scale, low, high):
    """Ends of the interval, middle, inverse scale, and the upper level's share, at rows' times."""
    a = tl.load(times + row, mask, 1.0)
    reach = tl.load(times + n_times + row, mask, 0.0)
    noise = tl.load(times + 2 * n_times + row, mask, 0.0)
    share = tl.load(times + 3 * n_times + row, mask, 0.0)
    inverse = 1.0 / _sqrt(a * a * scale * scale + noise)
    return a * low - reach, a * high + reach, a * centre, inverse, share


@triton.jit
def _coefficients(table, upper, share, column, mask, columns, COUNT: tl.constexpr):
    """``g_0 ... g_{COUNT-1}`` between two levels, as torch.lerp rounds them."""
    found = ()
    below = tl.maximum(upper - 1, 0) * (COUNT * columns) + column
    above = upper * (COUNT * columns) + column
    for n in tl.static_range(COUNT):
        left = tl.load(table + below + n * columns, mask, 0.0)
        right = tl.load(table + above + n * columns, mask, 0.0)
        step = right - left
        near = tl.where(share < 0.5, left + share * step, right - step * (1 - share))
        found += (near,)
    return found


@triton.jit
def _series(u, g, COUNT: tl.constexpr, DERIVATIVES: tl.constexpr):
    """``sum_n g_n phi_n(u)`` and its first two derivatives, those that are asked for."""
    value = g[0] + 0 * u
    slope = 0 * u
    curve = 0 * u
    beneath = 0 * u
    below = 0 * u
    phi = 0 * u + 1
    for n in tl.static_range(1, COUNT):
        beneath = below
        below = phi
        phi = u * below * _root(1 / n) - beneath * _root((n - 1) / n)
        value += g[n] * phi
        if DERIVATIVES > 0:
            slope += g[n] * _root(n) * below
        if DERIVATIVES > 1 and n > 1:
            curve += g[n] * _root(n * (n - 1)) * beneath
    return value, slope, curve


@triton.jit
def score_kernel(
    x, table, upper, times, ends, score, partial,
    rows, columns, chunk, n_times,
    COUNT: tl.constexpr, SHARED: tl.constexpr, DIVERGENCE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Score, and the sum over this program's columns of its derivative, NaN for a bad row.

    ``times`` ``(4, n_times)``: a, reach, 1 - a^2, share. ``ends`` ``(4, columns)``: centre, scale,
    low, high. ``partial`` ``(column blocks, rows)``.
    """
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    there = column < columns
    centre, scale, low, high = _ends(ends, column, there, columns)
    start = tl.program_id(1) * chunk
    end = tl.minimum(start + chunk, rows)
    if SHARED:
        at = tl.zeros([1, 1], tl.int32)
        bottom, top, middle, inverse, share = _frame(
            times, at, at == 0, n_times, centre, scale, low, high
        )
        level = tl.load(upper + at)
        g = _coefficients(table, level, share, column, there, columns, COUNT)
    for begin in tl.range(start, end, ROWS, num_stages=STAGES):
        row = begin + tl.arange(0, ROWS)[:, None]
        here = row < end
        mask = here & there
        z = tl.load(x + row * columns + column, mask, 0.0)
        if not SHARED:
            bottom, top, middle, inverse, share = _frame(
                times, row, here, n_times, centre, scale, low, high
            )
            level = tl.load(upper + row, here, 1)
            g = _coefficients(table, level, share, column, mask, columns, COUNT)
        y = tl.minimum(tl.maximum(z, bottom), top)
        value, slope, _ = _series((y - middle) * inverse, g, COUNT, 1 if DIVERGENCE else 0)
        tl.store(score + row * columns + column, (value - (z - y) * inverse) * inverse, mask)
        if DIVERGENCE:
            slope = tl.where(z == y, slope, -1.0) * inverse * inverse
        slope = tl.where(tl.abs(z) < float("inf"), slope, float("nan"))
        total = tl.sum(tl.where(mask, slope, 0.0), 1, keep_dims=True)
        tl.store(partial + tl.program_id(0) * rows + row, total, here)


@triton.jit
def sum_kernel(partial, total, cell, rows, parts, BLOCK: tl.constexpr):
    """``total`` ``(rows,)``: the sum of ``partial`` ``(parts, rows)``, in order."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = row < rows
    found = tl.zeros([BLOCK], tl.float64)
    for part in range(parts):
        found += tl.load(partial + part * rows + row, mask, 0.0)
    note(cell, row, found)
    tl.store(total + row, found.to(total.dtype.element_ty), mask)


@triton.jit
def gradient_kernel(
    x, table, upper, times, ends, by_score, by_divergence, gradient,
    rows, columns, chunk, n_times,
    COUNT: tl.constexpr, SHARED: tl.constexpr, SCORE: tl.constexpr, DIVERGENCE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """``by_score * ds/dx + by_divergence * d(ds/dx)/dx``, the same layout."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, :]
    there = column < columns
    centre, scale, low, high = _ends(ends, column, there, columns)
    start = tl.program_id(1) * chunk
    end = tl.minimum(start + chunk, rows)
    if SHARED:
        at = tl.zeros([1, 1], tl.int32)
        bottom, top, middle, inverse, share = _frame(
            times, at, at == 0, n_times, centre, scale, low, high
        )
        level = tl.load(upper + at)
        g = _coefficients(table, level, share, column, there, columns, COUNT)
    for begin in tl.range(start, end, ROWS, num_stages=STAGES):
        row = begin + tl.arange(0, ROWS)[:, None]
        here = row < end
        mask = here & there
        z = tl.load(x + row * columns + column, mask, 0.0)
        if not SHARED:
            bottom, top, middle, inverse, share = _frame(
                times, row, here, n_times, centre, scale, low, high
            )
            level = tl.load(upper + row, here, 1)
            g = _coefficients(table, level, share, column, mask, columns, COUNT)
        y = tl.minimum(tl.maximum(z, bottom), top)
        _, slope, curve = _series((y - middle) * inverse, g, COUNT, 2)
        found = 0 * z
        if SCORE:
            above = tl.load(by_score + row * columns + column, mask, 0.0)
            found += above * tl.where(z == y, slope, -1.0) * inverse * inverse
        if DIVERGENCE:
            above = tl.load(by_divergence + row, here, 0.0)
            found += above * tl.where(z == y, curve, 0.0) * inverse * inverse * inverse
        tl.store(gradient + row * columns + column, found, mask)


def forward(
    x: Tensor, ou_time: Tensor, upper: Tensor, share: Tensor, table: Tensor,
    columns: tuple[Tensor, ...], divergence: bool,
) -> tuple[Tensor, Tensor | None, bool]:  # fmt: skip
    """As the twin; the flag says that a row has a number that is not finite."""
    x = x.contiguous()
    score = torch.empty_like(x)
    total = torch.empty(len(x), dtype=x.dtype, device=x.device)
    cell = new_cell(x.device)
    for rows, grid, inputs, numbers, settings in _launches(
        x, ou_time, upper, share, table, columns
    ):
        count = numbers[0]
        partial = torch.empty(grid[0], count, dtype=x.dtype, device=x.device)
        score_kernel[grid](
            x[rows], *inputs, score[rows], partial, *numbers, DIVERGENCE=divergence, **settings
        )
        sum_kernel[(triton.cdiv(count, BLOCK),)](
            partial, total[rows], cell, count, grid[0], BLOCK=BLOCK, num_warps=WARPS
        )
    return score, total if divergence else None, first(cell) is not None


def backward(
    x: Tensor, by_score: Tensor | None, by_divergence: Tensor | None, ou_time: Tensor,
    upper: Tensor, share: Tensor, table: Tensor, columns: tuple[Tensor, ...],
) -> Tensor:  # fmt: skip
    """The product of the gradients, one of which may be None, with the Jacobian."""
    x = x.contiguous()
    gradient = torch.empty_like(x)
    given = [None if g is None else g.contiguous() for g in (by_score, by_divergence)]
    for rows, grid, inputs, numbers, settings in _launches(
        x, ou_time, upper, share, table, columns
    ):
        parts = [x if g is None else g[rows] for g in given]  # x stands for what is not read
        gradient_kernel[grid](
            x[rows], *inputs, *parts, gradient[rows], *numbers,
            SCORE=by_score is not None, DIVERGENCE=by_divergence is not None, **settings,
        )  # fmt: skip
    return gradient


def _launches(
    x: Tensor,
    ou_time: Tensor,
    upper: Tensor,
    share: Tensor,
    table: Tensor,
    columns: tuple[Tensor, ...],
) -> Iterator[tuple[slice, tuple[int, int], tuple, tuple, dict]]:
    """Rows, grid, input tensors, sizes and compile-time settings of each launch."""
    dim, shared = x.shape[1], len(upper) == 1
    block = min(BLOCK, triton.next_power_of_2(dim))
    settings = {
        "COUNT": table.shape[1],
        "SHARED": shared,
        "BLOCK": block,
        "ROWS": (ROWS if shared else OWN_ROWS) * (BLOCK // block),
        "STAGES": STAGES if shared else 1,
        "num_warps": WARPS,
    }
    ou = ou_time.to(x.dtype)  # before it is used, as the twin does
    noise = -torch.expm1(-2 * ou)
    times = torch.stack([torch.exp(-ou), REACH * noise.sqrt(), noise, share.to(ou)]).to(x.device)
    upper, ends = upper.to(x.device, torch.int32), torch.stack(columns)
    for start, end in row_blocks(*x.shape):
        own = slice(0, 1) if shared else slice(start, end)
        blocks = triton.cdiv(dim, block)
        chunk = min(triton.cdiv((end - start) * blocks, PROGRAMS), MAX_ROWS)
        chunk = triton.cdiv(chunk, settings["ROWS"]) * settings["ROWS"]
        inputs = (table.contiguous(), upper[own], times[:, own], ends)
        numbers = (end - start, dim, chunk, times.shape[1])
        yield (
            slice(start, end),
            (blocks, triton.cdiv(end - start, chunk)),
            inputs,
            numbers,
            settings,
        )
