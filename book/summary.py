"""What the Snakefile prints when a build ends: what ran, how long it took, where the site is."""

from __future__ import annotations

import json
import math

from contents import BUILD, ROOT, chapters, executed

SLOWEST = 10  # cells that are listed
BUDGETS = {"ci": 150}  # seconds of CPU for a chapter; a profile not named here has no budget


def show(profile: str, seconds: float) -> None:
    """Print it; a chapter without a notebook has failed, or was not reached."""
    done = executed(BUILD / profile)
    missing = [name for name in chapters() if name not in done]
    print(f"\nprofile   {profile}, {seconds:.0f} s")
    print(f"chapters  {len(done)} of {len(done) + len(missing)} executed", end="")
    print(f"; failed: {', '.join(missing)}" if missing else "")
    show_runs(profile)
    show_times(profile, list(done))
    built = not missing and (BUILD / "site.done").is_file()
    where = (BUILD / "html" / "index.html").relative_to(ROOT)
    print(f"site      {where if built else 'not built (what is in _build/html is older)'}")


def show_runs(profile: str) -> None:
    """How many long trainings there are, and the CPU time of making them."""
    logs = [
        json.loads(path.read_text("utf-8")) for path in (BUILD / "runs" / profile).glob("*.json")
    ]
    if logs:
        total = sum(log["cpu_seconds"] for log in logs)
        print(f"runs      {len(logs)} long trainings, {total:.0f} s of CPU when they were made")


def show_times(profile: str, names: list[str]) -> None:
    """Each chapter's seconds when it last ran, and the slowest cells'; a warning over budget."""
    rows, cells = [], []
    for name in names:
        notebook = json.loads((BUILD / profile / f"{name}.ipynb").read_text(encoding="utf-8"))
        took = notebook["metadata"]["markovscore"]
        rows.append((took["cpu_seconds"], took["seconds"], name))
        for cell in notebook["cells"]:
            if seconds := cell["metadata"].get("markovscore", {}).get("seconds"):
                first = "".join(cell["source"]).strip().partition("\n")[0]
                cells.append((seconds, name, first[:60]))
    rows.sort(reverse=True)
    total = sum(cpu for cpu, _, _ in rows)
    print(f"times     {total:.0f} s of CPU in all; each chapter's, and by the clock:")
    for cpu, wall, name in rows:
        print(f"          {cpu:5.0f} s ({wall:.0f} s) {name}")
    budget = BUDGETS.get(profile, math.inf)
    for cpu, _, name in rows:
        if cpu > budget:
            print(f"WARNING   {name}: expected at most {budget} s of CPU, found {cpu:.0f} s")
    print(f"slowest   {SLOWEST} cells by the clock, each by its first line:")
    for seconds, name, line in sorted(cells, reverse=True)[:SLOWEST]:
        print(f"          {seconds:5.1f} s {name}: {line}")
