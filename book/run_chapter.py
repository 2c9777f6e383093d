"""Execute one chapter: Jupytext Markdown -> notebook -> Papermill, with a profile's overrides.

``python book/run_chapter.py oism/spectra --profile ci --output _build/ci/oism/spectra.ipynb``

A chapter runs in ``_build/errors/<profile>/<part>/<chapter>.ipynb``, where it stays, executed up to
the cell that raised, if it fails. The output appears only when every cell ran (it is renamed), so
an interrupted build never leaves a half-executed chapter that looks finished.
"""

from __future__ import annotations

import argparse
import ast
import os
import resource
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import trainings
from contents import BUILD, ROOT, BuildError, explained, load_profile, page_path
from fork import SPENT
from processes import INLINE, environment, sockets_parent
from traitlets.config import Config


def read_chapter(chapter: str, overrides: dict[str, Any]) -> nbformat.NotebookNode:
    """The chapter as a notebook; overrides need a ``parameters`` cell that sets their names."""
    notebook = jupytext.read(page_path(chapter), fmt="md:myst")
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) > 1 or (overrides and not cells):
        raise BuildError(
            f"{chapter}: expected one cell tagged `parameters`, found {len(cells)}; "
            "tag the cell that sets the defaults"
        )
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell.source))]
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    if unknown := sorted(set(overrides) - names):
        raise BuildError(
            f"{chapter}: expected overrides of parameters that its `parameters` cell sets, "
            f"found {', '.join(unknown)}; correct the profile"
        )
    return notebook


READ_AT_IMPORT = "TRITON_INTERPRET"  # by Triton, as the process that is forked has imported it


def execute(
    chapter: str, profile: str, output: Path, changes: dict[str, Any] | None = None
) -> dict[str, float]:
    """Run the chapter, write the executed notebook; returns the seconds it took, of wall and CPU.

    Both are stored in the notebook, for the build's summary. CPU time includes the kernel's, which
    a forked one leaves in a file. ``changes`` are overrides beyond the profile's.
    """
    overrides = load_profile(profile).get(chapter, {}) | (changes or {})
    notebook = read_chapter(chapter, overrides)
    text = page_path(chapter).read_text("utf-8")
    trainings.refuse_others(text, profile, BUILD / "runs" / profile)
    if READ_AT_IMPORT in text:
        os.environ.pop("JUPYTER_PATH", None)  # an ordinary kernel, see processes.forked
    running = BUILD / "errors" / profile / f"{chapter}.ipynb"
    spent = running.with_suffix(".spent")
    for path in (running, output):
        path.parent.mkdir(parents=True, exist_ok=True)
    running.unlink(missing_ok=True)
    spent.write_text("0")
    os.environ[SPENT] = str(spent)
    wall, cpu = time.perf_counter(), _cpu_seconds(spent)
    try:
        _run(notebook, running, overrides, page_path(chapter).parent)
    except papermill.PapermillExecutionError as error:
        raise BuildError(
            f"{chapter}: {error.ename}: {error.evalue}\n    raised by:\n"
            f"{textwrap.indent(error.source.strip(), '    | ', lambda line: True)}\n"
            f"    the half-executed notebook is {running.relative_to(ROOT)}"
        ) from error
    except RuntimeError as error:  # what nbclient raises when the kernel is gone
        raise BuildError(
            f"{chapter}: expected the kernel to live, found: {error}; was the memory enough?"
        ) from error
    finally:
        took = {"seconds": time.perf_counter() - wall, "cpu_seconds": _cpu_seconds(spent) - cpu}
        took = {name: round(value, 1) for name, value in took.items()}
        if running.is_file():
            _normalise(running, took)
        spent.unlink()
        del os.environ[SPENT]
    running.replace(output)
    return took


def _cpu_seconds(spent: Path) -> float:
    """CPU time of this process, of the children that have ended, and of the kernel that wrote it.

    A kernel is one of the children, or a fork that is no child.
    """
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return float(spent.read_text()) + sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _run(
    notebook: nbformat.NotebookNode, output: Path, overrides: dict[str, Any], folder: Path
) -> None:
    """Papermill, with sockets in a folder of our own: parallel kernels race for TCP ports."""
    with tempfile.TemporaryDirectory(prefix="kernel-", dir=sockets_parent()) as sockets:
        papermill.execute_notebook(
            notebook,
            str(output).replace("{", "{{").replace("}", "}}"),  # it fills parameters into braces
            parameters=overrides,
            kernel_name="python3",
            cwd=str(folder),
            progress_bar=False,
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/k"}}),
        )


def _normalise(path: Path, took: dict[str, float]) -> None:
    """Keep the notebook independent of this machine, and fold the overrides.

    Papermill stores paths and dates, and shows the profile's parameters in a cell of its own. Of
    what it knows about a cell only the seconds stay, for the build's summary.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    notebook.metadata["markovscore"] = took
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if seconds := cell.metadata.pop("papermill", {}).get("duration"):
            cell.metadata["markovscore"] = {"seconds": round(seconds, 2)}
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("hide-input")
    nbformat.write(notebook, path)


def main() -> int:
    """Command line, called by the Snakefile once for each chapter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chapter", help="<part>/<chapter>")
    parser.add_argument("--profile", default="ci", help="a file of book/profiles")
    parser.add_argument("--output", type=Path, required=True, help="the executed notebook")
    options = parser.parse_args()
    os.environ.update(environment(BUILD, options.profile) | INLINE)
    print(f"  {options.chapter}: running", file=sys.stderr, flush=True)
    took = execute(options.chapter, options.profile, options.output)
    wall, cpu = took["seconds"], took["cpu_seconds"]
    print(f"  {options.chapter}: done in {wall:.0f} s, {cpu:.0f} s of CPU", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(explained(main))
