"""Euler-Maruyama: against a naive loop, exact moments, and its weak and strong orders."""

import math

import pytest
import torch
from odd_inputs import refused
from problems import CORNERS, DENSE, Plain, linear_moments, well
from statistical import F64, agrees, points, rng, slope

import markovscore as ms

LANGEVIN = ms.Langevin(CORNERS)
# Drift and dispersion, nothing else; both depend on time.
OWN = Plain(lambda y, t: -y * (1 + t), lambda t: 0.5 + t)


@pytest.mark.parametrize(
    "diffusion", [DENSE, LANGEVIN, ms.ActiveSwimmer()], ids=lambda d: str(d.dim)
)
def test_a_naive_loop(diffusion):
    x0, steps, end = points(5, 2), 7, 0.9
    path = ms.simulate(diffusion, x0, end, steps, rng(), keep=True)
    g, y = rng(), x0
    for i in range(steps):
        t0, t1 = (float(path.times[j, 0]) for j in (i, i + 1))
        t, h = 0.5 * (t0 + t1), t1 - t0
        if diffusion is LANGEVIN:  # the middle in the clock, not in time
            clock = diffusion.clock
            tau = clock.elapsed(torch.tensor([t0, t1], dtype=F64)).mean()
            t = float(clock.inverse(tau))
            length = float(clock.elapsed(torch.tensor(end, dtype=F64))) / steps
            h = length / (0.1 + 9.9 * t)
        G = diffusion.dispersion(t)
        G = G if G.ndim == 2 else G * torch.eye(2, dtype=F64)
        z = torch.randn(5, G.shape[1], generator=g, dtype=F64)
        y = y + h * diffusion.drift(y, t) + math.sqrt(h) * z @ G.T
        torch.testing.assert_close(path.states[i + 1], y)
    assert path.states.shape == (8, 5, 2)
    assert path.times[-1, 0] == end
    assert path.states[-1].equal(ms.simulate(diffusion, x0, end, steps, rng()))


def test_clock_steps_do_not_depend_on_beta():
    """In the clock a Langevin process is one process: same noise, same points."""
    x0 = points(50, 2)
    clock = LANGEVIN.clock.elapsed(torch.tensor(0.7, dtype=F64))
    expected = ms.simulate(LANGEVIN, x0, 0.7, 12, rng())
    for beta in (1.0, lambda t: 0.5 / t.sqrt()):
        other = ms.Langevin(CORNERS, beta=beta, horizon=20.0)
        end = float(other.clock.inverse(clock))
        torch.testing.assert_close(ms.simulate(other, x0, end, 12, rng()), expected)


def test_every_row_has_its_own_window():
    x0 = points(6, 2)
    s = torch.tensor([0.0, 0.1, 0.3, 0.2, 0.4, 0.5], dtype=F64)
    t = torch.tensor([0.0, 0.2, 0.9, 1.0, 0.4, 0.8], dtype=F64)
    together = ms.simulate(LANGEVIN, x0, t, 9, rng(), s=s, keep=True)
    assert together.states[-1, 0].equal(x0[0])  # empty windows move nothing
    assert together.states[-1, 4].equal(x0[4])
    assert together.times[0].equal(s) and together.times[-1].equal(t)


def test_weak_order_one_on_exact_moments():
    """The scheme's mean and covariance of a linear SDE obey recursions: no noise in this test."""
    x0, t = torch.tensor([[1.5, -1.0]], dtype=F64), 1.0
    steps = torch.tensor([10, 20, 40, 80, 160])
    errors = []
    for n in steps.tolist():
        path = ms.simulate(DENSE, x0.expand(60_000, -1), t, n, rng(3))
        A = torch.eye(2, dtype=F64) + (t / n) * DENSE.F
        mean, P = x0.T, torch.zeros(2, 2, dtype=F64)
        for _ in range(n):
            mean, P = A @ mean, A @ P @ A.T + (t / n) * DENSE.G @ DENSE.G.T
        assert agrees(path, mean[:, 0])  # simulate is that recursion
        exact_mean, covariance = linear_moments(DENSE.F, DENSE.G, x0[0], 0.0, t)
        errors.append(float((mean[:, 0] - exact_mean).norm() + (P - covariance).norm()))
    assert slope(t / steps.double(), errors) == pytest.approx(1, abs=0.15)


def test_strong_order_one_and_the_package_is_that_scheme(monkeypatch):
    """The double well driven by given noise: coarse steps see the sum of the fine increments."""
    n, fine, t = 4_000, 1024, 1.0

    def euler(y, dW):
        for increment in dW:
            y = y + t / len(dW) * well(y, 0.0) + increment
        return y

    dW = math.sqrt(t / fine) * torch.randn(fine, n, 1, generator=rng(), dtype=F64)
    x0 = torch.zeros(n, 1, dtype=F64)
    truth = euler(x0, dW)
    counts, errors = [8, 16, 32, 64], []
    for count in counts:
        coarse = dW.reshape(count, fine // count, n, 1).sum(1)
        noise = iter(coarse / math.sqrt(t / count))
        monkeypatch.setattr("markovscore.core.walk.noise_like", lambda *_, z=noise: next(z))
        y = ms.simulate(ms.DoubleWell(), x0, t, count)
        torch.testing.assert_close(y, euler(x0, coarse))
        errors.append(float((y - truth).abs().mean()))
    assert slope([t / c for c in counts], errors) == pytest.approx(1, abs=0.15)


def test_time_dependent_coefficients_of_a_users_class():
    """``E Y = e^{-t - t^2/2} x0``; the midpoint rule leaves only Euler's own first-order error."""
    n, t = 50_000, 1.0
    y = ms.simulate(OWN, torch.ones(n, 1, dtype=F64), t, 50, rng())
    mean = math.prod(1 - (i + 0.5) / 2500 - 1 / 50 for i in range(50))
    assert agrees(y, mean)
    assert abs(mean - math.exp(-1.5)) < 2 * t / 50 * math.exp(-1.5)
    ends = torch.full((3,), t, dtype=F64)
    torch.testing.assert_close(
        ms.simulate(OWN, points(3, 2), ends, 5, rng()),
        ms.simulate(OWN, points(3, 2), t, 5, rng()),
    )


def test_walls_seeds_dtype_and_no_gradient():
    box = ms.BoxBrownian(2)
    x0 = torch.rand(100, 2, generator=rng())
    y = ms.simulate(box, x0, 0.4, 5, rng())
    assert box.contains(y).all()
    assert y.dtype == torch.float32
    assert y.equal(ms.simulate(box, x0, 0.4, 5, rng()))
    assert not y.equal(ms.simulate(box, x0, 0.4, 5, rng(1)))
    assert not ms.simulate(box, x0.requires_grad_(), 0.4, 5, rng()).requires_grad


def test_constant_kicks_are_no_divergence():
    kick = Plain(lambda y, t: torch.full_like(y, 1e7), lambda t: 1e-3)
    y = ms.simulate(kick, torch.zeros(3, 1), 1.0, 10, rng())
    assert (y - 1e7).abs().max() < 100


def test_divergence_names_time_and_step_and_the_step_works():
    x0 = torch.tensor([[0.1], [9.0], [0.3]], dtype=F64)
    with pytest.raises(ValueError, match=r"diverge at time .* row 1 .*steps >= (\d+)") as caught:
        ms.simulate(ms.DoubleWell(), x0, 1.0, 10, rng())
    steps = int(str(caught.value).rsplit(" ", 1)[1])
    assert torch.isfinite(ms.simulate(ms.DoubleWell(), x0, 1.0, steps, rng())).all()


def test_a_window_that_runs_back():
    refused("0 <= s <= t", ms.simulate, DENSE, points(2, 2), 1.0, 5, s=2.0)
    late = torch.tensor([1.0, 7.0])
    refused(r"found 7 \(row 1\)", ms.simulate, DENSE, points(2, 2), late, 5)


def test_bad_drifts():
    def late(y, t):
        f = -y
        f[1] = f[1] * (math.nan if t > 0.5 else 1.0)
        return f

    with pytest.raises(ValueError, match=r"drift: .* at time 0\.625, the first bad row is 1"):
        ms.simulate(Plain(late, lambda t: 0.5 + t), points(3, 2), 1.0, 4)


def test_a_path_without_length_stays_and_draws_nothing():
    """The start of a window that reaches back to 0; one row with length is enough to simulate."""
    y, generator = points(5, 1), rng()
    before = generator.get_state()
    assert torch.equal(ms.simulate(ms.DoubleWell(), y, 0.3, 4, generator, s=0.3), y)
    assert torch.equal(generator.get_state(), before)
    ends = torch.tensor([0.0, 0.0, 0.2, 0.0, 0.0], dtype=F64)
    moved = ms.simulate(ms.DoubleWell(), y, ends, 4, generator)
    assert ((moved != y)[:, 0] == (ends > 0)).all()
