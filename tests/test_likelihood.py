"""Log-densities that know their error: order, calibration, points that are steep or fail."""

import pytest
import torch
from odd_inputs import refused
from statistical import F64, points, rng, slope
from test_sampling import (
    OU,
    T,
    bounded_case,
    cloud,
    exact_end,
    grid,
    linear_case,
    mixture,
    mixture_score,
    toy_case,
)

import markovscore as ms
from markovscore.sampling import log_likelihood, sample_ode, sample_sde

CONTROLLED = {"method": "runge-kutta", "tolerance": 1e6}  # on just the grid


# Order


@pytest.mark.parametrize(
    ("case", "argument", "counts"),
    [
        (toy_case, (0.0,), (32, 64, 128)),
        (toy_case, (0.05,), (16, 32, 64)),
        (bounded_case, (ms.TorusBrownian(2), 24.0), (64, 128)),
        (bounded_case, (ms.BoxBrownian(2, -2.0, 2.0), 40.0), (64, 128)),
        (linear_case, (torch.eye(2, dtype=F64),), (32, 64)),
    ],
    ids=["start at 0", "start at 0.05", "torus", "box", "linear"],
)
def test_the_order_is_four_at_least(case, argument, counts):
    """Four, or a little more where the grid is coarse yet; at the end e^{-24} is left of a mode."""
    score, diffusion, x, exact, times = case(*argument)
    weight = exact.softmax(0) if case is bounded_case else torch.full_like(exact, 1 / len(exact))
    errors = []
    for steps in counts:
        value = log_likelihood(score, diffusion, x, times=grid(steps, **times), **CONTROLLED)
        errors.append(float(weight @ (value - exact).abs()))
    assert slope(counts, errors) < -3.7


def test_a_score_between_its_levels_is_not_read():
    """Rates are taken at the grid's times only: linear interpolation between them costs nothing."""
    levels, seen = grid(40), []
    score, diffusion, x, *_ = toy_case(0.0)

    def watched(x, t):
        seen.append(float(t))
        return score(x, t)

    log_likelihood(watched, diffusion, x, times=levels, **CONTROLLED)
    assert set(seen) <= set(levels.tolist())


# What is reported


def law(process, seed):
    """Four random bumps, whose law is exact at every time, and points near and far."""
    g, d = rng(seed), process.dim
    means, scales = torch.randn(4, d, generator=g, dtype=F64), torch.rand(4, generator=g, dtype=F64)
    x = 2 * torch.randn(40, d, generator=g, dtype=F64)
    return ms.DiffusedMixture(process, means, 0.1 + 0.6 * scales), process.project(x)


PROCESSES = [
    *(ms.OrnsteinUhlenbeck(d) for d in (1, 2)),
    ms.TorusBrownian(1),
    ms.BoxBrownian(1, -3.0, 3.0),
]


def test_the_reported_error_bounds_the_true_one():
    """Of random laws, on grids of 100 and of 40 steps. The true error is that of 200 steps, whose
    own is a sixteenth; where steps are short a fifteenth of what is reported. A change of sign lets
    a few be larger than what is reported."""
    ratios, missed = [], []
    for seed, process in enumerate(PROCESSES):
        score, x = law(process, seed)
        fine = log_likelihood(score, process, x, steps=200, **CONTROLLED)
        for steps in (100, 40):
            value, error = log_likelihood(
                score, process, x, steps=steps, return_error=True, **CONTROLLED
            )
            true = (value - fine).abs()
            missed.append(true > error + 1e-8)
            if steps == 100:
                ratios.append(true / error)
    assert torch.cat(missed).double().mean() < 0.02
    assert float(torch.cat(ratios).median()) == pytest.approx(1 / 16, rel=0.1)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-5])
def test_every_point_meets_the_tolerance(tolerance):
    """From 60 steps on; against the law's own value at the first time."""
    diffusion, x = exact_end(T), cloud(64)
    value, error = log_likelihood(
        mixture_score, diffusion, x, times=grid(60), tolerance=tolerance, return_error=True
    )
    assert error.max() < tolerance
    assert (value - mixture(0.0).log_prob(x)).abs().max() < tolerance


def test_the_density_of_a_fit_is_that_of_closer_levels():
    """What is reported covers linear interpolation between levels, which costs more than it."""
    torus = ms.TorusBrownian(2)
    x = torus.project(points(1000, 2, scale=0.5))
    levels = torch.logspace(-2.5, 0.7, 101, dtype=F64)
    closer = torch.logspace(-2.5, 0.7, 401, dtype=F64)
    score, exact = (ms.fit_spectral(x, torus, 40, t, shrinkage="heat") for t in (levels, closer))
    value, error = log_likelihood(score, torus, x[:100], return_error=True)
    true = (value - log_likelihood(exact, torus, x[:100])).abs()
    heun = (value - log_likelihood(score, torus, x[:100], times=levels)).abs()
    assert (true > error).double().mean() < 0.1 and true.max() < 3 * error.max()
    assert heun.median() > 10 * error.median()


def test_heun_reports_what_every_other_time_gives():
    score, diffusion, x, exact, _ = toy_case(0.0)
    for steps in (80, 81):
        times = grid(steps)
        value, error = log_likelihood(score, diffusion, x, times=times, return_error=True)
        assert torch.equal(value, log_likelihood(score, diffusion, x, times=times))
        ratio = (value - exact).abs() / error
        assert float(ratio.median()) == pytest.approx(1 / 3, rel=0.2)


# Cost


class Counted:
    """The mixture's score, and how many rows it was asked for."""

    def __init__(self):
        self.rows = 0

    def __call__(self, x, t):
        self.rows += len(x)
        return mixture_score(x, t)


def test_an_ordinary_point_costs_half_more_than_heun_and_steep_ones_are_alone():
    score, x = Counted(), cloud(50)
    log_likelihood(score, OU, x, steps=200)
    heun, score.rows = score.rows, 0
    log_likelihood(score, OU, x, tolerance=1e-2, steps=200)
    assert score.rows <= 1.5 * heun
    score.rows = 0
    far = torch.cat([x, torch.full((1, 2), 12.0, dtype=F64)])
    log_likelihood(score, OU, far, steps=200, tolerance=1e-3)
    assert 1.5 * heun < score.rows < 1.5 * heun * 1.5


# Points that are steep, or fail


def steep(x, t):
    """The mixture's score, and beyond 4 a wall of waves."""
    return mixture_score(x, t) + 50 * torch.sin(400 * x) * (x > 4)


def test_what_misses_the_tolerance_is_named():
    x = torch.cat([cloud(5), torch.full((1, 2), 4.5, dtype=F64)])
    with pytest.warns(ms.SpectralWarning, match=r"1 of 6 points with 160 steps.*row 5 to [\d.]+"):
        value, error = log_likelihood(steep, OU, x, steps=20, tolerance=0.1, return_error=True)
    assert error[5] > 0.1 and (error[:5] < 0.1).all() and value.isfinite().all()


class Holed:
    """The mixture's score, NaN in a hole; or its divergence is."""

    def __init__(self, part):
        self.part = part

    def __call__(self, x, t):
        return self.score_and_divergence(x, t)[0]

    def score_and_divergence(self, x, t):
        value, hole = mixture_score(x, t), x[:, 0] > 2
        divergence = torch.zeros_like(x[:, 0])
        if self.part == "score":
            return torch.where(hole[:, None], torch.nan, value), divergence
        return value, torch.where(hole, torch.nan, divergence)


@pytest.mark.parametrize("part", ["score", "divergence"])
@pytest.mark.parametrize("method", [None, "heun", "adaptive"])
def test_a_point_that_fails_is_named_and_the_others_are_returned(method, part):
    x = torch.tensor([[0.1, 0.2], [2.5, 0.0], [-1.0, 0.3], [3.0, 1.0]], dtype=F64)
    score, given = Holed(part), {"method": method} if method else {}
    grids = {} if method is None else {"steps": 30}
    with pytest.warns(ms.SpectralWarning, match=r"2 of 4 rows.*row 1 at t = [\d.e-]+, row 3"):
        found = log_likelihood(score, OU, x, failed="nan", **given, **grids)
    assert found.isnan().tolist() == [False, True, False, True]
    kept = x[[0, 2]]
    alone = log_likelihood(score, OU, kept, **given, **grids)
    torch.testing.assert_close(found[[0, 2]], alone, rtol=1e-5, atol=1e-5)
    refused("first is row 1", log_likelihood, score, OU, x, **given, **grids)


@pytest.mark.parametrize("sampler", [sample_ode, sample_sde])
def test_a_sample_that_fails_is_named_and_the_others_are_returned(sampler):
    x_T = torch.tensor([[0.1, 0.2], [3.5, 0.0], [-1.0, 0.3]], dtype=F64)
    score = Holed("score")
    with pytest.warns(ms.SpectralWarning, match=r"1 of 3 rows.*row 1 at t = "):
        found = sampler(score, OU, 3, x_T=x_T, failed="nan", steps=60, generator=rng())
    assert found.isnan().all(1).tolist() == [False, True, False]
    refused("first is row 1", sampler, score, OU, 3, x_T=x_T, steps=60, generator=rng())


def test_bars_are_asked_for_by_name(monkeypatch):
    seen = []

    def bar(steps, what, progress):
        seen.append((what, progress))
        return steps

    monkeypatch.setattr("markovscore.sampling.solvers.bar", bar)
    log_likelihood(mixture_score, OU, cloud(3), steps=4, progress=True)
    sample_sde(mixture_score, OU, 3, steps=4)
    sample_ode(mixture_score, OU, 3, steps=4, progress=False)
    assert seen == [("log_likelihood", True), ("sample_sde", None), ("sample_ode", False)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "rk4"}, 'method: expected "runge-kutta", "heun" or "adaptive"'),
        ({"method": "heun", "tolerance": 1e-3}, 'tolerance: expected none with method="heun"'),
        ({"method": "adaptive", "tolerance": 1e-3}, "set rtol and atol"),
        ({"tolerance": 0.0}, "tolerance: expected a finite positive number"),
        ({"method": "adaptive", "return_error": True}, "found an adaptive method"),
        ({"steps": 1, "return_error": True}, "found a grid of one step"),
        ({"failed": "skip"}, "failed: expected 'raise' or 'nan', found 'skip'"),
        ({"progress": "yes"}, "progress: expected True, False or None"),
    ],
)
def test_bad_input(settings, message):
    refused(message, log_likelihood, mixture_score, OU, cloud(3), **settings)
