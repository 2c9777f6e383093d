r"""Fokker-Planck reference solutions in one and two dimensions: the truth to compare with.

For ``dY = f(Y, t) dt + G(t) dW`` and ``D = G G^T / 2`` the density solves

.. math:: \partial_t \rho + \nabla\cdot J = 0, \qquad J = f\rho - D\nabla\rho .

Finite volumes on a uniform grid; each step is a Strang splitting (second order) into the
one-dimensional sweeps of ``finite_volume``, implicit where there is noise and along
characteristics where there is none. Drift and noise are taken at the middle of the step, and an
axis is factorised again only when they or the step have changed, so any schedule ``beta(t)`` works.
The first step is graded geometrically, which resolves the fast start from a narrow law.

A splitting needs noise along the axes: if ``G G^T`` is not diagonal, the grid is turned into its
eigenvectors (which must not depend on ``t``), the columns of ``frame``; ``z = x @ frame``.
Every axis and bound then refers to ``z``, while the methods take and return plain ``x``.

Spend cells where layers are thin: the swimmer's density needs about ``cells=(800, 200)``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from ..core import (
    DiffusionLike,
    Process,
    Time,
    as_diffusion,
    as_tensor,
    check_integer,
    check_number,
    check_points,
    check_steps,
    check_time,
    check_times,
    drift_at,
    lasting,
    noise_at,
)
from .finite_volume import Array
from .splitting import Scheme, diffusivity, mesh

# How log rho is padded before the splines are fitted.
BOUNDARIES = {"open": "reflect", "reflecting": "symmetric", "periodic": "wrap"}
FLOOR = 1e-14  # of the maximum: below it rounding decides, and the score is not to be trusted


@dataclass(frozen=True)
class FokkerPlanck:
    """Densities of a diffusion on a grid, with their spline interpolants.

    Attributes:
        diffusion: the process that was solved.
        times: ``(T,)`` float64.
        axes: cell centres of each axis, ``d`` tensors ``(n_i,)``, in the coordinates ``z``.
        values: cell averages of the density, ``(T, n_1)`` or ``(T, n_1, n_2)``.
        frame: ``(d, d)`` orthogonal, ``z = x @ frame``; the identity for noise along the axes.
        boundary: "open", "reflecting" or "periodic".
    """

    diffusion: Any
    times: Tensor
    axes: tuple[Tensor, ...]
    values: Tensor
    frame: Tensor
    boundary: str

    @property
    def points(self) -> Tensor:
        """The cell centres as points ``x`` ``(N, d)``, in the order of ``values[k].flatten()``."""
        return mesh([axis.numpy() for axis in self.axes]) @ self.frame.T

    @property
    def mass(self) -> Tensor:
        """Total mass at each time, ``(T,)``: one, to rounding."""
        return self.values.flatten(1).sum(1) * self._cell

    @property
    def positivity(self) -> Tensor:
        """Smallest over largest cell average at each time, ``(T,)``: never far below zero."""
        return self.values.flatten(1).amin(1) / self.values.flatten(1).amax(1)

    def density(self, x: Tensor, t: Time) -> Tensor:
        """``rho_t(x)``, shape ``(B,)``: the exponential of a cubic spline of ``log rho``.

        Raises:
            ValueError: ``t``, one time, ``(B,)`` or ``(B, 1)``, is not among ``times``; ``x``
                ``(B, d)`` has another shape or rows outside the domain.
        """
        return self._interpolate(x, t, derivative=False).exp()

    def score(self, x: Tensor, t: Time) -> Tensor:
        """``grad log rho_t(x)``, shape ``(B, d)``: the gradient of the same spline.

        Where ``rho`` is below 1e-14 of its maximum the logarithm is cut off, and a spline rings
        beside a jump (a discontinuous law at ``t = 0``). Raises as ``density``.
        """
        return self._interpolate(x, t, derivative=True)

    def current(self, x: Tensor, t: Time) -> Tensor:
        """Probability current ``J = rho (f - D s)``, shape ``(B, d)``; raises as ``density``."""
        return self.density(x, t).unsqueeze(1) * self._velocity(x, t)

    def entropy_production(self, t: float) -> float:
        r"""Entropy production rate :math:`\int \rho\,(f - D s)^T D^+ (f - D s)\,dx`.

        ``D^+`` is the pseudo-inverse: noiseless directions carry no irreversible current (for the
        swimmer, the rate in ``v``). For invertible ``D`` it is the total rate of Seifert (2005),
        zero exactly in detailed balance.
        """
        x, weights = self.points, self.values[self._index(t)].flatten() * self._cell
        keep = weights > 0
        velocity, D = self._velocity(x[keep], t), diffusivity(self.diffusion, t, len(self.axes))
        inverse = torch.linalg.pinv(D, hermitian=True)
        rate = torch.einsum("bi,ij,bj->b", velocity, inverse, velocity)
        return float((weights[keep] * rate).sum())

    def _velocity(self, x: Tensor, t: Time) -> Tensor:
        """``f - D s`` ``(B, d)``."""
        G = noise_at(self.diffusion, x, t)
        return drift_at(self.diffusion, x, t) - 0.5 * (G @ (G.T @ self.score(x, t)))

    @property
    def _cell(self) -> float:
        return math.prod(float(axis[1] - axis[0]) for axis in self.axes)

    def _index(self, t: float) -> int:
        t = check_number(t, "t")
        index = int((self.times - t).abs().argmin())
        if not abs(float(self.times[index]) - t) <= 1e-6 * float(self.times[-1]):
            raise ValueError(
                f"t: expected one of the {len(self.times)} stored times, found {t:g} (the nearest "
                f"is {float(self.times[index]):g}): ask fokker_planck for it"
            )
        return index

    @cached_property
    def _splines(self) -> "list[scipy.interpolate.NdBSpline]":
        """Cubic tensor splines of ``log rho``; padding carries them over the outer half cells."""
        pad = 6
        kind = {"reflect_type": "odd"} if self.boundary == "open" else {}
        knots, splines = [], []
        for axis in self.axes:
            h = float(axis[1] - axis[0])
            knots.append(float(axis[0]) + h * np.arange(-pad, len(axis) + pad))
        for rho in self.values.numpy():
            log_rho = np.log(np.maximum(rho, FLOOR * rho.max()))
            padding = BOUNDARIES[self.boundary]
            c = np.pad(log_rho, pad, mode=padding, **kind)  # type: ignore[call-overload]
            t = []
            for i, nodes in enumerate(knots):
                fit = scipy.interpolate.make_interp_spline(nodes, c, k=3, axis=i)
                t.append(fit.t)
                c = np.moveaxis(fit.c, 0, i)
            splines.append(scipy.interpolate.NdBSpline(tuple(t), c, 3))
        return splines

    @lasting
    def _interpolate(self, x: Tensor, t: Time, derivative: bool) -> Tensor:
        """``log rho`` ``(B,)`` or its gradient ``(B, d)`` at ``x``, one spline a distinct time."""
        dim = len(self.axes)
        x = check_points(x, dim)
        z = self._inside(x.detach().cpu().double() @ self.frame, x)
        t = check_time(t, len(x)).cpu().expand(len(x))
        out = torch.empty(x.shape[0], dim if derivative else 1, dtype=torch.float64)
        orders = np.eye(dim, dtype=int) if derivative else np.zeros((1, dim), dtype=int)
        for time in t.unique().tolist():
            spline, rows = self._splines[self._index(time)], t == time
            columns = [spline(z[rows].numpy(), nu=tuple(order)) for order in orders]
            out[rows] = torch.as_tensor(np.stack(columns, axis=1))
        out = out @ self.frame.T if derivative else out[:, 0]
        return out.to(x)

    def _inside(self, z: Tensor, x: Tensor) -> Tensor:
        """``z``, wrapped on a torus; raises for rows beyond a wall."""
        widths = torch.stack([axis[1] - axis[0] for axis in self.axes])
        low = torch.stack([axis[0] for axis in self.axes]) - widths / 2
        high = torch.stack([axis[-1] for axis in self.axes]) + widths / 2
        if self.boundary == "periodic":
            return low + (z - low).remainder(high - low)
        # Points and bounds may have gone through float32.
        slack = 1e-9 * (high - low) + 2.0**-24 * torch.maximum(low.abs(), high.abs())
        outside = ((z < low - slack) | (z > high + slack)).any(1)
        if bool(outside.any()):
            row = int(outside.nonzero()[0])
            raise ValueError(
                f"x: expected points in {[*zip(low.tolist(), high.tolist(), strict=True)]}, found "
                f"{int(outside.sum())} rows outside, the first is row {row} = {x[row].tolist()}: "
                "solve with wider bounds, or leave such rows out"
            )
        return z


@lasting
def fokker_planck(
    diffusion: DiffusionLike,
    log_prob: Callable[[Tensor], Tensor],
    times: Any,
    bounds: Any,
    *,
    cells: int | tuple[int, ...] = 400,
    steps: int = 400,
    boundary: str = "open",
    leakage: float = 1e-4,
) -> FokkerPlanck:
    """Solve the Fokker-Planck equation from the law ``log_prob`` at ``t = 0``.

    Second order in the cell width and in the step; mass is kept to rounding and
    no density is negative. Where the drift crosses a cell faster than the noise
    (``|f| h > 2 D > 0``) refine: there the flux is upwind.

    Args:
        diffusion: has ``drift(y, t)`` and ``dispersion(t)``, in one or two dimensions.
        log_prob: log density at ``t = 0``, ``(B, d) -> (B,)``, normalised (``-inf`` is allowed);
            for instance ``Gaussian(2, scale=0.05).log_prob``.
        times: increasing, where the density is wanted; 0 is allowed.
        bounds: ``(low, high)`` of each axis, ``(d, 2)``.
        cells: number of cells, one for all axes or one an axis; at least 8.
        steps: number of time steps over ``[0, times[-1]]``.
        boundary: "open" (the process lives on ``R^d``: walls that nothing must reach), "reflecting"
            (true walls), or "periodic".
        leakage: with "open", the largest density at a wall, in units of the uniform law's.

    Raises:
        TypeError, ValueError: bad arguments; a drift or dispersion of wrong shape or not finite; a
            noise whose principal axes turn; a law that does not fit the domain (names the side), at
            the start or later.
    """
    process = as_diffusion(diffusion)
    edges = _check_grid(bounds, cells, process)
    times = check_times(times).cpu()
    steps = check_steps(steps)
    _check_run(process.horizon, float(times[-1]), boundary, leakage)
    with torch.no_grad():
        scheme = Scheme(process, edges, boundary, leakage)
        values = list(scheme.run(log_prob, times.tolist(), steps))
    axes = tuple(torch.as_tensor((e[1:] + e[:-1]) / 2) for e in edges)
    stored = torch.as_tensor(np.stack(values))
    return FokkerPlanck(diffusion, times, axes, stored, scheme.frame, boundary)


def _check_run(horizon: float, end: float, boundary: str, leakage: float) -> None:
    if end > horizon * (1 + 1e-6):  # the rounding of a time that went through float32
        raise ValueError(f"times: expected t <= horizon = {horizon:g}, found {end:g}")
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary: expected one of {[*BOUNDARIES]}, found {boundary!r}")
    check_number(leakage, "leakage", positive=True)


def _check_grid(bounds: Any, cells: Any, process: Process) -> list[Array]:
    """Cell edges of each axis."""
    limits = np.atleast_2d(as_tensor(bounds, "bounds", torch.float64).numpy(force=True))
    dim = len(limits)
    if limits.shape not in ((1, 2), (2, 2)) or not np.isfinite(limits).all():
        raise ValueError(
            f"bounds: expected finite (low, high) for one or two axes, found {bounds!r}: pass for "
            "instance ((-4, 4), (-6, 6))"
        )
    if bool((limits[:, 0] >= limits[:, 1]).any()):
        raise ValueError(f"bounds: expected low < high, found {bounds!r}")
    if process.dim not in (None, dim):
        raise ValueError(
            f"bounds: expected {process.dim} pairs for a diffusion of dimension {process.dim}, "
            f"found {dim}: only one and two dimensions can be solved on a grid"
        )
    counts = [cells] * dim if np.ndim(cells) == 0 else list(cells)
    if len(counts) != dim:
        raise ValueError(f"cells: expected {dim} integers >= 8, found {cells!r}: one for each axis")
    counts = [check_integer(n, "cells", 8) for n in counts]
    return [np.linspace(a, b, n + 1) for (a, b), n in zip(limits, counts, strict=True)]
