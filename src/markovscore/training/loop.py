"""One training loop: Adam, cosine rate, average of the weights, checkpoint and resume."""

import copy
import functools
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..core import (
    Criterion,
    Objective,
    as_objective,
    check_integer,
    check_number,
    ordinary_tensors,
    output_path,
    user_path,
)
from .average import Average
from .checkpoints import Run, Shard, read_checkpoint, write_checkpoint
from .log import TrainingLog
from .plan import Plan, check_data, check_network, check_rates, check_shards
from .processes import Termination, World, joined

TERMINATED = 143  # what the shell reports of a process that SIGTERM ended: 128 + 15


@dataclass(frozen=True)
class TrainResult:
    """What training leaves behind.

    ``score``: the network with exponentially averaged weights, in evaluation mode, without
    gradients.
    ``losses``: ``(steps,)`` float64, the loss of each step's batch, before the step.
    ``seconds``: ``(steps,)`` float64, wall-clock time of training up to and including each step,
    summed over interruptions; checkpoints and callbacks are not counted.
    """

    score: nn.Module
    losses: Tensor
    seconds: Tensor


def train(
    net: nn.Module,
    objective: Objective,
    data: Any,
    steps: int,
    seed: int = 0,
    *,
    batch_size: int = 512,
    lr: float = 1e-3,
    ema: float = 0.995,
    schedule: str = "cosine",
    shards: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 1000,
    checkpoint_minutes: float | None = None,
    log: str | os.PathLike | None = None,
    log_every: int = 100,
    progress: bool = True,
    callback: Callable[[int, nn.Module], None] | None = None,
) -> TrainResult:
    r"""Minimise ``objective.loss(net, batch, generator)`` by Adam; returns the averaged network.

    Step ``i`` draws a batch with replacement from ``data``, takes an Adam step (Kingma and Ba 2015,
    arXiv:1412.6980) with rate ``lr (1 + cos(pi i / steps)) / 2``, and updates the average
    ``w <- ema w + (1 - ema) w_net``, which starts at the weights after the first step.

    **Several processes.** ``torchrun --nproc_per_node=W script.py`` starts ``W`` processes that run
    the same script; here they share every batch, and all end with the same network, the one that
    a single process finds with the same ``shards`` (to rounding; where each has one shard and there
    are two, bit for bit on a CPU). Put the network on the process's own GPU first,
    number ``LOCAL_RANK`` of the environment. It starts from the weights of rank 0, which
    alone shows progress, calls ``callback``, and writes ``checkpoint`` and ``log``; the checkpoint
    is read by all.

    **SIGTERM** (in the main thread) ends training after the current step, in all processes after
    the same one: the checkpoint is written, and ``SystemExit(143)`` raised. The same call goes on.

    Args:
        net: called as ``net(x, t)`` with ``x`` ``(B, d)`` and ``t`` ``(B,)``; trained in place. It
            has the dtype and device of ``data``, and its training mode must use no randomness of
            its own (no dropout), or resuming is not exact. If it has an attribute ``checksum``, a
            string, a checkpoint belongs to networks with this one only: for what the network is
            built on but does not store among its parameters and buffers.
        objective: has ``loss(score, x0, generator)``, e.g. ``DenoisingSM``. One that keeps tensors
            from call to call (the simulated paths of ``LocalDSM``) has ``state()``, a dictionary of
            them, and ``restore(state, device)``: it starts empty, every shard but the first has a
            copy of its own, and checkpoints hold its states.
        data: ``(N, d)`` (or ``(N, ...)``, as the objective takes it), floating point, finite. Or an
            object such as ``Images`` with ``len(data)``, ``data.batch(rows, generator)``, which
            makes ``(B, d)`` floating-point points on the generator's device of the rows ``(B,)``
            int64, and may draw from the generator, and ``data.checksum``, a string.
        steps: number of steps.
        seed: of the generator (on the device of ``data``, or of ``net`` where ``data`` is no
            tensor) behind batches and noise of the first shard; the others' are derived from
            ``(seed, shard)``. The same seed, shards, network and data give the same result on the
            same machine with as many threads.
        batch_size: points a step.
        lr: learning rate, positive.
        ema: decay of the average, in ``[0, 1)``; 0 means no averaging.
        schedule: ``"cosine"`` as above, or ``"constant"`` for the rate ``lr`` throughout.
        shards: a batch is made of so many parts of ``batch_size / shards`` points, whose gradients
            are averaged. Each process works on ``shards / W`` of them, one after the other: more
            shards need less memory. None: as many as there are processes.
        checkpoint: a path. The complete state is written there every ``checkpoint_every`` steps and
            at the end, as one safetensors file that is replaced whole, so that an interruption at
            any moment leaves the last one intact. If the file exists the run continues from it, and
            ends where an uninterrupted run ends, bit for bit (``seconds`` apart); a finished run
            returns at once. The number of processes may be another one than before.
        checkpoint_every: steps between checkpoints.
        checkpoint_minutes: write one as well when so many minutes have passed since the last.
        log: a path. Every ``log_every`` steps and after the last, one line of comma-separated
            values is added, under a header: ``step``; ``seconds`` as in the result; ``loss``, the
            mean since the last line; ``items_per_second``, the points trained on since then, over
            the time; ``lr``, the rate of the last step; ``ema_distance``, the distance between the
            averaged weights and the network's, relative to the norm of the network's. A file that
            exists is cut back to the step from which the run continues (to its header, if from
            none), so that no step comes twice. ``numpy.genfromtxt(log, delimiter=",", names=True)``
            reads it.
        log_every: steps between lines.
        progress: show a progress bar.
        callback: called as ``callback(step, score)`` after each step, ``step = 1, 2, ...``, with
            the averaged network in evaluation mode; after a resumption, for the remaining steps
            only.

    Raises:
        TypeError: data that are neither a floating-point tensor nor such an object; a network that
            is no module; an objective without ``loss``.
        ValueError: malformed settings or data; ``shards`` that do not divide the batch, or that the
            processes do not divide; a checkpoint that is corrupt, foreign, of another version, or
            of a run with other settings (the message lists what differs); a log that is something
            else; processes that were given different things.
        FloatingPointError: the loss is not finite (the message names the step); weights and
            checkpoint are those of the last good step.
        torch.OutOfMemoryError: a step needs more memory than there is; the message says what to
            change.
        SystemExit: SIGTERM, as above.
    """
    steps, batch_size = check_integer(steps, "steps"), check_integer(batch_size, "batch_size")
    every = check_integer(checkpoint_every, "checkpoint_every")
    log_every = check_integer(log_every, "log_every")
    seed = check_integer(seed, "seed", -(2**63), 2**64 - 1)
    lr, ema = check_rates(lr, ema, schedule)
    minutes = checkpoint_minutes
    if minutes is not None:
        minutes = check_number(minutes, "checkpoint_minutes", positive=True)
    place = None if checkpoint is None else user_path(checkpoint, "checkpoint")
    device, criterion = check_network(net), as_objective(objective)
    device = data.device if isinstance(data, Tensor) else device
    data = check_data(data, net, device)
    modes = ordinary_tensors(), torch.enable_grad()  # the caller's may be those of an evaluation
    with modes[0], modes[1], joined(device) as world, Termination() as termination:
        shards = check_shards(shards, batch_size, world.size)
        plan = Plan(data, steps, seed, batch_size, shards, lr, ema, schedule)
        settings: dict[str, Any] = {}
        if checkpoint is not None or world.size > 1:
            settings = plan.describe(net, criterion) | {"device": device.type}
            world.agree(settings, "pass the same arguments in every process")
        lines = None
        if world.rank == 0:  # which alone writes; better refused before the work
            place = None if place is None else output_path(place, "checkpoint")
            lines = None if log is None else output_path(log, "log")
        world.broadcast(net)
        run = _start(net, criterion, plan, world, device)
        keeper = _Keeper(world, place, settings, every, minutes)
        keeper.resume(run)
        if lines is not None:
            keeper.log = TrainingLog(lines, log_every, run.step)
        stopped = _loop(run, plan, keeper, termination, progress, callback)
        world.wait()  # for what rank 0 writes
    if stopped or termination.requested:
        _stop(run, place, world)
    return TrainResult(run.average.module, run.losses, run.seconds)


@dataclass
class _Keeper:
    """What outlives the process: the checkpoint (all processes give their shards) and the log."""

    world: World
    path: Path | None
    settings: dict[str, Any]
    every: int
    minutes: float | None
    log: TrainingLog | None = None
    written: float = 0.0  # when, on the clock that only goes forward

    def resume(self, run: Run) -> None:
        """Put the state of the checkpoint, if there is one, into ``run``."""
        self.written = time.monotonic()
        if self.path is None:
            return
        if self.path.exists():
            run.restore(*read_checkpoint(self.path, self.settings))
        fix = f"put the checkpoint {self.path} where all processes see the same file"
        self.world.agree({"first step": run.step}, fix)

    def overdue(self) -> bool:
        """Whether so many minutes have passed that rank 0, whose clock counts, asks to save."""
        waited = time.monotonic() - self.written
        return self.world.rank == 0 and self.minutes is not None and waited >= 60 * self.minutes

    def keep(self, run: Run, batch_size: int, asked: bool) -> None:
        """Write what is due after a step, or the checkpoint if ``asked``."""
        if self.log is not None:  # before the checkpoint: lines that it does not know are cut
            self.log.add(run, batch_size)
        due = asked or run.step % self.every == 0 or run.step == len(run.losses)
        if self.path is None or not due:
            return
        shards = self.world.gather(run.shard_tensors())
        if self.world.rank == 0:
            write_checkpoint(self.path, self.settings, run.step, run.tensors() | shards)
        self.written = time.monotonic()


def _start(
    net: nn.Module, objective: Criterion, plan: Plan, world: World, device: torch.device
) -> Run:
    if objective.restore is not None:
        objective.restore({}, device)  # else the run would depend on what was trained before
    stateful = objective.state is not None
    net.train()
    return Run(
        net=net,
        average=Average(net, plan.ema),
        # fused: one kernel for all parameters, half the time of the default on small networks.
        optimizer=torch.optim.Adam(net.parameters(), lr=plan.lr, fused=True),
        shards={
            i: Shard(
                torch.Generator(device=device).manual_seed(_seed(plan.seed, i)),
                copy.deepcopy(objective) if stateful and i > 0 else objective,
            )
            for i in world.share(plan.shards)
        },
        losses=torch.full((plan.steps,), math.nan, dtype=torch.float64),
        seconds=torch.full((plan.steps,), math.nan, dtype=torch.float64),
    )


def _seed(seed: int, shard: int) -> int:
    """``seed`` itself for the first shard; for the others the first 8 bytes of a hash of both."""
    if shard == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {shard}".encode()).digest()[:8], "big")


def _loop(
    run: Run,
    plan: Plan,
    keeper: _Keeper,
    termination: Termination,
    progress: bool,
    callback: Callable[[int, nn.Module], None] | None,
) -> bool:
    """All steps, or those until SIGTERM: then true."""
    world, stop = keeper.world, False
    hidden = not progress or world.rank > 0
    with tqdm(total=plan.steps, initial=run.step, disable=hidden, unit="step") as bar:
        while run.step < plan.steps and not stop:
            stop, overdue = _advance(
                run, plan, world, lambda: (termination.requested, keeper.overdue())
            )
            keeper.keep(run, plan.batch_size, asked=stop or overdue)
            if callback is not None and world.rank == 0:
                with torch.no_grad():
                    callback(run.step, run.average.module)
            bar.update()
            if run.step % 100 == 0:
                bar.set_postfix(loss=f"{run.losses[run.step - 100 : run.step].mean():.4g}")
    return stop


def _stop(run: Run, path: Path | None, world: World) -> NoReturn:
    if world.rank == 0:
        kept = "without a checkpoint" if path is None else f"{path} continues from there"
        print(f"train: SIGTERM, stopped after step {run.step}: {kept}", file=sys.stderr)
    raise SystemExit(TERMINATED)


def _advance(
    run: Run, plan: Plan, world: World, flags: Callable[[], tuple[bool, bool]]
) -> list[bool]:
    """One step: ``run.step`` grows by one unless the loss is not finite, which raises.

    Returns which of the ``flags``, read late in the step, any process raised.
    """
    started = time.perf_counter()
    with _advice(run, plan):
        loss = _accumulate(run, plan)
        sums = [*(p.grad for p in run.parameters() if p.grad is not None), loss]
        raised = world.sum_(sums, flags())
        if plan.shards > 1:
            torch._foreach_div_(sums, plan.shards)
        value, rate = loss.item(), plan.rate(run.step)
        if not math.isfinite(value):
            raise FloatingPointError(
                f"expected a finite loss, found {value} at step {run.step + 1}: lower lr (now "
                f"{rate:.2g}), raise the objective's smallest time, or divide the network's output "
                f"by the noise scale, ScoreMLP(std=diffusion.std); weights are as after step "
                f"{run.step}"
            )
        run.optimizer.param_groups[0]["lr"] = rate
        run.optimizer.step()
        run.average.update(first=run.step == 0)
    before = float(run.seconds[run.step - 1]) if run.step > 0 else 0.0
    run.losses[run.step] = value
    run.seconds[run.step] = before + time.perf_counter() - started
    run.step += 1
    return raised


def _accumulate(run: Run, plan: Plan) -> Tensor:
    """The sum of the losses of this process's shards, 0-dim, and of their gradients in ``grad``."""
    if not run.net.training:  # a callback's or an objective's doing; to set it walks all parts
        run.net.train()
    for parameter in run.parameters():
        parameter.grad = None
    losses = []
    for shard in run.shards.values():
        loss = shard.objective.loss(run.net, plan.batch(shard.generator), shard.generator)
        if not loss.requires_grad:
            raise ValueError(
                "loss: expected one that autograd can follow to the network's parameters, found "
                "none: remove torch.no_grad, .detach() or numpy from the network and the objective"
            )
        loss.backward()
        losses.append(loss.detach())
    return functools.reduce(torch.add, losses[1:], losses[0].clone())


@contextmanager
def _advice(run: Run, plan: Plan) -> Iterator[None]:
    """Say what to change where memory does not suffice."""
    try:
        yield
    except RuntimeError as error:
        # The allocator of the CPU has no exception of its own.
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(
            error
        ):
            raise
        raise torch.OutOfMemoryError(
            f"out of memory in step {run.step + 1}: raise shards (now {plan.shards}), which splits "
            f"the batch into parts done one after the other, or lower batch_size (now "
            f"{plan.batch_size}); it was: {error}"
        ) from error
