"""Sums of normalised Hermite polynomials over rows: one pass, then the sum of the partial sums.

The pass adds powers of ``u`` in double precision, not the polynomials. Every power up to ``degree``
is a product of two of few: the odd ones up to half of it, and one even. So a degree costs one fused
multiply-add, 15 double operations an element at degree 10 and 22 at degree 16, where the three-term
recurrence takes 28 and 46 and an H200 does about 17 while it reads a float32. The powers become
polynomials once a program. For a Gaussian the terms of ``phi_n`` sum, without their signs, to
``sqrt(n!) / (n/2)!``, 113 at degree 16: that many roundings of 1e-16 are lost, and a moment matrix
stays one of points, as it would not in single precision.
"""

# Tuples grow.
# mypy: disable-error-code="assignment,misc"
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core import remembered
from ..blocks import row_blocks
from . import on_own_device
from .bad_rows import first, new_cell, note

BLOCK = 128  # columns of a program, one for each thread, whose registers hold that column's sums
WARPS = 4
# Rows loaded at a time, and how many such loads a program has under way, the one that it works on
# with them: left alone, the compiler would load a row shortly before its use. Five programs on a
# multiprocessor then wait for 60 KiB; 4.8 TB/s at 0.7 us over 132 multiprocessors need 25.
UNROLL, STAGES = 8, 4
# One wave of 5 programs (at most 102 registers a thread) on each of 132 multiprocessors.
PROGRAMS = 660
# A program writes (degree + 2) * 8 bytes a column: 1% of what it reads at MAX_ROWS and degree 16.
# More rows would leave multiprocessors idle at the end, fewer would not fill UNROLL.
MIN_ROWS, MAX_ROWS = 64, 4096
SUM_ROWS, SUM_BLOCK = 16, 64  # of the sum of the partial sums: 8 loads a thread at a time


@triton.constexpr_function
def _factor(n, half):
    """``i`` such that ``u^n = u^i u^(n-i)``, both among the odd powers and the largest even one."""
    if n % 2 == 1:
        return half - half % 2
    i = n // 2 - (n // 2 + 1) % 2
    return i if n - i <= half else n // 2


@triton.jit
def _add(sums, value, inverse, shift, DEGREE: tl.constexpr):
    """``sums`` with the powers 1 ... DEGREE of ``u = value * inverse + shift`` added."""
    HALF: tl.constexpr = (DEGREE + 1) // 2
    u = tl.fma(value.to(tl.float64), inverse, shift)
    square = u * u
    powers = (u, square)  # those of no use below are never computed
    for n in tl.static_range(3, HALF + 1):
        if n % 2 == 1:
            powers += (powers[n - 3] * square,)
        else:
            powers += (powers[n - 2] * u,)
    added = ()
    for n in tl.static_range(1, DEGREE + 1):
        if n % 2 == 1 and n <= HALF:
            added += (sums[n - 1] + powers[n - 1],)
        else:
            one, other = powers[_factor(n, HALF) - 1], powers[n - _factor(n, HALF) - 1]
            added += (tl.fma(one, other, sums[n - 1]),)
    return added


@triton.jit
def partial_sums(
    x, centre, scale, table, sums, lows, highs, cell,
    rows, rest, width, columns, chunk, first_program, n_programs,
    DEGREE: tl.constexpr, UNROLL: tl.constexpr, STAGES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums and range of ``chunk`` of the ``rows`` rows of ``width`` numbers, ``BLOCK`` columns.

    ``rest`` numbers, less than a row, follow the last row; the last program takes them.
    """
    program = tl.program_id(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    inverse = tl.full([BLOCK], 1.0, tl.float64) / tl.load(scale + column % columns)
    shift = -tl.load(centre + column % columns) * inverse
    low = tl.full([BLOCK], float("inf"), x.dtype.element_ty)
    high = -low
    total = ()
    for _ in tl.static_range(DEGREE):
        total += (tl.zeros([BLOCK], tl.float64),)
    start = program * chunk
    end = tl.minimum(start + chunk, rows)
    whole = start + (end - start) // UNROLL * UNROLL
    for row in tl.range(start, whole, UNROLL, num_stages=STAGES):
        values = ()
        for i in tl.static_range(UNROLL):
            values += (tl.load(x + (row + i) * width + column, mask=inside, other=0.0),)
        for i in tl.static_range(UNROLL):
            total = _add(total, values[i], inverse, shift, DEGREE)
            low = tl.minimum(low, values[i])
            high = tl.maximum(high, values[i])
    for row in range(whole, end):
        value = tl.load(x + row * width + column, mask=inside, other=0.0)
        total = _add(total, value, inverse, shift, DEGREE)
        low = tl.minimum(low, value)
        high = tl.maximum(high, value)
    count = (end - start + 0 * column).to(tl.float64)
    if program == tl.num_programs(1) - 1:
        last = column < rest
        value = tl.load(x + rows * width + column, mask=last, other=0.0)
        added = _add(total, value, inverse, shift, DEGREE)
        kept = ()
        for n in tl.static_range(DEGREE):
            kept += (tl.where(last, added[n], total[n]),)
        total = kept
        count = tl.where(last, count + 1, count)
        low = tl.where(last, tl.minimum(low, value), low)
        high = tl.where(last, tl.maximum(high, value), high)
    # A sum shows what a look at every number would; the row is sought if there is one.
    note(cell, start + 0 * column, tl.where(inside, total[0], 0.0))
    place = (first_program + program) * width + column
    tl.store(lows + place, low, mask=inside)
    tl.store(highs + place, high, mask=inside)
    for n in tl.static_range(1, DEGREE + 1):
        weights = table + n * (DEGREE + 1)
        polynomial = tl.load(weights) * count
        for k in tl.static_range(2 - n % 2, n + 1, 2):
            polynomial += tl.load(weights + k) * total[k - 1]
        tl.store(sums + (n - 1) * n_programs * width + place, polynomial, mask=inside)


@triton.jit
def combine(
    partial, lows, highs, sums, low, high, points, parts, columns,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum over ``parts`` in a fixed order: degree ``program_id(1)``, whose zeroth has the range."""
    n = tl.program_id(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    part = tl.arange(0, ROWS)[:, None]
    if n == 0:
        smallest = tl.full([ROWS, BLOCK], float("inf"), lows.dtype.element_ty)
        largest = -smallest
        for begin in range(0, parts, ROWS):
            place = (begin + part) * columns + column[None, :]
            mask = (begin + part < parts) & inside[None, :]
            smallest = tl.minimum(smallest, tl.load(lows + place, mask, float("inf")))
            largest = tl.maximum(largest, tl.load(highs + place, mask, -float("inf")))
        tl.store(low + column, tl.min(smallest, 0), mask=inside)
        tl.store(high + column, tl.max(largest, 0), mask=inside)
        tl.store(sums + column, tl.zeros([BLOCK], tl.float64) + points, mask=inside)
    else:
        total = tl.zeros([ROWS, BLOCK], tl.float64)
        for begin in range(0, parts, ROWS):
            place = ((n - 1) * parts + begin + part) * columns + column[None, :]
            mask = (begin + part < parts) & inside[None, :]
            total += tl.load(partial + place, mask, 0.0)
        tl.store(sums + n * columns + column, tl.sum(total, 0), mask=inside)


@on_own_device
def hermite_moments(
    x: Tensor, degree: int, centre: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """As the twin; the flag says that a sum is not finite."""
    n_points, columns = x.shape
    # Narrow rows are read side by side, so that every thread has a column.
    width = columns * max(1, BLOCK // columns)
    blocks = row_blocks(n_points, columns)
    plans = [_plan((end - start) * columns, width) for start, end in blocks]
    n_programs = sum(programs for *_, programs in plans)
    used = max(degree, 1)  # the first power shows what is not finite
    partial = torch.empty(used, n_programs, width, dtype=torch.float64, device=x.device)
    lows, highs = torch.empty(2, n_programs, width, dtype=x.dtype, device=x.device)
    cell = new_cell(x.device)
    table, begin = _table(used, x.device), 0
    for (start, _), (rows, rest, chunk, programs) in zip(blocks, plans, strict=True):
        partial_sums[(triton.cdiv(width, BLOCK), programs)](
            x[start:], centre, scale, table, partial, lows, highs, cell,
            rows, rest, width, columns, chunk, begin, n_programs,
            DEGREE=used, UNROLL=UNROLL, STAGES=STAGES, BLOCK=BLOCK, num_warps=WARPS,
        )  # fmt: skip
        begin += programs
    sums = torch.empty(used + 1, columns, dtype=torch.float64, device=x.device)
    low, high = torch.empty(2, columns, dtype=x.dtype, device=x.device)
    combine[(triton.cdiv(columns, SUM_BLOCK), used + 1)](
        partial, lows, highs, sums, low, high, n_points, n_programs * (width // columns), columns,
        ROWS=SUM_ROWS, BLOCK=SUM_BLOCK, num_warps=WARPS,
    )  # fmt: skip
    return sums[: degree + 1], low, high, first(cell) is not None


def _plan(elements: int, width: int) -> tuple[int, int, int, int]:
    """Rows of ``width``, elements left over, rows for a program, programs."""
    rows, rest = divmod(elements, width)
    wave = max(1, PROGRAMS // triton.cdiv(width, BLOCK))
    chunk = min(max(triton.cdiv(rows, wave), MIN_ROWS), MAX_ROWS)
    chunk = triton.cdiv(chunk, UNROLL) * UNROLL
    return rows, rest, chunk, max(1, triton.cdiv(rows, chunk))


@remembered
def _table(degree: int, device: torch.device) -> Tensor:
    """Coefficients of ``u^k`` in ``phi_n``, ``(degree + 1, degree + 1)``, rounded once."""
    table = torch.zeros(degree + 1, degree + 1, dtype=torch.float64)
    for n in range(degree + 1):
        for m in range(n // 2 + 1):
            k = n - 2 * m
            share = math.factorial(n) / (2**m * math.factorial(m) * math.factorial(k))
            table[n, k] = (-1) ** m * share / math.sqrt(math.factorial(n))
    return table.to(device)
