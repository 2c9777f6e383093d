"""What a user's process and score are given, and what they may return, in every public function.

The process is ``dY = (cos t - Y) dt + g(t) diag(sigma) dW``, a plain class without a base: its law
from a Gaussian start is Gaussian, with moments by quadrature. As many rows as coordinates must
never change a meaning.
"""

import math

import numpy as np
import pytest
import torch
from odd_inputs import refused
from statistical import F64, agrees, points, rng

import markovscore as ms
from markovscore import core

NODES, WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(40))


def g(t):
    return 0.5 + 0.3 * t


def sizes(d):
    return torch.linspace(0.6, 1.4, d, dtype=F64)


class Tide:
    """``form`` says how the noise is written; the times that come in are looked at."""

    horizon = 1.5

    def __init__(self, d, form):
        self.dim, self.form, self.sigma = d, form, sizes(d) if form != "number" else torch.ones(d)
        self.prior = gaussian(self, self.horizon)
        self.asked = []

    def drift(self, y, t):
        assert isinstance(t, torch.Tensor) and (t.dtype, t.device) == (y.dtype, y.device)
        assert t.shape in ((), (len(y), 1)) and y.ndim == 2
        self.asked.append(t.ndim)
        return torch.cos(t) - y

    def dispersion(self, t):
        assert isinstance(t, torch.Tensor) and (t.ndim == 0 or t.shape[1:] == (1,))
        if self.form == "number":
            return g(t)
        if self.form == "diagonal":
            return ms.Diagonal(g(t) * self.sigma.to(t))
        return g(t)[..., None] * torch.diag(self.sigma).to(t)


def law(sigma, t, mean=0.4, var=0.09, s=0.0):
    """Mean ``(n, 1)`` and variances ``(n, d)`` at ``t`` ``(n,)`` of a start at ``s``."""
    t = torch.as_tensor(t, dtype=F64).reshape(-1, 1)
    s = torch.as_tensor(s, dtype=F64).expand(t.shape)
    u, w = s + (t - s) * (NODES + 1) / 2, (t - s) / 2 * WEIGHTS
    m = torch.exp(s - t) * mean + (w * torch.exp(u - t) * u.cos()).sum(1, keepdim=True)
    noise = (w * torch.exp(2 * (u - t)) * g(u).square()).sum(1, keepdim=True)
    return m, torch.exp(2 * (s - t)) * var + noise * sigma.double().square()


def gaussian(process, t):
    m, v = law(process.sigma, [t])
    return ms.Gaussian(process.dim, m[0].expand(process.dim), torch.diag(v[0].sqrt()))


class Exact:
    """The score; it looks at its times."""

    def __init__(self, process, factor=1.0):
        self.process, self.factor = process, factor

    def __call__(self, x, t):
        assert isinstance(t, torch.Tensor) and t.shape in ((), x.shape[:1])
        assert (t.dtype, t.device) == (x.dtype, x.device)
        m, v = law(self.process.sigma, t)
        return self.factor * (m.to(x) - x) / v.to(x)


FORMS = ["number", "diagonal", "matrix"]
form = pytest.mark.parametrize("form", FORMS)


def own_times(n):
    return torch.linspace(0.2, 1.4, n, dtype=F64)


# The exact law


@form
@pytest.mark.parametrize(("n", "d"), [(64, 64), (1000, 4)])
@pytest.mark.parametrize("column", [False, True])
def test_simulation_has_the_exact_law_at_every_row_s_time(form, n, d, column):
    process, t = Tide(d, form), own_times(n)
    start = 0.4 + 0.3 * points(n, d, 5)
    y = ms.simulate(process, start, t[:, None] if column else t, 60, rng(1))
    m, v = law(process.sigma, t)
    z = (y - m) / v.sqrt()
    count = z.numel()
    assert abs(float(z.mean())) < 6 / math.sqrt(count) + 0.01  # and Euler's own error
    assert abs(float(z.square().mean()) - 1) < 6 * math.sqrt(2 / count) + 0.03
    assert set(process.asked) == {2}


@form
@pytest.mark.parametrize(("n", "d"), [(3, 3), (4, 3), (1, 3), (1, 1), (3, 1)])
def test_local_transition(form, n, d):
    process, s, h = Tide(d, form), own_times(n) - 0.1, 1e-3
    y = points(n, d)
    m, P = ms.local_transition(process, y, s, s + h)
    mean, var = law(process.sigma, s + h, y, 0.0, s[:, None])
    torch.testing.assert_close(m, mean, rtol=0, atol=1e-9)  # the forcing's curvature, h^3
    torch.testing.assert_close(P, torch.diag_embed(var), rtol=1e-6, atol=1e-12)
    weight = ms.linearised_weight(process, y, s, s + h)(torch.tensor([0, 0.5, 1]))[1]
    half = law(process.sigma, s + h / 2, y, 0.0, s[:, None])[1]
    gain = half * math.exp(-h / 2) / var  # of the regression of Y_r on Y_t
    torch.testing.assert_close(weight, torch.diag_embed(gain), rtol=1e-3, atol=1e-9)


@form
@pytest.mark.parametrize(("n", "d"), [(64, 64), (2000, 2)])
@pytest.mark.parametrize("weight", ["linear", "adaptive"])
def test_path_shift_targets_have_the_mean_of_the_score(form, n, d, weight):
    process, s = Tide(d, form), own_times(n) - 0.2
    y, target = ms.path_shift_target(
        process, points(n, d), s, s + 0.3, steps=12, generator=rng(2), weight=weight
    )
    local = ms.local_target(process, points(n, d), s, s + 0.3, generator=rng(2))
    for end, score in ((y, target), local):  # Stein
        z = torch.stack([score, (end - end.mean(0)) * score + 1]).flatten(1)
        assert agrees(z.T, slack=0.03)


@form
@pytest.mark.parametrize(("n", "d"), [(3, 3), (5, 3), (1, 1), (2, 1)])
def test_likelihood_and_flow(form, n, d):
    process = Tide(d, form)
    score, times = Exact(process), torch.linspace(0.1, 1.5, 100, dtype=F64)
    x = 0.4 + 0.3 * points(n, d)
    right = gaussian(process, 0.1).log_prob(x)
    found = ms.log_likelihood(score, process, x, times=times)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-3)
    m, v = law(process.sigma, [0.1])
    drawn = ms.sample_ode(score, process, n, times=times, x_T=x)
    end_m, end_v = law(process.sigma, [1.5])
    torch.testing.assert_close(drawn, m + (x - end_m) * (v / end_v).sqrt(), rtol=0, atol=1e-3)
    sde = ms.sample_sde(score, process, 4000, times=times[::2], generator=rng(), x_T=(
        end_m + end_v.sqrt() * points(4000, d, 4)
    ))  # fmt: skip
    z = (sde - m) / v.sqrt()
    assert (z.mean(0).abs() < 6 / math.sqrt(4000) + 0.03).all()
    assert ((z.var(0) - 1).abs() < 6 * math.sqrt(2 / 4000) + 0.06).all()


@form
@pytest.mark.parametrize("kind", ["exact", "hutchinson", "local"])
def test_bound_on_the_likelihood(form, kind):
    """With the exact score it is ``E[log p_t0(Y_t0) | x]``: as many rows as coordinates."""
    process, x = Tide(3, form), 0.4 + 0.3 * points(3, 3)
    settings = {"form": "local", "window": 0.1} if kind == "local" else {"trace": kind}
    draws, g, score = [], rng(3), Exact(process)
    for _ in range(12):
        draws.append(
            ms.elbo(score, process, x, samples=600, steps=30, t_min=0.2, generator=g, **settings)
        )
    found, error = torch.stack(draws).mean(0), torch.stack(draws).std(0) / math.sqrt(12)
    m, v = law(process.sigma, [0.2])
    own_m, own_v = law(process.sigma, [0.2] * 3, x, 0.0)
    right = -0.5 * (((own_m - m).square() + own_v) / v + (2 * math.pi * v).log()).sum(1)
    assert (error < 0.25).all()
    assert ((found - right).abs() < 5 * error + 0.05).all()  # and Euler's own error


class WithDivergence(Exact):
    def divergence(self, x, t):
        v = law(self.process.sigma, t)[1]
        return (-self.factor / v).to(x).sum(1).expand(len(x))


@form
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_bound_by_the_score_s_own_divergence(form, n, trace):
    """The noise differs from row to row with the time; signs of a diagonal trace cancel."""
    process, x = Tide(3, form), 0.4 + 0.3 * points(n, 3)
    settings = {"samples": 4, "steps": 5, "t_min": 0.2, "trace": trace}
    bounds = [
        ms.elbo(score(process), process, x, generator=rng(3), **settings)
        for score in (Exact, WithDivergence)
    ]
    if trace == "exact" or form != "number":
        torch.testing.assert_close(*bounds)
    else:  # the own divergence draws no signs, so that other paths follow
        assert bool(bounds[1].isfinite().all())


@form
def test_implicit_loss(form):
    """At the exact score, ``-E |G^T s|^2``, the average over time of ``tr(G G^T / v)``."""
    process, n, d = Tide(4, form), 4, 4
    objective = ms.ImplicitSM(process, steps=30, t_min=0.2, t_max=1.4)
    x0 = 0.4 + 0.3 * points(400 * n, d)
    losses = objective.losses(Exact(process), x0, rng())
    t = 0.8 + 0.6 * NODES
    v = law(process.sigma, t)[1]
    right = -float((WEIGHTS[:, None] / 2 * (g(t)[:, None] * process.sigma).square() / v).sum())
    error = float(losses.std()) / math.sqrt(len(losses))
    assert abs(float(losses.mean()) - right) < 6 * error + 0.02 * abs(right)
    few = objective.losses(Exact(process), x0[:n], rng(1))  # as many rows as coordinates
    assert few.shape == (n,) and bool(torch.isfinite(few).all())


@form
@pytest.mark.parametrize("d", [1, 2])
def test_fokker_planck(form, d):
    process = Tide(d, form)
    start = ms.Gaussian(d, torch.full((d,), 0.4), 0.3)
    solved = ms.fokker_planck(
        process, start.log_prob, [0.5, 1.0], [(-4, 4.5)] * d, cells=110, steps=60
    )
    x = 0.5 + 0.2 * points(d, d)
    t = torch.tensor([0.5, 1.0], dtype=F64)[:d]
    right = torch.cat([gaussian(process, float(v)).log_prob(x[[i]]) for i, v in enumerate(t)])
    torch.testing.assert_close(solved.density(x, t[:, None]).log(), right, rtol=0, atol=3e-2)
    m, v = law(process.sigma, t)
    score = (m - x) / v
    velocity = t.cos()[:, None] - x - 0.5 * (g(t)[:, None] * process.sigma).square() * score
    current = right.exp()[:, None] * velocity
    torch.testing.assert_close(solved.current(x, t), current, rtol=0.03, atol=0.01)
    assert solved.entropy_production(0.5) > 0


# One noise in two forms


@pytest.mark.parametrize(("n", "d"), [(3, 3), (5, 3), (1, 2), (4, 1)])
def test_a_diagonal_is_the_matrix_with_that_diagonal(n, d):
    one, other = Tide(d, "diagonal"), Tide(d, "matrix")
    y, t = points(n, d), own_times(n)

    def both(function):
        for a, b in zip(function(one), function(other), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)

    for s in (0.1, t - 0.15):
        both(lambda p, s=s: ms.local_transition(p, y, s, t))
        both(lambda p, s=s: ms.local_target(p, y, s, t, generator=rng()))
        both(lambda p, s=s: ms.linearised_weight(p, y, s, t)(torch.tensor([0, 0.3, 0.7, 1])))
        both(lambda p, s=s: [ms.simulate(p, y, t, 4, rng(), s=s)])
        for weight in ("linear", "adaptive", lambda share: share**2):
            both(
                lambda p, s=s, w=weight: ms.path_shift_target(
                    p, y, s, t, steps=4, generator=rng(), weight=w
                )
            )
    score = Exact(one, 0.8)
    both(lambda p: [ms.log_likelihood(score, p, y, steps=4)])
    both(lambda p: [ms.log_likelihood(score, p, y, steps=4, trace="hutchinson", generator=rng())])
    both(lambda p: [ms.sample_sde(score, p, n, steps=4, generator=rng(), x_T=y)])
    for settings in ({"form": "trace"}, {"form": "local"}, {"trace": "hutchinson"}):
        both(lambda p, k=settings: [ms.elbo(score, p, y, samples=2, steps=3, generator=rng(), **k)])
    for kind, settings in [
        (ms.LocalDSM, {}),
        (ms.LocalDSM, {"weighting": "perceptual"}),
        (ms.PathShiftDSM, {"window": 0.5, "weight": "linear"}),
        (ms.PathShiftDSM, {"window": 0.5, "weight": "adaptive", "weighting": "perceptual"}),
        (ms.ImplicitSM, {}),
        (ms.ImplicitSM, {"trace": "hutchinson"}),
    ]:
        both(lambda p, c=kind, k=settings: [c(p, steps=3, **k).losses(score, y, rng())])


def test_a_diagonal_jacobian_takes_the_short_way():
    """Elementwise drift and diagonal noise: closed forms, no matrices; and float32 stays."""

    class Short(Tide):
        elementwise = True

    y, t = points(3, 3), own_times(3)
    for a, b in (
        (Short(3, "diagonal"), Tide(3, "matrix")),
        (Short(3, "number"), Tide(3, "number")),
    ):
        for function in (
            lambda p: ms.local_target(p, y, t - 0.1, t, generator=rng()),
            lambda p: ms.path_shift_target(
                p, y, t - 0.1, t, steps=4, generator=rng(), weight="adaptive"
            ),
        ):
            for u, v in zip(function(a), function(b), strict=True):
                torch.testing.assert_close(u, v)
        small = ms.local_target(a, y.float(), 0.1, 0.3, generator=rng())
        assert small[0].dtype == small[1].dtype == torch.float32


# Forms


def test_diagonal():
    assert ms.Diagonal([1, 2]).sigma.dtype == F64
    assert ms.Diagonal(np.ones(3, np.float32)).sigma.dtype == torch.float32
    assert ms.Diagonal(np.arange(4.0)[::-1]).sigma.tolist() == [3, 2, 1, 0]
    with pytest.raises(AttributeError):
        ms.Diagonal([1.0]).sigma = torch.ones(2)
    for wrong in (1.0, torch.ones(2, 2, 2), [], torch.ones(0, 2)):
        refused(r"sigma: expected shape \(d,\) or \(B, d\), found", ms.Diagonal, wrong)
    for wrong in ("wide", None, [1j], torch.ones(2) > 0):
        refused(r"sigma: expected .*(real|numbers)", ms.Diagonal, wrong, error=TypeError)


class Noise:
    dim = 3

    def __init__(self, dispersion):
        self.dispersion = dispersion


A = torch.tensor([[1.0, 0.2, 0.0], [0.0, 0.7, 0.1], [0.3, 0.0, 0.5]], dtype=F64)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_what_a_dispersion_may_return(n):
    y, t, z = points(n, 3), own_times(n), points(n, 3, 1)
    for time, times in ((0.7, torch.tensor(0.7).double()), (t, t[:, None])):
        for given, right in [
            (lambda t: 2, 2 * z),
            (lambda t: torch.tensor(0.5), 0.5 * z),
            (lambda t: g(t), g(times) * z),
            (lambda t: A, z @ A.T),
            (lambda t: A.numpy(), z @ A.T),
            (lambda t: A[:, :1], z[:, :1] @ A[:, :1].T),
            (lambda t: t[..., None] * A, times * (z @ A.T)),
            (lambda t: ms.Diagonal(A[0]), A[0] * z),
            (lambda t: ms.Diagonal(t * A[0]), times * A[0] * z),
        ]:
            G = core.noise_at(Noise(given), y, time)
            torch.testing.assert_close(G @ z[:, : G.columns(3)], right)
    scalar = core.noise_at(Noise(lambda t: g(t)), y, t)
    assert isinstance(scalar, core.Scalar) and scalar.rows.shape == (n,)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize(
    "given",
    [
        lambda t: torch.ones(3),
        lambda t: g(t).reshape(-1),
        lambda t: ms.Diagonal(torch.ones(2)),
        lambda t: torch.ones(2, 2),
        lambda t: torch.ones(1, 3, 3),
        lambda t: torch.ones(3, 1, 1, 1),
        lambda t: "wide",
    ],
)
def test_what_a_dispersion_may_not_return(n, given):
    y, process = points(n, 3), Noise(given)
    process.drift = lambda y, t: -y
    for function in (
        lambda t: ms.simulate(process, y, t, 3),
        lambda t: ms.local_transition(process, y, 0.1, t),
        lambda t: ms.path_shift_target(process, y, 0.1, t, steps=3),
    ):
        for t in (0.5, own_times(n)):
            refused(r"dispersion: expected a number.*, found .*ms\.D", function, t)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_matrix_that_takes_the_times_of_rows_for_its_own_is_refused(n):
    """``t * A`` is a matrix only by accident, with as many rows as coordinates."""
    process, y, t = Noise(lambda t: t * A), points(n, 3), own_times(n)
    refused(r"dispersion: .*t\[\.\.\., None\] \* ", core.noise_at, process, y, t)
    process.drift = lambda y, t: y @ (t * A)
    for function in (core.drift_at, core.drift_divergence, core.jacobian_at):
        refused(r"drift: .*t\[\.\.\., None\] \* A", function, core.as_diffusion(process), y, t)
    torch.testing.assert_close(core.drift_at(process, y, 0.5), 0.5 * y @ A)


@pytest.mark.parametrize("n", [1, 3, 4])
def test_a_drift_of_another_shape_is_named(n):
    y, process = points(n, 3), Noise(lambda t: 1.0)
    for wrong in (lambda y, t: y[:, :1], lambda y, t: (y @ A).sum(1), lambda y, t: 0.0):
        process.drift = wrong
        for t in (0.4, own_times(n)):
            for function in (
                lambda t: ms.simulate(process, y, t, 3),
                lambda t: ms.local_transition(process, y, 0.1, t),
                lambda t: ms.path_shift_target(process, y, 0.1, t),
                lambda t: core.drift_divergence(core.as_diffusion(process), y, t),
            ):
                refused(r"drift: expected shape \(\d+, 3\), found", function, t)


def test_a_drift_that_holds_its_own_rows_is_named():
    """The check of a derivative asks it at other rows; where ``B = d`` one row more is asked."""
    process, own = Noise(lambda t: 1.0), points(70, 3)
    process.drift = lambda y, t: own - y
    with pytest.raises(ValueError, match=r"drift: expected a function of each row.*found.*check_d"):
        ms.path_shift_target(process, points(70, 3), 0.1, 0.5)
    y, _ = ms.path_shift_target(process, points(70, 3), 0.1, 0.5, check_derivative=False)
    assert y.shape == (70, 3)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_derivatives_of_another_shape_are_named(n):
    """A constant Jacobian ``(d, d)`` is not a diagonal for each row, though ``B = d``."""
    y, process = points(n, 3), Noise(lambda t: 1.0)
    process.drift = lambda y, t: y @ A.T
    process.drift_divergence = lambda y, t: y[:, :1]
    seen = core.as_diffusion(process)  # which follows what is set later
    refused("drift_divergence: expected shape", core.drift_divergence, seen, y, 0.1)
    process.drift_divergence = lambda y, t: 1.5
    assert core.drift_divergence(seen, y, 0.1).tolist() == [1.5] * n
    process.drift_jacobian = lambda y, t: A
    refused("drift_jacobian: expected shape", core.jacobian_at, seen, y, own_times(n))
    process.drift_jacobian = lambda y, t: A.expand(len(y), 3, 3)
    f, product = core.drift_and_vjp(seen, y, own_times(n), y)
    torch.testing.assert_close((f, product), (y @ A.T, y @ A))
    process.drift_and_vjp = lambda y, t, v: (y, v[:, :1])
    refused("drift_and_vjp: expected shape", core.drift_and_vjp, seen, y, 0.1, y)


@pytest.mark.parametrize("n", [2, 3])
def test_built_in_processes_and_their_direct_calls(n):
    """Times of any form, and a process that hands its call on to another."""
    y, t = points(n, 2), own_times(n) / 2 + 0.2
    mixture = ms.GaussianMixture(points(2, 2), 0.8)
    for inner in (ms.VariancePreserving(2), ms.Langevin(mixture), ms.TrappedParticles(1)):
        for times in (t, t[:, None]):
            assert inner.dispersion(times).shape in ((), times.shape)

        class Outer:
            drift, dispersion = inner.drift, inner.dispersion

        for a, b in zip(
            ms.local_transition(Outer(), y, t - 0.2, t - 0.19),
            ms.local_transition(inner, y, t - 0.2, t - 0.19),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)  # one with, one without a clock
