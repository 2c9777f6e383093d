"""Gradient and Laplacian on the torus: see ``markovscore.kernels.torus_score``.

Instructions for a point, with 200 (600) functions of two coordinates: a half disc of 100 (300)
waves is 50 (150) mirror pairs in 9 (14) rows. This form: 18 a pair and, loads and loop shared by
four points, 21.5 compiled, 37 a row and 100 for the rest: 1,500 (3,800). Complex Horner sums for a
value and two derivatives: 24 a pair. The dense square of the separable products, 72 (182) pairs:
12 each on coefficients that are already scaled, which are three times the loads, and 4 to turn.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..blocks import row_blocks
from ..constants import MAX_COORDINATE
from ..torus_plan import Plan
from . import bad_rows, on_own_device

# Four points a thread share each loaded coefficient (18 operations a point for four loads); fewer
# where the grid would not fill the GPU, or registers: float64 takes two each.
_THREADS = 128
_FEW_POINTS = 2**17
_LIMIT = tl.constexpr(MAX_COORDINATE)
_TWO_OVER_PI = tl.constexpr(2 / math.pi)
# pi/2 in two parts; the first has 33 bits, so its product with a turn count below 2^20 is exact.
_HALF_PI = tl.constexpr(math.floor(math.pi / 2 * 2**32) / 2**32)
_HALF_PI_REST = tl.constexpr(6.077100506506192e-11)


@triton.jit
def _inverse(n: tl.constexpr, dtype: tl.constexpr):
    """``1 / (n (n + 1))``, a constant of that type."""
    return tl.full([], 1.0 / (n * (n + 1)), dtype)


@triton.jit
def _sin_cos(x):
    """Sine and cosine of ``x``, NaN beyond the limit; Taylor series on ``[-pi/4, pi/4]``.

    The compiler's own have a slow branch for large angles that spills to memory. The reduction is
    in float64 for both types. First terms left out: ``r^19/19!``, ``r^18/18!`` (float64).
    """
    wide = x.to(tl.float64)
    usable = tl.abs(wide) <= _LIMIT
    wide = tl.where(usable, wide, 0.0)
    turns = tl.floor(wide * tl.full([], _TWO_OVER_PI, tl.float64) + 0.5)
    wide = wide - turns * tl.full([], _HALF_PI, tl.float64)
    r = (wide - turns * tl.full([], _HALF_PI_REST, tl.float64)).to(x.dtype)
    quarter = turns.to(tl.int32) & 3
    square = -r * r
    one = tl.full([], 1.0, x.dtype)
    sine, cosine = one, one
    terms: tl.constexpr = 8 if x.dtype == tl.float64 else 5
    for i in tl.static_range(terms):
        # 1 - r^2 / (n (n -+ 1)) (...), n = 2 (terms - i)
        cosine = 1.0 + square * (cosine * _inverse(2 * (terms - i) - 1, x.dtype))
        sine = 1.0 + square * (sine * _inverse(2 * (terms - i), x.dtype))
    sine = sine * r
    swap = (quarter & 1) == 1
    s, c = tl.where(swap, cosine, sine), tl.where(swap, sine, cosine)
    s = tl.where(quarter >= 2, -s, s)
    c = tl.where((quarter == 1) | (quarter == 2), -c, c)
    return tl.where(usable, s, float("nan")), tl.where(usable, c, float("nan"))


@triton.jit
def _number(at, below, share, EACH: tl.constexpr):
    """One number of the table; ``below`` is how far the row of the earlier time stands before."""
    value = tl.load(at)
    if EACH:
        earlier = tl.load(at - below)
        value = earlier + share * (value - earlier)
    return value


@triton.jit
def _inner(at, below, share, top, c1, s1, EACH: tl.constexpr, BOTH: tl.constexpr):
    """Value, first and (negative) second derivative in the last coordinate of the two sums of a
    row: ``p cos + q sin`` and ``r cos + s sin``; without ``BOTH`` the second is left out."""
    zero = tl.zeros_like(c1)
    p0 = zero + _number(at, below, share, EACH)
    r0, p1, r1, p2, r2 = zero, zero, zero, zero, zero
    if BOTH:
        r0 += _number(at + 2, below, share, EACH)
    c, s = zero + 1.0, zero
    k = tl.full([], 0.0, c1.dtype)
    for _ in range(top):
        at += 4
        k += 1.0
        c, s = c * c1 - s * s1, s * c1 + c * s1
        p, q = _number(at, below, share, EACH), _number(at + 1, below, share, EACH)
        even = p * c + q * s
        p0 += even
        p1 += k * (q * c - p * s)
        p2 += k * k * even
        if BOTH:
            r, t = _number(at + 2, below, share, EACH), _number(at + 3, below, share, EACH)
            even = r * c + t * s
            r0 += even
            r1 += k * (t * c - r * s)
            r2 += k * k * even
    return p0, r0, p1, r1, p2, r2


@triton.jit
def _row(
    table, offsets, tops, row, share, below, c1, s1, c, s, k_1, k_2,
    g_1, g_2, g_last, laplacian, EACH: tl.constexpr, BOTH: tl.constexpr,
):  # fmt: skip
    """Add a row, whose outer wave is ``c + i s``, to the sums."""
    top = tl.load(tops + row)
    if top >= 0:
        at = table + 4 * tl.load(offsets + row)
        p0, r0, p1, r1, p2, r2 = _inner(at, below, share, top, c1, s1, EACH, BOTH)
        across = c * r0 - s * p0
        square = k_1 * k_1 + k_2 * k_2
        g_1 += k_1 * across
        g_2 += k_2 * across
        g_last += c * p1 + s * r1
        laplacian -= c * (p2 + square * p0) + s * (r2 + square * r0)
    return g_1, g_2, g_last, laplacian


@triton.jit
def _point(x, row, inside, DIM: tl.constexpr, AXIS: tl.constexpr):
    return _sin_cos(tl.load(x + row * DIM + AXIS, mask=inside, other=0.0))


@triton.jit
def kernel(
    x, table, offsets, tops, upper, share, gradient, laplacian, bad, n, stride, reach_1, reach_2,
    DIM: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One block of points; outer loops over the rows of the plan, a point stays in its thread."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < n
    sin, cos = _point(x, row, inside, DIM, DIM - 1)
    part = tl.zeros_like(cos)
    if EACH:
        table += tl.load(upper + row, mask=inside, other=1) * stride
        part = tl.load(share + row, mask=inside, other=0.0)
    zero = tl.zeros_like(cos)
    g_1, g_2, g_last, total = zero, zero, zero, zero
    c, s, c_1, s_1 = zero + 1.0, zero, zero + 1.0, zero
    if DIM > 1:
        s_1, c_1 = _point(x, row, inside, DIM, 0)
    c_2, s_2 = c, s
    if DIM > 2:
        s_2, c_2 = _point(x, row, inside, DIM, 1)
    k_1 = tl.full([], 0.0, cos.dtype)
    for i in range(reach_1 + 1):
        first = 2 * i * (reach_2 + 1)
        if DIM < 3:
            g_1, g_2, g_last, total = _row(
                table, offsets, tops, first, part, stride, cos, sin, c, s, k_1, k_1 * 0.0,
                g_1, g_2, g_last, total, EACH, DIM > 1,
            )  # fmt: skip
        else:
            c_up, s_up, c_down, s_down = c, s, c, s
            k_2 = tl.full([], 0.0, cos.dtype)
            for j in range(reach_2 + 1):
                g_1, g_2, g_last, total = _row(
                    table, offsets, tops, first + 2 * j, part, stride, cos, sin, c_up, s_up, k_1,
                    k_2, g_1, g_2, g_last, total, EACH, DIM > 1,
                )  # fmt: skip
                g_1, g_2, g_last, total = _row(
                    table, offsets, tops, first + 2 * j + 1, part, stride, cos, sin, c_down, s_down,
                    k_1, -k_2, g_1, g_2, g_last, total, EACH, DIM > 1,
                )  # fmt: skip
                c_up, s_up = c_up * c_2 - s_up * s_2, s_up * c_2 + c_up * s_2
                c_down, s_down = c_down * c_2 + s_down * s_2, s_down * c_2 - c_down * s_2
                k_2 += 1.0
        c, s = c * c_1 - s * s_1, s * c_1 + c * s_1
        k_1 += 1.0
    to = gradient + row * DIM
    tl.store(to + DIM - 1, g_last, mask=inside)
    if DIM > 1:
        tl.store(to, g_1, mask=inside)
    if DIM > 2:
        tl.store(to + 1, g_2, mask=inside)
    tl.store(laplacian + row, total, mask=inside)
    size = tl.abs(g_1) + tl.abs(g_2) + tl.abs(g_last) + tl.abs(total)
    bad_rows.note(bad, row, tl.where(inside, size, 0.0))


@on_own_device
def launch(
    x: Tensor, table: Tensor, plan: Plan, upper: Tensor | None, share: Tensor | None
) -> tuple[Tensor, Tensor, int | None]:
    """Gradient, Laplacian and the first row that is not finite."""
    gradient = torch.empty_like(x)
    laplacian = torch.empty(len(x), dtype=x.dtype, device=x.device)
    each = upper is not None
    block = block_size(len(x), x.dtype, each)
    for first, last in row_blocks(len(x), x.shape[1]):
        rows, cell = slice(first, last), bad_rows.new_cell(x.device)
        kernel[(triton.cdiv(last - first, block),)](
            x[rows], table, plan.offsets, plan.tops,
            plan.offsets if upper is None else upper[rows],
            table if share is None else share[rows],
            gradient[rows], laplacian[rows], cell, last - first, plan.size, *plan.reach,
            DIM=x.shape[1], EACH=each, BLOCK=block, num_warps=_THREADS // 32,
        )  # fmt: skip
        found = bad_rows.first(cell)
        if found is not None:
            return gradient, laplacian, first + found
    return gradient, laplacian, None


def block_size(n: int, dtype: torch.dtype, each: bool) -> int:
    """Points a program takes."""
    few = each or n < _FEW_POINTS
    return _THREADS * (1 if few else 4 if dtype == torch.float32 else 2)
