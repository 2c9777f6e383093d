"""Denoising score matching: stationarity at the exact score, and differences against quadrature."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from odd_inputs import refused
from problems import Plain, well
from statistical import F64, agrees, points, rng, sigmas

import markovscore as ms
from markovscore.core import as_diffusion
from markovscore.objectives import TimeSampler

N = 20_000
CHOICES = [(w, t) for w in ("likelihood", "variance") for t in ("uniform", "log", "importance")]
MIXTURES = {
    "ou": lambda: ms.mixture_1d(ms.OrnsteinUhlenbeck(1)),
    "torus": lambda: ms.mixture_1d(ms.TorusBrownian(1)),
    "box": lambda: ms.mixture_1d(ms.BoxBrownian(1, -4.0, 4.0)),
}
TWO = ms.DiffusedMixture(ms.TorusBrownian(2), [[1.0, 0.0], [-1.0, 2.0]], [0.4, 0.3])


def directions(y, t):
    """Perturbations of a score: constant, smooth, local, and one that depends on time."""
    t = t[:, None]
    return [torch.ones_like(y), y.sin(), torch.exp(-8 * (y - 0.3) ** 2), y.cos() / (t + 0.05)]


@pytest.mark.parametrize("name", [*MIXTURES, "two dimensions"])
@pytest.mark.parametrize(("weighting", "times"), CHOICES)
def test_exact_score_is_stationary(name, weighting, times):
    """d/de L(s + e h) = 0 at e = 0: the loss is quadratic, so a central difference is exact."""
    mixture = MIXTURES.get(name, lambda: TWO)()
    objective = ms.DenoisingSM(mixture.diffusion, 0.01, 2.0, weighting, times)
    x0 = mixture.sample(N, rng(1), dtype=F64)
    exact = []

    def losses(k, size):
        def score(y, t):
            # The draws are the same each time, so the slow truth is computed once.
            if not exact:
                exact.append(mixture.score(y, t))
            return exact[0] + size * directions(y, t)[k]

        return objective.losses(score, x0, rng(2))

    for k in range(4):
        assert agrees(losses(k, 1.0) - losses(k, -1.0))
        # The same statistic sees a score that is wrong by the perturbation.
        assert sigmas(losses(k, 2.0) - losses(k, 0.0)) > 6


def explicit_difference(mixture, first, second, weighting, low, high):
    """(1 / (T - t0)) int E lambda (|first - score|^2 - |second - score|^2) dt by quadrature."""
    z, w = np.polynomial.legendre.leggauss(40)
    log_times = torch.tensor(0.5 * (z + 1) * math.log(200) + math.log(0.01))
    time_weights = torch.tensor(w) * 0.5 * math.log(200) * log_times.exp()
    grid = torch.linspace(low, high, 2001, dtype=F64)[:, None]
    total = 0.0
    for t, weight in zip(log_times.exp(), time_weights, strict=True):
        at = t.expand(len(grid))
        truth, density = mixture.score(grid, at), mixture.log_prob(grid, at).exp()
        gap = (first(grid, at) - truth) ** 2 - (second(grid, at) - truth) ** 2
        size = 2.0 if weighting == "likelihood" else float(mixture.diffusion.std(t)) ** 2
        total += float(weight) * size * float(torch.trapezoid(density * gap[:, 0], grid[:, 0]))
    return total / 1.99


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize(("weighting", "times"), CHOICES)
def test_difference_of_losses_is_the_explicit_one(name, weighting, times):
    """All time samplers estimate one integral: uniform in t, whatever the draws."""
    mixture = MIXTURES[name]()

    def first(y, t):
        return 0.5 * mixture.score(y, t)

    def second(y, t):
        return y.cos() / (t[:, None] + 0.2)

    low, high = {"ou": (-6, 6), "torus": (-math.pi, math.pi), "box": (-4, 4)}[name]
    expected = explicit_difference(mixture, first, second, weighting, low, high)
    objective = ms.DenoisingSM(mixture.diffusion, 0.01, 2.0, weighting, times)
    x0 = mixture.sample(N, rng(3), dtype=F64)
    paired = objective.losses(first, x0, rng(4)) - objective.losses(second, x0, rng(4))
    assert agrees(paired, expected)
    # The bound is worth something: the difference is known to a tenth of itself.
    assert paired.std() / math.sqrt(N) < 0.1 * abs(expected)


def test_gaussian_data_linear_regression_gives_the_gaussian_score():
    """Least squares on the targets, as ``losses`` poses it, for x0 ~ N(1, 0.25) under OU."""
    t = 0.4
    diffusion = ms.OrnsteinUhlenbeck(1)
    objective = ms.DenoisingSM(diffusion, t, t * (1 + 1e-9))
    x0 = 1 + 0.5 * points(N, 1, 5)
    # The loss of a + b y is quadratic in (a, b): its minimiser by autograd, one Newton step.
    theta = torch.zeros(2, dtype=F64)

    def loss(theta):
        return objective.loss(lambda y, t: theta[0] + theta[1] * y, x0, rng(6))

    gradient = torch.autograd.functional.jacobian(loss, theta)
    a, b = -torch.linalg.solve(torch.autograd.functional.hessian(loss, theta), gradient)
    mean, var = math.exp(-t), 0.25 * math.exp(-2 * t) + 1 - math.exp(-2 * t)
    # Residual variance of the target given y: E target^2 - E score^2.
    residual = 1 / (1 - math.exp(-2 * t)) - 1 / var
    slope_error = math.sqrt(residual / (N * var))
    assert abs(float(b) + 1 / var) < 6 * slope_error
    assert abs(float(a) - mean / var) < 6 * slope_error * math.sqrt(mean**2 + var)


def test_linear_sde_with_singular_noise():
    """Only G^T s counts; the exact Gaussian score is stationary in that component."""
    diffusion = ms.LinearSDE([[0.0, 1.0], [-1.0, -1.0]], [[0.0], [1.0]], horizon=3.0)
    objective = ms.DenoisingSM(diffusion, 0.5, 2.0)
    x0 = torch.zeros(5000, 2, dtype=F64)  # a point: the transition is the marginal

    def exact(y, t):
        return diffusion.transition_score(y, torch.zeros_like(y), t)

    assert float(objective.loss(exact, x0, rng(7))) < 1e-20
    first, second = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    base = objective.losses(lambda y, t: exact(y, t) + first, x0, rng(7))
    assert float(base.abs().max()) < 1e-20
    seen = objective.losses(lambda y, t: exact(y, t) + 3 * second, x0, rng(7))
    torch.testing.assert_close(seen, torch.full_like(seen, 9.0))


@pytest.mark.parametrize("times", ["uniform", "log"])
def test_drawn_times_fill_the_interval(times):
    seen = []
    objective = ms.DenoisingSM(ms.TorusBrownian(2), 1e-3, 4.0, times=times)

    def spy(y, t):
        seen.append(t)
        return torch.zeros_like(y)

    objective.loss(spy, torch.zeros(N, 2), rng(8))
    t = seen[0].double()
    assert 1e-3 <= t.min() < 1.1e-3 if times == "log" else 1e-3 <= t.min() < 2e-3
    assert 3.99 < t.max() <= 4.0 + 1e-5
    uniform = (t - 1e-3) / (4 - 1e-3) if times == "uniform" else (t / 1e-3).log() / math.log(4e3)
    assert agrees(uniform, 0.5)
    assert agrees(uniform**2, 1 / 3)


def drawn(diffusion, t_min, kind="importance", n=N, dtype=F64, t_max=None):
    sampler = TimeSampler(as_diffusion(diffusion), t_min, t_max, kind)
    return sampler.draw(torch.zeros(n, 1, dtype=dtype), rng(11))


@pytest.mark.parametrize("t_min", [1e-5, 1e-2])
@pytest.mark.parametrize(
    "process", [ms.VariancePreserving(1), ms.Langevin(ms.Gaussian(1), (3.0, 1.0))]
)
def test_importance_times_follow_the_density(process, t_min):
    """``beta / (1 - e^{-tau})`` integrates to ``log(e^tau - 1)``: Kolmogorov-Smirnov, 6 sigma."""
    t, weight = drawn(process, t_min)
    assert t_min <= float(t.min()) and float(t.max()) <= 1

    def primitive(v):
        return np.log(np.expm1(process.clock.elapsed(torch.as_tensor(v)).numpy()))

    low, high = primitive(t_min), primitive(1.0)
    assert scipy.stats.kstest(t, lambda v: (primitive(v) - low) / (high - low)).pvalue > 1e-9
    # The weight is the reciprocal density, up to the length of a piece of the table.
    density = (process.dispersion(t) / process.std(t)).square() / (high - low)
    torch.testing.assert_close(weight, 1 / ((1 - t_min) * density), rtol=0.02, atol=0)


class Jumps:
    """A scale that no table resolves."""

    horizon, dispersion = 1.0, staticmethod(lambda t: 1.0)
    drift = staticmethod(lambda y, t: -y)

    def std(self, t):
        return torch.where((7 * t).sin() > 0, 1.0, 0.2)


@pytest.mark.parametrize("pieces", [3, 50])
@pytest.mark.parametrize("process", [ms.VariancePreserving(1), Jumps()])
def test_weights_are_exact_however_coarse_the_table(process, pieces, monkeypatch):
    monkeypatch.setattr("markovscore.objectives.draws.PIECES", pieces)
    t, weight = drawn(process, 1e-3)
    # E[w g(t)] is the plain average of g over [t_min, 1].
    for value, mean in (
        (torch.ones_like(t), 1.0),
        (t, (1 - 1e-6) / 2 / (1 - 1e-3)),
        (t.log(), (-1 - 1e-3 * (math.log(1e-3) - 1)) / (1 - 1e-3)),
        ((t > 0.9).double(), 0.1 / (1 - 1e-3)),
    ):
        assert agrees(weight * value, mean)
    assert sigmas(weight, 1.2) > 6


@pytest.mark.parametrize("kind", ["log", "importance"])
def test_weights_integrate_to_one(kind):
    """``1 / (w span)`` is the density that was drawn: its integral is 1, not only on average."""
    t, weight = drawn(ms.VariancePreserving(1), 1e-3, kind, n=200_000)
    t, order = t.sort()
    density = 1 / (weight[order] * (1 - 1e-3))
    # One piece of the table is 0.7% long, and the draws leave gaps of 1e-5 of the probability.
    assert float(torch.trapezoid(density, t)) == pytest.approx(1, abs=1e-3)


def test_importance_is_log_for_brownian_motion():
    log, importance = (drawn(ms.TorusBrownian(1), 1e-3, kind) for kind in ("log", "importance"))
    assert scipy.stats.ks_2samp(log[0], importance[0]).pvalue > 1e-9
    torch.testing.assert_close(importance[1] / importance[0], (log[1] / log[0]), rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_importance_weighs_the_predicted_noise_alike(dtype):
    """Each term is one constant times ``std^2 |r|^2``, to a piece's length; and so less random."""
    vp, x0, seen = ms.VariancePreserving(50), torch.zeros(4000, 50, dtype=dtype), []

    def zero(y, t):
        seen.append(vp.std(t) * vp.transition_score(y, x0, t).norm(dim=1))
        return torch.zeros_like(y)

    objective = ms.DenoisingSM(vp, 1e-5, times="importance")
    terms = objective.losses(zero, x0, rng(3))
    assert terms.dtype == dtype
    # int_{t_min}^1 beta / (1 - e^{-tau}) dt, over the interval's length
    tau = vp.clock.elapsed(torch.tensor([1e-5, 1.0], dtype=F64))
    constant = float(torch.expm1(tau).log().diff()) / (1 - 1e-5)
    expected = constant * seen[0].square()
    torch.testing.assert_close(terms, expected.to(dtype), rtol=0.02, atol=1e-6)
    uniform = ms.DenoisingSM(vp, 1e-5).losses(zero, x0, rng(3))
    log = ms.DenoisingSM(vp, 1e-5, times="log").losses(zero, x0, rng(3))
    assert abs(float(uniform.mean() - terms.mean())) < 6 * float(uniform.std()) / math.sqrt(4000)
    assert 4 * float(terms.std()) < min(float(log.std()), float(uniform.std()))


def test_importance_needs_a_scale_and_a_scalar_dispersion():
    with pytest.raises(TypeError, match=r"std\(t\).* found DoubleWell without it"):
        TimeSampler(ms.DoubleWell(), 1e-3, None, "importance")
    with pytest.raises(ValueError, match="scalar dispersion, found LinearSDE with a matrix"):
        ms.DenoisingSM(ms.LinearSDE(-torch.eye(2), torch.eye(2)), times="importance")
    silent = Jumps()
    silent.dispersion = lambda t: (t - 0.5).clamp(min=0)
    with pytest.raises(ValueError, match=r"expected finite positive \|G\(t\)\| / std\(t\)"):
        TimeSampler(as_diffusion(silent), 1e-3, None, "importance")
    # Each of these has both.
    for process in (ms.OrnsteinUhlenbeck(2), ms.Langevin(ms.ProductMixture(2, [-1.0, 1.0], 0.5))):
        assert TimeSampler(process, 1e-3, None, "importance").kind == "importance"


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_loss_is_the_mean_and_follows_dtype_and_seed(dtype):
    objective = ms.DenoisingSM(ms.TorusBrownian(2))
    x0 = torch.zeros(64, 2, dtype=dtype)
    losses = objective.losses(lambda y, t: -y, x0, rng(9))
    assert losses.shape == (64,)
    assert losses.dtype == dtype
    assert torch.equal(objective.loss(lambda y, t: -y, x0, rng(9)), losses.mean())


def test_default_range_is_the_horizon():
    assert ms.DenoisingSM(ms.TorusBrownian(2, horizon=3.0)).t_max == 3.0
    assert "TorusBrownian(dim=2, horizon=3.0)" in repr(
        ms.DenoisingSM(ms.TorusBrownian(2, horizon=3.0))
    )


def test_rejects_bad_settings():
    torus = ms.TorusBrownian(2)
    own = Plain(well, dim=1, horizon=1.0)
    refused("Plain without sample_transition", ms.DenoisingSM, own, error=TypeError)
    refused("t_min < t_max", ms.DenoisingSM, torus, 1.0, 0.5)
    outside = ms.DenoisingSM(torus).loss, lambda y, t: y, torch.tensor([[0.0, 1.0], [0.0, 4.0]])
    refused("row 1 = .*scale the data", *outside, rng())
