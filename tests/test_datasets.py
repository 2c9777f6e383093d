"""Toy sets against their definitions; diffused mixtures against autograd and brute force."""

import math

import numpy as np
import pytest
import torch
from odd_inputs import refused
from statistical import F64, agrees, points, products, rng

from markovscore.datasets import TOY_NAMES, DiffusedMixture, mixture_1d, toy
from markovscore.diffusions import BoxBrownian, LinearSDE, OrnsteinUhlenbeck, TorusBrownian

N = 40_000
MEANS = [[-1.5], [0.0], [1.2]]
SCALES, WEIGHTS = [0.25, 0.3, 0.2], [0.3, 0.4, 0.3]


@pytest.fixture(scope="module")
def sets():
    return {name: toy(name, N, rng(1), F64) for name in TOY_NAMES}


@pytest.mark.parametrize("name", TOY_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_toy_shape_dtype_and_seed(name, dtype):
    before = torch.get_rng_state()
    x = toy(name, 100, rng(3), dtype)
    assert (x.shape, x.dtype) == ((100, 2), dtype) and torch.isfinite(x).all()
    assert torch.equal(x, toy(name, 100, rng(3), dtype))
    assert not torch.equal(x, toy(name, 100, rng(4), dtype))
    assert torch.equal(before, torch.get_rng_state())


def test_eight_gaussians_moments(sets):
    x = sets["8gaussians"] * 1.414
    # Two-dimensional identities of eight equal modes: E|x|^2 = 4^2 + 2 * 0.5^2, and no mean.
    assert agrees(x, torch.zeros(2))
    assert agrees(x.square(), torch.tensor([8.25, 8.25]))
    # The eighth harmonic of the angle tells eight modes from any other number of them, and the
    # place of the first: rotations by pi/4 leave it, rotations by pi/8 change its sign.
    angle = torch.atan2(x[:, 1], x[:, 0])
    assert (8 * angle).cos().mean() > 0.5
    for harmonic in range(1, 8):
        assert agrees((harmonic * angle).cos(), 0.0)


def test_two_spirals_radius(sets):
    x = sets["2spirals"]
    # E|x|^2 = E[u^2 + U/2 u (sin u - cos u) ... ] has a closed form with U, V the two half-offsets:
    # u^2 = 9 pi^2 U', so E u^2 = 9 pi^2 / 2; offsets add E[V^2]/4 each; cross terms by quadrature.
    p = (torch.arange(200_000, dtype=F64) + 0.5) / 200_000
    u = 3 * math.pi * p.sqrt()
    cross = (0.5 * u * (u.sin() - u.cos())).mean()
    expected = (u.square().mean() + cross + 2 / 12) / 9 + 2 * 0.01
    assert agrees(x.square().sum(1), expected)
    assert agrees(x, torch.zeros(2))
    # The arm, with the noise: the mean of x1 x2, invariant under the change of sign of the arm.
    product = -u.square() * u.cos() * u.sin() + 0.25 * u * (u.sin() - u.cos()) + 1 / 16
    assert agrees(x[:, 0] * x[:, 1], product.mean() / 9)


def test_pinwheel_arms(sets):
    x = sets["pinwheel"]
    assert agrees(x.square().sum(1) / 4, 1 + 0.09 + 0.01)
    assert agrees(x, torch.zeros(2))
    # Undo the twist with the observed radius: the angles gather at the multiples of 2 pi / 5.
    r = x.norm(dim=1) / 2
    fifth = (5 * (torch.atan2(x[:, 1], x[:, 0]) - 0.25 * r.exp())).cos()
    assert fifth.mean() > 0.8
    against = (5 * (torch.atan2(x[:, 1], x[:, 0]) + 0.25 * r.exp())).cos()
    assert against.mean() < 0.5


def test_checkerboard_support_and_uniformity(sets):
    x = sets["checkerboard"]
    assert (x.abs() <= 2).all()
    assert (x.floor().sum(1).remainder(2) == 0).all()
    # Eight squares of equal probability, each uniform: counts and moments.
    cells = (x[:, 0].floor() + 2) * 4 + x[:, 1].floor() + 2
    values, counts = cells.unique(return_counts=True)
    assert len(values) == 8
    assert ((counts - N / 8).abs() <= 6 * math.sqrt(N * 7 / 64)).all()
    assert agrees(x - x.floor(), torch.full((2,), 0.5))
    assert agrees((x - x.floor()).square(), torch.full((2,), 1 / 3))


def test_rings_radii(sets):
    x = sets["rings"]
    assert agrees(x.square().sum(1), 0.5625 * 30 / 4 + 2 * 0.08**2)
    nearest = (x.norm(dim=1)[:, None] - 0.75 * torch.arange(1.0, 5.0)).abs().min(1).values
    # Nearly |N(0, 0.08^2)|: 0.064 on average; half-way between rings would be 0.375.
    assert abs(float(nearest.mean()) - 0.08 * math.sqrt(2 / math.pi)) < 0.002
    assert agrees(torch.atan2(x[:, 1], x[:, 0]), 0.0)


def test_moons_are_two_half_circles(sets):
    x = sets["moons"]
    upper, lower = torch.tensor([-1.0, -0.2]).double(), torch.tensor([1.0, 0.8]).double()
    on_upper = (x - upper).norm(dim=1) - 2
    on_lower = (x - lower).norm(dim=1) - 2
    nearest = torch.minimum(on_upper.abs(), on_lower.abs())
    assert nearest.max() < 6 * 0.2
    # Means of the halves: centre +- (0, 2 * 2 / pi), so the average is the mean of the centres.
    assert agrees(x, (upper + lower) / 2)
    # Var x1 = 2^2 / 2 + 0.2^2 + (half distance of the centres)^2.
    assert agrees((x[:, 0] - 0.0).square(), 2 + 0.04 + 1)


def test_swissroll_spiral(sets):
    x = sets["swissroll"] * 5
    p = (torch.arange(200_000, dtype=F64) + 0.5) / 200_000
    u = 1.5 * math.pi * (1 + 2 * p)
    curve = torch.stack([u * u.cos(), u * u.sin()], 1)
    assert agrees(x, curve.mean(0))
    assert agrees(x.square(), curve.square().mean(0) + 1)
    assert agrees(x[:, 0] * x[:, 1], (curve[:, 0] * curve[:, 1]).mean())


DIFFUSIONS = {"ou": OrnsteinUhlenbeck, "torus": TorusBrownian}
DIFFUSIONS["box"] = lambda d: BoxBrownian(d, -4.0, 4.0)
SUPPORT = {"ou": (-9.0, 9.0), "torus": (-math.pi, math.pi), "box": (-4.0, 4.0)}


def gauss_legendre(low, high, panels=200, order=10):
    """Composite Gauss-Legendre nodes and weights by numpy, so no code of the package is used."""
    z, w = np.polynomial.legendre.leggauss(order)
    edges = np.linspace(low, high, panels + 1)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    nodes = (half * z + edges[:-1, None] + half).ravel()
    return torch.tensor(nodes), torch.tensor((half * w).ravel())


@pytest.mark.parametrize("name", DIFFUSIONS)
@pytest.mark.parametrize("t", [0.0, 0.02, 0.7, 3.0])
def test_mixture_density_is_the_brute_force_convolution(name, t):
    """Integrate the transition density against the initial law, node by node; and the total."""
    diffusion = DIFFUSIONS[name](1)
    mixture = mixture_1d(diffusion)
    low, high = SUPPORT[name]
    grid, weights = gauss_legendre(low, high)
    x = torch.linspace(low + 0.01, high - 0.01, 41, dtype=F64)
    # The unwrapped initial density: its mass beyond the support is below 1e-12, and it is folded
    # into the support by brute force.
    initial = torch.zeros_like(grid)
    for (m,), s, w in zip(MEANS, SCALES, WEIGHTS, strict=True):
        for k in range(-3, 4) if name == "torus" else [0]:
            z = (grid + 2 * math.pi * k - m) / s
            initial += w * torch.exp(-0.5 * z**2) / (s * math.sqrt(2 * math.pi))
    if t == 0:
        expected, x = initial, grid
    else:
        y, start = x.repeat_interleave(len(grid)), grid.repeat(len(x))
        kernel = diffusion.log_transition(y[:, None], start[:, None], t).exp()
        expected = kernel.reshape(len(x), -1) @ (weights * initial)
    found = mixture.log_prob(x[:, None], t).exp()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert abs(float(weights @ mixture.log_prob(grid[:, None], t).exp()) - 1) < 1e-10


@pytest.mark.parametrize("name", DIFFUSIONS)
@pytest.mark.parametrize("d", [1, 2, 5])
def test_mixture_score_is_the_gradient(name, d):
    g = rng(d)
    means = 2 * torch.rand(4, d, generator=g, dtype=F64) - 1
    scales = 0.2 + torch.rand(4, generator=g, dtype=F64)
    mixture = DiffusedMixture(DIFFUSIONS[name](d), means, scales, [1.0, 2.0, 3.0, 4.0])
    x = (4 * torch.rand(50, d, generator=g, dtype=F64) - 2).requires_grad_()
    t = torch.logspace(-4, 0.5, 50, dtype=F64)
    (gradient,) = torch.autograd.grad(mixture.log_prob(x, t).sum(), x)
    torch.testing.assert_close(mixture.score(x, t), gradient, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mixture(x, t), mixture.score(x, t), rtol=0, atol=0)
    # A batch of times is the same as one time after the other.
    torch.testing.assert_close(mixture.score(x[7:8], float(t[7])), mixture.score(x, t)[7:8])


@pytest.mark.parametrize("name", DIFFUSIONS)
def test_mixture_reaches_the_stationary_law(name):
    diffusion = DIFFUSIONS[name](2)
    mixture = DiffusedMixture(diffusion, [[1.0, 0.5], [-1.0, 2.0]], 0.3)
    x = diffusion.project(2 * points(100, 2, 2))
    t = {"ou": 40.0, "torus": 40.0, "box": 300.0}[name]
    torch.testing.assert_close(mixture.log_prob(x, t), diffusion.prior.log_prob(x))
    torch.testing.assert_close(mixture.score(x, t), diffusion.prior.score(x))


@pytest.mark.parametrize("name", DIFFUSIONS)
@pytest.mark.parametrize("t", [0.0, 0.3])
def test_mixture_samples_follow_the_density(name, t):
    mixture = mixture_1d(DIFFUSIONS[name](1))
    x = mixture.sample(N, rng(5), t=t, dtype=F64)
    assert x.shape == (N, 1)
    assert mixture.diffusion.contains(x).all()
    grid, weights = gauss_legendre(*SUPPORT[name])
    density = mixture.log_prob(grid[:, None], t).exp()
    for test_function in (torch.cos, torch.sin, lambda z: torch.cos(3 * z), torch.square):
        assert agrees(test_function(x[:, 0]), weights @ (density * test_function(grid)))


def test_mixture_sample_in_higher_dimension_has_independent_noise():
    mixture = DiffusedMixture(OrnsteinUhlenbeck(3), [[1.0, -1.0, 0.5]], 0.5)
    x = mixture.sample(N, rng(6), dtype=F64)
    centred = x - torch.tensor([1.0, -1.0, 0.5])
    assert agrees(centred)
    assert agrees(products(centred), 0.25 * torch.eye(3, dtype=F64).flatten())


def test_mixture_far_tails_and_small_times_stay_finite():
    mixture = DiffusedMixture(TorusBrownian(2), [[0.0, 0.0], [0.1, 0.0]], 1e-3)
    x = torch.tensor([[3.0, -3.0], [0.0, 0.0]], dtype=F64)
    assert torch.isfinite(mixture.log_prob(x, 1e-6)).all()
    assert torch.isfinite(mixture.score(x, 1e-6)).all()


def test_mixture_follows_the_dtype():
    mixture = mixture_1d(TorusBrownian(1))
    x = mixture.sample(10, rng(), dtype=torch.float32)
    found = (x, mixture.score(x, 0.1), mixture.log_prob(x, torch.full((10,), 0.1)))
    assert {value.dtype for value in found} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": [[0.0, 0.0]]}, "means: expected shape"),
        ({"means": [[4.0]] * 3}, "domain of TorusBrownian"),
        ({"scales": [0.1, 0.2]}, "scales: expected 3"),
        ({"scales": 0.0}, "scales: expected 3"),
        ({"weights": [0.5, 0.5, -0.1]}, "weights: expected 3"),
        ({"weights": [1.0]}, "weights: expected 3"),
    ],
)
def test_mixture_rejects_bad_parameters(change, message):
    good = {"means": MEANS, "scales": SCALES, "weights": WEIGHTS}
    refused(message, DiffusedMixture, TorusBrownian(1), **good | change)


def test_mixture_rejects_a_process_without_a_kernel():
    linear = LinearSDE([[-1.0]], [[1.0]])
    refused("LinearSDE", DiffusedMixture, linear, [[0.0]], 1.0, error=TypeError)
