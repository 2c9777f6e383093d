"""Seconds of the local transition, against two matrix exponentials, and of simulation and targets.

Run ``python tests/bench/transitions.py``; one thread, batch 512, the best of many paired repeats.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

import markovscore as ms
from markovscore._linear import window_moments

BATCH = 512


def paired(*functions: Callable[[], Any], repeats: int = 40) -> list[float]:
    """Best milliseconds of each, the calls interleaved so that all see the same machine."""
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function()
            best[i] = min(best[i], 1e3 * (time.perf_counter() - start))
    return best


class Random(ms.Diffusion):
    """A drift of a user's, with its Jacobian given: ``A sin y``."""

    horizon = 10.0
    autonomous = True

    def __init__(self, dim: int) -> None:
        g = torch.Generator().manual_seed(dim)
        self.dim, self.A = dim, torch.randn(dim, dim, generator=g, dtype=torch.float64) / dim

    def drift(self, y: torch.Tensor, t: Any) -> torch.Tensor:
        return y.sin() @ self.A.T

    def drift_jacobian(self, y: torch.Tensor, t: Any) -> torch.Tensor:
        return self.A * y.cos()[:, None, :]

    def dispersion(self, t: Any) -> torch.Tensor:
        return torch.tensor(0.7, dtype=torch.float64)


def textbook(J: torch.Tensor, f: torch.Tensor, h: float) -> Callable[[], Any]:
    """The augmented and the Van Loan matrices, built once; two calls of ``matrix_exp``."""
    n, d = f.shape
    A, V = J.new_zeros(n, d + 2, d + 2), J.new_zeros(n, 2 * d, 2 * d)
    A[:, :d, :d], A[:, :d, d + 1], A[:, d, d + 1] = J, f, 1
    V[:, :d, :d], V[:, :d, d:], V[:, d:, d:] = -J, 0.49 * torch.eye(d).double(), J.mT
    return lambda: (torch.linalg.matrix_exp(A * h), torch.linalg.matrix_exp(V * h))


def transitions() -> None:
    """Both the moments alone and the whole call, with its checks, drift and Jacobian."""
    print("local transition, ms: two matrix_exp / moments alone / whole local_transition")
    for d in (2, 3, 4, 6, 8):
        for h in (0.1, 0.5):
            process = Random(d)
            y = torch.randn(BATCH, d, dtype=torch.float64)
            J, f = process.drift_jacobian(y, 0.0), process.drift(y, 0.0)
            Q, windows = process.dispersion(0.0) ** 2, torch.full((BATCH,), h, dtype=torch.float64)
            times = paired(
                textbook(J, f, h),
                lambda J=J, f=f, Q=Q, w=windows: window_moments(J, Q, f, None, w),
                lambda p=process, y=y, h=h: ms.local_transition(p, y, 0.0, h),
            )
            ratios = f"{times[0] / times[1]:.1f}x {times[0] / times[2]:.1f}x"
            print(f"  d={d} h={h}:", *(f"{ms_:.3f}" for ms_ in times), ratios)


def targets() -> None:
    """One batch's targets: 20 Euler steps, local-DSM's transition, path-shift."""
    means = torch.tensor([[2.0, 2.0], [-2.0, 2.0], [2.0, -2.0], [-2.0, -2.0]])
    print("targets, ms: simulate 20 steps / local_target / path_shift_target 20 steps / adaptive")
    for process in (ms.Langevin(ms.GaussianMixture(means, 0.8)), ms.ActiveSwimmer()):
        y, g = torch.randn(BATCH, 2), torch.Generator().manual_seed(0)
        t = 0.2 + 0.8 * torch.rand(BATCH)
        times = paired(
            lambda p=process, y=y, t=t, g=g: ms.simulate(p, y, t, 20, g),
            lambda p=process, y=y, t=t, g=g: ms.local_target(p, y, t - 0.1, t, generator=g),
            lambda p=process, y=y, t=t, g=g: ms.path_shift_target(p, y, t - 0.1, t, generator=g),
            lambda p=process, y=y, t=t, g=g: ms.path_shift_target(
                p,
                y,
                t - 0.1,
                t,
                generator=g,
                weight=None if p.dim == 2 and hasattr(p, "gamma") else "adaptive",
            ),
        )
        print(f"  {type(process).__name__}:", *(f"{ms_:.2f}" for ms_ in times))


if __name__ == "__main__":
    torch.set_num_threads(1)
    transitions()
    targets()
