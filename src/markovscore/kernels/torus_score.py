r"""Gradient and Laplacian of a trigonometric polynomial on the torus, in one pass over the points.

.. math:: h(x) = \sqrt2 \sum_{m=1}^M a_m \cos(k_m \cdot x) + b_m \sin(k_m \cdot x)

is what a fit on the torus adds to the score (paper A, Example 7). The features ``cos``, ``sin`` of
all ``k_m . x`` are never stored: the kernel takes one cosine and sine a coordinate and turns.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..core import check_finite, check_points, remembered
from .blocks import working_rows
from .constants import MAX_COORDINATE
from .dispatch import unsupported, use_triton
from .torus_plan import plan_of, waves_content, waves_from

_MAX_DIM = 3
_MAX_GRID = 2**22  # four numbers each: a table of at most 128 MiB in float64


def torus_score(
    x: Tensor,
    waves: Tensor,
    coefficients: Tensor,
    upper: Tensor | None = None,
    share: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""``grad h`` ``(N, d)`` and ``Laplacian h`` ``(N,)`` at points ``x`` ``(N, d)``.

    .. math:: \nabla h = \sqrt2 \sum_m k_m (b_m \cos k_m x - a_m \sin k_m x), \qquad
              \Delta h = -\sqrt2 \sum_m |k_m|^2 (a_m \cos k_m x + b_m \sin k_m x)

    On a GPU about nine multiply-adds a wave and point, in registers: one cosine and sine for each
    coordinate, the other powers of ``e^{i x_j}`` by multiplication, whose error in ``e^{i k.x}``
    grows like ``2 |k|_1 eps``, as that of the angle ``k.x`` does. Elsewhere the sums as they stand,
    over blocks of points.

    Args:
        x: points, float32 or float64; unwrapped coordinates are fine up to ``2^20``.
        waves: ``(M, d)`` int64, the vectors ``k_m``, in any order.
        coefficients: ``(2 M,)``, first all ``a_m``, then all ``b_m`` (as ``SpectralScore``); or a
            table ``(T, 2 M)`` of them, then each point has its own:
        upper: ``(N,)`` int64, 1 to ``T - 1``, and
        share: ``(N,)``, 0 to 1: point ``n`` takes ``lerp(table[upper - 1], table[upper], share)``.

    Returns:
        Dtype and device of ``x``. Differentiable in PyTorch; the kernel has no gradients.

    Raises:
        TypeError: points that are not floating point, waves that are not int64.
        ValueError: shapes other than above; a point that is not finite or too far out, coefficients
            that are not finite, with their row; places outside the table; with Triton forced, more
            than three dimensions, other dtypes, gradients.
    """
    if not (isinstance(x, Tensor) and x.ndim == 2 and len(x) == 0):
        x = check_points(x, waves.shape[-1], finite=False)
    _check(x, waves, coefficients, upper, share)
    if upper is not None and share is not None:
        upper, share = upper.to(x.device).contiguous(), share.to(x).contiguous()
    if kernel_applies(x, waves, coefficients):
        from ._triton import torus_score as kernel

        table = plan_of(waves, coefficients.device).table(coefficients).to(x)
        plan = plan_of(waves, x.device)
        gradient, laplacian, row = kernel.launch(x.contiguous(), table, plan, upper, share)
    else:
        gradient, laplacian, row = _twin(x, waves, coefficients.to(x), upper, share)
    if row is not None:
        _explain(row, x, coefficients)
    return gradient, laplacian


def kernel_applies(x: Tensor, waves: Tensor, coefficients: Tensor) -> bool:
    """Whether ``torus_score`` runs in Triton; raises where it is forced and cannot."""
    limit = unsupported(x) or unsupported(coefficients)
    if waves.shape[1] > _MAX_DIM:
        limit = f"expected at most {_MAX_DIM} dimensions, found {waves.shape[1]}"
    elif limit is None and (size := _grid(waves_content(waves), waves.shape[1])) > _MAX_GRID:
        limit = f"expected waves on a grid of {_MAX_GRID} vectors, found one of {size}"
    return use_triton("torus_score", x, limit=limit)


@remembered
def _grid(content: bytes, dim: int) -> int:
    """Vectors of a box that holds the waves, up to sign: bounds the rows and the table."""
    return math.prod(2 * reach + 2 for reach in waves_from(content, dim).abs().amax(0).tolist())


def _check(
    x: Tensor, waves: Tensor, coefficients: Tensor, upper: Tensor | None, share: Tensor | None
) -> None:
    if waves.dtype != torch.int64:
        raise TypeError(f"waves: expected int64, found {waves.dtype}: convert with waves.long()")
    if waves.ndim != 2 or len(waves) == 0 or waves.shape[1] != x.shape[1]:
        raise ValueError(
            f"waves: expected shape (M, {x.shape[1]}) with M >= 1, found {tuple(waves.shape)}"
        )
    count, each = 2 * len(waves), upper is not None
    if (upper is None) != (share is None):
        raise ValueError("expected both upper and share, or neither: found one of them")
    if coefficients.ndim != 1 + each or coefficients.shape[-1] != count:
        wanted = f"(T, {count})" if each else f"({count},)"
        raise ValueError(
            f"coefficients: expected shape {wanted}, a cosine and a sine for each wave"
            f"{'' if each else ' (a table goes with upper and share)'}, found "
            f"{tuple(coefficients.shape)}"
        )
    if upper is None or share is None:
        return
    if upper.shape != (len(x),) or share.shape != (len(x),) or upper.dtype != torch.int64:
        raise ValueError(
            f"upper, share: expected shape ({len(x)},), the first int64, found "
            f"{tuple(upper.shape)} {upper.dtype}, {tuple(share.shape)}"
        )
    last = len(coefficients) - 1
    if len(x) and not 1 <= int(upper.min()) <= int(upper.max()) <= last:
        raise ValueError(
            f"upper: expected places 1 to {last} in the table, found {int(upper.min())} to "
            f"{int(upper.max())}"
        )


def _explain(row: int, x: Tensor, coefficients: Tensor) -> None:
    """Raise for the first row whose result is not finite."""
    check_finite(x)
    far = x.abs() > MAX_COORDINATE
    if bool(far.any()):
        row = int(far.any(1).nonzero()[0])
        raise ValueError(
            f"x: expected coordinates up to 2^20, found row {row} = {x[row].tolist()}: wrap the "
            "points with TorusBrownian.project"
        )
    check_finite(coefficients.reshape(-1, coefficients.shape[-1]), "coefficients", "fit them again")
    raise ValueError(
        f"expected a finite gradient and Laplacian, found NaN or inf at row {row} = "
        f"{x[row].tolist()}, from finite coefficients up to {float(coefficients.abs().max()):g}: "
        f"they overflow {x.dtype}; pass x.double() or scale the coefficients"
    )


def _twin(
    x: Tensor, waves: Tensor, coefficients: Tensor, upper: Tensor | None, share: Tensor | None
) -> tuple[Tensor, Tensor, int | None]:
    """The sums as they stand, over blocks of points."""
    k = waves.to(x)
    jet = torch.cat([k, -k.square().sum(1, keepdim=True)], 1)  # gradient and Laplacian of a wave
    turned = torch.arange(jet.shape[1], device=x.device) < waves.shape[1]  # cos -> -sin, sin -> cos
    parts = []
    for points, a, b in _blocks(x, math.sqrt(2) * coefficients, upper, share):
        angle = points @ k.T
        cos, sin = angle.cos(), angle.sin()
        if upper is None:
            parts.append(
                cos @ (torch.where(turned, b[:, None], a[:, None]) * jet)
                + sin @ (torch.where(turned, -a[:, None], b[:, None]) * jet)
            )
        else:
            odd, even = b * cos - a * sin, a * cos + b * sin
            parts.append(torch.cat([odd @ jet[:, :-1], even @ jet[:, -1:]], 1))
    if not parts:
        return torch.empty_like(x), x[:, :0].sum(1), None
    jets = torch.cat(parts)
    bad = ~jets.isfinite().all(1) | (x.abs() > MAX_COORDINATE).any(1)
    return (
        jets[:, :-1].contiguous(),
        jets[:, -1].contiguous(),
        int(bad.nonzero()[0]) if bool(bad.any()) else None,
    )


def _blocks(
    x: Tensor, coefficients: Tensor, upper: Tensor | None, share: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Points ``(B, d)`` with their ``a`` and ``b``, ``(M,)`` or ``(B, M)``."""
    count = coefficients.shape[-1] // 2
    size = max(64, working_rows(x.device, count))
    for first in range(0, len(x), size):
        block = slice(first, first + size)
        own = coefficients
        if upper is not None and share is not None:
            above = upper[block]
            own = torch.lerp(coefficients[above - 1], coefficients[above], share[block, None])
        yield x[block], own[..., :count], own[..., count:]
