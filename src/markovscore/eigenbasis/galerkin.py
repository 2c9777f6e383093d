r"""Several coordinates that are not independent: eigenfunctions in a span, from averages under the
law, with their errors measured.

For :math:`L f = \Delta f + \nabla\log\pi \cdot \nabla f` and functions :math:`\psi_1..\psi_M`, the
coefficients of :math:`L \psi` in the span are those of least squares under :math:`\pi`,

.. math:: G = E_\pi[\psi \psi^T], \quad B = E_\pi[\psi\, (L\psi)^T], \quad
          G^{-1} B\, c = \lambda c

(Klus et al. 2020, arXiv:1909.10638). With exact averages :math:`-B = E_\pi[\nabla\psi \cdot
\nabla\psi^T]` and this is Ritz' method; with those of finitely many nodes the error is that of what
the span cannot hold, and nothing where :math:`L` leaves the span to itself. The space of the
slowest functions is then made orthonormal and :math:`L` on it symmetric, which errs to second order
in what nodes miss. Averages are over Sobol's points under a broader mixture of normal laws, with
weights :math:`\pi / q`.

A second, independent set of nodes measures the errors. As :math:`L` is symmetric,

.. math:: \mathrm{dist}(\lambda, \mathrm{spec}(L)) \le
          \lVert L\phi - \lambda\phi \rVert_\pi / \lVert \phi \rVert_\pi ;

functions are kept where this is at most a tenth of :math:`1 + |\lambda|`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from ..core import counter, kept_on_disk
from .components import Components
from .span import Span

Law = Callable[[Tensor], Tensor]

SIZE = 600  # functions in the span, at most
NODES = 2**14  # of each of the two averages
BAR = 0.1  # residual relative to 1 + |lambda|
MOST = 320  # functions that are kept
KEPT = 2.0  # seconds, beyond which a solution is kept on disk
_RANK = 1e-11  # eigenvalues of the scaled mass matrix that are no rounding, relative to the largest
_NEAR = 1e-3  # gaps of eigenvalues within which functions are made orthonormal, likewise
_ONE = 1e-6  # gaps of a block of equal eigenvalues, likewise
_FEWEST = 0.02  # nodes with a weight, as a share


@dataclass(frozen=True, eq=False)
class GalerkinSpectrum:
    """Eigenfunctions in a span, the constant first.

    Attributes: ``eigenvalues`` ``(P + 1,)``, from zero down; ``coefficients`` ``(M, P + 1)``;
    ``residuals`` ``(P + 1,)``, ``||L phi - lambda phi|| / (1 + |lambda|)`` on nodes that were not
    solved with, which bounds the distance of the eigenvalue to the spectrum in these units;
    ``changes`` ``(P + 1,)``, to the nearest eigenvalue that these nodes give, in the same units;
    ``angles`` ``(P + 1,)``, the sine of each function's angle with the space that they give;
    ``left_out``, how many functions slower than the last one were not good enough.
    """

    eigenvalues: Tensor
    coefficients: Tensor
    residuals: Tensor
    changes: Tensor
    angles: Tensor
    left_out: int

    @property
    def gap(self) -> float:
        """The slowest rate, ``-lambda_1``: what the slowest relaxation takes is one over it."""
        return -float(self.eigenvalues[1])


@dataclass(frozen=True)
class Averages:
    """``E psi psi^T``, ``E psi (L psi)^T`` and ``E (L psi) (L psi)^T``, ``(M, M)`` each."""

    mass: Tensor
    moved: Tensor
    square: Tensor

    def residuals(self, functions: Tensor, rates: Tensor) -> Tensor:
        """``||L phi - lambda phi|| / (||phi|| (1 + |lambda|))`` of functions ``(M, n)``."""
        mass, moved, square = (
            (functions * (matrix @ functions)).sum(0)
            for matrix in (self.mass, self.moved, self.square)
        )
        found = square - 2 * rates * moved + rates.square() * mass
        return (found / mass).clamp(min=0).sqrt() / (1 + rates.abs())

    def angles(self, functions: Tensor, others: Tensor) -> Tensor:
        """The sine of the angle of each function ``(M, n)`` with the space of ``others``."""
        shares = torch.linalg.solve(others.T @ self.mass @ others, others.T @ self.mass @ functions)
        outside = functions - others @ shares
        ends = ((part * (self.mass @ part)).sum(0) for part in (outside, functions))
        return torch.div(*ends).clamp(min=0).sqrt()


class Galerkin:
    """The process of a law of ``d`` coordinates: its eigenfunctions in a span of ``size``.

    ``log_density``, ``score``: ``(n, d)`` float64 -> ``(n,)``, up to a constant, and ``(n, d)``;
    ``parts``: the law as a mixture of normal laws, roughly; ``nodes``, of each average. Solved for
    when asked for, and kept, on disk where it takes more than two seconds.

    Raises ``ArithmeticError`` where no function is good enough.
    """

    def __init__(
        self, log_density: Law, score: Law, parts: Components, size: int = SIZE, nodes: int = NODES
    ) -> None:
        self.log_density, self.score = log_density, score
        self.span, self.nodes = Span(parts, size), nodes
        self._spectrum: GalerkinSpectrum | None = None
        self._reach: float | None = None

    def weighted(self, seed: int, count: int) -> tuple[Tensor, Tensor]:
        """Nodes ``(n, d)`` and their weights under the law, of sum one."""
        x, level = self.span.parts.nodes(count, seed)
        weights = (self.log_density(x) - level).nan_to_num(nan=-torch.inf).softmax(0)
        share = 1 / float(weights.square().sum()) / len(x)
        if not share > _FEWEST:
            raise ArithmeticError(
                "expected a law that a mixture of few normal laws resembles, found "
                f"{share:.1%} of the nodes with all the weight: its tails are heavy, or log_prob "
                "and sample are of different laws"
            )
        return x, weights

    @property
    def reach(self) -> float:
        """How far nodes are from the nearest part, in its scales: beyond is no law."""
        if self._reach is None:
            x, _ = self.span.parts.nodes(self.nodes, 0)
            self._reach = float(self.span.parts.distance(x).max())
        return self._reach

    @property
    def spectrum(self) -> GalerkinSpectrum:
        """The functions that are good enough, of more than 320 the slowest."""
        if self._spectrum is None:
            _, weights = self.weighted(0, 2**12)
            about = *vars(self.span.parts).values(), weights
            sizes = torch.tensor([self.span.size, self.nodes])
            found = kept_on_disk("galerkin", (*about, sizes), self._solve, KEPT)
            left_out = int(found.pop("left_out"))
            self._spectrum = GalerkinSpectrum(**found, left_out=left_out)
        return self._spectrum

    def _solve(self) -> dict[str, Tensor]:
        ours, others = (self._averages(seed) for seed in (0, 1))
        functions, rates, left_out = self._kept(ours, others)
        again, near, _ = self._kept(others, ours)
        functions = self.oriented(functions, rates)
        return {
            "eigenvalues": rates,
            "coefficients": functions,
            "residuals": others.residuals(functions, rates),
            "changes": (rates[:, None] - near).abs().amin(1) / (1 + rates.abs()),
            "angles": others.angles(functions, again),
            "left_out": torch.tensor(left_out),
        }

    def _averages(self, seed: int) -> Averages:
        x, weights = self.weighted(seed, self.nodes)
        score = self.score(x)
        mass, moved, square = x.new_zeros(3, self.span.size, self.span.size)
        with counter(
            -(-len(x) // self.span.block), f"averages of {self.span.size} functions"
        ) as step:
            for own, slope, w in self.span.blocks(x, score, weights):
                value, move = own[0], own[-1] + (own[1:-1] * slope.T[:, None]).sum(0)
                mass.addmm_(w * value, value.T)
                moved.addmm_(w * value, move.T)
                square.addmm_(w * move, move.T)
                step()
        return Averages(mass, moved, square)

    def _kept(self, averages: Averages, others: Averages) -> tuple[Tensor, Tensor, int]:
        """The constant and the functions that are good enough by the other averages, ``(M, n)``,
        their eigenvalues, and how many slower than the last one are not."""
        one = self.span.constant[:, None]
        functions, rates = _slowest(averages)
        functions = functions - one * (one.T @ averages.mass @ functions)
        bad = others.residuals(functions, rates)
        good = ((bad <= BAR) & (rates < 0)).nonzero()[:MOST, 0]
        if not len(good):
            raise ArithmeticError(
                f"expected eigenfunctions with a residual of at most {BAR:g} of 1 + |lambda|, "
                f"found {float(bad[bad > 0].min()):.2g} for the best in a span of "
                f"{self.span.size}: the law is too rough for so few functions; train a score, for "
                "instance with LocalDSM"
            )
        left_out = int(good[-1]) - int((rates[: good[-1]] >= -1e-9).sum()) + 1 - len(good)
        functions, rates = _orthonormal_blocks(averages, functions[:, good], rates[good])
        return (
            torch.cat([one, functions], 1),
            torch.cat([rates.new_zeros(1), rates]),
            max(0, left_out),
        )

    def oriented(self, functions: Tensor, rates: Tensor) -> Tensor:
        """Signs, and in blocks of equal eigenvalues rotations, that do not depend on the solver: in
        each block the first function has all that there is at some point, the second all at another
        of what the first has left, and so on."""
        x, _ = self.span.parts.nodes(2 * functions.shape[1], 2)
        values = self.span.fields(x, functions)[0]
        ends = _ends(rates, _ONE)
        found = []
        for block, at in zip(
            functions.tensor_split(ends, 1), values.tensor_split(ends), strict=True
        ):
            rotation, triangle, _ = scipy.linalg.qr(at.numpy(), mode="economic", pivoting=True)
            signs = torch.from_numpy(triangle.diagonal().copy()).sign()
            found.append(block @ (torch.from_numpy(rotation) * signs))
        return torch.cat(found, 1)


def _ends(rates: Tensor, gap: float) -> list[int]:
    """Where blocks of eigenvalues end that are nearer than ``gap (1 + |lambda|)``; the constant is
    one of its own."""
    far = rates[:-1] - rates[1:] > gap * (1 + rates[1:].abs())
    far[0] = far[0] | (rates[0] == 0)
    return (far.nonzero()[:, 0] + 1).tolist()


def _slowest(averages: Averages) -> tuple[Tensor, Tensor]:
    """Functions ``(M, r)`` and eigenvalues by least squares, from the slowest on; of a pair that
    is complex, the real and the imaginary part."""
    scale = averages.mass.diagonal().rsqrt()
    values, vectors = torch.linalg.eigh(scale[:, None] * averages.mass * scale)
    kept = values > _RANK * values[-1]
    turned = scale[:, None] * vectors[:, kept] / values[kept].sqrt()
    rates, vectors = torch.linalg.eig(turned.T @ averages.moved @ turned)
    order = rates.real.argsort(descending=True, stable=True)
    rates, vectors = rates[order], vectors[:, order]
    return turned @ torch.where(rates.imag < 0, vectors.imag, vectors.real), rates.real


def _orthonormal_blocks(
    averages: Averages, functions: Tensor, rates: Tensor
) -> tuple[Tensor, Tensor]:
    """Functions of unit norm, those with near eigenvalues orthonormal, and the eigenvalues of the
    symmetric part of ``L`` on the space of each such block."""
    found = []
    for block in functions.tensor_split(_ends(rates, _NEAR), 1):
        values, vectors = torch.linalg.eigh(block.T @ averages.mass @ block)
        turned = block @ (vectors / values.sqrt())
        moved = turned.T @ averages.moved @ turned
        values, vectors = torch.linalg.eigh(-0.5 * (moved + moved.T))
        found.append((turned @ vectors, -values))
    functions, rates = (torch.cat(part, -1) for part in zip(*found, strict=True))
    order = rates.argsort(descending=True)
    return functions[:, order], rates[order]
