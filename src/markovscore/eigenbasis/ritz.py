"""Eigenfunctions in a span of several coordinates, as a basis."""

from __future__ import annotations

from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from ..core import check_integer, lasting
from .base import Eigenbasis
from .galerkin import Galerkin
from .moments import Moments
from .ritz_moments import PARTICLES, Paths, RitzMoments, drawn_evenly

_BLOCK = 2**11  # points at a time


class Ritz(Eigenbasis):
    """``n_functions`` slowest non-constant eigenfunctions that a span of functions resolves.

    ``indices`` ``(K, 1)``: the numbers of the functions; ``most``, how many there are. Beyond all
    nodes, where the law is not, functions and gradients are zero: the score is the stationary one.

    Raises ``ArithmeticError`` for more functions than are resolved.
    """

    def __init__(self, galerkin: Galerkin, n_functions: int) -> None:
        n_functions = check_integer(n_functions, "n_functions")
        self.galerkin, self.spectrum = galerkin, galerkin.spectrum
        self.axes, self.lines, self.dim = (), [], galerkin.span.dim
        self.most = len(self.spectrum.eigenvalues) - 1
        if n_functions > self.most:
            raise ArithmeticError(
                f"n_functions: expected at most {self.most}, found {n_functions}: a span of "
                f"{galerkin.span.size} functions resolves so many with residuals of at most a "
                "tenth of 1 + |lambda|; pass fewer"
            )
        self._set_indices(torch.arange(1, n_functions + 1)[:, None])

    def _set_indices(self, indices: Tensor) -> None:
        vars(self).pop("_coefficients", None)  # of other indices
        self.indices = indices
        self.waves = torch.zeros(len(indices), dtype=torch.bool)
        self.eigenvalues = self.rates(indices)
        self.n_functions = len(indices)

    def rates(self, indices: Tensor) -> Tensor:
        return self.spectrum.eigenvalues[indices[:, 0]]

    @property
    def uniform(self) -> bool:
        return False

    def cross(self) -> Self:
        raise ValueError(
            "selection: expected 'eigenvalue' or 'greedy' with a prior whose coordinates are not "
            "independent, found 'cross': its functions are no products"
        )

    @cached_property
    @lasting
    def _coefficients(self) -> Tensor:
        """Of the functions in the span, ``(M, K)``."""
        return self.spectrum.coefficients[:, self.indices[:, 0]]

    def _fields(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """Values, gradients and Laplacians ``(d + 2, K, B)``; zero beyond the nodes."""
        found = self.galerkin.span.fields(x, coefficients.to(x))
        inside = self.galerkin.span.parts.distance(x.detach()) <= self.galerkin.reach
        return torch.where(inside, found, 0.0)

    def __call__(self, x: Tensor) -> Tensor:
        """``phi_k(x)``: ``(B, d)`` -> ``(B, K)``."""
        return self._fields(self._points(x), self._coefficients)[0].T

    def gradient(self, x: Tensor) -> Tensor:
        """``grad phi_k(x)``: ``(B, d)`` -> ``(B, K, d)``."""
        return self._fields(self._points(x), self._coefficients)[1:-1].permute(2, 1, 0)

    def laplacian(self, x: Tensor) -> Tensor:
        """``Laplacian phi_k(x)``: ``(B, d)`` -> ``(B, K)``."""
        return self._fields(self._points(x), self._coefficients)[-1].T

    def generator(self, x: Tensor) -> Tensor:
        """``L phi_k(x)``: ``(B, d)`` -> ``(B, K)``; near ``lambda_k phi_k(x)``."""
        pulled = torch.einsum("bki,bi->bk", self.gradient(x), self.galerkin.score(x))
        return self.laplacian(x) + pulled

    def derivatives(self, coefficients: Tensor, x: Tensor, laplacian: bool = False) -> Tensor:
        functions, own = self._coefficients.to(x), coefficients.to(x)
        own = (functions @ own)[:, None] if own.ndim == 1 else (functions @ own.T)[:, None]
        found = self._fields(x, own)[:, 0]
        return found[1:] if laplacian else found[1:-1]

    def moments(self, x: Tensor, weights: Tensor | None = None) -> Moments:
        x = x.double().cpu()
        self._check_inside(x)
        w = torch.full_like(x[:, 0], 1 / len(x)) if weights is None else weights.double().cpu()
        span, functions = self.galerkin.span, self._coefficients
        mean, square = torch.zeros(2, self.n_functions, dtype=torch.float64)
        for points, share in zip(x.split(_BLOCK), w.split(_BLOCK), strict=True):
            values = span.fields(points, functions)[0]
            mean += values @ share
            square += values.square() @ share
        variance = (square - mean.square()).clamp(min=0)
        start = drawn_evenly(x, w, PARTICLES * self.n_functions)
        return RitzMoments(
            mean=mean,
            variance=variance / max(1.0, 1 / float(w.square().sum()) - 1),
            rates=self.eigenvalues,
            n_points=len(x),
            span=span,
            functions=functions,
            paths=Paths(self.galerkin.score, start, float(span.parts.scales.min())),
        )

    def _check_inside(self, x: Tensor) -> None:
        far = self.galerkin.span.parts.distance(x) > self.galerkin.reach
        if bool(far.any()):
            point = [round(value, 3) for value in x[far][0].tolist()]
            raise ValueError(
                f"x: expected points where the prior is, found {int(far.sum())} of {len(x)} beyond "
                f"its tails, the first at {point}: scale the data"
            )
