"""Files that the package writes: their mode, links and ``~``; scores of a user's own diffusion."""

import os
import stat

import ledger
import pytest
import torch
from odd_inputs import refused
from runs import data as moons
from runs import objective, small
from statistical import rng

import markovscore as ms

T = 0.7 * ms.toy("moons", 60, rng(), torch.float64)
OU, TIMES = ms.OrnsteinUhlenbeck(2), [0.1, 0.2, 0.5]
ADDITIVE = {"features": "additive", "times": TIMES}
PRODUCT = {"n_functions": 5, "times": TIMES, "shrinkage": "heat"}
SCORE = ms.fit_spectral(T, OU, **PRODUCT)
ROTATED = ms.fit_spectral(T, OU, order=3, rotation="pca", **ADDITIVE)


@pytest.fixture(params=[0o077, 0o027, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_files_have_the_mode_of_any_new_file(umask, tmp_path):
    SCORE.save(tmp_path / "score")
    ROTATED.save(tmp_path / "rotated")
    ms.train(small(), objective(), moons(), 2, batch_size=8, progress=False,
             checkpoint=tmp_path / "run", log=tmp_path / "log")  # fmt: skip
    (tmp_path / "claims.yml").write_text("[]")
    ledger.main(["verify", "--claims", str(tmp_path / "claims.yml"), "--notebooks", str(tmp_path),
                 "--json", str(tmp_path / "report")])  # fmt: skip
    for name in ("score", "rotated", "run", "log", "report"):
        assert mode(tmp_path / name) == 0o666 & ~umask, name
    assert not list(tmp_path.glob("*.tmp"))


def test_a_link_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "score"
    link.symlink_to(tmp_path / "disk" / "score")
    SCORE.save(link)
    assert link.is_symlink()
    assert torch.equal(ms.SpectralScore.load(tmp_path / "disk" / "score").times, SCORE.times)


class Mine(ms.OrnsteinUhlenbeck):
    """A user's own diffusion."""

    def __init__(self, scale):
        super().__init__(2)
        self.scale = scale


class OrnsteinUhlenbeck(ms.OrnsteinUhlenbeck):
    """One with the package's name, which must not be taken for it."""


@pytest.mark.parametrize("make", [lambda: Mine(3.0), lambda: OrnsteinUhlenbeck(2)])
@pytest.mark.parametrize(
    "arguments", [{"n_functions": 5, "times": TIMES, "shrinkage": "heat"}, ADDITIVE | {"order": 2}]
)
def test_a_score_of_ones_own_diffusion_is_loaded_with_it(make, arguments, tmp_path):
    own, path = make(), tmp_path / "score"
    score = ms.fit_spectral(T, own, **arguments)
    score.save(path)
    name = type(own).__name__
    refused(rf"found one of {name}, .*load\(path, diffusion=\.\.\.\)", type(score).load, path)
    again = type(score).load(path, diffusion=own)
    assert again.diffusion is own
    assert torch.equal(again(T, 0.3), score(T, 0.3))
    for other in (ms.TorusBrownian(2), ms.OrnsteinUhlenbeck(3)):
        with pytest.raises(ValueError, match=rf"diffusion: expected {name} of dimension 2"):
            type(score).load(path, diffusion=other)


def test_the_packages_own_need_no_diffusion_and_may_get_it(tmp_path):
    SCORE.save(tmp_path / "score")
    assert type(ms.SpectralScore.load(tmp_path / "score").diffusion) is ms.OrnsteinUhlenbeck
    assert ms.SpectralScore.load(tmp_path / "score", OU).diffusion is OU


def test_home_is_written_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    SCORE.save("~/deep/score")
    assert torch.equal(ms.SpectralScore.load("~/deep/score").times, SCORE.times)
    ms.train(small(), objective(), moons(), 2, batch_size=8, progress=False,
             checkpoint="~/run", log="~/log")  # fmt: skip
    monkeypatch.setenv("MARKOVSCORE_CACHE", "~/cache")
    assert ms.datasets.cifar10.cache_folder() == (tmp_path / "cache").resolve()
    (tmp_path / "claims.yml").write_text("[]")
    (tmp_path / "built").mkdir()
    assert ledger.load_claims("~/claims.yml") == ()
    arguments = ["--claims=~/claims.yml", "--notebooks=~/built", "--json=~/report"]
    assert ledger.main(["verify", *arguments]) == 0
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"deep", "run", "log", "claims.yml", "built", "report"}
    refused("home folder for '~nobody-here/x', found none", SCORE.save, "~nobody-here/x")


def test_a_path_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    def start(**paths):
        ms.train(small(), objective(), moons(), 2, batch_size=8, progress=False, callback=fail,
                 **paths)  # fmt: skip

    def fail(step, score):
        raise AssertionError("the work began")

    (tmp_path / "file").write_text("")
    for name in ("checkpoint", "log"):
        refused(f"{name}: .* found the folder", start, **{name: tmp_path})
        with pytest.raises(OSError, match=f"{name}: expected a folder that can be made"):
            start(**{name: tmp_path / "file" / "run"})
        refused(f"{name}: expected a path, found int", start, **{name: 3}, error=TypeError)
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(PermissionError, match="checkpoint: expected a folder that can be wr"):
            start(checkpoint=tmp_path / "locked" / "run")
