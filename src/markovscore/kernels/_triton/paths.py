"""Whole Euler-Maruyama integrations in registers; see ``markovscore.kernels.paths``.

A thread owns the ``D`` coordinates that depend on each other: one of an elementwise drift, a whole
row of a mixture or of the swimmer. State, target and the normals of four steps stay in registers,
and so do the parameters of a mixture of a few components (the compiler lifts their loads out of
the loop over the steps); the loop touches no memory. What it costs is arithmetic: Philox, the two
normals of a pair, the drift.
"""

# Tuples of blocks grow in loops that Triton unrolls; mypy would have each keep its length.
# mypy: disable-error-code="assignment, misc"

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..blocks import row_blocks
from ..constants import DIVERGED
from . import bad_rows, on_own_device
from .philox import four_normals

# One thread a lane. With 128, 20,000 lanes already give every one of 132 SMs a program, and the
# registers (at most 255 a thread) allow two or more of them an SM.
BLOCK = 128
# Bytes of a mixture's parameters kept in registers, at most. Beyond, they are read from the cache
# in a loop over the components: unrolled, four in 8-D and eight in the plane spilled in float64.
_IN_REGISTERS = 96
# Components times coordinates up to which four steps are written out one after the other, which
# saves a sixth of the instructions of four components in the plane. In 8-D, where the drift alone
# is long, it made the compiler nine times slower and took a third more registers.
_WRITTEN_OUT = tl.constexpr(8)
_DIVERGED = tl.constexpr(DIVERGED)


@triton.jit
def _component(table, m, y, D: tl.constexpr):
    """Half the score ``b`` of component ``m``, its log2 weight, and half its precision."""
    at = table + m * (D + 3)
    half, squares, b = tl.load(at + D), y[0] * 0, ()
    for j in tl.static_range(D):
        offset = tl.load(at + j) - y[j]
        squares += offset * offset
        b += (half * offset,)
    return b, tl.load(at + D + 2) - tl.load(at + D + 1) * squares, half


@triton.jit
def _absorb(table, m, y, peak, total, f, D: tl.constexpr):
    """Add component ``m`` to the weighted sum ``f``; weights are relative to the largest so far."""
    b, log, _ = _component(table, m, y, D)
    above = log > peak
    small = tl.exp2(-tl.abs(log - peak))
    keep, weight = tl.where(above, small, 1.0), tl.where(above, 1.0, small)
    new = ()
    for j in tl.static_range(D):
        new += (f[j] * keep + weight * b[j],)
    return tl.where(above, log, peak), total * keep + weight, new


@triton.jit
def _spread(table, m, y, v, f, peak, inverse, product, D: tl.constexpr):
    """Add component ``m`` to the product of the drift's Jacobian with ``v``."""
    b, log, half = _component(table, m, y, D)
    weight, along, new = tl.exp2(log - peak) * inverse, v[0] * 0, ()
    for j in tl.static_range(D):
        along += (b[j] - f[j]) * v[j]
    for j in tl.static_range(D):
        new += (product[j] + weight * (2 * along * (b[j] - f[j]) - half * v[j]),)
    return new


@triton.jit
def _held(y, v, table, D: tl.constexpr, M: tl.constexpr, SHIFT: tl.constexpr):
    """Drift and the Jacobian's product of ``M`` components that all fit into registers."""
    zero, parts = y[0] * 0, ()
    peak, total, mean, f, product = zero - float("inf"), zero, zero, (), ()
    for m in tl.static_range(M):
        parts += (_component(table, m, y, D),)
        peak = tl.maximum(peak, parts[m][1])
    weights = ()
    for m in tl.static_range(M):
        weights += (tl.exp2(parts[m][1] - peak),)
        total += weights[m]
        mean += weights[m] * parts[m][2]
    for j in tl.static_range(D):
        pull = zero
        for m in tl.static_range(M):
            pull += weights[m] * parts[m][0][j]
        f += (pull / total,)
    if SHIFT:
        along = ()
        for m in tl.static_range(M):
            inner = zero
            for j in tl.static_range(D):
                inner += (parts[m][0][j] - f[j]) * v[j]
            along += (2 * weights[m] * inner,)
        for j in tl.static_range(D):
            spread = -mean * v[j]
            for m in tl.static_range(M):
                spread += along[m] * (parts[m][0][j] - f[j])
            product += (spread / total,)
    return f, product


@triton.jit
def _looped(y, v, table, components, D: tl.constexpr, SHIFT: tl.constexpr):
    """The same of any number of components, in two loops over them."""
    product = ()
    for j in tl.static_range(D):
        product += (y[j] * 0,)
    peak, total, f = product[0] - float("inf"), product[0], product
    for m in range(components):
        peak, total, f = _absorb(table, m, y, peak, total, f, D)
    drift = ()
    for j in tl.static_range(D):
        drift += (f[j] / total,)
    if SHIFT:
        inverse = 1.0 / total
        for m in range(components):
            product = _spread(table, m, y, v, drift, peak, inverse, product, D)
    return drift, product


@triton.jit
def _double_well(y, v):
    square = y[0] * y[0]
    return (y[0] - square * y[0],), ((1.0 - 3.0 * square) * v[0],)


@triton.jit
def _logistic(y, v, table):
    half = tl.load(table + 1)
    tanh = 1.0 - 2.0 / (1.0 + tl.exp2(y[0] * tl.load(table)))
    return (-half * tanh,), (half * half * (tanh * tanh - 1.0) * v[0],)


@triton.jit
def _shift(i, rest):
    """The two paths of the swimmer's shift at node ``i``, less the factor ``rest h`` of one."""
    rho = tl.maximum(i - 1, 0).to(rest.dtype) / rest
    return rho * rho * (rho - 1.0), rho * rho * (3.0 - 2.0 * rho)


@triton.jit
def _swim(y, carry, z, i, n, h, root, table, SHIFT: tl.constexpr):
    x, v = y
    gamma = tl.load(table)
    x, v = x + h * (v - x * x * x), v - h * gamma * v + root * z
    if SHIFT:
        sum_v, sum_x, u_v, u_x = carry
        rest, last = (n - 1).to(x.dtype), i + 1 == n
        b, a = _shift(i + 1, rest)
        b_next, a_next = _shift(i + 2, rest)
        slope = 3.0 * x * x
        w_v = tl.where(last, 1.0, rest * (b_next - b)) + rest * b * h * slope
        w_x = tl.where(last, 0.0, (a_next - a) / h) + a * slope
        sum_v += (w_v - u_v + h * gamma * u_v) * z
        sum_x += (w_x - u_x + h * gamma * u_x) * z
        carry = (sum_v, sum_x, w_v, w_x)
    return (x, v), carry


@triton.jit
def _advance(
    y, carry, z, i, n, h, root, table, components,
    KIND: tl.constexpr, D: tl.constexpr, M: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """Step ``i`` of ``n``; ``carry`` is what the target needs."""
    if KIND == "swimmer":
        y, carry = _swim(y, carry, z[0], i, n, h, root, table, SHIFT)
    else:
        if KIND == "double_well":
            f, product = _double_well(y, z)
        elif KIND == "logistic":
            f, product = _logistic(y, z, table)
        elif M > 0:
            f, product = _held(y, z, table, D, M, SHIFT)
        else:
            f, product = _looped(y, z, table, components, D, SHIFT)
        moved, sums, share = (), (), h * i
        for j in tl.static_range(D):
            moved += (y[j] + h * f[j] + root * z[j],)
            if SHIFT:
                sums += (carry[j] + z[j] - share * product[j],)
        y = moved
        if SHIFT:
            carry = sums
    return y, carry


@triton.jit
def _draw(seed, row, column, group, stream, COLUMNS: tl.constexpr):
    """Normals of four steps, four blocks for each noise coordinate."""
    drawn = ()
    for j in tl.static_range(COLUMNS):
        drawn += (four_normals(seed, row, column + j, group, stream),)
    return drawn


@triton.jit
def _pick(drawn, k, h, COLUMNS: tl.constexpr):
    """Those of step ``k`` of the four, with the dtype of ``h``."""
    z = ()
    for j in tl.static_range(COLUMNS):
        early = tl.where(k == 0, drawn[j][0], drawn[j][1])
        late = tl.where(k == 2, drawn[j][2], drawn[j][3])
        z += (tl.where(k < 2, early, late).to(h.dtype),)
    return z


@triton.jit
def _phase(
    y, carry, seed, row, column, n, stream, h, root, table, components,
    KIND: tl.constexpr, D: tl.constexpr, M: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """``n`` steps, four to a draw; a large drift is written out once, a small one four times."""
    COLUMNS: tl.constexpr = 1 if KIND == "swimmer" else D
    whole = n // 4 if M > 0 and D * M <= _WRITTEN_OUT else 0
    for group in range(whole):
        drawn = _draw(seed, row, column, group, stream, COLUMNS)
        for k in tl.static_range(4):
            z = ()
            for j in tl.static_range(COLUMNS):
                z += (drawn[j][k].to(h.dtype),)
            y, carry = _advance(
                y, carry, z, 4 * group + k, n, h, root, table, components, KIND, D, M, SHIFT
            )
    for group in range(whole, tl.cdiv(n, 4)):
        drawn = _draw(seed, row, column, group, stream, COLUMNS)
        for k in range(tl.minimum(4, n - 4 * group)):
            z = _pick(drawn, k, h, COLUMNS)
            y, carry = _advance(
                y, carry, z, 4 * group + k, n, h, root, table, components, KIND, D, M, SHIFT
            )
    return y, carry


@triton.jit
def _finish(out, at, live, lost, y, h, D: tl.constexpr, CUBIC: tl.constexpr):
    """Store ``y``; ``lost`` becomes infinite where it has diverged."""
    for j in tl.static_range(D):
        tame = tl.abs(y[j]) < float("inf")
        if CUBIC and j == 0:
            tame = h * y[j] * y[j] < _DIVERGED
        lost = tl.where(tame, lost, float("inf"))
        tl.store(out + at + j, y[j], mask=live)
    return lost


@triton.jit(
    do_not_specialize=[
        "components",
        "lanes",
        "per_row",
        "first",
        "n_s",
        "stride_s",
        "n_t",
        "stride_t",
    ]
)
def euler(
    start, y_s, y_t, target, cell, table, components, seed, lanes, per_row, first,
    lengths_s, n_s, stride_s, lengths_t, n_t, stride_t,
    KIND: tl.constexpr, D: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Both phases of the paths of ``lanes`` lanes; a phase whose lengths are None is left out."""
    CUBIC: tl.constexpr = KIND == "double_well" or KIND == "swimmer"
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live, at, row = lane < lanes, lane * D, lane // per_row
    column, counter = lane - row * per_row, (row + first).to(tl.uint32)
    key, y, carry = tl.load(seed), (), ()
    for j in tl.static_range(D):
        y += (tl.load(start + at + j, mask=live, other=0.0),)
    for _ in tl.static_range(4 if KIND == "swimmer" else D):
        carry += (y[0] * 0,)
    lost = tl.zeros([BLOCK], tl.float32)
    if lengths_s is not None:
        h = tl.load(lengths_s + row * stride_s, mask=live, other=0.0)
        root = tl.load(lengths_s + row * stride_s + 1, mask=live, other=0.0)
        y, carry = _phase(
            y, carry, key, counter, column, n_s, 0, h, root, table, components, KIND, D, M, False
        )
        lost = _finish(y_s, at, live, lost, y, h, D, CUBIC)
    if lengths_t is not None:
        h = tl.load(lengths_t + row * stride_t, mask=live, other=0.01)
        root = tl.load(lengths_t + row * stride_t + 1, mask=live, other=0.01)
        y, carry = _phase(
            y, carry, key, counter, column, n_t, 1, h, root, table, components, KIND, D, M, True
        )
        lost = _finish(y_t, at, live, lost, y, h, D, CUBIC)
        if KIND == "swimmer":
            along_v, along_x = -carry[0] / root, -carry[1] / root
            carry = (along_x - 3.0 * y[0] * y[0] * along_v, along_v)
        else:
            sums = ()
            for j in tl.static_range(D):
                sums += (-carry[j] / (root * n_t),)
            carry = sums
        lost = _finish(target, at, live, lost, carry, h, D, False)
    bad_rows.note(cell, row, tl.where(live, lost, 0.0))


@on_own_device
def run(
    start: Tensor, kind: str, table: Tensor, D: int, before: tuple[int, Tensor] | None,
    window: tuple[int, Tensor] | None, seed: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None, int | None]:  # fmt: skip
    """``y_s``, ``y_t``, the target, and the first row that diverged, if one did.

    ``table`` and ``lengths`` ``(1 or B, 2)`` have the dtype of ``start``, and all are contiguous.
    """
    rows, d = start.shape
    y_s = start if before is None else torch.empty_like(start)
    y_t, target = (y_s, None) if window is None else (torch.empty_like(start) for _ in range(2))
    n_s, lengths_s = before or (0, None)
    n_t, lengths_t = window or (0, None)
    held = len(table) if table.numel() * table.element_size() <= _IN_REGISTERS else 0
    for low, high in row_blocks(rows, d):
        part = slice(low, high)
        lanes, cell = (high - low) * d // D, bad_rows.new_cell(start.device)
        (part_s, stride_s), (part_t, stride_t) = (_part(v, part) for v in (lengths_s, lengths_t))
        euler[(triton.cdiv(lanes, BLOCK),)](
            start[part], y_s[part], y_t[part], y_t if target is None else target[part],
            cell, table, len(table), seed, lanes, d // D, low,
            part_s, n_s, stride_s, part_t, n_t, stride_t,
            KIND=kind, D=D, M=held, BLOCK=BLOCK,
        )  # fmt: skip
        bad = bad_rows.first(cell)
        if bad is not None:
            return y_s, y_t, target, low + bad
    return y_s, y_t, target, None


def _part(lengths: Tensor | None, rows: slice) -> tuple[Tensor | None, int]:
    """The rows' lengths, and the stride from one row to the next: 0 where all share one."""
    if lengths is None or len(lengths) == 1:
        return lengths, 0
    return lengths[rows], lengths.shape[1]
