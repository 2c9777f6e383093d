"""Interruptions from outside: a run that is killed, or asked to end, ends as if it were not."""

import multiprocessing
import multiprocessing.util
import os
import random
import signal
import tempfile
import time

import pytest
import safetensors.torch
import torch
from processes import sockets_parent
from runs import LONG, STEPS, Buffered, pixel_run, run, same, stop_at, to_the_end


@pytest.fixture(scope="module")
def processes():
    """Processes that need not import torch anew, and share no state with this one."""
    with pytest.MonkeyPatch.context() as patch:  # the server's socket needs a short path
        patch.setattr(tempfile, "tempdir", sockets_parent())
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


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_killed_at_random_moments_it_ends_as_if_never_interrupted(
    uninterrupted, processes, tmp_path, how, code
):
    shards, whole = uninterrupted
    moments, codes = random.Random(shards), set()
    for _ in range(4):
        started = processes.Event()
        process = child(processes, tmp_path, shards, started)
        assert started.wait(60)
        time.sleep(moments.uniform(0.0, 0.1))
        os.kill(process.pid, how)
        process.join()
        codes.add(process.exitcode)
    assert code in codes <= {code, 0}
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
