"""Interruptions from outside: a run that is killed, or asked to end, ends as if it were not."""

import multiprocessing
import multiprocessing.util
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
import run_chapter
import safetensors.torch
import torch
from runs import (
    LONG,
    STEPS,
    Buffered,
    Stop,
    data,
    objective,
    pixel_run,
    run,
    same,
    small,
    stop_at,
    to_the_end,
    weights,
)

from markovscore.training import train

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


# Killed at any moment


@pytest.fixture(scope="module")
def processes():
    """Processes that need not import torch anew, and share no state with this one."""
    with pytest.MonkeyPatch.context() as patch:  # the server's socket needs a short path
        patch.setattr(tempfile, "tempdir", run_chapter.sockets_parent())
        multiprocessing.util.get_temp_dir()  # it remembers the folder
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
        left = list(tmp_path.glob("run.safetensors.*.tmp"))
        assert len(left) == (moment != "just renamed")
        for temporary in left:
            temporary.unlink()
    # 3, then 4, then 6 writes were completed, each after four steps.
    with safetensors.safe_open(tmp_path / "run.safetensors", framework="pt") as file:
        assert int(file.metadata()["step"]) == 4 * (3 + 4 + 6)
    process = child(processes, tmp_path, shards)
    process.join()
    assert process.exitcode == 0
    assert_same_content(tmp_path, whole)


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
