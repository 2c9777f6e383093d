r"""Gaussian transitions of linear SDEs ``dY = (F Y + f + u f') dt + G dW``, batched over rows.

With ``u`` the time since the start, over a window ``h``

.. math::
    \Phi = e^{Fh}, \qquad v = \int_0^h e^{F(h-u)} (f + u f')\, du, \qquad
    P = \int_0^h e^{Fu} G G^\top e^{F^\top u}\, du .

The textbook way takes ``v`` from the exponential of a matrix augmented by two rows and columns, and
``P`` from that of a ``2d x 2d`` block matrix (Van Loan, 1978). The latter holds ``e^{-Fh}``, and
the exponential is accurate only relative to its norm: for three coordinates with noise on one, the
smallest entry of ``P`` was off by 2e-8 at ``h = 1e-3`` and 3e-4 at ``h = 10``.
So the Taylor series of the same functions is summed over a short step, entry by entry, and the step
is doubled, which for ``P`` adds positive semi-definite terms; it is also several times faster.

Inside, the batch is the last axis: small matrices are then multiplied by a few long vector
operations, two to four times faster than ``torch.bmm`` for ``d <= 7``.
"""

import math
from collections.abc import Callable

import scipy
import torch
from torch import Tensor

from .checks import check_precision

# A pivot of the Cholesky factor below this share of its variance is rounding, not noise.
SINGULAR = 1e-13
# The longest step that the series is asked for, in units of 1 / |F|.
_STEP = 0.5
# Up to this size a product of matrices is a sum over the inner index, beyond it torch.bmm.
_SMALL = 8


def linear_transition(F: Tensor, Q: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean map ``Phi`` and covariance ``P``, each ``(N, d, d)``, at the times ``t`` ``(N,)``.

    Args:
        F: drift matrix ``(d, d)``, or one for each time ``(N, d, d)``.
        Q: as in :func:`window_moments`.
        t: times ``(N,)``, non-negative.
    """
    A, size, doublings = _halved(F.expand(len(t), -1, -1), t)
    mean_map = _integrals(A, _identity(A), _terms(size), 1)[0]
    covariance = _short_covariance(A, Q, t * 2.0**-doublings, size)
    for _ in range(doublings):
        times = multiplier(mean_map)
        covariance = covariance + _congruence(times, covariance)
        mean_map = times(mean_map)
    return mean_map.permute(2, 0, 1), covariance.permute(2, 0, 1)


def window_moments(
    F: Tensor, Q: Tensor, f: Tensor, f_dot: Tensor | None, h: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean increment ``v`` ``(B, d)`` from a start at 0, and covariance ``P`` ``(B, d, d)``.

    Over ``h / 2^k`` by series; then, ``k`` times, ``P(2h) = P + Phi P Phi^T``,
    ``v(2h) = v + Phi v + h w`` with ``w = int e^{F(h-u)} f' du``, and ``Phi(2h) = Phi^2``.

    Args:
        F: ``(B, d, d)``.
        Q: ``G G^T``: 0-dim or ``(B,)`` (times the identity), ``(d, d)`` or ``(B, d, d)``.
        f, f_dot: ``(B, d)``, the constant and the slope of the forcing; None is zero.
        h: ``(B,)``, positive.
    """
    A, size, doublings = _halved(F, h)
    h = h * 2.0**-doublings
    block = f.T[:, None] if f_dot is None else torch.stack([f.T, f_dot.T], 1)
    if doublings:  # one chain of products serves the forcing and the mean map
        block = torch.cat([block, _identity(A)], 1)
    sums = _integrals(A, block, _terms(size), 2 if f_dot is None else 3)
    shift = h * sums[1][:, :1]
    ramp = torch.zeros_like(shift)
    if f_dot is not None:
        shift, ramp = shift + h.square() * sums[2][:, 1:2], h * sums[1][:, 1:2]
    covariance = _short_covariance(A, Q, h, size)
    mean_map = sums[0][:, -len(A) :]
    for _ in range(doublings):
        times = multiplier(mean_map)
        covariance = covariance + _congruence(times, covariance)
        shift = shift + times(shift)
        if f_dot is not None:
            shift = shift + h * ramp
            ramp, h = ramp + times(ramp), 2 * h
        mean_map = times(mean_map)
    return shift[:, 0].T, covariance.permute(2, 0, 1)


def _identity(A: Tensor) -> Tensor:
    return torch.eye(len(A), dtype=A.dtype, device=A.device)[:, :, None].expand_as(A)


def _halved(F: Tensor, h: Tensor) -> tuple[Tensor, float, int]:
    """``A = F h / 2^k``, batch last ``(d, d, B)``; its 1-norm, at most ``_STEP``; and ``k``."""
    A = F.permute(1, 2, 0) * h
    size = float(A.abs().sum(0).amax())
    doublings = max(0, math.ceil(math.log2(size / _STEP))) if _STEP < size < math.inf else 0
    # Elementwise results keep the strides of F: the layout that the products want is made here.
    return A.contiguous() * 2.0**-doublings, size * 2.0**-doublings, doublings


def _terms(size: float) -> int:
    """Terms of ``sum size^k / k!`` until the next is below the rounding of the first."""
    terms, left_out = 1, max(size, 1e-3)
    while left_out > 1e-17 and terms < 40:
        terms += 1
        left_out *= max(size, 1e-3) / terms
    return terms


def _integrals(A: Tensor, block: Tensor, terms: int, count: int) -> list[Tensor]:
    """``sum_k A^k block / (k + j)!`` for ``j < count``: the exponential and repeated integrals."""
    times, block = multiplier(A), block.contiguous()
    sums = [block / math.factorial(j) for j in range(count)]
    for k in range(1, terms):
        block = times(block)
        for j, total in enumerate(sums):
            total.add_(block, alpha=1 / math.factorial(k + j))
    return sums


def _short_covariance(A: Tensor, Q: Tensor, h: Tensor, size: float) -> Tensor:
    """``P(h)``, batch last, from ``P' = F P + P F^T + Q``, for ``A = F h`` small.

    A coordinate without noise of its own that the noise reaches through ``j`` others starts at term
    ``2 j``: so many more terms keep its small entries accurate (to ``j = 7``; the rest is far below
    the terms kept anyway).
    """
    d, terms, times = len(A), _terms(2 * size), multiplier(A)
    if Q.ndim < 2:  # the products by a multiple of the identity are left out
        scale = Q * h
        term = (A + A.transpose(0, 1)) * scale
        total, start = 0.5 * term, 2
        total.diagonal(dim1=0, dim2=1).add_(scale.expand(A.shape[2])[:, None])
    else:
        silent = (Q.diagonal(dim1=-2, dim2=-1) == 0).any()
        terms += 2 * min(d, _SMALL) - 2 if bool(silent) else 0
        term = Q.expand(A.shape[2], d, d).permute(1, 2, 0).contiguous() * h
        total, start = term.clone(), 1
    for k in range(start, terms):
        half = times(term)
        term = half + half.transpose(0, 1)
        total.add_(term, alpha=1 / math.factorial(k + 1))
    return total


def multiplier(A: Tensor) -> Callable[[Tensor], Tensor]:
    """``X -> A X`` for ``(d, d, B)`` and ``(d, c, B)``."""
    if len(A) > _SMALL:
        first = A.movedim(2, 0).contiguous()
        return lambda X: torch.bmm(first, X.movedim(2, 0)).movedim(0, 2)
    columns = A.unsqueeze(2).unbind(1)

    def times(X: Tensor) -> Tensor:
        rows = X.unbind(0)
        total = columns[0] * rows[0]
        for column, row in zip(columns[1:], rows[1:], strict=True):
            total.addcmul_(column, row)
        return total

    return times


def _congruence(times: Callable[[Tensor], Tensor], P: Tensor) -> Tensor:
    """``A P A^T``, symmetric to the last bit."""
    product = times(times(P).transpose(0, 1))
    return 0.5 * (product + product.transpose(0, 1))


def first_silent(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors ``(N, d, d)`` and, ``(N, d)``, the axes that get no noise of their own."""
    factor, info = torch.linalg.cholesky_ex(check_precision(covariance, "points"))
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    failed = torch.arange(1, variance.shape[-1] + 1, device=info.device) == info[..., None]
    return factor, failed | ~(pivots.square() > SINGULAR * variance)


def cholesky(covariance: Tensor, t: Tensor) -> Tensor:
    """Lower Cholesky factors of ``covariance`` ``(N, d, d)`` at the times ``t`` ``(N,)``.

    Raises:
        ValueError: not positive definite; the time and the first direction without noise are named.
    """
    factor, silent = first_silent(covariance)
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
    factor, silent = first_silent(0.5 * (covariance + covariance.mT)[None])
    return None if bool(silent.any()) else factor[0]
