"""Linear SDEs: moments against scipy, quadrature, closed forms and the Ornstein-Uhlenbeck case."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from odd_inputs import refused
from problems import DENSE, LINEAR_SWIMMER, linear_covariance
from statistical import F64, agrees, points, products, rng

from markovscore.diffusions import LinearSDE, OrnsteinUhlenbeck

IDENTITY = torch.eye(2, dtype=F64)
EPS = torch.finfo(F64).eps


@pytest.mark.parametrize("t", [1e-6, 0.1, 3.0, 50.0])
def test_linear_is_ou_for_minus_identity(t):
    ou, linear = OrnsteinUhlenbeck(2), LinearSDE(-IDENTITY, math.sqrt(2) * IDENTITY)
    x0, y = points(9), points(9, seed=1)
    for method in ("log_transition", "transition_score"):
        expected = getattr(ou, method)(y, x0, t)
        torch.testing.assert_close(getattr(linear, method)(y, x0, t), expected, rtol=1e-11, atol=0)
    assert linear.std(t).item() == pytest.approx(ou.std(t).item(), rel=1e-13)
    torch.testing.assert_close(linear.prior.log_prob(y), ou.prior.log_prob(y))


@pytest.mark.parametrize("t", [1e-3, 0.2, 4.0, 80.0])
@pytest.mark.parametrize("diffusion", [DENSE, LINEAR_SWIMMER], ids=["dense", "swimmer"])
def test_linear_moments_by_expm_and_quadrature(diffusion, t):
    F, covariance = diffusion.F.numpy(), linear_covariance(diffusion.F, diffusion.G, t)
    x0, y = points(3), points(3, seed=1)
    mean = x0.numpy() @ scipy.linalg.expm(F * t).T
    offset = y.numpy() - mean
    expected = -np.linalg.solve(covariance, offset.T).T
    log_det = np.linalg.slogdet(2 * math.pi * covariance)[1]
    log_prob = 0.5 * ((offset * expected).sum(1) - log_det)
    # The oracle solves with condition number up to 12 / t^2 for the swimmer.
    tolerance = max(1e-10, 100 * EPS / t**2)
    actual = diffusion.transition_score(y, x0, t).numpy()
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=1e-11)
    np.testing.assert_allclose(diffusion.log_transition(y, x0, t), log_prob, rtol=tolerance)
    trace = math.sqrt(np.trace(covariance) / 2)
    assert diffusion.std(t).item() == pytest.approx(trace, rel=1e-11)


def test_linear_with_eigenvalues_far_apart_over_a_long_time():
    """Van Loan's e^{-Ft} alone would be e^{2000}; doubling keeps every digit."""
    stiff = LinearSDE([[-200.0, 3.0], [0.0, -0.5]], torch.eye(2))
    x0, y = points(5), points(5, seed=1)
    at_the_end, prior = stiff.log_transition(y, x0, 60.0), stiff.prior.log_prob(y)
    torch.testing.assert_close(at_the_end, prior, rtol=1e-12, atol=1e-10)  # e^{-30} = 9e-14 left


def test_linear_short_times_with_singular_noise():
    """Integrated Brownian motion, exact: covariance ``[[t^3/3, t^2/2], [t^2/2, t]]``."""
    chain = LinearSDE([[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]])
    assert chain.prior is None
    x0, t = torch.zeros(1, 2, dtype=F64), 1e-6
    y = torch.tensor([[2e-10, 1e-4]], dtype=F64)
    inverse = torch.tensor([[12 / t**3, -6 / t**2], [-6 / t**2, 4 / t]], dtype=F64)
    torch.testing.assert_close(chain.transition_score(y, x0, t), -y @ inverse, rtol=1e-12, atol=0)


@pytest.mark.parametrize("diffusion", [DENSE, LINEAR_SWIMMER], ids=["dense", "swimmer"])
def test_drift_is_the_slope_of_the_mean(diffusion):
    x, h = points(5), 1e-6
    # The mean is odd in the start, the noise even.
    ends = [diffusion.sample_transition(start, h, rng()) for start in (x, -x)]
    slope = ((ends[0] - ends[1]) / 2 - x) / h
    torch.testing.assert_close(diffusion.drift(x, 0.0), slope, rtol=0, atol=1e-5)


def test_linear_stationary_law():
    draws = DENSE.prior.sample(50_000, rng(), dtype=F64)
    later = DENSE.sample_transition(draws, 0.7, rng(1))
    F, G, C = DENSE.F, DENSE.G, DENSE.prior.scale @ DENSE.prior.scale.T
    assert (F @ C + C @ F.T + G @ G.T).abs().max() < 1e-14
    assert agrees(products(later), C.flatten())


def test_noise_that_does_not_reach_every_direction():
    half = LinearSDE([[-1.0, 0.0], [0.0, -1.0]], [[1.0], [1.0]])
    assert half.prior is None
    x, t = torch.zeros(3, 2), torch.tensor([0.5, 0.5, 0.7])
    refused(r"singular one at t = 0.5 \(coordinate 1", half.sample_transition, x, t)
