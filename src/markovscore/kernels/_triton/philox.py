"""Normals from Philox counters, in registers; see ``markovscore.kernels.philox``.

The polynomials take the place of ``tl.log``, ``tl.cos`` and ``tl.sin``: the library's sine keeps a
table in local memory for arguments that never occur here.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import constants as shared
from . import on_own_device

LOG, SIN, COS = (tl.constexpr(c) for c in (shared.LOG, shared.SIN, shared.COS))
LN2, ROUNDS = tl.constexpr(shared.LN2), tl.constexpr(shared.ROUNDS)
MULTIPLIER_0, MULTIPLIER_1 = (tl.constexpr(m) for m in shared.MULTIPLIERS)
WEYL_0, WEYL_1 = (tl.constexpr(w) for w in shared.WEYL)
# One number a thread and coordinate: the arithmetic hides its own latency from two blocks an SM on.
BLOCK = 128


@triton.jit
def four_normals(seed, row, coordinate, group, stream):
    """The float32 normals of steps ``4 group .. 4 group + 3``, a tuple of four blocks."""
    a, b, c, d = philox(seed, row, coordinate, group, stream)
    z0, z1 = _pair(a, b)
    z2, z3 = _pair(c, d)
    return z0, z1, z2, z3


@triton.jit
def philox(seed, c0, c1, c2, c3):
    """``tl.philox``, but with both words of a product from one instruction, which ``umulhi`` and
    ``mul`` do not become: a tenth fewer instructions a normal."""
    k0, k1 = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    c0, c1 = c0.to(tl.uint32), c1.to(tl.uint32)
    c2, c3 = tl.to_tensor(c2).to(tl.uint32), tl.to_tensor(c3).to(tl.uint32)
    for _ in tl.static_range(ROUNDS):
        first = c0.to(tl.uint64) * MULTIPLIER_0
        second = c2.to(tl.uint64) * MULTIPLIER_1
        c0 = (second >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (first >> 32).to(tl.uint32) ^ c3 ^ k1
        c1, c3 = second.to(tl.uint32), first.to(tl.uint32)
        k0, k1 = k0 + WEYL_0, k1 + WEYL_1
    return c0, c1, c2, c3


@triton.jit
def _pair(a, b):
    radius = tl.sqrt(_minus_log(a.to(tl.float32) * 2.0**-32 + 2.0**-33))
    s = (b << 2).to(tl.int32, bitcast=True).to(tl.float32) * 2.0**-31
    square = s * s
    sine, cosine = s * _polynomial(SIN, 3, square), _polynomial(COS, 3, square)
    # The angle less pi / 4; the factor sqrt(1/2) of the rotation is in the radius.
    near, far = radius * (cosine - sine), radius * (cosine + sine)
    return _signed(near, b), _signed(far, b << 1)


@triton.jit
def _signed(value, word):
    """``value`` with the upper bit of ``word`` as its sign."""
    bits = value.to(tl.uint32, bitcast=True) ^ (word & 0x80000000)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _minus_log(u):
    """``-ln u`` for ``0 < u <= 1``."""
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) & -0x800000
    f = (bits - exponent).to(tl.float32, bitcast=True) - 1.0
    high = exponent.to(tl.float32) * (-LN2 * 2.0**-23)
    return high - (f * f * _polynomial(LOG, 7, f) + f)


@triton.jit
def _polynomial(coefficients: tl.constexpr, DEGREE: tl.constexpr, x):
    value = tl.full(x.shape, coefficients[DEGREE], tl.float32)
    for i in tl.static_range(1, DEGREE + 1):
        value = value * x + coefficients[DEGREE - i]
    return value


@triton.jit
def normals(out, seed, steps, rows, columns, stream, BLOCK: tl.constexpr):
    """``out[step, row, coordinate]``, contiguous; a program has four steps of a block of rows."""
    blocks = tl.cdiv(rows * columns, BLOCK)
    group = tl.program_id(0) // blocks
    lane = (tl.program_id(0) - group * blocks) * BLOCK + tl.arange(0, BLOCK)
    live = lane < rows * columns
    z = four_normals(tl.load(seed), lane // columns, lane % columns, group, stream)
    for i in tl.static_range(4):
        step = 4 * group + i
        tl.store(out + step * rows * columns + lane, z[i], mask=live & (step < steps))


@on_own_device
def fill(seed: Tensor, steps: int, rows: int, columns: int, stream: int) -> Tensor:
    """:func:`markovscore.kernels.philox.philox_normals` on the seed's device."""
    out = torch.empty(steps, rows, columns, dtype=torch.float32, device=seed.device)
    if out.numel():
        grid = (triton.cdiv(rows * columns, BLOCK) * triton.cdiv(steps, 4),)
        normals[grid](out, seed, steps, rows, columns, stream, BLOCK=BLOCK)
    return out
