"""Checks made once, where data enter the package: expected, found, and the fix.

Every function returns the checked tensor, so that the caller can write ``x = check_points(x, 2)``.
"""

import functools
import inspect
import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

_HUGE = sys.float_info.max


def as_tensor(x: Any, name: str = "x", dtype: torch.dtype | None = None) -> Tensor:
    """``x`` as a dense tensor: a tensor itself, or anything that numpy takes.

    Arrays and frames may be read-only, of any strides and byte order; masked and missing entries
    become NaN, which the caller refuses. A list of tensors is stacked. Without ``dtype`` that of
    ``x`` is kept, and lists of Python's floats have torch's default.

    Raises:
        TypeError: not numbers, a sparse tensor, or one without numbers (``device="meta"``).
    """
    if isinstance(x, Tensor):
        if x.layout == torch.strided and not x.is_meta:
            return x if dtype is None else _real(x, name).to(dtype)
        if x.is_meta:
            kind, fix = "one on the device meta, which holds none", "move the data to cpu or cuda"
        else:
            kind, fix = str(x.layout), f"pass {name}.to_dense()"
        raise TypeError(f"{name}: expected numbers in a dense tensor, found {kind}: {fix}")
    if isinstance(x, list | tuple) and x and all(isinstance(part, Tensor) for part in x):
        return torch.stack([as_tensor(part, name, dtype) for part in x])
    if hasattr(x, "__cuda_array_interface__"):
        return torch.as_tensor(x, dtype=dtype)
    try:
        tensor = _from_numpy(x)
        if dtype is not None and (tensor.is_complex() or tensor.dtype == torch.bool):
            raise TypeError(f"its numbers are {tensor.dtype}, not real")
        if dtype is None and _plain(x) and tensor.is_floating_point():
            dtype = torch.get_default_dtype()
        return tensor if dtype is None else tensor.to(dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name}: expected a tensor, or an array of numbers, found {type(x).__name__} "
            f"({str(error)[:80]}): {_conversion(x, name)}"
        ) from error


def _real(x: Tensor, name: str) -> Tensor:
    if x.is_complex() or x.dtype == torch.bool:
        kind = str(x.dtype).removeprefix("torch.")
        raise TypeError(f"{name}: expected real numbers, found {kind}: pass {name}.real, or floats")
    return x


def as_floats(x: Any, name: str = "x") -> Tensor:
    """:func:`as_tensor` of what is floating point.

    Raises:
        TypeError: not convertible, integer, boolean or complex.
    """
    given, x = x, as_tensor(x, name)
    if not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.")
        fix = "x.double()" if isinstance(given, Tensor) else f"np.asarray({name}, dtype=float)"
        raise TypeError(f"{name}: expected floating point, found {kind}: convert with {fix}")
    return x


def as_input(x: Any, like: Tensor, name: str = "x") -> Tensor:
    """``x``, a tensor; anything else as floating points with the dtype and device of ``like``.

    A tensor made in inference mode is copied outside of it, where parameters need their gradients.
    """
    if isinstance(x, Tensor):
        left_over = x.is_inference() and not torch.is_inference_mode_enabled()
        return as_tensor(x.clone() if left_over else x, name)
    x = as_tensor(x, name)
    return x.to(like) if x.is_floating_point() else x


def _from_numpy(x: Any) -> Tensor:
    array = np.ma.filled(x.astype(float), np.nan) if np.ma.is_masked(x) else np.asarray(x)
    if array.dtype == object and array.ndim:  # a frame of mixed columns, None in a list
        array = array.astype(np.float64)
    wanted = np.dtype(np.float64) if array.dtype == np.longdouble else array.dtype
    wanted = wanted.newbyteorder("=")
    if not (array.dtype == wanted and array.flags.c_contiguous and array.flags.writeable):
        array = np.array(array, dtype=wanted, order="C")
    return torch.from_numpy(array)


def _plain(x: Any) -> bool:
    """Whether ``x`` is made of Python's own numbers and lists."""
    while isinstance(x, list | tuple) and x:
        x = x[0]
    return type(x) in (int, float)


def _conversion(x: Any, name: str) -> str:
    """A call that makes a tensor of what could not be converted."""
    if hasattr(x, "toarray"):
        return f"pass {name}.toarray()"
    if hasattr(x, "dataset") or hasattr(x, "__next__"):
        return (
            f"read its batches with torch.cat(list({name})), or, where they are (points, labels), "
            f"torch.cat([batch[0] for batch in {name}])"
        )
    return f"pass np.asarray({name}, dtype=float), of numeric columns alone"


def check_points(x: Any, dim: int | None, name: str = "x", *, finite: bool = True) -> Tensor:
    """Return ``x`` as a floating ``(B, dim)`` tensor of finite numbers with ``B >= 1``.

    A numpy array, a frame, a list (:func:`as_tensor`) is converted without a change of dtype; a
    tensor is returned as it is. ``dim=None`` accepts any number of columns ``>= 1``; with
    ``finite=False`` the caller looks for NaN and inf.

    Raises:
        TypeError: not convertible, integer, boolean or complex.
        ValueError: wrong rank or number of columns, no rows, NaN or inf.
    """
    columns = "d" if dim is None else dim
    x = as_floats(x, name)
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
    bad = ~(torch.isfinite(t) & ((t > 0) if after else (t >= 0)))
    if bool(bad.any()):
        reason = (
            ": at t = 0 the transition is a point mass" if after else ": time runs from the data"
        )
        raise ValueError(
            f"{name}: expected finite times {'>' if after else '>='} 0, found "
            f"{float(t[bad].reshape(-1)[0]):g}{reason}"
        )
    return t


def check_integer(value: Any, name: str, low: int = 1, high: int | None = None) -> int:
    """``value`` as an ``int`` in ``low..high``: an integer of Python, numpy or torch (0-dim), or a
    float that is one, such as ``1e4``; no bool.

    Raises:
        ValueError: it is not.
    """
    if (number := _number(value)) is not None and number == math.floor(number):
        exact = number if isinstance(value, float) else int(value)  # beyond 2^53 not the float
        if low <= exact and (high is None or exact <= high):
            return int(exact)
    bounds = f">= {low}" if high is None else f"from {low} to {high}"
    raise ValueError(
        f"{name}: expected an integer {bounds}, found {value!r}: pass an int in this range"
    )


def check_number(
    value: Any, name: str, *, positive: bool = False, finite: bool = True, fix: str = ""
) -> float:
    """``value`` as a ``float``: a real number of Python, numpy or torch (0-dim); no bool.

    Raises:
        ValueError: it is not, or not finite or positive where that is asked for.
    """
    number = _number(value, finite)
    if number is None or (positive and not number > 0):
        kinds = ["finite"] * finite + ["positive"] * positive
        found = value if number is None or isinstance(value, float | int) else number
        raise ValueError(
            f"{name}: expected a {' '.join([*kinds, 'number'])}, found {found!r}"
            + (f": {fix}" if fix else "")
        )
    return number


def _number(value: Any, finite: bool = True) -> float | None:
    """``value`` as a float if it is one real number (not NaN), else None."""
    if isinstance(value, bool | np.bool_ | str | bytes):
        return None
    if getattr(value, "ndim", 0) != 0:  # an array of one number is one
        value = value.reshape(()) if math.prod(value.shape) == 1 else None
    if isinstance(value, Tensor) and (value.dtype == torch.bool or value.is_meta):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return number if math.isfinite(number) or (not finite and number == number) else None


def is_number(value: Any) -> bool:
    """Whether ``value`` is one real number, infinity included, of Python, numpy or torch."""
    return _number(value, finite=False) is not None


def is_integer(value: Any) -> bool:
    """Whether ``value`` is a number that :func:`check_integer` would take."""
    number = _number(value)
    return number is not None and number == math.floor(number)


def check_steps(steps: Any) -> int:
    """``steps`` as an integer >= 1; ``ValueError`` where it is not."""
    return check_integer(steps, "steps")


def check_precision(x: Tensor, name: str = "x") -> Tensor:
    """``x``, float32 or float64: there is no factorisation in less.

    Raises:
        TypeError: half precision.
    """
    if x.element_size() < 4:
        kind = str(x.dtype).removeprefix("torch.")
        raise TypeError(f"{name}: expected float32 or float64, found {kind}: pass {name}.float()")
    return x


def check_generator(generator: Any, device: torch.device | None = None) -> None:
    """Raise ``TypeError`` where ``generator`` is neither a ``torch.Generator`` nor None, a seed for
    instance, and ``ValueError`` where it is not on ``device``."""
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator: expected a torch.Generator, found {type(generator).__name__}: pass "
            "torch.Generator().manual_seed(seed)"
        )
    if device is not None and generator.device.type != device.type:
        raise ValueError(
            f"generator: expected one on {device.type}, where the points are, found one on "
            f"{generator.device.type}: pass torch.Generator({device.type!r}).manual_seed(seed)"
        )


def check_callable(score: Any) -> None:
    """Raise ``TypeError`` where ``score`` cannot be called."""
    if not callable(score):
        raise TypeError(
            f"score: expected a function (x, t) -> (B, d), found {type(score).__name__}: pass a "
            "network, a fitted score or a function of your own"
        )


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


# Parameters that are points, and the public methods of laws and processes that take them: those
# that act on numbers of any shape, and those on rows of ``dim`` coordinates.
_POINTS = ("x", "y", "x0", "v")
_ELEMENTWISE = ("project", "contains")
_BY_ROWS = (
    *("log_prob", "score", "hessian", "score_and_hessian_product"),
    *("drift", "drift_divergence", "drift_jacobian", "drift_and_vjp"),
    *(_TRANSITIONS := ("sample_transition", "log_transition", "transition_score")),
)
Class = TypeVar("Class", bound=type)


def takes_arrays(cls: Class) -> Class:
    """Decorates a law or process: its methods take points as :func:`as_floats` does, and those that
    act on rows check that there are ``dim`` columns and as many rows of each argument. A tensor of
    integers would pass unseen, and round the parameters that take its dtype; one of another shape
    might broadcast. What is not finite has a value that is not."""
    for name in (*_ELEMENTWISE, *_BY_ROWS):
        method = vars(cls).get(name)
        if inspect.isfunction(method):
            setattr(cls, name, _taking_arrays(method, name in _BY_ROWS))
    return cls


def _taking_arrays(method: Callable, by_rows: bool) -> Callable:
    names = list(inspect.signature(method).parameters)[1:]
    places = [place for place, name in enumerate(names) if name in _POINTS]
    last, random, of_time = max(places), "generator" in names, method.__name__ in _TRANSITIONS

    @functools.wraps(method)
    def taking(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not of_time and len(args) > last and _fit(self, [args[i] for i in places], by_rows):
            return method(self, *args, **kwargs)
        named = dict(zip(names, args, strict=False)) | kwargs
        if random:
            check_generator(named.get("generator"))
        points = {k: as_floats(v, k) for k, v in named.items() if k in _POINTS}
        if by_rows and not _fit(self, list(points.values()), True):
            _check_rows(self, points)
        if of_time:
            rows = max(len(x) for x in points.values())
            check_from_start(check_time(named.get("t"), rows), after=not random)
        given = [points.get(k, v) for k, v in zip(names, args, strict=False)]
        rest = {k: points.get(k, v) for k, v in kwargs.items()}
        return method(self, *given, *args[len(names) :], **rest)

    return taking


def _fit(owner: Any, points: list[Any], by_rows: bool) -> bool:
    """Whether all are dense tensors of floats, and with ``by_rows`` of rows that go together."""
    dim, rows = owner.dim, {1}
    for x in points:
        dense = isinstance(x, Tensor) and x.layout == torch.strided and not x.is_meta
        if not (dense and x.is_floating_point()):
            return False
        if by_rows and (x.ndim != 2 or x.shape[1] != dim):
            return False
        rows.add(len(x) if by_rows else 1)
    return len(rows) <= 2


def _check_rows(owner: Any, points: dict[str, Tensor]) -> None:
    for name, x in points.items():
        check_points(x, owner.dim, name, finite=False)
    sizes = {name: len(x) for name, x in points.items()}
    if len({1, *sizes.values()}) > 2:
        counts = " and ".join(f"{size} of {name}" for name, size in sizes.items())
        raise ValueError(
            f"{', '.join(sizes)}: expected as many rows of each, found {counts}: pass one row for "
            "each pair, or a single one for all"
        )


TIME_LAWS = ("uniform", "log", "importance")


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
