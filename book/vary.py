"""Measure a chapter's claims with some of its parameters multiplied: for which no build has time.

``python book/vary.py localdsm/physics --parameters coarse_steps fine_steps --factors 0.5 2
--claims localdsm.physics.ism_fine --json book/measurements/physics_euler.json`` executes the
chapter as ``make book`` does, once for each factor, and stores what it recorded.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import run_chapter
import torch
from contents import BUILD, BuildError, explained
from ledger import read_records
from processes import environment

import markovscore as ms
from markovscore.core import write_whole


def defaults(chapter: str) -> dict[str, Any]:
    """The values that the chapter's ``parameters`` cell gives to single names."""
    cells = run_chapter.read_chapter(chapter, {}).cells
    found = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
    lines = [node for source in found for node in ast.parse(source).body]
    return {
        line.targets[0].id: ast.literal_eval(line.value)
        for line in lines
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
    }


def multiplied(chapter: str, names: list[str], factor: float) -> dict[str, int | float]:
    """The named parameters times ``factor``; whole numbers stay whole and at least one."""
    known = defaults(chapter)
    if unknown := [n for n in names if not isinstance(known.get(n), int | float)]:
        raise BuildError(
            f"parameters: expected numbers of the parameters cell of {chapter}, "
            f"found {', '.join(unknown)}; correct the name"
        )
    return {
        name: max(1, round(factor * known[name]))
        if isinstance(known[name], int)
        else factor * known[name]
        for name in names
    }


def measured(chapter: str, changes: dict[str, Any], ids: list[str]) -> dict[str, Any]:
    """Value, standard error and seeds of each claim, from an execution with ``changes``."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "chapter.ipynb"
        run_chapter.execute(chapter, "ci", output, changes)
        records = {record.id: record for record in read_records(output, chapter)}
    if missing := sorted(set(ids) - set(records)):
        raise BuildError(
            f"claims: expected some of {', '.join(sorted(records))}, found {', '.join(missing)}; "
            f"name what {chapter} records"
        )
    return {i: {k: getattr(records[i], k) for k in ("value", "stderr", "seeds")} for i in ids}


def main() -> int:
    """Command line, called by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chapter", help="<part>/<chapter>")
    parser.add_argument("--parameters", nargs="+", required=True, help="names of its parameters")
    parser.add_argument("--factors", nargs="+", type=float, required=True)
    parser.add_argument("--claims", nargs="+", required=True, help="ids that the chapter records")
    parser.add_argument("--json", type=Path, required=True, help="where the numbers go")
    options = parser.parse_args()
    os.environ.update(environment(BUILD, "ci") | {"MPLBACKEND": "agg"})
    stored = {
        "what": f"claims of {options.chapter}, {' and '.join(options.parameters)} multiplied",
        "device": f"one core, {platform.machine()}, no GPU",
        "date": datetime.date.today().isoformat(),
        "versions": {"torch": torch.__version__, "markovscore": ms.__version__},
        "command": f"python book/vary.py {' '.join(sys.argv[1:])}",
        "factors": {},
    }
    for factor in options.factors:
        changes = multiplied(options.chapter, options.parameters, factor)
        print(f"  {options.chapter} with {changes}", file=sys.stderr, flush=True)
        found = measured(options.chapter, changes, options.claims)
        stored["factors"][f"{factor:g}"] = {"parameters": changes, "claims": found}
        write_whole(options.json, json.dumps(stored, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(explained(main))
