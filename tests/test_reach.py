"""Polynomial scores beyond the data: the continuation by its definition, by autograd, in flows."""

import dataclasses
import math

import pytest
import torch
from odd_inputs import refused
from safetensors import safe_open
from safetensors.torch import save_file
from statistical import F64, points, rng

import markovscore as ms
from markovscore.core import value_and_divergence
from markovscore.spectral import solve

TIMES = torch.cat([torch.zeros(1), torch.logspace(-3, 0.7, 80)])


def skewed(dim, n=500):
    """Skewed and correlated."""
    z = points(n, dim)
    z[:, -1] = 0.4 * z[:, -1] + 0.6 * z[:, 0].square()
    mix = torch.eye(dim, dtype=F64) + 0.4 * torch.ones(dim, dim, dtype=F64).tril(-1)
    return 0.6 * z @ mix + 0.3


def fit(dim, count=None, **settings):
    process = ms.OrnsteinUhlenbeck(dim)
    return ms.fit_spectral(skewed(dim), process, count or 8 * dim, TIMES, **settings)


def everywhere(dim, n=40, seed=1):
    """From well inside to far outside."""
    z = points(n, dim, seed)
    return z * torch.logspace(-0.5, 1.5, n, dtype=F64)[:, None]


def test_one_bad_draw_does_not_stop_a_batch():
    """The issue's snippet: a draw beyond 3.5 left the numbers, and the error spoke of an ``x``."""
    process = ms.OrnsteinUhlenbeck(1)
    x = ms.mixture_1d(process).sample(20_000, generator=rng()).double()
    score = ms.fit_spectral(x, process, 8)
    start = points(3000, 1, 1)
    start[:4, 0] = torch.tensor([-9.0, -4.0, 4.0, 100.0])
    for draw in (ms.sample_ode, ms.sample_sde):
        found = draw(score, process, 3000, x_T=start, steps=150)[4:]
        # Standard error of a deviation with the kurtosis of data that are no Gaussian's: below.
        assert abs(float(found.std() / x.std()) - 1) < 6 / math.sqrt(2 * 3000)
        assert found.abs().max() < 6


def gaussian(x, t):
    """Score of the Gaussian with the mean and covariance of ``skewed``."""
    data, a = skewed(x.shape[1]), math.exp(-t)
    eye = torch.eye(x.shape[1], dtype=F64)
    covariance = a**2 * torch.cov(data.T, correction=0).reshape(eye.shape) + (1 - a**2) * eye
    return -(x - a * data.mean(0)) @ torch.linalg.inv(covariance)


@pytest.mark.parametrize("t", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("dim", [1, 2, 4])
def test_the_continuation_by_its_definition(dim, t):
    """Row by row: a soft clamp along the axes, fade what differs from the Gaussian there."""
    score, x = fit(dim), everywhere(dim)
    plain = dataclasses.replace(score, reach=None)
    data, a = skewed(dim), math.exp(-t)
    variances, axes = torch.linalg.eigh(torch.cov(data.T, correction=0).reshape(dim, dim))
    noise, found, outside = 1 - a * a, score(x, t), 0
    for row, value in zip(x, found, strict=True):
        p, ends = row @ axes, (data @ axes).aminmax(dim=0)
        near = p.maximum(a * ends.min - 4 * noise**0.5).minimum(a * ends.max + 4 * noise**0.5)
        if bool((near == p).all()):
            continue
        length = (a * a * variances + noise).sqrt() / 4
        r = (p - near) / length
        y = (axes @ (near + length * r.tanh()))[None]
        expected = torch.exp(-r.pow(4).sum() / 2) * (plain(y, t) - gaussian(y, t)) + gaussian(
            row[None], t
        )
        torch.testing.assert_close(value, expected[0], rtol=1e-7, atol=1e-8)
        outside += 1
    assert 5 < outside < len(x)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_inside_nothing_changes_and_across_the_edge_it_is_continuous(dim):
    score, x, t = fit(dim), skewed(dim), 0.05
    plain = dataclasses.replace(score, reach=None)
    assert torch.equal(score(x, t), plain(x, t))
    both = torch.cat([x, 50 + x[:10]])
    assert torch.equal(score(both, t)[: len(x)], plain(both, t)[: len(x)])
    values, divergence = score.score_and_divergence(both, t)
    assert torch.equal(divergence[: len(x)], plain.divergence(both, t)[: len(x)])
    assert torch.equal(values, score(both, t))
    axes, high = score.reach.axes, score.reach.high
    edge = math.exp(-t) * high + 4 * math.sqrt(1 - math.exp(-2 * t))
    steps = torch.tensor([-1e-9, 1e-9], dtype=F64)[:, None]
    near, divergence = score.score_and_divergence((edge * (1 + steps)) @ axes.T, t)
    assert (near[0] - near[1]).abs().max() < 1e-5 * near.abs().max()
    assert (divergence[0] - divergence[1]).abs() < 1e-5 * divergence.abs().max()


@pytest.mark.parametrize("settings", [{}, {"shrinkage": "heat"}, {"shrinkage": "james-stein"}])
@pytest.mark.parametrize("dim", [1, 2, 4])
def test_divergence_is_the_trace_of_the_field_outside_too(dim, settings):
    """Times also one for each row; the fading region is within a deviation of the edge."""
    score = fit(dim, **settings)
    edge = (torch.rand(60, dim, generator=rng(2), dtype=F64) * 2 - 1) * 6
    for t in (0.0, 0.1, torch.linspace(0.01, 2, 60, dtype=F64)):
        found, divergence = score.score_and_divergence(edge, t)
        field, trace = value_and_divergence(score, edge, t)
        torch.testing.assert_close(found, field, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(divergence, trace, rtol=1e-8, atol=1e-8)
    assert bool(score.reach.beyond(edge, torch.tensor(0.1)).rows.any())


def test_gradients_pass_through_the_continuation():
    score = fit(2)
    x = torch.tensor([[0.1, 0.2], [4.0, 0.3], [-5.0, 6.0]], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: score(p, 0.1), (x,))
    assert torch.autograd.gradcheck(lambda p: score.divergence(p, 0.1), (x,))


def test_a_far_point_has_the_gaussian_s_density_and_leaves_the_others_alone():
    process, data = ms.OrnsteinUhlenbeck(4), skewed(4)
    score = ms.fit_spectral(data, process, 34, TIMES)
    far = 30 * torch.eye(4, dtype=F64)[:1]
    found = ms.log_likelihood(score, process, torch.cat([data[:5], far, 1e3 * far]))
    torch.testing.assert_close(found[:5], ms.log_likelihood(score, process, data[:5]))
    law = torch.distributions.MultivariateNormal(data.mean(0), torch.cov(data.T, correction=0))
    exact = law.log_prob(torch.cat([far, 1e3 * far]))
    torch.testing.assert_close(found[5:], exact, rtol=1e-2, atol=0)


def test_beyond_a_share_of_the_stationary_law_the_score_is_that_law_s():
    """One observation of it: far from narrow data the law is what it says, and not their own
    Gaussian, which gives -4e4 nats at 6."""
    process, data = ms.OrnsteinUhlenbeck(2), 0.02 * points(500, 2) + 0.5
    moments = process.eigenbasis(9).moments(data)
    variances, axes = torch.linalg.eigh(torch.cov(data.T, correction=0))
    plain = ms.fit_spectral(data, process, 9, TIMES)
    far, found = torch.tensor([[6.0, 0.0], [-9.0, 9.0]], dtype=F64), []
    for mix in (1.0, 1 - 1 / len(data)):
        part = moments.shrunk(mix=mix)
        reach = plain.reach.of(data, None, axes, variances, part)
        score = dataclasses.replace(plain, coefficients=solve(part, TIMES), reach=reach)
        found.append(ms.log_likelihood(score, process, far, method="heun"))
    torch.testing.assert_close(score(far, 0.0), -far)
    torch.testing.assert_close(score.divergence(far, 0.0), torch.full((2,), -2.0, dtype=F64))
    assert (found[0] < -1e4).all() and (found[1] > -100).all()


def test_files_keep_it_and_old_files_have_none(tmp_path):
    score, x = fit(2, shrinkage="heat"), everywhere(2)
    score.save(tmp_path / "new")
    again = ms.SpectralScore.load(tmp_path / "new")
    assert torch.equal(again(x, 0.2), score(x, 0.2)) and again.reach.heat == score.reach.heat > 0
    with safe_open(tmp_path / "new", "pt") as file:
        kept = {k: file.get_tensor(k) for k in ("times", "coefficients", "indices")}
        save_file(kept, tmp_path / "old", file.metadata())
    old = ms.SpectralScore.load(tmp_path / "old")
    assert old.reach is None and old.finest_time is None
    assert torch.equal(old(x, 0.2), dataclasses.replace(score, reach=None)(x, 0.2))


def test_who_has_a_reach():
    assert fit(2, 5).reach is None  # linear
    assert fit(2, 6).reach is not None
    torus = ms.TorusBrownian(1)
    assert ms.fit_spectral(skewed(1), torus, 6, wrap=True).reach is None  # bounded
    nodes = torch.linspace(-9, 9, 2001, dtype=F64)[:, None]
    weights = torch.exp(-0.5 * (nodes[:, 0] / 0.5) ** 2)
    process = ms.OrnsteinUhlenbeck(1)
    reach = ms.fit_spectral(nodes, process, 6, [0.1], weights=weights / weights.sum()).reach
    expected = 0.5 * math.sqrt(2 * math.log(1e6))  # where a weight is 1e-6 of the largest
    assert float(reach.high) == pytest.approx(expected, abs=9e-3)
    assert float(reach.variance) == pytest.approx(0.25, rel=1e-6)


def test_a_state_without_a_number_is_named_as_a_state():
    """The caller passed no ``x``; the trial point of a step counts."""
    process = ms.OrnsteinUhlenbeck(2)

    def score(x, t):
        if not bool(torch.isfinite(x).all()):
            raise AssertionError("asked for the score of what is not a number")
        return torch.where((x > 1) & (t < 1), torch.full_like(x, 1e308).mul(10), -x)

    start = torch.tensor([[0.0, 0.0], [3.0, 0.0]], dtype=F64)
    for call, *x, settings in (
        (ms.sample_ode, 2, {"x_T": start}),
        (ms.sample_ode, 2, {"x_T": start, "method": "adaptive"}),
        (ms.sample_sde, 2, {"x_T": start, "generator": rng()}),
        (ms.log_likelihood, start, {}),
    ):
        words = r"state at t = .*in [12] of 2 rows, the first is row [01] = "
        refused(words, call, score, process, *x, **settings)
