"""Stationary laws against scipy, quadrature, autograd and Monte Carlo (6 standard errors)."""

import math

import pytest
import scipy.stats
import torch

from markovscore.priors import Gaussian, GaussianMixture, Logistic, UniformBox, UniformTorus

FACTOR = torch.tensor([[1.5, 0.0], [-0.7, 0.4]], dtype=torch.float64)
MEANS = torch.tensor([[2.0, -1.0], [-1.0, 0.5], [0.0, 3.0]], dtype=torch.float64)
SCALES = torch.tensor([0.4, 0.9, 0.2], dtype=torch.float64)
SMOOTH = [
    Gaussian(2),
    Gaussian(2, mean=torch.tensor([1.0, -2.0]), scale=torch.tensor([0.5, 3.0])),
    Gaussian(2, mean=0.3, scale=FACTOR),
    GaussianMixture(MEANS, SCALES, weights=[1.0, 2.0, 5.0]),
    GaussianMixture(MEANS, 0.7),
    Logistic(2, scale=0.6),
]
FLAT = [UniformTorus(2), UniformBox(2, -1.0, 3.0)]


def name(prior):
    return type(prior).__name__


def points(n=50, dtype=torch.float64):
    return 2 * torch.randn(
        n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).to(dtype)


def test_gaussian_against_scipy():
    x = points()
    expected = scipy.stats.multivariate_normal([0.3, 0.3], (FACTOR @ FACTOR.T).numpy()).logpdf(x)
    torch.testing.assert_close(Gaussian(2, 0.3, FACTOR).log_prob(x), torch.from_numpy(expected))


def test_mixture_against_scipy():
    x, weights = points(), [1 / 8, 2 / 8, 5 / 8]
    parts = [
        w * scipy.stats.multivariate_normal(mean, float(scale) ** 2).pdf(x)
        for w, mean, scale in zip(weights, MEANS.numpy(), SCALES, strict=True)
    ]
    expected = torch.from_numpy(sum(parts)).log()
    prior = GaussianMixture(MEANS, SCALES, weights=[1.0, 2.0, 5.0])
    torch.testing.assert_close(prior.log_prob(x), expected)


def test_logistic_against_scipy_and_far_tails():
    x = points()
    expected = torch.from_numpy(scipy.stats.logistic(scale=0.6).logpdf(x)).sum(1)
    torch.testing.assert_close(Logistic(2, 0.6).log_prob(x), expected)
    far = torch.tensor([[1e4, -1e4]], dtype=torch.float64)
    assert Logistic(2, 0.6).log_prob(far).item() == pytest.approx(-2e4 / 0.6, rel=1e-4)


def test_uniform_densities():
    assert UniformTorus(3).log_prob(torch.zeros(4, 3)).tolist() == pytest.approx(
        [-3 * math.log(2 * math.pi)] * 4
    )
    x = torch.tensor([[0.0, 0.0], [-1.0, 3.0], [0.0, 3.1]], dtype=torch.float64)
    inside = -2 * math.log(4)
    assert UniformBox(2, -1.0, 3.0).log_prob(x).tolist() == [inside, inside, -math.inf]


@pytest.mark.parametrize("prior", [*SMOOTH, UniformTorus(2)], ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_score_is_the_gradient(prior, dtype):
    x = points(dtype=dtype)
    x.requires_grad_()
    value = prior.log_prob(x)
    gradient = torch.autograd.grad(value.sum() + 0 * x.sum(), x)[0]
    assert value.dtype == prior.score(x).dtype == dtype
    # Forward rounding is amplified by the largest second derivative, 1 / 0.2^2 here.
    tolerance = 25 * 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(prior.score(x), gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("prior", SMOOTH[:2] + SMOOTH[3:5], ids=name)
def test_density_integrates_to_one(prior):
    grid = torch.linspace(-22, 22, 881, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid)
    total = prior.log_prob(x).exp().sum() * (grid[1] - grid[0]) ** 2
    # The trapezoid rule is spectrally accurate for a Gaussian; the tails beyond 22 are below 1e-9.
    assert total.item() == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("prior", SMOOTH + FLAT, ids=name)
def test_samples_satisfy_stein(prior):
    """``E[score(X)] = 0`` and ``E[X score(X)^T] = -I`` for smooth laws; moments for flat ones."""
    n = 100_000
    x = prior.sample(n, torch.Generator().manual_seed(0), dtype=torch.float64)
    if prior in FLAT:
        low, high = (-math.pi, math.pi) if isinstance(prior, UniformTorus) else (-1.0, 3.0)
        assert low <= x.min() < x.max() <= high
        z = (x - (low + high) / 2) / ((high - low) / math.sqrt(12))
        statistics, expected = torch.cat([z, z.square() - 1], dim=1), torch.zeros(4)
    else:
        score = prior.score(x)
        products = (x[:, :, None] * score[:, None, :]).flatten(1)
        statistics = torch.cat([score, products], dim=1)
        expected = torch.tensor([0.0, 0.0, -1.0, 0.0, 0.0, -1.0])
    error = (statistics.mean(0) - expected).abs()
    assert (error < 6 * statistics.std(0) / math.sqrt(n)).all()


def test_samples_of_one_axis_follow_the_law():
    """Kolmogorov-Smirnov: catches what moments miss; p < 1e-9 is 6 sigma."""
    n = 20_000
    x = Logistic(1, 0.6).sample(n, torch.Generator().manual_seed(3), dtype=torch.float64)
    assert scipy.stats.kstest(x[:, 0], scipy.stats.logistic(scale=0.6).cdf).pvalue > 1e-9
    prior = GaussianMixture([[0.0], [4.0]], [1.0, 0.5], weights=[3.0, 1.0])
    x = prior.sample(n, torch.Generator().manual_seed(3), dtype=torch.float64)

    def cdf(v):
        return 0.75 * scipy.stats.norm.cdf(v) + 0.25 * scipy.stats.norm.cdf(v, 4, 0.5)

    assert scipy.stats.kstest(x[:, 0], cdf).pvalue > 1e-9


@pytest.mark.parametrize("prior", SMOOTH + FLAT, ids=name)
def test_samples_are_seeded_and_typed(prior):
    first, again = (prior.sample(5, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.dtype == torch.get_default_dtype()
    assert not torch.equal(first, prior.sample(5, torch.Generator().manual_seed(8)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Gaussian(0), "dim: expected an integer >= 1, found 0"),
        (lambda: Gaussian(2, scale=0.0), "scale: expected finite positive"),
        (lambda: Gaussian(2, mean=torch.zeros(3)), r"mean: expected a number or shape \(2,\)"),
        (lambda: Gaussian(2, scale=torch.ones(3)), r"scale: expected a number, shape \(2,\)"),
        (lambda: Gaussian(2, scale=torch.ones(2, 2)), "lower triangular"),
        (lambda: GaussianMixture(torch.zeros(3), 1.0), r"means: expected a finite \(M, d\)"),
        (lambda: GaussianMixture(MEANS, -1.0), "scale: expected finite positive"),
        (lambda: GaussianMixture(MEANS, 1.0, [1.0, 1.0]), "weights"),
        (lambda: Logistic(2, torch.inf), "scale"),
        (lambda: UniformBox(2, 1.0, 1.0), "low < high"),
    ],
)
def test_bad_parameters(build, message):
    with pytest.raises(ValueError, match=message):
        build()
