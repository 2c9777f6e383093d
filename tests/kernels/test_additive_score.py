"""Score and divergence of additive OISM: element by element in extended precision, gradients."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from odd_inputs import refused
from statistical import F64, equal, rng

import markovscore as ms
from markovscore.kernels import additive_score, triton_source

from .compiled import resources

FLOATS = [torch.float32, F64]
# Rows, columns, functions, whether every row has its own time. More columns than a program has,
# more rows than one takes at a time, odd sizes, a linear score, the highest order.
CASES = [(5, 3, 4, False), (7, 130, 6, True), (5, 133, 9, False), (300, 5, 2, False)]
CASES += [(9, 1, 1, True)]
each_case = pytest.mark.parametrize(("rows", "columns", "count", "own"), CASES)


def problem(rows, columns, count, own, dtype=F64, seed=0, ends=1.0):
    """Points in and out of reach; all numbers are exact in single precision."""
    g = rng(seed)

    def numbers(*shape):
        return torch.randn(*shape, generator=g).to(dtype)

    times = rows if own else 1
    ou_time, share = (torch.rand(times, generator=g).double() for _ in range(2))
    return SimpleNamespace(
        x=3 * numbers(rows, columns),
        ou_time=0.05 + 0.5 * ou_time,
        upper=torch.randint(1, 6, (times,), generator=g),
        share=share,
        table=numbers(6, count, columns),
        centre=numbers(columns),
        scale=0.5 + numbers(columns).abs(),
        low=-ends * numbers(columns).abs(),
        high=ends * numbers(columns).abs(),
    )


def call(p, device, **changes):
    given = {name: v.to(device) for name, v in vars(p).items()} | changes
    return additive_score(**given)


def polynomials(u, count):
    """``phi_n(u)`` and two derivatives, then the same with all signs positive at ``|u|``."""
    rows = []
    for n in range(count):
        p = np.polynomial.hermite_e.herme2poly([0] * n + [1]).astype(np.longdouble)
        p = p[::-1] / np.sqrt(np.longdouble(math.factorial(n)))
        row = [p, np.polyder(p), np.polyder(p, 2)]
        values = [np.polyval(q, u) if len(q) else 0 * u for q in row]
        rows.append(values + [np.polyval(np.abs(q), abs(u)) if len(q) else 0 * u for q in row])
    return np.array(rows)


def oracle(p):
    """Score, divergence, and how far rounding may move both: ``C eps`` of what enters.

    The reciprocal of ``s_t`` and its square root, ``u``, the recurrence and the sum take at most
    ``C = 8 K + 16`` roundings, each relative to a term without its sign; rounding of ``x``, of the
    ends and of ``a c`` moves ``u``, which the next derivative carries over.
    """
    q = SimpleNamespace(**{n: v.numpy().astype(np.longdouble) for n, v in vars(p).items()})
    (rows, columns), count = q.x.shape, q.table.shape[1]
    score, slopes, bounds = np.zeros_like(q.x), np.zeros_like(q.x), np.zeros((2, rows, columns))
    for b in range(rows):
        k = b if len(p.upper) > 1 else 0
        a, noise = np.exp(-q.ou_time[k]), -np.expm1(-2 * q.ou_time[k])
        level = int(p.upper[k])
        for i in range(columns):
            s = np.sqrt((a * q.scale[i]) ** 2 + noise)
            ends = [a * q.low[i] - 4 * np.sqrt(noise), a * q.high[i] + 4 * np.sqrt(noise)]
            y = min(max(q.x[b, i], ends[0]), ends[1])
            left, right = q.table[level - 1, :, i], q.table[level, :, i]
            g = (1 - q.share[k]) * left + q.share[k] * right
            phi = polynomials((y - a * q.centre[i]) / s, count)
            series = g @ phi
            most = np.maximum(abs(left), abs(right)) @ phi
            score[b, i] = (series[0] - (q.x[b, i] - y) / s) / s
            slopes[b, i] = (series[1] if q.x[b, i] == y else -1) / s**2
            entering = [q.x[b, i], a * q.centre[i], *(e for e in ends if e**2 < np.inf)]
            moved = np.abs(entering).sum() / s
            bounds[0, b, i] = (most[3] + (most[4] + 1) * moved) / s
            bounds[1, b, i] = (most[4] + 1 + most[5] * moved) / s**2
    bounds *= (8 * count + 16) * torch.finfo(p.x.dtype).eps
    total = slopes.sum(1), bounds[1].sum(1) * columns**0.5
    return [torch.from_numpy(v.astype(np.float64)) for v in (score, bounds[0], *total)]


def assert_within(found, expected, bounds):
    assert float(((found.double().cpu() - expected).abs() / bounds).max()) < 1


@pytest.mark.parametrize("dtype", FLOATS)
@each_case
def test_score_and_divergence(device, sides, rows, columns, count, own, dtype):
    p = problem(rows, columns, count, own, dtype, ends=math.inf if count <= 2 else 1.0)
    score, score_bound, total, total_bound = oracle(p)
    for run in sides(call):
        found = run(p, device)
        assert_within(found[0], score, score_bound)
        assert_within(found[1], total, total_bound)
        assert found[0].dtype == found[1].dtype == dtype
    alone, nothing = call(p, device, divergence=False)
    assert nothing is None
    assert_within(alone, score, score_bound)


@pytest.mark.parametrize("own", [False, True])
def test_gradients(device, own):
    p = problem(3, 2, 5, own)
    x = p.x.to(device).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: call(p, device, x=x), x)
    assert torch.autograd.gradcheck(lambda x: call(p, device, x=x, divergence=False)[0], x)
    assert torch.autograd.gradgradcheck(lambda x: call(p, device, x=x), x)


def test_gradients_of_a_divergence_that_does_not_change(device):
    p = problem(3, 2, 2, False)
    x = p.x.to(device).requires_grad_()
    for graph in (False, True):
        gradient = torch.autograd.grad(call(p, device, x=x)[1].sum(), x, create_graph=graph)[0]
        assert torch.equal(gradient, torch.zeros_like(gradient))


def assert_as_good_as(found, twin, exact, dtype):
    """No further from the exact numbers than a few times what the twin is, and rounding."""
    size = torch.finfo(dtype).eps * float(exact.abs().max())
    assert float((found - exact).abs().max()) < 4 * float((twin - exact).abs().max()) + 4 * size


@pytest.mark.parametrize("dtype", FLOATS)
@each_case
def test_gradients_are_the_twins(device, in_torch, rows, columns, count, own, dtype):
    def gradient(p):
        x = p.x.to(device).requires_grad_()
        score, total = call(p, device, x=x)
        weights = torch.randn(score.shape, generator=rng(1)).to(score)
        product = (weights * score).sum() + weights[:, 0] @ total
        return torch.autograd.grad(product, x)[0].cpu().double()

    p = problem(rows, columns, count, own, dtype)
    twin, found = in_torch(gradient, p), gradient(p)
    for name, value in vars(p).items():
        setattr(p, name, value.double() if value.is_floating_point() else value)
    assert_as_good_as(found, twin, in_torch(gradient, p), dtype)


def test_one_level_only(device, in_torch):
    """The level below it, of which it takes nothing, is not in the table: NaN stands there."""
    p = problem(4, 3, 3, False)
    p.table[0] = math.nan
    p.table, p.upper, p.share = p.table[1:2], 0 * p.upper, torch.ones(1).double()
    torch.testing.assert_close(call(p, device), in_torch(call, p, device), rtol=1e-13, atol=1e-13)


def test_no_rows(device, sides):
    p = problem(3, 2, 3, False)
    p.x = p.x[:0]
    for run in sides(call):
        score, total = run(p, device)
        assert score.shape == (0, 2) and total.shape == (0,)


@pytest.mark.parametrize("own", [False, True])
def test_numbers_are_written_and_rows_do_not_depend_on_others(device, monkeypatch, unwritten, own):
    p = problem(9, 140, 3, own, torch.float32)

    def everything(first=0):
        x = p.x[first:].to(device).requires_grad_()
        kept = slice(first if own else 0, None)
        times = {n: getattr(p, n)[kept].to(device) for n in ("ou_time", "upper", "share")}
        score, total = call(p, device, x=x, **times)
        return score, total, torch.autograd.grad((score * score).sum() + total.sum(), x)[0]

    expected = everything()
    unwritten()
    for first in (0, 5):
        assert equal(everything(first), [one[first:] for one in expected])
    monkeypatch.setattr("markovscore.kernels.blocks.MAX_ELEMENTS", 140 * 4 + 3)
    assert equal(everything(), expected)
    wide = torch.empty(9, 280, device=device)
    wide[:, ::2] = p.x
    assert equal(call(p, device, x=wide[:, ::2]), expected[:2])


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("columns", [1, 3072])
def test_a_launch_has_no_more_programs_than_cuda_takes(device, own, columns):
    """The interpreter takes any grid; CUDA at most 65,535 programs in the second direction."""
    launches = triton_source("additive_score").launches
    p, rows = problem(2, columns, 2, own, torch.float32), 17_000_000 // columns
    x = p.x[:1].expand(rows, columns)
    times = [v[:1].expand(rows if own else 1) for v in (p.ou_time, p.upper, p.share)]
    ends = (p.centre, p.scale, p.low, p.high)
    last = 0
    for part, grid, _, numbers, settings in launches(x, *times, p.table, ends):
        assert grid[1] <= 65_535 and numbers[2] % settings["ROWS"] == 0
        assert grid[1] * numbers[2] >= part.stop - part.start and part.start == last
        last = part.stop
    assert last == rows


@pytest.mark.parametrize("divergence", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_named(device, sides, bad, divergence):
    p = problem(12, 131, 3, False, torch.float32)
    p.x[7, 130] = bad
    p.x[9, 2] = bad
    for run in sides(call):
        with np.errstate(invalid="ignore"):
            refused("in 2 of 12 rows, the first is row 7 =", run, p, device, divergence=divergence)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3)}, r"expected x of shape \(B, d\) .* found \(3,\)"),
        ({"x": torch.zeros(4, 2).double()}, "one series for each column of x"),
        ({"upper": torch.ones(2, dtype=torch.int64)}, r"upper: expected shape \(1,\) or \(4,\)"),
        ({"low": torch.zeros(2).double()}, r"low: expected \(3,\), found \(2,\)"),
        ({"scale": torch.ones(3)}, "expected torch.float64 as x, found torch.float32"),
    ],
)
def test_bad_arguments(change, message):
    refused(message, call, problem(4, 3, 3, False), "cpu", **change, error=(ValueError, TypeError))


def test_what_the_kernel_leaves_to_pytorch(device, in_torch):
    p = problem(4, 3, 3, False)
    x = p.x.to(device)

    def total(x):
        return call(p, device, x=x)[1].sum()

    refused(r"found a tensor inside a torch\.func transform", torch.func.grad(total), x)
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(total(leaf), leaf)[0]
    torch.testing.assert_close(in_torch(torch.func.grad(total), x), expected)
    words = "no gradients, found a tensor that requires them"
    refused(words, call, p, device, share=p.share.requires_grad_())
    refused(r"at most 9 functions .* found 10", call, problem(4, 3, 10, False), device)


@pytest.mark.parametrize(("order", "rotation"), [(2, "pca"), (5, None)])
def test_a_fit_is_that_of_the_twins_to_rounding(device, in_torch, order, rotation):
    """Moments, solution, score and divergence, of points of two values among them."""
    g = rng(3)
    x = torch.rand(300, 4, generator=g) ** 2 - 0.3
    x[:, 1] = (x[:, 1] > 0).float()
    y, t = torch.randn(50, 4, generator=g), torch.rand(50, generator=g).clamp(min=0.05)

    def run(points, where):
        process, times = ms.VariancePreserving(4), torch.linspace(0, 1, 11)
        score = ms.fit_additive(points, process, order, times, rotation=rotation)
        found = [score(where, 0.3), *score.score_and_divergence(where, t)]
        return [tensor.double().cpu() for tensor in found]

    exact = in_torch(run, x, y.double())
    twin = in_torch(run, x, y)
    found = run(x.to(device), y.to(device))
    for numbers in zip(found, twin, exact, strict=True):
        assert_as_good_as(*numbers, torch.float32)


@pytest.mark.parametrize(
    ("kernel", "dtype", "shared", "arch"),
    [("score_kernel", "fp32", True, 90), ("gradient_kernel", "fp64", False, 80)],
)
def test_compiled(device, kernel, dtype, shared, arch):
    """At the highest order; 168 registers let twelve one-warp programs onto a multiprocessor."""
    module = triton_source("additive_score")
    outputs = {"score_kernel": ("score", "partial")}
    outputs["gradient_kernel"] = ("by_score", "by_divergence", "gradient")
    names = ("x", "table", "upper", "times", "ends", *outputs[kernel])
    signature = dict.fromkeys(names, f"*{dtype}") | {"upper": "*i32"}
    signature |= dict.fromkeys(("rows", "columns", "chunk", "n_times"), "i32")
    constants = {"COUNT": 9, "SHARED": shared, "DIVERGENCE": True}
    constants["BLOCK"] = module.ROW_BYTES // (4 if dtype == "fp32" else 8)
    constants["ROWS"] = module.ROWS if shared else module.OWN_ROWS
    constants["STAGES"] = module.STAGES if shared else 1
    constants |= {"SCORE": True} if kernel == "gradient_kernel" else {}
    used = resources("additive_score", kernel, signature, constants, module.WARPS, arch)
    assert used["stack"] == 0 and used["reg"] <= 168
    assert dtype == "fp32" or "cvt.f64.f32" not in used["ptx"]  # no constant in single precision
