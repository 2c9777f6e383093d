"""Training: a loop by hand as the oracle, bit-for-bit resumption, and every kind of bad file."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import safetensors.torch
import torch

from markovscore.datasets import DiffusedMixture, toy
from markovscore.diffusions import OrnsteinUhlenbeck, TorusBrownian
from markovscore.metrics import relative_fisher_divergence
from markovscore.networks import ScoreMLP
from markovscore.objectives import DenoisingSM
from markovscore.training import train

STEPS, EVERY = 40, 7


def data(n=500, dtype=torch.float32):
    return 0.5 * toy("moons", n, torch.Generator().manual_seed(0), dtype)


def small(seed=0, **settings):
    return ScoreMLP(
        2, width=16, periodic=True, generator=torch.Generator().manual_seed(seed), **settings
    )


def objective():
    return DenoisingSM(TorusBrownian(2), 0.01)


def run(net=None, **changes):
    settings = {"batch_size": 32, "checkpoint_every": EVERY, "progress": False} | changes
    net = small() if net is None else net
    return net, train(net, settings.pop("objective", objective()), data(), STEPS, **settings)


def weights(net):
    return [p.detach().clone() for p in net.parameters()]


def same(a, b):
    """Equal results, bit for bit: network, average and losses."""
    (net_a, result_a), (net_b, result_b) = a, b
    tensors = zip(
        weights(net_a) + weights(result_a.score) + [result_a.losses],
        weights(net_b) + weights(result_b.score) + [result_b.losses],
        strict=True,
    )
    return all(torch.equal(x, y) for x, y in tensors)


class Stop(Exception):
    """An interruption from outside."""


def stop_at(step):
    def callback(now, score):
        if now == step:
            raise Stop

    return callback


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_equals_a_loop_written_by_hand(schedule):
    net = small().double()
    x, loss = data(dtype=torch.float64), objective()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    g = torch.Generator().manual_seed(11)
    average, losses = None, []
    for _ in range(STEPS):
        batch = x[torch.randint(len(x), (32,), generator=g)]
        value = loss.loss(net, batch, g)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if schedule == "cosine":
            rates.step()
        now = weights(net)
        average = (
            now
            if average is None
            else [0.9 * a + 0.1 * w for a, w in zip(average, now, strict=True)]
        )
        losses.append(value.item())
    result = train(
        small().double(),
        objective(),
        x,
        STEPS,
        seed=11,
        batch_size=32,
        lr=3e-3,
        ema=0.9,
        schedule=schedule,
        progress=False,
    )
    torch.testing.assert_close(result.losses, torch.tensor(losses, dtype=torch.float64))
    for a, b in zip(weights(result.score), average, strict=True):
        torch.testing.assert_close(a, b)


def test_deterministic_given_the_seed():
    assert same(run(seed=1), run(seed=1))
    assert not same(run(seed=1), run(seed=2))
    before = torch.get_rng_state()
    run()
    assert torch.equal(before, torch.get_rng_state())


def test_result_is_ready_to_use():
    net, result = run()
    assert not result.score.training
    assert not any(p.requires_grad for p in result.score.parameters())
    assert result.score is not net
    assert result.losses.shape == result.seconds.shape == (STEPS,)
    assert torch.isfinite(result.losses).all()
    assert (result.seconds.diff() > 0).all()
    assert result.seconds[0] > 0


def test_no_averaging_returns_the_network():
    net, result = run(ema=0.0)
    for a, b in zip(weights(net), weights(result.score), strict=True):
        assert torch.equal(a, b)


def test_callback_sees_every_step_and_changes_nothing():
    seen = []

    def callback(step, score):
        assert not score.training
        assert not score(data()[:4], 0.1).requires_grad
        seen.append(step)

    assert same(run(callback=callback), run())
    assert seen == list(range(1, STEPS + 1))


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


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_leaves_a_checkpoint_that_resumes_exactly(tmp_path, how):
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
    process.stdout.close()
    assert process.wait() == -how
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


class Breaks:
    """A loss that is not finite from the sixth step on."""

    def __init__(self):
        self.calls, self.inner = 0, objective()

    def loss(self, score, x0, generator):
        self.calls += 1
        return self.inner.loss(score, x0, generator) * (math.nan if self.calls > 5 else 1.0)


def test_a_loss_that_is_not_finite_stops_with_the_step():
    net = small()
    with pytest.raises(FloatingPointError, match=r"found nan at step 6: lower lr .*step 5"):
        run(net, objective=Breaks())
    assert all(torch.isfinite(w).all() for w in weights(net))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected"),
        ({"lr": -1.0}, "lr: expected"),
        ({"lr": math.nan}, "lr: expected"),
        ({"ema": 1.0}, "ema: expected"),
        ({"schedule": "linear"}, "schedule: expected 'cosine'"),
        ({"checkpoint_every": 0}, "checkpoint_every: expected"),
    ],
)
def test_rejects_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        run(**change)


def test_rejects_bad_data():
    with pytest.raises(ValueError, match="steps: expected"):
        train(small(), objective(), data(), 0)
    with pytest.raises(TypeError, match="int64"):
        train(small(), objective(), torch.zeros(4, 2, dtype=torch.int64), 5)
    with pytest.raises(TypeError, match="ndarray"):
        train(small(), objective(), data().numpy(), 5)
    with pytest.raises(ValueError, match="N >= 1"):
        train(small(), objective(), data()[:0], 5)
    with pytest.raises(ValueError, match="row 1"):
        train(small(), objective(), torch.tensor([[0.0, 0.0], [0.0, math.inf]]), 5)


def test_progress_bar_counts_the_steps(capsys):
    run(progress=True)
    assert f"{STEPS}/{STEPS}" in capsys.readouterr().err
    run(progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["torus", "ou"])
def test_learns_the_score_at_small_and_at_large_times(name):
    """A short run; the smallest noise, 0.045, is a sixth of the smallest scale of the data."""
    diffusion = TorusBrownian(2) if name == "torus" else OrnsteinUhlenbeck(2)
    mixture = DiffusedMixture(diffusion, [[1.5, 0.0], [-1.0, 1.0]], 0.25)
    x = mixture.sample(5000, torch.Generator().manual_seed(0))
    net = ScoreMLP(2, width=64, depth=2, periodic=name == "torus", std=diffusion.std)
    loss = DenoisingSM(diffusion, weighting="likelihood", times="log")
    result = train(net, loss, x, 600, lr=5e-3, batch_size=256, ema=0.98, progress=False)
    for t in (1e-3, 1e-2, 0.1, 1.0):
        y = mixture.sample(4000, torch.Generator().manual_seed(1), t=t)
        error = relative_fisher_divergence(result.score, mixture, y, t)
        assert error.value < 0.25, t
    assert result.losses[-100:].mean() < result.losses[:20].mean()
