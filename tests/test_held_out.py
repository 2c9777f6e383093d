"""Sizes chosen by the held-out loss: the path against separate fits, the estimate against the
likelihood of the flow, what is kept of the choice, and what cannot be chosen."""

import math
import warnings
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_inputs import refused
from statistical import F64, points, rng

import markovscore as ms
from markovscore.spectral import Path, Sample, choose, shrink, solve

matplotlib.use("Agg")

TORUS, LINE = ms.TorusBrownian(1), ms.OrnsteinUhlenbeck(1)
LEVELS = torch.logspace(-3, 0.3, 12, dtype=F64)
SPACES = {
    "torus": ms.TorusBrownian(2),
    "circle": TORUS,
    "space": ms.TorusBrownian(3),
    "line": LINE,
    "plane": ms.OrnsteinUhlenbeck(2),
    "box": ms.BoxBrownian(2, -2.0, 3.0),
    "mixed": ms.Product([ms.TorusBrownian(1), ms.OrnsteinUhlenbeck(1)]),
}


def two_bumps(n, seed=0, d=1):
    """Two normals on the circle, wide enough for a few functions."""
    x = points(n, d, seed, 0.4)
    x[: n // 2, 0] += 1.5
    return x[torch.randperm(n, generator=rng(seed))]


def by_separate_fits(pool, rows, train, test, x_train, x_test):
    """The gain by its definition, at every first level: a fit, a loss, trapezoids in log t."""
    basis = pool.with_indices(pool.indices[:rows])
    fit = basis.moments(x_train).shrunk(train.mix, train.heat)
    alpha = torch.cholesky_solve(fit.slope(LEVELS)[..., None], fit.factor(LEVELS))[..., 0]
    held = basis.moments(x_test)
    energy, slope = held.energy(LEVELS), held.slope(LEVELS)
    loss = 0.5 * torch.einsum("tj,tjk,tk->t", alpha, energy, alpha) - (alpha * slope).sum(1)
    mean = basis(x_test).mean(0)
    more = (alpha * -torch.expm1(LEVELS[:, None] * basis.eigenvalues) * mean).sum(1)
    found = []
    for i in range(len(LEVELS)):
        scaled, log = (LEVELS * loss)[i:], LEVELS[i:].log()
        found.append(more[i] - 2 * torch.trapezoid(scaled, log))
    return torch.stack(found)


@pytest.mark.parametrize("name", SPACES)
@given(seed=st.integers(0, 10**6), mix=st.floats(0.5, 0.99), heat=st.floats(0, 0.05))
@settings(deadline=None, max_examples=4)
def test_the_path_over_sizes_equals_separate_fits(name, seed, mix, heat):
    """Random index sets, in the order of their eigenvalues, and random shrinkage."""
    process, generator = SPACES[name], rng(seed)
    whole = process.eigenbasis(20 if process.eigenbasis(2).lines else 60)
    rows = torch.randperm(len(whole.indices), generator=generator)[:12].sort().values
    pool = whole.with_indices(whole.indices[rows])
    x = two_bumps(400, seed, process.dim).clamp(-2, 3)
    train, test = pool.moments(x[:300]), pool.moments(x[300:])
    kept = [1, 3, 7, 12]
    sizes = torch.tensor([pool.with_indices(pool.indices[:m]).n_functions for m in kept])
    found = Path(pool, test, LEVELS, sizes).gains(train, [(mix, heat)])[0]
    train = train.shrunk(mix, heat)
    for column, m in enumerate(kept):
        right = by_separate_fits(pool, m, train, test, x[:300], x[300:])
        scale = 1 + right.abs().max()
        assert (found[:, column] - right).abs().max() < 1e-7 * scale, (name, m)


def test_the_gain_is_the_flow_s_held_out_log_likelihood():
    """Where the fit is good its potential is the logarithm of its density; both are averages over
    the same points, so there is no sampling error: 0.01 nats for what the potential misses."""
    x, new = two_bumps(4000), two_bumps(2000, 5)
    score = ms.fit_spectral(x, TORUS, 20, shrinkage="heat+1")
    for first in (0.002, 0.02, 0.1):
        levels = torch.logspace(math.log10(first), math.log10(4), 60, dtype=F64)
        fit = ms.fit_spectral(x, TORUS, 20, levels, shrinkage="heat+1")
        moments = score.basis.moments(x)
        law = shrink(moments, "heat+1")
        path = Path(score.basis, score.basis.moments(new), levels, torch.tensor([20]))
        gain = float(path.gains(moments, [(law.mix, law.heat)])[0, 0, 0])
        found = float(ms.log_likelihood(fit, TORUS, new, times=levels).mean())
        assert abs(gain - (found + math.log(2 * math.pi))) < 0.01


def test_thirty_levels_choose_as_well_as_a_hundred():
    """The integrand is smooth in log t: the gains agree to a tenth of the least difference of
    sizes that matters, 0.01 nats, and what is chosen by the few is within that of the best."""
    sample = Sample(two_bumps(100, 1, 2))
    pools, found = ms.TorusBrownian(2).eigenbasis, {}
    for count in (30, 100):
        levels = torch.logspace(math.log10(6e-5), math.log10(4), count, dtype=F64)
        found[count] = choose(sample, pools, None, levels, 1)[0]
    few, many = (found[count].gains.mean(0)[:, 0] for count in (30, 100))
    near = many > many.max() - 0.2  # of what may be chosen
    assert (few - many)[near].abs().max() < 0.01
    assert many.flatten()[few.argmax()] > many.max() - 0.01


def test_a_fit_without_sizes(tmp_path):
    x = two_bumps(200, 3)
    score = ms.fit_spectral(x, TORUS)
    chosen = score.selection
    assert score.basis.n_functions == chosen.n_functions in chosen.sizes.tolist()
    assert chosen.mix == 1 - 1 / 200 and chosen.heat in chosen.heats.tolist()
    assert chosen.gains.shape == (5, 5, len(chosen.firsts), len(chosen.sizes))
    assert float(score.times[0]) == pytest.approx(chosen.first) and chosen.seconds > 0
    mean = chosen.gains.mean(0)
    loss, error = chosen.curve()
    assert loss.min() == -mean.max() and bool((error > 0).all())
    assert loss[chosen.sizes == chosen.n_functions] == loss.min()
    # the choice is the fit of these sizes, and the same folds are drawn again
    moments = score.basis.moments(x).shrunk(chosen.mix, chosen.heat)
    assert torch.equal(solve(moments, score.times), score.coefficients)
    assert ms.fit_spectral(x, TORUS).checksum == score.checksum
    other = ms.fit_spectral(x, TORUS, generator=rng(7)).selection
    assert not torch.equal(other.gains, chosen.gains)
    score.save(tmp_path / "score")
    again = ms.SpectralScore.load(tmp_path / "score")
    assert again.checksum == score.checksum
    for name, value in vars(chosen).items():
        kept = getattr(again.selection, name)
        assert torch.equal(kept, value) if isinstance(value, torch.Tensor) else kept == value, name
    assert ms.fit_spectral(x, TORUS, 4).selection is None


def test_the_choice_is_not_behind_fixed_sizes():
    """By more than 0.035 nats, the room that the design allows at 1,000 points."""
    x, new = two_bumps(1000, 3), two_bumps(400, 4)
    usual = [ms.fit_spectral(x, TORUS, k, shrinkage="heat") for k in (12, 40)]
    scores = [ms.fit_spectral(x, TORUS), *usual]
    found, *others = (float(ms.log_likelihood(s, TORUS, new).mean()) for s in scores)
    assert found > max(others) - 0.035


def test_sizes_that_have_no_solution_are_not_chosen():
    """An average that no law has, 0.9 sqrt2 of cos 4x beside none of cos 2x, makes the block of the
    second pair indefinite, until the noise has it fade; the smaller sizes have their gains."""
    pool, test = TORUS.eigenbasis(4), TORUS.eigenbasis(4).moments(two_bumps(50))
    fit = pool.moments(two_bumps(40, 1))
    mean = fit.mean.clone()
    rest = (fit.rates == -16).nonzero()[:, 0]
    mean[rest] = 2.0
    bad, sizes = replace(fit, mean=mean), torch.tensor([2, 4])
    ends = torch.linalg.eigvalsh(bad.energy(LEVELS))[:, 0] < 0
    assert ends.tolist() == sorted(ends.tolist(), reverse=True) and 0 < ends.sum() < len(ends)
    found = [Path(pool, test, LEVELS, sizes).gains(one, [(1.0, 0.0)])[0] for one in (fit, bad)]
    assert torch.equal(found[1].isinf(), torch.stack([torch.zeros_like(ends), ends], 1))
    assert torch.equal(found[1][:, 0], found[0][:, 0])


@pytest.mark.parametrize("name", SPACES)
def test_functions_in_another_order(name):
    """More of them than a block of rows, and those of a law: slopes and matrices are permuted, and
    their factors and leading blocks are those of the permuted matrices."""
    process = SPACES[name]
    moments = process.eigenbasis(130).moments(two_bumps(500, 2, process.dim).clamp(-2, 3))
    moments = moments.shrunk(0.9, 0.01)
    energy, slope = moments.energy(LEVELS), moments.slope(LEVELS)
    assert torch.allclose(energy, energy.mT, rtol=0, atol=1e-12 * energy.max())
    order = torch.randperm(slope.shape[1], generator=rng())
    once = moments.reordered(order)
    twice = moments.reordered(order.flip(0)).reordered(torch.arange(len(order)).flip(0))
    for found in (once, twice):
        right = energy[:, order[:, None], order]
        assert torch.allclose(found.energy(LEVELS), right, rtol=0, atol=1e-9 * right.max())
        assert torch.equal(found.slope(LEVELS), slope[:, order])
    lower, failed = once.leading(LEVELS)
    assert not failed.any() and torch.equal(lower, lower.tril())
    for factor in (lower, once.factor(LEVELS)):
        assert torch.allclose(factor @ factor.mT, right, rtol=0, atol=1e-9 * right.max())


def test_large_matrices_by_their_definition():
    """150 waves, so that a matrix has several blocks of rows."""
    basis, x = ms.TorusBrownian(2).eigenbasis(150), two_bumps(30, 1, 2)
    gradient = basis.gradient(x)
    right = torch.einsum("njd,nkd->jk", gradient, gradient) / len(x)
    found = basis.moments(x).energy(torch.zeros(1, dtype=F64))[0]
    assert (found - right).abs().max() < 1e-8 * right.max()


def test_plot():
    selection = ms.fit_spectral(two_bumps(100), TORUS).selection
    ax = selection.plot()
    assert ax.get_xlabel() == "number of functions" and "loss" in ax.get_ylabel()
    assert selection.plot(ax) is ax
    drawn = ax.containers[0].lines[0].get_xydata()
    assert torch.equal(torch.tensor(drawn[:, 1]), selection.curve()[0])


def test_what_is_given_is_kept():
    """A rule, or levels; and with ``n_functions`` there is no shrinkage unless asked for."""
    x = two_bumps(60)
    heat = ms.fit_spectral(x, TORUS, shrinkage="heat").selection
    assert heat.mix == 1 and len(heat.heats) == 1 and heat.heat > 0
    assert ms.fit_spectral(x, TORUS, shrinkage="none").selection.heat == 0
    levels = torch.tensor([0.05, 0.1, 0.5, 2.0], dtype=F64)
    score = ms.fit_spectral(x, TORUS, times=levels)
    assert torch.equal(score.times, levels) and score.selection.first == pytest.approx(0.05)
    one = ms.fit_spectral(x, TORUS, times=[0.1])
    assert one.times.tolist() == [0.1] and one.selection.n_functions > 2
    plain, named = ms.fit_spectral(x, TORUS, 6), ms.fit_spectral(x, TORUS, 6, shrinkage="none")
    assert plain.checksum == named.checksum
    moments = plain.basis.moments(x)
    more = shrink(moments, "heat+1")
    assert (more.mix, more.heat) == (1 - 1 / 60, shrink(moments, "heat").heat)


@pytest.mark.parametrize("name", SPACES)
def test_every_space(name):
    """A default fit of a few points: finite, and better than the stationary law."""
    process = SPACES[name]
    x, new = (two_bumps(200, seed, process.dim).clamp(-2, 3) for seed in (0, 1))
    x = x[:80]
    score = ms.fit_spectral(x, process)
    found = ms.log_likelihood(score, process, new)
    assert found.mean() > process.prior.log_prob(new).mean() + 0.1


def test_more_functions_where_the_data_ask_for_them():
    """The pool grows: a comb of a hundred teeth needs functions up to the hundredth pair. Then only
    the best heat and its neighbours are compared."""
    teeth = torch.randint(100, (620, 1), generator=rng())
    x = TORUS.project(2 * math.pi / 100 * teeth + points(620, 1, 1, 0.006))
    selection = ms.fit_spectral(x, TORUS).selection
    assert selection.n_functions >= 200 and int(selection.sizes[-1]) > 240
    assert selection.heat in selection.heats.tolist() and len(selection.heats) in (2, 3)
    assert selection.gains.shape[1] == len(selection.heats) == len(selection.mixes)


def test_what_cannot_be_chosen():
    x = two_bumps(50)
    refused("expected 10 points, or more, .*found 9.*n_functions", ms.fit_spectral, x[:9], TORUS)
    refused("n_functions: expected a number .*'greedy'", ms.fit_spectral, x, TORUS,
            selection="greedy")  # fmt: skip
    refused("exact: .* expected n_functions", ms.fit_spectral, x, TORUS, exact=True)
    refused("shrinkage: expected one of", ms.fit_spectral, x, TORUS, shrinkage="more")
    refused("Generator", ms.fit_spectral, x, TORUS, generator=3, error=TypeError)
    with pytest.warns(ms.SpectralWarning, match="constant column 0"):
        score = ms.fit_spectral(torch.full((40, 1), 0.3, dtype=F64), TORUS)
    assert bool(score(x, 0.1).isfinite().all())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ms.fit_spectral(x[:10], TORUS).selection.n_functions <= 4


def test_polynomials_of_degrees_whose_factorials_are_no_doubles():
    """A default fit to many points on a line looks at 240 of them: ``A_t`` against quadrature."""
    x, t = two_bumps(20), 1.0
    basis = ms.OrnsteinUhlenbeck(1).eigenbasis(200)
    z, w = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(260))
    a = math.exp(-t)
    y = (a * x + (1 - a * a) ** 0.5 * z).reshape(-1, 1)
    slopes = basis.gradient(y)[..., 0]
    weights = (w / w.sum()).repeat(len(x)) / len(x)
    truth = (weights[:, None] * slopes).T @ slopes
    found = basis.moments(x).shrunk(mix=0.999).energy(torch.tensor([t], dtype=F64))[0]
    truth = 0.999 * truth - 0.001 * basis.eigenvalues.diag()
    root = truth.diagonal().rsqrt()
    assert ((found - truth) * root * root[:, None]).abs().max() < 1e-8
