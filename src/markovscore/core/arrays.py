"""The methods of laws and processes take arrays and frames for points, as functions do."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from .checks import as_floats, check_generator, check_points
from .times import check_from_start, check_time

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
    single = len(places) == 1

    @functools.wraps(method)
    def taking(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not of_time and len(args) > last:  # as in the steps of a simulation
            if single:
                right = _fits(args[last], self.dim, by_rows)
            else:
                right = _fit(self, [args[i] for i in places], by_rows)
            if right:
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


def _fits(x: Any, dim: int | None, by_rows: bool) -> bool:
    """Whether ``x`` is a dense tensor of floats, and with ``by_rows`` of rows of ``dim``."""
    return (
        isinstance(x, Tensor)
        and x.is_floating_point()
        and x.layout is torch.strided
        and not x.is_meta
        and (not by_rows or (x.ndim == 2 and x.shape[1] == dim))
    )


def _fit(owner: Any, points: list[Any], by_rows: bool) -> bool:
    """Whether all do, and with ``by_rows`` have rows that go together."""
    if not all(_fits(x, owner.dim, by_rows) for x in points):
        return False
    return not by_rows or len({1, *(len(x) for x in points)}) <= 2


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
