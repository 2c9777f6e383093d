r"""Sums of Hermite polynomials of every column of a matrix: the statistics of additive OISM."""

import math

import torch
from torch import Tensor

from ..core import check_finite, check_integer
from .blocks import working_rows
from .dispatch import unsupported, use_triton

MAX_DEGREE = 18


def hermite_moments(
    x: Tensor, degree: int, centre: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Sums over rows of the normalised Hermite polynomials, and the range of every column.

    .. math:: S_{n,i} = \sum_b \phi_n(u_{b,i}), \qquad u_{b,i} = (x_{b,i} - c_i) / s_i, \qquad
              \phi_n = He_n / \sqrt{n!}, \quad n \le \mathtt{degree}

    Sums are in double precision whatever the type of ``x``; sums of parts of the rows add up. On a
    GPU one pass over ``x``, in a fixed order: the same numbers at every call.

    Args:
        x: ``(B, d)``, ``B >= 0``; float32 and float64 have a kernel, other floats none.
        degree: 0 to 18.
        centre: ``c`` ``(d,)``.
        scale: ``s`` ``(d,)``, not zero.

    Returns:
        The sums ``(degree + 1, d)`` float64, the smallest and the largest ``x`` of each column
        ``(d,)``, of its dtype; without rows zeros, ``inf`` and ``-inf``.

    Raises:
        ValueError: wrong shapes or degree; NaN or inf in ``x`` (the first such row is named), or a
            centre or scale that makes one.
        TypeError: ``x`` is not floating point.
    """
    _check(x, degree, centre, scale)
    x = x.detach()
    centre, scale = (v.detach().to(x.device, torch.float64).contiguous() for v in (centre, scale))
    limit = unsupported(x, centre, scale)
    if use_triton("hermite_moments", x, limit=limit):
        from ._triton import hermite_moments as triton_version

        found = triton_version.hermite_moments(x.contiguous(), degree, centre, scale)
    else:
        found = _twin(x, degree, centre, scale)
    *results, bad = found
    if bad:
        check_finite(x, "x")
        check_finite(torch.stack([centre, 1 / scale]).T, "centre and 1 / scale of column")
    sums, low, high = results
    return sums, low, high


def _check(x: Tensor, degree: int, centre: Tensor, scale: Tensor) -> None:
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"x: expected shape (B, d), found {tuple(x.shape)}: one row per point")
    if not x.is_floating_point():
        raise TypeError(f"x: expected floating point, found {x.dtype}: convert with x.double()")
    check_integer(degree, "degree", 0, MAX_DEGREE)
    for name, value in (("centre", centre), ("scale", scale)):
        if value.shape != x.shape[1:]:
            raise ValueError(
                f"{name}: expected shape ({x.shape[1]},), found {tuple(value.shape)}: one number "
                "for each column of x"
            )


def _twin(
    x: Tensor, degree: int, centre: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """The sums by the three-term recurrence, the range, and whether the sums are not finite."""
    sums = torch.zeros(degree + 1, x.shape[1], dtype=torch.float64, device=x.device)
    low = x.new_full((x.shape[1],), torch.inf)
    high, inverse = -low, 1 / scale
    for rows in x.split(working_rows(x.device, x.shape[1])) if len(x) else ():
        u = rows.to(sums, copy=True).sub_(centre).mul_(inverse)
        _add_hermite(u, sums)
        torch.minimum(low, rows.amin(0), out=low)
        torch.maximum(high, rows.amax(0), out=high)
    # A sum shows what a look at every number would.
    shown = sums[1] if degree else x.sum(0, dtype=torch.float64)
    return sums, low, high, not bool(shown.isfinite().all())


def _add_hermite(u: Tensor, sums: Tensor) -> None:
    """Add the sums over rows of ``phi_n(u)`` ``(B, d)`` to ``sums`` ``(degree + 1, d)``.

    ``He_{n+1} = u He_n - n He_{n-1}``, carried by ``c_n He_n`` with ``c_{n+1} = -c_{n-1} / n``:
    then a degree takes one operation in place, ``below + (c_{n+1} / c_n) u now``.
    """
    below, now = torch.ones_like(u), u.clone()
    scale_below, scale = 1.0, 1.0
    sums[0] += len(u)
    for n in range(1, len(sums)):
        sums[n].add_(now.sum(0), alpha=1 / (scale * math.sqrt(math.factorial(n))))
        if n + 1 == len(sums):
            return
        scale_below, scale = scale, -scale_below / n
        below.addcmul_(u, now, value=scale / scale_below)
        below, now = now, below
