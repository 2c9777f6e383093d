"""Operator-informed score matching against quadrature, exact laws, brute force and autograd."""

import math
import os
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_inputs import refused
from scipy.special import roots_hermitenorm
from statistical import F64, agrees, points, rng

import markovscore as ms
from markovscore.spectral import greedy, heat_kernel, heat_risk, james_stein, shrink, solve

PROCESSES = [
    ms.OrnsteinUhlenbeck(1),
    ms.OrnsteinUhlenbeck(2),
    ms.TorusBrownian(1),
    ms.TorusBrownian(2),
    ms.TorusBrownian(3),
    ms.BoxBrownian(1, -1.0, 2.0),
    ms.BoxBrownian(2, -1.0, 2.0),
]


def processes(*chosen):
    names = [f"{type(p).__name__}{p.dim}" for p in chosen]
    return pytest.mark.parametrize("process", chosen, ids=names)


every_process = processes(*PROCESSES)
TIMES = torch.tensor([0.0, 0.01, 0.2, 1.5], dtype=F64)


def sample(process, n=60, seed=0):
    return 0.6 * torch.rand(n, process.dim, generator=rng(seed), dtype=F64) + 0.1


def energy(factor):
    return factor @ factor.mT


@every_process
def test_energy_and_slope_by_quadrature(process):
    """``A_t`` and ``b_t`` against averages over the data and the exact transition, by
    Gauss-Hermite nodes.

    The functions are smooth and the noise of scale ``sqrt(2 * 0.01)``: 24 nodes an axis are exact
    to rounding.
    """
    basis, x, t = process.eigenbasis(8), sample(process, 12), 0.01
    moments = basis.moments(x)
    nodes, weights = map(torch.tensor, roots_hermitenorm(24 if process.dim < 3 else 12))
    grids = (torch.cartesian_prod(*[v] * process.dim) for v in (nodes, weights / weights.sum()))
    z, w = (grid.reshape(-1, process.dim) for grid in grids)
    w = w.prod(1) / len(x)
    decay = math.exp(-t) if isinstance(process, ms.OrnsteinUhlenbeck) else 1.0
    y = (decay * x[:, None] + process.std(t) * z).reshape(-1, process.dim)
    gradient = basis.gradient(y)
    expected = torch.einsum("n,njd,nkd->jk", w.repeat(len(x)), gradient, gradient)
    slope = -(w.repeat(len(x)) @ basis.generator(y))
    times = torch.tensor([t], dtype=F64)
    assert (energy(moments.factor(times))[0] - expected).abs().max() < 2e-8 * expected.abs().max()
    assert (moments.slope(times)[0] - slope).abs().max() < 1e-10 * slope.abs().max()


@every_process
def test_energy_at_time_zero_is_the_data_average(process):
    """With more functions than any closed form has to handle, and a singular ``A_0``."""
    basis, x = process.eigenbasis(40), sample(process, 25)
    gradient = basis.gradient(x)
    expected = torch.einsum("njd,nkd->jk", gradient, gradient) / len(x)
    found = energy(basis.moments(x).factor(torch.zeros(1, dtype=F64)))[0]
    scale = basis.eigenvalues.abs().sqrt()
    error = (found - expected) / scale[:, None] / scale
    assert error.abs().max() < 1e-8 * (1 + expected.abs().max())


@given(st.integers(0, 10**6), st.floats(0, 2), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None, max_examples=25)
def test_energy_is_positive_semidefinite(seed, t, mix, heat):
    """Bochner: any data, any time, any shrinkage; before the factorisation, so no clipping can
    hide it."""
    for process in (ms.TorusBrownian(2), ms.BoxBrownian(2)):
        moments = process.eigenbasis(24).moments(sample(process, 5, seed)).shrunk(mix, heat)
        values = torch.linalg.eigvalsh(moments.energy(torch.tensor([t], dtype=F64)))[0]
        assert values[0] > -1e-12 * values[-1]


@every_process
def test_shrunk_moments_are_those_of_a_law(process):
    """``mix, heat`` must equal the data law diffused for ``heat`` more and mixed with ``pi``."""
    basis, x = process.eigenbasis(10), sample(process)
    moments, times = basis.moments(x), TIMES[1:]
    later, shrunk = moments.factor(times + 0.3), moments.shrunk(mix=0.7, heat=0.3)
    expected = 0.7 * energy(later) + 0.3 * torch.diag(-basis.eigenvalues)
    room = 1e-7 * float(expected.abs().max())
    assert torch.allclose(energy(shrunk.factor(times)), expected, atol=room)
    assert torch.allclose(shrunk.slope(times), 0.7 * moments.slope(times + 0.3), atol=1e-14)


@every_process
def test_fit_minimises_the_score_matching_loss(process):
    """The closed form beats perturbed coefficients on the loss, written out over simulated points
    by autograd-free sums."""
    x = sample(process, 500)
    score = ms.fit_spectral(x, process, 8, TIMES)
    basis, alpha = score.basis, score.coefficients[0]

    def loss(a):
        slope = (basis.gradient(x) * a[:, None]).sum(1)
        return float((0.5 * slope.square().sum(1) + basis.generator(x) @ a).mean())

    best, generator = loss(alpha), rng()
    for _ in range(20):
        step = 0.05 * alpha.norm() * torch.randn(len(alpha), generator=generator, dtype=F64)
        assert loss(alpha + step) > best


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_degree_two_is_the_gaussian_score(dim):
    """Nested oracle: quadratic Hermite OISM = the score of the Gaussian with the data's mean and
    covariance."""
    x = sample(ms.OrnsteinUhlenbeck(dim), 400)
    count = dim + dim * (dim + 1) // 2
    score = ms.fit_spectral(x, ms.OrnsteinUhlenbeck(dim), count, TIMES)
    mean, covariance = x.mean(0), torch.cov(x.T, correction=0).reshape(dim, dim)
    y = points(50, dim, 1)
    for t in TIMES.tolist():
        a = math.exp(-t)
        diffused = a * a * covariance + (1 - a * a) * torch.eye(dim, dtype=F64)
        precision = torch.linalg.inv(diffused)
        expected = -(y - a * mean) @ precision
        assert torch.allclose(score(y, t), expected, atol=1e-9 * float(precision.abs().max()) * 10)
        assert torch.allclose(score.divergence(y, t), -precision.trace().expand(50), rtol=1e-9)


@processes(PROCESSES[2], ms.BoxBrownian(1, -3.0, 3.0))
def test_exact_moments_converge_spectrally(process):
    """OISM I: at t = 0.5 eight more functions gain a factor of ten and more, until rounding."""
    law, t = ms.mixture_1d(process), 0.5
    low, high = (-math.pi, math.pi) if isinstance(process, ms.TorusBrownian) else (-3.0, 3.0)
    grid = (low + (high - low) * (torch.arange(2000, dtype=F64) + 0.5) / 2000)[:, None]
    weights = law.log_prob(grid, 0.0).exp()
    truth, density = law.score(grid, t), law.log_prob(grid, t).exp()
    errors = []
    for count in (8, 16, 24):
        score = ms.fit_spectral(grid, process, count, [t], weights=weights / weights.sum())
        error = density @ (score(grid, t) - truth).square() / (density @ truth.square())
        errors.append(float(error.sqrt()))
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[2] < 1e-4


@every_process
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_divergence_and_shared_times(process, dtype):
    """Divergence against autograd; a vector of times against one call per time; dtype follows the
    points."""
    score = ms.fit_spectral(sample(process), process, 12, TIMES, shrinkage="heat")
    x, t = sample(process, 9, 4).to(dtype), torch.linspace(0.02, 1.4, 9, dtype=dtype)
    found, divergence = score.score_and_divergence(x, t)
    assert found.dtype == divergence.dtype == dtype
    exact, alpha = x.double(), score.at(t)
    # rounding of sum_k alpha_k d phi_k: a few eps times the sum of absolute terms
    scale = torch.einsum("bk,bkd->b", alpha.abs(), score.basis.gradient(exact).abs())
    second = (alpha.abs() * score.basis.laplacian(exact).abs()).sum(1)
    room = 100 * torch.finfo(dtype).eps
    for i in range(9):
        one, single = x[i : i + 1], float(t[i])
        assert (score(one, single)[0] - found[i]).abs().max() < room * (1 + scale[i])
        jacobian = torch.func.jacrev(lambda p, s=single: score(p[None], s)[0])(exact[i])
        assert abs(float(jacobian.diagonal().sum() - divergence[i])) < room * (10 + 10 * second[i])


def test_gradients_flow_through_the_score():
    """As a base for a residual network or for guidance the score must be differentiable in x."""
    score = ms.fit_spectral(sample(PROCESSES[3]), PROCESSES[3], 12, TIMES)
    x = sample(PROCESSES[3], 5, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: score(p, 0.1), (x,))


# -- shrinkage ------------------------------------------------------------------------------------
def test_james_stein_by_hand():
    mean, variance = torch.tensor([3.0, 4.0, 0.0, 0.0], dtype=F64), torch.full((4,), 2.0, dtype=F64)
    assert james_stein(mean, variance) == pytest.approx(1 - 0.5 * 8 / 25)
    assert james_stein(mean, 100 * variance) == 0.0


@pytest.mark.parametrize("heat", [0.0, 0.003, 0.05])
def test_heat_risk_is_unbiased(heat):
    """The estimate's mean over simulated moments equals the true risk within 6 standard errors."""
    rates = -(torch.arange(1, 21, dtype=F64) ** 2)
    truth, variance = torch.exp(0.05 * rates), torch.full((20,), 0.01, dtype=F64)
    means = (truth + 0.1 * points(20_000, 20))[:4000]
    gap = torch.stack([heat_risk(m, variance, rates, heat) for m in means])
    loss = (torch.exp(rates * heat) * means - truth).square().sum(1)
    assert agrees(gap - loss, slack=1e-12)


def test_heat_kernel_finds_the_global_minimum():
    rates = -(torch.arange(1, 41, dtype=F64) ** 2)
    mean = torch.exp(0.02 * rates) + 0.05 * points(1, 40, 2)[0]
    variance = torch.full((40,), 0.0025, dtype=F64)
    fine = torch.linspace(-16, 4, 20_001, dtype=F64).exp()
    best = float(heat_risk(mean, variance, rates, fine).min())
    chosen = heat_kernel(mean, variance, rates)
    assert float(heat_risk(mean, variance, rates, chosen)) <= best + 1e-9
    assert heat_kernel(mean, 0 * variance, rates) == 0.0


def spread_is_predicted(process, values, variances):
    """The variance of ``values`` over repeated samples: a chi-square's 6 sigma, with room for the
    kurtosis; a cosine and its sine on the torus share theirs, and are summed."""
    spread, predicted = torch.stack(values).var(0), torch.stack(variances).mean(0)
    if isinstance(process, ms.TorusBrownian):
        half = len(spread) // 2  # of both, without the constant, which may stand before them
        spread, predicted = (v[-2 * half : -half] + v[-half:] for v in (spread, predicted))
    used = predicted > 1e-12
    gap = spread[used] / predicted[used] - 1
    return bool(used.any()) and bool((gap.abs() < 6 * math.sqrt(6 / len(values))).all())


@processes(PROCESSES[2], PROCESSES[5], PROCESSES[0])
def test_standard_errors_of_moments(process):
    basis = process.eigenbasis(6)
    moments = [basis.moments(sample(process, 40, seed)) for seed in range(600)]
    assert spread_is_predicted(process, [m.mean for m in moments], [m.variance for m in moments])


@processes(PROCESSES[0], PROCESSES[3], PROCESSES[5])
def test_slope_errors_are_the_spread_of_slopes(process):
    basis, t = process.eigenbasis(6), torch.tensor([0.05], dtype=F64)
    found = [basis.moments(sample(process, 50, seed)).shrunk(mix=0.8) for seed in range(400)]
    variances = [m.slope_errors(t)[0].square() for m in found]
    assert spread_is_predicted(process, [m.slope(t)[0] for m in found], variances)


def test_stein_effect():
    """mathematics.md section 3: box [-4, 4], N = 1000, t = 0, K = 80, medians over ten samples."""
    box = ms.BoxBrownian(1, -4.0, 4.0)
    law = ms.mixture_1d(box)
    grid = torch.linspace(-4, 4, 2001, dtype=F64)[:, None]
    weight, truth = law.log_prob(grid, 0.0).exp(), law.score(grid, 0.0)
    losses = {"none": [], "james-stein": [], "heat": []}
    for seed in range(10):
        x = law.sample(1000, generator=rng(seed)).double()
        moments = box.eigenbasis(80).moments(x)
        for rule, found in losses.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ms.SpectralWarning)
                alpha = solve(shrink(moments, rule), [0.0])
            score = ms.SpectralScore(box, box.eigenbasis(80), torch.zeros(1), alpha)
            found.append(float(weight @ (score(grid, 0.0) - truth).square() / weight.sum()))
    mean, stein, heat = (float(np.median(losses[r])) for r in losses)
    assert heat < stein < mean and mean > 1000 * heat


def quiet_or_loud(x, process, count, words=None, **settings):
    """The fit warns with these ``words``; without them, of nothing."""
    if words is not None:
        with pytest.warns(ms.SpectralWarning, match=words):
            return ms.fit_spectral(x, process, count, [0.0, 0.1], **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ms.fit_spectral(x, process, count, [0.0, 0.1], **settings)


def test_warns_where_moments_are_noise():
    """Silent at 20 functions, loud at 80, for the same 1,000 points; and silent once shrunk."""
    box = ms.BoxBrownian(1, -4.0, 4.0)
    x = ms.mixture_1d(box).sample(1000, generator=rng(1)).double()
    quiet_or_loud(x, box, 80, "condition number")
    quiet_or_loud(x, box, 20)
    quiet_or_loud(x, box, 80, shrinkage="heat")


def test_no_alarm_where_the_excess_is_harmless_or_no_noise():
    """20,000 normals had "1.3e+33 times" too much energy: 1e-4 of it, instead of 1e-37."""
    g, loud = rng(), "more than the moments of"
    line, plane = ms.OrnsteinUhlenbeck(1), ms.OrnsteinUhlenbeck(2)
    for _ in range(3):
        normal = torch.randn(20_000, 2, generator=g, dtype=F64)
        quiet_or_loud(normal[:, :1], line, 5)
        # A narrow law has the energy 1 / variance, which heat smooths away: it is no noise.
        narrow = normal[:2000] * torch.tensor([1.0, 0.02])
        for count in (5, 9, 14):
            quiet_or_loud(narrow, plane, count)
        uniform = (torch.rand(20_000, 1, generator=g, dtype=F64) * 2 - 1) * math.pi
        quiet_or_loud(uniform, ms.TorusBrownian(1), 6)
        # The same with 200 functions of 1,000 points: the excess, about 7, is all there is.
        few = (torch.rand(1000, 2, generator=g, dtype=F64) * 2 - 1) * math.pi
        quiet_or_loud(few, ms.TorusBrownian(2), 200, loud)
        quiet_or_loud(normal[:100, :1], line, 12, loud)


def test_shrinkage_needs_scatter():
    """One point had heat 0, no warning, and a log-density of 1.81 beside it."""
    x, process = torch.tensor([[0.3], [-0.4], [1.0]], dtype=F64), ms.OrnsteinUhlenbeck(1)
    for rule in ("heat", "james-stein"):
        alone = "shrinkage: expected 'none' with one point, found"
        refused(alone, ms.fit_spectral, x[:1], process, 5, shrinkage=rule)
        few = "x: expected 10 points .* found 3.* to 100% at"
        with pytest.warns(ms.SpectralWarning, match=few):
            ms.fit_spectral(x, process, 5, shrinkage=rule)
    for same in (x[:1], x[:1].repeat(40, 1)):
        with pytest.warns(ms.SpectralWarning, match="found constant column 0: a point mass"):
            score = ms.fit_spectral(same, process, 3)
        y, noise = torch.tensor([[0.3], [0.5]], dtype=F64), 1 - math.exp(-0.2)
        exact = -(y - 0.3 * math.exp(-0.1)) / noise
        torch.testing.assert_close(score(y, 0.1), exact, rtol=2e-3, atol=2e-3)
    with pytest.warns(ms.SpectralWarning, match="as many points as functions of a coordinate, 5"):
        ms.fit_spectral(x, process, features="additive", order=5)


# -- files and bad input --------------------------------------------------------------------------
@every_process
def test_save_and_load(process, tmp_path):
    score = ms.fit_spectral(sample(process), process, 10, TIMES, shrinkage="heat")
    score.save(tmp_path / "score.safetensors")
    again, x = ms.SpectralScore.load(tmp_path / "score.safetensors"), sample(process, 6, 3)
    assert torch.equal(again(x, 0.3), score(x, 0.3)) and torch.equal(again.times, score.times)
    assert os.listdir(tmp_path) == ["score.safetensors"]


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    score = ms.fit_spectral(sample(PROCESSES[2]), PROCESSES[2], 6, [0.1])
    path = tmp_path / "score.safetensors"
    score.save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError("disk")

    monkeypatch.setattr("markovscore.core.files.os.replace", full)
    refused("disk", score.save, path, error=OSError)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["score.safetensors"]


TORUS = ms.TorusBrownian(2)
GOOD = sample(TORUS)


def fit(x=GOOD, process=TORUS, count=6, times=None, **settings):
    return ms.fit_spectral(x, process, count, times, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": GOOD + 3}, "wrap=True"),
        ({"x": GOOD + 3, "process": ms.BoxBrownian(2)}, "change the units"),
        ({"times": [1.0, 0.5]}, "increasing"),
        ({"count": 7}, "use 8"),
        ({"weights": torch.ones(3)}, "weights"),
        ({"weights": torch.zeros(len(GOOD))}, "positive sum"),
        ({"weights": torch.full((len(GOOD),), -0.1)}, "non-negative"),
        ({"shrinkage": "heat", "exact": True}, "no shrinkage"),
        ({"process": ms.LinearSDE(-torch.eye(2), torch.eye(2))}, "no eigenbasis"),
        ({"selection": "best"}, "'cross' or 'greedy'"),
    ],
)
def test_bad_input(change, message):
    refused(message, fit, **change)


def test_wrap_brings_points_back():
    wrapped, plain = fit(GOOD + 2 * math.pi, times=[0.1], wrap=True), fit(times=[0.1])
    assert torch.allclose(wrapped.coefficients, plain.coefficients, atol=1e-12)


# -- selection ------------------------------------------------------------------------------------
@processes(PROCESSES[1], PROCESSES[3], PROCESSES[6])
def test_greedy_first_pick_is_the_best_single_function(process):
    """Brute force: fit every multi-index of the pool alone and compare the summed losses ``-b^T
    A^{-1} b / 2``."""
    x, times = sample(process, 200), torch.logspace(-2, -0.5, 6, dtype=F64)
    pool = process.eigenbasis(12)
    chosen = greedy(pool, pool.moments(x), 12 // len(pool.indices), times)
    last = min(times[-1], -0.5 / float(pool.eigenvalues[0]))
    judged = torch.logspace(-2, math.log10(last), 6, dtype=F64)
    gains = []
    for index in pool.indices:
        moments = pool.with_indices(index[None]).moments(x)
        # the criterion treats the functions of one multi-index as uncorrelated
        variances = moments.energy(judged).diagonal(dim1=1, dim2=2)
        gains.append(float((judged[:, None] * moments.slope(judged).square() / variances).sum()))
    assert chosen.indices.tolist() == [pool.indices[int(np.argmax(gains))].tolist()]


@processes(PROCESSES[3], PROCESSES[6])
def test_greedy_lowers_the_loss_and_is_stable(process):
    """Nested: the whole pool returns the pool; half of it loses less than the slowest half does."""
    x, times = 0.5 * sample(process, 400) ** 2, torch.logspace(-2, 0, 20, dtype=F64)
    pool = process.eigenbasis(48)
    moments = pool.moments(x)
    assert torch.equal(greedy(pool, moments, 48, times).indices, pool.indices)

    def objective(basis):
        part = basis.moments(x)
        alpha, slope = solve(part, times), part.slope(times)
        return float((times[:, None] * alpha * slope).sum())

    chosen = greedy(pool, moments, 24, times)
    assert len(chosen.indices) == len(pool.indices) // 2
    assert objective(chosen) >= objective(process.eigenbasis(24))


def test_greedy_weighs_gains_with_the_time():
    """``dt = t dlog t``: a gain of 1/t on six log-spaced levels (sum 6) loses to 9 (9 sum t)."""
    pool = ms.TorusBrownian(1).eigenbasis(4)  # cos x, cos 2x, sin x, sin 2x

    def slope(t):
        return torch.stack([t**-0.5, 0 * t + 3, 0 * t, 0 * t], dim=1)

    gains = SimpleNamespace(mean=torch.zeros(1, dtype=F64), slope=slope)
    gains.energy = lambda t: torch.eye(4, dtype=F64).expand(len(t), 4, 4)
    levels = torch.logspace(-2, math.log10(0.5), 6, dtype=F64)
    assert float(9 * levels.sum()) > 6 and float((1 / levels).sum()) > 54
    assert greedy(pool, gains, 2, torch.tensor([0.01, 1.0])).indices.tolist() == [[2]]


def test_greedy_bad_input_and_round_trip(tmp_path):
    pool = TORUS.eigenbasis(6)
    refused("size of the pool", greedy, pool, pool.moments(GOOD), 8, TIMES)
    score = fit(count=8, times=TIMES, selection="greedy")
    score.save(tmp_path / "greedy")
    assert torch.equal(ms.SpectralScore.load(tmp_path / "greedy")(GOOD, 0.1), score(GOOD, 0.1))


# -- the design's trial ---------------------------------------------------------------------------
def _spirals(n, generator, shared):
    """2spirals of mathematics.md section 7; `shared`: one uniform for the radius and the smears."""
    first = torch.rand(n, 1, generator=generator, dtype=F64)
    smear = first if shared else torch.rand(n, 2, generator=generator, dtype=F64)
    u = 3 * math.pi * first.sqrt()
    arm = torch.cat([-u * u.cos(), u * u.sin()], 1) + smear / 2
    sign = 1 - 2 * torch.randint(2, (n, 1), generator=generator)
    return sign * arm / 3 + 0.1 * torch.randn(n, 2, generator=generator, dtype=F64)


@pytest.mark.parametrize("shared", [False, True])
def test_the_design_measured_thinner_spirals_than_it_defines(shared):
    """mathematics.md section 7: "all draws independent" and -2.14 for 200 functions do not fit.

    Independent draws give -2.22 on average, six standard errors of six draws below -2.14; with one
    uniform number for radius and smears the value comes back.
    """
    values = []
    for seed in range(6):
        x = _spirals(11_000, rng(seed), shared)
        x = TORUS.project(x * (2.6 / x[:10_000].abs().max()))
        times = torch.cat([torch.tensor([0.002]), torch.logspace(math.log10(0.0022), 0.6, 160)])
        score = ms.fit_spectral(x[:10_000], TORUS, 200, times)
        values.append(float(ms.log_likelihood(score, TORUS, x[10_000:]).mean()))
    mean, stderr = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    assert (abs(mean + 2.14) < 6 * stderr) if shared else (mean + 6 * stderr < -2.14)


def test_functions_whose_averages_have_faded_are_still_needed():
    """At t = 1 the moments of a point mass have faded below 1e-14 from the sixth frequency on, and
    yet its score, that of a wrapped normal law, needs them: the logarithm of a density has waves
    that the density has no more. So no level drops functions by ``e^{lambda t}``."""
    circle, x = ms.TorusBrownian(1), torch.full((1, 1), 0.3, dtype=F64)
    times, y = torch.tensor([1.0, 1.5], dtype=F64), torch.linspace(-3.1, 3.1, 200, dtype=F64)
    exact = circle.transition_score(y[:, None], x.expand(200, 1), 1.0)
    five, twenty = (ms.fit_spectral(x, circle, 2 * k, times)(y[:, None], 1.0) for k in (5, 20))
    assert math.exp(-(6**2)) < 1e-14
    assert (five - exact).abs().max() > 5e-3 * exact.abs().max()
    assert (twenty - exact).abs().max() < 5e-6 * exact.abs().max()
