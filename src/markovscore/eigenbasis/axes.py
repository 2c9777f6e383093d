"""One coordinate: its eigenfunctions, and the features in which combinations of them are written.

With the dispersion ``G = sqrt2`` and the stationary law ``pi`` (paper A, Examples 3, 4 and 7):

========  ================  ==========================================  =====================
axis      state space       ``psi_k``, orthonormal in ``L2(pi)``        ``lambda_k``
========  ================  ==========================================  =====================
Line      real line, OU     ``He_k(x) / sqrt(k!)``                      ``-k``
Circle    period ``p``      ``e^{i k u}``, ``u = 2 pi x / p``           ``-(2 pi k / p)^2``
Interval  ``[a, b]``        ``sqrt2 cos(k u)``, ``u = pi (x-a)/(b-a)``  ``-(pi k / (b-a))^2``
========  ================  ==========================================  =====================

Features ``f_a`` are closed under differentiation, ``f' = D f``, and ``psi = V f``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core import check_number, remembered


class Axis(ABC):
    """Eigenfunctions ``psi_k`` of one coordinate, ``psi_0 = 1``; two equal axes have the same."""

    wave: ClassVar[bool] = False  # whether psi_k is complex, and k may be negative

    @abstractmethod
    def rates(self, k: Tensor) -> Tensor:
        """``lambda_k`` of indices ``(...)``, float64."""

    @abstractmethod
    def features(self, x: Tensor, order: int, out: Tensor | None = None) -> Tensor:
        """Features ``f_a`` up to ``order``: ``(...)`` -> ``(F, ...)``.

        Written to ``out`` where that is given, which records no gradients.
        """

    @abstractmethod
    def count(self, order: int) -> int:
        """Number ``F`` of features up to ``order``."""

    @abstractmethod
    def derivative(self, order: int) -> Tensor:
        """``D`` ``(F, F)`` with ``f' = D f``."""

    @abstractmethod
    def functions(self, order: int) -> Tensor:
        """``V``, a row for each ``psi_k``: ``k = 0..order``, of waves ``-order..order``."""

    @abstractmethod
    def jet(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``psi_k`` and its two derivatives at ``(B,)``, by definition: three ``(M, B)``."""

    def pull(self, x: Tensor) -> Tensor:
        """``(log pi)'`` at ``(...)``; zero of a uniform law."""
        return torch.zeros_like(x)

    def real_rates(self, order: int) -> Tensor:
        """``lambda`` of the real functions of :meth:`jets`, float64."""
        return self.rates(torch.arange(order + 1))

    def real_functions(self, order: int) -> Tensor:
        """``V`` of the real functions: ``psi_0, ..., psi_order``, or of waves ``1``, then all
        ``sqrt2 cos(k u)``, then all ``sqrt2 sin(k u)``."""
        return self.functions(order)

    def jets(self, x: Tensor, order: int, count: int) -> Tensor:
        """The real functions at ``(B,)``, and their first derivatives, ``count`` of them in all:
        ``(count, n, B)``."""
        return _jet_matrix(self, order)[:count].to(x) @ self.features(x, order)

    def quadrature(self, order: int) -> tuple[Tensor, Tensor]:
        """Nodes ``(Q,)`` and weights, of sum one, by which products of two of the real functions
        up to ``order`` have their averages under ``pi``; a line has none, and needs none."""
        raise NotImplementedError


class _Trigonometric(Axis):
    """Features ``cos(k u)``, ``k = 0..R``, then ``sin(k u)``, ``k = 1..R``."""

    frequency: float  # omega = du/dx

    @abstractmethod
    def angle(self, x: Tensor) -> Tensor:
        """``u``."""

    def rates(self, k: Tensor) -> Tensor:
        return -(self.frequency**2) * k.square().to(torch.float64)

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

    def count(self, order: int) -> int:
        return 2 * order + 1

    def derivative(self, order: int) -> Tensor:
        return _trigonometric_derivative(order, self.frequency)


@dataclass(frozen=True)
class Circle(_Trigonometric):
    """``[-p/2, p/2)``, whose ends are one point; positive ``period`` ``p``."""

    period: float = 2 * math.pi
    wave: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self.period, "period", positive=True)

    @property
    def frequency(self) -> float:  # type: ignore[override]
        """``2 pi / p``."""
        return 2 * math.pi / self.period

    def angle(self, x: Tensor) -> Tensor:
        return x if self.frequency == 1 else self.frequency * x

    def functions(self, order: int) -> Tensor:
        return _exponentials(order)

    def real_rates(self, order: int) -> Tensor:
        rates = self.rates(torch.arange(order + 1))
        return torch.cat([rates, rates[1:]])

    def real_functions(self, order: int) -> Tensor:
        norms = torch.full((2 * order + 1,), math.sqrt(2), dtype=torch.float64)
        norms[0] = 1.0
        return norms.diag()

    def quadrature(self, order: int) -> tuple[Tensor, Tensor]:
        return _equal(2 * order + 1, 0.0, self.period)

    def jet(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        speed = (self.frequency * k.to(x))[:, None]
        u = speed * x
        wave = torch.complex(u.cos(), u.sin())
        return wave, 1j * speed * wave, -(speed**2) * wave


@dataclass(frozen=True)
class Interval(_Trigonometric):
    """``[low, high]`` with reflecting ends."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not check_number(self.low, "low") < check_number(self.high, "high"):
            raise ValueError(
                f"expected low < high, found low = {self.low}, high = {self.high}: swap them"
            )

    @property
    def frequency(self) -> float:  # type: ignore[override]
        """``pi / (high - low)``."""
        return math.pi / (self.high - self.low)

    def angle(self, x: Tensor) -> Tensor:
        return self.frequency * (x - self.low)

    def functions(self, order: int) -> Tensor:
        return _cosines(order)

    def quadrature(self, order: int) -> tuple[Tensor, Tensor]:
        return _equal(order + 1, self.low, self.high - self.low)

    def jet(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        speed = (self.frequency * k.to(x))[:, None]
        u = speed * (x - self.low)
        norm = math.sqrt(2) ** (k != 0).to(x)[:, None]
        return norm * u.cos(), -norm * speed * u.sin(), -norm * speed**2 * u.cos()


@dataclass(frozen=True)
class Line(Axis):
    """The real line, pulled to zero; features are the functions themselves."""

    def pull(self, x: Tensor) -> Tensor:
        return -x

    def rates(self, k: Tensor) -> Tensor:
        return -k.to(torch.float64)

    def features(self, x: Tensor, order: int, out: Tensor | None = None) -> Tensor:
        """By the recurrence ``sqrt(k+1) psi_{k+1} = x psi_k - sqrt(k) psi_{k-1}``."""
        if out is None:
            rows = [torch.ones_like(x), x]
            for k in range(1, order):
                rows.append((x * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
            return torch.stack(rows[: order + 1])
        rows = list(out.unbind())
        rows[0].fill_(1)
        if order > 0:
            rows[1].copy_(x)
        for k in range(1, order):
            row = torch.mul(x, rows[k], out=rows[k + 1])
            row.sub_(rows[k - 1], alpha=math.sqrt(k)).div_(math.sqrt(k + 1))
        return out

    def count(self, order: int) -> int:
        return order + 1

    def derivative(self, order: int) -> Tensor:
        return _polynomial_derivative(order)

    def functions(self, order: int) -> Tensor:
        return _identity(order + 1)

    def jet(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        order = int(k.max())
        f, derivative = self.features(x, order), self.derivative(order).to(x)
        return f[k], (derivative @ f)[k], (derivative @ derivative @ f)[k]


@remembered
def _jet_matrix(axis: Axis, order: int) -> Tensor:
    """From features to the real functions, their slopes and their curvatures: ``(3, n, F)``."""
    functions, derivative = axis.real_functions(order), axis.derivative(order)
    first = functions @ derivative
    return torch.stack([functions, first, first @ derivative])


def _equal(count: int, low: float, length: float) -> tuple[Tensor, Tensor]:
    """The middles of so many equal cells, and equal weights: exact for waves of less than as many
    turns, and for cosines of less than twice as many half-turns."""
    nodes = low + length * (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return nodes, torch.full_like(nodes, 1 / count)


@remembered
def _speeds(order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``1, ..., R``."""
    return torch.arange(1, order + 1, dtype=dtype, device=device)


@remembered
def _trigonometric_derivative(order: int, frequency: float) -> Tensor:
    k = torch.arange(1, order + 1)
    out = torch.zeros(2 * order + 1, 2 * order + 1, dtype=torch.float64)
    out[k, order + k] = -frequency * k.to(out)
    out[order + k, k] = frequency * k.to(out)
    return out


@remembered
def _exponentials(order: int) -> Tensor:
    """``e^{i k u} = sum_a V[k + R, a] f_a(u)``, ``k = -R..R``; complex."""
    k = torch.arange(-order, order + 1)
    out = torch.zeros(2 * order + 1, 2 * order + 1, dtype=torch.complex128)
    out[k + order, k.abs()] = 1
    nonzero = k[k != 0]
    out[nonzero + order, order + nonzero.abs()] = 1j * nonzero.sign().to(out)
    return out


@remembered
def _cosines(order: int) -> Tensor:
    """``sqrt2 cos(k u)``, and 1 for ``k = 0``."""
    out = torch.eye(order + 1, 2 * order + 1, dtype=torch.float64) * math.sqrt(2)
    out[0, 0] = 1
    return out


@remembered
def _polynomial_derivative(order: int) -> Tensor:
    return torch.diag(torch.arange(1, order + 1, dtype=torch.float64).sqrt(), -1)


@remembered
def _identity(count: int) -> Tensor:
    return torch.eye(count, dtype=torch.float64)
