"""Every kernel against its twin and its peers at growing sizes, on a GPU or on a CPU.

A case names its candidates and what they must at least move and compute; beside the candidates,
the machine's own ceilings are measured in the same run (a large copy, a large matrix product), so
that a time can be read as a share of what the hardware allows. On a GPU times are between CUDA
events, on a CPU by the wall clock; candidates take turns, and a figure is the median over rounds.
"""

import argparse
import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib.timing import store

KERNELS = ("hermite_moments", "additive_score", "paths", "expm", "local_transition", "torus_score")
Candidates = dict[str, Callable[[], object]]
Case = tuple[str, Candidates, dict[str, Any]]


def on_gpu(run: Callable[[], object], calls: int) -> float:
    """Seconds a call, between two CUDA events around ``calls`` of them."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return 1e-3 * start.elapsed_time(end) / calls


def on_cpu(run: Callable[[], object], calls: int) -> float:
    """Seconds a call, by the wall clock."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def medians(candidates: Candidates, gpu: bool, budget: float) -> dict[str, float]:
    """Median seconds a call; about ``budget`` seconds for each candidate, in seven rounds or less.

    A round of a fast candidate is many calls in a row: between its two time stamps lies at least
    a millisecond. A peer that fails is named and left out; ours is not.
    """
    clock, calls, pace = (on_gpu if gpu else on_cpu), {}, {}
    for name, run in list(candidates.items()):
        try:
            run()  # compiles, fills caches
        except Exception as error:
            if name == "ours":
                raise
            print(f"{name}: {type(error).__name__}: {str(error)[:500]}", file=sys.stderr)
            del candidates[name]
            continue
        pace[name] = clock(run, 1)
        calls[name] = max(1, min(1000, int(1e-3 / max(pace[name], 1e-6))))
    longest = max(pace[name] * calls[name] for name in candidates)
    rounds = max(3, min(7, int(budget / longest)))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            seconds[name].append(clock(run, calls[name]))
    return {name: statistics.median(values) for name, values in seconds.items()}


def peaks(candidates: Candidates) -> dict[str, float]:
    """Bytes that a call adds to what is allocated on the GPU already, at its peak."""
    added = {}
    for name, run in candidates.items():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        added[name] = float(torch.cuda.max_memory_allocated() - before)
    return added


def ceilings(device: torch.device) -> dict[str, float]:
    """Bytes a second of a large copy, counted both ways; operations a second of matrix products."""
    gpu = device.type == "cuda"
    size, side = (2**28, 8192) if gpu else (2**25, 1024)
    source, target = torch.rand(size, device=device), torch.empty(size, device=device)
    found = {"copy, bytes/s": 8 * size / _one(lambda: target.copy_(source), gpu)}
    for dtype in (torch.float32, torch.float64):
        a, b = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
        name = str(dtype).removeprefix("torch.")
        found[f"product, {name}, flop/s"] = 2 * side**3 / _one(lambda a=a, b=b: a @ b, gpu)
    return found


def _one(run: Callable[[], object], gpu: bool) -> float:
    return medians({"run": run}, gpu, 0.5)["run"]


def measured(cases: Iterator[Case], gpu: bool, budget: float, name: str) -> list[dict]:
    """One row a case: its label, medians, peaks, and the bytes and operations it cannot avoid."""
    rows = []
    for label, candidates, floor in tqdm(cases, name, disable=None):
        row = {"case": label, "floor": floor, "seconds": medians(candidates, gpu, budget)}
        rows.append(row | ({"peak bytes": peaks(candidates)} if gpu else {}))
    return rows


def show(kernel: str, rows: list[dict], limits: dict[str, float]) -> None:
    """A table: ours in microseconds, the others over ours, and the share of the copy's speed."""
    print(kernel)
    for row in rows:
        ours = row["seconds"]["ours"]
        others = [f"{n} {v / ours:.3g}x" for n, v in row["seconds"].items() if n != "ours"]
        moved = row["floor"].get("bytes", 0.0) / ours / limits["copy, bytes/s"]
        print(
            f"    {row['case']:<34} {1e6 * ours:10.4g} us  copy {moved:4.0%}  {', '.join(others)}"
        )


def main() -> None:
    """Measure what ``--kernels`` names; store each, when it is done, where ``--json`` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--kernels", nargs="+", default=KERNELS, choices=KERNELS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--budget", type=float, default=0.3, help="seconds for each candidate")
    options = parser.parse_args()
    gpu = options.device == "cuda"
    if gpu and not torch.cuda.is_available():
        sys.exit("expected a CUDA device, found none: use --device cpu, or make bench")
    os.environ.pop("MARKOVSCORE_KERNELS", None)  # the choice that a user gets
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the cases look whether there is a GPU
    torch.set_num_threads(1 if not gpu else torch.get_num_threads())
    device = torch.device(options.device)
    limits = ceilings(device)
    for kernel in options.kernels:
        cases = importlib.import_module(f"kernels.{kernel}").cases(small=not gpu)
        rows = measured(cases, gpu, options.budget, kernel)
        show(kernel, rows, limits)
        if options.json:
            store(options.json, f"kernels/{kernel}", {"ceilings": limits, "rows": rows})


if __name__ == "__main__":
    main()
