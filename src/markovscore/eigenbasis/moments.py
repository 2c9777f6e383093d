"""Averages of eigenfunctions over data, and the score-matching problem that they determine.

For ``h = sum_k alpha_k phi_k`` the implicit score-matching loss relative to the stationary law is
(paper A, Examples 5 and 6)

    J_t(h) = E_{rho_t}[ 1/2 Gamma(h, h) + L h ] = 1/2 alpha^T A_t alpha - alpha^T b_t,
    A_t[j,k] = E_{rho_t} Gamma(phi_j, phi_k),      b_t[k] = -lambda_k e^{lambda_k t} M_k,

with ``Gamma(g, h) = grad g . grad h`` and ``M_k = E_{rho_0} phi_k``.  Both follow, for every
``t``, from averages over ``rho_0`` alone.  A moment object answers two questions: ``slope(t) =
b_t``, and ``factor(t)``, a lower triangular ``L_t`` with ``L_t L_t^T = A_t``.  The module knows no
particular basis: trigonometric bases hand over their product table, polynomials the average of
their products in factored form.
"""

from __future__ import annotations

import inspect
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from .indices import places

# A share of the stationary law's energy E_pi Gamma(phi_j, phi_k) = -lambda_k delta_jk is added to
# A_t, so that its factor exists where the data leave part of the space empty.  The Cholesky factor
# of A_t needs eps * cond(A_t); the QR factor of its square root only the square of that.
JITTER = 1e-9
POLYNOMIAL_JITTER = 1e-16
_BLOCK = 2**22  # entries of a working block: 32 MiB in double precision
_NEGLIGIBLE = 1e-18  # share of the noise in a term of the addition theorem
_ROWS = 64  # of a matrix that are formed at once: a tenth of a large one, all of a small one
# The standard deviation given to what does not vary: a point mass has no score at t = 0.
MIN_SCALE = 1e-4
_INSIDE = (__name__.split(".")[0], "torch", "contextlib")  # and what its decorators are made of

Shifts = list[tuple[Tensor, Tensor]]  # rows of multi-indices, and those of lower degree


class SpectralWarning(UserWarning):
    """The data, or the noise levels, cannot determine all that was asked for."""


def warn(message: str) -> None:
    """A :class:`SpectralWarning` at the line of the user's that led to it, whatever the path."""
    depth, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE:
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, SpectralWarning, stacklevel=depth + 1)


def warn_if_flat(
    flat: Tensor, axes: Tensor | None, scale: float, columns: Sequence[str] | None = None
) -> None:
    """Name the coordinates ``flat`` ``(d,)``, or the directions ``axes[:, flat]``, that are
    constant, and the standard deviation ``scale`` that they are given; ``columns``: what the
    coordinates are called."""
    found = flat.nonzero()[:, 0].tolist()
    if not found:
        return
    names = columns or [f"column {i}" for i in range(len(flat))]
    named = [names[i] if axes is None else _combination(axes[:, i], columns) for i in found[:8]]
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    warn(
        f"x: expected coordinates that vary, found constant {', '.join(named)}{more}: a point mass "
        f"has no score at t = 0, so a standard deviation of {scale:g} is taken there, on which "
        "densities depend; drop what is constant or follows from other columns"
    )


def _combination(axis: Tensor, columns: Sequence[str] | None) -> str:
    """``+0.71 x[:, 0] -0.71 x[:, 1]``, its largest four terms; ``column 0`` where it is one."""
    terms = (axis.abs() > 5e-3).nonzero()[:, 0]
    if len(terms) == 1:
        return columns[int(terms)] if columns else f"column {int(terms)}"
    names = columns or [f"x[:, {i}]" for i in range(len(axis))]
    largest = axis.abs().argsort(descending=True)[:4].sort().values.tolist()
    named = [f"{float(axis[i]):+.2g} {names[i]}" for i in largest if axis[i].abs() > 5e-3]
    return " ".join(named) + (" + ..." if len(terms) > 4 else "")


@dataclass(frozen=True, kw_only=True)
class Moments(ABC):
    """Averages of eigenfunctions under a data law, and what they imply at all times (float64).

    ``mean`` ``(G,)``: ``E phi_m``; ``variance`` ``(G,)``: squared standard error of each average,
    zero for exact expectations; ``rates`` ``(G,)``: ``lambda_m``; ``n_points``: size of the sample.
    ``mix``, ``heat``: shrinkage ``mean_m -> mix e^{lambda_m heat} mean_m``, ``m != 0``, which are
    the moments of the law ``mix P*_heat rho_0 + (1 - mix) pi``.  As that is a law, ``A_t`` stays
    positive semi-definite.
    """

    mean: Tensor
    variance: Tensor
    rates: Tensor
    n_points: int
    mix: float = 1.0
    heat: float = 0.0

    def shrunk(self, mix: float = 1.0, heat: float = 0.0) -> Self:
        """The moments of ``mix P*_heat rho_0 + (1 - mix) pi``; ``0 <= mix <= 1``, ``heat >= 0``."""
        if not (0 <= mix <= 1 and heat >= 0):
            raise ValueError(f"expected 0 <= mix <= 1 and heat >= 0; found mix={mix}, heat={heat}")
        return replace(self, mix=self.mix * mix, heat=self.heat + heat)

    def slope(self, times: Tensor) -> Tensor:
        """``b_t`` ``(T, K)`` at times ``(T,)``; here of moments that are the basis' own."""
        return -self.mix * self.rates * self._decay(self.rates, times) * self.mean

    def slope_errors(self, times: Tensor) -> Tensor:
        """Standard errors of ``b_t`` ``(T, K)``."""
        return self.mix * self.rates.abs() * self._decay(self.rates, times) * self.variance.sqrt()

    def reordered(self, order: Tensor) -> Self:
        """The same with the basis' own functions in another order ``(K,)``; here of moments that
        are the basis' own."""
        own = {name: getattr(self, name)[order] for name in ("mean", "variance", "rates")}
        return replace(self, **own)

    def without(self, part: Self, share: float) -> Self | None:
        """Averages over the points that are not in a ``part`` of these, which has so large a
        ``share`` of the weights; None where it is quicker to take them anew. Variances stay."""
        return None

    @abstractmethod
    def factor(self, times: Tensor) -> Tensor:
        """Lower triangular ``L_t`` ``(T, K, K)`` with ``L_t L_t^T = A_t``."""

    def leading(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Factors ``(T, K, K)`` whose leading blocks are the factors of the leading blocks of
        ``A_t``, and the order of the first that to rounding has none, ``(T,)``, or 0."""
        return self.factor(times), torch.zeros(len(times), dtype=torch.int32)

    def energy(self, times: Tensor) -> Tensor:
        """``A_t`` ``(T, K, K)``."""
        factor = self.factor(times)
        return factor @ factor.mT

    def _decay(self, rates: Tensor, times: Tensor) -> Tensor:
        """``e^{lambda (t + heat)}``, ``(T, len(rates))``."""
        return torch.exp((times.to(rates)[:, None] + self.heat) * rates)


class MatrixMoments(Moments):
    """Averages that give ``A_t`` itself."""

    @abstractmethod
    def energy(self, times: Tensor) -> Tensor: ...

    def _triangle(self, times: Tensor) -> Tensor:
        """``A_t`` on and above the diagonal, anything below it."""
        return self.energy(times)

    def leading(self, times: Tensor) -> tuple[Tensor, Tensor]:
        return _factorised(self._triangle(times))

    def factor(self, times: Tensor) -> Tensor:
        lower, failed = self.leading(times)
        for i in failed.nonzero()[:, 0].tolist():
            lower[i] = _clipped_factor(self.energy(times[i : i + 1])[0])
        return lower


@dataclass(frozen=True, kw_only=True)
class ProductMoments(MatrixMoments):
    """Bases closed under products, ``phi_j phi_k = sum_s c_s phi_{m_s}``: moments give ``A_t``.

    ``A_t[j,k] = sum_s 1/2 (lambda_{m_s} - lambda_j - lambda_k) c_s e^{lambda_{m_s} t} M_{m_s}``.

    ``own`` ``(K,)``: positions of the basis' functions among the ``G`` moments (``m = 0`` is
    first); ``own_rates`` ``(K,)``; ``places``, ``weights`` ``(S, K, K)``: the position ``m_s`` and
    the factor before ``e^{lambda t} M``.
    """

    own: Tensor
    own_rates: Tensor
    places: Tensor
    weights: Tensor

    def slope(self, times: Tensor) -> Tensor:
        return -self.mix * self.own_rates * self._decay(self.own_rates, times) * self.mean[self.own]

    def slope_errors(self, times: Tensor) -> Tensor:
        decay = self.mix * self.own_rates.abs() * self._decay(self.own_rates, times)
        return decay * self.variance[self.own].sqrt()

    def reordered(self, order: Tensor) -> Self:
        both = order[:, None], order
        return replace(
            self,
            own=self.own[order],
            own_rates=self.own_rates[order],
            places=self.places[:, *both],
            weights=self.weights[:, *both],
        )

    def energy(self, times: Tensor) -> Tensor:
        upper = self._triangle(times).triu_()
        return upper + upper.triu(1).mT

    def _triangle(self, times: Tensor) -> Tensor:
        """A block of rows after the other, of one time after the other: the working set stays in
        cache."""
        moments = self.mix * self._decay(self.rates, times) * self.mean
        moments[:, 0] = 1
        out = moments.new_empty(len(moments), *self.weights.shape[1:])
        for moment, matrix in zip(moments, out, strict=True):
            for first in range(0, len(matrix), _ROWS):
                block = slice(first, first + _ROWS), slice(first, None)
                terms = torch.take(moment, self.places[:, *block]).mul_(self.weights[:, *block])
                torch.sum(terms, 0, out=matrix[block])
        out.diagonal(dim1=1, dim2=2).sub_(JITTER * self.own_rates)
        return out


def _factorised(upper: Tensor) -> tuple[Tensor, Tensor]:
    """As :meth:`Moments.leading`, in the memory of ``A_t`` ``(T, K, K)``."""
    lower = upper.mT  # by columns, as LAPACK has it
    failed = torch.empty(len(lower), dtype=torch.int32, device=lower.device)
    torch.linalg.cholesky_ex(lower, out=(lower, failed))
    return lower, failed


def _clipped_factor(energy: Tensor) -> Tensor:
    """A lower triangular factor where rounding left ``A`` indefinite: eigenvalues are clipped."""
    values, vectors = torch.linalg.eigh(energy)
    root = values.clamp(min=JITTER * float(values[-1])).sqrt()[:, None] * vectors.T
    return torch.linalg.qr(root, mode="r").R.T


@dataclass(frozen=True, kw_only=True)
class PolynomialMoments(Moments):
    """Hermite basis: ``A_t`` from ``G_0 = E_{rho_0}[phi phi^T] = R^T R``, not from moments.

    With ``a = e^{-t}``, ``b = sqrt(1 - a^2)`` the addition theorem of normalised Hermite
    polynomials, ``phi_n(a x + b z) = sum_l sqrt(C(n, l)) a^{n-l} b^l phi_{n-l}(x) phi_l(z)``, and
    orthonormality in ``z`` give

        E_{rho_t}[phi phi^T] = sum_l S_l G_0 S_l^T,      S_l[n, n-l] = sqrt(C(n, l)) a^{n-l} b^l :

    positive semi-definite by construction, exact, and independent of the number of points.  The
    stacked ``R S_l^T`` have it as their Gram matrix; a QR factorisation per axis and time keeps
    the square root of the condition number.  ``indices`` ``(K, d)``: multi-indices of the basis;
    ``lower`` ``(K', d)``: those that a derivative can hold, a downward closed set; ``root`` ``(K',
    K')``: ``R``, upper triangular.
    """

    indices: Tensor
    lower: Tensor
    root: Tensor

    def reordered(self, order: Tensor) -> Self:
        return replace(super().reordered(order), indices=self.indices[order])

    def leading(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Of a law that is mixed with the stationary one, whose ``A_t`` is far from singular, by
        the matrix itself: each of its degrees costs no factorisation."""
        if self.mix == 1:
            return super().leading(times)
        return _factorised(self.energy(times))

    def energy(self, times: Tensor) -> Tensor:
        """``A_t`` ``(T, K, K)``, one time after the other."""
        return torch.stack([self._energy(float(t)) for t in times + self.heat])

    def _energy(self, t: float) -> Tensor:
        averages = self._averages
        for axis, moved in enumerate(self._shifts):
            averages = diffused(averages, self.lower[:, axis], moved, t)
        out = torch.diag((self.mix - 1 - POLYNOMIAL_JITTER) * self.rates)
        for target, source, root in self._lowered:
            slopes = averages[source[:, None], source] * (root[:, None] * root)
            out[target[:, None], target] += self.mix * slopes
        return out

    @cached_property
    def _averages(self) -> Tensor:
        """``E_{rho_0} phi phi^T`` ``(K', K')``."""
        return self.root.mT @ self.root

    @cached_property
    def _shifts(self) -> list[Shifts]:
        return [shifts(self.lower, axis) for axis in range(self.lower.shape[1])]

    def factor(self, times: Tensor) -> Tensor:
        order = int(self.indices.sum(1).max())
        block = max(1, _BLOCK // (len(self.lower) ** 2 * (order + 1)))
        return torch.cat([self._factor(t) for t in times.to(self.root).split(block)])

    def _factor(self, times: Tensor) -> Tensor:
        root = self.root.expand(len(times), -1, -1)
        for axis in range(self.lower.shape[1]):
            root = _triangle(self._diffused(root, axis, times + self.heat))
        if self.mix < 1:
            uniform = torch.eye(len(self.lower), dtype=root.dtype, device=root.device).expand_as(
                root
            )
            root = _triangle(torch.cat([self.mix**0.5 * root, (1 - self.mix) ** 0.5 * uniform], 1))
        return _triangle(self._gradients(root)).mT

    def _diffused(self, root: Tensor, axis: int, times: Tensor) -> Tensor:
        """The stacked ``R S_l^T`` along one axis, ``(T, (n+1) K', K')``."""
        degree = self.lower[:, axis]
        a, b = torch.exp(-times)[:, None], torch.sqrt(-torch.expm1(-2 * times))[:, None]
        place = places(self.lower)
        blocks = []
        for shift in range(int(degree.max()) + 1):
            target = (degree >= shift).nonzero()[:, 0]
            source = self.lower[target].clone()
            source[:, axis] -= shift
            n = degree[target].to(root)
            binomial = torch.exp(
                (n + 1).lgamma()
                - (n - shift + 1).lgamma()
                - torch.lgamma(n.new_tensor(shift + 1.0))
            )
            block = torch.zeros_like(root)
            scale = binomial.sqrt() * a ** (n - shift) * b**shift
            block[:, :, target] = root[:, :, place(source)] * scale[:, None]
            blocks.append(block)
        return torch.cat(blocks, 1)

    @cached_property
    def _lowered(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """``d_i phi_k = sqrt(k_i) phi_{k-e_i}``: for each axis the functions that vary along it,
        the positions in ``lower`` of their derivatives, and the factors."""
        place, found = places(self.lower), []
        for axis in range(self.lower.shape[1]):
            target = (self.indices[:, axis] > 0).nonzero()[:, 0]
            source = self.indices[target].clone()
            source[:, axis] -= 1
            degree = self.indices[target, axis].to(self.root)
            found.append((target, place(source), degree.sqrt()))
        return found

    def _gradients(self, root: Tensor) -> Tensor:
        """Roots of ``E d_i phi d_i phi^T``, stacked."""
        blocks = [
            torch.diag_embed((-POLYNOMIAL_JITTER * self.rates).sqrt()).expand(len(root), -1, -1)
        ]
        for target, source, factor in self._lowered:
            block = root.new_zeros(len(root), root.shape[1], len(self.indices))
            block[:, :, target] = root[:, :, source] * factor
            blocks.append(block)
        return torch.cat(blocks, 1)


def shifts(closed: Tensor, axis: int) -> Shifts:
    """For each ``l`` the rows of multi-indices ``(L, d)`` with degree ``l`` or more along an axis,
    and where those with ``l`` less stand."""
    place, found = places(closed), []
    for shift in range(int(closed[:, axis].max()) + 1):
        rows = (closed[:, axis] >= shift).nonzero()[:, 0]
        source = closed[rows].clone()
        source[:, axis] -= shift
        found.append((rows, place(source)))
    return found


def diffused(averages: Tensor, degree: Tensor, moved: Shifts, t: float) -> Tensor:
    """Averages ``(..., L, L)`` of products of polynomials at time ``t``, by the addition theorem
    along one axis, of which they have ``degree`` ``(L,)``; terms without weight are left out."""
    degree, most = degree.to(averages.real), int(degree.max())
    # Factorials leave the doubles at 171: they are kept over the powers of their usual ratio.
    ratio = max(1.0, most / math.e)
    root = (0.5 * ((degree + 1).lgamma() - degree * math.log(ratio))).exp()
    scale = torch.exp(-t * degree) / root
    scaled = averages * (scale[:, None] * scale)
    out, noise = scaled.clone(), -math.expm1(-2 * t)
    for shift, (rows, source) in enumerate(moved[1:], 1):
        if math.comb(most, shift) * noise**shift < _NEGLIGIBLE:
            break
        weight = math.exp(shift * math.log(noise * ratio) - math.lgamma(shift + 1))
        out[..., rows[:, None], rows] += weight * scaled[..., source[:, None], source]
    return out * (root[:, None] * root)


def _triangle(stacked: Tensor) -> Tensor:
    """``R`` of the QR factorisation of ``(T, M, K)``, ``(T, min(M, K), K)``."""
    return torch.linalg.qr(stacked, mode="r").R
