"""Distances between scores and between samples, each with its standard error.

A ``score`` or ``truth`` is a callable ``(x (B, d), t) -> (B, d)``.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .core import (
    Score,
    as_score,
    as_tensor,
    check_field,
    check_generator,
    check_integer,
    check_number,
    check_points,
    check_time,
    full_precision,
)

# Rows per block: a block of the Gram matrix against 10^5 points in float64 stays under 1 GB.
CHUNK = 1024
SCORE_CHUNK = 16384
# Of a kernel's exponent. Distances by |x|^2 - 2 x.y + |y|^2 are 30 times faster in 1,000 dimensions
# and lose this much where points are 300 bandwidths from the centre; beyond, differences first.
ROUNDING = 1e-10


@dataclass(frozen=True)
class Estimate:
    """An estimate and its standard error (zero for a quadrature)."""

    value: float
    stderr: float = 0.0

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.value:.4g} +/- {self.stderr:.2g}"


def fisher_divergence(
    score: Score, truth: Score, x: Tensor, t: float | Tensor, *, weights: Tensor | None = None
) -> Estimate:
    r"""Fisher divergence ``E |score - truth|^2`` under the law of ``x``.

    .. math:: F = E_{x \sim \rho_t} \| s(x, t) - \nabla \log \rho_t(x) \|^2

    the explicit score matching loss (Hyvarinen 2005, JMLR 6:695-709) without its factor 1/2.

    Args:
        score: function ``(x, t) -> (B, d)``.
        truth: likewise.
        x: ``(B, d)``. Without ``weights``: at least two draws from ``rho_t``, and the mean and its
            standard error are returned. With ``weights``: quadrature nodes.
        t: a time, or ``(B,)`` or ``(B, 1)`` times; then the average is over times too.
        weights: ``(B,)``, quadrature weight times ``rho_t(x)``; the weighted sum is returned, with
            standard error zero.

    Raises:
        ValueError: malformed points or weights, or a score that is not finite at some point.
    """
    x = check_points(x, None)
    error, _ = _squared_errors(score, truth, x, t)
    if weights is not None:
        return Estimate(float(_check_weights(weights, x) @ error))
    return Estimate(float(error.mean()), _stderr(_two_or_more(error)))


def relative_fisher_divergence(
    score: Score, truth: Score, x: Tensor, t: float | Tensor, *, weights: Tensor | None = None
) -> Estimate:
    r"""``E |score - truth|^2 / E |truth|^2``: arguments as in ``fisher_divergence``.

    One is the error of the zero score; the square root is the relative ``L2(rho_t)`` error.
    The standard error of the ratio of means is the delta method's,
    ``sd(e - R a) / (mean(a) sqrt(B))`` for the terms ``e``, ``a`` and the ratio ``R``.
    """
    x = check_points(x, None)
    error, size = _squared_errors(score, truth, x, t)
    if weights is not None:
        weights = _check_weights(weights, x)
        return Estimate(float(weights @ error) / float(weights @ size))
    ratio = _two_or_more(error).mean() / size.mean()
    return Estimate(float(ratio), _stderr(error - ratio * size) / float(size.mean()))


@torch.no_grad()
@full_precision
def mmd(
    x: Tensor, y: Tensor, bandwidth: float | None = None, *, periodic: bool = False
) -> Estimate:
    r"""Unbiased estimate of the squared maximum mean discrepancy with a Gaussian kernel.

    .. math:: \widehat{MMD}^2 = \frac{\sum_{i \ne j} k(x_i, x_j)}{n(n-1)}
              + \frac{\sum_{i \ne j} k(y_i, y_j)}{m(m-1)} - \frac{2 \sum_{i,j} k(x_i, y_j)}{n m},
              \qquad k(a, b) = e^{-|a - b|^2 / 2 h^2}

    (Gretton et al. 2012, JMLR 13:723-773, lemma 6). It may be negative: its mean is zero when the
    laws agree. The standard error is that of the statistic's projections on single points,
    ``sqrt(4 var(a) / n + 4 var(b) / m)``; when the laws agree it is too large, by about
    ``sqrt(2)``.

    Time ``O((n + m)^2 d)``, memory ``O(n + m)`` times a fixed block of rows. Whatever the dtype, it
    is computed in double precision about the samples' mean, so that it does not depend on where
    they are.

    Args:
        x: sample ``(n, d)``, ``n >= 2``.
        y: sample ``(m, d)``, ``m >= 2``.
        bandwidth: ``h > 0``; by default the median distance between points of the pooled sample (of
            about 1,000 rows of each, evenly spaced).
        periodic: compare ``(cos, sin)`` of the coordinates, for points on the torus.

    Raises:
        ValueError: malformed samples, or a bandwidth that is not positive.
    """
    x, y = _check_samples(x, y, periodic)
    bandwidth = check_number(
        _median_distance(x, y) if bandwidth is None else bandwidth,
        "bandwidth",
        positive=True,
        fix="the default, the median distance, is zero when half of the pairs coincide, then "
        "choose one",
    )
    n, m = len(x), len(y)
    # Row means of each kernel matrix; its diagonal of ones is left out within a sample.
    a = (_row_sums(x, x, bandwidth) - 1) / (n - 1) - _row_sums(x, y, bandwidth) / m
    b = (_row_sums(y, y, bandwidth) - 1) / (m - 1) - _row_sums(y, x, bandwidth) / n
    stderr = 2 * math.hypot(_stderr(a), _stderr(b))
    return Estimate(float(a.mean() + b.mean()), stderr)


@torch.no_grad()
@full_precision
def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    n_projections: int = 200,
    generator: torch.Generator | None = None,
    *,
    periodic: bool = False,
) -> Estimate:
    r"""Sliced 2-Wasserstein distance between two samples.

    .. math:: SW = \Big( E_\theta \int_0^1 | F_\theta^{-1}(u) - G_\theta^{-1}(u) |^2 du \Big)^{1/2}

    with ``theta`` uniform on the unit sphere and ``F``, ``G`` the empirical distributions of the
    projected samples (Bonneel et al. 2015, J. Math. Imaging Vision 51:22-45); the integral over
    ``u`` is exact, also for samples of different sizes.
    The standard error is that of the average over projections only, by the delta method. Two
    samples of ``n`` points of one law are at a distance of order ``n^(-1/2)``, not zero: compare
    with that. Whatever the dtype, it is computed in double precision about the samples' mean.

    Args:
        x: sample ``(n, d)``, ``n >= 2``.
        y: sample ``(m, d)``, ``m >= 2``.
        n_projections: number of directions, at least two.
        generator: source of the directions, on the device of ``x``.
        periodic: compare ``(cos, sin)`` of the coordinates, for points on the torus: a metric
            between laws on the torus, with chords in place of arcs.

    Raises:
        ValueError: malformed samples, or fewer than two projections.
    """
    dtype = as_tensor(x).dtype
    x, y = _check_samples(x, y, periodic)
    n_projections = check_integer(n_projections, "n_projections", 2)
    check_generator(generator, x.device)
    direction = torch.randn(
        n_projections, x.shape[1], generator=generator, dtype=dtype, device=x.device
    ).double()
    direction = direction / direction.norm(dim=1, keepdim=True)
    i, j, width = _quantile_pairs(len(x), len(y), x)
    squares = torch.empty(n_projections, dtype=x.dtype, device=x.device)
    for k, theta in enumerate(direction):
        gap = _ascending(x @ theta)[i] - _ascending(y @ theta)[j]
        squares[k] = width @ gap.square()
    value = math.sqrt(float(squares.mean()))
    return Estimate(value, _stderr(squares) / (2 * value) if value > 0 else 0.0)


def _two_or_more(terms: Tensor) -> Tensor:
    if len(terms) < 2:
        raise ValueError(
            "x: expected two or more draws, found one: a standard error needs more; pass weights "
            "for the nodes of a quadrature"
        )
    return terms


def _stderr(terms: Tensor) -> float:
    return float(terms.std() / math.sqrt(len(terms)))


@torch.no_grad()
def _same_part(a: Any, b: Any, rows: int) -> bool:
    """Whether both are ``(rows, k)``: all of a score, or the same coordinates of it."""
    two = isinstance(a, Tensor) and isinstance(b, Tensor) and a.ndim == 2
    return two and a.shape == b.shape and len(a) == rows


def _squared_errors(
    score: Score, truth: Score, x: Tensor, t: float | Tensor
) -> tuple[Tensor, Tensor]:
    """``|score - truth|^2`` and ``|truth|^2`` at each point, ``(B,)`` each, in blocks of points."""
    score, truth = as_score(score), as_score(truth, "truth")
    t = check_time(t, len(x), like=x)
    times = t.expand(len(x))
    errors, sizes = [], []
    for rows in range(0, len(x), SCORE_CHUNK):
        block = slice(rows, rows + SCORE_CHUNK)
        # A shared time stays one: scores are much faster at one time than at B times.
        at = times[block] if t.ndim else t
        exact, found = truth(x[block], at), score(x[block], at)
        if not _same_part(found, exact, len(x[block])):
            check_field(exact, x[block], "truth")
            check_field(found, x[block], "score")
        errors.append((found - exact).square().sum(-1))
        sizes.append(exact.square().sum(-1))
    error, size = torch.cat(errors).detach(), torch.cat(sizes).detach()  # numbers come of them
    bad = ~(torch.isfinite(error) & torch.isfinite(size))
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"score: expected finite values, found NaN or inf at row {row}, x = {x[row].tolist()}, "
            f"t = {float(times[row])}: keep the points in the domain and t > 0"
        )
    return error, size


def _check_weights(weights: Any, x: Tensor) -> Tensor:
    weights = as_tensor(weights, "weights", x.dtype)
    if weights.shape != x.shape[:1]:
        raise ValueError(
            f"weights: expected shape ({len(x)},), one for each point, found {tuple(weights.shape)}"
        )
    return weights.to(x)


def _check_samples(x: Any, y: Any, periodic: bool) -> tuple[Tensor, Tensor]:
    x = check_points(x, None, name="x")
    y = check_points(y, x.shape[1], name="y")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"expected two or more points in each sample, found {len(x)} and {len(y)}")
    x, y = x.double(), y.to(x.device).double()
    if periodic:
        return torch.cat([x.cos(), x.sin()], 1), torch.cat([y.cos(), y.sin()], 1)
    centre = 0.5 * (x.mean(0) + y.mean(0))
    return x - centre, y - centre


def _median_distance(x: Tensor, y: Tensor) -> float:
    pool = torch.cat([z[:: -(-len(z) // 1000)] for z in (x, y)])
    return float(torch.pdist(pool).median())


def _row_sums(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    """``sum_j k(x_i, y_j)``, ``(n,)``, in blocks of rows; of float64 points about their centre."""
    reach = max(float(x.square().sum(1).max()), float(y.square().sum(1).max())) / bandwidth**2
    exact = reach * torch.finfo(x.dtype).eps > ROUNDING
    mode = f"{'donot_' if exact else ''}use_mm_for_euclid_dist"
    blocks = [
        torch.exp(torch.cdist(block, y, compute_mode=mode).square() / (-2 * bandwidth**2)).sum(1)
        for block in x.split(CHUNK)
    ]
    return torch.cat(blocks)


def _ascending(values: Tensor) -> Tensor:
    """``values`` ``(n,)`` in order; on a CPU by numpy, several times as fast as torch there."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy()))
    return values.sort().values


def _quantile_pairs(n: int, m: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pieces of [0, 1] where both quantile functions are constant: order indices and lengths."""
    # In units of 1 / (n m) the break points i / n and j / m are integers, so no rounding.
    ends = torch.cat(
        [
            torch.arange(1, n + 1, device=like.device) * m,
            torch.arange(1, m + 1, device=like.device) * n,
        ]
    ).unique()
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return starts // m, starts // n, (ends - starts).to(like.dtype) / (n * m)
