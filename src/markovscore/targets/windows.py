"""Windows ``[s(t), t]`` that end at a time: by a length of clock, or by a schedule of one's own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import (
    Clock,
    DiffusionLike,
    Process,
    Time,
    as_diffusion,
    check_from_start,
    check_number,
    check_time,
    check_window,
)

Schedule = Callable[[Tensor], Tensor]


def fixed_window(t: Time, width: float) -> Time:
    """``s(t) = max(t - width, 0)``, the type of ``t``.

    Raises:
        ValueError: a width that is not positive.
    """
    width = _check_width(width, "width")
    check_from_start(check_time(t, None))
    if isinstance(t, float | int):
        return max(t - width, 0.0)
    return (torch.as_tensor(t) - width).clamp(min=0)


def clock_window(diffusion: DiffusionLike, t: Time, width: float) -> Time:
    r"""``s_lambda(t)``: the ``s`` with ``int_s^t beta = lambda``, 0 where ``t`` is too early.

    The error of the linearised mean is second order in the *clock* window, so this schedule keeps
    it level while ``beta`` changes (Singhal et al. 2024, figure 2). Any clock: closed form for
    linear ``beta``, quadrature and Newton's method for a callable.

    Args:
        diffusion: its ``clock``, or ``tau = t`` if it has none, which gives :func:`fixed_window`;
            the form of the noise, a :class:`Diagonal` for instance, plays no part.
        t: a number or a tensor; ``s`` is of the same type and computed in float64.
        width: ``lambda``, positive.

    Raises:
        ValueError: a width that is not positive.
    """
    width = _check_width(width, "width")
    start = _start(
        as_diffusion(diffusion).clock, check_from_start(check_time(t, None).cpu()), width
    )
    if isinstance(t, float | int):
        return float(start)
    t = torch.as_tensor(t)
    return start.reshape(t.shape).to(t if t.is_floating_point() else start)


def _start(clock: Clock, t: Tensor, width: float) -> Tensor:
    """:func:`clock_window` for float64 times on the CPU."""
    return torch.minimum(clock.inverse((clock.elapsed(t) - width).clamp(min=0)), t)


def _check_width(width: float, name: str) -> float:
    return check_number(width, name, positive=True, finite=False)


def check_schedule(window: Any) -> Any:
    """``window``, a positive length of clock or a schedule ``t -> s``.

    Raises:
        TypeError: neither.
        ValueError: not positive.
    """
    if callable(window):
        return window
    if isinstance(window, bool | str) or not hasattr(window, "__float__"):
        raise TypeError(
            f"window: expected a length of clock or a schedule t -> s, found {window!r}"
        )
    return _check_width(window, "window")


def window_ends(process: Process, window: float | Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """``s(t)`` and ``t``, float64 ``(B,)`` on the CPU, by a length of clock or a schedule.

    ``s`` is rounded as ``t`` is, so that both may be kept in the dtype of ``t``.

    Raises:
        ValueError: a window outside ``0 <= s < t``.
    """
    if callable(window):
        s = check_time(window(t), len(t), "s", like=t)
    else:
        s = _start(process.clock, t.double().cpu(), window).to(t)
    return check_window(process.horizon, s, t, len(t))


def kept_ends(process: Process, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The same for ends that :func:`window_ends` gave, kept in another dtype."""
    return s.double().cpu(), t.double().cpu().clamp(max=float(process.horizon))
