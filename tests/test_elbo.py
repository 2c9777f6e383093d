"""The evidence lower bound: equality at exact scores, its deficit otherwise, and its two forms."""

import math
import sys

import pytest
import torch
from odd_inputs import refused
from problems import WELLS
from statistical import F64, agrees, points, rng, sigmas

import markovscore as ms

COPIES = 4000
POINTS = torch.tensor([[0.3, -1.0], [2.0, 0.5]], dtype=F64)
CENTRE, SCALE, HORIZON = torch.tensor([0.8, -0.5], dtype=F64), 0.6, 2.0


class Exact(ms.OrnsteinUhlenbeck):
    """OU from ``N(CENTRE, SCALE^2)``, whose prior is the exact law at the horizon."""

    def __init__(self):
        super().__init__(2, HORIZON)
        mean, var = self.evolve_gaussian(CENTRE, torch.tensor(SCALE**2).double(), HORIZON)
        self.prior = ms.Gaussian(2, mean, float(var.sqrt()))

    def law(self, t):
        decay = torch.exp(-t)[:, None]
        return decay * CENTRE, 1 + (SCALE**2 - 1) * decay**2

    def score(self, y, t):
        mean, var = self.law(t)
        return (mean - y) / var

    def start(self, t_min):
        """``E[log rho_{t_min}(Y_{t_min}) | x]`` at the points, closed form."""
        t = torch.full((1,), t_min, dtype=F64)
        mean, var = self.law(t)
        gap = (torch.exp(-t) * POINTS - mean).square().sum(1) + 2 * (1 - torch.exp(-2 * t))
        return (-0.5 * gap / var - math.log(math.tau) - var.log())[0]


def estimates(score, diffusion, seed=1, **settings):
    """``(COPIES, points)``: independent estimates at every point."""
    x = POINTS.repeat(COPIES, 1)
    bound = ms.elbo(score, diffusion, x, samples=16, generator=rng(seed), **settings)
    return bound.reshape(COPIES, len(POINTS))


FORMS = [{"form": "trace"}, {"form": "local", "window": 0.2}, {"form": "local", "window": 9.0}]


@pytest.mark.parametrize("settings", FORMS)
@pytest.mark.parametrize("t_min", [1e-3, 0.3])
def test_equality_for_the_exact_score(settings, t_min):
    process = Exact()
    found = estimates(process.score, process, t_min=t_min, **settings)
    expected = process.start(t_min)
    assert agrees(found, expected)
    assert float((found.std(0) / math.sqrt(COPIES)).max()) < 0.06
    if t_min == 1e-3:
        # Which is the log-likelihood itself, up to the blur of t_min.
        exact = ms.Gaussian(2, CENTRE, SCALE).log_prob(POINTS)
        assert float((expected - exact).abs().max()) < 0.03


@pytest.mark.parametrize("settings", FORMS)
def test_deficit_of_a_wrong_score_averages_to_half_its_fisher_divergence(settings):
    """Bound(s) = bound(truth) - 1/2 int E|G^T (s - truth)|^2 on average over the data."""
    process, t_min, n = Exact(), 0.05, 4000

    def wrong(y, t):
        return 0.7 * process.score(y, t) + 0.3 * torch.exp(-t)[:, None]

    x = CENTRE + SCALE * points(n, 2, 3)
    draw = {"samples": 16, "t_min": t_min, **settings}
    right = ms.elbo(process.score, process, x, generator=rng(4), **draw)
    below = ms.elbo(wrong, process, x, generator=rng(4), **draw)
    u = (torch.arange(4000, dtype=F64) + 0.5) / 4000
    t = t_min + (HORIZON - t_min) * u
    # s - truth = -0.3 truth + 0.3 e^{-t}; E|truth|^2 = 2 / var and E truth = 0; |G|^2 = 2.
    square = 0.09 * (2 / process.law(t)[1][:, 0] + 2 * torch.exp(-2 * t))
    deficit = float(square.mean()) * (HORIZON - t_min)
    gap = right - below
    assert agrees(gap, deficit)
    assert sigmas(gap) > 6


def test_forms_agree_for_any_score_on_a_nonlinear_process():
    """The identity needs no exact score; the mixture's Jacobian is full and the clock runs."""
    process = ms.Langevin(WELLS)

    def score(y, t):
        return torch.sin(y) - y / (0.5 + t[:, None])

    trace = estimates(score, process, t_min=0.05, steps=60)
    local = estimates(score, process, 2, t_min=0.05, steps=60, form="local", window=0.02)
    assert agrees(trace - local)


def test_bound_is_below_the_exact_likelihood_and_tight_at_stationarity():
    """Data from ``pi`` stay ``pi``: with its score the mean bound is its negative entropy."""
    x = WELLS.sample(1500, generator=rng(1), dtype=F64)
    draw = {"samples": 8, "steps": 60, "t_min": 0.02}
    process, truth = ms.Langevin(WELLS), WELLS.log_prob(x)
    tight = ms.elbo(lambda y, t: WELLS.score(y), process, x, generator=rng(2), **draw)
    assert agrees(tight - truth)
    loose = ms.elbo(lambda y, t: 0.5 * WELLS.score(y), process, x, generator=rng(2), **draw)
    gap = truth - loose
    assert float(gap.mean()) > 6 * float(gap.std()) / math.sqrt(len(x))


def test_singular_noise_and_determinism():
    process = ms.ActiveSwimmer()
    process.prior = ms.Gaussian(2)
    x = 0.5 * torch.randn(20, 2, generator=rng(1))
    for form in ("trace", "local"):
        one, again, other = (
            ms.elbo(lambda y, t: -y, process, x, form=form, samples=4, generator=rng(k))
            for k in (1, 1, 2)
        )
        assert one.dtype == x.dtype
        assert bool(one.isfinite().all())
        assert torch.equal(one, again)
        assert not torch.equal(one, other)


def test_number_of_rows_held_does_not_change_the_law(monkeypatch):
    process = Exact()
    monkeypatch.setattr(sys.modules["markovscore.sampling.elbo"], "ROWS", 2 * COPIES * 5)
    found = estimates(process.score, process, t_min=0.3)
    assert agrees(found, process.start(0.3))


SHEAR = torch.tensor([[1.0, 0.9], [-0.3, 1.2]], dtype=F64)


class Sheared:
    """A score whose Jacobian is not diagonal, so that probes of signs are not exact."""

    def __call__(self, y, t):
        return -(y + 0.5 * torch.sin(y)) @ SHEAR


class ShearedClosed(Sheared):
    """The same with its divergence, and no derivative to fall back on."""

    def __call__(self, y, t):
        with torch.no_grad():
            return super().__call__(y, t)

    def divergence(self, y, t):
        return -((1 + 0.5 * torch.cos(y)) * SHEAR.diagonal()).sum(1)


class ShearedProbe(ShearedClosed):
    def probe_divergence(self, y, t, probe):
        own = (1 + 0.5 * torch.cos(y)) * probe * (probe @ SHEAR.T)
        return self(y, t), -own.sum(1)


MATRIX = ms.LinearSDE([[-1.0, 0.2], [0.1, -0.8]], [[0.9, 0.4], [0.0, 0.7]], horizon=2.0)


@pytest.mark.parametrize(
    ("score", "process"),
    [
        (Sheared(), Exact()),
        (ShearedClosed(), Exact()),
        (ShearedProbe(), Exact()),
        (Sheared(), MATRIX),
    ],
    ids=["autograd", "closed form", "own probe", "matrix"],
)
def test_hutchinson_is_unbiased(score, process):
    draw = {"t_min": 0.3}
    exact = estimates(Sheared(), process, **draw)
    found = estimates(score, process, 2, trace="hutchinson", **draw)
    assert agrees(exact - found)
    assert float((exact - found).std(0).max()) < 0.2 * math.sqrt(COPIES)
    again = estimates(score, process, 2, trace="hutchinson", **draw)
    assert torch.equal(found, again)


def test_closed_form_divergence_replaces_the_trace():
    process, draw = Exact(), {"t_min": 0.3}
    torch.testing.assert_close(
        estimates(ShearedClosed(), process, **draw), estimates(Sheared(), process, **draw)
    )


@pytest.mark.parametrize("settings", [{"trace": "hutchinson"}, {}, {"form": "local"}])
def test_score_sees_blocks_of_rows(settings, monkeypatch):
    rows = []

    def score(y, t):
        rows.append(len(y))
        assert t.shape == (len(y),)
        return -y * (1 + t[:, None])

    def bound():
        draw = {"samples": 5, "generator": rng(4), **settings}
        return ms.elbo(score, Exact(), POINTS.repeat(8, 1), **draw)

    whole = bound()
    assert max(rows) == 80
    rows.clear()
    monkeypatch.setattr("markovscore.core.blocks.VALUES", 2 * 9)
    monkeypatch.setattr("markovscore.core.blocks.TRACE_VALUES", 2 * 9)
    torch.testing.assert_close(bound(), whole)
    assert max(rows) == 9


def test_values_held_are_bounded_for_large_points():
    most = 0

    class Large(ms.OrnsteinUhlenbeck):
        def sample_transition(self, x0, t, generator=None):
            nonlocal most
            most = max(most, x0.numel())
            return super().sample_transition(x0, t, generator)

    x = torch.randn(3, 3072, generator=rng())
    ms.elbo(lambda y, t: -y, Large(3072), x, samples=300, trace="hutchinson", generator=rng(1))
    assert 2**20 < most <= 2**21


def test_out_of_memory_names_the_knob():
    def score(y, t):
        raise torch.OutOfMemoryError("tried 8 GiB")

    with pytest.raises(torch.OutOfMemoryError, match="fewer rows of x a call"):
        ms.elbo(score, ms.OrnsteinUhlenbeck(2), POINTS)


@pytest.mark.parametrize("settings", [*FORMS[:2], {"trace": "hutchinson"}])
def test_several_scores_meet_the_draws_of_one(settings):
    process = Exact()
    scores = [process.score, lambda y, t: -0.5 * y, lambda y, t: y.sin().roll(1, 1)]

    def bound(score):
        return ms.elbo(score, process, POINTS, samples=8, generator=rng(3), **settings)

    together = bound(scores)
    assert together.shape == (3, len(POINTS))
    assert torch.equal(together, torch.stack([bound(score) for score in scores]))
    assert torch.equal(bound(scores[:1]), together[:1])
    refused("an empty list", bound, [])


def test_bad_processes():
    refused("prior", ms.elbo, lambda y, t: -y, ms.ActiveSwimmer(), POINTS)
    refused("without walls", ms.elbo, lambda y, t: -y, ms.BoxBrownian(2, -3.0, 3.0), POINTS)
    length, ou = "window: expected a length of clock", ms.OrnsteinUhlenbeck(2)
    refused(length, ms.elbo, lambda y, t: -y, ou, POINTS, window=None, error=TypeError)
