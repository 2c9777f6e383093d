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

from contents import BUILD, chapters, executed, toc_pages

PICTURES = {"image/png", "image/svg+xml", "image/jpeg"}
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
ONLY_NAMED = {"canonical", "next", "prev", "search", "index"}  # links that load nothing


class Page(HTMLParser):
    """The ids of a page, and what a browser would load: pairs of a tag and an address."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str | None] = set()
        self.loaded: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what the tag names."""
        values = dict(attrs)
        self.ids.add(values.get("id"))
        address = values.get(LOADING.get(tag, ""))
        if address and values.get("rel") not in ONLY_NAMED:
            self.loaded.append((tag, address))


def problems(profile: str) -> Iterator[str]:
    """One sentence for each thing that the site lacks."""
    if not (BUILD / "claims.json").is_file():
        yield f"expected a built book in {BUILD}, found none; run `make book PROFILE={profile}`"
        return
    report = json.loads((BUILD / "claims.json").read_text(encoding="utf-8"))
    pages = {}
    for name in toc_pages():
        path = BUILD / "html" / f"{name}.html"
        if path.is_file():
            pages[name] = Page(path)
            yield from _broken(name, pages[name], path.parent)
        else:
            yield f"{name}: expected the page {path}, found none"
    notebooks = executed(BUILD / profile)
    for chapter in chapters():
        if chapter not in notebooks:
            path = BUILD / profile / f"{chapter}.ipynb"
            yield f"{chapter}: expected the notebook {path}, found none"
        elif chapter in pages:
            expected = count_figures(notebooks[chapter])
            found = sum(tag == "img" and "_images/" in a for tag, a in pages[chapter].loaded)
            if found < expected:
                yield f"{chapter}: expected {expected} figures, found {found}"
    ledger = pages["reproduction/claims"].ids if "reproduction/claims" in pages else set()
    for row in report["claims"]:
        id, chapter = row["claim"]["id"], row["claim"]["chapter"]
        if id not in ledger:
            yield f"reproduction/claims: expected the claim {id} in the ledger, found none"
        if chapter in pages and f"claim-{id}" not in pages[chapter].ids:
            yield f"{chapter}: expected the row of the claim {id}, found none"


def _broken(name: str, page: Page, folder: Path) -> Iterator[str]:
    """What a browser would load from another host, or not find."""
    for _, address in page.loaded:
        if "://" in address or address.startswith("//"):
            yield f"{name}: expected no request to another host, found {address}"
        elif (
            not address.startswith(("data:", "#"))
            and not (folder / address.split("?")[0].split("#")[0]).exists()
        ):
            yield f"{name}: expected the file {address}, found none"


def count_figures(notebook: Path) -> int:
    """Outputs of an executed notebook that the page must show as a picture file."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    hidden = {"remove-output", "remove-cell"}
    return sum(
        bool(PICTURES & set(output.get("data", {})))
        for cell in cells
        if not hidden & set(cell["metadata"].get("tags", ()))
        for output in cell.get("outputs", ())
        # a glued value is shown where it is used
        if not output.get("metadata", {}).get("scrapbook")
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="ci", help="a file of book/profiles")
    found = list(problems(parser.parse_args().profile))
    for problem in found:
        print(f"site: {problem}", file=sys.stderr)
    if not found:
        counts = f"{len(toc_pages())} pages, {len(chapters())} executed chapters"
        print(f"site: {counts}, nothing missing")
    raise SystemExit(bool(found))
