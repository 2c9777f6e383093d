"""Eigenfunctions in the plane that are no products, as a basis."""

from __future__ import annotations

from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from ..core import check_integer, lasting
from .base import Eigenbasis
from .moments import Moments
from .plane import Mesh, Plane
from .plane_moments import plane_moments

_BLOCK = 2**18  # entries of a working block: 2 MiB in double precision


class Planar(Eigenbasis):
    """``n_functions`` slowest non-constant eigenfunctions of a process in the plane, or as many
    more as share the last eigenvalue: where there is no gap, a part of a block would depend on
    the solver.

    ``indices`` ``(K, 1)``: the numbers of the functions. Beyond the elements, where the law is not,
    functions and gradients are zero: the score is the stationary one.
    """

    def __init__(self, plane: Plane, n_functions: int) -> None:
        n_functions = check_integer(n_functions, "n_functions")
        self.plane, self.axes, self.lines, self.dim = plane, (), [], 2
        self.spectrum = plane.spectrum(n_functions)
        last = self.spectrum.whole(n_functions + 1)
        self._set_indices(torch.arange(1, last)[:, None])

    def _set_indices(self, indices: Tensor) -> None:
        vars(self).pop("_fields", None)
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
    def _fields(self) -> Tensor:
        """Gradients and ``L phi`` of the functions at the nodes, ``(3, N, K)``."""
        own = self.indices[:, 0]
        values = self.spectrum.functions[:, own] * self.eigenvalues
        return torch.cat([self.spectrum.gradients[:, :, own], values[None]])

    def __call__(self, x: Tensor) -> Tensor:
        """``phi_k(x)``: ``(B, 2)`` -> ``(B, K)``."""
        return self._each(self.spectrum.functions[None, :, self.indices[:, 0]], x)[0]

    def gradient(self, x: Tensor) -> Tensor:
        """``grad phi_k(x)``: ``(B, 2)`` -> ``(B, K, 2)``."""
        return self._each(self._fields[:2], x).permute(1, 2, 0)

    def laplacian(self, x: Tensor) -> Tensor:
        """``Laplacian phi_k(x)``: ``(B, 2)`` -> ``(B, K)``, by the equation."""
        *slopes, moved = self._each(self._fields, x)
        return self._laplacian(torch.stack(slopes), moved, self._points(x))

    def generator(self, x: Tensor) -> Tensor:
        """``L phi_k(x)``: ``(B, 2)`` -> ``(B, K)``; ``lambda_k phi_k(x)``, as they are solved."""
        return self._each(self._fields[2:], x)[0]

    def derivatives(self, coefficients: Tensor, x: Tensor, laplacian: bool = False) -> Tensor:
        fields = self._fields[: 2 + laplacian].to(x)
        if coefficients.ndim == 1:
            found = interpolated(self.spectrum.mesh, fields @ coefficients.to(x), x)
        else:
            found = (self._each(fields, x) * coefficients.to(x)).sum(-1)
        if not laplacian:
            return found
        return torch.cat([found[:2], self._laplacian(found[:2], found[2], x)[None]])

    def _laplacian(self, slopes: Tensor, moved: Tensor, x: Tensor) -> Tensor:
        """``Laplacian h = L h - grad log pi . grad h``, from gradients ``(2, B, ...)``."""
        pull = self.plane.slope(x).T.reshape(2, len(x), *[1] * (moved.ndim - 1))
        return moved - (pull * slopes).sum(0)

    def _each(self, fields: Tensor, x: Tensor) -> Tensor:
        """Of every function, ``(C, N, K)`` -> ``(C, B, K)``."""
        x = self._points(x)
        return (
            interpolated(self.spectrum.mesh, fields.to(x).movedim(1, 2).flatten(0, 1), x)
            .unflatten(0, (len(fields), -1))
            .mT
        )

    def moments(self, x: Tensor, weights: Tensor | None = None) -> Moments:
        values = self.spectrum.functions[:, self.indices[:, 0]]
        return plane_moments(
            self.spectrum.mesh, values, self._fields[:2], self.eigenvalues, x.double(), weights
        )


def interpolated(mesh: Mesh, values: Tensor, x: Tensor) -> Tensor:
    """Functions ``(C, N)`` given at the nodes, at ``x`` ``(B, 2)``: ``(C, B)``; zero beyond the
    elements."""
    places = mesh.places.to(x.device)
    block = max(16, _BLOCK // (len(values) * places[0].numel()))
    found = []
    for points in x.split(block) if len(x) else [x]:
        number, first, second = mesh.interpolation(points)
        own = values[:, places[number.clamp(min=0)]]
        found.append(torch.einsum("cbij,bi,bj->cb", own, first, second))
    return torch.cat(found, 1)
