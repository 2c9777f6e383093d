"""Odd and bad inputs over the whole public face: a right number, or expected, found and the fix.

The forms of each argument come from ``odd_inputs``; the good values are drawn from a seed. A call
whose error does not come from us, or whose number is not that of the good value, is listed.
"""

import inspect
import re

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
    flat,
)
from statistical import rng

import markovscore as ms

SEED = 20261130
DOUBLE = torch.float64


def draw(rows, dim=2, seed=SEED, size=0.5):
    g = rng(seed)
    return size * torch.randn(rows, dim, generator=g, dtype=DOUBLE)


class Plain:
    """A user's process: a class with drift and dispersion, no base class."""

    dim, horizon, prior = 2, 2.0, ms.Gaussian(2)

    def drift(self, y, t):
        return torch.cos(t) - torch.sin(y)

    def dispersion(self, t):
        return 1.0 + 0.1 * t


def gaussian_score(x, t):
    return -x


DATA = draw(400, seed=SEED + 1)
OU, TORUS, BOX = ms.OrnsteinUhlenbeck(2), ms.TorusBrownian(2), ms.BoxBrownian(2, -4.0, 4.0)
WELL, VP = ms.DoubleWell(2, horizon=1.0), ms.VariancePreserving(2)
LANGEVIN = ms.Langevin(ms.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], 0.7), beta=1.0, horizon=2.0)
LINEAR = ms.LinearSDE([[-1.0, 0.5], [0.0, -0.7]], [[1.0, 0.0], [0.2, 0.8]])
MIXTURE = ms.DiffusedMixture(OU, [[0.0, 0.0], [1.0, 1.0]], [0.5, 0.4])
WEIGHTS = torch.full((400,), 1 / 400, dtype=DOUBLE)
TIMES = torch.tensor([0.05, 0.2, 1.0, 3.0], dtype=DOUBLE)

SCORES = {
    "hermite": ms.fit_spectral(DATA, OU, 5, times=TIMES),
    "torus": ms.fit_spectral(DATA, TORUS, 8, times=TIMES),
    "box": ms.fit_spectral(DATA, BOX, 5, times=TIMES),
    "additive": ms.fit_spectral(DATA, OU, features="additive", order=2, times=TIMES),
    "mixture": MIXTURE,
}
NET = ms.ScoreMLP(2, width=8, generator=rng(SEED)).double()
SCORES["network"] = NET
SCORES["residual"] = ms.ResidualScore(SCORES["additive"], NET)


def score_calls():
    for rows in (5, 2):  # two rows of two coordinates: a time for each must not be for each column
        for name, score in SCORES.items():
            end = None if name in ("mixture", "network") else 3.0
            arguments = {"x": Points(draw(rows)), "t": When(0.3, rows, end=end)}
            network = {"one_dtype": isinstance(score, torch.nn.Module)} | {"by_rows": score is NET}
            yield Call(
                f"{name} score, {rows} rows", lambda x, t, s=score: s(x, t), arguments, **network
            )
            if hasattr(score, "score_and_divergence"):
                yield Call(
                    f"{name} divergence, {rows} rows",
                    lambda x, t, s=score: s.score_and_divergence(x, t),
                    arguments,
                    **network,
                )


def process_calls():
    for rows in (5, 2):
        x, y, t = Points(draw(rows), True), Points(draw(rows, seed=7), True), When(0.3, rows)
        for p in (OU, TORUS, BOX, VP, LINEAR):
            name = f"{type(p).__name__}, {rows} rows"
            yield Call(
                f"transition of {name}",
                lambda y, x0, t, p=p: (p.log_transition(y, x0, t), p.transition_score(y, x0, t)),
                {"y": y, "x0": x, "t": t},
                by_rows=True,
            )
            yield Call(
                f"draw of {name}",
                lambda x0, t, generator, p=p: p.sample_transition(x0, t, generator),
                {"x0": Points(draw(rows)), "t": t, "generator": Source(1)},
                by_rows=True,
            )
    yield Call("mixture density", MIXTURE.log_prob, {"x": Points(draw(5)), "t": When(0.3, 5)})
    for prior in (ms.Gaussian(2), LANGEVIN.prior, ms.Logistic(2), ms.UniformTorus(2)):
        name = f"{type(prior).__name__} density"
        yield Call(name, prior.log_prob, {"x": Points(draw(5))}, by_rows=True)
        yield Call(
            f"{type(prior).__name__} draw",
            lambda n, generator, p=prior: p.sample(n, generator, dtype=DOUBLE),
            {"n": Count(3, least=0), "generator": Source(1)},
        )


def path_calls():
    for p in (WELL, LANGEVIN, LINEAR, Plain()):
        name = type(p).__name__
        for rows in (5, 2):
            window = {"y_s": Points(draw(rows)), "s": When(0.2, rows), "t": When(0.5, rows)}
            window["t"] = When(0.5, rows, end=p.horizon)
            yield Call(
                f"local transition of {name}, {rows} rows",
                lambda y_s, s, t, p=p: ms.local_transition(p, y_s, s, t),
                window,
            )
            yield Call(
                f"path shift of {name}, {rows} rows",
                lambda y_s, s, t, steps, generator, p=p: ms.path_shift_target(
                    p, y_s, s, t, steps=steps, generator=generator
                ),
                window | {"steps": Count(3), "generator": Source(2)},
            )
            yield Call(
                f"local target of {name}, {rows} rows",
                lambda y_s, s, t, generator, p=p: ms.local_target(
                    p, y_s, s, t, generator=generator
                ),
                window | {"generator": Source(2)},
            )
            yield Call(
                f"simulate {name}, {rows} rows",
                lambda x0, t, steps, generator, p=p: ms.simulate(p, x0, t, steps, generator),
                {"x0": Points(draw(rows)), "t": When(0.5, rows, end=p.horizon)}
                | {"steps": Count(3), "generator": Source(2)},
            )
    yield Call(
        "linearised weight",
        lambda y_s, s, t: ms.linearised_weight(WELL, y_s, s, t)(torch.linspace(0, 1, 3)),
        {"y_s": Points(draw(5)), "s": When(0.2, 5), "t": When(0.5, 5, end=1.0)},
    )
    yield Call(
        "clock window",
        lambda width: (ms.clock_window(LANGEVIN, 0.5, width), ms.fixed_window(0.5, width)),
        {"width": Positive(0.2, bound=True)},
    )


def objective_calls():
    objectives = {
        "DenoisingSM": lambda **k: ms.DenoisingSM(OU, **k),
        "LocalDSM": lambda **k: ms.LocalDSM(WELL, steps=3, **k),
        "PathShiftDSM": lambda **k: ms.PathShiftDSM(WELL, window=1.0, steps=3, **k),
        "ImplicitSM": lambda **k: ms.ImplicitSM(WELL, steps=3, **k),
    }
    for name, make in objectives.items():
        yield Call(
            f"{name} loss",
            lambda x0, generator, m=make: m().losses(gaussian_score, x0, generator),
            {"x0": Points(draw(5)), "generator": Source(3)},
            draws=True,
        )
        yield Call(
            f"{name} settings",
            lambda m=make, **k: m(**k).losses(gaussian_score, draw(5), Source(3).value),
            {"t_min": Positive(0.01), "t_max": Positive(0.9), "times": Name("uniform")},
        )
    yield Call(
        "LocalDSM window",
        lambda **k: ms.LocalDSM(WELL, **k).losses(gaussian_score, draw(5), Source(3).value),
        {"window": Positive(0.1, bound=True), "steps": Count(3), "weighting": Name("likelihood")}
        | {"reuse": Count(1), "ahead": Count(2)},
    )
    yield Call(
        "ImplicitSM trace",
        lambda **k: ms.ImplicitSM(WELL, **k).losses(gaussian_score, draw(5), Source(3).value),
        {"trace": Name("exact"), "steps": Count(3)},
    )


def sampling_calls():
    score = SCORES["hermite"]
    common = {"steps": Count(4), "generator": Source(4)}
    for sampler in (ms.sample_ode, ms.sample_sde):
        name = sampler.__name__
        yield Call(
            f"{name} from the prior",
            lambda n, s=sampler, **k: s(score, OU, n, **k),
            {"n": Count(3)} | common,
        )
        yield Call(
            f"{name} from points",
            lambda x_T, times, s=sampler: s(score, OU, 5, times=times, x_T=x_T, generator=gen()),
            {"x_T": Points(draw(5), True, optional=True), "times": Vector(TIMES)},
        )
        yield Call(
            f"{name} of nothing",
            lambda score, diffusion, s=sampler: s(score, diffusion, 3, steps=4, generator=gen()),
            {"score": Other(score), "diffusion": Other(OU)},
        )
    yield Call(
        "ODE method",
        lambda method, rtol, atol: ms.sample_ode(
            score, OU, 3, method=method, rtol=rtol, atol=atol, generator=gen()
        ),
        {"method": Name("heun"), "rtol": Positive(1e-5), "atol": Positive(1e-6)},
    )
    yield Call(
        "log likelihood",
        lambda x, steps, trace, probes: ms.log_likelihood(
            score, OU, x, steps=steps, trace=trace, probes=probes
        ),
        {"x": Points(draw(5)), "steps": Count(4), "trace": Name("exact"), "probes": Count(1)},
    )
    yield Call(
        "log likelihood of a plain process",
        lambda x, times: ms.log_likelihood(gaussian_score, Plain(), x, times=times),
        {"x": Points(draw(2)), "times": Vector(TIMES / 2)},
    )
    yield Call(
        "elbo",
        lambda x, samples, steps, form: ms.elbo(
            gaussian_score, OU, x, samples=samples, steps=steps, form=form, generator=gen()
        ),
        {"x": Points(draw(5)), "samples": Count(2), "steps": Count(4), "form": Name("trace")},
        draws=True,
    )


def gen(seed=5):
    return rng(seed)


def fit_calls():
    for p in (OU, TORUS, BOX):
        yield Call(
            f"product fit of {type(p).__name__}",
            lambda x, n_functions, times, shrinkage, p=p: (
                ms.fit_spectral(
                    x, p, n_functions=n_functions, times=times, shrinkage=shrinkage
                ).coefficients
            ),
            {"x": Points(DATA), "n_functions": Count(6), "times": Vector(TIMES)}
            | {"shrinkage": Name("heat")},
        )
    yield Call(
        "weighted fit",
        lambda x, weights: ms.fit_spectral(x, OU, 5, times=TIMES, weights=weights).coefficients,
        {"x": Points(DATA, True), "weights": Vector(WEIGHTS)},
    )
    yield Call(
        "additive fit",
        lambda x, order, times, features: ms.fit_spectral(
            x, OU, features=features, order=order, times=times
        )(DATA[:5].clone(), 0.3),
        {"x": Points(DATA), "order": Count(2), "times": Vector(TIMES)}
        | {"features": Name("additive")},
    )
    for basis in (ms.Hermite(2, 6), ms.Fourier(2, 6), ms.Cosine(2, 6, -4.0, 4.0)):
        name = type(basis).__name__
        for method in ("__call__", "gradient", "laplacian"):
            if hasattr(basis, method):
                yield Call(f"{name} {method}", getattr(basis, method), {"x": Points(draw(5))})
        yield Call(
            f"{name} functions",
            lambda dim, n_functions, b=basis: type(b)(dim, n_functions).eigenvalues,
            {"dim": Count(2), "n_functions": Count(6)},
        )


def other_calls():
    x, y = Points(draw(30), least_rows=2), Points(draw(20, seed=9), least_rows=2)
    yield Call(
        "mmd", lambda x, y, bandwidth: ms.metrics.mmd(x, y, bandwidth),
        {"x": x, "y": y, "bandwidth": Positive(1.0)},
    )  # fmt: skip
    yield Call(
        "sliced Wasserstein",
        lambda x, y, n_projections, generator: ms.metrics.sliced_wasserstein(
            x, y, n_projections, generator
        ),
        {"x": x, "y": y, "n_projections": Count(10, least=2), "generator": Source(6)},
        draws=True,
    )
    yield Call(
        "Fisher divergence",
        lambda x, t: ms.metrics.fisher_divergence(MIXTURE, gaussian_score, x, t),
        {"x": Points(draw(5), least_rows=2), "t": When(0.3, 5)},
    )
    yield Call(
        "toy set",
        lambda name, n, generator: ms.toy(name, n, generator=generator, dtype=DOUBLE),
        {"name": Name("pinwheel"), "n": Count(3), "generator": Source(6)},
    )
    yield Call(
        "mixture draw",
        lambda n, generator: MIXTURE.sample(n, generator, dtype=DOUBLE),
        {"n": Count(3), "generator": Source(6)},
    )
    yield Call(
        "training",
        trained,
        {"data": Points(draw(12)), "steps": Count(2), "batch_size": Count(4), "lr": Positive(1e-3)},
        one_dtype=True,
    )
    for make, arguments in (
        (ms.OrnsteinUhlenbeck, {"dim": Count(2), "horizon": Positive(2.0)}),
        (ms.TorusBrownian, {"dim": Count(2), "horizon": Positive(2.0)}),
        (ms.DoubleWell, {"dim": Count(2), "horizon": Positive(2.0)}),
        (ms.VariancePreserving, {"dim": Count(2), "beta": Positive(3.0), "horizon": Positive(1.0)}),
        (ms.ActiveSwimmer, {"gamma": Positive(0.1), "D": Positive(1.0), "horizon": Positive(2.0)}),
        (ms.Logistic, {"dim": Count(2), "scale": Positive(1.0)}),
    ):
        yield Call(f"{make.__name__}()", lambda m=make, **k: built(m(**k)), arguments)


def more_calls():
    yield Call(
        "Fokker-Planck",
        lambda cells, times: (
            ms.fokker_planck(
                ms.DoubleWell(1),
                ms.Gaussian(1).log_prob,
                times,
                [(-6.0, 6.0)],
                cells=cells,
                steps=20,
            ).values
        ),
        {"cells": Count(40, each=True), "times": Vector(TIMES)},
        draws=True,
    )
    yield Call(
        "Stein identities",
        lambda x0, t, steps, paths, generator: (
            ms.stein_check(WELL, x0, t, steps=steps, paths=paths, generator=generator).z
        ),
        {"x0": Points(draw(5)), "t": Positive(0.5), "steps": Count(3), "paths": Count(64)}
        | {"generator": Source(2)},
        draws=True,
    )
    yield Call(
        "trial mixture",
        lambda x, t: ms.mixture_1d(ms.OrnsteinUhlenbeck(1)).log_prob(x, t),
        {"x": Points(draw(5, 1)), "t": When(0.3, 5)},
    )
    for name in ("DenoisingSM", "ImplicitSM"):
        yield Call(
            f"{name} of nothing",
            lambda score, name=name: getattr(ms, name)(OU).losses(score, draw(5), gen()),
            {"score": Other(gaussian_score)},
        )
        yield Call(
            f"{name} of no process",
            lambda diffusion, name=name: getattr(ms, name)(diffusion).losses(
                gaussian_score, draw(5), gen()
            ),
            {"diffusion": Other(OU)},
        )
    for function in (ms.simulate, ms.local_transition, ms.path_shift_target):
        steps = {} if function is ms.local_transition else {"steps": 3}
        yield Call(
            f"{function.__name__} of no process",
            lambda diffusion, f=function, k=steps: (
                f(diffusion, draw(5), 0.5, 3, gen())
                if f is ms.simulate
                else f(diffusion, draw(5), 0.2, 0.5, **k)
            ),
            {"diffusion": Other(WELL)},
            draws=True,
        )


def built(thing):
    x = draw(3)
    if hasattr(thing, "drift"):
        return thing.drift(x, torch.tensor(0.1, dtype=DOUBLE)), torch.tensor(thing.horizon)
    return thing.log_prob(x)


def trained(data, steps, batch_size, lr):
    net = ms.ScoreMLP(2, width=4, generator=gen()).double()
    objective = ms.DenoisingSM(OU)
    result = ms.train(
        net, objective, data, steps=steps, batch_size=batch_size, lr=lr, seed=1, progress=False
    )
    return result.losses


CALLS = [
    call
    for calls in (
        score_calls, process_calls, path_calls, objective_calls, sampling_calls, fit_calls,
        other_calls, more_calls,
    )
    for call in calls()
]  # fmt: skip

# What a caller reads: what was expected and what was found.
MESSAGE = re.compile(r"expected\b.*\bfound\b", re.DOTALL | re.IGNORECASE)


def trouble(call, key, form, reference):
    """What is wrong with the outcome of ``form``, or None."""
    arguments = call.good() | {key: form.value}
    try:
        result = flat(call.run(**arguments))
    except (TypeError, ValueError) as error:
        if form.outcome == SAME and not (call.one_dtype and "dtype" in str(error)):
            return f"refused: {error}"
        if not MESSAGE.search(str(error)):
            return f"raw {type(error).__name__}: {error}"
        return None
    except Exception as error:
        return f"raw {type(error).__name__}: {error}"
    if call.by_rows and (result.numel() == 0 or form.not_finite):
        return None if not bool(torch.isfinite(result).all()) or result.numel() == 0 else "finite"
    if form.outcome == REFUSED:
        return "no error"
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
    reference = flat(call.run(**call.good()))
    assert bool(torch.isfinite(reference).all())
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
        net, objective = ms.ScoreMLP(2, width=4, generator=gen()), ms.DenoisingSM(OU)
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
    ms.sample_ode(gaussian_score, ms.DoubleWell(2), 3, generator=gen())


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
