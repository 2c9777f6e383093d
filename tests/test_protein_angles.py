"""The residues that come with the package against their file and its provenance."""

import hashlib
import math
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from odd_inputs import refused
from statistical import F64, agrees, rng

from markovscore.datasets import protein_angles
from markovscore.diffusions import TorusBrownian

FOLDER = ROOT / "src" / "markovscore" / "datasets"
FILE, PROVENANCE = FOLDER / "protein_angles.csv", (FOLDER / "PROVENANCE.md").read_text()
RESIDUES = 100_816
EDGES = np.linspace(-180, 180, 91)


def test_the_file_is_the_one_that_its_provenance_describes():
    (stated,) = re.findall(r"SHA-256: `([0-9a-f]{64})`", PROVENANCE)
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == stated
    counts = np.loadtxt(FILE, delimiter=",")
    assert counts.shape == (90, 90) and counts.sum() == RESIDUES and counts.min() == 0
    assert f"{RESIDUES:,} residues" in PROVENANCE
    psi, phi = np.unravel_index(counts.argmax(), counts.shape)
    helix = re.search(r"phi = (-\d+), psi = (-\d+)", PROVENANCE).groups()
    assert (EDGES[phi] + 2, EDGES[psi] + 2) == tuple(float(angle) for angle in helix)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_every_residue_comes_once_into_its_bin(dtype):
    x = protein_angles(generator=rng(1), dtype=dtype)
    assert (x.shape, x.dtype) == ((RESIDUES, 2), dtype)
    assert TorusBrownian(2).contains(x).all() and x.max() < math.pi
    phi, psi = torch.rad2deg(x.double()).T.numpy()
    found = np.histogram2d(psi, phi, (EDGES, EDGES))[0]
    moved = np.abs(found - np.loadtxt(FILE, delimiter=",")).sum()
    assert moved == 0 if dtype == F64 else moved < 10  # float32 rounds some across an edge


def test_places_within_bins_are_uniform_and_the_order_is_random():
    x = protein_angles(generator=rng(2), dtype=F64)
    place = torch.rad2deg(x).remainder(4) / 4
    assert agrees(place, 0.5) and agrees(place.square(), 1 / 3)
    assert agrees(place.prod(1, keepdim=True), 0.25)
    # A permuted half has the mean of the whole; a sorted one is off by hundreds of errors.
    assert agrees(x[: RESIDUES // 2].sin(), x.sin().mean(0))


def test_a_generator_gives_the_same_residues_and_its_own_only():
    before = torch.get_rng_state()
    x = protein_angles(500, rng(3), F64)
    assert x.shape == (500, 2) and torch.equal(x, protein_angles(500, rng(3), F64))
    assert not torch.equal(x, protein_angles(500, rng(4), F64))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("n", [0, -1, 2.5, RESIDUES + 1, True])
def test_other_numbers_of_residues_are_refused(n):
    refused(f"n: expected an integer from 1 to {RESIDUES}", protein_angles, n)
