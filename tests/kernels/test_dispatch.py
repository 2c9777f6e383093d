"""Which implementation a call gets, and what it says when it cannot have the one it asks for."""

import logging
import os
import subprocess
import sys

import pytest
import torch

from markovscore.kernels import VARIABLE, row_blocks, unsupported, use_triton

X = torch.ones(3, 2)


def test_cpu_tensors_go_to_pytorch(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not use_triton("kernel", X)


def test_pytorch_can_be_forced(monkeypatch):
    monkeypatch.setenv(VARIABLE, "torch")
    assert not use_triton("kernel", X)


def test_the_interpreter_takes_cpu_tensors(monkeypatch):
    monkeypatch.setenv(VARIABLE, "interpret")
    if torch.cuda.is_available():
        pytest.skip("this process compiles its kernels")
    assert use_triton("kernel", X)


def test_a_cpu_tensor_with_triton_forced(monkeypatch):
    monkeypatch.setenv(VARIABLE, "triton")
    with pytest.raises(ValueError, match=r"kernel: expected CUDA tensors .* found one on cpu"):
        use_triton("kernel", X)


def test_a_driver_without_cuda_is_named(monkeypatch):
    monkeypatch.setenv(VARIABLE, "triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        use_triton("kernel", X)


def test_an_unknown_mode(monkeypatch):
    monkeypatch.setenv(VARIABLE, "cuda")
    with pytest.raises(ValueError, match=r"one of torch, triton, interpret, found 'cuda'"):
        use_triton("kernel", X)


def test_a_limit_is_an_error_where_forced_and_a_fallback_where_not(monkeypatch):
    monkeypatch.setenv(VARIABLE, "interpret")
    with pytest.raises(ValueError, match=r"degree at most 18, found 20.*torch, to fall back"):
        use_triton("kernel", X, limit="expected degree at most 18, found 20")
    monkeypatch.delenv(VARIABLE)
    assert not use_triton("kernel", X, limit="expected degree at most 18, found 20")


def test_without_triton(monkeypatch):
    monkeypatch.setattr("markovscore.kernels.dispatch.find_spec", lambda name: None)
    monkeypatch.setenv(VARIABLE, "interpret")
    with pytest.raises(ImportError, match=r"pip install 'markovscore\[gpu\]'"):
        use_triton("kernel", X)
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
    with pytest.raises(ValueError, match="at most 7 columns, found 8"):
        row_blocks(1, 8)


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
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert run.returncode != 0 and "set it once, before the first call" in run.stderr
    assert run.stdout.split() == [first]


@pytest.mark.parametrize(("imported", "asked"), [("0", "interpret"), ("1", "triton")])
def test_triton_that_was_imported_for_the_other_kind(imported, asked):
    script = (
        f"import os; os.environ['TRITON_INTERPRET'] = '{imported}'; import triton.language\n"
        "from markovscore.kernels import VARIABLE, triton_source\n"
        f"os.environ[VARIABLE] = {asked!r}; triton_source('expm')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    wanted = {"0": "1", "1": "0"}[imported]
    assert f"set TRITON_INTERPRET={wanted} before the process starts" in run.stderr


def test_importing_the_package_leaves_triton_alone():
    script = (
        "import sys, torch\nbefore = 'triton' in sys.modules\nimport markovscore\n"
        "assert before or 'triton' not in sys.modules\n"
        "loaded = [name for name in sys.modules if name.startswith('markovscore.')]\n"
        "assert loaded and not any('_triton' in name for name in loaded)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_interpreter_can_be_asked_for_in_the_environment():
    script = (
        "import markovscore, torch._dynamo\n"  # torch's compiler imports triton
        "from markovscore.kernels import use_triton\n"
        "assert use_triton('kernel', torch.ones(1))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment[VARIABLE] = "interpret"
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
