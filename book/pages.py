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
from ledger import Claim, Report, Row

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
ITEM = re.compile(rf"({KINDS})s? (\d+(?:(?:, | and )\d+)*)")
WORDS = {"fail": "fails", "not-measured": "not measured here", "skipped": "not measured here"}


def badge(kind: str) -> str:
    """A verdict as a coloured word."""
    return f'<span class="verdict verdict-{kind}">{word(kind)}</span>'


def word(kind: str) -> str:
    """A verdict as a reader sees it."""
    return WORDS.get(kind, kind.replace("-", " "))


def claim_verdict(row: Row) -> str:
    """What the book concludes from a claim; of one that does not hold, only that."""
    return row.claim.verdict if row.status == "pass" else row.status


def item_verdict(rows: Sequence[Row]) -> str:
    """One verdict on an item of a paper, from the paper's claims about it.

    ``shown`` without a claim; ``not-measured`` if none was judged here; else ``reproduced`` if the
    paper's statement holds in all that were, ``not-reproduced`` if in none, ``partly`` between.
    """
    judged = [row for row in rows if row.status not in ("skipped", "not-judged")]
    holding = sum(claim_verdict(row) == "reproduced" for row in judged)
    if not judged:
        return "not-measured" if rows else "shown"
    return {len(judged): "reproduced", 0: "not-reproduced"}.get(holding, "partly")


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
    """Two sentences for the title page: the papers' items by verdict, the claims by outcome."""
    verdicts = [item_verdict(rows) for _, rows in items_with_claims(report)]
    items = ", ".join(f"{count} {word(kind)}" for kind, count in Counter(verdicts).items())
    failed = report.count("fail") + report.count("missing")
    text = (
        f"The book declares **{len(report.rows)} claims**; in this build, of the "
        f"{report.profile} profile, **{report.count('pass')} hold** and **{failed} fail**"
    )
    if count := report.count("not-judged"):
        text += f"; {count} were recorded and not judged, as this profile's sizes are too small"
    if count := report.count("skipped"):
        needed = sorted({str(row.claim.needs) for row in report.rows if row.status == "skipped"})
        text += f"; {count} could not be measured, for want of optional data ({', '.join(needed)})"
    named = f"Of the {len(verdicts)} numbered items of the two papers: {items}." if verdicts else ""
    return f"{named}\n{text}.\n"


def claims_filter(verdicts: Iterable[str]) -> str:
    """A box for words and a button for each verdict; book.js shows it and makes it work."""
    buttons = "".join(
        f'<button type="button" aria-pressed="false" value="{name}">{name}</button>'
        for name in sorted({word(kind) for kind in verdicts})
    )
    return (
        '<form class="claims-filter" hidden><label>Show rows with '
        f'<input type="search" placeholder="words"></label> {buttons} '
        '<output aria-live="polite"></output></form>\n'
    )


def ledger(report: Report, *papers: str) -> str:
    """The claims about some papers, a table for each, and what is wrong, if anything is."""
    parts = []
    if report.problems:
        listed = "\n".join(f"* `{problem}`" for problem in report.problems)
        parts.append(
            f":::{{admonition}} The ledger is not in order\n:class: error\n{listed}\n:::\n"
        )
    for paper in papers:
        rows = [row for row in report.rows if row.claim.paper == paper]
        if rows:
            header = ("Verdict", "Claim", "Value", "Threshold", "Where")
            parts.append(f"## {PAPER_NAMES[paper]}\n")
            parts.append(table(header, map(_ledger_row, rows), "ledger", "15 42 16 13 14"))
    return "\n".join(parts) or "No claim is declared yet.\n"


def own_claims(report: Report) -> str:
    """The filter and the ledger of our own claims."""
    kinds = {claim_verdict(row) for row in report.rows if row.claim.paper == "ours"}
    return f"{claims_filter(kinds)}\n{ledger(report, 'ours')}"


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
    return badge(claim_verdict(row)), text, value, threshold(claim), chapter_link(claim.chapter)


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
    kinds = {item_verdict(rows) for _, rows in found}
    kinds |= {claim_verdict(row) for row in report.rows if row.claim.paper != "ours"}
    header = ("Item", "Verdict", "What this build found", "Where")
    parts = [claims_filter(kinds)]
    for paper in ("A", "B"):
        rows = [_item_row(item, claims) for item, claims in found if item["paper"] == paper]
        parts.append(f"### {PAPER_NAMES[paper]}\n")
        parts.append(table(header, rows, "items", "20 14 41 25"))
    return "\n".join(parts)


def _item_row(item: dict[str, Any], rows: Sequence[Row]) -> tuple[str, ...]:
    verdict = item_verdict(rows)
    against = ("not-reproduced", "fail", "missing")
    exceptions = [row for row in rows if claim_verdict(row) in against]
    sentence = "Derived or shown; it states nothing to measure."
    if rows:
        row = (exceptions or rows)[0]
        expected = "Expected, and not found: " if row.status in ("fail", "missing") else ""
        sentence = f"{expected}{row.claim.sentence} {claim_link(row.claim)}"
    if verdict == "partly":
        sentence += f" *Of {len(rows)} claims {len(exceptions)} go against the paper.*"
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
    found = {word.capitalize() for word in re.findall(r"^(?:Appendix|abstract)", text)}
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
            id = html.escape(claim.id)
            name = "ours" if claim.paper == "ours" else "claims"
            address = f"{'../' * page.count('/')}reproduction/{name}.html#{id}"
            data["text/html"] = (
                f'<div class="claim" id="claim-{id}">{badge(claim_verdict(row))} '
                f"{with_mathematics(claim.sentence)} "
                f"<strong>{format_value(recorded['value'], recorded['stderr'])}</strong>"
                "<details><summary>What was measured</summary>"
                f"{with_mathematics(claim.quantity)}; expected {threshold(claim)}."
                f'{note if recorded["note"] else ""} <a href="{address}">{id}</a></details></div>'
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
        "claims_papers.md": ledger(report, "A", "B"),
        "claims_ours.md": own_claims(report),
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
