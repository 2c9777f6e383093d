"""Samplers and densities against exact scores: order in the step, moments, agreement of paths."""

import functools
import math
from types import SimpleNamespace

import pytest
import torch
from odd_inputs import refused
from problems import Plain, linear_moments
from statistical import F64, agrees, points, products, rng, slope
from torch import Tensor

from markovscore.core import Diagonal, block_rows, trace_rows, value_and_divergence
from markovscore.diffusions import (
    BoxBrownian,
    Gaussian,
    GaussianMixture,
    LinearSDE,
    OrnsteinUhlenbeck,
    TorusBrownian,
)
from markovscore.sampling import log_likelihood, sample_ode, sample_sde

MEANS = torch.tensor([[1.5, 0.0], [-1.0, 0.8], [-0.3, -1.2]], dtype=F64)
SCALES = torch.tensor([0.5, 0.35, 0.6], dtype=F64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
T = 3.0
OU = OrnsteinUhlenbeck(2)


@functools.cache
def mixture(t: float) -> GaussianMixture:
    """Under OU at ``t``: ``sum_m w_m N(e^{-t} mu_m, (e^{-2t} sigma_m^2 + 1 - e^{-2t}) I)``."""
    scales = (math.exp(-2 * t) * SCALES**2 + 1 - math.exp(-2 * t)).sqrt()
    return GaussianMixture(math.exp(-t) * MEANS, scales, WEIGHTS)


def mixture_score(x: Tensor, t: float) -> Tensor:
    return mixture(float(t)).score(x)


class WithDivergence:
    """The same score, with a closed-form divergence and no autograd: counts its evaluations."""

    def __init__(self, both: bool = False):
        self.calls = 0
        if both:
            self.score_and_divergence = self._both

    @torch.no_grad()
    def __call__(self, x, t):
        self.calls += 1
        return mixture_score(x, t)

    def divergence(self, x, t):
        return value_and_divergence(mixture_score, x, t)[1]

    def _both(self, x, t):
        return self(x, t), self.divergence(x, t)


def exact_end(t: float):
    """An OU process whose prior is the mixture's own law at ``t``: no truncation error."""
    diffusion = OrnsteinUhlenbeck(2)
    diffusion.prior = mixture(t)
    return diffusion


def grid(steps, end=T, start=0.0, power=2):
    """Times from ``start`` to ``end``, equal steps of ``t^(1 / power)``."""
    ends = (start ** (1 / power), end ** (1 / power))
    return torch.linspace(*ends, steps + 1, dtype=F64) ** power


cloud = functools.partial(points, scale=1.2)

# Matrix, per-row and user-defined dispersions

F = torch.tensor([[-1.0, 0.5], [-0.5, -0.2]], dtype=F64)
G = torch.tensor([[0.3], [1.1]], dtype=F64)


def gaussian_law(diffusion, t):
    """Exact law of a linear process started from N((0.5, -1), 0.3^2 I)."""
    G = diffusion.dispersion(0.0)
    mean, covariance = linear_moments(F, G, [0.5, -1.0], 0.09, t)
    return Gaussian(2, mean, torch.linalg.cholesky(covariance))


def linear(dispersion=G):
    """A user's process: drift and dispersion only, no divergence, no projection."""
    more = {"dim": 2, "horizon": 4.0, "prior": Gaussian(2)}
    return Plain(lambda y, t: y @ F.to(y).T, lambda t: dispersion, **more)


def exact_linear(dispersion=G):
    """The same with its law at 2 for a prior, and its exact score."""
    diffusion = linear(dispersion)
    law = functools.cache(lambda t: gaussian_law(diffusion, t))
    diffusion.prior = law(2.0)
    return diffusion, lambda x, t: law(t).score(x)


# Likelihood


def toy_case(start):
    score, diffusion, x = mixture_score, exact_end(T), cloud(32)
    return score, diffusion, x, mixture(start).log_prob(x), {"start": start}


def bounded_case(diffusion, end):
    """A wrapped or reflected Gaussian, exact at every time; e^{-end} of mode 1 is left."""
    mean, var = torch.tensor([[0.7, -1.1]], dtype=F64), torch.tensor([0.3], dtype=F64)

    def score(x, t):
        return diffusion.kernel_score(x, *diffusion.evolve_gaussian(mean, var, t))

    line = torch.linspace(-2.0, 2.0, 21, dtype=F64)
    x = torch.cartesian_prod(line, line)
    return score, diffusion, x, diffusion.log_kernel(x, mean, var), {"end": end, "power": 3}


def linear_case(dispersion):
    """``f - 1/2 G G^T s`` with a matrix: exact Gaussian oracle."""
    diffusion, score = exact_linear(dispersion)
    x = cloud(32)
    return score, diffusion, x, gaussian_law(diffusion, 0.0).log_prob(x), {"end": 2.0}


@pytest.mark.parametrize(
    ("case", "argument", "counts", "bound"),
    [
        (toy_case, (0.0,), (20, 40, 80), 1e-2),
        (toy_case, (0.05,), (20, 40, 80), 1e-2),
        (bounded_case, (TorusBrownian(2), 12.0), (80, 160), 1e-2 / 4),
        (bounded_case, (BoxBrownian(2, -2.0, 2.0), 20.0), (80, 160), 1e-2 / 4),
        (linear_case, (G,), (100, 200), 0.05 / 4),
        (linear_case, (torch.eye(2, dtype=F64),), (100, 200), 0.05 / 4),
    ],
    ids=["start at 0", "start at 0.05", "torus", "box", "singular", "identity"],
)
def test_log_likelihood_converges_at_order_two(case, argument, counts, bound):
    score, diffusion, x, exact, times = case(*argument)
    # Errors on a grid over the space count where the density is; a cloud is there already.
    weight = exact.softmax(0) if case is bounded_case else torch.full_like(exact, 1 / len(exact))
    errors = []
    for steps in counts:
        value = log_likelihood(score, diffusion, x, times=grid(steps, **times))
        errors.append(float(weight @ (value - exact).abs()))
    assert slope(counts, errors) == pytest.approx(-2, abs=0.15)
    assert errors[-1] < bound


def test_default_grid_and_prior_are_close_to_the_exact_density():
    """200 log-spaced steps from 1e-3 to the horizon 5; the prior's error is ``e^{-2T} = 5e-5``."""
    value = log_likelihood(mixture_score, OrnsteinUhlenbeck(2), cloud(64))
    assert (value - mixture(1e-3).log_prob(cloud(64))).abs().mean() < 5e-3
    assert (value - mixture(0.05).log_prob(cloud(64))).abs().mean() > 5e-2  # t_0 matters


def test_adaptive_likelihood_meets_its_tolerance():
    x, times = cloud(64), [0.0, T]
    exact = mixture(0.0).log_prob(x)
    for rtol, bound in ((1e-4, 1e-3), (1e-9, 1e-8)):
        value = log_likelihood(
            mixture_score, exact_end(T), x, times=times, method="adaptive", rtol=rtol, atol=rtol
        )
        assert (value - exact).abs().max() < bound


@pytest.mark.parametrize("both", [False, True], ids=["divergence", "score_and_divergence"])
def test_closed_form_divergence_replaces_the_trace(both):
    x, score = cloud(64), WithDivergence(both)
    value = log_likelihood(score, exact_end(T), x, steps=50)
    torch.testing.assert_close(value, log_likelihood(mixture_score, exact_end(T), x, steps=50))
    assert score.calls == 100  # two evaluations a step, none wasted


def test_float32_follows_float64():
    x = cloud(64)
    value = log_likelihood(mixture_score, OrnsteinUhlenbeck(2), x.float(), steps=100)
    assert value.dtype == torch.float32
    expected = log_likelihood(mixture_score, OrnsteinUhlenbeck(2), x.float().double(), steps=100)
    # 200 evaluations of a divergence of size 1 / 0.35^2, each a few roundings.
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-4)


def test_no_gradient_is_kept():
    x = cloud(4).requires_grad_()
    assert not log_likelihood(mixture_score, OrnsteinUhlenbeck(2), x, steps=3).requires_grad
    net = torch.nn.Linear(2, 2)
    value = log_likelihood(lambda x, t: net(x), OrnsteinUhlenbeck(2), x.detach().float(), steps=3)
    assert not value.requires_grad


def test_scalar_and_matrix_dispersion_agree():
    """A number, a 0-dim tensor, a diagonal, and a multiple of the identity are the same process."""
    x = cloud(16)
    found = [
        torch.column_stack([
            log_likelihood(mixture_score, linear(g), x, steps=20),
            sample_ode(mixture_score, linear(g), 16, steps=20, x_T=x),
        ])
        for g in (0.9, torch.tensor(0.9), Diagonal([0.9, 0.9]), 0.9 * torch.eye(2))
    ]  # fmt: skip
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=1e-6)


# Samples


def check_moments(x: Tensor, slack=0.0):
    """First and second moments against the mixture's, 6 standard errors plus the scheme's bias."""
    x = x.double()
    second = torch.einsum("m,mi,mj->ij", WEIGHTS, MEANS, MEANS)
    second = second + (WEIGHTS * SCALES**2).sum() * torch.eye(2)
    expected = torch.cat([WEIGHTS @ MEANS, second.flatten()])
    assert agrees(torch.cat([x, products(x)], dim=1), expected, slack)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("method", ["heun", "adaptive"])
def test_ode_samples_have_the_data_moments(method, dtype):
    diffusion, g = exact_end(T), rng(1)
    x_T = diffusion.prior.sample(20_000, g, dtype=dtype)
    x = sample_ode(mixture_score, diffusion, 20_000, times=grid(60), method=method, x_T=x_T)
    assert x.dtype == dtype
    check_moments(x)


def test_sde_samples_have_the_data_moments():
    x = sample_sde(mixture_score, exact_end(T), 10_000, steps=400, generator=rng(2))
    check_moments(x, slack=0.005)  # bias of t_0 = 1e-3 and of 400 steps, below 0.003 at n = 1e5


def test_sde_with_singular_dispersion_recovers_the_gaussian():
    (diffusion, score), g, n = exact_linear(), rng(3), 10_000
    x_T = diffusion.prior.sample(n, g, dtype=F64)
    z = sample_sde(score, diffusion, n, times=grid(400, 2.0), generator=g, x_T=x_T)
    z = (z - torch.tensor([0.5, -1.0])) / 0.3
    bias = 0.015  # measured 0.011 at n = 1e5, first order in the step
    assert (z.mean(0).abs() < 6 / math.sqrt(n) + bias).all()
    covariance = z.T @ z / n
    assert ((covariance - torch.eye(2)).abs() < 6 * math.sqrt(2 / n) + bias).all()


def test_ode_inverts_the_likelihood_flow():
    """Down from x_T and back up: the likelihood's end point is x_T."""
    diffusion, x_T, seen = exact_end(T), cloud(16), []
    x = sample_ode(mixture_score, diffusion, 16, times=grid(200), x_T=x_T)
    diffusion.prior = SimpleNamespace(log_prob=lambda x: seen.append(x) or x[:, 0])
    log_likelihood(mixture_score, diffusion, x, times=grid(200))
    torch.testing.assert_close(seen[0], x_T, rtol=0, atol=2e-3)


def test_samples_are_seeded_and_stay_in_the_state_space():
    torus = TorusBrownian(2)

    def score(x, t):  # a strong push over the edge
        return 5 * torch.ones_like(x)

    for sampler in (sample_ode, sample_sde):
        first, again = (sampler(score, torus, 50, steps=10, generator=rng(4)) for _ in range(2))
        assert torch.equal(first, again)
        assert bool(torus.contains(first).all())
        assert first.dtype == torch.get_default_dtype()


def test_dtype_follows_the_score():
    class Net(torch.nn.Linear):
        def forward(self, x, t):
            return super().forward(x)

    fitted = WithDivergence()
    fitted.dtype = F64
    for score in (Net(2, 2, dtype=F64), fitted):
        assert sample_ode(score, OU, 3, steps=2).dtype == F64


# Hutchinson's trace: one draw of signs a point, for the whole flow

C0 = torch.tensor([[1.0, 0.6, -0.2], [0.6, 0.8, 0.1], [-0.2, 0.1, 0.5]], dtype=F64)


def correlated(end=2.0):
    """OU in three dimensions from ``N(0, C0)``, whose prior is the exact law at ``end``."""
    diffusion = OrnsteinUhlenbeck(3)

    def covariance(t):
        return math.exp(-2 * t) * C0 + (1 - math.exp(-2 * t)) * torch.eye(3, dtype=F64)

    precision = functools.cache(lambda t: torch.linalg.inv(covariance(t)))
    diffusion.prior = Gaussian(3, 0.0, torch.linalg.cholesky(covariance(end)))
    return diffusion, lambda x, t: -x @ precision(float(t)), precision


@pytest.mark.parametrize("probes", [1, 4])
def test_hutchinson_has_the_exact_mean_and_the_variance_of_one_fixed_probe(probes):
    """``v^T M v`` with ``M = int precision dt`` has variance ``4 sum_{i<j} M_ij^2``; probes drawn
    anew at each of the 80 steps would have a small part of it. Exact mean: the Gaussian's."""
    diffusion, score, precision = correlated()
    times = grid(80, 2.0)
    x, n = torch.tensor([0.7, -0.4, 1.1], dtype=F64), 4000
    found = log_likelihood(
        score, diffusion, x.expand(n, 3).clone(), times=times, trace="hutchinson", probes=probes,
        generator=rng(3),
    )  # fmt: skip
    law = Gaussian(3, 0.0, torch.linalg.cholesky(C0))
    exact = log_likelihood(score, diffusion, x[None], times=times)
    error = found.std() / math.sqrt(n)
    assert (exact - law.log_prob(x[None])).abs() < 6e-3  # Heun's error on this grid, order two
    assert agrees(found, exact)
    assert 0 < error < 0.02
    u = (torch.arange(2000, dtype=F64) + 0.5) / 2000
    M = 2 * torch.stack([precision(2 * float(s) ** 2) * 2 * float(s) for s in u]).mean(0)
    variance = 4 * torch.triu(M, 1).square().sum() / probes
    assert agrees((found - exact).square(), variance)


def test_hutchinson_is_seeded_and_leaves_closed_forms_exact():
    x = cloud(8)
    draw = {"steps": 20, "trace": "hutchinson"}
    one, again, other = (
        log_likelihood(mixture_score, OU, x, generator=rng(k), **draw) for k in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    for both in (False, True):
        closed = log_likelihood(WithDivergence(both), OU, x, **draw)
        torch.testing.assert_close(closed, log_likelihood(mixture_score, OU, x, steps=20))


def test_hutchinson_takes_the_score_s_own_probe():
    class Probed:
        def __call__(self, x, t):
            raise AssertionError("the probe's value serves")

        score_and_divergence = __call__

        def probe_divergence(self, x, t, probe):
            assert bool((probe.abs() == 1).all()) and probe.shape == x.shape
            return mixture_score(x, t), 7 + probe[:, 0] * probe[:, 1]

    x, n, times = cloud(1).expand(4000, 2), 4000, [0.5, 0.6]
    found = log_likelihood(Probed(), OU, x, times=times, trace="hutchinson", probes=2)

    closed = WithDivergence()
    closed.score_and_divergence = lambda x, t: (mixture_score(x, t), torch.full_like(x[:, 0], 7.0))
    exact = log_likelihood(closed, OU, x[:1], times=times)
    # Two independent products of signs, averaged, over a time of 0.1.
    assert (found.mean() - exact).abs() < 6 * 0.1 / math.sqrt(2 * n)
    assert found.std() == pytest.approx(0.1 / math.sqrt(2), rel=0.1)


@pytest.mark.parametrize("drift_divergence", [False, True])
def test_hutchinson_with_a_matrix_dispersion(drift_divergence):
    """The probe sees ``G G^T Ds`` and, where there is no closed form, the drift."""
    diffusion, score = exact_linear()
    if drift_divergence:
        diffusion.drift_divergence = lambda y, t: torch.full_like(y[:, 0], float(F.trace()))
    x, n = torch.tensor([[0.4, -0.9]], dtype=F64), 2000
    draw, times = {"trace": "hutchinson", "generator": rng()}, grid(40, 2.0)
    found = log_likelihood(score, diffusion, x.expand(n, 2), times=times, **draw)
    exact = log_likelihood(score, diffusion, x, times=times)
    error = found.std() / math.sqrt(n)
    assert agrees(found, exact)
    assert 0 < error < 0.2


def test_hutchinson_through_a_drift_without_divergence():
    """Drift ``A y`` over a time ``h``: ``h v^T A v = h (tr A + v_0 v_1 (A_01 + A_10))``."""
    diffusion, h, n = linear(0.9), 0.5, 4000
    A = torch.tensor([[-1.0, 0.8], [0.3, -0.2]], dtype=F64)
    diffusion.drift = lambda y, t: y @ A.T
    x, times = cloud(1).expand(n, 2), [0.5, 0.5 + h]
    draw = {"trace": "hutchinson", "generator": rng()}
    found = log_likelihood(lambda x, t: -x, diffusion, x, times=times, **draw)
    exact = log_likelihood(lambda x, t: -x, diffusion, x[:1], times=times)
    torch.testing.assert_close((found - exact).abs(), torch.full((n,), h * 1.1, dtype=F64))
    assert (found.mean() - exact).abs() < 6 * h * 1.1 / math.sqrt(n)


# Memory


def test_blocks_of_rows_bound_what_the_score_sees_and_change_nothing(monkeypatch):
    x, rows = cloud(50), []

    def score(x, t):
        rows[-1] = max(rows[-1], len(x))
        return mixture_score(x, t)

    def results():
        g = rng(1)
        for call, *start, more in (
            (sample_ode, 50, {"x_T": x}),
            (sample_sde, 50, {"x_T": x, "generator": g}),
            (log_likelihood, x, {}),
            (log_likelihood, x, {"trace": "hutchinson", "generator": g}),
        ):
            rows.append(0)
            yield call(score, OU, *start, steps=4, **more)

    whole = list(results())
    monkeypatch.setattr("markovscore.core.blocks.VALUES", 2 * 20)
    monkeypatch.setattr("markovscore.core.blocks.TRACE_VALUES", 2 * 7)
    torch.testing.assert_close(list(results()), whole)
    assert rows == [50] * 4 + [20, 20, 7, 7]


def test_rows_of_a_block_fall_with_the_size_of_a_point():
    most = 16_384
    for d, plain, traced in ((2, 2**18, most), (8, 2**16, most), (3072, 170, 42), (2**20, 1, 1)):
        x = torch.empty(1, d)
        assert (block_rows(x), trace_rows(x)) == (plain, traced)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("tried 8 GiB"), MemoryError("8 GiB")])
def test_out_of_memory_names_the_knob(error):
    def score(x, t):
        raise error

    kind = {"error": torch.OutOfMemoryError}
    refused("smaller n, several times.*8 GiB", sample_ode, score, OU, 3, **kind)
    refused("smaller n", sample_sde, score, OU, 3, **kind)
    advice = "fewer rows of x a call, or fewer probes"
    refused(advice, log_likelihood, score, OU, cloud(3), **kind)


def test_out_of_memory_on_the_cpu_is_told_from_other_errors():
    def wrong(x, t):
        raise RuntimeError("another trouble")

    kind = {"error": torch.OutOfMemoryError}
    refused("smaller n", sample_ode, lambda x, t: torch.empty(2**55), OU, 3, **kind)
    refused(r"^another trouble$", sample_ode, wrong, OU, 3, error=RuntimeError)


# Grids and bad input


def recorded_times(score_times, sampler=sample_sde, **kwargs):
    seen = []

    def score(x, t):
        seen.append(t)
        return -x

    if score_times is not None:
        score.times = torch.tensor(score_times)
    sampler(score, OrnsteinUhlenbeck(2), 2, **kwargs)
    return seen[::-1]  # the SDE evaluates at the later end of each step


def test_grid():
    default = recorded_times(None)
    assert len(default) == 200
    assert default[-1] == 5.0
    ratios = torch.tensor(default).log().diff()
    assert ratios.max() - ratios.min() < 1e-6
    assert recorded_times(None, steps=1) == [5.0]
    assert recorded_times([0.1, 0.2, 0.9]) == pytest.approx([0.2, 0.9])
    assert recorded_times([0.0, 0.2, 0.9]) == pytest.approx([0.2, 0.9])
    assert recorded_times([0.1, 0.2, 0.9], steps=4)[-1] == pytest.approx(0.9)
    # From 0 on equal steps of log(1 + t / 1e-3), where the score does not know a scale.
    zero = recorded_times([0.0, 0.01, 1.0], steps=3)
    assert zero == pytest.approx([1e-3 * (1001 ** (k / 3) - 1) for k in (1, 2, 3)])
    assert recorded_times([0.0, 0.01, 1.0], steps=1) == [1.0]
    assert recorded_times([0.1, 0.2, 0.9], times=[0.1, 0.5]) == [0.5]
    # 0.1 in float32 is a little more than in float64: the grid moves to the fitted end.
    inside = recorded_times([0.1, 0.2, 0.9], sample_ode, times=[0.1, 0.5])
    assert inside[0] == torch.tensor(0.1).item() > 0.1


class Fitted:
    times = torch.tensor([0.1, 1.0])

    def __call__(self, x, t):
        return -x


FITTED = Fitted()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_sde(mixture_score, OU, 2, times=[0.1]), "times: expected two or more"),
        (lambda: sample_sde(mixture_score, OU, 2, times=[0.2, 0.1]), "strictly increasing"),
        (lambda: sample_ode(FITTED, OU, 2, times=[0.05, 1.0]), r"fitted range \[0.1, 1\]"),
        (lambda: sample_ode(FITTED, OU, 2, times=[0.5, 2.0]), "fit the score there"),
        (lambda: log_likelihood(mixture_score, TorusBrownian(2), torch.tensor([[0.0, 4.0]])),
         "state space of TorusBrownian, found row 0"),
        (lambda: sample_ode(lambda x, t: x[:, 0], OU, 2), "score: expected shape"),
        (lambda: sample_sde(lambda x, t: x[:, :1], OU, 2), "score: expected shape"),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    refused(message, call)


def test_missing_prior():
    diffusion = LinearSDE([[1.0]], [[1.0]])  # unstable: no stationary law
    refused(r"LinearSDE\.prior, found none", sample_ode, lambda x, t: -x, diffusion, 3)
    refused(r"set diffusion\.prior", log_likelihood, lambda x, t: -x, diffusion, torch.zeros(3, 1))
    x = sample_ode(lambda x, t: -x, diffusion, 3, x_T=torch.zeros(3, 1))
    assert x.shape == (3, 1)


@pytest.mark.parametrize("sampler", [sample_ode, sample_sde])
def test_a_state_that_blows_up_names_time_and_row(sampler):
    def score(x, t):
        return torch.where(x > 0.5, torch.nan, -x)

    x_T = torch.tensor([[0.0, 0.0], [0.7, 0.0]])
    words = r"state at t = .*first is row 1 .*use more steps"
    refused(words, sampler, score, OU, 2, steps=5, x_T=x_T)
    refused("state at t", log_likelihood, score, OU, x_T, times=[0.1, 0.2, 0.3])
    refused("state at t", log_likelihood, score, OU, x_T, times=[0.1, 1.0], method="adaptive")
