"""Fitting additive features: the points batch by batch, noise levels, what does not vary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..core import (
    DiffusionLike,
    Process,
    as_diffusion,
    as_tensor,
    check_points,
    check_times,
    lasting,
    name_of,
)
from ..diffusions import LONGEST_STEP, graded_times, log_clock
from ..eigenbasis import MIN_SCALE, warn, warn_if_flat
from .additive import AdditiveScore
from .additive_moments import AdditiveMoments, Covariance, check_order, solve_additive
from .additive_numerical import AdditiveSpectralScore, fit_coordinates, numerical_coordinates
from .fitted import placement
from .sample import column_names

DEFAULT_LEVELS = 1001  # evenly spaced
_BATCH = 2000  # rows read at a time
_DEVICE_ENTRIES = 2**27  # read at a time on a GPU: a launch of 100 microseconds, 1 GiB if rotated


@lasting
def fit_additive(
    x: Any,
    diffusion: DiffusionLike,
    order: int | None,
    times: Any = None,
    *,
    rotation: str | None = None,
    shrinkage: str | None = None,
    generator: torch.Generator | None = None,
) -> AdditiveScore | AdditiveSpectralScore:
    r"""Fit ``s(x, t) = grad log pi(x) + grad h_t(x)`` with one potential for each coordinate.

    .. math:: h_t(x) = \sum_i \sum_{n \le N} \alpha_{i,n}(t)\, \phi_n(x_i), \qquad
              \alpha_t = A_t^{-1} b_t, \quad N = order

    The functions are polynomials where ``pi`` is ``N(0, I)``; for a nonlinear process whose prior
    has independent coordinates they are the eigenfunctions of each, found numerically, and the
    result is an :class:`AdditiveSpectralScore`.

    The systems of different coordinates do not mix, so that images can be fitted: ``O(M d order)``
    for the moments of ``M`` points, ``O(T d order^3)`` for the solves at ``T`` noise levels, in
    memory that does not grow with ``M`` (paper A, OISM(3) and OISM(6)).

    Args:
        x: data ``(M, d)``, floating point: a tensor, an array, a data frame, a list of rows; sums
            are taken in double precision whatever the dtype. Or an iterable of batches ``(B, d)``,
            such as a ``DataLoader`` (of a batch ``[points, labels, ...]`` the points), or
            ``Images``. How the points are divided changes the result at a level by rounding alone.
        diffusion: ``VariancePreserving`` or ``OrnsteinUhlenbeck``; anything with ``dim`` and
            ``ou_time`` whose stationary law is ``N(0, I)``; ``Langevin`` or ``DoubleWell``, for
            which all points are held in memory.
        order: the number of functions for each coordinate; of polynomials 1 to 9.
        times: increasing noise levels ``(T,)`` at which the coefficients are solved; by default
            1,001 evenly spaced ones from 0 to the horizon, and before the second of them as many
            more as the smallest scale of the data needs; of a nonlinear process log-spaced, from
            where the noise adds 1% to the smallest scale.
        rotation: ``"pca"`` takes the coordinates along the principal axes of the data (ours); order
            2 is then the score of a Gaussian with the data's mean and covariance. Of polynomials
            only.
        shrinkage: of a nonlinear process: ``"none"``, ``"james-stein"``, ``"heat"`` or
            ``"heat+1"``, for each coordinate by itself; None: ``"heat+1"``. Of polynomials none.
        generator: dequantises ``Images``.

    Raises:
        TypeError: integer or otherwise unusable points; another process.
        ValueError: points, times, an order, a rotation or a shrinkage other than above, no points
            at all; an iterator where the points are read twice; ``Images`` without a generator; of
            a nonlinear process, a prior whose coordinates are not independent, points beyond its
            walls.

    Warns with :class:`SpectralWarning` where the data leave coefficients undetermined: constant
    coordinates or directions (which get a standard deviation of 1e-4), fewer points than functions
    of a coordinate.
    """
    process, rows = as_diffusion(diffusion), Rows(x, generator)
    if process.ou_time is None or process.dim is None:
        numerical_coordinates(process)  # before the points are read
        if rotation is not None:
            raise ValueError(
                f"rotation: expected None, found {rotation!r}: the coordinates are those in which "
                f"the prior of {name_of(process)} is a product"
            )
        points = torch.cat(list(rows))
        return fit_coordinates(points, diffusion, order, times, shrinkage, rows.made["columns"])
    if shrinkage not in (None, "none"):
        raise ValueError(f"shrinkage: expected none of polynomials, found {shrinkage!r}")
    return _fit_polynomials(rows, diffusion, check_order(order), times, rotation)


def _fit_polynomials(
    rows: Rows, diffusion: Any, order: int, times: Any, rotation: str | None
) -> AdditiveScore:
    dim, axes = as_diffusion(diffusion).dim, None
    assert dim is not None
    times = None if times is None else check_times(times).cpu()
    if rotation not in (None, "pca"):
        raise ValueError(f"rotation: expected None or 'pca', found {rotation!r}")
    if rotation is None:
        moments = _moments(rows, order, dim, None)
    else:
        if order > 2 and rows.once:
            raise ValueError(
                "x: expected points that can be read twice, found an iterator: rotated features of "
                "order > 2 need the axes first; pass a tensor, a list of batches, or Images"
            )
        covariance = _covariance(rows, dim)
        variances, axes = (found.cpu() for found in covariance.axes())
        if order > 2:
            moments = _moments(rows, order, dim, axes)
        else:  # mean and variance along each axis are all: no second reading
            moments = covariance.along(axes, variances, order)
    if order > 1:  # one function moves the mean only
        moments = _with_scales(moments, axes)
    if times is None:
        start = _solved(diffusion, moments, torch.zeros(1, dtype=torch.float64), axes, rows)
        times = _even_times(as_diffusion(diffusion), start.finest_time)
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
        self._columns = column_names(x)
        self.made: dict[str, Any] = {}

    @property
    def once(self) -> bool:
        """Whether they can be read only once."""
        return isinstance(self._x, Iterator)

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self._parts() if self._whole else self._batches():
            self.made = self.made or placement(batch) | {"columns": self._columns}
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
