"""Which eigenfunctions to keep: the slowest ones, or those that the data ask for (ours)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..eigenbasis import Eigenbasis, Moments

_TIMES = 6  # noise levels at which the gain is judged
_RIDGE = 1e-6  # share of the stationary energy: a direction that the data do not fill is no gain


def greedy(pool: Eigenbasis, moments: Moments, n_functions: int, times: Tensor) -> Eigenbasis:
    """The ``n_functions`` of ``pool`` picked, one multi-index at a time, by their gain in loss.

    At one noise level the minimised loss is ``-1/2 b_t^T A_t^{-1} b_t``; adding function ``j`` to
    those chosen lowers it by ``r_j^2 / (2 d_j)``, with ``d`` the diagonal of the Schur complement
    of ``A_t`` and ``r`` the residual slope.  Both are by-products of a Cholesky factorisation
    whose pivot is the largest gain (orthogonal matching pursuit), summed over log-spaced times up
    to half a relaxation time with the likelihood's weight ``dt = t dlog t``. Cost ``O(K^2 P)`` for
    each of six times and a pool of ``P`` functions.

    ``moments`` are those of ``pool``; ``times`` the fitted noise levels.  Raises ``ValueError``
    where the pool has fewer functions than asked for.
    """
    if n_functions > pool.n_functions:
        raise ValueError(
            f"expected at most {pool.n_functions} functions, the size of the pool; found "
            f"{n_functions}"
        )
    t = _judged_times(times, -float(pool.eigenvalues[0])).to(moments.mean.device)
    energy, slope = moments.energy(t), moments.slope(t)
    diagonal = energy.diagonal(dim1=1, dim2=2) - _RIDGE * pool.eigenvalues.to(energy)
    rows = len(pool.indices)
    together = pool.n_functions // rows  # a cosine and a sine share their multi-index
    factor = energy.new_zeros(*slope.shape, n_functions)
    chosen: list[int] = []
    for step in range(0, n_functions, together):
        gain = (t[:, None] * slope.square() / diagonal).sum(0).view(together, rows).sum(0)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        for part in range(together):
            column = step + part
            pivot = chosen[-1] + part * rows
            done = factor[:, :, :column]
            new = energy[:, :, pivot] - (done @ done[:, pivot, :, None])[..., 0]
            new[:, pivot] = diagonal[:, pivot]
            new = new / diagonal[:, pivot, None].sqrt()
            slope = slope - new * (slope[:, pivot] / new[:, pivot])[:, None]
            factor[:, :, column] = new
            diagonal = (diagonal - new.square()).clamp(min=torch.finfo(new.dtype).tiny)
    return pool.with_indices(pool.indices[sorted(chosen)])


def _judged_times(times: Tensor, slowest: float) -> Tensor:
    """Log-spaced, from the first positive fitted time to half the slowest relaxation time."""
    first = float(times[times > 0][0]) if bool((times > 0).any()) else 1e-3 / slowest
    last = max(first, min(float(times[-1]), 0.5 / slowest))
    return torch.logspace(0, 1, _TIMES, base=last / first, dtype=torch.float64) * first
