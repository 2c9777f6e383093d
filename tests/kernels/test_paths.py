"""Whole paths in a kernel: against the twin path by path, the eager loops on the same noise, the
exact law of a linear chain, and Stein's identity for the targets."""

import math

import pytest
import torch
from odd_inputs import refused
from statistical import F64, agrees, equal, points, rng

import markovscore as ms
from markovscore.core import as_diffusion
from markovscore.kernels import (
    VARIABLE,
    PathDrift,
    Steps,
    euler_paths,
    philox_normals,
    triton_source,
)

CORNERS = torch.tensor([[1.5, 1.0], [-1.0, 0.5], [0.2, -1.3]], dtype=F64)
LARGE = torch.linspace(-1, 1, 45, dtype=F64).reshape(9, 5).sin() * 2
SCALES, WEIGHTS = torch.tensor([0.6, 0.9, 1.2]), torch.tensor([0.5, 0.2, 0.3])
# Of numpy, in the interpreter, where a path is meant to leave the numbers.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
# A process, its dimension: every drift that the kernel knows, with clocks of three kinds.
PROCESSES = {
    "double well": (ms.DoubleWell(3), 3),
    "logistic": (ms.Langevin(ms.Logistic(5, 0.7)), 5),
    "product": (ms.Langevin(ms.ProductMixture(4, CORNERS[:, 0], SCALES, WEIGHTS), 3.0), 4),
    "mixture": (ms.Langevin(ms.GaussianMixture(CORNERS, SCALES, WEIGHTS)), 2),
    "many components": (ms.Langevin(ms.GaussianMixture(LARGE, 0.8), lambda t: 1 + t), 5),
    "swimmer": (ms.ActiveSwimmer(0.4, 0.7), 2),
}
NAMES = pytest.mark.parametrize("name", PROCESSES)


@pytest.fixture
def big_blocks(device, monkeypatch):
    """The interpreter pays by the program; the size of a block changes no number."""
    if device.type == "cpu":
        monkeypatch.setattr(triton_source("paths"), "BLOCK", 2**15)
    return device


# Against the twin


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=["float64", "float32"])
@NAMES
def test_path_by_path(name, dtype, device, in_torch):
    process, d = PROCESSES[name]
    drift, y0 = process.euler_kernel(), points(37, d, dtype=dtype)
    before = Steps(6, 0.1 * torch.rand(37, generator=rng(3), dtype=F64))
    arguments = before, Steps(7, 0.05)
    kernel = euler_paths(drift, y0.to(device), *arguments, seed=5)
    twin = in_torch(euler_paths, drift, y0, *arguments, seed=5)
    # On a GPU sums are fused, so the float32 normals differ in the last place. Rounding grows by
    # the slopes over a clock of 1, at most exp(3); the swimmer's target cancels over 1 / h^1.5.
    unit = 1e-13 if dtype == F64 and device.type == "cpu" else 1e-6
    for field, (ours, theirs) in enumerate(zip(kernel, twin, strict=True)):
        size = float(theirs.abs().max()) if field == 2 else 1.0
        assert ours.dtype == dtype and ours.shape == (37, d)
        assert float((ours.cpu() - theirs).abs().max()) < 20 * unit * (1 + size), field


@pytest.mark.parametrize("steps", [2, 3, 4, 9])
@pytest.mark.parametrize("name", ["double well", "many components", "swimmer"])
def test_any_number_of_steps(name, steps, device, in_torch):
    process, d = PROCESSES[name]
    drift, y0 = process.euler_kernel(), points(3, d)
    _, *kernel = euler_paths(drift, y0.to(device), None, Steps(steps, 0.05), seed=1)
    _, *twin = in_torch(euler_paths, drift, y0, None, Steps(steps, 0.05), seed=1)
    torch.testing.assert_close([v.cpu() for v in kernel], twin, rtol=1e-4, atol=1e-5)


# The twin against the eager loops, which know the clock and have torch's noise: given ours instead


def replay(monkeypatch, seed, stream, columns):
    """The walk's noise is the kernel's normals, one step after the other."""
    step = iter(range(10**6))

    def noise(G, y, generator):
        drawn = philox_normals(seed, (i := next(step)) + 1, len(y), columns, stream=stream)
        return drawn[i].to(y)

    monkeypatch.setattr("markovscore.core.walk.noise_like", noise)


@NAMES
def test_the_eager_loops_on_the_same_noise(name, monkeypatch):
    monkeypatch.setenv(VARIABLE, "torch")
    (process, d), steps, seed = PROCESSES[name], 6, 8
    y0, columns = points(9, d), 1 if name == "swimmer" else d
    t = torch.linspace(0.3, 0.9, 9, dtype=F64)
    s = 0.4 * t
    clock = as_diffusion(process).clock
    windows = ((torch.zeros_like(s), s), (s, t))
    first, second = (Steps(steps, clock.between(*window) / steps) for window in windows)
    found = euler_paths(process.euler_kernel(), y0, first, second, seed=seed)
    replay(monkeypatch, seed, 0, columns)
    y_s = ms.simulate(process, y0, s, steps)
    replay(monkeypatch, seed, 1, columns)
    unchecked = {"check_derivative": False}  # whose own noise would come out of the replay
    expected = y_s, *ms.path_shift_target(process, y_s, s, t, steps=steps, **unchecked)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


# Laws


def test_the_exact_law_of_a_linear_chain(big_blocks):
    """One component: ``y -> a y + (1 - a) mu + sqrt(h) z`` with ``a = 1 - h / 2 sigma^2``; and the
    target, whose mean given the end is the chain's score, correlates with it as that does."""
    n, steps, h, mu, sigma, start = 40_000, 11, 0.15, 0.4, 0.8, 1.7
    law = ([[mu]], [sigma], [1.0])
    drift = PathDrift.mixture(*(torch.tensor(part, dtype=F64) for part in law))
    y0 = torch.full((n, 2), start, dtype=torch.float32, device=big_blocks)
    _, y, target = euler_paths(drift, y0, None, Steps(steps, h), seed=21)
    a = 1 - h / (2 * sigma**2)
    mean = mu + (start - mu) * a**steps
    variance = h * sum(a ** (2 * i) for i in range(steps))
    centred, count = y.double() - mean, 2 * n
    assert abs(float(centred.mean())) < 6 * math.sqrt(variance / count)
    assert abs(float(centred.square().mean()) / variance - 1) < 6 * math.sqrt(2 / count)
    assert abs(float((centred[:, 0] * centred[:, 1]).mean())) < 6 * variance / math.sqrt(n)
    residual = target.double() + centred / variance
    assert agrees(torch.stack([residual, residual * centred], -1).flatten(0, 1))


@NAMES
def test_steins_identity(name, big_blocks):
    """``E[psi(Y) target] = -E[grad psi(Y)]``, exact for the chain, whatever the step."""
    process, d = PROCESSES[name]
    y0 = points(1, d, seed=4, dtype=torch.float32).expand(12_000, d).contiguous()
    before, window = Steps(3, 0.1), Steps(5, 0.12)
    drift = process.euler_kernel()
    found = euler_paths(drift, y0.to(big_blocks), before, window, seed=2)
    y_s, y, target = (v.double() for v in found)
    assert not y_s.equal(y)
    for psi, slope in ((torch.sin, torch.cos), (torch.tanh, lambda u: 1 - u.tanh().square())):
        gap = psi(y) * target + slope(y)
        assert agrees(gap)
        assert (gap.std(0) < 0.25 * math.sqrt(len(gap))).all()  # it is not lost in noise


# Determinism and memory


def test_the_block_changes_nothing(device, monkeypatch):
    process, d = PROCESSES["swimmer"]
    arguments = process.euler_kernel(), points(70, d).to(device), Steps(3, 0.1), Steps(5, 0.1)
    first = euler_paths(*arguments, seed=7)
    for block in (32, 256):
        monkeypatch.setattr(triton_source("paths"), "BLOCK", block)
        assert equal(first, euler_paths(*arguments, seed=7))


@pytest.mark.parametrize("name", ["double well", "mixture"])
def test_splitting_the_rows_changes_nothing(name, device, monkeypatch):
    process, d = PROCESSES[name]
    h = torch.linspace(0, 0.1, 11, dtype=F64)
    arguments = process.euler_kernel(), points(11, d).to(device), Steps(3, h), Steps(2, h + 0.01)
    whole = euler_paths(*arguments, seed=7)
    monkeypatch.setattr("markovscore.kernels.blocks.MAX_ELEMENTS", 4 * d)
    assert equal(whole, euler_paths(*arguments, seed=7))


def test_phases_and_rows_one_after_the_other(device):
    process, d = PROCESSES["logistic"]
    drift, y0 = process.euler_kernel(), points(6, d).to(device)
    before, window = Steps(5, 0.1), Steps(3, 0.2)
    y_s, y_t, target = euler_paths(drift, y0, before, window, seed=9)
    alone, same, none = euler_paths(drift, y0, before, seed=9)
    assert same is alone and none is None
    start, *ends = euler_paths(drift, alone, None, window, seed=9)
    assert start is alone
    # A phase that is left out makes another kernel, whose sums a GPU may fuse otherwise.
    room = 0 if device.type == "cpu" else 1e-5
    torch.testing.assert_close((alone, *ends), (y_s, y_t, target), rtol=room, atol=room)
    assert euler_paths(drift, y0[:4], before, window, seed=9)[1].equal(y_t[:4])
    assert not euler_paths(drift, y0, before, window, seed=10)[1].equal(y_t)


def test_both_types_have_the_same_noise(device):
    process, d = PROCESSES["mixture"]
    drift, y0 = process.euler_kernel(), points(8, d, dtype=torch.float32).to(device)
    single = euler_paths(drift, y0, Steps(6, 0.1), seed=1)[1]
    double = euler_paths(drift, y0.double(), Steps(6, 0.1), seed=1)[1]
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


def test_every_number_is_written(device, unwritten):
    process, d = PROCESSES["product"]
    y0, drift, steps = points(67, 2 * d).to(device)[:, ::2], process.euler_kernel(), Steps(2, 0.1)
    unwritten()
    found = euler_paths(drift, y0, steps, steps, seed=1)
    assert all(bool(torch.isfinite(v).all()) for v in found)
    assert equal(found, euler_paths(drift, y0.contiguous(), steps, steps, seed=1))


def test_no_rows(device, sides):
    drift, y0 = PathDrift.double_well(), torch.zeros(0, 3, device=device)
    for call in sides(euler_paths):
        found = call(drift, y0, Steps(2, 0.1), Steps(2, 0.1), seed=1)
        assert [v.shape for v in found] == [(0, 3)] * 3


# Bad input


@pytest.mark.parametrize("name", ["double well", "swimmer"])
@pytest.mark.parametrize("phase", ["before", "window"])
def test_diverging_paths_name_row_and_step(name, phase, device, sides, monkeypatch):
    process, d = PROCESSES[name]
    y0 = torch.zeros(9, d, device=device)
    y0[6, 0], y0[8, 0] = 60.0, 60.0
    # The row is in the second launch.
    monkeypatch.setattr("markovscore.kernels.blocks.MAX_ELEMENTS", 4 * d)
    long, short = Steps(20, 0.1), Steps(3, 1e-4)
    steps = (short, long) if phase == "window" else (long, short)
    message = r"diverge in step [12] of 20 of 0.1 in the clock, the first in row 6 .*steps >= \d+"
    for call in sides(euler_paths):
        refused(message, call, process.euler_kernel(), y0, *steps, seed=1)


def test_a_path_that_blows_up_in_its_last_step_is_found(device):
    """Finite, but no number of the process: 60 - 0.1 60^3 and then 0.1 of its cube."""
    y0 = torch.full((2, 1), 60.0, dtype=F64, device=device)
    for phases in ((Steps(2, 0.1), None), (None, Steps(2, 0.1))):
        drift = PathDrift.double_well()
        refused("diverge in step 2 of 2", euler_paths, drift, y0, *phases, seed=1)
    euler_paths(PathDrift.double_well(), y0, Steps(1, 0.1), seed=1)  # not yet


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@NAMES
def test_a_start_that_is_not_finite(name, bad, device, sides):
    process, d = PROCESSES[name]
    y0 = torch.zeros(5, d, device=device)
    y0[3, d - 1] = bad
    message, drift = "y0: expected finite numbers.*first is row 3", process.euler_kernel()
    for call in sides(euler_paths):
        refused(message, call, drift, y0, Steps(2, 0.1), seed=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"before": Steps(2, torch.ones(3))},
         r"before: expected a number or shape \(4,\).* found \(3,\)"),
        ({"window": Steps(2, 0.0)}, "window: expected finite positive lengths"),
        ({"before": Steps(2, -0.1)}, "before: expected finite non-negative lengths"),
        ({"before": Steps(0, 0.1)}, "steps: expected an integer >= 1, found 0"),
        ({"drift": PathDrift.swimmer(0.1, 1.0), "window": Steps(1, 0.1)},
         "at least 2 for the swimmer's window, found 1"),
        ({"drift": PathDrift.swimmer(0.1, 1.0), "y0": torch.zeros(4, 3), "before": Steps(2, 0.1)},
         r"expected shape \(B, 2\), found \(4, 3\)"),
        ({"y0": torch.zeros(4, 2).half(), "before": Steps(2, 0.1)},
         "expected float32 or float64, found float16"),
    ],
)  # fmt: skip
def test_malformed_steps_and_points(device, change, message):
    given = {"drift": PathDrift.double_well(), "y0": torch.zeros(4, 2), "before": None} | change
    given["y0"] = given["y0"].to(device)
    refused(message, euler_paths, **given, seed=1)


# The package's functions


@pytest.mark.parametrize("name", ["double well", "mixture", "swimmer"])
def test_simulate_and_path_shift_target_use_it(name, device):
    process, d = PROCESSES[name]
    y0, clock = points(6, d).to(device), as_diffusion(process).clock
    t = torch.tensor([0.0, 0.1, 0.4, 0.5, 0.8, 1.0], dtype=F64)
    seed = int(torch.randint(2**63 - 1, (1,), generator=rng(3, device), device=device))
    found = ms.simulate(process, y0, t, 5, rng(3, device))
    h = clock.between(torch.zeros_like(t), t) / 5
    assert found.equal(euler_paths(process.euler_kernel(), y0, Steps(5, h), seed=seed)[1])
    assert found[0].equal(y0[0])  # an empty window
    ends = ms.path_shift_target(process, y0, 0.2, 0.6, steps=5, generator=rng(3, device))
    h = clock.between(torch.tensor([0.2]).double(), torch.tensor([0.6]).double()) / 5
    whole = euler_paths(process.euler_kernel(), y0, None, Steps(5, h), seed=seed)[1:]
    torch.testing.assert_close(ends, whole)


def test_what_the_kernel_leaves_to_the_loops(device):
    """Whole trajectories, other weights, and processes that it does not know."""
    process, d = PROCESSES["mixture"]
    y0 = points(4, d).to(device)
    assert ms.simulate(process, y0, 0.5, 4, rng(3, device), keep=True).states.shape == (5, 4, 2)
    settings = {"steps": 4, "generator": rng(3, device)}
    for weight in ("adaptive", lambda share: share):
        ms.path_shift_target(process, y0, 0.1, 0.5, weight=weight, **settings)
    many = ms.GaussianMixture(torch.zeros(2, 9), 1.0)
    assert ms.Langevin(many).euler_kernel() is None
    assert ms.Langevin(ms.Gaussian(2)).euler_kernel() is None
    ms.simulate(ms.Langevin(many), torch.zeros(3, 9, device=device), 0.1, 2, rng(3, device))


def test_a_subclass_with_a_drift_of_its_own_is_not_its_parent(device, in_torch):
    class Tilted(ms.DoubleWell):
        def drift(self, y, t):
            return super().drift(y, t) + 100.0

    class Shallow(ms.Logistic):
        def score(self, x):
            return 0 * x

    y0 = torch.zeros(3, 1, device=device)
    assert ms.simulate(Tilted(1), y0, 0.01, 2, rng(3, device)).mean() > 0.5
    assert ms.Langevin(Shallow(2)).euler_kernel() is None
    plain = type("Renamed", (ms.DoubleWell,), {})(1)
    found = ms.simulate(plain, y0, 0.01, 2, rng(3, device))
    assert found.equal(ms.simulate(ms.DoubleWell(1), y0, 0.01, 2, rng(3, device)))
    assert not found.equal(in_torch(ms.simulate, plain, y0, 0.01, 2, rng(3, device)))


def test_an_objective_end_to_end(big_blocks, in_torch):
    """Kernel and loops have different noise: the same loss within its error."""
    process, d = PROCESSES["mixture"]
    x0 = points(3000, d, dtype=torch.float32).to(big_blocks)
    objective = ms.PathShiftDSM(process, window=0.5, steps=5)

    def losses():
        return objective.losses(lambda y, t: -y, x0, rng(3, big_blocks)).double()

    kernel, loops = losses(), in_torch(losses)
    assert not kernel.equal(loops)
    error = math.sqrt((kernel.var() + loops.var()) / len(x0))
    assert abs(float(kernel.mean() - loops.mean())) < 6 * error
