r"""Normalised Hermite polynomials ``phi_n = He_n / sqrt(n!)`` and the variable they take."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def hermite(u: Tensor, count: int) -> Iterator[Tensor]:
    """``phi_0(u), ..., phi_{count-1}(u)``."""
    below, now = torch.ones_like(u), u
    yield from (below, now)[:count]
    for n in range(1, count - 1):
        below, now = now, (u * now - math.sqrt(n) * below) / math.sqrt(n + 1)
        yield now


def series(u: Tensor, g: Tensor, slopes: bool = True) -> tuple[Tensor, Tensor]:
    """``sum_n g_n phi_n(u)`` and its derivative, ``phi_n' = sqrt(n) phi_{n-1}``.

    Without ``slopes`` the derivative is left at zero.
    """
    value = torch.broadcast_to(g[0], u.shape)
    slope = torch.zeros((), dtype=u.dtype, device=u.device).expand_as(u)
    below = u
    for n, phi in enumerate(hermite(u, len(g))):
        if n:
            value = value + g[n] * phi
        if slopes and n == 1:
            slope = torch.broadcast_to(g[1], u.shape)
        elif slopes and n > 1:
            slope = slope + (math.sqrt(n) * g[n]) * below
        below = phi
    return value, slope


def between(table: Tensor, upper: Tensor, share: Tensor) -> Tensor:
    """``(K, B, d)``: the levels ``upper`` ``(B,)`` of a table ``(T, K, d)``, interpolated."""
    upper, share = upper.to(table.device), share.to(table)
    return torch.lerp(table[upper - 1], table[upper], share[:, None, None]).transpose(0, 1)


def standard_scale(scale: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``a``, ``s_t`` and ``r = a s / s_t`` at times ``t`` of the unit process."""
    a = torch.exp(-t)
    now = (a.square() * scale.square() - torch.expm1(-2 * t)).sqrt()
    return a, now, a * scale / now
