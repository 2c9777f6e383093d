"""Checks of times: one, one for each row, a grid, a window, a range."""

import math
import sys
from typing import Any

import torch
from torch import Tensor

from .checks import as_tensor, check_number

_HUGE = sys.float_info.max
TIME_LAWS = ("uniform", "log", "importance")


def check_times(times: Any, name: str = "times") -> Tensor:
    """Return ``times`` as a 1-D float64 tensor: finite, non-negative, strictly increasing.

    A single number becomes a tensor of one element; the device is kept.

    Raises:
        ValueError: wrong rank, empty, NaN or inf, negative, unsorted or repeated.
    """
    times = as_tensor(times, name, torch.float64).detach()
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
        return torch.tensor(t, dtype=dtype, device="cpu" if device is None else device)
    try:
        found = as_tensor(t, name, None if isinstance(t, Tensor) else torch.float64)
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


def expand_like(t: Any, x: Tensor) -> Tensor:
    """The times ``t`` of the rows of ``x``, with the rank, dtype and device of ``x``.

    The result has shape ``(1, 1, ...)`` or ``(B, 1, ...)`` and so broadcasts against ``(B, ...)``.

    Raises:
        TypeError, ValueError: as :func:`check_time`.
    """
    return check_time(t, len(x), like=x).reshape(-1, *[1] * (x.ndim - 1))


def check_from_start(t: Tensor, name: str = "t", *, after: bool = False) -> Tensor:
    """``t``, after a check that all times are finite and ``>= 0``, or ``> 0`` where ``after``.

    Times on a device are not looked at, which would make the caller wait for it, nor those of
    ``torch.func``.

    Raises:
        ValueError: one is not.
    """
    hidden = t.device.type != "cpu" or torch.compiler.is_compiling()
    if hidden or torch._C._functorch.is_functorch_wrapped_tensor(t):
        return t
    low, high = _range(t)
    if not (low > 0 if after else low >= 0) or not high < math.inf:
        bad = ~(torch.isfinite(t) & ((t > 0) if after else (t >= 0)))
        reason = (
            ": at t = 0 the transition is a point mass" if after else ": time runs from the data"
        )
        raise ValueError(
            f"{name}: expected finite times {'>' if after else '>='} 0, found "
            f"{float(t[bad].reshape(-1)[0]):g}{reason}"
        )
    return t


def check_window(
    horizon: float, s: Any, t: Any, rows: int, *, empty: bool = False
) -> tuple[Tensor, Tensor]:
    """``s`` and ``t`` as float64 tensors on the CPU, both of shape ``(1,)`` or both ``(rows,)``.

    Raises:
        ValueError: another shape, not finite, not ``0 <= s < t <= horizon`` (with ``empty``,
            ``s <= t``); the first offending row is named.
    """
    horizon = float(horizon)
    if (
        isinstance(s, float | int)
        and isinstance(t, float | int)
        and 0 <= s < t <= min(horizon, _HUGE)
    ):
        # The usual case, without the dozen tensors of the general one.
        both = torch.tensor([[s], [t]], dtype=torch.float64, device="cpu")
        return both[0], both[1]
    named = (("s", s), ("t", t))
    s, t = (check_time(v, rows, name).detach().cpu().reshape(-1) for name, v in named)
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


def check_time_range(
    horizon: float, t_min: float, t_max: float | None, times: str
) -> tuple[float, float]:
    """``t_min`` and ``t_max``, the diffusion's horizon where that is None.

    Raises:
        ValueError: not ``0 < t_min < t_max <= horizon``, or an unknown time sampler.
    """
    horizon = float(horizon)
    t_min = check_number(t_min, "t_min")
    high = horizon if t_max is None else check_number(t_max, "t_max", finite=False)
    if not 0 < t_min < high < math.inf:
        raise ValueError(
            f"expected 0 < t_min < t_max < inf, found t_min = {t_min}, t_max = {high}: "
            "t_max=None takes the diffusion's horizon"
        )
    if times not in TIME_LAWS:
        raise ValueError(f"times: expected 'uniform', 'log' or 'importance', found {times!r}")
    return t_min, high


def _range(t: Tensor) -> tuple[float, float]:
    """The least and the largest of times; NaN if there is one."""
    if t.numel() == 0:
        return 1.0, 1.0
    low, high = t.detach().aminmax()
    return low.item(), high.item()


def _first(mask: Tensor) -> int | None:
    """Index of the first true entry of a 1-D mask, or None."""
    return int(mask.nonzero()[0]) if bool(mask.any()) else None
