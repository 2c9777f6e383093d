"""The variance-preserving process against quadrature, its equation, and the general machinery."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from odd_inputs import refused
from statistical import F64, agrees, points, rng, sigmas

import markovscore as ms
from markovscore.core import jacobian_at, value_and_divergence

N = 20_000
BETAS = [(0.1, 20.0), 2.0, (3.0, 0.5)]
MEANS, SCALES, WEIGHTS = [[-1.5], [0.0], [1.2]], [0.25, 0.3, 0.2], [0.3, 0.4, 0.3]


def elapsed(beta, t, horizon):
    first, last = np.broadcast_to(beta, 2)
    return scipy.integrate.quad(lambda u: first + (last - first) * u / horizon, 0, t)[0]


@pytest.mark.parametrize("horizon", [1.0, 3.0])
@pytest.mark.parametrize("beta", BETAS)
def test_transition_against_scipy(beta, horizon):
    vp, x0, y = ms.VariancePreserving(2, beta, horizon), points(40, seed=1), points(40, seed=2)
    for t in (1e-3, 0.3, horizon):
        tau = elapsed(beta, t, horizon)
        var, mean = 1 - math.exp(-tau), math.exp(-tau / 2) * x0.numpy()
        expected = torch.from_numpy(scipy.stats.norm(mean, math.sqrt(var)).logpdf(y)).sum(1)
        torch.testing.assert_close(vp.log_transition(y, x0, t), expected)
        score = -(y - torch.from_numpy(mean)) / var
        torch.testing.assert_close(vp.transition_score(y, x0, t), score)
        times = torch.full((len(y),), t, dtype=F64)
        torch.testing.assert_close(vp.transition_score(y, x0, times), score)
        assert float(vp.std(t)) == pytest.approx(math.sqrt(var), rel=1e-12)
        assert float(vp.ou_time(t)) == pytest.approx(tau / 2, rel=1e-12)
        assert float(vp.clock.inverse(2 * vp.ou_time(t))) == pytest.approx(t, rel=1e-12)


@pytest.mark.parametrize("t", [1e-6, 1e-5, 1e-3, 0.1, 1.0])
def test_float32_keeps_its_digits_down_to_tiny_times(t):
    """One rounding each in ``t``, the root and the product: a few units in the last place."""
    vp = ms.VariancePreserving(3)
    single = torch.full((64,), t, dtype=torch.float32)
    exact = math.sqrt(-math.expm1(-elapsed((0.1, 20.0), float(single[0]), 1)))
    assert vp.std(single).dtype == torch.float32
    assert float(vp.std(single)[0]) == pytest.approx(exact, rel=4e-7)
    x0 = points(64, 3, 1).float()
    y = vp.sample_transition(x0, single, rng())
    z = torch.randn(64, 3, generator=rng())
    predicted = -exact * vp.transition_score(y, x0, single)
    # What remains is the rounding of y itself, seen through the small standard deviation.
    rounding = 4 * 1.2e-7 * (1 + float(y.abs().max())) / exact
    torch.testing.assert_close(predicted, z, rtol=1e-5, atol=rounding)


def test_coefficients_in_every_shape():
    vp, y, v = ms.VariancePreserving(2, (0.1, 20.0)), points(5, seed=1), points(5, seed=3)
    t = torch.linspace(0.1, 0.9, 5)
    assert vp.dispersion(0.5).shape == () and vp.dispersion(t).shape == (5,)
    torch.testing.assert_close(vp.dispersion(t).square(), 0.1 + 19.9 * t.double())
    for time in (0.5, t):
        divergence = value_and_divergence(vp.drift, y, time)[1]
        torch.testing.assert_close(vp.drift_divergence(y, time), divergence)
        f, pulled = vp.drift_and_vjp(y, time, v)
        torch.testing.assert_close(f, vp.drift(y, time))
        torch.testing.assert_close(pulled, jacobian_at(vp, y, time) @ v)
        exact = torch.func.vmap(torch.func.jacrev(lambda x: vp.drift(x[None], 0.5)[0]))(y)
    torch.testing.assert_close(torch.diag_embed(vp.drift_jacobian(y, 0.5)), exact)
    assert vp.drift(y.float(), t).dtype == torch.float32
    ou = ms.OrnsteinUhlenbeck(2)
    assert torch.equal(ou.ou_time(t), t.double()) and float(ou.ou_time(0.3)) == 0.3


@pytest.mark.parametrize("beta", BETAS)
def test_simulation_agrees_with_the_transition(beta):
    """Mean and variance at the end of 400 steps; the scheme's error is below its noise."""
    vp, t = ms.VariancePreserving(1, beta), 0.6
    x0 = torch.full((N, 1), 1.3, dtype=F64)
    y = ms.simulate(vp, x0, t, 400, rng(4))
    tau = elapsed(beta, t, 1.0)
    mean, var = 1.3 * math.exp(-tau / 2), 1 - math.exp(-tau)
    assert agrees(y, mean)
    assert agrees((y - mean).square(), var)
    assert sigmas((y - mean).square(), 0.9 * var) > 6


@pytest.mark.parametrize(("s", "t"), [(0.0, 1e-5), (0.0, 0.4), (0.2, 0.9)])
def test_local_transition_is_exact(s, t):
    vp, x0 = ms.VariancePreserving(2), points(40, seed=1)
    tau = elapsed((0.1, 20.0), t, 1) - elapsed((0.1, 20.0), s, 1)
    m, P = ms.local_transition(vp, x0, s, t)
    torch.testing.assert_close(m, math.exp(-tau / 2) * x0)
    expected = -math.expm1(-tau) * torch.eye(2, dtype=F64)
    torch.testing.assert_close(P, expected.expand_as(P), rtol=1e-9, atol=0)
    if s == 0:
        y, target = ms.local_target(vp, x0, s, t, generator=rng())
        torch.testing.assert_close(target, vp.transition_score(y, x0, t), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("times", ["uniform", "importance"])
@pytest.mark.parametrize("kind", [ms.LocalDSM, ms.PathShiftDSM, ms.ImplicitSM])
def test_other_objectives_differ_by_what_plain_dsm_does(kind, times):
    vp, span = ms.VariancePreserving(2), {"t_min": 0.05}
    settings = {} if kind is ms.ImplicitSM else {"window": 0.4, "steps": 100}
    x0 = MEAN + 0.6 * points(N, seed=1)

    def gap(objective, seed):
        scores = (lambda y, t: -y + 0.3), lambda y, t: 0.5 * y + 0.3
        first, second = (objective.losses(score, x0, rng(seed)) for score in scores)
        return first - second

    mine = gap(kind(vp, **settings, **span, times=times), 5)
    plain = gap(ms.DenoisingSM(vp, **span), 6)
    assert agrees(mine - plain)
    assert sigmas(mine - 1.25 * plain) > 6


MEAN = torch.tensor([0.5, -1.0], dtype=F64)


def mixture(dim=1):
    return ms.DiffusedMixture(ms.VariancePreserving(dim), MEANS, SCALES, WEIGHTS)


def test_mixture_is_that_of_the_unit_process_in_its_clock():
    vp, x = mixture(), points(30, 1, 1)
    ou = ms.DiffusedMixture(ms.OrnsteinUhlenbeck(1), MEANS, SCALES, WEIGHTS)
    t = torch.linspace(0.01, 1, 30, dtype=F64)
    u = 0.05 * t + 19.9 / 4 * t**2
    torch.testing.assert_close(vp.log_prob(x, t), ou.log_prob(x, u))
    torch.testing.assert_close(vp.score(x, t), ou.score(x, u))
    torch.testing.assert_close(vp.log_prob(x, 0.3), ou.log_prob(x, 0.015 + 19.9 / 4 * 0.09))


def test_likelihood_and_bound_of_the_exact_score():
    """Both equal ``log rho_{t_min}``; the prior differs from ``rho_1`` by ``e^{-tau(1)/2}``."""
    law, x = mixture(), torch.tensor([[-1.4], [0.1], [0.6], [1.2]], dtype=F64)
    exact = law.log_prob(x, 1e-3)
    value = ms.log_likelihood(law, law.diffusion, x)
    torch.testing.assert_close(value, exact, rtol=0, atol=0.02)
    # The bound on E[log rho(Y_{t_min}) | x]: the spread of Y_{t_min} is 1e-2, its bias 1e-3.
    runs = [ms.elbo(law, law.diffusion, x, samples=1024, generator=rng(k)) for k in range(20)]
    bound = torch.stack(runs)
    assert agrees(bound, exact, 0.02)
    assert float(bound.std(0).max()) < 0.1 * math.sqrt(20)


@pytest.mark.parametrize("sampler", [ms.sample_ode, ms.sample_sde])
def test_samplers_draw_the_data(sampler):
    law = mixture()
    x = sampler(law, law.diffusion, 4000, generator=rng(2)).double()[:, 0]

    def cdf(v):  # at t_min = 1e-3, which widens the components by 1e-4
        parts = zip(WEIGHTS, MEANS, SCALES, strict=True)
        return sum(w * scipy.stats.norm.cdf(v, m[0], s) for w, m, s in parts)

    assert scipy.stats.kstest(x.numpy(), cdf).statistic < 0.02 + 3 / math.sqrt(4000)


def test_bad_input():
    make, x = ms.VariancePreserving, points(40, seed=1)
    refused("beta: expected finite positive", make, 2, (0.0, 1.0))
    refused("found a function", make, 2, lambda t: t, error=TypeError)
    refused("expected finite times > 0", make(2).log_transition, x, x, 0.0)
