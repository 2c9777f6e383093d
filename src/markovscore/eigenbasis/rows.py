"""Combinations of product functions, summed one by one: what many dimensions leave room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from .axes import Axis

_ENTRIES = 2**18  # of a working block: 2 MiB in double precision


@dataclass(frozen=True)
class Rows:
    """``Phi_k(x) = prod_i psi_{k_i}(x_i)``, normalised, for multi-indices ``(M, d)``: ``O(M d)``
    a point.

    ``waves`` ``(M,)``: which are complex; ``norms`` ``(M,)``; ``turning``, the coordinates that are
    waves, and ``speeds`` ``(M, w)``, the frequencies along them; ``standing``, the other
    coordinates, of which each has functions up to ``orders``.
    """

    axes: tuple[Axis, ...]
    indices: Tensor
    waves: Tensor
    norms: Tensor
    turning: list[int]
    speeds: Tensor
    standing: list[int]
    orders: list[int]

    @classmethod
    def of(cls, axes: Sequence[Axis], indices: Tensor) -> Rows:
        """The products on ``axes`` with these indices."""
        turning = [i for i, axis in enumerate(axes) if axis.wave]
        standing = [i for i, axis in enumerate(axes) if not axis.wave]
        waves = indices[:, turning].any(1)
        one = torch.ones(1, dtype=torch.int64)
        speed = [float((-axes[i].rates(one)).sqrt()) for i in turning]
        orders = [int(indices[:, i].max()) for i in standing]
        return cls(
            axes=tuple(axes),
            indices=indices,
            waves=waves,
            norms=2.0 ** (0.5 * waves.double()),
            turning=turning,
            speeds=indices[:, turning].double() * torch.tensor(speed, dtype=torch.float64),
            standing=standing,
            orders=orders,
        )

    @property
    def block(self) -> int:
        """Points at a time."""
        return max(16, _ENTRIES // len(self.indices))

    def values(self, x: Tensor) -> Tensor:
        """Normalised ``Phi_k(x)``: ``(B, d)`` -> ``(M, B)``, complex where there are waves."""
        standing = self._jet(x, 1)
        product = self.norms.to(x)[:, None].expand(-1, len(x))
        for values in standing:
            product = product * values[0]
        if not self.turning:
            return product
        return torch.polar(product.abs(), self._phase(x)) * product.sign()

    def averages(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sums over points of ``Phi`` ``(M,)`` and of ``|Phi|^2`` ``(M,)``."""
        mean, square = 0.0, 0.0
        for points, w in zip(x.split(self.block), weights.split(self.block), strict=True):
            values = self.values(points)
            mean = mean + values @ w.to(values.dtype)
            square = square + values.abs().square() @ w
        return torch.as_tensor(mean), torch.as_tensor(square)

    def derivatives(self, coefficients: Tensor, x: Tensor, laplacian: bool) -> Tensor:
        """``grad h`` ``(d, B)``, and the Laplacian as one more row, of real combinations ``h`` with
        coefficients ``(K,)``, or ``(B, K)``."""
        rows = len(self.indices)
        even = coefficients[..., :rows] * self.norms.to(x)
        odd = torch.zeros_like(even)
        odd[..., self.waves] = coefficients[..., rows:] * 2.0**0.5
        # (M, 1) for all points, or (M, B)
        even, odd = (part.T if part.ndim == 2 else part[:, None] for part in (even, odd))
        blocks = []
        for start in range(0, max(1, len(x)), self.block):
            points = x[start : start + self.block]
            a, b = (p if p.shape[1] == 1 else p[:, start : start + self.block] for p in (even, odd))
            blocks.append(self._derivatives(a, b, points, laplacian))
        return torch.cat(blocks, 1)

    def _derivatives(self, even: Tensor, odd: Tensor, x: Tensor, laplacian: bool) -> Tensor:
        u, v = even, None
        if self.turning:
            phase = self._phase(x)
            cos, sin = phase.cos(), phase.sin()
            u, v = even * cos + odd * sin, odd * cos - even * sin
        standing = self._jet(x, 3 if laplacian else 2)
        values = [jet[0] for jet in standing]
        total = torch.ones_like(x[:, 0])
        before = list(accumulate(values, torch.mul, initial=total))
        after = list(accumulate(reversed(values), torch.mul, initial=total))[::-1]
        out = list(x.new_zeros(x.shape[1] + laplacian, len(x)).unbind())
        if v is not None:
            speeds = self.speeds.to(x)
            for i, part in zip(self.turning, speeds.T @ (before[-1] * v), strict=True):
                out[i] = part
            if laplacian:
                out[-1] = -speeds.square().sum(1) @ (before[-1] * u)
        for i, jet, left, right in zip(
            self.standing, standing, before[:-1], after[1:], strict=True
        ):
            others = left * right * u
            out[i] = (jet[1] * others).sum(0)
            if laplacian:
                out[-1] = out[-1] + (jet[2] * others).sum(0)
        return torch.stack(out)

    def _phase(self, x: Tensor) -> Tensor:
        """``k . u`` ``(M, B)``."""
        return self.speeds.to(x) @ x[:, self.turning].T

    def _jet(self, x: Tensor, count: int) -> list[Tensor]:
        """Of each standing coordinate the values, slopes and curvatures of every row's factor, or
        the first ``count`` of them: ``(count, M, B)``."""
        found = []
        for i, order in zip(self.standing, self.orders, strict=True):
            jet = self.axes[i].jets(x[:, i], order, count)
            found.append(jet[:, self.indices[:, i].to(x.device)])
        return found
