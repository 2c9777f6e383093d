"""What ``train`` is asked to do, checked."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoints
from ._validate import check_finite


@dataclass(frozen=True)
class Plan:
    """What ``train`` was asked to do."""

    data: Any
    steps: int
    seed: int
    batch_size: int
    shards: int
    lr: float
    ema: float
    schedule: str

    def describe(self, net: nn.Module, objective: Any) -> dict[str, Any]:
        """All that determines the result, for the checkpoint."""
        names = ("steps", "seed", "batch_size", "shards", "lr", "ema", "schedule")
        return {name: getattr(self, name) for name in names} | {
            "objective": checkpoints.describe_objective(objective),
            "network": checkpoints.describe_network(net),
            "data": checkpoints.describe_data(self.data),
        }

    def rate(self, step: int) -> float:
        """The learning rate of the step after ``step`` steps."""
        if self.schedule == "constant":
            return self.lr
        return self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2

    def batch(self, generator: torch.Generator) -> Tensor:
        """One shard's part of the next batch, ``(batch_size / shards, d)``."""
        size = (self.batch_size // self.shards,)
        rows = torch.randint(len(self.data), size, generator=generator, device=generator.device)
        if isinstance(self.data, Tensor):
            return self.data[rows]
        return self.data.batch(rows, generator)


def check_settings(
    counts: dict[str, int], lr: float, ema: float, schedule: str, minutes: float | None
) -> None:
    """Check the numbers that ``train`` is given; ``counts`` are those that must be integers >= 1.

    Raises:
        ValueError: one is out of range.
    """
    for name, value in counts.items():
        if int(value) != value or value < 1:
            raise ValueError(f"{name}: expected an integer >= 1, found {value!r}")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr: expected a finite positive number, found {lr}")
    if not 0 <= ema < 1:
        raise ValueError(f"ema: expected 0 <= ema < 1, found {ema}: 0 averages nothing")
    if schedule not in ("cosine", "constant"):
        raise ValueError(f"schedule: expected 'cosine' or 'constant', found {schedule!r}")
    if minutes is not None and not minutes > 0:
        raise ValueError(
            f"checkpoint_minutes: expected a positive number, found {minutes}: None saves by "
            "steps only"
        )


def check_shards(shards: int | None, batch_size: int, processes: int) -> int:
    """The number of shards; None is one for each process.

    Raises:
        ValueError: the processes do not divide it, or it does not divide the batch.
    """
    shards = processes if shards is None else shards
    if int(shards) != shards or shards < 1:
        raise ValueError(f"shards: expected an integer >= 1, found {shards!r}")
    if shards % processes:
        raise ValueError(
            f"shards: expected a multiple of the number of processes, {processes}, found {shards}: "
            f"pass shards={processes * math.ceil(shards / processes)}, or start another number"
        )
    if batch_size % shards:
        raise ValueError(
            f"batch_size: expected a multiple of shards = {shards} (None is the number of "
            f"processes, {processes}), found {batch_size}: pass for instance "
            f"batch_size={shards * math.ceil(batch_size / shards)}"
        )
    return int(shards)


def check_data(data: Any, device: torch.device) -> None:
    """Check that ``data`` is a tensor of finite points, or makes such points on ``device``.

    Raises:
        TypeError: it is neither.
        ValueError: no rows, another rank, or points that are not finite.
    """
    if isinstance(data, Tensor):
        name, sample, shape = "data", data, tuple(data.shape)
    elif all(hasattr(data, part) for part in ("__len__", "batch", "checksum")):
        if len(data) == 0:
            raise ValueError(
                f"data: expected at least one row, found an empty {type(data).__name__}"
            )
        # A generator of its own: the batches to come are the same with the check as without.
        first = torch.zeros(1, dtype=torch.int64, device=device)
        sample = data.batch(first, torch.Generator(device=device))
        name, shape = "data.batch", tuple(sample.shape)
    else:
        raise TypeError(
            "data: expected a floating-point tensor, or an object with len, batch(rows, generator) "
            f"and checksum such as Images, found {type(data).__name__}: "
            "convert with torch.as_tensor(data, dtype=torch.float32)"
        )
    if not sample.is_floating_point():
        raise TypeError(
            f"{name}: expected a floating-point tensor, found {sample.dtype}: "
            "convert with torch.as_tensor(data, dtype=torch.float32)"
        )
    if sample.ndim < 2 or len(sample) == 0:
        raise ValueError(f"{name}: expected shape (N, d) with N >= 1, found {shape}")
    check_finite(sample, name)
