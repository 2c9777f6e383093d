"""Fitting: averages of the data, noise levels, solves, and what the data leave undetermined."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..core import (
    DiffusionLike,
    Process,
    as_diffusion,
    check_integer,
    check_progress,
    check_times,
    lasting,
    original,
    pull_back,
)
from ..eigenbasis import MIN_SCALE, Axis, Eigenbasis, Ritz, around, warn, warn_if_flat
from .additive import AdditiveScore
from .additive_numerical import AdditiveSpectralScore
from .clock import GeneratorClock, first_time, log_spaced, log_times, own_time
from .fit_additive import fit_additive
from .fitted import placement
from .held_out import Selection, choose
from .product import SpectralScore, solve
from .reach import Reach
from .sample import Sample, read_sample
from .selection import greedy
from .shrinkage import shrink

_POOL = 3  # times as many functions as asked for, from which "greedy" picks
_FEW = 10  # points: the noise of their averages is known to half its size
_FINER, _COARSER = 32, 4  # ratios of first levels that are tried to the usual one
_JUDGED = 30  # levels of the choice


@overload
def fit_spectral(
    x: Any, diffusion: DiffusionLike, n_functions: int | None = ..., times=..., *,
    shrinkage: str | None = ..., selection: str = ..., weights: Any = ..., exact: bool = ...,
    nan: str = ..., wrap: bool = ..., generator: torch.Generator | None = ...,
    progress: bool | None = ...,
) -> SpectralScore: ...  # fmt: skip


@overload
def fit_spectral(
    x: Any, diffusion: DiffusionLike, *, times=..., features: Literal["additive"], order: int,
    rotation: str | None = ..., shrinkage: str | None = ...,
    generator: torch.Generator | None = ...,
) -> AdditiveScore | AdditiveSpectralScore: ...  # fmt: skip


@lasting
def fit_spectral(
    x: Any,
    diffusion: DiffusionLike,
    n_functions: int | None = None,
    times=None,
    *,
    features: str = "product",
    order: int | None = None,
    rotation: str | None = None,
    shrinkage: str | None = None,
    selection: str = "eigenvalue",
    weights: Any = None,
    exact: bool = False,
    nan: str = "raise",
    wrap: bool = False,
    generator: torch.Generator | None = None,
    progress: bool | None = None,
) -> SpectralScore | AdditiveScore | AdditiveSpectralScore:
    """Fit ``s(x,t) = grad log pi(x) + sum_k alpha_k(t) grad phi_k(x)``, ``alpha_t = A_t^{-1} b_t``.

    Without ``n_functions`` the sizes are chosen by the held-out loss, in closed form, and
    ``score.selection`` says how (:func:`markovscore.spectral.choose`). Two families of
    eigenfunctions. ``features="product"``: products over the axes, for a few dimensions; ``O(N
    F^d)`` for the moments (``F`` features an axis), ``O(T K^3)`` for the solves.
    ``features="additive"``: functions of one coordinate each, for images:
    :func:`~markovscore.fit_additive`, of which this is another name.

    Args:
        x: data ``(N, d)``, floating point; sums are taken in double precision whatever the dtype.
            The names of a data frame's columns are kept as ``score.columns``. Additive features
            also take an iterable of batches ``(B, d)``, or ``Images``.
        diffusion: ``OrnsteinUhlenbeck``, ``TorusBrownian``, ``BoxBrownian``, a ``Product`` of them;
            ``Langevin`` or ``DoubleWell``, whose eigenfunctions are found numerically; anything
            with an ``eigenbasis`` whose drift is ``g^2 / 2`` times the stationary score, ``g`` its
            dispersion: their clock is ``tau = int g^2 / 2``. For additive features
            ``VariancePreserving``, ``OrnsteinUhlenbeck``, ``Langevin`` or ``DoubleWell``.
        n_functions: number ``K`` of non-constant real eigenfunctions; even on the torus. None: the
            number, the shrinkage and the first noise level are chosen, those that are not given,
            by cross-validation over five folds; at least 10 points. A number is needed with a
            prior of three to six coordinates that are not independent.
        times: increasing noise levels ``(T,)`` at which the coefficients are solved; by default
            log-spaced to the horizon, as dense as 160 from 0.002, from the level that is chosen,
            or from 0.002; for additive features as :func:`~markovscore.fit_additive` says.
        features: ``"product"`` or ``"additive"``.
        order: of additive features: the number of functions for each coordinate; of polynomials 1
            to 9.
        rotation: of additive features: ``"pca"`` takes the coordinates along the principal axes of
            the data (ours); order 2 is then the score of a Gaussian with the data's mean and
            covariance.
        shrinkage: how the moments are shrunk: ``"none"``, ``"james-stein"``, ``"heat"`` or
            ``"heat+1"``, which adds one observation from the stationary law. None: ``"none"`` with
            ``n_functions``; without, ``"heat+1"`` with the heat chosen among a quarter to eight
            times Stein's. Additive features: see there.
        selection: ``"eigenvalue"`` takes the slowest functions; ``"cross"`` a hyperbolic cross of
            them, few coordinates at a time, for many dimensions; ``"greedy"`` (ours) picks among
            three times as many those that lower the loss most
            (:func:`markovscore.spectral.greedy`).
        weights: weights ``(N,)`` of a survey or of importance, non-negative, of any positive sum;
            ``N`` is then the effective number of points, ``(sum w)^2 / sum w^2``.
        exact: the points are nodes of a quadrature: averages are exact expectations (OISM I in
            paper A, Figure 1), without variance; they are neither shrunk nor held out.
        nan: ``"raise"`` refuses points with NaN, ``"drop"`` leaves them out, with a warning and
            their number in ``score.dropped``.
        wrap: bring points outside the torus or the box back into it instead of raising.
        generator: draws the folds, by default always the same; dequantises ``Images``.
        progress: bars after two seconds, of product features: True, False, or None, only where
            stderr is a terminal.

    Raises:
        TypeError: integer or otherwise unusable points; additive features of another process.
        ValueError: points, weights, times, counts or names other than above, an argument of the
            other family, too few points, shrinkage of exact expectations.

    Warns with :class:`SpectralWarning` where the data leave coefficients undetermined: directions
    in which they do not vary (which get a standard deviation of 1e-4, waves and cosines 1e-3),
    more functions than the points support, shrinkage by the scatter of fewer than ten points.
    """
    if features == "additive":
        _refuse_all(n_functions=n_functions, weights=weights)
        if (selection, exact, nan, wrap) != _PLAIN:
            raise ValueError("expected no selection, exact, nan or wrap with features='additive'")
        rules = {"rotation": rotation, "shrinkage": shrinkage}
        return fit_additive(x, diffusion, order, times, **rules, generator=generator)
    if features != "product":
        raise ValueError(f"features: expected 'product' or 'additive', found {features!r}")
    _refuse_all(order=order, rotation=rotation)
    given: Any = diffusion
    process = as_diffusion(canonical(given))
    sample = read_sample(x, as_diffusion(given), weights, exact, nan, wrap)
    check_progress(progress)
    sizes = n_functions, times, shrinkage, selection
    plan = make_plan(sample, process, *sizes, generator, progress)
    return score_of(sample, given, plan, progress)


_PLAIN = ("eigenvalue", False, "raise", False)


def _refuse_all(**arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"{name}: expected none with this family of features, found {value!r}: "
                "n_functions and weights go with 'product', order and rotation with 'additive'"
            )


def canonical(diffusion: Any) -> Any:
    """The process whose eigenfunctions are fitted: of an affine image the inner one."""
    chart = as_diffusion(diffusion).chart
    return diffusion if chart is None else original(chart.inner)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a fit decides before it solves: functions, noise levels ``(T,)``, and the law ``mix
    P*_heat rho_0 + (1 - mix) pi`` whose averages it takes; ``selection``, where these were
    chosen."""

    basis: Eigenbasis
    times: Tensor
    mix: float
    heat: float
    selection: Selection | None = None


def make_plan(
    sample: Sample,
    process: Process,
    n_functions: int | None = None,
    times: Any = None,
    shrinkage: str | None = None,
    selection: str = "eigenvalue",
    generator: torch.Generator | None = None,
    progress: bool | None = None,
) -> Plan:
    """The sizes of a fit, those that are given and those that are chosen; arguments as of
    :func:`fit_spectral`."""
    if selection not in ("eigenvalue", "cross", "greedy"):
        raise ValueError(
            f"selection: expected 'eigenvalue', 'cross' or 'greedy'; found {selection!r}"
        )
    if times is not None:
        times = check_times(times)
    if sample.exact and (n_functions is None or shrinkage not in (None, "none")):
        raise ValueError(
            "exact: expectations without error need no shrinkage, and leave none out to choose by: "
            f"expected n_functions and 'none', found {n_functions} and {shrinkage!r}"
        )
    if n_functions is None:
        if selection == "greedy":
            raise ValueError(
                "n_functions: expected a number of eigenfunctions with selection='greedy', found "
                "None: pass one, for instance that of score.selection"
            )
        cross = selection == "cross"
        return _chosen(sample, process, times, shrinkage, cross, generator, progress)
    n_functions = check_integer(n_functions, "n_functions")
    rule = "none" if shrinkage is None else shrinkage
    _check_scatter(sample, rule)
    bases = _bases(process, sample.x)
    basis = bases(n_functions)
    least, floor = _narrowest(sample, basis)
    clock = GeneratorClock(process)
    times = log_times(clock, first_time(clock, least)) if times is None else times
    if selection == "cross":
        basis = basis.cross()
    elif selection == "greedy":
        pool = bases(_POOL * n_functions)
        basis = greedy(pool, shrink(sample.moments(pool), rule), n_functions, clock.of(times))
    fixed = shrink(sample.moments(basis), rule)
    return Plan(basis, times, fixed.mix, fixed.heat + floor)


def _chosen(
    sample: Sample,
    process: Process,
    times: Tensor | None,
    rule: str | None,
    cross: bool,
    generator: torch.Generator | None,
    progress: bool | None,
) -> Plan:
    """Sizes by the held-out loss. Thirty levels are enough for it: in ``log t`` its integrand is
    smooth, a change over a few percent of the range would need eigenvalues that far apart."""
    bases = _bases(process, sample.x)
    slowest = bases(2)
    if isinstance(slowest, Ritz):
        raise ValueError(
            f"n_functions: expected a number with a prior of {slowest.dim} coordinates that are "
            "not independent, found None: the held-out loss is not trusted with simulated A_t; "
            "pass n_functions=20, and compare it with others by ms.log_likelihood of points that "
            "were held out"
        )
    least, floor = _narrowest(sample, slowest)
    clock = GeneratorClock(process)
    levels, firsts = _judged(clock, least, times)

    def pools(count: int) -> Eigenbasis:
        pool = bases(count)
        return pool.cross() if cross else pool

    selection, basis = choose(sample, pools, rule, levels, firsts, floor, generator, progress)
    if times is None:
        times = log_times(clock, selection.first)
    heat = selection.heat + floor
    own_firsts = clock.inverse(selection.firsts)
    selection = replace(selection, first=own_time(clock, selection.first), firsts=own_firsts)
    return Plan(basis, times, selection.mix, heat, selection)


def _bases(process: Process, x: Tensor) -> Callable[[int], Eigenbasis]:
    """The process's eigenfunctions, as many as are asked for, with all points between the walls
    where there are some."""
    assert process.eigenbasis is not None
    own: tuple[Axis, ...] = process.eigenbasis(2).axes
    axes = around(own, x)
    return process.eigenbasis if axes == own else partial(Eigenbasis, axes)


def _judged(clock: GeneratorClock, least: float, times: Tensor | None) -> tuple[Tensor, int]:
    """Log-spaced levels ``(T,)`` of the choice in ``tau``, and how many of them may be the first
    of the fit."""
    usual = first_time(clock, least)
    if times is None:
        levels = log_spaced(usual / _FINER, clock.horizon, _JUDGED)
        return levels, int((levels <= _COARSER * usual).sum())
    ends = clock.of(times[[0, -1]])
    first, last = max(float(ends[0]), usual / _FINER), float(ends[1])
    count = _JUDGED if first < last else 1
    return log_spaced(first, max(first, last), count), 1


def score_of(
    sample: Sample, diffusion: Any, plan: Plan, progress: bool | None = None
) -> SpectralScore:
    """The fit of these sizes to a sample."""
    fitted = _solved(sample, canonical(diffusion), plan, progress)
    return replace(fitted, diffusion=diffusion)


def _solved(sample: Sample, diffusion: Any, plan: Plan, progress: bool | None) -> SpectralScore:
    basis, times = plan.basis, plan.times
    moments = sample.moments(basis).shrunk(plan.mix, plan.heat)
    clock = GeneratorClock(as_diffusion(diffusion))
    table = solve(moments, clock.of(times), progress)
    levels = times.cpu().contiguous()
    score = SpectralScore(diffusion, basis, levels, table, **placement(sample.x))
    variances, axes, _ = _principal(sample, _polynomial(basis))
    if basis.lines and basis.degree > 2:
        along = _line_axes(sample, basis, axes, variances)
        reach = Reach.of(sample.x, sample.weights, *along, moments)
        score = replace(score, reach=reach)
    return replace(
        score,
        finest_time=_finest_time(score, sample, float(variances.min())),
        selection=plan.selection,
        columns=sample.columns,
        dropped=sample.dropped,
    )


def _narrowest(sample: Sample, basis: Eigenbasis) -> tuple[float, float]:
    """The least variance along an axis of the data, and the heat that flat directions get."""
    variances, axes, scale = _principal(sample, _polynomial(basis))
    flat = variances <= scale**2
    whole = bool(flat.all())
    warn_if_flat(flat, None if whole else axes, scale, sample.columns)
    return float(variances.min()), 0.5 * scale**2 * bool(flat.any())


def _polynomial(basis: Eigenbasis) -> bool:
    return len(basis.lines) == basis.dim


def _principal(sample: Sample, polynomials: bool) -> tuple[Tensor, Tensor, float]:
    """Variances ``(d,)`` along the principal axes ``(d, d)`` of the data, at least ``scale^2``,
    and the standard deviation ``scale`` of what does not vary."""
    x, n = sample.x.double(), len(sample.x)
    w = x.new_full((n,), 1 / n) if sample.weights is None else sample.weights
    offset = x - w @ x
    variances, axes = torch.linalg.eigh((w[:, None] * offset).T @ offset)
    # Waves and cosines tell a point from a blob of a thousandth, with the jitter of their A_t.
    scale = MIN_SCALE if polynomials else 10 * MIN_SCALE
    scale = max(scale, 1e-7 * float(variances[-1].clamp(min=0).sqrt()))
    return variances.clamp(min=scale**2), axes, scale


def _line_axes(
    sample: Sample, basis: Eigenbasis, axes: Tensor, variances: Tensor
) -> tuple[Tensor, Tensor]:
    """Principal axes ``(d, d)`` of the coordinates that are lines alone, and the variances along
    them; the others stay what they are, their variance infinite."""
    lines = basis.lines
    if len(lines) == basis.dim:
        return axes, variances
    own_variances, own_axes, _ = _principal(replace(sample, x=sample.x[:, lines]), True)
    axes = torch.eye(basis.dim, dtype=torch.float64, device=axes.device)
    axes[torch.tensor(lines)[:, None], torch.tensor(lines)] = own_axes
    variances = torch.full_like(axes[0], torch.inf)
    variances[lines] = own_variances
    return axes, variances


def _finest_time(score: SpectralScore, sample: Sample, variance: float) -> float:
    """Half the least variance, or half the reciprocal of the strongest pull at some of the points,
    whichever is less; the pull only where the score reaches back to t = 0."""
    clock = score.clock
    finest = min(0.5 * variance, clock.horizon)
    if float(score.times[0]) > 0:
        return own_time(clock, finest)
    x, weights = sample.x, sample.weights
    likely = x if weights is None else x[weights > 1e-3 * weights.max()]
    points = likely[:: -(-len(likely) // 256)].detach()
    vjp = pull_back(score, points, 0.0)[1]
    rows = [
        vjp(torch.eye(x.shape[1], dtype=points.dtype, device=points.device)[i].expand_as(points))
        for i in range(x.shape[1])
    ]
    pull = -float(torch.linalg.eigvalsh(torch.stack(rows, 1)).min())
    return own_time(clock, min(finest, 0.5 / max(pull, 1e-300)))


def _check_scatter(sample: Sample, shrinkage: str) -> None:
    """Shrinkage trusts averages as far as the scatter of the points says: it needs some."""
    size = sample.size
    if shrinkage == "none" or size >= _FEW:
        return
    if size < 1.5:
        raise ValueError(
            f"shrinkage: expected 'none' with one point, found {shrinkage!r}: how far to trust "
            "an average is read from the scatter of the points; pass more of them"
        )
    error = math.sqrt(2 / (size - 1))
    warn(
        f"x: expected {_FEW} points or more with shrinkage={shrinkage!r}, found {size:.3g}: from "
        f"them the noise of the averages is known to {error:.0%} at best; pass more points"
    )
