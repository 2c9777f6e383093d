"""Eigenfunctions against their definition: autograd, quadrature, brute force, Monte Carlo."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_inputs import refused
from statistical import F64, agrees, rng

import markovscore as ms
from markovscore.eigenbasis import Circle, Interval, index_set, mean_features, products

BASES = [
    ms.Hermite(1, 12),
    ms.Hermite(2, 14),
    ms.Hermite(3, 9),
    ms.Fourier(1, 12),
    ms.Fourier(2, 30),
    ms.Fourier(3, 26),
    ms.Cosine(1, 9, -1.0, 2.0),
    ms.Cosine(2, 20, -1.0, 2.0),
    ms.Cosine(3, 11),
]


IDS = [f"{type(b).__name__}{b.dim}" for b in BASES]
every_basis = pytest.mark.parametrize("basis", BASES, ids=IDS)


def points(basis, n=7, seed=0):
    """Uniform points in [0, 1]^d, inside every state space."""
    return torch.rand(n, basis.dim, generator=rng(seed), dtype=F64)


def drift(basis, x):
    """The process that each basis diagonalises: only Ornstein-Uhlenbeck drifts."""
    return -x if isinstance(basis, ms.Hermite) else torch.zeros_like(x)


@every_basis
def test_generator_by_autograd(basis):
    """``Laplacian phi + f . grad phi = lambda phi`` with derivatives from autograd."""
    for point in points(basis):
        jacobian = torch.func.jacfwd(lambda p: basis(p[None])[0])(point)
        hessian = torch.func.jacfwd(torch.func.jacfwd(lambda p: basis(p[None])[0]))(point)
        value = basis(point[None])[0]
        applied = hessian.diagonal(dim1=1, dim2=2).sum(1) + jacobian @ drift(basis, point)
        scale = 1 + value.abs().max() * basis.eigenvalues.abs().max()
        assert (applied - basis.eigenvalues * value).abs().max() < 1e-11 * scale
        assert (jacobian - basis.gradient(point[None])[0]).abs().max() < 1e-12 * scale
        assert (basis.generator(point[None])[0] - applied).abs().max() < 1e-11 * scale


@pytest.mark.parametrize("basis", [b for b in BASES if b.dim < 3], ids=lambda b: type(b).__name__)
def test_orthonormal_by_quadrature(basis):
    """``E_pi phi_j phi_k = delta_jk`` and ``E_pi phi_k = 0`` by a product rule that is exact."""
    if isinstance(basis, ms.Hermite):
        nodes, weights = np.polynomial.hermite_e.hermegauss(2 * basis.order + 2)
        weights = weights / weights.sum()
    else:
        low, high = getattr(basis, "low", -math.pi), getattr(basis, "high", math.pi)
        count = 4 * basis.order + 4  # midpoint rule: exact for waves below this frequency
        nodes = low + (high - low) * (np.arange(count) + 0.5) / count
        weights = np.full(count, 1 / count)
    x = torch.tensor(list(product(nodes, repeat=basis.dim)), dtype=F64)
    w = torch.tensor([math.prod(p) for p in product(weights, repeat=basis.dim)], dtype=F64)
    phi, identity = basis(x), torch.eye(basis.n_functions, dtype=F64)
    assert torch.allclose(phi.T @ (w[:, None] * phi), identity, atol=1e-10)
    assert (w @ phi).abs().max() < 1e-11


@every_basis
def test_semigroup_by_monte_carlo(basis):
    """``E[phi_k(Y_t) | Y_0 = x] = e^{lambda_k t} phi_k(x)`` within 6 standard errors of exact
    draws."""
    process = {
        ms.Hermite: ms.OrnsteinUhlenbeck(basis.dim),
        ms.Fourier: ms.TorusBrownian(basis.dim),
        ms.Cosine: ms.BoxBrownian(basis.dim, getattr(basis, "low", 0), getattr(basis, "high", 1)),
    }[type(basis)]
    t, n, start = 0.05, 20_000, points(basis, 1)
    phi = basis(process.sample_transition(start.expand(n, -1), t, rng(3)))
    assert agrees(phi, torch.exp(basis.eigenvalues * t) * basis(start)[0], 1e-12)


@every_basis
def test_fast_evaluation_equals_definition(basis):
    alpha = torch.randn(basis.n_functions, generator=rng(1), dtype=F64)
    x = points(basis, 301)
    gradient, laplacian = (basis.gradient(x) * alpha[:, None]).sum(1), basis.laplacian(x) @ alpha
    expected = torch.column_stack([gradient, laplacian]).T
    shared = basis.contract(basis.jet_tensors(alpha), x)
    each = basis.contract_each(basis.jet_tensors(alpha.expand(len(x), -1)), x)
    for found in (shared, each):
        assert (found - expected).abs().max() < 1e-13 * expected.abs().max()


@every_basis
def test_blocks_do_not_change_values(basis, monkeypatch):
    alpha = torch.randn(basis.n_functions, generator=rng(1), dtype=F64)
    x, w = points(basis, 777), torch.full((777,), 1 / 777, dtype=F64)

    def both():
        mean = mean_features(basis.axes[0], x, w, 3)
        return basis.contract(basis.jet_tensors(alpha), x), mean

    whole = both()
    monkeypatch.setattr("markovscore.eigenbasis.base.CACHE_ENTRIES", 1)
    monkeypatch.setattr("markovscore.eigenbasis.averages.CACHE_ENTRIES", 1)
    for a, b in zip(whole, both(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-13 * float(a.abs().max()))


@given(st.integers(1, 4), st.integers(1, 60), st.booleans())
@settings(deadline=None, max_examples=40)
def test_index_sets_are_the_smallest(dim, count, half_plane):
    """Against brute force over a box: distinct, non-zero, sorted, and none left out is smaller."""
    axis = Circle() if half_plane else Interval(0.0, math.pi)
    found = index_set((axis,) * dim, 2 * count if half_plane else count)
    assert len({tuple(k) for k in found.tolist()}) == count == len(found)
    cost = (found**2).sum(1)
    assert (cost.diff() >= 0).all() and cost[0] == 1
    reach = int(found.abs().max()) + 1
    grid = product(range(-reach, reach + 1), repeat=dim)
    full = [sum(e * e for e in k) for k in grid if any(k) and (half_plane or min(k) >= 0)]
    smaller = sum(c < int(cost[-1]) for c in full) // (2 if half_plane else 1)
    assert int((cost < cost[-1]).sum()) == smaller
    if half_plane:
        first = [next(e for e in k if e) for k in found.tolist()]
        assert min(first) > 0


@given(st.sampled_from([b for b in BASES if not isinstance(b, ms.Hermite)]), st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_products_expand_in_the_table(basis, seed):
    """``phi_j phi_k = sum_s c_s phi_{m_s}`` pointwise, with the table's functions evaluated by
    definition."""
    table = products(basis.axes, basis.indices)
    x = points(basis, 5, seed)
    if isinstance(basis, ms.Fourier):
        phase = x @ table.table.T.to(F64)
        functions = math.sqrt(2) * torch.cat([phase.cos(), phase.sin()[:, 1:]], 1)
    else:
        norm = math.sqrt(2) ** (table.table != 0).to(F64)
        angle = math.pi / (basis.high - basis.low) * (x - basis.low)
        functions = (norm * (angle[:, None] * table.table.to(F64)).cos()).prod(-1)
    functions[:, 0] = 1
    phi = basis(x)
    expanded = (table.values * functions[:, table.places]).sum(1)
    assert torch.allclose(expanded, phi[:, :, None] * phi[:, None], atol=1e-11)
    assert torch.allclose(functions[:, table.own], phi, atol=1e-12)


@given(st.lists(st.floats(-3, 3), min_size=12, max_size=12))
@settings(deadline=None, max_examples=30)
def test_parseval(coefficients):
    """``E_pi |sum a_k phi_k|^2 = |a|^2`` on the torus, by an exact equispaced rule."""
    basis = ms.Fourier(1, 12)
    a = torch.tensor(coefficients, dtype=F64)
    grid = torch.arange(32, dtype=F64)[:, None] * 2 * math.pi / 32 - math.pi
    assert abs(float((basis(grid) @ a).square().mean() - a @ a)) < 1e-10 * (1 + float(a @ a))


@every_basis
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dtype_follows_the_points(basis, dtype):
    x = points(basis).to(dtype)
    alpha = torch.ones(basis.n_functions, dtype=dtype)
    assert basis(x).dtype == basis.gradient(x).dtype == basis.laplacian(x).dtype == dtype
    assert basis.contract(basis.jet_tensors(alpha), x).dtype == dtype


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ms.Fourier(2, 201), "use 202"),
        (lambda: ms.Cosine(1, 5, 2.0, 1.0), "low < high"),
        (lambda: ms.Hermite(0, 3), "dim"),
        (lambda: ms.Fourier(1, 4, period=0.0), "period"),
    ],
)
def test_impossible_bases_are_refused(make, message):
    refused(message, make)
