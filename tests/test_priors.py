"""Stationary laws against scipy, quadrature, autograd and Monte Carlo (6 standard errors)."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from odd_inputs import refused
from statistical import F64, agrees, points, rng

import markovscore as ms
from markovscore.core import field_jacobian, jacobian_at
from markovscore.targets import local_moments

FACTOR = torch.tensor([[1.5, 0.0], [-0.7, 0.4]], dtype=F64)
MEANS = torch.tensor([[2.0, -1.0], [-1.0, 0.5], [0.0, 3.0]], dtype=F64)
SCALES = torch.tensor([0.4, 0.9, 0.2], dtype=F64)
LINE = torch.tensor([2.0, -1.0, 0.3], dtype=F64)
SMOOTH = [
    ms.Gaussian(2),
    ms.Gaussian(2, mean=torch.tensor([1.0, -2.0]), scale=torch.tensor([0.5, 3.0])),
    ms.Gaussian(2, mean=0.3, scale=FACTOR),
    ms.GaussianMixture(MEANS, SCALES, weights=[1.0, 2.0, 5.0]),
    ms.GaussianMixture(MEANS, 0.7),
    ms.ProductMixture(2, LINE, SCALES, weights=[1.0, 2.0, 5.0]),
    ms.ProductMixture(2, LINE, 0.7),
    ms.Logistic(2, scale=0.6),
]
FLAT = [ms.UniformTorus(2), ms.UniformBox(2, -1.0, 3.0)]


def name(prior):
    return type(prior).__name__


def by_hand(x):
    parts = [
        w * scipy.stats.multivariate_normal(mean, float(scale) ** 2).pdf(x)
        for w, mean, scale in zip([1 / 8, 2 / 8, 5 / 8], MEANS.numpy(), SCALES, strict=True)
    ]
    return np.log(sum(parts))


def logistic(x):
    return scipy.stats.logistic(scale=0.6).logpdf(x).sum(1)


FULL = scipy.stats.multivariate_normal([0.3, 0.3], (FACTOR @ FACTOR.T).numpy()).logpdf


@pytest.mark.parametrize(
    ("prior", "log_density"),
    [(SMOOTH[2], FULL), (SMOOTH[3], by_hand), (SMOOTH[7], logistic)],
    ids=["Gaussian", "mixture", "logistic"],
)
def test_densities_against_scipy(prior, log_density):
    x = points(50, 2, 1, 2.0)
    torch.testing.assert_close(prior.log_prob(x), torch.from_numpy(log_density(x.numpy())))


def test_far_tails_of_the_logistic():
    far = torch.tensor([[1e4, -1e4]], dtype=F64)
    assert ms.Logistic(2, 0.6).log_prob(far).item() == pytest.approx(-2e4 / 0.6, rel=1e-4)


def test_uniform_densities():
    assert ms.UniformTorus(3).log_prob(torch.zeros(4, 3)).tolist() == pytest.approx(
        [-3 * math.log(2 * math.pi)] * 4
    )
    x = torch.tensor([[0.0, 0.0], [-1.0, 3.0], [0.0, 3.1]], dtype=F64)
    inside = -2 * math.log(4)
    assert ms.UniformBox(2, -1.0, 3.0).log_prob(x).tolist() == [inside, inside, -math.inf]


@pytest.mark.parametrize("prior", [*SMOOTH, ms.UniformTorus(2)], ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_score_is_the_gradient(prior, dtype):
    x = points(50, 2, 1, 2.0, dtype)
    x.requires_grad_()
    value = prior.log_prob(x)
    gradient = torch.autograd.grad(value.sum() + 0 * x.sum(), x)[0]
    assert value.dtype == prior.score(x).dtype == dtype
    # Forward rounding is amplified by the largest second derivative, 1 / 0.2^2 here.
    tolerance = 25 * 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(prior.score(x), gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("prior", SMOOTH[:2] + SMOOTH[3:7], ids=name)
def test_density_integrates_to_one(prior):
    grid = torch.linspace(-22, 22, 881, dtype=F64)
    x = torch.cartesian_prod(grid, grid)
    total = prior.log_prob(x).exp().sum() * (grid[1] - grid[0]) ** 2
    # The trapezoid rule is spectrally accurate for a Gaussian; the tails beyond 22 are below 1e-9.
    assert total.item() == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("prior", SMOOTH + FLAT, ids=name)
def test_samples_satisfy_stein(prior):
    """``E[score(X)] = 0`` and ``E[X score(X)^T] = -I`` for smooth laws; moments for flat ones."""
    n = 100_000
    x = prior.sample(n, rng(), dtype=F64)
    if prior in FLAT:
        low, high = (-math.pi, math.pi) if isinstance(prior, ms.UniformTorus) else (-1.0, 3.0)
        assert low <= x.min() < x.max() <= high
        z = (x - (low + high) / 2) / ((high - low) / math.sqrt(12))
        statistics, expected = torch.cat([z, z.square() - 1], dim=1), torch.zeros(4)
    else:
        score = prior.score(x)
        products = (x[:, :, None] * score[:, None, :]).flatten(1)
        statistics = torch.cat([score, products], dim=1)
        expected = torch.tensor([0.0, 0.0, -1.0, 0.0, 0.0, -1.0])
    assert agrees(statistics, expected)


def test_samples_of_one_axis_follow_the_law():
    """Kolmogorov-Smirnov: catches what moments miss; p < 1e-9 is 6 sigma."""
    n = 20_000
    x = ms.Logistic(1, 0.6).sample(n, rng(3), dtype=F64)
    assert scipy.stats.kstest(x[:, 0], scipy.stats.logistic(scale=0.6).cdf).pvalue > 1e-9
    prior = ms.GaussianMixture([[0.0], [4.0]], [1.0, 0.5], weights=[3.0, 1.0])
    x = prior.sample(n, rng(3), dtype=F64)

    def cdf(v):
        return 0.75 * scipy.stats.norm.cdf(v) + 0.25 * scipy.stats.norm.cdf(v, 4, 0.5)

    assert scipy.stats.kstest(x[:, 0], cdf).pvalue > 1e-9

    x = ms.ProductMixture(3, [0.0, 4.0], [1.0, 0.5], [3.0, 1.0]).sample(n, rng(3), dtype=F64)
    for axis in range(3):
        assert scipy.stats.kstest(x[:, axis], cdf).pvalue > 1e-9
    assert bool((torch.corrcoef(x.T) - torch.eye(3)).abs().max() < 6 / math.sqrt(n))


@pytest.mark.parametrize("scale", [0.7, [0.4, 0.9, 0.2]], ids=str)
def test_product_mixture_is_the_mixture_of_all_combinations(scale):
    """Brute force: in one dimension ``M`` components, in two ``M^2``, if the scales are equal."""
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=F64)
    x = points(50, 2, 1, 2.0)
    one = ms.GaussianMixture(LINE[:, None], scale, weights), x[:, :1]
    pairs = ms.GaussianMixture(
        torch.cartesian_prod(LINE, LINE), 0.7, torch.outer(weights, weights).flatten()
    )
    for law, at in [one, (pairs, x)][: 2 if scale == 0.7 else 1]:
        prior = ms.ProductMixture(law.dim, LINE, scale, weights)
        torch.testing.assert_close(prior.log_prob(at), law.log_prob(at))
        torch.testing.assert_close(prior.score(at), law.score(at))
        torch.testing.assert_close(torch.diag_embed(prior.hessian(at)), law.hessian(at))


@pytest.mark.parametrize("prior", SMOOTH + FLAT, ids=name)
def test_hessian_is_the_jacobian_of_the_score(prior):
    x, v = points(50, 2, 1, 2.0), points(50, 2, 1, 2.0).flip(0)
    exact = field_jacobian(lambda y, t: prior.score(y), x, 0.0).matrix(2)
    hessian = prior.hessian(x)
    torch.testing.assert_close(hessian if hessian.ndim == 3 else torch.diag_embed(hessian), exact)
    if prior.score_and_hessian_product is not None:
        score, product = prior.score_and_hessian_product(x, v)
        torch.testing.assert_close(score, prior.score(x))
        torch.testing.assert_close(product, (exact @ v[:, :, None])[:, :, 0])


def test_product_mixture_in_many_dimensions():
    """Blocks change nothing; float32 is float64 to rounding, near the means and far in the tails,
    for scales much smaller than the means, and for means far from zero."""
    for centre, means, scale in (
        (0.0, [-0.6, 0.0, 0.7], 0.3),
        (0.0, [-0.6, 0.0, 0.7], [0.3, 0.02, 0.1]),
        (100.0, [99.5, 100.5], 0.25),
        (0.0, [-1.0, 1.0], 0.02),
    ):
        prior = ms.ProductMixture(3072, means, scale, [1.0] * len(means))
        x = centre + 2 * torch.randn(40, 3072, generator=rng(1))
        smallest = float(prior.scale.min())
        # Backward stable: off by what a few roundings of x and of the means would do.
        exact, slope = prior.score(x.double()), prior.hessian(x.double()).abs()
        rounding = 8 * 1.2e-7 * (1 + x.abs().double()) * (slope + 1 / smallest**2)
        assert bool(((prior.score(x) - exact).abs() <= rounding).all())
        assert len(x) * 3072 > 2**16  # more than a block
        whole, rows = prior.hessian(x), [prior.hessian(row[None]) for row in x]
        torch.testing.assert_close(whole, torch.cat(rows))
        torch.testing.assert_close(
            prior.log_prob(x), torch.cat([prior.log_prob(r[None]) for r in x])
        )
    far = torch.full((1, 3072), 1e4)
    prior = ms.ProductMixture(3072, [-1.0, 1.0], 0.5)
    torch.testing.assert_close(prior.score(far), -(far - 1) / 0.25)
    torch.testing.assert_close(prior.hessian(far), torch.full_like(far, -4.0))


@pytest.mark.parametrize("means", [[255.0, 0.0, 1.0], [0.0, 1.0, 255.0], [-500.0, 0.0, 1.0]])
def test_product_mixture_beside_a_component_far_away(means):
    """In float32, between two means: the score of these two alone, which the third does not reach.

    Bounds: a rounding of ``x`` moves the score by the slope, the slope by the third derivative,
    which is ``|mu_0 - mu_1|^3 / sigma^6`` times the third cumulant of a coin, at most 1/10.
    """
    scale, x = 0.05, torch.linspace(-0.2, 1.2, 400)[:, None]
    y = x.double().requires_grad_()
    centres = torch.tensor([0.0, 1.0]).double()
    log_density = torch.logsumexp(-((y - centres) ** 2) / (2 * scale**2), 1).sum()
    (exact,) = torch.autograd.grad(log_density, y, create_graph=True)
    (slope,) = torch.autograd.grad(exact.sum(), y)
    prior, rounding = ms.ProductMixture(1, means, scale), 16 * torch.finfo(torch.float32).eps
    assert ((prior.score(x) - exact).abs() < rounding * (slope.abs() + 1 / scale**2)).all()
    assert ((prior.hessian(x) - slope).abs() < rounding * 0.1 / scale**6).all()


def test_langevin_with_a_product_prior_stays_diagonal():
    """``(B, d)`` throughout, and the same as the full matrices of the same law."""
    y = points(50, 2, 1, 2.0)
    product = ms.Langevin(ms.ProductMixture(2, LINE, 0.7))
    full = ms.Langevin(ms.GaussianMixture(torch.cartesian_prod(LINE, LINE), 0.7))
    assert jacobian_at(product, y, 0.4).is_diagonal
    m, P = local_moments(product, y, *torch.tensor([[0.3], [0.4]], dtype=F64))
    assert m.shape == P.value.shape == y.shape
    for mine, other in zip(
        ms.local_transition(product, y, 0.3, 0.4),
        ms.local_transition(full, y, 0.3, 0.4),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("prior", SMOOTH + FLAT, ids=name)
def test_samples_are_seeded_and_typed(prior):
    first, again = (prior.sample(5, rng(7)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.dtype == torch.get_default_dtype()
    assert not torch.equal(first, prior.sample(5, rng(8)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ms.Gaussian(2, mean=torch.zeros(3)), r"mean: expected a number or shape \(2,\)"),
        (lambda: ms.Gaussian(2, scale=torch.ones(3)), r"scale: expected a number, shape \(2,\)"),
        (lambda: ms.Gaussian(2, scale=torch.ones(2, 2)), "lower triangular"),
        (lambda: ms.GaussianMixture(torch.zeros(3), 1.0), r"means: expected a finite \(M, d\)"),
        (lambda: ms.GaussianMixture(MEANS, 1.0, [1.0, 1.0]), "weights"),
        (lambda: ms.ProductMixture(2, MEANS, 1.0), r"means: expected a finite \(M,\)"),
        (lambda: ms.ProductMixture(2, [0.0, math.nan], 1.0), r"means: expected a finite \(M,\)"),
        (lambda: ms.ProductMixture(2, LINE, [1.0, 1.0]), "one for each mean"),
        (lambda: ms.ProductMixture(2, LINE, 1.0, [1.0, 1.0]), "weights"),
        (lambda: ms.UniformBox(2, 1.0, 1.0), "low < high"),
    ],
)
def test_bad_parameters(build, message):
    refused(message, build)
