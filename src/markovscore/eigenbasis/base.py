"""Eigenfunctions of the generators of three diffusions, as tensor-product bases.

A symmetric Markov generator ``L`` with stationary law ``pi`` has eigenpairs
``L phi_k = lambda_k phi_k``, ``lambda_k <= 0``, orthonormal in ``L2(pi)``; the semigroup then acts
by ``P_t phi_k = e^{lambda_k t} phi_k`` (paper A, Definition 1, Examples 3, 4 and 7).  With the
dispersion ``G = sqrt2 I``:

==================  ============================================  =====================
process             ``phi_k``                                    ``lambda_k``
==================  ============================================  =====================
Ornstein-Uhlenbeck  ``prod_i He_{k_i}(x_i) / sqrt(k_i!)``        ``-|k|_1``
Brownian, torus     ``sqrt2 cos(k.x)``, ``sqrt2 sin(k.x)``       ``-|k|^2``
Brownian, box       ``prod_i sqrt2 cos(k_i pi (x_i-a)/(b-a))``   ``-(pi/(b-a))^2 |k|^2``
==================  ============================================  =====================

A basis holds the ``K`` non-constant functions of smallest ``|lambda_k|``.  Each function is
written in one-dimensional *features* that are closed under differentiation (``f' = D f``), so a
combination ``h = sum_k alpha_k phi_k`` is a tensor ``C`` with ``h(x) = sum C[a_1..a_d]
f_{a_1}(x_1)...f_{a_d}(x_d)``, its derivatives are the same tensor times ``D`` along one axis, and
evaluation is a short matrix product per axis instead of ``K`` transcendental functions per point.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from ..core import as_tensor, check_integer, check_points, check_precision, lasting, recorded
from .moments import Moments

_MAX_TENSOR = 2**26  # entries of a coefficient tensor: 512 MiB in double precision
CACHE_ENTRIES = 2**16  # a working block of 512 KiB in double precision stays in a core's L2 cache
_DEVICE_ENTRIES = 2**25  # on other devices: 256 MiB, so that launches are few
_MIN_POINTS = 1024  # whose features are taken at once: fewer leave torch calls the larger cost


def index_set(dim: int, count: int, cost: Callable[[int], int], half_plane: bool = False) -> Tensor:
    """The ``count`` non-zero multi-indices ``k`` in ``N^d`` of smallest ``sum_i cost(k_i)``.

    With ``half_plane`` the indices run over ``Z^d`` up to sign: the first non-zero entry is
    positive. Ties are in lexicographic order, so the set is deterministic and complete below its
    last level.
    Returns ``(count, d)``, int64.
    """
    bound = 1
    while True:
        k = indices_up_to(dim, bound, cost, half_plane)
        if len(k) >= count:
            costs = [sum(cost(abs(entry)) for entry in row) for row in k]
            order = sorted(range(len(k)), key=lambda i: (costs[i], k[i]))
            return torch.tensor([k[i] for i in order[:count]], dtype=torch.int64)
        bound += 1 if len(k) * 4 > count else bound


def indices_up_to(
    dim: int, bound: int, cost: Callable[[int], int], half_plane: bool
) -> list[tuple[int, ...]]:
    """All non-zero multi-indices with ``sum cost <= bound``, grown axis by axis."""
    partial: list[tuple[tuple[int, ...], int]] = [((), 0)]
    for _ in range(dim):
        grown = []
        for k, spent in partial:
            entry = 0
            while spent + cost(entry) <= bound:
                grown.append(((*k, entry), spent + cost(entry)))
                if half_plane and entry > 0 and any(k):
                    grown.append(((*k, -entry), spent + cost(entry)))
                entry += 1
        partial = grown
    return [k for k, _ in partial if any(k)]


class Eigenbasis(ABC):
    """The ``K = n_functions`` non-constant eigenfunctions of smallest ``|lambda_k|``.

    Attributes: ``dim``; ``indices`` ``(M, d)`` int64, the multi-indices (``M = K``, or ``K/2``
    where each carries a cosine and a sine); ``eigenvalues`` ``(K,)`` float64; ``order``, the
    largest entry of a multi-index.

    Raises ``ValueError`` for a dimension or function count below one.
    """

    eigenvalues: Tensor

    @lasting
    def __init__(self, dim: int, n_functions: int):
        self.dim = dim = check_integer(dim, "dim")
        self.n_functions = n_functions = check_integer(n_functions, "n_functions")
        self._set_indices(self._multi_indices())
        if self.feature_count(self.order) ** dim > _MAX_TENSOR:
            raise ValueError(
                f"{n_functions} functions in dimension {dim} need a coefficient tensor of "
                f"{self.feature_count(self.order)}^{dim} entries, more than {_MAX_TENSOR}: "
                "use fewer functions or fewer dimensions"
            )

    def _set_indices(self, indices: Tensor) -> None:
        self.indices = indices
        vars(self).pop("_entries", None)  # of other indices
        self.order = int(indices.abs().max())
        self.eigenvalues = self.rates(indices).repeat(self.n_functions // len(indices))

    @lasting
    def with_indices(self, indices: Tensor) -> Self:
        """The basis of the same kind on other multi-indices ``(M, d)``."""
        other = copy.copy(self)
        other.n_functions = self.n_functions // len(self.indices) * len(indices)
        other._set_indices(indices)
        return other

    @abstractmethod
    def _multi_indices(self) -> Tensor:
        """``(M, d)`` multi-indices, ordered by eigenvalue."""

    @abstractmethod
    def rates(self, indices: Tensor) -> Tensor:
        """``lambda`` of multi-indices ``(M, d)``: ``(M,)`` float64."""

    # -- one-dimensional features ------------------------------------------------------------------
    @abstractmethod
    def features(self, x: Tensor, order: int, out: Tensor | None = None) -> Tensor:
        """One-dimensional features ``f_a`` up to ``order``: ``(...)`` -> ``(F, ...)``.

        Written to ``out`` where that is given, which records no gradients.
        """

    @abstractmethod
    def feature_count(self, order: int) -> int:
        """Number ``F`` of one-dimensional features up to ``order``."""

    @abstractmethod
    def feature_derivative(self, order: int) -> Tensor:
        """``D`` ``(F, F)`` with ``f' = D f``."""

    @abstractmethod
    def tensor(self, coefficients: Tensor) -> Tensor:
        """Coefficients ``(..., K)`` -> their tensor ``C`` ``(..., F, ..., F)``."""

    # -- the functions, by definition --------------------------------------------------------------
    @abstractmethod
    def _jet(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each function's factor on each axis and its two derivatives: three ``(d, M, B)``."""

    def _functions(self, product: Tensor) -> Tensor:
        """Products over the axes ``(M, B)`` -> real functions ``(B, K)``."""
        return product.T

    def _points(self, x: Tensor) -> Tensor:
        return check_precision(check_points(x, self.dim))

    def __call__(self, x: Tensor) -> Tensor:
        """``phi_k(x)``: ``(B, d)`` -> ``(B, K)``, by definition; the fast path is ``contract``."""
        values, _, _ = self._jet(self._points(x))
        return self._functions(values.prod(0))

    def gradient(self, x: Tensor) -> Tensor:
        """``grad phi_k(x)``: ``(B, d)`` -> ``(B, K, d)``."""
        values, first, _ = self._jet(self._points(x))
        parts = [self._functions(_swap(values, first, i).prod(0)) for i in range(self.dim)]
        return torch.stack(parts, dim=-1)

    def laplacian(self, x: Tensor) -> Tensor:
        """``Laplacian phi_k(x)``: ``(B, d)`` -> ``(B, K)``."""
        values, _, second = self._jet(self._points(x))
        parts = [self._functions(_swap(values, second, i).prod(0)) for i in range(self.dim)]
        return torch.stack(parts).sum(0)

    def generator(self, x: Tensor) -> Tensor:
        """``L phi_k(x)``: ``(B, d)`` -> ``(B, K)``; equals ``lambda_k phi_k(x)``."""
        return self.laplacian(x)

    # -- data averages -----------------------------------------------------------------------------
    @abstractmethod
    def moments(self, x: Tensor, weights: Tensor | None = None) -> Moments:
        """Averages over points ``(N, d)`` with weights ``(N,)``, by default ``1/N``."""

    def mean_features(self, x: Tensor, weights: Tensor, order: int, power: int = 1) -> Tensor:
        """``sum_n w_n prod_i f_{a_i}(x_{n,i})^power``, ``(F, ..., F)``; bounded memory.

        ``power=2`` gives the second moments that the standard errors of the averages need.
        """
        width = self.feature_count(order)
        chunk = max(256, 16 * CACHE_ENTRIES // width ** max(1, self.dim - 1))
        total = x.new_zeros(width ** max(0, self.dim - 1), width)
        for points, w in zip(x.split(chunk), weights.split(chunk), strict=True):
            f = self.features(points.T, order) ** power
            left = w[None]
            for i in range(self.dim - 1):
                left = (left[:, None] * f[None, :, i]).flatten(0, 1)
            total.addmm_(left, f[:, -1].T)
        return total.reshape((width,) * self.dim)

    # -- the fast path -----------------------------------------------------------------------------
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
        tensor, derivative = self._differentiable(coefficients)
        first = [along(tensor, derivative, i - self.dim) for i in range(self.dim)]
        second = [along(first[i], derivative, i - self.dim) for i in range(self.dim)]
        return torch.stack([*first, torch.stack(second).sum(0)])

    def _differentiable(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        tensor = self.tensor(coefficients)
        return tensor, self.feature_derivative(self.order).to(tensor)

    def contract(self, tensors: Tensor, x: Tensor) -> Tensor:
        """Evaluate ``Q`` tensors ``(Q, F, ..., F)`` at ``x`` ``(B, d)``: ``(Q, B)``.

        The last axis is a matrix product, the others are multiply-and-sum; blocks of points are
        sized so that the intermediate ``(Q F^{d-1}, block)`` stays in cache, and, unless gradients
        are recorded, it is the same memory for all of them.
        """
        width, count = tensors.shape[-1], tensors.shape[0]
        entries = CACHE_ENTRIES if x.device.type == "cpu" else _DEVICE_ENTRIES
        entries = entries * 8 // x.element_size()
        block = max(64, entries // (count * width ** (self.dim - 1)) // 64 * 64)
        matrix = tensors.reshape(-1, width)
        if recorded(tensors, x):
            features = (self.features(points.T, self.order) for points in x.split(block))
            return torch.cat([self._contract(matrix, f) for f in features], 1)
        wide = block * max(1, _MIN_POINTS // block)
        out = x.new_empty(count, len(x))
        f = x.new_empty(width, self.dim, min(wide, len(x)))
        product = x.new_empty(len(matrix), min(block, len(x)))
        for points, piece in zip(x.split(wide), out.split(wide, 1), strict=True):
            if len(points) < f.shape[2]:
                f = f[..., : len(points)]
            self.features(points.T.contiguous(), self.order, f)
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
        value = torch.mm(matrix, f.select(1, -1), out=out if self.dim == 1 else product)
        for i in range(self.dim - 2, -1, -1):
            factor = f.select(1, i)
            terms = value.view(-1, *factor.shape).mul_(factor)
            value = torch.sum(terms, 1, out=out if i == 0 else None)
        return value

    def contract_each(self, tensors: Tensor, x: Tensor) -> Tensor:
        """As :meth:`contract`, a tensor for each point: ``(Q, B, F, ..., F)`` -> ``(Q, B)``."""
        width = tensors.shape[-1]
        f = self.features(x.T, self.order)
        for i in range(self.dim - 1, -1, -1):
            shape = (1, len(x)) + (1,) * i + (width,)
            tensors = (tensors * f[:, i].T.reshape(shape)).sum(-1)
        return tensors


def _swap(values: Tensor, replacement: Tensor, axis: int) -> Tensor:
    """``values`` with the factor of one axis replaced by its derivative."""
    swapped = values.clone()
    swapped[axis] = replacement[axis]
    return swapped


def along(tensor: Tensor, derivative: Tensor, axis: int) -> Tensor:
    """Apply ``D^T`` along one axis: the tensor of the derivative in that coordinate."""
    return (tensor.movedim(axis, -1) @ derivative).movedim(-1, axis)


def _flat(indices: Tensor, shape: torch.Size) -> Tensor:
    """Positions ``(n,)`` in an array of ``shape`` of multi-indices ``(len(shape), n)``."""
    place = torch.zeros_like(indices[0])
    for index, length in zip(indices, shape, strict=True):
        place = place * length + index
    return place


def scatter(coefficients: Tensor, indices: Tensor, width: int) -> Tensor:
    """Zeros ``(..., width, ..., width)`` with ``(..., K)`` placed at multi-indices ``(K, d)``."""
    dim = indices.shape[1]
    flat = (indices * width ** torch.arange(dim - 1, -1, -1)).sum(1).to(coefficients.device)
    out = coefficients.new_zeros(*coefficients.shape[:-1], width**dim)
    out[..., flat] = coefficients
    return out.reshape(*coefficients.shape[:-1], *(width,) * dim)


def select(factors: Tensor, indices: Tensor) -> Tensor:
    """``(d, F, B)`` factors -> ``(d, K, B)``: the factor of each function on each axis."""
    return torch.stack([factors[i, indices[:, i]] for i in range(indices.shape[1])])


def quadrature_weights(x: Tensor, weights: Tensor | None) -> Tensor:
    """Quadrature weights, uniform where none are given."""
    if weights is None:
        return x.new_full((len(x),), 1 / len(x), dtype=torch.float64)
    return as_tensor(weights, "weights", torch.float64).to(x.device)


def squared_errors(mean: Tensor, squares: Tensor, weights: Tensor | None, n: int) -> Tensor:
    """Squared standard error of each average; zero for quadrature weights (exact expectations)."""
    if weights is not None:
        return torch.zeros_like(mean)
    return (squares - mean**2).clamp(min=0) / max(1, n - 1)
