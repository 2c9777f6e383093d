"""Small matrices in registers: a tuple of tensors, one for each entry that a thread holds.

``SPLIT`` threads share a matrix of ``N`` rows, each has ``ROWS = ceil(N / SPLIT)`` rows whole, the
last ones perhaps beyond the matrix: those hold zeros and are never asked for. Entry ``(i, j)`` of a
thread's rows is ``x[i * COLS + j]``, a tensor ``(BLOCK, LANES)`` over the matrices of a program.
Products are then fused multiply-adds of registers; with ``SPLIT > 1`` the rows of the right factor
come from the other threads by warp shuffles, without shared memory or a barrier.

``LANES`` is ``SPLIT``, or 2 for ``SPLIT = 1``, where a lane is a matrix: :func:`pinned` needs two.
"""

# Triton knows neither stars in a tuple nor code after a branch that returned.
# mypy: disable-error-code="assignment, var-annotated"
# ruff: noqa: RUF005, RET505

import triton
import triton.language as tl


def layout(n: int, split: int, threads: int) -> dict[str, int]:
    """The constants of a kernel on ``n x n`` matrices whose programs have ``threads`` threads."""
    lanes = max(split, 2)
    return {"N": n, "ROWS": -(-n // split), "SPLIT": split, "BLOCK": threads // lanes}


@triton.jit
def matrix_index(BLOCK: tl.constexpr, SPLIT: tl.constexpr):
    """Number of the matrix that each lane works on, ``(BLOCK, LANES)``."""
    block = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if SPLIT == 1:
        return block[:, None] * 2 + tl.arange(0, 2)[None, :]
    else:
        return block[:, None] + tl.zeros([1, SPLIT], tl.int32)


@triton.jit
def row_index(i: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr):
    """Row of the matrix that a thread's row ``i`` is, ``(BLOCK, LANES)``."""
    if SPLIT == 1:
        return tl.full([BLOCK, 2], i, tl.int32)
    else:
        return tl.zeros([BLOCK, 1], tl.int32) + (tl.arange(0, SPLIT) * ROWS + i)[None, :]


@triton.jit
def _offsets(
    rows, STEP: tl.constexpr, N: tl.constexpr, COLS: tl.constexpr, ROWS: tl.constexpr,
    SPLIT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Where a tile ``(BLOCK, LANES, WIDTH)`` of whole rows lies, and which of it exists."""
    LANES: tl.constexpr = 2 if SPLIT == 1 else SPLIT
    LANE: tl.constexpr = STEP if SPLIT == 1 else ROWS * COLS
    block = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None, None]
    lane, entry = tl.arange(0, LANES)[None, :, None], tl.arange(0, WIDTH)[None, None, :]
    if SPLIT == 1:
        exists = (block * 2 + lane < rows) & (entry < N * COLS)
        return block * (2 * STEP) + lane * LANE + entry, exists
    else:
        exists = (block < rows) & (entry < ROWS * COLS) & (lane * LANE + entry < N * COLS)
        return block * STEP + lane * LANE + entry, exists


@triton.jit
def _unpack(x, WIDTH: tl.constexpr):
    if WIDTH == 1:
        return (tl.reshape(x, [x.shape[0], x.shape[1]]),)
    else:
        halves = tl.reshape(x, [x.shape[0], x.shape[1], 2, WIDTH // 2])
        low, high = tl.split(tl.permute(halves, [0, 1, 3, 2]))
        return _unpack(low, WIDTH // 2) + _unpack(high, WIDTH // 2)


@triton.jit
def _pack(x, WIDTH: tl.constexpr):
    if WIDTH == 1:
        return tl.reshape(x[0], [x[0].shape[0], x[0].shape[1], 1])
    else:
        low, high = _pack(x[: WIDTH // 2], WIDTH // 2), _pack(x[WIDTH // 2 :], WIDTH // 2)
        halves = tl.permute(tl.join(low, high), [0, 1, 3, 2])
        return tl.reshape(halves, [low.shape[0], low.shape[1], WIDTH])


@triton.jit
def pinned(x):
    """``x``, through a shuffle of each thread with itself.

    The compiler keeps the layout of a shuffle's result. Without one it spreads the entries of a
    tile that is about to be stored over the threads, with a barrier for each of them.
    """
    out = ()
    for i in tl.static_range(len(x)):
        own = tl.broadcast_to(tl.arange(0, x[i].shape[1])[None, :], x[i].shape)
        out = out + (tl.gather(x[i], own, 1),)
    return out


@triton.jit
def read(
    pointer, rows, STEP: tl.constexpr, N: tl.constexpr, COLS: tl.constexpr, ROWS: tl.constexpr,
    SPLIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The matrices ``(N, COLS)`` of a program, ``STEP`` elements apart (0: all the same one)."""
    WIDTH: tl.constexpr = triton.next_power_of_2(ROWS * COLS)
    offsets, exists = _offsets(rows, STEP, N, COLS, ROWS, SPLIT, WIDTH, BLOCK)
    tile = tl.load(pointer + offsets, mask=exists, other=0.0)
    return _unpack(tile, WIDTH)[: ROWS * COLS]


@triton.jit
def write(
    pointer, x, rows, N: tl.constexpr, COLS: tl.constexpr, ROWS: tl.constexpr,
    SPLIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The matrices ``(N, COLS)`` of a program to contiguous memory."""
    WIDTH: tl.constexpr = triton.next_power_of_2(ROWS * COLS)
    offsets, exists = _offsets(rows, N * COLS, N, COLS, ROWS, SPLIT, WIDTH, BLOCK)
    entries = pinned(x)
    for _ in tl.static_range(WIDTH - ROWS * COLS):
        entries = entries + (entries[0],)
    tl.store(pointer + offsets, _pack(entries, WIDTH).to(pointer.dtype.element_ty), mask=exists)


@triton.jit
def taken(x, owner: tl.constexpr, SPLIT: tl.constexpr):
    """The entry ``x`` of the thread ``owner`` of each matrix, in all its threads."""
    if SPLIT == 1:
        return x
    else:
        return tl.gather(x, tl.full(x.shape, owner, tl.int32), 1)


@triton.jit
def product(
    x, y, N: tl.constexpr, COLS: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr
):  # fmt: skip
    """``X Y`` for ``X`` ``(N, N)`` and ``Y`` ``(N, COLS)``."""
    out = ()
    for k in tl.static_range(N):
        row, before = (), out
        out = ()
        for j in tl.static_range(COLS):
            row = row + (taken(y[(k % ROWS) * COLS + j], k // ROWS, SPLIT),)
        for i in tl.static_range(ROWS):
            for j in tl.static_range(COLS):
                term = x[i * N + k] * row[j]
                out = out + (term if k == 0 else before[i * COLS + j] + term,)
    return out


@triton.jit
def transposed(x, N: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr):
    """``X^T``."""
    out = ()
    for i in tl.static_range(ROWS):
        for j in tl.static_range(N):
            if SPLIT == 1:
                out = out + (x[j * N + i],)
            else:
                # Row i of thread s is row s ROWS + i: it wants that column of row j.
                total = taken(x[(j % ROWS) * N + i], j // ROWS, SPLIT)
                lane = tl.zeros(total.shape, tl.int32) + tl.arange(0, SPLIT)[None, :]
                for s in tl.static_range(1, SPLIT):
                    if s * ROWS + i < N:
                        other = taken(x[(j % ROWS) * N + s * ROWS + i], j // ROWS, SPLIT)
                        total = tl.where(lane == s, other, total)
                    else:
                        total = tl.where(lane == s, 0.0, total)
                out = out + (total,)
    return out


@triton.jit
def scaled(x, factor):
    """``factor X``."""
    out = ()
    for i in tl.static_range(len(x)):
        out = out + (x[i] * factor,)
    return out


@triton.jit
def added(x, y):
    """``X + Y``."""
    out = ()
    for i in tl.static_range(len(x)):
        out = out + (x[i] + y[i],)
    return out


@triton.jit
def chosen(mask, x, y):
    """``X`` in the matrices where ``mask`` holds, else ``Y``."""
    out = ()
    for i in tl.static_range(len(x)):
        out = out + (tl.where(mask, x[i], y[i]),)
    return out


@triton.jit
def plus_identity(
    x, factor, N: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """``X + factor I``."""
    out = ()
    for i in tl.static_range(ROWS):
        for j in tl.static_range(N):
            if SPLIT == 1:
                out = out + ((x[i * N + j] + factor) if i == j else x[i * N + j],)
            else:
                on = row_index(i, BLOCK, ROWS, SPLIT) == j
                out = out + (tl.where(on, x[i * N + j] + factor, x[i * N + j]),)
    return out


@triton.jit
def zero_if_finite(x):
    """0, or NaN in the matrices that hold NaN or infinity."""
    total = x[0] * 0.0
    for i in tl.static_range(1, len(x)):
        total += x[i] * 0.0
    return total


@triton.jit
def norm(x, N: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr):
    """The largest row sum of absolute values, in all threads of a matrix."""
    largest = tl.zeros_like(x[0])
    for i in tl.static_range(ROWS):
        total = tl.abs(x[i * N])
        for j in tl.static_range(1, N):
            total += tl.abs(x[i * N + j])
        largest = tl.maximum(largest, total)
    # By shuffles: a reduction over the lanes would have the layout of everything before it.
    total = taken(largest, 0, SPLIT)
    for s in tl.static_range(1, SPLIT):
        total = tl.maximum(total, taken(largest, s, SPLIT))
    return total


@triton.jit
def halvings(size):
    """The least ``s >= 0`` with ``size <= 2^s``, from the bits; 0 for NaN and infinity."""
    if size.dtype == tl.float64:
        bits = size.to(tl.int64, bitcast=True)
        exponent = ((bits >> 52) - 1023).to(tl.int32)
        above = (bits & 0xFFFFFFFFFFFFF) != 0
    else:
        bits = size.to(tl.int32, bitcast=True)
        exponent = (bits >> 23) - 127
        above = (bits & 0x7FFFFF) != 0
    return tl.where(size < float("inf"), tl.maximum(exponent + above.to(tl.int32), 0), 0)


@triton.jit
def halved(x, times):
    """``X 2^-times``, exact, by two factors that are never subnormal."""
    half = times // 2
    return scaled(scaled(x, _inverse_power(half, x[0])), _inverse_power(times - half, x[0]))


@triton.jit
def _inverse_power(exponent, like):
    if like.dtype == tl.float64:
        return ((1023 - exponent.to(tl.int64)) << 52).to(tl.float64, bitcast=True)
    else:
        return ((127 - exponent) << 23).to(tl.float32, bitcast=True)
