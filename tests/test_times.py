"""One rule for times in the whole public face: one for all rows, or one for each of them."""

import numpy as np
import pytest
import torch
from odd_inputs import refused
from statistical import F64, points, rng

import markovscore as ms
from markovscore import metrics
from markovscore.core import check_number, check_time
from markovscore.kernels import PathDrift, Steps, euler_paths

SHARE = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
CASES = [(1, 1), (1, 3), (3, 1), (3, 3), (4, 2)]  # rows and coordinates


# Methods that do not read the time.
UNTIMED = (
    *(
        f"{p}, {m}"
        for p in ("Uhlenbeck", "Brownian", "SDE", "Well")
        for m in ("drift", "divergence")
    ),
    *("Well, Jacobian", "Particles, divergence", "Particles, Jacobian"),
)


def fitted(d):
    x = points(200, d, 3, 0.5)
    unit, vp = ms.OrnsteinUhlenbeck(d), ms.VariancePreserving(d)
    grid = [0.05, 0.3, 1.0]
    return {
        "Spectral": ms.fit_spectral(x, unit, 4, grid),
        "Spectral, torus": ms.fit_spectral(x, ms.TorusBrownian(d), 4, grid),
        "Spectral, one time": ms.fit_spectral(x, unit, 4, [0.3]),
        "Additive": ms.fit_spectral(x, vp, times=grid, features="additive", order=2),
    }


def scores(d):
    """Every score of the package, and what it says beside its value."""
    closed = fitted(d)
    one_time = closed.pop("Spectral, one time")
    additive = closed["Additive"]
    net = ms.ScoreMLP(d, width=8, depth=1, std=ms.VariancePreserving(d).std).double()
    closed["Residual"] = ms.ResidualScore(additive, net)
    for name, score in closed.items():
        yield name, score
        yield f"{name}, divergence", lambda x, t, s=score: s.score_and_divergence(x, t)
    yield "Residual, probe", lambda x, t: closed["Residual"].probe_divergence(x, t, x.sign())
    yield "Spectral, one level", lambda x, t: one_time(x, 0 * torch.as_tensor(t) + 0.3)
    yield "MLP", net
    for process in (ms.OrnsteinUhlenbeck(d), ms.TorusBrownian(d), ms.BoxBrownian(d, -3, 3)):
        truth = ms.DiffusedMixture(process, points(3, d, 5, 0.5), 0.3)
        yield f"mixture, {type(process).__name__}", truth
        yield f"mixture, {type(process).__name__}, density", truth.log_prob


def processes(d):
    F = -torch.eye(d) + 0.2
    exact = [
        ms.OrnsteinUhlenbeck(d),
        ms.VariancePreserving(d),
        ms.TorusBrownian(d),
        ms.BoxBrownian(d, -3, 3),
        ms.LinearSDE(F, torch.eye(d), 2.0),
    ]
    if d % 2 == 0:
        exact.append(ms.TrappedParticles(d // 2))
    for process in exact:
        name = type(process).__name__
        yield f"{name}, density", lambda x, t, p=process: p.log_transition(x, x.flip(0), t)
        yield f"{name}, score", lambda x, t, p=process: p.transition_score(x, x.flip(0), t)
        yield f"{name}, draw", lambda x, t, p=process: p.sample_transition(x, t, rng())
    mixture = ms.GaussianMixture(points(2, d, 1, 0.5), 0.7)
    for process in [*exact, ms.Langevin(mixture), ms.DoubleWell(d)]:
        name = type(process).__name__
        yield f"{name}, drift", process.drift
        yield f"{name}, divergence", process.drift_divergence
        if process.drift_jacobian is not None:
            yield f"{name}, Jacobian", process.drift_jacobian
    for process in exact[:2]:
        name = f"{type(process).__name__}, Gaussian"
        yield name, lambda x, t, p=process: p.evolve_gaussian(x, 0.1 * x[:, 0] ** 2, t)


def simulations(d):
    for process in (ms.LinearSDE(-torch.eye(d), torch.eye(d)), ms.DoubleWell(d)):
        name = type(process).__name__
        yield f"simulate, {name}", lambda x, t, p=process: ms.simulate(p, x, t, 3, rng())
        yield (
            f"simulate from s, {name}",
            lambda x, t, p=process: ms.simulate(p, x, 1.0, 3, rng(), s=t),
        )
        yield f"transition, {name}", lambda x, t, p=process: ms.local_transition(p, x, 0.01, t)
        yield (
            f"transition from s, {name}",
            lambda x, t, p=process: ms.local_transition(p, x, t, 1.0),
        )
        yield (
            f"target, {name}",
            lambda x, t, p=process: ms.local_target(p, x, 0.01, t, generator=rng()),
        )
        for weight in (None, "adaptive"):
            yield (
                f"path shift {weight}, {name}",
                lambda x, t, p=process, w=weight: ms.path_shift_target(
                    p, x, 0.01, t, steps=3, generator=rng(), weight=w
                ),
            )
        yield (
            f"linearised weight, {name}",
            lambda x, t, p=process: ms.linearised_weight(p, x, 0.01, t)(SHARE)[1],
        )
    yield (
        "kernel",
        lambda x, t: euler_paths(PathDrift.double_well(), x, None, Steps(3, t), seed=1)[1:],
    )


def reference(d):
    if d > 2:
        return
    process = ms.LinearSDE(-torch.eye(d), torch.eye(d))
    times = [0.1, 0.2, 0.3, 0.4]
    solved = ms.fokker_planck(
        process, ms.Gaussian(d, scale=0.5).log_prob, times, [(-5, 5)] * d, cells=40, steps=20
    )
    yield "Fokker-Planck density", solved.density
    yield "Fokker-Planck score", solved.score


def flat(value):
    values = value if isinstance(value, tuple) else (value,)
    return [v for v in values if v is not None]


FAMILIES = {f.__name__: f for f in (scores, processes, simulations, reference)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("rows", "d"), CASES)
def test_every_function_takes_the_same_times(family, rows, d):
    x = points(rows, d, 0, 0.5)
    own = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=F64)[:rows]
    for name, function in FAMILIES[family](d):
        shared = flat(function(x, 0.3))
        same = [torch.tensor(0.3, dtype=F64), np.float64(0.3), torch.full((rows,), 0.3, dtype=F64)]
        same += [same[-1][:, None], torch.tensor([0.3], dtype=F64), np.full((rows, 1), 0.3)]
        for t in same:
            for a, b in zip(flat(function(x, t)), shared, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=f"{name}, {t}")
        each, column = flat(function(x, own)), flat(function(x, own[:, None]))
        for a, b in zip(each, column, strict=True):
            assert torch.equal(a, b), name
        for row, t in enumerate(own.tolist()):  # a row's own time is as that time for all
            for a, b in zip(each, flat(function(x, t)), strict=True):
                torch.testing.assert_close(a[row], b[row], rtol=1e-9, atol=1e-9, msg=name)
        if name.endswith(UNTIMED) or (rows == 1 and name.endswith("Gaussian")):
            continue  # the one law of evolve_gaussian may be taken to many times
        for wrong in (own[None].expand(1, rows), torch.full((rows, 2), 0.3), torch.ones(rows + 2)):
            if wrong.numel() == 1:
                continue
            with pytest.raises(ValueError, match=r"(t|s|window): expected .*, found \("):
                pytest.fail(f"{name} took {tuple(wrong.shape)}: {function(x, wrong)}")


def test_a_time_and_what_it_is():
    assert check_time(0.3, 4).shape == check_time(3, None).shape == ()
    assert check_time(np.float32(0.5), 2).dtype == F64
    assert check_time([1, 2], 2, like=torch.zeros(1)).dtype == torch.float32
    assert check_time(torch.ones(1, 1), 4).shape == check_time(torch.ones(1), 1).shape == ()
    assert check_time(torch.ones(5, 1), None).shape == (5,)
    assert check_time(torch.ones(1), None).shape == (1,)
    for wrong in (torch.ones(1, 3), torch.ones(2), torch.ones(3, 3), torch.ones(3, 1, 1), []):
        refused(r"s: expected a number or shape \(3,\) or \(3, 1\)", check_time, wrong, 3, "s")
    for wrong in (None, "0.3", True, 1j, torch.ones(3) > 0):
        with pytest.raises(TypeError, match="t: expected a number or a tensor of times, found"):
            check_time(wrong, 3)
    assert check_number(torch.tensor([[2]]), "t") == 2.0
    refused("t: expected a finite number, found", check_number, torch.ones(2), "t")


def test_one_time_where_only_one_makes_sense():
    """With as many particles or draws as times, their law together would be silently wrong."""
    trap = ms.TrappedParticles(2)
    refused("expected a finite number", trap.law, torch.tensor([0.1, 0.2]))
    solved = next(reference(1))[1].__self__
    refused("expected a finite number", solved.entropy_production, torch.tensor([0.1, 0.2]))
    assert solved.entropy_production(torch.tensor([0.1])) == solved.entropy_production(0.1)
    for bounds in ((torch.tensor([0.1, 0.2]), 1.0), (0.1, torch.tensor([0.5, 1.0]))):
        refused(r"t_m(in|ax): expected a (finite )?number", ms.DenoisingSM, trap, *bounds)
    assert ms.DenoisingSM(trap, torch.tensor(0.1), np.float32(0.5)).t_max == 0.5


def test_draws_of_a_mixture_have_times_of_their_own():
    mixture = ms.DiffusedMixture(ms.OrnsteinUhlenbeck(2), [[1.0, -1.0]], 0.1)
    t = torch.tensor([0.0, 0.5, 3.0], dtype=F64)
    draws = mixture.sample(3, rng(), t, dtype=F64)
    for row, time in enumerate(t.tolist()):
        alone = mixture.sample(3, rng(), time, dtype=F64)
        if time > 0:
            torch.testing.assert_close(draws[row], alone[row])
    torch.testing.assert_close(draws[0], mixture.sample(3, rng(), 0.0, dtype=F64)[0])
    refused("expected a number or shape", mixture.sample, 4, rng(), t)


@pytest.mark.parametrize("window", [ms.fixed_window, None], ids=["fixed", "clock"])
def test_windows_keep_what_they_are_given(window):
    vp = ms.VariancePreserving(2)

    def start(t):
        return ms.clock_window(vp, t, 0.1) if window is None else window(t, 0.1)

    t = torch.tensor([0.05, 0.4, 0.9], dtype=F64)
    right = [start(v) for v in t.tolist()]
    assert all(isinstance(v, float) for v in right)
    for given in (t, t[:, None], t.numpy(), t[:, None].numpy()):
        found = start(given)
        assert found.shape == given.shape
        torch.testing.assert_close(found.reshape(-1), torch.tensor(right, dtype=F64))
    refused(r"t: expected a number or shape \(B,\)", start, t[None])


@pytest.mark.parametrize("kind", [ms.LocalDSM, ms.PathShiftDSM])
def test_a_schedule_may_return_any_form_of_times(kind):
    data, forms = points(8, 2, 0, 0.5), {}
    for name, schedule in {
        "(B,)": lambda t: 0.5 * t,
        "(B, 1)": lambda t: 0.5 * t[:, None],
        "array": lambda t: 0.5 * t.numpy(),
        "one": lambda t: 0.0,
    }.items():
        objective = kind(ms.DoubleWell(2), schedule, 3, t_min=0.1, t_max=0.5)
        forms[name] = objective.loss(lambda y, t: -y, data, rng())
        forms[name + " again"] = objective.loss(lambda y, t: -y, data, rng(1))
    for other in ("(B, 1)", "array"):
        torch.testing.assert_close(forms[other], forms["(B,)"])
        torch.testing.assert_close(forms[other + " again"], forms["(B,) again"])
    assert torch.isfinite(forms["one"])
    objective = kind(ms.DoubleWell(2), lambda t: 0.5 * t[None], 3, t_min=0.1)
    refused(r"s: expected a number or shape \(64,\)", objective.loss, lambda y, t: -y, data, rng())


def test_errors_of_a_score_at_times_of_their_own():
    score, truth = (
        ms.ScoreMLP(2, width=8, depth=1).double(),
        ms.DiffusedMixture(ms.OrnsteinUhlenbeck(2), [[1.0, -1.0]], 0.3),
    )
    x, t = points(3, 2, 0, 0.5), torch.tensor([0.1, 0.2, 0.9], dtype=F64)
    right = [metrics.fisher_divergence(score, truth, x[[i] * 2], float(t[i])) for i in range(3)]
    mean = sum(r.value for r in right) / 3
    for given in (t, t[:, None], t.numpy()):
        assert metrics.fisher_divergence(score, truth, x, given).value == pytest.approx(mean)
    refused("t: expected a number or shape", metrics.fisher_divergence, score, truth, x, t[None])
