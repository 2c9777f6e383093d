"""The claims ledger: what a chapter measured against what ``book/claims.yml`` declares.

A chapter calls :func:`record`; the value travels inside the executed notebook, as an output with
the MIME type ``MIME``. A claim that ``needs`` data which a reader may lack is optional: where they
are absent, the chapter calls :func:`skip` with the reason.
There is no ledger in memory and no file written by a chapter: :func:`verify` reads the notebooks.

From the command line::

    python -m markovscore.claims verify --claims book/claims.yml --notebooks _build/ci --profile ci

The exit status is 0 only if every declared claim was recorded once, in its own chapter, and holds,
or is optional and was skipped there.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import operator
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .core import output_path, user_path, write_whole

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


__all__ = [
    "MIME",
    "Claim",
    "ClaimsError",
    "Record",
    "Report",
    "Row",
    "find_notebooks",
    "format_value",
    "load_claims",
    "main",
    "read_records",
    "record",
    "skip",
    "verify",
]

COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
VERDICTS = ("reproduced", "not-reproduced", "beyond")
PAPERS = ("A", "B", "ours")
STATUSES = ("pass", "fail", "missing", "not-judged", "skipped")
UNJUDGED_PROFILES = ("smoke",)  # sizes too small for a threshold to mean anything


@dataclass(frozen=True)
class Claim:
    """One block of ``book/claims.yml``: ``quantity comparison threshold`` must hold in ``chapter``.

    ``verdict`` says what the book concludes from it: ``reproduced``, ``not-reproduced`` (then the
    sentence states what was found instead) or ``beyond`` (not a claim of either paper).
    ``needs`` (an optional key, such as ``cifar10``) names data without which it may be skipped.
    """

    id: str
    paper: str
    item: str
    sentence: str
    quantity: str
    comparison: str
    threshold: float
    chapter: str
    verdict: str
    needs: str | None = None


@dataclass(frozen=True)
class Record:
    """One value that a chapter recorded; ``stderr`` is its standard error, if it has one.

    A claim that was skipped has no value; its ``note`` is the reason.
    """

    id: str
    value: float | None
    stderr: float | None
    note: str
    chapter: str


@dataclass(frozen=True)
class Row:
    """A declared claim beside its record; ``status`` is one of ``STATUSES``."""

    claim: Claim
    record: Record | None
    status: str


@dataclass(frozen=True)
class Report:
    """What :func:`verify` found; ``problems`` is empty exactly when the ledger is in order."""

    profile: str
    rows: tuple[Row, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return not self.problems

    def count(self, status: str) -> int:
        """Number of declared claims with this status."""
        return sum(row.status == status for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data (the content of ``_build/claims.json``)."""
        summary = {"declared": len(self.rows)} | {name: self.count(name) for name in STATUSES}
        return {
            "profile": self.profile,
            "ok": self.ok,
            "summary": summary,
            "problems": list(self.problems),
            "claims": [asdict(row) for row in self.rows],
        }


def record(id: str, value: Any, stderr: Any = None, note: str = "") -> None:
    """Show a measured claim as a row and store it in the notebook.

    Args:
        id: the claim's id in ``book/claims.yml``, such as ``"oism.one_dimension.oism1_error"``.
        value: a finite real number (float, NumPy scalar or one-element tensor).
        stderr: its standard error, finite and not negative, or None.
        note: how the number was obtained, or where the threshold comes from.

    Raises:
        ClaimsError: the id is malformed, or a number is not finite (a NaN must never reach the
            ledger).
    """
    check_id(id)
    number = finite(value, f"value of claim {id}")
    error = None if stderr is None else finite(stderr, f"stderr of claim {id}")
    if error is not None and error < 0:
        raise ClaimsError(
            f"stderr of claim {id}: expected a number >= 0, found {error}; fix its sign"
        )
    show({"id": id, "value": number, "stderr": error, "note": note})


def skip(id: str, reason: str) -> None:
    """Show and store that an optional claim could not be measured here.

    Args:
        id: of a claim that declares ``needs`` in ``book/claims.yml``; no other may be skipped.
        reason: what is absent, as a reader should know it; no path of this machine.

    Raises:
        ClaimsError: the id is malformed, or there is no reason.
    """
    check_id(id)
    if not isinstance(reason, str) or not reason.strip():
        raise ClaimsError(
            f"claim {id}: expected a reason to skip it, found {reason!r}; say which data are absent"
        )
    show({"id": id, "value": None, "stderr": None, "note": reason.strip()})


def load_claims(path: str | os.PathLike[str]) -> tuple[Claim, ...]:
    """Read ``book/claims.yml``; every block is checked and ids are unique.

    Raises :class:`ClaimsError` on an unknown or missing key, a value outside its list, a threshold
    that is not a number, or an id declared twice.
    """
    import yaml  # a dependency of the book, not of the library

    blocks = yaml.safe_load(user_path(path).read_text(encoding="utf-8")) or []
    if not isinstance(blocks, list):
        raise ClaimsError(
            f"{path}: expected a YAML list of claims, found a {type(blocks).__name__}; "
            "start each block with '- id:'"
        )
    claims = tuple(_claim(block, str(path)) for block in blocks)
    seen: set[str] = set()
    for claim in claims:
        if claim.id in seen:
            raise ClaimsError(f"{path}: expected unique ids, found {claim.id} twice; rename one")
        seen.add(claim.id)
    return claims


def _claim(block: Any, path: str) -> Claim:
    names = [field.name for field in fields(Claim) if field.name != "needs"]
    if not isinstance(block, dict) or set(block) - {"needs"} != set(names):
        found = sorted(block) if isinstance(block, dict) else block
        raise ClaimsError(
            f"{path}: expected a claim with the keys {sorted(names)}, and needs if it is optional, "
            f"found {found}"
        )
    where = f"{path}: claim {block['id']}"
    _one_of(block["comparison"], tuple(COMPARISONS), f"{where}: comparison")
    _one_of(block["verdict"], VERDICTS, f"{where}: verdict")
    _one_of(block["paper"], PAPERS, f"{where}: paper")
    if not ID.fullmatch(str(block["id"])):
        raise ClaimsError(f"{where}: expected an id of lower-case words joined by dots; rename it")
    needs = block.get("needs")
    if "needs" in block and not re.fullmatch(r"[a-z0-9_]+", str(needs)):
        raise ClaimsError(
            f"{where}: needs: expected one lower-case word, such as cifar10, found {needs!r}; "
            "correct it, or leave it out"
        )
    threshold = finite(block["threshold"], f"{where}: threshold")
    texts = {name: str(block[name]).strip() for name in names if name != "threshold"}
    return Claim(threshold=threshold, needs=None if needs is None else str(needs), **texts)


def _one_of(value: object, allowed: Sequence[str], name: str) -> None:
    if value not in allowed:
        raise ClaimsError(
            f"{name}: expected one of {', '.join(allowed)}, found {value!r}; correct it"
        )


def read_records(path: str | os.PathLike[str], chapter: str) -> list[Record]:
    """The claims stored in one executed notebook, in the order of its cells."""
    try:
        cells = json.loads(user_path(path).read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ClaimsError(
            f"{path}: expected a notebook (JSON with 'cells'), found {error!r}; "
            "delete it and build again"
        ) from error
    bundles = [out.get("data", {}) for cell in cells for out in cell.get("outputs", [])]
    return [Record(**bundle[MIME], chapter=chapter) for bundle in bundles if MIME in bundle]


def find_notebooks(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """The executed notebooks under ``folder`` (``_build/<profile>``): chapter -> path."""
    root = user_path(folder)
    return {
        path.relative_to(root).with_suffix("").as_posix(): path
        for path in sorted(root.rglob("*.ipynb"))
        if ".ipynb_checkpoints" not in path.parts
    }


def verify(
    notebooks: Mapping[str, str | os.PathLike[str]],
    declared: Iterable[Claim],
    profile: str = "ci",
) -> Report:
    """Compare what the executed notebooks recorded with what is declared.

    Args:
        notebooks: chapter (``"oism/one_dimension"``) -> executed notebook.
        declared: the claims, from :func:`load_claims`.
        profile: thresholds are not judged in the smoke profile, whose sizes are too small.

    Returns:
        The report. Its ``problems`` name every claim that was declared and not recorded, recorded
        and not declared, recorded twice, recorded in another chapter, skipped without ``needs``, or
        that misses its threshold.
    """
    declared = tuple(declared)
    records = [r for chapter, path in notebooks.items() for r in read_records(path, chapter)]
    by_id: dict[str, list[Record]] = {}
    for item in records:
        by_id.setdefault(item.id, []).append(item)
    problems = _undeclared(by_id, declared)
    rows = []
    for claim in declared:
        row, found = _judge(claim, by_id.get(claim.id, []), claim.chapter in notebooks, profile)
        rows.append(row)
        problems += found
    return Report(profile=profile, rows=tuple(rows), problems=tuple(problems))


def _undeclared(by_id: Mapping[str, list[Record]], declared: Sequence[Claim]) -> list[str]:
    known = {claim.id for claim in declared}
    return [
        f"{id}: recorded in {items[0].chapter}, not declared; add it to book/claims.yml"
        for id, items in by_id.items()
        if id not in known
    ]


def _judge(
    claim: Claim, found: Sequence[Record], executed: bool, profile: str
) -> tuple[Row, list[str]]:
    if not found:
        why = "never recorded there" if executed else "whose notebook was not executed"
        return Row(claim, None, "missing"), [f"{claim.id}: declared for {claim.chapter}, {why}"]
    item = found[0]
    problems = []
    if len(found) > 1:
        places = ", ".join(other.chapter for other in found)
        problems.append(f"{claim.id}: expected one record, found {len(found)} ({places}); keep one")
    if item.chapter != claim.chapter:
        problems.append(f"{claim.id}: declared for {claim.chapter}, recorded in {item.chapter}")
    if item.value is None:
        if claim.needs is None:
            problems.append(
                f"{claim.id}: skipped in {item.chapter} ({item.note}), which only a claim that "
                "declares needs may be; record its value, or declare what it needs"
            )
        return Row(claim, item, "fail" if problems else "skipped"), problems
    if profile in UNJUDGED_PROFILES:
        return Row(claim, item, "fail" if problems else "not-judged"), problems
    if not COMPARISONS[claim.comparison](item.value, claim.threshold):
        shown = format_value(item.value, item.stderr)
        problems.append(
            f"{claim.id}: expected {claim.quantity} {claim.comparison} {claim.threshold:g}, "
            f"found {shown} in {item.chapter}"
        )
    return Row(claim, item, "fail" if problems else "pass"), problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: ``verify``; prints what is wrong and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m markovscore.claims", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("verify", help="compare executed notebooks with the ledger")
    check.add_argument("--claims", type=Path, required=True, help="book/claims.yml")
    check.add_argument("--notebooks", type=Path, required=True, help="_build/<profile>")
    check.add_argument("--profile", default="ci", help="smoke: thresholds are not judged")
    check.add_argument("--json", type=Path, help="write the report here")
    options = parser.parse_args(arguments)
    try:
        declared = load_claims(options.claims)
        report = verify(find_notebooks(options.notebooks), declared, options.profile)
    except (ClaimsError, OSError) as error:
        print(f"claims: {error}", file=sys.stderr)
        return 2
    if options.json:
        target = output_path(options.json, "--json")
        write_whole(target, json.dumps(report.as_dict(), indent=1) + "\n")
    for problem in report.problems:
        print(f"claims: {problem}", file=sys.stderr)
    print(
        f"claims: {report.count('pass')} hold, {report.count('fail')} fail, "
        f"{report.count('missing')} missing, {report.count('not-judged')} not judged, "
        f"{report.count('skipped')} skipped "
        f"({options.profile} profile)"
    )
    return 0 if report.ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
