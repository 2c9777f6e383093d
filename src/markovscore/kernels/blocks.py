"""How many rows at a time: of a launch, and of a PyTorch twin."""

import torch

from .constants import VARIABLE

# Offsets inside a kernel are 32-bit: a launch sees fewer elements.
MAX_ELEMENTS = 2**31 - 1
# Entries of one working array of a twin. On a CPU a few of 512 KiB stay in the cache, and with
# twice that hermite_moments takes twice the time; elsewhere 256 MiB, so that launches are few.
CACHE_ENTRIES, DEVICE_ENTRIES = 2**16, 2**25


def row_blocks(rows: int, columns: int) -> list[tuple[int, int]]:
    """Ranges of rows, each of at most ``MAX_ELEMENTS`` elements.

    Raises:
        ValueError: one row alone has more.
    """
    if columns > MAX_ELEMENTS:
        raise ValueError(
            f"expected at most {MAX_ELEMENTS} columns, found {columns}: split them, or set "
            f"{VARIABLE}=torch"
        )
    size = MAX_ELEMENTS // max(columns, 1)
    return [(first, min(first + size, rows)) for first in range(0, rows, size)]


def working_rows(device: torch.device, columns: int) -> int:
    """Rows of a twin's working arrays of ``columns`` columns, at least one."""
    entries = CACHE_ENTRIES if device.type == "cpu" else DEVICE_ENTRIES
    return max(1, entries // columns)
