"""Vector fields ``(x, t) -> (B, d)``: exact divergence, and products with a dispersion ``G(t)``."""

from collections.abc import Callable

import torch
from torch import Tensor

from ._validate import expand_like

Time = float | Tensor
Field = Callable[[Tensor, Time], Tensor]


def value_and_divergence(field: Field, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
    """``field(x, t)`` ``(B, d)`` and its exact divergence ``(B,)``: ``d`` backward passes.

    ``field`` must treat rows independently (no batch normalisation in training mode) and be made of
    differentiable torch operations. One vector-Jacobian product an axis measured faster than
    ``vmap(jacrev)`` and ``vmap(jacfwd)`` for small ``d``.

    Raises:
        ValueError: the field returns another shape than ``x``, or detaches its input (a ``no_grad``
            inside it would make the divergence silently zero).
    """
    tracked = False

    def at(points: Tensor) -> Tensor:
        nonlocal tracked
        value = field(points, t)
        if value.shape != points.shape:
            raise ValueError(
                f"expected a field of shape {tuple(points.shape)}, found {tuple(value.shape)}: "
                "drift and score return one row per point"
            )
        tracked = value.requires_grad
        return value

    value, pull_back = torch.func.vjp(at, x)[:2]
    divergence = torch.zeros_like(x[:, 0])
    if tracked:
        for axis in range(x.shape[1]):
            one_hot = torch.zeros_like(value)
            one_hot[:, axis] = 1
            divergence = divergence + pull_back(one_hot)[0][:, axis]
    elif not torch.equal(field(x + 1e-3, t), value):
        raise ValueError(
            "expected a field that autograd can follow, found one that depends on x but detaches "
            "it: remove torch.no_grad, .detach() or numpy inside it, or give it a divergence"
        )
    return value, divergence


def apply_dispersion(G: Time, z: Tensor) -> Tensor:
    """``G z`` for ``z`` ``(B, m)`` and ``G`` of any of the four shapes of ``dispersion(t)``."""
    G = torch.as_tensor(G, dtype=z.dtype, device=z.device)
    if G.ndim < 2:
        return expand_like(G, z) * z
    return (G @ z.unsqueeze(-1)).squeeze(-1)


def apply_covariance_rate(G: Time, v: Tensor) -> Tensor:
    """``G G^T v`` for ``v`` ``(B, d)`` and ``G`` of any of the four shapes of ``dispersion(t)``."""
    G = torch.as_tensor(G, dtype=v.dtype, device=v.device)
    return apply_dispersion(G, apply_dispersion(G if G.ndim < 2 else G.mT, v))
