r"""The cheapest way to steer a linear recursion from one end to the other.

For ``w_{i+1} = M w_i + v_i`` the least ``sum_i |v_i|^2`` over ``n`` steps is a quadratic form of
the two ends,

.. math:: w_n^\top A w_n - 2\, w_n^\top B w_0 + w_0^\top S w_0 ,

with ``A = I, B = M, S = M^T M`` for one step. Two stretches make one by minimising over the state
between them: with ``H = A_1 + S_2``

.. math:: A = A_2 - B_2 H^{-1} B_2^\top, \qquad B = B_2 H^{-1} B_1, \qquad
          S = S_1 - B_1^\top H^{-1} B_1 .

Neither ``M^n``, which overflows, nor the covariance ``P = sum_k M^k M^{k T}``, whose condition is
the square of that of ``M^n``, is ever formed (``A`` is the inverse of ``P``, and ``B = A M^n``).
All entries are bounded by those of one step, and ``H`` is as well conditioned as the stretches are
long. It is the structured doubling algorithm for Riccati equations (Chu, Fan and Lin 2005, Linear
Algebra and its Applications 396).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..core import linear_transition
from .local import phi1


class Stretch(NamedTuple):
    """The form's matrices ``A``, ``B`` and ``S``, ``(B, d, d)`` each."""

    A: Tensor
    B: Tensor
    S: Tensor

    def then(self, later: "Stretch") -> "Stretch":
        """This stretch and, after it, ``later``."""
        solved = _solve(self.A + later.S, torch.cat([later.B.mT, self.B], 2))
        back, forth = solved.chunk(2, dim=2)
        A, S = later.A - later.B @ back, self.S - self.B.mT @ forth
        return Stretch(0.5 * (A + A.mT), later.B @ forth, 0.5 * (S + S.mT))


def steps(M: Tensor, count: int) -> Stretch:
    """``count`` steps of ``w -> M w + v``, ``M`` ``(B, d, d)``."""
    power, whole = (
        Stretch(torch.eye(M.shape[1], dtype=M.dtype, device=M.device).expand_as(M), M, M.mT @ M),
        None,
    )
    while True:
        if count & 1:
            whole = power if whole is None else whole.then(power)
        count >>= 1
        if count == 0:
            assert whole is not None
            return whole
        power = power.then(power)


def flow(J: Tensor, length: Tensor) -> Stretch:
    """``w' = J w + v`` for the time ``length`` ``(B,)``, positive, at the cost ``int |v|^2``."""
    size = float((J.abs().sum(1).amax(1) * length).max())
    doublings = max(0, math.ceil(math.log2(2 * size))) if 0 < size < math.inf else 0
    growth, P = linear_transition(J, torch.ones((), dtype=J.dtype, device=J.device),
                                  length * 2.0**-doublings)  # fmt: skip
    A = _solve(P, torch.eye(J.shape[1], dtype=J.dtype, device=J.device).expand_as(J))
    power = Stretch(A, A @ growth, growth.mT @ A @ growth)
    for _ in range(doublings):
        power = power.then(power)
    return power


def first_step(M: Tensor, w: Tensor, end: Tensor, count: int) -> Tensor:
    """``w_1`` of the cheapest way from ``w`` to ``end`` in ``count`` steps, ``(B, d, d)``."""
    if count == 1:
        return end.expand_as(M)
    rest = steps(M, count - 1)
    eye = torch.eye(M.shape[1], dtype=M.dtype, device=M.device)
    return _solve(eye + rest.S, M @ w + rest.B.mT @ end)


def between(earlier: Stretch, later: Stretch) -> Tensor:
    """Where the cheapest way from 0 to the identity is after the first stretch, ``(B, d, d)``."""
    return _solve(earlier.A + later.S, later.B.mT)


def first_step_diagonal(rate: Tensor, w: Tensor, count: int) -> Tensor:
    """The same for ``M = 1 + rate``, each coordinate on its own, and the end 1.

    With ``a = 1 + rate`` and ``p_n = sum_{k<n} a^{2k}`` it is ``(a p_{n-1} w + a^{n-1}) / p_n``;
    for ``|a| > 1`` the same in powers of ``1 / a``.
    """
    if count == 1:
        return torch.ones_like(w)
    a = 1 + rate
    log = torch.where(rate > -0.5, torch.log1p(rate.clamp(min=-0.5)), a.abs().log())
    log = -log.abs().clamp(max=40.0)  # of the smaller of |a| and |1 / a|
    sign = torch.where(a < 0, -1.0, 1.0)

    def total(n: int) -> Tensor:
        return n * phi1(2 * n * log) / phi1(2 * log)

    power = sign ** (count - 1) * torch.exp((count - 1) * log)
    return (sign * torch.exp(log) * total(count - 1) * w + power) / total(count)


def _solve(H: Tensor, right: Tensor) -> Tensor:
    """``H^{-1} right`` for ``H`` symmetric positive definite.

    Raises:
        ValueError: it is not, to rounding.
    """
    factor, info = torch.linalg.cholesky_ex(H)
    if bool(info.any()):
        raise ValueError(
            "weight: expected a drift whose Jacobian can be steered against, found one that is not "
            f"finite or too steep in row {int(info.nonzero()[0])}: take more steps, a shorter "
            'window, or weight="linear", which needs no inverse'
        )
    return torch.cholesky_solve(right, factor)
