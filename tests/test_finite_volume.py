"""The one-dimensional sweeps: a dense generator, and a carried step function."""

import math

import numpy as np
import pytest
import scipy.linalg

from markovscore.reference import bernoulli, between_centres, diffusive_sweep, transport_sweep


def test_transport_round_a_ring_returns_and_stays_positive():
    """A step function carried once round: mass to rounding, never negative."""
    n = 50
    rho = np.zeros((1, n))
    rho[0, 10:20] = 1.0
    sweep = transport_sweep(np.arange(n + 1)[None] - 0.5, periodic=True)
    carried = rho
    for _ in range(2 * n):
        carried = sweep(carried)
        assert carried.min() >= -1e-14
    assert carried.sum() == pytest.approx(rho.sum(), abs=1e-12)
    assert np.abs(carried - rho).mean() < 0.06
    whole = transport_sweep(np.arange(n + 1)[None] - 13.0, periodic=True)
    np.testing.assert_allclose(whole(rho), np.roll(rho, 13, axis=1), atol=1e-14)


@pytest.mark.parametrize("periodic", [False, True])
def test_sweep_matches_the_exponential_of_its_generator(periodic):
    """Dense brute force: TR-BDF2 is third order in one step."""
    rng, n, D, h = np.random.default_rng(0), 12, 0.3, 0.1
    velocity, rho = rng.normal(size=(2, n)), rng.random((2, n))
    errors = []
    for step in (2e-3, 1e-3):
        actual = diffusive_sweep(velocity, D, h, step, periodic)(rho)
        for row in range(2):
            A = np.zeros((n, n))
            for i in range(n if periodic else n - 1):
                j, p = (i + 1) % n, velocity[row, i] * h / D
                for source, sink, rate in ((i, j, bernoulli(-p)), (j, i, bernoulli(p))):
                    A[source, source] -= D / h**2 * rate
                    A[sink, source] += D / h**2 * rate
            expected = scipy.linalg.expm(step * A) @ rho[row]
            errors.append(np.abs(actual[row] - expected).max())
    assert max(errors[:2]) < 2e-4
    assert math.log2(max(errors[:2]) / max(errors[2:])) == pytest.approx(3, abs=0.3)


def test_averages_between_centres_are_exact_for_polynomials():
    """Cubics inside, parabolas beside a wall; a ring only sees its neighbours."""
    x = np.arange(1.0, 10.0)
    for power, faces in ((2, slice(None)), (3, slice(1, -1))):
        expected = np.diff(x ** (power + 1) / (power + 1))[faces]
        actual = between_centres((x**power)[None], periodic=False)[0, :-1][faces]
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
    wave = np.sin(2 * np.pi * x / 9)[None]
    shifted = between_centres(np.roll(wave, 1, axis=1), periodic=True)
    np.testing.assert_allclose(shifted, np.roll(between_centres(wave, True), 1, axis=1), atol=1e-15)
