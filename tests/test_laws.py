"""Laws whose eigenfunctions cannot be found: what is said, and that the fix works."""

import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from odd_inputs import refused
from statistical import F64, points
from test_numerical import WELL

import markovscore as ms


def law(log_prob, score, dim=1):
    return SimpleNamespace(dim=dim, log_prob=log_prob, score=score)


def half_square(x):
    return -0.5 * x.square().sum(1)


def turned(y):
    return torch.stack([-y[:, 1], y[:, 0]], 1)


def coupled(x):
    return half_square(x) - 0.3 * x.square().prod(1)


@pytest.mark.parametrize(
    ("words", "prior"),
    [
        (
            r"log_prob\(x\) of shape \(3,\) .* found \(3, 1\)",
            law(lambda x: -x.square(), WELL.score),
        ),
        (r"log_prob\(x\) of shape \(3,\) .* found \(\)", law(lambda x: x.sum(), WELL.score)),
        (r"score\(x\) of shape \(3, 1\) .* found \(3,\)", law(half_square, lambda x: -x[:, 0])),
        ("float64, found torch.float32", law(lambda x: half_square(x.float()), lambda x: -x)),
        ("curl of the score is up to 1,", law(half_square, lambda y: turned(y) - y, 2)),
        ("gradient of log_prob", law(half_square, lambda y: -2 * y)),
        ("gradient of log_prob", law(coupled, lambda y: -y, 2)),
    ],
)
def test_values_and_gradients_are_looked_at(words, prior):
    refused(words, ms.fit_spectral, points(50, prior.dim), ms.Langevin(prior), 8)


def test_walls_beyond_doubles():
    """Between walls at 20 errors of the score were above 1e3; those that the message names do."""
    x, prior = points(300, 1, scale=0.5), ms.Gaussian(1)
    text = refused("within 100 of its", ms.Langevin(prior, 2.0, box=(-20, 20)).eigenbasis, 4)
    box = [float(end) for end in re.search(r"pass box=\((.+), (.+)\),", text).groups()]
    one, other = (
        ms.fit_spectral(x, ms.Langevin(prior, 2.0, box=b), 60, shrinkage="heat+1")
        for b in (box, (-8.5, 8.5))
    )
    assert (one(x, 0.1) - other(x, 0.1)).abs().max() < 0.01
    refused(r"expected \(low, high\)", ms.Langevin(prior, box=4.0).eigenbasis, 4)


def test_a_law_that_ends_is_its_box():
    def inside(x):
        return torch.where(x.abs() < 3, 0 * x, -torch.inf).sum(1)

    hard = ms.Langevin(law(inside, lambda x: 0 * x), 2.0)
    x = points(400, 1, scale=0.8)
    box = ms.BoxBrownian(1, -3.0, 3.0)
    ours, theirs = (ms.fit_spectral(x, p, 12, times=[0.1]) for p in (hard, box))
    assert (ours(x, 0.1) - theirs(x, 0.1)).abs().max() < 0.02 * theirs(x, 0.1).abs().max()
    wide = ms.Langevin(hard.prior, 2.0, box=(-5.0, 5.0))
    refused(r"found \[-inf, -inf\] .*box=\(-3, 3\)|box=\(-2\.99", wide.eigenbasis, 4)


def test_laws_in_numpy_of_two_coordinates():
    def level(x):
        return torch.from_numpy(-((np.asarray(x) ** 2 - 1) ** 2).sum(1))

    def slope(x):
        return torch.from_numpy(-4 * np.asarray(x) * (np.asarray(x) ** 2 - 1))

    x = points(300, 2, scale=0.5)
    theirs = SimpleNamespace(dim=2, log_prob=WELL.log_prob, score=WELL.score)
    found = [ms.fit_spectral(x, ms.Langevin(p, 2.0), 20) for p in (law(level, slope, 2), theirs)]
    assert torch.allclose(found[0](x, 0.1), found[1](x, 0.1), rtol=1e-9)
    bent = law(
        lambda x: level(x) - 0.5 * torch.from_numpy(np.asarray(x).prod(1)),
        lambda x: slope(x) - 0.5 * x.flip(1),
        2,
    )
    refused("torch operations", ms.Langevin(bent).eigenbasis, 4, error=TypeError)


def test_a_law_with_parameters_of_a_network():
    scale = torch.ones((), dtype=F64, requires_grad=True)
    prior = law(lambda x: scale * half_square(x), lambda x: -scale * x)
    x = points(200, 1, scale=0.5)
    score = ms.fit_spectral(x, ms.Langevin(prior, 2.0), 8)
    plain = ms.fit_spectral(x, ms.Langevin(ms.Gaussian(1), 2.0), 8)
    assert torch.allclose(score(x, 0.1), plain(x, 0.1), rtol=1e-6, atol=1e-6)


def test_pickles_and_files(tmp_path):
    """A file tells its prior from another one by the eigenvalues."""
    x, path = points(200, 1, scale=0.5), tmp_path / "a.safetensors"
    for space in (
        ms.DoubleWell(),
        ms.Langevin(ms.Logistic(1, 0.5), 2.0),
        ms.Product([ms.OrnsteinUhlenbeck(1), ms.Langevin(ms.Logistic(1, 0.5), 2.0)]),
    ):
        y = points(200, space.dim, scale=0.5)
        score = ms.fit_spectral(y, space, 8)
        assert torch.equal(pickle.loads(pickle.dumps(score))(y, 0.1), score(y, 0.1))
    ms.fit_spectral(x, ms.Langevin(law(WELL.log_prob, WELL.score), 2.0), 8).save(path)
    other = ms.Langevin(law(half_square, lambda x: -x), 2.0)
    refused("same prior and box", ms.SpectralScore.load, path, other)
