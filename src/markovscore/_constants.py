"""Constant tensors of a process or a law, kept in float64 and used in the dtype of the points."""

import torch
from torch import Tensor


class Constants:
    """``tables``, converted once for each dtype and device: a step of a simulation on a few points
    takes no longer than two or three conversions."""

    def __init__(self, *tables: Tensor) -> None:
        self._tables = tables
        self._copies: dict[tuple[torch.dtype, torch.device], tuple[Tensor, ...]] = {}

    def like(self, x: Tensor) -> tuple[Tensor, ...]:
        """The tables with the dtype and device of ``x``."""
        key = (x.dtype, x.device)
        if key not in self._copies:
            self._copies[key] = tuple(table.to(x) for table in self._tables)
        return self._copies[key]
