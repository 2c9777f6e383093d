"""Solvers for ``dx/dt, dl/dt = rates(x, t)``: a path ``(B, d)`` and an integral ``(B,)``.

They run along ``times`` in either direction and return the last ``x`` and the increment of ``l``.
A :class:`Guard` brings points back into the state space, by which ``l`` is not affected, and looks
at every state.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import scipy
import torch
from torch import Tensor

from ..core import bar, check_finite, check_number, check_progress
from ..eigenbasis import warn

Rates = Callable[[Tensor, float], tuple[Tensor, Tensor]]
Projection = Callable[[Tensor], Tensor]
T = TypeVar("T")
Solve = Callable[[Rates, Tensor, list[float], "Guard"], tuple[Tensor, Tensor]]
_NAMED = 3  # rows in a message


class Guard:
    """What a solver does beside its steps.

    A row that stops being finite raises; with ``failed="nan"`` it is held where it last was and
    remembered, so that the other rows go on.

    Attributes:
        failed: the time at which a row stopped being finite, by the row's number.
    """

    def __init__(
        self, project: Projection, what: str, failed: str = "raise", progress: bool | None = False
    ) -> None:
        if failed not in ("raise", "nan"):
            raise ValueError(f"failed: expected 'raise' or 'nan', found {failed!r}")
        check_progress(progress)
        self._project, self._what, self._progress = project, what, progress
        self.keeps, self.failed = failed == "nan", dict[int, float]()

    def steps(self, steps: Sequence[T]) -> Iterable[T]:
        """The steps one by one, with a bar."""
        return bar(steps, self._what, self._progress)

    def finite(self, x: Tensor, before: Tensor, t: float) -> Tensor:
        """The state ``x`` ``(B, d)`` at ``t``, with rows that are not finite as ``before``.

        Raises:
            ValueError: a row is not finite, unless such rows are kept.
        """
        if math.isfinite(float(x.sum())):  # one pass without temporaries; it may overflow
            return x
        if not self.keeps:
            check_state(x, t)
            return x
        bad = ~torch.isfinite(x).all(1)
        for row in bad.nonzero()[:, 0].tolist():
            self.failed.setdefault(row, t)
        return torch.where(bad[:, None], before, x)

    def moved(self, x: Tensor, before: Tensor, t: float) -> Tensor:
        """The state ``x`` at the end ``t`` of a step, in the state space and finite."""
        return self.finite(self._project(x), before, t)

    def numbers(self, value: Tensor, t: float) -> Tensor:
        """The log-densities ``value`` ``(B,)`` after a flow up to ``t``, NaN in rows that failed.

        Raises:
            ValueError: others are NaN (of a prior or a divergence that is), unless they are kept.
        """
        value = self.marked(value)
        if bool((silent := value.isnan()).any()):
            rows = silent.nonzero()[:, 0].tolist()
            if not self.keeps:
                raise ValueError(
                    f"log-density: expected numbers, found NaN in {len(rows)} of {len(value)} "
                    f"rows, the first is row {rows[0]}: the prior's log_prob or the divergence of "
                    "the score or of the drift is NaN there"
                )
            self.failed |= {row: t for row in rows if row not in self.failed}
        return value

    def marked(self, x: Tensor) -> Tensor:
        """``x`` ``(B, ...)`` with NaN in the rows that failed."""
        if not self.failed:
            return x
        x = x.clone()
        x[list(self.failed)] = math.nan
        return x


def warn_of_failures(failed: dict[int, float], count: int) -> None:
    """Name the rows of ``count`` that stopped being finite, and when."""
    if failed:
        named = [f"row {row} at t = {failed[row]:g}" for row in sorted(failed)[:_NAMED]]
        warn(
            f"expected states that stay finite, found {len(failed)} of {count} rows that do not, "
            f"the first are {', '.join(named)}: their results are NaN; {_STATE_FIX}"
        )


def solver(method: str, rtol: float, atol: float) -> Solve:
    """The solver named "heun" or "adaptive"."""
    adaptive = Adaptive(rtol, atol)
    if method == "heun":
        return heun
    if method != "adaptive":
        raise ValueError(f'method: expected "heun" or "adaptive", found {method!r}')
    return adaptive


def heun(rates: Rates, x: Tensor, times: list[float], guard: Guard) -> tuple[Tensor, Tensor]:
    """Heun's second-order method on the grid ``times``: two evaluations a step.

    The trial point is not projected: there the score continues smoothly across a wall, and the
    corrected point, which is projected, stays second order.
    """
    total = x.new_zeros(x.shape[0])
    for t, t_next in guard.steps(list(pairwise(times))):
        h = t_next - t
        dx, dl = rates(x, t)
        trial = guard.finite(x + h * dx, x, t_next)
        dx_next, dl_next = rates(trial, t_next)
        x = guard.moved(x + 0.5 * h * (dx + dx_next), x, t_next)
        total = total + 0.5 * h * (dl + dl_next)
    return x, total


def runge_kutta(rates: Rates, x: Tensor, times: list[float], guard: Guard) -> tuple[Tensor, Tensor]:
    """Runge's and Kutta's fourth-order method, a step over each two of the grid's.

    The grid has an even number of steps. Within a pair of them time is a quadratic function of
    ``u`` in ``[0, 1]`` with the grid's three times at 0, 1/2 and 1, and the method is that for
    ``dx/du``: so rates are only taken at the grid's times, as often as by Heun's method, and a
    score that is interpolated between these times is as good as one that is not.
    """
    total = x.new_zeros(x.shape[0])
    triples = list(zip(times[:-2:2], times[1::2], times[2::2], strict=True))
    for first, middle, last in guard.steps(triples):
        # dt/du at the three times
        a, b, c = 4 * middle - 3 * first - last, last - first, 3 * last + first - 4 * middle
        dx_1, dl_1 = rates(x, first)
        trial = guard.finite(x + 0.5 * a * dx_1, x, middle)
        dx_2, dl_2 = rates(trial, middle)
        trial = guard.finite(x + 0.5 * b * dx_2, x, middle)
        dx_3, dl_3 = rates(trial, middle)
        trial = guard.finite(x + b * dx_3, x, last)
        dx_4, dl_4 = rates(trial, last)
        x = guard.moved(x + (a * dx_1 + 2 * b * (dx_2 + dx_3) + c * dx_4) / 6, x, last)
        total = total + (a * dl_1 + 2 * b * (dl_2 + dl_3) + c * dl_4) / 6
    return x, total


class Adaptive:
    """Dormand-Prince 8(5,3) from the first to the last time on the stacked state, in float64."""

    def __init__(self, rtol: float, atol: float) -> None:
        self._rtol = check_number(rtol, "rtol", positive=True)
        self._atol = check_number(atol, "atol", positive=True)

    def __call__(
        self, rates: Rates, x: Tensor, times: list[float], guard: Guard
    ) -> tuple[Tensor, Tensor]:
        n, d = x.shape
        ends = (times[0], times[-1])

        def flat(state: Tensor) -> np.ndarray:
            return state.double().cpu().flatten().numpy()

        def right_hand_side(t: float, state: np.ndarray) -> np.ndarray:
            points = torch.from_numpy(state).reshape(n, d + 1).to(x)
            points = guard.finite(points, start, t)[:, :d]
            dx, dl = rates(points, float(t))
            change = guard.finite(torch.cat([dx, dl.expand(n)[:, None]], 1), still, t)
            change[list(guard.failed)] = 0  # they stand still
            return flat(change)

        still = x.new_zeros(n, d + 1)
        start = torch.cat([x, still[:, :1]], 1)
        result = scipy.integrate.solve_ivp(
            right_hand_side,
            ends,
            flat(start),
            method="DOP853",
            rtol=self._rtol,
            atol=self._atol,
        )
        if not result.success:
            raise ValueError(
                f"adaptive solver: expected to reach t = {ends[1]:g}, stopped at "
                f"t = {result.t[-1]:g} ({result.message}): loosen rtol and atol, start from a "
                'larger first time, or use method="heun"'
            )
        end = torch.from_numpy(result.y[:, -1].copy()).reshape(n, d + 1).to(x)
        return guard.moved(end[:, :d], x, ends[1]), end[:, d]


_STATE_FIX = (
    "the score or the drift is not finite there, or the step is too long: use more steps, a larger "
    "first time, or check score(x, t) at this row"
)


def check_state(x: Tensor, t: float) -> None:
    """Raise ``ValueError`` naming the time and the first row where ``x`` is not finite."""
    check_finite(x, f"state at t = {t:g}", _STATE_FIX)
