"""Local transitions of linearised processes: the kernel of ``markovscore.kernels``.

All in float64, whatever comes in: the smallest entries of ``P`` for a short window and noise on one
coordinate are ``h^(2d - 1)`` of the largest, beyond float32. Sums of series are Horner's, so that
each holds one matrix.
"""

# mypy: disable-error-code="assignment, var-annotated"
# ruff: noqa: RUF005, SIM108 (Triton knows neither stars in a tuple nor tuples from a ternary)

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..blocks import row_blocks
from . import bad_rows, on_own_device
from .small_matrices import (
    added,
    chosen,
    halved,
    halvings,
    layout,
    matrix_index,
    norm,
    pinned,
    plus_identity,
    product,
    read,
    row_index,
    scaled,
    taken,
    transposed,
    write,
    zero_if_finite,
)

THREADS = 128
# The series are summed for norms up to 1/2: terms of e^A, and of the covariance, whose map
# X -> A X + X A^T has twice the norm; (1/2)^14 / 14! and 1 / 19! are below 1e-17 of the first.
TERMS, COVARIANCE_TERMS = 14, 19


def constants(d: int) -> dict[str, int]:
    """Threads that share a matrix: one holds up to 16 numbers of each of four matrices."""
    return layout(d, 1 if d <= 4 else 4, THREADS)


@triton.jit
def _double(x):
    out = ()
    for i in tl.static_range(len(x)):
        out = out + (x[i].to(tl.float64),)
    return out


@triton.jit
def _zeros(x):
    out = ()
    for i in tl.static_range(len(x)):
        out = out + (tl.zeros_like(x[i]),)
    return out


@triton.jit
def _mean(a, f, slope, h, coefficients, SLOPE: tl.constexpr, TERMS: tl.constexpr,
          N: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr):  # fmt: skip
    """``h sum A^k f / (k+1)! + h^2 sum A^k f' / (k+2)!`` and ``h sum A^k f' / (k+1)!``."""
    shift, ramp, second = f, slope, slope
    for step in range(TERMS - 1):
        k = TERMS - step
        c = tl.load(coefficients + k)
        shift = added(f, scaled(product(a, shift, N, 1, ROWS, SPLIT), c))
        if SLOPE:
            ramp = added(slope, scaled(product(a, ramp, N, 1, ROWS, SPLIT), c))
            c = tl.load(coefficients + k + 1)
            second = added(slope, scaled(product(a, second, N, 1, ROWS, SPLIT), c))
    shift, ramp = scaled(shift, h), scaled(ramp, h)
    if SLOPE:
        shift = added(shift, scaled(second, h * h * tl.load(coefficients + 2)))
    return shift, ramp


@triton.jit
def _covariance(a, q, scale, coefficients, TERMS: tl.constexpr, MATRIX: tl.constexpr,
                N: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr,
                BLOCK: tl.constexpr):  # fmt: skip
    """``sum_k L^k Q h / (k+1)!`` for ``L X = A X + X A^T``; ``Q h`` is ``q`` or ``scale I``."""
    total = q
    if not MATRIX:
        total = plus_identity(q, scale, N, ROWS, SPLIT, BLOCK)
    for step in range(TERMS - 1):
        half = product(a, total, N, N, ROWS, SPLIT)
        total = added(half, transposed(half, N, ROWS, SPLIT))
        total = scaled(total, tl.load(coefficients + TERMS - step))
        if MATRIX:
            total = added(total, q)
        else:
            total = plus_identity(total, scale, N, ROWS, SPLIT, BLOCK)
    return total


@triton.jit
def _congruence(x, y, half, N: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr):
    """``X Y X^T``, symmetric to the last bit."""
    outer = transposed(product(x, y, N, N, ROWS, SPLIT), N, ROWS, SPLIT)
    outer = product(x, outer, N, N, ROWS, SPLIT)
    return scaled(added(outer, transposed(outer, N, ROWS, SPLIT)), half)


@triton.jit
def _factor(p, singular, N: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr,
            BLOCK: tl.constexpr):  # fmt: skip
    """Lower ``C`` with ``C C^T = P``, and the first coordinate without noise of its own, or ``N``.

    Columns from the left; the entries above the diagonal are left at zero.
    """
    columns, silent = (), tl.full(p[0].shape, N, tl.int32)
    for j in tl.static_range(N):
        column = ()
        for i in tl.static_range(ROWS):
            left = p[i * N + j]
            for k in tl.static_range(j):
                left -= columns[k * ROWS + i] * taken(
                    columns[k * ROWS + j % ROWS], j // ROWS, SPLIT
                )
            column = column + (left,)
        pivot = taken(column[j % ROWS], j // ROWS, SPLIT)
        variance = taken(p[(j % ROWS) * N + j], j // ROWS, SPLIT)
        silent = tl.where((silent == N) & ~(pivot > singular * variance), j, silent)
        root = tl.sqrt(pivot)
        for i in tl.static_range(ROWS):
            entry = column[i] / root
            columns = columns + (tl.where(row_index(i, BLOCK, ROWS, SPLIT) >= j, entry, 0.0),)
    out = ()
    for i in tl.static_range(ROWS):
        for j in tl.static_range(N):
            out = out + (columns[j * ROWS + i],)
    return out, silent


@triton.jit
def _target(c, z, N: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr):
    """``-C^{-T} z``: from the last row up, all of it in every thread, then a thread's own rows."""
    left, solved = (), ()
    for j in tl.static_range(N):
        left = left + (-taken(z[j % ROWS], j // ROWS, SPLIT),)
    for j in tl.static_range(N - 1, -1, -1):
        entry = left[j] / taken(c[(j % ROWS) * N + j], j // ROWS, SPLIT)
        solved = (entry,) + solved
        rest = ()
        for k in tl.static_range(j):
            rest = rest + (left[k] - taken(c[(j % ROWS) * N + k], j // ROWS, SPLIT) * entry,)
        left = rest
    out = ()
    for i in tl.static_range(ROWS):
        own = solved[i]
        for s in tl.static_range(1, SPLIT):
            if s * ROWS + i < N:
                own = tl.where(
                    row_index(i, BLOCK, ROWS, SPLIT) == s * ROWS + i, solved[s * ROWS + i], own
                )
        out = out + (own,)
    return out


@triton.jit
def transition_kernel(
    jacobian, noise, force, force_slope, length, normal, start, mean, covariance, factor, sample,
    target, silent, coefficients, cells, first, rows,
    NOISE: tl.constexpr, SLOPE: tl.constexpr, DRAW: tl.constexpr,
    TERMS: tl.constexpr, COVARIANCE_TERMS: tl.constexpr,
    N: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """See :func:`markovscore.kernels.local_transition.local_transition`.

    ``NOISE``: 0, 1 a number, for all or for each; 2, 3 a matrix, likewise. ``coefficients``: the
    bound of a silent pivot, ``1 / k`` from ``k = 1``; and at the end 1/2 and ``1 / theta``.
    """
    index = matrix_index(BLOCK, SPLIT)
    exists = index < rows
    a = _double(read(jacobian, rows, N * N, N, N, ROWS, SPLIT, BLOCK))
    f = _double(read(force, rows, N, N, 1, ROWS, SPLIT, BLOCK))
    slope = f
    if SLOPE:
        slope = _double(read(force_slope, rows, N, N, 1, ROWS, SPLIT, BLOCK))
    # Pinned: else the matrices would take the layout that the lengths are read in, and back.
    h = pinned((tl.load(length + index, mask=exists, other=0.0).to(tl.float64),))[0]
    a = scaled(a, h)
    half = tl.load(coefficients + COVARIANCE_TERMS + 1)
    times = halvings(norm(a, N, ROWS, SPLIT) * tl.load(coefficients + COVARIANCE_TERMS + 2))
    a, h = halved(a, times), halved((h,), times)[0]
    q, scale = _zeros(a), h
    if NOISE == 0:
        scale = h * tl.load(noise).to(tl.float64)
    elif NOISE == 1:
        numbers = tl.load(noise + index, mask=exists, other=0.0).to(tl.float64)
        scale = h * pinned((numbers,))[0]
    else:
        STEP: tl.constexpr = N * N if NOISE == 3 else 0
        q = scaled(_double(read(noise, rows, STEP, N, N, ROWS, SPLIT, BLOCK)), h)
    shift, ramp = _mean(a, f, slope, h, coefficients, SLOPE, TERMS, N, ROWS, SPLIT)
    p = _covariance(
        a, q, scale, coefficients, COVARIANCE_TERMS, NOISE > 1, N, ROWS, SPLIT, BLOCK
    )  # fmt: skip
    doublings = tl.max(times)
    growth = plus_identity(_zeros(a), tl.load(coefficients + 1), N, ROWS, SPLIT, BLOCK)
    for step in range(tl.where(doublings > 0, TERMS, 0)):
        growth = scaled(product(a, growth, N, N, ROWS, SPLIT), tl.load(coefficients + TERMS - step))
        growth = plus_identity(growth, tl.load(coefficients + 1), N, ROWS, SPLIT, BLOCK)
    for step in range(doublings):
        on = step < times
        p = chosen(on, added(p, _congruence(growth, p, half, N, ROWS, SPLIT)), p)
        grown = added(shift, product(growth, shift, N, 1, ROWS, SPLIT))
        if SLOPE:
            grown = added(grown, scaled(ramp, h))
            longer = added(ramp, product(growth, ramp, N, 1, ROWS, SPLIT))
            ramp = chosen(on, longer, ramp)
            h = tl.where(on, h + h, h)
        shift = chosen(on, grown, shift)
        growth = chosen(on, product(growth, growth, N, N, ROWS, SPLIT), growth)
    bad_rows.note(cells, first + index, zero_if_finite(p) + zero_if_finite(shift))
    write(covariance, p, rows, N, N, ROWS, SPLIT, BLOCK)
    m = added(shift, _double(read(start, rows, N, N, 1, ROWS, SPLIT, BLOCK)))
    write(mean, m, rows, N, 1, ROWS, SPLIT, BLOCK)
    if DRAW:
        c, axis = _factor(p, tl.load(coefficients), N, ROWS, SPLIT, BLOCK)
        z = _double(read(normal, rows, N, N, 1, ROWS, SPLIT, BLOCK))
        write(factor, c, rows, N, N, ROWS, SPLIT, BLOCK)
        y = added(m, product(c, z, N, 1, ROWS, SPLIT))
        write(sample, y, rows, N, 1, ROWS, SPLIT, BLOCK)
        x = _target(c, z, N, ROWS, SPLIT, BLOCK)
        write(target, x, rows, N, 1, ROWS, SPLIT, BLOCK)
        wanting = tl.where(exists & (axis < N), float("nan"), 0.0)
        bad_rows.note(cells + 1, first + index, wanting)
        tl.store(silent + index, axis, mask=exists)


@on_own_device
def local_transition(
    J: Tensor, Q: Tensor, f: Tensor, f_dot: Tensor | None, h: Tensor, y: Tensor, z: Tensor | None,
    singular: float,
) -> tuple[list[Tensor], int | None, tuple[int, int] | None]:  # fmt: skip
    """Outputs, the first row that is not finite, the first silent row and its coordinate.

    All contiguous and on one device; the outputs are mean, covariance and, with ``z``, factor,
    sample and target.
    """
    rows, d = f.shape
    outputs = [f.new_empty(shape, dtype=torch.float64) for shape in ((rows, d), (rows, d, d))]
    silent = torch.empty(rows, dtype=torch.int32, device=f.device)
    if z is not None:
        outputs += [torch.empty_like(outputs[1]), torch.empty_like(y), torch.empty_like(y)]
    noise = (0 if Q.ndim == 0 else 1) if Q.ndim < 2 else Q.ndim
    # A coordinate that the noise reaches through j others starts at term 2 j, see core.linear.
    terms = COVARIANCE_TERMS + (2 * d - 2 if noise > 1 else 0)
    table = [singular, *(1 / k for k in range(1, terms + 1)), 0.5, 2.0]
    coefficients = torch.tensor(table, dtype=torch.float64, device=f.device)
    cells = torch.cat([bad_rows.new_cell(f.device)] * 2)
    meta = constants(d)
    matrices = meta["BLOCK"] * (2 if meta["SPLIT"] == 1 else 1)
    for first, last in row_blocks(rows, d * d):
        part = slice(first, last)
        each = (J, Q if noise in (1, 3) else None, f, f_dot, h, z, y)
        inputs = [x if x is None else x[part] for x in each]
        inputs[1] = Q if inputs[1] is None else inputs[1]
        made = [*(x[part] for x in outputs), *[None] * (5 - len(outputs))]
        transition_kernel[(triton.cdiv(last - first, matrices),)](
            *inputs, *made, silent[part], coefficients, cells, first, last - first,
            NOISE=noise, SLOPE=f_dot is not None, DRAW=z is not None,
            TERMS=TERMS, COVARIANCE_TERMS=terms, num_warps=THREADS // 32, **meta,
        )  # fmt: skip
    infinite, singular_row = bad_rows.first(cells[:1]), bad_rows.first(cells[1:])
    place = None if singular_row is None else (singular_row, int(silent[singular_row]))
    return outputs, infinite, place
