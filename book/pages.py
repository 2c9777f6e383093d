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
from ledger import FAILS, HOLDS, Claim, Report, Row, margin

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
AGAINST = (FAILS, "defective", "missing")
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


def item_verdict(rows: Sequence[Row]) -> str:
    """One verdict on an item of a paper, from the claims about it.

    The paper's statements decide: all that were judged hold (``reproduced``), none
    (``not reproduced``) or some (``partly``). An item without one is ``checked`` if identities were
    checked, ``shown`` if the book only derives or draws it; a check that fails says so.
    """
    judged = [row for row in rows if row.outcome not in ("skipped", "not judged")]
    if any(row.claim.kind == "check" and row.outcome != HOLDS for row in judged):
        return "fails"
    stated = [row.outcome == HOLDS for row in judged if row.claim.kind == "paper"]
    if stated:
        return {len(stated): "reproduced", 0: "not reproduced"}.get(sum(stated), "partly")
    if any(row.claim.kind == "paper" for row in rows) or (rows and not judged):
        return "not measured here"
    return "checked" if rows else "shown"


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


def claim_link(claim: Claim) -> str:
    """A link from the ledger to the cell that recorded the claim (the row carries the anchor)."""
    id = html.escape(claim.id)
    return f'<a class="claim-id" href="../{claim.chapter}.html#claim-{id}">{id}</a>'


def summary(report: Report) -> str:
    """Three sentences for the title page: the papers' items by verdict, the claims by kind."""
    verdicts = [item_verdict(rows) for _, rows in items_with_claims(report)]
    items = ", ".join(f"{count} {word}" for word, count in Counter(verdicts).items())
    named = f"Of the {len(verdicts)} numbered items of the two papers: {items}." if verdicts else ""
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
    """The claims of one kind about some papers, a table for each paper."""
    parts = []
    header = ("Verdict", "Claim", "Value", "Threshold", "Where")
    for paper in papers:
        found = [r for r in report.rows if (r.claim.kind, r.claim.paper) == (kind, paper)]
        if found:
            parts.append(f"### {PAPER_NAMES[paper]}\n" if len(papers) > 1 else "")
            parts.append(table(header, map(_ledger_row, found), "ledger", "15 42 16 13 14"))
    return "\n".join(parts) or "No such claim is declared.\n"


def papers_claims(report: Report) -> str:
    """What is out of order, and the papers' own statements."""
    return f"{order(report)}\n{ledger(report, 'paper', 'A', 'B')}"


def own_claims(report: Report) -> str:
    """The filter and our own aims and checks."""
    words = {claim_verdict(row) for row in report.rows if row.claim.paper == "ours"}
    aims, checks = (ledger(report, kind, "ours") for kind in ("aim", "check"))
    return f"{claims_filter(words)}\n## Aims\n\n{aims}\n## Checks\n\n{checks}"


def evidence(report: Report) -> str:
    """Beside each statement of a paper its control, repetitions and numerical constants.

    Likewise for aims of which constants were varied.
    """
    header = ("Claim", "Value", "Control", "Repetitions", "Constants a tenth, ten times")
    shown = (row for row in report.rows if row.claim.kind == "paper" or row.claim.constants)
    rows = [_evidence_row(row) for row in shown]
    return table(header, rows, "evidence", "24 20 22 12 22") if rows else "None is declared.\n"


def _evidence_row(row: Row) -> tuple[str, ...]:
    claim, record = row.claim, row.record
    if record is None or record.value is None:
        control = claim.control or "none"
        return claim_link(claim), "not measured here", control, str(claim.seeds), ""
    value = f"{format_value(record.value, record.stderr)}; expected {threshold(claim)}"
    return claim_link(claim), value, *_evidence(row)


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
    value = format_value(record.value, record.stderr) if record else "not recorded"
    if row.outcome == "skipped" and record:
        value = record.note
    source = f" ({claim.source})" if claim.source else ""
    text = (
        f'<span id="{html.escape(claim.id)}"></span>{claim.sentence} '
        f"*{claim.item}{source}; measured:* {claim.quantity}. {claim_link(claim)}"
    )
    text += f" *Needs {claim.needs}.*" if claim.needs else ""
    return badge(claim_verdict(row)), text, value, threshold(claim), chapter_link(claim.chapter)


def missed(report: Report) -> str:
    """What did not come out: statements of the papers that do not hold, and our missed aims."""
    titles = {
        "paper": "Statement of a paper that does not hold here",
        "aim": "Aim of our own that is missed",
    }
    parts = []
    for kind, title in titles.items():
        rows = [r for r in report.rows if r.claim.kind == kind and r.outcome == FAILS]
        header = ("Item", title, "Found", "Where")
        if rows:
            parts.append(table(header, map(_missed_row, rows), "missed", "16 46 18 20"))
    if not parts and report.count("not judged"):
        return "Nothing was judged in this build, whose sizes are too small.\n"
    return "\n".join(parts) or "In this build everything came out.\n"


def _missed_row(row: Row) -> tuple[str, ...]:
    claim, record = row.claim, row.record
    assert record is not None  # it has an outcome
    whose = f"{claim.paper}, {claim.item}" if claim.kind == "paper" else claim.item
    found = f"{format_value(record.value, record.stderr)} (expected {threshold(claim)})"
    sentence = f"{claim.sentence} *Measured:* {claim.quantity}. {claim_link(claim)}"
    return whose, sentence, found, chapter_link(claim.chapter)


def load_items() -> list[dict[str, Any]]:
    """``book/reproduction/items.yml``: every numbered item of both papers; each is checked."""
    path = BOOK / "reproduction" / "items.yml"
    items = yaml.safe_load(path.read_text(encoding="utf-8"))
    for item in items:
        keys = set(item) - {"note"}
        if keys not in ({"paper", "item", "title", key} for key in ("where", "why")):
            raise BuildError(
                f"{path.name}: expected the keys paper, item, title, either where or why, and "
                "perhaps note, "
                f"found {sorted(item)}; correct the block"
            )
    return items


def items_with_claims(report: Report) -> list[tuple[dict[str, Any], list[Row]]]:
    """Each numbered item of the papers, with the claims of its paper that name it."""
    return [
        (item, [row for row in report.rows if _is_about(row.claim, item)]) for item in load_items()
    ]


def _is_about(claim: Claim, item: dict[str, Any]) -> bool:
    return claim.paper == item["paper"] and item["item"] in named_items(claim.item)


def paper_items(report: Report) -> str:
    """The filter, and a row for each numbered item: verdict, one sentence, the place."""
    found = items_with_claims(report)
    words = {item_verdict(rows) for _, rows in found}
    words |= {claim_verdict(row) for row in report.rows if row.claim.paper != "ours"}
    header = ("Item", "Verdict", "What this build found", "Where")
    parts = [claims_filter(words)]
    for paper in ("A", "B"):
        rows = [_item_row(item, claims) for item, claims in found if item["paper"] == paper]
        parts.append(f"### {PAPER_NAMES[paper]}\n")
        parts.append(table(header, rows, "items", "20 14 41 25"))
    return "\n".join(parts)


def _item_row(item: dict[str, Any], rows: Sequence[Row]) -> tuple[str, ...]:
    verdict = item_verdict(rows)
    ranked = sorted(rows, key=lambda row: (row.outcome not in AGAINST, row.claim.kind != "paper"))
    sentence = item.get("note", "Derived or shown; it states nothing to measure.")
    if ranked:
        row = ranked[0]
        expected = "Stated, and not found: " if row.outcome in AGAINST else ""
        sentence = f"{expected}{row.claim.sentence} {claim_link(row.claim)}"
    if verdict == "partly":
        stated = [row.outcome in AGAINST for row in rows if row.claim.kind == "paper"]
        sentence += f" *Of {len(stated)} statements {sum(stated)} did not come out.*"
    where = "; ".join(_target(name) for name in item["where"]) if "where" in item else item["why"]
    return f"**{item['item']}.** {item['title']}", badge(verdict), sentence, where


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
    found |= {text} & {"Figure (ISM only)"}
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
        "claims_evidence.md": evidence(report),
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
