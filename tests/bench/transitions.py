"""Local transitions against two matrix exponentials; simulation and regression targets."""

from typing import Any

import torch
from kernels.local_transition import textbook
from lib.timing import median, paired, ratio, report

import markovscore as ms
from markovscore.core import window_moments

BATCH = 512


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


def transitions() -> dict[str, float]:
    """The moments alone, and the whole call with its checks, drift and Jacobian; h = 0.1."""
    rows, h = {}, 0.1
    for d in (2, 3, 4, 6, 8):
        process, y = Random(d), torch.randn(BATCH, d, dtype=torch.float64)
        J, f = process.drift_jacobian(y, 0.0), process.drift(y, 0.0)
        Q, windows = process.dispersion(0.0) ** 2, torch.full((BATCH,), h, dtype=torch.float64)
        candidates = {
            "textbook": textbook(J, f, h),
            "moments": lambda J=J, f=f, Q=Q, w=windows: window_moments(J, Q, f, None, w),
            "call": lambda p=process, y=y: ms.local_transition(p, y, 0.0, h),
        }
        seconds = paired(candidates, rounds=40)
        rows[f"d = {d}: two matrix_exp / moments"] = ratio(seconds, "textbook", "moments")
        rows[f"d = {d}: two matrix_exp / whole call"] = ratio(seconds, "textbook", "call")
    return rows


def targets(process: Any, weight: str | None) -> dict[str, float]:
    """Milliseconds of one batch: 20 Euler steps, local-DSM's target, path-shift's in 20 steps."""
    y, g = torch.randn(BATCH, 2), torch.Generator().manual_seed(0)
    t = 0.2 + 0.8 * torch.rand(BATCH)
    window, shift = (y, t - 0.1, t), {"generator": g, "weight": weight}
    candidates = {
        "simulate": lambda: ms.simulate(process, y, t, 20, g),
        "local_target": lambda: ms.local_target(process, *window, generator=g),
        "path_shift_target": lambda: ms.path_shift_target(process, *window, generator=g),
    }
    chosen = f"path_shift_target, weight={weight}"
    candidates[chosen] = lambda: ms.path_shift_target(process, *window, **shift)
    seconds = paired(candidates, rounds=40)
    return {f"milliseconds: {name}": 1e3 * median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    means = [[2.0, 2.0], [-2.0, 2.0], [2.0, -2.0], [-2.0, -2.0]]
    langevin = ms.Langevin(ms.GaussianMixture(means, 0.8))
    rows = {"local transition": transitions()}
    rows["targets, mixture prior"] = targets(langevin, "adaptive")
    rows["targets, active swimmer"] = targets(ms.ActiveSwimmer(), None)
    report(rows)
