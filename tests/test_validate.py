"""Entry checks: what passes is unchanged, what fails says expected, found and the fix."""

import numpy as np
import pytest
import torch
from statistical import F64

from markovscore.core import check_points, check_times, expand_like


def test_points_pass_unchanged():
    for dtype in (torch.float32, F64):
        x = torch.randn(3, 2, dtype=dtype)
        assert check_points(x, 2) is x
    array = np.zeros((4, 2))
    assert check_points(array, 2).dtype == F64
    assert check_points(array, None).shape == (4, 2)


BAD_POINTS = [
    (torch.zeros(3, 2, dtype=torch.int64), TypeError, r"found int64: convert with x\.double\(\)"),
    (torch.zeros(3, 2, dtype=torch.bool), TypeError, "found bool"),
    (torch.zeros(3, 2, dtype=torch.complex64), TypeError, "found complex64"),
    ("text", TypeError, "found str .*: pass np.asarray"),
    (torch.zeros(2), ValueError, r"expected shape \(B, 2\), found \(2,\): one point is x\[None"),
    (torch.zeros(3, 2, 1), ValueError, r"found \(3, 2, 1\)"),
    (torch.zeros(2, 5), ValueError, r"points are rows: pass x\.T"),
    (torch.zeros(0, 2), ValueError, "at least one row, found none"),
    (
        torch.tensor([[0.0, 0.0], [0.0, torch.nan]]),
        ValueError,
        "in 1 of 2 rows, the first is row 1",
    ),
    (torch.tensor([[0.0, torch.inf], [0.0, 0.0]]), ValueError, "the first is row 0"),
]


@pytest.mark.parametrize(("x", "error", "message"), BAD_POINTS)
def test_bad_points(x, error, message):
    with pytest.raises(error, match=message):
        check_points(x, 2)


def test_vector_for_one_dimension():
    with pytest.raises(ValueError, match=r"data: .* add the axis with x\[:, None\]"):
        check_points(torch.zeros(5), 1, "data")


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
    with pytest.raises(ValueError, match=message):
        check_times(times)


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
        with pytest.raises(ValueError, match=r"expected a number or shape \(4,\)"):
            expand_like(wrong, x)
