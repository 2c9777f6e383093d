"""Exponentials of small matrices against torch.linalg.matrix_exp."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lib.twins import in_torch
from torch import Tensor

from markovscore.kernels import expm

Case = tuple[str, dict[str, Callable[[], object]], dict[str, Any]]

SIZES = (2, 3, 4, 6, 8, 12, 16)
BATCHES = {True: (512, 4_096, 32_768), False: (10_000, 100_000, 1_000_000)}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def matrices(n: int, count: int, dtype: torch.dtype) -> Tensor:
    """Norms around 1, as of a drift's Jacobian over a window."""
    device = _device()
    g = torch.Generator(device).manual_seed(n)
    draws = torch.randn(count, n, n, generator=g, dtype=torch.float64, device=device)
    return (draws / (2 * n**0.5)).to(dtype)


def cases(small: bool) -> Iterator[Case]:
    """``n`` and the batch grow; bytes: each matrix is read and written once."""
    for dtype in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        for n in SIZES:
            for count in BATCHES[small]:
                A = matrices(n, count, dtype)
                # Without squarings; on a CPU fewer, and a closed form for n = 2.
                double = dtype == torch.float64
                products = (5 if double else 4) * (n > 2) if small else 8 if double else 5
                run = {
                    "ours": lambda A=A: expm(A),
                    "torch.linalg.matrix_exp": lambda A=A: torch.linalg.matrix_exp(A),
                }
                if not small:  # on a CPU ours is the twin
                    run["twin"] = in_torch(run["ours"])
                floor = {
                    "bytes": 2.0 * A.numel() * A.element_size(),
                    "flops": 2.0 * products * n * A.numel(),
                    "dtype": name,
                }
                yield f"n = {n}, batch {count}, {name}", run, floor
