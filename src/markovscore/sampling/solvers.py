"""Solvers for ``dx/dt, dl/dt = rates(x, t)``: a path ``(B, d)`` and an integral ``(B,)``.

They run along ``times`` in either direction and return the last ``x`` and the increment of ``l``.
``project`` brings points back into the state space; ``l`` is not affected by it.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import scipy
import torch
from torch import Tensor

from ..core import check_finite, check_number

Rates = Callable[[Tensor, float], tuple[Tensor, Tensor]]
Projection = Callable[[Tensor], Tensor]


def solver(method: str, rtol: float, atol: float) -> Callable[..., tuple[Tensor, Tensor]]:
    """The solver named "heun" or "adaptive", as ``solve(rates, x, times, project)``."""
    rtol = check_number(rtol, "rtol", positive=True)
    atol = check_number(atol, "atol", positive=True)
    if method == "heun":
        return heun
    if method != "adaptive":
        raise ValueError(f'method: expected "heun" or "adaptive", found {method!r}')

    def solve(
        rates: Rates, x: Tensor, times: list[float], project: Projection
    ) -> tuple[Tensor, Tensor]:
        return adaptive(rates, x, times, project, rtol, atol)

    return solve


def heun(rates: Rates, x: Tensor, times: list[float], project: Projection) -> tuple[Tensor, Tensor]:
    """Heun's second-order method on the grid ``times``: two evaluations a step.

    The trial point is not projected: there the score continues smoothly across a wall, and the
    corrected point, which is projected, stays second order.
    """
    total = x.new_zeros(x.shape[0])
    for t, t_next in pairwise(times):
        h = t_next - t
        dx, dl = rates(x, t)
        trial = x + h * dx
        check_state(trial, t_next)
        dx_next, dl_next = rates(trial, t_next)
        x = project(x + 0.5 * h * (dx + dx_next))
        total = total + 0.5 * h * (dl + dl_next)
        check_state(x, t_next)
    return x, total


def adaptive(
    rates: Rates, x: Tensor, times: list[float], project: Projection, rtol: float, atol: float
) -> tuple[Tensor, Tensor]:
    """Dormand-Prince 8(5,3) from the first to the last time on the stacked state, in float64."""
    n, d = x.shape

    def right_hand_side(t: float, state: np.ndarray) -> np.ndarray:
        points = torch.from_numpy(state).reshape(n, d + 1).to(x)
        check_state(points, t)
        dx, dl = rates(points[:, :d], float(t))
        return torch.cat([dx, dl.expand(n)[:, None]], dim=1).double().cpu().flatten().numpy()

    start = torch.cat([x, x.new_zeros(n, 1)], dim=1).double().cpu().flatten().numpy()
    result = scipy.integrate.solve_ivp(
        right_hand_side, (times[0], times[-1]), start, method="DOP853", rtol=rtol, atol=atol
    )
    if not result.success:
        raise ValueError(
            f"adaptive solver: expected to reach t = {times[-1]:g}, stopped at "
            f"t = {result.t[-1]:g} ({result.message}): loosen rtol and atol, start from a larger "
            'first time, or use method="heun"'
        )
    end = torch.from_numpy(result.y[:, -1].copy()).reshape(n, d + 1).to(x)
    check_state(end, times[-1])
    return project(end[:, :d]), end[:, d]


def check_state(x: Tensor, t: float) -> None:
    """Raise ``ValueError`` naming the time and the first row where ``x`` is not finite."""
    check_finite(
        x,
        f"state at t = {t:g}",
        "the score or the drift is not finite there, or the step is too long: use more steps, a "
        "larger first time, or check score(x, t) at this row",
    )
