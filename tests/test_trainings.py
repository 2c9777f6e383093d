"""The long trainings of the build: what each depends on, that it resumes, that others are refused.

What the graph makes again is in test_pipeline.py.
"""

import json
import re
import shutil

import contents
import pytest
import run_training
import safetensors.torch
import torch
import trainings
import yaml
from conftest import ROOT

RUN = "board_local_0"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with one run of the smoke profile."""
    folder = tmp_path_factory.mktemp("runs")
    run_training.make(RUN, "smoke", folder)
    return folder


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of what a run depends on, to be changed."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "book").mkdir()
    for name in ("requirements.lock", "book/runs.yml", "book/run_training.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(trainings, "ROOT", tmp_path)
    monkeypatch.setattr(trainings, "BOOK", tmp_path / "book")
    monkeypatch.setattr(trainings, "FILE", tmp_path / "book" / "runs.yml")
    return tmp_path


def changed(tree, *path, **values):
    """Change a block of the declaration."""
    file = tree / "book" / "runs.yml"
    content = yaml.safe_load(file.read_text())
    block = content
    for key in path:
        block = block[key]
    block.update(values)
    file.write_text(yaml.safe_dump(content))


def log_of(folder, name=RUN):
    return json.loads((folder / f"{name}.json").read_text())


def test_what_a_run_leaves(made):
    log, settings = log_of(made), trainings.settings_of(RUN, "smoke")
    assert log["settings"] == settings and log["inputs"] == trainings.inputs(RUN, "smoke")
    assert list(log["log_likelihood"]) == [str(step) for step in settings["looks"]]
    assert len(log["losses"]) == 1 and log["cpu_seconds"] > 0
    weights = safetensors.torch.load_file(made / f"{RUN}.safetensors")
    assert weights["out.weight"].shape == (2, settings["network_width"])
    assert {path.suffix for path in made.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("stop", [9, 15], ids=["before the first look", "between two looks"])
def test_an_interrupted_run_ends_in_the_same_bits(made, tmp_path, monkeypatch, stop):
    """Stopped the hardest way, without a last checkpoint; the last one is of step 8."""
    look = run_training.Looks.__call__

    def pull_the_plug(self, step, score):
        look(self, step, score)
        if step == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_training.Looks, "__call__", pull_the_plug)
        with pytest.raises(KeyboardInterrupt):
            run_training.make(RUN, "smoke", tmp_path)
    assert not (tmp_path / f"{RUN}.json").exists()
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(run_training.Looks, "__call__", lambda *a: [steps.append(a[1]), look(*a)])
        run_training.make(RUN, "smoke", tmp_path)
    assert steps == list(range(9, 21))
    name = f"{RUN}.safetensors"
    assert (tmp_path / name).read_bytes() == (made / name).read_bytes()
    whole, resumed = log_of(made), log_of(tmp_path)
    for log in (whole, resumed):
        del log["seconds"], log["cpu_seconds"]
    assert resumed == whole


def test_a_checkpoint_of_other_inputs_is_not_gone_on_from(made, tmp_path):
    other = tmp_path / f"{RUN}-0123456789abcdef.checkpoint"
    other.write_bytes(b"the state of a run with other settings")
    run_training.make(RUN, "smoke", tmp_path)
    assert not other.exists()
    name = f"{RUN}.safetensors"
    assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_what_a_run_depends_on(tree):
    before = {name: trainings.inputs(name, "smoke") for name in trainings.declared("smoke")}

    def other():
        return {name for name, was in before.items() if trainings.inputs(name, "smoke") != was}

    for apart in ("claims.py", "figures.py", "spectral/fit.py"):
        with (tree / "src" / "markovscore" / apart).open("a") as file:
            file.write("# more\n")
    assert other() == set()
    changed(tree, "runs", "board_local", options={"window": 0.2})
    assert other() == {"board_local_0", "board_local_1", "board_local_2"}
    changed(tree, "runs", "board_local", options={"window": 0.3})
    changed(tree, "profiles", "paper", lr=0.1)
    assert other() == set()
    changed(tree, "settings", ema=0.9)
    assert other() == set(before)
    changed(tree, "settings", ema=0.995)
    assert other() == set()
    with (tree / "src" / "markovscore" / "training" / "loop.py").open("a") as file:
        file.write("# more\n")
    assert other() == set(before)


def test_what_is_left_out_trains_nothing():
    """No file that a run depends on imports one that it is said not to depend on."""
    package = ROOT / "src" / "markovscore"
    apart = {name.removesuffix(".py") for name in trainings.APART}
    inside = [path for path in trainings.sources() if package in path.parents]
    assert len(inside) > 50
    for path in inside:
        if path.parent != package:  # the package's face names everything
            rooms = set(re.findall(r"^\s*from \.\.+(\w+)", path.read_text(), re.M))
            assert not rooms & apart, path


def refused(text, folder, profile="smoke"):
    with pytest.raises(contents.BuildError) as error:
        trainings.refuse_others(text, profile, folder)
    return str(error.value)


def test_a_run_that_is_not_there_is_named(tmp_path):
    message = refused(f'shown = "{RUN}"', tmp_path)
    assert message.startswith(f"run {RUN}: expected") and "found none" in message
    assert message.endswith(f"make it: python book/run_training.py {RUN} --profile smoke")


def test_a_run_whose_inputs_changed_is_refused(made, tree):
    text = f'shown = "{RUN}"'
    trainings.refuse_others(text, "smoke", made)
    changed(tree, "settings", lr=0.1)
    message = refused(text, made)
    assert trainings.inputs(RUN, "smoke")[:12] in message and log_of(made)["inputs"][:12] in message
    assert f"python book/run_training.py {RUN} --profile smoke" in message


def test_a_tampered_hash_is_refused(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    log = log_of(tmp_path) | {"inputs": "0" * 64}
    (tmp_path / f"{RUN}.json").write_text(json.dumps(log))
    assert "found 000000000000" in refused(f'shown = "{RUN}"', tmp_path)
    trainings.refuse_others("a chapter that shows no run", "smoke", tmp_path)


def test_names_that_are_not_declared():
    with pytest.raises(contents.BuildError, match=r"expected one of board_.*found 'board'"):
        trainings.settings_of("board", "ci")
    assert trainings.named("board_local_0, board_local_01 and board_local", "ci") == [RUN]


@pytest.mark.parametrize("place", [("profiles", "smoke"), ("runs", "board_local")])
def test_settings_that_nobody_reads(tree, place):
    changed(tree, *place, widht=8)
    with pytest.raises(contents.BuildError, match="found widht; correct the name"):
        trainings.declared("smoke")


def test_the_process_is_that_of_the_declaration():
    process = run_training.process_of(trainings.settings_of(RUN, "ci"))
    means = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])
    assert torch.equal(process.prior.means.float(), means)
