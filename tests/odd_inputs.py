"""Forms of an argument that users pass: other containers, shapes, types and values.

Each form is drawn from a good value and says what must come of it: ``SAME``, the result of the good
value (to the precision of the form's dtype); ``REFUSED``, an error with expected, found and a fix;
``EITHER`` of the two. Nothing else is right: no raw error of a library, no other number.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import markovscore as ms

try:
    import pandas
except ImportError:
    pandas = None

SAME, REFUSED, EITHER = "same", "refused", "either"


class Table:
    """A data frame as far as numpy can tell: ``__array__``, a shape, columns."""

    def __init__(self, x: Tensor) -> None:
        self._values = x.numpy()
        self.shape, self.columns = self._values.shape, list("abcdefgh"[: self._values.shape[-1]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._values.astype(dtype or self._values.dtype)


@dataclass(frozen=True)
class Form:
    """One way to pass an argument: its name, the value, what must come of it, its precision."""

    name: str
    value: Any
    outcome: str
    tolerance: float = 1e-9  # 0: the same bits, and their dtype
    not_finite: bool = False
    says: str = ""


@dataclass(frozen=True)
class Points:
    """Rows of floating-point numbers ``(B, d)``; ``rows`` where their number is not free."""

    value: Tensor
    fixed_rows: bool = False
    least_rows: int = 1
    optional: bool = False

    def forms(self, rng: np.random.Generator) -> Iterator[Form]:
        yield from _containers(self.value)
        for form in _wrong_points(self.value, rng):
            if not (self.optional and form.value is None):
                yield form
        x = self.value
        if self.fixed_rows:
            yield Form("another number of rows", torch.cat([x, x]), REFUSED)
        if self.least_rows > 1:
            yield Form("one row", x[:1], REFUSED, says="two or more")


@dataclass(frozen=True)
class Vector:
    """Numbers ``(N,)``: weights, times of a grid."""

    value: Tensor

    def forms(self, rng: np.random.Generator) -> Iterator[Form]:
        yield from _containers(self.value)
        v, row = self.value, int(rng.integers(len(self.value)))
        yield Form("list", v.tolist(), SAME)
        yield Form("text", "many", REFUSED)
        yield Form("matrix", v[:, None].expand(-1, 3), REFUSED)
        yield Form("empty", v[:0], REFUSED)
        yield Form("complex", v.to(torch.complex128), REFUSED)
        for bad in (math.nan, math.inf, -0.5):
            spoilt = v.clone()
            spoilt[row] = bad
            yield Form(f"{bad} in entry {row}", spoilt, REFUSED)


@dataclass(frozen=True)
class When:
    """A time, or one for each of ``rows`` points."""

    value: float
    rows: int
    end: float | None = None

    def shapes(self) -> Iterator[Form]:
        """The same time in other shapes and containers, and shapes that are wrong."""
        t, n = self.value, self.rows
        single = np.float32(t)
        yield Form("numpy number", np.float64(t), SAME)
        yield Form("float32 number", single, SAME, 1e-5)
        yield Form("tensor", torch.tensor(t, dtype=torch.float64), SAME)
        yield Form("float32 tensor", torch.tensor(t, dtype=torch.float32), SAME, 1e-5)
        yield Form("0-dim array", np.array(t), SAME)
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
            each = torch.full((n,), t, dtype=dtype)
            yield Form(f"one a row, {dtype}", each, SAME, tolerance)
            yield Form(f"one a row, a column, {dtype}", each[:, None], SAME, tolerance)
        yield Form("one a row, numpy", np.full(n, t), SAME)
        yield Form("list", [t] * n, EITHER)
        wrong = [(1, n), (n, 2), (n + 1,), (n, 1, 1), (0,), (n + 1, 1)]
        if n > 1:
            wrong += [(n - 1,) if n > 2 else (n + 2,)]
        for shape in wrong:
            if math.prod(shape) != 1 and shape != (n, 1):
                full = torch.full(shape, t, dtype=torch.float64)
                yield Form(f"shape {shape}", full, REFUSED)

    def forms(self, rng: np.random.Generator) -> Iterator[Form]:
        yield from self.shapes()
        t, n = self.value, self.rows
        for value in (math.nan, math.inf, -t, -math.inf):
            yield Form(f"{value}", value, REFUSED)
            spoilt = torch.full((n,), t, dtype=torch.float64)
            spoilt[int(rng.integers(n))] = value
            yield Form(f"one row {value}", spoilt, REFUSED)
        yield Form("complex", complex(t, 1.0), REFUSED)
        yield Form("text", "now", REFUSED)
        yield Form("None", None, REFUSED)
        yield Form("meta", torch.full((n,), t, device="meta"), REFUSED)
        if self.end is not None:
            yield Form("beyond the end", 1.5 * self.end, REFUSED, says=f", {self.end:g}]")


@dataclass(frozen=True)
class Count:
    """A whole number of at least ``least``; ``each``: a list may give one for each axis."""

    value: int
    least: int = 1
    each: bool = False

    def forms(self, rng: np.random.Generator) -> Iterator[Form]:
        n = self.value
        for kind in (np.int64, np.int16, float, torch.tensor):
            yield Form(kind.__name__, kind(n), SAME, 0.0)
        yield Form("array", np.array([n, n]), REFUSED)
        if not self.each:
            yield Form("list", [n], REFUSED)
        for bad in (self.least - 1, -n, n + 0.5, math.nan, math.inf, True, str(n), 1j):
            yield Form(repr(bad), bad, REFUSED, says="expected an integer")


@dataclass(frozen=True)
class Positive:
    """A positive number; a ``bound`` may be infinite."""

    value: float
    bound: bool = False

    def forms(self, rng: np.random.Generator) -> Iterator[Form]:
        v = self.value
        yield Form("numpy number", np.float64(v), SAME)
        yield Form("float32", np.float32(v), SAME, 1e-4)
        yield Form("tensor", torch.tensor(v, dtype=torch.float64), SAME)
        if not self.bound:
            yield Form("infinity", math.inf, REFUSED)
        for bad in (0.0, -v, math.nan, -math.inf, "much", 1j, [v, v, v]):
            yield Form(repr(bad), bad, REFUSED)


@dataclass(frozen=True)
class Name:
    """One of a few names."""

    value: str

    def forms(self, rng: np.random.Generator) -> Iterator[Form]:
        typo = self.value[:-1] + str(rng.choice(list("qxz")))
        for bad in (typo, self.value.upper(), "", 3, b"bytes"):
            yield Form(repr(bad), bad, REFUSED, says=self.value)


@dataclass(frozen=True)
class Source:
    """A ``torch.Generator``, made anew for each call."""

    seed: int

    @property
    def value(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def forms(self, rng: np.random.Generator) -> Iterator[Form]:
        yield Form("a seed", self.seed, REFUSED)
        yield Form("numpy's", np.random.default_rng(self.seed), REFUSED)
        yield Form("text", "random", REFUSED)


@dataclass(frozen=True)
class Noun:
    """A process, a score, an objective or a law: what else may stand there is for
    ``test_three_types``."""

    value: Any

    def forms(self, rng: np.random.Generator) -> Iterator[Form]:
        yield from ()


def _containers(x: Tensor) -> Iterator[Form]:
    """The same numbers in another container, order of memory or precision."""
    array = x.numpy()
    frozen = array.copy()
    frozen.setflags(write=False)
    wide = torch.stack([x, torch.full_like(x, math.nan)], -1)
    with torch.inference_mode():
        inferred = x.clone()
    arrays = {
        "numpy": array,
        "rows reversed": np.ascontiguousarray(array[::-1])[::-1],
        "last axis reversed": np.ascontiguousarray(array[..., ::-1])[..., ::-1],
        "every other row": np.repeat(array, 2, 0)[::2],
        "big-endian": array.astype(">f8"),
        "Fortran order": np.asfortranarray(array),
        "read-only": frozen,
        "long double": array.astype(np.longdouble),
        "list of arrays": list(array),
        "list of tensors": list(x),
        "table": Table(x),
    }
    if pandas is not None and x.ndim == 2:
        frame = pandas.DataFrame(array)
        arrays |= {"frame": frame, "nullable frame": frame.astype("Float64")}
    for name, value in arrays.items():
        yield Form(name, value, SAME, 0.0)
    yield Form("strided", wide[..., 0], SAME)
    yield Form("with a graph", (x.clone().requires_grad_() * 1.0), SAME)
    yield Form("leaf", x.clone().requires_grad_(), SAME)
    yield Form("parameter", torch.nn.Parameter(x.clone()), SAME)
    yield Form("inference tensor", inferred, SAME)
    yield Form("float32", x.float(), SAME, 2e-3)
    yield Form("float32 numpy", array.astype(np.float32), SAME, 2e-3)
    yield Form("lists", x.tolist(), EITHER, 2e-3)
    yield Form("masked", np.ma.masked_array(array), EITHER)
    yield Form("objects", array.astype(object), EITHER)
    yield Form("half", x.half(), EITHER, 0.2)


def _wrong_points(x: Tensor, rng: np.random.Generator) -> Iterator[Form]:
    n, d = x.shape
    row, column = int(rng.integers(n)), int(rng.integers(d))
    for bad in (math.nan, math.inf, -math.inf):
        spoilt = x.clone()
        spoilt[row, column] = bad
        for kind, value in (("", spoilt), (", numpy", spoilt.numpy())):
            yield Form(f"{bad} in row {row}{kind}", value, REFUSED, 0, True, f"row {row}")
    for dtype in (torch.int64, torch.bool, torch.complex128):
        yield Form(str(dtype), torch.zeros(n, d, dtype=dtype), REFUSED, says=str(dtype)[6:])
    yield Form("strings", np.full((n, d), "a"), REFUSED, says="array of numbers")
    yield Form("a vector", x[:, 0], REFUSED)
    yield Form("a number", 1.0, REFUSED)
    yield Form("three axes", x[None], REFUSED)
    yield Form("another width", torch.cat([x, x], 1), REFUSED)
    yield Form("no rows", x[:0], REFUSED)
    yield Form("no columns", x[:, :0], REFUSED)
    yield Form("None", None, REFUSED)
    yield Form("text", "points", REFUSED)
    yield Form("a dictionary", {"x": x}, REFUSED)
    yield Form("ragged lists", [[0.0], [0.0, 1.0]], REFUSED, says="array of numbers")
    yield Form("a function", math.sin, REFUSED)
    yield Form("sparse", x.to_sparse(), REFUSED, says="to_dense()")
    yield Form("meta", x.to("meta"), REFUSED, says="on the device meta, which holds none")
    if n != d:
        yield Form("transposed", x.T, REFUSED)


Argument = Points | Vector | When | Count | Positive | Name | Source | Noun


@dataclass(frozen=True)
class Call:
    """A public function, by keyword arguments that have forms.

    ``by_rows``: a function of each row, which may be empty, or have a value that is not finite
    where the row is not. ``draws``: its random numbers depend on the dtype of the points.
    ``one_dtype``: points of another dtype may be refused. ``untimed``: the time is not read.
    ``times_only``: looked at for its times, in any shape and precision, and no more.
    """

    name: str
    run: Callable[..., Any]
    arguments: dict[str, Argument]
    by_rows: bool = False
    draws: bool = False
    one_dtype: bool = False
    untimed: bool = False
    times_only: bool = False

    def good(self) -> dict[str, Any]:
        return {key: argument.value for key, argument in self.arguments.items()}


def dtypes(result: Any) -> list[Any]:
    """The dtypes of the tensors of a result."""
    parts = result if isinstance(result, tuple | list) else [result]
    return [part.dtype for part in parts if isinstance(part, Tensor)]


def flat(result: Any) -> Tensor:
    """The numbers of a result as one float64 vector."""
    if isinstance(result, tuple | list):
        return torch.cat([flat(part) for part in result])
    if hasattr(result, "stderr"):
        return torch.tensor([float(result)], dtype=torch.float64)
    return torch.as_tensor(result, dtype=torch.float64).detach().reshape(-1)


# What a caller reads: what was expected and what was found.
MESSAGE = re.compile(r"expected\b.*\bfound\b", re.DOTALL | re.IGNORECASE)


# Arguments whose checks are those of another, which they name; forms that concern more than one.
SHOWN = {"paths": "steps", "n_particles": "dim", "data": "(data|x0)"}
OF_MORE = ("one row", "another number of rows", "transposed")


def trouble(call: Call, key: str, form: Form, reference: Any) -> str | None:
    """What is wrong with the outcome of ``form``, or None."""
    arguments = call.good() | {key: form.value}
    expected, reference = reference, flat(reference)
    try:
        with warnings.catch_warnings():
            if form.tolerance == 0:
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", ms.SpectralWarning)
            given = call.run(**arguments)
        result = flat(given)
    except (TypeError, ValueError) as error:
        if form.outcome == SAME and not (call.one_dtype and "dtype" in str(error)):
            return f"refused: {error}"
        named = re.search(rf"\b{SHOWN.get(key, key)}\b", str(error)) or form.name in OF_MORE
        named = named or form.outcome != REFUSED
        if not MESSAGE.search(str(error)) or form.says not in str(error) or not named:
            return f"raw {type(error).__name__}: {error}"
        return None
    except Exception as error:
        return f"raw {type(error).__name__}: {error}"
    if call.by_rows and (result.numel() == 0 or form.not_finite):
        return None if not bool(torch.isfinite(result).all()) or result.numel() == 0 else "finite"
    if form.outcome == REFUSED:
        return "no error"
    if form.tolerance == 0 and dtypes(given) != dtypes(expected):
        return f"{dtypes(given)} for {dtypes(expected)}"
    if call.draws and isinstance(call.arguments[key], Points) and form.tolerance > 1e-5:
        return None if result.shape == reference.shape and bool(result.isfinite().all()) else "bad"
    size = float(reference.abs().max())
    if result.shape == reference.shape and bool(
        ((result - reference).abs() <= form.tolerance * max(size, 1.0)).all()
    ):
        return None
    return f"{result.tolist()[:4]} for {reference.tolist()[:4]}"


def refused(message: str, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> str:
    """``call`` raises an error that matches ``message``: a ``ValueError``, or that of ``error``.
    Returns all that it says."""
    with pytest.raises(named.pop("error", ValueError), match=message) as caught:
        call(*arguments, **named)
    return str(caught.value)
