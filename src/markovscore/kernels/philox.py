r"""Normal numbers from counters: the same for the same counters, wherever and in whatever order.

``Philox4x32-10`` (Salmon, Moraes, Dror and Shaw 2011, *Parallel random numbers: as easy as 1, 2,
3*, SC11) maps a counter of four 32-bit words and a key, the 64-bit seed, to four random words. The
counter here is ``(row, coordinate, step // 4, stream)``; its four words ``(a, b, c, d)`` give the
normals of four steps, so every word is used in any dimension:

.. math:: z_0, z_1 = \sqrt{-2 \ln u}\; (\pm \cos\theta, \pm \sin\theta), \qquad
          u = (a + \tfrac12)\, 2^{-32}, \quad \theta \in [0, \tfrac\pi2)

(Box and Muller 1958), with the two signs from the upper two bits of ``b`` and the angle from the
others; ``z_2, z_3`` likewise from ``c, d``. All in float32, also for float64 states. ``u`` is at
least ``2^-33``: no normal is larger than ``sqrt(66 ln 2) = 6.77``, which cuts off ``1.3e-11`` of
the law.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .blocks import MAX_ELEMENTS
from .constants import COS, LN2, LOG, MULTIPLIERS, ROUNDS, SIN, WEYL
from .dispatch import use_triton

_WORD = 0xFFFFFFFF

_HALF_ROOT_BITS = 0x3F3504F3  # of float32(sqrt(1/2))


def philox_normals(
    seed: int | Tensor, steps: int, rows: int, columns: int, *, stream: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:  # fmt: skip
    """Standard normals ``z[step, row, coordinate]`` of the counters, see the module's text.

    Args:
        seed: 64 bits: an int, or a tensor of one int64.
        steps, rows, columns: how many of each, from 0; ``rows`` at most ``2**32``.
        stream: a number below ``2**32``: another one, other normals.
        device: default: the seed's, or the CPU.

    Returns:
        ``(steps, rows, columns)``, float32.

    Raises:
        TypeError, ValueError: a seed that is not one int64; more than ``2**31 - 1`` numbers.
    """
    key = seed_tensor(seed, device)
    if steps * rows * columns > MAX_ELEMENTS:
        raise ValueError(
            f"expected at most {MAX_ELEMENTS} normals, found {steps} x {rows} x "
            f"{columns}: draw them in several streams"
        )
    if use_triton("philox_normals", key):
        from ._triton import philox

        return philox.fill(key, steps, rows, columns, stream)
    groups = [
        four_normals(key, torch.arange(rows, device=key.device), columns, i, stream)
        for i in range((steps + 3) // 4)
    ]
    drawn = torch.cat(groups) if groups else torch.empty(0, rows, columns, device=key.device)
    return drawn[:steps]


def seed_tensor(seed: int | Tensor, device: torch.device | str | None = None) -> Tensor:
    """``seed`` as an int64 tensor ``(1,)`` on ``device``; an int keeps its lower 64 bits.

    Raises:
        TypeError, ValueError: neither an int nor a tensor of one int64.
    """
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.numel() != 1:
            raise ValueError(
                f"seed: expected an int or one int64, found {tuple(seed.shape)} of {seed.dtype}: "
                "draw it with torch.randint(2**63 - 1, ())"
            )
        return seed.reshape(1).to(seed.device if device is None else device)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: expected an int or one int64, found {type(seed).__name__}")
    signed = (seed & (2**64 - 1)) - ((seed & 2**63) << 1)
    return torch.tensor([signed], dtype=torch.int64, device=device)


def four_normals(seed: Tensor, rows: Tensor, columns: int, group: int, stream: int) -> Tensor:
    """The normals of steps ``4 group .. 4 group + 3``, ``(4, B, columns)``; ``rows`` ``(B,)``."""
    coordinates = torch.arange(columns, device=rows.device)
    counter = (rows[:, None], coordinates, _like(rows, group), _like(rows, stream))
    a, b, c, d = philox_words(seed, counter)
    return torch.stack([*box_muller(a, b), *box_muller(c, d)])


def philox_words(seed: Tensor, counter: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of ``counter``: int64 tensors with values in ``[0, 2**32)``, broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _WORD, (seed >> 32) & _WORD
    for _ in range(ROUNDS):
        (high0, low0), (high1, low1) = _product(c0, MULTIPLIERS[0]), _product(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & _WORD, (k1 + WEYL[1]) & _WORD
    return c0, c1, c2, c3


def _product(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """Upper and lower word of ``a b``, in halves: int64 holds no product of two words."""
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    return (high + (low >> 16)) >> 16, (((high & 0xFFFF) << 16) + low) & _WORD


def box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two normals of two words, one operation after the other as the kernel does."""
    a, b = torch.broadcast_tensors(a, b)
    # By way of float64: torch's float32 root is not always the nearest number.
    radius = _minus_log(a.float() * 2.0**-32 + 2.0**-33).double().sqrt().float()
    s = _signed(b << 2).float() * 2.0**-31
    square = s * s
    sine, cosine = s * _polynomial(SIN, square), _polynomial(COS, square)
    # The angle less pi / 4; the factor sqrt(1/2) of the rotation is in the radius.
    near, far = radius * (cosine - sine), radius * (cosine + sine)
    return torch.where(b >> 31 != 0, -near, near), torch.where((b >> 30) & 1 != 0, -far, far)


def _minus_log(u: Tensor) -> Tensor:
    """``-ln u`` for ``0 < u <= 1``, float32."""
    bits = u.view(torch.int32)
    exponent = (bits - _HALF_ROOT_BITS) & -0x800000
    f = (bits - exponent).view(torch.float32) - 1
    high = exponent.float() * (-LN2 * 2.0**-23)
    return high - (f * f * _polynomial(LOG, f) + f)


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * x + c
    return value


def _signed(word: Tensor) -> Tensor:
    """The lower 32 bits as a signed number."""
    return ((word & _WORD) ^ 0x80000000) - 0x80000000


def _like(rows: Tensor, number: int) -> Tensor:
    return torch.tensor(number, device=rows.device)
