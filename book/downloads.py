"""What the site's download buttons give: notebooks that run alone, pages that are complete.

A button gives the source of its page as Sphinx copied it into ``_build/html/_sources``. A chapter
reads files of the book by paths that start with ``../``, and the trainings that it names in a
folder of the build; in the copy they are in a folder beside the notebook, which its first code cell
writes. The pages themselves are not touched.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path

import nbformat
import trainings
from contents import BUILD, is_chapter, page_path, toc_pages

from markovscore import __version__

FOLDER, RUNS = "markovscore-book", "_build/runs/ci"
OUTSIDE = re.compile(r"""(["'])((?:\.\./)+)([^"'\n]+)\1""")
INCLUDE = re.compile(r"```\{include\} /(_generated/\w+\.md)\n```")
NEEDS = f"""\
# Downloaded from the book, this notebook needs only the book's package and what the chapters use:
# pip install ".[book,images]" in the book's folder (markovscore {__version__}).
"""
WRITE = """\
# The book's files that it reads are written into {folder}, beside the notebook.
def write_book_files(files):
    import base64
    import pathlib
    import zlib

    for name, data in files.items():
        path = pathlib.Path("{folder}", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zlib.decompress(base64.b85decode(data)))


write_book_files({files})
"""
MADE = f"% The source of a page of the book of markovscore {__version__}, in MyST Markdown.\n\n"


def complete(html: Path, site: Path, profile: str) -> None:
    """Complete every download of the built site ``html``; ``site`` has what pages include."""

    def included(text: str) -> str:
        return INCLUDE.sub(lambda match: (site / match[1]).read_text(encoding="utf-8"), text)

    for page in toc_pages():
        source = html / "_sources" / page
        if is_chapter(page):
            notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
            stand_alone(notebook, page_path(page).parent, profile)
            for cell in notebook.cells:
                cell.source = included(cell.source)
            nbformat.write(notebook, source.with_suffix(".ipynb"))
        else:
            text = source.with_suffix(".md").read_text(encoding="utf-8")
            source.with_suffix(".md").write_text(MADE + included(text), encoding="utf-8")


def stand_alone(notebook: nbformat.NotebookNode, folder: Path, profile: str) -> None:
    """Give a notebook of a chapter in ``folder`` the files that it reads there, in place."""
    files: dict[str, str] = {}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    runs = trainings.named("\n".join(cell.source for cell in code), profile)

    def keep(path: Path, name: str) -> None:
        if path.is_file():
            files[name] = base64.b85encode(zlib.compress(path.read_bytes(), 9)).decode()

    def beside(match: re.Match[str]) -> str:
        quote, up, name = match.groups()
        keep(folder / up / name, name)
        if name == RUNS:  # of this site's profile, where the notebook looks for them
            for file in (f"{run}.{kind}" for run in runs for kind in ("json", "safetensors")):
                keep(BUILD / "runs" / profile / file, f"{RUNS}/{file}")
        return f"{quote}{FOLDER}/{name}{quote}"

    for cell in code:
        cell.source = OUTSIDE.sub(beside, cell.source)
    source = NEEDS
    if files:
        source += WRITE.format(folder=FOLDER, files=json.dumps(files, indent=4))
    first = nbformat.v4.new_code_cell(source.rstrip(), id="book-files")
    first.metadata = {"tags": ["hide-input"], "jupyter": {"source_hidden": True}}
    notebook.cells.insert(notebook.cells.index(code[0]), first)
