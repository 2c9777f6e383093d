"""Odd and bad inputs over the whole public face: a right number, or expected, found and the fix.

The forms of each argument come from ``odd_inputs``, the calls from ``face``. A call whose error
does not come from us, or whose number is not that of the good value, is listed.
"""

import inspect

import numpy as np
import pytest
import torch
from face import CALLS, DATA, SEED, draw, gaussian_score, scores
from odd_inputs import MESSAGE, flat, refused, trouble
from statistical import rng

import markovscore as ms


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", [c for c in CALLS if not c.times_only], ids=lambda c: c.name)
def test_a_right_number_or_a_clear_error(call):
    rng = np.random.default_rng([SEED, *call.name.encode()])
    reference = call.run(**call.good())
    assert bool(torch.isfinite(flat(reference)).all())
    found = [
        f"{key}, {form.name}: {problem[:200]}"
        for key, argument in call.arguments.items()
        for form in argument.forms(rng)
        if (problem := trouble(call, key, form, reference))
    ]
    assert not found, "\n".join(["", *found])


# Orders of call: each ends in an error that says what was expected, or in the number of another
# order.


def unfinished(tmp_path):
    ms.SpectralScore.load(tmp_path / "never saved")


def another_kind(tmp_path):
    scores(2)["additive"].save(tmp_path / "score")
    ms.SpectralScore.load(tmp_path / "score")


def before_the_first_time(tmp_path):
    scores(2)["hermite"](draw(5), 0.001)


def merged_with_another_order(tmp_path):
    one, two = (ms.AdditiveMoments.empty(order, DATA) for order in (2, 3))
    one.update(DATA)
    two.update(DATA)
    one.merge(two)


def without_a_law_at_the_end(tmp_path):
    ms.sample_ode(gaussian_score, ms.DoubleWell(2), 3, generator=rng(5))


@pytest.mark.parametrize(
    "order",
    [
        unfinished,
        another_kind,
        before_the_first_time,
        merged_with_another_order,
        without_a_law_at_the_end,
    ],
    ids=lambda order: order.__name__,
)
def test_a_wrong_order_is_named(order, tmp_path):
    refused(MESSAGE, order, tmp_path, error=(ValueError, TypeError, FileNotFoundError))


@pytest.mark.parametrize("name", scores(2))
def test_the_order_of_calls_does_not_matter(name):
    score, x = scores(2)[name], draw(7, seed=3)
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
    functions = {name for name in ms.__all__ if inspect.isfunction(getattr(ms, name))}
    assert functions <= {call.name.split()[0] for call in CALLS}
