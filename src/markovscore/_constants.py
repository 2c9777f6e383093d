"""Constant tensors of a process or a law, kept in float64 and used in the dtype of the points."""

import torch
from torch import Tensor


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
            with torch.inference_mode(False):  # else they could never be part of a derivative
                self._copies[key] = tuple(table.to(*key) for table in self._tables)
        return self._copies[key]
