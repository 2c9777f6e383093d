"""Checkpoints: bit-for-bit resumption whatever interrupts, and every kind of bad file."""

import json
import os
import time

import pytest
import safetensors.torch
import torch
from odd_inputs import refused
from runs import (
    EVERY,
    STEPS,
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
)
from torch import nn

import markovscore as ms


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


def test_a_failing_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        run(checkpoint=path, callback=stop_at(EVERY))
    before = path.read_bytes()

    def full_disk(file):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    refused("no space", run, checkpoint=path, error=OSError)
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
        ({"objective": ms.DenoisingSM(ms.TorusBrownian(2), 0.02)}, "t_min=0.02"),
        ({"objective": ms.DenoisingSM(ms.OrnsteinUhlenbeck(2), 0.01)}, "OrnsteinUhlenbeck"),
        ({"net": ms.ScoreMLP(2, width=8, periodic=True)}, "network was"),
    ],
)
def test_refuses_the_checkpoint_of_another_run(finished, change, message):
    refused(f"expected.*found.*other settings.*{message}", run, checkpoint=finished, **change)


def test_refuses_other_data_and_other_steps(finished):
    settings = {"batch_size": 32, "progress": False, "checkpoint": finished}
    refused("data was", ms.train, small(), objective(), data().flip(0), STEPS, **settings)
    longer = small(), objective(), data(), STEPS + 1
    refused("steps was 40 and is now 41", ms.train, *longer, **settings)


CORRUPT = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "noise": lambda content: b"not a checkpoint at all" * 10,
    "flipped bit": lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
}


@pytest.mark.parametrize("how", CORRUPT)
def test_a_corrupt_checkpoint_is_a_clear_error(finished, how):
    finished.write_bytes(CORRUPT[how](finished.read_bytes()))
    refused(r"checkpoint: .*run\.safetensors.*move it away", run, checkpoint=finished)


def test_a_foreign_file_or_a_folder_is_a_clear_error(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3)}, path)
    refused("no format mark", run, checkpoint=path)
    refused("the path of a file, found the folder", run, checkpoint=tmp_path)


def test_the_metadata_are_json(finished):
    with safetensors.safe_open(finished, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["settings"])["steps"] == STEPS
    assert metadata["step"] == str(STEPS)


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
    refused(f"other settings.*{message}", pixel_run, 2, **settings | change)


def test_refuses_another_version(finished):
    with safetensors.safe_open(finished, framework="pt") as file:
        metadata = file.metadata()
    named = safetensors.torch.load_file(finished)
    metadata["format"] = "markovscore-training-1"
    safetensors.torch.save_file(named, finished, metadata)
    refused(r"training-3, found markovscore-training-1 .*move it away", run, checkpoint=finished)
