"""The fused local transition: quadrature of matrix exponentials, its twin, closed forms, errors."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from odd_inputs import refused
from statistical import F64, equal, points, rng

import markovscore as ms
from markovscore.kernels import SingularCovarianceError, local_transition, triton_source

from .compiled import resources

EPS = 2.0**-52


def problem(d, count, noise, slope=True, dtype=F64, seed=0):
    """Rows of norms from 1e-3 to 4 d, so that some are doubled and others are not."""
    g = rng(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=F64)

    size = torch.logspace(-3, 0.6, count, dtype=F64)
    J = size[:, None, None] * draw(count, d, d) / d**0.5
    G = draw(count, d, d) + 2 * torch.eye(d, dtype=F64)
    kinds = {
        "number": G[0, 0, 0].square(),
        "numbers": G[:, 0, 0].square(),
        "matrix": G[0] @ G[0].mT,
        "matrices": G @ G.mT,
    }
    f, f_dot, y, z = (draw(count, d) for _ in range(4))
    h = 0.2 + torch.rand(count, generator=g, dtype=F64)
    parts = [J, kinds[noise], f, f_dot if slope else None, h, y, z]
    return [None if x is None else x.to(dtype) for x in parts]


def to(device, parts):
    return [None if x is None else x.to(device) for x in parts]


def gaps(found, expected):
    """Largest differences of the outputs, each relative to its row's largest number."""
    out = []
    for a, b in zip(found, expected, strict=True):
        a, b = a.cpu().double().flatten(1), b.cpu().double().flatten(1)
        out.append(((a - b).abs().amax(1) / b.abs().amax(1)).max())
    return torch.stack(out)


def by_quadrature(J, Q, f, f_dot, h, y):
    J, f, f_dot, y = (x.double().numpy() for x in (J, f, f_dot, y))
    Q = (Q * torch.eye(len(f), dtype=F64) if Q.ndim == 0 else Q).double().numpy()

    def both(u):
        growth, rest = scipy.linalg.expm(J * u), scipy.linalg.expm(J * (float(h) - u))
        return np.concatenate([growth @ Q @ growth.T, (rest @ (f + u * f_dot))[:, None]], 1)

    total = scipy.integrate.quad_vec(both, 0, float(h), epsabs=0, epsrel=1e-13, norm="max")[0]
    return torch.from_numpy(y + total[:, -1]), torch.from_numpy(total[:, :-1])


@pytest.mark.parametrize(("d", "noise"), [(2, "number"), (3, "matrix"), (5, "matrices")])
def test_moments_by_quadrature(device, d, noise):
    parts = problem(d, 4, noise)
    J, Q, f, f_dot, h, y, z = parts
    found = local_transition(*to(device, parts))
    for i in range(4):
        each = Q if Q.ndim in (0, 2) else Q[i]
        mean, covariance = by_quadrature(J[i], each, f[i], f_dot[i], h[i], y[i])
        torch.testing.assert_close(found.mean[i].cpu(), mean, rtol=1e-11, atol=1e-11)
        scale = covariance.abs().max()
        gap = found.covariance[i].cpu() - covariance
        assert gap.abs().max() <= 1e-11 * scale  # what scipy's exponentials are worth
    C, z = found.factor.cpu(), z[:, :, None]
    exact = torch.linalg.cholesky(found.covariance.cpu())
    assert (C - exact).abs().max() <= 1e-13 * exact.abs().max() * torch.linalg.cond(exact).max()
    assert torch.equal(C, C.tril())
    torch.testing.assert_close(found.sample.cpu(), found.mean.cpu() + (C @ z)[:, :, 0])
    torch.testing.assert_close((C.mT @ found.target.cpu()[:, :, None]), -z, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("d", "noise", "slope"),
    [(1, "matrices", True), (2, "number", False), (3, "numbers", True), (4, "matrix", False),
     (4, "matrices", True), (5, "numbers", True), (7, "matrices", False), (8, "number", True)],
)  # fmt: skip
def test_its_twin(device, in_torch, d, noise, slope):
    """To rounding; sample and target are divided by pivots, and so by the factor's condition."""
    parts = problem(d, 6, noise, slope)
    expected = in_torch(local_transition, *parts)
    found = local_transition(*to(device, parts))
    worst = float(torch.linalg.cond(expected.factor).max())
    bound = torch.tensor([1, 1, worst, worst, worst]) * 64 * d * EPS
    assert (gaps(found, expected) <= bound).all()
    assert torch.equal(found.covariance, found.covariance.mT)


@pytest.mark.parametrize(
    ("d", "noise"), [(2, "number"), (3, "numbers"), (4, "matrix"), (5, "matrices")]
)
def test_moments_alone(device, d, noise):
    parts = to(device, problem(d, 6, noise))
    alone, found = local_transition(*parts[:-1]), local_transition(*parts)
    assert torch.equal(alone.mean, found.mean) and torch.equal(alone.covariance, found.covariance)
    assert alone.factor is alone.sample is alone.target is None


def test_single_precision_in_double_inside(device, in_torch):
    parts = problem(3, 6, "matrix", dtype=torch.float32)
    found = local_transition(*to(device, parts))
    exact = in_torch(local_transition, *[x.double() for x in parts])
    assert [x.dtype for x in found] == [F64] * 3 + [torch.float32] * 2
    assert (gaps(found[:3], exact[:3]) <= 1e-12).all()
    assert (gaps(found[3:], exact[3:]) <= 2.0**-23).all()


@pytest.mark.parametrize(("d", "h"), [(3, 1e-6), (3, 3.0), (5, 1e-3)])
def test_small_entries_of_a_chain_with_noise_on_the_last(device, d, h):
    """``P_ij = h^(a+b+1) / (a! b! (a+b+1))``, a and b the steps from the noise to i and j."""
    J = torch.ones(d - 1, dtype=F64).diag(1)[None]
    Q = torch.zeros(d, d, dtype=F64)
    Q[-1, -1] = 1
    zero, length = torch.zeros(1, d, dtype=F64), torch.tensor([h], dtype=F64)
    found = local_transition(*to(device, [J, Q, zero, None, length, zero])).covariance[0].cpu()
    a = torch.arange(d - 1, -1, -1, dtype=F64)
    power, factorial = a[:, None] + a + 1, (a + 1).lgamma().exp()
    exact = h**power / (factorial[:, None] * factorial * power)
    torch.testing.assert_close(found, exact, rtol=1e-13, atol=0)


def test_every_output_is_written_and_rows_are_independent(device, monkeypatch, unwritten):
    parts = to(device, problem(2, 41, "matrices"))
    whole = local_transition(*parts)
    strided = [torch.stack([x, x], -1)[..., 0] for x in parts]
    monkeypatch.setattr("markovscore.kernels.blocks.MAX_ELEMENTS", 20 * 4)
    unwritten()
    assert equal(local_transition(*strided), whole)


def test_no_rows(device):
    parts = [None if x is None else x[:0] for x in problem(3, 2, "matrices")]
    found = local_transition(*to(device, parts))
    assert [tuple(x.shape) for x in found] == [(0, 3), (0, 3, 3), (0, 3, 3), (0, 3), (0, 3)]


@pytest.mark.parametrize("d", [2, 6])
def test_a_direction_without_noise(device, sides, d):
    parts = problem(d, 9, "matrices")
    parts[0][7:], parts[1][7:] = 0, torch.eye(d, dtype=F64)
    parts[1][7:, 1] = parts[1][7:, 0]
    parts[1][7:, :, 1] = parts[1][7:, :, 0]
    for call in sides(local_transition):
        with pytest.raises(SingularCovarianceError, match=r"row 7 \(coordinate 1, ") as caught:
            call(*to(device, parts))
        assert (caught.value.row, caught.value.axis) == (7, 1)
    without = to(device, parts[:-1])
    assert torch.isfinite(local_transition(*without).covariance).all()


@pytest.mark.parametrize(("d", "value"), [(2, 2e3), (6, math.nan)])
def test_moments_that_are_not_finite(device, sides, d, value):
    parts = problem(d, 9, "numbers", slope=False)
    parts[0][5:7] = value * torch.eye(d)
    for call in sides(local_transition):
        refused(r"local moments: .* in 2 of 9 rows.* is row 5 ", call, *to(device, parts))


def test_malformed_input(device):
    J, Q, f, f_dot, h, y, z = problem(3, 4, "matrix")
    for name, change in {"J": (J[:, :2], Q, f), "Q": (J, Q[:2], f), "f": (J, Q, f[0])}.items():
        refused(f"^{name}: expected", local_transition, *change, None, h, y, z)
    words = r"^z: expected shape \(4, 3\), found \(4, 2\)"
    refused(words, local_transition, J, Q, f, f_dot, h, y, z[:, :2])
    words = "^h: expected float32 or float64, found torch.int64"
    refused(words, local_transition, J, Q, f, None, h.long(), y, error=TypeError)
    wide = to(device, problem(9, 2, "matrix"))
    refused("at most 8 coordinates, found 9", local_transition, *wide)


class Bent(ms.Diffusion):
    """A swimmer-like drift: noise on the last coordinate only."""

    dim, horizon = 3, 5.0

    def drift(self, y, t):
        slow = torch.as_tensor(t, dtype=y.dtype).reshape(-1, 1)
        return torch.cat([y[:, 1:].sin() + 0 * slow, -y[:, :1] * y[:, 2:] + slow], 1)

    def dispersion(self, t):
        return torch.tensor([[0.0], [0.0], [0.6]])


@pytest.mark.parametrize("weighting", ["likelihood", "perceptual"])
def test_the_objective_takes_it(device, in_torch, weighting):
    objective = ms.LocalDSM(Bent(), 0.3, 3, weighting, t_min=0.4)
    y = points(7, 3, dtype=torch.float32).to(device)

    def losses():
        return objective.losses(lambda x, t: -x, y, rng(1, device))

    found, expected = losses(), in_torch(losses)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    moments = ms.local_transition(Bent(), y, 0.4, 0.7)
    for a, b in zip(moments, in_torch(ms.local_transition, Bent(), y, 0.4, 0.7), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_the_window_without_noise_is_named(device):
    """The same words from both: see covariance_factor."""
    still = ms.LinearSDE([[-1.0, 0.0], [0.0, -1.0]], [[1.0], [1.0]])
    if device.type == "cpu":
        words = r"window \[0.1, 0.4\] of row 0 \(coordinate 1, "
        refused(words, ms.local_target, still, torch.zeros(3, 2), 0.1, 0.4)


@pytest.mark.parametrize(("d", "noise", "arch"), [(2, 0, 90), (4, 3, 90), (8, 3, 90), (8, 0, 80)])
def test_compiled_for_a_gpu_that_need_not_be_there(device, d, noise, arch):
    wide = ("length", "normal", "mean", "covariance", "factor", "coefficients")
    plain = ("jacobian", "noise", "force", "force_slope", "start", "sample", "target")
    types = dict.fromkeys(wide, "*fp64") | dict.fromkeys(plain, "*fp32")
    types |= {"silent": "*i32", "cells": "*i32", "first": "i32", "rows": "i32"}
    source = triton_source("local_transition")
    meta = source.constants(d) | {"NOISE": noise, "SLOPE": True, "DRAW": True}
    more = 2 * d - 2 if noise > 1 else 0
    meta |= {"TERMS": source.TERMS, "COVARIANCE_TERMS": source.COVARIANCE_TERMS + more}
    made = resources("local_transition", "transition_kernel", types, meta, arch=arch, aligned=True)
    assert made["stack"] <= 16 and made["local"] == 0
