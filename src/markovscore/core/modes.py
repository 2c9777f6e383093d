"""The caller's modes of torch, kept out of what outlives or must be exact.

* A tensor made in ``torch.inference_mode`` can never be part of a derivative, and one made under
  another default device lies there for good: what is kept (caches, parameters of laws and
  processes, fits) is made by a :func:`lasting` or :func:`remembered` function.
* ``torch.autocast`` rounds every matrix product of float32 numbers to eight bits, which is meant
  for networks: closed forms are :func:`full_precision`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
_KINDS = ("cpu", "cuda")


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Tensors made inside can be part of derivatives; whether gradients are recorded stays."""
    recording = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(recording):
        yield


def lasting(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` in ordinary modes: its tensors are as if made outside all contexts, on the CPU
    unless it names a device; tensors among the arguments that are of inference mode are copied."""

    @functools.wraps(function)
    def made(*args: P.args, **kwargs: P.kwargs) -> R:
        with _outside():
            own: Any = [_ordinary(value) for value in args]
            named: Any = {name: _ordinary(value) for name, value in kwargs.items()}
            return function(*own, **named)

    return made


def _outside() -> AbstractContextManager[Any]:
    """Outside all contexts: nothing where there are none, since entering costs 10 us."""
    away = torch.get_default_device().type != "cpu"
    autocast = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
    if not (away or autocast or torch.is_inference_mode_enabled()):
        return nullcontext()
    stack = ExitStack()
    stack.enter_context(ordinary_tensors())
    if away:  # inside, every operation costs more
        stack.enter_context(torch.device("cpu"))
    stack.enter_context(_without_autocast())
    return stack


def _ordinary(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """:func:`lasting`, and the results of the last 64 different arguments are kept."""
    kept: Any = functools.lru_cache(maxsize=64)(lasting(function))
    return kept


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` without autocast; where none is on this costs two look-ups."""

    @functools.wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        if not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
            return function(*args, **kwargs)
        with _without_autocast():
            return function(*args, **kwargs)

    return exact


def recorded(*tensors: Tensor) -> bool:
    """Whether operations on any of them are recorded for derivatives, as writing to memory is not:
    autograd follows it, or it is inside a ``torch.func`` transform."""
    return any(
        (t.requires_grad and torch.is_grad_enabled())
        or torch._C._functorch.is_functorch_wrapped_tensor(t)
        for t in tensors
    )


@contextmanager
def _without_autocast() -> Iterator[None]:
    with ExitStack() as stack:
        for kind in _KINDS:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


class Constants:
    """``tables``, converted once for each dtype and device: a step of a simulation on a few points
    takes no longer than two or three conversions."""

    def __init__(self, *tables: Tensor) -> None:
        self._tables = tables
        self._copies: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def like(self, x: Tensor) -> tuple[Tensor, ...]:
        """The tables with the dtype and device of ``x``."""
        key = (x.device, x.dtype)
        if key not in self._copies:
            self._copies[key] = lasting(_converted)(self._tables, *key)
        return self._copies[key]


def _converted(
    tables: tuple[Tensor, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    return tuple(table.to(device, dtype) for table in tables)
