r"""Log-densities by the probability flow, with an error for each point.

Where neither a grid nor a method is asked for, the flow is integrated twice by a fourth-order
method that takes its rates at the times of the default grid (:func:`runge_kutta`): over all of
them, and over every other one. The difference is the error that is reported: fifteen times that of
the finer run where steps are short, and a bound wherever half the step makes half the error or
less. Points whose error is above the tolerance are integrated again with steps half as long, and
again, at most three times, these points alone. What is over is named in a warning.

The error is that of the integration, not of the score. A fit is read at its own levels alone where
they are close enough (0.1 on the scale of ``log_clock``, as by default) and no step was halved:
then it is that of the closed form at all times; else of its linear interpolation between them.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..core import (
    DiffusionLike,
    Process,
    Score,
    ScoreModel,
    as_diffusion,
    as_score,
    check_integer,
    check_number,
    check_points,
    explain_memory,
    random_signs,
)
from ..diffusions import LONGEST_STEP
from ..eigenbasis import warn
from .charts import densities_in_chart
from .flow import check_inside, check_trace, flow_and_divergence, prior_for, time_grid, unchecked
from .solvers import Guard, Solve, runge_kutta, solver, warn_of_failures

TOLERANCE = 1e-3
# Beyond this size of a log-density its error is relative: 1e-5 of it with the default tolerance,
# which also is what float32 can do.
_LARGE = 100.0
_HALVINGS = 3
_LONGEST_STEP = 0.1  # of ``log_clock``: a fourth-order method loses about 1e-5
_NAMED = 3  # points in a warning


@overload
def log_likelihood(
    score: Score, diffusion: DiffusionLike, x: Tensor, *, times: Any = ..., steps: int | None = ...,
    method: str | None = ..., tolerance: float | None = ..., rtol: float = ..., atol: float = ...,
    trace: str = ..., generator: torch.Generator | None = ..., probes: int = ...,
    failed: str = ..., progress: bool | None = ..., return_error: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


@overload
def log_likelihood(
    score: Score, diffusion: DiffusionLike, x: Tensor, *, times: Any = ..., steps: int | None = ...,
    method: str | None = ..., tolerance: float | None = ..., rtol: float = ..., atol: float = ...,
    trace: str = ..., generator: torch.Generator | None = ..., probes: int = ...,
    failed: str = ..., progress: bool | None = ..., return_error: Literal[False] = ...,
) -> Tensor: ...  # fmt: skip


@densities_in_chart
@explain_memory("pass fewer rows of x a call, or fewer probes")
@torch.no_grad()
def log_likelihood(
    score: Score,
    diffusion: DiffusionLike,
    x: Tensor,
    *,
    times: Tensor | None = None,
    steps: int | None = None,
    method: str | None = None,
    tolerance: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    trace: str = "exact",
    generator: torch.Generator | None = None,
    probes: int = 1,
    failed: str = "raise",
    return_error: bool = False,
    progress: bool | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """``log rho(x)``: flow from the first time to the last, ``log prior(x_T) + int div v dt``.

    With ``trace="hutchinson"`` ``div v`` is estimated by ``v^T (Dv) v`` with random signs, one draw
    for each point along its whole flow (Grathwohl et al. 2019, arXiv:1810.01367), so the result is
    a random number whose mean is the exact one, and the flow itself is unchanged. What has a closed
    form (the drift's divergence, a ``SpectralScore``, the base of a ``ResidualScore``) keeps it.

    Args:
        x: points ``(B, d)`` in the state space.
        score, diffusion, times, steps, rtol, atol: as in :func:`sample_ode`.
        method: "runge-kutta", fourth order with steps that are halved until the tolerance is met:
            the default where neither ``times`` nor ``steps`` are given; "heun", second order on
            just the grid that is asked for: the default where it is; "adaptive".
        tolerance: error of each point's log-density that is aimed at by "runge-kutta", in nats, by
            default 1e-3; beyond a log-density of 100 relative to it, 1e-5. With ``times`` or
            ``steps`` it asks for that method, from their grid on.
        trace: ``"exact"``, ``d`` backward passes an evaluation where the score has no divergence of
            its own; ``"hutchinson"``, one for each probe.
        generator: source of the signs, on the device of ``x``.
        probes: draws of signs averaged at each point; the variance falls as one over their number.
        failed: what becomes of a point whose state stops being finite: ``"raise"``, or ``"nan"``
            for a NaN in its place, a :class:`SpectralWarning` that names it, and all others.
        return_error: also return the error of each point: what the log-density differs by from that
            over every other time of the grid (of "adaptive" there is none).
        progress: a bar after two seconds: True, False, or None, only where stderr is a terminal.

    Returns:
        ``(B,)`` natural logarithms, dtype and device of ``x``; the density is that of the first
        time's law. With ``return_error`` a pair of them and of the errors ``(B,)``.

    Raises:
        TypeError, ValueError: bad points, points outside the state space, no prior, an unknown
            trace, ``probes < 1``, a tolerance of a method that has none, an error from a grid of
            one step, a point that fails, and as in :func:`sample_ode`.
        torch.OutOfMemoryError: as in :func:`sample_ode`.

    Warns with :class:`SpectralWarning` where the tolerance is missed, naming the points.
    """
    model, process = as_score(score), as_diffusion(diffusion)
    x = check_points(x, process.dim)
    check_inside(process, x)
    check_trace(trace)
    probes = check_integer(probes, "probes")
    method = _method(method, tolerance, times is None and steps is None)
    tolerance = (
        TOLERANCE if tolerance is None else check_number(tolerance, "tolerance", positive=True)
    )
    solve = runge_kutta if method == "runge-kutta" else solver(method, rtol, atol)
    longest = _LONGEST_STEP if method == "runge-kutta" else LONGEST_STEP
    grid = time_grid(model, process, times, steps, longest)
    prior = prior_for(process, "log_prob", "log_likelihood needs its log_prob")
    signs = random_signs(x, probes, generator) if trace == "hutchinson" else None
    densities = _Densities(model, process, prior, x, signs, failed, progress)
    if method == "runge-kutta":
        value, error = _controlled(densities, grid, tolerance)
    else:
        coarse = _coarser(grid, method) if return_error else None
        value = densities(solve, grid)
        error = value if coarse is None else _gap(value, densities(solve, coarse, failed="nan"))
    warn_of_failures(densities.failed, len(x))
    return (value, error) if return_error else value


def _method(method: str | None, tolerance: float | None, free: bool) -> str:
    """The method that is meant; ``free``: no grid is given."""
    if method is None:
        return "runge-kutta" if free or tolerance is not None else "heun"
    if method not in ("runge-kutta", "heun", "adaptive"):
        raise ValueError(f'method: expected "runge-kutta", "heun" or "adaptive", found {method!r}')
    if tolerance is not None and method != "runge-kutta":
        raise ValueError(
            f'tolerance: expected none with method="{method}", found {tolerance!r}: '
            + ("set rtol and atol" if method == "adaptive" else 'method="runge-kutta" keeps to one')
        )
    return method


@dataclass
class _Densities:
    """Log-densities at the points ``x``, or at some rows of them, by a solver on a grid.

    ``failed``: rows that stopped being finite, and when.
    """

    score: ScoreModel
    process: Process
    prior: Any
    x: Tensor
    signs: Tensor | None
    mode: str
    progress: bool | None
    failed: dict[int, float] = field(default_factory=dict)

    def __call__(
        self, solve: Solve, grid: Tensor, rows: Tensor | None = None, failed: str | None = None
    ) -> Tensor:
        """``(B,)``, NaN for rows that fail; with ``failed`` of its own these are not recorded."""
        x, signs, what = self.x, self.signs, "log_likelihood"
        if rows is not None:
            x, signs = x[rows], None if signs is None else signs[rows]
            what = f"{what}, {len(rows)} rows with {len(grid) - 1} steps"
        model = unchecked(self.score, x)

        def rates(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
            return flow_and_divergence(model, self.process, x, t, signs)

        guard = Guard(self.process.project, what, failed or self.mode, self.progress)
        end, change = solve(rates, x, grid.tolist(), guard)
        value = guard.numbers(self.prior.log_prob(end) + change, float(grid[-1]))
        if failed is None:
            number = range(len(x)) if rows is None else rows.tolist()
            self.failed |= {number[row]: t for row, t in guard.failed.items()}
        return value


def _controlled(densities: _Densities, grid: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Log-densities and their errors, ``(B,)`` each, on ``grid`` and where needed finer ones."""
    grid = _fourfold(grid)
    value = densities(runge_kutta, grid)
    error = _gap(value, densities(runge_kutta, grid[::2], failed="nan"))

    def missed() -> Tensor:
        return (error > tolerance * (value.abs() / _LARGE).clamp(min=1)).nonzero()[:, 0]

    for _ in range(_HALVINGS):
        if len(rows := missed()) == 0:
            break
        middles = 0.5 * (grid[:-1] + grid[1:])
        grid = torch.cat([torch.stack([grid[:-1], middles], 1).flatten(), grid[-1:]])
        finer = densities(runge_kutta, grid, rows)
        error[rows], value[rows] = _gap(finer, value[rows]), finer
    if len(rows := missed()):
        named = [f"row {i} to {float(error[i]):.2g} nats" for i in rows[:_NAMED].tolist()]
        warn(
            f"log-densities: expected errors of at most {tolerance:g} nats, found more for "
            f"{len(rows)} of {len(value)} points with {len(grid) - 1} steps, the first are known: "
            f"{', '.join(named)}: the score is steep on their way, as it is where there are no "
            'data; shrink the moments, take method="adaptive" for these points, or ask for a '
            "larger tolerance or return_error=True"
        )
    return value, error


def _gap(value: Tensor, coarse: Tensor) -> Tensor:
    """What they differ by; infinite where the coarse one alone failed."""
    gap = torch.where(value == coarse, 0, (value - coarse).abs())
    return torch.where(coarse.isnan() & ~value.isnan(), torch.inf, gap)


def _coarser(grid: Tensor, method: str) -> Tensor:
    """Every other time, and both ends."""
    if method == "adaptive" or len(grid) < 3:
        found = "an adaptive method" if method == "adaptive" else "a grid of one step"
        raise ValueError(
            f"return_error: expected a grid of two steps or more, found {found}: the error is the "
            "difference from every other time; leave out times, steps and method"
        )
    return grid[::2] if len(grid) % 2 else torch.cat([grid[:1], grid[1::2]])


def _fourfold(grid: Tensor) -> Tensor:
    """``grid``, its longest steps halved until four divides their number."""
    while (len(grid) - 1) % 4:
        at = int(grid.diff().argmax())
        middle = 0.5 * (grid[at] + grid[at + 1])
        grid = torch.cat([grid[: at + 1], middle[None], grid[at + 1 :]])
    return grid
