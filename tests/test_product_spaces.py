"""Spaces of unlike coordinates, and of many: definitions, quadrature, brute force, one factor."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_inputs import refused
from scipy.special import roots_hermitenorm
from statistical import F64, agrees, rng

import markovscore as ms
from markovscore.eigenbasis import Circle, Interval, Line, index_set, products

SPACES = {
    "angle, line": ms.Product([ms.TorusBrownian(1), ms.OrnsteinUhlenbeck(1)]),
    "line, box": ms.Product([ms.OrnsteinUhlenbeck(1), ms.BoxBrownian(1, -1.0, 2.0)]),
    "angle, box": ms.Product([ms.TorusBrownian(1, period=3.0), ms.BoxBrownian(1, 0.0, 2.0)]),
    "angles, line": ms.Product([ms.TorusBrownian(2), ms.OrnsteinUhlenbeck(1)]),
    "all": ms.Product([ms.TorusBrownian(1), ms.OrnsteinUhlenbeck(1), ms.BoxBrownian(1, 0.0, 2.0)]),
    "two boxes, line": ms.Product(
        [ms.BoxBrownian(1), ms.BoxBrownian(1, 0.0, 2.0), ms.OrnsteinUhlenbeck(1)]
    ),
}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


def points(dim, n=40, seed=0):
    """In [0.1, 0.7]^d, inside every space."""
    return 0.6 * torch.rand(n, dim, generator=rng(seed), dtype=F64) + 0.1


def energy(factor):
    return factor @ factor.mT


@every_space
def test_generator_by_autograd(space):
    """``Laplacian phi + grad log pi . grad phi = lambda phi``."""
    basis = space.eigenbasis(23)
    for point in points(space.dim, 5):
        jacobian = torch.func.jacfwd(lambda p: basis(p[None])[0])(point)
        hessian = torch.func.jacfwd(torch.func.jacfwd(lambda p: basis(p[None])[0]))(point)
        drift = space.drift(point[None], 0.0)[0]
        applied = hessian.diagonal(dim1=1, dim2=2).sum(1) + jacobian @ drift
        value = basis(point[None])[0]
        scale = 1 + value.abs().max() * basis.eigenvalues.abs().max()
        assert (applied - basis.eigenvalues * value).abs().max() < 1e-11 * scale
        assert (basis.generator(point[None])[0] - applied).abs().max() < 1e-11 * scale


def nodes(axis, order):
    """Nodes and weights of the stationary law of one coordinate, exact for products of two."""
    if isinstance(axis, Line):
        z, w = roots_hermitenorm(2 * order + 2)
        return torch.tensor(z), torch.tensor(w / w.sum())
    low, high = (-axis.period / 2, axis.period / 2) if axis.wave else (axis.low, axis.high)
    count = 4 * order + 4
    u = low + (high - low) * (torch.arange(count, dtype=F64) + 0.5) / count
    return u, torch.full((count,), 1 / count, dtype=F64)


@every_space
def test_orthonormal_by_quadrature(space):
    basis = space.eigenbasis(15)
    rules = [nodes(axis, order) for axis, order in zip(basis.axes, basis.orders, strict=True)]
    x = torch.cartesian_prod(*[rule[0] for rule in rules])
    w = torch.cartesian_prod(*[rule[1] for rule in rules]).prod(1)
    phi = basis(x)
    assert torch.allclose(phi.T @ (w[:, None] * phi), torch.eye(15, dtype=F64), atol=1e-10)
    assert (w @ phi).abs().max() < 1e-11


@every_space
def test_semigroup_by_monte_carlo(space):
    """``E[phi_k(Y_t) | Y_0 = x] = e^{lambda_k t} phi_k(x)`` within 6 standard errors."""
    basis, t, start = space.eigenbasis(12), 0.05, points(space.dim, 1)
    phi = basis(space.sample_transition(start.expand(20_000, -1), t, rng(3)))
    assert agrees(phi, torch.exp(basis.eigenvalues * t) * basis(start)[0], 1e-12)


def many():
    """Bases whose tensors of features would be large, and small ones, of every kind."""
    return [
        *(space.eigenbasis(23) for space in SPACES.values()),
        ms.Fourier(9, 60),
        ms.Hermite(11, 50),
        ms.Cosine(8, 40, -1.0, 2.0),
        ms.Product([ms.TorusBrownian(4), ms.OrnsteinUhlenbeck(5)]).eigenbasis(70),
    ]


@pytest.mark.parametrize("basis", many(), ids=lambda b: f"{type(b).__name__}{b.dim}")
def test_derivatives_equal_the_definition(basis, monkeypatch):
    """Both ways of summing, with coefficients for all points and for each."""
    alpha = torch.randn(basis.n_functions, generator=rng(1), dtype=F64)
    x = points(basis.dim, 75)
    gradient, laplacian = (basis.gradient(x) * alpha[:, None]).sum(1), basis.laplacian(x) @ alpha
    expected = torch.column_stack([gradient, laplacian]).T
    room = 1e-12 * expected.abs().max()
    for dense in (0, 16, 10**3):
        monkeypatch.setattr("markovscore.eigenbasis.base._DENSE", dense)
        if dense and math.prod(basis.widths) > 10**6:
            continue
        for coefficients in (alpha, alpha.expand(75, -1)):
            assert (basis.derivatives(coefficients, x, True) - expected).abs().max() < room
            assert (basis.derivatives(coefficients, x) - expected[:-1]).abs().max() < room


def brute_force_index_set(axes, cross, reach):
    """Costs of all non-zero multi-indices in a box, one of each pair ``k``, ``-k`` of waves."""
    ranges = [range(-reach if axis.wave else 0, reach + 1) for axis in axes]
    unit = min(-float(axis.rates(torch.tensor([1]))) for axis in axes)
    found = {}
    for k in itertools.product(*ranges):
        waves = [e for e, axis in zip(k, axes, strict=True) if axis.wave]
        first = next((e for e in waves if e), 1)
        if not any(k) or first < 0:
            continue
        rates = [-float(a.rates(torch.tensor([e]))) / unit for a, e in zip(axes, k, strict=True)]
        found[k] = math.prod(1 + rate for rate in rates) if cross else sum(rates)
    return found


@given(
    st.lists(
        st.sampled_from([Circle(), Circle(3.0), Line(), Interval(), Interval(0.0, 5.0)]),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 40),
    st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_index_sets_are_the_cheapest(axes, count, cross):
    """Against brute force: distinct, sorted, none left out is cheaper but for the last pair."""
    if all(axis.wave for axis in axes):
        count += count % 2
    found = [tuple(k) for k in index_set(axes, count, cross).tolist()]
    assert len(set(found)) == len(found)
    waves = [any(e for e, a in zip(k, axes, strict=True) if a.wave) for k in found]
    assert len(found) + sum(waves) == count
    reach = max(abs(e) for k in found for e in k) + 1
    costs = brute_force_index_set(axes, cross, reach)
    own = [costs[k] for k in found]
    assert all(b >= a * (1 - 1e-8) for a, b in itertools.pairwise(own))
    missing = [k for k, c in costs.items() if k not in found and c < own[-1] * (1 - 1e-8)]
    # left out are pairs, where there was room for one function
    assert all(any(e for e, a in zip(k, axes, strict=True) if a.wave) for k in missing)
    assert not missing or count % 2 or not all(a.wave for a in axes)


BOUNDED = [
    (Circle(), Interval()),
    (Interval(0.0, 3.0), Circle(2.0), Circle(2.0)),
    (Interval(), Interval(0.0, 2.0), Interval()),
]


@given(st.sampled_from(BOUNDED), st.integers(4, 20))
@settings(deadline=None, max_examples=12)
def test_products_expand_in_the_table(axes, count):
    """``phi_j phi_k = sum_s c_s phi_{m_s}``, the table's functions by definition."""
    space = ms.Product([
        ms.TorusBrownian(1, period=a.period) if a.wave else ms.BoxBrownian(1, a.low, a.high)
        for a in axes
    ])  # fmt: skip
    basis, x = space.eigenbasis(count), points(len(axes), 6)
    found = products(basis.axes, basis.indices)
    functions = basis.with_indices(found.table[1:])(x)
    functions = torch.cat([torch.ones(6, 1, dtype=F64), functions], 1)
    expanded = (found.values * functions[:, found.places]).sum(1)
    phi = basis(x)
    assert torch.allclose(expanded, phi[:, :, None] * phi[:, None], atol=1e-11)
    assert torch.allclose(functions[:, found.own], phi, atol=1e-12)


def diffused(space, x, t, count):
    """Nodes of the law at time ``t`` of the empirical law of ``x``: the noise of each coordinate by
    Gauss-Hermite nodes, not wrapped or reflected, as the functions continue smoothly."""
    z, w = map(torch.tensor, roots_hermitenorm(count))
    z, w = (torch.cartesian_prod(*[v] * space.dim) for v in (z, w / w.sum()))
    lines = torch.zeros(space.dim, dtype=F64)
    lines[space.eigenbasis(2).lines] = 1
    shrink = torch.exp(-t * lines)
    scale = torch.where(lines > 0, 1 - torch.exp(torch.tensor(-2.0 * t, dtype=F64)), 2 * t).sqrt()
    y = (shrink * x[:, None] + scale * z).reshape(-1, space.dim)
    return y, w.prod(1).repeat(len(x)) / len(x)


@every_space
@pytest.mark.parametrize("n", [8, 19])
def test_energy_and_slope_by_quadrature(space, n):
    basis, x, t = space.eigenbasis(n), points(space.dim, 9), 0.02
    y, w = diffused(space, x, t, 24 if space.dim < 3 else 14)
    gradient = basis.gradient(y)
    expected = torch.einsum("n,njd,nkd->jk", w, gradient, gradient)
    slope = -(w @ basis.generator(y))
    moments, times = basis.moments(x), torch.tensor([t], dtype=F64)
    assert (energy(moments.factor(times))[0] - expected).abs().max() < 1e-7 * expected.abs().max()
    assert (moments.slope(times)[0] - slope).abs().max() < 1e-9 * slope.abs().max()


@every_space
def test_shrunk_moments_are_those_of_a_law(space):
    basis, times = space.eigenbasis(10), torch.tensor([0.02, 0.4], dtype=F64)
    moments = basis.moments(points(space.dim))
    later, shrunk = moments.factor(times + 0.3), moments.shrunk(mix=0.7, heat=0.3)
    expected = 0.7 * energy(later) + 0.3 * torch.diag(-basis.eigenvalues)
    room = 1e-7 * float(expected.abs().max())
    assert torch.allclose(energy(shrunk.factor(times)), expected, atol=room)
    assert torch.allclose(shrunk.slope(times), 0.7 * moments.slope(times + 0.3), atol=1e-14)


@pytest.mark.parametrize("degree", [4, 30])
def test_high_degrees_do_not_cancel(degree):
    """Products of an angle with polynomials of degree 30: ``A_0`` is the average over the data, to
    rounding."""
    basis = SPACES["angle, line"].eigenbasis(2)
    basis = basis.with_indices(torch.tensor([[1, k] for k in range(degree + 1)]))
    x = torch.randn(60, 2, generator=rng(), dtype=F64).clamp(-3, 3)
    gradient = basis.gradient(x)
    expected = torch.einsum("njd,nkd->jk", gradient, gradient) / len(x)
    found = energy(basis.moments(x).factor(torch.zeros(1, dtype=F64)))[0]
    scale = basis.eigenvalues.abs().sqrt()
    assert ((found - expected) / scale[:, None] / scale).abs().max() < 1e-8


@pytest.mark.parametrize(
    "process", [ms.TorusBrownian(10), ms.OrnsteinUhlenbeck(9), ms.BoxBrownian(7)],
    ids=lambda p: type(p).__name__,
)  # fmt: skip
def test_many_dimensions_equal_brute_force(process):
    """Averages of all functions by their definition; ``A_0`` from their gradients."""
    basis, x = process.eigenbasis(60), points(process.dim, 30)
    moments, zero = basis.moments(x), torch.zeros(1, dtype=F64)
    slope = -basis.eigenvalues * basis(x).mean(0)
    assert torch.allclose(moments.slope(zero)[0], slope, atol=1e-12)
    gradient = basis.gradient(x)
    expected = torch.einsum("njd,nkd->jk", gradient, gradient) / len(x)
    assert (energy(moments.factor(zero))[0] - expected).abs().max() < 1e-7 * expected.abs().max()
    scatter = basis(x).var(0) / len(x)
    own = moments.variance[getattr(moments, "own", slice(None))]
    if isinstance(process, ms.TorusBrownian):  # a cosine and its sine share theirs
        scatter = scatter.view(2, -1).mean(0).repeat(2)
    assert torch.allclose(own, scatter, rtol=1e-9)


@pytest.mark.parametrize(
    "process",
    [ms.TorusBrownian(2), ms.OrnsteinUhlenbeck(2), ms.BoxBrownian(2, -1.0, 2.0)],
    ids=lambda p: type(p).__name__,
)
def test_a_product_of_one_factor_is_the_factor(process):
    x = points(2, 200)
    one = ms.Product([process])
    expected = ms.fit_spectral(x, process, 24, shrinkage="heat")
    found = ms.fit_spectral(x, one, 24, shrinkage="heat")
    assert torch.equal(found.coefficients, expected.coefficients)
    assert torch.equal(found(x, 0.1), expected(x, 0.1))
    a = ms.log_likelihood(expected, process, x[:20])
    assert torch.equal(ms.log_likelihood(found, one, x[:20]), a)
    draws = [
        ms.sample_ode(s, p, 8, generator=rng(1)) for s, p in ((expected, process), (found, one))
    ]
    assert torch.equal(*draws)


def test_independent_parts_have_the_sum_of_their_scores():
    """Of a product law the score is that of the parts, up to the noise of the averages: with
    quadrature nodes of a product, and the functions of each part alone, exactly."""
    circle, line = ms.TorusBrownian(1), ms.OrnsteinUhlenbeck(1)
    a, b = points(1, 12, 1), points(1, 9, 2)
    both = torch.tensor(list(itertools.product(a[:, 0].tolist(), b[:, 0].tolist())), dtype=F64)
    times = torch.tensor([0.1, 0.5], dtype=F64)
    parts = [ms.fit_spectral(a, circle, 4, times), ms.fit_spectral(b, line, 2, times)]
    space = ms.Product([circle, line])
    moments = space.eigenbasis(6)
    alone = moments.with_indices(torch.tensor([[1, 0], [2, 0], [0, 1], [0, 2]]))
    from markovscore.spectral import solve  # the face has the fit, which chooses the functions

    table = solve(alone.moments(both), times)
    score = ms.SpectralScore(space, alone, times, table)
    x = points(2, 5, 3)
    expected = torch.cat([parts[0](x[:, :1], 0.1), parts[1](x[:, 1:], 0.1)], 1)
    assert torch.allclose(score(x, 0.1), expected, atol=1e-6)


@every_space
def test_files_keep_the_space(space, tmp_path):
    x = points(space.dim, 100)
    score = ms.fit_spectral(x, space, 20, shrinkage="heat")
    score.save(tmp_path / "score")
    loaded = ms.SpectralScore.load(tmp_path / "score")
    assert torch.equal(loaded(x, 0.1), score(x, 0.1))
    assert [type(f) for f in loaded.diffusion.factors] == [type(f) for f in space.factors]
    assert loaded.diffusion.horizon == space.horizon


@every_space
@pytest.mark.parametrize("selection", ["greedy", "cross"])
def test_selections_work_on_it(space, selection):
    x = points(space.dim, 300)
    score = ms.fit_spectral(x, space, 12, selection=selection, shrinkage="heat")
    assert score.basis.n_functions == 12
    assert torch.isfinite(score(x, 0.05)).all()


def test_density_of_an_angle_and_a_length_against_a_histogram():
    """The mean log-density of fresh points equals the entropy of the law that was drawn from."""
    generator = rng(5)

    def draw(n):
        angle = math.pi * (2 * torch.rand(n, generator=generator, dtype=F64) - 1)
        # given the angle, a normal law whose mean turns with it
        length = 0.8 * angle.cos() + 0.5 * torch.randn(n, generator=generator, dtype=F64)
        return torch.stack([angle, length], 1)

    space = SPACES["angle, line"]
    score = ms.fit_spectral(draw(20_000), space, 60, shrinkage="heat")
    found = ms.log_likelihood(score, space, draw(2_000), steps=160)
    expected = -math.log(2 * math.pi) - 0.5 * math.log(2 * math.pi * math.e * 0.25)
    assert abs(float(found.mean()) - expected) < 0.05 + 6 * float(found.std()) / math.sqrt(2_000)
    sample = ms.sample_ode(score, space, 4_000, generator=generator)
    slope = float((sample[:, 0].cos() * sample[:, 1]).mean()) / 0.5
    assert abs(slope - 0.8) < 0.05 + 6 * 0.6 / math.sqrt(4_000)


def test_degrees_give_the_same_density_in_their_units():
    x = points(2, 400)
    radians, degrees = ms.TorusBrownian(2), ms.TorusBrownian(2, period=360)
    scale = 180 / math.pi
    times = torch.logspace(-2, math.log10(4.0), 60, dtype=F64)
    a = ms.fit_spectral(x, radians, 40, times)
    b = ms.fit_spectral(scale * x, degrees, 40, scale**2 * times)
    assert torch.allclose(b(scale * x, scale**2 * 0.1) * scale, a(x, 0.1), rtol=1e-8, atol=1e-8)
    there = ms.log_likelihood(a, radians, x[:9])
    here = ms.log_likelihood(b, degrees, scale * x[:9])
    assert torch.allclose(here, there - 2 * math.log(scale), atol=1e-8)
    y, x0 = scale * x[:9], scale * x[9:18]
    law = degrees.log_transition(y, x0, scale**2 * 0.3)
    assert torch.allclose(law, radians.log_transition(x[:9], x[9:18], 0.3) - 2 * math.log(scale))
    assert float(ms.fit_spectral(scale * x, degrees, 20).times[-1]) == pytest.approx(4 * scale**2)


def test_points_out_of_reach_continue_along_the_line():
    """Far away along the line the score is a Gaussian's; angles have no far."""
    space = SPACES["angle, line"]
    x = torch.cat([points(1, 500), torch.randn(500, 1, generator=rng(), dtype=F64)], 1)
    score = ms.fit_spectral(x, space, 60, shrinkage="heat")
    far = torch.tensor([[0.3, 40.0], [3.0, -40.0], [3.0, 0.0]], dtype=F64)
    value, divergence = score.score_and_divergence(far, 0.05)
    assert (value[:2, 1] * far[:2, 1] < 0).all() and (value[:2, 1].abs() < 60).all()
    assert torch.isfinite(divergence).all()
    assert torch.isfinite(ms.log_likelihood(score, space, far)).all()


def test_bad_spaces_and_points_are_named():
    refused("one process or more", ms.Product, [])
    refused("with eigenbasis", ms.Product, [ms.ActiveSwimmer()], error=TypeError)
    refused("sqrt2", ms.Product, [ms.DoubleWell(1)])
    refused("period", ms.TorusBrownian, 1, period=0.0)
    x = torch.tensor([[170.0], [-20.0]], dtype=F64)
    refused("look like degrees", ms.fit_spectral, x, ms.TorusBrownian(1), 2)
    refused("in the state space", ms.fit_spectral, np.array([[9.0, 0.0]]), SPACES["angle, line"], 2)
