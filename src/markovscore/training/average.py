"""The exponential average of a network's weights, in a few long operations for all of them."""

import copy

import torch
from torch import Tensor, nn


class Average:
    """``module``, a copy of ``net`` in evaluation mode and without gradients, follows its weights.

    ``torch.optim.swa_utils.AveragedModel`` walks through both networks and sorts their parameters
    by kind at every step, which takes several times as long as the arithmetic of a small network.
    """

    def __init__(self, net: nn.Module, ema: float) -> None:
        self.module, self._ema = copy.deepcopy(net), ema
        self.module.eval().requires_grad_(False)
        pairs = list(zip(self.module.parameters(), net.parameters(), strict=True))
        self._averaged: list[Tensor] = [mine for mine, _ in pairs if _is_weight(mine)]
        self._weights: list[Tensor] = [theirs for mine, theirs in pairs if _is_weight(mine)]
        self._others = [(mine, theirs) for mine, theirs in pairs if not _is_weight(mine)]
        # Those with buffers of their own: to look through all parts takes a thirtieth of a step.
        parts = zip(self.module.modules(), net.modules(), strict=True)
        self._buffered = [two for two in parts if any(True for _ in two[0].buffers(recurse=False))]

    @torch.no_grad()
    def update(self, first: bool) -> None:
        """``w <- ema w + (1 - ema) w_net``, or ``w_net`` at the ``first`` step; buffers are the
        network's."""
        torch._foreach_lerp_(self._averaged, self._weights, 1.0 if first else 1 - self._ema)
        own = [[part.buffers(recurse=False) for part in two] for two in self._buffered]
        buffers = (pair for mine, theirs in own for pair in zip(mine, theirs, strict=True))
        for mine, theirs in (*self._others, *buffers):
            mine.copy_(theirs)


def _is_weight(parameter: Tensor) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()
