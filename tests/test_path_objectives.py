"""Local-DSM, path-shift DSM and implicit matching against closed forms, plain DSM and a prior."""

import math

import pytest
import torch
from odd_inputs import refused
from problems import WELLS, Plain, linear_moments, well
from runs import broken_off
from statistical import F64, agrees, points, rng, sigmas

import markovscore as ms
from markovscore.core import as_diffusion
from markovscore.targets import law_draw, local_draw, small_laws

N = 20_000
T = 0.7
F = torch.tensor([[-0.4, 1.0], [-0.3, -1.2]], dtype=F64)
FULL = torch.tensor([[1.0, 0.0], [0.5, 0.8]], dtype=F64)
SINGULAR = torch.tensor([[0.0], [1.1]], dtype=F64)
MEAN = torch.tensor([0.5, -1.0], dtype=F64)
AT = {"t_min": T, "t_max": T * (1 + 1e-9)}


def data(seed=1):
    return MEAN + 0.6 * points(N, 2, seed)


def law(G, t=T, start=0.36):
    """Mean and covariance at ``t`` from ``N(MEAN, start I)``."""
    return linear_moments(F, G, MEAN, start, t)


def explicit(G, A, b, weight):
    """``E (s - grad log rho)^T weight (s - grad log rho)`` for ``s = A y + b``, closed form."""
    m, V = law(G)
    precision = torch.linalg.inv(V)
    slope, at_mean = A + precision, A @ m + b
    return torch.trace(weight @ slope @ V @ slope.T) + at_mean @ weight @ at_mean


SCORES = [
    (torch.tensor([[-1.0, 0.2], [0.4, -0.5]]).double(), torch.tensor([0.3, -0.4]).double()),
    (torch.tensor([[0.9, 0.5], [-0.4, 0.8]]).double(), torch.tensor([1.5, 2.0]).double()),
]


def linear(k):
    A, b = SCORES[k]
    return lambda y, t: y @ A.T + b


def paired(objective, x0, seed=2):
    return [objective.losses(linear(k), x0, rng(seed)) for k in range(2)]


CASES = {
    "dsm": (FULL, ms.DenoisingSM, {}),
    "local": (FULL, ms.LocalDSM, {"window": 0.3, "steps": 150}),
    "local-whole": (FULL, ms.LocalDSM, {"window": 9.0}),
    "local-singular": (SINGULAR, ms.LocalDSM, {"window": 0.5, "steps": 150}),
    "shift": (FULL, ms.PathShiftDSM, {"window": 0.3, "steps": 150, "weight": "linear"}),
    "shift-whole": (FULL, ms.PathShiftDSM, {"window": 9.0, "steps": 150, "weight": "linear"}),
    "exact": (FULL, ms.ImplicitSM, {}),
    "exact-singular": (SINGULAR, ms.ImplicitSM, {}),
    "hutchinson": (FULL, ms.ImplicitSM, {"trace": "hutchinson"}),
}


@pytest.mark.parametrize("name", CASES)
def test_difference_of_losses_is_the_explicit_one(name):
    """On a linear process every loss is the Fisher divergence up to a constant in the score."""
    G, kind, settings = CASES[name]
    first, second = paired(kind(ms.LinearSDE(F, G), **settings, **AT), data())
    expected = explicit(G, *SCORES[0], G @ G.T) - explicit(G, *SCORES[1], G @ G.T)
    assert agrees(first - second, expected)
    assert sigmas(first - second, 1.25 * expected) > 6


@pytest.mark.parametrize("name", ["exact", "exact-singular", "hutchinson"])
def test_implicit_loss_is_the_explicit_one_less_the_fisher_information(name):
    G, kind, settings = CASES[name]
    _, V = law(G)
    information = torch.trace(G @ G.T @ torch.linalg.inv(V))
    losses = paired(kind(ms.LinearSDE(F, G), **settings, **AT), data())[0]
    assert agrees(losses, explicit(G, *SCORES[0], G @ G.T) - information)


@pytest.mark.parametrize("times", ["uniform", "log"])
@pytest.mark.parametrize("kind", [ms.LocalDSM, ms.PathShiftDSM])
def test_over_all_times_the_difference_is_that_of_plain_dsm(kind, times):
    diffusion, span = ms.LinearSDE(F, FULL), {"t_min": 0.05, "t_max": 1.5, "times": times}
    given = {"weight": "linear"} if kind is ms.PathShiftDSM else {}
    mine = paired(kind(diffusion, 0.4, 100, **given, **span), data(3), 4)
    plain = paired(ms.DenoisingSM(diffusion, **span), data(5), 6)
    assert agrees((mine[0] - mine[1]) - (plain[0] - plain[1]))


def test_perceptual_weighting_is_the_covariance_of_the_window():
    diffusion = ms.LinearSDE(F, FULL)
    gaps = paired(ms.LocalDSM(diffusion, 0.3, 150, "perceptual", **AT), data())
    P = law(FULL, 0.3, 0.0)[1]
    expected = explicit(FULL, *SCORES[0], P) - explicit(FULL, *SCORES[1], P)
    assert agrees(gaps[0] - gaps[1], expected)
    shift = ms.PathShiftDSM(diffusion, 0.3, 150, "perceptual", weight="linear", **AT)
    shifted = paired(shift, data())
    first_order = 0.3 * FULL @ FULL.T
    expected = explicit(FULL, *SCORES[0], first_order) - explicit(FULL, *SCORES[1], first_order)
    assert agrees(shifted[0] - shifted[1], expected)


@pytest.mark.parametrize("process", [ms.OrnsteinUhlenbeck(2), ms.LinearSDE(F, FULL)])
def test_perceptual_local_loss_is_noise_prediction(process):
    """For the score of the window's own Gaussian the prediction is the noise: the loss is zero."""
    x0 = data()
    # s = 0: y_s = x0, so a score that knows x0 predicts the noise exactly.
    objective = ms.LocalDSM(process, 9.0, weighting="perceptual", **AT)

    def exact(y, t):
        return process.transition_score(y, x0, t)

    assert float(objective.losses(exact, x0, rng()).max()) < 1e-12
    zero = objective.losses(lambda y, t: torch.zeros_like(y), x0, rng())
    assert agrees(zero, 2.0)


def test_perceptual_shift_counts_the_window_in_the_clock():
    """beta = 0.1 + 9.9 t: ``int_s^t beta = 0.4`` over ``beta(t)`` times the likelihood's loss."""
    x0 = data()[:50]
    like, perceptual = (
        ms.PathShiftDSM(
            ms.Langevin(WELLS, (0.1, 10.0)), 0.4, 5, weighting, weight="linear", **AT
        ).losses(linear(0), x0, rng())
        for weighting in ("likelihood", "perceptual")
    )
    assert torch.allclose(perceptual, like * 0.4 / (0.1 + 9.9 * T))


@pytest.mark.parametrize("kind", [ms.LocalDSM, ms.PathShiftDSM, ms.ImplicitSM])
def test_minimiser_on_gaussian_data_is_the_gaussian_score(kind):
    """The loss of ``A y + b`` is quadratic: one Newton step, on ten independent parts."""
    settings = {} if kind is ms.ImplicitSM else {"window": 0.3, "steps": 150}
    settings |= {"weight": "linear"} if kind is ms.PathShiftDSM else {}
    objective, x0 = kind(ms.LinearSDE(F, FULL), **settings, **AT), data(7)
    found = []
    for part in x0.chunk(10):
        draws = rng(len(found))
        state = draws.get_state()

        def loss(theta, part=part, draws=draws, state=state):
            draws.set_state(state)
            A, b = theta[:4].reshape(2, 2), theta[4:]
            return objective.losses(lambda y, t: y @ A.T + b, part, draws).mean()

        zero = torch.zeros(6, dtype=F64, requires_grad=True)
        slope = torch.autograd.grad(loss(zero), zero, create_graph=True)[0]
        rows = [torch.autograd.grad(g, zero, retain_graph=True)[0] for g in slope]
        found.append(-torch.linalg.solve(torch.stack(rows), slope.detach()))
    theta = torch.stack(found)
    m, V = law(FULL)
    precision = torch.linalg.inv(V)
    expected = torch.cat([-precision.flatten(), precision @ m])
    assert agrees(theta, expected)
    assert float(theta.std(0).max()) < 0.1 * math.sqrt(10)


NONLINEAR = {
    "local": (ms.LocalDSM, {"window": 0.02}),
    "local-perceptual": (ms.LocalDSM, {"window": 0.02, "weighting": "perceptual"}),
    "shift": (ms.PathShiftDSM, {"window": 1.0, "weight": "linear"}),
    "shift-perceptual": (
        ms.PathShiftDSM,
        {"window": 0.5, "weighting": "perceptual", "weight": "quadratic"},
    ),
    "shift-adaptive": (ms.PathShiftDSM, {"window": 1.0, "weight": "adaptive"}),
    "exact": (ms.ImplicitSM, {}),
    "hutchinson": (ms.ImplicitSM, {"trace": "hutchinson"}),
}


@pytest.mark.parametrize("name", NONLINEAR)
def test_stationary_data_keep_the_score_of_a_mixture_prior(name):
    """Data from ``pi`` stay ``pi``: the loss is stationary at the prior's score, at every time."""
    kind, settings = NONLINEAR[name]
    objective = kind(ms.Langevin(WELLS), steps=40, t_min=0.1, **settings)
    count = 3000 if name == "shift-adaptive" else 8000  # its steps take many times longer
    x0 = WELLS.sample(count, generator=rng(1), dtype=F64)
    for change in (lambda y: y.sin(), lambda y: torch.tanh(y[:, :1] - y[:, 1:]) + 0 * y):

        def losses(size, change=change):
            return objective.losses(lambda y, t: WELLS.score(y) + size * change(y), x0, rng(2))

        # Quadratic in the size: the central difference is the derivative.
        assert agrees(losses(0.5) - losses(-0.5))
        assert sigmas(losses(1.5) - losses(0.5)) > 6


def test_swimmer_is_weighed_by_its_noise():
    """Only the ``v`` component of a score matters where the noise enters ``v`` alone."""
    x0 = 0.5 * torch.randn(500, 2, generator=rng(1))
    for kind in (ms.LocalDSM, ms.PathShiftDSM, ms.ImplicitSM):
        objective = kind(ms.ActiveSwimmer(), t_min=0.5)
        one, other, third = (
            objective.losses(
                lambda y, t, x=x, v=v: torch.stack([x * y[:, 0], v * y[:, 1]], 1), x0, rng(2)
            )
            for x, v in ((0.0, -1.0), (5.0, -1.0), (0.0, -2.0))
        )
        assert one.isfinite().all()
        assert torch.equal(one, other)
        assert not torch.allclose(one, third)


@pytest.mark.parametrize("process", [ms.ActiveSwimmer(), ms.LinearSDE(F, FULL)])
def test_a_law_that_is_kept_gives_the_same_draws(process):
    y, s, t = points(50, 2), torch.linspace(0, 0.6, 50).double(), torch.tensor([0.7]).double()
    process = as_diffusion(process)
    law = small_laws(process, y, s, t.expand(50))
    kept, fresh = law_draw(*law, y, rng()), local_draw(process, y, s, t.expand(50), rng())
    for a, b in zip((*kept[:2], kept.factor.value, kept.noise),
                    (*fresh[:2], fresh.factor.value, fresh.noise), strict=True):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert small_laws(as_diffusion(ms.DoubleWell(2)), y, s, t.expand(50)) == ()
    assert small_laws(as_diffusion(ms.OrnsteinUhlenbeck(9)), points(50, 9), s, t.expand(50)) == ()


CUBIC = Plain(well, lambda t: 1.0, dim=2, horizon=1.0)


@pytest.mark.parametrize("kind", [ms.LocalDSM, ms.PathShiftDSM, ms.ImplicitSM])
def test_a_users_own_class_and_the_buffered_loss(kind):
    """``loss`` has the mean of ``losses``, though its rows come from a buffer."""
    given = {"window": 1.0, "weight": "linear"} if kind is ms.PathShiftDSM else {}
    objective = kind(CUBIC, steps=20, t_min=0.2, reuse=2, ahead=3, **given)
    draws = rng(1)

    def batch():
        return 0.5 * torch.randn(100, 2, generator=draws)

    def score(y, t):
        return -y + 0.1 * y**2

    fresh = torch.stack([objective.losses(score, batch(), draws).mean() for _ in range(200)])
    rounds = []
    for _ in range(60):
        objective.restore({})
        rounds.append(torch.stack([objective.loss(score, batch(), draws) for _ in range(12)]))
    reused = torch.stack(rounds).mean(1)
    error = math.sqrt(fresh.var() / len(fresh) + reused.var() / len(reused))
    assert abs(float(reused.mean() - fresh.mean())) < 6 * error


@pytest.mark.parametrize("kind", [ms.LocalDSM, ms.PathShiftDSM, ms.ImplicitSM])
def test_training_is_deterministic_and_resumes_bit_for_bit(kind, tmp_path):
    x = torch.randn(300, 2, generator=rng(5))

    def make():
        return ms.ScoreMLP(2, width=8, depth=1), objective

    objective = kind(ms.Langevin(WELLS), steps=3, t_min=0.1, reuse=2, ahead=4)
    whole, again = (ms.train(*make(), x, 25, batch_size=16, progress=False) for _ in range(2))
    assert torch.equal(whole.losses, again.losses)
    settings = {"batch_size": 16, "checkpoint_every": 10}
    resumed = broken_off(make, x, 25, 13, tmp_path / "run", **settings)
    assert torch.equal(whole.losses, resumed.losses)


def test_schedules_agree_with_windows():
    ou, x0 = ms.OrnsteinUhlenbeck(2), data()
    number = ms.LocalDSM(ou, 0.3).losses(linear(0), x0, rng())
    schedule = ms.LocalDSM(ou, lambda t: ms.fixed_window(t, 0.3)).losses(linear(0), x0, rng())
    assert torch.allclose(number, schedule)


def test_bad_processes_and_calls():
    refused("without walls", ms.ImplicitSM, ms.BoxBrownian(2))
    ou, x0 = ms.OrnsteinUhlenbeck(2), data()
    with pytest.raises(ValueError, match="expected a window with 0 <= s < t"):
        ms.LocalDSM(ou, lambda t: t).losses(linear(0), x0, rng())
    with pytest.raises(ValueError, match="expected a window with 0 <= s"):
        ms.PathShiftDSM(ou, lambda t: t - 10).losses(linear(0), x0, rng())
    with pytest.raises(ValueError, match="no shift rule"):
        ms.PathShiftDSM(ms.LinearSDE(F, SINGULAR)).losses(linear(0), x0, rng())
    refused("expected shape", ms.LocalDSM(ou).loss, linear(0), torch.zeros(3, 5), rng())
    for kind in (ms.LocalDSM, ms.PathShiftDSM, ms.ImplicitSM):
        refused(r"(score|field): expected shape", kind(ou).loss, lambda y, t: y[:, :1], x0, rng())


def test_a_drift_that_blows_up_names_the_time():
    broken = Plain(lambda y, t: torch.full_like(y, math.nan), dim=2, horizon=1.0)
    refused("at time", ms.LocalDSM(broken).loss, linear(0), data(), rng())
