"""Ruff over the cells of every chapter: ``make lint``.

Each chapter becomes a notebook in a temporary folder; Ruff reads notebooks cell by cell.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from contents import ROOT, chapters, page_path

# In a notebook imports may come late, an expression may be shown, and cells need no docstrings.
IGNORED = "E402,B018,D1,F811,INP"


def main() -> int:
    """Run ``ruff check`` and ``ruff format --diff``; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        for chapter in chapters():
            notebook = jupytext.read(page_path(chapter), fmt="md:myst")
            path = Path(folder) / f"{chapter}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, path)
        ruff = [sys.executable, "-m", "ruff"]
        shutil.copy(ROOT / "pyproject.toml", folder)  # --config expands what looks like $HOME
        check = [*ruff, "check", "--extend-ignore", IGNORED, "."]
        style = [*ruff, "format", "--diff", "."]
        return max(subprocess.run(command, cwd=folder).returncode for command in (check, style))


if __name__ == "__main__":
    raise SystemExit(main())
