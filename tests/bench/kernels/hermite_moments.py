"""Sums of Hermite polynomials: one pass over the points, bound by reading them.

Peers: the twin (blocks, double precision), and the three-term recurrence over the whole matrix in
single precision, as one would write it first; compiled on a GPU.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from lib.twins import in_torch
from torch import Tensor

from markovscore.kernels import hermite_moments

Case = tuple[str, dict[str, Callable[[], object]], dict[str, Any]]
# Points, columns, degree: points grow at the size of images, then degrees, then columns.
SIZES = [(n, 3072, 10) for n in (2_000, 10_000, 50_000, 200_000, 1_000_000)]
SIZES += [(200_000, 3072, n) for n in (4, 16, 18)]
SIZES += [(100_000_000 // d, d, 10) for d in (2, 64, 784)]
SMALL = [(n, 3072, 10) for n in (250, 1_000, 4_000, 16_000)]
SMALL += [(4_000, 3072, n) for n in (4, 18)] + [(100_000, 64, 10), (1_000_000, 2, 10)]


def eager(x: Tensor, degree: int, centre: Tensor, scale: Tensor) -> list[Tensor]:
    u = (x - centre) / scale
    below, now = torch.ones_like(u), u
    sums = [below.sum(0), now.sum(0), x.amin(0), x.amax(0)]
    for n in range(1, degree):
        below, now = now, (u * now - math.sqrt(n) * below) / math.sqrt(n + 1)
        sums.append(now.sum(0))
    return sums


def cases(small: bool) -> Iterator[Case]:
    """Label, candidates, and the least bytes and operations."""
    on_gpu = torch.cuda.is_available() and not small
    device = torch.device("cuda" if on_gpu else "cpu")
    for n, d, degree in SMALL if small else SIZES:
        g = torch.Generator(device).manual_seed(0)
        x = torch.randn(n, d, generator=g, device=device)
        centre, scale = torch.zeros(2, d, dtype=torch.float64, device=device).add_(0.5)
        both = (x, degree, centre, scale)
        run: dict[str, Callable[[], object]] = {"ours": partial(hermite_moments, *both)}
        if not small:  # on a CPU ours is the twin
            run["twin"] = in_torch(run["ours"])
        single = (x, degree, centre.float(), scale.float())
        if n * d <= 2**30:  # some ten copies of the points
            run["eager, float32"] = partial(eager, *single)
        if on_gpu and n == 50_000:
            run["torch.compile, float32"] = partial(torch.compile(eager), *single)
        floor = {"bytes": 4.0 * n * d + 8.0 * (degree + 3) * d, "flops": operations(degree) * n * d}
        floor["dtype"] = "float64"
        yield f"{n} x {d}, degree {degree}", run, floor


def operations(degree: int) -> float:
    """In double precision, for each number: two for each fused multiply-add."""
    half = (degree + 1) // 2
    odd, products = (half + 1) // 2, half // 2 + (half > 2)
    return 2.0 + products + odd + 2.0 * (degree - odd)
