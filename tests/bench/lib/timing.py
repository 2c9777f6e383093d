"""Paired timings: the candidates run in turn, round after round, and are compared as ratios.

The speed of a shared machine drifts by more than the differences of interest; the ratio of two
runs that follow each other does not.  A figure is the median over the rounds.
"""

import argparse
import json
import platform
import statistics
import subprocess
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
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


def report(rows: dict[str, dict[str, float]]) -> None:
    """Print rows of figures; write them with their provenance where ``--json`` says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    for name, figures in rows.items():
        print(name)
        for figure, value in figures.items():
            print(f"    {figure:<58} {value:10.4g}")
    if arguments.json:
        content = {"provenance": provenance(), "figures": rows}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
