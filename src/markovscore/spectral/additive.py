r"""OISM for many coordinates: one polynomial potential for each, at a cost linear in their number.

.. math:: s(x, t) = -x + \nabla h_t(x), \qquad h_t(x) = \sum_i \sum_{n \le N} \alpha_{i,n}(t)\,
          \phi_n(x_i)

for a process with stationary law ``N(0, I)``. Gradients of functions of different coordinates are
orthogonal, so ``A_t`` is block-diagonal *without* any assumption of independence: ``d`` systems of
size ``N`` a noise level (paper A, OISM(N) on images; the block structure is our reading).

Numerically each block is solved in the standardised variable ``u = (x_i - a c_i) / s_{i,t}``,
``s_{i,t}^2 = a^2 s_i^2 + 1 - a^2``, ``a = e^{-t}``: under the process ``u`` is an
Ornstein-Uhlenbeck process too, with ``r = a s_i / s_{i,t}`` in place of ``a``, so that
``E phi_n(u_t) = r^n M_n``. For ``N >= 2`` the space of potentials is the same, hence the estimate;
what changes is the condition of ``A_t``, which for a pixel of standard deviation 0.03 and ``N = 6``
would pass 1e15.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import (
    Process,
    as_diffusion,
    as_tensor,
    between,
    check_points,
    check_time,
    check_times,
    full_precision,
    hermite,
    lasting,
    name_of,
    series,
    standard_scale,
)
from ..diffusions import LONGEST_STEP, graded_times, log_clock
from ..eigenbasis import MIN_SCALE, SpectralWarning, warn_if_flat
from ..kernels import additive_score
from .additive_moments import AdditiveMoments, Covariance, check_order, solve_additive
from .fitted import read_score, write_score

DEFAULT_LEVELS = 1001
_TENSORS = ("times", "table", "centre", "scale", "low", "high", "rotation")
_BATCH = 2000  # rows read at a time from images
_DEVICE_ENTRIES = 2**27  # read at a time on a GPU: a launch of 100 microseconds, 1 GiB if rotated


def fit_additive(
    x: Any,
    diffusion: Any,
    order: int | None,
    times: Any = None,
    rotation: str | None = None,
    generator: torch.Generator | None = None,
) -> AdditiveScore:
    """Additive OISM: see :func:`markovscore.fit_spectral` with ``features="additive"``."""
    order = check_order(order)
    process = as_diffusion(diffusion)
    if process.ou_time is None or process.dim is None:
        raise TypeError(
            "diffusion: expected VariancePreserving or OrnsteinUhlenbeck, found "
            f"{name_of(process)}: additive features need the stationary law N(0, I)"
        )
    times = None if times is None else check_times(times).cpu()
    if rotation is None:
        moments = _moments(x, generator, order, process.dim, None)
        return _score(diffusion, moments, times, None)
    if rotation != "pca":
        raise ValueError(f"rotation: expected None or 'pca', found {rotation!r}")
    if order > 2 and isinstance(x, Iterator):
        raise ValueError(
            "x: expected points that can be read twice, found an iterator: rotated features of "
            "order > 2 need the axes first; pass a tensor, a list of batches, or Images"
        )
    covariance = _covariance(_batches(x, generator), process.dim)
    variances, axes = (found.cpu() for found in covariance.axes())
    if order > 2:
        moments = _moments(x, generator, order, process.dim, axes)
        return _score(diffusion, moments, times, axes)
    # Mean and variance along each axis are all that two functions need: no second reading.
    scale = variances.sqrt()
    sums = torch.zeros(order + 1, process.dim, dtype=torch.float64)
    sums[0] = covariance.n_points
    centre = covariance.mean().cpu() @ axes
    low, high = centre - scale, centre + scale  # 1e-7 of the largest: the rounding of variances
    floor = (1e-7 * scale.max()).clamp(min=MIN_SCALE)
    scale = torch.where(scale < floor, 0, scale)
    moments = AdditiveMoments(order, centre, scale, sums, low, high, covariance.n_points)
    return _score(diffusion, moments, times, axes)


def _default_times(process: Process, finest: float) -> Tensor:
    """Evenly spaced levels, and before them as many as the smallest scale of the data needs."""
    even = torch.linspace(0, process.horizon, DEFAULT_LEVELS, dtype=torch.float64)
    last = float(even[-1])
    length = float(log_clock(process, even[-1], finest))
    early = graded_times(process, last, math.ceil(length / LONGEST_STEP), finest)
    early = early[:-1][early.diff() < even[1]]
    return even if len(early) == 0 else torch.cat([early, even[even > early[-1]]])


def _batches(x: Any, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Rows ``(B, d)`` of an array, of an iterable of batches, or of ``Images``, dequantised.

    Of a batch ``[points, labels, ...]``, as a ``DataLoader`` makes it, the points.
    """
    listed = isinstance(x, list | tuple) and len(x) > 0 and np.ndim(x[0]) == 1
    batched = isinstance(x, Iterable) and not (listed or hasattr(x, "__array__"))
    if isinstance(x, Tensor) or not (batched or hasattr(x, "batches")):
        x = check_points(x, None, finite=False).detach()
        rows = max(_BATCH, _DEVICE_ENTRIES // x.shape[1]) if x.is_cuda else _BATCH
        yield from (x[:_BATCH], *x[_BATCH:].split(rows)) if len(x) > _BATCH else (x,)
    elif hasattr(x, "batches"):
        if generator is None:
            raise ValueError(
                "generator: expected a torch.Generator, which dequantises the images, found none: "
                "pass generator=torch.Generator().manual_seed(0)"
            )
        yield from x.batches(_BATCH, generator)
    else:
        for batch in x:
            listed = isinstance(batch, list | tuple) and getattr(batch[0], "ndim", 0) > 1
            yield as_tensor(batch[0] if listed else batch).detach()


def _moments(
    x: Any, generator: torch.Generator | None, order: int, dim: int, axes: Tensor | None
) -> AdditiveMoments:
    """Of the points, or of ``x @ axes``; a tensor's scale is that of rows from all over it."""

    def turned(batch: Tensor) -> Tensor:
        return batch if axes is None else batch.double() @ axes.to(batch.device)

    moments = None
    for batch in _batches(x, generator):
        if moments is None:
            first = x[:: max(1, len(x) // _BATCH)] if isinstance(x, Tensor) else batch
            moments = AdditiveMoments.empty(order, turned(check_points(first, dim)))
        moments.update(turned(batch))
    return _some(moments).cpu()


def _covariance(batches: Iterator[Tensor], dim: int) -> Covariance:
    covariance = None
    for batch in batches:
        covariance = covariance or Covariance.empty(check_points(batch, dim))
        covariance.update(batch)
    return _some(covariance)


def _some(found: Any) -> Any:
    if found is None:
        raise ValueError("x: expected at least one batch of points, found none")
    return found


def _score(
    diffusion: Any, moments: AdditiveMoments, times: Tensor | None, rotation: Tensor | None
) -> AdditiveScore:
    if moments.order > 1:  # one function moves the mean only
        flat = moments.high - moments.low < MIN_SCALE
        warn_if_flat(flat, rotation, MIN_SCALE, 6)
        moments = moments.with_gaussian(flat)
        if moments.n_points < moments.order:
            warnings.warn(
                f"x: expected as many points as functions of a coordinate, {moments.order}, found "
                f"{moments.n_points}: they do not determine the score at small noise",
                SpectralWarning,
                stacklevel=5,
            )
    if times is None:
        start = _solved(diffusion, moments, torch.zeros(1, dtype=torch.float64), rotation)
        times = _default_times(as_diffusion(diffusion), start.finest_time)
    return _solved(diffusion, moments, times, rotation)


def _solved(
    diffusion: Any, moments: AdditiveMoments, times: Tensor, rotation: Tensor | None
) -> AdditiveScore:
    reach = 0.0 if moments.order > 2 else torch.inf  # of what is linear
    return AdditiveScore(
        diffusion,
        times,
        solve_additive(moments, diffusion.ou_time(times)),
        moments.centre,
        moments.scale,
        moments.low - reach,
        moments.high + reach,
        rotation,
    )


@dataclass(frozen=True, eq=False)
class AdditiveScore:
    """The fitted score ``s(x, t)`` and its divergence; made by ``fit_spectral``.

    Attributes:
        diffusion: with stationary law ``N(0, I)`` and ``ou_time``.
        times: ``(T,)`` float64, the fitted noise levels, in the diffusion's (normalised) time.
        table: ``(T, max(N, 2), d)`` float64, coefficients of the score in the standardised
            variable, interpolated linearly in time (paper A, Figure 5).
        centre: ``(d,)`` float64, of the coordinates at time zero: their mean in the first batch.
        scale: ``(d,)`` float64, their standard deviation there.
        low: ``(d,)`` float64, lower end of their range (infinite where the score is linear).
        high: ``(d,)`` float64, upper end. Beyond four standard deviations of noise from the range
            the polynomial is continued by the Gaussian's slope, ``-1 / s_{i,t}^2``: there it is
            extrapolation, and a flow that goes with it leaves the numbers (our choice).
        rotation: None, or ``(d, d)``, principal axes as columns: coordinates are ``x @ rotation``.

    Evaluation follows dtype and device of ``x``; copies of the tables are kept for each.
    """

    diffusion: Any
    times: Tensor
    table: Tensor
    centre: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    rotation: Tensor | None = None
    _copies: dict = field(default_factory=dict, repr=False, init=False)

    def __call__(self, x: Tensor, t: float | Tensor) -> Tensor:
        """``s(x, t)`` ``(B, d)`` at ``x`` ``(B, d)`` and a time, or ``(B,)`` or ``(B, 1)`` of them.

        Raises:
            TypeError, ValueError: malformed points, a time outside the fitted range.
        """
        return self._evaluate(x, t, divergence=False)[0]

    def divergence(self, x: Tensor, t: float | Tensor) -> Tensor:
        """``div s(x, t)`` ``(B,)``."""
        return self.score_and_divergence(x, t)[1]

    def score_and_divergence(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """``s(x, t)`` ``(B, d)`` and ``div s(x, t)`` ``(B,)``, which a rotation does not change."""
        score, divergence = self._evaluate(x, t, divergence=True)
        assert divergence is not None
        return score, divergence

    @full_precision
    def _evaluate(
        self, x: Tensor, t: float | Tensor, divergence: bool
    ) -> tuple[Tensor, Tensor | None]:
        x = check_points(x, len(self.centre), finite=False)  # additive_score looks at the numbers
        t = check_time(t, len(x)).reshape(-1)
        upper, share = self._levels(t)
        z = x if self.rotation is None else x @ self._as(x, "rotation")
        score, total = additive_score(
            z,
            self.diffusion.ou_time(t)[: len(upper)],
            upper,
            share,
            self._as(x, "table"),
            self._as(x, "centre"),
            self._as(x, "scale"),
            self._as(x, "low"),
            self._as(x, "high"),
            divergence,
        )
        return self._turn_back(score), total

    def _turn_back(self, score: Tensor) -> Tensor:
        return score if self.rotation is None else score @ self._as(score, "rotation").T

    def _as(self, x: Tensor, name: str) -> Tensor:
        """The table ``name`` with dtype and device of ``x``, converted once."""
        key = (name, x.dtype, x.device)
        if key not in self._copies:
            self._copies[key] = lasting(getattr(self, name).to)(x.device, x.dtype)
        return self._copies[key]

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Index of the level above each time, and its share in ``g(t)``; one where all agree."""
        t = t.cpu()
        if len(t) > 1 and bool((t == t[0]).all()):  # one time for all points, as samplers pass it
            t = t[:1]
        self._check_range(t)
        if len(self.times) == 1:
            return torch.zeros(len(t), dtype=torch.int64), torch.ones_like(t)
        upper = torch.searchsorted(self.times, t).clamp(1, len(self.times) - 1)
        left, right = self.times[upper - 1], self.times[upper]
        return upper, ((t - left) / (right - left)).clamp(0, 1)

    def _check_range(self, t: Tensor) -> None:
        first, last = float(self.times[0]), float(self.times[-1])
        slack = 1e-6 * last  # a time that went through float32 may miss the end by its rounding
        earliest, latest = (float(end) for end in t.detach().aminmax())
        if not (earliest >= first - slack and latest <= last + slack):
            raise ValueError(
                f"t: expected times in the fitted range [{first:g}, {last:g}], found "
                f"{float(t.min()):g} to {float(t.max()):g}: fit with times that cover it"
            )

    @cached_property
    def finest_time(self) -> float:
        r"""The process's time at which the noise is as wide as the smallest scale of the data.

        There ``1 - a^2 = v``, where ``v`` is the least of the variances ``s_i^2`` and, at the first
        level, ``1 / |\partial_i s_i|`` of a pull over the range of the data.

        Samplers grade their steps by it; so do the default levels.
        """
        first = self.diffusion.ou_time(self.times[:1])[:, None]
        a, s_t, _ = standard_scale(self.scale, first)
        reach = 3 * self.scale
        low = torch.where(self.low.isfinite(), self.low, self.centre - reach)
        high = torch.where(self.high.isfinite(), self.high, self.centre + reach)
        points = torch.lerp(low, high, torch.linspace(0, 1, 65, dtype=torch.float64)[:, None])
        slope = series(a * (points - self.centre) / s_t, self.table[0][:, None])[1] / s_t.square()
        pull = max(1.0, float(-slope.min()), 1 / float(self.scale.square().min()))
        clock, end = (
            as_diffusion(self.diffusion).clock,
            torch.tensor(self.diffusion.horizon).double(),
        )
        ratio = clock.elapsed(end) / self.diffusion.ou_time(end)
        return float(clock.inverse(0.5 / pull * ratio))

    @property
    def coefficients(self) -> Tensor:
        """:meth:`at` the fitted times, ``(T, K, d)``."""
        return self.at(self.times)

    @lasting
    def at(self, t: float | Tensor) -> Tensor:
        r"""``alpha(t)`` ``(T, K, d)`` at ``(T,)`` times, in the Hermite functions of the paper.

        By projection, ``alpha_n = n^{-1/2} E_{z ~ N(0,1)} phi_{n-1}(z) (s(z, t) + z)``, exact with
        Gauss-Hermite nodes (paper A, Figure 5). ``K = max(N, 2)``; a rotated fit's are those of the
        rotated coordinates.
        """
        t = check_time(t, None).reshape(-1)
        count = self.table.shape[1]
        points, weights = np.polynomial.hermite_e.hermegauss(count + 1)
        z = torch.from_numpy(points)[:, None, None]
        a, s_t, _ = standard_scale(self.scale, self.diffusion.ou_time(t)[:, None])
        g = between(self.table, *self._levels(t))
        value = series((z - a * self.centre) / s_t, g[:, None])[0] / s_t + z
        phi = torch.stack(list(hermite(z[:, 0, 0], count)))
        n = torch.arange(1, count + 1, dtype=torch.float64)[:, None]
        share = phi * torch.from_numpy(weights / weights.sum()) / n.sqrt()
        return torch.einsum("nq,qtd->tnd", share, value)

    def save(self, path: Any) -> None:
        """Write a safetensors file, whole or not at all."""
        write_score(path, "AdditiveScore", self.diffusion, self._tensors())

    @classmethod
    @lasting
    def load(cls, path: Any, diffusion: Any = None) -> AdditiveScore:
        """Read what :meth:`save` wrote; a diffusion of a class of one's own is passed again.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a corrupt file, or one of another kind; another diffusion, or none where one
                is needed.
        """
        diffusion, tensors = read_score(path, "AdditiveScore", diffusion)
        return cls(diffusion, **tensors)

    def _tensors(self) -> dict[str, Tensor]:
        named = {name: getattr(self, name) for name in _TENSORS}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def __deepcopy__(self, memo: dict) -> AdditiveScore:
        return self  # immutable: averaged copies of a network share it

    @property
    def checksum(self) -> str:
        """Identifies the fit in the checkpoints of networks that are trained on top of it."""
        crc = 0
        for tensor in self._tensors().values():
            crc = zlib.crc32(tensor.contiguous().cpu().numpy().tobytes(), crc)
        return f"AdditiveScore {tuple(self.table.shape)} crc32 {crc:08x}"
