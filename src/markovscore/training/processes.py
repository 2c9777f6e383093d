"""The processes that train one network together: which one this is, and what they exchange."""

import functools
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous


@dataclass(frozen=True)
class World:
    """Process ``rank`` of ``size``; alone, every exchange below is free and changes nothing."""

    rank: int = 0
    size: int = 1

    def share(self, count: int) -> range:
        """Which of ``count`` shards, a multiple of ``size``, this process works on."""
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def sum_(self, tensors: Sequence[Tensor], flags: Sequence[bool]) -> list[bool]:
        """Replace every tensor by its sum over the processes; returns which flags any one raised.

        One exchange of one flat tensor. All processes give tensors of the same shapes.
        """
        if self.size == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=tensors[0].dtype, device=tensors[0].device)
        flat = torch.cat([*(t.reshape(-1) for t in tensors), raised])
        dist.all_reduce(flat)
        *parts, raised = flat.split([*(t.numel() for t in tensors), len(flags)])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
        return (raised > 0).tolist()

    def gather(self, thing: dict[str, Tensor]) -> dict[str, Tensor]:
        """On rank 0 the union of all processes' ``thing``; on the others nothing."""
        if self.size == 1:
            return thing
        everyone: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(thing, everyone)
        return {k: v for one in everyone or () for k, v in one.items()}

    def agree(self, settings: Mapping[str, Any], fix: str) -> None:
        """Check that all processes have the same ``settings``.

        Raises:
            ValueError: they differ, on every process; the message lists what, and ends with
                ``fix``.
        """
        if self.size == 1:
            return
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, dict(settings))
        different = [
            f"{key} = {one[key]!r} on rank {rank} and {value!r} on rank 0"
            for rank, one in enumerate(everyone)
            for key, value in everyone[0].items()
            if one[key] != value
        ]
        if different:
            raise ValueError(f"expected the same run on every rank, found {different[0]}: {fix}")

    def broadcast(self, net: nn.Module) -> None:
        """Give the network of every process the parameters and buffers of rank 0."""
        if self.size == 1:
            return
        for value in net.state_dict().values():
            whole = value.detach().contiguous()
            dist.broadcast(whole, 0)
            value.copy_(whole)

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The world of this process: a group that exists already, or one for as long as this lasts.

    Under ``torchrun``, which says so by ``RANK`` and ``WORLD_SIZE`` in the environment, a group is
    made where there is none, and destroyed afterwards: gloo for what is on the CPU, nccl for what
    is on the GPU.
    """
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size())
        return
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    store, rank, size = _store()
    # Groups made one after the other must not read each other's addresses: gloo then connects to
    # ports that are closed. So each has its own part of the store.
    turn = store.add(f"markovscore/{rank}", 1)
    dist.init_process_group(
        "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl",
        store=dist.PrefixStore(f"markovscore/{turn}", store),
        rank=rank,
        world_size=size,
        timeout=timedelta(hours=2),  # the others wait while rank 0 is in a callback
    )
    try:
        yield World(rank, size)
    finally:
        dist.destroy_process_group()


@functools.cache  # rank 0 may be the server: it lives as long as the process
def _store() -> tuple[dist.Store, int, int]:
    return next(rendezvous("env://"))


class Termination:
    """While entered, SIGTERM does no more than set ``requested``; the old handler comes back.

    Python allows handlers in the main thread only: elsewhere this changes nothing, and
    ``requested`` stays false. Nor does it replace a handler that was not installed from Python.
    """

    requested = False

    def __enter__(self) -> "Termination":
        self._previous = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGTERM)
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
