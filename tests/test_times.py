"""One rule for times in the whole public face: one for all rows, or one for each of them."""

import numpy as np
import pytest
import torch
from face import OWN, rowwise
from odd_inputs import REFUSED, When, refused, trouble
from statistical import F64, points, rng

import markovscore as ms
from markovscore import metrics
from markovscore.core import check_number, check_time

CASES = [(1, 1), (1, 3), (3, 1), (3, 3), (4, 2)]  # rows and coordinates


def rows_of(result):
    values = result if isinstance(result, tuple) else (result,)
    return [v for v in values if v is not None]


@pytest.mark.parametrize(("rows", "d"), CASES)
def test_every_function_takes_the_same_times(rows, d):
    for call in rowwise(rows, d):
        reference = call.run(**call.good())
        for key, when in call.arguments.items():
            if not isinstance(when, When):
                continue
            for form in when.shapes():
                if not (call.untimed and form.outcome == REFUSED):
                    problem = trouble(call, key, form, reference)
                    assert problem is None, f"{call.name}, {key}, {form.name}: {problem}"
            own = when.value * OWN[:rows]
            each, column = (
                rows_of(call.run(**call.good() | {key: t})) for t in (own, own[:, None])
            )
            assert all(map(torch.equal, each, column)), call.name
            for row, t in enumerate(own.tolist()):  # a row's own time is as that time for all
                for a, b in zip(each, rows_of(call.run(**call.good() | {key: t})), strict=True):
                    close = {"rtol": 1e-9, "atol": 1e-9, "msg": f"{call.name}, {key}"}
                    torch.testing.assert_close(a[row], b[row], **close)


def test_a_score_of_one_time_takes_it_for_every_row():
    x = points(3, 2, 0, 0.5)
    one = ms.fit_spectral(points(200, 2, 3, 0.5), ms.OrnsteinUhlenbeck(2), 4, [0.3])
    torch.testing.assert_close(one(x, torch.full((3, 1), 0.3)), one(x, 0.3))


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
    process = ms.LinearSDE([[-1.0]], [[1.0]])
    start = ms.Gaussian(1, scale=0.5).log_prob
    solved = ms.fokker_planck(process, start, [0.1, 0.2], [(-5, 5)], cells=40, steps=20)
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
