"""Eigenfunctions of the generators of three diffusions, as tensor-product bases.

A symmetric Markov generator ``L`` with stationary law ``pi`` has eigenpairs
``L phi_k = lambda_k phi_k``, ``lambda_k <= 0``, orthonormal in ``L2(pi)``; the semigroup then acts by
``P_t phi_k = e^{lambda_k t} phi_k`` (paper A, Definition 1, Examples 3, 4 and 7).  With ``G = sqrt2 I``:

=================  ===========================================  =====================
process            ``phi_k``                                    ``lambda_k``
=================  ===========================================  =====================
Ornstein-Uhlenbeck  ``prod_i He_{k_i}(x_i) / sqrt(k_i!)``        ``-|k|_1``
Brownian, torus     ``sqrt2 cos(k.x)``, ``sqrt2 sin(k.x)``       ``-|k|^2``
Brownian, box       ``prod_i sqrt2 cos(k_i pi (x_i-a)/(b-a))``   ``-(pi/(b-a))^2 |k|^2``
=================  ===========================================  =====================

A basis holds the ``K`` non-constant functions of smallest ``|lambda_k|``.  Each function is written in
one-dimensional *features* that are closed under differentiation (``f' = D f``), so a combination
``h = sum_k alpha_k phi_k`` is a tensor ``C`` with ``h(x) = sum C[a_1..a_d] f_{a_1}(x_1)...f_{a_d}(x_d)``,
its derivatives are the same tensor times ``D`` along one axis, and evaluation is a short matrix product
per axis instead of ``K`` transcendental functions per point.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ._validate import check_points
from .moments import Moments, PolynomialMoments, ProductMoments

_MAX_TENSOR = 2**26  # entries of a coefficient tensor: 512 MiB in double precision
_CACHE_ENTRIES = 2**17  # a working block of 1 MiB in double precision stays in a core's L2 cache


def index_set(dim: int, count: int, cost: Callable[[int], int], half_plane: bool = False) -> Tensor:
    """The ``count`` non-zero multi-indices ``k`` in ``N^d`` of smallest ``sum_i cost(k_i)``.

    With ``half_plane`` the indices run over ``Z^d`` up to sign: the first non-zero entry is positive.
    Ties are in lexicographic order, so the set is deterministic and complete below its last level.
    Returns ``(count, d)``, int64.
    """
    bound = 1
    while True:
        k = _indices_up_to(dim, bound, cost, half_plane)
        if len(k) >= count:
            costs = [sum(cost(abs(entry)) for entry in row) for row in k]
            order = sorted(range(len(k)), key=lambda i: (costs[i], k[i]))
            return torch.tensor([k[i] for i in order[:count]], dtype=torch.int64)
        bound += 1 if len(k) * 4 > count else bound


def _indices_up_to(
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
    """The ``K = n_functions`` non-constant eigenfunctions of smallest ``|lambda_k|`` in dimension ``d``.

    Attributes: ``dim``; ``indices`` ``(M, d)`` int64, the multi-indices (``M = K``, or ``K/2`` where each
    carries a cosine and a sine); ``eigenvalues`` ``(K,)`` float64; ``order``, the largest entry of a
    multi-index.

    Raises ``ValueError`` for a dimension or function count below one.
    """

    eigenvalues: Tensor

    def __init__(self, dim: int, n_functions: int):
        if dim < 1 or n_functions < 1:
            raise ValueError(
                f"expected dim >= 1 and n_functions >= 1; found dim={dim}, n_functions={n_functions}"
            )
        self.dim = dim
        self.n_functions = n_functions
        self.indices = self._multi_indices()
        self.order = int(self.indices.abs().max())
        if self.feature_count(self.order) ** dim > _MAX_TENSOR:
            raise ValueError(
                f"{n_functions} functions in dimension {dim} need a coefficient tensor of "
                f"{self.feature_count(self.order)}^{dim} entries, more than {_MAX_TENSOR}: "
                "use fewer functions or fewer dimensions"
            )

    @abstractmethod
    def _multi_indices(self) -> Tensor:
        """``(M, d)`` multi-indices, ordered by eigenvalue."""

    # -- one-dimensional features ------------------------------------------------------------------
    @abstractmethod
    def features(self, x: Tensor, order: int) -> Tensor:
        """One-dimensional features ``f_a(x)`` up to ``order``: ``(n,)`` -> ``(F, n)``."""

    @abstractmethod
    def feature_count(self, order: int) -> int:
        """Number ``F`` of one-dimensional features up to ``order``."""

    @abstractmethod
    def feature_derivative(self, order: int) -> Tensor:
        """``D`` ``(F, F)`` with ``f' = D f``."""

    @abstractmethod
    def tensor(self, coefficients: Tensor) -> Tensor:
        """Coefficients ``(..., K)`` -> tensor ``C`` ``(..., F, ..., F)`` of ``sum_k alpha_k phi_k``."""

    # -- the functions, by definition --------------------------------------------------------------
    @abstractmethod
    def _jet(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value, first and second derivative of each function's factor on each axis: three ``(d, M, B)``."""

    def _functions(self, product: Tensor) -> Tensor:
        """Products over the axes ``(M, B)`` -> real functions ``(B, K)``."""
        return product.T

    def __call__(self, x: Tensor) -> Tensor:
        """``phi_k(x)``: ``(B, d)`` -> ``(B, K)``, function by function (the definition, not the fast path)."""
        values, _, _ = self._jet(check_points(x, self.dim))
        return self._functions(values.prod(0))

    def gradient(self, x: Tensor) -> Tensor:
        """``grad phi_k(x)``: ``(B, d)`` -> ``(B, K, d)``."""
        values, first, _ = self._jet(check_points(x, self.dim))
        parts = [self._functions(_swap(values, first, i).prod(0)) for i in range(self.dim)]
        return torch.stack(parts, dim=-1)

    def laplacian(self, x: Tensor) -> Tensor:
        """``Laplacian phi_k(x)``: ``(B, d)`` -> ``(B, K)``."""
        values, _, second = self._jet(check_points(x, self.dim))
        parts = [self._functions(_swap(values, second, i).prod(0)) for i in range(self.dim)]
        return torch.stack(parts).sum(0)

    def generator(self, x: Tensor) -> Tensor:
        """``L phi_k(x)``: ``(B, d)`` -> ``(B, K)``; equals ``lambda_k phi_k(x)``."""
        return self.laplacian(x)

    # -- data averages -----------------------------------------------------------------------------
    @abstractmethod
    def moments(self, x: Tensor, weights: Tensor | None = None) -> Moments:
        """Averages of the eigenfunctions over points ``x`` ``(N, d)`` with weights ``(N,)`` (default ``1/N``)."""

    def mean_features(self, x: Tensor, weights: Tensor, order: int, power: int = 1) -> Tensor:
        """``sum_n w_n prod_i f_{a_i}(x_{n,i})^power``, ``(F, ..., F)``; bounded memory.

        ``power=2`` gives the second moments that the standard errors of the averages need.
        """
        width = self.feature_count(order)
        chunk = max(256, 16 * _CACHE_ENTRIES // width ** max(1, self.dim - 1))
        total = x.new_zeros(width ** max(0, self.dim - 1), width)
        for points, w in zip(x.split(chunk), weights.split(chunk), strict=True):
            f = self.features(points.T.reshape(-1), order).view(width, self.dim, -1) ** power
            left = w[None]
            for i in range(self.dim - 1):
                left = (left[:, None] * f[None, :, i]).flatten(0, 1)
            total.addmm_(left, f[:, -1].T)
        return total.reshape((width,) * self.dim)

    # -- the fast path -----------------------------------------------------------------------------
    def derivative_tensors(self, coefficients: Tensor) -> Tensor:
        """Tensors of ``(d_1 h, ..., d_d h, Laplacian h)``: ``(..., K)`` -> ``(d+1, ..., F, ..., F)``."""
        tensor = self.tensor(coefficients)
        derivative = self.feature_derivative(self.order).to(tensor)
        first = [_along(tensor, derivative, i - self.dim) for i in range(self.dim)]
        second = [_along(first[i], derivative, i - self.dim) for i in range(self.dim)]
        return torch.stack([*first, torch.stack(second).sum(0)])

    def contract(self, tensors: Tensor, x: Tensor) -> Tensor:
        """Evaluate ``Q`` tensors ``(Q, F, ..., F)`` at ``x`` ``(B, d)``: ``(Q, B)``, in bounded memory.

        The last axis is a matrix product, the others are multiply-and-sum; blocks of points are sized so
        that the intermediate ``(Q F^{d-1}, block)`` stays in cache.
        """
        width, count = tensors.shape[-1], tensors.shape[0]
        block = max(64, _CACHE_ENTRIES // (count * width ** (self.dim - 1)) // 64 * 64)
        matrix, parts = tensors.reshape(-1, width), []
        for points in x.split(block):
            f = self.features(points.T.reshape(-1), self.order).view(width, self.dim, -1)
            value = matrix @ f[:, -1]
            for i in range(self.dim - 2, -1, -1):
                value = value.view(-1, width, len(points)).mul(f[:, i]).sum(1)
            parts.append(value)
        return torch.cat(parts, 1)

    def contract_each(self, tensors: Tensor, x: Tensor) -> Tensor:
        """As :meth:`contract` with a tensor of its own for each point: ``(Q, B, F, ..., F)`` -> ``(Q, B)``."""
        width = tensors.shape[-1]
        f = self.features(x.T.reshape(-1), self.order).view(width, self.dim, -1)
        for i in range(self.dim - 1, -1, -1):
            shape = (1, len(x)) + (1,) * i + (width,)
            tensors = (tensors * f[:, i].T.reshape(shape)).sum(-1)
        return tensors


def _swap(values: Tensor, replacement: Tensor, axis: int) -> Tensor:
    """``values`` with the factor of one axis replaced by its derivative."""
    swapped = values.clone()
    swapped[axis] = replacement[axis]
    return swapped


def _along(tensor: Tensor, derivative: Tensor, axis: int) -> Tensor:
    """Apply ``D^T`` along one axis: the tensor of the derivative in that coordinate."""
    return (tensor.movedim(axis, -1) @ derivative).movedim(-1, axis)


class Hermite(Eigenbasis):
    """Ornstein-Uhlenbeck: ``phi_k = prod_i He_{k_i}(x_i)/sqrt(k_i!)``, ``lambda_k = -|k|_1`` (paper A, Example 4)."""

    def __init__(self, dim: int, n_functions: int):
        super().__init__(dim, n_functions)
        self.eigenvalues = -self.indices.sum(1).to(torch.float64)

    def _multi_indices(self) -> Tensor:
        return index_set(self.dim, self.n_functions, lambda k: k)

    def features(self, x: Tensor, order: int) -> Tensor:
        """``phi_0..phi_order`` by the recurrence ``sqrt(k+1) phi_{k+1} = x phi_k - sqrt(k) phi_{k-1}``."""
        rows = [torch.ones_like(x), x]
        for k in range(1, order):
            rows.append((x * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
        return torch.stack(rows[: order + 1])

    def feature_count(self, order: int) -> int:
        return order + 1

    def feature_derivative(self, order: int) -> Tensor:
        return torch.diag(torch.arange(1, order + 1, dtype=torch.float64).sqrt(), -1)

    def tensor(self, coefficients: Tensor) -> Tensor:
        return _scatter(coefficients, self.indices, self.order + 1)

    def _jet(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f = torch.stack([self.features(x[:, i], self.order) for i in range(self.dim)])
        derivative = self.feature_derivative(self.order).to(x)
        first = derivative @ f
        return _select(f, self.indices), _select(first, self.indices), _select(derivative @ first, self.indices)

    def generator(self, x: Tensor) -> Tensor:
        return self.laplacian(x) - torch.einsum("bkd,bd->bk", self.gradient(x), x)

    def moments(self, x: Tensor, weights: Tensor | None = None) -> PolynomialMoments:
        x, w = x.double(), _weights(x, weights)
        where = tuple(self.indices.T)
        mean = self.mean_features(x, w, self.order)[where]
        squares = self.mean_features(x, w, self.order, power=2)[where]
        lower = torch.cat([self.indices.new_zeros(1, self.dim), self.indices])
        lower = lower[lower.sum(1) < self.order]  # degrees that a derivative can hold
        return PolynomialMoments(
            mean=mean,
            variance=_squared_errors(mean, squares, weights, len(x)),
            rates=self.eigenvalues.to(mean),
            n_points=len(x),
            indices=self.indices,
            lower=lower,
            root=self._root(x, w, lower),
        )

    def _root(self, x: Tensor, weights: Tensor, lower: Tensor) -> Tensor:
        """Upper triangular ``R`` with ``R^T R = E[phi phi^T]`` over the degrees ``lower``: QR of the data, block by block."""
        root = x.new_zeros(0, len(lower))
        for points, w in zip(x.split(4096), weights.split(4096), strict=True):
            f = self.features(points.T.reshape(-1), self.order).view(self.order + 1, self.dim, -1)
            columns = _select(f.transpose(0, 1), lower).prod(0).T
            root = torch.linalg.qr(torch.cat([root, w.sqrt()[:, None] * columns]), mode="r").R
        return torch.nn.functional.pad(root, (0, 0, 0, max(0, len(lower) - len(root))))


class Trigonometric(Eigenbasis):
    """Shared features of the torus and the box: ``cos(k u)``, ``k = 0..R``, then ``sin(k u)``, ``k = 1..R``."""

    def angle(self, x: Tensor) -> Tensor:
        """Coordinate ``u`` in which the features are trigonometric, ``u = omega (x - origin)``."""
        return x

    frequency = 1.0  # omega = du/dx

    def features(self, x: Tensor, order: int) -> Tensor:
        """All multiples of the angle at once, ``sin u = cos(u - pi/2)``.

        One vectorised ``cos`` per value costs less than the memory traffic of a recurrence.
        """
        k = torch.arange(1, order + 1, dtype=x.dtype, device=x.device)
        speeds = torch.cat([k.new_zeros(1), k, k]).view(-1, *(1,) * x.ndim)
        shifts = torch.cat([k.new_zeros(order + 1), k.new_full((order,), -math.pi / 2)])
        return torch.addcmul(shifts.view_as(speeds), speeds, self.angle(x)).cos_()

    def feature_count(self, order: int) -> int:
        return 2 * order + 1

    def feature_derivative(self, order: int) -> Tensor:
        k = torch.arange(1, order + 1)
        out = torch.zeros(2 * order + 1, 2 * order + 1, dtype=torch.float64)
        out[k, order + k] = -self.frequency * k.to(out)
        out[order + k, k] = self.frequency * k.to(out)
        return out

    @abstractmethod
    def products(self) -> Products:
        """The expansion ``phi_j phi_k = sum_s c_s phi_{m_s}`` of all products of two functions."""

    @abstractmethod
    def table_moments(self, table: Tensor, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """``E phi_m`` and ``E phi_m^2`` ``(G,)`` for every function that a product can hold."""

    def moments(self, x: Tensor, weights: Tensor | None = None) -> ProductMoments:
        x, w = x.double(), _weights(x, weights)
        products = self.products()
        mean, squares = self.table_moments(products.table, x, w)
        own = self.eigenvalues
        energy = (products.rates[products.places] - own[:, None] - own) / 2
        return ProductMoments(
            mean=mean,
            variance=_squared_errors(mean, squares, weights, len(x)),
            rates=products.rates.to(mean),
            n_points=len(x),
            own=products.own.to(mean.device),
            own_rates=own.to(mean),
            places=products.places.to(mean.device),
            weights=(products.values * energy).to(mean),
        )


@dataclass(frozen=True)
class Products:
    """``phi_j phi_k = sum_s values[s,j,k] phi_{places[s,j,k]}`` over a table of functions with eigenvalues ``rates``.

    ``table`` ``(G', d)``: distinct multi-indices, zero first; ``rates`` ``(G,)``; ``own`` ``(K,)``: where the basis'
    own functions stand in the table; ``places`` int64 and ``values`` float64, both ``(S, K, K)``.
    """

    table: Tensor
    rates: Tensor
    own: Tensor
    places: Tensor
    values: Tensor


def _weights(x: Tensor, weights: Tensor | None) -> Tensor:
    """Quadrature weights, uniform where none are given."""
    if weights is None:
        return x.new_full((len(x),), 1 / len(x), dtype=torch.float64)
    return weights.to(x.device, torch.float64)


def _squared_errors(mean: Tensor, squares: Tensor, weights: Tensor | None, n: int) -> Tensor:
    """Squared standard error of each average; zero for quadrature weights (exact expectations)."""
    if weights is not None:
        return torch.zeros_like(mean)
    return (squares - mean**2).clamp(min=0) / max(1, n - 1)


class Fourier(Trigonometric):
    """Brownian motion on ``[-pi, pi)^d``: ``sqrt2 cos(k.x)``, ``sqrt2 sin(k.x)``, ``lambda_k = -|k|^2``.

    ``k`` runs over the ``K/2`` shortest vectors of a half-space of ``Z^d`` (first non-zero entry positive);
    all cosines come first, then all sines: the real and imaginary parts of ``e^{i k.x}`` (paper A, Example 7).

    Raises ``ValueError`` for an odd function count.
    """

    def __init__(self, dim: int, n_functions: int):
        if n_functions % 2:
            raise ValueError(
                "the Fourier basis comes in pairs cos(k.x), sin(k.x): expected an even n_functions, "
                f"found {n_functions}; use {n_functions + 1}"
            )
        super().__init__(dim, n_functions)
        self.eigenvalues = -(self.indices**2).sum(1).to(torch.float64).repeat(2)

    def _multi_indices(self) -> Tensor:
        return index_set(self.dim, self.n_functions // 2, lambda k: k * k, half_plane=True)

    def tensor(self, coefficients: Tensor) -> Tensor:
        """``sum a cos(k.x) + b sin(k.x) = Re sum (a - i b) e^{i k.x}``, then ``e^{iku} = cos + i sin`` per axis."""
        a, b = (math.sqrt(2) * coefficients).chunk(2, dim=-1)
        grid = _scatter(torch.complex(a, -b), self.indices + self.order, 2 * self.order + 1)
        to_features = _exponentials(self.order).to(grid)
        for axis in range(-self.dim, 0):
            grid = _along(grid, to_features, axis)
        return grid.real.contiguous()

    def _jet(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k = self.indices.T[:, :, None].to(x)
        u = k * x.T[:, None]
        wave = torch.complex(u.cos(), u.sin())
        return wave, 1j * k * wave, -(k**2) * wave

    def _functions(self, product: Tensor) -> Tensor:
        return math.sqrt(2) * torch.cat([product.real, product.imag]).T

    def products(self) -> Products:
        """``2 cos j cos k = cos(j-k) + cos(j+k)`` and its kin, with ``m`` and ``-m`` folded together."""
        k = self.indices
        pairs = torch.stack([k[:, None] - k[None], k[:, None] + k[None]])
        sign = _orientation(pairs)
        table, place, own = _compress(pairs * sign[..., None], k, 2 * self.order)
        rates = -(table**2).sum(1).to(torch.float64)
        sines = len(table) - 1  # the table lists sqrt2 cos(m.x), m = 0 included, then sqrt2 sin(m.x), m != 0
        half = 1 / math.sqrt(2)
        some = (place != 0).double()
        even = half * some + (1 - some)  # cos(0) is phi_0 = 1, not sqrt2 cos
        odd = half * sign * some  # sin(0) = 0
        second = torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None, None]
        # rows cos: [cos cos, cos sin = (sin(j+k) - sin(j-k))/2]; rows sin: [sin cos, sin sin]
        values = torch.cat([torch.cat([even, -second * odd], 2), torch.cat([odd, second * even], 2)], 1)
        places = torch.cat([torch.cat([place, place + sines], 2), torch.cat([place + sines, place], 2)], 1)
        return Products(
            table, torch.cat([rates, rates[1:]]), torch.cat([own, own + sines]), places, values
        )

    def table_moments(self, table: Tensor, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines then sines of the table; a pair shares its variance, since ``|e^{i m.x}| = 1``."""
        reach = int(table.abs().max())
        grid = self.mean_features(x, weights, reach).to(torch.complex128)
        from_features = _exponentials(reach).to(grid).T
        for axis in range(-self.dim, 0):
            grid = _along(grid, from_features, axis)
        c = math.sqrt(2) * grid[tuple((table + reach).T)]
        mean = torch.cat([c.real, c.imag[1:]])
        mean[0] = 1
        squares = torch.cat([1 + (c.real**2 - c.imag**2) / 2, 1 - (c.real**2 - c.imag**2)[1:] / 2])
        squares[0] = 1
        return mean, squares


class Cosine(Trigonometric):
    """Brownian motion reflected in ``[low, high]^d``: ``prod_i n_{k_i} cos(k_i pi (x_i - low)/(high - low))``.

    ``n_0 = 1``, ``n_k = sqrt2``; ``lambda_k = -(pi/(high - low))^2 |k|^2`` (paper A, Example 7).
    """

    def __init__(self, dim: int, n_functions: int, low: float = 0.0, high: float = 1.0):
        if not low < high:
            raise ValueError(f"expected low < high; found low={low}, high={high}")
        self.low, self.high = float(low), float(high)
        self.frequency = math.pi / (self.high - self.low)
        super().__init__(dim, n_functions)
        self.eigenvalues = self._rates(self.indices)

    def _multi_indices(self) -> Tensor:
        return index_set(self.dim, self.n_functions, lambda k: k * k)

    def angle(self, x: Tensor) -> Tensor:
        return self.frequency * (x - self.low)

    def _norm(self, indices: Tensor) -> Tensor:
        """``prod_i n_{k_i} = sqrt2^{number of non-zero k_i}``."""
        return math.sqrt(2) ** (indices != 0).sum(-1).to(torch.float64)

    def tensor(self, coefficients: Tensor) -> Tensor:
        scaled = coefficients * self._norm(self.indices).to(coefficients)
        return _scatter(scaled, self.indices, 2 * self.order + 1)

    def _jet(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k = self.indices.T[:, :, None].to(x)  # (d, K, 1)
        u = k * self.angle(x).T[:, None]
        norm = math.sqrt(2) ** (k != 0).to(x)
        speed = k * self.frequency
        return norm * u.cos(), -norm * speed * u.sin(), -norm * speed**2 * u.cos()

    def products(self) -> Products:
        """``cos j cos k = [cos(j-k) + cos(j+k)]/2`` on each axis: ``2^d`` terms."""
        k = self.indices
        signs = torch.cartesian_prod(*[torch.tensor([-1, 1])] * self.dim).reshape(-1, 1, 1, self.dim)
        pairs = (k[:, None] + signs * k[None]).abs()
        table, places, own = _compress(pairs, k, 2 * self.order)
        norm = self._norm(k)
        values = norm[:, None] * norm[None] / self._norm(pairs) / 2**self.dim
        return Products(table, self._rates(table), own, places, values)

    def _rates(self, indices: Tensor) -> Tensor:
        return -(self.frequency**2) * (indices**2).sum(1).to(torch.float64)

    def table_moments(self, table: Tensor, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        reach = int(table.max())
        where = tuple(table.T)
        norm = self._norm(table).to(x)
        mean = norm * self.mean_features(x, weights, reach)[where]
        squares = norm**2 * self.mean_features(x, weights, reach, power=2)[where]
        return mean, squares


def _scatter(coefficients: Tensor, indices: Tensor, width: int) -> Tensor:
    """Place ``(..., K)`` at multi-indices ``(K, d)`` of a ``(..., width, ..., width)`` tensor of zeros."""
    dim = indices.shape[1]
    flat = (indices * width ** torch.arange(dim - 1, -1, -1)).sum(1).to(coefficients.device)
    out = coefficients.new_zeros(*coefficients.shape[:-1], width**dim)
    out[..., flat] = coefficients
    return out.reshape(*coefficients.shape[:-1], *(width,) * dim)


def _select(factors: Tensor, indices: Tensor) -> Tensor:
    """``(d, F, B)`` factors -> ``(d, K, B)``: the factor of each function on each axis."""
    return torch.stack([factors[i, indices[:, i]] for i in range(indices.shape[1])])


def _exponentials(order: int) -> Tensor:
    """``W`` ``(2R+1, F)`` complex with ``e^{i k u} = sum_a W[k + R, a] f_a(u)``, ``k = -R..R``."""
    k = torch.arange(-order, order + 1)
    out = torch.zeros(2 * order + 1, 2 * order + 1, dtype=torch.complex128)
    out[k + order, k.abs()] = 1
    nonzero = k[k != 0]
    out[nonzero + order, order + nonzero.abs()] = 1j * nonzero.sign().to(out)
    return out


def _orientation(m: Tensor) -> Tensor:
    """Sign of the first non-zero entry of ``m`` ``(..., d)``; one for ``m = 0``."""
    sign = torch.zeros_like(m[..., 0])
    for i in range(m.shape[-1]):
        sign = torch.where(sign == 0, m[..., i].sign(), sign)
    return torch.where(sign == 0, 1, sign)


def _compress(m: Tensor, also: Tensor, reach: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct multi-indices of ``m`` ``(..., d)`` and ``also`` ``(K, d)``, zero first, and where each stands.

    A table look-up over the grid ``[-reach, reach]^d``: linear time, where sorting the ``K^2`` pairs is not.
    """
    dim, width = m.shape[-1], 2 * reach + 1
    powers = width ** torch.arange(dim - 1, -1, -1)
    codes, also_codes = ((m + reach) * powers).sum(-1), ((also + reach) * powers).sum(-1)
    zero = int((reach * powers).sum())
    present = torch.zeros(width**dim, dtype=torch.bool)
    present[codes.reshape(-1)] = True
    present[also_codes] = True
    present[zero] = False
    found = torch.cat([torch.tensor([zero]), present.nonzero()[:, 0]])
    place = torch.empty(width**dim, dtype=torch.int64)
    place[found] = torch.arange(len(found))
    table = torch.stack([found // p % width - reach for p in powers], dim=1)
    return table, place[codes], place[also_codes]
