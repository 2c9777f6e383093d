"""Is the built site whole, and does each page read well?

``python book/check_site.py --profile ci`` looks for every page, figure, claim's row and target of a
link in the files, and then shows every page to a browser (``browser.py``). It prints how long each
chapter takes to read, and one line for each fault; with any, the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import browser
import reading
from contents import BUILD, chapters, executed, toc_pages

PICTURES = {"image/png", "image/svg+xml", "image/jpeg"}
SEARCHES = {"install": "index", "eigenfunction": r"\w+/"}  # a word: the first page; a chapter
LEDGERS = {"ours": "reproduction/ours"}
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
ONLY_NAMED = {"canonical", "next", "prev", "search", "index"}  # links that load nothing


class Page(HTMLParser):
    """The ids of a page, what a browser would load (tag and address), and where its links lead."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str | None] = set()
        self.loaded: list[tuple[str, str]] = []
        self.links: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what the tag names."""
        values = dict(attrs)
        self.ids |= {values.get("id"), values.get("name") if tag == "a" else None}
        address = values.get(LOADING.get(tag, ""))
        if address and values.get("rel") not in ONLY_NAMED:
            self.loaded.append((tag, address))
        if tag == "a" and (link := values.get("href")):
            self.links.add(link)


class Site:
    """The pages of a folder, each read once."""

    def __init__(self, html: Path) -> None:
        self.html = html.resolve()

    @cached_property
    def pages(self) -> dict[Path, Page]:
        """All of them, generated indices included."""
        paths = sorted(self.html.rglob("*.html"))
        return {path: Page(path) for path in paths if "_static" not in path.parts}

    @property
    def names(self) -> list[str]:
        """Names as in ``_toc.yml``."""
        return [path.relative_to(self.html).with_suffix("").as_posix() for path in self.pages]

    def broken(self) -> Iterator[str]:
        """What a browser would load from another host or not find, and links that lead nowhere."""
        for name, (path, page) in zip(self.names, self.pages.items(), strict=True):
            for _, address in page.loaded:
                if "://" in address or address.startswith("//"):
                    yield f"{name}: expected no request to another host, found {address}"
                elif not address.startswith(("data:", "#")) and not self._there(path, address):
                    yield f"{name}: expected the file {address}, found none"
            for link in sorted(page.links):
                if not urlsplit(link).scheme and not link.startswith("//"):
                    yield from self._led(name, path, link)

    def _there(self, path: Path, address: str) -> bool:
        return (path.parent / unquote(urlsplit(address).path)).exists()

    def _led(self, name: str, path: Path, link: str) -> Iterator[str]:
        place, fragment = urlsplit(link).path, unquote(urlsplit(link).fragment)
        target = (path.parent / unquote(place)).resolve() if place else path
        if not target.exists():
            yield f"{name}: expected the page {link} of a link, found none"
        elif fragment and target in self.pages and fragment not in self.pages[target].ids:
            yield f"{name}: expected the place {link} of a link, found none"


def problems(profile: str) -> Iterator[str]:
    """One sentence for each thing that the site lacks."""
    if not (BUILD / "claims.json").is_file():
        yield f"expected a built book in {BUILD}, found none; run `make book PROFILE={profile}`"
        return
    report = json.loads((BUILD / "claims.json").read_text(encoding="utf-8"))
    site = Site(BUILD / "html")
    yield from site.broken()
    pages = dict(zip(site.names, site.pages.values(), strict=True))
    for name in toc_pages():
        if name not in pages:
            yield f"{name}: expected the page {BUILD / 'html' / name}.html, found none"
    notebooks = executed(BUILD / profile)
    for chapter in chapters():
        if chapter not in notebooks:
            path = BUILD / profile / f"{chapter}.ipynb"
            yield f"{chapter}: expected the notebook {path}, found none"
        elif chapter in pages:
            pictures = figure_cells(notebooks[chapter])
            found = sum(tag == "img" and "_images/" in a for tag, a in pages[chapter].loaded)
            if found < len(pictures):
                yield f"{chapter}: expected {len(pictures)} figures, found {found}"
            for before, cell in zip([None, *pictures], pictures, strict=False):
                if cell is before or "figure" not in cell["metadata"].get("mystnb", {}):
                    source = "".join(cell["source"]).strip()[:60]
                    yield f"{chapter}: expected one picture with a caption of the cell {source!r}"
    for row in report["claims"]:
        id, chapter = row["claim"]["id"], row["claim"]["chapter"]
        ledger = LEDGERS.get(row["claim"]["paper"], "reproduction/claims")
        if ledger in pages and id not in pages[ledger].ids:
            yield f"{ledger}: expected the claim {id} in the ledger, found none"
        if chapter in pages and f"claim-{id}" not in pages[chapter].ids:
            yield f"{chapter}: expected the row of the claim {id}, found none"


def figure_cells(notebook: Path) -> list[dict[str, Any]]:
    """The cell of each output that the page must show as a picture file."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    hidden = {"remove-output", "remove-cell"}
    return [
        cell
        for cell in cells
        if not hidden & set(cell["metadata"].get("tags", ()))
        for output in cell.get("outputs", ())
        # a glued value is shown where it is used
        if PICTURES & set(output.get("data", {})) and not output["metadata"].get("scrapbook")
    ]


def show(choice: str) -> tuple[list[str], dict[str, float]]:
    """What a browser finds wrong, and the pages' shares of code; a required one must be there."""
    chromium = browser.find_chromium()
    if chromium is None:
        sentence = "no Chromium found (apt install chromium)"
        if choice == "required":
            return [f"expected a browser, {sentence}"], {}
        print(f"site: browser checks skipped: {sentence}")
        return [], {}
    start, html = time.perf_counter(), BUILD / "html"
    names = Site(html).names
    seen = browser.look(chromium, html, names, chapters(), SEARCHES)
    print(f"site: {len(names)} pages in a browser, {time.perf_counter() - start:.0f} s")
    return seen.problems(), seen.share


def sittings(share: Mapping[str, float]) -> Iterator[str]:
    """How long each chapter takes to read."""
    yield (
        f"minutes to read: {reading.WORDS_A_MINUTE} words of prose or "
        f"{reading.LINES_A_MINUTE} visible lines of code a minute"
    )
    for chapter in chapters():
        text = reading.read(chapter)
        code = f", {share[chapter]:.0%} of its height is code" if chapter in share else ""
        yield (
            f"{chapter}: {text.words:,} words, {text.minutes:.0f} minutes, "
            f"longest cell {text.longest} lines{code}"
        )
        if text.minutes > reading.MINUTES:
            yield f"WARNING {chapter}: expected at most {reading.MINUTES} minutes"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="ci", help="a file of book/profiles")
    parser.add_argument(
        "--browser", choices=("auto", "required", "none"), default="auto", help="show the pages?"
    )
    options = parser.parse_args()
    found, share = list(problems(options.profile)), {}
    if options.browser != "none" and (BUILD / "html" / "index.html").is_file():
        faults, share = show(options.browser)
        found += faults
    for line in sittings(share):
        print(f"site: {line}")
    for problem in found:
        print(f"site: {problem}", file=sys.stderr)
    if not found:
        counts = f"{len(toc_pages())} pages, {len(chapters())} executed chapters"
        print(f"site: {counts}, nothing missing")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
