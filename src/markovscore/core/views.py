"""An object seen with the defaults of a class: what it has itself, and the rest from there.

:func:`seen_as` is behind every ``as_...`` of ``types``. It also says what is wrong with an
attribute: of another kind, or a function of another number of arguments.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar
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
        seen: Any = thing
        return seen
    seen = thing if isinstance(thing, kind) else _view(kind, thing)
    for name, (fits, words) in tests.items():
        value = getattr(seen, name)
        if not fits(value):
            raise TypeError(
                f"{noun}: expected {name_of(thing)}.{name} to be {words}, found {shown(value)}: "
                "mend it, or leave it out"
            )
    return seen


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


class _Read:
    """An attribute of a view: that of the user's object, else the default."""

    def __init__(self, name: str, default: Any) -> None:
        self.name, self.default = name, default

    def __get__(self, view: Any, owner: type) -> Any:
        value = getattr(view.own, self.name, _ABSENT)
        if value is not _ABSENT:
            return value
        if isinstance(getattr(type(view.own), self.name, None), property):
            return getattr(view.own, self.name)  # raises the AttributeError from inside it
        default = self.default
        return default.__get__(view) if inspect.isfunction(default) else default


@functools.cache
def _view_class(kind: Any) -> Any:
    names = [name for name in vars(kind) if not name.startswith("__")]
    readers: dict[str, Any] = {name: _Read(name, vars(kind)[name]) for name in names}
    if "__call__" in vars(kind):
        readers["__call__"] = lambda view, *args: view.own(*args)
    return type(f"{kind.__name__}View", (_View, kind), readers)


def _view(kind: type[Kind], own: Any) -> Kind:
    made: Any = kind
    view: Any = _view_class(made)
    return view(own)


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
    plain, bound = (method.__func__, 1) if inspect.ismethod(method) else (method, 0)
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
