"""The walls between which eigenfunctions are found: for data beyond the usual ones they move, as
far as there is a prior."""

import math
import re
from types import SimpleNamespace

import torch
from odd_inputs import refused
from statistical import F64, agrees, points, rng
from test_numerical import PLANE, WELL

import markovscore as ms


def far_cluster(at, n=550):
    """A tenth of the points is about ``at``, beyond the usual walls."""
    x = points(n, 1, scale=0.4)
    x[::10] = at + 0.25 * x[::10]
    return x


def test_walls_follow_the_data():
    """Far in the tail of a normal law: against the law of the points, diffused exactly."""
    process, times = ms.Langevin(ms.Gaussian(1), 2.0), torch.tensor([0.5, 1.0], dtype=F64)
    x, usual = far_cluster(6.2), process.eigenbasis(2).axes[0]
    assert usual.high < 5.8
    score = ms.fit_spectral(x, process, 40, times=times)
    low, high = score.basis.axes[0].low, score.basis.axes[0].high
    assert low == usual.low and high > x.max()
    for t in times.tolist():
        decay = math.exp(-t)
        law = ms.GaussianMixture(decay * x, (1 - decay**2) ** 0.5)
        y = law.sample(500, rng(1), dtype=F64)
        truth = law.score(y)
        assert (score(y, t) - truth).square().mean() < 1e-4 * truth.square().mean()
    assert process.eigenbasis(2).axes[0] is usual
    beyond = torch.tensor([[9.0], [1e3], [-1e3]], dtype=F64)
    assert torch.equal(score(beyond, 0.5), process.prior.score(beyond))


def test_walls_that_moved_are_in_the_file(tmp_path):
    """Of equal coordinates both move; a law of one's own that is passed again has its walls too."""
    path, well = tmp_path / "a.safetensors", ms.DoubleWell(2)
    own = ms.Langevin(SimpleNamespace(dim=2, log_prob=WELL.log_prob, score=WELL.score))
    for space, given, at in ((well, None, 2.7), (own, own, 2.2)):
        x = torch.cat([far_cluster(at), far_cluster(0.5)], 1)
        score = ms.fit_spectral(x, space, 30, shrinkage="heat+1")
        first, second = score.basis.axes
        assert first is second and first.high > x.max() > space.eigenbasis(2).axes[0].high
        score.save(path)
        again = ms.SpectralScore.load(path, given)
        assert again.basis.axes[0].high == first.high and again.basis.axes[0] is again.basis.axes[1]
        assert torch.equal(again(x, 0.1), score(x, 0.1)) and again.checksum == score.checksum


def test_additive_features_between_walls_that_moved(tmp_path):
    path, well = tmp_path / "a.safetensors", ms.DoubleWell(2)
    x = torch.cat([far_cluster(2.7), far_cluster(0.5)], 1)
    score = ms.fit_additive(x, well, 20)
    score.save(path)
    assert torch.equal(ms.AdditiveSpectralScore.load(path)(x, 0.1), score(x, 0.1))
    drawn = ms.sample_ode(score, well, 1000, generator=rng(3))
    assert agrees((drawn[:, 0] > 2.2).double(), 0.1, slack=0.01)


def test_an_ordinary_line_beside_a_numerical_one_has_walls_that_follow():
    space = ms.Product([ms.OrnsteinUhlenbeck(1), ms.Langevin(ms.Logistic(1, 0.5), 2.0)])
    x = torch.cat([far_cluster(6.5), far_cluster(0.0)], 1)
    score = ms.fit_spectral(x, space, 40, shrinkage="heat+1")
    assert score.basis.axes[0].high > 6.5 and score(x, 0.1).isfinite().all()


def test_points_where_there_is_no_prior():
    """The number that the message says does it; and the walls, where they were given."""
    x = points(100)
    x[3, 1] = 9.0
    text = refused(r"between -8.* coordinate 1.* 1 of 100", ms.fit_spectral, x, PLANE, 20)
    factor = float(re.search(r"divide x by ([\d.]+)", text)[1])
    assert ms.fit_spectral(x / factor, PLANE, 20, shrinkage="heat+1")(x, 0.5).isfinite().all()
    units = ms.Affine(PLANE, 0.9)
    refused("matrix and the shift of its Affine", ms.fit_spectral, x, units, 20)
    tight = ms.Langevin(PLANE.prior, box=(-4.0, 4.0))
    text = refused(r"coordinate 1, the walls, .*", ms.fit_spectral, x, tight, 20)
    low, high = re.search(r"box=\((.+), (.+)\)", text).groups()
    wide = ms.Langevin(PLANE.prior, box=(float(low), float(high)))
    assert ms.fit_spectral(x, wide, 20, shrinkage="heat+1")(x, 0.5).isfinite().all()
    refused("divide x by", ms.fit_additive, x, PLANE, 20)
