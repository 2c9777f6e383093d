"""scikit-learn's habits: its own checks, pipelines, searches; and the numbers of the functions."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from odd_inputs import refused
from statistical import F64, rng

import markovscore as ms

sklearn = pytest.importorskip("sklearn")
from sklearn.base import clone  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402


@pytest.mark.filterwarnings("ignore::markovscore.SpectralWarning")
@parametrize_with_checks([ms.SpectralDensity()])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def data(n=300, seed=0):
    u = torch.randn(n, 2, generator=rng(seed), dtype=F64)
    return torch.stack([3 * u[:, 0] + 40, u[:, 1] + u[:, 0].square()], 1).numpy()


def test_numbers_are_those_of_the_functions():
    x = data()
    model = ms.SpectralDensity(n_functions=14, shrinkage="heat").fit(x)
    space = ms.whitened(ms.OrnsteinUhlenbeck(2), x)
    score = ms.fit_spectral(x, space, 14, shrinkage="heat")
    expected = ms.log_likelihood(score, space, torch.from_numpy(x[:20]))
    assert np.array_equal(model.score_samples(x[:20]), expected.numpy())
    assert model.score(x[:20]) == pytest.approx(float(expected.mean()))
    assert torch.equal(model.score_(x, 0.1), score(x, 0.1))


def test_density_is_in_the_units_of_the_data():
    """Integrates to one over a box around the data; a change of units moves it by the Jacobian."""
    x = data()
    model = ms.SpectralDensity(n_functions=14, shrinkage="heat").fit(x)
    a, b = np.linspace(25, 55, 31), np.linspace(-5, 14, 39)
    grid = np.stack(np.meshgrid(a, b, indexing="ij"), -1).reshape(-1, 2)
    mass = np.exp(model.score_samples(grid)).sum() * (a[1] - a[0]) * (b[1] - b[0])
    assert abs(mass - 1) < 0.01
    scaled = ms.SpectralDensity(n_functions=14, shrinkage="heat").fit(1000 * x)
    moved = scaled.score_samples(1000 * x[:9]) + 2 * math.log(1000)
    assert np.allclose(moved, model.score_samples(x[:9]), atol=1e-6)


def test_angles_lengths_and_numbers():
    generator = np.random.default_rng(0)
    x = np.stack([
        generator.vonmises(0.5, 3.0, 500), generator.beta(2, 3, 500), generator.normal(7, 3, 500)
    ], 1)  # fmt: skip
    space = ms.Product([ms.TorusBrownian(1), ms.BoxBrownian(1), ms.OrnsteinUhlenbeck(1)])
    model = ms.SpectralDensity(space, n_functions=40, shrinkage="heat", random_state=1).fit(x)
    sample = model.sample(400)
    assert sample.shape == (400, 3) and (abs(sample[:, 0]) <= math.pi).all()
    assert (sample[:, 1] >= 0).all() and (sample[:, 1] <= 1).all()
    error = x.std(0) * math.sqrt(1 / 400 + 1 / 500)
    assert (abs(sample.mean(0) - x.mean(0)) < 6 * error).all()
    assert np.array_equal(sample, model.sample(400))  # the state is an integer
    assert not np.array_equal(sample, model.sample(400, random_state=2))


def test_searches_and_pipelines():
    x = data(200)
    search = GridSearchCV(ms.SpectralDensity(), {"n_functions": [2, 5, 9]}, cv=3).fit(x)
    assert search.best_params_["n_functions"] > 2  # the law is bent
    pipeline = make_pipeline(StandardScaler(), ms.SpectralDensity(n_functions=9)).fit(x)
    assert np.isfinite(pipeline.score_samples(x[:5])).all()
    copy = clone(pipeline[-1])
    assert copy.get_params() == pipeline[-1].get_params()


def test_points_outside_come_back_where_asked():
    x = np.random.default_rng(0).uniform(0, 6, (200, 1))
    refused("state space", ms.SpectralDensity(ms.TorusBrownian(1), n_functions=4).fit, x)
    model = ms.SpectralDensity(ms.TorusBrownian(1), n_functions=4, wrap=True).fit(x)
    assert np.allclose(model.score_samples(x[:5]), model.score_samples(x[:5] - 2 * math.pi))


def test_bad_input_is_named():
    x = data(30)
    refused("'auto' or a process", ms.SpectralDensity("torus").fit, x)
    refused("of 2 coordinates", ms.SpectralDensity(ms.TorusBrownian(1)).fit, x)
    refused("vary in every direction", ms.SpectralDensity(n_functions=2).fit, x[:, [0, 0]])
    refused("vary in every direction", ms.SpectralDensity(n_functions=2).fit, x[:2])
    constant = np.column_stack([x, np.ones(30)])
    refused("constant", ms.SpectralDensity(n_functions=2).fit, constant)
    refused("none negative", ms.SpectralDensity(n_functions=2).fit, x, weights=-np.ones(30))


def test_scikit_learn_is_optional_and_imported_when_used():
    code = (
        "import sys; import markovscore as ms; assert 'sklearn' not in sys.modules;"
        "sys.modules['sklearn'] = None\n"
        "try: ms.SpectralDensity\n"
        "except ImportError as error: assert 'pip install scikit-learn' in str(error)\n"
        "else: raise SystemExit('imported')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
