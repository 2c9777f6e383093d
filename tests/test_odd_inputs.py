"""Odd and bad inputs over the whole public face: a right number, or expected, found and the fix.

The forms of each argument come from ``odd_inputs``; the good values are drawn from a seed. A call
whose error does not come from us, or whose number is not that of the good value, is listed.
"""

import inspect
import re
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from odd_inputs import (
    REFUSED,
    SAME,
    Call,
    Count,
    Name,
    Other,
    Points,
    Positive,
    Source,
    Vector,
    When,
    dtypes,
    flat,
)
from problems import Plain
from statistical import F64, points, rng

import markovscore as ms

SEED = 20261130


def draw(rows, dim=2, seed=SEED):
    return points(rows, dim, seed, 0.5)


def gaussian_score(x, t):
    return -x


DATA = draw(400, seed=SEED + 1)
OU, TORUS, BOX = ms.OrnsteinUhlenbeck(2), ms.TorusBrownian(2), ms.BoxBrownian(2, -4.0, 4.0)
WELL, VP = ms.DoubleWell(2, horizon=1.0), ms.VariancePreserving(2)
LANGEVIN = ms.Langevin(ms.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], 0.7), beta=1.0, horizon=2.0)
LINEAR = ms.LinearSDE([[-1.0, 0.5], [0.0, -0.7]], [[1.0, 0.0], [0.2, 0.8]])
PLAIN = Plain(lambda y, t: torch.cos(t) - torch.sin(y), lambda t: 1.0 + 0.1 * t, dim=2, horizon=2.0)
PLAIN.prior = ms.Gaussian(2)
MIXTURE = ms.DiffusedMixture(OU, [[0.0, 0.0], [1.0, 1.0]], [0.5, 0.4])
WEIGHTS = torch.full((400,), 1 / 400, dtype=F64)
TIMES = torch.tensor([0.05, 0.2, 1.0, 3.0], dtype=F64)
ADDITIVE = {"features": "additive", "times": TIMES}
SOLVED = ms.fokker_planck(
    WELL, ms.Gaussian(2, scale=0.5).log_prob, [0.1], ((-3.5, 3.5),) * 2, cells=40, steps=10
)
NET = ms.ScoreMLP(2, width=8, generator=rng(SEED)).double()
SCORES = {
    "hermite": ms.fit_spectral(DATA, OU, 5, times=TIMES),
    "torus": ms.fit_spectral(DATA, TORUS, 8, times=TIMES),
    "box": ms.fit_spectral(DATA, BOX, 5, times=TIMES),
    "additive": ms.fit_spectral(DATA, OU, order=2, **ADDITIVE),
    "rotated": ms.fit_spectral(DATA, OU, order=3, rotation="pca", **ADDITIVE),
    "mixture": MIXTURE,
    "network": NET,
}
SCORES["residual"] = ms.ResidualScore(SCORES["rotated"], NET)
HERMITE = SCORES["hermite"]
CALLS: list[Call] = []


def add(title, run, /, *flags, **arguments):
    """List a call of ``run`` with these arguments; ``flags`` are those of ``Call``."""
    CALLS.append(Call(title, run, arguments, **dict.fromkeys(flags, True)))


def both(first, second):
    return lambda **given: (first(**given), second(**given))


def seeded(function, *fixed, **settings):
    """``function`` with a generator of its own in every call."""
    return lambda **given: function(*fixed, generator=rng(5), **settings, **given)


def losses(make, points=None, **settings):
    """Losses of the score ``-x`` under an objective that is built anew."""

    def run(x0=points, generator=None, score=gaussian_score, **given):
        return make(**settings | given).losses(score, x0, generator or rng(3))

    return run


def attribute(name, make, **settings):
    return lambda **given: getattr(make(**settings, **given), name)


def built(make, **settings):
    """What a process or law does that has been made from these arguments."""

    def run(**given):
        x, thing = draw(3), make(**settings, **given)
        if hasattr(thing, "drift"):
            return thing.drift(x, torch.tensor(0.1, dtype=F64)), torch.tensor(thing.horizon)
        return thing.log_prob(x)

    return run


def trained(**given):
    net = ms.ScoreMLP(2, width=4, generator=rng(5)).double()
    return ms.train(net, ms.DenoisingSM(OU), **given, seed=1, progress=False).losses


# fmt: off
# Scores, for two rows of two coordinates too: a time for each must not be for each column.
for rows in (5, 2):
    for name, score in SCORES.items():
        end = None if name in ("mixture", "network") else 3.0
        where = {"x": Points(draw(rows)), "t": When(0.3, rows, end=end)}
        flags = ["one_dtype"] * isinstance(score, torch.nn.Module) + ["by_rows"] * (score is NET)
        add(f"{name} score, {rows} rows", score, *flags, **where)
        if hasattr(score, "score_and_divergence"):
            add(f"{name} divergence, {rows} rows", score.score_and_divergence, *flags, **where)

# Processes and laws.
for rows in (5, 2):
    x, y, t = Points(draw(rows), True), Points(draw(rows, seed=7), True), When(0.3, rows)
    for p in (OU, TORUS, BOX, VP, LINEAR):
        name, source = f"{type(p).__name__}, {rows} rows", Source(1)
        add(f"transition of {name}", both(p.log_transition, p.transition_score), "by_rows", y=y,
            x0=x, t=t)
        add(f"draw of {name}", p.sample_transition, "by_rows", x0=Points(draw(rows)), t=t,
            generator=source)
add("drift", partial(LINEAR.drift, t=0.1), "by_rows", y=Points(draw(5)))
add("mixture density", MIXTURE.log_prob, x=Points(draw(5)), t=When(0.3, 5))
add("solved density", partial(SOLVED.density, t=0.1), x=Points(draw(5)))
for prior in (ms.Gaussian(2), LANGEVIN.prior, ms.Logistic(2), ms.UniformTorus(2)):
    name = type(prior).__name__
    add(f"{name} density", prior.log_prob, "by_rows", x=Points(draw(5)))
    add(f"{name} draw", partial(prior.sample, dtype=F64), n=Count(3, least=0), generator=Source(1))
add("law's score", LANGEVIN.prior.score, "by_rows", x=Points(draw(5)))

# Paths.
for p in (WELL, LANGEVIN, LINEAR, PLAIN):
    for rows in (5, 2):
        name, steps, source = f"{type(p).__name__}, {rows} rows", Count(3), Source(2)
        start, end = Points(draw(rows)), When(0.5, rows, end=p.horizon)
        window = {"y_s": start, "s": When(0.2, rows), "t": end}
        add(f"local transition of {name}", partial(ms.local_transition, p), **window)
        add(f"local target of {name}", partial(ms.local_target, p), **window, generator=source)
        add(f"path shift of {name}", partial(ms.path_shift_target, p), **window, steps=steps,
            generator=source)
        add(f"simulate {name}", partial(ms.simulate, p), x0=start, t=end, steps=steps,
            generator=source)
add("linearised weight",
    lambda **window: ms.linearised_weight(WELL, **window)(torch.linspace(0, 1, 3)),
    y_s=Points(draw(5)), s=When(0.2, 5), t=When(0.5, 5, end=1.0))
add("windows", both(partial(ms.clock_window, LANGEVIN, 0.5), partial(ms.fixed_window, 0.5)),
    width=Positive(0.2, bound=True))
add("Stein identities", lambda **given: ms.stein_check(WELL, **given).z, "draws",
    x0=Points(draw(5)), t=Positive(0.5), steps=Count(3), paths=Count(64), generator=Source(2))

# Objectives.
for make, settings in (
    (ms.DenoisingSM, {"diffusion": OU}),
    (ms.LocalDSM, {"diffusion": WELL, "steps": 3}),
    (ms.PathShiftDSM, {"diffusion": WELL, "window": 1.0, "steps": 3}),
    (ms.ImplicitSM, {"diffusion": WELL, "steps": 3}),
):
    name = make.__name__
    add(f"{name} loss", losses(make, **settings), "draws", x0=Points(draw(5)), generator=Source(3))
    add(f"{name} settings", losses(make, draw(5), **settings),
        t_min=Positive(0.01), t_max=Positive(0.9), times=Name("uniform"))
add("LocalDSM window", losses(ms.LocalDSM, draw(5), diffusion=WELL),
    window=Positive(0.1, bound=True),
    steps=Count(3), weighting=Name("likelihood"), reuse=Count(1), ahead=Count(2))
add("ImplicitSM trace", losses(ms.ImplicitSM, draw(5), diffusion=WELL), trace=Name("exact"),
    steps=Count(3))
for make in (ms.DenoisingSM, ms.ImplicitSM):
    add(f"{make.__name__} of nothing", losses(make, draw(5)),
        diffusion=Other(OU), score=Other(gaussian_score))

# Samplers and densities.
for sampler in (ms.sample_ode, ms.sample_sde):
    name = sampler.__name__
    add(f"{name} from the prior", partial(sampler, HERMITE, OU), n=Count(3), steps=Count(4),
        generator=Source(4))
    add(f"{name} from points", seeded(sampler, HERMITE, OU, 5),
        x_T=Points(draw(5), True, optional=True), times=Vector(TIMES))
    add(f"{name} of nothing", seeded(sampler, n=3, steps=4), score=Other(HERMITE),
        diffusion=Other(OU))
add("ODE method", seeded(ms.sample_ode, HERMITE, OU, 3),
    method=Name("heun"), rtol=Positive(1e-5), atol=Positive(1e-6))
add("log likelihood", partial(ms.log_likelihood, HERMITE, OU),
    x=Points(draw(5)), steps=Count(4), trace=Name("exact"), probes=Count(1))
add("log likelihood of a plain process", partial(ms.log_likelihood, gaussian_score, PLAIN),
    x=Points(draw(2)), times=Vector(TIMES / 2))
add("elbo", seeded(ms.elbo, gaussian_score, OU), "draws",
    x=Points(draw(5)), samples=Count(2), steps=Count(4), form=Name("trace"))

# Fits and their functions.
for p in (OU, TORUS, BOX):
    add(f"product fit of {type(p).__name__}",
        attribute("coefficients", ms.fit_spectral, diffusion=p),
        x=Points(DATA), n_functions=Count(6), times=Vector(TIMES), shrinkage=Name("heat"))
add("weighted fit",
    attribute("coefficients", ms.fit_spectral, diffusion=OU, n_functions=5, times=TIMES),
    x=Points(DATA, True), weights=Vector(WEIGHTS))
add("additive fit", lambda **given: ms.fit_spectral(diffusion=OU, **given)(DATA[:5].clone(), 0.3),
    x=Points(DATA), order=Count(2), times=Vector(TIMES), features=Name("additive"))
add("rotated fit",
    lambda **given: ms.fit_additive(diffusion=OU, times=TIMES, **given)(DATA[:5], 0.3),
    x=Points(DATA), order=Count(3), rotation=Name("pca"))
for basis in (ms.Hermite(2, 6), ms.Fourier(2, 6), ms.Cosine(2, 6, -4.0, 4.0)):
    name = type(basis).__name__
    for method in ("__call__", "gradient", "laplacian"):
        add(f"{name} {method}", getattr(basis, method), x=Points(draw(5)))
    add(f"{name} functions", attribute("eigenvalues", type(basis)), dim=Count(2),
        n_functions=Count(6))

# Distances, data, training, constructors, the solver.
x, y = Points(draw(30), least_rows=2), Points(draw(20, seed=9), least_rows=2)
add("mmd", ms.metrics.mmd, x=x, y=y, bandwidth=Positive(1.0))
add("sliced Wasserstein", ms.metrics.sliced_wasserstein, "draws",
    x=x, y=y, n_projections=Count(10, least=2), generator=Source(6))
for distance in (ms.metrics.fisher_divergence, ms.metrics.relative_fisher_divergence):
    add(distance.__name__, partial(distance, MIXTURE, gaussian_score),
        x=Points(draw(5), least_rows=2), t=When(0.3, 5))
add("toy set", partial(ms.toy, dtype=F64), name=Name("pinwheel"), n=Count(3), generator=Source(6))
add("mixture draw", partial(MIXTURE.sample, dtype=F64), n=Count(3), generator=Source(6))
add("trial mixture", ms.mixture_1d(ms.OrnsteinUhlenbeck(1)).log_prob, x=Points(draw(5, 1)),
    t=When(0.3, 5))
add("training", trained, "one_dtype",
    data=Points(draw(12)), steps=Count(2), batch_size=Count(4), lr=Positive(1e-3))
for make, arguments in (
    (ms.OrnsteinUhlenbeck, {"dim": Count(2), "horizon": Positive(2.0)}),
    (ms.TorusBrownian, {"dim": Count(2), "horizon": Positive(2.0)}),
    (ms.DoubleWell, {"dim": Count(2), "horizon": Positive(2.0)}),
    (ms.VariancePreserving, {"dim": Count(2), "beta": Positive(3.0), "horizon": Positive(1.0)}),
    (ms.ActiveSwimmer, {"gamma": Positive(0.1), "D": Positive(1.0), "horizon": Positive(2.0)}),
    (ms.Logistic, {"dim": Count(2), "scale": Positive(1.0)}),
):
    add(f"{make.__name__}()", built(make), **arguments)
add("TrappedParticles()", attribute("dim", ms.TrappedParticles), n_particles=Count(2),
    D=Positive(0.25))
add("PathBuffer()", attribute("ahead", ms.PathBuffer), reuse=Count(2), ahead=Count(3))
add("ScoreMLP()", lambda **sizes: ms.ScoreMLP(dim=2, **sizes)(draw(5).float(), 0.5),
    width=Count(4), depth=Count(1))
add("ScoreUNet()", attribute("dim", ms.ScoreUNet, shape=(1, 4, 4)), channels=Count(4),
    blocks=Count(1))
add("Fokker-Planck", attribute("values", ms.fokker_planck, diffusion=ms.DoubleWell(1),
    log_prob=ms.Gaussian(1, scale=0.5).log_prob, bounds=[(-6.0, 6.0)]), "draws",
    cells=Count(40, each=True), steps=Count(20), times=Vector(TIMES))
for function, settings in (
    (ms.simulate, {"x0": draw(5), "t": 0.5, "steps": 3, "generator": rng(5)}),
    (ms.local_transition, {"y_s": draw(5), "s": 0.2, "t": 0.5}),
    (ms.path_shift_target, {"y_s": draw(5), "s": 0.2, "t": 0.5, "steps": 3}),
):
    add(f"{function.__name__} of no process", partial(function, **settings), "draws",
        diffusion=Other(WELL))
# fmt: on

# What a caller reads: what was expected and what was found.
MESSAGE = re.compile(r"expected\b.*\bfound\b", re.DOTALL | re.IGNORECASE)


def trouble(call, key, form, reference):
    """What is wrong with the outcome of ``form``, or None."""
    arguments = call.good() | {key: form.value}
    expected, reference = reference, flat(reference)
    try:
        with warnings.catch_warnings():
            if form.tolerance == 0:
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", ms.SpectralWarning)
            given = call.run(**arguments)
        result = flat(given)
    except (TypeError, ValueError) as error:
        if form.outcome == SAME and not (call.one_dtype and "dtype" in str(error)):
            return f"refused: {error}"
        if not MESSAGE.search(str(error)) or form.says not in str(error):
            return f"raw {type(error).__name__}: {error}"
        return None
    except Exception as error:
        return f"raw {type(error).__name__}: {error}"
    if call.by_rows and (result.numel() == 0 or form.not_finite):
        return None if not bool(torch.isfinite(result).all()) or result.numel() == 0 else "finite"
    if form.outcome == REFUSED:
        return "no error"
    if form.tolerance == 0 and dtypes(given) != dtypes(expected):
        return f"{dtypes(given)} for {dtypes(expected)}"
    if call.draws and form.tolerance > 1e-5:
        return None if result.shape == reference.shape and bool(result.isfinite().all()) else "bad"
    size = float(reference.abs().max())
    if result.shape == reference.shape and bool(
        ((result - reference).abs() <= form.tolerance * max(size, 1.0)).all()
    ):
        return None
    return f"{result.tolist()[:4]} for {reference.tolist()[:4]}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_right_number_or_a_clear_error(call):
    rng = np.random.default_rng([SEED, *call.name.encode()])
    reference = call.run(**call.good())
    assert bool(torch.isfinite(flat(reference)).all())
    found = []
    for key, argument in call.arguments.items():
        for form in argument.forms(rng):
            if problem := trouble(call, key, form, reference):
                found.append(f"{key}, {form.name}: {problem[:200]}")
    assert not found, "\n".join(["", *found])


# Orders of call: each ends in an error that says what was expected, or in the number of another
# order.


def unfinished(tmp_path):
    ms.SpectralScore.load(tmp_path / "never saved")


def another_kind(tmp_path):
    SCORES["additive"].save(tmp_path / "score")
    ms.SpectralScore.load(tmp_path / "score")


def before_the_first_time(tmp_path):
    SCORES["hermite"](draw(5), 0.001)


def resumed_otherwise(tmp_path):
    for batch_size in (4, 6):
        net, objective = ms.ScoreMLP(2, width=4, generator=rng(5)), ms.DenoisingSM(OU)
        ms.train(
            net, objective, draw(12).float(), steps=batch_size, batch_size=batch_size, seed=1,
            checkpoint=tmp_path / "run", progress=False,
        )  # fmt: skip


def merged_with_another_order(tmp_path):
    one, two = (ms.AdditiveMoments.empty(order, DATA) for order in (2, 3))
    one.update(DATA)
    two.update(DATA)
    one.merge(two)


def without_a_law_at_the_end(tmp_path):
    ms.sample_ode(gaussian_score, ms.DoubleWell(2), 3, generator=rng(5))


def with_a_wall(tmp_path):
    ms.path_shift_target(BOX, draw(5), 0.0, 0.5)


@pytest.mark.parametrize(
    "order",
    [
        unfinished,
        another_kind,
        before_the_first_time,
        resumed_otherwise,
        merged_with_another_order,
        without_a_law_at_the_end,
        with_a_wall,
    ],
    ids=lambda order: order.__name__,
)
def test_a_wrong_order_is_named(order, tmp_path):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=MESSAGE):
        order(tmp_path)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_the_order_of_calls_does_not_matter(name):
    score, x = SCORES[name], draw(7, seed=3)
    expected = score(x, 0.4).detach()
    with torch.inference_mode():
        score(draw(3), 0.7)
    with torch.device("meta"):
        score(x, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        score(x, 0.6)
    leaf = x.clone().requires_grad_()
    found = score(leaf, 0.4)
    assert torch.equal(found.detach(), expected)
    (slope,) = torch.autograd.grad(found.sum(), leaf)
    assert bool(slope.isfinite().all())


def test_every_public_function_is_called():
    text = inspect.getsource(inspect.getmodule(test_every_public_function_is_called))
    functions = [name for name in ms.__all__ if inspect.isfunction(getattr(ms, name))]
    missing = [name for name in functions if f"ms.{name}" not in text]
    assert missing == []
