"""Two processes under ``torchrun`` against one: the same numbers, from one launch for all tests."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchrun_script
from runs import STEPS, Stop, pixel_net, pixel_run, same, stop_at, weights
from safetensors import safe_open

SCRIPT = Path(torchrun_script.__file__)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes have been; ``one then two`` was begun by one before."""
    folder = tmp_path_factory.mktemp("processes")
    begun = {"checkpoint": folder / "one then two", "checkpoint_every": 5}
    with pytest.raises(Stop):
        pixel_run(shards=2, callback=stop_at(17), **begun)
    # A checkpoint that one of two processes finds, and the other does not.
    pixel_run(3, shards=2, checkpoint=folder / "plain two", lr=1e-3)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    package = str(Path(sys.modules["markovscore"].__file__).parents[1])
    done = subprocess.run(
        [*launch, str(SCRIPT), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    (folder / "stderr").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return [torch.load(folder / f"found{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def one():
    return pixel_run(shards=2)


def assert_equal(outcome, run):
    expected = torchrun_script.outcome(*run)
    assert torch.equal(outcome["losses"], expected["losses"])
    for name in ("gradients", "weights", "average"):
        for a, b in zip(outcome[name], expected[name], strict=True):
            assert torch.equal(a, b), name


@pytest.mark.parametrize("what", ["plain", "continued", "minutes"])
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_find_what_one_does_bit_for_bit(found, one, what, rank):
    assert_equal(found[rank][what], one)


def test_four_shards_agree_to_rounding(found):
    """Sums of four numbers in another order; Adam divides by gradients that may be small."""
    net, result = pixel_run(shards=4)
    first, second = (f["four shards"] for f in found)
    for a, b, c in zip(first["weights"], second["weights"], weights(net), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(first["losses"], result.losses, rtol=1e-4, atol=0)
    assert not torch.equal(result.losses, pixel_run(shards=2)[1].losses)


def test_only_the_first_shows_and_writes(folder, found):
    assert found[0]["callbacks"] == list(range(1, STEPS + 1))
    assert found[1]["callbacks"] == []
    log = np.genfromtxt(folder / "rank0" / "log.csv", delimiter=",", names=True)
    assert log["step"] == STEPS
    assert not (folder / "rank1").exists()
    assert f"{STEPS}/{STEPS}" in (folder / "stderr").read_text()


def test_the_checkpoint_has_the_state_of_every_shard(folder):
    pixel_run(shards=2, checkpoint=folder / "by one")
    two, by_one = (safetensors.torch.load_file(folder / name) for name in ("plain", "by one"))
    assert two.keys() == by_one.keys()
    assert {"shard.0.generator", "shard.1.generator", "shard.1.objective.order"} <= two.keys()
    for name in two.keys() - {"seconds"}:
        assert torch.equal(two[name], by_one[name]), name


def test_sigterm_to_one_stops_both_after_the_same_step(folder, found, one):
    assert [f["stopped"] for f in found] == [143, 143]
    path = folder / "two then one"
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["step"] == "11"
    assert (folder / "stderr").read_text().count("stopped after step 11") == 1
    assert same(pixel_run(shards=2, checkpoint=path), one)


def test_what_does_not_fit_is_refused_by_every_process(found):
    for errors in (f["errors"] for f in found):
        shards, batch, seed, data, checkpoint = errors
        assert "expected a multiple of the number of processes, 2, found 3: pass shards=4" in shards
        assert "batch_size: expected a multiple of shards = 2" in batch
        assert "found 25: pass for instance batch_size=26" in batch
        assert "found seed = 1 on rank 1 and 0 on rank 0: pass the same arguments" in seed
        assert "data = 'Pixels of 200, checksum of rank 1' on rank 1" in data
        assert "first step = 0 on rank 1 and 3 on rank 0: put the checkpoint" in checkpoint


def test_the_process_group_is_left_as_it_was(found):
    assert [f["left"] for f in found] == [False, False]
    assert [f["kept"] for f in found] == [True, True]


def test_networks_that_start_differently_matter_without_torchrun():
    """Else the comparison above would say nothing about whose weights count."""
    assert not same(pixel_run(shards=2), pixel_run(shards=2, net=pixel_net(seed=1)))
