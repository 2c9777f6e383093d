r"""Where a polynomial score may be believed, and its continuation beyond (our choice).

Along the principal axes of the data, ``p = A^T x``, the reach at time ``t`` is the box

.. math:: a\, low_j - 4 \sqrt v \le p_j \le a\, high_j + 4 \sqrt v,
          \qquad a = e^{-t}, \quad v = 1 - a^2,

the range of the data and four deviations of the noise around it. Let ``q`` be the nearest point of
the box and ``g`` the score of the Gaussian with the data's mean and covariance, its slopes
``1 / s_j^2 = 1 / (a^2 \lambda_j + v)`` along the axes. Beyond,

.. math:: s(x, t) = g(x, t) + e^{-\frac12 \sum_j r_j^4} \big( s(y, t) - g(y, t) \big),
          \qquad r_j = \frac{p_j - q_j}{\ell_j}, \quad y_j = q_j + \ell_j \tanh r_j,
          \quad \ell_j = \tfrac14 s_j .

Inside nothing changes, and across the edge two derivatives of the score are continuous. Beyond, a
polynomial is extrapolation: it may point outwards, and a flow that goes with it leaves the numbers;
what it differs by from the Gaussian fades over a quarter of a deviation.
(:class:`~markovscore.AdditiveScore` keeps the difference, coordinate by coordinate.)

With a share of the stationary law in the moments the box reaches to four deviations of that law
too, and beyond it, along each axis, the Gaussian is the wider of the two: far from narrow data the
law is that share, and not their own Gaussian.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..core import Field, pull_back
from ..eigenbasis import Moments
from ..kernels import REACH

# Nodes of a quadrature that weigh less than this share of the heaviest are beyond the data.
_LIGHT = 1e-6
_FADE = 4.0  # one over the length, in deviations, over which a difference fades
_GONE = 10.0  # such lengths: e^{-5000} of it is left
NAMES = ("axes", "centre", "variance", "low", "high")


@dataclass(frozen=True, eq=False)
class Reach:
    """``axes`` ``(d, d)``, one a column; ``centre``, ``variance``, ``low``, ``high`` ``(d,)`` of
    the data along them, float64, the variance infinite where the space is bounded; ``heat``, the
    time that shrinkage has diffused their law for."""

    axes: Tensor
    centre: Tensor
    variance: Tensor
    low: Tensor
    high: Tensor
    heat: float = 0.0

    @classmethod
    def of(
        cls, x: Tensor, weights: Tensor | None, axes: Tensor, variance: Tensor, moments: Moments
    ) -> "Reach":
        """Of the points ``x`` ``(N, d)``, or of the nodes that have a weight, as ``moments`` were
        shrunk."""
        p, mix = x.double() @ axes, moments.mix
        centre = p.mean(0) if weights is None else weights.double() @ p
        heavy = p if weights is None else p[weights > _LIGHT * weights.max()]
        low, high = heavy.aminmax(dim=0)
        low[variance.isinf()], high[variance.isinf()] = -torch.inf, torch.inf
        if mix < 1:
            low, high = low.clamp(max=-REACH), high.clamp(min=REACH)
            centre, variance = torch.where(variance < 1, 0.0, centre), variance.clamp(min=1)
        return cls(axes.cpu(), centre.cpu(), variance.cpu(), low.cpu(), high.cpu(), moments.heat)

    @cached_property
    def _somewhere_bounded(self) -> bool:
        return bool(self.variance.isinf().any())

    def beyond(self, x: Tensor, t: Tensor) -> "Beyond | None":
        """Points ``x`` ``(B, d)`` at ``t``, ``()`` or ``(B,)``, if some are out of reach."""
        axes, centre, variance, low, high = (getattr(self, name).to(x) for name in NAMES)
        t = (t + self.heat).reshape(-1, 1)
        a, noise = torch.exp(-t).to(x), -torch.expm1(-2 * t).to(x)
        p = x @ axes
        near = p.clamp(a * low - REACH * noise.sqrt(), a * high + REACH * noise.sqrt())
        slope = 1 / (a.square() * variance + noise)
        if self._somewhere_bounded:  # not a line: no reach, no Gaussian
            bounded = variance.isinf()
            near, slope = torch.where(bounded, p, near), torch.where(bounded, 0.0, slope)
        if not bool((p != near).any()):
            return None
        return Beyond(x, axes, p, near, a * centre, slope)


class Beyond:
    """Points ``x`` of which some ``rows`` ``(B,)`` are out of reach.

    ``nearest`` ``(B, d)``: ``y``, in reach but for a fraction of a deviation; the points themselves
    where they are. Finite for finite ``x``.
    """

    def __init__(
        self, x: Tensor, axes: Tensor, p: Tensor, near: Tensor, centre: Tensor, slope: Tensor
    ) -> None:
        self._axes, self._slope = axes, slope.expand_as(p)
        self.rows = (p != near).any(1)
        # Where the space is bounded nothing is beyond, and any length will do.
        length = torch.where(slope > 0, slope, 1.0).rsqrt() / _FADE
        self._excess = ((p - near) / length).clamp(-_GONE, _GONE)
        soft = self._excess.tanh()
        near = near + length * soft
        self._moving = 1 - soft.square()  # the derivative of near
        self.nearest = torch.where(self.rows[:, None], near @ axes.T, x)
        self._there, self._here = ((q - centre) * -slope @ axes.T for q in (p, near))
        self._fade = torch.exp(-0.5 * self._excess.pow(4).sum(1, keepdim=True))

    def continued(self, value: Tensor) -> Tensor:
        """The score ``(B, d)``, given that at the nearest points."""
        beyond = self._there + self._fade * (value - self._here)
        return torch.where(self.rows[:, None], beyond, value)

    def divergence(self, field: Field, t: Tensor) -> Tensor:
        """That of the continued ``field(x, t)`` at the rows that are out of reach."""
        rows = self.rows
        value, vjp = pull_back(field, self.nearest[rows], t if t.ndim == 0 else t[rows])
        fade, slope, excess = self._fade[rows, 0], self._slope[rows], self._excess[rows]
        own = torch.stack([vjp(axis.expand_as(value)) @ axis for axis in self._axes.T], 1)
        moving = ((own + slope) * self._moving[rows]).sum(1)
        difference = (value - self._here[rows]) @ self._axes
        fading = 2 * _FADE * (difference * excess.pow(3) * slope.sqrt()).sum(1)
        return fade * (moving - fading) - slope.sum(1)
