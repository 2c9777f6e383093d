"""What ``train`` is asked to do, checked."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core import as_input, check_finite, check_integer, check_number
from .checkpoints import describe_data, describe_network, describe_objective


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
            "objective": describe_objective(objective),
            "network": describe_network(net),
            "data": describe_data(self.data),
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
        return self.data.batch(rows, generator).detach()


def check_rates(lr: float, ema: float, schedule: str) -> tuple[float, float]:
    """``lr`` and ``ema`` as floats, after a check of all three.

    Raises:
        ValueError: one is out of range.
    """
    lr, ema = check_number(lr, "lr", positive=True), check_number(ema, "ema")
    if not 0 <= ema < 1:
        raise ValueError(f"ema: expected 0 <= ema < 1, found {ema}: 0 averages nothing")
    if schedule not in ("cosine", "constant"):
        raise ValueError(f"schedule: expected 'cosine' or 'constant', found {schedule!r}")
    return lr, ema


def check_network(net: nn.Module) -> torch.device:
    """The device of a network that can be trained.

    Raises:
        TypeError: it is no module.
        ValueError: none of its parameters requires gradients, or it was made in inference mode.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(
            f"net: expected a torch.nn.Module, found {type(net).__name__}: the order is "
            "train(net, objective, data, steps)"
        )
    parameters = list(net.parameters())
    if any(p.is_inference() for p in parameters):
        raise ValueError(
            "net: expected parameters that can be trained, found some that were made in "
            "torch.inference_mode: build the network outside it and load_state_dict this one's"
        )
    if not any(p.requires_grad for p in parameters):
        raise ValueError(
            f"net: expected a parameter that requires gradients, found none among "
            f"{len(parameters)}: a frozen network is trained after net.requires_grad_(True)"
        )
    return parameters[0].device


def check_shards(shards: int | None, batch_size: int, processes: int) -> int:
    """The number of shards; None is one for each process.

    Raises:
        ValueError: the processes do not divide it, or it does not divide the batch.
    """
    shards = processes if shards is None else check_integer(shards, "shards")
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
    return shards


def check_data(data: Any, net: nn.Module, device: torch.device) -> Any:
    """``data`` as a tensor of finite points without a graph, or the object that makes such points
    on ``device``. What is no tensor yet (arrays, frames, lists) takes the network's dtype and
    device.

    Raises:
        TypeError: it is neither.
        ValueError: no rows, another rank, or points that are not finite.
    """
    if all(hasattr(data, part) for part in ("__len__", "batch", "checksum")):
        if len(data) == 0:
            raise ValueError(
                f"data: expected at least one row, found an empty {type(data).__name__}"
            )
        # A generator of its own: the batches to come are the same with the check as without.
        first = torch.zeros(1, dtype=torch.int64, device=device)
        sample = data.batch(first, torch.Generator(device=device))
        name, shape = "data.batch", tuple(sample.shape)
    else:
        sample = as_input(data, next(net.parameters()), "data").detach()
        data, name, shape = sample, "data", tuple(sample.shape)
    if not sample.is_floating_point():
        raise TypeError(
            f"{name}: expected a floating-point tensor, found {sample.dtype}: "
            "convert with torch.as_tensor(data, dtype=torch.float32)"
        )
    if sample.ndim < 2 or len(sample) == 0:
        raise ValueError(
            f"{name}: expected shape (N, d) with N >= 1, found {shape}: one row per point"
        )
    check_finite(sample, name)
    return data
