"""The first row in which a kernel met a number that is not finite, found while it ran.

A kernel calls :func:`note` on what it computed; the smallest row goes to one 32-bit cell, and the
launcher reads it once. No second pass over the data, and the same row whatever the block size.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

NONE = tl.constexpr(2**31 - 1)


def new_cell(device: torch.device) -> Tensor:
    """A cell that no row has been noted in."""
    return torch.full((1,), NONE.value, dtype=torch.int32, device=device)


@triton.jit
def note(cell, row, value):
    """Note the smallest ``row`` whose ``value`` is NaN or infinite; both of one shape."""
    bad = ~(tl.abs(value) < float("inf"))
    first = tl.min(tl.where(bad, row, NONE).to(tl.int32).reshape([value.numel]), axis=0)
    if first < NONE:
        tl.atomic_min(cell, first)


def first(cell: Tensor) -> int | None:
    """The noted row, None if there is none; waits for the kernel."""
    row = int(cell)
    return None if row == NONE.value else row
