"""Additive features of nonlinear processes: the product fit, polynomials, closed forms."""

import copy
import math

import pytest
import torch
from odd_inputs import refused
from statistical import F64, points, rng

import markovscore as ms
from markovscore import spectral
from markovscore.core import value_and_divergence
from markovscore.datasets import load_digits

TIMES = [0.02, 0.1, 0.5, 1.0]


class TwoLaws:
    """Independent coordinates with a law each: two wells, and a logistic one of scale 1/2."""

    dim = 2

    def log_prob(self, x):
        first, second = x.unbind(-1)
        return -((first.square() - 1).square()) - 2 * second.cosh().log()

    def score(self, x):
        first, second = x.unbind(-1)
        return torch.stack([-4 * first * (first.square() - 1), -2 * second.tanh()], -1)


BOX = [[-2.8, -5.0], [2.8, 5.0]]
PLANE = ms.Langevin(TwoLaws(), beta=(0.3, 3.0), box=BOX)
PIXELS = ms.Langevin(ms.ProductMixture(3, torch.tensor([-0.8, 0.8]), 0.6))


def correlated(n=300, d=2, seed=0):
    z = points(n, d, seed)
    z = z + 0.5 * z.flip(1)
    return 0.7 * z.sign() + 0.2 * z


def fit(x, order=4, process=PLANE, times=TIMES, **settings):
    return ms.fit_spectral(x, process, times=times, features="additive", order=order, **settings)


@pytest.mark.parametrize("rule", ["none", "heat+1"])
def test_the_product_fit_on_functions_of_one_coordinate_each(rule):
    """Brute force: ``A_t`` of all functions together. The data are correlated and the blocks
    between coordinates vanish all the same."""
    x, y, order = correlated(), correlated(20, seed=1), 4
    zero, own = torch.zeros(order, dtype=torch.int64), torch.arange(1, order + 1)
    indices = torch.cat([torch.stack([own, zero], 1), torch.stack([zero, own], 1)])
    basis = PLANE.eigenbasis(8).with_indices(indices)
    moments = basis.moments(x)
    score = fit(x, order, shrinkage=rule)
    if rule != "none":  # heat is chosen for each coordinate: here by the definition of the score
        assert not torch.allclose(score(y, 0.02), fit(x, order, shrinkage="none")(y, 0.02))
        each = [fit(x[:, [i]], order, _coordinate(i), shrinkage=rule) for i in range(2)]
        together = torch.cat([s(y[:, [i]], 0.02) for i, s in enumerate(each)], 1)
        torch.testing.assert_close(score(y, 0.02), together, rtol=1e-6, atol=1e-6)
        return
    taus = 0.5 * PLANE.clock.elapsed(torch.tensor(TIMES, dtype=F64))
    energy = moments.energy(taus)
    assert float(energy[:, :order, order:].abs().max()) < 1e-8 * float(energy.abs().max())
    table = spectral.solve(moments, taus)
    whole = ms.SpectralScore(PLANE, basis, torch.tensor(TIMES, dtype=F64), table)
    for t in (0.02, 0.3, torch.linspace(0.05, 0.9, 20, dtype=F64)):
        for found, right in zip(
            score.score_and_divergence(y, t), whole.score_and_divergence(y, t), strict=True
        ):
            torch.testing.assert_close(found, right, rtol=1e-7, atol=1e-7)


def _coordinate(i):
    """The process of one coordinate alone."""

    class One:
        dim = 1

        def log_prob(self, x):
            return TwoLaws().log_prob(torch.stack([x[..., 0] * (i == 0), x[..., 0] * (i == 1)], -1))

        def score(self, x):
            both = torch.stack([x[..., 0] * (i == 0), x[..., 0] * (i == 1)], -1)
            return TwoLaws().score(both)[..., [i]]

    return ms.Langevin(One(), beta=(0.3, 3.0), box=(BOX[0][i], BOX[1][i]))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_with_a_normal_prior_it_is_the_polynomial_fit(order):
    x, y = correlated(1000), correlated(50, seed=2)
    normal = ms.Langevin(ms.Gaussian(2), beta=(0.1, 20.0), box=(-8, 8))
    polynomial = ms.VariancePreserving(2, beta=(0.1, 20.0))
    found = fit(x, order, normal, shrinkage="none")
    right = fit(x, order, polynomial)
    for t in TIMES[1:]:
        inside = (y.abs() < x.abs().amax(0)).all(1)
        both = found.score_and_divergence(y[inside], t), right.score_and_divergence(y[inside], t)
        for one, other in zip(*both, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_logistic_law_in_closed_form():
    """Between walls at ``+-s`` the functions and rates are known (tests/test_numerical.py): the
    law at ``t`` is their sum, ``A_t`` an integral."""
    wall, order, t = 4.0, 5, 0.3
    process = ms.Langevin(ms.Logistic(1, 0.5), beta=2.0, box=(-wall, wall))
    x, y = correlated(50, 1), torch.linspace(-2, 2, 41, dtype=F64)
    grid = torch.linspace(-wall, wall, 4001, dtype=F64)
    weight = torch.full_like(grid, grid[1] - grid[0])
    weight[[0, -1]] *= 0.5
    pi = weight * grid.cosh() ** -2
    pi = pi / pi.sum()

    def functions(x, count):
        k = math.pi * torch.arange(1, count + 1, dtype=F64)[:, None] / (2 * wall)
        sin, cos = (k * x).sin(), (k * x).cos()
        sinh, cosh = x.sinh(), x.cosh()
        odd, d_odd = sinh * cos + k * cosh * sin, (1 + k**2) * cosh * cos
        even, d_even = sinh * sin - k * cosh * cos, (1 + k**2) * cosh * sin
        is_odd = torch.arange(1, count + 1)[:, None] % 2 == 1
        return (
            torch.where(is_odd, odd, even),
            torch.where(is_odd, d_odd, d_even),
            -(1 + k[:, 0] ** 2),
        )

    values, slopes, rates = functions(grid, 40)
    norm = (values.square() @ pi).sqrt()[:, None]
    values, slopes = values / norm, slopes / norm
    means = (functions(x[:, 0], 40)[0] / norm).mean(1)
    law = pi * (1 + (torch.exp(rates * t) * means) @ values)
    few = slopes[:order]
    slope = -rates[:order] * torch.exp(rates[:order] * t) * means[:order]
    alpha = torch.linalg.solve((few * law) @ few.T, slope)
    right = -2 * y.tanh() + alpha @ (functions(y, order)[1] / norm[:order])
    found = fit(x, order, process, [t], shrinkage="none")(y[:, None], t)[:, 0]
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_divergence_dtype_and_times():
    x = correlated(200, 3)
    score, y = fit(x, 6, PIXELS), correlated(8, 3, seed=3)
    t = torch.linspace(0.03, 0.9, 8, dtype=F64)
    for time in (0.2, t):
        for one, other in zip(
            score.score_and_divergence(y, time), value_and_divergence(score, y, time), strict=True
        ):
            torch.testing.assert_close(one, other)
    each = torch.cat([score(y[i : i + 1], float(t[i])) for i in range(8)])
    torch.testing.assert_close(score(y, t), each)
    low = score(y.float(), t.float())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), score(y, t), rtol=1e-3, atol=1e-3)
    beyond = torch.full((1, 3), 50.0, dtype=F64)
    torch.testing.assert_close(score(beyond, 0.2), PIXELS.prior.score(beyond))


def test_batches_images_and_default_times():
    x = correlated(90, 3)
    whole, parts = fit(x, 3, PIXELS, None), fit([x[:40], x[40:]], 3, PIXELS, None)
    assert torch.equal(whole.coefficients, parts.coefficients)
    assert whole.times[-1] == 1 and whole.finest_time < whole.times[-1]
    images = load_digits("test").take(50)
    process = ms.Langevin(ms.ProductMixture(64, torch.tensor([-0.8, 0.8]), 0.6))
    score = fit(images, 3, process, [0.1, 1.0], generator=rng())
    assert score(images.dequantised(rng(1)), 0.5).shape == (50, 64)


def test_files_and_copies(tmp_path):
    x = correlated(100, 3).float()
    score = fit(x, 3, PIXELS)
    score.save(tmp_path / "score")
    again = ms.AdditiveSpectralScore.load(tmp_path / "score")
    assert again.checksum == score.checksum and again.finest_time == score.finest_time
    assert again.dtype == torch.float32 and torch.equal(again(x, 0.3), score(x, 0.3))
    assert copy.deepcopy(score) is score
    assert fit(x[1:], 3, PIXELS).checksum != score.checksum
    words = r"markovscore\.AdditiveScore/1"
    refused(words, ms.AdditiveScore.load, tmp_path / "score")


def test_equal_coordinates_are_solved_once_and_others_are_told_apart():
    class Counted(ms.ProductMixture):
        asked = 0

        def log_prob(self, x):
            Counted.asked += x.shape[0]
            return super().log_prob(x)

    many = Counted(40, torch.tensor([-0.8, 0.8]), 0.6)
    axes = ms.Langevin(many).eigenbasis(1).axes
    assert len(set(axes)) == 1 and Counted.asked < 40 * 5000  # a coordinate alone takes 48,000
    assert len(set(PLANE.eigenbasis(1).axes)) == 2
    many.score = lambda x: ms.ProductMixture.score(many, x) * torch.linspace(1, 2, 40)
    refused("the gradient of log_prob", ms.Langevin(many).eigenbasis, 1)
    walls = [(a.low, a.high) for a in ms.Langevin(TwoLaws()).eigenbasis(1).axes]
    assert walls[0][1] < 3 < 5 < walls[1][1]


def test_what_does_not_vary():
    x = correlated(200, 3)
    x[:, 1] = 0.25
    with pytest.warns(ms.SpectralWarning, match="constant column 1"):
        score = fit(x, 12, PIXELS, None)
    y = torch.tensor([[0.0, 0.25 + 0.2, 0.0], [0.0, 0.25 - 0.2, 0.0]], dtype=F64)
    left, right = score(y, 0.1)[:, 1].tolist()  # about -+0.2 / 0.06
    assert left < -1.5 and right > 1.5
    assert bool(score(y, score.times[0]).isfinite().all())


def test_sampling_and_likelihood():
    """Of a law with independent coordinates the fit is right: likelihood against the truth."""
    law = ms.ProductMixture(3, torch.tensor([-0.5, 1.0]), 0.3)
    x, test = law.sample(4000, rng(), dtype=F64), law.sample(200, rng(1), dtype=F64)
    score = fit(x, 16, PIXELS, None)
    found = ms.log_likelihood(score, PIXELS, test, steps=60).mean()
    assert abs(float(found - law.log_prob(test).mean())) < 0.05
    assert float(found) > float(PIXELS.prior.log_prob(test).mean()) + 0.5
    samples = ms.sample_ode(score, PIXELS, 2000, generator=rng(2), steps=60)
    deviation = (samples.mean(0) - x.mean(0)) / (x.std(0) * (1 / 2000 + 1 / 4000) ** 0.5)
    assert float(deviation.abs().max()) < 6


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("order: expected an integer >= 1, found 0", {"order": 0}),
        ("rotation: expected None, found 'pca'", {"rotation": "pca"}),
        ("shrinkage: expected one of", {"shrinkage": "ridge"}),
        ("5 in coordinate 1, the walls", {"x": correlated() * torch.tensor([0.1, 9])}),
        ("a prior of independent coordinates, found Langevin", {"error": TypeError,
            "process": ms.Langevin(ms.GaussianMixture([[2.0, 2], [2, -2], [-2, 2]], 0.8))}),
    ],
)  # fmt: skip
def test_bad_arguments(words, change):
    settings = {"x": 0.3 * correlated(), "order": 3, "process": PLANE} | change
    refused(words, fit, settings.pop("x"), settings.pop("order"), **settings)


@pytest.mark.parametrize("objective", [ms.LocalDSM, ms.PathShiftDSM])
@pytest.mark.parametrize("family", ["additive", "product"])
def test_a_network_on_top(objective, family, tmp_path):
    """Trained by the objectives of nonlinear processes, from the base and with its times; an
    interrupted run goes on with the base that was read from a file, and with no other."""
    x = correlated(400, 3).float()
    features = {"order": 3} if family == "additive" else {"n_functions": 12}
    base = ms.fit_spectral(x, PIXELS, features=family, times=[0.01, 0.1, 0.5, 1.0], **features)
    base.save(tmp_path / "base")
    loss = objective(PIXELS, window=0.3, steps=5, t_min=float(base.times[0]))

    def run(base, steps, **settings):
        net = ms.ScoreMLP(3, width=16, std=PIXELS.std)
        settings = {"batch_size": 32, "progress": False, "schedule": "constant"} | settings
        return ms.train(ms.ResidualScore(base, net), loss, x, steps, **settings).score

    start = run(base, 1, lr=1e-12)
    torch.testing.assert_close(start(x, 0.3), base(x, 0.3), rtol=0, atol=0.2)
    whole, place = run(base, 6), {"checkpoint": tmp_path / "state", "checkpoint_every": 3}
    run(base, 3, **place)
    again = type(base).load(tmp_path / "base")
    assert torch.equal(run(base, 6)(x, 0.3), whole(x, 0.3))
    assert torch.equal(run(again, 3, **place)(x, 0.3), run(base, 3)(x, 0.3))
    other = ms.fit_spectral(x[1:], PIXELS, features=family, times=[0.01, 1.0], **features)
    refused("checkpoint", run, other, 3, **place)
    early = objective(PIXELS, window=0.3, steps=5)
    words = r"t: expected times in the fitted range \[0.01, 1\]"
    refused(words, early.loss, whole, x, rng())
    assert ms.log_likelihood(whole, PIXELS, x[:5], steps=5).isfinite().all()
    assert ms.sample_ode(whole, PIXELS, 5, generator=rng(), steps=5).dtype == torch.float32
