"""Constant tensors of a process or a law, kept in float64 and used in the dtype of the points."""

import torch
from torch import Tensor

from ._modes import lasting


class Constants:
    """``tables``, converted once for each dtype and device: a step of a simulation on a few points
    takes no longer than two or three conversions."""

    def __init__(self, *tables: Tensor) -> None:
        self._tables = tables
        self._copies: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def like(self, x: Tensor) -> tuple[Tensor, ...]:
        """The tables with the dtype and device of ``x``."""
        key = (x.device, x.dtype)
        if key not in self._copies:
            self._copies[key] = lasting(_converted)(self._tables, *key)
        return self._copies[key]


def _converted(
    tables: tuple[Tensor, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    return tuple(table.to(device, dtype) for table in tables)
