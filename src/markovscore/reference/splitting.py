r"""Strang splitting of the Fokker-Planck equation on a uniform grid of one or two axes.

Each step is half a sweep of the first axis, a sweep of the second, half a sweep of the first again:
second order for any two operators. Drift and noise are taken at the middle of the step.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..core import Process, check_finite, drift_at, lasting, noise_at
from .finite_volume import Array, Sweep, between_centres, diffusive_sweep, transport_sweep

GRADING = 5  # the first step is halved so many times
NEGATIVE = 1e-12  # of the maximum: rounding


class Scheme:
    """Grid and sweeps; ``run`` steps through time."""

    def __init__(self, process: Process, edges: list[Array], boundary: str, leakage: float) -> None:
        self.process, self.edges = process, edges
        self.boundary, self.leakage = boundary, leakage
        self.dim = len(edges)
        self.centres = [(e[1:] + e[:-1]) / 2 for e in edges]
        self.widths = [float(e[-1] - e[0]) / (len(e) - 1) for e in edges]
        self.frame = _frame(diffusivity(process, 0.0, self.dim))
        self.points = mesh(self.centres) @ self.frame.T
        self._sweeps: dict[int, tuple[float, float, Array, Sweep]] = {}

    def run(
        self, log_prob: Callable[[Tensor], Tensor], times: list[float], steps: int
    ) -> Iterator[Array]:
        """Cell averages at each of ``times``."""
        rho, step = self._initial(log_prob), max(times[-1], 1e-300) / steps
        for start, end in pairwise([0.0, *times]):
            t = start
            for h in _steps(end - start, step, graded=start == 0):
                rho = self._step(rho, t, h)
                t += h
                self._check(rho, t)
            yield rho

    def _initial(self, log_prob: Callable[[Tensor], Tensor]) -> Array:
        """Cell averages of the initial law by three Gauss points an axis."""
        nodes, weights = np.polynomial.legendre.leggauss(3)
        rho = np.zeros([len(c) for c in self.centres])
        for index in np.ndindex(*(3,) * self.dim):
            shifted = [
                c + 0.5 * h * nodes[i]
                for c, h, i in zip(self.centres, self.widths, index, strict=True)
            ]
            value = log_prob(mesh(shifted) @ self.frame.T)
            if value.shape != (rho.size,) or bool((value.isnan() | (value == math.inf)).any()):
                raise ValueError(
                    f"log_prob: expected shape ({rho.size},) without NaN or +inf, found "
                    f"{tuple(value.shape)}: return one log density a row"
                )
            rho += np.prod(weights[[*index]] / 2) * value.exp().double().numpy().reshape(rho.shape)
        mass = rho.sum() * math.prod(self.widths)
        if mass > 0:  # a law that the walls cut is told which wall
            self._check(rho / mass, 0.0)
        if not abs(mass - 1) < 1e-2:
            raise ValueError(
                f"log_prob: expected mass 1 in the domain, found {mass:.4g}: widen bounds, "
                "normalise log_prob, or use smaller cells if it is narrower than one"
            )
        return rho / mass

    def _step(self, rho: Array, t: float, h: float) -> Array:
        """Strang splitting over ``[t, t + h]``: half of the first axis outside the second."""
        D = self.frame.T @ diffusivity(self.process, t + h / 2, self.dim) @ self.frame
        rates = torch.diagonal(D).clamp(min=0)
        rates[rates < 1e-14 * rates.max()] = 0.0
        if float((D - torch.diag(D.diagonal())).abs().max()) > 1e-9 * float(rates.max()):
            raise ValueError(
                f"dispersion: expected G G^T with the same principal axes at all times, found them "
                f"turned at t = {t + h / 2:g}: no fixed grid has noise along its axes"
            )
        at_centres = self._drift(self.points, t + h / 2).reshape(*rho.shape, self.dim)
        if self.dim == 1:
            return self._sweep(0, t + h / 2, h, float(rates[0]), at_centres.T)(rho[None])[0]
        first = self._sweep(0, t + h / 2, h / 2, float(rates[0]), at_centres[..., 0].T)
        second = self._sweep(1, t + h / 2, h, float(rates[1]), at_centres[..., 1])
        rho = second(first(np.ascontiguousarray(rho.T)).T)
        return first(np.ascontiguousarray(rho.T)).T

    def _sweep(self, axis: int, t: float, h: float, D: float, drift: Array) -> Sweep:
        """The sweep along ``axis`` for ``drift`` ``(rows, n)`` at the cell centres.

        It is the last one again if nothing has changed since.
        """
        old = self._sweeps.get(axis)
        if old is not None and old[:2] == (h, D) and np.array_equal(old[2], drift):
            return old[3]
        periodic = self.boundary == "periodic"
        if D > 0:
            velocity = between_centres(drift, periodic)
            sweep = diffusive_sweep(velocity, D, self.widths[axis], h, periodic)
        else:
            sweep = transport_sweep(self._departure(axis, t, h), periodic)
        self._sweeps[axis] = (h, D, drift, sweep)
        return sweep

    def _departure(self, axis: int, t: float, h: float) -> Array:
        """Where the faces were ``h`` ago, in cells: Runge-Kutta 4 with the drift at ``t``."""
        edges, width = self.edges[axis], self.widths[axis]
        low, high, periodic = edges[0], edges[-1], self.boundary == "periodic"
        faces = self._drift_along(axis, edges, t)
        z = np.broadcast_to(edges, faces.shape)
        substeps = min(64, 1 + math.ceil(4 * h * np.abs(np.diff(faces)).max() / width))
        s = -h / substeps

        def velocity(position: Array) -> Array:
            wrapped = low + (position - low) % (high - low)
            inside = wrapped if periodic else np.clip(position, low, high)
            return self._drift_along(axis, inside, t)

        for _ in range(substeps):
            k1 = velocity(z)
            k2 = velocity(z + s / 2 * k1)
            k3 = velocity(z + s / 2 * k2)
            k4 = velocity(z + s * k3)
            z = z + s / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            z = z if periodic else np.clip(z, low, high)
        cells = np.maximum.accumulate((z - low) / width, axis=1)  # faces never cross
        cells[:, -1] = cells[:, 0] + faces.shape[1] - 1 if periodic else faces.shape[1] - 1
        cells[:, 0] = cells[:, 0] if periodic else 0.0
        return cells

    def _drift_along(self, axis: int, positions: Array, t: float) -> Array:
        """Drift along ``axis`` at ``positions`` ``(m,)`` or ``(rows, m)`` on it: ``(rows, m)``.

        The rows are the cells of the other axis.
        """
        other = self.centres[1 - axis] if self.dim == 2 else np.zeros(1)
        positions = np.broadcast_to(positions, (len(other), positions.shape[-1]))
        columns = [positions, np.broadcast_to(other[:, None], positions.shape)][: self.dim]
        z = torch.as_tensor(np.stack(columns[::-1] if axis else columns, axis=-1))
        f = self._drift(z.reshape(-1, self.dim) @ self.frame.T, t)
        return f[:, axis].reshape(positions.shape)

    def _drift(self, x: Tensor, t: float) -> Array:
        """Drift at ``x`` ``(N, d)`` along the axes of the grid, ``(N, d)``."""
        f = drift_at(self.process, x, t)
        check_finite(f, f"drift at t = {t:g}", "mend the drift or narrow the bounds")
        return (f.double() @ self.frame).numpy()

    def _check(self, rho: Array, t: float) -> None:
        """Raise if the density is negative, or touches a wall that it should not."""
        if not rho.min() >= -NEGATIVE * rho.max():
            raise ValueError(
                f"density at t = {t:g}: expected finite values >= 0, found {rho.min():.3g} beside "
                f"a maximum of {rho.max():.3g}: use more steps, or narrower bounds"
            )
        if self.boundary != "open":
            return
        cell = math.prod(self.widths)
        for axis, edges in enumerate(self.edges):
            for side, index in (("lower", 0), ("upper", -1)):
                n = len(edges) - 1
                touching = abs(np.take(rho, index, axis=axis).sum()) * cell * n
                if touching > self.leakage:
                    raise ValueError(
                        f"bounds: expected a density below leakage = {self.leakage:g} at the "
                        f"{side} side of axis {axis} ({edges[index]:g}), found {touching:.3g} at "
                        f"t = {t:g}: move that side outwards, or set boundary='reflecting' if "
                        "it is a true wall"
                    )


def _steps(length: float, step: float, graded: bool) -> list[float]:
    """Equal steps of at most ``step`` over ``length``, the first one graded by halves."""
    count = math.ceil(length / step - 1e-9)
    sizes = [length / max(count, 1)] * count
    if not (graded and sizes):
        return sizes
    halves = [sizes[0] * 0.5**k for k in range(1, GRADING + 1)]
    return [halves[-1], *reversed(halves), *sizes[1:]]


@lasting
def mesh(axes: list[Array]) -> Tensor:
    """All points of a tensor grid, ``(N, d)``, the last axis fastest."""
    return torch.as_tensor(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)).flatten(0, -2)


def diffusivity(process: Process, t: float, dim: int) -> Tensor:
    """``D = G(t) G(t)^T / 2``, ``(d, d)`` float64."""
    D = noise_at(process, torch.zeros(1, dim, dtype=torch.float64), t).gram().matrix(dim) / 2
    if not bool(torch.isfinite(D).all()):
        raise ValueError(f"dispersion: expected finite numbers at t = {t:g}, found NaN or inf")
    return D.double().cpu()


def _frame(D: Tensor) -> Tensor:
    """Principal axes of ``D`` as columns; the identity if ``D`` is diagonal already."""
    if bool((D - torch.diag(D.diagonal())).abs().max() <= 1e-12 * D.abs().max()):
        return torch.eye(len(D), dtype=torch.float64)
    axes = torch.linalg.eigh(D)[1]
    return axes * torch.stack([torch.ones(()).to(D), torch.linalg.det(axes)])  # a rotation
