"""Small training runs that the tests of the loop, its checkpoints and its processes share."""

import os
import signal
import stat

import pytest
import torch
from statistical import rng

import markovscore as ms

STEPS, EVERY = 40, 7


def data(n=500, dtype=torch.float32):
    return 0.5 * ms.toy("moons", n, rng(), dtype)


def small(seed=0, **settings):
    return ms.ScoreMLP(2, width=16, periodic=True, generator=rng(seed), **settings)


def objective():
    return ms.DenoisingSM(ms.TorusBrownian(2), 0.01)


def run(net=None, **changes):
    settings = {"batch_size": 32, "checkpoint_every": EVERY, "progress": False} | changes
    net = small() if net is None else net
    return net, ms.train(net, settings.pop("objective", objective()), data(), STEPS, **settings)


def weights(net):
    return [p.detach().clone() for p in net.parameters()]


def same(a, b):
    """Equal results, bit for bit: network, average and losses."""
    (net_a, result_a), (net_b, result_b) = a, b
    tensors = zip(
        weights(net_a) + weights(result_a.score) + [result_a.losses],
        weights(net_b) + weights(result_b.score) + [result_b.losses],
        strict=True,
    )
    return all(torch.equal(x, y) for x, y in tensors)


class Stop(Exception):
    """An interruption from outside."""


def stop_at(step):
    def callback(now, score):
        if now == step:
            raise Stop

    return callback


def broken_off(make, x, steps, stop, path, **settings):
    """Train ``make()``, ``(net, objective)``, stop after ``stop`` steps, go on from the file."""
    saved = {"checkpoint": path, "progress": False} | settings
    with pytest.raises(Stop):
        ms.train(*make(), x, steps, callback=stop_at(stop), **saved)
    return ms.train(*make(), x, steps, **saved)


class Pixels:
    """Bytes that become points with noise of their own in every batch, as images do."""

    def __init__(self, n=200, dim=6, checksum="abc"):
        generator = rng(4)
        self.pixels = torch.randint(256, (n, dim), generator=generator, dtype=torch.uint8)
        self.checksum = checksum

    def __len__(self):
        return len(self.pixels)

    def batch(self, rows, generator):
        pixels = self.pixels[rows.cpu()].float().to(generator.device)
        noise = torch.rand(pixels.shape, generator=generator, device=generator.device)
        return (pixels + noise) / 128 - 1


class Buffered(ms.DenoisingSM):
    """Denoising score matching on points that are kept and used again: an objective with a state.

    The step number ``strikes`` is one at which ``strike()`` happens, in the middle of the step.
    """

    def __init__(self, dim=6, strikes=-1, strike=None):
        super().__init__(ms.OrnsteinUhlenbeck(dim), 0.01)
        self.buffer = ms.PathBuffer(reuse=2, ahead=3)
        self.strikes, self.strike, self.calls = strikes, strike, 0

    def losses(self, score, x0, generator):
        self.calls += 1
        if self.calls == self.strikes:
            self.strike()
        (x,) = self.buffer.draw(lambda x: (x + 0,), x0, generator)
        return super().losses(score, x, generator)

    def state(self):
        return self.buffer.state()

    def restore(self, state, device=None):
        self.buffer.restore(state, device)


def pixel_net(seed=0):
    return ms.ScoreMLP(6, width=16, generator=rng(seed))


def pixel_run(steps=STEPS, net=None, **changes):
    """A run on ``Pixels`` in one thread, as a process of ``torchrun`` has it."""
    settings = {"batch_size": 24, "progress": False, "lr": 5e-3} | changes
    net = pixel_net() if net is None else net
    loss, points = settings.pop("objective", Buffered()), settings.pop("data", Pixels())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return net, ms.train(net, loss, points, steps, **settings)
    finally:
        torch.set_num_threads(threads)


LONG = 120


def to_the_end(folder, shards, started=None, moment="none", after=0):
    """Train in this process; dies in its ``after``-th write of the checkpoint, at ``moment``."""
    writes, fsync, replace = [], os.fsync, os.replace

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def strike(now):
        return moment == now and len(writes) > after

    def dying_fsync(file):
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size < 1000:  # a folder, the log's header
            return fsync(file)
        writes.append(file)
        if strike("half written"):
            os.ftruncate(file, status.st_size // 2)
            die()
        return fsync(file)

    def dying_replace(source, target):
        if strike("not renamed"):
            die()
        replace(source, target)
        if strike("just renamed"):
            die()

    os.fsync, os.replace = dying_fsync, dying_replace
    folder.mkdir(exist_ok=True)
    places = {"checkpoint": folder / "run.safetensors", "log": folder / "log.csv"}
    if started is not None:
        places["callback"] = lambda step, score: started.set()
    pixel_run(LONG, shards=shards, checkpoint_every=4, log_every=4, **places)
