r"""Score and divergence of additive OISM, coordinate by coordinate."""

from typing import Any

import torch
from torch import Tensor

from ..core import between, check_finite, expand_like, recorded, series, standard_scale
from .blocks import MAX_ELEMENTS, working_rows
from .constants import REACH
from .dispatch import unsupported, use_triton

MAX_FUNCTIONS = 9  # coefficients of a column stay in registers


def additive_score(
    x: Tensor,
    ou_time: Tensor,
    upper: Tensor,
    share: Tensor,
    table: Tensor,
    centre: Tensor,
    scale: Tensor,
    low: Tensor,
    high: Tensor,
    divergence: bool = True,
) -> tuple[Tensor, Tensor | None]:
    r"""Score of every coordinate from its own series, and the sum of the derivatives.

    With ``a = e^{-t}``, ``v = 1 - a^2``, ``s_{i,t}^2 = a^2 s_i^2 + v`` and ``y_i`` the point of
    ``[a low_i - 4 \sqrt v, a high_i + 4 \sqrt v]`` that is nearest to ``x_i``

    .. math::
        s_i = \frac{1}{s_{i,t}} \Big( \sum_n g_{i,n}(t)\, \phi_n(u_i) - \frac{x_i - y_i}{s_{i,t}}
              \Big), \qquad u_i = \frac{y_i - a c_i}{s_{i,t}}

    and the divergence is the sum of ``\partial_i s_i``, which beyond the interval is
    ``-1 / s_{i,t}^2``. On a GPU ``g(t)`` is interpolated where it is used: ``x`` is read and the
    score written once, and the levels of the table at the rows' times. Gradients reach ``x``; a
    second backward pass goes through the twin.

    Args:
        x: ``(B, d)``, finite; float32 and float64 have a kernel, other floats none.
        ou_time: ``t`` of the unit Ornstein-Uhlenbeck process, ``(1,)`` or ``(B,)`` float64.
        upper: index of the level above each time, as many int64.
        share: ``g(t) = (1 - share) g[upper - 1] + share g[upper]``, as many float64.
        table: ``g`` ``(T, K, d)``, of the dtype and device of ``x``, as all below.
        centre: ``c`` ``(d,)``.
        scale: ``s`` ``(d,)``.
        low: ``(d,)``, may be infinite.
        high: ``(d,)``, may be infinite.
        divergence: False leaves it out.

    Returns:
        The score ``(B, d)`` and the divergence ``(B,)`` or None.

    Raises:
        ValueError: wrong shapes; NaN or inf in ``x`` (the first such row is named).
        TypeError: a table of another dtype than ``x``.
    """
    columns = (centre, scale, low, high)
    _check(x, (ou_time, upper, share), table, columns)
    limit = unsupported(x, gradients=True) or unsupported(table, *columns, ou_time, share)
    if len(table[0]) > MAX_FUNCTIONS or table.numel() > MAX_ELEMENTS:
        limit = f"expected at most {MAX_FUNCTIONS} functions and {MAX_ELEMENTS} entries of the "
        limit += f"table, found {len(table[0])} and {table.numel()}"
    if not use_triton("additive_score", x, table, limit=limit):
        return _in_blocks(x, ou_time, upper, share, table, columns, divergence)
    arguments = (ou_time, upper, share, table, columns, divergence)
    if x.requires_grad and torch.is_grad_enabled():
        return _Kernel.apply(x, arguments)
    return _forward(x, *arguments)


def _check(x: Tensor, rows: tuple[Tensor, ...], table: Tensor, columns: tuple[Tensor, ...]) -> None:
    if x.ndim != 2 or table.ndim != 3 or 0 in table.shape or x.shape[1] != table.shape[2]:
        raise ValueError(
            f"expected x of shape (B, d) and a table (T, K, d), found {tuple(x.shape)} and "
            f"{tuple(table.shape)}: one series for each column of x"
        )
    for name, value in zip(("ou_time", "upper", "share"), rows, strict=True):
        if value.ndim != 1 or len(value) not in (1, len(x)) or len(value) != len(rows[0]):
            raise ValueError(
                f"{name}: expected shape (1,) or ({len(x)},), ou_time, upper and share alike, "
                f"found {tuple(value.shape)}"
            )
    shape, dtype = x.shape[1:], x.dtype
    for name, value in zip(("centre", "scale", "low", "high"), columns, strict=True):
        if value.shape != shape:
            raise ValueError(f"{name}: expected ({x.shape[1]},), found {tuple(value.shape)}")
        if not value.dtype == table.dtype == dtype:
            raise TypeError(
                f"{name}, table: expected {x.dtype} as x, found {value.dtype} and {table.dtype}: "
                "convert with table.to(x)"
            )


def _in_blocks(
    x: Tensor, ou_time: Tensor, upper: Tensor, share: Tensor, *rest: Any
) -> tuple[Tensor, Tensor | None]:
    """The twin; on a CPU over blocks of rows, so that what it computes stays in the cache."""
    check_finite(x, "x")
    rows = working_rows(x.device, x.shape[1])
    if x.device.type != "cpu" or len(x) <= rows or recorded(x):
        return _twin(x, ou_time, upper, share, *rest)
    score, total = torch.empty_like(x), x.new_empty(len(x))
    for first in range(0, len(x), rows):
        part = slice(first, first + rows)
        own = part if len(upper) > 1 else slice(None)
        made = _twin(x[part], ou_time[own], upper[own], share[own], *rest)
        score[part] = made[0]
        if made[1] is not None:
            total[part] = made[1]
    return score, total if rest[-1] else None


def _twin(
    x: Tensor,
    ou_time: Tensor,
    upper: Tensor,
    share: Tensor,
    table: Tensor,
    columns: tuple[Tensor, ...],
    divergence: bool,
) -> tuple[Tensor, Tensor | None]:
    centre, scale, low, high = columns
    ou = expand_like(ou_time, x)
    a, s_t, _ = standard_scale(scale, ou)
    reach = REACH * (-torch.expm1(-2 * ou)).sqrt()
    inside = torch.clamp(x, a * low - reach, a * high + reach)
    excess = (x - inside) / s_t
    g = between(table, upper, share)
    value, slope = series((inside - a * centre) / s_t, g, divergence)
    score = (value - excess) / s_t
    if not divergence:
        return score, None
    slope = torch.where(excess == 0, slope, -1.0)
    return score, (slope / s_t.square()).sum(1)


def _forward(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor | None]:
    from ._triton import additive_score as triton_version

    score, total, bad = triton_version.forward(x.detach(), *arguments)
    if bad:
        check_finite(x, "x")
    return score, total


class _Kernel(torch.autograd.Function):
    """The kernel, with its vector-Jacobian product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, arguments: tuple) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(x)
        ctx.arguments = arguments
        ctx.set_materialize_grads(False)
        return _forward(x, *arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        (x,) = ctx.saved_tensors
        if gradients[0] is None and gradients[1] is None:
            return None, None
        if torch.is_grad_enabled():  # create_graph=True: a derivative of what comes now is wanted
            return _through_twin(x, gradients, ctx.arguments), None
        from ._triton import additive_score as triton_version

        by_score, by_divergence = gradients
        arguments = (x.detach(), by_score, by_divergence, *ctx.arguments[:-1])
        return triton_version.backward(*arguments), None


def _through_twin(x: Tensor, gradients: tuple[Tensor | None, ...], arguments: tuple) -> Tensor:
    pairs = [
        (output, gradient)
        for output, gradient in zip(_twin(x, *arguments), gradients, strict=True)
        if gradient is not None and output is not None and output.requires_grad
    ]
    if not pairs:  # the divergence of a linear score
        return torch.zeros_like(x)
    outputs, given = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, x, given, create_graph=True)[0]
