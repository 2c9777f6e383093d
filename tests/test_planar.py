"""Eigenfunctions in the plane that are no products: oracles, orders, brute force, simulation.

Oracles: the correlated normal law, whose process is a rotated Ornstein-Uhlenbeck process (all laws
are known), and a rotated product of double wells, whose functions are those of one coordinate.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from odd_inputs import refused
from statistical import F64, agrees, points, rng, slope

import markovscore as ms
from markovscore.core import kept_on_disk
from markovscore.eigenbasis import Plane, deposit, evolved, make_mesh, solve_mesh
from markovscore.reference import fokker_planck
from markovscore.spectral import Sample, choose

ANGLES = torch.tensor([0.0, 2.0, 4.0], dtype=F64) * math.pi / 3
TRIANGLE = ms.Langevin(
    ms.GaussianMixture(2 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1), 0.8), 2.0, 3.0
)
TURN = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=F64)


def law(log_prob, dim=2):
    """A prior of one's own: its score by autograd."""

    def score(x):
        points = x.detach().requires_grad_()
        return torch.autograd.grad(log_prob(points).sum(), points)[0]

    return SimpleNamespace(dim=dim, log_prob=log_prob, score=score)


def ring(x):
    return -4 * (x.square().sum(1).sqrt() - 2).square()


def wells(x):
    y = x @ TURN
    return 0.5 * -(y[:, 0].square() - 1).square() - 0.7 * (y[:, 1].square() - 0.5).square()


def box(process, low, high, counts, degree=8, depth=1e3):
    ends = torch.tensor([low, low], dtype=F64), torch.tensor([high, high], dtype=F64)
    return make_mesh(process.prior.log_prob, *ends, (counts, counts), depth, degree)


# -- oracles ---------------------------------------------------------------------------------------


def test_a_correlated_normal_law():
    """Its rates are ``i / 1.5 + j / 0.5``; of normal data all laws are known."""
    covariance = TURN @ torch.diag(torch.tensor([1.5, 0.5], dtype=F64)) @ TURN.T
    inverse = torch.linalg.inv(covariance)
    process = ms.Langevin(law(lambda x: -0.5 * ((x @ inverse) * x).sum(1)), 2.0, 2.0)
    rates = sorted(i / 1.5 + j / 0.5 for i in range(9) for j in range(9))[1:6]
    # Walls with 1e-8 of the law beyond them: a polynomial of degree five feels them by 1e-5.
    assert -process.eigenbasis(5).eigenvalues == pytest.approx(rates, abs=3e-5)
    # Normal data, as nodes of a quadrature: the law stays normal.
    mean, start = torch.tensor([0.5, -0.4], dtype=F64), 0.5 * covariance + 0.1 * torch.eye(2)
    data = torch.distributions.MultivariateNormal(mean, start)
    grid = torch.linspace(-5, 5, 121, dtype=F64)
    x = torch.cartesian_prod(grid, grid)
    x = x[data.log_prob(x) > -20]
    times = torch.tensor([0.1, 0.5], dtype=F64)
    score = ms.fit_spectral(x, process, 60, times, weights=data.log_prob(x).exp(), exact=True)
    at = mean + points(200, scale=0.7)
    for t in times:
        decay = torch.linalg.matrix_exp(-t * inverse)
        spread = covariance + decay @ (start - covariance) @ decay
        truth = -(at - decay @ mean) @ torch.linalg.inv(spread)
        assert (score(at, t) - truth).square().mean() < 1e-5 * truth.square().mean()


def test_a_rotated_product():
    """Rates and functions are sums and products of those of the coordinates."""
    turned = ms.Langevin(law(wells), 2.0).eigenbasis(16)
    plain = ms.Langevin(law(lambda y: wells(y @ TURN.T)), 2.0).eigenbasis(16)
    assert len(plain.axes) == 2 and not turned.axes
    assert turned.eigenvalues[:16] == pytest.approx(plain.eigenvalues, rel=1e-4)
    x = points(300, scale=0.6)
    ours, theirs = turned(x)[:, :8], plain(x @ TURN)[:, :8]
    signs = (ours * theirs).sum(0).sign()
    assert (ours - signs * theirs).abs().max() < 1e-3 * theirs.abs().max()
    slopes = plain.gradient(x @ TURN)[:, :8] @ TURN.T
    gap = turned.gradient(x)[:, :8] - signs[:, None] * slopes
    assert gap.abs().max() < 1e-2 * slopes.abs().max()


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_orders(degree):
    """``2p`` of eigenvalues, ``p + 1`` of functions, ``p`` of gradients."""
    counts, errors, m = [6, 9, 13] if degree > 2 else [14, 21, 31], [], 4
    fine = solve_mesh(box(TRIANGLE, -2.0, 2.0, 6, 14), 8)
    x = 4 * torch.rand(2000, 2, generator=rng(), dtype=F64) - 2
    truth = read(fine, x)[:, m]
    for count in counts:
        found = solve_mesh(box(TRIANGLE, -2.0, 2.0, count, degree), 8)
        own = read(found, x)[:, m]
        own = own * (own[0] @ truth[0]).sign()
        gap = (own - truth).square().mean(1).sqrt()
        rate = abs(float(found.eigenvalues[m] - fine.eigenvalues[m]))
        errors.append([rate, float(gap[0]), float(gap[1:].norm())])
    orders = [-slope(counts, [row[i] for row in errors]) for i in range(3)]
    assert orders[0] > 2 * degree - 0.5
    assert orders[1] > degree + 1 - 0.5
    assert orders[2] > degree - 0.4


def read(found, x):
    """Values and gradients of all functions at ``x``: ``(3, n, B)``."""
    number, first, second = found.mesh.interpolation(x)
    fields = torch.cat([found.functions[None], found.gradients])
    own = fields[:, found.mesh.places[number]]
    return torch.einsum("cbijn,bi,bj->cnb", own, first, second)


# -- the basis -------------------------------------------------------------------------------------


def test_what_is_reported():
    spectrum = TRIANGLE.eigenbasis(30).spectrum
    assert spectrum.change < 1e-5 and spectrum.residual < 1e-9 and spectrum.orthogonality < 1e-10
    assert spectrum.gap == pytest.approx(0.18611, abs=1e-4)  # of leaving one of three wells
    mass, functions = spectrum.mesh.mass, spectrum.functions
    gram = functions.T @ (mass[:, None] * functions)
    assert (gram - torch.eye(len(gram))).abs().max() < 1e-9


def test_the_ways_to_evaluate_agree():
    basis, x = TRIANGLE.eigenbasis(30), points(100).requires_grad_()
    alpha = torch.randn(basis.n_functions, generator=rng(1), dtype=F64)
    fast = basis.derivatives(alpha, x, laplacian=True)
    assert torch.allclose(fast[:2].T, basis.gradient(x).mT @ alpha)
    assert torch.allclose(fast[2], basis.laplacian(x) @ alpha)
    each = basis.derivatives(alpha.expand(len(x), -1), x, laplacian=True)
    assert torch.allclose(each, fast)
    value = basis(x) @ alpha
    (own,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
    assert (own - fast[:2].T).abs().max() < 2e-3 * own.abs().max()
    total = sum(torch.autograd.grad(fast[i].sum(), x, retain_graph=True)[0][:, i] for i in (0, 1))
    assert (total - fast[2]).abs().max() < 2e-2 * total.abs().max()
    assert torch.allclose(basis.generator(x), basis.eigenvalues * basis(x))
    small = basis.derivatives(alpha.float(), x.detach().float())
    assert small.dtype == torch.float32
    assert (small - fast[:2]).abs().max() < 1e-4 * fast[:2].abs().max()


def test_beyond_the_elements_nothing_is_added():
    score = ms.fit_spectral(points(200, scale=0.5), TRIANGLE, 20, shrinkage="heat+1")
    far = torch.tensor([[30.0, 0.0], [-9.0, 9.0]], dtype=F64)
    assert torch.equal(score(far, 0.1), TRIANGLE.prior.score(far))


def test_blocks_of_equal_eigenvalues_are_whole_and_canonical():
    """Of a ring all but a few are pairs; rotations do not depend on the solver's start."""
    process = ms.Langevin(law(ring), 2.0)
    basis = process.eigenbasis(1)
    assert basis.n_functions == 2
    assert float(basis.eigenvalues[0] - basis.eigenvalues[1]) < 1e-6
    other = process.eigenbasis(2)
    assert torch.equal(basis.indices, other.indices)


def test_signs_do_not_depend_on_the_start(monkeypatch):
    mesh = box(TRIANGLE, -4.0, 4.0, 8)
    first = solve_mesh(mesh, 12)
    plain = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: plain(seed + 1))
    again = solve_mesh(mesh, 12)
    assert not torch.equal(again.functions, first.functions)
    assert (again.functions - first.functions).abs().max() < 1e-5


# -- averages --------------------------------------------------------------------------------------


def test_averages_by_brute_force():
    """All modes of the elements, by a dense solver."""
    basis = ms.Langevin(TRIANGLE.prior, 2.0, box=(-3.2, 3.2)).eigenbasis(24)
    x = 0.6 * points(300) + 0.4
    mesh, moments = basis.spectrum.mesh, basis.moments(x)
    values, vectors = (torch.from_numpy(a) for a in np.linalg.eigh(mesh.matrix.toarray()))
    start, root = deposit(mesh, x, torch.full((300,), 1 / 300, dtype=F64)), mesh.mass.sqrt()
    gradients = mesh.gradients(basis.spectrum.functions[:, basis.indices[:, 0]])
    weights = torch.rand(300, generator=rng(), dtype=F64)
    assert torch.allclose(basis.moments(x, weights / weights.sum()).mean,
                          weights @ basis(x) / weights.sum())  # fmt: skip
    for t in (1e-4, 0.02, 0.9):
        own = root * (vectors @ ((-t * values).exp() * (vectors.T @ (start / root))))
        levels = torch.tensor([10.0 ** math.floor(math.log10(t)), t], dtype=F64)
        assert (evolved(mesh, start, levels)[1] - own).abs().sum() < 1e-9
        truth = torch.einsum("iqj,q,iqk->jk", gradients, own, gradients)
        found = moments.energy(torch.tensor([t], dtype=F64))[0]
        assert (found - truth).abs().max() < 1e-7 * truth.abs().max()
        shrunk = moments.shrunk(mix=0.75, heat=0.4 * t).energy(torch.tensor([0.6 * t]))[0]
        mixed = 0.75 * truth - 0.25 * basis.eigenvalues.diag()
        assert (shrunk - mixed).abs().max() < 1e-6 * mixed.abs().max()
        assert float(torch.linalg.eigvalsh(found).min()) > 0
        slopes = -basis.eigenvalues * (basis.eigenvalues * t).exp() * basis(x).mean(0)
        assert torch.allclose(moments.slope(torch.tensor([t], dtype=F64))[0], slopes)
    gradient = basis.gradient(x)
    gram = torch.einsum("bji,bki->jk", gradient, gradient) / len(x)
    assert (moments.energy(torch.zeros(1))[0] - gram).abs().max() < 1e-2 * gram.abs().max()
    variance = basis(x).var(0, correction=1) / 300
    assert torch.allclose(moments.variance, variance, rtol=1e-2)


def test_the_law_at_later_times_by_simulation():
    x, t, basis = points(4, scale=0.8), 0.1, TRIANGLE.eigenbasis(8)
    y = ms.simulate(TRIANGLE, x.repeat(25_000, 1), t, steps=50, generator=rng())
    gradient = basis.gradient(y)
    products = torch.einsum("bji,bki->bjk", gradient, gradient)
    found = basis.moments(x).energy(torch.tensor([t], dtype=F64))[0]
    assert agrees(products, found, slack=0.02 * found.abs().max())


def test_averages_without_a_part_are_those_of_the_rest(monkeypatch):
    """Of points with weights; and the choice is that of folds of which each is averaged anew."""
    basis, x = TRIANGLE.eigenbasis(30), points(200, scale=0.7)
    weights, held = torch.rand(200, generator=rng(), dtype=F64), torch.arange(200) < 40
    part, rest = (basis.moments(x[at], weights[at] / weights[at].sum()) for at in (held, ~held))
    share = float(weights[held].sum() / weights.sum())
    found = basis.moments(x, weights / weights.sum()).without(part, share)
    times = torch.tensor([0.0, 0.04, 0.05], dtype=F64)
    for left, right in ((found, rest), (found.shrunk(0.9, 0.02), rest.shrunk(0.9, 0.02))):
        assert torch.allclose(left.slope(times), right.slope(times))
        truth = right.energy(times)
        gap = (left.energy(times) - truth).abs().amax((1, 2))
        assert bool((gap < 1e-6 * truth.abs().amax((1, 2))).all())
    levels = torch.logspace(-1.9, -0.1, 8, dtype=F64)
    choice = Sample(x[:60]), TRIANGLE.eigenbasis, None, levels, 3
    fast = choose(*choice)[0]
    monkeypatch.setattr(type(part), "without", lambda *_: None)
    slow = choose(*choice)[0]
    assert (fast.n_functions, fast.heat, fast.first) == (slow.n_functions, slow.heat, slow.first)
    assert bool(slow.gains.isfinite().all()) and (fast.gains - slow.gains).abs().max() < 1e-6


def test_more_functions_while_they_bring_a_standard_error(monkeypatch):
    """Of dense dots all; of a wide bump the first pool, whose largest size is the best."""
    monkeypatch.setattr("markovscore.spectral.held_out._PLANE", (14, 60))
    levels = torch.logspace(-1.9, -0.1, 6, dtype=F64)
    dots = torch.randint(3, (300, 2), generator=rng()) - 1.0 + points(300, scale=0.08)
    bump = points(300, scale=0.7) + torch.tensor([0.5, 0.2])
    for x, most in ((dots, 60), (bump, 14)):
        selection = choose(Sample(x), TRIANGLE.eigenbasis, None, levels, 1)[0]
        assert int(selection.sizes[-1]) == most
        assert selection.n_functions >= selection.sizes[-2] or most == 60


# -- fits ------------------------------------------------------------------------------------------


def test_against_the_fokker_planck_equation():
    data = ms.GaussianMixture(torch.tensor([[0.8, 0.3], [-0.9, -0.5]], dtype=F64), 0.5)
    grid = torch.linspace(-4, 4, 161, dtype=F64)
    x, times = torch.cartesian_prod(grid, grid), torch.tensor([0.1, 0.4], dtype=F64)
    score = ms.fit_spectral(x, TRIANGLE, 60, times, weights=data.log_prob(x).exp(), exact=True)
    truth = fokker_planck(
        TRIANGLE, data.log_prob, times, [[-5.5, 6.0], [-5.5, 5.5]], cells=180, steps=80
    )
    inside = points(400, scale=0.9)
    for t, bound in ((0.1, 2e-3), (0.4, 1e-3)):
        density, s = truth.density(inside, t), truth.score(inside, t)
        gap = (score(inside, t) - s).square().sum(1)
        assert density @ gap < bound * (density @ s.square().sum(1))


def test_likelihood_samples_and_sizes():
    data = ms.GaussianMixture(torch.tensor([[0.5, 1.0], [-1.0, -0.5]]), 0.5)
    x, fresh = (data.sample(n, rng(n), dtype=F64) for n in (1500, 500))
    score = ms.fit_spectral(x, TRIANGLE, 60, shrinkage="heat+1")
    gap = ms.log_likelihood(score, TRIANGLE, fresh) - data.log_prob(fresh)
    assert -0.15 < float(gap.mean()) < 0.01 + 6 * float(gap.std()) / 500**0.5
    drawn = ms.sample_ode(score, TRIANGLE, 500, generator=rng(3))
    for power in (1, 2):
        assert agrees(drawn**power, fresh.pow(power).mean(0), slack=0.1)
    chosen = ms.fit_spectral(x[:120], TRIANGLE)
    assert 2 <= chosen.selection.n_functions <= 60
    assert chosen.basis.n_functions == chosen.selection.n_functions
    mean = float((ms.log_likelihood(chosen, TRIANGLE, fresh) - data.log_prob(fresh)).mean())
    assert -0.6 < mean < 0.05


def test_the_other_ways_to_fit():
    x = points(100, scale=0.6)
    picked = ms.fit_spectral(x, TRIANGLE, 10, selection="greedy", shrinkage="heat")
    assert picked.basis.n_functions == 10
    assert picked.basis.indices[:, 0].tolist() != list(range(1, 11))
    bars = ms.jackknife(x, TRIANGLE, 8, n_blocks=4)
    value, error = bars(lambda s: s(x[:3], 0.1))
    assert error.shape == value.shape and bool((error > 0).all())
    doubled = ms.fit_spectral(x, TRIANGLE, 8, weights=torch.ones(100))
    assert torch.allclose(doubled(x, 0.2), ms.fit_spectral(x, TRIANGLE, 8)(x, 0.2))
    image = ms.Affine(TRIANGLE, scale := torch.tensor([2.0, 2.0], dtype=F64), [1.0, -1.0])
    moved = ms.fit_spectral(scale * x + torch.tensor([1.0, -1.0]), image, 8)
    assert torch.allclose(
        moved(2 * x + torch.tensor([1.0, -1.0]), 0.2) * 2, ms.fit_spectral(x, TRIANGLE, 8)(x, 0.2)
    )


def test_files(tmp_path):
    x = points(200, scale=0.5)
    score = ms.fit_spectral(x, TRIANGLE, 24, shrinkage="heat+1")
    score.save(tmp_path / "a.safetensors")
    again = ms.SpectralScore.load(tmp_path / "a.safetensors")
    assert again.basis is not score.basis
    assert torch.equal(again(x, 0.5), score(x, 0.5))


def test_solutions_are_kept_on_disk(tmp_path, monkeypatch):
    """By content, where they take long; a file that cannot be read is made again."""
    monkeypatch.setenv("MARKOVSCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("markovscore.eigenbasis.plane.KEPT", 0.0)

    def fresh(spread=0.8):
        prior = ms.GaussianMixture(torch.tensor([[1.0, 1.0], [-1.0, 0.0]], dtype=F64), spread)
        return ms.Langevin(prior).eigenbasis(4).spectrum

    first, (file,) = fresh(), list((tmp_path / "cache").iterdir())
    monkeypatch.setattr(Plane, "refined", None)  # another solution would fail
    again = fresh()
    assert torch.equal(again.functions, first.functions) and again.change == first.change
    monkeypatch.undo()
    monkeypatch.setenv("MARKOVSCORE_CACHE", str(tmp_path / "cache"))
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(fresh().functions, first.functions)
    monkeypatch.setenv("MARKOVSCORE_CACHE", str(file))  # no folder
    assert fresh(0.9).eigenvalues[1] < 0


def test_another_source_reads_no_old_solutions(tmp_path, monkeypatch):
    monkeypatch.setenv("MARKOVSCORE_CACHE", str(tmp_path / "cache"))
    source, helper = tmp_path / "solver.py", tmp_path / "helper.py"
    source.write_text("import torch\ndef make(): return {'found': torch.rand(3)}\n")
    made = {}
    exec(compile(source.read_text(), str(source), "exec"), made)

    def kept():
        return kept_on_disk("trial", [torch.ones(2)], made["make"], -1.0)["found"]

    first = kept()
    assert torch.equal(kept(), first)
    helper.write_text("ORDER = 2\n")
    second = kept()
    assert not torch.equal(second, first)
    helper.write_text("ORDER = 3\n")
    assert not torch.equal(kept(), second)
    helper.write_text("ORDER = 2\n")
    assert torch.equal(kept(), second)


# -- bad input -------------------------------------------------------------------------------------


def test_laws_that_have_no_eigenfunctions_here():
    heavy = law(lambda x: -2 * (1 + x.square().sum(1)).log())
    refused("too wide for a grid", ms.Langevin(heavy).eigenbasis, 4)
    solid = ms.GaussianMixture(torch.eye(7, dtype=F64), 1.0)
    refused("found 7 with a mixed difference", ms.Langevin(solid).eigenbasis, 4)
    rough = law(lambda x: 30 * (9 * x[:, 0] * x[:, 1]).sign() - x.square().sum(1))
    with pytest.raises(ArithmeticError, match=r"found .* nodes"):
        ms.Langevin(rough, box=(-2.0, 2.1)).eigenbasis(4)


def test_points_beyond_the_tails_of_the_prior():
    x = points(100)
    x[3, 1] = 9.0
    refused(r"1 of 100 beyond the tails .* 9\.0.*box=", ms.fit_spectral, x, TRIANGLE, 20)


def test_too_few_nodes_and_no_convergence(monkeypatch):
    with pytest.raises(ArithmeticError, match="two nodes for each of 20"):
        solve_mesh(box(TRIANGLE, -4.0, 4.0, 2, 2), 20)

    monkeypatch.setattr("markovscore.eigenbasis.plane._CONVERGED", 0.0)
    with pytest.raises(ArithmeticError, match=r"8 eigenfunctions on .* found 0 that"):
        solve_mesh(box(TRIANGLE, -4.0, 4.0, 4), 8)


def test_what_needs_products():
    refused("found 'cross'", ms.fit_spectral, points(50), TRIANGLE, 8, selection="cross")
    both = ms.Product([TRIANGLE, ms.TorusBrownian(1)])
    refused("fit it alone", both.eigenbasis, 4)
