"""Metrics against loops, quadrature, closed forms, and their own null distributions."""

import functools
import math

import numpy as np
import pytest
import torch
from odd_inputs import refused
from scipy.stats import wasserstein_distance
from statistical import F64, points, rng, slope

from markovscore.datasets import DiffusedMixture, mixture_1d, toy
from markovscore.diffusions import OrnsteinUhlenbeck, TorusBrownian
from markovscore.metrics import (
    Estimate,
    fisher_divergence,
    mmd,
    relative_fisher_divergence,
    sliced_wasserstein,
)


def repeated(measure, count):
    """The values of ``measure(k)`` over independent draws, and the mean of its standard errors."""
    runs = [measure(k) for k in range(count)]
    return np.array([r.value for r in runs]), np.mean([r.stderr for r in runs])


def test_estimate_prints_value_and_error():
    assert str(Estimate(0.123456, 0.0123)) == "0.1235 +/- 0.012"
    assert float(Estimate(2.0)) == 2.0


def test_fisher_divergence_of_two_gaussians():
    """Under N(0, I), scores -x and -(x - m)/s^2 differ by a known mean square."""
    s2, m = 1.5, torch.tensor([0.3, -0.2], dtype=F64)
    x = points(50_000)
    found = fisher_divergence(lambda x, t: -(x - m) / s2, lambda x, t: -x, x, 0.1)
    expected = 2 * (1 - 1 / s2) ** 2 + float(m @ m) / s2**2
    assert abs(found.value - expected) <= 6 * found.stderr
    # The standard error itself: of chi-square type, so of order sqrt(2/B) of the value.
    assert 0.2 < found.stderr / (found.value * math.sqrt(2 / 50_000)) < 2


def test_fisher_divergence_against_quadrature():
    mixture = mixture_1d(TorusBrownian(1))
    blurred = DiffusedMixture(mixture.diffusion, mixture.means, 0.3, mixture.weights)
    t = 0.05
    grid = torch.linspace(-math.pi, math.pi, 4001, dtype=F64)[:-1, None]
    density = mixture.log_prob(grid, t).exp()
    weights = density * (2 * math.pi / 4000)
    exact = fisher_divergence(blurred, mixture, grid, t, weights=weights)
    by_hand = sum(
        float(w) * float(blurred.score(z[None], t) - mixture.score(z[None], t)) ** 2
        for w, z in zip(weights[::10] * 10, grid[::10], strict=True)
    )
    assert exact.stderr == 0
    assert exact.value == pytest.approx(by_hand, rel=1e-6)
    x = mixture.sample(50_000, rng(1), t=t, dtype=F64)
    sampled = fisher_divergence(blurred, mixture, x, t)
    assert abs(sampled.value - exact.value) <= 6 * sampled.stderr
    assert sampled.stderr < 0.1 * exact.value
    relative = relative_fisher_divergence(blurred, mixture, x, t)
    exact_relative = relative_fisher_divergence(blurred, mixture, grid, t, weights=weights)
    energy = float(weights @ mixture.score(grid, t)[:, 0] ** 2)
    assert exact_relative.value == pytest.approx(exact.value / energy)
    assert abs(relative.value - exact_relative.value) <= 6 * relative.stderr


def test_relative_error_of_the_zero_score_is_one_exactly():
    x = points(1000)
    found = relative_fisher_divergence(lambda x, t: 0 * x, lambda x, t: -x, x, 0.1)
    assert found.value == pytest.approx(1)
    assert found.stderr < 1e-12


def test_the_same_coordinates_of_two_scores_are_compared():
    """As of a process whose noise enters one of them; different ones would broadcast."""
    x = points(1000, 2)
    half, truth = (lambda x, t: -0.5 * x[:, 1:]), lambda x, t: -x[:, 1:]
    assert relative_fisher_divergence(half, truth, x, 0.1).value == pytest.approx(0.25)
    words = r"truth: expected shape \(1000, 2\), found \(1000, 1\)"
    refused(words, relative_fisher_divergence, lambda x, t: -x, truth, x, 0.1)


def test_relative_standard_error_is_that_of_repetitions():
    wrong, truth = (lambda x, t: -0.8 * x + 0.1 * x**2), lambda x, t: -x
    values, error = repeated(
        lambda k: relative_fisher_divergence(wrong, truth, points(400, seed=k), 0.1), 400
    )
    # The spread of 400 runs is known to 1/sqrt(800) = 3.5%; six of these are 21%.
    assert error == pytest.approx(values.std(), rel=0.21)


def test_fisher_divergence_takes_a_time_for_each_point():
    mixture = DiffusedMixture(OrnsteinUhlenbeck(2), [[1.0, 0.0]], 0.5)
    x, t = points(20_000), torch.linspace(0.01, 2, 20_000, dtype=F64)
    found = fisher_divergence(lambda x, t: 0 * x, mixture, x, t)
    assert found.value == pytest.approx(float(mixture.score(x, t).square().sum(1).mean()))


def test_fisher_divergence_rejects_bad_input():
    x = points(10)
    one, hole = (lambda x, t: x), lambda x, t: torch.where(x == x[3], math.nan, x)
    refused("row 3", fisher_divergence, hole, one, x, 0.1)
    refused("weights", fisher_divergence, one, one, x, 0.1, weights=torch.ones(3))


def brute_mmd(x, y, h):
    """All pairs of different points of one sample, and all pairs of the two."""

    def mean_kernel(a, b):
        k = np.exp(-((a[:, None] - b[None]) ** 2).sum(2) / (2 * h**2))
        return (k.sum() - len(a)) / (len(a) * (len(a) - 1)) if a is b else k.mean()

    x, y = x.double().numpy(), y.double().numpy()
    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


@pytest.mark.parametrize("periodic", [False, True])
def test_mmd_equals_the_double_loop(periodic):
    x, y = points(17), 0.5 + points(23, seed=1)
    found = mmd(x, y, 0.7, periodic=periodic)
    if periodic:
        x, y = (torch.cat([z.cos(), z.sin()], 1) for z in (x, y))
    assert found.value == pytest.approx(brute_mmd(x, y, 0.7), rel=1e-10)


def far_clouds(d=2, n=150):
    """Two laws in float32, at coordinates whose squares have no digit left for the distances."""
    place = torch.tensor([5e5, 4649776.0] * (d // 2))
    x, y = (torch.randn(n, d, generator=rng(k)) for k in range(2))
    return place + x, place + 1.5 * y


@pytest.mark.parametrize("apart", [0.0, 3e5], ids=["one cloud", "two clouds"])
@pytest.mark.parametrize("d", [2, 40])
def test_mmd_does_not_depend_on_where_the_points_are(d, apart):
    x, y = far_clouds(d)
    for z in (x, y):  # centring alone does not save two clouds
        z[::2] += apart
    expected = brute_mmd(x, y, 2.0)
    assert d > 2 or abs(expected) > 1e-3
    assert mmd(x, y, 2.0).value == pytest.approx(expected, abs=1e-9)


def test_mmd_by_the_product_of_matrices_is_close_enough(monkeypatch):
    x, y = points(200, 30), 0.3 + points(200, 30, seed=1)
    monkeypatch.setattr("markovscore.metrics.ROUNDING", 0)
    exact = mmd(x, y).value
    monkeypatch.setattr("markovscore.metrics.ROUNDING", math.inf)
    assert mmd(x, y).value == pytest.approx(exact, abs=1e-12)


def test_sliced_wasserstein_does_not_depend_on_where_the_points_are():
    x, y = far_clouds()
    a, b = x.double().numpy(), y.double().numpy()
    direction = torch.randn(50, 2, generator=rng()).double().numpy()
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    gaps = np.sort((a - a[0]) @ direction.T, 0) - np.sort((b - a[0]) @ direction.T, 0)
    found = sliced_wasserstein(x, y, 50, rng()).value
    assert found == pytest.approx(math.sqrt((gaps**2).mean()), rel=1e-9)


def test_mmd_in_blocks_equals_one_block(monkeypatch):
    x, y = points(500), points(300, seed=1)
    whole = mmd(x, y)
    monkeypatch.setattr("markovscore.metrics.CHUNK", 64)
    assert mmd(x, y).value == pytest.approx(whole.value, abs=1e-13)


def test_mmd_null_distribution():
    """Under equal laws: mean zero, and a standard error that is safe but not idle."""
    values, error = repeated(
        lambda k: mmd(points(60, seed=2 * k), points(80, seed=2 * k + 1), 1.0), 300
    )
    assert abs(values.mean()) <= 6 * values.std() / math.sqrt(300)
    assert 1 < error / values.std() < 2


def test_mmd_between_gaussians_has_the_closed_form():
    """Gaussian kernel, N(0, I) against N(m, I): population value in closed form."""
    h, shift = 0.9, 0.5
    values, error = repeated(
        lambda k: mmd(points(200, seed=2 * k), points(200, seed=2 * k + 1) + shift, h), 100
    )
    # k convolved with N(0, 2I): (h^2/(h^2+2)) exp(-|m|^2 / (2(h^2+2))) in two dimensions.
    scale = h**2 / (h**2 + 2)
    expected = 2 * scale * (1 - math.exp(-2 * shift**2 / (2 * (h**2 + 2))))
    assert abs(values.mean() - expected) <= 6 * values.std() / 10
    # Away from the null the standard error is the spread: 100 runs know it to 7%.
    assert error == pytest.approx(values.std(), rel=0.45)


def test_mmd_default_bandwidth_is_the_median_distance():
    x, y = points(100), points(50, seed=1)
    h = float(torch.pdist(torch.cat([x, y])).median())
    assert mmd(x, y).value == mmd(x, y, h).value


PERIODIC = {"mmd": lambda *x, **k: mmd(*x, 1.0, **k)}
PERIODIC["sliced"] = lambda *x, **k: sliced_wasserstein(*x, 20, rng(1), **k)


@pytest.mark.parametrize("distance", PERIODIC)
def test_periodic_distances_ignore_turns(distance):
    distance, x, y = PERIODIC[distance], points(100), 1.5 * points(120, seed=1)
    turned = y + 2 * math.pi * torch.randint(-2, 3, y.shape, generator=rng())
    right = distance(x, y, periodic=True).value
    assert distance(x, turned, periodic=True).value == pytest.approx(right)
    assert distance(x, turned).value > 3 * right > 0


@pytest.mark.parametrize(("n", "m"), [(50, 50), (40, 70), (33, 34)])
def test_sliced_wasserstein_in_one_dimension_is_the_quantile_integral(n, m):
    x, y = points(n, 1), 0.3 + 2 * points(m, 1, seed=1)
    found = sliced_wasserstein(x, y, 2, rng()).value
    # Repeat the points to a common length: then both quantile functions have equal steps.
    common, x, y = math.lcm(n, m), x[:, 0].numpy(), y[:, 0].numpy()
    gap = np.sort(np.repeat(x, common // n)) - np.sort(np.repeat(y, common // m))
    assert found == pytest.approx(math.sqrt(np.mean(gap**2)), rel=1e-12)
    assert np.mean(np.abs(gap)) == pytest.approx(wasserstein_distance(x, y))


def test_sliced_wasserstein_of_a_shift():
    """A shift by m: the squared distance along theta is (theta.m)^2, |m|^2 / d on average."""
    x, m = points(300, 3), torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    found = sliced_wasserstein(x, x + m, 2000, rng(3))
    assert abs(found.value - math.sqrt(float(m @ m) / 3)) <= 6 * found.stderr
    assert 0 < found.stderr < 0.05 * found.value
    values, error = repeated(lambda k: sliced_wasserstein(x, x + m, 50, rng(k)), 200)
    assert error == pytest.approx(values.std(), rel=6 / math.sqrt(400))


def test_sliced_wasserstein_is_a_metric_on_samples():
    x, y = points(100), points(100, seed=1)
    assert sliced_wasserstein(x, x[torch.randperm(100, generator=rng())], 10).value < 1e-12
    a, b = (sliced_wasserstein(*pair, 20, rng(5)).value for pair in ((x, y), (y, x)))
    assert a == pytest.approx(b, rel=1e-12)


def test_sliced_wasserstein_null_shrinks_like_one_over_root_n():
    def at(n, k):
        return sliced_wasserstein(points(n, seed=k), points(n, seed=k + 50), 30, rng(k))

    sizes = [100, 400, 1600, 6400]
    values = [repeated(functools.partial(at, n), 20)[0].mean() for n in sizes]
    assert -0.56 < slope(sizes, values) < -0.4


def test_metrics_tell_toy_sets_apart():
    x = toy("pinwheel", 2000, rng(0))
    same, other = toy("pinwheel", 2000, rng(1)), toy("rings", 2000, rng(1))
    # The median distance, two units, is blind to arms and rings a fraction of that wide.
    equal, different = mmd(x, same, 0.3), mmd(x, other, 0.3)
    assert abs(equal.value) < 6 * equal.stderr
    assert different.value > 6 * different.stderr
    near = sliced_wasserstein(x, same, 50, rng(2)).value
    assert sliced_wasserstein(x, other, 50, rng(2)).value > 3 * near


def test_points_that_are_all_one_have_no_bandwidth():
    refused("median", mmd, torch.zeros(5, 2), torch.zeros(5, 2))
