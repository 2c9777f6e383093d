"""The three nouns: any object with the required methods works in every public function, what else
it has is seen as it is now, and what it has wrongly is named.

The entries are read off the signatures of the public face: a new public function that takes a
process, a score, an objective or a law fails a test here until it is walked through.
"""

import copy
import dataclasses
import inspect
import math
import pickle
import re

import pytest
import torch
from face import CALLS
from odd_inputs import flat, refused
from problems import Plain
from statistical import F64, default_dtype, points, rng

import markovscore as ms
from markovscore.core import (
    Criterion,
    DiffusionLike,
    Law,
    Objective,
    Process,
    Score,
    ScoreModel,
    as_diffusion,
    as_law,
    as_objective,
    as_score,
    original,
)

OU, X = ms.OrnsteinUhlenbeck(2), points(6)
PROCESS, SCORE = ("diffusion", "process"), ("score", "truth", "base")
NOUNS = {DiffusionLike: PROCESS, Score: SCORE, Objective: ("objective",), Law: ("prior",)}
# Attributes that a function cannot do without.
MIXED = ["evolve_gaussian", "log_kernel", "kernel_score"]
FINAL = ["prior", "horizon"]
NEEDS = {
    "DenoisingSM": ["sample_transition", "transition_score"],
    "Affine": ["dim"], "whitened": ["dim", "eigenbasis"], "jackknife": ["dim", "eigenbasis"],
    "DiffusedMixture": MIXED, "mixture_1d": MIXED,
    "fit_spectral": ["eigenbasis", "ou_time", "dim"], "fit_additive": ["ou_time", "dim"],
    "elbo": FINAL, "log_likelihood": FINAL, "sample_ode": FINAL, "sample_sde from the prior": FINAL,
}  # fmt: skip
# What the functions return: nobody builds one from a process or a score of one's own.
RESULTS = {
    "AdditiveScore", "AdditiveSpectralScore", "FokkerPlanck", "Jackknife", "SpectralScore",
    "TrainResult",
}  # fmt: skip


def walks(*nouns):
    """All calls of the public face that take one of these nouns, and where they take it."""
    found = {
        f"{call.name.split(',')[0]}, {key}": (call, key)
        for call in CALLS
        for key in call.arguments
        if any(key in NOUNS[noun] for noun in nouns)
    }
    return pytest.mark.parametrize(("call", "key"), found.values(), ids=found)


def ask(call, key, thing):
    return flat(call.run(**call.good() | {key: thing}))


def entry(call):
    return call.name.split()[0]


def plain(*needs, package=OU):
    """``dY = -Y dt + sqrt2 dW`` as a user writes it, and of what the package's class has, only
    what the function cannot do without."""
    more = {name: getattr(package, name) for name in needs}
    return Plain(lambda y, t: -y, lambda t: math.sqrt(2), **more)


class Based(ms.Diffusion):
    """The same on the package's base class: simulated and differentiated alike."""

    dim, horizon, prior = OU.dim, OU.horizon, OU.prior

    def drift(self, y, t):
        return -y

    def dispersion(self, t):
        return math.sqrt(2)


def score(x, t):
    return -0.9 * x


class Described(ScoreModel):
    """The score on the package's base class."""

    def __call__(self, x, t):
        return score(x, t)


class Loss:
    """An objective with nothing but the loss."""

    def loss(self, score, x0, generator):
        return (score(x0, x0.new_tensor(0.1)) + x0).square().mean()


class Written(Criterion):
    """The loss on the package's base class."""

    loss = Loss.loss


class Quartic:
    """A law with nothing but a dimension and its score: ``log pi = -|x|^4 / 4``."""

    dim = 2

    def score(self, x):
        return -x * x.square().sum(1, keepdim=True)


class Own(Quartic, Law):
    """The law on the package's base class."""


def entries():
    """``(name, parameter)`` of everything public that takes one of the nouns."""
    named = {name: getattr(ms, name) for name in ms.__all__}
    for name, thing in vars(ms.metrics).items():
        if not name.startswith("_") and getattr(thing, "__module__", "") == ms.metrics.__name__:
            named[f"metrics.{name}"] = thing
    keys = {key for noun in NOUNS.values() for key in noun}
    for name, thing in named.items():
        own = getattr(thing, "__module__", "").startswith("markovscore")
        if name in RESULTS or not callable(thing) or not own or name == "SpectralWarning":
            continue
        methods = vars(thing).values() if inspect.isclass(thing) else [thing]
        signatures = [inspect.signature(thing)]
        signatures += [inspect.signature(m) for m in methods if inspect.isfunction(m)]
        for parameter in (p for s in signatures for p in s.parameters.values()):
            if parameter.annotation in NOUNS or parameter.name in keys:
                yield name, parameter.name


def test_every_entry_is_walked_through():
    keys = {key for noun in NOUNS.values() for key in noun}
    assert set(entries()) == {(entry(c), key) for c in CALLS for key in keys & {*c.arguments}}


@walks(DiffusionLike)
def test_a_plain_process_gives_the_numbers_of_the_package_s_class(call, key):
    package = ms.OrnsteinUhlenbeck(call.arguments[key].value.dim)
    needs = next((names for start, names in NEEDS.items() if call.name.startswith(start)), [])
    found = ask(call, key, plain(*needs, package=package))
    derived = entry(call) in ("ImplicitSM", "LocalDSM", "PathShiftDSM", "elbo")
    expected = ask(call, key, Based() if derived else package)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, equal_nan=False)


@walks(Score, Objective, Law)
def test_a_plain_object_gives_the_numbers_of_the_package_s_class(call, key):
    bare, based = {"objective": (Loss(), Written()), "prior": (Quartic(), Own())}.get(
        key, (score, Described())
    )
    assert torch.equal(ask(call, key, bare), ask(call, key, based))


# What is wrong is named


def own(**attributes):
    return Plain(**{"drift": None, "dispersion": None} | attributes)


def process(**changes):
    return own(**{"drift": lambda y, t: -y, "dispersion": lambda t: 1.0} | changes)


def described(**changes):
    thing = Described()
    vars(thing).update(changes)
    return thing


def without(name):
    thing = plain()
    delattr(thing, name)
    return thing


class HalfClock:
    def rate(self, t):
        return t

    elapsed = inverse = rate


A_FUNCTION = "to be a function"
PAIR = rf"{A_FUNCTION} \(y, t\).*"
BAD_PROCESSES = [
    (without("drift"), "Plain without drift: define it"),
    (without("dispersion"), "Plain without dispersion: define it"),
    (ms.OrnsteinUhlenbeck, r"class OrnsteinUhlenbeck: pass .*\(\.\.\.\)"),
    (process(drift=lambda y: -y), rf"Plain.drift {PAIR}takes \(y\)"),
    (process(drift=lambda y, t, u: -y), r"drift .*takes \(y, t, u\)"),
    (process(drift=lambda y, *, t: -y), r"drift .*takes \(y, \*, t\)"),
    (process(dispersion=lambda: 1), rf"n.dispersion {A_FUNCTION} \(t\), found one that takes \(\)"),
    (process(dim="two"), "Plain.dim to be an integer or None, found str 'two'"),
    (process(horizon=[1.0]), r"Plain.horizon to be a number, found list \[1.0\]"),
    (process(clock=HalfClock()), "rate, elapsed, between and inverse, found HalfC"),
    (process(elementwise="yes"), "elementwise to be True or False, found str 'yes'"),
    (process(project=3.0), rf"Plain.project {A_FUNCTION} \(y\).*found float 3.0"),
    (process(contains=lambda: True), rf"contains {A_FUNCTION} \(x\).*takes \(\)"),
    (process(drift_divergence=2.0), rf"drift_divergence {PAIR}or None, found float 2.0"),
    (process(drift_jacobian=lambda y: y), r"drift_jacobian .*takes \(y\)"),
]
BAD_SCORES = [
    (lambda x: x, r"a function \(x, t\) -> \(B, d\), found one that takes \(x\)"),
    (ms.ScoreMLP, r"found the class ScoreMLP: pass ScoreMLP\(\.\.\.\)"),
    (torch.nn.Linear(2, 2).double(), r"found one that takes \(input"),
    (described(divergence=2.0), rf"d.divergence {A_FUNCTION} \(x, t\).*found float 2.0"),
    (described(finest_time="small"), "d.finest_time to be a number or None, found str 'small'"),
    (described(dtype="float32"), "d.dtype to be a torch.dtype or None, found str 'float32'"),
]
BAD_OBJECTIVES = [
    (score, r"objective: .* found function without it"),
    (ms.DenoisingSM, "class DenoisingSM: pass"),
    (own(loss=lambda s, x: 0), r"Plain.loss .*takes \(s, x\)"),
    (own(loss=lambda s, x, g: 0, state={}), "Plain.state to be a function"),
]
BAD_LAWS = [
    (own(dim=2), r"dim and score\(x\).*Plain without score"),
    (own(score=lambda x: x), "Plain without dim"),
    (own(dim=2, score=lambda: 0), r"Plain.score .*takes \(\)"),
    (own(dim=2, score=lambda x: x, hessian=1.0), "Plain.hessian to be a function"),
]
BAD = dict.fromkeys(PROCESS, (BAD_PROCESSES, "{} without drift"))
BAD |= dict.fromkeys(SCORE, (BAD_SCORES, r"a \w+ \(x, t\) -> \(B, d\), found {}"))
BAD["objective"] = BAD_OBJECTIVES, r"expected loss\(score, x0, generator\), found {} without"
BAD["prior"] = BAD_LAWS, r"dim and score\(x\).*found {} without"


@walks(*NOUNS)
def test_an_object_with_a_fault_is_named(call, key):
    faults, message = BAD[key]
    others = [None, 3.0, "ou", object(), torch.zeros(3)]
    for bad, words in faults + [(bad, message.format(type(bad).__name__)) for bad in others]:
        with pytest.raises(TypeError, match=words) as caught:
            ask(call, key, bad)
        assert re.search(r"^\w+: expected .*found .*: ", str(caught.value)), caught.value


@walks(Score)
def test_a_score_of_another_shape_is_named(call, key):
    """One column for two would broadcast to a wrong number."""
    shapes = r"expected shape \(\d+, 2\), found \(\d+, 1\)"
    refused(shapes, ask, call, key, lambda x, t: -x[:, :1])


def bounded(process):
    return ms.log_likelihood(score, process, X, steps=5)


def drawn(process):
    return ms.sample_ode(score, process, 5, steps=5, generator=rng())


@pytest.mark.parametrize("ask", [drawn, bounded])
def test_a_prior_that_cannot_do_what_is_asked_is_named(ask):
    message = r"prior: expected (sample|log_prob)\(.*found Quartic"
    refused(message, ask, process(prior=Quartic(), horizon=1.0), error=TypeError)


@pytest.fixture(params=[torch.float16, torch.float64])
def other_default(request):
    with default_dtype(request.param):
        yield


def test_a_number_for_a_divergence_has_the_precision_of_the_points(other_default):
    own = plain("prior")
    own.horizon = 1.0
    exact = bounded(own)
    own.drift_divergence = lambda y, t: -2.0 - 1e-9 / 3
    torch.testing.assert_close(bounded(own), exact - (1 - 1e-3) * 1e-9 / 3, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ms.datasets.TOY_NAMES)
def test_toy_sets_do_not_follow_the_default_dtype(name, other_default):
    found = ms.toy(name, 5, rng(), F64)
    torch.set_default_dtype(torch.float32)
    assert torch.equal(found, ms.toy(name, 5, rng(), F64))


# Views


class Bare:
    def drift(self, y, t):
        return -y

    def dispersion(self, t):
        return 1.0


class Empty:
    """A base that may be taken away."""


def test_defaults():
    """What an object does not say: all of it, once."""
    seen = as_diffusion(Bare())
    assert isinstance(seen, Process) and original(seen).__class__ is Bare
    assert (seen.dim, seen.prior, seen.settings) == (None, None, None)
    assert seen.horizon == math.inf
    assert (seen.elementwise, seen.autonomous, seen.reflects) == (False, False, False)
    assert torch.equal(seen.project(X), X)
    assert seen.contains(X).tolist() == [True] * 6
    t = torch.tensor([0.2, 0.7], dtype=F64)
    clock = seen.clock
    assert torch.equal(clock.rate(t), torch.ones(2, dtype=F64))
    assert torch.equal(clock.between(t, 2 * t), t)
    assert torch.equal(clock.elapsed(t), t) and torch.equal(clock.inverse(t), t)
    methods = [
        "drift_divergence", "drift_jacobian", "drift_and_vjp", "sample_transition",
        "transition_score", "std", "evolve_gaussian", "log_kernel", "kernel_score",
        "shift_target", "euler_kernel", "eigenbasis", "ou_time",
    ]  # fmt: skip
    assert [getattr(seen, name) for name in methods] == [None] * len(methods)
    for kind in (Process, ScoreModel, Criterion, Law):  # each is described where it is listed
        for name, value in vars(kind).items():
            assert name.startswith("_") or inspect.isfunction(value) or name in kind.__doc__
    assert all(
        value is None
        for noun, kind in ((as_score(score), ScoreModel), (as_objective(Loss()), Criterion))
        for value in (getattr(noun, name) for name in kind.__annotations__)
    )
    assert as_law(Quartic()).hessian is None


def test_a_view_follows_its_object():
    own = Bare()
    seen = as_diffusion(own)
    own.prior = OU.prior
    own.drift_divergence = lambda y, t: -2.0
    assert seen.prior is OU.prior and seen.drift_divergence is own.drift_divergence
    own.drift = lambda y, t: y
    assert torch.equal(seen.drift(X, 0.1), X)
    del own.prior
    assert seen.prior is None
    assert as_diffusion(seen) is seen and as_diffusion(OU) is OU and original(OU) is OU


@pytest.mark.parametrize(
    "change",
    [
        lambda cls, own: setattr(cls, "horizon", "long"),
        lambda cls, own: setattr(cls, "drift", lambda self, y: y),
        lambda cls, own: setattr(cls, "clock", property(lambda self: 3)),
        lambda cls, own: setattr(cls, "project", staticmethod(lambda: 0)),
        lambda cls, own: setattr(cls, "__bases__", (type("Base", (Empty,), {"dim": "two"}),)),
        lambda cls, own: setattr(own, "horizon", "long"),
        lambda cls, own: setattr(own, "std", lambda: 0),
        lambda cls, own: setattr(own, "__class__", type("Other", (cls,), {"dim": "two"})),
        lambda cls, own: setattr(own, "state", 3),
    ],
)
@pytest.mark.parametrize("base", [Bare, ms.Diffusion, torch.nn.Module])
def test_a_change_is_seen_after_the_tests_have_passed(change, base):
    """A class that has passed is not tested again, unless it or the object changes."""

    class Own(Empty, base):
        drift, dispersion = Bare.drift, Bare.dispersion
        state = 0  # of the object, behind a property
        clock = property(lambda self: 3 if self.state else as_diffusion(Bare()).clock)

    own = Own()
    assert [as_diffusion(own).horizon for _ in range(3)] == [math.inf] * 3
    change(Own, own)
    with pytest.raises(TypeError, match="diffusion: expected"):
        as_diffusion(own)


def test_a_look_up_that_a_class_gets_later_is_seen():
    class Own(Bare):
        pass

    for _ in range(2):
        as_diffusion(Own())
    Own.__getattr__ = lambda self, name: 3
    with pytest.raises(TypeError, match="clock"):
        as_diffusion(Own())


def test_an_objective_sees_what_is_set_later():
    own = Bare()
    objective = ms.LocalDSM(own, steps=3, t_max=1.0)
    own.contains = lambda x: x[:, 0] < -100
    with pytest.raises(ValueError, match="expected points in the domain of Bare"):
        objective.losses(score, X, rng())


def test_a_view_of_a_copy():
    own = Bare()
    own.prior = OU.prior
    for seen in (copy.deepcopy(as_diffusion(own)), pickle.loads(pickle.dumps(as_diffusion(own)))):
        assert isinstance(seen, Process) and original(seen) is not own
        assert isinstance(original(seen), Bare) and seen.prior.dim == 2
    objective = pickle.loads(pickle.dumps(ms.LocalDSM(own, steps=3, t_max=1.0)))
    expected = ms.LocalDSM(own, steps=3, t_max=1.0).losses(score, X, rng())
    assert torch.equal(objective.losses(score, X, rng()), expected)


class Slotted:
    __slots__ = ("dim", "prior")
    drift, dispersion = Bare.drift, Bare.dispersion


@dataclasses.dataclass
class Data:
    """Equal to another one, and so without a hash."""

    rate: float
    dim: int = 2

    def drift(self, y, t):
        return -self.rate * y

    def dispersion(self, t):
        return 1.0


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2).double()

    def drift(self, y, t):
        return self.linear(y)

    def dispersion(self, t):
        return 1.0


class Wrapper:
    """Hands on whatever it is asked for."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)


@pytest.mark.parametrize(
    "make", [Slotted, lambda: Data(1.0), Network, lambda: Wrapper(Data(1.0)), lambda: Wrapper(OU)]
)
def test_objects_of_all_sorts(make):
    own = make()
    seen = as_diffusion(own)
    assert seen.prior is (OU.prior if isinstance(own, Wrapper) and own.inner is OU else None)
    for view in (seen, copy.deepcopy(seen), pickle.loads(pickle.dumps(seen))):
        found = ms.simulate(original(view), X, 0.5, 4, rng())
        by_hand = ms.simulate(Plain(own.drift, own.dispersion), X, 0.5, 4, rng())
        assert torch.equal(found, by_hand)


def test_an_error_inside_a_property_is_not_an_absent_attribute():
    class Broken(Bare):
        @property
        def prior(self):
            return self.misspelt

    with pytest.raises(AttributeError, match="misspelt"):
        _ = as_diffusion(Broken()).prior


def test_what_a_user_defines_is_not_kept_alive():
    import gc
    import weakref

    own = Plain(lambda y, t: -y)
    as_diffusion(own)
    kept = weakref.ref(own.drift)
    del own
    gc.collect()
    assert kept() is None
