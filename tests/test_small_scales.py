"""Data of a small scale, and of none: grids that start at t = 0 against exact Gaussians."""

import math
import warnings

import pytest
import torch
from statistical import F64, points, rng, slope

import markovscore as ms
from markovscore.core import as_diffusion
from markovscore.diffusions import LONGEST_STEP, graded_times, log_clock, refined_times

OU, VP = ms.OrnsteinUhlenbeck(2, horizon=6.0), ms.VariancePreserving(2)
both = pytest.mark.parametrize("process", [OU, VP], ids=["ou", "vp"])


def narrow(n=4000, scale=0.02, seed=0):
    """Independent normals of standard deviations 1 and ``scale``."""
    return points(n, 2, seed) * torch.tensor([1, scale])


def fit(x, process, order=2, **settings):
    return ms.fit_spectral(x, process, features="additive", order=order, **settings)


def gaussian(x, process):
    """Mean and standard deviation of every coordinate at the last time, and at t = 0."""
    mean, scale = x.mean(0), x.std(0, correction=0)
    a = torch.exp(-process.ou_time(process.horizon))
    return a * mean, (a**2 * scale**2 + 1 - a**2).sqrt(), mean, scale


@both
def test_the_likelihood_converges_at_order_two_from_zero_on(process):
    """The issue's snippet: 4.33 whatever the steps, where 1.087 is right."""
    x = narrow()
    score, y = fit(x, process), x[:60]
    mean, scale = gaussian(x, process)[2:]
    exact = torch.distributions.Normal(mean, scale).log_prob(y).sum(1)
    counts = [40, 80, 160]

    def error(**settings):
        return float((ms.log_likelihood(score, process, y, **settings) - exact).abs().mean())

    errors = [error(steps=n) for n in counts]
    assert slope(counts, errors) == pytest.approx(-2, abs=0.15)
    assert errors[-1] < 5e-3
    # Second order in steps of 0.05: 0.05^2 times a constant of order one, and the prior's error.
    assert error() < 3e-3 and error(method="adaptive", rtol=1e-7, atol=1e-9) < 1e-3


@both
def test_the_flow_to_zero_is_the_map_between_gaussians(process):
    x = narrow()
    score, start = fit(x, process), points(50, 2, 1)
    late_mean, late_scale, mean, scale = gaussian(x, process)
    exact = mean + scale / late_scale * (start - late_mean)
    counts = [40, 80, 160]

    def error(**settings):
        found = ms.sample_ode(score, process, 50, x_T=start, **settings)
        return float(((found - exact) / scale).abs().mean())

    errors = [error(steps=n) for n in counts]
    assert slope(counts, errors) == pytest.approx(-2, abs=0.2)
    assert error() < 3e-3 and error(method="adaptive", rtol=1e-7, atol=1e-9) < 1e-3


def test_the_reverse_sde_reaches_the_small_scale_at_first_order():
    """Its floor was sqrt(2 times[1]) = 0.1."""
    x = narrow()
    score = fit(x, OU)
    n, scale = 6_000, x.std(0)
    room = 6 / math.sqrt(2 * n)
    found = ms.sample_sde(score, OU, n, generator=rng(1)).std(0) / scale - 1
    assert (found.abs() < 0.012 + room).all()
    # Of a narrow Gaussian the variance is too large by a step of the logarithmic clock.
    step = float(log_clock(OU, torch.tensor(6.0), score.finest_time)) / 100
    found = ms.sample_sde(score, OU, n, steps=100, generator=rng(1)).std(0) / scale - 1
    assert abs(float(found[1]) - (math.sqrt(1 + step) - 1)) < room + step**2


@both
@pytest.mark.parametrize("order", [3, 5])
def test_between_zero_and_the_first_even_level_coefficients_are_right(process, order):
    """Skewed data: the coefficients turn over at a time of half the variance, 2e-4."""
    x = narrow(scale=0.02)
    x = torch.cat([x[:, :1], 0.02 * x[:, 1:].mul(50).exp()], 1)
    score = fit(x, process, order)
    for t in (1e-7, 3e-6, 7.3e-5, 2.2e-4, 1.31e-3):
        once = fit(x, process, order, times=[t])(x[:300], t)
        assert (score(x[:300], t) - once).norm() < 1e-3 * once.norm()


@pytest.mark.parametrize("order", [2, 6])
def test_constant_columns_are_named_and_stay_constant(order):
    """With them the sampled deviation of others was 122."""
    x = torch.rand(500, 4, generator=rng(), dtype=F64)
    x[:, 1], x[:, 3] = -1.0, 0.5
    process = ms.OrnsteinUhlenbeck(4)
    with pytest.warns(ms.SpectralWarning, match="constant column 1, column 3: a point mass"):
        score = fit(x, process, order)
    found = ms.sample_ode(score, process, 400, generator=rng(1))
    assert (found[:, [1, 3]] - x[0, [1, 3]]).abs().max() < 6e-4  # six of the 1e-4 it is given
    spread = found.std(0)[[0, 2]] / x.std(0)[[0, 2]] - 1
    assert (spread.abs() < 6 / math.sqrt(800)).all()
    t = 0.1
    exact = -(found[:, 1] + math.exp(-t)) / (1 - math.exp(-2 * t))
    torch.testing.assert_close(score(found, t)[:, 1], exact, rtol=1e-6, atol=1e-9)
    t = score.finest_time  # where the noise is as wide as the deviation of 1e-4 it is given
    exact = -(found[:, 1] + math.exp(-t)) / (1e-8 * math.exp(-2 * t) - math.expm1(-2 * t))
    assert (score(found, t)[:, 1] - exact).norm() < 1e-3 * exact.norm()


@pytest.mark.parametrize("order", [2, 3])
def test_a_collinear_pair_is_named_and_stays_collinear(order):
    """Along principal axes it was sampled with a deviation of 8e19."""
    z = points(2000, 2)
    x = torch.stack([z[:, 0], 0.5 * z[:, 0] + 1, z[:, 1]], 1)
    process = ms.OrnsteinUhlenbeck(3)
    with pytest.warns(ms.SpectralWarning, match=r"0\.45 x\[:, 0\] .0\.89 x\[:, 1\]"):
        score = fit(x, process, order, rotation="pca")
    found = ms.sample_ode(score, process, 400, generator=rng(1))
    assert (found[:, 1] - 0.5 * found[:, 0] - 1).abs().max() < 6e-4 * math.sqrt(1.25)
    assert ((found.std(0) / x.std(0) - 1).abs() < 6 / math.sqrt(800)).all()


@pytest.mark.filterwarnings("ignore::markovscore.SpectralWarning")
@pytest.mark.parametrize("from_zero", [False, True])
def test_products_of_polynomials_reach_the_small_scale(from_zero, tmp_path):
    """Five functions of two coordinates are the Gaussian's; the default first time was 0.002."""
    x = narrow()
    times = torch.cat([torch.zeros(1), torch.logspace(-6, math.log10(6), 300)])
    score = ms.fit_spectral(x, OU, 5, times if from_zero else None)
    law = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T, correction=0))
    scale, exact = x.std(0), law.log_prob(x[:60])
    # The default first time adds 1% to the least deviation.
    found = ms.log_likelihood(score, OU, x[:60])
    assert (found - exact).abs().mean() < (3e-3 if from_zero else 2.5e-2)
    drawn = ms.sample_ode(score, OU, 2000, generator=rng(1))
    assert ((drawn.std(0) / scale - 1).abs() < 0.012 + 6 / math.sqrt(4000)).all()
    assert score.finest_time == pytest.approx(0.5 * float(scale[1]) ** 2, rel=0.02)
    score.save(tmp_path / "score")
    assert ms.SpectralScore.load(tmp_path / "score").finest_time == score.finest_time


@pytest.mark.parametrize("times", [None, [0.0, *torch.logspace(-9, 0.7, 300).tolist()]])
def test_products_of_polynomials_with_a_constant_column(times):
    x = narrow(2000)
    x[:, 1] = 0.7
    with pytest.warns(ms.SpectralWarning, match="constant column 1: a point mass"):
        score = ms.fit_spectral(x, OU, 9, times)
    t = float(score.times[score.times > 0.01][0])
    y = x[:50] * math.exp(-t) + 0.1
    exact = -(y[:, 1] - 0.7 * math.exp(-t)) / (1 - math.exp(-2 * t))
    torch.testing.assert_close(score(y, t)[:, 1], exact, rtol=1e-4, atol=1e-4)
    drawn = ms.sample_ode(score, OU, 300, x_T=torch.randn(300, 2, generator=rng(1)).double())
    assert (drawn[:, 1] - 0.7).abs().max() < 6e-4


def test_levels_too_coarse_and_first_times_too_late_are_named():
    x = narrow()
    even = fit(x, OU, times=torch.linspace(0, 6, 1001))
    late, net = fit(x, OU, times=[1e-3, 1.0]), ms.ScoreMLP(2).double()
    residual, wider = ms.ResidualScore(fit(x, OU), net), r"first time 0\.001, whose noise is wider"
    coarse = r"smallest scale, 0\.0002, .*between 0 and 0\.006"
    for words, call in (
        (coarse, lambda: ms.sample_ode(even, OU, 2, generator=rng())),
        (wider, lambda: ms.sample_sde(late, OU, 2, generator=rng())),
        (wider, lambda: ms.log_likelihood(residual, OU, x[:2], steps=2)),
        (wider, lambda: ms.elbo(even, OU, x[:2], samples=1)),
    ):
        with pytest.warns(ms.SpectralWarning, match=words):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ms.log_likelihood(even, OU, x[:2], times=[0.0125, 6.0])  # past the coarse levels
        fine = fit(50 * x, OU)
        ms.sample_ode(ms.ResidualScore(fine, net), OU, 2, steps=2)


def seen(sampler, score, **settings):
    """The times at which ``sampler`` asks, increasing: of the SDE, all but the first."""
    asked = []

    def watched(x, t):
        asked.append(float(t))
        return score(x, t)

    watched.times, watched.finest_time = score.times, score.finest_time
    sampler(watched, OU, 2, x_T=torch.zeros(2, 2, dtype=F64), generator=rng(), **settings)
    return sorted(set(asked))


@pytest.mark.parametrize(("sampler", "longest"), [(ms.sample_ode, 0.05), (ms.sample_sde, 0.02)])
def test_own_levels_are_refined_to_the_method(sampler, longest):
    """A score's own times are the default grid, but for steps that the scale does not allow."""
    levels = torch.cat([torch.zeros(1), torch.logspace(-5, math.log10(6), 40)])
    score = fit(narrow(), OU, times=levels)
    grid = torch.tensor(seen(sampler, score), dtype=F64)
    assert float(log_clock(OU, grid, score.finest_time).diff().max()) < longest * (1 + 1e-6)
    assert torch.isin(score.times[1:], grid).all()
    assert torch.isin(grid, score.times).sum() < len(grid) / 2
    given = seen(sampler, score, times=levels.double())
    assert set(given) == set(levels.double().tolist()[len(levels) - len(given) :])


@both
def test_graded_and_refined_grids(process):
    """By the definition: equal steps of log(1 + tau / tau_*), and none longer."""
    last, finest = process.horizon, 1e-4
    clock = as_diffusion(process).clock
    grid = graded_times(process, last, 50, finest)
    assert grid[0] == 0 and grid[-1] == last and len(grid) == 51
    tau = clock.elapsed(grid) / clock.elapsed(torch.tensor(finest).double())
    torch.testing.assert_close(torch.log1p(tau).diff(), torch.log1p(tau[-1]).expand(50) / 50)
    levels = torch.linspace(0, last, 30, dtype=F64)
    fine = refined_times(process, levels, finest, LONGEST_STEP)
    assert torch.isin(levels, fine).all() and (fine.diff() > 0).all()
    place = log_clock(process, fine, finest)
    assert float(place.diff().max()) < LONGEST_STEP * (1 + 1e-6)
    assert len(fine) < float(place[-1]) / LONGEST_STEP + 30
    assert torch.equal(refined_times(process, fine, finest, LONGEST_STEP), fine)
