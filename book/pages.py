"""The generated pages of the book: the claims summary, the ledger, the map of the papers' items.

Input: a verified :class:`ledger.Report`. Output: MyST Markdown for ``_generated/``.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml
from contents import BOOK, BuildError, is_chapter, page_path, toc_pages
from ledger import PAPERS, VERDICTS, Claim, Report, Row

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
ITEM = re.compile(rf"({KINDS})s? (\d+(?:(?:, | and )\d+)*)")
STATUSES = {
    "fail": "fails",
    "missing": "missing",
    "not-judged": "not judged",
    "skipped": "not measured",
}


def badge(row: Row) -> str:
    """The verdict of one row as a coloured word; a claim that fails says so instead."""
    kind = row.claim.verdict if row.status == "pass" else row.status
    word = STATUSES.get(kind, kind.replace("-", " "))
    return f'<span class="verdict verdict-{kind}">{word}</span>'


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
    """One sentence and a table, claims by part of the book; for the title page."""
    verdicts = Counter(row.claim.verdict for row in report.rows)
    found = [f"{verdicts[v]} {v.replace('-', ' ')}" for v in VERDICTS if verdicts[v]]
    failed = report.count("fail") + report.count("missing")
    text = (
        f"The ledger declares **{len(report.rows)} claims** ({', '.join(found) or 'none yet'}); "
        f"in this build ({report.profile} profile) **{report.count('pass')} hold** "
        f"and **{failed} fail**"
    )
    if count := report.count("not-judged"):
        text += (
            f"; {count} were recorded and not judged, because this profile's sizes are too small"
        )
    if count := report.count("skipped"):
        needed = sorted({str(row.claim.needs) for row in report.rows if row.status == "skipped"})
        text += f"; {count} could not be measured, for want of optional data ({', '.join(needed)})"
    declared = Counter(row.claim.chapter for row in report.rows)
    holding = Counter(row.claim.chapter for row in report.rows if row.status == "pass")
    rows = [
        (chapter_link(page), str(declared[page]), str(holding[page]))
        for page in toc_pages()
        if declared[page]
    ]
    return f"{text}.\n" + (
        "\n" + table(("Chapter", "Claims", "Hold"), rows, "claims-summary") if rows else ""
    )


def ledger(report: Report) -> str:
    """The whole ledger, one table for each paper, and what is wrong with it, if anything is."""
    parts = []
    if report.problems:
        listed = "\n".join(f"* `{problem}`" for problem in report.problems)
        parts.append(
            f":::{{admonition}} The ledger is not in order\n:class: error\n{listed}\n:::\n"
        )
    for paper in PAPERS:
        rows = [row for row in report.rows if row.claim.paper == paper]
        if rows:
            header = ("Verdict", "Claim", "Value", "Threshold", "Where")
            parts.append(f"## {PAPER_NAMES[paper]}\n")
            parts.append(table(header, map(_ledger_row, rows), "ledger", "15 42 16 13 14"))
    return "\n".join(parts) or "No claim is declared yet.\n"


def _ledger_row(row: Row) -> tuple[str, ...]:
    claim, record = row.claim, row.record
    value = format_value(record.value, record.stderr) if record else "not recorded"
    if row.status == "skipped" and record:
        value = record.note
    text = (
        f'<span id="{html.escape(claim.id)}"></span>{claim.sentence} '
        f"*{claim.item}; measured:* {claim.quantity}. {claim_link(claim)}"
    )
    text += f" *Needs {claim.needs}.*" if claim.needs else ""
    return badge(row), text, value, threshold(claim), chapter_link(claim.chapter)


def load_items() -> list[dict[str, Any]]:
    """``book/reproduction/items.yml``: every numbered item of both papers; each is checked."""
    path = BOOK / "reproduction" / "items.yml"
    items = yaml.safe_load(path.read_text(encoding="utf-8"))
    for item in items:
        if set(item) not in ({"paper", "item", "title", key} for key in ("where", "why")):
            raise BuildError(
                f"{path.name}: expected the keys paper, item, title and either where or why, "
                f"found {sorted(item)}; correct the block"
            )
    return items


def paper_items(report: Report) -> str:
    """The map: every example, lemma, theorem, algorithm, figure and table -> cells and claims."""
    parts = []
    for paper in ("A", "B"):
        rows = [_item_row(item, report) for item in load_items() if item["paper"] == paper]
        parts.append(f"### {PAPER_NAMES[paper]}\n")
        header = ("Item", "What it is", "Where it is regenerated")
        parts.append(table(header, rows, "items", "16 34 50"))
    return "\n".join(parts)


def _item_row(item: dict[str, Any], report: Report) -> tuple[str, ...]:
    matches = [
        f"{claim_link(row.claim)} {badge(row)}"
        for row in report.rows
        if row.claim.paper == item["paper"] and item["item"] in named_items(row.claim.item)
    ]
    where = "; ".join(_target(name) for name in item["where"]) if "where" in item else item["why"]
    return item["item"], item["title"], f"{where} {'; '.join(matches)}"


def _target(name: str) -> str:
    """A link to a page (it has a slash), an equation, a figure, a definition or any label."""
    if "/" in name:
        page_path(name)
        return chapter_link(name)
    role = ROLES.get(name.split("-")[0], "ref")
    return f"{{{role}}}`{name}`"


def named_items(text: str) -> set[str]:
    """The items that a claim's ``item`` names: "Examples 3, 4 and 7" is three of them."""
    found = {"Appendix"} if text.startswith("Appendix") else set()
    for kind, numbers in ITEM.findall(text):
        found |= {f"{kind} {number}" for number in re.findall(r"\d+", numbers)}
    return found


def show_verdicts(notebook: nbformat.NotebookNode, report: Report, page: str) -> None:
    """Complete the rows of :func:`markovscore.claims.record` with threshold and verdict, in place.

    The chapter itself cannot know them: they are declared in ``book/claims.yml``, once.
    """
    rows = {row.claim.id: row for row in report.rows}
    ledger_page = "../" * page.count("/") + "reproduction/claims.html"
    for data in (out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", [])):
        if MIME in data and data[MIME]["id"] in rows:
            row, recorded = rows[data[MIME]["id"]], data[MIME]
            id, note = html.escape(row.claim.id), html.escape(recorded["note"])
            data["text/html"] = (
                f'<div class="claim" id="claim-{id}">{badge(row)} '
                f"{html.escape(row.claim.quantity)} "
                f"<strong>{format_value(recorded['value'], recorded['stderr'])}</strong> "
                f"(expected {threshold(row.claim)})"
                + (f" <em>{note}</em>" if note else "")
                + f' <code><a href="{ledger_page}#{id}">{id}</a></code></div>'
            )


def write_pages(report: Report, folder: Path) -> None:
    """Write the three generated pages that prose pages include."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"claims_summary": summary, "claims_ledger": ledger, "paper_items": paper_items}
    for name, page in pages.items():
        (folder / f"{name}.md").write_text(page(report), encoding="utf-8")


def staged(page: str, executed: Path, report: Report) -> tuple[str, str]:
    """What Sphinx reads for a page: its suffix and its text."""
    if not is_chapter(page):
        return ".md", page_path(page).read_text(encoding="utf-8")
    notebook = nbformat.read(executed, as_version=4)
    show_verdicts(notebook, report, page)
    return ".ipynb", nbformat.writes(notebook)
