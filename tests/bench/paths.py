"""Simulation against torchsde's Euler scheme, and seconds of a training step by objective."""

from collections.abc import Callable
from typing import Any

import torch
from lib.peers import torchsde_euler
from lib.timing import median, paired, ratio, report

import markovscore as ms

BATCH, STEPS, END = 512, 20, 0.5
CORNERS = [[2.0, 2.0], [-2.0, 2.0], [2.0, -2.0], [-2.0, -2.0]]


def simulation(process: Any, dim: int) -> dict[str, float]:
    """``BATCH`` paths of ``STEPS`` steps; the floor is the calls of the drift and the noise."""
    y, g = torch.randn(BATCH, dim), torch.Generator().manual_seed(0)

    def floor() -> None:
        for _ in range(STEPS):
            process.drift(y, 0.1)
            torch.randn(BATCH, dim, generator=g)

    candidates: dict[str, Callable[[], object]] = {
        "ours": lambda: ms.simulate(process, y, END, STEPS, g),
        "torchsde": torchsde_euler(process, y, END, STEPS),
        "floor": floor,
    }
    seconds = paired(candidates, rounds=60)
    return {
        "torchsde / ours": ratio(seconds, "torchsde", "ours"),
        "ours / drift and noise alone": ratio(seconds, "ours", "floor"),
        "milliseconds: ours": 1e3 * median(seconds["ours"]),
    }


def training_steps() -> dict[str, float]:
    """One Adam step, batch 512, three layers of 256; paths simulated ahead, used once."""
    langevin = ms.Langevin(ms.GaussianMixture(CORNERS, 0.8))
    linear = ms.LinearSDE(-torch.eye(2), 2.0**0.5 * torch.eye(2), horizon=1.0)
    objectives = {
        "DenoisingSM, linear process": ms.DenoisingSM(linear),
        "LocalDSM": ms.LocalDSM(langevin),
        "PathShiftDSM": ms.PathShiftDSM(langevin),
        "PathShiftDSM, adaptive": ms.PathShiftDSM(langevin, weight="adaptive"),
        "ImplicitSM, exact trace": ms.ImplicitSM(langevin),
        "ImplicitSM, Hutchinson": ms.ImplicitSM(langevin, trace="hutchinson"),
    }
    data, g = torch.randn(BATCH, 2), torch.Generator().manual_seed(0)

    def stepper(objective: Any) -> Callable[[], object]:
        net = ms.ScoreMLP(2)
        optimizer = torch.optim.Adam(net.parameters(), fused=True)

        def steps() -> None:
            for _ in range(8):  # one refresh of the buffer
                loss = objective.loss(net, data, g)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        steps()  # fills the buffer
        return steps

    seconds = paired({name: stepper(o) for name, o in objectives.items()}, rounds=15)
    first = next(iter(objectives))
    rows = {f"{name} / {first}": ratio(seconds, name, first) for name in objectives}
    return rows | {f"milliseconds: {first}": 1e3 / 8 * median(seconds[first])}


if __name__ == "__main__":
    torch.set_num_threads(1)
    mixture = ms.GaussianMixture(CORNERS, 0.8)
    processes = {
        "double well": ms.DoubleWell(2),
        "active swimmer": ms.ActiveSwimmer(),
        "mixture prior": ms.Langevin(mixture, 2.0),
        "logistic prior": ms.Langevin(ms.Logistic(2), 2.0),
    }
    rows = {f"simulation, {name}": simulation(process, 2) for name, process in processes.items()}
    report(rows | {"training steps": training_steps()})
