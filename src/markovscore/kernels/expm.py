r"""Exponentials of many small matrices, each scaled by a power of two of its own.

For a user's own closed forms: no function of the package takes it, because transitions need the
covariance too, whose block matrix holds ``e^{-Fh}``: at eigenvalues -0.1 and -20 and ``h = 5`` no
digit of it was left, where the doublings of ``core.linear`` lose two.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..core import check_finite, multiplier, recorded, remembered
from .constants import THETA
from .dispatch import FLOATS, unsupported, use_triton

# The kernel holds a matrix in registers; beyond this size it would not fit.
_LARGEST = 16
# The twin can hold more matrices at a time than a thread, and so does with fewer products: degree
# 12 in four and 18 in five, as P + (Q + S) S, S = L R + M. The rows are P, Q, M, L, R in terms of
# I, A, A^2, A^3 (and A^6); Bader, Blanes and Casas 2019, Mathematics 7, 1174, section 3.
_TWIN_DEGREE = {torch.float32: 12, torch.float64: 18}
_TWIN = {
    torch.float32: [
        [9.0198e-16, 0.46932117595418237389, -0.20099424927047284052, -0.04623946134063071740],
        [5.31597895759871264183, 1.19926790417132231573, 0.01179296240992997, 0.01108844528519167],
        [0.18188869982170434744, 0.05502798439925399070, 0.09351590770535415, 0.006107005288980582],
        *2 * [[-2.086132e-13, -0.13181061013830184, -0.02027855540589259, -0.006759518468630864]],
    ],
    torch.float64: [
        [0, 0.3978497494996450778, 1.3678377846041172, 0.4982896225253826694,
         -6.37898194594723280e-4],
        [-10.9676396052962061844, 1.68015813878906206, 0.0571779846478865511,
         -6.9821012248805205e-3, 3.349750170860704706e-5],
        [-0.0904316832390810593, -0.0676404519071381882, 0.0675961301770459655,
         0.0295552570429315521, -1.391802575160606934e-5],
        [0, -0.100365581030144618291, -8.02924648241156933e-3, -8.92138498045729985e-4, 0],
        [0, 0, -0.092336461936711855536, -0.016936493900208175, -1.40086798182036094e-5],
    ],
}  # fmt: skip
# On a CPU: sizes whose products are vector operations over the batch (see core.linear), and the
# numbers in a block of matrices, so that the few arrays of an operation stay in the cache.
_VECTOR, _BLOCK, _FEW = 7, 2**15, 2**13
# Up to so many thetas all matrices are scaled as the largest: two squarings too many cost the small
# ones two bits at most, and masks cost as much time as the squarings.
_SHARED = 4.0


def expm(A: Tensor) -> Tensor:
    r"""``e^A = sum_k A^k / k!`` of every matrix of a batch.

    .. math:: e^A = \big( T_m(2^{-s} A) \big)^{2^s}, \qquad T_m(X) = \sum_{k \le m} X^k / k!,
              \qquad s = \lceil \log_2 (\| A \|_\infty / \theta_m) \rceil \text{ or } 0

    with products only, no linear solve; ``theta_m`` bounds the truncation, as a perturbation of
    ``A``, by rounding (Higham 2005; Bader, Blanes and Casas 2019, Mathematics 7, 1174, tabulate the
    same numbers). ``s`` belongs to the matrix: a large one costs its neighbours no accuracy
    (PyTorch's version lets them share the largest, if that costs two bits at most). The
    error, relative to the norm of ``e^A``, is of the order of ``n`` units of rounding times the
    condition number of the exponential at ``A``, which is at least ``|A|``.

    On a GPU matrices up to ``n = 16`` stay in registers from the first product to the last; larger
    ones, gradients and the CPU take PyTorch. ``torch.linalg.matrix_exp`` splits a batch by norms.

    Args:
        A: ``(B, n, n)``, float32 or float64; a number of dimensions other than 3 is refused.

    Returns:
        ``(B, n, n)``, dtype and device of ``A``; differentiable (in PyTorch).

    Raises:
        TypeError: not a tensor of float32 or float64.
        ValueError: not ``(B, n, n)``; NaN or infinity in ``A``, or an exponential too large for
            the dtype (so counts a norm that is): the first such row is named.
    """
    _check(A)
    n = A.shape[-1]
    if n < 2 or not A.numel():
        result = A.exp()
        return _checked(result, A, None)
    if use_triton("expm", A, limit=_limit(A)):
        from ._triton import expm as kernel

        result, row = kernel.expm(A.contiguous())
        return result if row is None else _checked(result, A, row)
    result = _twin(A)
    # One pass; a sum of finite numbers may overflow, so only the exact look decides.
    return result if math.isfinite(float(result.detach().sum())) else _checked(result, A, None)


def _check(A: Tensor) -> None:
    if not isinstance(A, Tensor) or A.dtype not in FLOATS:
        found = A.dtype if isinstance(A, Tensor) else type(A).__name__
        raise TypeError(f"A: expected a float32 or float64 tensor, found {found}: use A.double()")
    if A.ndim != 3 or A.shape[1] != A.shape[2]:
        raise ValueError(
            f"A: expected shape (B, n, n), found {tuple(A.shape)}: one matrix is A[None], more "
            "batch axes go with A.flatten(0, -3)"
        )


def _limit(A: Tensor) -> str | None:
    if A.shape[-1] > _LARGEST:
        return f"expected matrices of size at most {_LARGEST}, found {A.shape[-1]}"
    return unsupported(A)


def _checked(result: Tensor, A: Tensor, row: int | None) -> Tensor:
    """``result``, or the error that names the first row that is not finite."""
    check_finite(A, "A")
    if row is None:
        bad = ~torch.isfinite(result).flatten(1).all(1)
        if not bool(bad.any()):
            return result
        row = int(bad.int().argmax())
    size = float(A[row].abs().sum(-1).max())
    raise ValueError(
        f"expected exponentials that fit {str(A.dtype).removeprefix('torch.')}, found an overflow "
        f"in row {row}, whose norm is {size:g}: pass the matrix times a shorter time, or subtract "
        "a multiple c of the identity, which takes out the factor e^c"
    )


# The twin


def _twin(A: Tensor) -> Tensor:
    n = A.shape[-1]
    if A.device.type != "cpu":
        return _exponentials(A)
    size = max(1, _BLOCK // (n * n))
    if len(A) <= size:
        return _exponentials(A)
    return torch.cat([_exponentials(block) for block in A.split(size)])


def _exponentials(A: Tensor) -> Tensor:
    """By vector operations with the batch as the last axis, or by ``torch.bmm``."""
    if A.shape[-1] == 2:
        return _two_by_two(A)
    if A.shape[-1] > _VECTOR:
        return _scaled_and_squared(A, 0)
    return _scaled_and_squared(A.permute(1, 2, 0).contiguous(), 2).permute(2, 0, 1).contiguous()


def _two_by_two(A: Tensor) -> Tensor:
    """``e^m (cosh r I + sinh r / r (A - m I))``: ``m`` the mean, ``m +- r`` the eigenvalues.

    ``r^2 = q`` may be negative: then cosine and sine of ``|q|^(1/2)``; at 0, and for derivatives,
    which the root loses there, below 1e-4, the series in ``q``, exact to rounding.
    """
    a, b, c, d = A.flatten(1).T.contiguous()
    mean, p = 0.5 * (a + d), 0.5 * (a - d)
    q = torch.addcmul(p * p, b, c)
    size, real = q.abs(), q > 0
    tiny = size < 1e-4 if recorded(A) else size == 0
    near = bool(tiny.any())
    r = (torch.where(tiny, 1.0, size) if near else size).sqrt()
    growth = 0.5 * torch.expm1(-2 * r)  # e^-r cosh r = 1 + growth, and no overflow
    even = torch.where(real, growth + 1, r.cos())
    odd = torch.where(real, -growth, r.sin()) / r
    scale = mean + torch.where(real, r, 0.0)
    if near:
        even = torch.where(tiny, 1 + q * (0.5 + q * (1 / 24 + q / 720)), even)
        odd = torch.where(tiny, 1 + q * (1 / 6 + q * (1 / 120 + q / 5040)), odd)
        scale = torch.where(tiny, mean, scale)
    scale = scale.exp()
    even, odd = even * scale, odd * scale
    entries = [torch.addcmul(even, odd, p), odd * b, odd * c, torch.addcmul(even, odd, -p)]
    return torch.stack(entries, 1).view_as(A)


def _times(A: Tensor, axis: int) -> Callable[[Tensor], Tensor]:
    return multiplier(A) if axis else lambda X: torch.bmm(A, X)


def _scaled_and_squared(A: Tensor, axis: int) -> Tensor:
    """``e^A``, the batch along ``axis``, 0 or 2."""
    degree = _TWIN_DEGREE[A.dtype]
    size = A.detach().abs().sum(1 if axis else 2).amax(0 if axis else 1) * (1 / THETA[degree])
    largest = float(size.max())
    if not largest > _SHARED:  # or NaN
        squarings = math.ceil(math.log2(largest)) if largest > 1 else 0
        X = _taylor(A * 0.5**squarings if squarings else A, axis)
        for _ in range(squarings):
            X = _times(X, axis)(X)
        return X
    times = size.log2().ceil_().clamp_(min=0).nan_to_num_(0.0, 0.0)
    left = times if axis else times[:, None, None]
    X = _taylor(A * torch.exp2(-left), axis)
    counts = times.int().bincount().tolist()
    for step in range(len(counts) - 1):
        if 8 * sum(counts[step + 1 :]) > len(times) or A.numel() < _FEW:
            X = torch.where(left > step, _times(X, axis)(X), X)
        else:  # few are left: not worth a pass over all
            rows = (times > step).nonzero()[:, 0]
            part = X.index_select(axis, rows)
            X = X.index_copy(axis, rows, _times(part, axis)(part))
    return X


@remembered
def _weights(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """``_TWIN`` as the weights of the powers ``(5, powers)`` and of the identity ``(5, 1, 1)``."""
    table = torch.tensor(_TWIN[dtype], dtype=dtype, device=device)
    return table[:, 1:].contiguous(), table[:, :1, None]


def _taylor(A: Tensor, axis: int) -> Tensor:
    """``P + (Q + S) S`` with ``S = L R + M``: the Taylor polynomial of degree 12 or 18."""
    times = _times(A, axis)
    powers = [A, square := times(A), cube := times(square)]
    weights, constants = _weights(A.dtype, A.device)
    if weights.shape[1] == 4:
        powers.append(_times(cube, axis)(cube))
    blocks = (weights @ torch.stack(powers).flatten(1)).unflatten(1, A.shape)
    first = 1 if axis else 2
    blocks.diagonal(dim1=first, dim2=first + 1).add_(constants)
    P, Q, M, L, R = blocks.unbind()
    S = _times(L, axis)(R) + M
    return _times(Q + S, axis)(S) + P
