"""Affine images of processes: change of variables, by hand and by the samplers' general path."""

import math

import pytest
import torch
from odd_inputs import refused
from statistical import F64, agrees, rng

import markovscore as ms

M = torch.tensor([[2.0, 0.5], [-0.3, 0.7]], dtype=F64)
B = torch.tensor([10.0, -3.0], dtype=F64)
OU = ms.OrnsteinUhlenbeck(2)
IMAGE = ms.Affine(OU, M, B)


def draws(n=400, seed=0):
    u = torch.randn(n, 2, generator=rng(seed), dtype=F64)
    return torch.stack([u[:, 0], 0.4 * u[:, 1] + 0.5 * u[:, 0].square() - 0.5], 1)


def test_process_is_the_image():
    """Drift, noise, prior and transition against those of ``Y``, mapped."""
    u = draws(50)
    x, t = u @ M.T + B, torch.tensor(0.3, dtype=F64)
    assert torch.allclose(IMAGE.drift(x, t), OU.drift(u, t) @ M.T)
    assert torch.allclose(IMAGE.dispersion(t), math.sqrt(2) * M)
    assert torch.allclose(IMAGE.dispersion(t.expand(5, 1)), math.sqrt(2) * M.expand(5, 2, 2))
    log_det = float(torch.linalg.slogdet(M)[1])
    assert torch.allclose(IMAGE.prior.log_prob(x), OU.prior.log_prob(u) - log_det)
    y = IMAGE.sample_transition(x[:1].expand(20_000, 2), 0.3, rng(1))
    assert agrees(y, (math.exp(-0.3) * u[0]) @ M.T + B, 1e-12)
    slope = torch.autograd.functional.jacobian(lambda x: IMAGE.prior.log_prob(x).sum(), x)
    assert torch.allclose(IMAGE.prior.score(x), slope)


def test_fit_score_and_density_change_variables():
    u = draws()
    x = u @ M.T + B
    inner = ms.fit_spectral(u, OU, 14, shrinkage="heat")
    score = ms.fit_spectral(x, IMAGE, 14, shrinkage="heat")
    room = 1e-6 * float(inner(u, 0.1).abs().max())
    assert torch.allclose(score(x, 0.1), inner(u, 0.1) @ torch.linalg.inv(M), atol=room)
    log_det = float(torch.linalg.slogdet(M)[1])
    expected = ms.log_likelihood(inner, OU, u[:30]) - log_det
    assert torch.allclose(ms.log_likelihood(score, IMAGE, x[:30]), expected, atol=1e-5)
    a = ms.sample_ode(inner, OU, 30, generator=rng(2)) @ M.T + B
    assert torch.allclose(ms.sample_ode(score, IMAGE, 30, generator=rng(2)), a, atol=1e-4)
    assert torch.isfinite(ms.sample_sde(score, IMAGE, 5, generator=rng(2))).all()


def test_divergence_is_that_of_the_score_in_user_units():
    x = draws() @ M.T + B
    score = ms.fit_spectral(x, IMAGE, 14, shrinkage="heat")
    jacobian = torch.autograd.functional.jacobian(lambda x: score(x, 0.2).sum(0), x[:9])
    trace = torch.stack([jacobian[i, :, i] for i in range(2)]).sum(0)
    assert torch.allclose(score.divergence(x[:9], 0.2), trace, rtol=1e-9)


def test_other_scores_take_the_same_path():
    """A score of the user's, on the image and, without its map, by the matrix noise alone."""
    x = draws(20) @ M.T + B
    C = M @ torch.diag(torch.tensor([0.25, 4.0], dtype=F64)) @ M.T

    def covariance(t):
        """Of a start from N(B, C) under the image of the process."""
        a = torch.exp(-2 * torch.as_tensor(t, dtype=F64)).reshape(-1, 1, 1)
        return a * C + (1 - a) * M @ M.T

    def gaussian(x, t):
        return -torch.linalg.solve(covariance(t), (x - B)[..., None])[..., 0]

    class Bare:
        """The same process, that knows of no map."""

        dim, horizon, prior = 2, IMAGE.horizon, IMAGE.prior
        drift, dispersion = staticmethod(IMAGE.drift), staticmethod(IMAGE.dispersion)

    times = torch.logspace(-3, math.log10(5.0), 600, dtype=F64)
    found = ms.log_likelihood(gaussian, IMAGE, x, times=times)
    law = torch.distributions.MultivariateNormal(B, covariance(times[0])[0])
    assert (found - law.log_prob(x)).abs().max() < 1e-3
    few = times[::20]
    a, b = (ms.log_likelihood(gaussian, p, x, times=few) for p in (Bare(), IMAGE))
    assert torch.allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("how", ["axes", "columns"])
def test_whitened_data_have_unit_scale(how):
    space = ms.Product([ms.TorusBrownian(1), ms.OrnsteinUhlenbeck(2)])
    x = torch.cat([torch.rand(400, 1, generator=rng(), dtype=F64), draws() @ M.T + B], 1)
    image = ms.whitened(space, x, how)
    u = image.chart.to_inner(x)
    assert torch.allclose(u[:, 0], x[:, 0])
    assert torch.allclose(u[:, 1:].mean(0), torch.zeros(2, dtype=F64), atol=1e-12)
    covariance = torch.cov(u[:, 1:].T, correction=0)
    if how == "axes":
        assert torch.allclose(covariance, torch.eye(2, dtype=F64), atol=1e-10)
    assert torch.allclose(covariance.diagonal(), torch.ones(2, dtype=F64), atol=1e-10)
    score = ms.fit_spectral(x, image, 40, shrinkage="heat")
    assert torch.isfinite(ms.log_likelihood(score, image, x[:20])).all()


def test_weights_are_those_of_repeated_points():
    x = draws(6)
    weights = torch.tensor([2.0, 0.0, 1.0, 1.0, 3.0, 1.0])
    repeated = x.repeat_interleave(weights.long(), 0)
    a, b = ms.whitened(OU, x, weights=weights), ms.whitened(OU, repeated)
    assert torch.allclose(a.matrix.abs(), b.matrix.abs())  # an axis has two directions
    assert torch.allclose(a.shift, b.shift)
    for wrong in (-weights, 0 * weights, weights[1:], math.nan * weights):
        refused("none negative, not all zero", ms.whitened, OU, x, weights=wrong)


def test_density_in_the_units_of_the_data():
    """Of a Gaussian far from the origin and of another scale: its entropy."""
    C = 100 * M @ M.T
    law = torch.distributions.MultivariateNormal(50 * B, C)
    x = 50 * B + 10 * torch.randn(4000, 2, generator=rng(), dtype=F64) @ M.T
    image = ms.whitened(OU, x)
    score = ms.fit_spectral(x, image, 5)
    held_out = 50 * B + 10 * torch.randn(500, 2, generator=rng(9), dtype=F64) @ M.T
    gap = ms.log_likelihood(score, image, held_out) - law.log_prob(held_out)
    assert abs(float(gap.mean())) < 0.01  # 5 parameters, 4,000 points: 5 / 8000, and the first time


def test_files_keep_the_map(tmp_path):
    x = draws() @ M.T + B
    score = ms.fit_spectral(x, IMAGE, 9)
    score.save(tmp_path / "score")
    loaded = ms.SpectralScore.load(tmp_path / "score")
    assert torch.equal(loaded(x, 0.1), score(x, 0.1))
    assert isinstance(loaded.diffusion, ms.Affine)


def test_bad_maps_are_named():
    refused("invertible", ms.Affine, OU, torch.ones(2, 2))
    refused("shape", ms.Affine, OU, torch.ones(3))
    refused("shift", ms.Affine, OU, 1.0, [1.0, math.nan])
    refused("number for its dispersion", ms.Affine, IMAGE, error=TypeError)
    x = draws(5)
    refused("vary in every direction", ms.whitened, OU, torch.stack([x[:, 0], 2 * x[:, 0]], 1))
    refused("two or more points", ms.whitened, OU, x[:1])
    refused("'axes' or 'columns'", ms.whitened, OU, x, "rows")
    refused("with an eigenbasis", ms.whitened, ms.ActiveSwimmer(), x, error=TypeError)
    score = ms.fit_spectral(draws() @ M.T + B, IMAGE, 2)
    refused("another affine image", ms.log_likelihood, score, ms.Affine(OU, 2 * M, B), x)
