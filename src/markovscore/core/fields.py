"""What the package asks of a process, and derivatives of vector fields ``(x, t) -> (B, d)``.

Every call of a process's methods goes through :func:`ask` or :func:`noise_at`, so all of them see
times of one form: a tensor with the dtype and device of ``y`` that broadcasts against it, 0-dim or
``(B, 1)``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .linear_maps import Dense, Diagonal, LinearMap, read_jacobian, read_noise
from .times import check_time
from .types import Process

Time = float | Tensor
Field = Callable[[Tensor, Time], Tensor]


# A process


def process_time(t: Time, y: Tensor) -> Tensor:
    """``t`` as a process gets it, 0-dim or ``(B, 1)``, dtype and device of ``y`` ``(B, d)``."""
    if isinstance(t, Tensor) and t.dtype == y.dtype and t.device == y.device:
        if t.ndim == 0 or t.shape == (y.shape[0], 1):
            return t  # as it comes at each step of a simulation
        if len(t) == len(y) > 1 and t.ndim == 1:
            return t[:, None]  # as a score gets it
    t = check_time(t, len(y), like=y)
    return t if t.ndim == 0 else t[:, None]


def ask(method: Callable[..., Any], name: str, y: Tensor, t: Time, *others: Tensor) -> Any:
    """``method(y, t, *others)`` for a method of a process; one tensor of rows, or several.

    Where there are as many points as coordinates a row is added and taken away again: else a shape
    that is right by accident, such as ``t * A`` for a matrix ``A``, would be a wrong number.

    Raises:
        ValueError: the method does not broadcast against ``y``, whatever its number of rows.
    """
    t = process_time(t, y)
    try:
        rows, columns = y.shape  # an attribute: len(y) takes three times as long
        if not rows == columns > 1:
            return method(y, t, *others)
        more = [torch.cat([v, v[-1:]]) for v in (y, *others)]
        value = method(more[0], torch.cat([t, t[-1:]]) if t.ndim else t, *more[1:])
    except RuntimeError as error:
        raise _explained(error, name, y, t) from error
    return tuple(v[:-1] for v in value) if isinstance(value, tuple) else _without_last(value)


def _without_last(value: Any) -> Any:
    return value[:-1] if isinstance(value, Tensor) and value.ndim else value


def _explained(error: RuntimeError, name: str, y: Tensor, t: Tensor) -> Exception:
    if "must match" not in str(error):
        return error
    if t.ndim == 0:
        return ValueError(
            f"{name}: expected a function of each row of y by itself, found that it does not "
            f"broadcast against y of shape {tuple(y.shape)} ({error}): it is asked at other rows "
            "than yours too, so that it must hold no tensor with one entry for each row; where the "
            "check of its derivative asks, check_derivative=False"
        )
    return ValueError(
        f"{name}: expected a result for times t of shape (B, 1), one for each row of y (B, d), "
        f"found that it does not broadcast ({error}): t * y and torch.cos(t) - y do; for a matrix "
        "times a function of t write t[..., None] * A"
    )


def drift_at(process: Process, y: Tensor, t: Time) -> Tensor:
    """``f(y, t)`` ``(B, d)``, dtype of ``y``.

    Raises:
        ValueError: the drift has another shape, and as :func:`ask`.
    """
    value = check_field(ask(process.drift, "drift", y, t), y, "drift")
    return value if value.dtype == y.dtype else value.to(y)


def drift_divergence(process: Process, y: Tensor, t: Time) -> Tensor:
    """``div f(y, t)`` ``(B,)``: the class's own, else exact by autograd.

    Raises:
        ValueError: the class's own has another shape.
    """
    if process.drift_divergence is None:
        return value_and_divergence(lambda y, t: drift_at(process, y, t), y, t)[1]
    found = ask(process.drift_divergence, "drift_divergence", y, t)
    value = found if isinstance(found, Tensor) else torch.as_tensor(found, dtype=y.dtype)
    if value.shape not in ((), y.shape[:1]):
        raise ValueError(
            f"drift_divergence: expected shape ({len(y)},), found {tuple(value.shape)}: "
            "return one number for each row of y"
        )
    return value.to(y).expand(len(y))


def noise_at(process: Process, y: Tensor, t: Time, dtype: torch.dtype | None = None) -> LinearMap:
    """``G(t)`` for the points ``y``, in their dtype unless another is asked for.

    Raises:
        ValueError: the dispersion returns none of the forms of :func:`read_noise`.
    """
    t, rows = process_time(t, y), y.shape[0]
    if t.ndim and rows == y.shape[1] > 1:  # as in ``ask``
        t = torch.cat([t, t[-1:]])
    try:
        value = process.dispersion(t)
    except RuntimeError as error:
        raise _explained(error, "dispersion", y, t) from error
    G = read_noise(value, y, len(t) if t.ndim else None, dtype or y.dtype)
    return G.first(rows) if t.ndim else G


# Any field


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


def check_field(value: Any, x: Tensor, name: str = "field") -> Tensor:
    """``value``, after a check that it has the shape of ``x``: a wrong one might broadcast."""
    if not isinstance(value, Tensor) or value.shape != x.shape:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"{name}: expected shape {tuple(x.shape)}, found {found}: return one row per point"
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


# Derivatives of a drift


def jacobian_at(process: Process, y: Tensor, t: Time) -> Diagonal | Dense:
    """``J[b, i, j] = d f_i / d y_j`` at each row.

    Without the class's own: one backward pass for an elementwise drift, else ``d``, vmapped.

    Raises:
        ValueError: a Jacobian of another shape, and as in :func:`pull_back`.
    """
    if process.drift_jacobian is not None:
        return read_jacobian(ask(process.drift_jacobian, "drift_jacobian", y, t), y)
    return field_jacobian(lambda y, t: drift_at(process, y, t), y, t, process.elementwise)


def field_jacobian(field: Field, y: Tensor, t: Time, elementwise: bool = False) -> Diagonal | Dense:
    """:func:`jacobian_at` of any field, by reverse differentiation."""
    n, d = y.shape
    value, vjp = pull_back(field, y, t)
    if elementwise:
        return Diagonal.of(vjp(torch.ones_like(value)))
    axes = torch.eye(d, dtype=y.dtype, device=y.device)[:, None].expand(d, n, d)
    return Dense(torch.func.vmap(vjp)(axes).movedim(0, 1))


def drift_and_vjp(process: Process, y: Tensor, t: Time, v: Tensor) -> tuple[Tensor, Tensor]:
    """``f(y, t)`` and ``J^T v``, ``(B, d)`` each."""
    if process.drift_and_vjp is not None:
        f, product = ask(process.drift_and_vjp, "drift_and_vjp", y, t, v)
        return check_field(f, y, "drift_and_vjp"), check_field(product, y, "drift_and_vjp")
    if process.drift_jacobian is not None:
        return drift_at(process, y, t), jacobian_at(process, y, t).T @ v
    value, vjp = pull_back(lambda y, t: drift_at(process, y, t), y, t)
    return value, vjp(v)


def noise_part(process: Process, v: Tensor, t: Tensor) -> Tensor:
    """``G(t)^T v`` for rows ``v``, ``(B, m)``."""
    return noise_at(process, v, t).T @ v


def noise_norm(process: Process, v: Tensor, t: Tensor) -> Tensor:
    """``|G(t)^T v|^2`` for rows ``v``, ``(B,)``."""
    return noise_part(process, v, t).square().sum(-1)
