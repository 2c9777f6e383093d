"""Processes: derivatives against autograd, invariant laws, and the trapped particles' exact law."""

import math

import pytest
import torch
from problems import Plain, transition_mean
from statistical import F64, agrees, points, products, rng

import markovscore as ms
from markovscore.core import as_diffusion, drift_and_vjp, jacobian_at, value_and_divergence

MEANS = torch.tensor([[2.0, 2.0], [-2.0, 2.0], [0.5, -1.0]], dtype=F64)
MIXTURE = ms.GaussianMixture(MEANS, torch.tensor([0.8, 0.5, 1.1]), torch.tensor([0.5, 0.2, 0.3]))
DENSE = ms.Gaussian(2, 0.3, torch.tensor([[1.0, 0.0], [0.6, 0.5]]))
PRIORS = [
    MIXTURE,
    DENSE,
    ms.Gaussian(2, 0.1, torch.tensor([0.5, 2.0])),
    ms.Logistic(2, 0.7),
    ms.UniformTorus(2),
    ms.UniformBox(2),
]


class Quartic:
    """A prior of a user's own: a score, and nothing else."""

    dim = 2

    def score(self, x):
        return -(x**3) + 0.4 * x.flip(1)


PROCESSES = [
    *(ms.Langevin(prior) for prior in [*PRIORS, Quartic()]),
    ms.DoubleWell(2),
    ms.ActiveSwimmer(),
    ms.TrappedParticles(3),
]


def name(thing):
    return type(thing).__name__


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_derivatives_by_autograd(process):
    d = process.dim
    y, v = 0.7 * points(9, d), points(9, d, seed=1)
    t = torch.linspace(0.1, 0.9, 9, dtype=F64)
    # The Jacobian of the sum over rows: brute force, and no function of the package.
    sums = torch.autograd.functional.jacobian(lambda y: process.drift(y, t).sum(0), y)
    J = jacobian_at(process, y, t).matrix(d)
    torch.testing.assert_close(J, sums.movedim(1, 0))
    f, product = drift_and_vjp(process, y, t, v)
    torch.testing.assert_close(f, process.drift(y, t))
    torch.testing.assert_close(product, (J.mT @ v[:, :, None])[:, :, 0])
    divergence = value_and_divergence(process.drift, y, t)[1]
    torch.testing.assert_close(process.drift_divergence(y, t), divergence)


def test_a_users_process_by_torch_func():
    own = as_diffusion(Plain(lambda y, t: torch.sin(y) - y.flip(1) * y))
    y, v = points(7, 3), points(7, 3, seed=1)
    sums = torch.autograd.functional.jacobian(lambda y: own.drift(y, 0.0).sum(0), y)
    torch.testing.assert_close(jacobian_at(own, y, 0.0).matrix(3), sums.movedim(1, 0))
    product = drift_and_vjp(own, y, 0.0, v)[1]
    torch.testing.assert_close(product, torch.einsum("ibj,bi->bj", sums, v))


def test_an_elementwise_jacobian_is_a_diagonal():
    y, sine = points(5, 4), Plain(lambda y, t: torch.sin(y), elementwise=True)
    J = jacobian_at(as_diffusion(sine), y, 0.0)
    assert J.is_diagonal
    torch.testing.assert_close(J.value, torch.cos(y))


@pytest.mark.parametrize("prior", [MIXTURE, DENSE, ms.Logistic(2, 0.7)], ids=name)
def test_langevin_leaves_its_prior_invariant(prior):
    n, langevin = 40_000, ms.Langevin(prior)
    x = prior.sample(n, rng(), dtype=F64)
    y = ms.simulate(langevin, x, 0.6, 60, rng(1))
    step = float(langevin.clock.elapsed(torch.tensor(0.6))) / 60
    fresh = prior.sample(n, rng(2), dtype=F64)
    for psi in (lambda x: x[:, 0], lambda x: x[:, 1], lambda x: x.square().sum(1), prior.log_prob):
        error = (psi(y).mean() - psi(fresh).mean()).abs()
        noise = math.sqrt(2 * float(psi(fresh).var()) / n)
        scale = float(psi(fresh).std())
        # The Euler scheme's own stationary law is off by O(step), with slopes of size one to four.
        assert error < 6 * noise + step * scale


def test_langevin_reads_any_beta():
    y = points(4, 2)
    linear, same = ms.Langevin(MIXTURE), ms.Langevin(MIXTURE, beta=lambda t: 0.1 + 9.9 * t)
    t = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=F64)
    torch.testing.assert_close(linear.drift(y, t), same.drift(y, t))
    torch.testing.assert_close(linear.dispersion(t), same.dispersion(t))
    torch.testing.assert_close(linear.std(t), same.std(t))
    expected = 0.5 * (0.1 + 9.9 * t)[:, None] * MIXTURE.score(y)
    torch.testing.assert_close(linear.drift(y, t), expected)
    assert ms.Langevin(MIXTURE, beta=2.0).dispersion(0.3).item() == pytest.approx(math.sqrt(2))
    assert linear.drift(y.float(), 0.5).dtype == torch.float32


TRAP = ms.TrappedParticles(4)


def trap_as_linear():
    """The same deviations from the mean path, with no class of this file."""
    couple = torch.eye(4, dtype=F64) + 0.25
    F = -0.5 * torch.kron(couple, torch.eye(2, dtype=F64))
    return ms.LinearSDE(F, math.sqrt(2 * 0.25) * torch.eye(8, dtype=F64))


@pytest.mark.parametrize("t", [1e-5, 0.4, 3.0])
def test_trapped_transition_is_that_of_the_linear_sde(t):
    linear, x0, y = trap_as_linear(), points(6, 8), points(6, 8, seed=1)
    # With a fixed trap in place of the moving one the mean path is the only difference.
    still = ms.TrappedParticles(4, radius=0.0)
    for method in ("log_transition", "transition_score"):
        expected = getattr(linear, method)(y, x0, t)
        torch.testing.assert_close(getattr(still, method)(y, x0, t), expected, rtol=1e-9, atol=1e-9)
    assert still.std(t).item() == pytest.approx(linear.std(t).item(), rel=1e-12)


def test_trapped_mean_follows_its_equation():
    x0, times, h = points(3, 8), torch.tensor([0.3, 1.7, 4.0], dtype=F64), 1e-5
    mean = [transition_mean(TRAP, x0, times + shift) for shift in (-h, 0.0, h)]
    slope = (mean[2] - mean[0]) / (2 * h)
    torch.testing.assert_close(slope, TRAP.drift(mean[1], times), rtol=0, atol=1e-8)
    law = [TRAP.law(float(t)) for t in times]
    start = TRAP.initial.mean.expand(3, -1)
    expected = transition_mean(TRAP, start, times)
    torch.testing.assert_close(torch.stack([p.mean for p in law]), expected)


def test_trapped_law_against_simulation():
    n, t = 20_000, 0.8
    x0 = TRAP.initial.sample(n, rng(), dtype=F64)
    law = TRAP.law(t)
    covariance = law.scale @ law.scale.T
    exact = TRAP.sample_transition(x0, t, rng(1))
    euler = ms.simulate(TRAP, x0, t, 400, rng(2))
    for y, bias in ((exact, 0.0), (euler, t / 400)):
        z = y - law.mean
        # Relative to the standard deviation: the Euler step adds at most its length.
        assert agrees(z, slack=bias) and agrees(products(z), covariance.flatten(), bias)


def test_trapped_dimension_and_law_at_100():
    trap = ms.TrappedParticles()
    assert trap.dim == 100
    assert trap.prior.score(points(2, 100)).shape == (2, 100)
    at = trap.trap(torch.tensor([0.0, 0.5], dtype=F64))
    expected = torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=F64)
    torch.testing.assert_close(at, expected)


def test_a_number_and_a_tensor_are_the_same_time_also_where_beta_is_overridden():
    class Faster(ms.Langevin):
        def beta(self, t):
            return super().beta(t) + 1

    y, process = points(3), Faster(ms.Gaussian(2))
    for method in (process.drift, process.drift_jacobian):
        torch.testing.assert_close(method(y, 0.3), method(y, torch.tensor(0.3).double()))
    for given in (0.3, torch.tensor(0.3)):
        assert float(process.dispersion(given)) == pytest.approx(float(process.beta(0.3)) ** 0.5)
