r"""Stein's identities: whether a target is one, asked of the numbers themselves.

A target for the score of the law of ``Y`` has ``E[target | Y] = grad log rho(Y)``, so for every
smooth ``psi`` that grows slowly

.. math:: E[\psi(Y)\, \text{target}_j] + E[\partial_j \psi(Y)] = 0 .

(Stein 1981, Annals of Statistics 9.) Nothing of the law has to be known; on a torus ``psi`` is
periodic. Each identity gives a z-score, its mean over independent paths in standard errors.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import Process

Field = Callable[[Tensor], Tensor]

# psi and its derivative, in units of the standard deviation from the mean, or of the angle.
_FUNCTIONS: dict[str, tuple[Field, Field, bool]] = {
    "1": (torch.ones_like, torch.zeros_like, True),
    "sin y": (torch.sin, torch.cos, True),
    "cos y": (torch.cos, lambda u: -u.sin(), True),
    "sin 2y": (lambda u: torch.sin(2 * u), lambda u: 2 * torch.cos(2 * u), True),
    "y": (lambda u: u, torch.ones_like, False),
    "tanh 2y": (lambda u: torch.tanh(2 * u), lambda u: 2 / torch.cosh(2 * u).square(), False),
}
_AXES = 6  # coordinates that are looked at, in all pairs
_FALSE_ALARMS = 1e-4  # for all identities together


@dataclass(frozen=True)
class SteinCheck:
    """What :func:`stein_check` found; ``print`` it.

    ``z``: ``(F, a, a)`` float64, the z-score of ``E[psi(Y_i) target_j] + E[d_j psi(Y_i)]`` for each
    of ``F`` functions ``psi`` and the coordinates ``i`` and ``j`` of ``axes``.
    ``functions``: their names; ``axes``: the coordinates; ``paths``: how many were averaged.
    """

    z: Tensor
    functions: tuple[str, ...]
    axes: tuple[int, ...]
    paths: int

    @property
    def largest(self) -> float:
        """The largest absolute z-score."""
        return float(self.z.abs().max())

    @property
    def bound(self) -> float:
        """What a right target's largest z-score exceeds once in 10,000 checks."""
        share = _FALSE_ALARMS / (2 * self.z.numel())
        return float(-torch.special.ndtri(torch.tensor(share, dtype=torch.float64)))

    @property
    def passed(self) -> bool:
        """``largest <= bound``."""
        return self.largest <= self.bound

    def __str__(self) -> str:
        place = int(self.z.abs().argmax())
        f, i, j = (int(v) for v in torch.unravel_index(torch.tensor(place), self.z.shape))
        head = (
            f"{self.z.numel()} Stein identities on {self.paths} paths: the largest |z| is "
            f"{self.largest:.1f}, for psi = {self.functions[f]} of coordinate {self.axes[i]} "
            f"against target {self.axes[j]}. "
        )
        if self.passed:
            return head + (
                f"Up to {self.bound:.1f} is chance: no sign that the target's mean is not the "
                f"score. An error of {self.bound / math.sqrt(self.paths):.2g} of the target's "
                "standard deviation would show."
            )
        return head + (
            f"More than {self.bound:.1f} is not chance: the target's mean is not the score of the "
            "law that was simulated. Look for a drift whose derivative automatic differentiation "
            "does not see (sign, round, no_grad, .detach()), a wrong drift_jacobian, drift_and_vjp "
            "or shift_target, or walls written as project."
        )


def stein_scores(process: Process, y: Tensor, target: Tensor) -> SteinCheck:
    """The z-scores for independent rows ``y`` and ``target``, ``(n, d)`` each."""
    n, d = y.shape
    axes = tuple(sorted({round(i * (d - 1) / max(_AXES - 1, 1)) for i in range(_AXES)}))
    length = _periods(process, y)[list(axes)].double()
    y, target = y[:, axes].double(), target[:, axes].double()
    free, around = torch.isfinite(length), torch.where(torch.isfinite(length), length, 1.0)
    spread = y.std(0)
    scale = torch.where(free, around / math.tau, torch.where(spread > 0, spread, 1.0))
    u = (y - torch.where(free, 0.0, y.mean(0))) / scale
    z = []
    for psi, slope, periodic in _FUNCTIONS.values():
        values = psi(u)[:, :, None] * target[:, None, :]
        values.diagonal(dim1=1, dim2=2).add_(slope(u) / scale)
        error = values.std(0) / math.sqrt(n)
        score = torch.where(error > 0, values.mean(0) / error, 0.0)
        if not periodic:
            score = torch.where(free[:, None], 0.0, score)
        z.append(score)
    return SteinCheck(torch.stack(z), tuple(_FUNCTIONS), axes, n)


def _periods(process: Process, y: Tensor) -> Tensor:
    """The period of each coordinate, ``(d,)``; infinite where ``project`` is no translation."""
    endless = torch.full_like(y[0], math.inf)
    spread = (y - y.mean(0)).square().mean().sqrt() + 1e-6
    p = torch.cat([y[:200] + push * spread for push in (-32, -16, -8, -4, 4, 8, 16, 32)])
    moved = (process.project(p) - p).abs()
    moved = torch.where(moved > 1e-5 * (1 + p.abs()), moved, math.inf).amin(0)
    # Only what is undone everywhere is a period: a wall is none.
    same = (process.project(y + torch.where(torch.isfinite(moved), moved, 0.0)) - y).abs()
    whole = (same < 1e-3 * spread).double().mean(0) > 0.5
    return torch.where(whole, moved, endless)
