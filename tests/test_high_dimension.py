"""The path objectives on rows of 3072 float32 numbers, where every Jacobian must stay diagonal."""

import math

import pytest
import torch
from statistical import rng

import markovscore as ms
from markovscore.targets import local_moments, window_ends

D = 3072
MIXTURE = ms.ProductMixture(D, [-0.6, 0.0, 0.7], 0.3, [1.0, 2.0, 1.0])


def images(rows, seed=1):
    return 2 * torch.rand(rows, D, generator=rng(seed)) - 1


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("t", [1e-5, 1e-3, 0.05, 0.4, 1.0])
@pytest.mark.parametrize(
    "process", [ms.Langevin(ms.Gaussian(D)), ms.VariancePreserving(D)], ids=["Langevin", "VP"]
)
def test_local_targets_of_a_gaussian_prior_are_exact_in_float32(process, t):
    """``-C^{-1} z`` against the exact transition's score in float64 at the same two points."""
    y_s, end = images(8), torch.full((8,), t)
    s = window_ends(process, 0.3, end)[0].to(end)
    y, target = ms.local_target(process, y_s, s, end, generator=rng())
    h = process.clock.between(s.double(), end.double())[:, None]
    exact = -(y.double() - torch.exp(-h / 2) * y_s.double()) / -torch.expm1(-h)
    assert y.dtype == target.dtype == torch.float32
    # The rounding of y alone, half a unit of 1.2e-7, is seen through the window's deviation.
    assert relative(target, exact) < max(1e-6, 0.6e-7 / math.sqrt(float(h[0])) * 2)
    assert relative(target, exact) < 1e-4


@pytest.mark.parametrize("prior", [MIXTURE, ms.Logistic(D, 0.5)], ids=["mixture", "logistic"])
def test_windows_in_float32_are_those_of_float64(prior):
    process, y_s = ms.Langevin(prior), images(4)
    for t in (1e-5, 1e-3, 0.3, 1.0):
        end = torch.full((4,), t)
        ends = window_ends(process, 0.1, end)
        m, P = local_moments(process, y_s, *ends)
        mean, variance = local_moments(process, y_s.double(), *ends)
        assert m.shape == P.value.shape == (4, D) and P.is_diagonal
        # The mean to a small part of the window's deviation, which scales the target.
        off = (m.double() - mean) / variance.value.sqrt()
        assert float(off.square().mean().sqrt()) < 1e-4
        assert relative(P.value, variance.value) < 1e-5


@pytest.mark.parametrize("weight", [None, "adaptive"])
def test_path_shift_on_a_gaussian_prior_is_close_to_exact_in_float32(weight):
    """One variance-optimal step is the transition of the Euler chain: ``-z / sqrt(h)``."""
    process, y_s = ms.VariancePreserving(D), images(4)
    y, target = ms.path_shift_target(
        process, y_s, 0.4, 0.41, steps=200, generator=rng(), weight=weight
    )
    h = float(process.clock.between(*torch.tensor([0.4, 0.41], dtype=torch.float64)))
    exact = -(y.double() - math.exp(-h / 2) * y_s.double()) / -math.expm1(-h)
    # The plain weight is optimal to first order in the window, h = 0.08, the adaptive one always;
    # both up to the Euler step, h / 200.
    assert relative(target, exact) < (0.05 if weight is None else 0.002)


@pytest.mark.parametrize("prior", [MIXTURE, ms.Logistic(D, 0.5)], ids=["mixture", "logistic"])
@pytest.mark.parametrize("kind", [ms.LocalDSM, ms.PathShiftDSM, ms.ImplicitSM])
def test_a_loss_of_images_is_finite_and_its_blocks_are_small(kind, prior, monkeypatch):
    rows = []

    class Watched(ms.Langevin):
        def drift(self, y, t):
            rows.append(len(y))
            return super().drift(y, t)

    settings = {"trace": "hutchinson"} if kind is ms.ImplicitSM else {}
    settings["check_derivative"] = False  # its paths are its own, and so are a pilot's
    if kind is ms.PathShiftDSM:
        settings |= {"window": 1.0, "weight": "linear"}
    objective = kind(Watched(prior), steps=3, times="importance", **settings)
    monkeypatch.setattr("markovscore.objectives.path.BLOCK", 10 * D)
    loss = objective.loss(lambda y, t: -y, images(16), rng())
    assert loss.shape == () and bool(torch.isfinite(loss))
    assert max(rows[:-1]) == 10  # 8 batches of 16 in blocks of 10; the last call may be the loss's
    assert len(objective.buffer.state()["0"]) == 8 * 16


def test_blocks_are_the_same_paths_one_after_the_other(monkeypatch):
    x0 = images(7)
    objective = ms.PathShiftDSM(ms.Langevin(MIXTURE), steps=3)
    one = rng()
    parts = [objective.losses(lambda y, t: -y, part, one) for part in x0.split(3)]
    monkeypatch.setattr("markovscore.objectives.path.BLOCK", 3 * D + 1)
    assert torch.equal(objective.losses(lambda y, t: -y, x0, rng()), torch.cat(parts))
