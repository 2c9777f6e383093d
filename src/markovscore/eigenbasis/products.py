"""Products of two trigonometric functions as sums of functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .axes import Axis
from .indices import distinct, orientation


@dataclass(frozen=True)
class Products:
    """``phi_j phi_k = sum_s values[s,j,k] phi_{places[s,j,k]}`` over a table of functions.

    ``table`` ``(G', d)``: distinct multi-indices, zero first; of the ``G`` real functions it lists
    first the real parts of all, then the imaginary parts of the ``waves`` ``(G',)``; ``own``
    ``(K,)``: where the basis' own functions stand among them; ``places`` int64 and ``values``
    float64, both ``(S, K, K)``.
    """

    table: Tensor
    waves: Tensor
    own: Tensor
    places: Tensor
    values: Tensor


def products(axes: Sequence[Axis], indices: Tensor) -> Products:
    """Of all pairs of the real functions with multi-indices ``(M, d)``, none of them a polynomial.

    Of waves ``2 cos j cos k = cos(j-k) + cos(j+k)`` and its kin, ``m`` and ``-m`` being one; of
    cosines in a box the same on every axis where both vary, ``2^n`` terms if there are ``n``.
    """
    turning = [i for i, axis in enumerate(axes) if axis.wave]
    pairs, shares = _standing(axes, indices.int())
    if turning:
        pairs = torch.cat([_turned(pairs, indices, turning, s) for s in (-1, 1)])
        shares = torch.cat([shares, shares]) / 2
    sign = orientation(axes, pairs)
    pairs[..., turning] *= sign[..., None]
    table, where = distinct(torch.cat([pairs.flatten(0, 2), indices.to(pairs)]))
    place, own = where[: -len(indices)].view(sign.shape), where[-len(indices) :]
    norm = norms(axes, indices)
    values = norm[:, None] * norm * shares / norms(axes, table)[place]
    waves = table[:, turning].any(1)
    if not turning:
        return Products(table, waves, own, place, values)
    moving = indices[:, turning].any(1)
    sines = len(table) - 1 + waves.cumsum(0)  # of each row's imaginary part; of none, no matter
    odd = torch.where(waves[place], values * sign, 0.0)
    half = len(place) // 2  # the differences come before the sums
    second = torch.where(torch.arange(2 * half) < half, 1.0, -1.0)[:, None, None]
    # rows cos: [cos cos, cos sin = (sin(j+k) - sin(j-k))/2]; rows sin: [sin cos, sin sin]
    all_values = _blocks(values, -second * odd, odd, second * values, moving)
    all_places = _blocks(place, sines[place], sines[place], place, moving)
    return Products(table, waves, torch.cat([own, sines[own[moving]]]), all_places, all_values)


def _standing(axes: Sequence[Axis], indices: Tensor) -> tuple[Tensor, Tensor]:
    """Multi-indices ``(S, M, M, d)`` of the products of the cosines in boxes, and the share of each
    ``(S, M, M)``; zero along the other axes."""
    count = len(indices)
    pairs = indices.new_zeros(1, count, count, len(axes))
    shares = torch.ones(1, count, count, dtype=torch.float64)
    for i, axis in enumerate(axes):
        if axis.wave:
            continue
        k = indices[:, i]
        difference, total = (k[:, None] - k).abs(), k[:, None] + k
        split = difference != total  # where both vary
        less, more = pairs.clone(), pairs
        less[..., i], more[..., i] = difference, total
        shares = torch.where(split, shares / 2, shares)
        pairs = torch.cat([more, less])
        shares = torch.cat([shares, torch.where(split, shares, 0.0)])
        pairs, shares = _packed(pairs, shares)
    return pairs, shares


def _packed(pairs: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Terms without a share behind the others, and left out where no pair has as many."""
    order = (shares == 0).byte().argsort(dim=0, stable=True)
    shares = shares.gather(0, order)
    kept = int((shares != 0).any(-1).any(-1).sum())
    order = order[:kept]
    return pairs.gather(0, order[..., None].expand(*order.shape, pairs.shape[-1])), shares[:kept]


def _turned(pairs: Tensor, indices: Tensor, turning: list[int], sign: int) -> Tensor:
    """``pairs`` with ``j + sign k`` of the waves."""
    waves = indices[:, turning]
    turned = pairs.clone()
    turned[..., turning] = (waves[:, None] + sign * waves).to(turned)
    return turned


def norms(axes: Sequence[Axis], indices: Tensor) -> Tensor:
    """``sqrt2`` for each cosine of a box that varies, and for a wave: the product of bare cosines
    and sines times this is normalised. Of multi-indices ``(M, d)``: ``(M,)``."""
    wave = torch.tensor([axis.wave for axis in axes])
    factors = (indices[:, ~wave] != 0).sum(1) + indices[:, wave].any(1)
    return math.sqrt(2) ** factors.double()


def _blocks(a: Tensor, b: Tensor, c: Tensor, d: Tensor, moving: Tensor) -> Tensor:
    """``[[a, b], [c, d]]`` of ``(S, M, M)`` each, with the imaginary parts that there are."""
    return torch.cat(
        [
            torch.cat([a, b[:, :, moving]], 2),
            torch.cat([c, d[:, :, moving]], 2)[:, moving],
        ],
        1,
    )
