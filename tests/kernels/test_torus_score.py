"""Torus score: kernel and twin against sums in float64, and inside the spectral score."""

import functools
import math
import os

import numpy as np
import pytest
import torch
from odd_inputs import refused
from statistical import F64, equal, rng

import markovscore as ms
from markovscore.kernels import MAX_COORDINATE, VARIABLE, torus_score, triton_source

from .compiled import resources

F32 = torch.float32
both_types = pytest.mark.parametrize("dtype", [F32, F64], ids=["f32", "f64"])
both_sides = pytest.mark.parametrize("side", ["kernel", "twin"])


@pytest.fixture
def run(side, device, in_torch):
    """``torus_score`` on one side, tensors moved to the device, results to the CPU."""

    def call(x, waves, *rest, **named):
        rest = [r if r is None else r.to(device) for r in rest]
        named = {key: value.to(device) for key, value in named.items()}
        function = functools.partial(in_torch, torus_score) if side == "twin" else torus_score
        return tuple(part.cpu() for part in function(x.to(device), waves, *rest, **named))

    return call


def kernel_file():
    return triton_source("torus_score")


def draw(n, dim, seed=0, dtype=F64):
    """Points on the torus; the first ones on its edges, corners and axes."""
    x = (2 * torch.rand(n, dim, generator=rng(seed), dtype=F64) - 1) * math.pi
    for row, value in enumerate((0.0, math.pi, -math.pi, math.pi / 2, -math.pi / 4)):
        x[row : row + 1] = value
    return x.to(dtype)


def coefficients(count, rows=None, seed=1):
    shape = (count,) if rows is None else (rows, count)
    return torch.randn(shape, generator=rng(seed), dtype=F64)


def direct(x, waves, c):
    """The sums as they stand, in numpy's float64; ``c`` ``(2 M,)`` or one row for each point."""
    x, k, c = x.double().numpy(), waves.double().numpy(), math.sqrt(2) * c.numpy()
    angle = x @ k.T
    a, b = c[..., : len(k)], c[..., len(k) :]
    gradient = (b * np.cos(angle) - a * np.sin(angle)) @ k
    laplacian = -(a * np.cos(angle) + b * np.sin(angle)) @ (k**2).sum(1)
    return torch.from_numpy(gradient), torch.from_numpy(laplacian)


def check(found, x, waves, c):
    """Within the rounding of ``M`` terms whose waves are off by ``3 |k|_1 eps``.

    One turn costs at most ``sqrt5 / 2`` eps, the first power is off by one eps; the twin's angle
    ``k.x`` is off by ``pi |k|_1 eps``. 20 eps for the sums, in rows of at most a few dozen terms.
    """
    reach, size = waves.abs().sum(1).double(), waves.double().square().sum(1)
    amplitude = math.sqrt(2) * (c[..., : len(waves)].abs() + c[..., len(waves) :].abs())
    room = torch.finfo(x.dtype).eps * (3 * math.pi * reach + 20)
    for got, expected, weight in zip(found, direct(x, waves, c), (size.sqrt(), size), strict=True):
        assert got.dtype == x.dtype and got.shape == expected.shape
        error = (got.double() - expected).abs().reshape(len(x), -1).amax(1)
        assert (error <= (amplitude * weight * room).sum(-1)).all()


# -- values ----------------------------------------------------------------------------------------
@both_sides
@both_types
@pytest.mark.parametrize(("dim", "count"), [(1, 2), (1, 24), (2, 2), (2, 200), (3, 2), (3, 60)])
def test_against_direct_sums(run, dim, count, dtype):
    x, waves = draw(301, dim, dtype=dtype), ms.TorusBrownian(dim).eigenbasis(count).indices
    c = coefficients(count)
    check(run(x, waves, c), x, waves, c)


@both_sides
@both_types
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_scattered_waves(run, dim, dtype):
    """Any set of vectors: gaps, both signs, a wave and its mirror images, zero, repeats."""
    waves = torch.randint(-4, 5, (9, dim), generator=rng(3))
    mirrored = waves[:2] * torch.tensor([1] * (dim - 1) + [-1])
    waves = torch.cat([waves, mirrored, -waves[:2], 0 * waves[:1], waves[3:4]])
    x, c = draw(77, dim, 2, dtype), coefficients(2 * len(waves))
    check(run(x, waves, c), x, waves, c)


@both_sides
@both_types
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_coefficients_of_their_own(run, dim, dtype):
    x, waves = draw(203, dim, dtype=dtype), ms.TorusBrownian(dim).eigenbasis(12).indices
    table = coefficients(12, rows=5)
    generator = rng(4)
    upper = torch.randint(1, 5, (203,), generator=generator)
    share = torch.rand(203, generator=generator, dtype=F64)
    share[:3] = torch.tensor([0.0, 1.0, 0.5])
    own = table[upper - 1] + share[:, None] * (table[upper] - table[upper - 1])
    check(run(x, waves, table, upper=upper, share=share), x, waves, own)


@both_sides
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_derivatives_of_the_function(run, dim):
    """Gradient and trace of the Hessian of ``h``, by autograd."""
    x, waves = draw(9, dim), ms.TorusBrownian(dim).eigenbasis(14).indices
    c = coefficients(14)

    def h(point):
        angle = waves.double() @ point
        return math.sqrt(2) * (c[:7] @ angle.cos() + c[7:] @ angle.sin())

    gradient, laplacian = run(x, waves, c)
    scale = float(c.abs().sum() * (waves**2).sum(1).max())
    assert (gradient - torch.func.vmap(torch.func.grad(h))(x)).abs().max() < 1e-14 * scale
    hessian = torch.func.vmap(torch.func.hessian(h))(x)
    assert (laplacian - hessian.diagonal(dim1=1, dim2=2).sum(1)).abs().max() < 1e-14 * scale


@both_types
@pytest.mark.parametrize("wave", [[30], [30, 0], [0, 30], [-17, 30], [20, -20, 30]])
def test_error_of_high_waves(device, monkeypatch, wave, dtype):
    """One wave alone: ``2 |k|_1 eps`` as the docstring says, at 2,000 points, edges included."""
    if os.environ[VARIABLE] == "interpret":  # which is slow for each program
        monkeypatch.setattr(kernel_file(), "block_size", lambda *_: 2048)
    waves, c = torch.tensor([wave]), torch.tensor([1.0, 0.0], dtype=F64)
    x = draw(2000, len(wave), dtype=dtype)
    laplacian = torus_score(x.to(device), waves, c.to(device))[1].cpu().double()
    error = (laplacian - direct(x, waves, c)[1]).abs().max() / (math.sqrt(2) * (waves**2).sum())
    assert error < 2 * waves.abs().sum() * torch.finfo(dtype).eps


@both_sides
@both_types
@pytest.mark.parametrize("turns", [-1, 3, 1000])
def test_unwrapped_points(run, turns, dtype):
    """What the torus means: the same values a whole number of turns away, up to the angle's
    own rounding (``eps |x|`` before it is passed; the oracle sees the rounded one)."""
    waves, c = ms.TorusBrownian(2).eigenbasis(12).indices, coefficients(12)
    x = (draw(99, 2) + 2 * math.pi * turns).to(dtype)
    room = (1e-13 if dtype == F64 else 1e-5) * (1 + abs(turns))  # the twin's product k.x rounds so
    for got, want in zip(run(x, waves, c), direct(x, waves, c), strict=True):
        assert (got - want).abs().max() < room * want.abs().max()


def test_the_kernel_reduces_far_angles_exactly(device):
    """At a million the twin has lost six digits of ``k.x`` in float32; the kernel none."""
    waves, c = torch.tensor([[1, 0], [3, -2]]), coefficients(4)
    x = (draw(99, 2) * (2.0**20 / math.pi) * 0.999).float()
    check([part.cpu() for part in torus_score(x.to(device), waves, c.to(device))], x, waves, c)


# -- memory, order, sizes --------------------------------------------------------------------------
@pytest.mark.parametrize("n", [1, 127, 128, 129])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_every_element_is_written(device, unwritten, n, dim):
    waves, c = ms.TorusBrownian(dim).eigenbasis(4).indices, coefficients(4)
    x = draw(n, dim).to(device)
    unwritten()
    check([part.cpu() for part in torus_score(x, waves, c.to(device))], x.cpu(), waves, c)


@both_sides
@both_types
def test_no_points(run, dtype):
    waves = ms.TorusBrownian(2).eigenbasis(4).indices
    gradient, laplacian = run(torch.empty(0, 2, dtype=dtype), waves, coefficients(4))
    assert gradient.shape == (0, 2) and laplacian.shape == (0,)
    assert gradient.dtype == laplacian.dtype == dtype


@both_sides
def test_strided_input(run):
    waves, c = ms.TorusBrownian(2).eigenbasis(12).indices, coefficients(12)
    x = draw(101, 2)
    expected = run(x, waves, c)
    spread = torch.full((101, 6), 9.0, dtype=F64)
    spread[:, ::3] = x
    for other in (x.T.contiguous().T, spread[:, ::3]):
        found = run(other, waves.T.contiguous().T, torch.stack([c, c], 1)[:, 0])
        assert equal(found, expected)


@both_sides
def test_strided_places(run):
    waves, table = ms.TorusBrownian(2).eigenbasis(12).indices, coefficients(12, rows=5)
    x, generator = draw(31, 2), rng(4)
    upper = torch.randint(1, 5, (62,), generator=generator)[::2]
    share = torch.rand(62, generator=generator, dtype=F64)[::2]
    expected = run(x, waves, table, upper=upper.clone(), share=share.clone())
    assert equal(run(x, waves, table, upper=upper, share=share), expected)


def test_any_block_and_any_run_give_the_same_bits(device, monkeypatch):
    waves, c = ms.TorusBrownian(2).eigenbasis(20).indices, coefficients(20).to(device)
    x = draw(300, 2).to(device)
    expected = torus_score(x, waves, c)
    for block in (128, 256, 512):
        monkeypatch.setattr(kernel_file(), "block_size", lambda *_, b=block: b)
        assert equal(torus_score(x, waves, c), expected)


def test_block_sizes(device):
    of = kernel_file().block_size
    assert of(10**6, F32, False) == 512 and of(10**6, F64, False) == 256
    assert of(1000, F32, False) == of(1000, F64, False) == of(10**6, F32, True) == 128


def test_more_points_than_a_launch_takes(device, monkeypatch):
    waves, table = ms.TorusBrownian(2).eigenbasis(12).indices, coefficients(12, rows=4)
    x, generator = draw(100, 2).float().to(device), rng(5)
    upper = torch.randint(1, 3, (100,), generator=generator).to(device)
    share = torch.rand(100, generator=generator).to(device)
    expected = torus_score(x, waves, table.to(device), upper, share)
    monkeypatch.setattr("markovscore.kernels.blocks.MAX_ELEMENTS", 61)
    found = torus_score(x, waves, table.to(device), upper, share)
    assert equal(found, expected)
    upper[77], share[77] = 3, 1.0  # the only one that sees the last row of the table
    table[3] *= 1e38 / table[3].abs().max()
    refused("NaN or inf at row 77", torus_score, x, waves, table.to(device), upper, share)


@pytest.mark.parametrize(
    ("kind", "dim", "each", "block", "registers", "arch"),
    [
        ("fp32", 2, False, 512, 128, 90),
        ("fp32", 2, False, 512, 128, 80),
        ("fp32", 3, False, 512, 168, 90),
        ("fp64", 2, False, 256, 128, 90),
        ("fp64", 3, True, 128, 128, 90),
    ],
)
def test_what_the_compiler_makes(kind, dim, each, block, registers, arch):
    """No spills, and registers that leave at least twelve warps to a multiprocessor."""
    signature = dict.fromkeys(["x", "table", "share", "gradient", "laplacian"], f"*{kind}")
    signature |= dict.fromkeys(["offsets", "tops", "bad"], "*i32")
    signature |= dict.fromkeys(["n", "stride", "reach_1", "reach_2"], "i32")
    signature["upper"] = "*i64" if each else "*i32"
    constants = {"DIM": dim, "EACH": each, "BLOCK": block}
    found = resources("torus_score", "kernel", signature, constants, 4, arch)
    assert found["stack"] == 0 and found["reg"] <= registers


# -- errors ----------------------------------------------------------------------------------------
WAVES, C = ms.TorusBrownian(2).eigenbasis(6).indices, coefficients(6)
TWO, FOUR, THREE = torch.stack([C] * 2), torch.stack([C] * 4), draw(3, 2)


def point(value, row=5):
    x = draw(8, 2)
    x[row, 1] = value
    return x


def with_nan(c, *place):
    c = c.clone()
    c[place] = math.nan
    return c


@both_sides
@pytest.mark.parametrize(
    ("x", "rest", "message"),
    [
        (point(math.nan), (C,), r"x: expected finite .* first is row 5"),
        (point(-math.inf), (C,), r"x: expected finite .* first is row 5"),
        (point(1.01 * MAX_COORDINATE), (C,), r"found row 5 = .*TorusBrownian.project"),
        (point(-2e300), (C,), r"found row 5 = .*TorusBrownian.project"),
        (draw(8, 2), (with_nan(C, 4),), "coefficients: expected finite"),
        (draw(8, 2).float(), (C * 4e38,), r"found NaN or inf at row 0 .*pass x.double\(\)"),
        (draw(8, 2), (with_nan(FOUR, 3, 0), torch.tensor([1] * 6 + [3, 1]), torch.ones(8)),
         "coefficients: expected finite .* first is row 3"),
    ],
)  # fmt: skip
def test_what_is_not_finite_is_named(run, x, rest, message):
    refused(message, run, x, WAVES, *rest)


@both_sides
def test_the_limit_itself_is_inside(run):
    assert run(point(MAX_COORDINATE), WAVES, C)[0].isfinite().all()


@both_sides
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((THREE.long(), WAVES, C), TypeError, "floating point, found int64"),
        ((draw(3, 1), WAVES, C), ValueError, r"shape \(B, 2\), found \(3, 1\)"),
        ((THREE, WAVES.double(), C), TypeError, "waves: expected int64"),
        ((THREE, WAVES[:0], C), ValueError, "M >= 1"),
        ((THREE, WAVES, C[1:]), ValueError, r"shape \(6,\), .* found \(5,\)"),
        ((THREE, WAVES, TWO), ValueError, "goes with upper and share"),
        ((THREE, WAVES, TWO, torch.ones(3).long()), ValueError, "found one of them"),
        ((THREE, WAVES, TWO, torch.ones(2).long(), torch.ones(3)), ValueError, r"shape \(3,\)"),
        ((THREE, WAVES, TWO, torch.tensor([1, 2, 1]), torch.ones(3)), ValueError,
         "places 1 to 1 in the table, found 1 to 2"),
    ],
)  # fmt: skip
def test_bad_input(run, arguments, error, message):
    refused(message, run, *arguments, error=error)


def test_outside_the_kernel(device, monkeypatch):
    """Forced, an error that names the limit; else the twin."""
    basis = ms.TorusBrownian(4).eigenbasis(8)
    four = draw(6, 4).to(device), basis.indices, coefficients(8).to(device)
    half = draw(6, 2).to(device).half(), WAVES, C.to(device)
    recorded = draw(6, 2).to(device).requires_grad_(), WAVES, C.to(device)
    wide = draw(6, 2).to(device), torch.tensor([[3000, 2000]]), C[:2].to(device)
    cases = {"at most 3 dim": four, "found float16": half, "gradients": recorded, "grid": wide}
    for message, arguments in cases.items():
        refused(message, torus_score, *arguments)
    monkeypatch.delenv(VARIABLE)
    for arguments in (four, recorded, wide):
        exact = direct(arguments[0].detach().cpu(), arguments[1], arguments[2].cpu())
        for got, want in zip(torus_score(*arguments), exact, strict=True):
            assert (got.cpu() - want).abs().max() < 1e-10 * want.abs().max()


def test_the_twin_has_gradients(in_torch):
    x = draw(4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: in_torch(torus_score, p, WAVES, C), (x,))


# -- inside the spectral score ---------------------------------------------------------------------
def fitted(dim=2, selection="eigenvalue"):
    torus = ms.TorusBrownian(dim)
    x = 0.5 * torch.rand(60, dim, generator=rng(), dtype=F64)
    times = [0.05, 0.2, 1.0, 4.0]
    return torus, x, ms.fit_spectral(x, torus, 12, times, shrinkage="heat", selection=selection)


@both_types
@pytest.mark.parametrize("selection", ["eigenvalue", "greedy"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_spectral_score(device, in_torch, dim, selection, dtype):
    """A time for all points, a time for each, one as a constant vector."""
    _, x, score = fitted(dim, selection)
    x, room = x.to(dtype), 200 * torch.finfo(dtype).eps
    for t in (0.1, torch.full((60,), 0.1), torch.linspace(0.06, 3.0, 60, dtype=F64)):
        expected = in_torch(score.score_and_divergence, x, t)
        on_device = x.to(device)
        found = (*score.score_and_divergence(on_device, t), score(on_device, t))
        for got, want in zip(found, (*expected, expected[0]), strict=True):
            assert got.dtype == dtype and got.is_contiguous()
            assert (got.cpu() - want).abs().max() < room * (1 + want.abs().max())


def test_spectral_score_uses_the_kernel(device, monkeypatch):
    _, x, score = fitted()
    launched, launch = [], kernel_file().launch
    monkeypatch.setattr(kernel_file(), "launch", lambda *a: launched.append(1) or launch(*a))
    score(x.to(device), 0.1)
    score.score_and_divergence(x.to(device), torch.linspace(0.06, 3.0, 60))
    assert len(launched) == 2


def test_spectral_score_refuses_as_before(device):
    _, x, score = fitted()
    bad = x.to(device).clone()
    bad[7, 0] = math.nan
    for call in (score, score.score_and_divergence):
        refused("row 7", call, bad, 0.1)
        refused("fitted range", call, x.to(device), 0.01)
        refused("shape", call, x.to(device), torch.ones(3))


def test_log_likelihood_end_to_end(device, in_torch):
    torus, x, score = fitted()
    expected = in_torch(ms.log_likelihood, score, torus, x[:20], steps=5)
    found = ms.log_likelihood(score, torus, x[:20].to(device), steps=5)
    assert (found.cpu() - expected).abs().max() < 1e-11
