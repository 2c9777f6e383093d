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
from problems import Plain
from statistical import F64, points, rng

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

OU = ms.OrnsteinUhlenbeck(2, horizon=1.0)
X, TIMES = points(6), torch.tensor([0.1, 0.4, 1.0], dtype=F64)


def plain(*needs):
    """``dY = -Y dt + sqrt2 dW`` as a user writes it, and of what the package's class has, only
    what the function cannot do without."""
    more = {name: getattr(OU, name) for name in needs}
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


class Loss:
    """An objective with nothing but the loss."""

    def loss(self, score, x0, generator):
        return (score(x0, x0.new_tensor(0.1)) + x0).square().mean()


class Quartic:
    """A law with nothing but a dimension and its score: ``log pi = -|x|^4 / 4``."""

    dim = 2

    def score(self, x):
        return -x * x.square().sum(1, keepdim=True)


def solved(p):
    solution = ms.fokker_planck(p, OU.prior.log_prob, [0.5], [(-7, 7)] * 2, cells=12, steps=4)
    return solution.values


def trained(objective):
    net = ms.ScoreMLP(2, width=8).double()
    return ms.train(net, objective, X, 3, batch_size=4, progress=False).losses


def objective(kind, **settings):
    return lambda p: kind(p, **settings).losses(score, X, rng(1))


SIMULATED = {"steps": 3, "t_max": 1.0}
PATH = {"steps": 4, "generator": None}
# For every entry: what is asked of it, the attributes that it cannot do without, and the package's
# object that must give the same numbers.
PROCESSES = {
    "DenoisingSM": (
        objective(ms.DenoisingSM),
        ["sample_transition", "transition_score", "horizon"],
        OU,
    ),
    "DiffusedMixture": (
        lambda p: ms.DiffusedMixture(p, [[0.0, 1.0]], 0.5)(X, 0.3),
        ["evolve_gaussian", "log_kernel", "kernel_score"],
        OU,
    ),
    "ImplicitSM": (objective(ms.ImplicitSM, **SIMULATED), [], Based()),
    "LocalDSM": (objective(ms.LocalDSM, **SIMULATED), [], Based()),
    "PathShiftDSM": (objective(ms.PathShiftDSM, window=0.3, **SIMULATED), [], Based()),
    "clock_window": (lambda p: ms.clock_window(p, torch.tensor([0.1, 0.5]), 0.2), [], OU),
    "elbo": (
        lambda p: ms.elbo(score, p, X, samples=3, steps=4, generator=rng()),
        ["prior", "horizon"],
        Based(),
    ),
    "fit_spectral": (
        lambda p: torch.cat(
            [
                ms.fit_spectral(points(60), p, 5, times=TIMES)(X, 0.3),
                ms.fit_spectral(points(60), p, features="additive", order=2, times=TIMES)(X, 0.3),
            ]
        ),
        ["eigenbasis", "ou_time", "dim"],
        OU,
    ),
    "fit_additive": (
        lambda p: ms.fit_additive(points(60), p, order=2, times=TIMES)(X, 0.3),
        ["ou_time", "dim"],
        OU,
    ),
    "fokker_planck": (solved, [], OU),
    "linearised_weight": (
        lambda p: ms.linearised_weight(p, X, 0.1, 0.4)(torch.tensor([0.0, 0.5, 1.0]))[0],
        [],
        OU,
    ),
    "local_target": (lambda p: ms.local_target(p, X, 0.1, 0.4, generator=rng())[1], [], OU),
    "local_transition": (lambda p: ms.local_transition(p, X, 0.1, 0.4)[1], [], OU),
    "log_likelihood": (
        lambda p: ms.log_likelihood(score, p, X, steps=5),
        ["prior", "horizon"],
        OU,
    ),
    "mixture_1d": (
        lambda p: ms.mixture_1d(p).log_prob(X[:, :1], 0.3),
        ["evolve_gaussian", "log_kernel", "kernel_score"],
        ms.OrnsteinUhlenbeck(1),
    ),
    "path_shift_target": (
        lambda p: ms.path_shift_target(p, X, 0.1, 0.4, steps=4, generator=rng())[1],
        [],
        OU,
    ),
    "sample_ode": (
        lambda p: ms.sample_ode(score, p, 5, steps=5, generator=rng()),
        ["prior", "horizon"],
        OU,
    ),
    "sample_sde": (
        lambda p: ms.sample_sde(score, p, 6, times=TIMES, generator=rng(), x_T=X),
        [],
        OU,
    ),
    "simulate": (lambda p: ms.simulate(p, X, 0.5, 4, rng()), [], OU),
    "stein_check": (
        lambda p: ms.stein_check(p, X, 0.5, steps=3, paths=64, generator=rng()).z,
        [],
        OU,
    ),
}
SCORES = {
    "DenoisingSM": lambda s: ms.DenoisingSM(OU).losses(s, X, rng()),
    "ImplicitSM": lambda s: ms.ImplicitSM(OU, steps=3).losses(s, X, rng()),
    "LocalDSM": lambda s: ms.LocalDSM(OU, steps=3).losses(s, X, rng()),
    "PathShiftDSM": lambda s: ms.PathShiftDSM(OU, 0.3, steps=3).losses(s, X, rng()),
    "ResidualScore": lambda s: ms.ResidualScore(s, ms.ScoreMLP(2, width=4).double())(X, 0.3),
    "elbo": lambda s: ms.elbo(s, OU, X, samples=3, generator=rng()),
    "log_likelihood": lambda s: ms.log_likelihood(s, OU, X, steps=5),
    "metrics.fisher_divergence": lambda s: float(ms.metrics.fisher_divergence(s, score, X, 0.3)),
    "metrics.fisher_divergence truth": lambda s: float(
        ms.metrics.fisher_divergence(score, s, X, 0.3)
    ),
    "metrics.relative_fisher_divergence": lambda s: float(
        ms.metrics.relative_fisher_divergence(s, lambda x, t: -x, X, 0.3)
    ),
    "sample_ode": lambda s: ms.sample_ode(s, OU, 6, steps=5, x_T=X),
    "sample_sde": lambda s: ms.sample_sde(s, OU, 6, steps=5, x_T=X, generator=rng()),
}
OBJECTIVES = {"train": trained}
LAWS = {"Langevin": lambda law: ms.simulate(ms.Langevin(law), X, 0.5, 4, rng())}

NOUNS = {
    "diffusion": PROCESSES, "process": PROCESSES, "score": SCORES, "truth": SCORES,
    "base": SCORES, "objective": OBJECTIVES, "prior": LAWS,
}  # fmt: skip
PROTOCOLS = {DiffusionLike: PROCESSES, Score: SCORES, Objective: OBJECTIVES}
# What the functions return: nobody builds one from a process or a score of one's own.
RESULTS = {"AdditiveScore", "FokkerPlanck", "SpectralScore", "TrainResult"}


def entries():
    """``(name, table)`` of everything public that takes one of the nouns."""
    named = {name: getattr(ms, name) for name in ms.__all__}
    for name, thing in vars(ms.metrics).items():
        if not name.startswith("_") and getattr(thing, "__module__", "") == ms.metrics.__name__:
            named[f"metrics.{name}"] = thing
    for name, thing in named.items():
        own = getattr(thing, "__module__", "").startswith("markovscore")
        if name in RESULTS or not callable(thing) or not own or name == "SpectralWarning":
            continue
        methods = vars(thing).values() if inspect.isclass(thing) else [thing]
        signatures = [inspect.signature(thing)]
        signatures += [inspect.signature(m) for m in methods if inspect.isfunction(m)]
        for parameter in (p for s in signatures for p in s.parameters.values()):
            table = PROTOCOLS.get(parameter.annotation, NOUNS.get(parameter.name))
            if table is not None:
                yield name, id(table)


def test_every_entry_is_walked_through():
    walked = {(name.split(" ")[0], id(table)) for table in NOUNS.values() for name in table}
    assert set(entries()) == walked


@pytest.mark.parametrize("name", PROCESSES)
def test_a_plain_process_gives_the_numbers_of_the_package_s_class(name):
    ask, needs, package = PROCESSES[name]
    found, expected = ask(plain(*needs)), ask(package)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, equal_nan=False)


class Described(ScoreModel):
    """The score on the package's base class."""

    def __call__(self, x, t):
        return score(x, t)


@pytest.mark.parametrize("name", SCORES)
def test_a_function_is_a_score(name):
    torch.testing.assert_close(SCORES[name](score), SCORES[name](Described()), rtol=0, atol=0)


class Written(Criterion):
    """The loss on the package's base class."""

    loss = Loss.loss


def test_a_class_with_a_loss_is_an_objective():
    assert torch.equal(trained(Loss()), trained(Written()))


def test_a_class_with_a_dimension_and_a_score_is_a_law():
    class Own(Quartic, Law):
        pass

    assert torch.equal(LAWS["Langevin"](Quartic()), LAWS["Langevin"](Own()))


# What is wrong is named


def process_with(**changes):
    return lambda: Plain(lambda y, t: -y, lambda t: 1.0, **changes)


def without(name):
    thing = plain()
    delattr(thing, name)
    return thing


class HalfClock:
    def rate(self, t):
        return t

    elapsed = inverse = rate


FUNCTION = "to be a function"
BAD_PROCESSES = {
    "no drift": (lambda: without("drift"), "Plain without drift: define it"),
    "no dispersion": (lambda: without("dispersion"), "Plain without dispersion: define it"),
    "a number": (lambda: 3.0, "float without drift"),
    "nothing": (lambda: None, "NoneType without drift"),
    "a class": (lambda: ms.OrnsteinUhlenbeck, r"class OrnsteinUhlenbeck: pass .*\(\.\.\.\)"),
    "drift of y": (lambda: Plain(lambda y: -y), rf"Plain.drift {FUNCTION} \(y, t\).*takes \(y\)"),
    "drift of three": (lambda: Plain(lambda y, t, u: -y), r"drift .*takes \(y, t, u\)"),
    "drift by keywords": (lambda: Plain(lambda y, *, t: -y), r"drift .*takes \(y, \*, t\)"),
    "dispersion of nothing": (
        lambda: Plain(lambda y, t: -y, lambda: 1.0),
        rf"Plain.dispersion {FUNCTION} \(t\), found one that takes \(\)",
    ),
    "dim": (process_with(dim="two"), "Plain.dim to be an integer or None, found str 'two'"),
    "horizon": (process_with(horizon=[1.0]), r"Plain.horizon to be a number, found list \[1.0\]"),
    "clock": (process_with(clock=HalfClock()), "rate, elapsed, between and inverse, found HalfC"),
    "flag": (process_with(elementwise="yes"), "elementwise to be True or False, found str 'yes'"),
    "project": (process_with(project=3.0), rf"Plain.project {FUNCTION} \(y\).*found float 3.0"),
    "contains": (process_with(contains=lambda: True), rf"contains {FUNCTION} \(x\).*takes \(\)"),
    "divergence": (
        process_with(drift_divergence=2.0),
        rf"drift_divergence {FUNCTION} \(y, t\).*or None, found float 2.0",
    ),
    "Jacobian": (process_with(drift_jacobian=lambda y: y), r"drift_jacobian .*takes \(y\)"),
}
BAD_SCORES = {
    "a number": (lambda: 3.0, r"a \w+ \(x, t\) -> \(B, d\), found float"),
    "of x": (lambda: lambda x: x, r"a function \(x, t\) -> \(B, d\), found one that takes \(x\)"),
    "a class": (lambda: ms.ScoreMLP, r"found the class ScoreMLP: pass ScoreMLP\(\.\.\.\)"),
    "a module of x": (lambda: torch.nn.Linear(2, 2).double(), r"found one that takes \(input"),
}
BAD_ATTRIBUTES = {
    "divergence": (2.0, r"Described.divergence to be a function \(x, t\).*found float 2.0"),
    "finest_time": ("small", "Described.finest_time to be a number or None, found str 'small'"),
    "dtype": ("float32", "Described.dtype to be a torch.dtype or None, found str 'float32'"),
}
BAD_OBJECTIVES = {
    "no loss": (lambda: object(), r"objective: expected loss\(score, x0, generator\), found obj"),
    "a function": (lambda: score, r"objective: .* found function without it"),
    "a class": (lambda: ms.DenoisingSM, "class DenoisingSM: pass"),
    "loss of two": (lambda: Plain(None, None, loss=lambda s, x: 0), r"Plain.loss .*takes \(s, x\)"),
    "state": (
        lambda: Plain(None, None, loss=lambda s, x, g: 0, state={}),
        "Plain.state to be a function",
    ),
}
BAD_LAWS = {
    "no score": (lambda: Plain(None, None, dim=2), r"dim and score\(x\).*Plain without score"),
    "no dimension": (lambda: Plain(None, None, score=lambda x: x), "Plain without dim"),
    "score": (lambda: Plain(None, None, dim=2, score=lambda: 0), r"Plain.score .*takes \(\)"),
    "Hessian": (
        lambda: Plain(None, None, dim=2, score=lambda x: x, hessian=1.0),
        "Plain.hessian to be a function",
    ),
}


def refused(ask, bad, message):
    with pytest.raises(TypeError, match=message) as caught:
        ask(bad)
    assert re.search(r"^\w+: expected .*found .*: ", str(caught.value)), caught.value


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_with_a_fault_is_named(name):
    for make, message in BAD_PROCESSES.values():
        refused(PROCESSES[name][0], make(), message)


@pytest.mark.parametrize("name", SCORES)
def test_a_score_with_a_fault_is_named(name):
    for make, message in BAD_SCORES.values():
        refused(SCORES[name], make(), message)
    for attribute, (value, message) in BAD_ATTRIBUTES.items():
        bad = Described()
        setattr(bad, attribute, value)
        refused(SCORES[name], bad, message)


@pytest.mark.parametrize("name", SCORES)
def test_a_score_of_another_shape_is_named(name):
    """One column for two would broadcast to a wrong number."""
    with pytest.raises(ValueError, match=r"expected shape \(\d+, 2\), found \(\d+, 1\)"):
        SCORES[name](lambda x, t: -x[:, :1])


def test_an_objective_or_a_law_with_a_fault_is_named():
    for make, message in BAD_OBJECTIVES.values():
        refused(trained, make(), message)
    for make, message in BAD_LAWS.values():
        refused(LAWS["Langevin"], make(), message)


@pytest.mark.parametrize("ask", [PROCESSES["sample_ode"][0], PROCESSES["log_likelihood"][0]])
def test_a_prior_that_cannot_do_what_is_asked_is_named(ask):
    with pytest.raises(TypeError, match=r"prior: expected (sample|log_prob)\(.*found Quartic"):
        ask(process_with(prior=Quartic(), horizon=1.0)())


@pytest.fixture(params=[torch.float16, torch.float64])
def other_default(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(before)


def test_a_number_for_a_divergence_has_the_precision_of_the_points(other_default):
    process = plain("prior", "horizon")
    exact = PROCESSES["log_likelihood"][0](process)
    process.drift_divergence = lambda y, t: -2.0 - 1e-9 / 3
    found = PROCESSES["log_likelihood"][0](process)
    torch.testing.assert_close(found, exact - (1 - 1e-3) * 1e-9 / 3, rtol=0, atol=1e-13)


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
