"""Fitting: moments of the data, noise levels, solves, and what the data leave undetermined."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..core import (
    DiffusionLike,
    Process,
    as_diffusion,
    as_tensor,
    check_integer,
    check_points,
    check_times,
    lasting,
    name_of,
    original,
    pull_back,
)
from ..diffusions import LONGEST_STEP, graded_times, log_clock
from ..eigenbasis import MIN_SCALE, Eigenbasis, quadrature_weights, warn, warn_if_flat
from .additive import AdditiveScore
from .additive_moments import AdditiveMoments, Covariance, check_order, solve_additive
from .fitted import placement
from .product import SpectralScore, solve
from .reach import Reach
from .selection import greedy
from .shrinkage import shrink

DEFAULT_LEVELS = 1001  # of additive features, evenly spaced
_POOL = 3  # times as many functions as asked for, from which "greedy" picks
_FEW = 10  # points: the noise of their averages is known to half its size
_BATCH = 2000  # rows read at a time
_DEVICE_ENTRIES = 2**27  # read at a time on a GPU: a launch of 100 microseconds, 1 GiB if rotated


@overload
def fit_spectral(
    x: Tensor, diffusion: DiffusionLike, n_functions: int, times=..., *, shrinkage: str = ...,
    selection: str = ..., weights: Tensor | None = ..., wrap: bool = ...,
) -> SpectralScore: ...  # fmt: skip


@overload
def fit_spectral(
    x: Any, diffusion: DiffusionLike, *, times=..., features: Literal["additive"], order: int,
    rotation: str | None = ..., generator: torch.Generator | None = ...,
) -> AdditiveScore: ...  # fmt: skip


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
    shrinkage: str = "none",
    selection: str = "eigenvalue",
    weights: Tensor | None = None,
    wrap: bool = False,
    generator: torch.Generator | None = None,
) -> SpectralScore | AdditiveScore:
    """Fit ``s(x,t) = grad log pi(x) + sum_k alpha_k(t) grad phi_k(x)``, ``alpha_t = A_t^{-1} b_t``.

    Two families of eigenfunctions. ``features="product"``: products over the axes, for a few
    dimensions; ``O(N F^d)`` for the moments (``F`` features an axis), ``O(T K^3)`` for the solves.
    ``features="additive"``: functions of one coordinate each, for images:
    :func:`~markovscore.fit_additive`, of which this is another name.

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
        selection: ``"eigenvalue"`` takes the slowest functions; ``"cross"`` a hyperbolic cross of
            them, few coordinates at a time, for many dimensions; ``"greedy"`` (ours) picks among
            three times as many those that lower the loss most
            (:func:`markovscore.spectral.greedy`).
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
        return fit_additive(x, diffusion, order, times, rotation=rotation, generator=generator)
    if features != "product":
        raise ValueError(f"features: expected 'product' or 'additive', found {features!r}")
    _refuse_all(order=order, rotation=rotation)
    return _fit_product(x, diffusion, n_functions, times, shrinkage, selection, weights, wrap)


def _refuse_all(**arguments: object) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"{name}: expected none with this family of features, found {value!r}: "
                "n_functions and weights go with 'product', order and rotation with 'additive'"
            )


# Products of functions of one coordinate


def _fit_product(
    x: Any,
    diffusion: Any,
    n_functions: int | None,
    times: Any,
    shrinkage: str,
    selection: str,
    weights: Any,
    wrap: bool,
) -> SpectralScore:
    if n_functions is None:
        raise ValueError("n_functions: expected a number of eigenfunctions, found None")
    n_functions = check_integer(n_functions, "n_functions")
    process = as_diffusion(diffusion)
    if process.chart is not None:
        inner, points = original(process.chart.inner), check_points(x, process.dim, "x").detach()
        rest = n_functions, times, shrinkage, selection, weights, wrap
        return replace(
            _fit_product(process.chart.to_inner(points), inner, *rest), diffusion=diffusion
        )
    x = _check_data(x, process, wrap)
    weights = _check_weights(weights, x, shrinkage)
    _check_scatter(x, shrinkage)
    basis = process.eigenbasis(n_functions)
    variances, axes, floor = _principal(x, weights, len(basis.lines) == basis.dim)
    least = float(variances.min())
    times = check_times(_log_times(process, least) if times is None else times)
    if selection == "cross":
        basis = basis.cross()
    elif selection == "greedy":
        pool = process.eigenbasis(_POOL * n_functions)
        basis = greedy(pool, shrink(pool.moments(x, weights), shrinkage), n_functions, times)
    elif selection != "eigenvalue":
        raise ValueError(
            f"selection: expected 'eigenvalue', 'cross' or 'greedy'; found {selection!r}"
        )
    moments = shrink(basis.moments(x, weights), shrinkage).shrunk(heat=floor)
    levels, table = times.cpu().contiguous(), solve(moments, times)
    score = SpectralScore(diffusion, basis, levels, table, **placement(x))
    if basis.lines and basis.degree > 2:
        axes, variances = _line_axes(x, weights, basis, axes, variances)
        score = replace(score, reach=Reach.of(x, weights, axes, variances, moments))
    return replace(score, finest_time=_finest_time(score, x, weights, least))


def _check_data(x: Any, process: Process, wrap: bool) -> Tensor:
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
            f"{int(outside.sum())} of {len(x)} outside, the first in row {row}: {x[row].tolist()}; "
            f"scale the data, or pass wrap=True{_hint_of_degrees(x, process)}"
        )
    return x


def _hint_of_degrees(x: Tensor, process: Process) -> str:
    """What to say where data on the torus look like angles in degrees."""
    torus = getattr(process, "period", None) == 2 * math.pi
    if not torus or float(x.abs().max()) > 360 or float(x.abs().max()) < 30:
        return ""
    return "; these look like degrees: pass torch.deg2rad(x), or TorusBrownian(dim, period=360)"


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
    warn_if_flat(flat, None if bool(flat.all()) else axes, scale)
    return variances.clamp(min=scale**2), axes, 0.5 * scale**2 * bool(flat.any())


def _line_axes(
    x: Tensor, weights: Tensor | None, basis: Eigenbasis, axes: Tensor, variances: Tensor
) -> tuple[Tensor, Tensor]:
    """Principal axes ``(d, d)`` of the coordinates that are lines alone, and the variances along
    them; the others stay what they are, their variance infinite."""
    lines = basis.lines
    if len(lines) == basis.dim:
        return axes, variances
    own_variances, own_axes, _ = _principal(x[:, lines], weights, True)
    axes = torch.eye(basis.dim, dtype=torch.float64, device=x.device)
    axes[torch.tensor(lines)[:, None], torch.tensor(lines)] = own_axes
    variances = torch.full_like(axes[0], torch.inf)
    variances[lines] = own_variances
    return axes, variances


def _finest_time(score: SpectralScore, x: Tensor, weights: Tensor | None, variance: float) -> float:
    """Half the least variance, or half the reciprocal of the strongest pull at some of the points,
    whichever is less; the pull only where the score reaches back to t = 0."""
    finest = min(0.5 * variance, float(score.process.horizon))
    if float(score.times[0]) > 0:
        return finest
    likely = x if weights is None else x[weights > 1e-3 * weights.max()]
    points = likely[:: -(-len(likely) // 256)].detach()
    vjp = pull_back(score, points, 0.0)[1]
    rows = [
        vjp(torch.eye(x.shape[1], dtype=points.dtype, device=points.device)[i].expand_as(points))
        for i in range(x.shape[1])
    ]
    pull = -float(torch.linalg.eigvalsh(torch.stack(rows, 1)).min())
    return min(finest, 0.5 / max(pull, 1e-300))


def _log_times(process: Process, variance: float) -> Tensor:
    """160 log-spaced times from 0.002 (of a long horizon 1e-5), or as dense from where the noise
    adds 1% to the least standard deviation of the data."""
    usual = max(0.002, 1e-5 * process.horizon)
    first = min(usual, 0.01 * variance)
    count = round(160 * math.log(process.horizon / first) / math.log(process.horizon / usual))
    ends = math.log10(first), math.log10(process.horizon)
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
    warn(
        f"x: expected {_FEW} points or more with shrinkage={shrinkage!r}, found {len(x)}: from "
        f"them the noise of the averages is known to {error:.0%} at best; pass more points"
    )


# Functions of one coordinate each


@lasting
def fit_additive(
    x: Any,
    diffusion: DiffusionLike,
    order: int | None,
    times: Any = None,
    *,
    rotation: str | None = None,
    generator: torch.Generator | None = None,
) -> AdditiveScore:
    r"""Fit ``s(x, t) = -x + grad h_t(x)`` with one polynomial potential for each coordinate.

    .. math:: h_t(x) = \sum_i \sum_{n \le N} \alpha_{i,n}(t)\, \phi_n(x_i), \qquad
              \alpha_t = A_t^{-1} b_t, \quad N = order

    The systems of different coordinates do not mix, so that images can be fitted: ``O(M d order)``
    for the moments of ``M`` points, ``O(T d order^3)`` for the solves at ``T`` noise levels, in
    memory that does not grow with ``M`` (paper A, OISM(3) and OISM(6)).

    Args:
        x: data ``(M, d)``, floating point: a tensor, an array, a data frame, a list of rows; sums
            are taken in double precision whatever the dtype. Or an iterable of batches ``(B, d)``,
            such as a ``DataLoader`` (of a batch ``[points, labels, ...]`` the points), or
            ``Images``. How the points are divided changes the result at a level by rounding alone.
        diffusion: ``VariancePreserving`` or ``OrnsteinUhlenbeck``; anything with ``dim`` and
            ``ou_time`` whose stationary law is ``N(0, I)``.
        order: 1 to 9: the number of functions for each coordinate.
        times: increasing noise levels ``(T,)`` at which the coefficients are solved; by default
            1,001 evenly spaced ones from 0 to the horizon, and before the second of them as many
            more as the smallest scale of the data needs.
        rotation: ``"pca"`` takes the coordinates along the principal axes of the data (ours); order
            2 is then the score of a Gaussian with the data's mean and covariance.
        generator: dequantises ``Images``.

    Raises:
        TypeError: integer or otherwise unusable points; another process.
        ValueError: points, times, an order or a rotation other than above, no points at all;
            an iterator where the points are read twice; ``Images`` without a generator.

    Warns with :class:`SpectralWarning` where the data leave coefficients undetermined: constant
    coordinates or directions (which get a standard deviation of 1e-4), fewer points than functions
    of a coordinate.
    """
    order = check_order(order)
    process = as_diffusion(diffusion)
    if process.ou_time is None or process.dim is None:
        raise TypeError(
            "diffusion: expected VariancePreserving or OrnsteinUhlenbeck, found "
            f"{name_of(process)}: additive features need the stationary law N(0, I)"
        )
    times = None if times is None else check_times(times).cpu()
    if rotation not in (None, "pca"):
        raise ValueError(f"rotation: expected None or 'pca', found {rotation!r}")
    rows, axes = Rows(x, generator), None
    if rotation is None:
        moments = _moments(rows, order, process.dim, None)
    else:
        if order > 2 and isinstance(x, Iterator):
            raise ValueError(
                "x: expected points that can be read twice, found an iterator: rotated features of "
                "order > 2 need the axes first; pass a tensor, a list of batches, or Images"
            )
        covariance = _covariance(rows, process.dim)
        variances, axes = (found.cpu() for found in covariance.axes())
        if order > 2:
            moments = _moments(rows, order, process.dim, axes)
        else:  # mean and variance along each axis are all: no second reading
            moments = covariance.along(axes, variances, order)
    if order > 1:  # one function moves the mean only
        moments = _with_scales(moments, axes)
    if times is None:
        start = _solved(diffusion, moments, torch.zeros(1, dtype=torch.float64), axes, rows)
        times = _even_times(process, start.finest_time)
    return _solved(diffusion, moments, times, axes, rows)


def _even_times(process: Process, finest: float) -> Tensor:
    """Evenly spaced levels, and before them as many as the smallest scale of the data needs."""
    even = torch.linspace(0, process.horizon, DEFAULT_LEVELS, dtype=torch.float64)
    last = float(even[-1])
    length = float(log_clock(process, even[-1], finest))
    early = graded_times(process, last, math.ceil(length / LONGEST_STEP), finest)
    early = early[:-1][early.diff() < even[1]]
    return even if len(early) == 0 else torch.cat([early, even[even > early[-1]]])


class Rows:
    """The data, batch by batch: of a tensor of all points, an iterable of batches, or ``Images``.

    ``made``: what the score says of them, known once they are read.
    """

    def __init__(self, x: Any, generator: torch.Generator | None) -> None:
        self._whole, self._generator = _is_table(x), generator
        self._x = check_points(x, None, finite=False).detach() if self._whole else x
        self.made: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self._parts() if self._whole else self._batches():
            self.made = self.made or placement(batch)
            yield batch
        if not self.made:
            raise ValueError("x: expected at least one batch of points, found none")

    def sample(self, first: Tensor) -> Tensor:
        """Rows from all over a tensor, else the first batch: they set the scale."""
        return self._x[:: max(1, len(self._x) // _BATCH)] if self._whole else first

    def _parts(self) -> Iterator[Tensor]:
        x = self._x
        size = max(_BATCH, _DEVICE_ENTRIES // x.shape[1]) if x.is_cuda else _BATCH
        yield x[:_BATCH]
        if len(x) > _BATCH:
            yield from x[_BATCH:].split(size)

    def _batches(self) -> Iterator[Tensor]:
        """Of a batch ``[points, labels, ...]``, as a ``DataLoader`` makes it, the points."""
        if not hasattr(self._x, "batches"):
            for batch in self._x:
                listed = isinstance(batch, list | tuple) and getattr(batch[0], "ndim", 0) > 1
                yield as_tensor(batch[0] if listed else batch).detach()
            return
        if self._generator is None:
            raise ValueError(
                "generator: expected a torch.Generator, which dequantises the images, found none: "
                "pass generator=torch.Generator().manual_seed(0)"
            )
        yield from self._x.batches(_BATCH, self._generator)


def _is_table(x: Any) -> bool:
    """Whether ``x`` is all the points at once, as arrays, frames and lists of rows are."""
    if isinstance(x, list | tuple):
        return len(x) > 0 and _depth(x[0]) <= 1
    return hasattr(x, "__array__") or not (isinstance(x, Iterable) or hasattr(x, "batches"))


def _depth(x: Any) -> int:
    """The number of axes of nested lists and arrays."""
    nested = isinstance(x, list | tuple) and len(x) > 0
    return 1 + _depth(x[0]) if nested else getattr(x, "ndim", 0)


def _moments(rows: Rows, order: int, dim: int, axes: Tensor | None) -> AdditiveMoments:
    """Of the points, or of ``x @ axes``."""

    def turned(batch: Tensor) -> Tensor:
        return batch if axes is None else batch.double() @ axes.to(batch.device)

    batches = iter(rows)
    first = next(batches)
    moments = AdditiveMoments.empty(order, turned(check_points(rows.sample(first), dim)))
    for batch in chain([first], batches):
        moments.update(turned(batch))
    return moments.cpu()


def _covariance(rows: Rows, dim: int) -> Covariance:
    batches = iter(rows)
    first = check_points(next(batches), dim)
    covariance = Covariance.empty(first)
    for batch in chain([first], batches):
        covariance.update(batch)
    return covariance


def _with_scales(moments: AdditiveMoments, axes: Tensor | None) -> AdditiveMoments:
    """The same, with a standard deviation for what has none."""
    flat = moments.high - moments.low < MIN_SCALE
    warn_if_flat(flat, axes, MIN_SCALE)
    if moments.n_points < moments.order:
        warn(
            f"x: expected as many points as functions of a coordinate, {moments.order}, found "
            f"{moments.n_points}: they do not determine the score at small noise"
        )
    return moments.with_gaussian(flat)


def _solved(
    diffusion: Any, moments: AdditiveMoments, times: Tensor, axes: Tensor | None, rows: Rows
) -> AdditiveScore:
    reach = 0.0 if moments.order > 2 else torch.inf  # of what is linear
    ends = moments.low - reach, moments.high + reach
    table = solve_additive(moments, diffusion.ou_time(times))
    columns = moments.centre, moments.scale, *ends, axes
    return AdditiveScore(diffusion, times, table, *columns, **rows.made)
