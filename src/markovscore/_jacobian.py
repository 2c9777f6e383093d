"""Derivatives of a drift: the class's own where it gives them, else exact by ``torch.func``.

A diffusion may have any of

* ``drift_jacobian(y, t)``: ``(B, d, d)``, or ``(B, d)``, the diagonal of a diagonal one;
* ``drift_and_vjp(y, t, v) -> (f, J^T v)``, where the two share work;
* ``elementwise = True``: coordinate ``i`` of the drift depends on ``y_i`` alone;
* ``autonomous = True``: per unit of clock, drift and ``G G^T`` do not depend on time.
"""

from typing import Any

import torch
from torch import Tensor

from ._fields import Field, Time, ask, check_field, drift_at, pull_back


def drift_jacobian(diffusion: Any, y: Tensor, t: Time) -> Tensor:
    """``J[b, i, j] = d f_i / d y_j`` at each row, ``(B, d, d)``; ``(B, d)`` if it is diagonal.

    Without the class's own: one backward pass for an elementwise drift, else ``d``, vmapped.

    Raises:
        ValueError: a Jacobian of another shape, and as in :func:`pull_back`.
    """
    n, d = y.shape
    if hasattr(diffusion, "drift_jacobian"):
        jacobian = ask(diffusion.drift_jacobian, "drift_jacobian", y, t)
        if jacobian.shape not in ((n, d, d), (n, d)):
            raise ValueError(
                f"drift_jacobian: expected shape {(n, d, d)}, or {(n, d)} for a diagonal one, "
                f"found {tuple(jacobian.shape)}"
            )
        return jacobian
    elementwise = getattr(diffusion, "elementwise", False)
    return field_jacobian(lambda y, t: drift_at(diffusion, y, t), y, t, elementwise)


def field_jacobian(field: Field, y: Tensor, t: Time, elementwise: bool = False) -> Tensor:
    """:func:`drift_jacobian` of any field, by reverse differentiation."""
    n, d = y.shape
    value, vjp = pull_back(field, y, t)
    if elementwise:
        return vjp(torch.ones_like(value))
    axes = torch.eye(d, dtype=y.dtype, device=y.device)[:, None].expand(d, n, d)
    return torch.func.vmap(vjp)(axes).movedim(0, 1)


def times_vector(J: Tensor, v: Tensor) -> Tensor:
    """``J^T v`` for ``J`` ``(B, d, d)``, or ``(B, d)``, its diagonal."""
    return J * v if J.ndim == 2 else (J.mT @ v.unsqueeze(-1)).squeeze(-1)


def drift_and_vjp(diffusion: Any, y: Tensor, t: Time, v: Tensor) -> tuple[Tensor, Tensor]:
    """``f(y, t)`` and ``J^T v``, ``(B, d)`` each."""
    if hasattr(diffusion, "drift_and_vjp"):
        f, product = ask(diffusion.drift_and_vjp, "drift_and_vjp", y, t, v)
        return check_field(f, y, "drift_and_vjp"), check_field(product, y, "drift_and_vjp")
    if hasattr(diffusion, "drift_jacobian"):
        return drift_at(diffusion, y, t), times_vector(drift_jacobian(diffusion, y, t), v)
    value, vjp = pull_back(lambda y, t: drift_at(diffusion, y, t), y, t)
    return value, vjp(v)
