"""Exponentials of small matrices: the kernel of ``markovscore.kernels.expm``."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core import remembered
from ..blocks import row_blocks
from ..constants import THETA
from . import bad_rows, on_own_device
from .small_matrices import (
    added,
    chosen,
    halved,
    halvings,
    layout,
    matrix_index,
    norm,
    plus_identity,
    product,
    read,
    scaled,
    write,
    zero_if_finite,
)

THREADS = 128
DEGREE = {torch.float32: 9, torch.float64: 15}  # of the Taylor polynomial


def constants(n: int, dtype: torch.dtype) -> dict[str, int]:
    """Threads that share a matrix, so that three of them fit in the registers of a thread."""
    if n <= 4:
        split = 1
    elif n <= 8:
        split = 2 if dtype == torch.float32 else 4
    else:
        split = 8 if dtype == torch.float32 else 16
    return layout(n, split, THREADS)


@triton.jit
def expm_kernel(
    source, target, coefficients, cell, first, rows, PAIRS: tl.constexpr,
    N: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``sum_k A^k / k!`` up to ``k = 2 PAIRS + 1`` of ``A / 2^s``, squared ``s`` times.

    ``coefficients``: 1 / theta, then ``1 / k!`` from the highest ``k`` down.
    """
    a = read(source, rows, N * N, N, N, ROWS, SPLIT, BLOCK)
    times = halvings(norm(a, N, ROWS, SPLIT) * tl.load(coefficients))
    a = halved(a, times)
    square = product(a, a, N, N, ROWS, SPLIT)
    x = scaled(a, tl.load(coefficients + 1))
    x = plus_identity(x, tl.load(coefficients + 2), N, ROWS, SPLIT, BLOCK)
    for pair in range(1, PAIRS + 1):
        x = product(square, x, N, N, ROWS, SPLIT)
        x = added(x, scaled(a, tl.load(coefficients + 2 * pair + 1)))
        x = plus_identity(x, tl.load(coefficients + 2 * pair + 2), N, ROWS, SPLIT, BLOCK)
    for step in range(tl.max(times)):
        x = chosen(step < times, product(x, x, N, N, ROWS, SPLIT), x)
    bad_rows.note(cell, first + matrix_index(BLOCK, SPLIT), zero_if_finite(x))
    write(target, x, rows, N, N, ROWS, SPLIT, BLOCK)


@on_own_device
def expm(A: Tensor) -> tuple[Tensor, int | None]:
    """``exp(A)`` and the first row that is not finite; ``A`` ``(B, n, n)`` contiguous, n >= 2."""
    count, n = len(A), A.shape[1]
    result, cell = torch.empty_like(A), bad_rows.new_cell(A.device)
    meta, coefficients = constants(n, A.dtype), _coefficients(A.dtype, A.device)
    matrices = meta["BLOCK"] * (2 if meta["SPLIT"] == 1 else 1)
    for first, last in row_blocks(count, n * n):
        expm_kernel[(triton.cdiv(last - first, matrices),)](
            A[first:last], result[first:last], coefficients, cell, first, last - first,
            PAIRS=DEGREE[A.dtype] // 2, num_warps=THREADS // 32, **meta,
        )  # fmt: skip
    return result, bad_rows.first(cell)


@remembered
def _coefficients(dtype: torch.dtype, device: torch.device) -> Tensor:
    """``1 / theta`` and ``1 / k!`` from the highest ``k`` down."""
    m = DEGREE[dtype]
    values = [1 / THETA[m], *(1 / math.factorial(k) for k in range(m, -1, -1))]
    return torch.tensor(values, dtype=dtype, device=device)
