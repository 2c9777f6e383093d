"""Hermite polynomials: the eigenfunctions of the Ornstein-Uhlenbeck process."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core import remembered
from .base import (
    Eigenbasis,
    index_set,
    indices_up_to,
    quadrature_weights,
    scatter,
    select,
    squared_errors,
)
from .moments import PolynomialMoments


class Hermite(Eigenbasis):
    """Ornstein-Uhlenbeck: ``phi_k = prod_i He_{k_i}(x_i)/sqrt(k_i!)``, ``lambda_k = -|k|_1``.

    Paper A, Example 4.
    """

    @property
    def degree(self) -> int:
        """The highest total degree of a function; up to two the score is linear."""
        return int(self.indices.sum(1).max())

    def _multi_indices(self) -> Tensor:
        return index_set(self.dim, self.n_functions, lambda k: k)

    def rates(self, indices: Tensor) -> Tensor:
        return -indices.sum(1).to(torch.float64)

    def features(self, x: Tensor, order: int, out: Tensor | None = None) -> Tensor:
        """By the recurrence ``sqrt(k+1) phi_{k+1} = x phi_k - sqrt(k) phi_{k-1}``."""
        if out is None:
            rows = [torch.ones_like(x), x]
            for k in range(1, order):
                rows.append((x * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
            return torch.stack(rows[: order + 1])
        rows = list(out.unbind())
        rows[0].fill_(1)
        rows[1].copy_(x)
        for k in range(1, order):
            row = torch.mul(x, rows[k], out=rows[k + 1])
            row.sub_(rows[k - 1], alpha=math.sqrt(k)).div_(math.sqrt(k + 1))
        return out

    def feature_count(self, order: int) -> int:
        return order + 1

    def feature_derivative(self, order: int) -> Tensor:
        return _derivative(order)

    def tensor(self, coefficients: Tensor) -> Tensor:
        return scatter(coefficients, self.indices, self.order + 1)

    def _jet(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f = torch.stack([self.features(x[:, i], self.order) for i in range(self.dim)])
        derivative = self.feature_derivative(self.order).to(x)
        first = derivative @ f
        return (
            select(f, self.indices),
            select(first, self.indices),
            select(derivative @ first, self.indices),
        )

    def generator(self, x: Tensor) -> Tensor:
        return self.laplacian(x) - torch.einsum("bkd,bd->bk", self.gradient(x), x)

    def moments(self, x: Tensor, weights: Tensor | None = None) -> PolynomialMoments:
        x, w = x.double(), quadrature_weights(x, weights)
        where = tuple(self.indices.T)
        mean = self.mean_features(x, w, self.order)[where]
        squares = self.mean_features(x, w, self.order, power=2)[where]
        degree = int(self.indices.sum(1).max())
        below = sorted(indices_up_to(self.dim, degree - 1, lambda k: k, False), key=sum)
        lower = torch.tensor([(0,) * self.dim, *below])  # all that a derivative can hold
        return PolynomialMoments(
            mean=mean,
            variance=squared_errors(mean, squares, weights, len(x)),
            rates=self.eigenvalues.to(mean),
            n_points=len(x),
            indices=self.indices,
            lower=lower,
            root=self._root(x, w, lower),
        )

    def _root(self, x: Tensor, weights: Tensor, lower: Tensor) -> Tensor:
        """Upper triangular ``R``, ``R^T R = E[phi phi^T]`` over ``lower``: QR, block by block."""
        root, degree = x.new_zeros(0, len(lower)), int(lower.max())
        for points, w in zip(x.split(4096), weights.split(4096), strict=True):
            f = self.features(points.T, degree)
            columns = select(f.transpose(0, 1), lower).prod(0).T
            root = torch.linalg.qr(torch.cat([root, w.sqrt()[:, None] * columns]), mode="r").R
        return torch.nn.functional.pad(root, (0, 0, 0, max(0, len(lower) - len(root))))


@remembered
def _derivative(order: int) -> Tensor:
    return torch.diag(torch.arange(1, order + 1, dtype=torch.float64).sqrt(), -1)
