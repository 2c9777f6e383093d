"""The state of a training run, and the file that holds it: whole, or the one before."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..core import Criterion, as_score, checksum, named_checksum, write_whole
from .average import Average

FORMAT = "markovscore-training-3"
REMEDY = "move it away to start anew, or pass another path"


@dataclass
class Shard:
    """What one part of a batch has to itself: its random numbers, and the objective's paths."""

    generator: torch.Generator
    objective: Criterion

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors; :meth:`restore` is the inverse."""
        named = {"generator": self.generator.get_state()}
        if self.objective.state is not None:
            named |= {f"objective.{k}": v for k, v in self.objective.state().items()}
        return named

    def restore(self, named: Mapping[str, Tensor]) -> None:
        """Continue from the state ``named``."""
        self.generator.set_state(named["generator"])
        if self.objective.restore is not None:
            self.objective.restore(_part(named, "objective."), self.generator.device)


@dataclass
class Run:
    """A run after ``step`` steps; ``shards`` are those this process works on, by number."""

    net: nn.Module
    average: Average
    optimizer: torch.optim.Optimizer
    shards: dict[int, Shard]
    losses: Tensor
    seconds: Tensor
    step: int = 0

    def parameters(self) -> list[Tensor]:
        """The network's, as a list that is there: ``net.parameters()`` walks through its parts."""
        listed: list[Tensor] = self.optimizer.param_groups[0]["params"]
        return listed

    def shard_tensors(self) -> dict[str, Tensor]:
        """The states of the shards of this process, on the CPU."""
        shards = self.shards.items()
        return _on_cpu({f"shard.{i}.{k}": v for i, s in shards for k, v in s.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Everything else, on the CPU; :meth:`restore` is the inverse of the two together."""
        named = {"losses": self.losses, "seconds": self.seconds}
        named |= {f"net.{k}": v for k, v in self.net.state_dict().items()}
        named |= {f"average.{k}": v for k, v in self.average.module.state_dict().items()}
        for i, slots in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{i}.{k}": v for k, v in slots.items()}
        return _on_cpu(named)

    def restore(self, named: Mapping[str, Tensor], step: int) -> None:
        """Continue after ``step`` steps, from all tensors of a checkpoint."""
        self.net.load_state_dict(_part(named, "net."))
        self.average.module.load_state_dict(_part(named, "average."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(named, "optimizer.").items():
            index, slot = name.split(".", 1)
            state.setdefault(int(index), {})[slot] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        for parameter, slots in self.optimizer.state.items():
            for slot, value in slots.items():
                if value.shape == parameter.shape and value.stride() != parameter.stride():
                    # The fused step walks through memory: the layout must be the parameter's.
                    slots[slot] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        for i, shard in self.shards.items():
            shard.restore(_part(named, f"shard.{i}."))
        self.losses, self.seconds, self.step = named["losses"], named["seconds"], step


def _part(named: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}


def _on_cpu(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in named.items()}


def describe_objective(objective: Criterion) -> str:
    """Its ``description()`` or ``repr``, without the address that an object without its own
    prints."""
    described = objective.description
    text = repr(objective) if described is None else described()
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def describe_network(net: nn.Module) -> str:
    """The class, the names, shapes and dtypes of what it stores, and its ``checksum`` if any.

    The attribute ``checksum`` is for what a network is built on and does not store: the base of a
    residual score.
    """
    tensors = {name: f"{tuple(v.shape)} {v.dtype}" for name, v in net.state_dict().items()}
    own = as_score(net).checksum
    base = "" if own is None else f" checksum {own}"
    return f"{type(net).__name__} {json.dumps(tensors)}{base}"


def describe_data(data: Any) -> str:
    """Shape, dtype and checksum of a tensor; of other data class, length and ``checksum``."""
    if isinstance(data, Tensor):
        return f"{tuple(data.shape)} {data.dtype} crc32 {checksum(data)}"
    return f"{type(data).__name__} of {len(data)}, checksum {data.checksum}"


def write_checkpoint(
    path: Path, settings: Mapping[str, Any], step: int, named: dict[str, Tensor]
) -> None:
    """Write the state whole or not at all."""
    metadata = {
        "format": FORMAT,
        "step": str(step),
        "settings": json.dumps(settings),
        "checksum": named_checksum(named),
    }
    write_whole(path, safetensors.torch.save(named, metadata))


def read_checkpoint(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Tensor], int]:
    """The tensors in ``path``, and the step after which they were written.

    Raises:
        ValueError: the file cannot be read, is not such a checkpoint or of another version, is
            damaged, or of a run with other ``settings`` (the message lists what differs).
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint: cannot read {path} ({error}): {REMEDY}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"checkpoint: expected a file of format {FORMAT}, found "
            f"{metadata.get('format', 'no format mark')} in {path}: {REMEDY}"
        )
    if metadata["checksum"] != named_checksum(named):
        raise ValueError(f"checkpoint: the content of {path} fails its checksum: {REMEDY}")
    stored = json.loads(metadata["settings"])
    different = [
        f"{key} was {stored.get(key)!r} and is now {value!r}"
        for key, value in settings.items()
        if stored.get(key) != value
    ]
    if different:
        raise ValueError(
            f"checkpoint: expected {path} to be of a run with these settings, found one with other "
            f"settings, {'; '.join(different)}: {REMEDY}"
        )
    return named, int(metadata["step"])
