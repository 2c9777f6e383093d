"""Is the built site whole? Every page, every figure, every claim's row, and no other host.

``python book/check_site.py --profile ci`` prints what is missing and exits with 1 if anything is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from contents import BUILD, chapters, toc_pages

PICTURES = ("image/png", "image/svg+xml", "image/jpeg")
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """The ids, the pictures and everything that the browser would load, of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.ids: set[str] = set()
        self.pictures: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what the tag names."""
        values = dict(attrs)
        if values.get("id"):
            self.ids.add(str(values["id"]))
        address = values.get(LOADING.get(tag, ""))
        if address and values.get("rel") not in ("canonical", "next", "prev", "search", "index"):
            self.loaded.append(address)
            if tag == "img":
                self.pictures.append(address)


def problems(profile: str) -> Iterator[str]:
    """One sentence for each thing that the site lacks."""
    html = BUILD / "html"
    if not (BUILD / "claims.json").is_file():
        yield f"expected a built book in {BUILD}, found none; run `make book PROFILE={profile}`"
        return
    executed = {chapter: BUILD / profile / f"{chapter}.ipynb" for chapter in chapters()}
    report = json.loads((BUILD / "claims.json").read_text(encoding="utf-8"))
    pages = {}
    for name in toc_pages():
        path = html / f"{name}.html"
        if not path.is_file():
            yield f"{name}: expected the page {path}, found none"
            continue
        pages[name] = Page(path)
        yield from _broken(name, pages[name])
    for chapter, notebook in executed.items():
        if not notebook.is_file():
            yield f"{chapter}: expected the notebook {notebook}, found none"
        if not notebook.is_file() or chapter not in pages:
            continue
        expected = count_figures(notebook)
        found = len([a for a in pages[chapter].pictures if "_images/" in a])
        if found < expected:
            yield f"{chapter}: expected {expected} figures, found {found}"
    ledger = pages["reproduction/claims"].ids if "reproduction/claims" in pages else set()
    for row in report["claims"]:
        id, chapter = row["claim"]["id"], row["claim"]["chapter"]
        if id not in ledger:
            yield f"reproduction/claims: expected the claim {id} in the ledger, found none"
        if chapter in pages and f"claim-{id}" not in pages[chapter].ids:
            yield f"{chapter}: expected the row of the claim {id}, found none"


def _broken(name: str, page: Page) -> Iterator[str]:
    for address in page.loaded:
        if "://" in address or address.startswith("//"):
            yield f"{name}: expected no request to another host, found {address}"
        elif not address.startswith(("data:", "#")):
            target = (page.path.parent / address.split("?")[0].split("#")[0]).resolve()
            if not target.exists():
                yield f"{name}: expected the file {address}, found none"


def count_figures(notebook: Path) -> int:
    """Outputs of an executed notebook that the page must show as a picture file."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return sum(
        any(kind in output.get("data", {}) for kind in PICTURES)
        for cell in cells
        if "remove-output" not in cell["metadata"].get("tags", [])
        and "remove-cell" not in cell["metadata"].get("tags", [])
        for output in cell.get("outputs", [])
        if not output.get("metadata", {}).get(
            "scrapbook"
        )  # a glued value is shown where it is used
    )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="ci", help="a file of book/profiles")
    found = list(problems(parser.parse_args().profile))
    for problem in found:
        print(f"site: {problem}", file=sys.stderr)
    if not found:
        print(
            f"site: {len(toc_pages())} pages, {len(chapters())} executed chapters, nothing missing"
        )
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
