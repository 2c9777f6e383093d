"""Vector fields ``(x, t) -> (B, d)``: derivatives, and products with a dispersion ``G(t)``."""

from collections.abc import Callable

import torch
from torch import Tensor

from ._modes import full_precision
from ._validate import expand_like

Time = float | Tensor
Field = Callable[[Tensor, Time], Tensor]


def pull_back(field: Field, x: Tensor, t: Time) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """``field(x, t)`` ``(B, d)`` and ``v -> J^T v`` for its Jacobian ``J`` at each row.

    ``field`` must treat rows independently (no batch normalisation in training mode) and be made of
    differentiable torch operations.

    Raises:
        ValueError: the field returns another shape than ``x``, or detaches its input (a ``no_grad``
            inside it would make the Jacobian silently zero).
    """
    tracked = False

    def at(points: Tensor) -> Tensor:
        nonlocal tracked
        value = check_field(field(points, t), points)
        tracked = value.requires_grad
        return value

    value, vjp = torch.func.vjp(at, x)[:2]
    if not tracked and not torch.equal(field(x + 1e-3, t), value):
        raise ValueError(
            "expected a field that autograd can follow, found one that depends on x but detaches "
            "it: remove torch.no_grad, .detach() or numpy inside it, or give its derivative "
            "(drift_divergence, drift_jacobian)"
        )
    return value, (lambda v: vjp(v)[0]) if tracked else torch.zeros_like


def check_field(value: Tensor, x: Tensor, name: str = "field") -> Tensor:
    """``value``, after a check that it has the shape of ``x``: a wrong one might broadcast."""
    if value.shape != x.shape:
        raise ValueError(
            f"expected a {name} of shape {tuple(x.shape)}, found {tuple(value.shape)}: "
            "drift and score return one row per point"
        )
    return value


def value_and_divergence(field: Field, x: Tensor, t: Time) -> tuple[Tensor, Tensor]:
    """``field(x, t)`` ``(B, d)`` and its exact divergence ``(B,)``: ``d`` backward passes.

    One vector-Jacobian product an axis measured faster than ``vmap(jacrev)`` and ``vmap(jacfwd)``
    for small ``d``. Assumptions and errors as in :func:`pull_back`.
    """
    value, vjp = pull_back(field, x, t)
    divergence = torch.zeros_like(x[:, 0])
    for axis in range(x.shape[1]):
        one_hot = torch.zeros_like(value)
        one_hot[:, axis] = 1
        divergence = divergence + vjp(one_hot)[:, axis]
    return value, divergence


def value_and_probe(field: Field, x: Tensor, t: Time, signs: Tensor) -> tuple[Tensor, Tensor]:
    """``field(x, t)`` ``(B, d)`` and an unbiased estimate of its divergence ``(B,)``.

    The mean of ``v^T J v`` over the ``P`` rows ``v`` of ``signs`` ``(B, P, d)``, which have
    independent entries of +-1 (Hutchinson 1990): one backward pass each.
    """
    value, vjp = pull_back(field, x, t)
    estimates = [(vjp(v) * v).sum(1) for v in signs.to(x).unbind(1)]
    return value, torch.stack(estimates).mean(0)


@full_precision
def apply_dispersion(G: Time, z: Tensor) -> Tensor:
    """``G z`` for ``z`` ``(B, m)`` and ``G`` of any of the four shapes of ``dispersion(t)``."""
    G = torch.as_tensor(G, dtype=z.dtype, device=z.device)
    if G.ndim < 2:
        return expand_like(G, z) * z
    return z @ G.mT if G.ndim == 2 else (G @ z.unsqueeze(-1)).squeeze(-1)


def apply_covariance_rate(G: Time, v: Tensor) -> Tensor:
    """``G G^T v`` for ``v`` ``(B, d)`` and ``G`` of any of the four shapes of ``dispersion(t)``."""
    G = torch.as_tensor(G, dtype=v.dtype, device=v.device)
    return apply_dispersion(G, apply_dispersion(G if G.ndim < 2 else G.mT, v))
