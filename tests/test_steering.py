"""The adaptive and the linearised weights, at any growth, against 900 digits and exact chains."""

import math

import mpmath
import pytest
import torch
from odd_inputs import refused
from problems import Plain
from statistical import F64, points, rng

import markovscore as ms
from markovscore.targets import first_step, first_step_diagonal

SHARP = ms.Langevin(ms.GaussianMixture([[-2.0, 0.0], [2.0, 0.0]], 0.3), beta=1.0, horizon=2.0)


def exact_first_step(M, w, end, count):
    """``M w + M^(n-1)^T (sum_k M^k M^k^T)^{-1} (end - M^n w)`` in 900 digits."""
    with mpmath.workdps(900):
        M, w, end = (mpmath.matrix(v.tolist()) for v in (M, w, end))
        power, P = mpmath.eye(M.rows), mpmath.zeros(M.rows)
        for _ in range(count):
            P += power * power.T
            last, power = power, power * M
        control = last.T * P**-1 * (end - power * w)
        return torch.tensor(
            [[float(x) for x in row] for row in (M * w + control).tolist()], dtype=F64
        )


MATRICES = {
    "saddle": [[240.0, 3.0], [1.0, -11.0]],
    "saddle, symmetric": [[240.0, 30.0], [30.0, -90.0]],
    "tiny": [[1e-7, 2e-7], [0.0, -1e-7]],
    "rotation": [[-1.0, 40.0], [-40.0, -1.0]],
    "shear": [[3.0, 500.0], [0.0, 3.0]],
    "unstable scheme": [[-700.0, 20.0], [5.0, 900.0]],
    "nothing left": [[-400.0, 0.0], [0.0, -400.0]],  # M = 0
}


@pytest.mark.parametrize("count", [1, 2, 7, 400])
@pytest.mark.parametrize("name", MATRICES)
def test_the_first_step_is_right_at_any_growth(name, count):
    M = torch.eye(2, dtype=F64) + torch.tensor(MATRICES[name]).double() / 400
    w, end = points(2, 2), torch.eye(2, dtype=F64) + 0.3 * points(2, 2, 1)
    found = first_step(M[None], w[None], end, count)[0]
    expected = exact_first_step(M, w, end, count).double()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("count", [1, 2, 7, 400])
def test_a_diagonal_takes_the_same_step(count, dtype):
    rates = [0.0, 1e-9, -1e-9, 0.6, -0.3, -1.0, -1.7, -2.0, -2.4, 5.0, 1e4, -1e4]
    rate = torch.tensor([rates], dtype=dtype)
    w = torch.linspace(-1, 1.3, len(rates), dtype=dtype)[None]
    found = first_step_diagonal(rate, w, count)
    one = torch.ones(1, 1).double()
    expected = [
        exact_first_step(1 + r.double().view(1, 1), v.double().view(1, 1), one, count).item()
        for r, v in zip(rate[0], w[0], strict=True)
    ]
    tolerance = 2e-5 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(
        found[0], torch.tensor(expected, dtype=dtype), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("length", [1e-9, 0.3, 2.0])
@pytest.mark.parametrize("name", MATRICES)
def test_the_linearised_weight_is_right_at_any_growth(name, length):
    """``P(r h) e^{J^T (1 - r) h} P(h)^{-1}``, by the power series of a 4 x 4 exponential."""
    J = torch.tensor(MATRICES[name]).double() / 4

    G = torch.tensor([[1.0, 0.0], [0.8, 0.5]], dtype=F64)
    linear = Plain(lambda y, t: y @ J.T, lambda t: G)
    weight = ms.linearised_weight(linear, points(1, 2), 0.0, length)
    found = weight(torch.linspace(0, 1, 4, dtype=F64))[:, 0]

    with mpmath.workdps(400):
        block = torch.cat([torch.cat([-J, G @ G.T], 1), torch.cat([0 * J, J.T], 1)])
        block = mpmath.matrix(block.tolist())

        def moments(h):
            """Van Loan: growth and covariance, in digits enough for the cancellation."""
            E = mpmath.expm(block * h)
            growth = E[2:4, 2:4].T
            return growth, growth * E[0:2, 2:4]

        whole = moments(mpmath.mpf(length))[1]
        for i in (1, 2):
            r = mpmath.mpf(i) / 3
            right = moments(r * length)[1] * moments((1 - r) * length)[0].T * whole**-1
            expected = torch.tensor([[float(x) for x in row] for row in right.tolist()], dtype=F64)
            # The condition of a sheared covariance is the fourth power of the shear.
            near = 1e-11 + 1e-16 * float(J.abs().max() * length) ** 4
            torch.testing.assert_close(found[i], expected, rtol=near, atol=near)


def test_the_adaptive_target_of_a_linear_chain_is_its_exact_score():
    process = ms.LinearSDE([[-1.0, 0.6], [-0.8, 2.3]], [[1.0, 0.2], [0.0, 0.7]])
    y_s, steps, t = points(50, 2), 13, torch.linspace(0.2, 1.5, 50, dtype=F64)
    y, target = ms.path_shift_target(process, y_s, 0.0, t, steps=steps, weight="adaptive")
    for row in range(0, 50, 7):
        h = t[row] / steps
        A = torch.eye(2, dtype=F64) + h * process.F
        P = torch.zeros(2, 2, dtype=F64)
        for _ in range(steps):
            P = A @ P @ A.T + h * process.G @ process.G.T
        mean = torch.linalg.matrix_power(A, steps) @ y_s[row]
        torch.testing.assert_close(target[row], -torch.linalg.solve(P, y[row] - mean))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_sharp_mixture_over_a_long_window(dtype):
    """Slopes to 240, so growth to e^240 over the window: the issue's crash."""
    x = points(400, 2).to(dtype)
    spread = [
        ms.path_shift_target(SHARP, x, 0.0, 1.0, steps=150, weight=w, generator=rng())[1].var(0)
        for w in ("linear", "adaptive")
    ]
    assert (spread[1] < 0.85 * spread[0]).all()
    assert ms.stein_check(SHARP, x, 1.0, steps=150, weight="adaptive", paths=800).passed


def test_a_sharp_product_over_a_long_window():
    """The same, coordinate by coordinate: there the powers overflowed to NaN, in silence."""
    process = ms.Langevin(ms.ProductMixture(3, torch.tensor([-1.0, 1.0]), 0.05), 1.0)
    for dtype in (torch.float32, F64):
        x = 0.7 * points(2000, 3).to(dtype)
        assert ms.stein_check(process, x, 1.0, steps=400, weight="adaptive", paths=2000).passed


def test_no_raw_error_of_linear_algebra():
    def jacobian(y, t):
        return torch.full((len(y), 2, 2), math.nan, dtype=y.dtype)

    bad = Plain(lambda y, t: -y, lambda t: torch.eye(2), drift_jacobian=jacobian)
    window = bad, points(5, 2), 0.0, 1.0
    refused("can be steered against", ms.path_shift_target, *window, weight="adaptive")
    refused("not finite", ms.path_shift_target, *window)
    refused("window", ms.local_target, SHARP, points(200, 2), 0.0, 2.0)
