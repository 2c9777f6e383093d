"""What every score in closed form shares: levels in time, checks before and not inside, files."""

import inspect
import json
from abc import abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Self

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..core import (
    Process,
    ScoreModel,
    as_diffusion,
    check_time,
    checksum,
    full_precision,
    lasting,
    name_of,
    original,
    output_path,
    user_path,
    value_and_divergence,
    write_whole,
)
from ..diffusions import (
    Affine,
    BoxBrownian,
    DoubleWell,
    Gaussian,
    GaussianMixture,
    Langevin,
    Logistic,
    OrnsteinUhlenbeck,
    Product,
    ProductMixture,
    Quartic,
    TorusBrownian,
    VariancePreserving,
)

_CLASSES = (
    OrnsteinUhlenbeck, VariancePreserving, TorusBrownian, BoxBrownian, Product, Affine, Langevin,
    DoubleWell, Gaussian, GaussianMixture, Logistic, ProductMixture, Quartic,
)  # fmt: skip
_PARTS = ("factors", "process", "prior")  # arguments that are processes or laws themselves
_SLACK = 1e-6  # of the last level: a time that went through float32 may miss an end by its rounding


class Levels:
    """Increasing noise levels ``(T,)``, between which a table of coefficients is linear in time
    (paper A, Figure 5); times ``t`` are float64, 0-dim or ``(B,)``."""

    def __init__(self, times: Tensor) -> None:
        self.times = times
        self.first, self.last = float(times[0]), float(times[-1])

    def check(self, t: Tensor) -> None:
        """Raise ``ValueError`` for times out of the fitted range, or that are no numbers."""
        earliest, latest = (float(end) for end in t.detach().aminmax())
        slack = _SLACK * self.last
        if not (earliest >= self.first - slack and latest <= self.last + slack):
            raise ValueError(
                f"t: expected times in the fitted range [{self.first:g}, {self.last:g}], found "
                f"{earliest:g} to {latest:g}: fit with times that cover it"
            )

    def place(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The first level at or after each time, and the share of the way to it, on the device of
        the levels; of a single level, that one."""
        t = t.to(self.times.device)
        if len(self.times) == 1:
            return torch.zeros_like(t, dtype=torch.int64), torch.ones_like(t)
        upper = torch.searchsorted(self.times, t.contiguous()).clamp(1, len(self.times) - 1)
        left, right = self.times[upper - 1], self.times[upper]
        return upper, ((t - left) / (right - left)).clamp(0, 1)

    def interpolate(self, table: Tensor, t: Tensor) -> Tensor:
        """``table`` ``(T, ...)`` at times ``t``: ``(...)`` or ``(B, ...)``."""
        upper, share = self.place(t)
        upper, share = upper.to(table.device), share.to(table)
        share = share.reshape(*share.shape, *[1] * (table.ndim - 1))
        return torch.lerp(table[upper - 1], table[upper], share)


def one_time(t: Tensor) -> Tensor:
    """``t`` ``(B,)`` as 0-dim where all are the same, as samplers pass it; else as it is."""
    return t[0] if t.ndim and bool((t == t[0]).all()) else t


class FittedScore(ScoreModel):
    """A score in closed form: a table of coefficients over noise levels.

    A call is its checks and :meth:`evaluate`, which has none. A subclass has the fields
    ``diffusion``, ``times`` and those below, and the methods at the end.

    Attributes:
        dtype: of the points it was fitted to, float32 at least: samples are alike.
        device: likewise.
        columns: what their coordinates are called, where they were a data frame.
    """

    kind: ClassVar[str]  # as files name it
    diffusion: Any
    columns: tuple[str, ...] | None
    dtype: torch.dtype
    device: torch.device

    @full_precision
    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        """``s(x, t)`` ``(B, d)`` at ``x`` ``(B, d)`` and a time, or ``(B,)`` or ``(B, 1)`` of them.

        Raises:
            TypeError, ValueError: malformed points, a time outside the fitted range.
        """
        return self._in_units(*self._checked(x, t))

    def _in_units(self, x: Tensor, t: Tensor) -> Tensor:
        """The score at checked points in the user's units."""
        chart = self.process.chart
        if chart is None:
            return self.evaluate(x, t, divergence=False)[0]
        return chart.slope(self.evaluate(chart.to_inner(x), t, divergence=False)[0])

    def divergence(self, x: Tensor, t: float | Tensor) -> Tensor:
        """``div s(x, t)`` ``(B,)``."""
        return self.score_and_divergence(x, t)[1]

    @full_precision
    def score_and_divergence(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """``s(x, t)`` ``(B, d)`` and ``div s(x, t)`` ``(B,)``, sharing the work; errors as of a
        call. Of an affine image of a process ``div s`` is taken by autograd: flows are made in the
        coordinates of the process, and do not need it."""
        x, t = self._checked(x, t)
        if self.process.chart is None:
            return _both(*self.evaluate(x, t, divergence=True))
        return value_and_divergence(self, x, t)

    def unchecked(self, x: Tensor) -> ScoreModel:
        """The same score for a flow that starts at ``x`` ``(B, d)``, which is checked here, and
        only here; its solver looks at the state, and its grid is within the fitted range."""
        self.check(x)
        return Unchecked(self)

    def in_chart(self, chart: Any) -> ScoreModel:
        """The same score in the coordinates of ``chart.inner``."""
        own = self.process.chart
        if own is None or not own.same_map(chart):
            raise ValueError(
                f"diffusion: expected the {name_of(self.process)} that the score was fitted to, "
                "found another affine image: pass score.diffusion"
            )
        return replace(self, diffusion=original(chart.inner))  # type: ignore[type-var]

    def _checked(self, x: Any, t: Any) -> tuple[Tensor, Tensor]:
        x = self.check(x)
        t = check_time(t, len(x))
        self.levels.check(t)
        return x, t

    @cached_property
    def levels(self) -> Levels:
        """The noise levels."""
        return Levels(self.times)

    @cached_property
    def process(self) -> Process:
        """The diffusion, with every attribute."""
        return as_diffusion(self.diffusion)

    @cached_property
    def canonical(self) -> Process:
        """The process in whose coordinates the coefficients are: of an affine image the inner
        one."""
        return self.process if self.process.chart is None else self.process.chart.inner

    @cached_property
    def checksum(self) -> str:  # type: ignore[override]
        """Identifies the fit in the checkpoints of networks that are trained on top of it."""
        times, table, *others = self.tensors().values()
        return f"{self.kind} {tuple(table.shape)} crc32 {checksum(times, table, *others)}"

    def save(self, path: Any) -> None:
        """Write a safetensors file, whole or not at all."""
        metadata = {
            "format": f"markovscore.{self.kind}/1",
            "diffusion": json.dumps(_settings(self.process)),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "columns": json.dumps(self.columns),
        }
        held = self.tensors() | self.record()
        tensors = {k: v.detach().cpu().contiguous() for k, v in held.items()}
        write_whole(output_path(path, "path"), safetensors.torch.save(tensors, metadata))

    @classmethod
    @lasting
    def load(cls, path: Any, diffusion: Any = None) -> Self:
        """Read what :meth:`save` wrote; a diffusion of a class of one's own is passed again.

        Files of earlier versions do not say what the data were: float64 on the CPU.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a corrupt file, or one of another kind; another diffusion, or none where one
                is needed.
        """
        diffusion, tensors, metadata = _read(path, cls.kind, diffusion)
        dtype = getattr(torch, metadata.get("dtype", "float64"))
        device = _device_here(metadata.get("device", "cpu"))
        names = json.loads(metadata.get("columns", "null"))
        placed = {"dtype": dtype, "device": device, "columns": names and tuple(names)}
        return cls.from_tensors(diffusion, tensors, **placed)

    @abstractmethod
    def check(self, x: Any) -> Tensor:
        """The points ``x`` as a tensor ``(B, d)``, after the checks of a call."""

    @abstractmethod
    def evaluate(self, x: Tensor, t: Tensor, divergence: bool) -> tuple[Tensor, Tensor | None]:
        """Score ``(B, d)`` and divergence ``(B,)`` or None, for checked points and times, the
        latter float64, 0-dim or ``(B,)``."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What a file holds: times and coefficients first."""

    def record(self) -> dict[str, Tensor]:
        """What a file holds besides, on which the values do not depend."""
        return {}

    @classmethod
    @abstractmethod
    def from_tensors(cls, diffusion: Any, tensors: dict[str, Tensor], **placement: Any) -> Self:
        """The inverse of :meth:`tensors`; ``placement``: dtype, device, columns."""


class Unchecked(ScoreModel):
    """A fitted score without the checks of its calls."""

    def __init__(self, score: FittedScore) -> None:
        self._score = score

    @full_precision
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """``s(x, t)``, shape ``(B, d)``."""
        return self._score.evaluate(x, t.double(), divergence=False)[0]

    @full_precision
    def score_and_divergence(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """``s(x, t)`` ``(B, d)`` and ``div s(x, t)`` ``(B,)``."""
        return _both(*self._score.evaluate(x, t.double(), divergence=True))


def _both(score: Tensor, divergence: Tensor | None) -> tuple[Tensor, Tensor]:
    assert divergence is not None
    return score, divergence


def placement(x: Tensor) -> dict[str, Any]:
    """What a score fitted to ``x`` says of its data."""
    return {"dtype": torch.promote_types(x.dtype, torch.float32), "device": x.device}


# Files: safetensors, with the diffusion's class and arguments as metadata


def _known(name: str) -> Any:
    """The package's own class of that name, or None."""
    return next((made for made in _CLASSES if made.__name__ == name), None)


def _settings(process: Any) -> dict[str, Any]:
    """The class and arguments of a diffusion, or of a law. Of a class that is not the package's own
    (a subclass included) the name alone, and its dimension: code is not stored."""
    made = type(original(process) if isinstance(process, Process) else process)
    settings: dict[str, Any] = {"class": made.__qualname__, "dim": process.dim}
    if _known(made.__name__) is not made:
        return settings | {"foreign": True}
    names = inspect.signature(made).parameters
    own = original(process) if isinstance(process, Process) else process
    given = getattr(process, "settings", None) or {name: getattr(own, name) for name in names}
    found = {name: _plain(value, name in _PARTS) for name, value in given.items()}
    foreign = any(_is_foreign(value) for value in found.values())
    return settings | found | ({"foreign": True} if foreign else {})


def _plain(value: Any, described: bool) -> Any:
    """An argument as JSON has it; a function of one's own, too, is not stored."""
    if isinstance(value, list | tuple):
        return [_plain(one, described) for one in value]
    if described:
        return _settings(as_diffusion(value) if hasattr(value, "drift") else value)
    if callable(value):
        return {"class": type(value).__qualname__, "foreign": True}
    return value.tolist() if isinstance(value, Tensor) else value


def _is_foreign(value: Any) -> bool:
    if isinstance(value, list):
        return any(_is_foreign(one) for one in value)
    return isinstance(value, dict) and "foreign" in value


def _read(path: Any, kind: str, given: Any) -> tuple[Any, dict[str, Tensor], dict[str, str]]:
    """The diffusion (that is given, or built anew), the tensors and the metadata of a file."""
    path = user_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file written by {kind}.save, found none")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path}: expected a safetensors file, found a corrupt one ({error}); save it again"
        ) from error
    expected = f"markovscore.{kind}/1"
    if metadata.get("format") != expected:
        raise ValueError(
            f"{path}: expected format {expected}, found {metadata.get('format')}: not a {kind}"
        )
    return _diffusion(path, kind, json.loads(metadata["diffusion"]), given), tensors, metadata


def _diffusion(path: Any, kind: str, settings: dict[str, Any], given: Any) -> Any:
    name = settings["class"]
    if given is not None:
        wanted = (name, settings["dim"])
        found = (type(given).__qualname__, as_diffusion(given).dim)
        if found != wanted:
            raise ValueError(
                f"diffusion: expected {wanted[0]} of dimension {wanted[1]}, to which the score in "
                f"{path} was fitted, found {found[0]} of dimension {found[1]}: pass that one"
            )
        return given
    if settings.get("foreign") or _known(name) is None:
        raise ValueError(
            f"{path}: expected a score of one of the package's diffusions, found one of {name}, a "
            f"class of your own: pass {kind}.load(path, diffusion=...), built as it was"
        )
    return _built(settings)


def _built(settings: Any) -> Any:
    """What :func:`_settings` describes."""
    if isinstance(settings, list):
        return [_built(one) for one in settings]
    made = _known(settings["class"])
    names = inspect.signature(made).parameters
    arguments = {name: value for name, value in settings.items() if name in names}
    for name in _PARTS:
        if arguments.get(name) is not None:
            arguments[name] = _built(arguments[name])
    return made(**arguments)


def _device_here(name: str) -> torch.device:
    """The device of that name, or the CPU where this machine has none."""
    device = torch.device(name)
    count = torch.get_device_module(device).device_count()
    return device if (device.index or 0) < count else torch.device("cpu")
