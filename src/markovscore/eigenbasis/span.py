r"""Functions that resolve a law of several coordinates: polynomials of each part times its share.

.. math:: \psi_{c,k}(x) = r_c(x) \prod_i \frac{He_{k_i}(z_{c,i})}{\sqrt{k_i!}},
          \qquad z_c = \Sigma_c^{-1/2} (x - m_c)

with the parts of :mod:`markovscore.eigenbasis.components`. Where a part is far from the others they
are the eigenfunctions of its own Ornstein-Uhlenbeck process; the shares tell the parts apart, and
their sum is one. For a normal law the span holds its eigenfunctions, up to the degree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .axes import Line
from .components import Components
from .indices import index_set

_BLOCK = 2**18  # entries of a working block: 2 MiB in double precision


class Span:
    """All polynomials up to one total degree, the highest with at most ``size`` functions.

    Attributes: ``parts``; ``powers`` ``(n, d)``, the multi-indices, the same for each part;
    ``size``, the number ``M`` of functions, a part's after the other's.

    Raises ``ArithmeticError`` where there is no room for degree two.
    """

    def __init__(self, parts: Components, size: int) -> None:
        self.parts, self.dim = parts, parts.means.shape[1]
        room, degree = size // len(parts.weights), 1
        while math.comb(degree + 1 + self.dim, self.dim) <= room:
            degree += 1
        if degree < 2:
            raise ArithmeticError(
                f"expected a law of fewer parts or coordinates, found {len(parts.weights)} parts "
                f"in {self.dim}: {size} functions leave no room for squares"
            )
        powers = index_set([Line()] * self.dim, math.comb(degree + self.dim, self.dim) - 1)
        self.powers = torch.cat([torch.zeros_like(powers[:1]), powers])
        self.size = len(self.powers) * len(parts.weights)

    @property
    def constant(self) -> Tensor:
        """The coefficients of one, ``(M,)``."""
        return (~self.powers.any(1)).double().repeat(len(self.parts.weights))

    @property
    def block(self) -> int:
        """Points at a time."""
        return max(16, _BLOCK // (self.size * (self.dim + 2)))

    def fields(self, x: Tensor, coefficients: Tensor | None = None) -> Tensor:
        """Value, gradient and Laplacian ``(d + 2, K, B)`` at ``x`` ``(B, d)`` of combinations with
        coefficients ``(M, K)``; of one with coefficients of each point's own ``(M, 1, B)``; without
        any, of the functions themselves."""
        size = self.block
        own = coefficients is not None and coefficients.ndim == 3
        blocks = []
        for start in range(0, max(1, len(x)), size):
            rows = slice(start, start + size)
            given = coefficients[..., rows] if own and coefficients is not None else coefficients
            blocks.append(self._fields(x[rows], given))
        return torch.cat(blocks, -1)

    def _fields(self, x: Tensor, coefficients: Tensor | None) -> Tensor:
        parts = self.parts.like(x)
        z = parts.whitened(x)
        found = []
        for c, (r, slope, bent) in enumerate(zip(*parts.shares(z), strict=True)):
            own = self._polynomials(z[c], parts.axes[c], parts.scales[c])
            if coefficients is not None:
                given = coefficients.unflatten(0, (len(z), -1))[c].to(x)
                each = given.ndim == 3
                own = (own * given[:, 0]).sum(1, True) if each else given.T @ own
            found.append(_times(own, r, slope.T, bent))
        return torch.cat(found, 1) if coefficients is None else torch.stack(found).sum(0)

    def _polynomials(self, z: Tensor, axes: Tensor, scales: Tensor) -> Tensor:
        """Of a part, at its whitened points ``(B, d)``: ``(d + 2, n, B)``, the gradient in the
        coordinates of ``x``."""
        factors = [  # values, slopes and curvatures along each axis, (3, n, B)
            Line().jets(along, int(k.max()), 3)[:, k]
            for along, k in zip(z.unbind(1), self.powers.to(z.device).unbind(1), strict=True)
        ]
        slopes, curved = [], []
        for i, scale in enumerate(scales):
            others = math.prod(factors[j][0] for j in range(self.dim) if j != i)
            slopes.append(factors[i][1] * others / scale)
            curved.append(factors[i][2] * others / scale**2)
        value = torch.stack([factor[0] for factor in factors]).prod(0)
        turned = torch.einsum("ij,jmb->imb", axes, torch.stack(slopes))
        return torch.cat([value[None], turned, torch.stack(curved).sum(0, True)])

    def blocks(self, x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """:meth:`fields` without coefficients, a block of points after the other, with rows of
        ``others`` ``(B, ...)``."""
        size = self.block
        for points, *more in zip(x.split(size), *(o.split(size) for o in others), strict=True):
            yield self._fields(points, None), *more


def _times(fields: Tensor, r: Tensor, slope: Tensor, bent: Tensor) -> Tensor:
    """Value, gradient and Laplacian of ``r p``, from those of ``p`` ``(d + 2, K, B)``, and ``r``,
    ``grad r`` ``(d, B)``, ``Laplacian r`` ``(B,)``."""
    value, slopes, curved = fields[0], fields[1:-1], fields[-1]
    gradient = r * slopes + value * slope[:, None]
    laplacian = r * curved + 2 * (slopes * slope[:, None]).sum(0) + value * bent
    return torch.cat([(r * value)[None], gradient, laplacian[None]])
