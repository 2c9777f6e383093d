"""Additive OISM: the general fit in one dimension, brute force in two, Gaussians, 60 digits."""

import copy
import dataclasses
import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from odd_inputs import refused
from statistical import F64, equal, points, rng, slope

import markovscore as ms
from markovscore.core import value_and_divergence
from markovscore.datasets import load_digits
from markovscore.spectral import AdditiveMoments, Covariance

TIMES = [0.0, 0.01, 0.1, 0.4, 1.0]


def skewed(n=400, d=3, seed=0):
    """Skewed, correlated, of very different scales."""
    g = rng(seed)
    z = torch.rand(n, d, generator=g, dtype=F64) ** 2
    mix = torch.eye(d, dtype=F64) + 0.4 * torch.rand(d, d, generator=g, dtype=F64)
    return (z @ mix - 0.7) * torch.logspace(0, -1, d, dtype=F64)


def fit(x, order, times=TIMES, process=None, **settings):
    process = process or ms.VariancePreserving(x.shape[1] if isinstance(x, torch.Tensor) else 3)
    return ms.fit_spectral(x, process, times=times, features="additive", order=order, **settings)


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_one_coordinate_equals_the_general_fit(order):
    x = skewed(d=1)
    ou = ms.OrnsteinUhlenbeck(1)
    general = ms.fit_spectral(x, ou, order, [0.01, 0.1, 1.0])
    additive = fit(x, order, general.times, ou)
    torch.testing.assert_close(
        additive.coefficients[:, :order, 0], general.coefficients, rtol=1e-7, atol=1e-9
    )
    y = torch.linspace(-3, 3, 50, dtype=F64)[:, None]
    everywhere = dataclasses.replace(additive, low=additive.low - 9, high=additive.high + 9)
    polynomial = dataclasses.replace(general, reach=None)
    for t in (0.01, 0.1, 1.0):
        torch.testing.assert_close(everywhere(y, t), polynomial(y, t), rtol=1e-8, atol=1e-8)


def test_out_of_reach_of_the_data_the_score_continues_with_a_gaussians_slope():
    x = skewed()
    score, t = fit(x, 3, times=[0.1]), 0.1
    process = ms.VariancePreserving(3)
    a, b = torch.exp(-process.ou_time(t)), float(process.std(torch.tensor(t).double()))
    edge, step = a * x.amax(0) + 4 * b, 0.5
    inside, outside = (score((edge + s)[None], t)[0] for s in (-1e-9, step))
    variance = a**2 * x.var(0, correction=0) + b**2
    torch.testing.assert_close(outside, inside - step / variance, rtol=1e-6, atol=1e-6)
    far = torch.tensor([[50.0, -0.5, -80.0]], dtype=F64)
    trace = value_and_divergence(score, far, t)[1]
    torch.testing.assert_close(score.divergence(far, t), trace)
    assert float((score(far, t) * far)[0, ::2].max()) < 0  # pulled back, whatever the cubic says


def test_blocks_are_the_whole_problem_although_the_data_are_correlated():
    """All functions of both coordinates at once, by quadrature over the noise, dense solve."""
    x, order, t = skewed(n=60, d=2), 3, 0.3
    score = fit(x, order, [t], ms.OrnsteinUhlenbeck(2))
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    grid = torch.tensor(list(itertools.product(nodes, nodes)))
    w = torch.tensor([a * b for a, b in itertools.product(weights, weights)]) / (2 * math.pi)
    y = (math.exp(-t) * x[:, None] + math.sqrt(-math.expm1(-2 * t)) * grid).reshape(-1, 2)
    w = w.repeat(len(x)) / len(x)

    def he(v, n):
        return torch.from_numpy(np.polynomial.hermite_e.hermeval(v.numpy(), [0] * n + [1]))

    G, b = torch.zeros(2 * order, len(y), 2, dtype=F64), torch.zeros(2 * order, dtype=F64)
    for k, (axis, n) in enumerate(itertools.product(range(2), range(1, order + 1))):
        norm = math.sqrt(math.factorial(n))
        G[k, :, axis] = n * he(y[:, axis], n - 1) / norm
        b[k] = n * he(y[:, axis], n) @ w / norm
    A = torch.einsum("jbi,kbi,b->jk", G, G, w)
    alpha = torch.linalg.lstsq(A, b[:, None]).solution[:, 0].reshape(2, order)
    torch.testing.assert_close(score.coefficients[0].T, alpha, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("t", [0.0, 0.05, 0.4, 1.0])
def test_two_functions_along_principal_axes_are_the_gaussian_score(t):
    x = skewed(n=300, d=5)
    score = fit(x, 2, times=[t], rotation="pca")
    process = ms.VariancePreserving(5)
    tau = process.ou_time(t)
    mean = torch.exp(-tau) * x.mean(0)
    covariance = torch.exp(-2 * tau) * torch.cov(x.T, correction=0)
    covariance -= torch.expm1(-2 * tau) * torch.eye(5, dtype=F64)
    y = points(20, 5, 1)
    exact = -torch.linalg.lstsq(covariance, (y - mean).T).solution.T
    torch.testing.assert_close(score(y, t), exact, rtol=1e-8, atol=1e-8)
    trace = -torch.linalg.inv(covariance).trace()
    torch.testing.assert_close(score.divergence(y, t), trace.expand(20), rtol=1e-8, atol=0)


def test_a_rotation_of_higher_order_is_the_plain_fit_of_rotated_points():
    x = skewed()
    score = fit(x, 4, rotation="pca")
    axes = score.rotation
    torch.testing.assert_close(axes.T @ axes, torch.eye(3, dtype=F64))
    plain = fit(x @ axes, 4)
    y = points(30, 3, 1)
    torch.testing.assert_close(score(y, 0.1), plain(y @ axes, 0.1) @ axes.T)


def exact_score(x, order, tau, y):
    """Example 6 for one coordinate, 60 digits, at points ``y``."""
    with mpmath.workdps(60):
        a, b = mpmath.exp(-tau), mpmath.sqrt(1 - mpmath.exp(-2 * tau))

        def he(n, u):
            below, now = mpmath.mpf(0), mpmath.mpf(1)
            for k in range(n):
                below, now = now, u * now - k * below
            return now

        data = [mpmath.mpf(float(v)) for v in x]
        he_mean = [a**n * mpmath.fsum(he(n, v) for v in data) / len(data) for n in range(2 * order)]
        A, slope = mpmath.matrix(order, order), mpmath.matrix(order, 1)
        fact = mpmath.factorial
        for j, k in itertools.product(range(1, order + 1), repeat=2):
            A[j - 1, k - 1] = j * k * mpmath.fsum(
                fact(j - 1) * fact(k - 1) / fact(m) / fact(j - 1 - m) / fact(k - 1 - m)
                * he_mean[j + k - 2 - 2 * m] for m in range(min(j, k))
            )  # fmt: skip
            slope[k - 1] = k * he_mean[k]
        alpha = mpmath.lu_solve(A, slope)
        assert b > 0
        return [
            float(-v + mpmath.fsum(alpha[n - 1] * n * he(n - 1, v) for n in range(1, order + 1)))
            for v in map(mpmath.mpf, y)
        ]


@pytest.mark.parametrize(
    ("order", "spread", "tolerance"), [(3, 1.0, 1e-12), (6, 1.0, 1e-9), (6, 0.03, 1e-9),
                                       (9, 1.0, 1e-4), (9, 0.03, 1e-4)],
)  # fmt: skip
def test_narrow_coordinates_and_high_orders_against_sixty_digits(order, spread, tolerance):
    """In the unscaled variable the narrow case has a condition number of 1e15 and more."""
    x = spread * (skewed(n=80, d=1)) - 0.8
    process, t = ms.VariancePreserving(1), 0.02
    score = fit(x, order, [t])
    noise = float(process.std(torch.tensor(t, dtype=F64)))
    y = x[:20] + noise * torch.linspace(-2, 2, 20, dtype=F64)[:, None]
    tau = float(process.ou_time(t))
    exact = torch.from_numpy(np.array(exact_score(x[:, 0], order, tau, y[:, 0].tolist())))
    error = (score(y, t)[:, 0] - exact).norm() / exact.norm()
    assert error < tolerance


def test_a_coordinate_that_never_changes_gets_the_score_of_a_point():
    x = skewed()
    x[:, 1] = -1.0
    with pytest.warns(ms.SpectralWarning, match="constant column 1: a point mass"):
        score = fit(x, 6, times=torch.linspace(0, 1, 1001))
    assert score.table.isfinite().all()
    process, t = ms.VariancePreserving(3), 0.3
    y = torch.tensor([[0.1, -0.6, 0.0]], dtype=F64)
    tau = process.ou_time(t)
    exact = -(y[0, 1] + torch.exp(-tau)) / -torch.expm1(-2 * tau)
    torch.testing.assert_close(score(y, t)[0, 1], exact, rtol=1e-5, atol=0)


def test_a_coordinate_with_two_values():
    """Four functions at t = 0 are more than two values determine: finite, and exact later on."""
    x = skewed()
    x[:, 0] = (x[:, 0] > 0).double() - 0.5
    score = fit(x, 4)
    assert score.table.abs().max() < 1e3  # rounding, divided by, would give 1e15


def test_divergence_is_that_of_autograd():
    score = fit(skewed(), 5)
    y = points(10, 3, 1)
    t = torch.linspace(0.02, 0.9, 10, dtype=F64)
    for rotated in (score, fit(skewed(), 3, rotation="pca")):
        for s in (0.0, 0.05):
            trace = value_and_divergence(rotated, y, s)[1]
            value, divergence = rotated.score_and_divergence(y, s)
            torch.testing.assert_close(divergence, trace)
            torch.testing.assert_close(value, rotated(y, s))
    rows = torch.cat([score(y[i : i + 1], float(t[i])) for i in range(10)])
    torch.testing.assert_close(score(y, t), rows)


def test_streams_and_merges_to_the_same_moments():
    x = skewed(n=1000)
    whole, *parts = (AdditiveMoments.empty(6, x) for _ in range(4))
    whole.update(x)
    for part, rows in zip(parts, x.split([1, 600, 399]), strict=True):
        for batch in rows.split(128):
            part.update(batch)
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].n_points == 1000
    torch.testing.assert_close(parts[0].mean(), whole.mean(), rtol=1e-12, atol=1e-12)
    u = (x - whole.centre) / whole.scale
    torch.testing.assert_close(whole.mean()[3], ((u**3 - 3 * u) / math.sqrt(6)).mean(0))
    words = "one order, centre and scale.*AdditiveMoments.empty"
    refused(words, parts[0].merge, AdditiveMoments.empty(6, x[:10]))
    refused("at least one point", AdditiveMoments.empty(2, x).mean)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_number_in_a_later_batch_is_refused_and_not_counted(bad):
    x = skewed()
    moments = AdditiveMoments.empty(3, x)
    moments.update(x)
    before = copy.deepcopy(moments)
    x[17, 1] = bad
    refused(r"finite numbers.*row 17", moments.update, x)
    assert moments.n_points == before.n_points
    for name in ("sums", "low", "high"):
        assert torch.equal(getattr(moments, name), getattr(before, name))


def test_the_first_batch_sets_the_conditioning_and_not_the_result():
    x = skewed(n=1000)
    y = x[:20]
    one = fit(x, 5)
    for batches in (x.split(50), iter(x.split(333))):
        torch.testing.assert_close(fit(batches, 5)(y, 0.1), one(y, 0.1), rtol=1e-8, atol=1e-8)
    turned = fit(x.split(50), 4, rotation="pca")
    torch.testing.assert_close(turned(y, 0.1), fit(x, 4, rotation="pca")(y, 0.1))


def streamed(first, rest, size):
    """The covariance of ``rest``, batch after batch, of which ``first`` sets the origin."""
    covariance = Covariance.empty(first)
    for batch in rest.split(size):
        covariance.update(batch)
    return covariance


def test_covariance_is_streamed():
    x = skewed(n=1000) + 5
    covariance = streamed(x[:7], x, 64)
    variances, axes = covariance.axes()
    torch.testing.assert_close(covariance.mean(), x.mean(0))
    torch.testing.assert_close(axes @ variances.diag() @ axes.T, torch.cov(x.T, correction=0))
    assert (variances.diff() <= 0).all()


def test_covariance_of_batches_that_are_far_from_the_first():
    x = points(3000) * torch.tensor([1.0, 0.01], dtype=F64)
    x[100:] += 1e7
    found = streamed(x[:100], x[100:], 700).axes()[0]
    expected = np.linalg.eigvalsh(np.cov((x[100:] - 1e7).numpy().T, bias=True))[::-1]
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_interpolation_is_of_second_order_in_the_levels():
    x, y, t = skewed(), skewed(seed=1)[:50], 0.3
    exact, gaps = fit(x, 4, times=[t])(y, t), [0.04, 0.02, 0.01]  # t is the middle of an interval
    scores = [fit(x, 4, times=[t - gap / 2, t + gap / 2]) for gap in gaps]
    errors = [(score(y, t) - exact).norm() for score in scores]
    assert slope(gaps, errors) == pytest.approx(2, abs=0.1)


def test_dtype_follows_the_points_and_the_defaults_reach_over_all_times():
    x = skewed()
    score = fit(x, 3, times=None)
    even = torch.linspace(0, 1, 1001, dtype=F64)
    late = score.times[score.times > 0.1]  # earlier ones as the smallest scale asks
    assert torch.equal(late, even[even > 0.1]) and float(score.times[1]) < 0.001
    y = x[:8].float()
    assert score(y, 0.5).dtype == torch.float32
    torch.testing.assert_close(score(y, 0.5).double(), score(x[:8], 0.5), rtol=1e-4, atol=1e-5)
    t = torch.rand(8)
    torch.testing.assert_close(score(y, t).double(), score(x[:8], t.double()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 10}, "order: expected an integer from 1 to 9, found 10"),
        ({"order": None}, "order: expected an integer"),
        ({"n_functions": 5}, "n_functions: expected none"),
        ({"shrinkage": "heat"}, "shrinkage: expected none of polynomials"),
        ({"x": []}, "at least one batch"),
        ({"x": iter([skewed()]), "order": 3, "rotation": "pca"}, "read twice"),
        ({"features": "product"}, "order: expected none"),
    ],
)
def test_bad_arguments(change, message):
    settings = {"x": skewed(), "order": 2, "features": "additive"} | change
    x = settings.pop("x")
    refused(message, ms.fit_spectral, x, ms.VariancePreserving(3), **settings)


def test_bad_calls():
    images = load_digits("test")
    words = r"generator: expected a torch\.Generator.*found none"
    refused(words, fit, images, 2, process=ms.VariancePreserving(64))
    words = "VariancePreserving, OrnsteinUhlenbeck, .*found TorusBrownian"
    refused(words, fit, skewed(), 2, process=ms.TorusBrownian(3), error=TypeError)


def test_blocks_of_rows_change_nothing(monkeypatch):
    x = points(50, 7)
    score = fit(x, 4, None, ms.OrnsteinUhlenbeck(7))
    for t in (0.3, torch.linspace(0.1, 2, 50, dtype=F64)):
        whole = score.score_and_divergence(x, t)
        alone = score(x, t)
        with monkeypatch.context() as patch:
            # Four rows, the last block has two.
            patch.setattr("markovscore.kernels.blocks.CACHE_ENTRIES", 30)
            assert equal(score.score_and_divergence(x, t), whole)
            assert torch.equal(score(x, t), alone)
            refused("the first is row 41", score, x.index_fill(0, torch.tensor([41]), torch.nan), t)
