"""Eigenfunctions of the generators of diffusions with independent coordinates, as product bases.

A symmetric Markov generator ``L`` with stationary law ``pi`` has eigenpairs
``L phi_k = lambda_k phi_k``, ``lambda_k <= 0``, orthonormal in ``L2(pi)``; the semigroup then acts
by ``P_t phi_k = e^{lambda_k t} phi_k`` (paper A, Definition 1, Examples 3, 4 and 7). Of independent
coordinates the spectra add and the functions multiply: ``phi_k = prod_i psi_{k_i}(x_i)``,
``lambda_k = sum_i lambda_{k_i}``, with the functions of each coordinate in
:mod:`markovscore.eigenbasis.axes`. Where there are waves, the product ``Phi_k`` is complex, and the
real functions are ``sqrt2 Re Phi_k`` and ``sqrt2 Im Phi_k``.

Each function is written in one-dimensional *features* that are closed under differentiation
(``f' = D f``), so a combination ``h = sum_k alpha_k phi_k`` is a tensor ``C`` with ``h(x) = sum
C[a_1..a_d] f_{a_1}(x_1)...f_{a_d}(x_d)``, its derivatives are the same tensor times ``D`` along one
axis, and evaluation is a short matrix product per axis instead of ``K`` transcendental functions
per point. Where that tensor would be large, in many dimensions, the functions are summed one by
one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby
from typing import Self

import torch
from torch import Tensor

from ..core import check_integer, check_points, check_precision, lasting, recorded
from .averages import moments, rates_of
from .axes import Axis, Line
from .indices import index_set
from .moments import Moments
from .numerical import Numerical
from .rows import Rows

CACHE_ENTRIES = 2**16  # a working block of 512 KiB in double precision stays in a core's L2 cache
_DEVICE_ENTRIES = 2**25  # on other devices: 256 MiB, so that launches are few
_MIN_POINTS = 1024  # whose features are taken at once: fewer leave torch calls the larger cost
_DENSE = 16  # entries of the tensor for each function, up to which contracting it is the faster way


class Eigenbasis:
    """``K = n_functions`` non-constant eigenfunctions, the slowest ones.

    Attributes: ``axes``, the coordinates' own functions; ``lines``, the coordinates that are real
    lines, with polynomials and a Gaussian stationary law; ``dim``; ``indices`` ``(M, d)`` int64,
    the multi-indices; ``waves`` ``(M,)``, which of them carry a cosine and a sine: the functions
    are ``M`` (cosines among them), then the sines; ``eigenvalues`` ``(K,)`` float64; ``order``, the
    largest entry of a multi-index.

    Raises ``ValueError`` for no axes, or a function count below one.
    """

    eigenvalues: Tensor

    @lasting
    def __init__(self, axes: Sequence[Axis], n_functions: int):
        self.axes = tuple(axes)
        self.lines = [i for i, axis in enumerate(self.axes) if isinstance(axis, Line)]
        self._solved = any(isinstance(axis, Numerical) for axis in self.axes)
        self.dim = check_integer(len(self.axes), "dim")
        n_functions = check_integer(n_functions, "n_functions")
        self._set_indices(index_set(self.axes, n_functions))

    def _set_indices(self, indices: Tensor) -> None:
        for name in ("_entries", "_rows"):  # of other indices
            vars(self).pop(name, None)
        self.indices, self.order = indices, int(indices.abs().max())
        self.waves = indices[:, [axis.wave for axis in self.axes]].any(1)
        rates = self.rates(indices)
        self.eigenvalues = torch.cat([rates, rates[self.waves]])
        self.n_functions = len(self.eigenvalues)
        largest = indices.abs().amax(0).tolist()
        self.orders = [  # equal axes have as many features, so that they are taken at once
            max(o for o, other in zip(largest, self.axes, strict=True) if other == axis)
            for axis in self.axes
        ]
        self.widths = [a.count(o) for a, o in zip(self.axes, self.orders, strict=True)]
        groups = groupby(range(self.dim), key=lambda i: self.axes[i])
        self._runs = [(axis, list(run)) for axis, run in groups]  # neighbours that are equal

    @lasting
    def with_indices(self, indices: Tensor) -> Self:
        """The basis of the same kind on other multi-indices ``(M, d)``."""
        other = copy.copy(self)
        other._set_indices(indices)
        return other

    def cross(self) -> Self:
        """As many functions of the same axes, those of smallest ``prod_i (1 + |lambda_{k_i}|)``: a
        hyperbolic cross."""
        return self.with_indices(index_set(self.axes, self.n_functions, cross=True))

    def rates(self, indices: Tensor) -> Tensor:
        """``lambda`` of multi-indices ``(M, d)``: ``(M,)`` float64."""
        return rates_of(self.axes, indices)

    @property
    def uniform(self) -> bool:
        """Whether the stationary law is uniform."""
        return not self.lines and not self._solved

    @property
    def degree(self) -> int:
        """The highest total degree of a polynomial; up to two the score is linear along lines."""
        return int(self.indices[:, self.lines].sum(1).max())

    # -- the functions, by definition --------------------------------------------------------------
    def _jet(self, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Each coordinate's factor of each function and its two derivatives, three ``(M, B)``."""
        columns = zip(self.axes, x.unbind(1), self.indices.unbind(1), strict=True)
        return [axis.jet(column, k) for axis, column, k in columns]

    def _functions(self, factors: Iterable[Tensor]) -> Tensor:
        """Products of factors ``(M, B)`` -> real functions ``(B, K)``."""
        product = math.prod(factors)
        assert isinstance(product, Tensor)
        scale = self._norms.to(product.real)[:, None]
        real = scale * product.real
        if not product.is_complex():
            return real.T
        return torch.cat([real, (scale * product.imag)[self.waves]]).T

    @property
    def _norms(self) -> Tensor:
        """Of each row's real functions: ``sqrt2`` where it has a wave, ``(M,)``."""
        return math.sqrt(2) ** self.waves.double()

    def _points(self, x: Tensor) -> Tensor:
        return check_precision(check_points(x, self.dim))

    def __call__(self, x: Tensor) -> Tensor:
        """``phi_k(x)``: ``(B, d)`` -> ``(B, K)``, by definition; the fast path is
        :meth:`derivatives`."""
        return self._functions(values for values, _, _ in self._jet(self._points(x)))

    def gradient(self, x: Tensor) -> Tensor:
        """``grad phi_k(x)``: ``(B, d)`` -> ``(B, K, d)``."""
        return torch.stack(self._with_derivative(x, 1), dim=-1)

    def laplacian(self, x: Tensor) -> Tensor:
        """``Laplacian phi_k(x)``: ``(B, d)`` -> ``(B, K)``."""
        return torch.stack(self._with_derivative(x, 2)).sum(0)

    def _with_derivative(self, x: Tensor, order: int) -> list[Tensor]:
        """Each coordinate's derivative of the functions, ``(B, K)`` each."""
        jet = self._jet(self._points(x))
        return [
            self._functions(part[order if i == j else 0] for j, part in enumerate(jet))
            for i in range(self.dim)
        ]

    def generator(self, x: Tensor) -> Tensor:
        """``L phi_k(x)``: ``(B, d)`` -> ``(B, K)``; equals ``lambda_k phi_k(x)``."""
        pulls = [axis.pull(column) for axis, column in zip(self.axes, x.unbind(1), strict=True)]
        pulled = torch.einsum("bki,bi->bk", self.gradient(x), torch.stack(pulls, 1))
        return self.laplacian(x) + pulled

    # -- data averages -----------------------------------------------------------------------------
    def moments(self, x: Tensor, weights: Tensor | None = None) -> Moments:
        """Averages over points ``(N, d)`` with weights ``(N,)``, by default ``1/N``."""
        return moments(self.axes, self.indices, x.double(), weights)

    # -- features of all coordinates ---------------------------------------------------------------
    def features(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Features of coordinates ``(d, B)``: ``(F, d, B)``, of which coordinate ``i`` has the
        first ``widths[i]``; written to ``out`` where that is given."""
        if out is None and len(self._runs) == 1:
            return self.axes[0].features(x, self.orders[0])
        if out is None:
            parts = [axis.features(x[run], self.orders[run[0]]) for axis, run in self._runs]
            return torch.cat([pad_rows(part, max(self.widths)) for part in parts], 1)
        if len(self._runs) == 1:
            return self.axes[0].features(x, self.orders[0], out)
        for axis, run in self._runs:
            i, j = run[0], run[-1] + 1
            axis.features(x[i:j], self.orders[i], out[: self.widths[i], i:j])
        return out

    # -- the fast path -----------------------------------------------------------------------------
    def derivatives(self, coefficients: Tensor, x: Tensor, laplacian: bool = False) -> Tensor:
        """``grad h(x)``, and ``Laplacian h(x)`` where asked for, of ``h = sum_k alpha_k phi_k``.

        Coefficients ``(K,)``, or a row for each point ``(B, K)``; points ``(B, d)``.
        Returns ``(d, B)``, or ``(d+1, B)``.
        """
        if self._solved and coefficients.ndim == 1:
            return self._by_jets(coefficients.to(x), x, laplacian)
        if self._solved or math.prod(self.widths) > _DENSE * self.n_functions:
            return self._rows.derivatives(coefficients.to(x), x, laplacian)
        tensors = self.jet_tensors if laplacian else self.gradient_tensors
        contract = self.contract if coefficients.ndim == 1 else self.contract_each
        return contract(tensors(coefficients).to(x), x)

    def _by_jets(self, coefficients: Tensor, x: Tensor, laplacian: bool) -> Tensor:
        """:meth:`derivatives` from one tensor of coefficients and the derivatives of each
        coordinate's functions, the last coordinate first."""
        sizes = [o + 1 for o in self.orders]
        if bool(self.waves.any()) or math.prod(sizes) > _DENSE * self.n_functions:
            return self._rows.derivatives(coefficients, x, laplacian)
        tensor = scatter(coefficients, self.indices, sizes)
        jets = [
            axis.jets(column, order, 2 + laplacian)
            for axis, column, order in zip(self.axes, x.unbind(1), self.orders, strict=True)
        ]
        first, *more = (tensor.reshape(-1, sizes[-1]) @ part for part in jets[-1])
        value, slopes, curvature = first, more[:1], more[1:]
        for jet in jets[-2::-1]:
            left = [part[None] for part in jet]

            def along(right: Tensor, k: int, left: list[Tensor] = left) -> Tensor:
                return (right.unflatten(0, (-1, left[0].shape[1])) * left[k]).sum(1)

            curvature = [along(value, 2) + along(part, 0) for part in curvature]
            slopes = [along(value, 1), *(along(part, 0) for part in slopes)]
            value = along(value, 0)
        return torch.cat([*slopes, *curvature])

    @cached_property
    @lasting
    def _rows(self) -> Rows:
        return Rows.of(self.axes, self.indices)

    def tensor(self, coefficients: Tensor) -> Tensor:
        """Coefficients ``(..., K)`` -> their tensor ``C`` ``(..., F_1, ..., F_d)``."""
        real, rows = coefficients[..., : len(self.indices)], self.indices
        grid = self._norms.to(real) * real
        if bool(self.waves.any()):  # a cos + b sin = Re (a - i b) e^{i k.x}
            imaginary = torch.zeros_like(grid)
            imaginary[..., self.waves] = math.sqrt(2) * coefficients[..., len(rows) :]
            grid = torch.complex(grid, -imaginary)
        shifts = torch.tensor(
            [o if a.wave else 0 for a, o in zip(self.axes, self.orders, strict=True)]
        )
        changes = [a.functions(o) for a, o in zip(self.axes, self.orders, strict=True)]
        grid = scatter(grid, rows + shifts, [len(change) for change in changes])
        for i, change in enumerate(changes):
            grid = along(grid, change.to(grid), i - self.dim)
        return grid.real.contiguous()

    def gradient_tensors(self, coefficients: Tensor) -> Tensor:
        """Coefficients ``(..., K)`` -> the tensors of the gradient ``(d, ..., F, ..., F)``."""
        return self._expand(coefficients, self.dim)

    def jet_tensors(self, coefficients: Tensor) -> Tensor:
        """Coefficients ``(..., K)`` -> gradient and Laplacian ``(d+1, ..., F, ..., F)``."""
        return self._expand(coefficients, self.dim + 1)

    def _expand(self, coefficients: Tensor, count: int) -> Tensor:
        """The first ``count`` tensors: every entry is a sum of a few coefficients (``2^{d-1}`` on
        the torus), whose places and factors are looked up."""
        places, factors = (table[:count] for table in self._entries)
        terms = coefficients[..., places.to(coefficients.device)] * factors.to(coefficients)
        return terms.sum(-1).movedim(-self.dim - 1, 0)

    @cached_property
    @lasting
    def _entries(self) -> tuple[Tensor, Tensor]:
        """``places`` and ``factors`` ``(d+1, F, ..., F, S)``: which coefficients make an entry."""
        found = [
            self._differentiated(one).movedim(1, -1).to_sparse().coalesce()
            for one in torch.eye(self.n_functions, dtype=torch.float64).split(64)
        ]
        shape = found[0].shape[:-1]
        rows = [_flat(part.indices()[:-1], shape) for part in found]
        columns = [part.indices()[-1] + 64 * i for i, part in enumerate(found)]
        row, order = torch.cat(rows).sort(stable=True)
        column = torch.cat(columns)[order]
        value = torch.cat([part.values() for part in found])[order]
        count = torch.bincount(row, minlength=math.prod(shape))
        rank = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
        places = torch.zeros(math.prod(shape), int(count.max()), dtype=torch.int64)
        factors = torch.zeros(places.shape, dtype=torch.float64)
        places[row, rank], factors[row, rank] = column, value
        return places.reshape(*shape, -1), factors.reshape(*shape, -1)

    def _differentiated(self, coefficients: Tensor) -> Tensor:
        """:meth:`jet_tensors` by its definition."""
        tensor = self.tensor(coefficients)
        changes = [a.derivative(o).to(tensor) for a, o in zip(self.axes, self.orders, strict=True)]
        first = [along(tensor, change, i - self.dim) for i, change in enumerate(changes)]
        second = [along(first[i], change, i - self.dim) for i, change in enumerate(changes)]
        return torch.stack([*first, torch.stack(second).sum(0)])

    def contract(self, tensors: Tensor, x: Tensor) -> Tensor:
        """Evaluate ``Q`` tensors ``(Q, F, ..., F)`` at ``x`` ``(B, d)``: ``(Q, B)``.

        The last axis is a matrix product, the others are multiply-and-sum; blocks of points are
        sized so that the intermediate ``(Q F^{d-1}, block)`` stays in cache, and, unless gradients
        are recorded, it is the same memory for all of them.
        """
        matrix = tensors.reshape(-1, tensors.shape[-1])
        count = tensors.shape[0]
        entries = CACHE_ENTRIES if x.device.type == "cpu" else _DEVICE_ENTRIES
        entries = entries * 8 // x.element_size()
        block = max(64, entries // len(matrix) // 64 * 64)
        if recorded(tensors, x):
            features = (self.features(points.T) for points in x.split(block))
            return torch.cat([self._contract(matrix, f) for f in features], 1)
        wide = block * max(1, _MIN_POINTS // block)
        out = x.new_empty(count, len(x))
        f = x.new_empty(max(self.widths), self.dim, min(wide, len(x)))
        product = x.new_empty(len(matrix), min(block, len(x)))
        for points, piece in zip(x.split(wide), out.split(wide, 1), strict=True):
            if len(points) < f.shape[2]:
                f = f[..., : len(points)]
            self.features(points.T.contiguous(), f)
            parts = [(f, piece)]
            if wide > block:
                parts = list(zip(f.split(block, 2), piece.split(block, 1), strict=True))
            for columns, part in parts:
                if columns.shape[2] < product.shape[1]:
                    product = product[:, : columns.shape[2]]
                self._contract(matrix, columns, product, part)
        return out

    def _contract(
        self, matrix: Tensor, f: Tensor, product: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """One block: ``(Q F^{d-1}, F)`` on features ``(F, d, B)`` -> ``(Q, B)``."""
        last = f[: self.widths[-1], -1]
        value = torch.mm(matrix, last, out=out if self.dim == 1 else product)
        for i in range(self.dim - 2, -1, -1):
            factor = f[: self.widths[i], i]
            terms = value.view(-1, *factor.shape).mul_(factor)
            value = torch.sum(terms, 1, out=out if i == 0 else None)
        return value

    def contract_each(self, tensors: Tensor, x: Tensor) -> Tensor:
        """As :meth:`contract`, a tensor for each point: ``(Q, B, F, ..., F)`` -> ``(Q, B)``."""
        f = self.features(x.T)
        for i in range(self.dim - 1, -1, -1):
            shape = (1, len(x)) + (1,) * i + (-1,)
            tensors = (tensors * f[: self.widths[i], i].T.reshape(shape)).sum(-1)
        return tensors


def along(tensor: Tensor, derivative: Tensor, axis: int) -> Tensor:
    """Apply ``D^T`` along one axis: the tensor of the derivative in that coordinate."""
    return (tensor.movedim(axis, -1) @ derivative).movedim(-1, axis)


def _flat(indices: Tensor, shape: torch.Size) -> Tensor:
    """Positions ``(n,)`` in an array of ``shape`` of multi-indices ``(len(shape), n)``."""
    place = torch.zeros_like(indices[0])
    for index, length in zip(indices, shape, strict=True):
        place = place * length + index
    return place


def scatter(coefficients: Tensor, indices: Tensor, shape: list[int]) -> Tensor:
    """Zeros ``(..., *shape)`` with ``(..., M)`` placed at multi-indices ``(M, d)``."""
    flat = _flat(indices.T, torch.Size(shape)).to(coefficients.device)
    out = coefficients.new_zeros(*coefficients.shape[:-1], math.prod(shape))
    out[..., flat] = coefficients
    return out.reshape(*coefficients.shape[:-1], *shape)


def pad_rows(values: Tensor, count: int) -> Tensor:
    """``(n, ...)`` with zeros up to ``count`` rows."""
    return torch.cat([values, values.new_zeros(count - len(values), *values.shape[1:])])
