"""Checkpoints: bit-for-bit resumption whatever interrupts, and every kind of bad file."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from runs import (
    EVERY,
    LONG,
    STEPS,
    Buffered,
    Pixels,
    Stop,
    data,
    objective,
    pixel_net,
    pixel_run,
    run,
    same,
    small,
    stop_at,
    to_the_end,
    weights,
)
from torch import nn

from markovscore.diffusions import OrnsteinUhlenbeck, TorusBrownian
from markovscore.networks import ScoreMLP
from markovscore.objectives import DenoisingSM
from markovscore.training import train


@pytest.mark.parametrize("step", [1, EVERY - 1, EVERY, EVERY + 1, 30, STEPS - 1])
def test_resumed_equals_uninterrupted(tmp_path, step):
    path = tmp_path / "deep" / "run.safetensors"
    with pytest.raises(Stop):
        run(checkpoint=path, callback=stop_at(step))
    # The interrupted step itself may have been saved already: the callback comes after.
    assert path.exists() == (step >= EVERY)
    resumed = run(net=small(seed=9) if step >= EVERY else None, checkpoint=path)
    assert same(resumed, run())


def test_resumed_twice_and_then_finished_at_once(tmp_path):
    path = tmp_path / "run.safetensors"
    for step in (10, 25):
        with pytest.raises(Stop):
            run(checkpoint=path, callback=stop_at(step))
    first = run(checkpoint=path)
    assert same(first, run())

    def never(step, score):
        raise AssertionError("a finished run must not train")

    again = run(checkpoint=path, callback=never)
    assert same(first, again)
    assert torch.equal(first[1].seconds, again[1].seconds)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.safetensors"]


def test_seconds_accumulate_over_interruptions(tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        run(checkpoint=path, callback=stop_at(2 * EVERY))
    saved = safetensors.torch.load_file(path)["seconds"]
    _, result = run(checkpoint=path)
    assert torch.equal(result.seconds[: 2 * EVERY], saved[: 2 * EVERY])
    assert (result.seconds.diff() > 0).all()


SCRIPT = """
import torch
from markovscore.datasets import toy
from markovscore.diffusions import TorusBrownian
from markovscore.networks import ScoreMLP
from markovscore.objectives import DenoisingSM
from markovscore.training import train

torch.set_num_threads(1)
data = 0.5 * toy("moons", 500, torch.Generator().manual_seed(0))
net = ScoreMLP(2, width=16, periodic=True)
started = lambda step, score: print("step", step, flush=True)
result = train(net, DenoisingSM(TorusBrownian(2), 0.01), data, {steps}, batch_size=32,
               checkpoint={path!r}, checkpoint_every=3, progress=False, callback=started)
"""


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_killed_process_leaves_a_checkpoint_that_resumes_exactly(tmp_path, how, code):
    """Saving every third step of a long run, the kill falls near or inside a write."""
    path, steps = tmp_path / "run.safetensors", 3000
    source = textwrap.dedent(SCRIPT).format(path=str(path), steps=steps)
    package = str(Path(sys.modules["markovscore"].__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"},
    )
    for line in process.stdout:
        if line.startswith("step 50"):
            process.send_signal(how)
            break
    process.communicate()
    assert process.returncode == code
    with safetensors.safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
    assert 48 <= step < steps
    # Resume with a stop a few checkpoints later; compare with the same steps of a fresh run.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        outcomes = []
        for checkpoint, last in ((path, step + 10), (None, step + 10)):
            net, losses = small(), []
            with pytest.raises(Stop):
                train(
                    net,
                    _Recorder(objective(), losses),
                    data(),
                    steps,
                    batch_size=32,
                    checkpoint=checkpoint,
                    checkpoint_every=3,
                    progress=False,
                    callback=stop_at(last),
                )
            outcomes.append((weights(net), losses[-10:]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(outcomes[0][0], outcomes[1][0], strict=True))
    assert outcomes[0][1] == outcomes[1][1]


class _Recorder:
    """An objective that remembers its losses; its repr is the wrapped objective's."""

    def __init__(self, objective, losses):
        self.objective, self.losses = objective, losses

    def __repr__(self):
        return repr(self.objective)

    def loss(self, score, x0, generator):
        value = self.objective.loss(score, x0, generator)
        self.losses.append(value.item())
        return value


def test_a_failing_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        run(checkpoint=path, callback=stop_at(EVERY))
    before = path.read_bytes()

    def full_disk(file):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        run(checkpoint=path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert same(run(checkpoint=path), run())


@pytest.fixture
def finished(tmp_path):
    path = tmp_path / "run.safetensors"
    run(checkpoint=path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, "seed was 0 and is now 5"),
        ({"lr": 2e-3}, "lr was 0.001 and is now 0.002"),
        ({"batch_size": 64}, "batch_size was 32 and is now 64"),
        ({"ema": 0.9}, "ema was 0.995"),
        ({"schedule": "constant"}, "schedule was 'cosine'"),
        ({"objective": DenoisingSM(TorusBrownian(2), 0.02)}, "t_min=0.02"),
        ({"objective": DenoisingSM(OrnsteinUhlenbeck(2), 0.01)}, "OrnsteinUhlenbeck"),
        ({"net": ScoreMLP(2, width=8, periodic=True)}, "network was"),
    ],
)
def test_refuses_the_checkpoint_of_another_run(finished, change, message):
    with pytest.raises(ValueError, match=f"other settings.*{message}"):
        run(checkpoint=finished, **change)


def test_refuses_other_data_and_other_steps(finished):
    settings = {"batch_size": 32, "progress": False, "checkpoint": finished}
    with pytest.raises(ValueError, match="data was"):
        train(small(), objective(), data().flip(0), STEPS, **settings)
    with pytest.raises(ValueError, match="steps was 40 and is now 41"):
        train(small(), objective(), data(), STEPS + 1, **settings)


def corrupt(path, how):
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = b""
    elif how == "noise":
        content = b"not a checkpoint at all" * 10
    elif how == "flipped bit":
        content[-5] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["truncated", "empty", "noise", "flipped bit"])
def test_a_corrupt_checkpoint_is_a_clear_error(finished, how):
    corrupt(finished, how)
    with pytest.raises(ValueError, match=r"checkpoint: .*run\.safetensors.*move it away"):
        run(checkpoint=finished)


def test_a_foreign_file_or_a_folder_is_a_clear_error(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="no format mark"):
        run(checkpoint=path)
    with pytest.raises(ValueError, match="cannot read"):
        run(checkpoint=tmp_path)


def test_the_metadata_are_json(finished):
    with safetensors.safe_open(finished, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["settings"])["steps"] == STEPS
    assert metadata["step"] == str(STEPS)


# Killed at any moment


@pytest.fixture(scope="module")
def processes():
    """Processes that need not import torch anew, and share no state with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["markovscore.training", "markovscore.datasets"])
    return context


def child(processes, *arguments):
    process = processes.Process(target=to_the_end, args=arguments)
    process.start()
    return process


@pytest.fixture(scope="module", params=[1, 2])
def uninterrupted(request, processes, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"whole{request.param}")
    process = child(processes, folder, request.param)
    process.join()
    assert process.exitcode == 0
    return request.param, folder


def content(folder):
    """Checkpoint and log without what a clock says."""
    path = folder / "run.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        step = file.metadata()["step"]
    named = safetensors.torch.load_file(path)
    del named["seconds"]
    rows = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    return step, named, [[r[0], r[2], *r[4:]] for r in rows]


def assert_same_content(a, b):
    (step_a, named_a, log_a), (step_b, named_b, log_b) = content(a), content(b)
    assert step_a == step_b == str(LONG)
    assert log_a == log_b
    assert len(log_a) == 1 + LONG // 4
    assert named_a.keys() == named_b.keys()
    for name, value in named_a.items():
        assert torch.equal(value, named_b[name]), name


def test_killed_at_random_moments_it_ends_as_if_never_interrupted(
    uninterrupted, processes, tmp_path
):
    shards, whole = uninterrupted
    moments = random.Random(shards)
    kills = 0
    for _ in range(4):
        started = processes.Event()
        process = child(processes, tmp_path, shards, started)
        assert started.wait(60)
        time.sleep(moments.uniform(0.02, 0.15))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills > 0
    process = child(processes, tmp_path, shards)
    process.join()
    assert process.exitcode == 0
    assert_same_content(tmp_path, whole)


def test_killed_while_it_writes_it_ends_as_if_never_interrupted(uninterrupted, processes, tmp_path):
    shards, whole = uninterrupted
    for after, moment in enumerate(("half written", "not renamed", "just renamed"), 3):
        process = child(processes, tmp_path, shards, None, moment, after)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        left = sorted(p.name for p in tmp_path.iterdir())
        assert ("run.safetensors.tmp" in left) == (moment != "just renamed")
    # 3, then 4, then 6 writes were completed, each after four steps.
    with safetensors.safe_open(tmp_path / "run.safetensors", framework="pt") as file:
        assert int(file.metadata()["step"]) == 4 * (3 + 4 + 6)
    process = child(processes, tmp_path, shards)
    process.join()
    assert process.exitcode == 0
    assert_same_content(tmp_path, whole)


# What else a checkpoint knows


class Layered(nn.Module):
    """A network whose weights lie in memory in an order of their own, as fast convolutions do."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 2, 3, padding=1)
        with torch.no_grad():
            for layer in (self.first, self.last):
                values = torch.linspace(-1, 1, layer.weight.numel())
                layer.weight.copy_(values.view_as(layer.weight))
                layer.bias.zero_()
        self.to(memory_format=torch.channels_last)

    def forward(self, x, t):
        x = x.unflatten(1, (2, 1, 3)).to(memory_format=torch.channels_last)
        return self.last(torch.tanh(self.first(x))).flatten(1)


def test_resumes_whatever_the_layout_of_the_weights(tmp_path):
    path = tmp_path / "run"
    whole = pixel_run(net=Layered())
    with pytest.raises(Stop):
        pixel_run(net=Layered(), checkpoint=path, checkpoint_every=5, callback=stop_at(12))
    assert same(whole, pixel_run(net=Layered(), checkpoint=path, checkpoint_every=5))


def test_saves_when_enough_minutes_have_passed(tmp_path, monkeypatch):
    path, clock, saved = tmp_path / "run", [0.0], []

    def callback(step, score):
        clock[0] += 50.0
        if path.exists():
            with safetensors.safe_open(path, framework="pt") as file:
                saved.append(int(file.metadata()["step"]))

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    places = {"checkpoint": path, "callback": callback}
    timed = run(checkpoint_every=10**6, checkpoint_minutes=2.5, **places)
    # In the fourth step 150 seconds have passed, and again three steps after every save.
    assert sorted(set(saved)) == [*range(4, STEPS, 3), STEPS]
    assert same(timed, run())
    saved.clear()
    path.unlink()
    run(checkpoint_every=10**6, **places)
    assert saved == [STEPS]


def checked_net(checksum):
    net = pixel_net()
    net.checksum = checksum
    return net


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shards": 3}, "shards was 2 and is now 3"),
        ({"net": checked_net("other")}, "network was .*checksum base' and is now .*checksum other"),
        ({"net": pixel_net()}, "network was .*checksum base"),
        ({"data": Pixels(checksum="xyz")}, "Pixels of 200, checksum abc' and is now .*xyz"),
        ({"data": Pixels(n=150)}, "Pixels of 200, checksum abc' and is now 'Pixels of 150"),
    ],
)
def test_refuses_another_base_other_data_or_other_shards(tmp_path, change, message):
    path = tmp_path / "run"
    settings = {"net": checked_net("base"), "shards": 2, "checkpoint": path}
    pixel_run(2, **settings)
    with pytest.raises(ValueError, match=f"other settings.*{message}"):
        pixel_run(2, **settings | change)


def test_refuses_another_version(finished):
    with safetensors.safe_open(finished, framework="pt") as file:
        metadata = file.metadata()
    named = safetensors.torch.load_file(finished)
    metadata["format"] = "markovscore-training-1"
    safetensors.torch.save_file(named, finished, metadata)
    with pytest.raises(
        ValueError, match=r"training-2, found markovscore-training-1 .*move it away"
    ):
        run(checkpoint=finished)


# SIGTERM


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", [1, 13, STEPS])
def test_sigterm_finishes_the_step_saves_and_exits(tmp_path, capsys, step):
    path, seen = tmp_path / "run", []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        pixel_run(
            objective=Buffered(strikes=step, strike=terminate),
            checkpoint=path,
            callback=lambda step, score: seen.append(step),
        )
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert seen == list(range(1, step + 1))
    assert f"stopped after step {step}: {path} " in capsys.readouterr().err
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata()["step"] == str(step)
    assert same(pixel_run(checkpoint=path), pixel_run())


def test_sigterm_after_the_last_step_is_not_lost(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(SystemExit):
        run(checkpoint=path, callback=lambda step, score: step == STEPS and terminate())
    assert same(run(checkpoint=path, callback=stop_at(1)), run())  # no steps are left
