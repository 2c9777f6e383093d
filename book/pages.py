"""The generated pages of the book: the claims summary, the papers' items, the ledger, the footer.

Input: a verified :class:`ledger.Report`. Output: MyST Markdown and HTML for ``_generated/``.
"""

from __future__ import annotations

import html
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import yaml
from contents import BOOK, ROOT, BuildError, is_chapter, page_path
from ledger import FAILS, HOLDS, OPEN, Claim, Report, Row, margin

from markovscore import __version__
from markovscore.claims import MIME, format_value

PAPER_NAMES = {
    "A": "Paper A: operator-informed score matching",
    "B": "Paper B: local denoising score matching",
    "ours": "Ours",
}
SYMBOLS = {"<": "&lt;", "<=": "≤", ">": "&gt;", ">=": "≥"}
ROLES = dict.fromkeys(("alg", "def", "lem", "prop", "prp", "thm"), "prf:ref")
ROLES |= {"eq": "eq", "fig": "numref"}
KINDS = "Definition|Example|Lemma|Theorem|Proposition|Algorithm|Figure|Table"
PLURAL = {"holds": "hold", "does not hold": "do not hold", "fails": "fail"}
MISSED = (FAILS, OPEN)
LINE = '<span class="line">'  # of a cell with several
ITEM = re.compile(rf"({KINDS})s? (\d+(?:(?:, | and )\d+)*)")
WORDS = {  # an outcome as a reader sees it, by the kind of the claim
    "paper": {HOLDS: "holds", FAILS: "does not hold"},
    "aim": {HOLDS: "met", FAILS: "missed"},
    "check": {HOLDS: "checked", FAILS: "fails"},
}


def badge(word: str) -> str:
    """A verdict as a coloured word."""
    return f'<span class="verdict verdict-{word.replace(" ", "-")}">{word}</span>'


def claim_verdict(row: Row) -> str:
    """The outcome of a claim, in the word of its kind."""
    words = WORDS[row.claim.kind] | {"skipped": "not measured here"}
    return words.get(row.outcome, row.outcome)


def item_verdict(rows: Sequence[Row], measurable: bool = True) -> str:
    """One verdict on an item of a paper, from the claims about it.

    The paper's statements decide: all that were judged hold (``reproduced``), some (``partly``),
    none (``not reproduced``, or ``undecided`` if each is within its margin). An item without one is
    ``checked`` if identities were checked; without any claim it is ``shown``, as the book only
    derives or draws it, or ``not measured here``; a check that fails says so.
    """
    judged = [row for row in rows if row.outcome not in ("skipped", "not judged")]
    if any(row.claim.kind == "check" and row.outcome != HOLDS for row in judged):
        return "fails"
    stated = {row.outcome for row in judged if row.claim.kind == "paper"}
    if HOLDS in stated:
        return "reproduced" if stated == {HOLDS} else "partly"
    if stated:
        return OPEN if stated == {OPEN} else "not reproduced"
    if any(row.claim.kind == "paper" for row in rows) or (rows and not judged):
        return "not measured here"
    return "checked" if rows else "shown" if measurable else "not measured here"


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], name: str, widths: str = "auto"
) -> str:
    """A MyST ``list-table``: cells are free to contain mathematics, links and pipes."""
    lines = [":::{list-table}", ":header-rows: 1", f":class: {name}", f":widths: {widths}", ""]
    for cells in [header, *rows]:
        for position, cell in enumerate(cells):
            lines.append(("* - " if position == 0 else "  - ") + " ".join(cell.split()))
    return "\n".join([*lines, ":::", ""])


def chapter_link(chapter: str) -> str:
    """A link whose text is the chapter's title."""
    return f"{{doc}}`/{chapter}`"


def threshold(claim: Claim) -> str:
    """Comparison and threshold, such as ``≤ 0.001``."""
    return f"{SYMBOLS[claim.comparison]} {claim.threshold:.4g}"


def finding(row: Row) -> str:
    """What was found, in one phrase: value, standard error and bar; or why there is no value."""
    claim, record = row.claim, row.record
    if record is None:
        return "not recorded"
    if record.value is None:
        return f"not measured here: {record.note}"
    value, bar = measured(row), threshold(claim)
    relation = {HOLDS: bar, OPEN: f"undecided ({bar})", FAILS: f"not {bar}"}
    return f"{value}, {relation.get(row.outcome, f'expected {bar}').replace(' ', '&nbsp;')}"


def measured(row: Row) -> str:
    """The value, its standard error, and the number of repetitions behind that."""
    record = row.record
    assert record is not None
    text = f"**{format_value(record.value, record.stderr)}**"
    count = f" (*n* = {record.seeds})" if record.seeds else ""
    return f"{text}{count}".replace(" ", "&nbsp;")


def claim_link(claim: Claim) -> str:
    """A link from the ledger to the cell that recorded the claim (the row carries the anchor)."""
    id = html.escape(claim.id)
    return f'<a class="claim-id" href="../{claim.chapter}.html#claim-{id}">{id}</a>'


def anchor(claim: Claim) -> str:
    """Where links to a claim end, among them that of its box in the chapter."""
    return f'<span id="{html.escape(claim.id)}"></span>'


def summary(report: Report) -> str:
    """Three sentences for the title page: the papers' items by verdict, the claims by kind."""
    verdicts = [item_verdict(rows, measurable(i)) for i, rows in items_with_claims(report)]
    items = ", ".join(f"{count} {word}" for word, count in Counter(verdicts).items())
    named = f"Of {len(verdicts)} items of the two papers: {items}." if verdicts else ""
    names = {"paper": "statements of the papers", "aim": "aims of our own", "check": "checks"}
    counted = []
    for kind, name in names.items():
        words = Counter(claim_verdict(row) for row in report.rows if row.claim.kind == kind)
        if words:
            found = ", ".join(f"{count} {PLURAL.get(w, w)}" for w, count in words.most_common())
            counted.append(f"{words.total()} {name} ({found})")
    text = f"In this build, of the {report.profile} profile, it measures {'; '.join(counted)}."
    if report.count("not judged"):
        text += " Nothing was judged, as this profile's sizes are too small."
    if report.count("skipped"):
        needed = sorted({str(row.claim.needs) for row in report.rows if row.outcome == "skipped"})
        text += f" What is not measured lacks optional data ({', '.join(needed)})."
    return f"{named}\n{text}\n"


def claims_filter(verdicts: Iterable[str]) -> str:
    """A box for words and a button for each verdict; book.js shows it and makes it work."""
    buttons = "".join(
        f'<button type="button" aria-pressed="false" value="{name}">{name}</button>'
        for name in sorted(set(verdicts))
    )
    return (
        '<form class="claims-filter" hidden><label>Show rows with '
        f'<input type="search" placeholder="words"></label> {buttons} '
        '<output aria-live="polite"></output></form>\n'
    )


def order(report: Report) -> str:
    """What is wrong with the ledger, and what turned out better than it last saw."""
    boxes = (
        ("The ledger is not in order", "error", report.problems),
        ("Better than the ledger last saw", "warning", report.better),
        ("Slower than on the machine that the ledger last saw", "warning", report.slower),
    )
    return "\n".join(
        f":::{{admonition}} {title}\n:class: {name}\n"
        + "\n".join(f"* `{line}`" for line in lines)
        + "\n:::\n"
        for title, name, lines in boxes
        if lines
    )


def ledger(report: Report, kind: str, *papers: str) -> str:
    """The checks or aims about some papers, a table for each paper; what was missed comes first."""
    parts = []
    header = ("Verdict", "Claim", "Value", "Threshold", "Where")
    for paper in papers:
        found = [r for r in report.rows if (r.claim.kind, r.claim.paper) == (kind, paper)]
        if found:
            found.sort(key=lambda row: row.outcome not in MISSED)
            parts.append(f"### {PAPER_NAMES[paper]}\n" if len(papers) > 1 else "")
            parts.append(table(header, map(_ledger_row, found), "ledger", "15 42 16 13 14"))
    return "\n".join(parts) or "No such claim is declared.\n"


def own_claims(report: Report) -> str:
    """The filter and our own aims and checks."""
    words = {claim_verdict(row) for row in report.rows if row.claim.paper == "ours"}
    aims, checks = (ledger(report, kind, "ours") for kind in ("aim", "check"))
    return f"{claims_filter(words)}\n## Aims\n\n{aims}\n## Checks\n\n{checks}"


def papers_claims(report: Report) -> str:
    """What is out of order; then how each statement of a paper was measured, and beside what."""
    header = ("Measured", "Value", "Control", "Repetitions", "Constants a tenth, ten times")
    rows = [_evidence_row(row) for row in report.rows if row.claim.kind == "paper"]
    shown = table(header, rows, "evidence", "30 18 20 14 18") if rows else "None is declared.\n"
    return f"{order(report)}\n{shown}"


def _evidence_row(row: Row) -> tuple[str, ...]:
    claim, record = row.claim, row.record
    what = f"{anchor(claim)}{claim.quantity} {claim_link(claim)}"
    if record is None or record.value is None:
        return what, finding(row), str(claim.control), str(claim.seeds), ""
    note = f" ({record.note})" if record.note else ""
    return what, finding(row) + note, *_evidence(row)


def _evidence(row: Row) -> tuple[str, str, str]:
    """Control, repetitions and constants of a measured claim, as words."""
    claim, record = row.claim, row.record
    assert record is not None
    varied = "; ".join(
        f"{name}: {', '.join(format_value(value) for value in values)}"
        for name, values in record.constants.items()
    )
    seeds = str(claim.seeds)
    if record.stderr is not None:
        seeds += f" ({margin(claim):.2g} standard errors are asked)"
    control = f"{claim.control}: {format_value(record.control)}" if claim.control else "none"
    return control, seeds, varied or "none"


def _ledger_row(row: Row) -> tuple[str, ...]:
    claim, record = row.claim, row.record
    value = measured(row) if record else "not recorded"
    if row.outcome == "skipped" and record:
        value = record.note
    text = f"{anchor(claim)}{claim.sentence} *{claim.item}; measured:* {claim.quantity}."
    if record and record.constants:
        text += f" *Constants a tenth, ten times:* {_evidence(row)[-1]}."
    text += f" {claim_link(claim)}" + (f" *Needs {claim.needs}.*" if claim.needs else "")
    return badge(claim_verdict(row)), text, value, threshold(claim), chapter_link(claim.chapter)


def missed(report: Report) -> str:
    """The items of the papers of which something did not come out: what, and why."""
    rows = []
    for item, claims in items_with_claims(report):
        found = [row for row in claims if row.claim.kind == "paper" and row.outcome in MISSED]
        if found:
            name = f"**{item['paper']}, {item['item']}** {badge(item_verdict(claims))}"
            rows.append((name, _statements(found), item.get("note", "")))
    if rows:
        header = ("Item", "What did not come out", "Why, and what did")
        return table(header, rows, "missed", "16 42 42")
    if report.count("not judged"):
        return "Nothing was judged in this build, whose sizes are too small.\n"
    return "In this build everything came out.\n"


def load_items() -> list[dict[str, Any]]:
    """``book/reproduction/items.yml``: every numbered item of both papers; each is checked."""
    path = BOOK / "reproduction" / "items.yml"
    items = yaml.safe_load(path.read_text(encoding="utf-8"))
    for item in items:
        if set(item) - {"note", "unmeasured"} != {"paper", "item", "title", "where"}:
            raise BuildError(
                f"{path.name}: expected the keys paper, item, title, where, and perhaps note (what "
                "a reader must know beside the verdict) or unmeasured (why there is none), "
                f"found {sorted(item)}; correct the block"
            )
    return items


def measurable(item: dict[str, Any]) -> bool:
    """Whether this book could measure what the item states, if it states anything."""
    return "unmeasured" not in item


def items_with_claims(report: Report) -> list[tuple[dict[str, Any], list[Row]]]:
    """Each numbered item of the papers, with the claims of its paper that name it."""
    return [
        (item, [row for row in report.rows if is_about(row.claim, item)]) for item in load_items()
    ]


def is_about(claim: Claim, item: dict[str, Any]) -> bool:
    """Whether a claim names an item, by its name or among several."""
    return claim.paper == item["paper"] and item["item"] in {claim.item, *named_items(claim.item)}


def paper_items(report: Report) -> str:
    """The filter, and a row for each numbered item: verdict, what was found, the place."""
    found = items_with_claims(report)
    words = {item_verdict(rows, measurable(item)) for item, rows in found}
    checks = [row for row in report.rows if row.claim.kind == "check"]
    words |= {claim_verdict(row) for row in checks if row.claim.paper != "ours"}
    header = ("Item", "Verdict", "What this build found", "Where")
    parts = [claims_filter(words)]
    for paper in ("A", "B"):
        rows = [_item_row(item, claims) for item, claims in found if item["paper"] == paper]
        parts.append(f"### {PAPER_NAMES[paper]}\n")
        parts.append(table(header, rows, "items", "15 13 54 18"))
    return "\n".join(parts)


def _item_row(item: dict[str, Any], rows: Sequence[Row]) -> tuple[str, ...]:
    deciding = [row for row in rows if row.claim.kind == "paper"] or rows
    unmeasured = item.get("unmeasured", "Derived or shown; it states nothing to measure.")
    found = _statements(deciding) or unmeasured
    if "note" in item:
        found += f" {LINE}*Beside it:* {item['note']}</span>"
    verdict = badge(item_verdict(rows, measurable(item)))
    where = "; ".join(_target(name) for name in item["where"])
    return f"**{item['item']}.** {item['title']}", verdict, found, where


def _statements(rows: Sequence[Row]) -> str:
    """Each claim as a sentence with what was found, those that were missed first."""
    lines = []
    for row in sorted(rows, key=lambda row: row.outcome not in MISSED):
        source = f" ({row.claim.source})" if row.claim.source else ""
        id = html.escape(row.claim.id)
        link = f'<a class="claim-id" href="claims.html#{id}">{id.rpartition(".")[2]}</a>'
        lines.append(f"{LINE}{row.claim.sentence}{source} {finding(row)}. {link}</span>")
    return " ".join(lines)


def _target(name: str) -> str:
    """A link to a page (it has a slash), an equation, a figure, a definition or any label."""
    if "/" in name:
        page_path(name)
        return chapter_link(name)
    role = ROLES.get(name.split("-")[0], "ref")
    return f"{{{role}}}`{name}`"


def named_items(text: str) -> set[str]:
    """The items that a claim's ``item`` names: "Examples 3, 4 and 7" is three of them."""
    found = {word.capitalize() for word in re.findall(r"^(?:Appendix|abstract|summary)", text)}
    for kind, numbers in ITEM.findall(text):
        found |= {f"{kind} {number}" for number in re.findall(r"\d+", numbers)}
    return found


def show_verdicts(notebook: nbformat.NotebookNode, report: Report, page: str) -> None:
    """Complete the rows of :func:`markovscore.claims.record` with sentence and verdict, in place.

    The chapter itself cannot know them: they are declared in ``book/claims.yml``, once.
    """
    rows = {row.claim.id: row for row in report.rows}
    for data in (out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", [])):
        if MIME in data and data[MIME]["id"] in rows:
            row, recorded = rows[data[MIME]["id"]], data[MIME]
            claim, note = row.claim, f" {with_mathematics(recorded['note'])}."
            note = note if recorded["note"] else ""
            if (claim.control or claim.constants) and recorded["value"] is not None:
                words = ("Control: ", " Repetitions: ", " Constants a tenth, ten times: ")
                parts = zip(words, _evidence(row), strict=True)
                note += "".join(f" {word}{with_mathematics(part)}." for word, part in parts)
            id = html.escape(claim.id)
            name = "ours" if claim.paper == "ours" else "claims"
            address = f"{'../' * page.count('/')}reproduction/{name}.html#{id}"
            data["text/html"] = (
                f'<div class="claim" id="claim-{id}">{badge(claim_verdict(row))} '
                f"{with_mathematics(claim.sentence)} "
                f"<strong>{format_value(recorded['value'], recorded['stderr'])}</strong>"
                "<details><summary>What was measured</summary>"
                f"{with_mathematics(claim.quantity)}; expected {threshold(claim)}."
                f'{note} <a href="{address}">{id}</a></details></div>'
            )


def with_mathematics(text: str) -> str:
    """Plain text as HTML, in which MathJax sets what stands between dollars."""
    formula = r'<span class="math notranslate nohighlight">\\(\1\\)</span>'
    return re.sub(r"\$([^$]+)\$", formula, html.escape(text))


def footer(profile: str) -> str:
    """What build a page is of; ``{home}`` stands for the address of the title page."""
    commit = "unknown"
    if (ROOT / ".git").exists():
        command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=10", "--exclude=*"]
        try:
            done = subprocess.run([*command, "--dirty=, with local changes"], capture_output=True)
            commit = done.stdout.decode().strip() or commit
        except OSError:  # no git here
            pass
    return (
        f"<p>Built on {datetime.now(UTC):%Y-%m-%d} (UTC), {profile} profile. "
        f"markovscore {__version__}, MIT licence, commit {commit}. "
        '<a href="{home}#cite">How to cite</a></p>\n'
    )


def write_pages(report: Report, folder: Path) -> None:
    """Write the generated texts that prose pages include, and the footer."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "claims_summary.md": summary(report),
        "claims_papers.md": papers_claims(report),
        "claims_checks.md": ledger(report, "check", "A", "B"),
        "claims_ours.md": own_claims(report),
        "claims_missed.md": missed(report),
        "paper_items.md": paper_items(report),
        "footer.html": footer(report.profile),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def staged(page: str, executed: Path, report: Report) -> tuple[str, str]:
    """What Sphinx reads for a page: its suffix and its text."""
    if not is_chapter(page):
        return ".md", page_path(page).read_text(encoding="utf-8")
    notebook = nbformat.read(executed, as_version=4)
    show_verdicts(notebook, report, page)
    return ".ipynb", nbformat.writes(notebook)
