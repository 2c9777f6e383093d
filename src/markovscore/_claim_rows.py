"""A claim's number and its row in a notebook, for :mod:`markovscore.claims`."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from typing import Any

MIME = "application/vnd.markovscore.claim+json"
ID = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")


class ClaimsError(ValueError):
    """A ledger, a record or a notebook that cannot be read; says expected, found and fix."""


def check_id(id: str) -> None:
    """Raise :class:`ClaimsError` unless ``id`` is lower-case words joined by dots."""
    if not ID.fullmatch(id):
        raise ClaimsError(
            f"claim id: expected lower-case words joined by dots, such as 'oism.spectra.order', "
            f"found {id!r}; rename it here and in book/claims.yml"
        )


def finite(value: Any, name: str) -> float:
    """``value`` as a finite float, or :class:`ClaimsError`."""
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ClaimsError(
            f"{name}: expected one real number, found {type(value).__name__} ({error}); "
            "reduce it to a scalar first"
        ) from error
    if not math.isfinite(number):
        raise ClaimsError(
            f"{name}: expected a finite number, found {number}; find where it overflowed"
        )
    return number


def format_value(value: float | None, stderr: float | None = None) -> str:
    """``value`` to four digits, or ``value ± stderr``, the standard error to two; None: skipped."""
    if value is None:
        return "not measured here"
    return f"{value:.4g}" if stderr is None else f"{value:.4g} ± {stderr:.2g}"


def show(payload: Mapping[str, Any]) -> None:
    """Display a record; as an output it is stored in the notebook."""
    from IPython.display import display  # a dependency of the book, not of the library

    display(_bundle(payload), raw=True)


def _bundle(payload: Mapping[str, Any]) -> dict[str, Any]:
    shown = format_value(payload["value"], payload["stderr"])
    text = f"claim {payload['id']}: {shown}"
    row = f"<span>claim</span> <code>{html.escape(payload['id'])}</code> <strong>{shown}</strong>"
    if payload["note"]:
        text += f"  ({payload['note']})"
        row += f" <em>{html.escape(payload['note'])}</em>"
    markup = f'<div class="claim" id="claim-{html.escape(payload["id"])}">{row}</div>'
    return {MIME: dict(payload), "text/html": markup, "text/plain": text}
