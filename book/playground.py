"""What the playgrounds read: small JSON files, made when the site is built."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import markovscore as ms

POINTS = 1500
UNIT = 1e-3  # of the coordinates of points, which are whole numbers
SETS = {"pinwheel": "pinwheel", "spirals": "2spirals", "checkerboard": "checkerboard"}


def write_data(folder: Path) -> None:
    """Write ``presets.json``: point sets on the torus ``[-pi, pi)^2``, pairs one after the
    other."""
    generator = torch.Generator().manual_seed(0)
    sets = {name: _scaled(ms.toy(toy, POINTS, generator)) for name, toy in SETS.items()}
    sets["angles"] = ms.datasets.protein_angles(POINTS, generator)
    whole = {name: (x / UNIT).floor().int().flatten().tolist() for name, x in sets.items()}
    content = json.dumps({"unit": UNIT, "sets": whole}, separators=(",", ":"))
    (folder / "presets.json").write_text(content, encoding="utf-8")


def _scaled(x: torch.Tensor) -> torch.Tensor:
    return 2.6 * x / x.abs().max()
