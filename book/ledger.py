"""The claims ledger: what the chapters measured against what ``book/claims.yml`` declares.

The values are in the executed notebooks, where ``markovscore.claims`` recorded them.

    python book/ledger.py verify --claims book/claims.yml --notebooks _build/ci --profile ci

The exit status is 0 only if every declared claim was recorded once, in its own chapter, and holds,
or is optional (it declares ``needs``) and was skipped there.
"""

from __future__ import annotations

import argparse
import json
import operator
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from contents import executed

from markovscore.claims import ID, MIME, ClaimsError, finite, format_value
from markovscore.core import output_path, user_path, write_whole

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
    """A recorded value and its standard error, if it has one; a skipped claim has only a note."""

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

    def count(self, status: str) -> int:
        """Number of declared claims with this status."""
        return sum(row.status == status for row in self.rows)

    def write(self, path: Path) -> None:
        """The report as JSON (``_build/claims.json``)."""
        summary = {"declared": len(self.rows)} | {name: self.count(name) for name in STATUSES}
        content = {"profile": self.profile, "ok": not self.problems, "summary": summary}
        content |= {"problems": self.problems, "claims": [asdict(row) for row in self.rows]}
        write_whole(output_path(path, "--json"), json.dumps(content, indent=1) + "\n")


def load_claims(path: str | Path) -> tuple[Claim, ...]:
    """Read ``book/claims.yml``; every block is checked and ids are unique.

    Raises :class:`ClaimsError` on an unknown or missing key, a value outside its list, a threshold
    that is not a number, or an id declared twice.
    """
    blocks = yaml.safe_load(user_path(path).read_text(encoding="utf-8")) or []
    if not isinstance(blocks, list):
        raise ClaimsError(
            f"{path}: expected a YAML list of claims, found a {type(blocks).__name__}; "
            "start each block with '- id:'"
        )
    claims: dict[str, Claim] = {}
    for claim in (_claim(block, path) for block in blocks):
        if claim.id in claims:
            raise ClaimsError(f"{path}: expected unique ids, found {claim.id} twice; rename one")
        claims[claim.id] = claim
    return tuple(claims.values())


def _claim(block: Any, path: object) -> Claim:
    names = [field.name for field in fields(Claim) if field.name != "needs"]
    if not isinstance(block, dict) or set(block) - {"needs"} != set(names):
        found = sorted(block) if isinstance(block, dict) else block
        raise ClaimsError(
            f"{path}: expected a claim with the keys {sorted(names)}, and needs if it is optional, "
            f"found {found}"
        )
    where = f"{path}: claim {block['id']}"
    allowed = {"comparison": tuple(COMPARISONS), "verdict": VERDICTS, "paper": PAPERS}
    for name, values in allowed.items():
        if block[name] not in values:
            raise ClaimsError(
                f"{where}: {name}: expected one of {', '.join(values)}, found {block[name]!r}; "
                "correct it"
            )
    if not ID.fullmatch(str(block["id"])):
        raise ClaimsError(f"{where}: expected an id of lower-case words joined by dots; rename it")
    if "needs" in block and not re.fullmatch(r"[a-z0-9_]+", str(block["needs"])):
        raise ClaimsError(
            f"{where}: needs: expected one lower-case word, such as cifar10, "
            f"found {block['needs']!r}; correct it, or leave it out"
        )
    texts = {name: str(value).strip() for name, value in block.items()}
    return Claim(**texts | {"threshold": finite(block["threshold"], f"{where}: threshold")})


def read_records(path: Path, chapter: str) -> list[Record]:
    """The claims stored in one executed notebook, in the order of its cells."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ClaimsError(
            f"{path}: expected a notebook (JSON with 'cells'), found {error!r}; "
            "delete it and build again"
        ) from error
    bundles = [out.get("data", {}) for cell in cells for out in cell.get("outputs", [])]
    return [Record(**bundle[MIME], chapter=chapter) for bundle in bundles if MIME in bundle]


def verify(notebooks: Mapping[str, Path], declared: Iterable[Claim], profile: str = "ci") -> Report:
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
    declared, by_id = tuple(declared), dict[str, list[Record]]()
    for chapter, path in notebooks.items():
        for item in read_records(path, chapter):
            by_id.setdefault(item.id, []).append(item)
    problems = [
        f"{id}: recorded in {items[0].chapter}, not declared; add it to book/claims.yml"
        for id, items in by_id.items()
        if id not in {claim.id for claim in declared}
    ]
    rows = []
    for claim in declared:
        found = by_id.get(claim.id, [])
        wrong = list(_problems(claim, found, claim.chapter in notebooks, profile))
        rows.append(Row(claim, found[0] if found else None, _status(found, wrong, profile)))
        problems += wrong
    return Report(profile=profile, rows=tuple(rows), problems=tuple(problems))


def _status(found: Sequence[Record], wrong: Sequence[str], profile: str) -> str:
    if wrong or not found:
        return "fail" if found else "missing"
    if found[0].value is None:
        return "skipped"
    return "not-judged" if profile in UNJUDGED_PROFILES else "pass"


def _problems(claim: Claim, found: Sequence[Record], ran: bool, profile: str) -> Iterator[str]:
    if not found:
        why = "never recorded there" if ran else "whose notebook was not executed"
        yield f"{claim.id}: declared for {claim.chapter}, {why}"
        return
    item, judged = found[0], profile not in UNJUDGED_PROFILES
    if len(found) > 1:
        places = ", ".join(other.chapter for other in found)
        yield f"{claim.id}: expected one record, found {len(found)} ({places}); keep one"
    if item.chapter != claim.chapter:
        yield f"{claim.id}: declared for {claim.chapter}, recorded in {item.chapter}"
    if item.value is None and claim.needs is None:
        yield (
            f"{claim.id}: skipped in {item.chapter} ({item.note}), which only a claim that "
            "declares needs may be; record its value, or declare what it needs"
        )
    holds = COMPARISONS[claim.comparison]
    if item.value is not None and judged and not holds(item.value, claim.threshold):
        yield (
            f"{claim.id}: expected {claim.quantity} {claim.comparison} {claim.threshold:g}, "
            f"found {format_value(item.value, item.stderr)} in {item.chapter}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: ``verify``; prints what is wrong and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("verify", help="compare executed notebooks with the ledger")
    check.add_argument("--claims", type=user_path, required=True, help="book/claims.yml")
    check.add_argument("--notebooks", type=user_path, required=True, help="_build/<profile>")
    check.add_argument("--profile", default="ci", help="smoke: thresholds are not judged")
    check.add_argument("--json", type=user_path, help="write the report here")
    options = parser.parse_args(arguments)
    try:
        declared = load_claims(options.claims)
        report = verify(executed(options.notebooks), declared, options.profile)
        if options.json:
            report.write(options.json)
    except (ClaimsError, OSError) as error:
        print(f"claims: {error}", file=sys.stderr)
        return 2
    for problem in report.problems:
        print(f"claims: {problem}", file=sys.stderr)
    words = ("hold", "fail", "missing", "not judged", "skipped")
    counts = [f"{report.count(name)} {word}" for name, word in zip(STATUSES, words, strict=True)]
    print(f"claims: {', '.join(counts)} ({options.profile} profile)")
    return int(bool(report.problems))


if __name__ == "__main__":
    raise SystemExit(main())
