"""Base plus network: value, divergence, gradients; what belongs to it and what does not."""

import copy
import functools
import itertools

import pytest
import torch
from odd_inputs import refused
from statistical import F64, agrees, points, rng
from torch import nn

import markovscore as ms

OU = ms.OrnsteinUhlenbeck(2)
FITTED_TIMES = torch.logspace(-2, 0.6, 20, dtype=F64)


def data(n=500, seed=1, dtype=torch.float32):
    z = points(n, 2, seed)
    return (z @ torch.tensor([[0.6, 0.3], [0.0, 0.4]], dtype=F64) + 0.5).to(dtype)


def spectral(seed=1):
    return ms.fit_spectral(data(seed=seed), OU, 5, FITTED_TIMES)


def network(dtype=torch.float32):
    net = ms.ScoreMLP(2, width=16, std=OU.std)
    with torch.no_grad():
        net.out.weight.mul_(100)
    return net.to(dtype)


class Bare:
    """A base that is a plain callable, with a full Jacobian and no divergence."""

    def __call__(self, x, t):
        return torch.sin(x.flip(1)) - x


def test_value_and_exact_divergence():
    for base in (spectral(), Bare()):
        score, x = ms.ResidualScore(base, network(F64)), data(7, dtype=F64)
        for t in (0.3, torch.linspace(0.1, 1.0, 7, dtype=F64)):
            torch.testing.assert_close(score(x, t), base(x, t) + score.network(x, t))
            value, divergence = score.score_and_divergence(x, t)
            torch.testing.assert_close(value, score(x, t))
            jacobian = torch.autograd.functional.jacobian(functools.partial(score, t=t), x)
            each = torch.stack([jacobian[b, :, b].trace() for b in range(7)])
            torch.testing.assert_close(divergence, each)


def test_probe_averages_to_the_divergence_and_leaves_the_base_exact():
    """Over all four sign vectors the mean is the trace, whatever the Jacobian."""
    x, t = data(5, dtype=F64), torch.linspace(0.1, 1.0, 5, dtype=F64)
    signs = [torch.tensor(s, dtype=F64).expand(5, 2) for s in itertools.product((-1, 1), repeat=2)]
    for base in (spectral(), Bare()):
        score = ms.ResidualScore(base, network(F64).requires_grad_(False))
        estimates = [score.probe_divergence(x, t, v) for v in signs]
        value, divergence = score.score_and_divergence(x, t)
        for found, _ in estimates:
            torch.testing.assert_close(found, value)
        torch.testing.assert_close(torch.stack([e for _, e in estimates]).mean(0), divergence)
        assert float((estimates[0][1] - estimates[1][1]).abs().min()) > 1e-3
    silent = ms.ResidualScore(spectral(), network(F64))
    nn.init.zeros_(silent.network.out.weight)
    for v in signs:
        torch.testing.assert_close(silent.probe_divergence(x, t, v)[1], spectral().divergence(x, t))


def test_likelihood_by_probes_has_the_exact_mean():
    score, x, n = ms.ResidualScore(spectral(), network(F64)), data(1, dtype=F64), 1000
    times, draw = torch.logspace(-1, 0.5, 20, dtype=F64), {"trace": "hutchinson"}
    exact = ms.log_likelihood(score, OU, x, times=times)
    found = ms.log_likelihood(score, OU, x.expand(n, 2), times=times, generator=rng(), **draw)
    assert float(found.std()) > 0
    assert agrees(found, exact)


def test_image_network_as_residual():
    """Rows of 64 pixels; the network's derivative is taken in blocks that it may choose."""
    process = ms.OrnsteinUhlenbeck(16)
    score = ms.ResidualScore(lambda x, t: -x, ms.ScoreUNet((1, 4, 4), channels=8, std=process.std))
    x = torch.randn(3, 16, generator=rng())
    value = ms.log_likelihood(score, process, x, steps=3, trace="hutchinson", generator=rng(1))
    exact = ms.log_likelihood(score, process, x, steps=3)
    assert value.shape == (3,)
    torch.testing.assert_close(value, exact, rtol=0, atol=1.0)
    assert not torch.equal(value, exact)


def test_evidence_of_a_base_that_is_only_a_function():
    """Nested: with a network of zero the bound is the base's, draw by draw."""
    net, base = network(F64), lambda y, t: -y
    for parameter in net.parameters():
        parameter.data.zero_()
    x, settings = data(5, dtype=F64), {"samples": 3, "steps": 20}
    found = ms.elbo(ms.ResidualScore(base, net), OU, x, generator=rng(), **settings)
    torch.testing.assert_close(found, ms.elbo(base, OU, x, generator=rng(), **settings))


def test_base_is_nobody_s_parameter():
    frozen = network().requires_grad_(False)
    for base in (spectral(), frozen):
        score = ms.ResidualScore(base, network())
        own = dict(score.network.named_parameters())
        assert {n.removeprefix("network.") for n, _ in score.named_parameters()} == set(own)
        assert all(name.startswith("network.") for name in score.state_dict())
        assert [name for name, _ in score.named_buffers()] == ["network.frequencies"]
        assert len(list(score.children())) == 1
        twin = copy.deepcopy(score)
        assert twin.base is base
        assert twin.network is not score.network
        assert torch.equal(twin(data(3), 0.3), score(data(3), 0.3))
        with torch.no_grad():
            twin.network.out.weight.add_(1.0)
        assert not torch.equal(twin(data(3), 0.3), score(data(3), 0.3))
        score.eval()
        assert not copy.deepcopy(score).training
    moved = ms.ResidualScore(spectral(), network()).double()
    assert moved(data(3, dtype=F64), 0.3).dtype == F64


def test_training_starts_at_the_base_and_shares_it_with_the_average():
    objective = ms.DenoisingSM(OU, t_min=0.05, t_max=2.0)
    base, points = spectral(), data()
    score = ms.ResidualScore(base, ms.ScoreMLP(2, width=32, std=OU.std))
    losses = [objective.losses(s, points, rng(2)).detach().mean() for s in (score, base)]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=0.05)
    before = base.coefficients.clone()
    run = ms.train(score, objective, points, 5, batch_size=32, progress=False)
    assert run.score.base is base
    assert torch.equal(base.coefficients, before)
    assert not torch.equal(run.score(points, 0.3), score(points, 0.3))


def test_gradient_reaches_x_through_the_base():
    """Implicit score matching: the trace of the base counts, though it has no gradient."""
    objective = ms.ImplicitSM(OU, t_min=0.05, t_max=2.0)
    score, seen = ms.ResidualScore(spectral(), network()), []

    def recorded(x, t):
        seen.append((x, t))
        return score(x, t)

    found = objective.losses(recorded, data(64), rng(5))
    y, t = (value.detach() for value in seen[0])
    s, divergence = score.score_and_divergence(y, t)  # of the base in closed form; G G^T = 2 I
    torch.testing.assert_close(found, 2 * s.square().sum(1) + 4 * divergence, rtol=1e-4, atol=1e-3)
    found.mean().backward()
    assert all(p.grad is not None for p in score.parameters())
    tracked = data(4).requires_grad_()
    total = torch.autograd.grad(score(tracked, 0.3).sum(), tracked)[0]
    each = [torch.autograd.grad(s(tracked, 0.3).sum(), tracked)[0]
            for s in (score.base, score.network)]  # fmt: skip
    torch.testing.assert_close(total, each[0] + each[1])
    assert float(each[0].abs().min()) > 0


def test_checksum_tells_bases_apart():
    score = ms.ResidualScore(spectral(), network())
    assert score.checksum == ms.ResidualScore(spectral(), ms.ScoreMLP(2)).checksum
    assert score.checksum != ms.ResidualScore(spectral(seed=2), network()).checksum
    assert score.checksum.startswith("SpectralScore (20, 5) crc32 ")

    def of(**attributes):
        base = Bare()  # printed alike, but for the address
        vars(base).update(attributes)
        return ms.ResidualScore(base, network()).checksum

    assert of() == of()
    assert of(coefficients=torch.zeros(5)) != of(coefficients=torch.eye(5)[4])
    assert of(checksum=1234) == "1234"


def test_samplers_stay_in_the_range_of_the_base_with_a_grid_of_their_own():
    score = ms.ResidualScore(spectral(), network())
    assert not hasattr(score, "times")
    torch.testing.assert_close(score.time_range, FITTED_TIMES[[0, -1]])
    seen = []
    score.network.register_forward_hook(lambda net, args, out: seen.append(float(args[1])))
    ms.sample_ode(score, OU, 2, generator=rng())
    assert len(set(seen)) == 201
    assert min(seen) == pytest.approx(float(FITTED_TIMES[0]), rel=1e-6)  # in float32, as x
    assert max(seen) == pytest.approx(float(FITTED_TIMES[-1]), rel=1e-6)
    refused(r"fitted range \[0.01, 3.98", ms.sample_ode, score, OU, 2, times=[0.001, 1.0])
    from_zero = ms.fit_spectral(data(), OU, 6, torch.cat([FITTED_TIMES.new_zeros(1), FITTED_TIMES]))
    score, seen = ms.ResidualScore(from_zero, score.network), []
    ms.sample_ode(score, OU, 2, generator=rng())
    # At 0 a network that divides by the noise has no value.
    assert min(seen) == pytest.approx(1e-3, rel=1e-6)
    assert ms.ResidualScore(Bare(), network()).time_range is None
    assert ms.sample_ode(ms.ResidualScore(Bare(), network()), OU, 2, steps=2).shape == (2, 2)


def test_bad_input():
    make = ms.ResidualScore
    refused("base: expected a callable", make, torch.zeros(2), network(), error=TypeError)
    frozen, words = network().requires_grad_(False), "torch.nn.Module, found function.*the order is"
    refused(words, make, frozen, lambda x, t: x, error=TypeError)
    refused(r"no trainable parameters.*requires_grad_", make, network(), network())
    refused("base: expected shape", make(lambda x, t: x[:, :1], network()), data(3), 0.1)
    probe = make(Bare(), network()).probe_divergence
    refused("probe: expected shape", probe, data(3), 0.1, torch.ones(3))
    refused("fitted range", make(spectral(), network()), data(3), 1e-3)
