"""Paired timings: the candidates run in turn, round after round, and are compared as ratios.

The speed of a shared machine drifts by more than the differences of interest; the ratio of two
runs that follow each other does not.  A figure is the median over the rounds.
"""

import argparse
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy
import torch


def paired(candidates: dict[str, Callable[[], object]], rounds: int = 9) -> dict[str, list[float]]:
    """Seconds of each candidate in each round, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median(values: list[float]) -> float:
    """The median, which one slow round does not move."""
    return statistics.median(values)


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> float:
    """Median over the rounds of ``above / below``."""
    return median([a / b for a, b in zip(seconds[above], seconds[below], strict=True)])


def provenance() -> dict[str, object]:
    """Where and when the numbers were measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    } | _gpu()


def _commit() -> str:
    """The commit, and whether anything but stored measurements has changed since."""
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", ":/", ":!/book/measurements")
    return f"{commit}-dirty" if changed else commit


def _git(*command: str) -> str:
    run = subprocess.run(["git", *command], capture_output=True, text=True, check=False)
    return run.stdout.strip()


def _processor() -> str:
    """The model's name where the system tells it, else the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu() -> dict[str, object]:
    """The GPU and what compiles for it; empty without one."""
    if not torch.cuda.is_available():
        return {}
    triton = importlib.metadata.version("triton")
    device = torch.cuda.get_device_properties(0)
    memory = f"{device.total_memory / 2**30:.0f} GiB"
    return {"gpu": f"{device.name}, {memory}", "cuda": torch.version.cuda, "triton": triton}


def report(rows: dict[str, dict[str, float]]) -> None:
    """Print rows of figures; store them where ``--json`` says, under the script's name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    for name, figures in rows.items():
        print(name)
        for figure, value in figures.items():
            print(f"    {figure:<58} {value:10.4g}")
    if arguments.json:
        store(arguments.json, Path(sys.argv[0]).stem, {"figures": rows})


def store(path: Path, name: str, content: dict) -> None:
    """Put ``content`` with its provenance under ``name`` of a JSON file, and leave the rest of it.

    Every part of the file says by itself when and where it was measured. Written whole or not.
    """
    parts = json.loads(path.read_text()) if path.exists() else {}
    parts[name] = {"provenance": provenance()} | content
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(parts, indent=1, sort_keys=True) + "\n")
    part.replace(path)
