"""Error bars of fits: their coverage, the formula, what is held fixed, what is refused."""

import math

import pytest
import torch
from odd_inputs import refused
from scipy.stats import t as student
from statistical import F64, points, rng

import markovscore as ms

CIRCLE = ms.TorusBrownian(1)
AT = torch.tensor([[-0.8], [0.1], [0.9]], dtype=F64)
SETS, BLOCKS = 200, 20


def test_bars_cover_the_mean_of_the_estimator():
    """68 and 95% of 200 sets, within three binomial errors, for the score at three points; with
    Student's quantiles, as 20 blocks know the error to one part in six."""
    values, errors = [], []
    for seed in range(SETS):
        bars = ms.jackknife(0.6 * points(200, 1, seed), CIRCLE, 6, [0.1], n_blocks=BLOCKS)
        value, error = bars(lambda score: score(AT, 0.1)[:, 0])
        values.append(value)
        errors.append(error)
    value, error = torch.stack(values), torch.stack(errors)
    distance = (value - value.mean(0)).abs() / error
    for level in (0.68, 0.95):
        covered = (distance < student.ppf(0.5 + level / 2, BLOCKS - 1)).double().mean(0)
        room = 3 * math.sqrt(level * (1 - level) / SETS)
        assert (covered - level).abs().max() < room, (level, covered)


def test_of_an_average_it_is_the_standard_error():
    """Of a functional that is linear in the averages, blocks of one point give s / sqrt(n)."""
    x = 0.6 * points(40, 1)
    bars = ms.jackknife(x, CIRCLE, 2, [0.1], n_blocks=20)
    own = [one.basis.moments(x).mean for one in bars.replicates]
    assert len(own) == 20 and all(torch.equal(m, own[0]) for m in own)  # one basis for all
    order = torch.randperm(40, generator=rng(0)) % 20
    means = torch.stack([x[order != j].mean() for j in range(20)])
    by_score = {id(one): mean for one, mean in zip(bars.replicates, means, strict=True)}
    value, error = bars(lambda score: by_score.get(id(score), x.mean()))
    blocks = torch.stack([x[order == j].mean() for j in range(20)])
    assert value == x.mean()
    assert float(error) == pytest.approx(float(blocks.std() / math.sqrt(20)), rel=1e-9)


def test_what_is_chosen_is_chosen_once():
    x = torch.cat([0.3 * points(60, 1), 1.5 + 0.3 * points(60, 1, 1)])
    bars = ms.jackknife(x, CIRCLE, weights=torch.ones(120), n_blocks=4, generator=rng(3))
    plain = ms.fit_spectral(x, CIRCLE, weights=torch.ones(120), generator=rng(3))
    assert bars.score.checksum == plain.checksum
    for one in bars.replicates:
        assert torch.equal(one.basis.indices, plain.basis.indices)
        assert torch.equal(one.times, plain.times) and one.checksum != plain.checksum
    value, error = bars(lambda score: ms.log_likelihood(score, CIRCLE, AT))
    assert value.shape == error.shape == (3,) and bool((error > 0).all())
    assert torch.equal(value, ms.log_likelihood(plain, CIRCLE, AT))


def test_of_an_affine_image_it_is_in_the_user_s_units():
    process = ms.Affine(ms.OrnsteinUhlenbeck(1), [[2.0]], [3.0])
    x = 3 + points(100, 1)
    bars = ms.jackknife(x, process, 3, [0.1], n_blocks=5)
    assert bars.score.checksum == ms.fit_spectral(x, process, 3, [0.1]).checksum
    assert all(one.diffusion is process for one in bars.replicates)


def test_what_is_refused():
    x = points(30, 1, 0, 0.3)
    refused("n_blocks: expected blocks of two", ms.jackknife, x, CIRCLE, 4, n_blocks=16)
    refused("n_blocks: expected an integer >= 2", ms.jackknife, x, CIRCLE, 4, n_blocks=1)
    refused("torch.Generator", ms.jackknife, x, CIRCLE, 4, n_blocks=3, generator=1,
            error=TypeError)  # fmt: skip
    bars = ms.jackknife(x, CIRCLE, 4, [0.1], n_blocks=3)
    refused("functional: expected", bars, lambda score: "many", error=TypeError)


def test_plot():
    """The band is two standard errors wide on either side of the line."""
    x = 0.5 * torch.randn(60, 1, generator=rng(), dtype=F64)
    bars = ms.jackknife(x, ms.TorusBrownian(1), 4, n_blocks=5, shrinkage="heat")
    at = torch.linspace(-1, 1, 9, dtype=F64)

    def along(score):
        return score(at[:, None], 0.1)[:, 0]

    ax = bars.plot(at, along)
    value, error = bars(along)
    assert torch.allclose(torch.tensor(ax.lines[0].get_ydata()), value)
    corners = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert math.isclose(corners.max(), float((value + 2 * error).max()))
    assert math.isclose(corners.min(), float((value - 2 * error).min()))
    assert bars.plot(at, along, ax) is ax
    refused("one number for each", bars.plot, at[:3], along)
