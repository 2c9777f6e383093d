"""Bars for what takes longer than two seconds, on stderr."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def bar(items: Collection[T], what: str, progress: bool | None, delay: float = 2.0) -> Iterator[T]:
    """``items`` one by one; after ``delay`` seconds a bar named ``what`` shows how far they are.

    ``progress``: None, only where stderr is a terminal (in notebooks and files there are no bars);
    True, everywhere; False, nowhere.
    """
    hidden = None if progress is None else not progress
    yield from tqdm(items, what, disable=hidden, delay=delay, leave=False)


@contextmanager
def counter(total: int, what: str, delay: float = 2.0) -> Iterator[Callable[..., Any]]:
    """A function to call at each of about ``total`` steps, or with the number of several;
    :func:`bar` where there is no loop."""
    with tqdm(total=total, desc=what, disable=None, delay=delay, leave=False) as shown:
        yield shown.update


def check_progress(progress: bool | None) -> None:
    """Raise ``ValueError`` where ``progress`` is none of the three."""
    if progress not in (None, True, False):
        raise ValueError(f"progress: expected True, False or None, found {progress!r}")
