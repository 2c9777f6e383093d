"""The public face in one table: how every function is called, and what each argument of it is.

Odd inputs, times, plain objects in the place of the package's and the caller's modes are walked
over it. The name of a call begins with the public name that it is about; ``rowwise`` has what acts
on rows, for any number of rows and coordinates. The good values are drawn from a seed.
"""

from functools import cache, partial

import torch
from odd_inputs import Call, Count, Name, Noun, Points, Positive, Source, Vector, When
from problems import Plain
from statistical import F64, points, rng

import markovscore as ms
from markovscore.core import check_points
from markovscore.kernels import PathDrift, Steps, euler_paths

SEED = 20261130
TIMES = torch.tensor([0.05, 0.2, 1.0, 3.0], dtype=F64)
OWN = 1 - 0.1 * torch.arange(4, dtype=F64)  # shares of a time, for rows of their own
SHARE = torch.tensor([0.0, 0.5, 1.0], dtype=F64)


def draw(rows, dim=2, seed=SEED):
    return points(rows, dim, seed, 0.5)


DATA = draw(400, seed=SEED + 1)
OU, WELL = ms.OrnsteinUhlenbeck(2), ms.DoubleWell(2, horizon=1.0)
LANGEVIN = ms.Langevin(ms.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], 0.7), beta=1.0, horizon=2.0)
MIXTURE = ms.DiffusedMixture(OU, [[0.0, 0.0], [1.0, 1.0]], [0.5, 0.4])


def plain(d):
    """A user's own process with a law at the end."""
    own = Plain(lambda y, t: torch.cos(t) - torch.sin(y), lambda t: 1.0 + 0.1 * t)
    own.dim, own.horizon, own.prior = d, 2.0, ms.Gaussian(d)
    return own


def gaussian_score(x, t):
    return -x


def call(name, run, /, *flags, **arguments):
    """A call of ``run`` with these arguments; ``flags`` are those of ``Call``."""
    return Call(name, run, arguments, **dict.fromkeys(flags, True))


def both(first, second):
    return lambda **given: (first(**given), second(**given))


def seeded(function, *fixed, **settings):
    """``function`` with a generator of its own in every call."""
    return lambda **given: function(*fixed, generator=rng(5), **settings, **given)


def losses(make):
    """Losses of a score under an objective that is built anew."""

    def run(x0, generator, score, **settings):
        return make(**settings).losses(score, x0, generator)

    return run


def attribute(name, make, **settings):
    return lambda **given: getattr(make(**settings, **given), name)


def built(make, **settings):
    """What a process or law does that has been made from these arguments."""

    def run(**given):
        thing = make(**settings, **given)
        x = draw(3, thing.dim)
        if hasattr(thing, "drift"):
            return thing.drift(x, torch.tensor(0.1, dtype=F64)), torch.tensor(thing.horizon)
        return thing.log_prob(x)

    return run


def trained(**given):
    net = ms.ScoreMLP(2, width=4, generator=rng(5)).double()
    return ms.train(net, **given, seed=1, progress=False).losses


@cache
def scores(d):
    """Fitted, closed and trained scores of ``d`` coordinates, by name."""
    x, ou, additive = draw(400, d, SEED + 1), ms.OrnsteinUhlenbeck(d), {"features": "additive"}
    torus, box = ms.TorusBrownian(d), ms.BoxBrownian(d, -4.0, 4.0)
    net = ms.ScoreMLP(d, width=8, depth=1, std=ms.VariancePreserving(d).std, generator=rng(SEED))
    found = {
        "hermite": ms.fit_spectral(x, ou, 5, times=TIMES),
        "torus": ms.fit_spectral(x, torus, 8, times=TIMES),
        "box": ms.fit_spectral(x, box, 5, times=TIMES),
        "additive": ms.fit_spectral(x, ou, order=2, times=TIMES, **additive),
        "rotated": ms.fit_spectral(x, ou, order=3, rotation="pca", times=TIMES, **additive),
        "network": net.double(),
    }
    found["residual"] = ms.ResidualScore(found["rotated"], net)
    for process in (ou, torus, box):
        name = f"DiffusedMixture {type(process).__name__}"
        found[name] = ms.DiffusedMixture(process, points(3, d, 5, 0.5), [0.3, 0.4, 0.5])
    return found


@cache
def processes(d):
    """Processes with an exact law, and those with a path only."""
    F = 0.2 - torch.eye(d, dtype=F64) + torch.diag(torch.ones(d - 1, dtype=F64), 1)
    exact = [
        ms.OrnsteinUhlenbeck(d), ms.VariancePreserving(d), ms.TorusBrownian(d),
        ms.BoxBrownian(d, -4.0, 4.0), ms.LinearSDE(F, torch.eye(d, dtype=F64) + 0.2 * F, 2.0),
    ]  # fmt: skip
    exact += [ms.TrappedParticles(d // 2)] if d % 2 == 0 else []
    law = ms.GaussianMixture(points(2, d, 1, 0.5), 0.7)
    walked = [ms.DoubleWell(d, 1.0), ms.Langevin(law, (0.5, 2.0), 2.0), exact[4], plain(d)]
    return exact, walked


# fmt: off
def rowwise(rows, d):
    """What acts on rows; as many as coordinates too: a time for each is not for each column."""
    size = f"{rows} rows of {d}"
    x, t, other = Points(draw(rows, d)), When(0.3, rows), Points(draw(rows, d, 7), True)
    fixed = Points(x.value, True)
    for name, score in scores(d).items():
        net = isinstance(score, torch.nn.Module)
        closed = name == "network" or name.startswith("Diffused")
        where = {"x": x, "t": When(0.3, rows, end=None if closed else 3.0)}
        flags = ["one_dtype"] * net + ["by_rows"] * (name == "network")
        yield call(f"{name} score, {size}", score, *flags, **where)
        if getattr(score, "score_and_divergence", None):
            yield call(f"{name} divergence, {size}", score.score_and_divergence, *flags, **where)
        if hasattr(score, "log_prob"):
            yield call(f"{name} density, {size}", score.log_prob, **where)
        if getattr(score, "probe_divergence", None):
            yield call(f"{name} probe, {size}", partial(score.probe_divergence, probe=other.value),
                "times_only", **where)
    exact, walked = processes(d)
    for p in exact:
        name = f"{type(p).__name__}, {size}"
        flags = ["by_rows"] + ["times_only"] * isinstance(p, ms.TrappedParticles)  # has no half
        yield call(f"transition of {name}", both(p.log_transition, p.transition_score), *flags,
            y=fixed, x0=other, t=t)
        yield call(f"draw of {name}", p.sample_transition, *flags, x0=x, t=t, generator=Source(1))
    for p in [*exact, *walked[:2]]:
        name = f"{type(p).__name__}, {size}"
        steady = isinstance(p, (*map(type, exact[:1] + exact[2:5]), ms.DoubleWell))
        for method in ("drift", "drift_divergence", "drift_jacobian"):
            if getattr(p, method) is not None:
                still = steady or (method != "drift" and isinstance(p, ms.TrappedParticles))
                yield call(f"{method} of {name}", getattr(p, method), "times_only",
                    *["untimed"] * still, y=x, t=t)
    many = ["untimed"] * (rows == 1)  # one law may be taken to many times
    for p in exact[:2]:
        yield call(f"evolve_gaussian of {type(p).__name__}, {size}",
            partial(p.evolve_gaussian, x.value, 0.1 * x.value[:, 0] ** 2), "times_only", *many, t=t)
    for p in walked:
        name, steps, source = f"of {type(p).__name__}, {size}", Count(3), Source(2)
        end = When(0.5, rows, end=p.horizon)
        window = {"y_s": x, "s": When(0.2, rows), "t": end, "diffusion": Noun(p)}
        yield call(f"local_transition {name}", ms.local_transition, **window)
        yield call(f"local_target {name}", ms.local_target, **window, generator=source)
        for weight in (None, "adaptive"):
            yield call(f"path_shift_target {name}, {weight}",
                partial(ms.path_shift_target, weight=weight), **window, steps=steps,
                generator=source)
        yield call(f"simulate {name}", ms.simulate, x0=x, s=When(0.2, rows), t=end, steps=steps,
            generator=source, diffusion=Noun(p))
        yield call(f"linearised_weight {name}",
            lambda **given: ms.linearised_weight(**given)(SHARE).movedim(0, 1), **window)
    yield call(f"Euler kernel, {size}", lambda x, window: euler_paths(PathDrift.double_well(), x,
        None, Steps(3, window), seed=1)[1:], "times_only", x=x, window=t)
    if d < 3:
        solved = ms.fokker_planck(walked[2], ms.Gaussian(d, scale=0.5).log_prob,
            0.3 * OWN.flip(0), [(-5, 5)] * d, cells=40, steps=20)
        yield call(f"solved density, {size}", solved.density, x=x, t=t)
        yield call(f"solved score, {size}", solved.score, "times_only", x=x, t=t)


def others():
    hermite, ou = scores(2)["hermite"], Noun(OU)
    yield call("check_points", partial(check_points, dim=2), x=Points(draw(40)))
    yield call("DiffusedMixture", lambda x, t, diffusion: ms.DiffusedMixture(diffusion,
        [[0.0, 1.0]], 0.5)(x, t), x=Points(draw(5)), t=When(0.3, 5), diffusion=ou)
    yield call("mixture_1d", lambda x, t, diffusion: ms.mixture_1d(diffusion).log_prob(x, t),
        x=Points(draw(5, 1)), t=When(0.3, 5), diffusion=Noun(ms.OrnsteinUhlenbeck(1)))
    yield call("Langevin", lambda prior, x0: ms.simulate(ms.Langevin(prior), x0, 0.5, 4, rng()),
        x0=Points(draw(5)), prior=Noun(LANGEVIN.prior))
    for prior in (ms.Gaussian(2), LANGEVIN.prior, ms.Logistic(2), ms.UniformTorus(2)):
        name = type(prior).__name__
        yield call(f"{name} density", prior.log_prob, "by_rows", x=Points(draw(5)))
        yield call(f"{name} draw", partial(prior.sample, dtype=F64), n=Count(3, least=0),
            generator=Source(1))
    yield call("drift", partial(processes(2)[0][4].drift, t=0.1), "by_rows", y=Points(draw(5)))
    yield call("law's score", LANGEVIN.prior.score, "by_rows", x=Points(draw(5)))
    yield call("clock_window", partial(ms.clock_window, t=0.5 * SHARE[1:]),
        width=Positive(0.2, bound=True), diffusion=Noun(LANGEVIN))
    yield call("fixed_window", partial(ms.fixed_window, 0.5), width=Positive(0.2, bound=True))
    yield call("stein_check", attribute("z", ms.stein_check), "draws", x0=Points(draw(5)),
        t=Positive(0.5), steps=Count(3), paths=Count(64), generator=Source(2), process=Noun(WELL))

    # Objectives and training.
    window = {"window": Positive(0.1, bound=True), "steps": Count(3), "reuse": Count(1),
        "ahead": Count(2), "weighting": Name("likelihood")}
    for make, p, more in (
        (ms.DenoisingSM, OU, {"weighting": Name("likelihood")}),
        (ms.LocalDSM, WELL, window),
        (ms.PathShiftDSM, WELL, window),
        (ms.ImplicitSM, WELL, {"trace": Name("exact"), "steps": Count(3), "reuse": Count(1),
            "ahead": Count(2)}),
    ):
        yield call(make.__name__, losses(make), "draws", x0=Points(draw(5)), generator=Source(3),
            t_min=Positive(0.01), t_max=Positive(0.9), times=Name("uniform"), **more,
            score=Noun(gaussian_score), diffusion=Noun(p))
    yield call("train", trained, "one_dtype", data=Points(draw(12)), steps=Count(2),
        batch_size=Count(4), lr=Positive(1e-3), schedule=Name("cosine"), shards=Count(1),
        checkpoint_every=Count(5), log_every=Count(5), checkpoint_minutes=Positive(5.0),
        objective=Noun(ms.DenoisingSM(OU)))

    # Samplers and densities.
    for sampler in (ms.sample_ode, ms.sample_sde):
        name, given = sampler.__name__, {"score": Noun(hermite), "diffusion": ou}
        yield call(f"{name} from the prior", sampler, n=Count(3), steps=Count(4),
            generator=Source(4), **given)
        yield call(f"{name} from points", seeded(sampler, n=5), **given,
            x_T=Points(draw(5), True, optional=True), times=Vector(TIMES))
    yield call("sample_ode method", seeded(ms.sample_ode, hermite, OU, 3), method=Name("heun"),
        rtol=Positive(1e-5), atol=Positive(1e-6), failed=Name("raise"))
    yield call("log_likelihood", ms.log_likelihood, x=Points(draw(5)), steps=Count(4),
        trace=Name("exact"), probes=Count(1), failed=Name("raise"), method=Name("heun"),
        score=Noun(hermite), diffusion=ou)
    yield call("log_likelihood of a plain process",
        partial(ms.log_likelihood, gaussian_score, plain(2)), x=Points(draw(2)),
        times=Vector(TIMES / 2), tolerance=Positive(10.0))
    for form in ("trace", "local"):
        yield call(f"elbo {form}", seeded(ms.elbo), "draws", x=Points(draw(5)), samples=Count(2),
            steps=Count(4), form=Name(form), trace=Name("exact"), t_min=Positive(0.01),
            window=Positive(0.1, bound=True), score=Noun(gaussian_score), diffusion=ou)
    net = scores(2)["network"]
    yield call("ResidualScore", lambda base, x: ms.ResidualScore(base, net)(x, 0.3), "one_dtype",
        x=Points(draw(5)), base=Noun(MIXTURE))

    # Fits and their functions.
    for p in (OU, ms.TorusBrownian(2), ms.BoxBrownian(2, -4.0, 4.0)):
        yield call(f"fit_spectral for {type(p).__name__}", attribute("coefficients",
            ms.fit_spectral), x=Points(DATA), n_functions=Count(6), times=Vector(TIMES),
            shrinkage=Name("heat"), diffusion=Noun(p))
    yield call("fit_spectral with weights", attribute("coefficients", ms.fit_spectral, diffusion=OU,
        n_functions=5, times=TIMES), x=Points(DATA, True),
        weights=Vector(torch.full((400,), 1 / 400, dtype=F64)))
    yield call("jackknife", lambda **given: ms.jackknife(times=TIMES, generator=rng(5), **given)(
        lambda score: score.coefficients), x=Points(DATA), n_functions=Count(6),
        n_blocks=Count(2, least=2), shrinkage=Name("heat"), diffusion=Noun(OU))
    yield call("fit_spectral additive", lambda **given: ms.fit_spectral(**given)(draw(5), 0.3),
        x=Points(DATA), order=Count(2), times=Vector(TIMES), features=Name("additive"),
        diffusion=ou)
    yield call("fit_additive", lambda **given: ms.fit_additive(times=TIMES, **given)(draw(5), 0.3),
        x=Points(DATA), order=Count(3), rotation=Name("pca"), diffusion=ou)
    for basis in (ms.Hermite(2, 6), ms.Fourier(2, 6), ms.Cosine(2, 6, -4.0, 4.0)):
        name = type(basis).__name__
        for method in ("__call__", "gradient", "laplacian"):
            yield call(f"{name} {method}", getattr(basis, method), x=Points(draw(5)))
        yield call(f"{name} functions", attribute("eigenvalues", type(basis)), dim=Count(2),
            n_functions=Count(6))

    yield call("Affine", lambda process, y: ms.Affine(process, [2.0, 0.5], 1.0).drift(y, 0.1),
        "by_rows", y=Points(draw(5)), process=ou)
    yield call("whitened", attribute("matrix", ms.whitened), x=Points(DATA, least_rows=2),
        how=Name("axes"), process=ou)
    yield call("whitened with weights", attribute("matrix", ms.whitened, process=OU),
        x=Points(DATA, True), weights=Vector(torch.linspace(0.1, 1.0, 400, dtype=F64)))

    # Distances, data, constructors, the solver.
    x, y = Points(draw(30), least_rows=2), Points(draw(20, seed=9), least_rows=2)
    yield call("metrics.mmd", ms.metrics.mmd, x=x, y=y, bandwidth=Positive(1.0))
    yield call("metrics.sliced_wasserstein", ms.metrics.sliced_wasserstein, "draws",
        x=x, y=y, n_projections=Count(10, least=2), generator=Source(6))
    for distance in (ms.metrics.fisher_divergence, ms.metrics.relative_fisher_divergence):
        yield call(f"metrics.{distance.__name__}", distance, x=Points(draw(5), least_rows=2),
            t=When(0.3, 5), score=Noun(MIXTURE), truth=Noun(gaussian_score))
    yield call("toy", partial(ms.toy, dtype=F64), name=Name("pinwheel"), n=Count(3),
        generator=Source(6))
    yield call("mixture draw", partial(MIXTURE.sample, dtype=F64), n=Count(3), generator=Source(6))
    dim, horizon, scale = Count(2), Positive(2.0), Positive(1.0)
    for make, arguments in (
        (ms.OrnsteinUhlenbeck, {"dim": dim, "horizon": horizon}),
        (ms.TorusBrownian, {"dim": dim, "horizon": horizon, "period": Positive(6.0)}),
        (ms.BoxBrownian, {"dim": dim, "horizon": horizon}),
        (ms.DoubleWell, {"dim": dim, "horizon": horizon}),
        (ms.VariancePreserving, {"dim": dim, "beta": Positive(3.0), "horizon": horizon}),
        (partial(ms.Langevin, LANGEVIN.prior), {"beta": Positive(3.0), "horizon": horizon}),
        (ms.ActiveSwimmer, {"gamma": Positive(0.1), "D": Positive(1.0), "horizon": horizon}),
        (partial(ms.TrappedParticles, 1), {"D": Positive(0.25), "horizon": horizon}),
        (ms.Gaussian, {"dim": dim, "scale": scale}),
        (partial(ms.GaussianMixture, [[0.0, 0.0], [1.0, 1.0]]), {"scale": scale}),
        (partial(ms.ProductMixture, means=[0.0, 1.0]), {"dim": dim, "scale": scale}),
        (ms.Logistic, {"dim": dim, "scale": scale}),
    ):
        yield call(f"{getattr(make, 'func', make).__name__}()", built(make), **arguments)
    yield call("TrappedParticles of", attribute("dim", ms.TrappedParticles), n_particles=Count(2))
    yield call("PathBuffer()", attribute("ahead", ms.PathBuffer), reuse=Count(2), ahead=Count(3))
    yield call("ScoreMLP()", lambda **sizes: ms.ScoreMLP(dim=2, **sizes)(draw(5).float(), 0.5),
        width=Count(4), depth=Count(1))
    yield call("ScoreUNet()", attribute("dim", ms.ScoreUNet, shape=(1, 4, 4)), channels=Count(4),
        blocks=Count(1))
    yield call("fokker_planck", attribute("values", ms.fokker_planck,
        log_prob=ms.Gaussian(1, scale=0.5).log_prob, bounds=[(-6.0, 6.0)]), "draws",
        cells=Count(40, each=True), steps=Count(20), times=Vector(TIMES),
        diffusion=Noun(ms.DoubleWell(1)))
    yield call("fokker_planck in the plane", attribute("values", ms.fokker_planck, times=[0.5],
        log_prob=ms.Gaussian(2).log_prob, bounds=[(-7, 7)] * 2, cells=12, steps=4), diffusion=ou)
# fmt: on


CALLS = [*rowwise(5, 2), *rowwise(2, 2), *others()]
