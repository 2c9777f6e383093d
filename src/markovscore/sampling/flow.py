r"""Samples and densities from a score: reverse SDE, probability-flow ODE, log-likelihood.

A score is any callable ``score(x, t) -> (B, d)``; it gets ``t`` as a 0-dim tensor like ``x``. Where
it also has ``score_and_divergence(x, t)`` or ``divergence(x, t)`` these are used; else the exact
trace is taken by ``torch.func``. For the
forward process ``dY = f dt + G dW`` with marginals ``rho_t`` (Song et al., 2021; Anderson, 1982)

.. math::
    \frac{dx}{dt} = v(x,t) = f - \tfrac12 G G^\top s, \qquad
    \frac{d \log \rho_t(x_t)}{dt} = -\operatorname{div} v(x_t, t), \qquad
    dx = [f - G G^\top s]\, dt + G\, d\bar W \ \text{(backwards)}.

The time grid is ``times`` where given; else the score's own ``times`` if it has them; else
``steps`` log-spaced steps from 1e-3 to the diffusion's horizon. With ``steps`` given, the grid is
log-spaced over the score's fitted range, which is that of its ``times`` or its ``time_range``
``(first, last)``; of the latter it starts at 1e-3 where it reaches back to 0.
From 0 on, steps are equal in ``log(1 + tau(t) / tau(t_*))``, with ``tau`` the process's clock and
``t_*`` the score's ``finest_time``: there the noise is as wide as the data's smallest scale. A
score's own ``times`` that are coarser than 0.05 of it (0.02 for the SDE) are refined. So every grid
converges at its method's order, and a :class:`~markovscore.SpectralWarning` says where the first
time or the fitted levels miss that scale. Densities and samples are of the first time ``t_0``:
for ``t_0 > 0`` they are those of ``rho_{t_0}``, the data smoothed by the process up to ``t_0`` (our
choice: the map from 0 to ``t_0`` is taken as the identity). The last time plays the horizon: there
the law is taken to be ``diffusion.prior``. No gradients are kept.

A fitted score is finite wherever the state is. One that is not, of the user's, stops the call with
the time and the rows, or makes these rows NaN (``failed="nan"``): for them no value would be right,
and none is made up.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..core import (
    DiffusionLike,
    LinearMap,
    Process,
    Scalar,
    Score,
    ScoreModel,
    Time,
    as_diffusion,
    as_score,
    check_field,
    check_generator,
    check_integer,
    check_points,
    check_steps,
    check_time,
    check_times,
    drift_at,
    drift_divergence,
    explain_memory,
    field_and_divergence,
    lasting,
    name_of,
    noise_at,
    noise_like,
    original,
    score_and_divergence,
    score_values,
)
from ..diffusions import LONGEST_STEP, graded_times, log_clock, refined_times
from ..eigenbasis import warn
from .charts import draws_in_chart
from .solvers import Guard, solver, warn_of_failures

T_MIN = 1e-3
DEFAULT_STEPS = 200
_LONGEST_SDE_STEP = 0.02  # a first-order method: standard deviations of a Gaussian are 1% too large
_WIDEST_GAP = 1.0  # between fitted levels, on the scale of log_clock
_FEWER_POINTS = "ask for a smaller n, several times with the same generator"


@draws_in_chart
@explain_memory(_FEWER_POINTS)
@torch.no_grad()
def sample_ode(
    score: Score,
    diffusion: DiffusionLike,
    n: int,
    *,
    times: Tensor | None = None,
    steps: int | None = None,
    method: str = "heun",
    generator: torch.Generator | None = None,
    x_T: Tensor | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    failed: str = "raise",
    progress: bool | None = None,
) -> Tensor:
    """Draw ``n`` points by the probability-flow ODE from the prior down to the first time.

    Args:
        score: callable ``(x, t) -> (B, d)``.
        diffusion: has ``drift``, ``dispersion``, ``dim``, and ``horizon``, ``prior`` where needed.
        n: number of points.
        times: increasing grid, two or more; see the module's text for the default.
        steps: number of log-spaced steps where ``times`` is None; default 200.
        method: "heun" (second order, two evaluations a step) or "adaptive" (Dormand-Prince 8(5,3)
            of ``scipy.integrate.solve_ivp`` between the first and the last time).
        generator: source of the prior's draws; also sets the device.
        x_T: starting points ``(n, d)`` in place of draws of the prior.
        rtol, atol: tolerances of the adaptive method.
        failed: what becomes of a row whose state stops being finite: ``"raise"``, or ``"nan"`` for
            NaN in its place, a :class:`SpectralWarning` that names it, and all others.
        progress: a bar after two seconds: True, False, or None, only where stderr is a terminal.

    Returns:
        ``(n, d)``, dtype and device of ``x_T``; without it, of the score's parameters (a network)
        or of the data it was fitted to (a score in closed form), else torch's default.

    Raises:
        ValueError: an unknown method, fewer than one step or point, times outside the score's
            range, no prior and no ``x_T``, or a state that stops being finite.
        torch.OutOfMemoryError: memory ran out; the score is evaluated on blocks of rows, so what
            grows with ``n`` is a few copies of the points.
    """
    solve = solver(method, rtol, atol)
    model, process = as_score(score), as_diffusion(diffusion)
    times = time_grid(model, process, times, steps)
    guard = Guard(process.project, "sample_ode", failed, progress)
    x = _start(model, process, n, generator, x_T)
    field = unchecked(model, x)

    def rates(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        return _flow(field, process, x, t), x.new_zeros(())

    x = solve(rates, x, times.flip(0).tolist(), guard)[0]
    warn_of_failures(guard.failed, len(x))
    return guard.marked(x)


@draws_in_chart
@explain_memory(_FEWER_POINTS)
@torch.no_grad()
def sample_sde(
    score: Score,
    diffusion: DiffusionLike,
    n: int,
    *,
    times: Tensor | None = None,
    steps: int | None = None,
    generator: torch.Generator | None = None,
    x_T: Tensor | None = None,
    failed: str = "raise",
    progress: bool | None = None,
) -> Tensor:
    """Draw ``n`` points by the reverse SDE, Euler-Maruyama on the time grid, first order in law.

    Arguments, result and errors as in :func:`sample_ode`; one evaluation of the score a step,
    at its later end. Noise is added on the last step too: the law is that of the first time.
    """
    model, process = as_score(score), as_diffusion(diffusion)
    grid = time_grid(model, process, times, steps, _LONGEST_SDE_STEP).flip(0).tolist()
    guard = Guard(process.project, "sample_sde", failed, progress)
    x = _start(model, process, n, generator, x_T)
    field = unchecked(model, x)
    for t, t_next in guard.steps(list(pairwise(grid))):
        h = t - t_next
        drift, G, pull = _forces(field, process, x, t)
        z = noise_like(G, x, generator)
        x = guard.moved(x - h * (drift - pull) + math.sqrt(h) * (G @ z), x, t_next)
    warn_of_failures(guard.failed, len(x))
    return guard.marked(x)


# The flow


def unchecked(score: ScoreModel, x: Tensor) -> ScoreModel:
    """The score for a flow from ``x``: the solver looks at every state, so the score need not."""
    return score if score.unchecked is None else as_score(score.unchecked(x))


def _forces(
    score: ScoreModel, process: Process, x: Tensor, t: Time
) -> tuple[Tensor, LinearMap, Tensor]:
    """Drift ``(B, d)``, ``G(t)`` and ``G G^T s`` ``(B, d)``."""
    t = check_time(t, len(x), like=x)
    G = noise_at(process, x, t)
    return drift_at(process, x, t), G, G @ (G.T @ score_values(score, x, t))


def _flow(score: ScoreModel, process: Process, x: Tensor, t: Time) -> Tensor:
    """``f - 1/2 G G^T s``, shape ``(B, d)``."""
    drift, _, pull = _forces(score, process, x, t)
    return drift - 0.5 * pull


def flow_and_divergence(
    score: ScoreModel, process: Process, x: Tensor, t: Time, signs: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The flow ``(B, d)`` and its divergence ``(B,)``, exact or by the probes ``signs``."""
    t = check_time(t, len(x), like=x)
    G = noise_at(process, x, t)
    if not isinstance(G, Scalar):
        # tr(G G^T Ds) is not a multiple of div s, so the flow itself is differentiated.
        return field_and_divergence(lambda x, t: _flow(score, process, x, t), x, t, signs)
    s, s_divergence = score_and_divergence(score, x, t, signs)
    check_field(s, x, "score")
    if process.drift_divergence is not None:
        f, f_divergence = drift_at(process, x, t), drift_divergence(process, x, t)
    else:
        f, f_divergence = field_and_divergence(lambda x, t: drift_at(process, x, t), x, t, signs)
    rate = 0.5 * G.value.square()
    return f - rate * s, f_divergence - rate * s_divergence


# Entry checks


def check_trace(trace: str) -> None:
    """Raise ``ValueError`` for a name other than "exact" and "hutchinson"."""
    if trace not in ("exact", "hutchinson"):
        raise ValueError(f"trace: expected 'exact' or 'hutchinson', found {trace!r}")


@lasting
def time_grid(
    score: Any, process: Process, times: Any, steps: int | None, longest: float = LONGEST_STEP
) -> Tensor:
    """The increasing time grid that the arguments ask for, 1-D float64."""
    own_grid = score.times
    fitted = score.time_range if own_grid is None else own_grid
    if fitted is not None:
        fitted = check_times(fitted, "score.times").cpu()
    steps = None if steps is None else check_steps(steps)
    finest = score.finest_time
    if times is not None:
        grid = check_times(times).cpu()
    elif own_grid is not None and fitted is not None and steps is None:
        grid = fitted if finest is None else refined_times(process, fitted, finest, longest)
    else:
        if own_grid is None and fitted is not None:
            # A base in closed form may reach back to 0, where the network beside it does not.
            fitted = torch.where(fitted == 0, T_MIN, fitted)
        count = DEFAULT_STEPS if steps is None else steps
        grid = _steps(fitted, process, count, finest)
    if len(grid) < 2:
        raise ValueError(f"times: expected two or more, found {len(grid)}: the grid needs a step")
    if finest is not None:
        first = 0.0 if times is not None else float(grid[0])  # who gives times knows the first
        levels = None
        if own_grid is not None and fitted is not None and float(fitted[0]) == 0:
            used = int(torch.searchsorted(fitted, grid[0], right=True)) - 1
            levels = fitted[used:]
        warn_if_coarse(process, finest, first, levels)
    return grid if fitted is None else _within(grid, float(fitted[0]), float(fitted[-1]))


def _steps(fitted: Tensor | None, process: Process, count: int, finest: float | None) -> Tensor:
    """``count`` steps over the fitted range: log-spaced, or from 0 on graded by ``finest``."""
    if fitted is None:
        low, high = T_MIN, float(process.horizon)
    else:
        positive = fitted[fitted > 0]
        if len(positive) == 0:
            raise ValueError(
                "score.times: expected a positive time, found none: fit the score there"
            )
        low, high = float(positive[0]), float(positive[-1])
        if float(fitted[0]) == 0:
            return graded_times(process, high, count, finest or min(low, T_MIN))
    low = low if low < high else high * T_MIN
    grid = torch.logspace(math.log10(low), math.log10(high), count + 1, dtype=torch.float64)
    grid[0], grid[-1] = low, high  # without the rounding of the logarithms
    return grid


def warn_if_coarse(
    process: Process, finest: float, first: float, levels: Tensor | None = None
) -> None:
    """Say where a first time, or the fitted levels that are used, miss the smallest scale."""
    found = ""
    if first > finest:
        found = f"the first time {first:g}, whose noise is wider: the law is smoothed by it"
    elif levels is not None and len(levels) > 1:
        gaps = log_clock(process, levels, finest).diff()
        at = int(gaps.argmax())
        if float(gaps[at]) > _WIDEST_GAP:
            found = (
                f"none fitted between {float(levels[at]):g} and {float(levels[at + 1]):g}, where "
                "coefficients are interpolated"
            )
    if found:
        warn(
            f"times: expected some as small as that of the data's smallest scale, {finest:.2g}, "
            f"found {found}; fit with times=None or finer ones, or scale the data"
        )


def _within(grid: Tensor, low: float, high: float) -> Tensor:
    """``grid`` inside the fitted range; ends that miss it by float32's rounding are moved there."""
    slack = 1e-6 * high
    if float(grid[0]) < low - slack or float(grid[-1]) > high + slack:
        raise ValueError(
            f"times: expected within the score's fitted range [{low:g}, {high:g}], found "
            f"[{float(grid[0]):g}, {float(grid[-1]):g}]: shorten them or fit the score there"
        )
    return grid.clamp(low, high)


_ASKED = {
    "log_prob": "log_prob(x) -> (B,)",
    "sample": "sample(n, generator=, dtype=, device=) -> (n, d)",
}


def prior_for(process: Process, method: str, why: str) -> Any:
    """The process's prior, which has this ``method``.

    Raises:
        ValueError: there is none.
        TypeError: it has no such method.
    """
    if process.prior is None:
        raise ValueError(
            f"expected {name_of(process)}.prior, found none ({why}): "
            "set diffusion.prior to the law at the last time, for instance markovscore.Gaussian(d)"
        )
    if not callable(getattr(process.prior, method, None)):
        raise TypeError(
            f"prior: expected {_ASKED[method]}, found {type(process.prior).__name__} without it: "
            "define it, or pass a law such as markovscore.Gaussian"
        )
    return process.prior


def _start(
    score: ScoreModel,
    process: Process,
    n: int,
    generator: torch.Generator | None,
    x_T: Tensor | None,
) -> Tensor:
    """The points at the last time: ``x_T`` as given, else draws of the prior."""
    n = check_integer(n, "n")
    check_generator(generator)
    if x_T is not None:
        x_T = check_points(x_T, process.dim, "x_T")
        if x_T.shape[0] != n:
            raise ValueError(f"x_T: expected n = {n} rows, found {x_T.shape[0]}: pass n=len(x_T)")
        return x_T
    dtype, device = _placement(score)
    device = generator.device if generator is not None else device
    prior = prior_for(process, "sample", "sampling starts from its draws, unless x_T is passed")
    return prior.sample(n, generator=generator, dtype=dtype, device=device)


def _placement(model: ScoreModel) -> tuple[torch.dtype | None, torch.device | None]:
    """Dtype and device of a network's first parameter or what the score says."""
    score = original(model)
    first = next(score.parameters(), None) if isinstance(score, torch.nn.Module) else None
    return (model.dtype, model.device) if first is None else (first.dtype, first.device)


def check_inside(process: Process, x: Tensor) -> None:
    """Raise ``ValueError`` naming the first row of ``x`` outside the state space."""
    outside = (~process.contains(x)).nonzero()
    if len(outside):
        row = int(outside[0])
        raise ValueError(
            f"x: expected points in the state space of {name_of(process)}, found row {row} "
            f"= {x[row].tolist()} outside: scale the data, or pass diffusion.project(x)"
        )
