"""Which implementation a call gets, and what it says when it cannot have the one it asks for."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from odd_inputs import refused

from markovscore.kernels import VARIABLE, row_blocks, unsupported, use_triton

X = torch.ones(3, 2)


LIMIT = "expected degree at most 18, found 20"


@pytest.mark.parametrize(
    ("mode", "limit", "outcome"),
    [
        (None, None, False),
        (None, LIMIT, False),
        ("torch", None, False),
        ("interpret", None, True),
        ("interpret", LIMIT, "degree at most 18, found 20.*torch, to fall back"),
        ("triton", None, "kernel: expected CUDA tensors .* found one on cpu"),
        ("cuda", None, "one of torch, triton, interpret, found 'cuda'"),
    ],
)
def test_where_a_cpu_tensor_goes(monkeypatch, mode, limit, outcome):
    monkeypatch.delenv(VARIABLE, raising=False)
    if mode is not None:
        monkeypatch.setenv(VARIABLE, mode)
    if isinstance(outcome, str):
        refused(outcome, use_triton, "kernel", X, limit=limit)
    elif outcome and torch.cuda.is_available():
        pytest.skip("this process compiles its kernels")
    else:
        assert use_triton("kernel", X, limit=limit) is outcome


def test_a_driver_without_cuda_is_named(monkeypatch):
    monkeypatch.setenv(VARIABLE, "triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("torch sees no CUDA device", use_triton, "kernel", X)


def test_without_triton(monkeypatch):
    monkeypatch.setattr("markovscore.kernels.dispatch.find_spec", lambda name: None)
    monkeypatch.setenv(VARIABLE, "interpret")
    refused(r"pip install 'markovscore\[gpu\]'", use_triton, "kernel", X, error=ImportError)
    monkeypatch.delenv(VARIABLE)
    assert not use_triton("kernel", X)


def test_every_choice_is_logged_once(monkeypatch, caplog):
    monkeypatch.delenv(VARIABLE, raising=False)
    with caplog.at_level(logging.INFO, "markovscore.kernels"):
        for _ in range(3):
            use_triton("the first to be logged", X)
            use_triton("the second", X)
    assert [r.getMessage() for r in caplog.records] == [
        "the first to be logged runs in PyTorch (tensors on cpu)",
        "the second runs in PyTorch (tensors on cpu)",
    ]


def test_what_is_unsupported():
    assert unsupported(X) is None
    assert "found float16" in unsupported(X.half())
    assert "requires them" in unsupported(X.requires_grad_())
    assert unsupported(X, gradients=True) is None
    found = []
    torch.func.vmap(lambda x: found.append(unsupported(x)) or x)(torch.ones(2, 2))
    assert "torch.func" in found[0]


def test_rows_are_split_below_the_limit(monkeypatch):
    assert row_blocks(5, 3) == [(0, 5)]
    assert row_blocks(0, 3) == []
    assert row_blocks(2**22, 3072) == [(i, min(i + 699050, 2**22)) for i in range(0, 2**22, 699050)]
    monkeypatch.setattr("markovscore.kernels.blocks.MAX_ELEMENTS", 7)
    assert row_blocks(5, 3) == [(0, 2), (2, 4), (4, 5)]
    refused("at most 7 columns, found 8", row_blocks, 1, 8)


def in_a_process(script, **settings):
    """The script's exit in a process of its own, its output and its errors."""
    command, environment = [sys.executable, "-c", script], os.environ | settings
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("first", ["interpret", "triton"])
def test_one_process_has_one_kind_of_kernel(first):
    """Triton decides at definition; a second kind would silently be the first."""
    other = {"interpret": "triton", "triton": "interpret"}[first]
    script = (
        "import os; from markovscore.kernels import VARIABLE, triton_source\n"
        f"for mode in ({first!r}, {other!r}):\n"
        "    os.environ[VARIABLE] = mode\n"
        "    triton_source('expm')\n"
        "    print(mode)\n"
    )
    status, output, errors = in_a_process(script)
    assert status != 0 and "set it once, before the first call" in errors
    assert output.split() == [first]


@pytest.mark.parametrize(("imported", "asked"), [("0", "interpret"), ("1", "triton")])
def test_triton_that_was_imported_for_the_other_kind(imported, asked):
    script = "import triton.language\nfrom markovscore.kernels import triton_source\n"
    settings = {"TRITON_INTERPRET": imported, VARIABLE: asked}
    errors = in_a_process(script + "triton_source('expm')\n", **settings)[2]
    assert f"set TRITON_INTERPRET={1 - int(imported)} before the process starts" in errors


def test_importing_the_package_leaves_triton_alone():
    script = (
        "import sys, torch\nbefore = 'triton' in sys.modules\nimport markovscore\n"
        "assert before or 'triton' not in sys.modules\n"
        "loaded = [name for name in sys.modules if name.startswith('markovscore.')]\n"
        "assert loaded and not any('_triton' in name for name in loaded)\n"
    )
    status, _, errors = in_a_process(script)
    assert status == 0, errors


def test_the_interpreter_can_be_asked_for_in_the_environment(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    script = (
        "import markovscore, torch._dynamo\n"  # torch's compiler imports triton
        "from markovscore.kernels import use_triton\n"
        "assert use_triton('kernel', torch.ones(1))\n"
    )
    status, _, errors = in_a_process(script, **{VARIABLE: "interpret"})
    assert status == 0, errors
