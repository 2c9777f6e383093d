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

from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor

from ..core import (
    DiffusionLike,
    Process,
    Time,
    Walk,
    as_diffusion,
    check_generator,
    check_points,
    check_steps,
    check_window,
    full_precision,
    make_grid,
)
from .kernel_paths import simulated


@dataclass(frozen=True)
class Trajectory:
    """A simulated path: ``times`` ``(N + 1, 1 or B)`` in float64, ``states`` ``(N + 1, B, d)``."""

    times: Tensor
    states: Tensor


@overload
def simulate(
    diffusion: DiffusionLike, x0: Tensor, t: Time, steps: int,
    generator: torch.Generator | None = ..., *, s: Time = ..., keep: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip
@overload
def simulate(
    diffusion: DiffusionLike, x0: Tensor, t: Time, steps: int,
    generator: torch.Generator | None = ..., *, s: Time = ..., keep: Literal[True],
) -> Trajectory: ...  # fmt: skip
@torch.no_grad()
@full_precision
def simulate(
    diffusion: DiffusionLike,
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
    process = as_diffusion(diffusion)
    y = check_points(x0, process.dim, "x0")
    check_generator(generator, y.device)
    s, t = check_window(process.horizon, s, t, len(y), empty=True)
    steps = check_steps(steps)
    if not keep:
        return _end(process, y, s, t, steps, generator)
    walk = Walk(process, y, make_grid(process, s, t, steps), generator, project=process.project)
    states = [step.y for step in walk]
    return Trajectory(walk.grid.times, torch.stack([*states, walk.y]))


# Of what is checked


def _end(
    process: Process, y: Tensor, s: Tensor, t: Tensor, steps: int, generator: torch.Generator | None
) -> Tensor:
    """The end of :func:`simulate`, for float64 ends ``(1,)`` or ``(B,)`` on the CPU."""
    if torch.equal(s, t):  # the start of a window that reaches back to 0
        return y
    whole = simulated(process, y, s, t, steps, generator)
    if whole is not None:
        return whole
    grid = make_grid(process, s, t, steps)
    return Walk(process, y, grid, generator, project=process.project).end()


propagate = torch.no_grad()(full_precision(_end))


def draw_state(
    process: Process, x0: Tensor, t: Tensor, steps: int, generator: torch.Generator | None
) -> Tensor:
    """``Y_t`` given ``Y_0 = x0``, ``(B, d)``: exact where the process can, else simulated; times
    ``(B,)`` up to the horizon."""
    if process.sample_transition is not None:
        return process.sample_transition(x0, t, generator)
    end = t.double().cpu().clamp(max=float(process.horizon))
    return propagate(process, x0, torch.zeros_like(end), end, steps, generator)
