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
    # A cosine and a sine share their multi-index.
    row_of = torch.cat([torch.arange(rows), pool.waves.nonzero()[:, 0]]).to(energy.device)
    made = torch.bincount(row_of, minlength=rows)
    factor = energy.new_zeros(*slope.shape, n_functions)
    free = torch.ones_like(made, dtype=torch.bool)
    column = 0
    while column < n_functions:
        gain = (t[:, None] * slope.square() / diagonal).sum(0)
        gain = torch.zeros_like(gain[:rows]).index_add_(0, row_of, gain)
        fits = free & (made <= n_functions - column)
        if not bool(fits.any()):  # one function is left, and pairs alone
            break
        row = int(torch.where(fits, gain, -1).argmax())
        free[row] = False
        for pivot in (row_of == row).nonzero()[:, 0].tolist():
            done = factor[:, :, :column]
            new = energy[:, :, pivot] - (done @ done[:, pivot, :, None])[..., 0]
            new[:, pivot] = diagonal[:, pivot]
            new = new / diagonal[:, pivot, None].sqrt()
            slope = slope - new * (slope[:, pivot] / new[:, pivot])[:, None]
            factor[:, :, column] = new
            diagonal = (diagonal - new.square()).clamp(min=torch.finfo(new.dtype).tiny)
            column += 1
    return pool.with_indices(pool.indices[~free.cpu()])


def _judged_times(times: Tensor, slowest: float) -> Tensor:
    """Log-spaced, from the first positive fitted time to half the slowest relaxation time."""
    first = float(times[times > 0][0]) if bool((times > 0).any()) else 1e-3 / slowest
    last = max(first, min(float(times[-1]), 0.5 / slowest))
    return torch.logspace(0, 1, _TIMES, base=last / first, dtype=torch.float64) * first
