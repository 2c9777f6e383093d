"""Batched exponentials of small matrices: scipy one at a time, mpmath, identities, bad input."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from odd_inputs import refused
from statistical import F64, rng

from markovscore.kernels import expm, triton_source

from .compiled import resources

floats = pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)


def matrices(n, count, dtype, size=1.0, seed=0):
    g = rng(seed)
    return (size / n * torch.randn(count, n, n, generator=g, dtype=F64)).to(dtype)


def by_scipy(A):
    return torch.stack([torch.from_numpy(scipy.linalg.expm(a)) for a in A.double().cpu().numpy()])


def by_mpmath(a, digits=40):
    with mpmath.workdps(digits):
        exact = mpmath.expm(mpmath.matrix(a.double().tolist()))
        return torch.tensor(np.array(exact.tolist(), dtype=float))


def errors(found, exact):
    """Frobenius errors relative to the exact norm, in units of rounding."""
    found, exact = found.detach().cpu(), exact.cpu()
    difference = torch.linalg.matrix_norm(found.double() - exact)
    return difference / torch.linalg.matrix_norm(exact) / torch.finfo(found.dtype).eps


def allowed(A):
    """``n`` units for the products, and the least condition number, ``|A|``, for the squarings."""
    return A.shape[-1] * (1 + torch.linalg.matrix_norm(A.double().cpu()))


@floats
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 16])
def test_against_scipy(device, in_torch, sides, n, dtype):
    A = torch.cat([matrices(n, 5, dtype, size) for size in (0, 1e-3, 0.7, 2)])
    large = matrices(n, 2, dtype, 20.0)  # there scipy is itself off by 1e3 units, for n = 2 and 3
    exact = torch.cat([by_scipy(A), *(by_mpmath(a)[None] for a in large)])
    A = torch.cat([A, large]).to(device)
    for call in sides(expm):
        found = call(A)
        assert found.dtype == dtype and found.device == A.device and found.is_contiguous()
        assert (errors(found, exact) <= allowed(A)).all()
    close = in_torch(expm, A[:-2])  # without large ones the twin scales all alike
    assert (errors(close, exact[:-2]) <= 2 + allowed(A[:-2])).all()


@pytest.mark.parametrize("n", [17, 33])
def test_larger_matrices_are_pytorchs(in_torch, n):
    A = matrices(n, 4, F64, 2.0)
    assert (errors(in_torch(expm, A), by_scipy(A)) <= allowed(A)).all()


def nasty():
    """Nilpotent, a rotation by many turns, stiff, a Jordan block, tiny; norms from 1e-12 to 1e3."""
    upper = torch.ones(4, 4, dtype=F64).triu(1)
    turn = torch.zeros(4, 4, dtype=F64)
    turn[0, 1], turn[1, 0], turn[2, 3], turn[3, 2] = 50.0, -50.0, 1.0, -1.0
    stiff = torch.diag(torch.tensor([-1e3, -1.0, -1e-3, 0.0], dtype=F64)) + upper
    return {
        "nilpotent": 100 * upper,
        "rotation": turn,
        "stiff": stiff,
        "jordan": torch.eye(4, dtype=F64) + upper.triu(1) - upper.triu(2),
        "tiny": 1e-12 * (upper + upper.mT),
        "zero": torch.zeros(4, 4, dtype=F64),
        "decay": -30 * torch.eye(4, dtype=F64) + upper,
    }


@floats
def test_nasty_matrices_side_by_side(device, sides, dtype):
    A = torch.stack(list(nasty().values())).to(dtype).to(device)
    exact = torch.stack([by_mpmath(a) for a in A.cpu()])
    for call in sides(expm):
        bad = (errors(call(A), exact) > allowed(A)).nonzero()
        assert len(bad) == 0, [list(nasty())[i] for i in bad[:, 0]]


def test_small_entries_survive_a_large_neighbour(device, sides):
    """Scaling by the largest of the batch would leave 2^-20 of these digits."""
    A = matrices(4, 2, F64, 1e-3).to(device)
    A = torch.cat([A, 600 * torch.ones_like(A[:1]).triu(1) - 600 * torch.eye(4).to(A)])
    exact = torch.stack([by_mpmath(a) for a in A.cpu()])
    for call in sides(expm):
        assert ((call(A)[:2].cpu() - exact[:2]).abs() <= 4 * 2.0**-53 * exact[:2].abs()).all()


@pytest.mark.parametrize("n", [3, 8, 12])
def test_the_inverse_is_that_of_minus_a(device, n):
    A = matrices(n, 9, F64, 4.0).to(device)
    product, growth = expm(A) @ expm(-A), torch.linalg.matrix_norm(A).exp()
    gap = torch.linalg.matrix_norm(product - torch.eye(n).to(A))
    assert (gap <= 4 * n * 2.0**-53 * growth**2).all()


def test_a_row_does_not_depend_on_its_batch(device):
    A = torch.cat([matrices(3, 150, torch.float32), 1e3 * -torch.eye(3)[None]]).to(device)
    together = expm(A)
    assert torch.equal(together, expm(A))
    assert torch.equal(together[137:138], expm(A[137:138]))


def test_blocks_of_rows(device, monkeypatch):
    A = matrices(3, 11, F64).to(device)
    whole = expm(A)
    monkeypatch.setattr("markovscore.kernels.blocks.MAX_ELEMENTS", 4 * 9)
    assert torch.equal(expm(A), whole)
    A[9:] = 1000 * torch.eye(3).to(A)
    refused(r"overflow in row 9, whose norm is 1000", expm, A)


@pytest.mark.parametrize("n", [2, 3, 6, 8])
def test_every_entry_is_written(device, unwritten, n):
    A = matrices(n, 5, torch.float32).to(device)
    exact = expm(A)
    unwritten()
    assert torch.equal(expm(A), exact)


def test_any_strides(device, sides):
    A = matrices(4, 12, F64).to(device)
    for view in (A.mT, A[::3], A.flip(0).permute(0, 2, 1)[1:]):
        for call in sides(expm):
            assert torch.equal(call(view), call(view.contiguous()))


@pytest.mark.parametrize("shape", [(0, 3, 3), (4, 0, 0), (0, 0, 0)])
def test_nothing_to_do(device, shape):
    A = torch.empty(shape, dtype=torch.float32, device=device)
    assert expm(A).shape == shape and expm(A).dtype == torch.float32


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite(device, sides, n, value):
    A = matrices(n, 7, F64).to(device)
    A[4, n - 1, 0] = value
    for call in sides(expm):
        refused(r"A: expected finite numbers.*1 of 7 rows.*row 4 ", call, A)


@pytest.mark.parametrize("n", [1, 2, 4, 9])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 90.0), (F64, 800.0)])
def test_an_exponential_that_overflows(device, sides, n, dtype, size):
    A = matrices(n, 7, dtype).to(device)
    A[5], A[6] = size * torch.eye(n).to(A), 1.01 * size * torch.eye(n).to(A)
    for call in sides(expm):
        refused(r"overflow in row 5, whose norm is [89]00?: ", call, A)
        A[5:] *= -1
        assert (call(A)[5:].abs() < 1e-38).all()
        A[5:] *= -1


def test_malformed_input(device):
    half = torch.zeros(2, 3, 3, dtype=torch.float16)
    refused("float32 or float64 tensor, found torch.float16", expm, half, error=TypeError)
    refused("found ndarray", expm, np.zeros((2, 3, 3)), error=TypeError)
    for shape in ((3, 3), (2, 3, 4), (2, 2, 3, 3)):
        refused(r"expected shape \(B, n, n\), found", expm, torch.zeros(shape))
    refused(r"size at most 16, found 17.*set it to torch", expm, torch.zeros(1, 17, 17).to(device))
    refused("expected no gradients", expm, torch.zeros(1, 2, 2, requires_grad=True).to(device))


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_derivatives(n):
    """The directional one by exp of [[A, E], [0, A]], whose corner it is (Van Loan 1978)."""
    A = torch.cat([matrices(n, 2, F64, size) for size in (0.0, 1.0, 8.0)])
    if n > 1:  # a Jordan block but for 1e-8: eigenvalues +-1e-4
        A[1, :2, :2] = torch.tensor([[1.0, 1.0], [-1.0 + 1e-8, -1.0]], dtype=F64)
    A, E = A.requires_grad_(), matrices(n, 6, F64, seed=1)
    W = matrices(n, 6, F64, seed=2)
    (gradient,) = torch.autograd.grad((W * expm(A)).sum(), A)
    block = torch.cat([torch.cat([A, E], 2), torch.cat([torch.zeros_like(A), A], 2)], 1)
    corner = by_scipy(block.detach())[:, :n, n:]
    expected, actual = (W * corner).sum((1, 2)), (gradient * E).sum((1, 2))
    scale = corner.flatten(1).norm(dim=1)
    assert ((actual - expected).abs() <= 1e-13 * n * scale * (1 + 8 * n)).all()
    assert torch.autograd.gradcheck(expm, 0.3 * A.detach()[2:].requires_grad_())


@pytest.mark.parametrize(
    ("n", "dtype", "arch"),
    [(4, torch.float32, 90), (4, F64, 80), (8, torch.float32, 80),
     (8, F64, 90), (16, torch.float32, 90), (16, F64, 90)],
)  # fmt: skip
def test_compiled_for_a_gpu_that_need_not_be_there(device, n, dtype, arch):
    """No spills; and two changes of layout, on the way in and out, so no barrier for each entry."""
    source = triton_source("expm")
    meta = source.constants(n, dtype) | {"PAIRS": source.DEGREE[dtype] // 2}
    kind = "fp32" if dtype == torch.float32 else "fp64"
    types = dict.fromkeys(("source", "target", "coefficients"), "*" + kind)
    made = resources(
        "expm", "expm_kernel", types | {"cell": "*i32", "first": "i32", "rows": "i32"},
        meta, arch=arch, aligned=True,
    )  # fmt: skip
    assert made["stack"] <= 16 and made["local"] == 0
    assert made["reg"] <= 255 and made["ptx"].count("bar.sync") <= 24
