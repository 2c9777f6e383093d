"""Inputs that people have: arrays of every make, numbers of every library, points that have gone
through another precision. They give the right number, or a message with a fix."""

import math
import warnings

import numpy as np
import pytest
import torch
from runs import data as moons
from runs import objective, small
from statistical import F64, rng

import markovscore as ms
from markovscore.core import as_tensor, check_integer, check_number, check_points, check_times
from markovscore.diffusions import inner_bounds

try:
    import pandas
except ImportError:
    pandas = None

BASE = np.clip(np.random.default_rng(0).standard_normal((40, 2)), -2.5, 2.5)
T = torch.tensor(BASE)


class Duck:
    """What pandas, xarray and others have in common."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype)


def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


ARRAYS = {
    "rows reversed": np.ascontiguousarray(BASE[::-1])[::-1],
    "columns reversed": np.ascontiguousarray(BASE[:, ::-1])[:, ::-1],
    "every other row": np.repeat(BASE, 2, 0)[::2],
    "big-endian": BASE.astype(">f8"),
    "long double": BASE.astype(np.longdouble),
    "Fortran order": np.asfortranarray(BASE),
    "read-only": frozen(BASE),
    "objects": BASE.astype(object),
    "masked nowhere": np.ma.array(BASE, mask=False),
    "list of arrays": list(BASE),
    "list of tensors": list(T),
    "duck": Duck(BASE),
}
if pandas is not None:
    frame = pandas.DataFrame(BASE, columns=["a", "b"])
    ARRAYS |= {"frame": frame, "nullable frame": frame.astype("Float64")}


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ms.SpectralWarning)
        yield


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_become_the_tensor_of_their_numbers(name):
    found = check_points(ARRAYS[name], 2)
    assert found.dtype == F64
    assert torch.equal(found, T)


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


REFUSED = {
    "integers": (BASE.astype(int), TypeError, r"found int64: convert with np\.asarray\(x, dtype="),
    "integer list": ([[1, 2]], TypeError, r"convert with np\.asarray\(x, dtype=float\)"),
    "masked": (np.ma.masked_greater(BASE, 2), ValueError, "found NaN or inf in "),
    "missing": ([[1.0, None]], ValueError, "found NaN or inf in 1 of 1"),
    "words": (np.array([["a", "b"]]), TypeError, "expected a tensor, or an array of numbers"),
    "ragged": ([[1.0, 2.0], [3.0]], TypeError, "expected a tensor, or an array of numbers"),
    "complex": (BASE + 0j, TypeError, "found complex128"),
    "sparse": (T.to_sparse(), TypeError, r"found torch.sparse_coo: pass x\.to_dense\(\)"),
    "meta": (T.to("meta"), TypeError, "on the device meta, which holds none: move"),
    "a loader": (
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(T)),
        TypeError,
        r"torch\.cat\(\[batch\[0\] for batch in x\]\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_has_a_fix(name):
    x, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        check_points(x, 2)


def test_the_fixes_work():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(T), batch_size=7)
    assert torch.equal(check_points(torch.cat([batch[0] for batch in loader]), 2), T)
    x = BASE.astype(int)
    assert check_points(np.asarray(x, dtype=float), 2).dtype == F64


OU, WELL = ms.OrnsteinUhlenbeck(2), ms.DoubleWell(2)
TIMES = [0.1, 0.2, 0.5]
SCORE = ms.fit_spectral(T, OU, 5, TIMES, shrinkage="heat")
ADDITIVE = {"features": "additive", "times": TIMES}
ROTATED = ms.fit_spectral(T, OU, order=3, rotation="pca", **ADDITIVE)
SOLVED = ms.fokker_planck(
    WELL, ms.Gaussian(2, scale=0.5).log_prob, [0.1], ((-3.5, 3.5),) * 2, cells=40, steps=10
)
MIXTURE = ms.DiffusedMixture(OU, [[1.0, 0.0], [0.0, 1.0]], 0.5)
NET = ms.ScoreMLP(2, width=4, depth=1).double()
LINEAR = ms.LinearSDE([[-1.0, 0.5], [0.0, -1.0]], [[1.0, 0.0], [0.0, 1.0]])


def seeded():
    return rng()


def pull(x, t):
    return -x


FACE = {
    "fit": lambda x: ms.fit_spectral(x, OU, 5, TIMES, shrinkage="heat").coefficients,
    "fit additive": lambda x: ms.fit_spectral(x, OU, order=2, **ADDITIVE).table,
    "fit rotated": lambda x: ms.fit_spectral(x, OU, order=3, rotation="pca", **ADDITIVE)(T, 0.1),
    "score": lambda x: SCORE(x, 0.3),
    "divergence": lambda x: SCORE.divergence(x, 0.3),
    "rotated score": lambda x: ROTATED(x, 0.3),
    "network": lambda x: NET(x, 0.3),
    "residual": lambda x: ms.ResidualScore(ROTATED, NET).score_and_divergence(x, 0.3)[1],
    "likelihood": lambda x: ms.log_likelihood(SCORE, OU, x, times=TIMES),
    "elbo": lambda x: ms.elbo(pull, OU, x, samples=2, t_min=0.1, generator=seeded()),
    "ode": lambda x: ms.sample_ode(SCORE, OU, 40, times=TIMES, x_T=x),
    "sde": lambda x: ms.sample_sde(SCORE, OU, 40, times=TIMES, x_T=x, generator=seeded()),
    "simulate": lambda x: ms.simulate(WELL, x, 0.5, 3, seeded()),
    "local": lambda x: ms.local_transition(WELL, x, 0.0, 0.1)[1],
    "local target": lambda x: ms.local_target(WELL, x, 0.0, 0.1, generator=seeded())[1],
    "path shift": lambda x: ms.path_shift_target(WELL, x, 0.0, 0.1, steps=3, generator=seeded())[1],
    "mmd": lambda x: ms.metrics.mmd(x, T + 0.1).value,
    "mmd of the second": lambda x: ms.metrics.mmd(T + 0.1, x).value,
    "sliced": lambda x: ms.metrics.sliced_wasserstein(x, T + 1, 5, seeded()).value,
    "fisher": lambda x: ms.metrics.fisher_divergence(SCORE, ROTATED, x, 0.3).value,
    "relative": lambda x: ms.metrics.relative_fisher_divergence(SCORE, ROTATED, x, 0.3).value,
    "denoising": lambda x: ms.DenoisingSM(OU, 0.1).loss(pull, x, seeded()),
    "local-dsm": lambda x: ms.LocalDSM(WELL, steps=3, t_max=0.5).loss(pull, x, seeded()),
    "implicit": lambda x: ms.ImplicitSM(WELL, steps=3, t_max=0.5).loss(pull, x, seeded()),
    "density": lambda x: SOLVED.density(x, 0.1),
    "mixture": lambda x: MIXTURE.score(x, 0.3),
    "basis": lambda x: ms.Hermite(2, 5).gradient(x),
    "law": lambda x: ms.GaussianMixture([[1.0, 0.0]], 0.5).score(x),
    "drift": lambda x: LINEAR.drift(x, 0.1),
    "transition": lambda x: LINEAR.sample_transition(x, 0.1, seeded()),
    "transition score": lambda x: LINEAR.transition_score(x, x, 0.1),
    "project": lambda x: ms.TorusBrownian(2).project(x),
}
HARDEST = ("columns reversed", "big-endian", "read-only", "list of arrays", "duck", "frame")


@pytest.mark.parametrize("name", FACE)
def test_the_whole_face_takes_arrays(name):
    expected = FACE[name](T)
    for kind in HARDEST:
        if kind in ARRAYS:
            found = FACE[name](ARRAYS[kind])
            if isinstance(expected, torch.Tensor):
                assert found.dtype == F64
                assert torch.equal(found, expected), kind
            else:
                assert found == expected, kind


def test_laws_and_processes_refuse_integers_which_would_round_their_parameters():
    x = torch.tensor([[1, 2]])
    for call in (
        lambda: ms.Gaussian(2, scale=0.5).log_prob(x),
        lambda: LINEAR.drift(x, 0.1),
        lambda: OU.transition_score(x.double(), x, 0.1),
        lambda: ms.TorusBrownian(2).project(y=x),
    ):
        with pytest.raises(TypeError, match=r"found int64: convert with x\.double\(\)"):
            call()


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


def test_arrays_train_in_the_networks_dtype():
    x = moons()
    expected = ms.train(small(), objective(), x, 3, batch_size=8, progress=False)
    for given in (x.numpy().astype(">f8")[::-1][::-1], Duck(x.numpy()), x.tolist()):
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
        with pytest.raises(ValueError, match="n: expected an integer >= 1, found"):
            check_integer(value, "n")
    with pytest.raises(ValueError, match="n: expected an integer from 1 to 3, found 4"):
        check_integer(4, "n", 1, 3)


def test_numbers_of_every_library():
    for value in (0.5, np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array(0.5)):
        found = check_number(value, "lr")
        assert found == 0.5 and type(found) is float
    for value in (True, "0.5", None, math.nan, math.inf, [0.5], 1j, np.array([0.5, 1])):
        with pytest.raises(ValueError, match="lr: expected a finite number, found"):
            check_number(value, "lr")
    with pytest.raises(ValueError, match="lr: expected a finite positive number, found 0"):
        check_number(np.float32(0), "lr", positive=True)


INTEGER_SETTINGS = {
    "fit": lambda n: ms.fit_spectral(T, OU, n(6), TIMES, shrinkage="heat").coefficients,
    "order": lambda n: ms.fit_spectral(T, OU, order=n(3), **ADDITIVE).table,
    "process": lambda n: ms.OrnsteinUhlenbeck(n(3)).dim,
    "torus": lambda n: ms.TorusBrownian(n(1)).eigenbasis(n(8)).eigenvalues,
    "box": lambda n: ms.BoxBrownian(n(1)).eigenbasis(n(8)).eigenvalues,
    "trap": lambda n: ms.TrappedParticles(n(2)).dim,
    "steps": lambda n: ms.simulate(WELL, T, 0.5, n(3), seeded()),
    "window": lambda n: ms.path_shift_target(WELL, T, 0, 0.1, steps=n(3), generator=seeded())[1],
    "grid": lambda n: ms.sample_ode(SCORE, OU, n(3), steps=n(4), generator=seeded()),
    "probes": lambda n: ms.log_likelihood(
        SCORE, OU, T, times=TIMES, trace="hutchinson", probes=n(2), generator=seeded()
    ),
    "samples": lambda n: ms.elbo(
        pull, OU, T, samples=n(2), steps=n(2), t_min=0.1, generator=seeded()
    ),
    "network": lambda n: ms.ScoreMLP(n(2), n(4), n(1))(T.float(), 0.5),
    "unet": lambda n: ms.ScoreUNet((n(1), n(4), n(4)), n(4), (n(1), n(2)), n(1)).dim,
    "buffer": lambda n: ms.PathBuffer(n(2), n(3)).ahead,
    "solver": lambda n: (
        ms.fokker_planck(
            ms.DoubleWell(),
            ms.Gaussian(1, scale=0.5).log_prob,
            [0.1],
            (-4, 4),
            cells=n(40),
            steps=n(5),
        ).values
    ),
    "toy": lambda n: ms.toy("moons", n(3), seeded()),
    "draws": lambda n: ms.Gaussian(n(2)).sample(n(3), seeded()),
    "projections": lambda n: ms.metrics.sliced_wasserstein(T, T + 1, n(5), seeded()).value,
}


@pytest.mark.parametrize("name", INTEGER_SETTINGS)
def test_counts_are_integers_of_any_library_and_nothing_else(name):
    call = INTEGER_SETTINGS[name]
    expected = torch.as_tensor(call(int))
    for kind in (np.int64, float, torch.tensor):
        assert torch.equal(torch.as_tensor(call(kind)), expected), kind
    for bad in (lambda n: True, lambda n: n + 0.5, str):
        with pytest.raises(ValueError, match="expected an integer"):
            call(bad)


FLOAT_SETTINGS = {
    "horizon": lambda f: ms.OrnsteinUhlenbeck(2, f(2.0)).horizon,
    "box": lambda f: ms.BoxBrownian(1, f(-1.0), f(2.0)).horizon,
    "beta": lambda f: ms.VariancePreserving(1, f(2.0)).beta(0.5),
    "beta pair": lambda f: ms.VariancePreserving(1, (f(0.5), f(2.0))).beta(0.5),
    "swimmer": lambda f: ms.ActiveSwimmer(f(0.5), f(2.0)).dispersion(0.0),
    "trap": lambda f: ms.TrappedParticles(2, f(0.25), f(2.0), f(3.0), f(0.5)).law(0.5).mean,
    "logistic": lambda f: ms.Logistic(2, f(0.5)).score(T),
    "times": lambda f: ms.DenoisingSM(OU, f(0.125), f(2.0)).loss(pull, T, seeded()),
    "window": lambda f: ms.LocalDSM(WELL, f(0.25), 3, t_max=f(0.5)).loss(pull, T, seeded()),
    "fixed": lambda f: ms.fixed_window(0.5, f(0.25)),
    "tolerance": lambda f: ms.sample_ode(
        SCORE, OU, 40, times=TIMES, x_T=T, method="adaptive", rtol=f(0.125), atol=f(0.125)
    ),
    "bandwidth": lambda f: ms.metrics.mmd(T, T + 1, f(0.5)).value,
}


@pytest.mark.parametrize("name", FLOAT_SETTINGS)
def test_settings_are_numbers_of_any_library(name):
    call = FLOAT_SETTINGS[name]
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
    assert [len(b) for b in images.batches(np.int64(3), seeded())] == [3, 1]
    assert len(images.dequantised(seeded(), np.int32(3))) == 3


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
