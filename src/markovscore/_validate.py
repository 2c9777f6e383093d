"""Checks made once, where data enter the package: expected, found, and the fix.

Every function returns the checked tensor, so that the caller can write ``x = check_points(x, 2)``.
"""

import math
import sys
from typing import Any

import torch
from torch import Tensor

_HUGE = sys.float_info.max


def check_points(x: Any, dim: int | None, name: str = "x", *, finite: bool = True) -> Tensor:
    """Return ``x`` as a floating ``(B, dim)`` tensor of finite numbers with ``B >= 1``.

    A numpy array (or anything ``torch.as_tensor`` takes) is converted without a change of dtype; a
    tensor is returned as it is. ``dim=None`` accepts any number of columns ``>= 1``; with
    ``finite=False`` the caller looks for NaN and inf.

    Raises:
        TypeError: not convertible, integer, boolean or complex.
        ValueError: wrong rank or number of columns, no rows, NaN or inf.
    """
    columns = "d" if dim is None else dim
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name}: expected a tensor of shape (B, {columns}), found {type(x).__name__}: "
            f"convert with torch.as_tensor({name})"
        ) from error
    if not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.")
        raise TypeError(f"{name}: expected floating point, found {kind}: convert with x.double()")
    if x.ndim != 2 or x.shape[1] == 0 or (dim is not None and x.shape[1] != dim):
        raise ValueError(
            f"{name}: expected shape (B, {columns}), found {tuple(x.shape)}: {_shape_fix(x, dim)}"
        )
    if x.shape[0] == 0:
        raise ValueError(f"{name}: expected at least one row, found none: pass a non-empty tensor")
    if finite:
        check_finite(x, name)
    return x


def _shape_fix(x: Tensor, dim: int | None) -> str:
    """The likeliest repair of a wrong shape."""
    if x.ndim == 1:
        one_dimensional = dim in (None, 1)
        return "add the axis with x[:, None]" if one_dimensional else "one point is x[None, :]"
    if x.ndim == 2 and dim is not None and x.shape[0] == dim:
        return "points are rows: pass x.T"
    return "one row per point, one column per coordinate (x.flatten(1) flattens images)"


def check_finite(x: Tensor, name: str = "x", context: str = "") -> None:
    """Raise ``ValueError`` naming the first row of ``x`` ``(B, ...)`` that holds NaN or inf."""
    if math.isfinite(float(x.detach().sum())):  # one pass without temporaries; it may overflow
        return
    bad = ~torch.isfinite(x)
    if not bool(bad.any()):
        return
    rows = bad.reshape(x.shape[0], -1).any(dim=1)
    row = int(rows.nonzero()[0])
    fix = context or "remove such rows with x[torch.isfinite(x).all(1)]"
    raise ValueError(
        f"{name}: expected finite numbers, found NaN or inf in {int(rows.sum())} of {x.shape[0]} "
        f"rows, the first is row {row} = {x[row].tolist()}: {fix}"
    )


def check_times(times: Any, name: str = "times") -> Tensor:
    """Return ``times`` as a 1-D float64 tensor: finite, non-negative, strictly increasing.

    A single number becomes a tensor of one element; the device is kept.

    Raises:
        ValueError: wrong rank, empty, NaN or inf, negative, unsorted or repeated.
    """
    times = torch.as_tensor(times, dtype=torch.float64)
    times = times.reshape(1) if times.ndim == 0 else times
    if times.ndim != 1 or times.numel() == 0:
        raise ValueError(
            f"{name}: expected a non-empty 1-D tensor, found shape {tuple(times.shape)}: "
            "pass for instance torch.logspace(-3, 0, 160)"
        )
    index = _first(~torch.isfinite(times))
    if index is not None:
        raise ValueError(
            f"{name}: expected finite times, found {name}[{index}] = {times[index].item()}: "
            "remove it"
        )
    index = _first(times < 0)
    if index is not None:
        raise ValueError(
            f"{name}: expected times >= 0, found {name}[{index}] = {times[index].item():g}: "
            "time runs forward from the data at t = 0"
        )
    index = _first(times.diff() <= 0)
    if index is not None:
        raise ValueError(
            f"{name}: expected strictly increasing times, found {name}[{index}] = "
            f"{times[index].item():g} and {name}[{index + 1}] = {times[index + 1].item():g}: "
            "sort and remove repeats with torch.unique(times)"
        )
    return times


def _first(mask: Tensor) -> int | None:
    """Index of the first true entry of a 1-D mask, or None."""
    return int(mask.nonzero()[0]) if bool(mask.any()) else None


def check_time(t: Any, rows: int | None, name: str = "t", *, like: Tensor | None = None) -> Tensor:
    """``t`` as one time, 0-dim, or as one for each of ``rows`` rows, ``(rows,)``.

    One time is a number or a tensor or array with one number; ``(rows,)`` and ``(rows, 1)`` hold
    one for each row. Nothing else is read as times, whatever it would broadcast to. With
    ``rows=None`` any number of rows will do, and ``(1,)`` stays as it is. The result has the dtype
    and device of ``like``; without it, float64 and the device of ``t``.

    Raises:
        TypeError: not real numbers.
        ValueError: another shape.
    """
    dtype = torch.float64 if like is None else like.dtype
    device = None if like is None else like.device
    if type(t) is float or type(t) is int:
        return torch.tensor(t, dtype=dtype, device=device)
    try:
        found = torch.as_tensor(t)
        if found.is_complex() or found.dtype == torch.bool:
            raise TypeError(found.dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name}: expected a number or a tensor of times, found {type(t).__name__} ({error}): "
            "pass real numbers, one time or one for each row"
        ) from error
    shape = tuple(found.shape)
    found = found.to(device=device, dtype=dtype)
    if shape == () or (rows is not None and shape in ((1,), (1, 1))):
        return found.reshape(())
    if shape[1:] in ((), (1,)) and shape[0] == (len(found) or 1 if rows is None else rows):
        return found.reshape(-1)
    each = "B" if rows is None else rows
    raise ValueError(
        f"{name}: expected a number or shape ({each},) or ({each}, 1), found {shape}: pass one "
        "time, or one for each row"
    )


def check_number(value: Any, name: str) -> float:
    """``value``, a number or a tensor of one number, as a float.

    Raises:
        TypeError, ValueError: not real, or more than one.
    """
    if type(value) is float or type(value) is int:
        return float(value)
    found = check_time(value, None, name)
    if found.numel() != 1:
        raise ValueError(f"{name}: expected one number, found {len(found)}: pass one of them")
    return float(found.detach())


def expand_like(t: Any, x: Tensor) -> Tensor:
    """The times ``t`` of the rows of ``x``, with the rank, dtype and device of ``x``.

    The result has shape ``(1, 1, ...)`` or ``(B, 1, ...)`` and so broadcasts against ``(B, ...)``.

    Raises:
        TypeError, ValueError: as :func:`check_time`.
    """
    return check_time(t, len(x), like=x).reshape(-1, *[1] * (x.ndim - 1))


def check_steps(steps: Any) -> int:
    """``steps`` as an integer >= 1.

    Raises:
        ValueError: it is not.
    """
    if isinstance(steps, bool) or int(steps) != steps or steps < 1:
        raise ValueError(f"steps: expected an integer >= 1, found {steps!r}")
    return int(steps)


def check_window(
    diffusion: Any, s: Any, t: Any, rows: int, *, empty: bool = False
) -> tuple[Tensor, Tensor]:
    """``s`` and ``t`` as float64 tensors on the CPU, both of shape ``(1,)`` or both ``(rows,)``.

    Raises:
        ValueError: another shape, not finite, not ``0 <= s < t <= horizon`` (with ``empty``,
            ``s <= t``); the first offending row is named.
    """
    horizon = float(getattr(diffusion, "horizon", float("inf")))
    if (
        isinstance(s, float | int)
        and isinstance(t, float | int)
        and 0 <= s < t <= min(horizon, _HUGE)
    ):
        # The usual case, without the dozen tensors of the general one.
        return torch.tensor([s], dtype=torch.float64), torch.tensor([t], dtype=torch.float64)
    ends = []
    for name, time in (("s", s), ("t", t)):
        ends.append(check_time(time, rows, name).detach().cpu().reshape(-1))
    s, t = ends
    if len(s) != len(t):
        s, t = (end.contiguous() for end in torch.broadcast_tensors(s, t))
    # The slack is the rounding of a horizon that went through float32.
    row = _first(~((t >= 0) & (t <= min(horizon * (1 + 1e-6), _HUGE))))
    if row is not None:
        raise ValueError(
            f"t: expected a time in [0, {horizon:g}], found {t[row].item():g} (row {row}): "
            "simulate within the horizon, or build the process with a longer one"
        )
    row = _first(~((s >= 0) & ((s <= t) if empty else (s < t))))
    if row is not None:
        raise ValueError(
            f"expected a window with 0 <= s {'<=' if empty else '<'} t, found s = "
            f"{s[row].item():g}, t = {t[row].item():g} (row {row}): its length must be positive "
            "and at most t"
        )
    return s, t.clamp(max=horizon)
