"""Backbone torsion angles of proteins: real points on the torus, which come with the package."""

import math
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from ..core import check_generator, check_integer

_FILE = "protein_angles.csv"  # rows psi, columns phi; PROVENANCE.md says where it is from


def protein_angles(
    n: int | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Torsion angles ``(phi, psi)`` of protein residues, in radians: points on the torus.

    A stored 90 x 90 histogram holds the 100,816 residues of the 500 structures of Lovell et al.
    (2003, doi:10.1002/prot.10286), all types of residues together. Each count of a bin becomes one
    point, uniform within the bin of 4 degrees, so a density of these points resolves no less than
    that; they come in random order, so that the first ones and the last ones are two samples.

    Args:
        n: how many residues, without replacement; None: all.
        generator: draws the order and the places within bins; torch's own where None.
        dtype: default: torch's.

    Returns:
        ``(n, 2)`` in :math:`[-\pi, \pi)`, on the generator's device, or the CPU.

    Raises:
        ValueError: ``n`` is not in 1 to 100,816.
    """
    check_generator(generator)
    counts = _counts()
    device = torch.device("cpu") if generator is None else generator.device
    bins = torch.arange(counts.numel()).repeat_interleave(counts.flatten()).to(device)
    n = len(bins) if n is None else check_integer(n, "n", 1, len(bins))
    bins = bins[torch.randperm(len(bins), generator=generator, device=device)[:n]]
    rows, columns = counts.shape
    corner = torch.stack([bins % columns, bins // columns], 1)
    within = torch.rand(n, 2, generator=generator, dtype=torch.float64, device=device)
    x = -math.pi + 2 * math.pi / rows * (corner + within)
    x = x.to(torch.get_default_dtype() if dtype is None else dtype)
    return torch.where(x < math.pi, x, -math.pi)  # rounded up to the end: the same point


def _counts() -> Tensor:
    """``(90, 90)`` int64: rows are psi, columns phi, both from -180 degrees."""
    with resources.files(__package__).joinpath(_FILE).open(encoding="utf-8") as stream:
        return torch.from_numpy(np.loadtxt(stream, delimiter=",", dtype=np.int64))
