"""Eigenfunctions of three coordinates and more that are not independent: oracles, errors, fits.

Oracles: a rotated normal law, whose rates are sums; a rotated product with a double well, whose
functions and fits are those of products; three bumps in a plane of the space, whose rates are those
of the plane's own solver and of a line; simulation.
"""

import math
import pickle
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from odd_inputs import refused
from statistical import F64, agrees, points, rng

import markovscore as ms
from markovscore.eigenbasis import (
    PARTICLES,
    Components,
    Galerkin,
    Paths,
    drawn_evenly,
    fit_components,
)

TURN = torch.linalg.qr(points(3, d=3, seed=5)).Q
SPREAD = torch.tensor([0.8, 1.0], dtype=F64)
FLAT = 2 * torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]], dtype=F64)
GRID = torch.linspace(-3, 3, 4001, dtype=F64)
BELOW = (-1.5 * (GRID.square() - 1).square()).exp().cumsum(0)
LOG_SUM = math.log(float(BELOW[-1]) * 6 / 4000)
BUMPS = ms.GaussianMixture(torch.nn.functional.pad(FLAT, (0, 1)) @ TURN.T, 0.8)


class Wells:
    """Independent coordinates, the first a double well, and the same turned."""

    dim = 3

    def __init__(self, turn):
        self.turn = turn

    def log_prob(self, x):
        y = x @ self.turn
        own = -1.5 * (y[:, 0].square() - 1).square() - 0.5 * (y[:, 1:] / SPREAD).square().sum(1)
        return own - LOG_SUM - math.log(2 * math.pi * 0.8)

    def score(self, x):
        y = x @ self.turn
        first = -6 * y[:, :1] * (y[:, :1].square() - 1)
        return torch.cat([first, -y[:, 1:] / SPREAD.square()], 1) @ self.turn.T

    def sample(self, n, generator=None, dtype=F64, device=None):
        u = BELOW[-1] * torch.rand(n, generator=generator, dtype=F64)
        others = SPREAD * torch.randn(n, 2, generator=generator, dtype=F64)
        return torch.cat([GRID[torch.searchsorted(BELOW, u)][:, None], others], 1) @ self.turn.T


WELLS = Wells(TURN)
TURNED, PLAIN = ms.Langevin(WELLS, 2.0, 2.0), ms.Langevin(Wells(torch.eye(3, dtype=F64)), 2.0, 2.0)


@pytest.fixture(autouse=True, scope="module")
def small():
    """Spans, sets of nodes and particles of a fraction of the usual size."""
    with pytest.MonkeyPatch.context() as patch:
        made = partial(Galerkin, size=260, nodes=2**12)
        patch.setattr("markovscore.diffusions.spectra.Galerkin", made)
        patch.setattr("markovscore.eigenbasis.ritz.PARTICLES", 40)
        yield


# -- oracles ---------------------------------------------------------------------------------------


def test_a_rotated_normal_law():
    """Its functions are in the span, so that nodes do no harm."""
    variances = torch.tensor([1.5, 1.0, 0.5], dtype=F64)
    inverse = TURN @ (1 / variances).diag() @ TURN.T
    root = torch.linalg.cholesky(TURN @ variances.diag() @ TURN.T)
    normal = ms.Gaussian(3, 0.0, root)
    law = SimpleNamespace(
        dim=3, sample=normal.sample, score=lambda x: -x @ inverse,
        log_prob=lambda x: -0.5 * ((x @ inverse) * x).sum(1),
    )  # fmt: skip
    basis = ms.Langevin(law, 2.0, 2.0).eigenbasis(60)
    sides = range(9), range(9), range(9)
    rates = sorted(i / 1.5 + j + k / 0.5 for i in sides[0] for j in sides[1] for k in sides[2])
    assert -basis.eigenvalues == pytest.approx(rates[1:61], abs=1e-9)
    assert basis.spectrum.residuals[:60].max() < 1e-2
    # The slowest two are linear, along the widest axes.
    slopes = basis.gradient(points(2, d=3))[:, :2] @ TURN
    assert (slopes.abs() * variances.sqrt() - torch.eye(3)[:2]).abs().max() < 1e-2


def test_a_rotated_product():
    basis, plain = TURNED.eigenbasis(40), PLAIN.eigenbasis(40)
    assert len(plain.axes) == 3 and not basis.axes
    gaps = (basis.eigenvalues - plain.eigenvalues).abs() / (1 + plain.eigenvalues.abs())
    assert gaps[:12].max() < 1e-3 and gaps[:20].max() < 1e-2
    x = WELLS.sample(400, rng(2))
    ours, theirs = basis(x)[:, :6], plain(x @ TURN)[:, :6]
    signs = (ours * theirs).sum(0).sign()
    assert (ours - signs * theirs).square().mean() < 1e-4


def test_bumps_in_a_plane():
    """Rates are sums of those of the plane and of a line."""
    plane = ms.Langevin(ms.GaussianMixture(FLAT, 0.8), 2.0).eigenbasis(40).eigenvalues
    line = -torch.arange(9, dtype=F64) / 0.64
    rates = (torch.cat([torch.zeros(1), plane])[:, None] + line).flatten().sort(descending=True)
    found = Galerkin(BUMPS.log_prob, BUMPS.score, parts_of(BUMPS), 360, 2**13).spectrum
    truth = rates.values[: len(found.eigenvalues)]
    gaps = (found.eigenvalues - truth).abs() / (1 + truth.abs())
    assert gaps[:3].max() < 1e-3 and gaps[:20].max() < 2e-3
    # What is reported is what is: residuals bound the distances to the spectrum.
    to_spectrum = (found.eigenvalues[:30, None] - rates.values).abs().amin(1)
    assert bool((to_spectrum <= found.residuals[:30] * (1 + found.eigenvalues[:30].abs())).all())
    assert found.gap == pytest.approx(-float(plane[0]), rel=1e-2)


def parts_of(law):
    variances = law.scale.square()[:, None].expand_as(law.means)
    return Components.of(law.weights, law.means, torch.diag_embed(variances))


# -- errors and functions --------------------------------------------------------------------------


def test_residuals_by_draws():
    """``||L phi - lambda phi||`` by autograd, at independent draws of the law."""
    basis = ms.Langevin(BUMPS, 2.0).eigenbasis(12)
    x = BUMPS.sample(100, rng(4), dtype=F64).requires_grad_()
    moved = []
    for values in basis(x)[:, :4].unbind(1):
        (slope,) = torch.autograd.grad(values.sum(), x, create_graph=True)
        curved = sum(torch.autograd.grad(slope[:, i].sum(), x, retain_graph=True)[0][:, i]
                     for i in range(3))  # fmt: skip
        moved.append(curved + (BUMPS.score(x) * slope).sum(1))
    truth = torch.stack(moved, 1).detach()
    assert torch.allclose(basis.generator(x.detach())[:, :4], truth, rtol=1e-6, atol=1e-6)
    draws = BUMPS.sample(6000, rng(4), dtype=F64)
    gaps = basis.generator(draws) - basis.eigenvalues * basis(draws)
    found = gaps.square().mean(0).sqrt() / (1 + basis.eigenvalues.abs())
    assert (found / basis.spectrum.residuals[1:13] - 1).abs().max() < 0.6
    assert basis.spectrum.changes[:13].max() < basis.spectrum.residuals[1:13].max()
    assert basis.spectrum.angles[:6].max() < 0.1


def test_the_ways_to_evaluate_agree():
    basis, x = TURNED.eigenbasis(9), points(50, d=3).requires_grad_()
    alpha = torch.randn(9, generator=rng(1), dtype=F64)
    fast = basis.derivatives(alpha, x, laplacian=True)
    assert torch.allclose(fast[:3].T, basis.gradient(x).mT @ alpha)
    assert torch.allclose(fast[3], basis.laplacian(x) @ alpha)
    each = basis.derivatives(alpha.expand(len(x), -1), x, laplacian=True)
    assert torch.allclose(each, fast)
    (own,) = torch.autograd.grad((basis(x) @ alpha).sum(), x)
    assert torch.allclose(own, fast[:3].T)
    single = basis.derivatives(alpha.float(), x.detach().float())
    assert single.dtype == torch.float32
    assert (single - fast[:3]).abs().max() < 1e-3 * fast[:3].abs().max()
    assert torch.equal(basis.with_indices(basis.indices[[4, 2]])(x), basis(x)[:, [4, 2]])


def test_a_process_pickles():
    TURNED.eigenbasis(2)
    again, x = pickle.loads(pickle.dumps(TURNED)), points(5, d=3)
    assert torch.equal(again.eigenbasis(4)(x), TURNED.eigenbasis(4)(x))


def test_blocks_do_not_depend_on_the_solver():
    """The three rates of a normal law that are one: the same functions from turned ones."""
    law = ms.GaussianMixture(torch.zeros(1, 3, dtype=F64), 1.0)
    galerkin = Galerkin(law.log_prob, law.score, parts_of(law), 60, 2**11)
    found = galerkin.spectrum
    assert torch.allclose(found.eigenvalues[1:4], -torch.ones(3, dtype=F64))
    turned = found.coefficients.clone()
    turned[:, 1:4] = turned[:, 1:4] @ TURN
    again = galerkin.oriented(turned, found.eigenvalues)
    assert torch.allclose(again, found.coefficients, atol=1e-8)


def test_a_law_as_parts():
    """As many normal laws as the draws are made of, and where these are."""
    parts = fit_components(BUMPS.sample(3000, rng(1), dtype=F64), rng(2))
    assert len(parts.weights) == 3
    assert (torch.cdist(BUMPS.means, parts.means).amin(1) < 0.1).all()
    assert (parts.scales - 0.8).abs().max() < 0.1
    one = fit_components(1 + 0.5 * points(1000, d=4), rng(2))
    assert len(one.weights) == 1 and (one.means - 1).abs().max() < 0.1
    x = points(20, d=3).requires_grad_()
    r, slope, bent = parts.shares(parts.whitened(x))
    (own,) = torch.autograd.grad(r[1].sum(), x, create_graph=True)
    assert torch.allclose(own, slope[1])
    curved = sum(torch.autograd.grad(own[:, i].sum(), x, retain_graph=True)[0][:, i]
                 for i in range(3))  # fmt: skip
    assert torch.allclose(curved, bent[1])
    assert torch.allclose(r.sum(0), torch.ones(20, dtype=F64))


# -- averages --------------------------------------------------------------------------------------


def test_averages_by_simulation(monkeypatch):
    monkeypatch.setattr("markovscore.eigenbasis.ritz.PARTICLES", 375)
    basis, x = TURNED.eigenbasis(8), 0.4 * points(3, d=3)
    moments = basis.moments(x, torch.tensor([0.5, 0.3, 0.2]))
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    assert torch.allclose(moments.mean, weights @ basis(x))
    for t in (0.05, 0.4):
        start = x.repeat_interleave((4000 * weights).long(), 0)
        y = ms.simulate(TURNED, start, t, steps=60, generator=rng())
        gradient = basis.gradient(y)
        products = torch.einsum("bji,bki->bjk", gradient, gradient)
        found = moments.energy(torch.tensor([t], dtype=F64))[0]
        # Both have errors of chance, the particles' the larger; levels are linear between.
        bound = 6 * products.std(0) * (1 / 4000 + 1 / 3000) ** 0.5
        assert bool(((products.mean(0) - found).abs() < bound + 0.02 * found.abs().max()).all())
    later = moments.shrunk(heat=0.1).energy(torch.tensor([0.2], dtype=F64))
    assert torch.allclose(later, moments.energy(torch.tensor([0.3], dtype=F64)))
    still = basis.moments(x).energy(torch.zeros(1, dtype=F64))[0]
    gradient = basis.gradient(x)
    gram = torch.einsum("bji,bki->jk", gradient, gradient) / 3
    assert (still - gram).abs().max() < 1e-7 * gram.abs().max()
    mixed = moments.shrunk(mix=0.75).energy(torch.tensor([0.2], dtype=F64))[0]
    plain = moments.energy(torch.tensor([0.2], dtype=F64))[0]
    assert torch.allclose(mixed, 0.75 * plain - 0.25 * basis.eigenvalues.diag())


def test_energies_are_positive_at_all_times():
    basis = TURNED.eigenbasis(30)
    moments = basis.moments(0.1 * points(200, d=3))
    values = torch.linalg.eigvalsh(moments.energy(torch.logspace(-5, 0.3, 6, dtype=F64)))
    assert bool((values > 0).all())


def test_particles():
    x = torch.arange(5, dtype=F64)[:, None]
    drawn = drawn_evenly(x, torch.tensor([0.1, 0.0, 0.4, 0.25, 0.25], dtype=F64), 20)
    assert drawn[:, 0].long().bincount().tolist() == [2, 0, 8, 5, 5]
    start = torch.full((20_000, 1), 2.0, dtype=F64)
    paths = Paths(lambda y: -y, start, 1.0)
    y = paths.at(0)  # time one, of an Ornstein-Uhlenbeck process
    decay = math.exp(-1)
    assert agrees(y, 2 * decay, slack=0.02)
    assert agrees((y - y.mean()) ** 2, 1 - decay**2, slack=0.05)
    assert torch.equal(paths.at(-21), start) and paths.at(0) is y


# -- fits ------------------------------------------------------------------------------------------

CENTRES = torch.tensor([[0.9, 0.5, 0.3], [-0.7, -0.6, 0.0], [0.2, 0.3, -0.8]], dtype=F64)
DATA = ms.GaussianMixture(CENTRES @ TURN.T, 0.25)


def test_a_fit_is_that_of_products():
    """The same functions, found otherwise."""
    x, t = DATA.sample(2000, rng(1), dtype=F64), torch.tensor([0.05, 0.2, 0.6], dtype=F64)
    ours = ms.fit_spectral(x, TURNED, 12, t, shrinkage="heat+1")
    theirs = ms.fit_spectral(x @ TURN, PLAIN, 12, t, shrinkage="heat+1")
    for time in t:
        y = ms.simulate(TURNED, x, float(time), steps=40, generator=rng(2))
        truth = theirs(y @ TURN, time) @ TURN.T
        assert (ours(y, time) - truth).square().sum() < 0.02 * truth.square().sum()


def test_the_flow_of_a_fit_is_that_of_products(monkeypatch):
    """With too few particles it loses nats in the tails."""
    monkeypatch.setattr("markovscore.eigenbasis.ritz.PARTICLES", PARTICLES)
    x, fresh = (DATA.sample(n, rng(n), dtype=F64) for n in (3000, 40))
    t = torch.logspace(-2, 0.3, 16, dtype=F64)
    ours = ms.fit_spectral(x, TURNED, 20, t, shrinkage="heat+1")
    theirs = ms.fit_spectral(x @ TURN, PLAIN, 20, t, shrinkage="heat+1")
    gaps = ms.log_likelihood(ours, TURNED, fresh, steps=60)
    gaps = gaps - ms.log_likelihood(theirs, PLAIN, fresh @ TURN, steps=60)
    assert abs(float(gaps.mean())) < 0.1 and float(gaps.abs().max()) < 1.0


def test_stein_identities():
    """``E s_i(Y) Y_j = -delta_ij``, with simulated ``Y``."""
    process = ms.Langevin(BUMPS, 2.0, 2.0)
    x = 0.9 * points(2000, d=3) + 0.3
    score = ms.fit_spectral(x, process, 30, [0.2, 0.5], shrinkage="none")
    y = ms.simulate(process, x.repeat(10, 1), 0.5, steps=100, generator=rng(3))
    products = score(y, 0.5)[:, :, None] * y[:, None, :]
    assert agrees(products, -torch.eye(3, dtype=F64), slack=0.05)


def test_likelihood_samples_and_files(tmp_path):
    x = DATA.sample(60, rng(1), dtype=F64)
    score = ms.fit_spectral(x, TURNED, 10, [0.02, 0.1, 0.5, 2.0], shrinkage="heat+1")
    fresh = DATA.sample(20, rng(2), dtype=F64)
    gap = ms.log_likelihood(score, TURNED, fresh, steps=60) - DATA.log_prob(fresh)
    assert -2.5 < float(gap.mean()) < 0.3
    drawn = ms.sample_ode(score, TURNED, 60, steps=40, generator=rng(3))
    assert (drawn.mean(0) - x.mean(0)).abs().max() < 0.5
    score.save(tmp_path / "a.safetensors")
    again = ms.SpectralScore.load(tmp_path / "a.safetensors", ms.Langevin(WELLS, 2.0, 2.0))
    assert torch.allclose(again(x, 0.1), score(x, 0.1))
    whole = ms.fit_spectral(x, ms.Langevin(BUMPS, 2.0, 2.0), 10)
    whole.save(tmp_path / "b.safetensors")
    assert torch.allclose(ms.SpectralScore.load(tmp_path / "b.safetensors")(x, 0.1), whole(x, 0.1))


def test_beyond_the_nodes_nothing_is_added():
    score = ms.fit_spectral(0.3 * points(50, d=3), TURNED, 8, shrinkage="heat+1")
    far = torch.tensor([[30.0, 0.0, 0.0]], dtype=F64)
    assert torch.equal(score(far, 0.1), WELLS.score(far))


# -- bad input -------------------------------------------------------------------------------------


def changed(**attributes):
    own = {name: getattr(WELLS, name) for name in ("dim", "log_prob", "score", "sample")}
    return ms.Langevin(SimpleNamespace(**own | attributes), 2.0)


def test_laws_that_have_no_eigenfunctions_here():
    wide = ms.GaussianMixture(torch.eye(7, dtype=F64), 1.0)
    refused("at most 6 coordinates, found 7", ms.Langevin(wide).eigenbasis, 4)
    refused("box: expected none with 3", ms.Langevin(WELLS, box=(-3, 3)).eigenbasis, 4)
    refused("finite draws", changed(sample=lambda n, **where: torch.ones(3)).eigenbasis, 4)
    with pytest.raises(TypeError, match=r"sample\(n, generator"):
        changed(sample=None).eigenbasis(4)
    elsewhere = changed(sample=lambda n, **where: 9 + 0.1 * WELLS.sample(n, **where))
    with pytest.raises(ArithmeticError, match="of the nodes with all the weight"):
        elsewhere.eigenbasis(4)
    rough = changed(
        log_prob=lambda x: WELLS.log_prob(x) + 0.5 * (40 * x[:, 0]).cos() * (40 * x[:, 1]).cos(),
    )
    rough.prior.score = lambda x: points_score(rough.prior.log_prob, x)
    with pytest.raises(ArithmeticError, match="too rough for so few functions"):
        rough.eigenbasis(4)


def points_score(log_prob, x):
    at = x.detach().requires_grad_()
    return torch.autograd.grad(log_prob(at).sum(), at)[0]


def test_more_functions_than_are_resolved():
    most = TURNED.eigenbasis(1).most
    assert 10 < most < 320
    with pytest.raises(ArithmeticError, match=rf"at most {most}, found 400"):
        ms.fit_spectral(0.3 * points(50, d=3), TURNED, 400)


def test_what_a_fit_refuses():
    x = 0.3 * points(50, d=3)
    refused("found 'cross'", ms.fit_spectral, x, TURNED, 8, selection="cross")
    refused("n_functions: expected a number with a prior of 3", ms.fit_spectral, x, TURNED)
    x[3] = torch.tensor([9.0, 0.0, 1.0])
    refused(r"1 of 50 beyond its tails.*\[9\.0", ms.fit_spectral, x, TURNED, 8)


def test_many_parts_leave_no_room():
    means = 8 * torch.from_numpy(np.random.default_rng(0).standard_normal((40, 6)))
    with pytest.raises(ArithmeticError, match="40 parts in 6"):
        ms.Langevin(ms.GaussianMixture(means, 1.0)).eigenbasis(4)
