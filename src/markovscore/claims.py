"""What a chapter measured, recorded for the claims ledger ``book/claims.yml``.

A chapter calls :func:`record`; the value travels inside the executed notebook, as an output with
the MIME type ``MIME``. A claim that ``needs`` data which a reader may lack is optional: where they
are absent, the chapter calls :func:`skip` with the reason.
There is no ledger in memory and no file written by a chapter: ``book/ledger.py`` reads the
notebooks when the book is built, and compares them with what is declared.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["ID", "MIME", "ClaimsError", "finite", "format_value", "record", "skip"]

MIME = "application/vnd.markovscore.claim+json"
ID = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")


class ClaimsError(ValueError):
    """A ledger, a record or a notebook that cannot be read; says expected, found and fix."""


def record(
    id: str,
    value: Any,
    stderr: Any = None,
    note: str = "",
    *,
    control: Any = None,
    seeds: int | None = None,
    constants: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Show a measured claim as a row and store it, with its evidence, in the notebook.

    Args:
        id: the claim's id in ``book/claims.yml``, such as ``"oism.one_dimension.oism1_error"``.
        value: a finite real number (float, NumPy scalar or one-element tensor).
        stderr: its standard error, finite and not negative, or None.
        note: how the number was obtained, or where the threshold comes from.
        control: the same quantity of the naive or wrong method, which must miss the threshold.
        seeds: the number of independent repetitions behind ``value`` and ``stderr``.
        constants: numerical constant -> the value with it at a tenth and at ten times.

    Raises:
        ClaimsError: the id is malformed, a number is not finite (a NaN must never reach the
            ledger), seeds is not a positive integer, or a constant has not two values.
    """
    _check_id(id)
    payload: dict[str, Any] = {"id": id, "value": finite(value, f"value of claim {id}")}
    error = None if stderr is None else finite(stderr, f"stderr of claim {id}")
    if error is not None and error < 0:
        raise ClaimsError(
            f"stderr of claim {id}: expected a number >= 0, found {error}; fix its sign"
        )
    payload |= {"stderr": error, "note": note}
    if control is not None:
        payload["control"] = finite(control, f"control of claim {id}")
    if seeds is not None:
        payload["seeds"] = _count(seeds, id)
    if constants is not None:
        payload["constants"] = {name: _pair(two, name, id) for name, two in constants.items()}
    _show(payload)


def skip(id: str, reason: str) -> None:
    """Show and store that an optional claim could not be measured here.

    Args:
        id: of a claim that declares ``needs`` in ``book/claims.yml``; no other may be skipped.
        reason: what is absent, as a reader should know it; no path of this machine.

    Raises:
        ClaimsError: the id is malformed, or there is no reason.
    """
    _check_id(id)
    if not isinstance(reason, str) or not reason.strip():
        raise ClaimsError(
            f"claim {id}: expected a reason to skip it, found {reason!r}; say which data are absent"
        )
    _show({"id": id, "value": None, "stderr": None, "note": reason.strip()})


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


def _count(seeds: Any, id: str) -> int:
    if type(seeds) is not int or seeds < 1:
        raise ClaimsError(
            f"seeds of claim {id}: expected a positive integer, found {seeds!r}; "
            "give the number of repetitions"
        )
    return seeds


def _pair(values: Any, name: str, id: str) -> list[float]:
    if not isinstance(values, Sequence) or len(values) != 2:
        raise ClaimsError(
            f"constants of claim {id}: {name}: expected the values at a tenth and at ten times, "
            f"found {values!r}; give two numbers"
        )
    return [finite(value, f"claim {id} with another {name}") for value in values]


def format_value(value: float | None, stderr: float | None = None) -> str:
    """``value`` to four digits; with a standard error, both to the second digit of that.

    Of ``None``, that nothing was measured. Where the second digit is the sixth decimal or a later
    one, the value has its four digits: ``0.992 ± 1.7e-07``.
    """
    if value is None:
        return "not measured here"
    if stderr is None:
        return f"{value:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(stderr))) if stderr else math.inf
    if decimals > 5:
        return f"{value:.4g} ± {stderr:.2g}"
    return f"{value:.{decimals}f} ± {stderr:.{decimals}f}"


def _check_id(id: str) -> None:
    if not ID.fullmatch(id):
        raise ClaimsError(
            f"claim id: expected lower-case words joined by dots, such as 'oism.spectra.order', "
            f"found {id!r}; rename it here and in book/claims.yml"
        )


def _show(payload: Mapping[str, Any]) -> None:
    """Display a record; as an output it is stored in the notebook."""
    from IPython.display import display  # a dependency of the book, not of the library

    shown = format_value(payload["value"], payload["stderr"])
    text = f"claim {payload['id']}: {shown}"
    row = f"<span>claim</span> <code>{html.escape(payload['id'])}</code> <strong>{shown}</strong>"
    if payload["note"]:
        text += f"  ({payload['note']})"
        row += f" <em>{html.escape(payload['note'])}</em>"
    markup = f'<div class="claim" id="claim-{html.escape(payload["id"])}">{row}</div>'
    display({MIME: dict(payload), "text/html": markup, "text/plain": text}, raw=True)
