"""What both scores in closed form share: levels, dtype, checks once, files, warnings, doors."""

import copy
import dataclasses
import inspect
import itertools
import json
import warnings

import numpy as np
import pytest
import torch
from odd_inputs import Table, refused
from problems import Plain
from safetensors import safe_open
from safetensors.torch import save_file
from statistical import F64, points, rng
from torch.utils.data import DataLoader, TensorDataset

import markovscore as ms

OU = ms.OrnsteinUhlenbeck(2, horizon=1.0)
LEVELS = [0.01, 0.1, 0.3, 1.0]
TIMES = torch.linspace(0.05, 0.9, 21, dtype=F64)
ADDITIVE = {"features": "additive", "order": 3}
FAMILIES = {"product": {"n_functions": 9}, "additive": ADDITIVE}
each_family = pytest.mark.parametrize("family", FAMILIES)


def fit(family, x=None, times=LEVELS, **settings):
    x = 0.5 * points(300) if x is None else x
    return ms.fit_spectral(x, OU, times=times, **FAMILIES[family], **settings)


# Levels


@each_family
def test_at_a_level_the_score_is_the_one_fitted_there_and_linear_between(family):
    score, y = fit(family), points(20, seed=1)
    for t in LEVELS:
        assert torch.allclose(score(y, t), fit(family, times=[t])(y, t), rtol=1e-10, atol=1e-10)
    if family == "product":  # a table of the score's own coefficients, whose basis stands still
        low, high = score.coefficients[1:3]
        for share in (0.25, 0.5, 0.9):
            found = score.at(0.1 + share * 0.2)
            torch.testing.assert_close(found, low + share * (high - low), rtol=1e-12, atol=1e-12)


def test_the_additive_table_is_linear_between_levels():
    """Without data's scale in the variable (all of scale one) the table is in ``x`` itself."""
    x = points(300)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    score = fit("additive", x)
    at = score.at(torch.tensor([0.1, 0.15, 0.3], dtype=F64))
    torch.testing.assert_close(at[1], 0.75 * at[0] + 0.25 * at[2], rtol=1e-10, atol=1e-10)


@each_family
def test_a_time_that_went_through_float32_is_taken_for_the_end_it_misses(family):
    score, y = fit(family, times=[0.1, 0.7]), points(20, seed=1)
    ends = torch.tensor([0.1, 0.7])  # the first is a little more, the second a little less
    assert float(ends[0]) > 0.1 and float(ends[1]) < 0.7
    for t, exact in ((0.1 - 6e-7, 0.1), (0.7 + 6e-7, 0.7)):
        torch.testing.assert_close(score(y, t), score(y, exact), rtol=1e-5, atol=1e-5)
    for t in (0.1 - 8e-7, 0.7 + 8e-7, float("nan")):
        refused(r"t: expected times in the fitted range \[0.1, 0.7\]", score, y, t)
        among_others = torch.full((20,), 0.3, dtype=F64)
        among_others[7] = t
        refused("fitted range", score, y, among_others)


# The dtype and device of the data


@each_family
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(F64, F64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_samples_have_the_dtype_of_the_data(family, dtype, expected, tmp_path):
    score = fit(family, 0.5 * points(300).to(dtype))
    score.save(tmp_path / "score")
    again = type(score).load(tmp_path / "score")
    for one in (score, again):
        assert (one.dtype, one.device) == (expected, torch.device("cpu"))
        for draw in (ms.sample_ode, ms.sample_sde):
            assert draw(one, OU, 3, steps=2, generator=rng()).dtype == expected
    start = torch.zeros(3, 2, dtype=F64)
    assert ms.sample_ode(score, OU, 3, steps=2, x_T=start).dtype == F64


def test_batches_have_a_dtype_too():
    for x in (points(300).float().split(100), [b.numpy() for b in points(300).float().split(100)]):
        assert fit("additive", x).dtype == torch.float32


@each_family
def test_older_files_and_those_of_a_device_that_is_not_here(family, tmp_path):
    fit(family, 0.5 * points(300).float()).save(tmp_path / "new")
    with safe_open(tmp_path / "new", "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert (metadata["dtype"], metadata["device"]) == ("float32", "cpu")
    load = type(fit(family)).load
    save_file(tensors, tmp_path / "far", metadata | {"device": "cuda:99"})
    assert load(tmp_path / "far").device == torch.device("cpu")
    older = {name: metadata[name] for name in ("format", "diffusion")}
    save_file(tensors, tmp_path / "old", older)
    score = load(tmp_path / "old")
    assert (score.dtype, score.device) == (F64, torch.device("cpu"))
    assert ms.sample_ode(score, OU, 3, steps=2, generator=rng()).dtype == F64


def recast(score, kind):
    """The same fit as an object of another class."""
    return kind(**{field.name: getattr(score, field.name) for field in dataclasses.fields(score)})


def test_the_dtype_of_samples_costs_no_projection():
    """Of 1,001 levels in 768 dimensions it took 4.57 of 4.6 seconds."""

    class Guarded(ms.AdditiveScore):
        @property
        def coefficients(self):
            raise AssertionError("projected")

    score = recast(fit("additive"), Guarded)
    assert ms.sample_ode(score, OU, 3, steps=2, generator=rng()).dtype == F64


# Checks once


def counted(family, seen):
    """A fit that notes the rows of every check of points."""
    score = fit(family)

    class Counted(type(score)):
        def check(self, x):
            seen.append(len(x))
            return super().check(x)

    return recast(score, Counted)


FLOWS = {
    "likelihood": (ms.log_likelihood, {}),
    "adaptive": (ms.log_likelihood, {"method": "adaptive"}),
    "hutchinson": (ms.log_likelihood, {"trace": "hutchinson"}),
    "ode": (ms.sample_ode, {}),
    "sde": (ms.sample_sde, {}),
}


def run(flow, score, x):
    function, settings = FLOWS[flow]
    if flow in ("hutchinson", "sde"):
        settings = settings | {"generator": rng()}
    if function is ms.log_likelihood:
        return function(score, OU, x, times=TIMES, **settings)
    return function(score, OU, len(x), times=TIMES, x_T=x, **settings)


@each_family
@pytest.mark.parametrize("flow", FLOWS)
def test_a_flow_checks_its_points_once(family, flow):
    """A likelihood over 20 times ran its check of points 39 times."""
    seen, x = [], points(11, seed=2)
    score = counted(family, seen)
    found = run(flow, score, x)
    assert seen == [11]
    if flow in ("ode", "sde"):
        assert torch.equal(found, run(flow, lambda x, t: score(x, t), x))
    seen.clear()
    residual = ms.ResidualScore(score, ms.ScoreMLP(2, width=8, depth=1).double())
    plain = ms.ResidualScore(fit(family), residual.network)
    assert torch.equal(run(flow, residual, x), run(flow, plain, x))
    assert seen == [11]
    score(x, 0.3), score.score_and_divergence(x, 0.3)
    assert len(seen) == 3 and residual.base is score


@each_family
def test_what_a_flow_refuses_it_still_refuses(family):
    score, x = fit(family), points(5)
    wide = Plain(lambda y, t: -y, dim=3, horizon=1.0, prior=ms.Gaussian(3))
    hole = Plain(lambda y, t: torch.where(t < 0.3, torch.nan, -y), dim=2, prior=ms.Gaussian(2))
    bad = Plain(lambda y, t: -y, dim=2, prior=ms.Gaussian(2))
    bad.prior.sample = lambda n, **_: torch.full((n, 2), torch.nan)
    residual = ms.ResidualScore(score, ms.ScoreMLP(2, width=8, depth=1).double())
    shape = r"x: expected shape \(B, 2\), found \(4, 3\)"
    state = r"state at t = 0\.\d+: expected finite numbers"
    early = "times: expected within the score's fitted range"
    for one in (score, residual):
        refused(shape, ms.sample_ode, one, wide, 4, x_T=points(4, 3), times=TIMES)
        refused(state, ms.sample_ode, one, hole, 5, x_T=x, times=TIMES)
        refused(state, ms.log_likelihood, one, hole, x, times=TIMES)
        refused(early, ms.sample_sde, one, OU, 5, x_T=x, times=[1e-3, 0.5])
    row = "x: expected finite numbers, .*first is row 0"
    refused(row, ms.sample_ode, score, bad, 5, times=TIMES)


# Warnings and doors


WARNINGS = {
    "flat": lambda: ms.fit_spectral(torch.zeros(50, 2, dtype=F64), OU, 5),
    "noise": lambda: ms.fit_spectral(points(30), OU, 40, [0.0, 0.1]),
    "scatter": lambda: ms.fit_spectral(points(5), OU, 5, shrinkage="heat"),
    "additive": lambda: ms.fit_additive(torch.zeros(50, 2, dtype=F64), OU, 3),
    "door": lambda: ms.fit_spectral(torch.zeros(50, 2, dtype=F64), OU, **FAMILIES["additive"]),
    "few": lambda: ms.fit_additive(points(3), OU, 5, LEVELS),
    "ode": lambda: ms.sample_ode(narrow(), OU, 2, generator=rng()),
    "sde": lambda: ms.sample_sde(narrow(), OU, 2, generator=rng()),
    "likelihood": lambda: ms.log_likelihood(narrow(), OU, points(2)),
    "elbo": lambda: ms.elbo(narrow(), OU, points(2), samples=1, t_min=0.2, generator=rng()),
}


def narrow():
    """A fit whose first level is later than the data's smallest scale."""
    return ms.fit_additive(0.02 * points(100), OU, 2, LEVELS)


@pytest.mark.parametrize("call", WARNINGS)
def test_a_warning_is_at_the_line_of_the_user(call):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        WARNINGS[call]()
    ours = [one for one in seen if one.category is ms.SpectralWarning]
    assert {one.filename for one in ours} == {__file__}
    assert inspect.getsourcelines(WARNINGS[call])[1] in {one.lineno for one in ours}


FORMS = {
    "array": lambda x: x.numpy(),
    "columns": lambda x: np.asfortranarray(x.numpy()),
    "frame": Table,
    "lists": lambda x: x.tolist(),
    "arrays": lambda x: list(x.numpy()),
    "tensors": tuple,
}


@pytest.mark.parametrize("rotation", [None, "pca"])
@pytest.mark.parametrize("form", FORMS)
def test_arrays_frames_and_lists_of_rows_are_data(form, rotation):
    """Sorted: the first 2,000 rows, taken for a batch, set another scale."""
    x = points(3000).float().double().sort(0).values
    expected = ms.fit_additive(x, OU, 4, LEVELS, rotation=rotation)
    found = ms.fit_additive(FORMS[form](x), OU, 4, LEVELS, rotation=rotation)
    turned = x if rotation is None else x @ expected.rotation
    torch.testing.assert_close(expected.centre, turned.mean(0))
    for name in ("centre", "scale", "low", "high", "table"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


BATCHES = {
    "tensors": lambda x: x.split(100),
    "arrays": lambda x: [part.numpy() for part in x.split(100)],
    "lists": lambda x: [part.tolist() for part in x.split(100)],
    "generator": lambda x: (part for part in x.split(100)),
    "loader": lambda x: DataLoader(x, batch_size=100),
    "labelled": lambda x: DataLoader(TensorDataset(x, x[:, 0]), batch_size=100),
    "listed": lambda x: [[part, part[:, 0]] for part in x.split(100)],
}


@pytest.mark.parametrize("form", BATCHES)
def test_batches_are_batches(form):
    """The first of them sets the scale, and all of them the result."""
    x = points(500).float().double().sort(0).values
    found = ms.fit_additive(BATCHES[form](x), OU, 4, LEVELS)
    torch.testing.assert_close(found.centre, x[:100].mean(0))
    y = points(20, seed=1)
    torch.testing.assert_close(found(y, 0.3), ms.fit_additive(x, OU, 4, LEVELS)(y, 0.3))


def test_two_functions_have_two_names():
    x = points(200)
    for rotation in (None, "pca"):
        score = ms.fit_additive(x, OU, 3, LEVELS, rotation=rotation)
        same = ms.fit_spectral(x, OU, times=LEVELS, rotation=rotation, **ADDITIVE)
        assert score.checksum == same.checksum and type(same) is ms.AdditiveScore
    assert ms.fit_additive.__doc__ != ms.fit_spectral.__doc__
    for name, value in {"n_functions": 5, "weights": None, "exact": True}.items():
        refused(name, ms.fit_additive, x, OU, 3, **{name: value}, error=TypeError)
    refused("n_functions: expected none with this family", ms.fit_spectral, x, OU, 5, **ADDITIVE)


# Files


@each_family
def test_a_process_without_a_dimension_of_its_own_is_kept_by_name(family, tmp_path):
    own = Plain(lambda y, t: -y, lambda t: 2**0.5, horizon=1.0)
    own.eigenbasis, own.ou_time, own.dim = OU.eigenbasis, OU.ou_time, 2
    score = ms.fit_spectral(0.5 * points(300), own, times=LEVELS, **FAMILIES[family])
    if family == "product":  # the additive fit asks for the dimension
        del own.dim
    score.save(tmp_path / "score")
    with safe_open(tmp_path / "score", "pt") as file:
        kept = json.loads(file.metadata()["diffusion"])
    assert kept == {"class": "Plain", "dim": getattr(own, "dim", None), "foreign": True}
    words = "found one of Plain, a class of your own: .*diffusion="
    refused(words, type(score).load, tmp_path / "score")
    again = type(score).load(tmp_path / "score", diffusion=own)
    y = points(5)
    assert torch.equal(again(y, 0.2), score(y, 0.2)) and again.checksum == score.checksum


FITS = FAMILIES | {"pca": ADDITIVE | {"rotation": "pca"}}


@pytest.mark.parametrize("name", FITS)
def test_files_are_kept_whole_and_others_refused(name, tmp_path):
    """Noise, a fit cut short, one of the other family, a file of nobody's, none at all."""
    score = ms.fit_spectral(0.5 * points(300), OU, times=LEVELS, **FITS[name])
    y, path, load = points(5, seed=1), tmp_path / "score", type(score).load
    score.save(path)
    assert torch.equal(load(path)(y, 0.3), score(y, 0.3))
    assert torch.equal(load(path).times, score.times) and load(path).checksum == score.checksum
    assert name == "product" or copy.deepcopy(score) is score
    (tmp_path / "noise").write_bytes(b"\x00" * 40)
    save_file({"weights": torch.zeros(2)}, tmp_path / "foreign")
    fit("additive" if name == "product" else "product").save(tmp_path / "other")
    for cut, size in (("end", -9), ("start", 200)):
        (tmp_path / cut).write_bytes(path.read_bytes()[:size])
    for file in ("noise", "end", "start"):
        refused("corrupt", load, tmp_path / file)
    for file in ("foreign", "other"):
        refused(f"not a {type(score).__name__}", load, tmp_path / file)
    refused("none", load, tmp_path / "absent", error=FileNotFoundError)


def test_checksums_tell_fits_apart():
    scores = [fit(f, x) for f, x in itertools.product(FAMILIES, (points(90), points(90, seed=1)))]
    scores.append(fit("product", points(90), shrinkage="heat"))
    scores.append(fit("additive", points(90), rotation="pca"))
    assert len({score.checksum for score in scores}) == 6
    assert fit("product").checksum == fit("product").checksum
