"""Expected losses by quadrature: every objective, weighting and time sampler."""

import math

import pytest
import torch
from statistical import agrees, points, rng

import markovscore as ms

VP = ms.VariancePreserving(1, beta=(0.5, 4.0))
T_MIN, WINDOW, N = 0.05, 0.3, 10_000
CASES = {
    "dsm": (ms.DenoisingSM, {}),
    "dsm-variance": (ms.DenoisingSM, {"weighting": "variance"}),
    "local": (ms.LocalDSM, {"window": WINDOW}),
    "local-perceptual": (ms.LocalDSM, {"window": WINDOW, "weighting": "perceptual"}),
    "shift": (ms.PathShiftDSM, {"window": WINDOW, "weight": "linear"}),
    "shift-perceptual": (
        ms.PathShiftDSM,
        {"window": WINDOW, "weight": "linear", "weighting": "perceptual"},
    ),
    "implicit": (ms.ImplicitSM, {}),
}


def expected(name):
    """``L(0) - L(y)``: ``lambda (-2 - V)`` in mean, for the exact score ``-y / V``."""
    t = T_MIN + (1 - T_MIN) * (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    beta, tau = 0.5 + 3.5 * t, 0.5 * t + 1.75 * t**2
    V = 1 - 0.91 * torch.exp(-tau)
    weight = {
        "dsm-variance": 1 - torch.exp(-tau),
        "local-perceptual": 1 - torch.exp(-tau.clamp(max=WINDOW)),
        "shift-perceptual": tau.clamp(max=WINDOW),
    }.get(name, beta)
    return float((weight * (-2 - V)).mean())


@pytest.mark.parametrize("times", ["uniform", "log", "importance"])
@pytest.mark.parametrize("name", CASES)
def test_the_expected_loss_is_its_integral(name, times):
    kind, settings = CASES[name]
    settings = settings | ({} if kind is ms.DenoisingSM else {"steps": 40})
    objective = kind(VP, t_min=T_MIN, times=times, **settings)
    x0 = 0.3 * points(N, 1, 1)
    none, linear = (objective.losses(lambda y, t, c=c: c * y, x0, rng(2)) for c in (0.0, 1.0))
    gap = none - linear
    assert agrees(gap, expected(name))
    assert 6 * float(gap.std()) / math.sqrt(N) < 0.3 * abs(expected(name))
