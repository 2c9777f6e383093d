"""Training: a loop by hand as the oracle, parts of a batch, data, signals, and bad settings."""

import math
import signal
import threading

import pytest
import torch
from odd_inputs import refused
from runs import (
    STEPS,
    Buffered,
    Pixels,
    data,
    objective,
    pixel_net,
    pixel_run,
    run,
    same,
    small,
    weights,
)
from statistical import F64, rng
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import markovscore as ms
from markovscore.metrics import relative_fisher_divergence


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_equals_a_loop_written_by_hand(schedule):
    net = small().double()
    x, loss = data(dtype=F64), objective()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    g = rng(11)
    average, losses = None, []
    for _ in range(STEPS):
        batch = x[torch.randint(len(x), (32,), generator=g)]
        value = loss.loss(net, batch, g)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if schedule == "cosine":
            rates.step()
        now = weights(net)
        average = [0.9 * a + 0.1 * w for a, w in zip(average or now, now, strict=True)]
        losses.append(value.item())
    settings = {"batch_size": 32, "lr": 3e-3, "ema": 0.9, "schedule": schedule}
    result = ms.train(small().double(), objective(), x, STEPS, 11, progress=False, **settings)
    torch.testing.assert_close(result.losses, torch.tensor(losses, dtype=F64))
    for a, b in zip(weights(result.score), average, strict=True):
        torch.testing.assert_close(a, b)


def test_the_average_is_that_of_torch():
    """Weights of two kinds, a parameter of integers, and the buffers of a batch normalisation."""

    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.norm = torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)
            self.two = torch.nn.Linear(3, 2, dtype=F64)
            self.mask = torch.nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)

        def forward(self, x, t):
            return (self.two(self.norm(self.one(x)).double()) * self.mask).float()

    class Fitting:
        def loss(self, score, x0, generator):
            return (score(x0, 0.0) - 2 * x0).square().mean()

    net = Mixed()
    expected = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    expected.update_parameters(Mixed())  # the next is then not the first, which is a copy

    def follow(step, score):
        if step == 1:
            expected.module.load_state_dict(net.state_dict())
        else:
            expected.update_parameters(net)
        assert not score.training

    result = ms.train(net, Fitting(), data(), 6, ema=0.9, progress=False, callback=follow)
    wanted = expected.module.state_dict()
    for name, value in result.score.state_dict().items():
        torch.testing.assert_close(value, wanted[name])
    assert result.score.norm.num_batches_tracked == 6


def test_deterministic_given_the_seed():
    assert same(run(seed=1), run(seed=1))
    assert not same(run(seed=1), run(seed=2))
    before = torch.get_rng_state()
    run()
    assert torch.equal(before, torch.get_rng_state())


class Batches:
    """Remembers what each call was given; the loss is that of the wrapped objective."""

    def __init__(self):
        self.inner, self.batches, self.states = objective(), [], []

    def loss(self, score, x0, generator):
        self.batches.append(x0.clone())
        self.states.append(generator.get_state())
        return self.inner.loss(score, x0, generator)


def test_shards_are_independent_parts_whose_gradients_are_averaged():
    """The first step by hand: each part from its own generator, the gradient of the mean loss."""
    seen, net = Batches(), small()
    _, result = run(net, objective=seen, shards=4, seed=3)
    first, states = seen.batches[:4], seen.states[:4]
    assert [len(b) for b in first] == [8] * 4
    assert torch.equal(first[0], drawn(data(), 8, rng(3)))
    assert len({tuple(b.flatten().tolist()) for b in first}) == 4
    assert len({tuple(b.flatten().tolist()) for b in seen.batches}) == 4 * STEPS
    whole, losses = small(), []
    for x, state in zip(first, states, strict=True):
        generator = torch.Generator()
        generator.set_state(state)
        losses.append(objective().loss(whole, x, generator))
    mean = torch.stack(losses).mean()
    torch.testing.assert_close(result.losses[0], mean.detach().double(), rtol=1e-6, atol=0)
    mean.backward()
    one = small()
    ms.train(one, objective(), data(), 1, seed=3, batch_size=32, shards=4, progress=False)
    for a, b in zip(one.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)


def drawn(x, size, generator):
    return x[torch.randint(len(x), (size,), generator=generator)]


def test_shards_depend_on_the_seed_and_on_nothing_else():
    assert same(run(seed=1, shards=4), run(seed=1, shards=4))
    seen = [Batches() for _ in range(2)]
    for seed, one in enumerate(seen):
        run(objective=one, seed=seed, shards=2)
    for a, b in zip(*(one.batches for one in seen), strict=True):
        assert not torch.equal(a, b)


def test_every_shard_has_paths_of_its_own():
    """With a buffer in common, a shard would be handed the rows of another's batch."""
    net, loss = pixel_net(), Buffered()
    one, other = pixel_run(net=net, objective=loss, shards=2), pixel_run(shards=2)
    assert same(one, other)
    assert loss.calls == STEPS  # the other shard's calls went to a copy


def test_data_that_make_their_own_batches():
    """Without noise of their own they are a tensor's, rows and all; with it they are not."""

    class Plain(Pixels):
        def batch(self, rows, generator):
            return self.pixels[rows].float() / 128 - 1

    whole = Plain().pixels.float() / 128 - 1
    assert same(pixel_run(data=Plain()), pixel_run(data=whole))
    assert same(pixel_run(data=Pixels()), pixel_run(data=Pixels()))
    assert not same(pixel_run(data=Pixels()), pixel_run(data=whole))


class Faulty:
    """An objective whose loss in the call ``at`` goes through ``fault``."""

    def __init__(self, at, fault):
        self.inner, self.calls, self.at, self.fault = objective(), 0, at, fault

    def loss(self, score, x0, generator):
        self.calls += 1
        value = self.inner.loss(score, x0, generator)
        return self.fault(value) if self.calls == self.at else value


def raising(error):
    def fault(value):
        raise error

    return Faulty(3, fault)


def test_out_of_memory_names_the_knob():
    device = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    for hungry in (Faulty(3, lambda value: torch.empty(2**56)), raising(device)):
        with pytest.raises(torch.OutOfMemoryError, match=r"step 3: raise shards \(now 1\).*32"):
            run(objective=hungry)
    with pytest.raises(RuntimeError, match=r"^something else$"):
        run(objective=raising(RuntimeError("something else")))


def test_signals_outside_the_main_thread_are_left_alone():
    before, outcome = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: outcome.append(run()))
    thread.start()
    thread.join()
    assert same(outcome[0], run())
    assert signal.getsignal(signal.SIGTERM) is before


def test_result_is_ready_to_use():
    net, result = run()
    assert not result.score.training
    assert not any(p.requires_grad for p in result.score.parameters())
    assert result.score is not net
    assert result.losses.shape == result.seconds.shape == (STEPS,)
    assert torch.isfinite(result.losses).all()
    assert (result.seconds.diff() > 0).all()
    assert result.seconds[0] > 0


def test_no_averaging_returns_the_network():
    net, result = run(ema=0.0)
    for a, b in zip(weights(net), weights(result.score), strict=True):
        assert torch.equal(a, b)


def test_callback_sees_every_step_and_changes_nothing():
    seen = []

    def callback(step, score):
        assert not score.training
        assert not score(data()[:4], 0.1).requires_grad
        seen.append(step)

    assert same(run(callback=callback), run())
    assert seen == list(range(1, STEPS + 1))


def test_a_loss_that_is_not_finite_stops_with_the_step():
    net = small()
    with pytest.raises(FloatingPointError, match=r"found nan at step 6: lower lr .*step 5"):
        run(net, objective=Faulty(6, lambda value: value * math.nan))
    assert all(torch.isfinite(w).all() for w in weights(net))


def test_rejects_bad_settings():
    refused("ema: expected", run, ema=1.0)
    message = "batch_size: expected a multiple of shards = 3 .*found 32.*batch_size=33"
    refused(message, run, shards=3)


class Changed(Pixels):
    """Batches that have gone through ``change``."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def batch(self, rows, generator):
        return self.change(super().batch(rows, generator))


def test_rejects_bad_data_that_make_their_own_batches():
    integers = r"data.batch: expected a floating-point .*found torch.uint8"
    refused(integers, pixel_run, data=Changed(lambda x: x.byte()), error=TypeError)
    shape = r"data.batch: expected shape \(N, d\).*found \(1,\)"
    refused(shape, pixel_run, data=Changed(lambda x: x[:, 0]))
    refused(r"data.batch: expected finite", pixel_run, data=Changed(lambda x: x / 0))
    refused("at least one row, found an empty Pixels", pixel_run, data=Pixels(n=0))
    refused(r"data: expected shape \(N, d\).* found \(1,\)", pixel_run, data=[1.0])


def test_progress_bar_counts_the_steps(capsys):
    run(progress=True)
    assert f"{STEPS}/{STEPS}" in capsys.readouterr().err
    run(progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["torus", "ou"])
def test_learns_the_score_at_small_and_at_large_times(name):
    """A short run; the smallest noise, 0.045, is a sixth of the smallest scale of the data."""
    diffusion = ms.TorusBrownian(2) if name == "torus" else ms.OrnsteinUhlenbeck(2)
    mixture = ms.DiffusedMixture(diffusion, [[1.5, 0.0], [-1.0, 1.0]], 0.25)
    x = mixture.sample(5000, rng())
    net = ms.ScoreMLP(2, width=64, depth=2, periodic=name == "torus", std=diffusion.std)
    loss = ms.DenoisingSM(diffusion, weighting="likelihood", times="log")
    result = ms.train(net, loss, x, 600, lr=5e-3, batch_size=256, ema=0.98, progress=False)
    for t in (1e-3, 1e-2, 0.1, 1.0):
        y = mixture.sample(4000, rng(1), t=t)
        error = relative_fisher_divergence(result.score, mixture, y, t)
        assert error.value < 0.25, t
    assert result.losses[-100:].mean() < result.losses[:20].mean()
