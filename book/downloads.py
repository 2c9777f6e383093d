"""What the site's download buttons give: notebooks that run alone, pages that are complete.

A button gives the source of its page as Sphinx copied it into ``_build/html/_sources``. In the copy
of a chapter the text is what Jupyter shows (``plain.py``). The first code cell installs the package
where it is missing, and writes the files of the book that the chapter reads, and the trainings that
it names, into a folder beside the notebook. The pages themselves are not touched.
"""

from __future__ import annotations

import ast
import base64
import json
import re
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from urllib.parse import urljoin

import nbformat
import trainings
import yaml
from contents import BOOK, BUILD, ROOT, is_chapter, page_path, toc_pages
from plain import Words, figure, glued, links, plain
from reading import FOLDED
from sphinx_words import NAME
from wheel import build_wheel

from markovscore import __version__
from markovscore.claims import MIME

FOLDER, RUNS = "markovscore-book", "_build/runs/ci"
OUTSIDE = re.compile(r"""(["'])((?:\.\./)+)([^"'\n]+)\1""")
INCLUDE = re.compile(r"```\{include\} /(_generated/\w+\.md)\n```")
ATTACHED = re.compile(r"\(attachment:([\w.-]+\.(?:png|jpeg|gif))\)")
INSTALL = f"""\
# Downloaded from the book of markovscore {__version__}. It runs alone: what it imports is
# installed here, if it is missing, and files that it reads are written beside it.
from importlib.util import find_spec

needed = {{needed}}
missing = [needed[name] for name in needed if find_spec(name) is None]
"""
FROM_SITE = """\
if missing:
    %pip install --quiet {" ".join(missing)}
"""
FROM_FILE = """\
if {wheel!r} in missing:
    from pathlib import Path

    if not Path({wheel!r}).is_file():
        raise FileNotFoundError(
            "expected the package markovscore, or its wheel {wheel} beside this notebook, "
            "found neither; the wheel lies in the folder _static of the book's site"
        )
"""
WRITE = """\


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


@dataclass(frozen=True)
class Site:
    """Where the package's wheel lies, and the site itself, if it has an address."""

    wheel: str  # the name of its file
    address: str = ""

    @property
    def requirement(self) -> str:
        """What pip installs."""
        return urljoin(self.address, f"_static/{self.wheel}") if self.address else self.wheel


def complete(html: Path, site: Path, profile: str) -> None:
    """Complete every download of the built site ``html``; ``site`` has what pages include."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    address = config["html"].get("baseurl", "")
    served = Site(build_wheel(html / "_static").name, address and f"{address.rstrip('/')}/")
    found = json.loads((BUILD / ".doctrees" / NAME).read_text(encoding="utf-8"))

    def included(text: str) -> str:
        return INCLUDE.sub(lambda match: (site / match[1]).read_text(encoding="utf-8"), text)

    for page in toc_pages():
        source = html / "_sources" / page
        if is_chapter(page):
            notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
            for cell in notebook.cells:
                cell.source = included(cell.source)
            words = Words(
                found["roles"].get(page, {}),
                found["numbers"].get(page, {}),
                glued(out for cell in notebook.cells for out in cell.get("outputs", ())),
                served.address and urljoin(served.address, f"{page}.html"),
            )
            as_jupyter_shows(notebook, words)
            stand_alone(notebook, page_path(page).parent, profile, served)
            nbformat.write(notebook, source.with_suffix(".ipynb"))
        else:
            text = source.with_suffix(".md").read_text(encoding="utf-8")
            source.with_suffix(".md").write_text(MADE + included(text), encoding="utf-8")


def as_jupyter_shows(notebook: nbformat.NotebookNode, words: Words) -> None:
    """Plain Markdown, captions under the figures, pictures in the notebook, folded code; in
    place."""
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "markdown":
            cell.source = plain(cell.source, words)
            names = ATTACHED.findall(cell.source)
            data = {name: base64.b64encode((BOOK / "assets" / name).read_bytes()) for name in names}
            if data:
                kinds = {name: f"image/{name.rpartition('.')[2]}" for name in data}
                cell.attachments = {n: {kinds[n]: code.decode()} for n, code in data.items()}
            continue
        if FOLDED & set(cell.metadata.get("tags", ())):
            cell.metadata["jupyter"] = {"source_hidden": True}
        for output in cell.get("outputs", ()):
            if MIME in output.get("data", {}):
                output.data["text/html"] = links("".join(output.data["text/html"]), words)
        if shown := cell.metadata.get("mystnb", {}).get("figure"):
            caption = figure(shown["name"], plain(shown["caption"], words), words)
            cells.append(nbformat.v4.new_markdown_cell(caption, id=shown["name"]))
    notebook.cells = cells


def stand_alone(notebook: nbformat.NotebookNode, folder: Path, profile: str, site: Site) -> None:
    """Give a notebook of a chapter in ``folder`` the package and the files that it reads there, in
    place."""
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

    source = first_cell([cell.source for cell in code], site)
    for cell in code:
        cell.source = OUTSIDE.sub(beside, cell.source)
    if files:
        source += WRITE.format(folder=FOLDER, files=json.dumps(files, indent=4))
    first = nbformat.v4.new_code_cell(source.rstrip(), id="book-files")
    first.metadata = {"tags": ["hide-input"], "jupyter": {"source_hidden": True}}
    notebook.cells.insert(notebook.cells.index(code[0]), first)


def first_cell(code: Sequence[str], site: Site) -> str:
    """Install what some cells import, if it is missing: the package's wheel, and the rest in the
    versions that the book was built with."""
    names = {name for source in code for name in imported(source)} - sys.stdlib_module_names
    known = distributions()
    needed = {"markovscore": site.requirement}
    for name in sorted(names - {"markovscore", "torch"}):  # the package brings torch
        needed[name] = f"{known[name][0]}=={version(known[name][0])}"
    source = INSTALL.format(needed=json.dumps(needed, indent=4).replace("\n}", ",\n}"))
    return source + ("" if site.address else FROM_FILE.format(wheel=site.wheel)) + FROM_SITE


@cache
def distributions() -> Mapping[str, list[str]]:
    """The distribution of each module that is installed here."""
    return packages_distributions()


def imported(source: str) -> set[str]:
    """The top names of the modules that a cell imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found
