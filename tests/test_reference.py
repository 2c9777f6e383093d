"""Fokker-Planck solver: orders against exact laws, conservation, stationary laws, Monte Carlo."""

import functools
import math

import pytest
import torch
from odd_inputs import refused
from problems import Plain, linear_moments, well
from statistical import F64, agrees, rng, slope

from markovscore import BoxBrownian, DiffusedMixture, LinearSDE, TorusBrownian
from markovscore.diffusions import Gaussian, GaussianMixture, Logistic
from markovscore.reference import fokker_planck

STANDARD = Gaussian(1).log_prob


def langevin(prior, beta):
    return Plain(lambda y, t: beta(t) / 2 * prior.score(y), lambda t: math.sqrt(beta(t)))


# F, G, mean and scale of the start, end, bounds
LINEAR = {
    "ou": ([[-1.0]], [[math.sqrt(2)]], [1.0], 0.5, 0.5, (-7.0, 7.0)),
    "axes": ([[-1.0, 0.6], [-0.8, -0.3]], [[1.0, 0.0], [0.0, 0.7]], [1.0, -0.5], 0.5, 1.0, None),
    "turned": ([[-1.0, 0.6], [-0.8, -0.3]], [[1.0, 0.2], [0.0, 0.7]], [1, -0.5], 0.5, 1.0, None),
    "swimmer": ([[-1.0, 1.0], [0.0, -0.1]], [[0.0], [0.45]], [0.5, -0.5], 0.6, 1.0, None),
    # Faster, so that the error of the step stands above that of the cells.
    "driven": ([[-1.0, 1.0], [0.0, -1.0]], [[0.0], [1.4]], [0.5, -0.5], 1.0, 1.0, ((-6, 6),) * 2),
}


def moments(name):
    F, G, mean, scale, t, _ = LINEAR[name]
    return linear_moments(F, G, mean, scale**2, t)


@functools.cache
def solve_linear(name, cells, steps):
    F, G, mean, scale, t, bounds = LINEAR[name]
    sde = LinearSDE(torch.tensor(F, dtype=F64), torch.tensor(G, dtype=F64), horizon=2.0)
    law = Gaussian(len(F), mean=torch.tensor(mean, dtype=F64), scale=scale)
    bounds = bounds or ((-4.6, 4.6), (-4.6, 4.6))
    return fokker_planck(sde, law.log_prob, [t], bounds, cells=cells, steps=steps)


@functools.cache
def exact_points(name):
    """Draws of the exact law with its score and density there."""
    mean, P = moments(name)
    law = torch.distributions.MultivariateNormal(mean, P)
    z = torch.randn(1000, len(mean), generator=rng(), dtype=F64)
    x = mean + z @ torch.linalg.cholesky(P).T
    return x, -torch.linalg.solve(P, (x - mean).T).T, law.log_prob(x).exp()


def line(low, high, count):
    return torch.linspace(low, high, count, dtype=F64)[:, None]


def rms(a):
    return float(a.square().mean().sqrt())


# Cells, steps, bounds of the slopes, relative error of the score. Transport is third order, noise
# second: the swimmer has both.
CELLS = {
    "ou": ([60, 120, 240], 800, (-2.15, -1.85), 5e-3),
    "axes": ([50, 70, 100], 100, (-2.15, -1.85), 5e-3),
    "turned": ([50, 70, 100], 100, (-2.15, -1.85), 5e-3),
    "swimmer": ([60, 85, 120], 100, (-3.3, -1.85), 1e-2),
}


@pytest.mark.parametrize("name", CELLS)
def test_second_order_in_the_cell_width(name):
    (x, score, density), t = exact_points(name), LINEAR[name][4]
    cells, steps, (low, high), bound = CELLS[name]
    solutions = [solve_linear(name, n, steps) for n in cells]
    of_score = [rms(s.score(x, t) - score) for s in solutions]
    of_density = [rms(s.density(x, t) - density) for s in solutions]
    assert low < slope(cells, of_score) < high
    assert low < slope(cells, of_density) < high
    assert of_score[-1] < bound * rms(score)


STEPS = {"ou": 400, "axes": 80, "turned": 80, "driven": (200, 80)}


@pytest.mark.parametrize("name", STEPS)
def test_second_order_in_the_step(name):
    """Against many steps on the same cells, so that the error of the cells cancels."""
    fine = solve_linear(name, STEPS[name], 160).values
    sizes = [8, 12, 18]
    errors = [rms(solve_linear(name, STEPS[name], n).values - fine) for n in sizes]
    assert slope(sizes, errors) == pytest.approx(-2, abs=0.15)


def test_second_order_in_the_step_for_a_schedule():
    """OU in the clock ``tau(t) = t + t^3``: operators change at every step."""
    process = Plain(lambda y, t: -(1 + 3 * t**2) * y, lambda t: math.sqrt(2 + 6 * t**2))
    x = line(-2.5, 2.5, 41)
    exact = -(x - math.exp(-2)) / (1 - 0.75 * math.exp(-4))  # tau = 2, from N(1, 1/4)
    start, sizes = Gaussian(1, mean=1.0, scale=0.5).log_prob, [5, 10, 20]
    runs = [fokker_planck(process, start, [1.0], (-6, 6), cells=3000, steps=n) for n in sizes]
    errors = [rms(run.score(x, 1.0) - exact) for run in runs]
    assert slope(sizes, errors) == pytest.approx(-2, abs=0.15)


MOVING = {  # drift, dispersion, mean and variance at t = 1 from N(0.5, 0.16)
    "drift": (lambda y, t: math.cos(3 * t) + 0 * y, 1.0, 0.5 + math.sin(3.0) / 3, 1.16),
    "noise": (lambda y, t: 0 * y, math.sin, 0.5, 0.16 + 0.5 - math.sin(2.0) / 4),
    "transport": (lambda y, t: math.cos(3 * t) + 0 * y, 0.0, 0.5 + math.sin(3.0) / 3, 0.16),
}


@pytest.mark.parametrize("name", MOVING)
def test_drift_or_noise_alone_may_change_in_time(name):
    drift, noise, mean, variance = MOVING[name]
    process = Plain(drift, noise if callable(noise) else lambda t: noise)
    law = Gaussian(1, mean=0.5, scale=0.4)
    run = fokker_planck(process, law.log_prob, [1.0], (-6, 6), cells=600, steps=50)
    x = mean + math.sqrt(variance) * line(-2.5, 2.5, 31)
    score = -(x - mean) / variance
    torch.testing.assert_close(run.score(x, 1.0), score, rtol=0, atol=5e-3 * rms(score))


def test_noiseless_contraction_in_one_long_step():
    """``x' = -x^3`` carries ``X`` to ``x = X / sqrt(1 + 2 t X^2)``; no error in time but RK4's."""
    t, law = 0.5, Gaussian(1, mean=0.5, scale=0.5)
    process = Plain(lambda y, t: -(y**3), lambda t: 0.0)
    run = fokker_planck(process, law.log_prob, [t], (-3, 3), cells=1000, steps=1)
    x = line(-0.8, 0.9, 31)
    X = x / (1 - 2 * t * x**2).sqrt()
    exact = law.log_prob(X).exp() * (X / x)[:, 0].pow(3)
    torch.testing.assert_close(run.density(x, t), exact, rtol=0, atol=3e-4 * float(exact.max()))


def test_graded_first_step_resolves_a_narrow_start():
    """Brownian motion from a width of two cells in four steps; equal ones are 7% off."""
    law = Gaussian(1, scale=0.02)
    brownian = Plain(lambda y, t: 0 * y, lambda t: math.sqrt(2))
    run = fokker_planck(brownian, law.log_prob, [0.25], (-4, 4), cells=800, steps=4)
    x = line(-2, 2, 41)
    exact = -x / (0.0004 + 0.5)
    assert rms(run.score(x, 0.25) - exact) < 2e-2 * rms(exact)


def test_stiff_drift_stays_positive_and_keeps_mass():
    """Twenty steps over ``|f'| = 107``: TR-BDF2 alone goes to -1e-5 of the maximum."""
    problem = Plain(well), STANDARD, [0.1, 0.5], (-6, 6)
    run, fine = (fokker_planck(*problem, cells=60, steps=n) for n in (10, 400))
    assert float(run.positivity.min()) >= 0
    assert float((run.mass - 1).abs().max()) < 1e-12
    assert float((run.values - fine.values).abs().max()) < 5e-3


@pytest.mark.parametrize("name", LINEAR)
def test_mass_and_positivity(name):
    solution = solve_linear(name, STEPS.get(name, 85), 160 if name in STEPS else 100)
    assert float((solution.mass - 1).abs().max()) < 1e-12
    assert float(solution.positivity.min()) > -1e-14
    assert bool((solution.values.flatten(1).amax(1) > 0.1).all())


MIXTURE_2D = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 0.8)
PRIORS = {
    "mixture": (GaussianMixture(torch.tensor([[-1.0], [1.2]]), 0.6), (-6, 6), 200),
    "logistic": (Logistic(1, scale=0.5), (-10, 10), 300),
    "mixture-2d": (MIXTURE_2D, ((-6, 6), (-5.5, 5.5)), 90),
}


@pytest.mark.parametrize("name", PRIORS)
def test_langevin_reaches_its_prior(name):
    """The stationary law of the fluxes is fourth order in the cell width."""
    prior, bounds, cells = PRIORS[name]
    process = langevin(prior, lambda t: 0.1 + 9.9 * t)
    start = Gaussian(prior.dim, mean=0.5, scale=0.3)
    run = fokker_planck(process, start.log_prob, [6.0], bounds, cells=cells, steps=60)
    x = prior.sample(500, generator=rng(), dtype=F64)
    torch.testing.assert_close(run.density(x, 6.0), prior.log_prob(x).exp(), rtol=2e-3, atol=0)
    assert rms(run.score(x, 6.0) - prior.score(x)) < 2e-3
    assert run.entropy_production(6.0) < 1e-5


def particles(process, law, n, h, steps, g):
    """Euler's walk, written out; noise in the last coordinate."""
    y = law.sample(n, generator=g, dtype=F64)
    G = torch.as_tensor(process.dispersion(0.0)).reshape(-1)[-1]
    for _ in range(steps):
        noise = math.sqrt(h) * G * torch.randn(n, generator=g, dtype=F64)
        y = y + h * process.drift(y, 0.0)
        y[:, -1] += noise
    return y


def test_double_well_against_monte_carlo():
    """Stein: ``E[psi s] = -E[psi']`` at simulated particles, and the cumulative law, 6 sigma."""
    n, steps, t = 100_000, 400, 1.0
    process, law = Plain(well), Gaussian(1, mean=0.3, scale=0.4)
    run = fokker_planck(process, law.log_prob, [t], (-4, 4), cells=400, steps=200)
    y = particles(process, law, n, t / steps, steps, rng(1))
    s, bias = run.score(y, t), 4 * t / steps  # Euler-Maruyama has weak order one
    for psi, derivative in ((y, torch.ones_like(y)), (y.sin(), y.cos()), (y**3, 3 * y**2)):
        assert agrees(psi * s + derivative, slack=bias)
    grid, h = run.axes[0], float(run.axes[0][1] - run.axes[0][0])
    for edge in (-1.0, 0.0, 0.5, 1.2):
        inside = float(run.values[0][grid < edge].sum()) * h  # edges are faces of cells
        expected = float((y < edge).double().mean())
        assert abs(inside - expected) < 6 * 0.5 / math.sqrt(n) + bias / 4


@pytest.mark.parametrize("make", [TorusBrownian, BoxBrownian])
def test_torus_and_box(make):
    process, torus = make(1), make is TorusBrownian
    t, boundary = (0.3, "periodic") if torus else (0.02, "reflecting")
    bounds, scale = ((-math.pi, math.pi), 0.5) if torus else ((0.0, 1.0), 0.12)
    means = torch.tensor([[2.4], [-0.5]] if torus else [[0.15], [0.7]], dtype=F64)
    exact = DiffusedMixture(process, means, scale, torch.tensor([0.7, 0.3], dtype=F64))
    start = functools.partial(exact.log_prob, t=0.0)
    run = fokker_planck(process, start, [t], bounds, cells=400, boundary=boundary)
    x = line(*bounds, 60)
    torch.testing.assert_close(run.density(x, t), exact.log_prob(x, t).exp(), rtol=1e-3, atol=0)
    # A spline through even data is flat at a wall to its own order, hence the absolute part.
    torch.testing.assert_close(run.score(x, t), exact.score(x, t), rtol=1e-3, atol=1e-2)
    assert abs(float(run.mass) - 1) < 1e-12
    for turns in (1, -2) if torus else ():
        torch.testing.assert_close(run.score(x + 2 * math.pi * turns, t), run.score(x, t))


def test_swimmer_is_positive_and_satisfies_stein():
    """Cubic drift, noise in ``v`` only: Stein's identity in both coordinates, 6 sigma."""
    law, t, h = Gaussian(2, scale=0.7), 1.0, 0.01

    def drift(y, t):
        return torch.stack([y[:, 1] - y[:, 0] ** 3, -0.1 * y[:, 1]], 1)

    process = Plain(drift, lambda t: torch.tensor([[0.0], [math.sqrt(0.2)]]))
    box = ((-4, 4), (-4.2, 4.2))
    run = fokker_planck(process, law.log_prob, [t], box, cells=(240, 120), steps=100)
    assert float(run.positivity.min()) > -1e-14
    assert abs(float(run.mass) - 1) < 1e-12
    y = particles(process, law, 40_000, h, round(t / h), rng(2))
    y = y[(y.abs() < 4).all(1)]
    s = run.score(y, t)
    for axis in range(2):
        assert agrees(y * s[:, [axis]] + torch.eye(2)[axis], slack=2 * h)


@pytest.mark.parametrize("name", ["axes", "turned", "swimmer"])
def test_current_and_entropy_production(name):
    """A Gaussian law: ``v = (F + D P^{-1}) x`` up to the mean, so the rate is a trace."""
    mean, P = moments(name)
    F, G = (torch.tensor(v, dtype=F64) for v in LINEAR[name][:2])
    D, t = G @ G.T / 2, LINEAR[name][4]
    x, score, density = exact_points(name)
    run = solve_linear(name, 120 if name == "swimmer" else 100, 100)
    exact = density[:, None] * (x @ F.T - score @ D)
    torch.testing.assert_close(run.current(x, t), exact, rtol=0, atol=1e-2 * float(exact.max()))
    K = F + D @ torch.linalg.inv(P)
    inverse = torch.linalg.pinv(D, hermitian=True)
    rate = torch.trace(inverse @ K @ P @ K.T) + (F @ mean) @ inverse @ (F @ mean)
    assert run.entropy_production(t) == pytest.approx(float(rate), rel=2e-2)


def test_times_shapes_and_dtypes():
    law = Gaussian(1, mean=0.5, scale=0.5)
    run = fokker_planck(Plain(well), law.log_prob, [0.0, 0.1, 0.4], (-4, 4), cells=400, steps=50)
    x = line(-1, 2, 8)
    # Cell averages differ from point values by h^2 / 24 rho'' / rho.
    torch.testing.assert_close(run.density(x, 0.0), law.log_prob(x).exp(), rtol=2e-3, atol=0)
    t = torch.tensor([0.1, 0.4] * 4, dtype=F64)
    both = run.score(x, t)
    torch.testing.assert_close(both[::2], run.score(x[::2], 0.1))
    torch.testing.assert_close(both[1::2], run.score(x[1::2], 0.4))
    assert run.score(x.float(), 0.1).dtype == torch.float32
    assert run.points.shape == (400, 1)
    assert run.values.shape == (3, 400)


# Bad input

HOLE = Plain(lambda y, t: torch.where(y > 1, math.nan, -y))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bounds": (-2, 6)}, r"lower side of axis 0 \(-2\).*outwards"),
        ({"bounds": (-6, 2.5)}, r"upper side of axis 0 \(2.5\)"),
        ({"log_prob": lambda x: STANDARD(x) + 1}, r"mass 1 in the domain, found 2\.718"),
        ({"bounds": (3, -3)}, "low < high"),
        ({"bounds": (-6, math.inf)}, "finite"),
        ({"bounds": ((-6, 6),) * 3}, "one or two axes"),
        ({"cells": 4}, "integers? >= 8"),
        ({"leakage": 0.0}, "leakage: expected a finite positive"),
        ({"boundary": "wall"}, "found 'wall'"),
        ({"times": [1.0, 0.5]}, "strictly increasing"),
        ({"diffusion": LinearSDE([[-1.0]], [[1.0]], horizon=0.5)}, "t <= horizon = 0.5"),
        ({"diffusion": TorusBrownian(2)}, "expected 2 pairs"),
        ({"diffusion": HOLE}, r"drift at t = .* first is row"),
        ({"diffusion": Plain(lambda y, t: y[:, 0])}, "one row per point"),
        ({"diffusion": Plain(lambda y, t: -y, lambda t: math.nan)}, "dispersion.*finite"),
        ({"diffusion": Plain(lambda y, t: -y, lambda t: torch.ones(3, 1))}, r"shape \(1, m\)"),
        ({"log_prob": lambda x: x}, "log_prob: expected shape"),
        ({"log_prob": lambda x: STANDARD(x) * math.nan}, "without NaN"),
        ({"log_prob": Gaussian(1, scale=1e-3).log_prob, "cells": 100}, "narrower than one"),
        ({"diffusion": Plain(lambda y, t: 2 * y)}, "side of axis 0.* t = "),
    ],
)
def test_bad_input(change, message):
    arguments = {"diffusion": Plain(well), "log_prob": STANDARD, "times": [1.0]}
    arguments |= {"bounds": (-6, 6), "cells": 60, "steps": 20} | change
    refused(message, fokker_planck, **arguments)


def test_noise_that_turns_is_refused():
    turning = Plain(lambda y, t: -y, lambda t: torch.tensor([[1.0, t], [0.0, 1.0]]))
    square = Gaussian(2).log_prob, [0.5], ((-6, 6),) * 2
    refused("same principal axes", fokker_planck, turning, *square, cells=30, steps=4)


def test_bad_queries():
    run = fokker_planck(Plain(well), STANDARD, [0.5], (-6, 6), cells=60, steps=20)
    refused(r"stored times, found 0\.7", run.score, torch.zeros(2, 1), 0.7)
    refused(r"first is row 1 = \[7.0\]", run.density, torch.tensor([[0.0], [7.0]]), 0.5)
