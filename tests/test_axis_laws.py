"""Wrapped and reflected normal laws against fifty digits and brute-force image sums."""

import math

import mpmath
import numpy as np
import pytest
import torch
from statistical import F64

from markovscore.diffusions import axis_laws

EPS = torch.finfo(F64).eps

VARIANCES = [2e-6, 1e-3, 0.1, 1.0, 3.0, math.pi * (1 - 1e-15), math.pi, 3.3, 10.0, 100.0]


def wrapped_by_mpmath(z, var):
    """Log density and score by a sum over images (or modes, where those are fewer), 50 digits."""
    with mpmath.workdps(50):
        z, var = mpmath.mpf(z), mpmath.mpf(var)
        if var < 30:
            images = [z + 2 * mpmath.pi * k for k in range(-30, 31)]
            terms = [mpmath.exp(-(u**2) / (2 * var)) for u in images]
            total = sum(terms) / mpmath.sqrt(2 * mpmath.pi * var)
            slope = sum(-u / var * term for u, term in zip(images, terms, strict=True))
            return float(mpmath.log(total)), float(slope / sum(terms))
        modes = range(1, 10)
        total = 1 + sum(2 * mpmath.exp(-(n**2) * var / 2) * mpmath.cos(n * z) for n in modes)
        slope = sum(-2 * n * mpmath.exp(-(n**2) * var / 2) * mpmath.sin(n * z) for n in modes)
        return float(mpmath.log(total / (2 * mpmath.pi))), float(slope / total)


@pytest.mark.parametrize("var", VARIANCES)
def test_wrapped_law_against_fifty_digits(var):
    """A few roundings at every variance and angle; the log density by its own scale."""
    x = torch.linspace(-3.1, 3.1, 21, dtype=F64)
    expected = np.array([wrapped_by_mpmath(float(z), var) for z in x])
    log_prob = axis_laws.wrapped_normal_log_prob(x, 0.0, var).numpy()
    score = axis_laws.wrapped_normal_score(x, 0.0, var).numpy()
    np.testing.assert_allclose(log_prob, expected[:, 0], rtol=8 * EPS, atol=8 * EPS)
    scale = np.abs(expected[:, 1]).max()  # the score crosses zero, where images cancel
    np.testing.assert_allclose(score, expected[:, 1], rtol=32 * EPS, atol=8 * EPS * scale)


def test_expansions_agree_at_the_switch():
    z = torch.linspace(-math.pi, math.pi, 101, dtype=F64)
    var = torch.tensor(axis_laws.SWITCH, dtype=F64)
    image, series = axis_laws.image_sum(z, var), axis_laws.theta_series(z, var)
    torch.testing.assert_close(image, series, rtol=1e-14, atol=1e-15)
    assert bool(torch.isfinite(axis_laws.wrapped_normal_score(z, 0.0, 1e-300)).all())


def test_reflected_law_by_images_in_the_mirrors():
    low, high = -1.0, 2.0
    x = torch.linspace(low, high, 41, dtype=F64)
    for var in (0.02, 0.5, 2.0, 5.0):  # both sides of the switch, at pi (3 / pi)^2 = 2.9
        k = 2 * (high - low) * torch.arange(-20, 21, dtype=F64)[:, None]
        for mean in (-0.99, 0.3, 2.0):
            offsets = torch.cat([x - mean + k, x + mean - 2 * low + k])
            terms = torch.exp(-offsets.square() / (2 * var)) / math.sqrt(2 * math.pi * var)
            slope = (-offsets / var * terms).sum(0) / terms.sum(0)
            log_prob = axis_laws.reflected_normal_log_prob(x, mean, var, low, high)
            score = axis_laws.reflected_normal_score(x, mean, var, low, high)
            # The oracle's own rounding: offsets of size 10 cancel to scores of size 1e-3.
            torch.testing.assert_close(log_prob, terms.sum(0).log(), rtol=1e-13, atol=1e-13)
            torch.testing.assert_close(score, slope, rtol=1e-12, atol=1e-12 / min(var, 1))
            assert score[[0, -1]].abs().max() < 1e-13 / var  # no flux through the walls
