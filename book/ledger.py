"""The claims ledger: what the chapters measured against what ``book/claims.yml`` declares.

The values are in the executed notebooks, where ``markovscore.claims`` recorded them.

    python book/ledger.py verify --claims book/claims.yml --notebooks _build/ci --profile ci

The exit status is 0 only if every declared claim was recorded once, in its own chapter, with the
evidence that it declares, and its outcome is not worse than the one last seen; a claim that is
optional (it declares ``needs``) may be skipped there.
"""

from __future__ import annotations

import argparse
import json
import operator
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from contents import executed
from scipy.special import ndtr, stdtrit

from markovscore.claims import ID, MIME, ClaimsError, finite, format_value
from markovscore.core import output_path, user_path, write_whole

COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
KINDS = ("paper", "aim", "check")
PAPERS = ("A", "B", "ours")
SOURCES = ("title", "abstract", "caption", "statement", "summary")  # of what we have of the papers
HOLDS, OPEN, FAILS = "holds", "undecided", "does not hold"
OUTCOMES = (HOLDS, OPEN, FAILS, "defective", "missing", "not judged", "skipped")
UNJUDGED_PROFILES = ("smoke",)  # sizes too small for a threshold to mean anything
STANDARD_ERRORS = 2.0  # a value holds if it is this far on the right side; of few seeds: farther
FEWEST_SEEDS = 3
WITHOUT_SEEDS = ("exact", "standardised")


@dataclass(frozen=True)
class Claim:
    """One block of ``book/claims.yml``: ``quantity comparison threshold``, measured in ``chapter``.

    Whether it holds is never declared: the build computes it from the value and its standard error.

    kind: ``paper`` (a statement of a paper about what happens), ``aim`` (one of ours) or ``check``
        (an identity, or an agreement of two computations: it must hold).
    source: kind ``paper``: where the statement stands, one of ``SOURCES``.
    control: kind ``paper``: the naive or wrong method that the same cell measures, and that must
        miss the threshold.
    constants: kind ``paper``, and an aim if it likes: the numerical constants that were varied by a
        factor of ten.
    seeds: ``paper`` and ``aim``: independent repetitions, at least ``FEWEST_SEEDS``, from whose
        spread the standard error comes; ``exact`` if no randomness enters; ``standardised`` if the
        quantity is itself in standard errors.
    last: ``paper`` and ``aim``: whether it held when last seen. Worse fails the build, better is
        said aloud.
    needs: names data without which it may be skipped, such as ``cifar10``; optional.
    timed: the quantity is seconds, or a ratio of them, so that another machine may have another
        outcome: a worse one is said aloud and does not fail the build; optional.
    """

    id: str
    kind: str
    paper: str
    item: str
    sentence: str
    quantity: str
    comparison: str
    threshold: float
    chapter: str
    source: str | None = None
    control: str | None = None
    seeds: int | str | None = None
    constants: tuple[str, ...] | None = None
    last: str | None = None
    needs: str | None = None
    timed: bool = False


OPTIONAL = {"needs", "timed"}
COMMON = tuple(field.name for field in fields(Claim) if field.default is MISSING)
KEYS = {
    "paper": (*COMMON, "source", "control", "seeds", "constants", "last"),
    "aim": (*COMMON, "seeds", "last"),
    "check": COMMON,
}


@dataclass(frozen=True)
class Record:
    """A recorded value and what goes with it; a skipped claim has only a note."""

    id: str
    value: float | None
    stderr: float | None
    note: str
    chapter: str
    control: float | None = None
    seeds: int | None = None
    constants: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A declared claim beside its record; ``outcome`` is one of ``OUTCOMES``."""

    claim: Claim
    record: Record | None
    outcome: str


@dataclass(frozen=True)
class Report:
    """What :func:`verify` found; ``problems`` is empty exactly when the ledger is in order.

    ``better`` names the claims that hold although the ledger last saw that they do not, ``slower``
    those about seconds that last held.
    """

    profile: str
    rows: tuple[Row, ...]
    problems: tuple[str, ...]
    better: tuple[str, ...] = ()
    slower: tuple[str, ...] = ()

    def count(self, outcome: str) -> int:
        """Number of declared claims with this outcome."""
        return sum(row.outcome == outcome for row in self.rows)

    def write(self, path: Path) -> None:
        """The report as JSON (``_build/claims.json``)."""
        summary = {"declared": len(self.rows)} | {name: self.count(name) for name in OUTCOMES}
        content = {"profile": self.profile, "ok": not self.problems, "summary": summary}
        content |= {"problems": self.problems, "better": self.better, "slower": self.slower}
        content |= {"claims": [asdict(row) for row in self.rows]}
        write_whole(output_path(path, "--json"), json.dumps(content, indent=1) + "\n")


def load_claims(path: str | Path) -> tuple[Claim, ...]:
    """Read ``book/claims.yml``; every block is checked and ids are unique.

    Raises :class:`ClaimsError`, which lists every unknown or missing key, every value outside its
    list, and every id that is declared twice.
    """
    blocks = yaml.safe_load(user_path(path).read_text(encoding="utf-8")) or []
    if not isinstance(blocks, list):
        raise ClaimsError(
            f"{path}: expected a YAML list of claims, found a {type(blocks).__name__}; "
            "start each block with '- id:'"
        )
    faults = [f"{path}: {fault}" for block in blocks for fault in _faults(block)]
    if not faults:
        times = Counter(block["id"] for block in blocks)
        twice = [id for id, count in times.items() if count > 1]
        faults = [f"{path}: expected unique ids, found {id} twice; rename one" for id in twice]
    if faults:
        raise ClaimsError("\n".join(faults))
    return tuple(map(_claim, blocks))


def _claim(block: Mapping[str, Any]) -> Claim:
    kept = {"threshold": float(block["threshold"])}
    if "constants" in block:
        kept["constants"] = tuple(block["constants"])
    kept |= {name: block[name] for name in ("seeds", "timed") if name in block}
    return Claim(**{name: str(value).strip() for name, value in block.items()} | kept)


def _faults(block: Any) -> Iterator[str]:
    """What is wrong with one block of the ledger."""
    if not isinstance(block, dict) or block.get("kind") not in KINDS:
        found = block.get("kind") if isinstance(block, dict) else block
        name = block.get("id", "a claim") if isinstance(block, dict) else "a block"
        yield f"{name}: kind: expected one of {', '.join(KINDS)}, found {found!r}; correct it"
        return
    where, keys = f"claim {block.get('id')}", set(KEYS[block["kind"]])
    optional = OPTIONAL | ({"constants"} if block["kind"] == "aim" else set())
    if set(block) - optional != keys:
        missing, unknown = sorted(keys - set(block)), sorted(set(block) - keys - optional)
        yield (
            f"{where}: expected the keys of a claim of kind {block['kind']}, found "
            f"{', '.join(missing) or 'none'} missing and {', '.join(unknown) or 'none'} unknown; "
            "declare each key once, needs if the claim is optional, timed if it is about seconds"
        )
        return
    papers = {"paper": ("A", "B"), "aim": ("ours",), "check": PAPERS}[block["kind"]]
    allowed = {"comparison": tuple(COMPARISONS), "paper": papers}
    allowed |= {"source": SOURCES, "last": (HOLDS, FAILS)}
    for name in allowed.keys() & block.keys():
        if block[name] not in allowed[name]:
            yield (
                f"{where}: {name}: expected one of {', '.join(allowed[name])}, "
                f"found {block[name]!r}; correct it"
            )
    for name in ("item", "sentence", "quantity", "control"):
        if name in block and not (isinstance(block[name], str) and block[name].strip()):
            yield f"{where}: {name}: expected words, found {block[name]!r}; write them"
    if not ID.fullmatch(str(block["id"])):
        yield f"{where}: expected an id of lower-case words joined by dots; rename it"
    yield from _odd_values(block, where)


def _odd_values(block: Mapping[str, Any], where: str) -> Iterator[str]:
    try:
        finite(block["threshold"], f"{where}: threshold")
    except ClaimsError as error:
        yield str(error)
    seeds = block.get("seeds", FEWEST_SEEDS)
    enough = type(seeds) is int and seeds >= FEWEST_SEEDS
    if not enough and seeds not in WITHOUT_SEEDS:
        yield (
            f"{where}: seeds: expected at least {FEWEST_SEEDS} repetitions, or "
            f"{' or '.join(WITHOUT_SEEDS)}, found {seeds!r}; repeat the measurement"
        )
    names = block.get("constants", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        yield (
            f"{where}: constants: expected a list of names, [] if no numerical constant enters, "
            f"found {names!r}; correct it"
        )
    if not isinstance(block.get("timed", False), bool):
        yield f"{where}: timed: expected true or false, found {block['timed']!r}; correct it"
    if "needs" in block and not re.fullmatch(r"[a-z0-9_]+", str(block["needs"])):
        yield (
            f"{where}: needs: expected one lower-case word, such as cifar10, "
            f"found {block['needs']!r}; correct it, or leave it out"
        )


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


def margin(claim: Claim) -> float:
    """How many standard errors a value must be on the right side of the threshold.

    ``STANDARD_ERRORS``, as for a normal law. A standard error that is itself estimated from n seeds
    asks for more: the quantile of Student's law with n - 1 degrees of freedom of the same one-sided
    coverage, 97.7%, which is 4.5 for three seeds, 2.9 for five, 2.3 for ten.
    """
    if not isinstance(claim.seeds, int):
        return STANDARD_ERRORS
    return float(stdtrit(claim.seeds - 1, ndtr(STANDARD_ERRORS)))


def outcome(claim: Claim, value: float, stderr: float | None = None) -> str:
    """What a measured value says: it holds if it meets the threshold by its :func:`margin`.

    It does not hold if it misses the threshold by as much, and is undecided between the two; of a
    check, which must hold, both are failures.
    """
    away = margin(claim) * (stderr or 0.0) * (1 if claim.comparison in ("<", "<=") else -1)
    meets = COMPARISONS[claim.comparison]
    if meets(value + away, claim.threshold):
        return HOLDS
    possible = claim.kind != "check" and meets(value - away, claim.threshold)
    return OPEN if possible else FAILS


def verify(notebooks: Mapping[str, Path], declared: Iterable[Claim], profile: str = "ci") -> Report:
    """Compare what the executed notebooks recorded with what is declared.

    Args:
        notebooks: chapter (``"oism/one_dimension"``) -> executed notebook.
        declared: the claims, from :func:`load_claims`.
        profile: thresholds are not judged in the smoke profile, whose sizes are too small.

    Returns:
        The report. Its ``problems`` name every claim that was declared and not recorded, recorded
        and not declared, recorded twice or in another chapter, skipped without ``needs``, recorded
        without the control, seeds or constants that it declares, whose control meets the threshold,
        whose outcome changes with a constant, and whose outcome is worse than ``last``.
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
    rows, better, slower = [], [], []
    for claim in declared:
        found, judged = by_id.get(claim.id, []), profile not in UNJUDGED_PROFILES
        defects = list(_defects(claim, found, claim.chapter in notebooks, judged))
        row = Row(claim, found[0] if found else None, _state(claim, found, defects, judged))
        rows.append(row)
        problems += defects
        if row.outcome in (OPEN, FAILS) and claim.last != FAILS:
            (slower if claim.timed else problems).append(_missed(row))
        elif row.outcome == HOLDS and claim.last == FAILS:
            better.append(f"{claim.id}: it holds, the ledger last saw that it does not; set last")
    return Report(profile, tuple(rows), tuple(problems), tuple(better), tuple(slower))


def _state(claim: Claim, found: Sequence[Record], defects: Sequence[str], judged: bool) -> str:
    if defects or not found:
        return "defective" if found else "missing"
    if (value := found[0].value) is None:
        return "skipped"
    if not judged:
        return "not judged"
    return outcome(claim, value, found[0].stderr)


def _missed(row: Row) -> str:
    claim, record = row.claim, row.record
    assert record is not None  # it has an outcome
    beyond = f" by {margin(claim):.2g} standard errors" if record.stderr else ""
    fix = "mend the cause" if claim.kind == "check" else "mend the cause, or say so: last"
    return (
        f"{claim.id}: expected {claim.quantity} {claim.comparison} {claim.threshold:g}{beyond}, "
        f"found {format_value(record.value, record.stderr)} in {record.chapter}; {fix}"
    )


def _defects(claim: Claim, found: Sequence[Record], ran: bool, judged: bool) -> Iterator[str]:
    """Why the record of a claim can't be judged."""
    if not found:
        why = "never recorded there" if ran else "whose notebook was not executed"
        yield f"{claim.id}: declared for {claim.chapter}, {why}"
        return
    item = found[0]
    if len(found) > 1:
        places = ", ".join(other.chapter for other in found)
        yield f"{claim.id}: expected one record, found {len(found)} ({places}); keep one"
    if item.chapter != claim.chapter:
        yield f"{claim.id}: declared for {claim.chapter}, recorded in {item.chapter}"
    if item.value is not None:
        yield from _evidence(claim, item, judged)
        if judged:
            yield from _hollow(claim, item)
    elif claim.needs is None:
        yield (
            f"{claim.id}: skipped in {item.chapter} ({item.note}), which only a claim that "
            "declares needs may be; record its value, or declare what it needs"
        )


def _evidence(claim: Claim, item: Record, judged: bool) -> Iterator[str]:
    """What goes with the value is what the claim declares, up to the size where none is judged."""
    if (claim.control is None) != (item.control is None):
        yield (
            f"{claim.id}: control: declared {claim.control}, recorded {item.control}; "
            "measure it in the same cell: record(..., control=value)"
        )
    seeds = claim.seeds if isinstance(claim.seeds, int) else None
    if item.seeds != seeds and (judged or None in (item.seeds, seeds)):
        yield f"{claim.id}: seeds: declared {claim.seeds}, recorded {item.seeds}; correct one"
    if seeds is not None and item.stderr is None:
        yield f"{claim.id}: expected a standard error over {seeds} seeds, found none; record it"
    if claim.seeds == "exact" and item.stderr is not None:
        yield f"{claim.id}: seeds: exact, but recorded with a standard error; declare the seeds"
    if sorted(item.constants) != sorted(claim.constants or ()):
        yield (
            f"{claim.id}: constants: declared {list(claim.constants or ())}, "
            f"recorded {list(item.constants)}; vary each by ten and record it"
        )


def _hollow(claim: Claim, item: Record) -> Iterator[str]:
    """A control that passes, or a constant that decides: then the outcome means nothing."""
    assert item.value is not None
    if item.control is not None and outcome(claim, item.control) == HOLDS:
        yield (
            f"{claim.id}: expected the control ({claim.control}) to miss {claim.comparison} "
            f"{claim.threshold:g}, found {item.control:.4g}; choose a quantity that discriminates"
        )
    holds = outcome(claim, item.value, item.stderr) == HOLDS
    for name, values in item.constants.items():
        if any((outcome(claim, value, item.stderr) == HOLDS) != holds for value in values):
            varied = ", ".join(format_value(value) for value in values)
            yield (
                f"{claim.id}: expected the same outcome with {name} at a tenth and ten times, "
                f"found {format_value(item.value, item.stderr)} and {varied}; it hangs on {name}"
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
    for better in report.better:
        print(f"claims: BETTER: {better}")
    for slower in report.slower:
        print(f"claims: SLOWER here: {slower}")
    counts = [f"{report.count(name)} {name}" for name in OUTCOMES]
    print(f"claims: {', '.join(counts)} ({options.profile} profile)")
    return int(bool(report.problems))


if __name__ == "__main__":
    raise SystemExit(main())
