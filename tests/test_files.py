"""Files that the package writes: their mode, links and ``~``; scores of a user's own diffusion."""

import os
import stat
import zlib

import ledger
import pytest
import torch
from odd_inputs import refused
from runs import data as moons
from runs import objective, small
from statistical import rng

import markovscore as ms
from markovscore.core import checksum, crc32, named_checksum, whole_folder, write_whole

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


def synced(monkeypatch):
    """The files and folders that are brought to the disk, and what is renamed, in order."""
    seen, fsync, replace = [], os.fsync, os.replace

    def noted_fsync(place):
        seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{place}")))
        fsync(place)

    def noted_replace(source, target):
        seen.append(("renamed", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return seen


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="the names of open files")
def test_what_is_written_is_on_the_disk_before_it_has_its_name(monkeypatch, tmp_path):
    seen = synced(monkeypatch)
    write_whole(tmp_path / "file", "content")
    assert seen[0].startswith("file.") and seen[0].endswith(".tmp")
    assert seen[1:] == [("renamed", "file"), tmp_path.name]
    seen.clear()
    with whole_folder(tmp_path / "cache") as folder:
        (folder / "one").write_text("1")
        (folder / "two").write_text("2")
        assert not (tmp_path / "cache").exists()
    assert set(seen[:2]) == {"one", "two"}
    assert seen[2:] == ["cache.partial", ("renamed", "cache"), tmp_path.name]

    def interrupted():
        with whole_folder(tmp_path / "other") as folder:
            (folder / "one").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "file"]


def test_one_checksum_of_all_kinds():
    """CRC-32 of the bytes: values that old files hold."""
    assert checksum("123456789") == checksum(b"123456789") == "cbf43926"  # its check value
    assert checksum("12345", "6789") == checksum("6789", start=crc32("12345")) == "cbf43926"
    x = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    by_hand = zlib.crc32(x.numpy().tobytes())
    assert crc32(x) == crc32(x.numpy()) == crc32(x.T.contiguous().T) == by_hand
    assert crc32(x.T) == crc32(x.numpy().T) != by_hand  # in order of the rows
    assert crc32(x.requires_grad_()) == by_hand
    assert checksum(torch.tensor(True), torch.zeros(0)) == f"{zlib.crc32(bytes([1])):08x}"
    named = {"b": torch.ones(2), "a": torch.zeros(3)}
    parts = b"a" + bytes(12) + b"b" + torch.ones(2).numpy().tobytes()
    assert named_checksum(named) == f"{zlib.crc32(parts):08x}"
