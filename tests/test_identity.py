"""What a target rests on: the derivative of the drift and of the score, and the projection."""

import gc
import math
import weakref
from dataclasses import dataclass

import pytest
import torch
from odd_inputs import refused
from problems import DENSE
from statistical import F64, points, rng

import markovscore as ms
from markovscore.core import as_diffusion
from markovscore.targets import PASSED, check_drift, known, unexplained

DTYPES = [torch.float32, torch.float64]


class Process:
    """``dY = f(Y) dt + dW``."""

    horizon = 2.0

    def __init__(self, f, dim=1):
        self.f, self.dim = f, dim

    def drift(self, y, t):
        return self.f(y)

    def dispersion(self, t):
        return torch.tensor(1.0)


def half_detached(y):
    return -0.5 * y**3 - 0.5 * y.detach() ** 3


def one_detached(y):
    return torch.stack([-y[:, 0], -(y[:, 1].detach() ** 3)], 1)


class WrongJacobian(Process):
    def drift_jacobian(self, y, t):
        return 1 + 3 * y**2  # of y - y^3: a sign


class WrongProduct(Process):
    def drift_and_vjp(self, y, t, v):
        return self.f(y), (1 - 2 * y**2) * v


class Rotated(Process):
    """Only ``u.J u`` is right: the antisymmetric part is missing."""

    def drift_jacobian(self, y, t):
        return -torch.eye(2).to(y).expand(len(y), 2, 2)


FAULTY = {
    "sign": Process(lambda y: -2 * torch.sign(y)),
    "small jump": Process(lambda y: y - y**3 - 0.2 * torch.sign(y)),
    "round": Process(lambda y: -torch.round(2 * y) / 2, 2),
    "half detached": Process(half_detached),
    "one detached": Process(one_detached, 2),
    "wrong jacobian": WrongJacobian(lambda y: y - y**3),
    "wrong product": WrongProduct(lambda y: y - y**3),
    "rotated": Rotated(lambda y: -y + y.flip(1) * torch.tensor([2.0, -2.0]).to(y), 2),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FAULTY)
def test_a_wrong_derivative_is_refused_and_can_be_measured(name, dtype):
    process = FAULTY[name]
    y_s = points(200, process.dim, 1, dtype=dtype)
    times = [(0.0, 1.0), (torch.linspace(0, 0.5, 200), torch.linspace(0.6, 1.5, 200))]
    for s, t in times:
        for weight in ("linear", "adaptive")[: 1 if name == "wrong product" else 2]:
            with pytest.raises(ValueError, match="integral of its derivative"):
                ms.path_shift_target(process, y_s, s, t, weight=weight)
        ms.path_shift_target(process, y_s, s, t, generator=rng(), check_derivative=False)
    assert not ms.stein_check(process, y_s.double(), 1.0).passed


def test_a_wrong_product_is_seen_where_it_is_used():
    """Its drift_and_vjp is wrong, the Jacobian by autograd is right: so is the adaptive weight."""
    process, y_s = FAULTY["wrong product"], points(100, 1, 1)
    refused("drift_and_vjp of WrongProduct", ms.path_shift_target, process, y_s, 0.0, 1.0)
    ms.path_shift_target(process, y_s, 0.0, 1.0, weight="adaptive")


KINKED = {
    "relu": Process(lambda y: -torch.relu(3 * y)),
    "abs": Process(lambda y: 0.3 - y.abs(), 2),
    "clamp": Process(lambda y: -y.clamp(-0.5, 0.5)),
    "root": Process(lambda y: -y.abs().add(1e-9).sqrt()),
    "steep": Process(lambda y: -2 * torch.tanh(y / 0.002)),
    "linear": Process(lambda y: -3 * y, 3),
    "none": Process(torch.zeros_like),
    "large": Process(lambda y: 1e4 - 1e-3 * y),
    "images": Process(lambda y: -torch.tanh(y / 0.05) / 0.05, 3072),
}
BUILT_IN = {
    "ou": ms.OrnsteinUhlenbeck(2),
    "vp": ms.VariancePreserving(2),
    "torus": ms.TorusBrownian(2),
    "linear": DENSE,
    "logistic": ms.Langevin(ms.Logistic(2, 0.1)),
    "sharp logistic": ms.Langevin(ms.Logistic(64, 0.01)),
    "mixture": ms.Langevin(ms.GaussianMixture(torch.tensor([[-2.0, 0], [2, 0]]), 0.3), 1.0),
    "sharp mixture": ms.Langevin(ms.GaussianMixture(torch.tensor([[-1.0, 0], [1, 0]]), 0.05), 1.0),
    "product": ms.Langevin(ms.ProductMixture(3, torch.tensor([-1.0, 1.0]), 0.1), 1.0),
    "gaussian": ms.Langevin(ms.Gaussian(2, 1.0, 0.1)),
    "double well": ms.DoubleWell(2),
    "swimmer": ms.ActiveSwimmer(),
    "trap": ms.TrappedParticles(5),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "process", [*KINKED.values(), *BUILT_IN.values()], ids=[*KINKED, *BUILT_IN]
)
def test_what_is_continuous_is_not_refused(process, dtype):
    """Kinks, slopes far steeper than a step, numbers at the level of rounding."""
    y_s = points(50, process.dim, 1, 0.7, dtype)
    wide = process.dim > 100 and not getattr(process, "elementwise", False)  # no Jacobian
    for jacobian in (False,) if wide else (False, True):
        for steps in (5, 50):
            known(process).clear()
            ends = torch.tensor([[0.0], [1.0]], dtype=F64)
            check_drift(as_diffusion(process), y_s, *ends, steps, jacobian)


def share_left_out(f, y, u):
    """Of the changes of ``f`` from ``y`` to ``y + u``, with the derivative that autograd finds."""

    def along(points):
        value, vjp = torch.func.vjp(f, points)
        return value, (vjp(torch.ones_like(value))[0] * u).sum(1)

    return unexplained(along, y, u, rng())[0]


def test_the_ratio_of_the_remainders():
    """At the smallest pieces: a jump and a missing part stay, a kink and a bend go."""
    y, u = points(4096, 1, 1), 0.3 * points(4096, 1, 1).flip(0)
    shares = {}
    for name, f in (
        ("jump", lambda y: -torch.sign(y)),
        ("detached", lambda y: -0.9 * y - 0.1 * y.detach()),
        ("little detached", lambda y: -0.995 * y - 0.005 * y.detach()),
        ("kink", torch.relu),
        ("bend", torch.sin),
    ):
        shares[name] = share_left_out(f, y, u)
    assert shares.pop("jump") == pytest.approx(1, abs=1e-6)
    assert shares.pop("detached") == pytest.approx(0.1, abs=1e-6)
    assert set(shares.values()) == {0.0}  # half a percent is within what is allowed


def test_the_share_of_a_jump_is_right():
    """``y + a sign(y)`` from a normal law: share of the jumps in all changes, by counting."""
    y, u = points(4096, 1, 1), 0.3 * points(4096, 1, 1).flip(0)
    share = share_left_out(lambda y: y + 0.2 * torch.sign(y), y, u)
    crossed = (y * (y + u) < 0).double()
    expected = 0.4 * crossed.sum() / (u.abs() + 0.4 * crossed).sum()
    assert share == pytest.approx(float(expected), rel=1e-6)


def test_a_shift_rule_is_asked_for_its_identities():
    class Wrong(ms.ActiveSwimmer):
        def shift_target(self, states, noise, step):
            return super().shift_target(0.5 * states, noise, step)

    y_s = points(20, 2, 1)
    with pytest.raises(ValueError, match="shift_target: expected a target whose mean is the score"):
        ms.path_shift_target(Wrong(), y_s, 0.0, 2.0, steps=20)
    ms.path_shift_target(Wrong(), y_s, 0.0, 2.0, steps=20, check_derivative=False)


class Reflected(Process):
    def project(self, y):
        y = torch.remainder(y, 2)
        return torch.minimum(y, 2 - y)


class Clamped(Process):
    def project(self, y):
        return y.clamp(-1, 1)


class Moved(Process):
    """Back by three at one, which is no period: nothing comes back at -2."""

    def project(self, y):
        return torch.where(y > 1, y - 3, y)


class Wrapped(Process):
    def project(self, y):
        return torch.remainder(y + 1, 2) - 1


def zero(y):
    return torch.zeros_like(y)


WALLS = {
    "box": (Reflected(zero), "slope is -1"),
    "clamp": (Clamped(zero), "slope is 0"),
    "no period": (Moved(zero), "no period"),
    "no periodic drift": (Wrapped(lambda y: -y), "drift of Wrapped differs"),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WALLS)
def test_a_project_with_walls_is_refused(name, dtype):
    process, message = WALLS[name]
    x0 = 0.5 + points(300, 1, 1, 0.1, dtype)
    refused(message, ms.path_shift_target, process, x0, 0.0, 0.5)
    for kind in (ms.LocalDSM, ms.PathShiftDSM, ms.ImplicitSM):
        objective = kind(process, steps=5)
        refused(message, objective.losses, lambda y, t: -y, x0, rng())
    process.prior = ms.Gaussian(1)
    for form in ("trace", "local"):
        refused(message, ms.elbo, lambda y, t: -y, process, x0, samples=1, form=form, steps=5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "process",
    [Wrapped(zero), Wrapped(lambda y: torch.sin(math.pi * y)), ms.TorusBrownian(1)],
    ids=["still", "sine", "torus"],
)
def test_a_torus_is_not_refused(process, dtype):
    for scale in (0.1, 3.0):
        y_s = process.project(points(500, 1, 1, scale, dtype))
        for t in (0.01, 1.0):
            ms.path_shift_target(process, y_s, 0.0, t, generator=rng())
    assert ms.stein_check(process, points(500, 1, 1), 1.0).passed


def test_a_wall_that_was_out_of_reach_is_seen_when_it_is_met():
    process = Clamped(zero)
    ms.path_shift_target(process, points(50, 1, 1, 1e-3), 0.0, 1e-4)
    refused("slope is 0", ms.path_shift_target, process, points(50, 1, 1), 0.0, 1.0)


def test_verdicts_are_kept_for_the_object_and_take_no_random_numbers():
    process, y_s, calls = Process(torch.sin), points(8, 1, 1), []
    state = torch.get_rng_state()
    first, again, unchecked = (
        ms.path_shift_target(process, y_s, 0.0, 1.0, generator=rng(), check_derivative=check)[1]
        for check in (True, True, False)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, unchecked)
    assert torch.equal(state, torch.get_rng_state())
    process.f = lambda y: calls.append(len(y)) or y.sin()
    ms.path_shift_target(process, y_s, 0.0, 1.0)
    assert set(calls) == {8}  # the batch alone: no check again


def test_a_verdict_goes_with_its_object():
    """It keeps no object alive, and is not left to the next one in the same place."""
    process = Process(torch.sin)
    ms.path_shift_target(process, points(8, 1, 1), 0.0, 1.0, steps=2)
    assert known(process)
    place, reference = id(process), weakref.ref(process)
    del process
    gc.collect()
    assert reference() is None
    assert place not in PASSED


@dataclass
class Record:
    """Not hashable."""

    rate: float
    horizon: float = 1.0

    def drift(self, y, t):
        return -self.rate * torch.sign(y)

    def dispersion(self, t):
        return torch.tensor(1.0)


class Slotted:
    """Without weak references: looked at at every call."""

    __slots__ = ()
    drift, dispersion = Record.drift, Record.dispersion
    rate = 1.0


def test_any_object_can_be_looked_at():
    for process in (Record(1.0), Slotted()):
        for _ in range(2):
            with pytest.raises(ValueError, match="integral of its derivative"):
                ms.path_shift_target(process, points(50, 1, 1), 0.0, 1.0)


def test_the_objectives_look_and_can_be_told_not_to():
    process = Process(lambda y: -2 * torch.sign(y))
    for kind in (ms.LocalDSM, ms.PathShiftDSM):
        with pytest.raises(ValueError, match="integral of its derivative"):
            kind(process, 0.5, 5).loss(lambda y, t: -y, points(64, 1, 1), rng())
        kind(process, 0.5, 5, check_derivative=False).loss(lambda y, t: -y, points(64, 1, 1), rng())


class Net(torch.nn.Module):
    def __init__(self, activation, detached):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(2, 32), activation, torch.nn.Dropout(0.0))
        self.outer, self.detached = torch.nn.Linear(32, 2), detached

    def forward(self, x, t):
        h = self.inner(x)
        return self.outer(torch.cat([h[:, :16].detach(), h[:, 16:]], 1) if self.detached else h)


@pytest.mark.parametrize("activation", [torch.nn.ReLU(), torch.nn.SiLU()], ids=["relu", "silu"])
def test_the_score_of_implicit_matching_is_looked_at(activation):
    x0, state = points(64, 2, 1, dtype=torch.float32), torch.get_rng_state()
    torch.manual_seed(0)
    right, wrong = Net(activation, False), Net(activation, True)
    seeded = torch.get_rng_state()
    process = ms.Langevin(ms.Gaussian(2))
    losses = [
        ms.ImplicitSM(process, check_derivative=check).loss(right, x0, rng())
        for check in (True, False)
    ]
    assert torch.equal(*losses)
    objective = ms.ImplicitSM(process)
    refused("score: expected one whose change", objective.loss, wrong, x0, rng())
    ms.ImplicitSM(process, check_derivative=False).loss(wrong, x0, rng())
    assert wrong.training
    assert torch.equal(seeded, torch.get_rng_state())
    torch.set_rng_state(state)


def test_a_derivative_that_is_not_finite_is_named():
    process = Process(lambda y: torch.where(y > 0, -(y**0.5), 0.0))
    with pytest.raises(ValueError, match="target: expected finite numbers"):
        ms.path_shift_target(process, -points(50, 1, 1).abs(), 0.0, 0.1)


def test_stein_checks_say_what_they_mean():
    y_s = points(500, 1, 1)
    right = ms.stein_check(Process(lambda y: -y), y_s, 1.0)
    assert right.passed
    assert "no sign" in str(right)
    wrong = ms.stein_check(FAULTY["sign"], y_s, 1.0)
    assert wrong.largest > 50
    assert "is not chance" in str(wrong)
    box = ms.stein_check(Reflected(zero), 0.5 + 0.1 * y_s, 0.5)
    assert box.largest > 50
    # Right for the law that it draws from, which is not that of the process.
    assert ms.stein_check(Process(lambda y: y - y**3), y_s, 1.0, target=ms.local_target).passed

    def doubled(process, y_s, s, t, generator):
        assert isinstance(process, Process)  # the user's own object
        y, target = ms.local_target(process, y_s, s, t, generator=generator)
        return y, 2 * target

    assert ms.stein_check(Process(lambda y: -y), y_s, 1.0, target=doubled).largest > 50
    with pytest.raises(ValueError, match="found both"):
        ms.stein_check(Process(zero), y_s, 1.0, weight="linear", target=ms.local_target)
    assert torch.equal(
        ms.stein_check(Process(zero), y_s, 1.0).z, ms.stein_check(Process(zero), y_s, 1.0).z
    )
