"""Make one long training that ``book/runs.yml`` declares: a network and its log.

``python book/run_training.py board_local_0 --profile ci`` writes ``board_local_0.safetensors`` and
``board_local_0.json`` in ``_build/runs/ci``. Interrupted, the same command goes on from the last
checkpoint, to the same bits; a checkpoint whose run had other inputs is not gone on from.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import trainings
from contents import BUILD, explained

import markovscore as ms
from markovscore.core import write_whole

OBJECTIVES = {"ImplicitSM": ms.ImplicitSM, "LocalDSM": ms.LocalDSM, "PathShiftDSM": ms.PathShiftDSM}
CURVE_STEPS = 30  # of the probability flow, in a look along the way
LINE = 100  # steps to one number of the log's losses


def process_of(settings: dict[str, Any]) -> ms.Langevin:
    """The Langevin process that ends in four Gaussians, at the speed ``beta``."""
    corner, width = settings["prior"]["corner"], settings["prior"]["width"]
    means = corner * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    return ms.Langevin(ms.GaussianMixture(means, width), beta=tuple(settings["beta"]))


def points(settings: dict[str, Any], n: int, stream: int) -> torch.Tensor:
    """``n`` points of the run's set: stream 0 is trained on, stream 1 is looked at."""
    generator = torch.Generator().manual_seed(stream)
    return ms.toy(settings["data"], n, generator, dtype=torch.float32)


class Looks:
    """The mean log-likelihood of held-out points now and then, kept in a file until the end."""

    def __init__(self, settings: dict[str, Any], path: Path) -> None:
        self.process, self.path = process_of(settings), path
        self.points, self.steps = points(settings, settings["n_look"], 1), settings["looks"]
        self.values = json.loads(path.read_text()) if path.exists() else {}

    def __call__(self, step: int, score: torch.nn.Module) -> None:
        """Look, if this is a step for it; a step that comes again gives the same value."""
        if step in self.steps:
            values = ms.log_likelihood(score, self.process, self.points, steps=CURVE_STEPS)
            self.values[str(step)] = values.mean().item()
            write_whole(self.path, json.dumps(self.values))


def make(name: str, profile: str, folder: Path) -> None:
    """Train, or go on training, and write the network and the log."""
    settings, inputs = trainings.settings_of(name, profile), trainings.inputs(name, profile)
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{name}-{inputs[:16]}.checkpoint"
    for other in set(folder.glob(f"{name}-*.checkpoint*")) - {kept, looked(kept)}:
        other.unlink()  # of a run with other inputs
    look = Looks(settings, looked(kept))
    spent = time.process_time()
    initial = torch.Generator().manual_seed(settings["seed"])
    net = ms.ScoreMLP(2, settings["network_width"], std=look.process.std, generator=initial)
    build = OBJECTIVES[settings["objective"]]
    objective = build(look.process, **settings["options"], ahead=settings["ahead"])
    run = ms.train(
        net,
        objective,
        points(settings, settings["n_data"], 0),
        settings["steps"],
        settings["seed"],
        batch_size=settings["batch_size"],
        lr=settings["lr"],
        ema=settings["ema"],
        checkpoint=kept,
        checkpoint_every=settings["checkpoint_every"],
        progress=False,
        callback=look,
    )
    log = {"run": name, "profile": profile, "inputs": inputs, "settings": settings}
    log |= {"log_likelihood": look.values, "losses": thinned(run.losses)}
    log |= {"seconds": run.seconds[-1].item(), "cpu_seconds": time.process_time() - spent}
    weights = {key: value.contiguous() for key, value in run.score.state_dict().items()}
    write_whole(folder / f"{name}.safetensors", safetensors.torch.save(weights))
    write_whole(folder / f"{name}.json", json.dumps(log, indent=1) + "\n")
    for path in (kept, looked(kept)):
        path.unlink(missing_ok=True)


def looked(checkpoint: Path) -> Path:
    """Where an unfinished run keeps what it saw."""
    return checkpoint.with_suffix(".checkpoint_looks")


def thinned(losses: torch.Tensor) -> list[float]:
    """Means over ``LINE`` steps each; the last one may be over fewer."""
    return [part.mean().item() for part in losses.split(LINE)]


def main() -> int:
    """Command line, called by the Snakefile once for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a run of book/runs.yml, with its seed, such as board_local_0")
    parser.add_argument("--profile", default="ci", help="a profile of book/runs.yml")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"  run {options.name}: training", file=sys.stderr, flush=True)
    start = time.perf_counter()
    make(options.name, options.profile, BUILD / "runs" / options.profile)
    print(f"  run {options.name}: done in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(explained(main))
