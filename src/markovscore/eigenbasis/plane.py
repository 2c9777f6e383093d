r"""Two coordinates that are not independent: the eigenfunctions of their reversible process.

The process :math:`dY = \nabla\log\pi(Y)\, dt + \sqrt 2\, dW` has the generator :math:`L f =
\nabla\cdot(\pi \nabla f) / \pi`; its eigenfunctions are those of

.. math:: \int \nabla\phi_k \cdot \nabla v \, \pi = -\lambda_k \int \phi_k v \, \pi
          \quad \text{for all } v, \qquad \int \phi_j \phi_k \, \pi = \delta_{jk} .

Products of the spectral elements of :mod:`markovscore.eigenbasis.numerical` on the rectangles of
a grid, of which those are kept where the law is: a wall that reflects is around them. Nodes are
quadrature points, so the mass matrix is diagonal and a node meets only those in its row and its
column: an ordinary symmetric sparse eigenproblem, for Lanczos' method with the matrix inverted.
Errors are of the orders in one dimension: :math:`O(h^{2p})` in the eigenvalues,
:math:`O(h^{p+1})` in the functions, :math:`O(h^p)` in their gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from ..core import counter, kept_on_disk, lasting, remembered
from .numerical import Elements, lobatto

Density = Callable[[Tensor], Tensor]

DEGREE = 8
_TOLERANCE = 1e-5  # of the eigenvalues, relative to the largest
_PER_WAVE = 12.0  # nodes
_RAISED, _JUDGE, _HIGHEST = 2, 4, 16  # degrees: where eigenvalues do not stand, of what judges
_STEEPEST = 18.0  # change of the log density within an element
_MOST_NODES = 60_000
_STEP = 64  # functions are solved for in multiples
_ONE = 1e-7  # gaps of a block of equal eigenvalues, relative to the largest
_WIDE = 16  # vectors at a time
_SPAN = 6  # vectors for each function, at most, from which it is found
_CONVERGED = 1e-12  # errors of the inverse, relative to its eigenvalues
_JUDGED = 6  # of the largest eigenvalues, on finer elements
_ROWS = 2**16  # points at which a density is taken at once
KEPT = 2.0  # seconds, beyond which a solution is kept on disk


@dataclass(frozen=True, eq=False)
class Mesh:
    """The elements of a grid, ``across`` by ``along``, on which the law is.

    ``numbers`` ``(n_x, n_y)``: of each element of the grid its place among those that are kept, or
    -1; ``places`` ``(E, p+1, p+1)`` of each element's own nodes among all; ``level`` ``(N,)``: the
    log density at the nodes, its maximum zero; ``nodes`` ``(N, 2)``.
    """

    across: Elements
    along: Elements
    numbers: Tensor
    places: Tensor
    nodes: Tensor
    level: Tensor

    @property
    def steepest(self) -> float:
        """The largest change of the log density within an element."""
        own = self.level[self.places].flatten(1)
        return float((own.amax(1) - own.amin(1)).max())

    @cached_property
    def weights(self) -> Tensor:
        """Of the nodes in each element under the law, ``(E, p+1, p+1)``, of sum one."""
        own = lobatto(self.across.degree)[1]
        weights = own[:, None] * own * self.level[self.places].exp()
        return weights / weights.sum()

    @cached_property
    def mass(self) -> Tensor:
        """``int v_i pi`` ``(N,)``."""
        return torch.zeros_like(self.level).index_add_(
            0, self.places.flatten(), self.weights.flatten()
        )

    @cached_property
    def matrix(self) -> Any:
        """``int grad v_i . grad v_j pi`` over the roots of both masses, sparse ``(N, N)``."""
        slopes = lobatto(self.across.degree)[2]
        rows, columns, entries = [], [], []
        for h, turned in ((self.across.h, False), (self.along.h, True)):
            places, weights = (
                part.mT if turned else part for part in (self.places, self.weights)
            )  # along the first of two
            lines = places.mT  # (E, p+1 lines, p+1 nodes)
            own = (2 / h) ** 2 * torch.einsum("eql,qi,qj->elij", weights, slopes, slopes)
            rows.append(lines[..., :, None].expand_as(own).flatten())
            columns.append(lines[..., None, :].expand_as(own).flatten())
            entries.append(own.flatten())
        row, column, entry = (torch.cat(part) for part in (rows, columns, entries))
        scale = self.mass.rsqrt()
        entry = entry * scale[row] * scale[column]
        shape = (len(self.level),) * 2
        return scipy.sparse.csc_matrix((entry.numpy(), (row.numpy(), column.numpy())), shape=shape)

    def gradients(self, values: Tensor) -> Tensor:
        """Of functions ``(N, n)`` given at the nodes, there ``(2, N, n)``: the mean over the
        elements that meet."""
        slopes = lobatto(self.across.degree)[2]
        count = torch.zeros_like(self.level).index_add_(
            0, self.places.flatten(), torch.ones_like(self.weights).flatten()
        )
        out = values.new_zeros(2, *values.shape)
        for places in self.places.split(64):
            own = values[places]
            first = torch.einsum("qi,eijn->eqjn", (2 / self.across.h) * slopes, own)
            second = torch.einsum("qj,eijn->eiqn", (2 / self.along.h) * slopes, own)
            for i, part in enumerate((first, second)):
                out[i].index_add_(0, places.flatten(), part.flatten(0, 2))
        return out / count[:, None]

    def interpolation(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of points ``(B, 2)``: the element, -1 where there is none, and the weights ``(B, p+1)``
        of its nodes across and along, zero where there is none."""
        found, inside = [], torch.ones_like(x[:, 0], dtype=torch.bool)
        cells = []
        for side, column in zip((self.across, self.along), x.unbind(1), strict=True):
            place = (column - side.low) / side.h
            inside = inside & (place >= 0) & (place <= side.count)
            cell = place.detach().floor().clamp(0, side.count - 1).long()
            cells.append(cell)
            found.append(_polynomials(2 * (place - cell) - 1, side.degree))
        number = self.numbers.to(x.device)[cells[0], cells[1]]
        number = torch.where(inside, number, -1)
        first = torch.where((number >= 0)[:, None], found[0], 0.0)
        return number, first, found[1]


def _polynomials(x: Tensor, degree: int) -> Tensor:
    """Those that are one at one node, at ``x`` ``(B,)``: ``(B, p+1)``; by Legendre's, whose
    derivatives are finite at the nodes too."""
    rows = [torch.ones_like(x), x]
    for k in range(1, degree):
        rows.append(((2 * k + 1) * x * rows[k] - k * rows[k - 1]) / (k + 1))
    return torch.stack(rows[: degree + 1], -1) @ _nodal(degree).to(x)


@remembered
def _nodal(degree: int) -> Tensor:
    """From the values of Legendre's polynomials at a point to the weights of the nodes there."""
    return torch.linalg.inv(
        torch.from_numpy(np.polynomial.legendre.legvander(lobatto(degree)[0].numpy(), degree))
    )


def make_mesh(
    log_density: Density, low: Tensor, high: Tensor, counts: tuple[int, int], depth: float,
    degree: int = DEGREE,
) -> Mesh:  # fmt: skip
    """``counts`` rectangles on a box from ``low`` to ``high`` ``(2,)``; those are left out in which
    the log density is everywhere ``depth`` below its maximum."""
    ends = zip(low.tolist(), high.tolist(), counts, strict=True)
    across, along = (Elements(*end, degree) for end in ends)
    grid = torch.stack(torch.meshgrid(across.nodes, along.nodes, indexing="ij"), -1)
    level = levels(log_density, grid.flatten(0, 1)).reshape(grid.shape[:2])
    level = level - level.max()
    first, second = across.places, along.places
    kept = level[first[:, None, :, None], second[None, :, None, :]].amax((2, 3)) > -depth
    a, b = kept.nonzero(as_tuple=True)
    own = first[a][:, :, None], second[b][:, None, :]
    used = torch.zeros_like(level, dtype=torch.bool)
    used[own] = True
    place = used.flatten().cumsum(0).reshape(used.shape) - 1
    numbers = torch.full(kept.shape, -1).masked_scatter(kept, torch.arange(len(a)))
    return Mesh(across, along, numbers, place[own], grid[used], level[used])


def levels(log_density: Density, x: Tensor) -> Tensor:
    """The log density at ``(n, 2)``, piece by piece; not a number is minus infinity."""
    found = torch.cat([log_density(part).detach() for part in x.split(_ROWS)])
    return torch.where(found.isnan(), -torch.inf, found)


@dataclass(frozen=True, eq=False)
class PlaneSpectrum:
    """Eigenfunctions in the plane, the constant first.

    Attributes: ``mesh``; ``eigenvalues`` ``(n,)``, from zero down; ``functions`` ``(N, n)`` at the
    nodes; ``change``, by which the largest eigenvalues differ on finer elements, ``residual`` of
    the matrix, both relative to the largest eigenvalue; ``orthogonality``, the largest error of
    ``int phi_j phi_k pi``.
    """

    mesh: Mesh
    eigenvalues: Tensor
    functions: Tensor
    change: float
    residual: float
    orthogonality: float

    @property
    def gap(self) -> float:
        """The slowest rate, ``-lambda_1``: what the slowest relaxation takes is one over it."""
        return -float(self.eigenvalues[1])

    @cached_property
    @lasting
    def gradients(self) -> Tensor:
        """At the nodes, ``(2, N, n)``."""
        return self.mesh.gradients(self.functions)

    def whole(self, count: int) -> int:
        """``count`` functions, the constant among them, or so many more that no block of equal
        eigenvalues is cut; those that were solved for where it has no end among them."""
        scale = _ONE * float(-self.eigenvalues[-1])
        while count < len(self.eigenvalues):
            if float(self.eigenvalues[count - 1] - self.eigenvalues[count]) > scale:
                break
            count += 1
        return count


def solve_mesh(mesh: Mesh, count: int) -> PlaneSpectrum:
    """The first ``count`` functions on these elements, by Lanczos' method, a block of vectors at
    a time, with the matrix inverted.

    Raises ``ArithmeticError`` for fewer than two nodes a function, or where it does not converge:
    how many were reached.
    """
    matrix, size = mesh.matrix, len(mesh.level)
    if size <= 2 * count:
        raise ArithmeticError(
            f"expected at least two nodes for each of {count} functions, found {size}: take fewer"
        )
    values, vectors = _slowest(matrix, count, 1.0 + 0.25 * _weyl(mesh, count))
    gaps = np.linalg.norm(matrix @ vectors - vectors * values, axis=0).max()
    found, rates = torch.from_numpy(vectors), -torch.from_numpy(values)
    error = float((found.T @ found - torch.eye(count, dtype=torch.float64)).abs().max())
    functions = _oriented(mesh, rates, found) * mesh.mass.rsqrt()[:, None]
    functions[:, 0], rates[0] = 1.0, 0.0
    return PlaneSpectrum(mesh, rates, functions, math.nan, float(gaps / values[-1]), error)


def _slowest(matrix: Any, count: int, shift: float) -> tuple[Any, Any]:
    """The smallest eigenvalues, increasing, and their vectors: those of the inverse in the span of
    its powers on a block of vectors, orthogonal to rounding."""
    size = matrix.shape[0]
    factors, most = factorised(matrix, shift), min(size, _SPAN * count + 40 * _WIDE) - _WIDE
    basis, small = np.empty((most + _WIDE, size)), np.zeros((most, most))
    start = np.random.default_rng(0).standard_normal((size, _WIDE))
    basis[:_WIDE] = np.linalg.qr(start)[0].T
    judged: float = 2 * count + 8 * _WIDE
    with counter(3 * count, f"{count} eigenfunctions on {size} nodes") as step:
        for m in range(_WIDE, most + 1, _WIDE):
            own, last = basis[:m], slice(m - _WIDE, m)
            found = factors.solve(np.asfortranarray(basis[last].T)).T
            for _ in range(2):  # to rounding
                shares = found @ own.T
                found -= shares @ own
                small[last, :m] += shares
            following, left = np.linalg.qr(found.T)
            basis[m : m + _WIDE] = following.T
            step(_WIDE)
            if m < judged and m + _WIDE <= most:
                continue
            judged = 1.1 * m
            values, vectors = np.linalg.eigh(small[:m, :m])
            values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
            errors = np.linalg.norm(left @ vectors[last], axis=0)
            good = errors < _CONVERGED * values
            if len(good) == count and good.all():
                return 1 / values - shift, own.T @ vectors
    raise ArithmeticError(
        f"expected {count} eigenfunctions on {size} nodes, found {int(good.sum())} that "
        "converged: pass a narrower box, or fewer functions"
    )


def _weyl(mesh: Mesh, count: int) -> float:
    """The rate of the function of that number, by the area that it has."""
    area = len(mesh.places) * mesh.across.h * mesh.along.h
    return 4 * math.pi * count / area


def factorised(matrix: Any, shift: float) -> Any:
    """The sparse triangular factors of the symmetric matrix plus ``shift``; without pivots, so that
    the signs of the diagonal are those of the eigenvalues."""
    moved = matrix + shift * scipy.sparse.identity(matrix.shape[0], format="csc")
    return scipy.sparse.linalg.splu(
        moved, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )


def _oriented(mesh: Mesh, rates: Tensor, vectors: Tensor) -> Tensor:
    """The signs, and of equal eigenvalues the rotations, that do not depend on the solver: in each
    block the first function has all that there is at some node, the second all at another of what
    the first has left, and so on, and all are positive there."""
    x = (mesh.nodes - mesh.nodes.mean(0)) / mesh.nodes.std(0)
    uneven = 1 + 0.3 * torch.sin(0.3 + 1.1 * x[:, 0] + 0.7 * x[:, 1])  # no two nodes are alike
    ends = (rates[:-1] - rates[1:] > -_ONE * rates[-1]).nonzero()[:, 0] + 1
    blocks = torch.tensor_split(vectors, ends, 1)
    found = []
    for block in blocks:
        rotation, triangle, _ = scipy.linalg.qr(
            (uneven[:, None] * block).T.numpy(), mode="economic", pivoting=True
        )
        found.append(block @ torch.from_numpy(rotation * np.sign(np.diag(triangle))))
    return torch.cat(found, 1)


class Plane:
    """The process of a law in the plane, on a box from ``low`` to ``high`` ``(2,)``.

    ``log_density``: ``(n, 2)`` float64 -> ``(n,)``, up to a constant; ``depth``: what is further
    below its maximum is no part of the law. Solved for when asked for, and kept, on disk where it
    takes more than two seconds.
    """

    def __init__(self, log_density: Density, low: Tensor, high: Tensor, depth: float) -> None:
        self.log_density, self.low, self.high, self.depth = log_density, low, high, depth
        self._solved: dict[int, PlaneSpectrum] = {}

    def slope(self, x: Tensor) -> Tensor:
        """``grad log pi`` at ``(B, 2)``, by autograd."""
        with torch.enable_grad():
            points = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.log_density(points).sum(), points)
        return found

    def spectrum(self, count: int) -> PlaneSpectrum:
        """Of at least ``count`` functions and the constant; the same whatever was asked for
        before."""
        size = _STEP * math.ceil((count + 1) / _STEP)
        if size not in self._solved:
            self._solved[size] = self._found(size)
        return self._solved[size]

    def _mesh(self, counts: tuple[int, int], degree: int = DEGREE) -> Mesh:
        return make_mesh(self.log_density, self.low, self.high, counts, self.depth, degree)

    def _first(self, count: int) -> Mesh:
        """As many nodes as waves of so many functions need, more where the density is steep."""
        sides = self.high - self.low
        rough = self._mesh((16, 16))
        wave = 2 * math.pi * _weyl(rough, count) ** -0.5
        h = min(DEGREE * wave / _PER_WAVE, float(sides.max()) / 4)
        while True:
            counts = [math.ceil(float(side) / h) for side in sides]
            mesh = self._mesh((counts[0], counts[1]))
            if mesh.steepest < _STEEPEST:
                return mesh
            if len(mesh.nodes) > _MOST_NODES:
                raise ArithmeticError(
                    f"expected a log density that changes by less than {_STEEPEST:g} within an "
                    f"element, found {mesh.steepest:.3g} with {len(mesh.nodes)} nodes: pass a "
                    "narrower box, or a smoother density"
                )
            h /= 1.25

    def _found(self, count: int) -> PlaneSpectrum:
        mesh = self._first(count)
        about = mesh.level, mesh.nodes, torch.tensor([count, DEGREE])
        counts = mesh.across.count, mesh.along.count

        def solve() -> dict[str, Tensor]:
            found = self.refined(mesh, count)
            errors = found.change, found.residual, found.orthogonality
            return {
                "degree": torch.tensor(found.mesh.across.degree),
                "eigenvalues": found.eigenvalues,
                "functions": found.functions,
                "errors": torch.tensor(errors, dtype=torch.float64),
            }

        found = kept_on_disk("plane", about, solve, KEPT)
        degree = int(found["degree"])
        return PlaneSpectrum(
            mesh if degree == DEGREE else self._mesh(counts, degree),
            found["eigenvalues"],
            found["functions"],
            *found["errors"].tolist(),
        )

    def refined(self, mesh: Mesh, count: int) -> PlaneSpectrum:
        """The degree is raised, on the same elements, until the largest eigenvalues stand."""
        counts = mesh.across.count, mesh.along.count
        while True:
            found = solve_mesh(mesh, count)
            finer = self._mesh(counts, mesh.across.degree + _JUDGE)
            change = _moved(found, finer)
            if change <= _TOLERANCE:
                return replace(found, change=change)
            if finer.across.degree > _HIGHEST or len(finer.nodes) > _MOST_NODES:
                raise ArithmeticError(
                    f"expected {count} eigenvalues to a relative {_TOLERANCE:g}, found a change "
                    f"of {change:.1e} with {len(mesh.nodes)} nodes: pass a narrower box, fewer "
                    "functions, or a smoother density"
                )
            mesh = self._mesh(counts, mesh.across.degree + _RAISED)


def _moved(found: PlaneSpectrum, finer: Mesh) -> float:
    """By how much the largest eigenvalues differ on other elements, relative to the largest; by the
    law of inertia the factors say how many are smaller, so that none is missed or spurious."""
    rates = -found.eigenvalues.numpy()
    last = len(rates) - _JUDGED
    cut = last + int(np.diff(rates[last:]).argmax())  # the widest gap of the largest
    middle = 0.5 * float(rates[cut] + rates[cut + 1])
    factors = factorised(finer.matrix, -middle)
    below = int((factors.U.diagonal() < 0).sum())
    if below != cut + 1:
        return math.inf
    inverse = scipy.sparse.linalg.LinearOperator(finer.matrix.shape, factors.solve, dtype=float)
    near = scipy.sparse.linalg.eigsh(
        finer.matrix, _JUDGED, sigma=middle, OPinv=inverse, v0=np.ones(len(finer.level)),
        return_eigenvectors=False,
    )  # fmt: skip
    lower = np.sort(near[near < middle])
    return float(np.abs(lower - rates[below - len(lower) : below]).max() / rates[-1])
