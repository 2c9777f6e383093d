r"""Moments of one coordinate at a time, streamed: what additive OISM needs of any number of points.

With ``u = (x_i - c_i) / s_i`` for a fixed centre and scale the averages

.. math:: M_{i,n} = E\, \phi_n(u_i), \qquad \phi_n = He_n / \sqrt{n!}, \quad n \le \max(N, 2N - 2),

determine the score-matching problem at all noise levels. Centre and scale come from the first
batch; they set the conditioning of what follows, not its result.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core import check_finite, check_integer, check_points, lasting, standard_scale
from ..eigenbasis import MIN_SCALE
from ..kernels import hermite_moments

MAX_ORDER = 9  # beyond, moments in double precision no longer determine the score at small noise
# A pivot below this share of its diagonal is rounding: the data do not determine that function.
_MIN_PIVOT = 1e-11
_TENSORS = ("centre", "scale", "sums", "low", "high")


def check_order(order: int | None) -> int:
    """``order`` as an integer in ``1..MAX_ORDER``.

    Raises:
        ValueError: it is not.
    """
    return check_integer(order, "order", 1, MAX_ORDER)


@dataclass
class AdditiveMoments:
    """Running sums of ``phi_n(u_i)``, ``(degree + 1, d)`` float64, over any number of batches.

    Beside them ``low`` and ``high`` ``(d,)``, the range of each coordinate.
    Constant memory. Two of them merge if they share centre and scale: give every worker a copy of
    an :meth:`empty` one.
    """

    order: int
    centre: Tensor
    scale: Tensor
    sums: Tensor
    low: Tensor
    high: Tensor
    n_points: int = 0

    @classmethod
    @lasting
    def empty(cls, order: int, first: Tensor) -> "AdditiveMoments":
        """No points yet; centre and scale ``(d,)`` from the points ``first`` ``(B, d)``.

        Raises:
            TypeError, ValueError: malformed points, or an order outside ``1..9``.
        """
        order = check_order(order)
        first = check_points(first, None).detach().double()
        scale = first.std(0, correction=0).clamp(min=MIN_SCALE)
        sums = first.new_zeros(max(order, 2 * order - 2) + 1, first.shape[1])
        infinite = torch.full_like(scale, torch.inf)
        return cls(order, first.mean(0), scale, sums, infinite, -infinite)

    @lasting
    def update(self, x: Tensor) -> None:
        """Add the points ``x`` ``(B, d)``; any floating dtype, sums in double precision.

        Raises:
            TypeError, ValueError: malformed points.
        """
        x = check_points(x, self.sums.shape[1], finite=False)
        added, low, high = hermite_moments(x, len(self.sums) - 1, self.centre, self.scale)
        self.sums += added.to(self.sums)
        self.low = self.low.minimum(low.to(self.low))
        self.high = self.high.maximum(high.to(self.high))
        self.n_points += len(x)

    def merge(self, other: "AdditiveMoments") -> None:
        """Add the points that ``other`` has seen.

        Raises:
            ValueError: another order, centre or scale.
        """
        same = self.order == other.order and self.sums.shape == other.sums.shape
        if not (
            same and torch.equal(self.centre, other.centre) and torch.equal(self.scale, other.scale)
        ):
            raise ValueError(
                "expected moments with one order, centre and scale, found different ones: start "
                "every worker from a copy of the same AdditiveMoments.empty"
            )
        self.sums += other.sums
        self.low = self.low.minimum(other.low)
        self.high = self.high.maximum(other.high)
        self.n_points += other.n_points

    def spread(self) -> Tensor:
        """Standard deviations ``(d,)``; needs two polynomials at least."""
        mean = self.mean()
        variance = 1 + math.sqrt(2) * mean[2] - mean[1].square()
        return self.scale * variance.clamp(min=0).sqrt()

    def with_gaussian(self, flat: Tensor) -> "AdditiveMoments":
        """The same, the coordinates ``flat`` ``(d,)`` replaced by ``N(mean, MIN_SCALE^2)``."""
        sums, centre = self.sums.clone(), self.centre + self.scale * self.mean()[1] * flat
        sums[1:, flat] = 0
        scale = torch.where(flat, MIN_SCALE, self.scale)
        return replace(self, sums=sums, centre=centre, scale=scale)

    def cpu(self) -> "AdditiveMoments":
        """The same with all tensors on the CPU, where the fit is solved."""
        tensors = {name: getattr(self, name).cpu() for name in _TENSORS}
        return replace(self, **tensors)

    def mean(self) -> Tensor:
        """``M`` ``(degree + 1, d)``, averages of the normalised polynomials.

        Raises:
            ValueError: no points yet.
        """
        if self.n_points == 0:
            raise ValueError("expected at least one point, found none: call update first")
        return self.sums / self.n_points


@dataclass
class Covariance:
    """Running mean and covariance of rows, float64: ``d^2`` memory, whatever their number.

    Products are of offsets from the mean, each batch's own first, so that nothing cancels wherever
    the rows are (Chan, Golub and LeVeque 1983, The American Statistician 37:242-247).
    """

    centre: Tensor
    products: Tensor
    n_points: int = 0

    @classmethod
    @lasting
    def empty(cls, first: Tensor) -> "Covariance":
        """No points yet, of the dimension and on the device of ``first`` ``(B, d)``."""
        first = check_points(first, None).detach()
        zero = torch.zeros_like(first[0], dtype=torch.float64)
        return cls(zero, torch.outer(zero, zero))

    @lasting
    def update(self, x: Tensor) -> None:
        """Add the points ``x`` ``(B, d)``."""
        x = check_points(x, len(self.centre)).detach().double()
        mean, total = x.mean(0), self.n_points + len(x)
        offset, step = x - mean, mean - self.centre
        self.products.addmm_(offset.T, offset)
        self.products.addr_(step, step, alpha=self.n_points * len(x) / total)
        self.centre += step * (len(x) / total)
        self.n_points = total

    def mean(self) -> Tensor:
        """``(d,)``."""
        return self.centre

    def axes(self) -> tuple[Tensor, Tensor]:
        """Variances ``(d,)``, decreasing, and principal axes ``(d, d)``, one a column."""
        covariance = self.products / self.n_points
        check_finite(covariance, "covariance")
        variances, axes = torch.linalg.eigh(covariance)
        return variances.flip(0).clamp(min=0), axes.flip(1).contiguous()

    def along(self, axes: Tensor, variances: Tensor, order: int) -> AdditiveMoments:
        """The moments along :meth:`axes`, on the CPU, for up to two functions: the mean and the
        variance are all that these need."""
        scale, centre = variances.sqrt(), self.mean().cpu() @ axes
        sums = torch.zeros(order + 1, len(centre), dtype=torch.float64)
        sums[0] = self.n_points
        low, high = centre - scale, centre + scale
        floor = (1e-7 * scale.max()).clamp(min=MIN_SCALE)  # the rounding of variances
        scale = torch.where(scale < floor, 0, scale)
        return AdditiveMoments(order, centre, scale, sums, low, high, self.n_points)


def solve_additive(moments: AdditiveMoments, ou_times: Tensor) -> Tensor:
    r"""Coefficients ``g`` ``(T, N, d)`` of the total score in the standardised variable.

    .. math:: s_i = \frac{1}{s_{i,t}} \sum_{n < \max(N, 2)} g_{i,n}(t)\, \phi_n(u_i)

    from ``A_t[j,k] = sqrt(jk) E phi_{j-1} phi_{k-1}`` and ``b_t[k] = k r^k M_k``, both by the
    product formula of Hermite polynomials (paper A, Example 6), ``-u`` added.
    ``ou_times`` ``(T,)`` float64: times of the unit Ornstein-Uhlenbeck process.
    """
    mean, order = moments.mean(), moments.order
    if order == 1:  # the slope -1 of the stationary law is kept: the variable must not be scaled
        return _first_order(mean, moments, ou_times)
    k = torch.arange(1, order + 1).to(mean)
    root = k.sqrt()[:, None]
    products = (root * root.T).reshape(-1, 1) * _product_table(order).to(mean)
    out = mean.new_empty(len(ou_times), order, mean.shape[1])
    decayed = torch.empty_like(mean)
    for g, t in zip(out, ou_times, strict=True):
        r = standard_scale(moments.scale, t)[2]
        power = torch.ones_like(r)
        for now, average in zip(decayed, mean, strict=True):
            torch.mul(average, power, out=now)
            power *= r
        energy = (products @ decayed[: 2 * order - 1]).reshape(order, order, -1)
        g[:] = root * _solve(energy, k[:, None] * decayed[1 : order + 1])
        g[1] -= 1
    return out


def _first_order(mean: Tensor, moments: AdditiveMoments, ou_times: Tensor) -> Tensor:
    """``s = a E x - x``: at order one ``A_t`` is one, ``alpha = a E x``."""
    out = mean.new_empty(len(ou_times), 2, mean.shape[1])
    for g, t in zip(out, ou_times, strict=True):
        a, scale, _ = standard_scale(moments.scale, t)
        g[0] = a * moments.scale * mean[1] * scale
        g[1] = -(scale**2)
    return out


def _product_table(order: int) -> Tensor:
    """``phi_i phi_j = sum_p table[i order + j, p] phi_p`` for ``i, j < order``."""
    table = torch.zeros(order, order, 2 * order - 1, dtype=torch.float64)
    for i in range(order):
        for j in range(order):
            for m in range(min(i, j) + 1):
                top = math.factorial(i) * math.factorial(j) * math.factorial(i + j - 2 * m)
                bottom = math.factorial(m) * math.factorial(i - m) * math.factorial(j - m)
                table[i, j, i + j - 2 * m] = math.sqrt(top) / bottom
    return table.reshape(order * order, -1)


def _solve(A: Tensor, b: Tensor) -> Tensor:
    """``A^{-1} b`` for ``A`` ``(N, N, d)`` positive semi-definite and ``b`` ``(N, d)``.

    Elimination without pivoting, all coordinates at once: LAPACK's call for each small matrix takes
    longer than its arithmetic. A function that earlier ones determine gets the coefficient zero.
    """
    size, floor = len(A), _MIN_PIVOT * A.diagonal().T
    b, inverse = b.clone(), torch.empty_like(b)
    for k in range(size):
        inverse[k] = torch.where(A[k, k] > floor[k], 1 / A[k, k], 0.0)
        factor = A[k + 1 :, k] * inverse[k]
        A[k + 1 :, k + 1 :] -= factor[:, None] * A[k, k + 1 :]
        b[k + 1 :] -= factor * b[k]
    for k in reversed(range(size)):
        b[k] = (b[k] - (A[k, k + 1 :] * b[k + 1 :]).sum(0)) * inverse[k]
    return b
