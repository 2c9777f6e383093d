"""What the compiler makes of the paths: everything in registers, nothing in local memory."""

import pytest

from .compiled import resources

POINTERS = ("start", "y_s", "y_t", "target", "table", "lengths_s", "lengths_t")
INTEGERS = ("components", "lanes", "per_row", "first", "n_s", "stride_s", "n_t", "stride_t")

# Drift, coordinates, components (0: a loop over any number), type, architecture, most registers:
# 64 keep 8 blocks of 128 threads on a multiprocessor, 128 keep 4, 255 two.
CASES = [
    ("double_well", 1, 1, "fp32", 90, 64),
    ("logistic", 1, 1, "fp32", 80, 64),
    ("swimmer", 2, 1, "fp64", 90, 128),
    ("mixture", 2, 4, "fp32", 90, 128),
    ("mixture", 8, 0, "fp64", 90, 255),
]


@pytest.mark.parametrize(("kind", "D", "M", "dtype", "arch", "most"), CASES)
def test_nothing_spills(kind, D, M, dtype, arch, most):
    signature = dict.fromkeys(POINTERS, f"*{dtype}") | dict.fromkeys(INTEGERS, "i32")
    signature |= {"cell": "*i32", "seed": "*i64"}
    constants = {"KIND": kind, "D": D, "M": M, "BLOCK": 128}
    found = resources("paths", "euler", signature, constants, arch=arch)
    assert found["stack"] == 0 and found["local"] == 0
    assert found["reg"] <= most


def test_the_normals():
    signature = {"out": "*fp32", "seed": "*i64"}
    signature |= dict.fromkeys(("steps", "rows", "columns", "stream"), "i32")
    found = resources("philox", "normals", signature, {"BLOCK": 128})
    assert found["stack"] == 0 and found["reg"] <= 40
    # Both words of a product come from one instruction.
    assert "mul.hi" not in found["ptx"]
