"""An object seen with the defaults of a class: what it has itself, and the rest from there.

:func:`seen_as` is behind every ``as_...`` of ``types``. It also says what is wrong with an
attribute: of another kind, or a function of another number of arguments.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from operator import attrgetter, is_
from types import FunctionType, MethodType
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from torch import nn

Kind = TypeVar("Kind")
# What an attribute is expected to be: a test of its value, and the words for it.
Test = tuple[Callable[[Any], bool], str]


def seen_as(kind: type[Kind], thing: Any, tests: dict[str, Test], noun: str) -> Kind:
    """``thing`` itself if it is of this ``kind``, else a view of it.

    Raises:
        TypeError: an attribute that does not pass its test.
    """
    if isinstance(thing, _View):  # that came through here before
        return cast(Kind, thing)
    cls, key = cast(Any, type(thing)), cast(Any, kind)
    seen = thing if isinstance(thing, kind) else _view_class(key)(thing)
    record, found = _record(cls, key), _of_class(cls, key)
    settled = len(record.found) == len(found) and all(map(is_, record.found, found))
    for name in _own_names(thing, tests, record.open) if settled else tests:
        if not tests[name][0](getattr(seen, name)):
            raise _misfit(seen, tests, noun)
    if not settled:
        record.open = [name for name in tests if _is_open(cls, kind, name)]
        record.found = found
    return seen


def _misfit(seen: Any, tests: dict[str, Test], noun: str) -> TypeError:
    name = next(name for name, (fits, _) in tests.items() if not fits(getattr(seen, name)))
    return TypeError(
        f"{noun}: expected {name_of(seen)}.{name} to be {tests[name][1]}, found "
        f"{shown(getattr(seen, name))}: mend it, or leave it out"
    )


def original(thing: Any) -> Any:
    """The user's own object behind a view, or ``thing`` itself."""
    return thing.own if isinstance(thing, _View) else thing


def name_of(thing: Any) -> str:
    """The name of the user's own class, for messages."""
    return type(original(thing)).__name__


def refuse_class(thing: Any, noun: str) -> None:
    """Raise ``TypeError`` where a class is passed in place of an object of it."""
    if isinstance(thing, type):
        raise TypeError(
            f"{noun}: expected an object, found the class {thing.__name__}: pass "
            f"{thing.__name__}(...)"
        )


# Views

_ABSENT = object()


class _View:
    """Reads the object anew each time, and so follows it; a copy is a view of the object's copy."""

    __slots__ = ("own",)

    def __init__(self, own: Any) -> None:
        self.own = own

    def __repr__(self) -> str:
        return repr(self.own)

    def __reduce__(self) -> tuple[Any, ...]:
        kind: Any = type(self).__mro__[2]  # after the view's own class and this one
        return _view, (kind, self.own)


def _reader(name: str, default: Any) -> property:
    """An attribute of a view: that of the user's object, else the default."""
    method = inspect.isfunction(default)

    def read(view: Any) -> Any:
        value = getattr(view.own, name, _ABSENT)
        if value is not _ABSENT:
            return value
        if isinstance(getattr(type(view.own), name, None), property):
            return getattr(view.own, name)  # raises the AttributeError from inside it
        return default.__get__(view) if method else default

    return property(read)


@functools.cache
def _view_class(kind: Any) -> Any:
    readers: dict[str, Any] = {name: _reader(name, vars(kind)[name]) for name in _names(kind)[:-1]}
    if "__call__" in vars(kind):
        readers["__call__"] = lambda view, *args: view.own(*args)
    return type(f"{kind.__name__}View", (_View, kind), readers)


def _view(kind: Any, own: Any) -> Any:
    """For ``pickle``, which finds no class made in a function."""
    return _view_class(kind)(own)


# What a class has passed its tests once and is not tested again, until the class changes


class _Record:
    """All that a class had when it passed, and the names that depend on the object even so."""

    found: Sequence[Any] = ()
    open: list[str]


@functools.lru_cache(maxsize=64)
def _record(cls: Any, kind: Any) -> _Record:
    return _Record()


@functools.cache
def _names(kind: Any) -> tuple[str, ...]:
    return (*(name for name in vars(kind) if not name.startswith("__")), "__getattribute__")


@functools.cache
def _getter(kind: Any) -> Callable[[type], tuple[Any, ...]]:
    return attrgetter(*_names(kind))


def _of_class(cls: Any, kind: Any) -> Sequence[Any]:
    """What the class has for every name."""
    if issubclass(cls, kind):  # for all of them, one by one
        return _getter(kind)(cls)
    names = (*_names(kind), "__getattr__")
    return [value for base in cls.__mro__[:-1] for value in map(vars(base).get, names)]


def _is_open(cls: Any, kind: Any, name: str) -> bool:
    """Whether an object of the class may have another attribute than its class, also where it has
    none of its own: by a property, or a look-up that the class defines."""
    if cls.__getattribute__ is not object.__getattribute__:
        return True
    value = getattr(cls, name, _ABSENT)
    if value is _ABSENT:
        return getattr(cls, "__getattr__", nn.Module.__getattr__) is not nn.Module.__getattr__
    default = value is getattr(kind, name)
    return not (default or isinstance(value, FunctionType | int | float | None))


def _own_names(thing: Any, tests: dict[str, Test], more: list[str]) -> list[str]:
    """The names that the object has itself, and ``more``."""
    own = getattr(thing, "__dict__", {})
    names = [name for name in own if name in tests]
    if isinstance(thing, nn.Module):
        for part in ("_parameters", "_buffers", "_modules"):
            names += [name for name in own.get(part, ()) if name in tests]
    return names + more


# Kinds of attributes


def function(arguments: int, form: str, optional: bool = True) -> Test:
    """The test for a function of so many positional ``arguments``, or None where ``optional``."""

    def fits(value: Any) -> bool:
        return (optional and value is None) or (callable(value) and takes(value, arguments))

    return fits, f"a function {form}" + (" or None" if optional else "")


def has_methods(*names: str) -> Test:
    """The test for an object with these methods."""

    def fits(value: Any) -> bool:
        return all(callable(getattr(value, name, None)) for name in names)

    return fits, f"an object with {', '.join(names[:-1])} and {names[-1]}"


def shown(value: Any) -> str:
    """What was found in place of a value of the right kind."""
    if not callable(value):
        return f"{type(value).__name__} {value!r}"[:80]
    method = value.forward if isinstance(value, nn.Module) else value
    return f"one that takes {inspect.signature(method)}"


def takes(method: Callable[..., Any], arguments: int) -> bool:
    """Whether ``method`` can be called with so many positional arguments."""
    least, most = _positional(method)
    return least <= arguments <= most


# By function, so that a call in a loop costs a look-up; what a user defines is not kept alive.
_ARITIES: WeakKeyDictionary[Any, tuple[float, float]] = WeakKeyDictionary()


def _positional(method: Callable[..., Any]) -> tuple[float, float]:
    """The least and the greatest number of positional arguments of ``method``."""
    if isinstance(method, nn.Module):
        method = method.forward
    plain, bound = method, 0
    if isinstance(method, MethodType):
        plain, bound = method.__func__, 1
    elif isinstance(type(method).__call__, FunctionType) and not any(
        hasattr(method, name) for name in ("__signature__", "__wrapped__")
    ):
        plain, bound = type(method).__call__, 1  # shared by all objects of the class
    try:
        known = _ARITIES.get(plain)
        if known is None:
            known = _ARITIES[plain] = _arity(plain)
    except TypeError:  # no hash, or no weak reference
        known = _arity(plain)
    return known[0] - bound, known[1] - bound


def _arity(plain: Callable[..., Any]) -> tuple[float, float]:
    try:
        parameters = inspect.signature(plain).parameters.values()
    except (TypeError, ValueError):  # no signature to read
        return 0, math.inf
    needed = [p.kind for p in parameters if p.default is p.empty]
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if inspect.Parameter.KEYWORD_ONLY in needed:
        return math.inf, 0
    least = sum(p.default is p.empty for p in places)
    return least, math.inf if inspect.Parameter.VAR_POSITIONAL in needed else len(places)
