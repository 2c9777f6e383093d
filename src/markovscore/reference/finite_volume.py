r"""Conservative one-dimensional sweeps on uniform cells, many rows at once.

A sweep maps cell averages ``rho`` ``(rows, n)`` at the start of a step to those at its end, for
``d rho/dt = -d/dx (u rho - D d rho/dx)`` in each row. Both kinds keep the sum of every row:

* ``D > 0``: Scharfetter-Gummel fluxes (exponential fitting; Chang and Cooper 1970, Scharfetter and
  Gummel 1969), second order in ``h``. Their matrix is a Markov generator, and its null vector
  has the ratios ``exp(int u / D)`` of the exact stationary law. In time: TR-BDF2 (Bank et al. 1985;
  Hosea and Shampine 1996), second order and L-stable: unresolved modes of the initial layer die in
  one step. No linear method of second order keeps every step positive (Bolley and Crouzeix 1978),
  so where a value falls below zero the step is blended with backward Euler by flux-corrected
  transport (Zalesak 1979).
* ``D = 0``: pure transport. An implicit flux would smear (upwind) or ring (central) where a
  contracting drift makes thin layers. Instead the mass function is followed back along the
  characteristics and read from its monotone cubic: the piecewise parabolic method of Colella and
  Woodward (1984), positive for any step length.
"""

import math
from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]
Sweep = Callable[[Array], Array]

GAMMA = 2 - math.sqrt(2)  # both stages of TR-BDF2 then share the matrix I - GAMMA/2 step A


def bernoulli(z: Array) -> Array:
    """``z / (e^z - 1)``, one at zero, zero at large ``z``; elementwise."""
    small = np.abs(z) < 1e-9
    safe = np.where(small, 1.0, z)
    with np.errstate(over="ignore"):  # e^z = inf gives the limit, zero
        return np.where(small, 1 - z / 2, safe / np.expm1(safe))


def between_centres(drift: Array, periodic: bool) -> Array:
    """Averages of ``drift`` ``(rows, n)`` from each cell centre to the next, ``(rows, n)``.

    The cubic through four centres (the parabola beside a wall): one evaluation of the drift serves
    all axes, and the stationary ratios ``exp(int f / D)`` are of fourth order.
    """
    if periodic:
        ends = np.pad(drift, ((0, 0), (1, 2)), mode="wrap")
    else:
        below = 3 * drift[:, :1] - 3 * drift[:, 1:2] + drift[:, 2:3]
        above = 3 * drift[:, -1:] - 3 * drift[:, -2:-1] + drift[:, -3:-2]
        ends = np.concatenate([below, drift, above, above], axis=1)  # the last one is not used
    return (13 * (ends[:, 1:-2] + ends[:, 2:-1]) - ends[:, :-3] - ends[:, 3:]) / 24


def diffusive_sweep(
    velocity: Array, diffusivity: float, width: float, step: float, periodic: bool
) -> Sweep:
    """TR-BDF2 over ``step`` with Scharfetter-Gummel fluxes; one factorisation, two solves.

    Args:
        velocity: ``(rows, n)``, column ``i`` the drift averaged from the centre of cell ``i`` to
            that of cell ``i + 1``; the last column belongs to the wrap and is ignored at walls.
        diffusivity: ``D = G G^T / 2 > 0``.
        width: cell width ``h``.
        step: length of the step.
        periodic: cell ``n - 1`` touches cell 0; else both ends are walls without flux.
    """
    peclet = velocity * (width / diffusivity)
    rate = GAMMA / 2 * step * diffusivity / width**2
    right, left = rate * bernoulli(-peclet), rate * bernoulli(peclet)
    if not periodic:
        right[:, -1] = left[:, -1] = 0.0
    solve = _factorise(right, left, periodic)
    euler: list[Sweep] = []  # factorised at need only
    late, early = 1 / (GAMMA * (2 - GAMMA)), (1 - GAMMA) ** 2 / (GAMMA * (2 - GAMMA))

    def advance(rho: Array) -> Array:
        # (I - cA)^{-1} (I + cA) = 2 (I - cA)^{-1} - I: the trapezoidal stage without a product.
        middle = 2 * solve(rho) - rho
        high = solve(late * middle - early * rho)
        if high.min() < 0:
            if not euler:
                euler.append(_factorise(right * 2 / GAMMA, left * 2 / GAMMA, periodic))
            rows = high.min(axis=1) < 0
            high[rows] = positive_blend(high[rows], np.maximum(euler[0](rho)[rows], 0))
        return high

    return advance


def positive_blend(high: Array, low: Array) -> Array:
    """``high`` where it can be, ``low >= 0`` where it must, with the row sums of both.

    The difference is written as fluxes through the faces, and every flux is cut by the share that
    keeps its donor cell non-negative.
    """
    flux = np.pad(np.cumsum(low - high, axis=1)[:, :-1], ((0, 0), (1, 1)))
    outflow = np.maximum(flux[:, 1:], 0) + np.maximum(-flux[:, :-1], 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # no outflow: no limit
        share = np.where(outflow > low, low / outflow, 1.0)
    donor = np.where(flux[:, 1:-1] > 0, share[:, :-1], share[:, 1:])
    flux[:, 1:-1] *= donor
    return low - np.diff(flux, axis=1)


def _factorise(right: Array, left: Array, periodic: bool) -> Sweep:
    """Solver of ``(I - cA) y = rho`` from the scaled rates ``i -> i + 1`` and ``i + 1 -> i``."""
    shape = right.shape
    diagonal = (1 + right + np.roll(left, 1, axis=1)).ravel()
    lower, upper = -right.ravel()[:-1], -left.ravel()[:-1]
    if periodic:
        return _factorise_cyclic(diagonal, right, left)
    # The rates at walls are zero, so one long tridiagonal system holds all rows uncoupled.
    *factors, info = scipy.linalg.lapack.dgttrf(lower, diagonal, upper)
    if info != 0:
        raise FloatingPointError("singular step matrix: the drift or the step is not finite")

    def solve(rho: Array) -> Array:
        return scipy.linalg.lapack.dgttrs(*factors, rho.ravel())[0].reshape(shape)

    return solve


def _factorise_cyclic(diagonal: Array, right: Array, left: Array) -> Sweep:
    """The same with rows closed to rings: a sparse LU."""
    here = np.arange(diagonal.size).reshape(right.shape)
    beyond = np.roll(here, -1, axis=1)
    rows = np.concatenate([here.ravel(), beyond.ravel(), here.ravel()])
    columns = np.concatenate([here.ravel(), here.ravel(), beyond.ravel()])
    entries = np.concatenate([diagonal, -right.ravel(), -left.ravel()])
    factors = scipy.sparse.linalg.splu(scipy.sparse.csc_array((entries, (rows, columns))))

    def solve(rho: Array) -> Array:
        return factors.solve(rho.ravel()).reshape(rho.shape)

    return solve


def transport_sweep(departure: Array, periodic: bool) -> Sweep:
    """Conservative remap: face ``j`` of the new cells was at ``departure[:, j]``.

    Args:
        departure: ``(rows, n + 1)``, in cells from the lower end, non-decreasing in a row. Walls
            stay (0 and n); on a ring the last entry is the first plus ``n``.
        periodic: the rows are rings.
    """
    n = departure.shape[1] - 1
    cell = np.floor(departure).astype(np.int64)
    cell = cell if periodic else np.clip(cell, 0, n - 1)
    xi = departure - cell
    turns, cell = np.divmod(cell, n)
    h_mass = xi**2 * (3 - 2 * xi)  # cubic Hermite functions of the mass inside a cell
    h_left, h_right = xi * (1 - xi) ** 2, -(xi**2) * (1 - xi)
    ghosts = "wrap" if periodic else "constant"

    def advance(rho: Array) -> Array:
        padded = np.pad(rho, ((0, 0), (2, 2)), mode=ghosts)  # type: ignore[call-overload]
        before, after = padded[:, 1:-2], padded[:, 2:-1]
        face = (7 * (before + after) - padded[:, :-3] - padded[:, 3:]) / 12
        # Fritsch and Carlson (1980): slopes in [0, 3 min] keep the cubic mass function monotone.
        face = np.clip(face, 0.0, 3 * np.maximum(np.minimum(before, after), 0.0))
        mass = np.pad(np.cumsum(rho, axis=1), ((0, 0), (1, 0)))
        at = [np.take_along_axis(a, cell, 1) for a in (mass, rho, face, face[:, 1:])]
        swept = at[0] + h_mass * at[1] + h_left * at[2] + h_right * at[3] + turns * mass[:, -1:]
        return np.diff(swept, axis=1)

    return advance
