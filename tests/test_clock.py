"""Clocks: closed form against quadrature, inverses, tiny windows, singular and jumping rates."""

import math

import pytest
import torch
from odd_inputs import refused
from statistical import rng

from markovscore.core import IdentityClock, Process
from markovscore.diffusions import LinearClock, QuadratureClock, make_clock

T = torch.rand(200, generator=rng(), dtype=torch.float64)


def close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=atol)


def test_linear_clock_by_quadrature():
    linear, quadrature = LinearClock(0.1, 10.0, 1.0), QuadratureClock(lambda t: 0.1 + 9.9 * t, 1.0)
    close(quadrature.elapsed(T), linear.elapsed(T), 0)
    close(linear.elapsed(T), 0.1 * T + 4.95 * T**2, 0)
    close(quadrature.inverse(T), linear.inverse(T), 1e-15)
    close(linear.inverse(linear.elapsed(T)), T, 1e-15)
    close(linear.rate(T), quadrature.rate(T), 0)


@pytest.mark.parametrize(
    ("beta", "elapsed", "atol"),
    [
        (lambda t: 3 * torch.exp(-2 * t), lambda t: 1.5 * (1 - torch.exp(-2 * t)), 1e-14),
        (lambda t: 0.5 / t.sqrt(), lambda t: t.sqrt(), 1e-10),  # infinite at 0, integrable
        (lambda t: 0.5 / (1 - t).sqrt(), lambda t: 1 - (1 - t).sqrt(), 1e-7),
        (
            lambda t: torch.where(t < 0.377, 1.0, 20.0),
            lambda t: t + 19 * (t - 0.377).clamp(min=0),
            1e-12,
        ),
    ],
    ids=["smooth", "singular start", "singular end", "jump"],
)
def test_any_integrable_rate(beta, elapsed, atol):
    clock = QuadratureClock(beta, 1.0)
    close(clock.elapsed(T), elapsed(T), atol)
    close(clock.elapsed(clock.inverse(elapsed(T))), elapsed(T), atol)
    s = T * T.flip(0)
    close(clock.between(s, T), elapsed(T) - elapsed(s), 2 * atol)


def test_tiny_windows_keep_their_digits():
    """A difference of two clocks near 5 would leave three digits of 1e-12."""
    linear, quadrature = LinearClock(0.1, 10.0, 1.0), QuadratureClock(lambda t: 0.1 + 9.9 * t, 1.0)
    s = T + 0.0
    t = s + 1e-12
    expected = (t - s) * (0.1 + 9.9 * s)
    for clock in (linear, quadrature):
        torch.testing.assert_close(clock.between(s, t), expected, rtol=1e-10, atol=0)


def test_identity_and_dispatch():
    clock = Process().clock
    assert isinstance(clock, IdentityClock)
    assert clock.between(T, T + 1).sub(1).abs().max() < 1e-15
    assert make_clock(2.0, 3.0).elapsed(T).equal(2 * T)
    assert make_clock((2, 2), 3.0).inverse(T).equal(T / 2)


@pytest.mark.parametrize("beta", [0.0, -1.0, (0.1, 0.0), (0.1, math.nan), (1.0, 2.0, 3.0)])
def test_bad_rates(beta):
    refused(r"beta: expected", make_clock, beta, 1.0)


def test_bad_callables():
    refused(r"positive numbers, found -.* at t = 0\.5", make_clock, lambda t: 0.5 - t, 1.0)
    refused("one number for each time", make_clock, lambda t: t[:1], 1.0)
