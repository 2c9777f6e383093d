"""Checks made once, where data enter the package: expected, found, and the fix.

Every function returns the checked tensor, so that the caller can write ``x = check_points(x, 2)``.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
    if type(value) not in (float, int):
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


def check_callable(score: Any, noun: str = "score") -> None:
    """Raise ``TypeError`` where ``score`` cannot be called."""
    if not callable(score):
        raise TypeError(
            f"{noun}: expected a function (x, t) -> (B, d), found {type(score).__name__}: pass a "
            "network, a fitted score or a function of your own"
        )
