r"""One coordinate of a nonlinear reversible process: its eigenfunctions, found numerically.

The process :math:`dY = (\log \pi)'(Y)\, dt + \sqrt 2\, dW` on ``[low, high]`` with reflecting walls
has the generator :math:`L f = f'' + (\log \pi)' f' = (\pi f')' / \pi`, symmetric in
:math:`L^2(\pi)`; the eigenfunctions are those of the Sturm-Liouville problem

.. math:: \int \psi_k' v' \, \pi = -\lambda_k \int \psi_k v \, \pi \quad \text{for all } v,
          \qquad \int \psi_j \psi_k \, \pi = \delta_{jk} .

Spectral elements: piecewise polynomials of degree ``p`` with nodes and quadrature of Gauss, Lobatto
and Legendre, whose mass matrix is diagonal. Of a smooth density the errors are
:math:`O(h^{2p})` in the eigenvalues, :math:`O(h^{p+1})` in the functions and :math:`O(h^p)` in
their slopes, ``h`` the length of an element; it shrinks until the eigenvalues stand. The second
derivative is that of the equation, :math:`\psi'' = \lambda \psi - (\log \pi)' \psi'`. A table of
the three on equal cells gives a piecewise quintic with two continuous derivatives, whose own slope
and curvature are those that are returned.

Beyond the walls a function is constant: the score is the stationary one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..core import remembered
from .axes import Axis

Density = Callable[[Tensor], Tensor]

DEGREE = 16
_TOLERANCE = 1e-8  # of the eigenvalues, relative to the largest
_NODES = 4  # of the elements for each function, at first
_FEWEST = 16  # elements
_GROWTH = 1.5
_STEP = 64  # functions are solved for in multiples
_MOST_NODES = 2048
_CELLS = 24  # of the table for each function: quintics between them are exact to ten digits
_TABLE_ERROR = 1e-8
_ROWS = 512  # points at a time, whose cells stay in cache
_LOWEST = -600.0  # log density, relative to its maximum, of what is taken as zero


@remembered
def lobatto(degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes ``(p+1,)`` and weights of Gauss, Lobatto and Legendre on ``[-1, 1]``, and the matrix
    ``(p+1, p+1)`` that differentiates the polynomial through values at the nodes."""
    legendre = np.polynomial.legendre.Legendre.basis(degree)
    x = np.concatenate([[-1.0], np.sort(legendre.deriv().roots().real), [1.0]])
    at = legendre(x)
    gaps = x[:, None] - x + np.eye(degree + 1)
    matrix = at[:, None] / at / gaps
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, -matrix.sum(1))
    weights = 2 / (degree * (degree + 1) * at**2)
    return torch.from_numpy(x), torch.from_numpy(weights), torch.from_numpy(matrix)


@dataclass(frozen=True, eq=False)
class Elements:
    """``count`` elements of degree ``p`` on ``[low, high]``: ``nodes`` ``(N,)``, ``N = count p +
    1``; ``places`` ``(count, p+1)`` of each element's own among them; ``h`` their length."""

    low: float
    high: float
    count: int
    degree: int = DEGREE

    @property
    def h(self) -> float:
        """The length of an element."""
        return (self.high - self.low) / self.count

    @property
    def places(self) -> Tensor:
        """Where each element's nodes stand among all, ``(count, p+1)``."""
        first = self.degree * torch.arange(self.count)
        return first[:, None] + torch.arange(self.degree + 1)

    @property
    def nodes(self) -> Tensor:
        """``(N,)``, increasing; neighbours share one."""
        x = lobatto(self.degree)[0]
        inner = self.low + self.h * (torch.arange(self.count)[:, None] + 0.5 * (1 + x[:-1]))
        return torch.cat([inner.flatten(), inner.new_tensor([self.high])])

    def mass(self, density: Tensor) -> Tensor:
        """``int v_i pi`` ``(N,)``, from the density at the nodes."""
        weights = 0.5 * self.h * lobatto(self.degree)[1]
        return (
            torch.zeros_like(density).index_put_(
                (self.places,), weights.expand(self.count, -1), accumulate=True
            )
            * density
        )

    def stiffness(self, density: Tensor) -> Tensor:
        """``int v_i' v_j' pi`` of each element, ``(count, p+1, p+1)``."""
        _, weights, matrix = lobatto(self.degree)
        own = (2 / self.h) * weights * density[self.places]
        return matrix.T @ (own[:, :, None] * matrix)

    def slopes(self, values: Tensor) -> Tensor:
        """Of functions ``(N, n)`` given at the nodes, in each element ``(count, p+1, n)``."""
        matrix = lobatto(self.degree)[2]
        return (2 / self.h) * torch.einsum("ij,ejn->ein", matrix, values[self.places])

    def interpolation(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The element of each point ``(B,)``, and the weights ``(B, p+1)`` of its nodes."""
        place = (x - self.low) / self.h
        element = place.floor().clamp(0, self.count - 1).long()
        return element, lagrange(2 * (place - element) - 1, self.degree)


def lagrange(x: Tensor, degree: int) -> Tensor:
    """The polynomials that are one at one node, at ``x`` ``(B,)`` in ``[-1, 1]``: ``(B, p+1)``."""
    gaps = x[:, None] - lobatto(degree)[0]
    exact = gaps == 0
    terms = _barycentric(degree) / torch.where(exact, 1.0, gaps)
    terms = torch.where(exact.any(1, keepdim=True), exact.double(), terms)
    return terms / terms.sum(1, keepdim=True)


@remembered
def _barycentric(degree: int) -> Tensor:
    nodes = lobatto(degree)[0]
    gaps = nodes[:, None] - nodes + torch.eye(degree + 1, dtype=torch.float64)
    return 1 / gaps.prod(1)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues ``(N,)``, from zero down, and the functions at the nodes ``(N, N)``, a column
    each: those of the elements, of which the first ``count`` are those of the equation; ``mass``
    ``(N,)``, weights of the nodes under ``pi``, of sum one."""

    elements: Elements
    eigenvalues: Tensor
    functions: Tensor
    mass: Tensor
    count: int

    def slopes(self, count: int) -> Tensor:
        """Of the first functions at the nodes, ``(N, count)``: the mean of two elements that meet,
        and zero at the walls."""
        own = self.elements.slopes(self.functions[:, :count])
        own[1:, 0] = 0.5 * (own[1:, 0] + own[:-1, -1])
        own[0, 0] = 0.0
        return torch.cat([own[:, :-1].flatten(0, 1), torch.zeros_like(own[-1, -1:])])


def solve_elements(log_density: Density, elements: Elements, count: int) -> Spectrum:
    """All functions on these elements, by LAPACK; ``count`` of them are believed."""
    matrix, mass = _symmetric(log_density, elements)
    root = mass.rsqrt()
    values, vectors = torch.linalg.eigh(matrix)
    functions = vectors * root[:, None]
    functions = functions * functions[-1].sign()
    functions[:, 0] = 1.0
    values[0] = 0.0
    return Spectrum(elements, -values, functions, mass, count)


def _symmetric(log_density: Density, elements: Elements) -> tuple[Tensor, Tensor]:
    """``M^-1/2 S M^-1/2`` ``(N, N)`` of stiffness and mass, and the mass ``(N,)``."""
    level = log_density(elements.nodes)
    density = (level - level.max()).clamp(min=_LOWEST).exp()
    density = density / elements.mass(density).sum()
    mass = elements.mass(density)
    root = mass.rsqrt()
    places = elements.places
    scaled = elements.stiffness(density) * root[places][:, :, None] * root[places][:, None, :]
    matrix = torch.zeros(len(mass), len(mass), dtype=torch.float64)
    matrix.index_put_((places[:, :, None], places[:, None, :]), scaled, accumulate=True)
    return matrix, mass


def spectrum(log_density: Density, low: float, high: float, order: int) -> Spectrum:
    """The functions ``0..order`` on elements that are shortened until the eigenvalues stand.

    Raises ``ArithmeticError`` where they do not with 2,048 nodes: what was reached.
    """

    def rates(many: int) -> Tensor:
        matrix, _ = _symmetric(log_density, Elements(low, high, many))
        return torch.linalg.eigvalsh(matrix)[: order + 1]

    many = max(_FEWEST, math.ceil(_NODES * (order + 1) / DEGREE))
    found = rates(many)
    while True:
        more = math.ceil(_GROWTH * many)
        finer = rates(more)
        change = float((finer - found).abs().max()) / float(finer[order])
        if change <= _TOLERANCE:
            return solve_elements(log_density, Elements(low, high, many), order + 1)
        if _GROWTH * DEGREE * more > _MOST_NODES:
            raise ArithmeticError(
                f"expected {order + 1} eigenvalues to a relative {_TOLERANCE:g} on [{low:g}, "
                f"{high:g}], found a change of {change:.1e} with {DEGREE * more + 1} nodes: pass "
                "a narrower box, fewer functions, or a smoother density"
            )
        many, found = more, finer


class Numerical(Axis):
    """Eigenfunctions of ``dY = (log pi)'(Y) dt + sqrt2 dW`` on ``[low, high]``, reflecting.

    ``log_density``: ``(n,)`` float64 -> ``(n,)``, up to a constant; ``slope``, its derivative, by
    default by autograd; ``limits``, as far as the walls may go for data beyond them, by default
    where they are. Solved for when asked for, and kept. Features are the functions, their slopes
    and their curvatures. Two are equal where they are the same.
    """

    moved = False  # whether the walls are where data asked for them

    def __init__(
        self,
        log_density: Density,
        low: float,
        high: float,
        slope: Density | None = None,
        limits: tuple[float, float] | None = None,
    ) -> None:
        self.log_density, self.low, self.high = log_density, float(low), float(high)
        self.limits = (self.low, self.high) if limits is None else limits
        self._slope = slope or partial(_derivative, log_density)
        self._solved: dict[int, Spectrum] = {}
        self._tables: dict[object, Tensor] = {}

    def between(self, low: float, high: float) -> Numerical:
        """The same coordinate between other walls."""
        other = Numerical(self.log_density, low, high, self._slope, self.limits)
        other.moved = True
        return other

    def spectrum(self, order: int) -> Spectrum:
        """Of at least the functions ``0..order``; the same whatever was asked for before."""
        last = _STEP * math.ceil((order + 1) / _STEP) - 1
        if last not in self._solved:
            self._solved[last] = spectrum(self.log_density, self.low, self.high, last)
        return self._solved[last]

    def pull(self, x: Tensor) -> Tensor:
        return self._slope(x)

    def rates(self, k: Tensor) -> Tensor:
        return self.spectrum(int(k.max())).eigenvalues[k.cpu()].to(k.device)

    def count(self, order: int) -> int:
        return 3 * (order + 1)

    def derivative(self, order: int) -> Tensor:
        """Of a function the slope, of a slope the curvature; the third derivative is not kept."""
        return torch.diag(torch.ones(2 * (order + 1), dtype=torch.float64), order + 1)

    def functions(self, order: int) -> Tensor:
        return torch.eye(order + 1, 3 * (order + 1), dtype=torch.float64)

    def features(self, x: Tensor, order: int, out: Tensor | None = None) -> Tensor:
        found = self.jets(x, order, 3).flatten(0, 1)
        return found if out is None else out.copy_(found)

    def jet(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, slopes, curvatures = self.jets(x, int(k.max()), 3)[:, k]
        return values, slopes, curvatures

    def jets(self, x: Tensor, order: int, count: int) -> Tensor:
        """The functions ``0..order`` at ``(...)``, and their first derivatives, ``count`` of
        them: ``(count, order + 1, ...)``."""
        table = self._table(order, x)
        cells = len(table)
        width = (self.high - self.low) / cells
        place = (x.reshape(-1).clamp(self.low, self.high) - self.low) / width
        cell = place.detach().floor().clamp(0, cells - 1).long()
        weights = _quintic(place - cell, width, count)
        if count > 1:
            inside = ((x >= self.low) & (x <= self.high)).reshape(-1, 1, 1)
            weights = torch.cat([weights[:, :1], weights[:, 1:] * inside], 1)
        parts = [  # (B, count, 6) times the two ends of each cell (B, 6, n)
            torch.bmm(own, table[at]).permute(1, 2, 0)
            for own, at in zip(weights.split(_ROWS), cell.split(_ROWS), strict=True)
        ]
        return torch.cat(parts, -1).reshape(count, order + 1, *x.shape)

    def _table(self, order: int, like: Tensor) -> Tensor:
        """Values, slopes and curvatures at both ends of equal cells ``(cells, 6, order + 1)``, a
        slope times the spacing, a curvature times its square."""
        solved = self.spectrum(order)
        if solved.count not in self._tables:
            self._tables[solved.count] = _tabulated(solved, self._slope)
        key = order, like.dtype, like.device
        if key not in self._tables:
            ends = self._tables[solved.count][:, :, : order + 1].to(like)
            self._tables[key] = torch.cat([ends[:-1], ends[1:]], 1)
        return self._tables[key]

    def nodal(self, x: Tensor, order: int) -> tuple[Tensor, Tensor]:
        """The nodes ``(B, p+1)`` of each point's element, and the weights by which a function's
        values there make its value at the point."""
        elements = self.spectrum(order).elements
        element, weights = elements.interpolation(x.clamp(self.low, self.high))
        return elements.places[element], weights

    def quadrature(self, order: int) -> tuple[Tensor, Tensor]:
        """The nodes of the elements and their weights."""
        solved = self.spectrum(order)
        return solved.elements.nodes, solved.mass


def _quintic(s: Tensor, width: float, count: int) -> Tensor:
    """Weights ``(B, count, 6)`` of value, slope and curvature (in units of the cell) at the left
    and the right end, for value, slope and curvature at ``s`` ``(B,)`` in ``[0, 1]``."""
    r = 1 - s
    s2, r2 = s * s, r * r
    value = [
        r2 * r * (1 + 3 * s + 6 * s2), r2 * r * s * (1 + 3 * s), 0.5 * r2 * r * s2,
        s2 * s * (1 + 3 * r + 6 * r2), -s2 * s * r * (1 + 3 * r), 0.5 * s2 * s * r2,
    ]  # fmt: skip
    rows = [torch.stack(value, 1)]
    if count > 1:
        both = s2 * r2
        slope = [
            -30 * both, r2 * (1 + 2 * s - 15 * s2), 0.5 * r2 * s * (2 - 5 * s),
            30 * both, s2 * (1 + 2 * r - 15 * r2), -0.5 * s2 * r * (2 - 5 * r),
        ]  # fmt: skip
        rows.append(torch.stack(slope, 1) / width)
    if count > 2:
        curvature = [
            -60 * s * r * (r - s), -12 * s * r * (3 - 5 * s), r * (1 - 8 * s + 10 * s2),
            60 * s * r * (r - s), 12 * s * r * (3 - 5 * r), s * (1 - 8 * r + 10 * r2),
        ]  # fmt: skip
        rows.append(torch.stack(curvature, 1) / width**2)
    return torch.stack(rows, 1)


def _tabulated(solved: Spectrum, slope: Density) -> Tensor:
    """Values, slopes and curvatures at the ends of equal cells, ``(cells + 1, 3, n)``, in units of
    the cell; cells are halved until quintics agree with the elements in their middles, or as far
    as they can, by the error of the elements' slopes."""
    elements = solved.elements
    per, last = max(1, round(_CELLS * solved.count / elements.count)), math.inf
    while True:
        finer = _at(solved, slope, 2 * per)
        table = finer[::2].clone()
        table[:, 1] *= 2
        table[:, 2] *= 4
        weights = _quintic(torch.full((1,), 0.5, dtype=torch.float64), 1.0, 1)[0, 0]
        ends = torch.cat([table[:-1], table[1:]], 1)
        gap = (torch.einsum("i,bin->bn", weights, ends) - finer[1::2, 0]).abs()
        scale = torch.maximum(table[:-1, 0].abs(), table[1:, 0].abs()).clamp(min=1.0)
        error = float((gap / scale).max())
        if error < _TABLE_ERROR or error > last / 8:
            return table
        per, last = 2 * per, error


def _at(solved: Spectrum, slope: Density, per: int) -> Tensor:
    """Values, slopes and curvatures at the ends of ``per`` equal cells in each element."""
    elements = solved.elements
    functions = solved.functions[:, : solved.count]
    weights = lagrange(torch.linspace(-1, 1, per + 1, dtype=torch.float64), elements.degree)
    values, slopes = functions[elements.places], elements.slopes(functions)

    def spread(at_nodes: Tensor) -> Tensor:
        rows = weights @ at_nodes
        rows[1:, 0] = 0.5 * (rows[1:, 0] + rows[:-1, -1])  # of two elements that meet
        return torch.cat([rows[:, :-1].flatten(0, 1), rows[-1, -1:]])

    x = torch.linspace(elements.low, elements.high, elements.count * per + 1, dtype=torch.float64)
    value, first = spread(values), spread(slopes)
    first[0], first[-1] = 0.0, 0.0  # the walls
    second = solved.eigenvalues[: solved.count] * value - slope(x).detach()[:, None] * first
    width = elements.h / per
    return torch.stack([value, width * first, width**2 * second], 1)


def _derivative(log_density: Density, x: Tensor) -> Tensor:
    """``(log pi)'`` at ``(B,)``, by autograd."""
    with torch.enable_grad():
        points = x.detach().requires_grad_()
        (found,) = torch.autograd.grad(log_density(points).sum(), points)
    return found
