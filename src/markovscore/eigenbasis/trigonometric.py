"""Cosines and sines: the eigenfunctions of Brownian motion on the torus and in the box."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import check_integer, check_number, remembered
from .base import Eigenbasis, along, index_set, quadrature_weights, scatter, squared_errors
from .moments import ProductMoments


class Trigonometric(Eigenbasis):
    """Features of torus and box: ``cos(k u)``, ``k = 0..R``, then ``sin(k u)``, ``k = 1..R``."""

    def angle(self, x: Tensor) -> Tensor:
        """Coordinate ``u`` in which the features are trigonometric, ``u = omega (x - origin)``."""
        return x

    frequency = 1.0  # omega = du/dx

    def features(self, x: Tensor, order: int, out: Tensor | None = None) -> Tensor:
        """All multiples of the angle at once.

        One vectorised ``cos`` per value costs less than the memory traffic of a recurrence. The
        multiples are a product, which torch vectorises here; a product and sum it does not.
        """
        speeds = _speeds(order, x.dtype, x.device).view(-1, *(1,) * x.ndim)
        angle = self.angle(x)
        if out is None:
            angles = speeds * angle
            return torch.cat([torch.ones_like(x)[None], angles.cos(), angles.sin()])
        out[0] = 1
        angles = torch.mul(speeds, angle, out=out[1 : order + 1])
        torch.sin(angles, out=out[order + 1 :])
        angles.cos_()
        return out

    def feature_count(self, order: int) -> int:
        return 2 * order + 1

    def feature_derivative(self, order: int) -> Tensor:
        return _derivative(order, self.frequency)

    @abstractmethod
    def products(self) -> Products:
        """The expansion ``phi_j phi_k = sum_s c_s phi_{m_s}`` of all products of two functions."""

    @abstractmethod
    def table_moments(self, table: Tensor, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """``E phi_m`` and ``E phi_m^2`` ``(G,)`` for every function that a product can hold."""

    def moments(self, x: Tensor, weights: Tensor | None = None) -> ProductMoments:
        x, w = x.double(), quadrature_weights(x, weights)
        products = self.products()
        mean, squares = self.table_moments(products.table, x, w)
        own = self.eigenvalues
        energy = (products.rates[products.places] - own[:, None] - own) / 2
        return ProductMoments(
            mean=mean,
            variance=squared_errors(mean, squares, weights, len(x)),
            rates=products.rates.to(mean),
            n_points=len(x),
            own=products.own.to(mean.device),
            own_rates=own.to(mean),
            places=products.places.to(mean.device),
            weights=(products.values * energy).to(mean),
        )


@dataclass(frozen=True)
class Products:
    """``phi_j phi_k = sum_s values[s,j,k] phi_{places[s,j,k]}`` over a table of functions.

    ``table`` ``(G', d)``: distinct multi-indices, zero first; ``rates`` ``(G,)``: eigenvalues;
    ``own`` ``(K,)``: where the basis' own functions stand in the table; ``places`` int64 and
    ``values`` float64, both ``(S, K, K)``.
    """

    table: Tensor
    rates: Tensor
    own: Tensor
    places: Tensor
    values: Tensor


class Fourier(Trigonometric):
    """Torus ``[-pi, pi)^d``: ``sqrt2 cos(k.x)``, ``sqrt2 sin(k.x)``, ``lambda_k = -|k|^2``.

    ``k`` runs over the ``K/2`` shortest vectors of a half-space of ``Z^d`` (first non-zero entry
    positive); all cosines come first, then all sines: the real and imaginary parts of the waves
    ``e^{i k.x}`` (paper A, Example 7).

    Raises ``ValueError`` for an odd function count.
    """

    def __init__(self, dim: int, n_functions: int):
        if check_integer(n_functions, "n_functions") % 2:
            raise ValueError(
                "the Fourier basis comes in pairs cos(k.x), sin(k.x): expected an even "
                "n_functions, "
                f"found {n_functions}; use {n_functions + 1}"
            )
        super().__init__(dim, n_functions)

    def _multi_indices(self) -> Tensor:
        return index_set(self.dim, self.n_functions // 2, lambda k: k * k, half_plane=True)

    def rates(self, indices: Tensor) -> Tensor:
        return -(indices**2).sum(1).to(torch.float64)

    def tensor(self, coefficients: Tensor) -> Tensor:
        """``sum a cos(k.x) + b sin(k.x) = Re sum (a - i b) e^{i k.x}``, expanded axis by axis."""
        a, b = (math.sqrt(2) * coefficients).chunk(2, dim=-1)
        grid = scatter(torch.complex(a, -b), self.indices + self.order, 2 * self.order + 1)
        to_features = _exponentials(self.order).to(grid)
        for axis in range(-self.dim, 0):
            grid = along(grid, to_features, axis)
        return grid.real.contiguous()

    def _jet(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k = self.indices.T[:, :, None].to(x)
        u = k * x.T[:, None]
        wave = torch.complex(u.cos(), u.sin())
        return wave, 1j * k * wave, -(k**2) * wave

    def _functions(self, product: Tensor) -> Tensor:
        return math.sqrt(2) * torch.cat([product.real, product.imag]).T

    def products(self) -> Products:
        """``2 cos j cos k = cos(j-k) + cos(j+k)`` and its kin; ``m`` and ``-m`` are one."""
        k = self.indices
        pairs = torch.stack([k[:, None] - k[None], k[:, None] + k[None]])
        sign = _orientation(pairs)
        table, place, own = _compress(pairs * sign[..., None], k, 2 * self.order)
        rates = self.rates(table)
        sines = (
            len(table) - 1
        )  # the table lists sqrt2 cos(m.x), m = 0 included, then sqrt2 sin(m.x), m != 0
        half = 1 / math.sqrt(2)
        some = (place != 0).double()
        even = half * some + (1 - some)  # cos(0) is phi_0 = 1, not sqrt2 cos
        odd = half * sign.double() * some  # sin(0) = 0
        second = torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None, None]
        # rows cos: [cos cos, cos sin = (sin(j+k) - sin(j-k))/2]; rows sin: [sin cos, sin sin]
        values = torch.cat(
            [torch.cat([even, -second * odd], 2), torch.cat([odd, second * even], 2)], 1
        )
        places = torch.cat(
            [torch.cat([place, place + sines], 2), torch.cat([place + sines, place], 2)], 1
        )
        return Products(
            table, torch.cat([rates, rates[1:]]), torch.cat([own, own + sines]), places, values
        )

    def table_moments(self, table: Tensor, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines, then sines; a pair shares its variance, since ``|e^{i m.x}| = 1``."""
        reach = int(table.abs().max())
        grid = self.mean_features(x, weights, reach).to(torch.complex128)
        from_features = _exponentials(reach).to(grid).T
        for axis in range(-self.dim, 0):
            grid = along(grid, from_features, axis)
        c = math.sqrt(2) * grid[tuple((table + reach).T)]
        mean = torch.cat([c.real, c.imag[1:]])
        mean[0] = 1
        squares = torch.cat([1 + (c.real**2 - c.imag**2) / 2, 1 - (c.real**2 - c.imag**2)[1:] / 2])
        squares[0] = 1
        return mean, squares


class Cosine(Trigonometric):
    """Box ``[low, high]^d``: ``prod_i n_{k_i} cos(k_i pi (x_i - low)/(high - low))``.

    Brownian motion with reflecting walls; ``n_0 = 1``, ``n_k = sqrt2``, and the eigenvalues are
    ``lambda_k = -(pi/(high - low))^2 |k|^2`` (paper A, Example 7).
    """

    def __init__(self, dim: int, n_functions: int, low: float = 0.0, high: float = 1.0):
        self.low, self.high = check_number(low, "low"), check_number(high, "high")
        if not self.low < self.high:
            raise ValueError(f"expected low < high, found low = {low}, high = {high}: swap them")
        self.frequency = math.pi / (self.high - self.low)
        super().__init__(dim, n_functions)

    def _multi_indices(self) -> Tensor:
        return index_set(self.dim, self.n_functions, lambda k: k * k)

    def angle(self, x: Tensor) -> Tensor:
        return self.frequency * (x - self.low)

    def _norm(self, indices: Tensor) -> Tensor:
        """``prod_i n_{k_i} = sqrt2^{number of non-zero k_i}``."""
        return math.sqrt(2) ** (indices != 0).sum(-1).to(torch.float64)

    def tensor(self, coefficients: Tensor) -> Tensor:
        scaled = coefficients * self._norm(self.indices).to(coefficients)
        return scatter(scaled, self.indices, 2 * self.order + 1)

    def _jet(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k = self.indices.T[:, :, None].to(x)  # (d, K, 1)
        u = k * self.angle(x).T[:, None]
        norm = math.sqrt(2) ** (k != 0).to(x)
        speed = k * self.frequency
        return norm * u.cos(), -norm * speed * u.sin(), -norm * speed**2 * u.cos()

    def products(self) -> Products:
        """``cos j cos k = [cos(j-k) + cos(j+k)]/2`` on each axis: ``2^d`` terms."""
        k = self.indices
        signs = torch.cartesian_prod(*[torch.tensor([-1, 1])] * self.dim).reshape(
            -1, 1, 1, self.dim
        )
        pairs = (k[:, None] + signs * k[None]).abs()
        table, places, own = _compress(pairs, k, 2 * self.order)
        norm = self._norm(k)
        values = norm[:, None] * norm[None] / self._norm(pairs) / 2**self.dim
        return Products(table, self.rates(table), own, places, values)

    def rates(self, indices: Tensor) -> Tensor:
        return -(self.frequency**2) * (indices**2).sum(1).to(torch.float64)

    def table_moments(self, table: Tensor, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        reach = int(table.max())
        where = tuple(table.T)
        norm = self._norm(table).to(x)
        mean = norm * self.mean_features(x, weights, reach)[where]
        squares = norm**2 * self.mean_features(x, weights, reach, power=2)[where]
        return mean, squares


@remembered
def _speeds(order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``1, ..., R``."""
    return torch.arange(1, order + 1, dtype=dtype, device=device)


@remembered
def _derivative(order: int, frequency: float) -> Tensor:
    k = torch.arange(1, order + 1)
    out = torch.zeros(2 * order + 1, 2 * order + 1, dtype=torch.float64)
    out[k, order + k] = -frequency * k.to(out)
    out[order + k, k] = frequency * k.to(out)
    return out


@remembered
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
    """Distinct multi-indices of ``m`` ``(..., d)`` and ``also`` ``(K, d)``, zero first, and where
    each stands.

    A table look-up over the grid ``[-reach, reach]^d``: linear time, where sorting the ``K^2``
    pairs is not.
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
