"""Sums of Hermite polynomials: numpy's in extended precision, the twin, what is refused."""

import math

import numpy as np
import pytest
import torch
from odd_inputs import refused
from statistical import F64, equal, rng

from markovscore.kernels import hermite_moments, triton_source
from markovscore.spectral import AdditiveMoments

from .compiled import resources

EPS = torch.finfo(F64).eps
# Whole rows and a rest, one and several programs in each direction, one value, more columns than
# a program has.
CASES = [
    (1000, 3, 4, torch.float32),
    (333, 130, 10, torch.float32),
    (70, 129, 16, torch.float32),
    (41, 50, 18, F64),
    (1, 1, 7, torch.float32),
    (77, 7, 1, F64),
    (9, 2, 0, torch.float32),
]


def problem(n, d, dtype=torch.float32, device="cpu"):
    g = rng()
    centre = torch.randn(d, generator=g, dtype=F64)
    scale = 0.5 + torch.rand(d, generator=g, dtype=F64)
    x = centre + scale * torch.randn(n, d, generator=g, dtype=F64)
    return x.to(device, dtype), centre.to(device), scale.to(device)


def oracle(x, degree, centre, scale):
    """Sums in extended precision, and what a double precision sum of the terms may be off by.

    A sum of ``B`` terms, each of at most ``3 n`` rounded factors, errs by at most
    ``(B + 3 n + 3) eps`` times the terms without their signs; ``u`` by two roundings of ``x / s``
    and ``c / s`` each, which the slope carries over.
    """
    long = [tensor.numpy().astype(np.longdouble) for tensor in (x, centre, scale)]
    u = (long[0] - long[1]) / long[2]
    shift = 2 * (np.abs(long[0]) + np.abs(long[1])) / long[2]
    sums, bounds = [], []
    for n in range(degree + 1):
        norm = math.sqrt(math.factorial(n))
        coefficients = np.polynomial.hermite_e.herme2poly([0] * n + [1]) / norm
        value = np.polynomial.hermite_e.hermeval(u, [np.longdouble(0)] * n + [1 / norm])
        terms = np.polyval(np.abs(coefficients)[::-1], np.abs(u))
        slope = np.polyval(np.polyder(np.abs(coefficients)[::-1]), np.abs(u)) * shift
        sums.append(np.broadcast_to(value, u.shape).sum(0))
        bounds.append(EPS * (len(x) + 3 * n + 3) * terms.sum(0) + EPS * slope.sum(0))
    return tuple(torch.from_numpy(np.stack(a).astype(np.float64)) for a in (sums, bounds))


def check(found, x, degree, centre, scale):
    sums, bounds = oracle(x, degree, centre, scale)
    found, low, high = (part.cpu() for part in found)
    assert found.dtype == F64 and low.dtype == high.dtype == x.dtype
    assert float(((found - sums).abs() / bounds).max()) < 1
    assert torch.equal(low, x.amin(0)) and torch.equal(high, x.amax(0))


@pytest.mark.parametrize(("n", "d", "degree", "dtype"), CASES)
def test_sums_and_range(device, sides, n, d, degree, dtype):
    x, *law = problem(n, d, dtype)
    for call in sides(hermite_moments):
        check(call(x.to(device), degree, *(v.to(device) for v in law)), x, degree, *law)


def test_no_rows(device, sides):
    x, centre, scale = problem(0, 3, device=device)
    for call in sides(hermite_moments):
        sums, low, high = call(x, 4, centre, scale)
        assert torch.equal(sums, torch.zeros_like(sums)) and sums.shape == (5, 3)
        assert bool((low == math.inf).all()) and bool((high == -math.inf).all())


def test_every_number_is_written_and_the_same_again(device, unwritten):
    x, centre, scale = problem(150, 130, device=device)
    first = hermite_moments(x, 5, centre, scale)
    unwritten()
    assert equal(first, hermite_moments(x, 5, centre, scale))


def test_rows_that_are_not_contiguous(device):
    x, centre, scale = problem(60, 5, device=device)
    wide = torch.full((60, 11), math.nan, device=device)
    wide[:, 1::2] = x
    for apart in (wide[:, 1::2], x.T.contiguous().T):
        assert not apart.is_contiguous()
        found = (hermite_moments(one, 3, centre, scale) for one in (x, apart))
        assert equal(*found)


def test_more_numbers_than_a_launch_takes(device, monkeypatch):
    x, *law = problem(103, 5)
    monkeypatch.setattr("markovscore.kernels.blocks.MAX_ELEMENTS", 150)
    check(hermite_moments(x.to(device), 6, *(v.to(device) for v in law)), x, 6, *law)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("row", [0, 130, 290, 299])
def test_a_number_that_is_not_finite_is_named(device, in_torch, bad, row):
    """In the first program, in a later one, and in the rest, which is no whole row of 126."""
    x, centre, scale = problem(300, 3, device=device)
    x[row:, 1] = bad
    message = f"x: expected finite .* in {300 - row} of 300 rows, the first is row {row} "
    with np.errstate(invalid="ignore"):
        refused(message, hermite_moments, x, 4, centre, scale)
    refused(message, in_torch, hermite_moments, x, 0, centre, scale)


def test_a_scale_of_zero_is_named(device):
    x, centre, scale = problem(20, 3, device=device)
    scale[1] = 0
    with np.errstate(all="ignore"):
        refused(r"1 / scale of column.*row 1 = \[.*inf\]", hermite_moments, x, 4, centre, scale)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3)}, r"x: expected shape \(B, d\), found \(3,\)"),
        ({"degree": 19}, "degree: expected an integer from 0 to 18, found 19"),
        ({"degree": 2.5}, "found 2.5"),
        ({"centre": torch.zeros(2)}, r"centre: expected shape \(3,\), found \(2,\)"),
        ({"scale": torch.ones(3, 1)}, r"scale: expected shape \(3,\), found \(3, 1\)"),
    ],
)
def test_bad_arguments(change, message):
    good = {"x": torch.zeros(4, 3), "degree": 2, "centre": torch.zeros(3), "scale": torch.ones(3)}
    refused(message, hermite_moments, **good | change)


def test_types_without_a_kernel(device, in_torch):
    x, *law = problem(30, 3, device=device)
    x = x.half()
    refused("expected floating point", hermite_moments, x.int(), 2, *law, error=TypeError)
    refused("expected float32 or float64, found float16", hermite_moments, x, 2, *law)
    sums = in_torch(hermite_moments, x, 2, *law)[0]
    torch.testing.assert_close(sums, hermite_moments(x.float(), 2, *law)[0])


def test_batches_stream_and_merge_into_the_same_moments(device, in_torch):
    x, _, _ = problem(500, 6)
    x[:, 0] = (x[:, 0] > 0).float()  # two values: the moments must be those of points
    first, second = (AdditiveMoments.empty(9, x[:100].to(device)) for _ in range(2))
    first.update(x[:300].to(device))
    second.update(x[300:].to(device))
    first.merge(second)
    whole = AdditiveMoments.empty(9, x[:100].to(device))
    in_torch(whole.update, x.to(device))
    sums, bounds = oracle(x, 16, whole.centre.cpu(), whole.scale.cpu())
    assert float(((first.sums.cpu() - sums).abs() / bounds).max()) < 1
    assert torch.equal(first.low, whole.low) and torch.equal(first.high, whole.high)
    assert first.n_points == whole.n_points == 500


@pytest.mark.parametrize(("dtype", "arch"), [("fp32", 90), ("fp64", 80)])
def test_compiled(device, dtype, arch):
    """102 registers a thread let five programs of 128 threads onto a multiprocessor."""
    kernel = triton_source("hermite_moments")
    numbers = ("rows", "rest", "width", "columns", "chunk", "first_program", "n_programs")
    signature = dict.fromkeys(("x", "lows", "highs"), f"*{dtype}") | dict.fromkeys(numbers, "i32")
    signature |= dict.fromkeys(("centre", "scale", "table", "sums"), "*fp64") | {"cell": "*i32"}
    constants = {"UNROLL": kernel.UNROLL, "STAGES": kernel.STAGES, "BLOCK": kernel.BLOCK}
    constants |= {"DEGREE": 18}
    used = resources("hermite_moments", "partial_sums", signature, constants, kernel.WARPS, arch)
    assert used["stack"] == 0 and used["reg"] <= 102
    assert "cp.async" in used["ptx"]  # rows under way while others are worked on
