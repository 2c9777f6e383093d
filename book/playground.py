"""What the playgrounds read: small JSON files, made when the site is built."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import markovscore as ms

POINTS = 1500
UNIT = 1e-3  # of the coordinates of points, which are whole numbers
SETS = {"pinwheel": "pinwheel", "spirals": "2spirals", "checkerboard": "checkerboard"}

# Transitions of the double well, which is symmetric: starts that are not negative are enough.
STARTS = torch.linspace(0, 2, 13, dtype=torch.float64)
WINDOWS = 0.02 * 2 ** (torch.arange(13, dtype=torch.float64) / 2)
PLACES = torch.linspace(-5, 5, 61, dtype=torch.float64)  # deviations from the mean
BEGINNING = 1e-3  # up to here the Gaussian is the truth: a grid does not hold a point
EDGE = 5.0  # of the grid, beyond what is reached
DIGITS = 5  # behind the point, of bias and variance
HEIGHT = 1e-4  # unit of the densities, which are whole numbers


def write_data(folder: Path) -> None:
    """Write ``presets.json``, point sets on the torus ``[-pi, pi)^2``, pairs one after the other,
    and ``transitions.json``, of the double well."""
    generator = torch.Generator().manual_seed(0)
    sets = {name: _scaled(ms.toy(toy, POINTS, generator)) for name, toy in SETS.items()}
    sets["angles"] = ms.datasets.protein_angles(POINTS, generator)
    whole = {name: (x / UNIT).floor().int().flatten().tolist() for name, x in sets.items()}
    contents = {"presets": {"unit": UNIT, "sets": whole}, "transitions": transitions()}
    for name, content in contents.items():
        text = json.dumps(content, separators=(",", ":"))
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


@cache
def transitions() -> dict[str, Any]:
    """True laws of ``Y_h`` from each start, over each window, in numbers that are smooth in both.

    With ``m`` the mean of the process linearised at the start, ``mu`` and ``V`` the true moments:
    ``bias`` is ``(m - mu) / h^2``, ``variance`` is ``V / h``, and ``shape`` is the density of
    ``(Y_h - mu) / V^(1/2)`` less the standard normal one at ``places``, in units of ``height``.
    All flat: starts first, then windows, then places.
    """
    rows = [torch.cat(parts, 1) for parts in map(_laws, STARTS)]
    bias, variance, shape = torch.stack(rows).split((1, 1, len(PLACES)), 2)
    return {
        "starts": STARTS.tolist(),
        "windows": WINDOWS.tolist(),
        "places": PLACES.tolist(),
        "height": HEIGHT,
        "bias": [round(value, DIGITS) for value in bias.flatten().tolist()],
        "variance": [round(value, DIGITS) for value in variance.flatten().tolist()],
        "shape": (shape / HEIGHT).round().int().flatten().tolist(),
    }


def _laws(start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bias and variance, scaled, ``(W, 1)``, and shape ``(W, P)`` from one start."""
    well, y = ms.DoubleWell(), start.reshape(1, 1)
    m, P = ms.local_transition(well, y, 0.0, BEGINNING)
    first = ms.Gaussian(1, m[0], P[0].sqrt())
    times, size = WINDOWS - BEGINNING, {"cells": 1600, "steps": 400}
    solved = ms.fokker_planck(well, first.log_prob, times, (-EDGE, EDGE), **size)
    (axis,), weights = solved.axes, solved.values / solved.values.sum(1, keepdim=True)
    mean = weights @ axis
    within = (axis[1] - axis[0]).square() / 12  # the variance that averaging over a cell adds
    variance = (weights * (axis - mean[:, None]).square()).sum(1) - within
    places = (mean[:, None] + variance.sqrt()[:, None] * PLACES).clamp(-EDGE, EDGE)
    rows = [solved.density(x[:, None], t) for x, t in zip(places, times.tolist(), strict=True)]
    normal = (-PLACES.square() / 2).exp() / math.sqrt(2 * math.pi)
    shape = variance.sqrt()[:, None] * torch.stack(rows) - normal
    linear = ms.local_transition(well, y.expand(len(WINDOWS), 1), 0.0, WINDOWS)[0]
    bias = (linear[:, 0] - mean) / WINDOWS.square()
    return bias[:, None], (variance / WINDOWS)[:, None], shape


def _scaled(x: Tensor) -> Tensor:
    return 2.6 * x / x.abs().max()
