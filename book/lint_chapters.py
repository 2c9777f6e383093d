"""Ruff and mypy over the cells of every chapter, and what a page can hold: ``make lint``.

Each chapter becomes a notebook in a temporary folder, which Ruff reads cell by cell, and a module,
in which mypy compares what the chapter defines with the types of the package.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
import reading
from contents import ROOT, chapters, page_path

# In a notebook imports may come late, an expression may be shown, and cells need no docstrings.
IGNORED = "E402,B018,D1,F811,INP"
# What mypy says of a process, a score or an objective; and of one from a list of several, of which
# it knows no more than that they are objects.
NOUN = re.compile(
    r'"(DiffusionLike|Score|Objective)"|No overload variant of "(simulate|fit_spectral)"'
)
UNKNOWN = re.compile(r'types? "(object|Any \| None)"')
COLUMNS = 79  # what a page's column holds


def main() -> int:
    """Run ``ruff check``, ``ruff format --diff``, mypy and ``reading``; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        for chapter in chapters():
            notebook = jupytext.read(page_path(chapter), fmt="md:myst")
            path = Path(folder, "text", f"{chapter}.ipynb")
            path.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, path)
            cells = (cell.source for cell in notebook.cells if cell.cell_type == "code")
            module = re.sub(r"^[%!].*$", "", "\n\n".join(cells), flags=re.MULTILINE)
            Path(folder, chapter.replace("/", "_") + ".py").write_text(module, encoding="utf-8")
        ruff = [sys.executable, "-m", "ruff"]
        shutil.copy(ROOT / "pyproject.toml", folder)  # --config expands what looks like $HOME
        status = [check_nouns(Path(folder))]
        width = ["--line-length", str(COLUMNS)]
        for command in (["check", "--extend-ignore", IGNORED], ["format", "--diff"]):
            done = subprocess.run([*ruff, *command, *width, "text/"], cwd=folder)
            status.append(done.returncode)
        return max(*status, reading.main())


def check_nouns(folder: Path) -> int:
    """mypy over the modules in ``folder``; returns its exit status.

    Of its errors those count that name a Protocol: a process, a score or an objective that the
    package cannot use. Cells need no annotations, and reuse names for other things.
    """
    modules = sorted(str(path) for path in folder.glob("*.py"))
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    environment = os.environ | {"MYPYPATH": str(ROOT / "src")}
    done = subprocess.run(
        [*command, *modules], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    found = [line for line in lines if NOUN.search(line) and not UNKNOWN.search(line)]
    failed = done.returncode > 1  # mypy itself, which then has compared nothing
    print("\n".join([*lines, done.stderr] if failed else found or ["mypy: all nouns fit"]))
    return done.returncode if failed else int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
