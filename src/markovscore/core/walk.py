r"""The one Euler-Maruyama walk: of simulation, of the targets on a window, of the kernels' twins.

.. math:: y_{i+1} = y_i + h_i f(y_i, t_i) + \sqrt{h_i}\; G(t_i)\, z_i, \qquad z_i \sim N(0, I).

:class:`Grid` says where the steps are, :class:`Walk` takes them; who needs more than the points
looks at each :class:`Step` before it is taken, and may give it the drift that was computed there.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .fields import Time, drift_at, jacobian_at, noise_at
from .linear_maps import LinearMap
from .modes import remembered
from .types import Clock, Process

# Growth in two steps in a row that only an unstable scheme shows, whatever the units.
_EXPLOSION = 1e3


@dataclass(frozen=True)
class Grid:
    """``count`` steps of equal clock from ``start`` to ``end``, float64 ``(n,)``: one row of the
    batch for all, or one for each.

    ``autonomous``: in the clock, drift and noise do not depend on time.
    """

    clock: Clock
    start: Tensor
    end: Tensor
    count: int
    autonomous: bool = False

    @cached_property
    def times(self) -> Tensor:
        """Ends of the steps, ``(N + 1, n)``."""
        return torch.cat([self.start[None], self._between(1, 2), self.end[None]])

    @cached_property
    def middle(self) -> Tensor:
        """Times at which the coefficients are read, ``(N, n)``."""
        return self._between(0, 2)

    @cached_property
    def step(self) -> Tensor:
        """The clock's advance over its rate in the middle, ``(N, n)``: the length that drift and
        noise see."""
        return self._lengths(self.middle)

    def place(self, i: int, row: int) -> tuple[float, float]:
        """Time and length of step ``i`` for a row of the batch."""
        column = row if len(self.start) > 1 else 0
        return float(self.middle[i, column]), float(self.step[i, column])

    def steps(self, y: Tensor) -> list[tuple[Tensor, Time]]:
        """Time and length of every step. If all rows share them: a 0-dim tensor and a number, else
        ``(B, 1)`` both; times with dtype and device of ``y``. For an autonomous process one pair,
        repeated: drift times length is the same at all of them, and what depends on time is
        computed once."""
        if self.autonomous:
            middle = self._between(self.count // 2 * 2, 2 * self.count)
            step = self._lengths(middle)
        else:
            middle, step = self.middle, self.step
        if middle.shape[1] == 1:
            pairs: Any = zip(middle[:, 0].to(y).unbind(), step[:, 0].tolist(), strict=True)
        else:
            pairs = zip(middle.to(y)[:, :, None], step.to(y)[:, :, None], strict=True)
        return list(pairs) * (self.count if self.autonomous else 1)

    @cached_property
    def _length(self) -> Tensor:
        return self.clock.between(self.start, self.end)

    def _between(self, first: int, every: int) -> Tensor:
        """Times of the middles and ends in order, without the first and last end: of some."""
        shares = _shares(self.count)[first::every]
        return self.clock.inverse(
            torch.addcmul(self.clock.elapsed(self.start), shares, self._length)
        )

    def _lengths(self, middle: Tensor) -> Tensor:
        return self._length / self.count / self.clock.rate(middle)


def make_grid(process: Process, s: Tensor, t: Tensor, steps: int) -> Grid:
    """The grid of a process between ``s`` and ``t``, float64 ``(n,)``."""
    return Grid(process.clock, s, t, steps, process.autonomous)


@remembered
def _shares(steps: int) -> Tensor:
    """Shares of the clock at middles and ends of the steps, without the first and last end."""
    return torch.linspace(0, 1, 2 * steps + 1, dtype=torch.float64)[1:-1, None]


def euler_step(y: Tensor, drift: Tensor, G: LinearMap, z: Tensor, h: Time) -> Tensor:
    """``y + h f + sqrt(h) G z``; ``h`` a number or ``(B, 1)``."""
    if isinstance(h, Tensor):
        return y + h * drift + G @ (h.sqrt() * z)
    return G.add_to(torch.add(y, drift, alpha=h), z, math.sqrt(h))


def noise_like(G: LinearMap, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal ``(B, m)`` for a noise ``G`` with ``m`` columns."""
    columns = G.columns(y.shape[1])
    return torch.randn(y.shape[0], columns, generator=generator, dtype=y.dtype, device=y.device)


def _peak(y: Tensor) -> float:
    """The largest absolute entry; NaN if there is one."""
    low, high = y.aminmax()
    return max(-float(low), float(high))


class Watch:
    """Stops a simulation that leaves the numbers, and says why.

    ``y`` is followed by its largest entry alone: one reduction a step.
    """

    def __init__(self, process: Process, start: Tensor, grid: Grid) -> None:
        self._process, self._start, self._grid = process, start, grid
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
        if bool(bad_drift.any()) and tame:
            time, _ = self._grid.place(i, row)
            raise ValueError(
                f"drift: expected finite numbers, found {drift[row].tolist()} at time {time:g}, "
                f"the first bad row is {row}, at y = {y[row].tolist()}: check the drift there"
            )
        self._diverged(i, y_next)

    def _diverged(self, i: int, y_next: Tensor) -> None:
        size = torch.nan_to_num(y_next.abs(), nan=math.inf, posinf=math.inf).amax(1)
        row, steps = int(size.argmax()), self._grid.count
        time, h = self._grid.place(i, row)
        start = self._start[row : row + 1]
        J = jacobian_at(self._process, start, start.new_full((1,), time))
        steepest = float(J.row_norm().max())
        trial = min(0.5 * h, 1 / steepest) if 0 < steepest < math.inf else 0.5 * h
        raise ValueError(
            f"the particles diverge at time {time:g} with step {h:g}, the first in row {row} "
            f"(started at {start[0].tolist()}): the step is too long for the drift's slope "
            f"{steepest:.3g} there, try a step of at most {trial:.2g}, "
            f"that is steps >= {math.ceil(steps * h / trial)}"
        )


# Standard normals ``(B, m)`` for step ``i`` and its noise ``G`` at the points ``y``.
Draw = Callable[[int, LinearMap, Tensor], Tensor]


@dataclass(slots=True)
class Step:
    """Step ``i`` from ``y`` ``(B, d)`` at ``time``, of length ``h``, with noise ``G`` and ``z``.

    ``drift`` ``(B, d)`` is computed when the step is taken, unless who looked at it has set it.
    """

    i: int
    time: Tensor
    h: Time
    y: Tensor
    G: LinearMap
    z: Tensor
    drift: Tensor | None = None


class Walk:
    """Iterate over it: each :class:`Step` comes before it is taken; :attr:`y` is where it leads.

    Args:
        process: what moves.
        y: the start ``(B, d)``.
        grid: the steps.
        noise: a generator, of which every step takes one draw, or a :data:`Draw`.
        project: applied to every new point.
        watched: stop with an error where the points leave the numbers (:class:`Watch`).
    """

    def __init__(
        self,
        process: Process,
        y: Tensor,
        grid: Grid,
        noise: torch.Generator | Draw | None,
        *,
        project: Callable[[Tensor], Tensor] | None = None,
        watched: bool = True,
    ) -> None:
        self.process, self.y, self.grid, self._project = process, y, grid, project
        self._draw: Draw = noise if callable(noise) else lambda i, G, y: noise_like(G, y, noise)
        self._watch = Watch(process, y, grid) if watched else None

    def __iter__(self) -> Iterator[Step]:
        G: Any = None
        last = None
        for i, (time, h) in enumerate(self.grid.steps(self.y)):
            if time is not last:  # an autonomous process has one noise for all steps
                G, last = noise_at(self.process, self.y, time), time
            step = Step(i, time, h, self.y, G, self._draw(i, G, self.y))
            yield step
            self._take(step)

    def end(self) -> Tensor:
        """Walk all steps."""
        for _ in self:
            pass
        return self.y

    def _take(self, step: Step) -> None:
        drift = step.drift
        drift = drift_at(self.process, step.y, step.time) if drift is None else drift
        y = euler_step(step.y, drift, step.G, step.z, step.h)
        if self._watch is not None:
            self._watch.check(step.i, step.y, drift, y)
        self.y = y if self._project is None else self._project(y)
