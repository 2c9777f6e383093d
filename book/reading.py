"""How long a chapter takes to read, and what of its text cannot stand on a page.

``python book/reading.py`` says of each page of ``_toc.yml`` that breaks a rule where it does: page,
line of the source, what was expected, what was found; the exit status is 1 if there is any. The
formulas' widths are judged by the browser (``check_site.py``); here only by a bound from below.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import yaml
from contents import page_path, toc_pages

COLUMNS = 79  # of code: what a page's column holds
CELL = 25  # lines
WORDS = 2500
MINUTES = 35
WORDS_A_MINUTE = 220
LINES_A_MINUTE = 15  # of visible code
SYMBOLS = 90  # of a formula's line: 719 px of a column, about 8 px for the narrowest letters
BOX = re.compile(r"^(?:`{3,}|:{3,})\{admonition\} At a glance$", re.MULTILINE)
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
SUPPORT = {
    "imports": re.compile(r"^\s*(import|from)\s"),
    "draws": re.compile(r"\b(plt|figures)\.\w"),
    "records a claim": re.compile(r"\bclaims\.(record|skip)\("),
    "glues": re.compile(r"\bglue\("),
}
FRONT = re.compile(r"\A---\n.*?^---\n", re.DOTALL | re.MULTILINE)
FENCED = re.compile(
    r"^(?P<fence>`{3,})\{code-cell\}[^\n]*\n(?P<body>.*?)^(?P=fence)$", re.DOTALL | re.MULTILINE
)
OPTIONS = re.compile(
    r"\A(?:---\n(?P<block>.*?)^---\n|(?P<short>(?::[\w-]+:[^\n]*\n)+))", re.DOTALL | re.MULTILINE
)
DISPLAY = re.compile(r"\$\$(.*?)\$\$(?: \([\w-]+\))?", re.DOTALL)
UNDESCRIBED = re.compile(
    r"!\[\s*\]\(|^(?:`{3,}|:{3,})\{(?:figure|image)\}[^\n]*\n(?!(?:[^\n]+\n)*?:alt: *\S)",
    re.MULTILINE,
)
# A formula's parts that take no room, or none of their own beside the rest.
SILENT = re.compile(
    r"\\(?:begin|end)\{\w+\*?\}|\\(?:left|right|[bB]igg?[lr]?|label|tag)\b|[\s{}^_&]"
)
BRACED = r"\{(?:[^{}]|\{[^{}]*\})*\}"
SCRIPT = re.compile(rf"[\^_](?:{BRACED}|\\\w+|.)")
FRACTION = re.compile(rf"\\[td]?frac{BRACED}{BRACED}")


@dataclass(frozen=True)
class Cell:
    """A code cell: the source's line of each of its lines, and its options."""

    lines: tuple[tuple[int, str], ...]  # blank ones left out
    options: dict[str, object]

    @property
    def folded(self) -> bool:
        """Is its code a click away?"""
        tags = self.options.get("tags")
        return bool(FOLDED & set(tags if isinstance(tags, list) else ()))


@dataclass(frozen=True)
class Text:
    """The source of one page."""

    page: str
    text: str

    @cached_property
    def cells(self) -> list[Cell]:
        """Its code cells."""
        return [self._cell(match) for match in FENCED.finditer(self.text)]

    def _cell(self, match: re.Match[str]) -> Cell:
        body, start = match["body"], self.text.count("\n", 0, match.start("body")) + 1
        options = OPTIONS.match(body)
        declared, first = "", 0
        if options:
            short = re.sub(r"^:([\w-]+):", r"\1:", options["short"] or "", flags=re.MULTILINE)
            declared, first = options["block"] or short, body.count("\n", 0, options.end())
        lines = list(enumerate(body.splitlines(), start))[first:]
        written = tuple((number, line) for number, line in lines if line.strip())
        return Cell(written, yaml.safe_load(declared) or {})

    @cached_property
    def words(self) -> int:
        """Words of prose: no code, no mathematics (a formula in a sentence is one word)."""
        text = re.sub(
            r"\A---\n.*?^---\n", "", FENCED.sub("", self.text), flags=re.MULTILINE | re.DOTALL
        )
        text = re.sub(r"^(?:[`:]{3,}.*|:[\w-]+:.*|\([\w-]+\)=)$", "", text, flags=re.MULTILINE)
        text = re.sub(r"\$[^$]*\$", "x", DISPLAY.sub("", text))
        return len(re.findall(r"[A-Za-z][\w'-]*", text))

    @property
    def longest(self) -> int:
        """Lines of the longest cell."""
        return max((len(cell.lines) for cell in self.cells), default=0)

    @property
    def minutes(self) -> float:
        """Time to read it: prose, and every visible line of code."""
        visible = sum(len(cell.lines) for cell in self.cells if not cell.folded)
        return self.words / WORDS_A_MINUTE + visible / LINES_A_MINUTE

    def problems(self) -> Iterator[str]:
        """One line for each rule that the page breaks."""
        for line, sentence in sorted(self._found()):
            yield f"book/{self.page}.md:{line}: expected {sentence}"

    def _found(self) -> Iterator[tuple[int, str]]:
        if "/" in self.page and not BOX.search(self.text.split("\n## ")[0]):
            yield 1, 'an opening box "At a glance" before the first section, found none'
        if self.words > WORDS:
            yield 1, f"at most {WORDS:,} words of prose, found {self.words:,}"
        for cell in self.cells:
            yield from _cell_problems(cell)
        prose = FENCED.sub(lambda match: "\n" * match[0].count("\n"), self.text)
        for match in UNDESCRIBED.finditer(prose):
            line = prose.count("\n", 0, match.start()) + 1
            yield line, "a description (alt text) of the image, found none"
        for match in DISPLAY.finditer(prose):
            line = prose.count("\n", 0, match.start(1)) + 1
            for row in match[1].split(r"\\"):
                if (count := symbols(row)) > SYMBOLS:
                    first = line + row[: -len(row.lstrip())].count("\n")
                    yield first, f"a line of a formula of at most {SYMBOLS} symbols, found {count}"
                line += row.count("\n")


def _cell_problems(cell: Cell) -> Iterator[tuple[int, str]]:
    first = cell.lines[0][0] if cell.lines else 1
    if len(cell.lines) > CELL:
        yield first, f"a cell of at most {CELL} lines, found {len(cell.lines)}"
    for line, text in cell.lines:
        if len(text) > COLUMNS:
            yield line, f"a line of at most {COLUMNS} characters, found {len(text)}"
        for what, pattern in SUPPORT.items():
            if not cell.folded and pattern.search(text):
                yield line, f"a cell tagged hide-input, found one that {what}: {text.strip()[:50]}"
    shown = cell.options.get("mystnb")
    if isinstance(shown, dict) and "figure" in shown and not (shown.get("image") or {}).get("alt"):
        yield first, "a description (alt text) of the figure, found none"


def symbols(tex: str) -> int:
    """At least so many symbols stand side by side: scripts are left out, a fraction counts half."""
    halved = 0
    for match in FRACTION.finditer(tex := SCRIPT.sub("", tex)):
        halved += symbols(re.sub(r"^\\[td]?frac", "", match[0])) // 2
    tex = re.sub(r"\\(?:operatorname|math\w+|text\w*)\*?", "", FRACTION.sub("", tex))
    return halved + len(re.findall(r"\\\w+|\\.|.", SILENT.sub("", tex)))


def read(page: str) -> Text:
    """The source of a page of the book."""
    return Text(page, page_path(page).read_text(encoding="utf-8"))


def problems() -> Iterator[str]:
    """What is wrong on any page."""
    for page in toc_pages():
        yield from read(page).problems()


def main() -> int:
    """Print the problems; returns the exit status."""
    found = list(problems())
    for problem in found:
        print(problem, file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
