"""Fitting."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..core import (
    as_diffusion,
    as_tensor,
    check_integer,
    check_points,
    check_times,
    lasting,
    name_of,
    pull_back,
)
from ..eigenbasis import MIN_SCALE, Hermite, SpectralWarning, quadrature_weights, warn_if_flat
from .additive import AdditiveScore, fit_additive
from .product import SpectralScore, solve
from .reach import Reach
from .selection import greedy
from .shrinkage import shrink

_POOL = 3


_FEW = 10  # points: the noise of their averages is known to half its size


@overload
def fit_spectral(
    x: Tensor, diffusion, n_functions: int, times=..., *, shrinkage: str = ...,
    selection: str = ..., weights: Tensor | None = ..., wrap: bool = ...,
) -> SpectralScore: ...  # fmt: skip


@overload
def fit_spectral(
    x: Any, diffusion, *, times=..., features: Literal["additive"], order: int,
    rotation: str | None = ..., generator: torch.Generator | None = ...,
) -> AdditiveScore: ...  # fmt: skip


@lasting
def fit_spectral(
    x: Any,
    diffusion,
    n_functions: int | None = None,
    times=None,
    *,
    features: str = "product",
    order: int | None = None,
    rotation: str | None = None,
    shrinkage: str = "none",
    selection: str = "eigenvalue",
    weights: Tensor | None = None,
    wrap: bool = False,
    generator: torch.Generator | None = None,
) -> SpectralScore | AdditiveScore:
    """Fit ``s(x,t) = grad log pi(x) + sum_k alpha_k(t) grad phi_k(x)``, ``alpha_t = A_t^{-1} b_t``.

    Two families of eigenfunctions. ``features="product"``: products over the axes, for a few
    dimensions; ``O(N F^d)`` for the moments (``F`` features an axis), ``O(T K^3)`` for the solves.
    ``features="additive"``: functions of one coordinate each, for images; ``O(N d order)`` and
    ``O(T d order^3)``, in memory that does not grow with ``N``
    (:class:`~markovscore.AdditiveScore`; paper A, OISM(3) and OISM(6)).

    Args:
        x: data ``(N, d)``, floating point; sums are taken in double precision whatever the dtype.
            Additive features also take an iterable of batches ``(B, d)``, or ``Images``.
        diffusion: ``OrnsteinUhlenbeck``, ``TorusBrownian`` or ``BoxBrownian``; anything that has an
            ``eigenbasis`` and the stationary score as its drift. For additive features
            ``VariancePreserving`` or ``OrnsteinUhlenbeck``.
        n_functions: number ``K`` of non-constant real eigenfunctions; even on the torus.
        times: increasing noise levels ``(T,)`` at which the coefficients are solved; by default 160
            log-spaced ones from 0.002 to the horizon; for additive features 1,001 evenly spaced.
        features: ``"product"`` or ``"additive"``.
        order: of additive features, 1 to 9: the number of functions for each coordinate.
        rotation: of additive features: ``"pca"`` takes the coordinates along the principal axes of
            the data (ours); order 2 is then the score of a Gaussian with the data's mean and
            covariance.
        shrinkage: how the moments are shrunk: ``"none"``, ``"james-stein"`` or ``"heat"``.
        selection: ``"eigenvalue"`` takes the slowest functions; ``"greedy"`` (ours) picks among
            three times as many those that lower the loss most
            (:func:`markovscore.spectral.selection.greedy`).
        weights: quadrature weights ``(N,)`` of nodes ``x``, with sum one: exact expectations
            (OISM I in paper A, Figure 1) instead of sample means.
        wrap: bring points outside the torus or the box back into it instead of raising.
        generator: dequantises ``Images``.

    Raises:
        TypeError: integer or otherwise unusable points; additive features of another process.
        ValueError: points, weights, times, counts or names other than above, an argument of the
            other family, or shrinkage of the averages of a single point.

    Warns with :class:`SpectralWarning` where the data leave coefficients undetermined: directions
    in which they do not vary (which get a standard deviation of 1e-4, waves and cosines 1e-3),
    more functions than the points support, shrinkage by the scatter of fewer than ten points.
    """
    if features == "additive":
        _refuse_all(n_functions=n_functions, weights=weights)
        if (shrinkage, selection, wrap) != ("none", "eigenvalue", False):
            raise ValueError("expected no shrinkage, selection or wrap with features='additive'")
        return fit_additive(x, diffusion, order, times, rotation, generator)
    if features != "product":
        raise ValueError(f"features: expected 'product' or 'additive', found {features!r}")
    _refuse_all(order=order, rotation=rotation)
    if n_functions is None:
        raise ValueError("n_functions: expected a number of eigenfunctions, found None")
    n_functions = check_integer(n_functions, "n_functions")
    x = _check_data(x, diffusion, wrap)
    weights = _check_weights(weights, x, shrinkage)
    _check_scatter(x, shrinkage)
    basis = diffusion.eigenbasis(n_functions)
    variances, axes, floor = _principal(x, weights, isinstance(basis, Hermite))
    least = float(variances.min())
    times = check_times(_default_times(diffusion, least) if times is None else times)
    if selection == "greedy":
        pool = diffusion.eigenbasis(_POOL * n_functions)
        basis = greedy(pool, shrink(pool.moments(x, weights), shrinkage), n_functions, times)
    elif selection != "eigenvalue":
        raise ValueError(f"selection: expected 'eigenvalue' or 'greedy'; found {selection!r}")
    moments = shrink(basis.moments(x, weights), shrinkage).shrunk(heat=floor)
    score = SpectralScore(diffusion, basis, times.cpu().contiguous(), solve(moments, times))
    if isinstance(basis, Hermite) and basis.degree > 2:
        score = replace(score, reach=Reach.of(x, weights, axes, variances, moments))
    return replace(score, finest_time=_finest_time(score, x, weights, least))


def _refuse_all(**arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"{name}: expected none with this family of features, found {value!r}: "
                "n_functions and weights go with 'product', order and rotation with 'additive'"
            )


def _check_data(x: Tensor, diffusion, wrap: bool) -> Tensor:
    process = as_diffusion(diffusion)
    if process.eigenbasis is None:
        raise ValueError(
            f"{name_of(process)} has no eigenbasis: expected OrnsteinUhlenbeck, "
            f"TorusBrownian or BoxBrownian"
        )
    x = check_points(x, process.dim, "x").detach()
    if wrap:
        return process.project(x)
    outside = ~process.contains(x)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"x: expected points in the state space of {name_of(process)}; found "
            f"{int(outside.sum())} of "
            f"{len(x)} outside, the first in row {row}: {x[row].tolist()}; scale the data, or "
            f"pass wrap=True"
        )
    return x


def _check_weights(weights: Any, x: Tensor, shrinkage: str) -> Tensor | None:
    if weights is None:
        return None
    weights = as_tensor(weights, "weights", torch.float64).detach()
    if shrinkage != "none":
        raise ValueError(
            f"weights give exact expectations, which need no shrinkage: expected 'none', found "
            f"{shrinkage!r}"
        )
    if weights.shape != (len(x),) or bool((weights < 0).any()):
        raise ValueError(
            f"weights: expected {len(x)} non-negative numbers; found shape {tuple(weights.shape)}"
        )
    total = float(weights.double().sum())
    if not abs(total - 1) < 1e-6:
        raise ValueError(
            f"weights: expected a sum of one, found {total:.8g}: divide by weights.sum()"
        )
    return weights


def _principal(
    x: Tensor, weights: Tensor | None, polynomials: bool
) -> tuple[Tensor, Tensor, float]:
    """Variances ``(d,)`` along the principal axes ``(d, d)`` of the data, and a time.

    It is added to all others, and not 0 where there are directions of (almost) no variance: they
    are then as wide as its noise.
    """
    w = quadrature_weights(x, weights)
    offset = x.double() - w @ x.double()
    variances, axes = torch.linalg.eigh((w[:, None] * offset).T @ offset)
    # Waves and cosines tell a point from a blob of a thousandth, with the jitter of their A_t.
    scale = MIN_SCALE if polynomials else 10 * MIN_SCALE
    scale = max(scale, 1e-7 * float(variances[-1].clamp(min=0).sqrt()))
    flat = variances < scale**2
    warn_if_flat(flat, None if bool(flat.all()) else axes, scale, 5)
    return variances.clamp(min=scale**2), axes, 0.5 * scale**2 * bool(flat.any())


def _finest_time(score: SpectralScore, x: Tensor, weights: Tensor | None, variance: float) -> float:
    """Half the least variance, or half the reciprocal of the strongest pull at some of the points,
    whichever is less; the pull only where the score reaches back to t = 0."""
    finest = min(0.5 * variance, float(score.diffusion.horizon))
    if float(score.times[0]) > 0:
        return finest
    likely = x if weights is None else x[weights > 1e-3 * weights.max()]
    points = likely[:: -(-len(likely) // 256)].detach()
    vjp = pull_back(score, points, 0.0)[1]
    rows = [vjp(torch.eye(x.shape[1]).to(points)[i].expand_as(points)) for i in range(x.shape[1])]
    pull = -float(torch.linalg.eigvalsh(torch.stack(rows, 1)).min())
    return min(finest, 0.5 / max(pull, 1e-300))


def _default_times(diffusion, variance: float) -> Tensor:
    """160 log-spaced times from 0.002, or as dense from where the noise adds 1% to the least
    standard deviation of the data."""
    first = min(0.002, 0.01 * variance)
    count = round(160 * math.log(diffusion.horizon / first) / math.log(diffusion.horizon / 0.002))
    ends = math.log10(first), math.log10(diffusion.horizon)
    return torch.logspace(*ends, count, dtype=torch.float64)


def _check_scatter(x: Tensor, shrinkage: str) -> None:
    """Shrinkage trusts averages as far as the scatter of the points says: it needs some."""
    if shrinkage == "none" or len(x) >= _FEW:
        return
    if len(x) == 1:
        raise ValueError(
            f"shrinkage: expected 'none' with one point, found {shrinkage!r}: how far to trust "
            "an average is read from the scatter of the points; pass more of them"
        )
    error = math.sqrt(2 / (len(x) - 1))
    warnings.warn(
        f"x: expected {_FEW} points or more with shrinkage={shrinkage!r}, found {len(x)}: from "
        f"them the noise of the averages is known to {error:.0%} at best; pass more points",
        SpectralWarning,
        stacklevel=4,
    )
