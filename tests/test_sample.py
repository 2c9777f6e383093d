"""The data of a fit: weights of a sample and of a quadrature, NaN, names of columns."""

import json
import re
import warnings

import pytest
import torch
from odd_inputs import Table, refused
from statistical import F64, points, rng

import markovscore as ms
from markovscore.core import as_diffusion
from markovscore.spectral import read_sample

TORUS, PLANE = ms.TorusBrownian(2), ms.OrnsteinUhlenbeck(2)
MIXED = ms.Product([ms.TorusBrownian(1), ms.OrnsteinUhlenbeck(1)])
X = 0.5 * points(120)
LEVELS = [0.05, 0.3]
each_space = pytest.mark.parametrize("process", [TORUS, PLANE, MIXED], ids=["torus", "OU", "mixed"])
RULES = ["none", "james-stein", "heat", "heat+1"]


def fit(x=X, process=TORUS, n_functions=8, **settings):
    return ms.fit_spectral(x, process, n_functions, LEVELS, **settings)


@each_space
@pytest.mark.parametrize("rule", RULES)
def test_weights_of_one_equal_none(process, rule):
    plain = fit(process=process, shrinkage=rule).coefficients
    for weights in (torch.ones(120), torch.full((120,), 3.0), [1 / 120] * 120):
        found = fit(process=process, shrinkage=rule, weights=weights).coefficients
        torch.testing.assert_close(found, plain, rtol=1e-7, atol=1e-9)


def test_weights_of_one_choose_the_same():
    plain, ones = (ms.fit_spectral(X, TORUS, weights=w).selection for w in (None, torch.ones(120)))
    assert (plain.n_functions, plain.first) == (ones.n_functions, ones.first)
    torch.testing.assert_close(ones.gains, plain.gains, rtol=1e-6, atol=1e-6)


@each_space
def test_points_of_no_weight_are_not_there(process):
    w = torch.rand(120, generator=rng(), dtype=F64)
    w[::3] = 0
    kept = w > 0
    for rule in RULES:
        found = fit(process=process, shrinkage=rule, weights=w)
        assert found.checksum == fit(X[kept], process, shrinkage=rule, weights=w[kept]).checksum
    chosen = ms.fit_spectral(X, process, weights=w)
    assert chosen.checksum == ms.fit_spectral(X[kept], process, weights=w[kept]).checksum


@each_space
def test_weights_are_repetitions_of_the_averages(process):
    """Two weights of one half are a point twice, but for the errors: there are fewer points."""
    times = torch.randint(1, 4, (120,), generator=rng(1))
    again = X.repeat_interleave(times, 0)
    found = fit(process=process, weights=times.double()).coefficients
    torch.testing.assert_close(found, fit(again, process).coefficients, rtol=1e-7, atol=1e-9)
    sample = read_sample(X, as_diffusion(process), times.double())
    moments = sample.moments(process.eigenbasis(8))
    whole = read_sample(again, as_diffusion(process)).moments(process.eigenbasis(8))
    n = float(times.sum()) ** 2 / float(times.square().sum())
    assert sample.size == pytest.approx(n) and moments.n_points == round(n)
    some = whole.variance > 1e-12
    ratio = (moments.variance / whole.variance)[some]
    expected = torch.full_like(ratio, (len(again) - 1) / (n - 1))
    torch.testing.assert_close(ratio, expected, rtol=1e-6, atol=0)


@each_space
def test_the_spread_of_weighted_averages_is_predicted(process):
    """Weights that are independent of the points, over 500 samples: Kish's size is exact there,
    and a variance is known to 6 sqrt(2 / 500), with as much for the kurtosis."""
    basis, means, variances = process.eigenbasis(6), [], []
    for seed in range(500):
        x = 0.5 * points(60, seed=seed)
        w = torch.rand(60, generator=rng(seed), dtype=F64) ** 3
        moments = read_sample(x, as_diffusion(process), w).moments(basis)
        means.append(moments.mean)
        variances.append(moments.variance)
    spread, predicted = torch.stack(means).var(0), torch.stack(variances).mean(0)
    some = predicted > 1e-12
    # a cosine and its sine share their variance: the sum over all functions is what is predicted
    assert abs(float(spread[some].sum() / predicted[some].sum()) - 1) < 0.76
    unweighted = read_sample(X, as_diffusion(process)).moments(basis).variance.sum() * 120 / 60
    assert predicted.sum() > 1.5 * unweighted  # of 60 points without weights


def test_a_quadrature_is_exact():
    nodes = torch.linspace(-3.1, 3.1, 400, dtype=F64)[:, None]
    mass = torch.exp(-(nodes[:, 0] ** 2))
    circle = ms.TorusBrownian(1)
    exact = fit(nodes, circle, 20, weights=mass, exact=True)
    assert torch.equal(exact.coefficients, fit(nodes, circle, 20, weights=mass).coefficients)
    sample = read_sample(nodes, as_diffusion(circle), mass, exact=True)
    assert not sample.moments(circle.eigenbasis(20)).variance.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # 300 functions, and no noise to warn of
        ms.fit_spectral(nodes, circle, 300, [0.001], weights=mass, exact=True)
    for rule in RULES[1:]:
        refused("no shrinkage", fit, nodes, circle, exact=True, shrinkage=rule)


def test_weights_that_are_refused():
    w = torch.ones(120)
    for bad, words in ((-1.0, "found -1.0 in row 3"), (float("nan"), "found nan in row 3")):
        w[3] = bad
        refused(f"weights: expected 120 finite non-negative.*{words}", fit, weights=w)
    refused("weights: expected a positive sum", fit, weights=torch.zeros(120))
    refused(r"weights: .*found shape \(3,\)", fit, weights=torch.ones(3))
    alone = torch.full((120,), 1e-9)
    alone[5] = 1
    refused("as many as the weights amount to.*found 1", ms.fit_spectral, X, TORUS, weights=alone)
    refused("expected 'none' with one point", fit, weights=alone, shrinkage="heat")


def test_rows_with_nan():
    x = X.clone()
    x[7, 1], x[9] = torch.nan, torch.nan
    kept = X[~x.isnan().any(1)]
    refused("x: expected finite numbers, .*2 of 120 rows, the first is row 7", fit, x)
    with pytest.warns(ms.SpectralWarning, match="2 of 120 rows with NaN: 1 in column 0, 2 in col"):
        score = fit(x, nan="drop")
    assert score.dropped == 2 and fit().dropped == 0 and score.checksum == fit(kept).checksum
    w = torch.rand(120, generator=rng(), dtype=F64)
    with pytest.warns(ms.SpectralWarning, match="2 in b"):
        found = fit(Table(x), nan="drop", weights=w)
    assert found.checksum == fit(kept, weights=w[~x.isnan().any(1)]).checksum
    x[11, 0] = torch.inf
    with pytest.warns(ms.SpectralWarning, match="dropped"):
        refused("x: expected finite numbers", fit, x, nan="drop")
    with pytest.warns(ms.SpectralWarning, match="dropped"):
        refused("at least one row", fit, torch.full((5, 2), torch.nan), nan="drop")
    refused("nan: expected 'raise' or 'drop'", fit, nan="skip")


def test_columns_have_names(tmp_path):
    for score in (fit(Table(X)), ms.fit_additive(Table(X), PLANE, 3, LEVELS)):
        assert score.columns == ("a", "b")
        score.save(tmp_path / "score")
        assert type(score).load(tmp_path / "score").columns == ("a", "b")
    assert fit().columns is None
    refused(r"found .* outside, the first in row 0: \{'a': .*, 'b': ", fit, Table(X + 9))
    refused("these look like degrees: pass torch.deg2rad", fit, 60 * X)
    with pytest.warns(ms.SpectralWarning, match="found constant b: a point mass"):
        fit(Table(X * torch.tensor([1.0, 0.0])))
    with pytest.warns(ms.SpectralWarning, match=r"found constant [+-]0.71 a [+-]0.71 b: a point"):
        fit(Table(X[:, [0, 0]]))


@pytest.mark.parametrize(
    "process",
    [TORUS, ms.BoxBrownian(2, -3.0, 2.0),
     ms.Product([ms.OrnsteinUhlenbeck(1), ms.BoxBrownian(1, 5.0, 6.0)]),
     ms.Product([ms.TorusBrownian(1, period=4.0), ms.OrnsteinUhlenbeck(1)])],
    ids=["torus", "box", "line, box", "circle, line"],
)  # fmt: skip
def test_the_map_that_is_named_brings_the_points_in(process):
    x = 400 * X + torch.tensor([3000.0, -700.0], dtype=F64)
    with pytest.raises(ValueError, match="change the units") as caught:
        ms.fit_spectral(x, process, 4)
    numbers = re.findall(r"Affine\(process, (\[.*?\]), (\[.*?\])\)", str(caught.value))
    matrix, shift = (json.loads(part) for part in numbers[0])
    space = ms.Affine(process, matrix, shift)
    assert bool(space.contains(x).all())
    lines = process.eigenbasis(2).lines
    assert all((matrix[i], shift[i]) == (1, 0) for i in lines)
    refused("change the matrix", ms.fit_spectral, x + 1e4, ms.Affine(process, matrix, shift), 4)


def test_degrees_are_seen_in_a_product():
    space = ms.Product([ms.OrnsteinUhlenbeck(1), ms.TorusBrownian(1)])
    refused("look like degrees: .* period of 360", ms.fit_spectral, 60 * X, space, 4)


def test_equal_weights_amount_to_the_points():
    """Not to a little less, of which half would be another number of functions to choose from."""
    for n in range(2, 1000):
        x = torch.zeros(n, 2, dtype=F64)
        assert read_sample(x, as_diffusion(TORUS), torch.full((n,), 0.1)).size == n
