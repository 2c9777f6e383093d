"""The Euler walk."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .fields import Time, drift_jacobian
from .linear_maps import Dense, Noise, Scalar
from .modes import remembered
from .types import clock_of

# Growth in two steps in a row that only an unstable scheme shows, whatever the units.
_EXPLOSION = 1e3


@dataclass(frozen=True)
class Grid:
    """``N`` steps of equal clock from ``s`` to ``t``, one column or one for each row of the batch.

    ``times`` ``(N + 1, n)``; ``middle`` ``(N, n)``, where the coefficients are read; ``step``
    ``(N, n)``, the clock's advance over its rate there: the length that drift and noise see.
    ``autonomous``: in the clock, drift and noise do not depend on time.
    """

    times: Tensor
    middle: Tensor
    step: Tensor
    autonomous: bool = False

    def steps(self, y: Tensor) -> list[tuple[Tensor, Time]]:
        """Time and length of every step. If all rows share them: a 0-dim tensor and a number, else
        ``(B, 1)`` both; times with dtype and device of ``y``. For an autonomous process one pair,
        repeated: drift times length is the same at all of them, and what depends on time is
        computed once."""
        count = len(self.middle)
        chosen = slice(count // 2, count // 2 + 1) if self.autonomous else slice(None)
        middle, step = self.middle[chosen], self.step[chosen]
        if middle.shape[1] == 1:
            pairs: Any = zip(middle[:, 0].to(y).unbind(), step[:, 0].tolist(), strict=True)
        else:
            pairs = zip(middle.to(y)[:, :, None], step.to(y)[:, :, None], strict=True)
        return list(pairs) * (count if self.autonomous else 1)


def make_grid(diffusion: Any, s: Tensor, t: Tensor, steps: int) -> Grid:
    """The grid between ``s`` and ``t``, float64 ``(n,)``."""
    clock = clock_of(diffusion)
    start, length = clock.elapsed(s), clock.between(s, t)
    inner = clock.inverse(torch.addcmul(start, _shares(steps), length))
    times = torch.cat([s[None], inner, t[None]])
    middle = times[1::2]
    autonomous = getattr(diffusion, "autonomous", False)
    return Grid(times[::2], middle, length / steps / clock.rate(middle), autonomous)


@remembered
def _shares(steps: int) -> Tensor:
    """Shares of the clock at middles and ends of the steps, without the first and last end."""
    return torch.linspace(0, 1, 2 * steps + 1, dtype=torch.float64)[1:-1, None]


def euler_step(y: Tensor, drift: Tensor, G: Noise, z: Tensor, h: Time) -> Tensor:
    """``y + h f + sqrt(h) G z``; ``h`` a number or ``(B, 1)``."""
    if isinstance(h, Tensor):
        return y + h * drift + G @ (h.sqrt() * z)
    moved = torch.add(y, drift, alpha=h)
    if (
        isinstance(G, Scalar) and G.value.ndim == 0
    ):  # two operations: half the time of a cheap drift
        return moved.add_(z, alpha=math.sqrt(h) * float(G.value))
    if isinstance(G, Dense) and G.value.ndim == 2 and G.value.shape[1] == 1:
        return moved.addcmul_(z, G.value.mT, value=math.sqrt(h))
    return moved.add_(G @ z, alpha=math.sqrt(h))


def noise_like(G: Noise, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal ``(B, m)`` for a noise ``G`` with ``m`` columns."""
    columns = G.columns(y.shape[1])
    return torch.randn(len(y), columns, generator=generator, dtype=y.dtype, device=y.device)


def _peak(y: Tensor) -> float:
    """The largest absolute entry; NaN if there is one."""
    low, high = y.aminmax()
    return max(-float(low), float(high))


class Watch:
    """Stops a simulation that leaves the numbers, and says why.

    ``y`` is followed by its largest entry alone: one reduction a step.
    """

    def __init__(self, diffusion: Any, start: Tensor, grid: Grid) -> None:
        self._diffusion, self._start, self._grid = diffusion, start, grid
        self._peak, self._growing = _peak(start), False

    def check(self, i: int, y: Tensor, drift: Tensor, y_next: Tensor) -> None:
        """Look at the step ``i`` from ``y`` to ``y_next``.

        Raises:
            ValueError: the drift at ``y`` is not finite, the points grow a thousandfold in each of
                two steps, or overflow.
        """
        peak = _peak(y_next)
        growing = peak > _EXPLOSION * self._peak
        if math.isfinite(peak) and not (growing and self._growing):
            self._peak, self._growing = peak, growing
            return
        bad_drift = ~torch.isfinite(drift).all(1)
        row = int(bad_drift.int().argmax())
        tame = float(y[row].abs().max()) < 1e6 * (1 + float(self._start.abs().max()))
        column = row if self._grid.middle.shape[1] > 1 else 0
        time = float(self._grid.middle[i, column])
        if bool(bad_drift.any()) and tame:
            raise ValueError(
                f"drift: expected finite numbers, found {drift[row].tolist()} at time {time:g}, "
                f"the first bad row is {row}, at y = {y[row].tolist()}: check the drift there"
            )
        self._diverged(i, y_next)

    def _diverged(self, i: int, y_next: Tensor) -> None:
        size = torch.nan_to_num(y_next.abs(), nan=math.inf, posinf=math.inf).amax(1)
        row, steps = int(size.argmax()), len(self._grid.step)
        column = row if self._grid.middle.shape[1] > 1 else 0
        time, h = (float(v[i, column]) for v in (self._grid.middle, self._grid.step))
        start = self._start[row : row + 1]
        J = drift_jacobian(self._diffusion, start, start.new_full((1,), time))
        steepest = float(J.abs().max() if J.ndim == 2 else J.abs().sum(2).max())
        trial = min(0.5 * h, 1 / steepest) if 0 < steepest < math.inf else 0.5 * h
        raise ValueError(
            f"the particles diverge at time {time:g} with step {h:g}, the first in row {row} "
            f"(started at {start[0].tolist()}): the step is too long for the drift's slope "
            f"{steepest:.3g} there, try a step of at most {trial:.2g}, "
            f"that is steps >= {math.ceil(steps * h / trial)}"
        )
