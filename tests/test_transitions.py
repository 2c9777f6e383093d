"""Local transitions: one scipy exponential at a time, quadrature, exact cases, and orders."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.polynomial import Polynomial
from odd_inputs import refused
from problems import CORNERS, DENSE, LINEAR_SWIMMER, Plain, linear_covariance, transition_mean, well
from statistical import F64, points, rng, slope

import markovscore as ms
from markovscore.core import Diagonal, as_diffusion, window_moments
from markovscore.targets import covariance_factor, kept_ends, phi1, phi2, window_ends

LANGEVIN = ms.Langevin(CORNERS)
SWIMMER = ms.ActiveSwimmer()


class Forced:
    """Drift ``J y + c + c' t`` with any constant ``G``: linear, so the transition is exact."""

    def __init__(self, J, G, c, c_dot):
        self.J, self.G, self.c, self.c_dot = J, G, c, c_dot

    def drift(self, y, t):
        t = torch.as_tensor(t, dtype=y.dtype).reshape(-1, 1)
        return y @ self.J.T + self.c + self.c_dot * t

    def dispersion(self, t):
        return self.G


def one_exponential_each(process, y, s, h):
    """The textbook: an augmented exponential for the mean, Van Loan's for the covariance."""
    d = len(y)
    J, G = process.J.numpy(), process.G.numpy()
    f = process.drift(y[None], s)[0].numpy()
    A = np.zeros((d + 2, d + 2))
    A[:d, :d], A[:d, d], A[:d, d + 1], A[d, d + 1] = J, process.c_dot.numpy(), f, 1
    mean = y.numpy() + scipy.linalg.expm(h * A)[:d, d + 1]
    V = np.zeros((2 * d, 2 * d))
    V[:d, :d], V[:d, d:], V[d:, d:] = -J, G @ G.T, J.T
    E = scipy.linalg.expm(h * V)
    return mean, E[d:, d:].T @ E[:d, d:]


@pytest.mark.parametrize("h", [1e-3, 0.3, 1.5])
@pytest.mark.parametrize("d", [1, 2, 3, 5, 8, 11])
def test_textbook_exponentials_one_at_a_time(d, h):
    J, G = points(d, d, seed=d), points(d, d + 1, seed=d + 1)
    process = Forced(J, G, *points(2, d, seed=9))
    y, s = points(3, d), 0.4
    m, P = ms.local_transition(process, y, s, s + h)
    for row in range(3):
        mean, covariance = one_exponential_each(process, y[row], s, h)
        scale = 1e-11 * np.exp(2 * h * np.linalg.norm(process.J, 2))
        np.testing.assert_allclose(m[row], mean, rtol=0, atol=scale)
        np.testing.assert_allclose(P[row], covariance, rtol=0, atol=scale * h)


@pytest.mark.parametrize("diffusion", [DENSE, LINEAR_SWIMMER])
@pytest.mark.parametrize("h", [1e-6, 0.2, 5.0])
def test_a_linear_sde_is_exact(diffusion, h):
    y = points(5, 2)
    m, P = ms.local_transition(diffusion, y, 0.0, h)
    x, target = ms.local_target(diffusion, y, 0.0, h, generator=rng())
    F, expected = diffusion.F.numpy(), linear_covariance(diffusion.F, diffusion.G, h)
    np.testing.assert_allclose(P[0], expected, rtol=1e-10)
    np.testing.assert_allclose(m, y.numpy() @ scipy.linalg.expm(F * h).T, rtol=1e-12)
    score = diffusion.transition_score(x, y, h)
    # Rounding of x alone moves the score by eps |x| times the precision.
    atol = 8 * 2.2e-16 * float(y.abs().max()) * float(np.linalg.norm(np.linalg.inv(expected)))
    torch.testing.assert_close(target, score, rtol=1e-8, atol=atol)


@pytest.mark.parametrize("h", [1e-6, 1e-2, 1.0, 300.0])
@pytest.mark.parametrize("d", [2, 3, 8])
def test_noise_through_a_chain_keeps_every_digit(d, h):
    """``y_i' = y_{i+1}``, noise on the last: ``P_ij = h^{a+b+1} / (a! b! (a+b+1))``, exact."""
    J = torch.diag(torch.ones(d - 1, dtype=F64), 1)
    G = torch.zeros(d, 1, dtype=F64)
    G[-1] = 1
    zero = torch.zeros(1, d, dtype=F64)
    P = window_moments(J[None], G @ G.T, zero, None, torch.tensor([h], dtype=F64))[1][0]
    a = np.arange(d)[::-1]
    factorial = np.array([float(math.factorial(i)) for i in a])
    power = a[:, None] + a + 1
    expected = h**power / (factorial[:, None] * factorial * power)
    np.testing.assert_allclose(P, expected, rtol=1e-13)


def test_huge_windows_reach_the_stationary_covariance():
    J = torch.tensor([[-200.0, 3.0], [0.0, -0.5]], dtype=F64)
    G = torch.eye(2, dtype=F64)
    process = Forced(J, G, torch.ones(2).double(), torch.zeros(2).double())
    m, P = ms.local_transition(process, points(3, 2), 0.0, 1e4)
    expected = scipy.linalg.solve_continuous_lyapunov(J.numpy(), -np.eye(2))
    np.testing.assert_allclose(P, np.broadcast_to(expected, (3, 2, 2)), rtol=1e-12)
    stationary = -np.linalg.solve(J.numpy(), np.ones(2))
    np.testing.assert_allclose(m, np.broadcast_to(stationary, (3, 2)), rtol=1e-12)


def test_phi_functions():
    x = torch.tensor([-50.0, -1.0, -1e-3, -1e-12, 0.0, 1e-12, 1e-5, 0.3, 0.999, 1.0, 5.0]).double()
    x = x.double()
    for phi, j in ((phi1, 1), (phi2, 2)):
        exact = [math.fsum(v**k / math.factorial(k + j) for k in range(60)) for v in x[1:].tolist()]
        expected = torch.tensor(exact, dtype=F64)
        torch.testing.assert_close(phi(x)[1:], expected, rtol=1e-14, atol=0)
    assert phi1(x)[0].item() == pytest.approx(1 / 50)
    assert phi2(x)[0].item() == pytest.approx(49 / 2500)


class FullWell(ms.DoubleWell):
    """The double well without the promise of a diagonal Jacobian."""

    elementwise, autonomous = False, False

    def drift(self, y, t):
        forcing = torch.as_tensor(t, dtype=y.dtype).reshape(-1, 1).sin()
        return well(y, t) + forcing

    def drift_jacobian(self, y, t):
        return torch.diag_embed(1 - 3 * y**2)


class DiagonalWell(FullWell):
    def drift_jacobian(self, y, t):
        return 1 - 3 * y**2


@pytest.mark.parametrize("h", [1e-8, 0.1, 2.0])
def test_the_diagonal_case_is_the_full_one(h):
    y, s = points(40, 3), torch.linspace(0, 2, 40, dtype=F64)
    m, P = ms.local_transition(DiagonalWell(3), y, s, s + h)
    m_full, P_full = ms.local_transition(FullWell(3), y, s, s + h)
    torch.testing.assert_close(m, m_full, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(P, P_full, rtol=1e-12, atol=0)


def well_moments(y, h, terms=9):
    """``E Y_h`` and ``var Y_h`` of the double well, ``sum h^k L^k p / k!``: exact polynomials."""
    f = Polynomial([0, 1, 0, -1])
    values = []
    for p in (Polynomial([0, 1]), Polynomial([0, 0, 1])):
        total = 0.0
        for k in range(terms):
            total += h**k / math.factorial(k) * p(y)
            p = f * p.deriv() + 0.5 * p.deriv(2)
        values.append(total)
    return values[0], values[1] - values[0] ** 2


@pytest.mark.parametrize("start", [0.4, 1.0, -1.3])
def test_orders_on_the_double_well(start):
    """The mean is off by ``h^2 f'' / 4``, the variance at third order."""
    windows = 0.02 / 2.0 ** np.arange(5)
    errors = []
    for h in windows:
        m, P = ms.local_transition(ms.DoubleWell(), torch.tensor([[start]]).double(), 0.0, h)
        mean, variance = well_moments(start, h)
        errors.append([abs(float(m) - mean), abs(float(P) - variance)])
    errors = np.array(errors)
    assert slope(windows, errors[:, 0]) == pytest.approx(2, abs=0.15)
    assert slope(windows, errors[:, 1]) == pytest.approx(3, abs=0.15)
    assert errors[-1, 0] / windows[-1] ** 2 == pytest.approx(6 * abs(start) / 4, rel=0.1)


@pytest.mark.parametrize("beta", [(0.1, 10.0), 3.0, lambda t: 0.5 / t.sqrt()])
def test_everything_happens_in_the_clock(beta):
    """Whatever ``beta``, the window of a Langevin process is its length in the clock; the law is
    the double well's, ``grad log pi = 2 (y - y^3)``."""
    law = SimpleNamespace(dim=1, score=lambda x: 2 * well(x, 0.0))
    langevin = ms.Langevin(law, beta=beta)
    y, t = points(6, 1), torch.linspace(0.1, 1.0, 6, dtype=F64)
    s = ms.clock_window(langevin, t, 0.05)
    m, P = ms.local_transition(langevin, y, s, t)
    h = langevin.clock.between(s, t)
    expected = ms.local_transition(ms.DoubleWell(), y, 0.0, h)
    torch.testing.assert_close(m, expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(P, expected[1], rtol=1e-10, atol=1e-10)


def test_a_time_dependent_drift_is_third_order():
    """The trap moves on a circle: the local mean keeps its first derivative in time."""
    trap, windows, errors = ms.TrappedParticles(2), 0.1 / 2.0 ** np.arange(4), []
    y = points(3, 4)
    for h in windows:
        m, P = ms.local_transition(trap, y, 1.0, 1.0 + h)
        rotated = ms.TrappedParticles(2, omega=trap.omega)
        start = np.exp(1j * trap.omega)  # the exact mean from time 1: turn the plane to time 0
        turn = torch.tensor([[start.real, -start.imag], [start.imag, start.real]]).double()
        back = (y.reshape(3, 2, 2) @ turn).flatten(1)
        mean = (transition_mean(rotated, back, h).reshape(3, 2, 2) @ turn.T).flatten(1)
        errors.append(float((m - mean).norm()))
        score = rotated.transition_score(back, back, h)
        offset = back - transition_mean(rotated, back, h)
        torch.testing.assert_close((P @ score[:, :, None])[:, :, 0], -offset)
    assert slope(windows, errors) == pytest.approx(3, abs=0.15)


def test_dispersion_is_read_in_the_middle():
    growing = Plain(lambda y, t: 0 * y, lambda t: (1 + t).sqrt())
    P = ms.local_transition(growing, points(2, 1), 0.5, 0.7)[1]
    torch.testing.assert_close(P, torch.full_like(P, 0.32))  # int 1 + u, for a linear G G^T


def test_windows():
    t = torch.tensor([0.01, 0.3, 1.0], dtype=F64)
    torch.testing.assert_close(ms.fixed_window(t, 0.05), torch.tensor([0.0, 0.25, 0.95]).double())
    assert ms.fixed_window(0.3, 0.05) == 0.25
    s = ms.clock_window(LANGEVIN, t, 0.1)
    elapsed = LANGEVIN.clock.elapsed
    torch.testing.assert_close(elapsed(t) - elapsed(s), torch.tensor([elapsed(t)[0], 0.1, 0.1]))
    assert s[0] == 0
    assert ms.clock_window(DENSE, 0.3, 0.05) == pytest.approx(0.25)
    assert isinstance(ms.clock_window(LANGEVIN, 0.3, 0.1), float)
    assert ms.clock_window(LANGEVIN, t.float(), 0.1).dtype == torch.float32
    tiny = ms.clock_window(LANGEVIN, t, 1e-12)
    torch.testing.assert_close(
        LANGEVIN.clock.between(tiny, t) / 1e-12, torch.ones(3).double(), rtol=1e-2, atol=0
    )


def test_ends_kept_in_single_precision_are_those_of_the_window():
    """``0.3`` in float32 lies beyond a horizon of 0.3, and ``s`` is rounded as ``t`` is."""
    process, t = as_diffusion(ms.DoubleWell(1, 0.3)), torch.tensor([0.3, 0.2, 0.01])
    s, end = window_ends(process, 0.05, t)
    assert s.dtype == end.dtype == F64
    assert (end[0], s[2]) == (0.3, 0.0) and float(t[0]) > 0.3
    assert torch.equal(s, s.float().double())
    assert all(map(torch.equal, kept_ends(process, s.to(t), t), (s, end)))


def generator_matrix(f, x):
    """Dense backward generator of ``f d/dx + 1/2 d^2/dx^2``, second order, reflecting ends."""
    n, dx = len(x), x[1] - x[0]
    up = 0.5 / dx**2 + f(x) / (2 * dx)
    down = 0.5 / dx**2 - f(x) / (2 * dx)
    L = np.diag(up[:-1], 1) + np.diag(down[1:], -1)
    return L - np.diag(L.sum(1)) if n else L


def test_the_clock_window_beats_the_fixed_one():
    """Paper B, figure 2: worst mean error at equal average window, a mixture prior."""
    prior = ms.GaussianMixture(torch.tensor([[-1.5], [1.5]]), 0.6)
    langevin, x = ms.Langevin(prior), np.linspace(-5, 5, 401)

    def f(x):
        return 0.5 * prior.score(torch.from_numpy(x)[:, None])[:, 0].numpy()

    values, vectors = np.linalg.eig(generator_matrix(f, x))
    coefficients, inner = np.linalg.solve(vectors, x), np.abs(x) < 3
    t = torch.linspace(0.05, 1, 20, dtype=F64)

    def worst(s):
        errors = []
        for low, high in zip(s.tolist(), t.tolist(), strict=True):
            h = float(langevin.clock.between(torch.tensor(low), torch.tensor(high)))
            truth = (vectors @ (np.exp(values * h) * coefficients)).real
            y = torch.from_numpy(x[inner])[:, None]
            m = ms.local_transition(langevin, y, low, high)[0][:, 0].numpy()
            errors.append(np.abs(m - truth[inner]).max())
        return max(errors)

    fixed = ms.fixed_window(t, 0.05)
    widths = np.geomspace(0.01, 1, 200)
    average = [float((t - ms.clock_window(langevin, t, w)).mean()) for w in widths]
    width = float(np.interp(0.05, average, widths))
    assert worst(fixed) > 2 * worst(ms.clock_window(langevin, t, width))


@pytest.mark.parametrize(
    "diffusion", [LANGEVIN, SWIMMER, ms.DoubleWell(2)], ids=lambda d: type(d).__name__
)
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_local_target_is_the_gaussian_score(diffusion, dtype):
    y_s = points(20, 2).to(dtype)
    t = torch.linspace(0.2, 1.0, 20).to(dtype)
    s = ms.clock_window(diffusion, t, 0.05)
    y, target = ms.local_target(diffusion, y_s, s, t, generator=rng(1))
    m, P = ms.local_transition(diffusion, y_s, s, t)
    assert y.dtype == target.dtype == m.dtype == P.dtype == dtype
    y64, m64 = y.double(), m.double()
    expected = -torch.cholesky_solve((y64 - m64)[:, :, None], torch.linalg.cholesky(P.double()))
    tolerance = 1e-8 if dtype == F64 else 2e-2
    torch.testing.assert_close(target.double(), expected[:, :, 0], rtol=tolerance, atol=tolerance)


def test_single_precision_survives_tiny_windows_of_the_swimmer():
    """``P`` would need ``h^3 = 1e-39``; the target never goes through it in float32."""
    target = ms.local_target(SWIMMER, points(9, 2).float(), 0.0, 1e-13)[1]
    assert torch.isfinite(target).all()


@pytest.mark.parametrize(
    ("s", "t", "message"),
    [
        (0.5, 0.5, "its length must be positive"),
        (0.6, 0.5, "0 <= s < t"),
        (-0.1, 0.5, "0 <= s < t"),
        (torch.tensor([0.0, 0.3]), torch.tensor([0.1, 0.3]), r"row 1"),
    ],
)
def test_bad_windows(s, t, message):
    refused(message, ms.local_transition, LANGEVIN, points(2, 2), s, t)


def test_bad_drifts_and_covariances():
    silent = Plain(lambda y, t: -y, lambda t: torch.tensor([[1.0], [1.0]]))
    y = points(3, 2)
    y[1, 0] = 0
    with pytest.raises(ValueError, match=r"drift: .*first is row 1 .* at time 0\.25"):
        ms.local_transition(Plain(lambda y, t: 1 / y), y, 0.25, 0.5)
    refused(r"window \[0, 0\.1\] of row 0 \(coordinate 1", ms.local_target, silent, y, 0.0, 0.1)
    refused("too long", ms.local_transition, ms.DoubleWell(2, horizon=1e5), 0 * y, 0.0, 1e4)
    refused("without walls", ms.local_transition, ms.BoxBrownian(2), y, 0.0, 0.1)
    P, ends = Diagonal([[1.0, 0.0]]), torch.tensor([[0.0], [0.1]])
    refused("positive definite", covariance_factor, P, *ends)


def label_bias(curvature, h):
    """Rms bias of local-DSM's label for ``f = -y + c (1 - cos y)`` from ``N(0, 0.49)``.

    On a grid, without noise: by Lemma 1 the label's conditional mean is the score of the law of the
    linearised step; the truth is a chain of Gaussian steps, extrapolated in their number.
    """
    one = torch.ones((), dtype=F64)
    process = Plain(lambda y, t: -y + curvature * (1 - y.cos()), lambda t: one)
    x = torch.linspace(-5, 5, 401, dtype=F64)
    start = torch.exp(-(x**2) / 0.98)

    def step(mean, variance, law):
        gap = x[:, None] - mean
        kernel = torch.exp(-0.5 * gap**2 / variance) / variance.sqrt()
        end = kernel @ law
        return end, (-gap / variance * kernel) @ law / end

    def chain(steps):
        law, width = start, torch.full((), h / steps, dtype=F64)
        for _ in range(steps):
            law, score = step(x + width * process.drift(x, 0.0), width, law)
        return score

    m, P = ms.local_transition(process, x[:, None], 0.0, h)
    law, label = step(m[:, 0], P[:, 0, 0], start)
    weight = torch.where(law > 1e-8 * law.max(), law, 0.0)
    error = label - (2 * chain(16) - chain(8))
    return float(((weight * error**2).sum() / weight.sum()).sqrt())


def test_the_windows_bias_is_of_second_order_and_proportional_to_the_curvature():
    """So doubling the curvature shrinks the admissible window by about the root of two."""
    windows = np.array([0.1, 0.14, 0.2, 0.28])
    bias = {c: np.array([label_bias(c, h) for h in windows]) for c in (0.25, 0.5)}
    assert np.allclose(bias[0.5] / bias[0.25], 2, rtol=0.02)
    assert 1.6 < slope(windows, bias[0.25]) < 2.1  # not 1, as f'' h / 4 would have it
    admissible = [np.interp(0.004, bias[c], windows) for c in (0.25, 0.5)]
    assert 0.63 < admissible[1] / admissible[0] < 0.74  # not a half
