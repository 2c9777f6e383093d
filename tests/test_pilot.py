"""The window and weight that a pilot chooses: its numbers, its choice, and what it leaves."""

import logging
import math

import pytest
import torch
from odd_inputs import refused
from problems import Plain, well
from runs import broken_off
from statistical import points, rng

import markovscore as ms


def zero(y, t):
    return torch.zeros_like(y)


SPAN = {"steps": 20, "t_min": 0.1, "t_max": 2.0}
PROCESSES = {
    "well": (ms.DoubleWell(2), {}),
    "clock": (ms.Langevin(ms.GaussianMixture([[-1.0, 0.5], [1.0, 0.0]], 0.5), (0.5, 3.0), 2.0), {}),
    "perceptual": (ms.DoubleWell(1), {"weighting": "perceptual"}),
    "log times": (ms.OrnsteinUhlenbeck(3), {"times": "log"}),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_the_choice_is_the_best_of_all_fifteen_to_its_error(name):
    """The mean loss of the score zero is the mean square that the pilot estimates."""
    process, options = PROCESSES[name]
    objective = ms.PathShiftDSM(process, **SPAN, **options)
    objective.losses(zero, points(64, process.dim, 1, 0.7), rng())
    choice = objective.choice
    assert len(choice.windows) == 5
    assert choice.weights == ("linear", "quadratic", "adaptive")
    # Perceptual weights depend on the window: one norm for all, that of the longest window.
    options = dict(options)
    scale = options.pop("weighting", None)
    again, error = torch.empty(5, 3), torch.empty(5, 3)
    for i, window in enumerate(choice.windows):
        for k, weight in enumerate(choice.weights):
            known = ms.PathShiftDSM(process, window, weight=weight, **SPAN, **options)
            if scale:  # G = 1 and beta = 1: the norm is t |target|^2
                seen = []
                losses = known.losses(
                    lambda y, t, seen=seen: seen.append(t) or 0 * y,
                    points(2000, process.dim, 1, 0.7),
                    rng(7),
                )
                losses = losses * seen[-1]
            else:
                losses = known.losses(zero, points(2000, process.dim, 1, 0.7), rng(7))
            assert known.choice is None
            again[i, k], error[i, k] = losses.mean(), losses.std() / math.sqrt(len(losses))
    gap = (again - choice.variance).abs() / (error**2 + choice.error**2).sqrt()
    assert gap.max() < 6
    place = choice.windows.index(choice.window), choice.weights.index(choice.weight)
    cheap = again[:, :2].min()
    allowed = 3 * float(choice.error[place] + error[place])
    if choice.weight == "adaptive":
        assert again[place] < 0.8 * cheap + allowed
        assert again[place] < again[:, 2].min() + allowed
    else:
        assert again[place] < cheap + allowed
        assert again[:, 2].min() > 0.8 * cheap - 2 * allowed


def chain(dim):
    """A stiff ring: with the longest window and the linear weight targets are noisy."""

    def drift(y, t):
        return well(y, t) + 8 * (y.roll(1, 1) + y.roll(-1, 1) - 2 * y)

    return Plain(drift, dim=dim, horizon=1.0)


def test_a_long_window_is_not_always_the_best():
    objective = ms.PathShiftDSM(chain(6), steps=60, t_min=0.1, weight="linear")
    objective.losses(zero, points(64, 6, 1, 0.7), rng())
    choice = objective.choice
    assert choice.weight == "linear"
    assert choice.window < 0.5
    assert choice.variance.min() < 0.75 * choice.variance[0, 0]


def test_the_pilot_takes_nothing_and_its_choice_can_be_given():
    process, x0 = ms.DoubleWell(2), points(64, 2, 1, 0.7)
    state, own = torch.get_rng_state(), rng(3)
    objective = ms.PathShiftDSM(process, **SPAN)
    losses = objective.losses(zero, x0, own)
    assert torch.equal(state, torch.get_rng_state())
    choice = objective.choice
    given = ms.PathShiftDSM(process, choice.window, weight=choice.weight, **SPAN)
    assert torch.equal(losses, given.losses(zero, x0, rng(3)))
    assert given.choice is None
    for part in ({"window": choice.window}, {"weight": choice.weight}):
        half = ms.PathShiftDSM(process, **part, **SPAN)
        half.loss(zero, x0, rng())
        assert len(half.choice.windows) == (1 if "window" in part else 5)
        assert len(half.choice.weights) == (1 if "weight" in part else 3)


def test_the_choice_is_shown(caplog):
    objective = ms.PathShiftDSM(ms.DoubleWell(1), **SPAN)
    before = repr(objective)
    assert "window='pilot'" in before
    with caplog.at_level(logging.INFO, logger="markovscore.pilot"):
        objective.loss(zero, points(32, 1, 1, 0.7), rng())
    assert str(objective.choice) in caplog.text
    assert f"chosen window={objective.choice.window!r}" in repr(objective)
    assert objective.description() == before


def test_processes_with_a_rule_and_wide_drifts():
    rule = ms.PathShiftDSM(ms.ActiveSwimmer(), steps=20, t_min=0.5)
    rule.loss(zero, points(32, 2, 1, 0.7), rng())
    assert rule.choice.variance.shape == (5, 1)
    one = ms.PathShiftDSM(ms.ActiveSwimmer(), 1.0, steps=20, t_min=0.5)
    one.loss(zero, points(32, 2, 1, 0.7), rng())
    assert one.choice is None
    wide = ms.PathShiftDSM(chain(70), steps=20, t_min=0.9, ahead=1)
    wide.loss(zero, points(8, 70, 1, 0.7), rng())
    assert wide.choice.weights == ("linear", "quadratic")


def test_a_window_whose_paths_diverge_is_left_out():
    """Ten steps of the longest window are too long for the well; shorter ones are not."""
    x0 = 3 + points(64, 1, 1, 0.7)
    objective = ms.PathShiftDSM(ms.DoubleWell(1), steps=10, t_min=1.9, t_max=2.0)
    with pytest.raises(ValueError, match="diverge"):
        ms.PathShiftDSM(ms.DoubleWell(1, 200.0), steps=10, t_min=199).loss(zero, 30 + x0, rng())
    objective.loss(zero, points(64, 1, 1, 0.7), rng())
    assert torch.isfinite(objective.choice.variance).any()


def test_a_resumed_run_keeps_the_choice(tmp_path):
    x = points(300, 2, 1, 0.7).float()

    span, made = {"steps": 8, "t_min": 0.2, "t_max": 1.0, "ahead": 2}, []

    def start():
        made.append(ms.PathShiftDSM(ms.DoubleWell(2), **span))
        return ms.ScoreMLP(2, width=8, depth=1), made[-1]

    settings, path = {"batch_size": 16, "progress": False, "shards": 2}, tmp_path / "run"
    whole, again = (ms.train(*start(), x, 15, **settings) for _ in range(2))  # chosen anew
    assert torch.equal(whole.losses, again.losses)
    settings["checkpoint_every"] = 5
    resumed = broken_off(start, x, 15, 8, path, **settings)
    assert torch.equal(whole.losses, resumed.losses)
    assert str(made[-1].choice) == str(made[0].choice)
    other = ms.PathShiftDSM(ms.DoubleWell(2), weight="linear", **span)
    refused("weight='pilot'", ms.train, start()[0], other, x, 15, checkpoint=path, **settings)
