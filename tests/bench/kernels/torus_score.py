"""Score and divergence on the torus: the kernel, its twin, stored features, separable products."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from lib.twins import in_torch
from torch import Tensor

import markovscore as ms
from markovscore.kernels import torus_score

Case = tuple[str, dict[str, Callable[[], object]], dict[str, Any]]


def cases(small: bool) -> Iterator[Case]:
    """Cost against points, functions, dimension, type, and a time for each point."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    points = [10**3, 10**4, 10**5] if small else [10**3, 10**4, 10**5, 10**6, 10**7]
    for n in points:
        yield _case(device, n, 200, small=small)
    base = points[-1] if small else 10**6
    for count in (50, 100, 400, 600):
        yield _case(device, base, count, small=small)
    for dim in (1, 3):
        yield _case(device, base, 200, dim, small=small)
    yield _case(device, base, 200, dtype=torch.float64, small=small)
    if not small:
        yield _each(device, base, 200)


def _case(
    device: torch.device, n: int, count: int, dim: int = 2, dtype: torch.dtype = torch.float32,
    *, small: bool,
) -> Case:  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    x = ((2 * torch.rand(n, dim, generator=generator) - 1) * math.pi).to(device, dtype)
    basis = ms.TorusBrownian(dim).eigenbasis(count)
    c = torch.randn(count, generator=generator, dtype=torch.float64).to(device)
    waves = basis.indices
    tensors = basis.jet_tensors(c).to(dtype)
    k = waves.to(x)

    def stored(features: Callable[..., Tensor] = _features) -> Tensor:
        return features(x, k, math.sqrt(2) * _weights(score.at(1.0).to(x), k))

    compiled: dict[str, Callable[[], object]] = {}
    if device.type == "cuda":
        torch.compiler.reset()  # a limited number of sizes is compiled, the next ones run eagerly
        compiled["torch.compile"] = partial(stored, torch.compile(_features, dynamic=False))
    levels = torch.linspace(0.5, 1.5, 160, dtype=torch.float64)
    score = ms.SpectralScore(ms.TorusBrownian(dim), basis, levels, c.cpu().expand(160, -1))
    ours = partial(torus_score, x, waves, c)
    separable = partial(basis.contract, tensors, x)
    candidates = {"ours": ours, "twin": in_torch(ours), "separable": separable}
    if small:  # on a CPU the score takes the separable sums
        candidates = {"ours": lambda: score.score_and_divergence(x, 1.0)}
    if n * count <= 2**31:  # features of 8 GB in float32, three of them at a time
        candidates |= {"stored": stored} | compiled
    label = f"N={n} K={count} d={dim} {str(dtype).removeprefix('torch.')}"
    return label, candidates, _cost(x, waves)


def _features(x: Tensor, k: Tensor, weights: Tensor) -> Tensor:
    angle = x @ k.T
    return torch.cat([angle.cos(), angle.sin()], 1) @ weights


def _each(device: torch.device, n: int, count: int) -> Case:
    """A time for each point, of a table of 160."""
    generator = torch.Generator().manual_seed(0)
    x = ((2 * torch.rand(n, 2, generator=generator) - 1) * math.pi).to(device)
    waves = ms.TorusBrownian(2).eigenbasis(count).indices
    table = torch.randn(160, count, generator=generator, dtype=torch.float64).to(device)
    upper = torch.randint(1, 160, (n,), generator=generator).to(device)
    share = torch.rand(n, generator=generator).to(device)
    ours = partial(torus_score, x, waves, table, upper, share)
    candidates = {"ours": ours, "twin": in_torch(ours)}
    cost = _cost(x, waves)
    cost["bytes"] += n * (upper.element_size() + share.element_size())
    return f"N={n} K={count} d=2 float32, a time for each point", candidates, cost


def _weights(c: Tensor, k: Tensor) -> Tensor:
    """Gradient and Laplacian of ``[cos, sin]``: ``(2 M, d + 1)``."""
    a, b = (part[:, None] for part in c.chunk(2))
    squares = -k.square().sum(1, keepdim=True)  # (M, 1)
    return torch.cat([torch.cat([b * k, -a * k]), torch.cat([a * squares, b * squares])], 1)


def _cost(x: Tensor, waves: Tensor) -> dict[str, Any]:
    """Points in, gradient and Laplacian out; two operations for each of the instructions that the
    kernel needs: 18 a pair of mirror images, 22 a row of them."""
    n, dim = x.shape
    outer = waves[:, :-1].abs() if dim == 2 else waves[:, :-1]
    rows = len(torch.unique(outer, dim=0)) if dim > 1 else 1
    pairs = len(torch.unique(torch.cat([outer, waves[:, -1:].abs()], 1), dim=0))
    per_point = (18 if dim > 1 else 11) * pairs + 22 * rows
    dtype = str(x.dtype).removeprefix("torch.")
    moved = n * (2 * dim + 1) * x.element_size()
    return {"bytes": moved, "flops": 2.0 * n * per_point, "dtype": dtype}
