"""One training loop: Adam, cosine rate, average of the weights, checkpoint and resume."""

import json
import math
import os
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from ._validate import check_finite

FORMAT = "markovscore-training-1"


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


@dataclass
class _Run:
    """The complete state of a run after ``step`` steps: what a checkpoint holds."""

    net: nn.Module
    average: AveragedModel
    optimizer: torch.optim.Adam
    objective: Any
    generator: torch.Generator
    losses: Tensor
    seconds: Tensor
    step: int = 0


def train(
    net: nn.Module,
    objective: Any,
    data: Tensor,
    steps: int,
    seed: int = 0,
    *,
    batch_size: int = 512,
    lr: float = 1e-3,
    ema: float = 0.995,
    schedule: str = "cosine",
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 1000,
    progress: bool = True,
    callback: Callable[[int, nn.Module], None] | None = None,
) -> TrainResult:
    r"""Minimise ``objective.loss(net, batch, generator)`` by Adam; returns the averaged network.

    Step ``i`` draws a batch with replacement from ``data``, takes an Adam step (Kingma and Ba 2015,
    arXiv:1412.6980) with rate ``lr (1 + cos(pi i / steps)) / 2``, and updates the average
    ``w <- ema w + (1 - ema) w_net``, which starts at the weights after the first step.

    Args:
        net: called as ``net(x, t)`` with ``x`` ``(B, d)`` and ``t`` ``(B,)``; trained in place. It
            has the dtype and device of ``data``, and its training mode must use no randomness of
            its own (no dropout), or resuming is not exact.
        objective: has ``loss(score, x0, generator)``, e.g. ``DenoisingSM``. One that keeps tensors
            from call to call (the simulated paths of ``LocalDSM``) has ``state()``, a dictionary of
            them, and ``restore(state, device)``: it starts empty, and checkpoints hold its state.
        data: ``(N, d)`` (or ``(N, ...)``, as the objective takes it), floating point, finite.
        steps: number of steps.
        seed: of the one generator (on the device of ``data``) behind batches and noise. The same
            seed, network and data give the same result on the same machine with as many threads.
        batch_size: points a step.
        lr: learning rate, positive.
        ema: decay of the average, in ``[0, 1)``; 0 means no averaging.
        schedule: ``"cosine"`` as above, or ``"constant"`` for the rate ``lr`` throughout.
        checkpoint: a path. The complete state is written there every ``checkpoint_every`` steps and
            at the end, as one safetensors file that is replaced whole, so that an interruption at
            any moment leaves the last one intact. If the file exists the run continues from it, and
            ends where an uninterrupted run ends, bit for bit (``seconds`` apart); a finished run
            returns at once.
        checkpoint_every: steps between checkpoints.
        progress: show a progress bar.
        callback: called as ``callback(step, score)`` after each step, ``step = 1, 2, ...``, with
            the averaged network in evaluation mode; after a resumption, for the remaining steps
            only.

    Raises:
        TypeError: data that are not a floating-point tensor.
        ValueError: malformed settings or data; a checkpoint that is corrupt, foreign, or of a run
            with other settings (the message lists what differs).
        FloatingPointError: the loss is not finite (the message names the step); weights and
            checkpoint are those of the last good step.
    """
    _check_settings(steps, batch_size, lr, ema, schedule, checkpoint_every)
    _check_data(data)
    run = _start(net, objective, data, steps, seed, lr, ema)
    settings: dict[str, Any] = {}
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        settings = {"steps": steps, "seed": seed, "batch_size": batch_size, "lr": lr, "ema": ema}
        settings |= {"schedule": schedule, "objective": _describe(objective)}
        settings |= {"network": _describe_network(net), "data": _describe_data(data)}
        if checkpoint.exists():
            _load(checkpoint, settings, run)
        else:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=steps, initial=run.step, disable=not progress, unit="step") as bar:
        while run.step < steps:
            rate = lr if schedule == "constant" else _cosine(lr, run.step, steps)
            _advance(run, data, batch_size, rate)
            due = run.step % checkpoint_every == 0 or run.step == steps
            if checkpoint is not None and due:
                _save(checkpoint, settings, run)
            if callback is not None:
                with torch.no_grad():
                    callback(run.step, run.average.module)
            bar.update()
            if run.step % 100 == 0:
                bar.set_postfix(loss=f"{run.losses[run.step - 100 : run.step].mean():.4g}")
    return TrainResult(run.average.module, run.losses, run.seconds)


def _check_settings(
    steps: int, batch_size: int, lr: float, ema: float, schedule: str, checkpoint_every: int
) -> None:
    for name, value in (
        ("steps", steps),
        ("batch_size", batch_size),
        ("checkpoint_every", checkpoint_every),
    ):
        if int(value) != value or value < 1:
            raise ValueError(f"{name}: expected an integer >= 1, found {value!r}")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr: expected a finite positive number, found {lr}")
    if not 0 <= ema < 1:
        raise ValueError(f"ema: expected 0 <= ema < 1, found {ema}: 0 averages nothing")
    if schedule not in ("cosine", "constant"):
        raise ValueError(f"schedule: expected 'cosine' or 'constant', found {schedule!r}")


def _check_data(data: Tensor) -> None:
    if not isinstance(data, Tensor) or not data.is_floating_point():
        found = data.dtype if isinstance(data, Tensor) else type(data).__name__
        raise TypeError(
            f"data: expected a floating-point tensor, found {found}: "
            "convert with torch.as_tensor(data, dtype=torch.float32)"
        )
    if data.ndim < 2 or len(data) == 0:
        raise ValueError(f"data: expected shape (N, d) with N >= 1, found {tuple(data.shape)}")
    check_finite(data, "data")


def _start(
    net: nn.Module, objective: Any, data: Tensor, steps: int, seed: int, lr: float, ema: float
) -> _Run:
    if hasattr(objective, "restore"):
        objective.restore({})  # else the run would depend on what was trained before
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(ema))
    average.module.eval().requires_grad_(False)
    return _Run(
        net=net,
        average=average,
        # fused: one kernel for all parameters, half the time of the default on small networks.
        optimizer=torch.optim.Adam(net.parameters(), lr=lr, fused=True),
        objective=objective,
        generator=torch.Generator(device=data.device).manual_seed(seed),
        losses=torch.full((steps,), math.nan, dtype=torch.float64),
        seconds=torch.full((steps,), math.nan, dtype=torch.float64),
    )


def _cosine(lr: float, step: int, steps: int) -> float:
    return lr * (1 + math.cos(math.pi * step / steps)) / 2


def _advance(run: _Run, data: Tensor, batch_size: int, rate: float) -> None:
    """One step: ``run.step`` grows by one unless the loss is not finite, which raises."""
    started = time.perf_counter()
    run.net.train()
    rows = torch.randint(len(data), (batch_size,), generator=run.generator, device=data.device)
    loss = run.objective.loss(run.net, data[rows], run.generator)
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(
            f"expected a finite loss, found {value} at step {run.step + 1}: lower lr (now "
            f"{rate:.2g}), raise the objective's smallest time, or divide the network's output by "
            f"the noise scale, ScoreMLP(std=diffusion.std); weights are as after step {run.step}"
        )
    run.optimizer.param_groups[0]["lr"] = rate
    run.optimizer.zero_grad()
    loss.backward()
    run.optimizer.step()
    run.average.update_parameters(run.net)
    before = float(run.seconds[run.step - 1]) if run.step > 0 else 0.0
    run.losses[run.step] = value
    run.seconds[run.step] = before + time.perf_counter() - started
    run.step += 1


def _describe(objective: object) -> str:
    # An object without its own repr prints its address, which differs between processes.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(objective))


def _describe_network(net: nn.Module) -> str:
    tensors = {name: f"{tuple(v.shape)} {v.dtype}" for name, v in net.state_dict().items()}
    return f"{type(net).__name__} {json.dumps(tensors)}"


def _describe_data(data: Tensor) -> str:
    return f"{tuple(data.shape)} {data.dtype} crc32 {_crc32(data):08x}"


def _crc32(tensor: Tensor, start: int = 0) -> int:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return zlib.crc32(content.numpy().tobytes(), start)


def _tensors(run: _Run) -> dict[str, Tensor]:
    """The state as named tensors on the CPU; ``_restore`` is the inverse."""
    named = {"generator": run.generator.get_state(), "losses": run.losses, "seconds": run.seconds}
    named |= {f"net.{k}": v for k, v in run.net.state_dict().items()}
    named |= {f"average.{k}": v for k, v in run.average.state_dict().items()}
    if hasattr(run.objective, "state"):
        named |= {f"objective.{k}": v for k, v in run.objective.state().items()}
    for i, slots in run.optimizer.state_dict()["state"].items():
        named |= {f"optimizer.{i}.{k}": v for k, v in slots.items()}
    return {k: v.detach().cpu().contiguous() for k, v in named.items()}


def _restore(run: _Run, named: dict[str, Tensor], step: int) -> None:
    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}

    run.net.load_state_dict(part("net."))
    run.average.load_state_dict(part("average."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in part("optimizer.").items():
        index, slot = name.split(".", 1)
        state.setdefault(int(index), {})[slot] = value
    groups = run.optimizer.state_dict()["param_groups"]
    run.optimizer.load_state_dict({"state": state, "param_groups": groups})
    if hasattr(run.objective, "restore"):
        run.objective.restore(part("objective."), run.generator.device)
    run.generator.set_state(named["generator"])
    run.losses, run.seconds, run.step = named["losses"], named["seconds"], step


def _checksum(named: dict[str, Tensor]) -> str:
    crc = 0
    for name in sorted(named):
        crc = _crc32(named[name], zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def _save(path: Path, settings: dict, run: _Run) -> None:
    """Write the state whole or not at all: a temporary file in the same folder, then a rename."""
    named = _tensors(run)
    metadata = {
        "format": FORMAT,
        "step": str(run.step),
        "settings": json.dumps(settings),
        "checksum": _checksum(named),
    }
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(safetensors.torch.save(named, metadata))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _load(path: Path, settings: dict, run: _Run) -> None:
    """Put the state in ``path`` into ``run``, or raise: unreadable, foreign, or of another run."""
    remedy = "move it away to start anew, or pass another path"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint: cannot read {path} ({error}): {remedy}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"checkpoint: expected a file of format {FORMAT}, found "
            f"{metadata.get('format', 'no format mark')} in {path}: {remedy}"
        )
    if metadata["checksum"] != _checksum(named):
        raise ValueError(f"checkpoint: the content of {path} fails its checksum: {remedy}")
    stored = json.loads(metadata["settings"])
    different = [
        f"{key} was {stored.get(key)!r} and is now {value!r}"
        for key, value in settings.items()
        if stored.get(key) != value
    ]
    if different:
        raise ValueError(
            f"checkpoint: {path} is of a run with other settings, {'; '.join(different)}: {remedy}"
        )
    _restore(run, named, int(metadata["step"]))
