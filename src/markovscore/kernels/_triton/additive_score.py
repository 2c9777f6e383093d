"""Score and divergence of additive OISM in one pass over the points, and their derivative.

A program takes ``BLOCK`` columns and some rows. Where all rows have one time it interpolates the
coefficients of its columns once and keeps them in registers: what it reads and writes for each
element is then ``x`` and the score. Where every row has a time of its own, two levels of the table
are read for each row, ``2 K`` numbers an element; no intermediate ``(K, B, d)`` is made.
"""

# Tuples grow.
# mypy: disable-error-code="assignment"
import math
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..blocks import row_blocks
from ..constants import REACH
from . import on_own_device
from .bad_rows import first, new_cell, note

# A program is one warp, a row of it one load of 16 bytes a thread: then points, coefficients and
# sums over a row share a layout, and nothing goes through shared memory to change it.
ROW_BYTES, WARPS = 512, 1
# 8 elements a thread for the latencies; with times of its own a row brings 2 K loads by itself.
ROWS, OWN_ROWS = 2, 1
STAGES = 4  # three tiles of 1 KiB arrive while one is worked on: with 18 programs 54 KiB
# 48 programs for each of 132 multiprocessors, which run 18 at a time. A program's coefficients are
# 6 KiB at K = 6, its points, read and written, up to 256 KiB.
PROGRAMS, MAX_ROWS = 6336, 256
MAX_GRID = 65_535  # programs in the second direction of a launch: more, and CUDA refuses it
SUM_BLOCK, SUM_WARPS = 128, 4


# Polynomials are carried as c_n He_n, c_n = -c_{n-2} / (n - 1) = (-1)^(n/2) / (n - 1)!!, which
# leaves the recurrence one multiplication and one fused multiply-add.
@triton.constexpr_function
def _ratio(n, m):
    """``c_n / c_{n-m}``."""
    double_factorials = math.prod(range(n - m - 1, 0, -2)) / math.prod(range(n - 1, 0, -2))
    return (-1) ** (n // 2 - (n - m) // 2) * double_factorials


@triton.constexpr_function
def _unit(n):
    """``phi_n`` in units of ``c_n He_n``."""
    return (-1) ** (n // 2) * math.prod(range(n - 1, 0, -2)) / math.sqrt(math.factorial(n))


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
    """Those of ``c_n He_n`` between two levels, interpolated as torch.lerp does."""
    found = ()
    below = tl.maximum(upper - 1, 0) * (COUNT * columns) + column
    above = upper * (COUNT * columns) + column
    for n in tl.static_range(COUNT):
        left = tl.load(table + below + n * columns, mask, 0.0)
        right = tl.load(table + above + n * columns, mask, 0.0)
        step = right - left
        near = tl.where(share < 0.5, left + share * step, right - step * (1 - share))
        found += (near * _unit(n),)
    return found


@triton.jit
def _series(u, g, COUNT: tl.constexpr, DERIVATIVES: tl.constexpr):
    """``sum_n g_n c_n He_n(u)`` and its first two derivatives, those that are asked for."""
    value = tl.broadcast_to(g[0], u.shape)
    slope = tl.zeros_like(u)
    curve = tl.zeros_like(u)
    below = tl.full(u.shape, 1.0, u.dtype)
    now = u
    if COUNT > 1:
        value += g[1] * u
        slope = tl.broadcast_to(g[1], u.shape)
    for n in tl.static_range(2, COUNT):
        beneath = below
        below = now
        now = u * below * _ratio(n, 1) + beneath
        value += g[n] * now
        if DERIVATIVES > 0:
            slope += g[n] * (n * _ratio(n, 1)) * below
        if DERIVATIVES > 1:
            curve += g[n] * (n * (n - 1) * _ratio(n, 2)) * beneath
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
        total = tl.sum(slope, 1, keep_dims=True)  # columns that are not there have slope zero
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
        found = tl.zeros_like(z)
        if SCORE:
            above = tl.load(by_score + row * columns + column, mask, 0.0)
            found += above * tl.where(z == y, slope, -1.0) * inverse * inverse
        if DIVERGENCE:
            above = tl.load(by_divergence + row, here, 0.0)
            found += above * tl.where(z == y, curve, 0.0) * inverse * inverse * inverse
        tl.store(gradient + row * columns + column, found, mask)


@on_own_device
def forward(
    x: Tensor, ou_time: Tensor, upper: Tensor, share: Tensor, table: Tensor,
    columns: tuple[Tensor, ...], divergence: bool,
) -> tuple[Tensor, Tensor | None, bool]:  # fmt: skip
    """As the twin; the flag says that a row has a number that is not finite."""
    x = x.contiguous()
    score = torch.empty_like(x)
    total = torch.empty(len(x), dtype=x.dtype, device=x.device)
    cell = new_cell(x.device)
    for rows, grid, inputs, numbers, settings in launches(x, ou_time, upper, share, table, columns):
        count = numbers[0]
        partial = torch.empty(grid[0], count, dtype=x.dtype, device=x.device)
        score_kernel[grid](
            x[rows], *inputs, score[rows], partial, *numbers, DIVERGENCE=divergence, **settings
        )
        sum_kernel[(triton.cdiv(count, SUM_BLOCK),)](
            partial, total[rows], cell, count, grid[0], BLOCK=SUM_BLOCK, num_warps=SUM_WARPS
        )
    return score, total if divergence else None, first(cell) is not None


@on_own_device
def backward(
    x: Tensor, by_score: Tensor | None, by_divergence: Tensor | None, ou_time: Tensor,
    upper: Tensor, share: Tensor, table: Tensor, columns: tuple[Tensor, ...],
) -> Tensor:  # fmt: skip
    """The product of the gradients, one of which may be None, with the Jacobian."""
    x = x.contiguous()
    gradient = torch.empty_like(x)
    given = [None if g is None else g.contiguous() for g in (by_score, by_divergence)]
    for rows, grid, inputs, numbers, settings in launches(x, ou_time, upper, share, table, columns):
        parts = [x if g is None else g[rows] for g in given]  # x stands for what is not read
        gradient_kernel[grid](
            x[rows], *inputs, *parts, gradient[rows], *numbers,
            SCORE=by_score is not None, DIVERGENCE=by_divergence is not None, **settings,
        )  # fmt: skip
    return gradient


def launches(
    x: Tensor,
    ou_time: Tensor,
    upper: Tensor,
    share: Tensor,
    table: Tensor,
    columns: tuple[Tensor, ...],
) -> Iterator[tuple[slice, tuple[int, int], tuple, tuple, dict]]:
    """Rows, grid, input tensors, sizes and compile-time settings of each launch."""
    dim, shared = x.shape[1], len(upper) == 1
    most = ROW_BYTES // x.element_size()
    block = min(most, triton.next_power_of_2(dim))
    settings = {
        "COUNT": table.shape[1],
        "SHARED": shared,
        "BLOCK": block,
        "ROWS": (ROWS if shared else OWN_ROWS) * (most // block),
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
        chunk = max(chunk, triton.cdiv(end - start, MAX_GRID))
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
