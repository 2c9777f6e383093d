"""Bad input to the Fokker-Planck solver: what was expected, what was found, and the fix."""

import math

import pytest
import torch

from markovscore import LinearSDE, TorusBrownian
from markovscore.diffusions import Gaussian
from markovscore.reference import fokker_planck

STANDARD = Gaussian(1).log_prob


class Process:
    """A user's own diffusion: nothing but a drift and a dispersion."""

    def __init__(self, drift, dispersion):
        self.drift, self.dispersion = drift, dispersion


def double_well():
    return Process(lambda y, t: y - y**3, lambda t: 1.0)


def bad_drift(value):
    def drift(y, t):
        return torch.where(y > 1, value, -y)

    return Process(drift, lambda t: 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bounds": (-2, 6)}, r"lower side of axis 0 \(-2\).*outwards"),
        ({"bounds": (-6, 2.5)}, r"upper side of axis 0 \(2.5\)"),
        ({"log_prob": lambda x: STANDARD(x) + 1}, r"mass 1 in the domain, found 2\.718"),
        ({"bounds": (3, -3)}, "low < high"),
        ({"bounds": (-6, math.inf)}, "finite"),
        ({"bounds": ((-6, 6),) * 3}, "one or two axes"),
        ({"cells": 4}, "integers? >= 8"),
        ({"steps": 0}, "integer >= 1"),
        ({"leakage": 0.0}, "leakage: expected a finite positive"),
        ({"boundary": "wall"}, "found 'wall'"),
        ({"times": [1.0, 0.5]}, "strictly increasing"),
        ({"diffusion": LinearSDE([[-1.0]], [[1.0]], horizon=0.5)}, "t <= horizon = 0.5"),
        ({"diffusion": TorusBrownian(2)}, "expected 2 pairs"),
        ({"diffusion": bad_drift(math.nan)}, r"drift at t = .* first is row"),
        ({"diffusion": Process(lambda y, t: y[:, 0], lambda t: 1.0)}, "one row per point"),
        ({"diffusion": Process(lambda y, t: -y, lambda t: math.nan)}, "dispersion.*finite"),
        ({"diffusion": Process(lambda y, t: -y, lambda t: torch.ones(3, 1))}, r"shape \(1, m\)"),
        ({"log_prob": lambda x: x}, "log_prob: expected shape"),
        ({"log_prob": lambda x: STANDARD(x) * math.nan}, "without NaN"),
        ({"log_prob": Gaussian(1, scale=1e-3).log_prob, "cells": 100}, "narrower than one"),
        ({"diffusion": Process(lambda y, t: 2 * y, lambda t: 1.0)}, "side of axis 0.* t = "),
    ],
)
def test_bad_input(change, message):
    arguments = {"diffusion": double_well(), "log_prob": STANDARD, "times": [1.0]}
    arguments |= {"bounds": (-6, 6), "cells": 60, "steps": 20} | change
    with pytest.raises(ValueError, match=message):
        fokker_planck(**arguments)


def test_noise_that_turns_is_refused():
    def dispersion(t):
        return torch.tensor([[1.0, t], [0.0, 1.0]])

    with pytest.raises(ValueError, match="same principal axes"):
        fokker_planck(
            Process(lambda y, t: -y, dispersion),
            Gaussian(2).log_prob,
            [0.5],
            ((-6, 6),) * 2,
            cells=30,
            steps=4,
        )


def test_bad_queries():
    run = fokker_planck(double_well(), STANDARD, [0.5], (-6, 6), cells=60, steps=20)
    with pytest.raises(ValueError, match=r"stored times, found 0\.7"):
        run.score(torch.zeros(2, 1), 0.7)
    with pytest.raises(ValueError, match=r"first is row 1 = \[7.0\]"):
        run.density(torch.tensor([[0.0], [7.0]]), 0.5)
