r"""A lower bound of the log-likelihood of each point, without an ODE and for any forward process.

For the law ``p`` that the reverse SDE with the score ``s`` draws from the prior ``pi``,

.. math::
    \log p(x) \ge E[\log \pi(Y_T) | x] - \int_{t_0}^T E\Big[ \tfrac12 \| G^\top s(Y_t, t) \|^2
        + \operatorname{div}(G G^\top s - f)(Y_t, t) \,\Big|\, x \Big]\, dt

(Singhal, Goldstein and Ranganath 2024, theorem 1; Huang, Lim and Courville 2021, arXiv:2106.02808).
By integration by parts and their lemma 1, ``E div(G G^T s) = -E <G^T s, G^T r>`` for any ``r`` with
``E[r | Y_t, x] = grad log q(Y_t | x)``, and the score's terms become those of local-DSM,

.. math::
    \tfrac12 \| G^\top (s - r) \|^2 - \tfrac12 \| G^\top r \|^2
    = \tfrac12 \| G^\top s \|^2 - \langle G^\top s, G^\top r \rangle ,
    \qquad r = \nabla \log q(Y_t | Y_{s(t)}),

which needs no trace. The right side is what is computed: there the squares of ``r`` cancel.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import (
    DiffusionLike,
    Process,
    Scalar,
    Score,
    ScoreModel,
    as_diffusion,
    as_score,
    by_blocks,
    check_generator,
    check_integer,
    check_points,
    check_steps,
    check_time_range,
    drift_divergence,
    explain_memory,
    noise_at,
    noise_norm,
    noise_part,
    pull_back,
    random_signs,
    score_and_divergence,
    score_and_trace,
    score_values,
    trace_rows,
)
from ..diffusions import draw_state, propagate
from ..targets import Schedule, check_schedule, check_walls, local_draw, window_ends, wrapped
from .flow import T_MIN, check_inside, check_trace, prior_for, warn_if_coarse

# Rows, and values, held at once; a network sees fewer (``_blocks``).
ROWS, _VALUES = 16_384, 2**21


@explain_memory("pass fewer rows of x a call")
@torch.no_grad()
def elbo(
    score: Score | Sequence[Score],
    diffusion: DiffusionLike,
    x: Tensor,
    *,
    samples: int = 64,
    form: str = "trace",
    trace: str = "exact",
    window: float | Schedule = 0.1,
    steps: int = 200,
    t_min: float = T_MIN,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Monte Carlo estimate of the evidence lower bound at every point; see the module's text.

    Unbiased up to the simulation's weak error, and in the local form up to the linearisation's.
    The integral starts at ``t_0 = t_min``: what is bounded is ``E[log p_{t_min}(Y_{t_min}) | x]``,
    with equality for the exact score of a process whose law at the horizon is its ``prior``.

    Args:
        score: callable ``(x (B, d), t (B,)) -> (B, d)``, differentiable for the trace form. A list
            or tuple of ``n`` scores meets the same draws, simulated once: differences between them
            have none of the noise that they share.
        diffusion: has ``drift``, ``dispersion``, ``horizon`` and ``prior``;
            ``sample_transition`` and ``drift_divergence`` are used where it has them.
        x: points ``(B, d)``.
        samples: draws of ``(t, Y_t)`` and of ``Y_T`` for each point; times are stratified.
        form: ``"trace"``, with the score's divergence; ``"local"``, with the local transition's
            score.
        trace: of the trace form: ``"exact"``, ``d`` backward passes where the score has no
            divergence of its own; ``"hutchinson"``, one, with a random probe for each draw
            (Hutchinson 1990), which leaves the mean as it is.
        window: of the local form, as in ``LocalDSM``.
        steps: Euler steps, where the process is simulated; their weak error, of first order, is
            that of the bound: 0.1 to 0.3 nats with 60 steps over five units of clock.
        t_min: start of the integral.
        generator: source of all randomness, on the device of ``x``.

    Returns:
        ``(B,)`` natural logarithms, ``(n, B)`` of ``n`` scores, dtype and device of ``x``, without
        gradients.

    Raises:
        TypeError, ValueError: malformed points or points outside the state space, no prior, a form
            or a trace that is not one of the two, ``samples < 1``, ``steps < 1``, a malformed
            window or ``t_min``, and a process with walls (its boundary terms do not vanish).
        torch.OutOfMemoryError: memory ran out; the score is evaluated on blocks of rows, so what
            grows with ``B`` is a few copies of the points.
    """
    several = isinstance(score, list | tuple)
    scores: Any = score if several else [score]
    models, process = [as_score(one) for one in scores], as_diffusion(diffusion)
    if not models:
        raise ValueError("score: expected one score or more, found an empty list: pass a score")
    x = check_points(x, process.dim)
    check_inside(process, x)
    check_walls(process)
    check_generator(generator, x.device)
    span = check_time_range(process.horizon, t_min, None, "log")
    if form not in ("trace", "local"):
        raise ValueError(f"form: expected 'trace' or 'local', found {form!r}")
    check_trace(trace)
    samples = check_integer(samples, "samples")
    steps, prior = check_steps(steps), prior_for(process, "log_prob", "elbo needs its log_prob")
    schedule = check_schedule(window)
    for finest in (model.finest_time for model in models):
        if finest is not None:  # None: a residual score on a base without one
            warn_if_coarse(process, finest, span[0])

    def rate(x: Tensor, t: Tensor) -> Tensor:
        if form == "trace":
            return _by_trace(models, process, x, t, trace, steps, generator)
        return _by_target(models, process, x, t, schedule, steps, generator)

    total = x.new_zeros(len(models), len(x))
    size = max(1, min(ROWS, _VALUES // x.shape[1]) // len(x))
    for first in range(0, samples, size):
        count = min(size, samples - first)
        start = x.repeat(count, 1)
        stratum = torch.arange(
            first, first + count, dtype=x.dtype, device=x.device
        ).repeat_interleave(len(x))
        t, weight = _times(stratum, samples, span, generator)
        integral = weight * rate(start, t)
        end = draw_state(process, start, torch.full_like(t, span[1]), steps, generator)
        term = prior.log_prob(end) - integral
        total += term.reshape(-1, count, len(x)).sum(1)
    return total / samples if several else total[0] / samples


def _times(
    stratum: Tensor, samples: int, span: tuple[float, float], generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """A time in each stratum, one of ``samples``, and one over its density; ``(B,)`` each.

    The density falls as ``1 / sqrt(t - t_min)``: the local form's integrand has a deviation of that
    order.
    """
    t_min, horizon = span
    u = torch.rand(len(stratum), generator=generator, dtype=stratum.dtype, device=stratum.device)
    root = (stratum + u) / samples
    t = (t_min + (horizon - t_min) * root.square()).clamp(max=horizon)
    return t, (horizon - t_min) * 2 * root


def _by_trace(
    scores: Sequence[ScoreModel],
    process: Process,
    x: Tensor,
    t: Tensor,
    trace: str,
    steps: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Each score's integrand at a draw of ``Y_t`` for each row, ``(n, B)``."""
    y = draw_state(process, x, t, steps, generator)
    wrapped(process, y, t)  # refuses walls, whose boundary terms do not vanish
    columns = noise_at(process, y, t).columns(y.shape[1])
    signs = random_signs(y, 1, generator, columns) if trace == "hutchinson" else None
    pairs = [_score_and_trace(score, process, y, t, signs) for score in scores]
    terms = [0.5 * noise_norm(process, s, t) + divergence for s, divergence in pairs]
    return torch.stack(terms) - drift_divergence(process, y, t)


def _score_and_trace(
    score: ScoreModel,
    process: Process,
    y: Tensor,
    t: Tensor,
    signs: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``s`` ``(B, d)`` and ``tr(G^T Ds G)`` ``(B,)``, or its estimate by ``signs``."""
    hutchinson = signs is not None
    G = noise_at(process, y, t)
    own = ["score_and_divergence", "divergence"] + ["probe_divergence"] * hutchinson
    if isinstance(G, Scalar) and any(getattr(score, name) is not None for name in own):
        s, divergence = score_and_divergence(score, y, t, signs)
        return s, G.rows.square() * divergence

    def on_block(y: Tensor, t: Tensor, *signs: Tensor) -> tuple[Tensor, Tensor]:
        if not hutchinson:
            return score_and_trace(process, score, y, t, None)
        s, vjp = pull_back(score, y, t)
        u = noise_at(process, y, t) @ signs[0][:, 0].to(y)
        return s, (vjp(u) * u).sum(1)

    s, divergence = by_blocks(on_block, trace_rows(y), y, t, *(() if signs is None else (signs,)))
    return s, divergence


def _by_target(
    scores: Sequence[ScoreModel],
    process: Process,
    x: Tensor,
    t: Tensor,
    window: float | Schedule,
    steps: int,
    generator: torch.Generator | None,
) -> Tensor:
    """The same without a trace: ``Y_s`` simulated, ``Y_t`` from the local transition."""
    start, end = window_ends(process, window, t)
    y_s = propagate(process, x, torch.zeros_like(start), start, steps, generator)
    draw = local_draw(process, y_s, start, end, generator)
    y = wrapped(process, draw.y, t)
    parts = [noise_part(process, score_values(score, y, t), t) for score in scores]
    target = noise_part(process, draw.target, t)
    fits = [0.5 * s.square().sum(1) - (s * target).sum(1) for s in parts]
    return torch.stack(fits) - drift_divergence(process, y, t)
