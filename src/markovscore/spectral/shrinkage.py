"""Shrinkage of empirical moments: how far to trust the average of a rough eigenfunction.

The sample means ``M_m`` of many eigenfunctions are the textbook setting of Stein's effect (paper
A, Figure 1, last column).  Each rule maps ``Moments`` to ``Moments`` whose shrunk means are again
those of a law, so that the matrices ``A_t`` stay positive semi-definite; shrinking coordinate by
coordinate does not have this property and can fail badly (chapter *Shrinkage*).
"""

from __future__ import annotations

import math

import scipy
import torch
from torch import Tensor

from ..eigenbasis import Moments


def james_stein(mean: Tensor, variance: Tensor) -> float:
    """Positive-part James-Stein factor ``max(0, 1 - ((p-2)/p) sum v_m / sum M_m^2)``.

    One factor for all ``p`` moments; one for ``p <= 2``, where no factor beats the mean.

    ``mean``, ``variance`` ``(p,)``: averages and their squared standard errors, the constant left
    out.
    """
    p, energy = len(mean), float((mean**2).sum())
    if p <= 2 or energy == 0:
        return 1.0
    return max(0.0, 1 - (p - 2) / p * float(variance.sum()) / energy)


def heat_risk(mean: Tensor, variance: Tensor, rates: Tensor, heat) -> Tensor:
    """Stein's unbiased estimate of ``E sum_m (e^{lambda_m h} M_m - E phi_m)^2`` (ours;
    mathematics, section 3).

    ``sum_m (1 - e^{lambda_m h})^2 (M_m^2 - v_m) + e^{2 lambda_m h} v_m`` for extra times ``h``, a
    number or ``(H,)``.
    """
    decay = torch.exp(torch.as_tensor(heat).to(rates)[..., None] * rates)
    return (1 - decay).square() @ (mean**2 - variance) + decay.square() @ variance


def heat_kernel(mean: Tensor, variance: Tensor, rates: Tensor) -> float:
    """The extra time ``h >= 0`` that minimises :func:`heat_risk`; ``rates`` ``(p,)`` are the
    ``lambda_m < 0``.

    The risk can have several local minima in ``log h``: it is scanned over the range in which any
    factor ``e^{lambda_m h}`` changes, then the best bracket is polished; ``h = 0`` competes too.
    """
    if not bool(variance.any()):
        return 0.0
    low, high = math.log(1e-6 / float(-rates.min())), math.log(40 / float(-rates.max()))
    grid = torch.linspace(low, high, 200, dtype=torch.float64)

    def risk(log_heat: float) -> float:
        return float(heat_risk(mean, variance, rates, math.exp(log_heat)))

    best = int(heat_risk(mean, variance, rates, grid.exp()).argmin())
    bounds = float(grid[max(0, best - 1)]), float(grid[min(len(grid) - 1, best + 1)])
    polished = scipy.optimize.minimize_scalar(
        risk, bounds=bounds, method="bounded", options={"xatol": 1e-6}
    ).x
    candidates = [0.0, math.exp(polished), math.exp(float(grid[best]))]
    return min(candidates, key=lambda h: float(heat_risk(mean, variance, rates, h)))


def stein_heat(moments: Moments) -> float:
    """:func:`heat_kernel` of all averages but that of the constant."""
    rough = moments.rates < 0
    return heat_kernel(moments.mean[rough], moments.variance[rough], moments.rates[rough])


def one_more(moments: Moments) -> Moments:
    """With one observation from the stationary law: ``mix = 1 - 1/N`` (ours).

    ``A_t`` is then at least ``1/N`` of the stationary energy, and the density at least about
    ``1/N`` of the stationary one, however far a point is from the data.
    """
    return moments.shrunk(mix=1 - 1 / moments.n_points)


def _none(moments: Moments) -> Moments:
    return moments


def _james_stein(moments: Moments) -> Moments:
    rough = moments.rates < 0
    return moments.shrunk(mix=james_stein(moments.mean[rough], moments.variance[rough]))


def _heat(moments: Moments) -> Moments:
    return moments.shrunk(heat=stein_heat(moments))


def _heat_and_one(moments: Moments) -> Moments:
    return one_more(_heat(moments))


_RULES = {"none": _none, "james-stein": _james_stein, "heat": _heat, "heat+1": _heat_and_one}


def shrink(moments: Moments, rule: str) -> Moments:
    """Apply ``"none"``, ``"james-stein"``, ``"heat"`` or ``"heat+1"`` to moments.

    ``"heat+1"``: heat, then one observation from the stationary law. With one point that is all
    there is: the stationary law.

    Raises ``ValueError`` for another name.
    """
    if rule not in _RULES:
        raise ValueError(f"shrinkage: expected one of {sorted(_RULES)}; found {rule!r}")
    return _RULES[rule](moments)
