r"""The weights ``w`` of a path shift, from 0 at the start of a window to the identity at its end.

Given as a table, or steered: :func:`linearised_weight` and :func:`steered` choose those of least
variance for a drift whose Jacobian stays what it is at the start, or at the present step.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ..core import Dense, Diagonal, DiffusionLike, LinearMap, Scalar, Time, full_precision
from .local import check_request, covariance_factor, linearised
from .steering import between, first_step, first_step_diagonal, flow

WeightPath = Callable[[Tensor], Tensor]
Weight = WeightPath | Literal["linear", "quadratic", "adaptive"] | None
_NAMED: dict[str, Any] = {"linear": None, "quadratic": torch.square}
# By the rank of a table; a matrix for all rows as a batch of one.
_KINDS: dict[int, Callable[[Tensor], LinearMap]] = {
    1: Scalar,
    2: Diagonal.of,
    3: lambda w: Dense(w[None]),
    4: Dense,
}


def named_weight(weight: Any) -> Any:
    """A name's function of the share, None for ``"linear"``; else ``weight`` as it is."""
    return _NAMED.get(weight, weight) if isinstance(weight, str) else weight


def is_adaptive(weight: Any) -> bool:
    """Whether it is the name ``"adaptive"``."""
    return isinstance(weight, str) and weight == "adaptive"


class WeightTable:
    """``w`` at the ``count`` nodes of a window for points like ``y``; see ``path_shift_target``.

    Raises:
        ValueError: no weight, one of another shape, or other ends than 0 and the identity.
    """

    def __init__(self, weight: WeightPath | None, count: int, y: Tensor) -> None:
        if weight is not None and not callable(weight):
            raise ValueError(
                'weight: expected "linear", "quadratic", "adaptive" or a callable, found '
                f"{weight!r}"
            )
        n, d = y.shape
        share = torch.linspace(0, 1, count, dtype=torch.float64, device="cpu")
        w = torch.as_tensor(share if weight is None else weight(share), device=y.device)
        if w.shape not in ((count,), (count, d), (count, d, d), (count, n, d, d)):
            raise ValueError(
                f"weight: expected shape ({count},), ({count}, {d}), ({count}, {d}, {d}) or "
                f"({count}, {n}, {d}, {d}), found {tuple(w.shape)}"
            )
        self._table, self._kind = w.to(y), _KINDS[w.ndim]
        end = self.at(count - 1).matrix(d)
        off = self._table[0], end - torch.eye(d, dtype=end.dtype, device=end.device)
        gap = max(float(part.abs().max()) for part in off)
        if not gap < 1e-5:
            raise ValueError(
                f"weight: expected w = 0 at the start and the identity at the end, found it off by "
                f"{gap:.2g}: subtract and divide so that both ends are met"
            )

    def at(self, i: int) -> LinearMap:
        """``w_i``."""
        return self._kind(self._table[i])

    def rise(self, i: int) -> LinearMap:
        """``w_{i+1} - w_i``."""
        return self._kind(self._table[i + 1] - self._table[i])


@torch.no_grad()
@full_precision
def linearised_weight(diffusion: DiffusionLike, y_s: Tensor, s: Time, t: Time) -> WeightPath:
    r"""The weight path of least variance for the drift linearised at ``y_s``.

    .. math:: w_r = P(r h)\, e^{J^\top (1 - r) h}\, P(h)^{-1}, \qquad
              P(u) = \int_0^u e^{Jv} G G^\top e^{J^\top v}\, dv ,

    the regression of ``Y_r`` on ``Y_t``. For a linear drift the target is then a function of ``y``
    and ``y_s`` alone, the exact transition score. Pass it as ``weight`` with the same ``y_s``,
    ``s`` and ``t``; its table is ``(N + 1, B, d, d)``, so for small ``d``.

    Raises:
        ValueError: as :func:`local_transition`, and a singular ``G G^T``.
    """
    process, y, start, end = check_request(diffusion, y_s, s, t)
    around, d = linearised(process, y, start, end), y.shape[1]
    J, h = around.J.matrix(d).double(), around.length
    eye = torch.eye(d, dtype=J.dtype, device=J.device).expand_as(J)
    root = eye
    if not isinstance(around.Q, Scalar):  # a multiple of the identity cancels
        Q = Dense(around.Q.matrix(d).expand_as(J))
        root = covariance_factor(Q, start, end).value
    unit = torch.linalg.solve_triangular(root, J @ root, upper=False)
    back = torch.linalg.solve_triangular(root, eye, upper=False)

    def weight(share: Tensor) -> Tensor:
        nodes = [torch.zeros_like(J)]
        for r in share[1:-1].tolist():
            nodes.append(root @ between(flow(unit, r * h), flow(unit, (1 - r) * h)) @ back)
        return torch.stack([*nodes, eye])

    return weight


def steered(
    J: LinearMap, G: LinearMap, h: Time, w: LinearMap, left: int
) -> tuple[LinearMap, LinearMap]:
    """``w_{i+1}``, and its distance from ``w_i + h J w_i``, on the cheapest way from ``w_i`` to the
    identity in the ``left`` steps of length ``h`` that remain, for this noise ``G``."""
    if not J.is_diagonal and J.value.shape[-1] == 1:
        J = Diagonal.of(J.value[..., 0])
    if J.is_diagonal and G.is_diagonal:
        rate = h * J.value
        free, then = w.value + rate * w.value, first_step_diagonal(rate, w.value, left)
        return Diagonal.of(then), Diagonal.of(then - free)
    d = J.value.shape[-1]
    slope, now = J.matrix(d), w.matrix(d)
    length = h[:, :, None] if isinstance(h, Tensor) else h
    free = now + length * (slope @ now)
    then = _first_step(length * slope, G.gram(), now, left)
    return Dense(then), Dense(then - free)


def _first_step(rate: Tensor, Q: LinearMap, w: Tensor, count: int) -> Tensor:
    """``w_1`` on the cheapest way from ``w`` to the identity, ``(B, d, d)``, in coordinates where
    ``Q`` is the identity; a multiple of it cancels."""
    eye = torch.eye(w.shape[1], dtype=torch.float64, device=w.device)
    M = eye + rate.double()
    if isinstance(Q, Scalar):
        return first_step(M, w.double(), eye, count).to(w)
    root = Dense(Q.matrix(w.shape[1]).double()).cholesky()[0].value.expand_as(M)
    M = torch.linalg.solve_triangular(root, M @ root, upper=False)
    w_in, end = (torch.linalg.solve_triangular(root, v, upper=False) for v in (w.double(), eye))
    return (root @ first_step(M, w_in, end, count)).to(w)
