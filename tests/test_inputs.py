"""Inputs that people have: arrays of every make, numbers of every library, points that have gone
through another precision. They give the right number, or a message with a fix."""

import math
import warnings

import numpy as np
import pytest
import torch
from odd_inputs import Table, refused
from runs import data as moons
from runs import objective, small
from statistical import F64, points, rng

import markovscore as ms
from markovscore.core import (
    as_tensor,
    check_integer,
    check_number,
    check_points,
    check_times,
    expand_like,
)
from markovscore.diffusions import inner_bounds

BASE = np.clip(np.random.default_rng(0).standard_normal((40, 2)), -2.5, 2.5)
T = torch.tensor(BASE)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ms.SpectralWarning)
        yield


def test_masked_arrays_without_a_mask_and_objects_are_their_numbers():
    for given in (np.ma.array(BASE, mask=False), BASE.astype(object)):
        found = check_points(given, 2)
        assert found.dtype == F64 and torch.equal(found, T)


def test_the_dtype_is_kept_and_lists_have_torchs_default():
    assert check_points(BASE.astype(np.float32), 2).dtype == torch.float32
    assert check_points(BASE.astype(">f4"), 2).dtype == torch.float32
    assert check_points(BASE.astype(np.float16), 2).dtype == torch.float16
    for listed in (BASE.tolist(), tuple(map(tuple, BASE.tolist()))):
        assert torch.equal(check_points(listed, 2), T.float())
    # Where float64 is what is used, no digit is lost on the way.
    assert check_times([0.1, 0.3]).tolist() == [0.1, 0.3]
    assert ms.Gaussian(1, [0.1]).mean.item() == 0.1
    assert as_tensor(np.array([0.1, 0.2])[::-1], dtype=F64).tolist() == [0.2, 0.1]


REFUSED = [
    (BASE.astype(int), TypeError, r"found int64: convert with np\.asarray\(x, dtype="),
    ([[1, 2]], TypeError, r"convert with np\.asarray\(x, dtype=float\)"),
    (np.ma.masked_greater(BASE, 2), ValueError, "found NaN or inf in "),
    ([[1.0, None]], ValueError, "found NaN or inf in 1 of 1"),
    (
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(T)),
        TypeError,
        r"torch\.cat\(\[batch\[0\] for batch in x\]\)",
    ),
    (torch.zeros(3, 2, dtype=torch.int64), TypeError, r"found int64: convert with x\.double\(\)"),
    ("text", TypeError, "found str .*: pass np.asarray"),
    (torch.zeros(2), ValueError, r"expected shape \(B, 2\), found \(2,\): one point is x\[None"),
    (torch.zeros(2, 5), ValueError, r"points are rows: pass x\.T"),
    (torch.zeros(0, 2), ValueError, "at least one row, found none"),
    (torch.tensor([[0.0, 0], [0, math.nan]]), ValueError, "in 1 of 2 rows, the first is row 1"),
]


@pytest.mark.parametrize(("x", "error", "message"), REFUSED)
def test_what_is_refused_has_a_fix(x, error, message):
    refused(message, check_points, x, 2, error=error)


def test_points_pass_unchanged():
    for dtype in (torch.float32, F64):
        x = points(3, 2, dtype=dtype)
        assert check_points(x, 2) is x
    assert check_points(np.zeros((4, 2)), None).shape == (4, 2)


def test_vector_for_one_dimension():
    refused(r"data: .* add the axis with x\[:, None\]", check_points, torch.zeros(5), 1, "data")


def test_times_pass():
    times = check_times(torch.tensor([0.0, 0.5, 2.0]))
    assert times.dtype == F64
    assert times.tolist() == [0.0, 0.5, 2.0]
    assert check_times(0.1).tolist() == [0.1]
    assert check_times([1, 2]).tolist() == [1.0, 2.0]


BAD_TIMES = [
    ([0.0, 1.0, 1.0], r"strictly increasing times, found times\[1\] = 1 and times\[2\] = 1"),
    ([0.0, 2.0, 1.0], r"times\[1\] = 2 and times\[2\] = 1"),
    ([-0.5, 1.0], r"times >= 0, found times\[0\] = -0.5"),
    ([0.5, torch.nan], r"finite times, found times\[1\] = nan"),
    ([0.5, torch.inf], r"finite times, found times\[1\] = inf"),
    ([], "non-empty"),
    ([[1.0, 2.0]], r"1-D tensor, found shape \(1, 2\)"),
]


@pytest.mark.parametrize(("times", "message"), BAD_TIMES)
def test_bad_times(times, message):
    refused(message, check_times, times)


def test_expand_like():
    x = torch.zeros(4, 2, 3, dtype=torch.float32)
    assert expand_like(0.5, x).shape == (1, 1, 1)
    assert expand_like(torch.tensor(0.5), x).shape == (1, 1, 1)
    t = expand_like(torch.arange(4, dtype=F64), x)
    assert t.shape == (4, 1, 1)
    assert t.dtype == torch.float32
    assert (x + t)[3, 1, 2] == 3
    assert torch.equal(expand_like(torch.arange(4.0)[:, None], x), t)
    for wrong in (torch.zeros(3), torch.zeros(1, 4), torch.zeros(4, 2)):
        refused(r"expected a number or shape \(4,\)", expand_like, wrong, x)


def test_the_fixes_work():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(T), batch_size=7)
    assert torch.equal(check_points(torch.cat([batch[0] for batch in loader]), 2), T)
    x = BASE.astype(int)
    assert check_points(np.asarray(x, dtype=float), 2).dtype == F64


OU, WELL = ms.OrnsteinUhlenbeck(2), ms.DoubleWell(2)
TIMES = [0.1, 0.2, 0.5]
SCORE = ms.fit_spectral(T, OU, 5, TIMES, shrinkage="heat")
ADDITIVE = {"features": "additive", "times": TIMES}
LINEAR = ms.LinearSDE([[-1.0, 0.5], [0.0, -1.0]], [[1.0, 0.0], [0.0, 1.0]])


def pull(x, t):
    return -x


def test_laws_and_processes_refuse_integers_which_would_round_their_parameters():
    x = torch.tensor([[1, 2]])
    for call in (
        lambda: ms.Gaussian(2, scale=0.5).log_prob(x),
        lambda: LINEAR.drift(x, 0.1),
        lambda: OU.transition_score(x.double(), x, 0.1),
        lambda: ms.TorusBrownian(2).project(y=x),
    ):
        refused(r"found int64: convert with x\.double\(\)", call, error=TypeError)


def test_weights_and_times_are_arrays_too():
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    x, ou = nodes[::-1][:, None], ms.OrnsteinUhlenbeck(1)
    score = ms.fit_spectral(x, ou, 4, np.array([1.0, 0.1])[::-1], weights=weights[::-1])
    assert score.coefficients.abs().max() < 1e-12  # the nodes are those of the stationary law
    size = ms.metrics.fisher_divergence(lambda x, t: 0 * x, lambda x, t: -x, x, 0.1,
                                        weights=weights.astype(">f8"))  # fmt: skip
    assert size.value == pytest.approx(1.0, rel=1e-12)  # E x^2
    t = np.linspace(0.1, 0.5, 40).astype(">f8")[::-1]
    assert torch.equal(SCORE(T, t), SCORE(T, torch.tensor(t.astype(float))))
    assert torch.equal(ms.TorusBrownian(2).project(BASE.astype(">f8")), T)


def test_arrays_train_in_the_networks_dtype():
    x = moons()
    expected = ms.train(small(), objective(), x, 3, batch_size=8, progress=False)
    for given in (x.numpy().astype(">f8")[::-1][::-1], Table(x), x.tolist()):
        found = ms.train(small(), objective(), given, 3, batch_size=8, progress=False)
        assert torch.equal(found.losses, expected.losses)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=8)
    with pytest.raises(TypeError, match=r"data: .*torch\.cat\(\[batch\[0\] for batch in data"):
        ms.train(small(), objective(), loader, 3, progress=False)


def test_additive_fits_read_loaders_and_lists():
    expected = ms.fit_spectral(T, OU, order=2, **ADDITIVE).table
    labels = torch.arange(40)
    for given in (
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(T, labels), batch_size=40),
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(T), batch_size=40),
        BASE.tolist(),
        [BASE],
        (batch for batch in [BASE.astype(">f8")]),
        (list(batch) for batch in [T]),  # rows one by one, not (points, labels)
    ):
        found = ms.fit_spectral(given, OU, order=2, **ADDITIVE).table
        tolerance = 1e-5 if isinstance(given, list) and given is not None else 1e-12
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# Numbers


def test_integers_of_every_library():
    for value in (5, 5.0, np.int64(5), np.uint8(5), np.float32(5), torch.tensor(5)):
        found = check_integer(value, "n")
        assert found == 5 and type(found) is int
    assert check_integer(2**63 - 1, "seed") == 2**63 - 1
    for value in (True, np.True_, torch.tensor(True), 2.5, "5", None, [5], math.nan, math.inf,
                  np.array([1, 2]), 0, -1, 2j):  # fmt: skip
        refused("n: expected an integer >= 1, found", check_integer, value, "n")
    refused("n: expected an integer from 1 to 3, found 4", check_integer, 4, "n", 1, 3)


def test_numbers_of_every_library():
    for value in (0.5, np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array(0.5)):
        found = check_number(value, "lr")
        assert found == 0.5 and type(found) is float
    for value in (True, "0.5", None, math.nan, math.inf, [0.5], 1j, np.array([0.5, 1])):
        refused("lr: expected a finite number, found", check_number, value, "lr")
    with pytest.raises(ValueError, match="lr: expected a finite positive number, found 0"):
        check_number(np.float32(0), "lr", positive=True)


SETTINGS = {
    "box": lambda f: ms.BoxBrownian(1, f(-1.0), f(2.0)).horizon,
    "beta pair": lambda f: ms.VariancePreserving(1, (f(0.5), f(2.0))).beta(0.5),
    "trap": lambda f: ms.TrappedParticles(2, f(0.25), f(2.0), f(3.0), f(0.5)).law(0.5).mean,
    "shape": lambda f: ms.ScoreUNet((f(1), f(4), f(4)), 4, (f(1), f(2))).dim,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_numbers_of_any_library(name):
    call = SETTINGS[name]
    expected = torch.as_tensor(call(float))
    for kind in (np.float32, np.float64, torch.tensor):
        assert torch.equal(torch.as_tensor(call(kind)), expected), kind


def test_training_takes_numpys_numbers_and_its_checkpoint_is_that_of_pythons(tmp_path):
    numbers = {"batch_size": 16, "lr": 0.25, "seed": 3, "ema": 0.5, "checkpoint_every": 2}
    made = {"batch_size": np.int64, "lr": np.float32, "seed": np.int64, "ema": np.float32}
    others = {key: made.get(key, np.int16)(value) for key, value in numbers.items()}
    others |= {"log_every": np.int64(2), "log": tmp_path / "log", "shards": np.int64(1)}
    others |= {"checkpoint_minutes": np.float64(5)}
    path = tmp_path / "run"
    found = ms.train(small(), objective(), moons(), np.int64(4), checkpoint=path, progress=False,
                     **others)  # fmt: skip
    # The checkpoint of the same settings: nothing is left to do.
    again = ms.train(small(), objective(), moons(), 4, checkpoint=path, progress=False, **numbers)
    assert torch.equal(found.losses, again.losses)
    fresh = ms.train(small(), objective(), moons(), 4, progress=False, **numbers)
    assert torch.equal(found.losses, fresh.losses)
    for bad in ({"seed": True}, {"seed": 0.5}, {"batch_size": True}, {"shards": 1.5}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}: expected an integer"):
            ms.train(small(), objective(), moons(), 4, progress=False, **(numbers | bad))


def test_images_are_counted_by_any_integer():
    images = ms.Images(torch.zeros(4, 4, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64),
                       (1, 2, 2), 2, "x", "train", "x")  # fmt: skip
    assert len(images.take(np.int64(2))) == 2
    assert [len(b) for b in images.batches(np.int64(3), rng())] == [3, 1]
    assert len(images.dequantised(rng(), np.int32(3))) == 3


# Domains


DTYPES = (torch.float16, torch.bfloat16, torch.float32, F64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("low", "high"), [(-math.pi, math.pi), (0.1, 0.3), (-0.3, -0.1), (0, 1)])
def test_inner_bounds_are_the_last_numbers_inside(dtype, low, high):
    """By brute force: every number of the dtype beside the bounds."""
    first, last = inner_bounds(low, high, dtype)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[torch.empty(0, dtype=dtype).itemsize]
    for bound, inside in ((low, first), (high, last)):
        near = torch.tensor([bound], dtype=F64).to(dtype).view(bits)
        around = (near + torch.arange(-3, 4).to(bits)).view(dtype).double()
        around = around[torch.isfinite(around)]
        allowed = around[(around >= low) & (around <= high)]
        assert inside == (allowed.min() if bound == low else allowed.max())
    half_open = inner_bounds(low, high, dtype, half_open=True)[1]
    assert half_open < high and (half_open == last or last == high)


@pytest.mark.parametrize("dtype", DTYPES)
def test_projected_points_are_inside_in_every_precision(dtype):
    edges = torch.tensor([-3, -2, -1, 1, 2, 3], dtype=F64) * math.pi
    x = torch.cat([torch.linspace(-20, 20, 801, dtype=F64), edges])[:, None].to(dtype)
    torus, box = ms.TorusBrownian(1), ms.BoxBrownian(1, 0.1, 0.3)
    for process, low, high in ((torus, -math.pi, math.pi), (box, 0.1, 0.3)):
        inside = process.project(x)
        assert inside.dtype == dtype
        for wider in DTYPES[2:]:
            assert process.contains(inside.to(wider)).all()
        assert ((inside.double() >= low) & (inside.double() <= high)).all()
        assert torch.equal(process.project(inside), inside)
    assert (torus.project(x).double() < math.pi).all()
    turned = (torus.project(x).double() - x.double()) / math.tau
    if dtype is F64:
        torch.testing.assert_close(turned, turned.round(), rtol=0, atol=1e-12)


def test_bounds_that_went_through_float32_are_inside():
    pi = torch.tensor([[math.pi], [-math.pi]])  # both beyond pi: 3.14159274
    torus, box = ms.TorusBrownian(1), ms.BoxBrownian(1, -0.1, 0.1)
    assert torus.contains(pi.double()).all()
    ms.fit_spectral(pi.double(), torus, 2, [0.5])
    ends = torch.tensor([[-0.1], [0.1]]).double()
    assert box.contains(ends).all()
    assert torch.isfinite(box.prior.log_prob(ends)).all()
    assert not torus.contains(torch.tensor([[3.1417]])).any()
    assert not box.contains(torch.tensor([[0.10001]])).any()
    assert box.prior.log_prob(torch.tensor([[0.10001]])) == -math.inf
    solved = ms.fokker_planck(
        box, box.prior.log_prob, [0.01], (-0.1, 0.1), boundary="reflecting", cells=20, steps=2
    )
    torch.testing.assert_close(solved.density(ends, 0.01), torch.tensor([5.0, 5.0]).double())


def test_uniform_draws_at_the_ends_are_inside(monkeypatch):
    for draw in (0.0, 1 - 2.0**-24):
        monkeypatch.setattr(torch, "rand", lambda n, d, draw=draw, **_: torch.full((n, d), draw))
        torus = ms.UniformTorus(1).sample(1).double()
        assert -math.pi <= torus < math.pi
        assert 0.1 <= ms.UniformBox(1, 0.1, 0.3).sample(1).double() <= 0.3
