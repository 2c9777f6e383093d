"""What the book consists of: its pages, its chapters, its profiles; light to import.

Everything that can be wrong in a name is reported here, once: expected, found, fix.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent
BUILD = ROOT / "_build"


class BuildError(Exception):
    """What was expected, what was found, and the fix; shown to the reader without a traceback."""


def explained(command: Callable[[], int]) -> int:
    """The exit status of a command; what it expected and did not find is printed, not traced."""
    try:
        return command()
    except OSError as error:
        message = (
            f"{error.filename or ROOT}: expected a tree that can be read and written, on a disk "
            f"with room, found: {error.strerror or error}; "
            "build in a copy that is yours to write in"
        )
    except BuildError as error:
        message = str(error)
    print(f"\nFAILED {message}\n", file=sys.stderr)
    return 1


def toc_parts() -> list[tuple[str, list[str]]]:
    """The parts of the book, each a caption and its pages; the home page is one without."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = [
        (part["caption"], [entry["file"] for entry in part["chapters"]]) for part in toc["parts"]
    ]
    return [("", [toc["root"]]), *parts]


def toc_pages() -> list[str]:
    """Every page that ``_toc.yml`` names, in reading order, relative to ``book/``."""
    return [page for _, pages in toc_parts() for page in pages]


def page_path(page: str) -> Path:
    """The source of a page; one that does not exist is an error that lists those that do."""
    path = BOOK / f"{page}.md"
    if not path.is_file():
        raise BuildError(
            f"chapter: expected one of {', '.join(toc_pages())}, found {page!r}, which has no file "
            f"book/{page}.md; correct the name, or write the file and list it in _toc.yml"
        )
    return path


def is_chapter(page: str) -> bool:
    """A page with a code cell is a chapter, to be executed; any other page is prose."""
    return "```{code-cell}" in page_path(page).read_text(encoding="utf-8")


def chapters() -> list[str]:
    """The pages of ``_toc.yml`` to execute, in reading order."""
    return [page for page in toc_pages() if is_chapter(page)]


def executed(folder: Path) -> dict[str, Path]:
    """The chapters that have run, with their notebooks in ``folder`` (``_build/<profile>``)."""
    paths = {chapter: folder / f"{chapter}.ipynb" for chapter in chapters()}
    return {chapter: path for chapter, path in paths.items() if path.is_file()}


def profile_names() -> list[str]:
    """The profiles that exist, from the files in ``book/profiles``."""
    return sorted(path.stem for path in (BOOK / "profiles").glob("*.yml"))


def load_profile(name: str) -> dict[str, dict[str, Any]]:
    """The overrides of one profile: chapter -> {parameter: value}; every chapter must exist."""
    path = BOOK / "profiles" / f"{name}.yml"
    if not path.is_file():
        raise BuildError(
            f"profile: expected one of {', '.join(profile_names())}, found {name!r}; "
            f"choose one of them, or write book/profiles/{name}.yml"
        )
    overrides = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(overrides, dict):
        raise BuildError(
            f"book/profiles/{name}.yml: expected a map <part>/<chapter>: {{parameter: value}}, "
            f"found a {type(overrides).__name__}; see book/profiles/README.md"
        )
    for chapter, values in overrides.items():
        page_path(chapter)
        if not isinstance(values, dict):
            raise BuildError(
                f"book/profiles/{name}.yml, {chapter}: expected {{parameter: value}}, "
                f"found {values!r}; indent the parameters under the chapter's name"
            )
    return overrides
