r"""Exact Gaussian transitions of linear SDEs ``dY = F Y dt + G dW``, batched over times.

The mean map is ``Phi(t) = e^{F t}`` and the covariance is
``P(t) = int_0^t e^{F u} Q e^{F^T u} du`` with ``Q = G G^T``.
Van Loan (1978) reads both off one exponential of a ``2d x 2d`` block matrix. That matrix holds
``e^{-F t}``, and the exponential is accurate only relative to its norm: for three coordinates with
noise on one, the smallest entry of ``P`` was off by 2e-8 at ``t = 1e-3`` and 3e-4 at ``t = 10``.
So the Taylor series of the same two functions is summed over a short step, entry by entry, and the
step is doubled, which for ``P`` adds positive terms; it is also two to five times faster.
"""

import math

import scipy.linalg
import torch
from torch import Tensor

# A pivot of the Cholesky factor below this share of its variance is rounding, not noise.
_SINGULAR = 1e-13
# Terms of the series: over a step with |F| h <= 1/2 the first one left out is 1/20! = 4e-19.
_TERMS = 20


def linear_transition(F: Tensor, Q: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean map ``Phi`` and covariance ``P``, each ``(N, d, d)``, at the times ``t`` ``(N,)``.

    Over ``h = t / 2^k`` the derivatives of ``P`` at 0 follow from ``P' = F P + P F^T + Q``; then
    ``P(2h) = P(h) + Phi(h) P(h) Phi(h)^T`` and ``Phi(2h) = Phi(h)^2``, ``k`` times.

    Args:
        F: drift matrix ``(d, d)`` or ``(N, d, d)``; with one matrix the series costs no batch.
        Q: ``G G^T``, same shape as ``F``.
        t: times ``(N,)``, non-negative.
    """
    norm = torch.linalg.matrix_norm(F, ord=1).clamp(min=torch.finfo(F.dtype).tiny)
    size = float((norm * t).max())
    doublings = max(0, math.ceil(math.log2(size)) + 1) if size > 0 else 0
    h = t / 2**doublings
    mean_map, covariance = _short_step(F / norm[..., None, None], Q, norm, h)
    for _ in range(doublings):
        covariance = covariance + mean_map @ covariance @ mean_map.mT
        mean_map = mean_map @ mean_map
    return mean_map, 0.5 * (covariance + covariance.mT)


def _short_step(unit: Tensor, Q: Tensor, norm: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """``Phi(h)`` and ``P(h)`` by their series, for ``F = norm * unit`` and ``norm * h <= 1/2``."""
    mean_term, term = torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device), Q
    step = (norm * h)[:, None, None]
    power = torch.ones_like(step)
    mean_map = mean_term.expand(len(h), -1, -1)
    covariance = term.expand(len(h), -1, -1)
    for k in range(1, _TERMS):
        power = power * step
        mean_term = unit @ mean_term / k
        half = unit @ term / (k + 1)
        term = half + half.mT
        mean_map = mean_map + power * mean_term
        covariance = covariance + power * term
    return mean_map, h[:, None, None] * covariance


def _factor(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors ``(N, d, d)`` and, ``(N, d)``, the axes that get no noise of their own."""
    factor, info = torch.linalg.cholesky_ex(covariance)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    failed = torch.arange(1, variance.shape[-1] + 1, device=info.device) == info[..., None]
    return factor, failed | ~(pivots.square() > _SINGULAR * variance)


def cholesky(covariance: Tensor, t: Tensor) -> Tensor:
    """Lower Cholesky factors of ``covariance`` ``(N, d, d)`` at the times ``t`` ``(N,)``.

    Raises:
        ValueError: not positive definite; the time and the first direction without noise are named.
    """
    factor, silent = _factor(covariance)
    bad = silent.nonzero()
    if len(bad):
        row, axis = bad[0].tolist()
        raise ValueError(
            f"expected a positive definite transition covariance, found a singular one at "
            f"t = {float(t[row]):g} (coordinate {axis}, given the earlier ones, gets no noise): "
            "use t > 0 and a dispersion G whose noise reaches every direction through F, "
            "that is rank [G, FG, ..., F^(d-1) G] = d"
        )
    return factor


def stationary_factor(F: Tensor, Q: Tensor) -> Tensor | None:
    """Cholesky factor ``(d, d)`` of the stationary covariance ``C``, ``F C + C F^T + Q = 0``.

    None where ``F`` is not stable (an eigenvalue with real part >= 0) or ``C`` is singular.
    """
    if float(torch.linalg.eigvals(F).real.max()) >= 0:
        return None
    covariance = torch.from_numpy(scipy.linalg.solve_continuous_lyapunov(F.numpy(), -Q.numpy()))
    factor, silent = _factor(0.5 * (covariance + covariance.mT)[None])
    return None if bool(silent.any()) else factor[0]
