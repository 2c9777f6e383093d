"""Forward processes: exact transitions against quadrature, PDEs, autograd and Monte Carlo."""

import math

import pytest
import torch
from odd_inputs import refused
from problems import DENSE, LINEAR_SWIMMER, well
from statistical import F64, agrees, rng

import markovscore as ms
from markovscore.core import expand_like, value_and_divergence

CANONICAL = [ms.OrnsteinUhlenbeck(2), ms.TorusBrownian(2), ms.BoxBrownian(2, -1.0, 2.0)]
ALL = [*CANONICAL, DENSE, LINEAR_SWIMMER]


def name(diffusion):
    return type(diffusion).__name__


def starts(diffusion, n, dtype=F64, seed=0):
    u = torch.rand(n, diffusion.dim, generator=rng(seed), dtype=dtype)
    return -0.9 + 1.8 * u  # inside every state space


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("t", [1e-6, 0.3, 50.0])
@pytest.mark.parametrize("diffusion", CANONICAL, ids=name)
def test_transition_score_is_finite_and_the_gradient(diffusion, t, dtype):
    x0 = starts(diffusion, 64, dtype)
    y = diffusion.sample_transition(x0, t, rng(1)).requires_grad_()
    log_prob, score = diffusion.log_transition(y, x0, t), diffusion.transition_score(y, x0, t)
    assert log_prob.dtype == score.dtype == dtype
    assert bool(torch.isfinite(log_prob).all() and torch.isfinite(score).all())
    gradient = torch.autograd.grad(log_prob.sum(), y)[0]
    tolerance = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(score, gradient, rtol=tolerance, atol=tolerance / min(1, t) ** 0.5)


LINES = [ms.OrnsteinUhlenbeck(1), ms.TorusBrownian(1), ms.BoxBrownian(1, -1.0, 2.0)]
SCHEDULES = [ms.VariancePreserving(1, beta, 3.0) for beta in ((0.1, 20.0), 2.0, (3.0, 0.5))]


@pytest.mark.parametrize("t", [0.02, 0.5, 2.0])
@pytest.mark.parametrize("diffusion", LINES + SCHEDULES, ids=name)
def test_fokker_planck(diffusion, t):
    """``d_t p = g^2 p'' / 2 - (f p)'``, so ``d_t log p = g^2 (s' + s^2) / 2 - f' - f s``."""
    y = torch.linspace(-0.95, 1.9, 30, dtype=F64)[:, None].requires_grad_()
    x0 = torch.full_like(y, 0.4)
    clock = torch.full((30,), t, dtype=F64, requires_grad=True)
    rate = torch.autograd.grad(diffusion.log_transition(y, x0, clock).sum(), clock)[0]
    s = diffusion.transition_score(y, x0, clock)
    s_prime = torch.autograd.grad(s.sum(), y)[0][:, 0]
    f, f_prime = diffusion.drift(y, t)[:, 0], diffusion.drift_divergence(y, t)
    half = 0.5 * torch.as_tensor(diffusion.dispersion(t)).square()
    expected = half * (s_prime + s[:, 0].square()) - f_prime - f * s[:, 0]
    scale = float(half * (s.square().max() + s_prime.abs().max()).detach())
    torch.testing.assert_close(rate, expected, rtol=1e-11, atol=1e-13 * scale)


def quadrature(diffusion):
    """Nodes ``(N, 1)`` and weights, spectrally accurate for the process's transition densities."""
    low, high, n = {
        "OrnsteinUhlenbeck": (-12.0, 12.0, 2401),
        "TorusBrownian": (-math.pi, math.pi, 801),
        "BoxBrownian": (-1.0, 2.0, 801),
    }[name(diffusion)]
    x = torch.linspace(low, high, n, dtype=F64)
    weights = torch.full_like(x, (high - low) / (n - 1))
    weights[[0, -1]] /= 2  # trapezoid: exact to rounding for even or periodic continuations
    return x[:, None], weights


@pytest.mark.parametrize(("s", "t"), [(0.02, 0.05), (0.3, 1.9), (2.0, 3.0)])
@pytest.mark.parametrize("diffusion", LINES, ids=name)
def test_semigroup_and_mass(diffusion, s, t):
    """Chapman-Kolmogorov: ``p_{s+t}(y | x) = int p_t(y | z) p_s(z | x) dz``; the mass is 1."""
    z, weights = quadrature(diffusion)
    x, y = torch.full_like(z, 0.7), torch.full_like(z, -0.4)
    first = diffusion.log_transition(z, x, s).exp()
    assert (weights * first).sum().item() == pytest.approx(1, abs=1e-12)
    composed = (weights * first * diffusion.log_transition(y, z, t).exp()).sum()
    direct = diffusion.log_transition(y[:1], x[:1], s + t).exp()
    assert composed.item() == pytest.approx(direct.item(), rel=1e-11)


@pytest.mark.parametrize("diffusion", CANONICAL, ids=name)
def test_reversible_and_stationary(diffusion):
    """``pi(x) p(y | x) = pi(y) p(x | y)``, and ``p -> pi`` as ``t`` grows."""
    x, y = starts(diffusion, 40), starts(diffusion, 40, seed=1)
    log_pi = diffusion.prior.log_prob
    forward = log_pi(x) + diffusion.log_transition(y, x, 0.3)
    backward = log_pi(y) + diffusion.log_transition(x, y, 0.3)
    torch.testing.assert_close(forward, backward, rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(diffusion.log_transition(y, x, 60.0), log_pi(y), rtol=0, atol=1e-12)


# Sampling, state spaces


@pytest.mark.parametrize("diffusion", ALL, ids=name)
def test_sampled_transitions_have_the_score_of_the_density(diffusion):
    """Stein identities ``E[psi s + psi'] = 0`` and ``E[|s|^2 + div s] = 0`` within 6 s.e.

    The test function ``psi`` is periodic, and zero at the walls of the box; one time a row.
    """
    n = 40_000
    x0 = starts(diffusion, n)
    t = torch.linspace(0.4, 1.4, n, dtype=F64)
    if isinstance(diffusion, ms.LinearSDE):
        t = t.mul(50).round().div(50)  # a few distinct times
    y = diffusion.sample_transition(x0, t, rng(2))
    assert bool(diffusion.contains(y).all())
    score, divergence = value_and_divergence(
        lambda y, t: diffusion.transition_score(y, x0, t), y, t
    )
    k = math.pi / 3 if isinstance(diffusion, ms.BoxBrownian) else 1.0
    angle = k * (y + 1)
    first = torch.sin(angle) * score + k * torch.cos(angle)
    second = torch.sin(2 * angle) * score + 2 * k * torch.cos(2 * angle)
    energy = (score.square().sum(1) + divergence)[:, None]
    assert agrees(torch.cat([first, second, x0 * first, energy], dim=1))


@pytest.mark.parametrize("diffusion", [*CANONICAL, DENSE], ids=name)
def test_the_scale_at_a_number_and_at_a_tensor(diffusion):
    assert diffusion.std(0.3).item() == pytest.approx(diffusion.std(torch.tensor([0.3])).item())


def test_horizons():
    assert ms.BoxBrownian(1, -1.0, 2.0).horizon == 4.5
    assert ms.BoxBrownian(1, horizon=7.0).horizon == 7.0
    assert (ms.OrnsteinUhlenbeck(1).horizon, ms.TorusBrownian(1, 9.0).horizon) == (5.0, 9.0)


def test_wrap_and_reflect():
    torus, box = ms.TorusBrownian(1), ms.BoxBrownian(1, 1.0, 3.0)
    y = torch.tensor([[math.pi], [-math.pi], [4.0], [-10.0], [0.1]], dtype=F64)
    expected = [-math.pi, -math.pi, 4 - 2 * math.pi, 4 * math.pi - 10, 0.1]
    assert torus.project(y)[:, 0].tolist() == pytest.approx(expected, abs=1e-14)
    edge = torch.tensor([[math.nextafter(math.pi, 0.0)]], dtype=F64)
    assert bool(torus.contains(torus.project(edge)).all())
    y = torch.tensor([[1.0], [3.0], [3.5], [0.5], [7.2], [2.2]], dtype=F64)
    expected = [1.0, 3.0, 2.5, 1.5, 2.8, 2.2]
    assert box.project(y)[:, 0].tolist() == pytest.approx(expected, abs=1e-14)
    assert box.contains(y).tolist() == [True, True, False, False, False, True]
    inside = 4 * torch.rand(1000, 1, generator=rng()) - 2
    assert torch.equal(torus.project(inside), inside)


@pytest.mark.parametrize("diffusion", CANONICAL, ids=name)
def test_mixture_interface_is_the_transition_convolved(diffusion):
    """A start from N(m, v) equals a transition from a point over the extra time that v stands for.

    On torus and box that is ``v / 2``; for OU, the point ``m e^h`` with ``1 - e^{-2h} = v``.
    """
    m, v, t = starts(diffusion, 8), 0.02, 0.3
    y = starts(diffusion, 8, seed=4)
    mean, var = diffusion.evolve_gaussian(m, torch.full((8,), v, dtype=F64), t)
    if isinstance(diffusion, ms.OrnsteinUhlenbeck):
        extra = -0.5 * math.log1p(-v)
        start = m * math.exp(extra)
    else:
        extra, start = v / 2, m
    torch.testing.assert_close(
        diffusion.log_kernel(y, mean, var), diffusion.log_transition(y, start, t + extra)
    )
    torch.testing.assert_close(
        diffusion.kernel_score(y, mean, var), diffusion.transition_score(y, start, t + extra)
    )
    # Broadcast over components as the mixtures use it.
    log_terms = diffusion.log_kernel(y[:, None], mean[None], var[None])
    assert log_terms.shape == (8, 8)
    torch.testing.assert_close(log_terms.diagonal(), diffusion.log_kernel(y, mean, var))


@pytest.mark.parametrize("diffusion", CANONICAL, ids=name)
def test_eigenbasis_decays_under_the_transition(diffusion):
    """``E[phi(Y_t) | x0] = e^{lambda t} phi(x0)`` within 6 standard errors."""
    n, t = 40_000, 0.2
    basis = diffusion.eigenbasis(6)
    x0 = starts(diffusion, 1).expand(n, -1)
    y = diffusion.sample_transition(x0, t, rng(6))
    assert agrees(basis(y), torch.exp(basis.eigenvalues * t) * basis(x0[:1])[0])


# Fields


def test_default_drift_divergence_is_exact():
    y, t = starts(ms.OrnsteinUhlenbeck(2), 20), torch.linspace(0, 1, 20, dtype=F64)
    expected = (1 - 3 * y**2).sum(1) + t * y.flip(1).sum(1)
    process = ms.Diffusion()
    process.drift = lambda y, t: well(y, t) + expand_like(t, y) * y.flip(1) * y
    torch.testing.assert_close(process.drift_divergence(y, t), expected)
    for diffusion in ALL:  # the closed forms agree with the default
        actual = diffusion.drift_divergence(y, 0.3)
        torch.testing.assert_close(actual, ms.Diffusion.drift_divergence(diffusion, y, 0.3))


def test_divergence_refuses_a_detached_field():
    x = torch.randn(4, 2, generator=rng())

    @torch.no_grad()
    def detached(x, t):
        return -x

    refused("detaches", value_and_divergence, detached, x, 0.1)
    _, divergence = value_and_divergence(lambda x, t: torch.ones_like(x), x, 0.1)
    assert divergence.tolist() == [0.0] * 4
    with pytest.raises(ValueError, match=r"field: expected shape \(4, 2\), found \(4,\)"):
        value_and_divergence(lambda x, t: x.sum(1), x, 0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ms.BoxBrownian(2, 1.0, 0.0), "low < high"),
        (lambda: ms.LinearSDE([[1.0, 2.0]], [[1.0]]), r"F \(d, d\) and G \(d, m\)"),
        (lambda: ms.LinearSDE([[math.nan]], [[1.0]]), "finite F and G"),
        (lambda: ms.Diffusion().drift(torch.zeros(1, 1), 0.0), "Diffusion needs drift"),
    ],
)
def test_bad_models(call, message):
    refused(message, call, error=(ValueError, NotImplementedError))


@pytest.mark.parametrize("diffusion", ALL, ids=name)
def test_bad_times(diffusion):
    x = starts(diffusion, 3)
    for t in (0.0, -1.0, torch.tensor([0.1, 0.0, 0.2])):
        refused("expected finite times > 0, found", diffusion.transition_score, x, x, t)
