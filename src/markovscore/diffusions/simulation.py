r"""Simulation of a forward process by Euler-Maruyama, in the process's own clock.

With ``N`` steps from ``s`` to ``t``, the clock ``tau`` advances by the same ``k`` in each, and

.. math::
    y_{i+1} = y_i + k\, f(y_i, t_i) / \beta(t_i) + \sqrt{k / \beta(t_i)}\; G(t_i)\, z_i,
    \qquad k = \tfrac1N \int_s^t \beta, \quad z_i \sim \mathcal N(0, I).

``t_i`` is the middle of the step in the clock (our choice: the noise is additive, so the scheme
keeps its order, and a drift's dependence on time is integrated to second order). For
``dY = beta g(Y) dt + sqrt(beta) dW`` it is the scheme of the autonomous process, whatever ``beta``.
A process without a clock has ``tau = t``, ``beta = 1``. Weak order one, strong order one
(Kloeden and Platen, *Numerical Solution of Stochastic Differential Equations*, chapter 10).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ._clock import clock_of
from ._fields import Time, drift_at, noise_at
from ._jacobian import drift_jacobian
from ._kernel_paths import simulated
from ._modes import full_precision, remembered
from ._validate import check_generator, check_points, check_process, check_steps, check_window
from .linear_maps import Dense, Noise, Scalar

# Growth in two steps in a row that only an unstable scheme shows, whatever the units.
_EXPLOSION = 1e3


@dataclass(frozen=True)
class Trajectory:
    """A simulated path: ``times`` ``(N + 1, 1 or B)`` in float64, ``states`` ``(N + 1, B, d)``."""

    times: Tensor
    states: Tensor


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


@overload
def simulate(
    diffusion: Any, x0: Tensor, t: Time, steps: int, generator: torch.Generator | None = ...,
    *, s: Time = ..., keep: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def simulate(
    diffusion: Any, x0: Tensor, t: Time, steps: int, generator: torch.Generator | None = ...,
    *, s: Time = ..., keep: Literal[True],
) -> Trajectory: ...  # fmt: skip
@torch.no_grad()
@full_precision
def simulate(
    diffusion: Any,
    x0: Tensor,
    t: Time,
    steps: int,
    generator: torch.Generator | None = None,
    *,
    s: Time = 0.0,
    keep: bool = False,
) -> Tensor | Trajectory:
    """Points at time ``t`` of paths that start from ``x0`` at time ``s``; see the module's text.

    Args:
        diffusion: has ``drift`` and ``dispersion``; ``horizon``, ``clock`` and ``project`` are used
            where it has them.
        x0: ``(B, d)``.
        t, s: numbers, ``(B,)`` or ``(B, 1)``, ``0 <= s <= t <= horizon``: each row has its own end.
        steps: number of steps, the same for every row.
        generator: source of the noise, on the device of ``x0``; one draw a step, so the numbers
            depend on seed, shape and steps alone. On a GPU, a process that has a kernel
            (``markovscore.kernels.paths``) takes one number from it, the seed of all noise.
        keep: return the whole :class:`Trajectory` in place of its last points.

    Returns:
        ``(B, d)``, dtype and device of ``x0``. No gradients are kept.

    Raises:
        TypeError, ValueError: malformed points, ``t`` outside ``[0, horizon]`` or before ``s``,
            ``steps < 1``; a drift of the wrong shape or that is not finite (time and first bad
            row); particles that diverge (time, and the step to try).
    """
    check_process(diffusion)
    y = check_points(x0, getattr(diffusion, "dim", None), "x0")
    check_generator(generator, y.device)
    s, t = check_window(diffusion, s, t, len(y), empty=True)
    steps = check_steps(steps)
    if not keep and torch.equal(s, t):  # the start of a window that reaches back to 0
        return y
    whole = None if keep else simulated(diffusion, y, s, t, steps, generator)
    if whole is not None:
        return whole
    grid = make_grid(diffusion, s, t, steps)
    watch, project = Watch(diffusion, y, grid), getattr(diffusion, "project", None)
    states, last = [y], None
    G: Noise | None = None
    for i, (time, h) in enumerate(grid.steps(y)):
        drift = drift_at(diffusion, y, time)
        if time is not last:
            G, last = noise_at(diffusion, y, time), time
        assert G is not None
        y_next = euler_step(y, drift, G, noise_like(G, y, generator), h)
        watch.check(i, y, drift, y_next)
        y = y_next if project is None else project(y_next)
        if keep:
            states.append(y)
    return Trajectory(grid.times, torch.stack(states)) if keep else y
