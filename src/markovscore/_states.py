"""Draws of a diffusion's state and traces of a score there: what the path objectives and the
evidence bound share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._fields import noise_at, pull_back
from .simulation import noise_like, simulate

Score = Callable[[Tensor, Tensor], Tensor]


def draw_state(
    diffusion: Any, x0: Tensor, t: Tensor, steps: int, generator: torch.Generator | None
) -> Tensor:
    """``Y_t`` given ``Y_0 = x0``, ``(B, d)``: exact where the diffusion can, else simulated."""
    if hasattr(diffusion, "sample_transition"):
        return diffusion.sample_transition(x0, t, generator)
    return simulate(diffusion, x0, t, steps, generator)


def score_and_trace(
    diffusion: Any, score: Score, y: Tensor, t: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """``s`` ``(B, d)`` and ``tr(G^T Ds G)`` ``(B,)``; with a generator, by one random probe."""
    s, vjp = pull_back(lambda x, _: score(x, t), y, t)
    G = noise_at(diffusion, y, t)
    if generator is not None:
        u = G @ noise_like(G, y, generator).sign()
        return s, (vjp(u) * u).sum(1)
    trace = torch.zeros_like(y[:, 0])
    columns = G.columns(y.shape[1])
    for column in range(columns):
        one_hot = y.new_zeros(len(y), columns)
        one_hot[:, column] = 1
        u = G @ one_hot
        trace = trace + (vjp(u) * u).sum(1)
    return s, trace
