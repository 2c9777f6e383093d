"""Which implementation of a kernel runs: plain PyTorch, or Triton on the GPU.

``MARKOVSCORE_KERNELS``, read at every call, forces one:

* unset: Triton where all tensors are on a CUDA device, Triton is installed and the kernel supports
  their types and sizes; else PyTorch;
* ``torch``: PyTorch, everywhere;
* ``triton``: Triton, or an error that says why not;
* ``interpret``: Triton's interpreter, which runs the same kernels on CPU tensors, slowly: for tests
  and debugging. ``bfloat16`` is wrong in it.

Every choice is logged once, at level INFO, by the logger ``markovscore.kernels``. Triton is
imported by the first call that needs it, never by ``import markovscore``.
"""

import logging
import os
import sys
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

VARIABLE = "MARKOVSCORE_KERNELS"
MODES = ("torch", "triton", "interpret")
# Offsets inside a kernel are 32-bit: a launch sees fewer elements, see row_blocks.
MAX_ELEMENTS = 2**31 - 1
FLOATS = (torch.float32, torch.float64)

_log = logging.getLogger("markovscore.kernels")

# Triton reads this when it is imported, which torch may do for its compiler before any kernel does.
if os.environ.get(VARIABLE) == "interpret":
    os.environ.setdefault("TRITON_INTERPRET", "1")


def use_triton(kernel: str, *tensors: Tensor, limit: str | None = None) -> bool:
    """Whether the Triton version of ``kernel`` is to run on ``tensors``.

    ``limit`` says why this call is outside what the kernel supports, None if it is not: an
    unforced call then falls back to PyTorch.

    Raises:
        ValueError: Triton is forced and the tensors are not on a CUDA device, or outside the
            kernel's limits; an unknown mode.
        ImportError: Triton is forced and not installed.
        RuntimeError: the process has used the kernels in the other way before.
    """
    mode = os.environ.get(VARIABLE) or "auto"
    if mode not in ("auto", *MODES):
        raise ValueError(f"{VARIABLE}: expected one of {', '.join(MODES)}, found {mode!r}")
    if mode == "torch":
        return _choose(kernel, f"PyTorch ({VARIABLE}=torch)", False)
    elsewhere = next((t.device for t in tensors if not t.is_cuda), None)
    if mode == "auto":
        reason = _reason_against(elsewhere, limit)
        if reason is not None:
            return _choose(kernel, f"PyTorch ({reason})", False)
    _require(kernel, mode, elsewhere, limit)
    _prepare(interpret=mode == "interpret")
    place = "Triton's interpreter" if mode == "interpret" else f"Triton on {tensors[0].device}"
    return _choose(kernel, place, True)


def unsupported(
    *tensors: Tensor, dtypes: tuple[torch.dtype, ...] = FLOATS, gradients: bool = False
) -> str | None:
    """Why a kernel for ``dtypes`` cannot take ``tensors``, None if it can.

    Tensors of a ``torch.func`` transform, and tensors that need gradients where the kernel has none
    (``gradients=False``), are left to PyTorch.
    """
    for tensor in tensors:
        if tensor.dtype not in dtypes:
            names = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
            return f"expected {names}, found {str(tensor.dtype).removeprefix('torch.')}"
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return "found a tensor inside a torch.func transform"
        if tensor.requires_grad and torch.is_grad_enabled() and not gradients:
            return "expected no gradients, found a tensor that requires them"
    return None


def recorded(*tensors: Tensor) -> bool:
    """Whether operations on any of them are recorded for derivatives, as writing to memory is not:
    autograd follows it, or it is inside a ``torch.func`` transform."""
    return any(
        (t.requires_grad and torch.is_grad_enabled())
        or torch._C._functorch.is_functorch_wrapped_tensor(t)
        for t in tensors
    )


def row_blocks(rows: int, columns: int) -> list[tuple[int, int]]:
    """Ranges of rows, each of at most ``MAX_ELEMENTS`` elements.

    Raises:
        ValueError: one row alone has more.
    """
    if columns > MAX_ELEMENTS:
        raise ValueError(
            f"expected at most {MAX_ELEMENTS} columns, found {columns}: split them, or set "
            f"{VARIABLE}=torch"
        )
    size = MAX_ELEMENTS // max(columns, 1)
    return [(first, min(first + size, rows)) for first in range(0, rows, size)]


def _reason_against(elsewhere: torch.device | None, limit: str | None) -> str | None:
    if elsewhere is not None:
        return f"tensors on {elsewhere}"
    if limit is not None:
        return limit
    if find_spec("triton") is None:
        return "triton is not installed: pip install 'markovscore[gpu]'"
    return None


def _require(kernel: str, mode: str, elsewhere: torch.device | None, limit: str | None) -> None:
    """Refuse what a forced mode cannot do."""
    if mode == "triton" and elsewhere is not None:
        seen = "" if torch.cuda.is_available() else ", and torch sees no CUDA device"
        raise ValueError(
            f"{kernel}: expected CUDA tensors with {VARIABLE}=triton, found one on {elsewhere}"
            f"{seen}: move the tensors to the GPU, or unset {VARIABLE} (PyTorch on the CPU)"
        )
    if limit is not None:
        raise ValueError(
            f"{kernel}: {limit}; this is outside the kernel with {VARIABLE}={mode}: unset it, or "
            "set it to torch, to fall back to PyTorch"
        )
    if find_spec("triton") is None:
        raise ImportError(
            f"{VARIABLE}={mode} needs triton, which is not installed: pip install "
            f"'markovscore[gpu]', or unset {VARIABLE}"
        )


def _prepare(interpret: bool) -> None:
    """Triton decides when a kernel is defined whether it is compiled or interpreted."""
    package = sys.modules.get("markovscore.kernels._triton")
    if package is not None and package.INTERPRETED is not interpret:
        used = "interpreter" if not interpret else "GPU"
        raise RuntimeError(
            f"this process has made its kernels for Triton's {used} before, found another value of "
            f"{VARIABLE} now: set it once, before the first call"
        )
    if package is None:
        value = "1" if interpret else "0"
        os.environ["TRITON_INTERPRET"] = value
        import triton.language
        from triton.runtime.jit import JITFunction

        if isinstance(triton.language.zeros, JITFunction) is interpret:
            raise RuntimeError(
                "triton was imported before the first kernel, as torch does for its compiler, with "
                f"another TRITON_INTERPRET than {value}: set TRITON_INTERPRET={value} before the "
                f"process starts ({VARIABLE}=interpret, set by then, does so itself)"
            )


def _choose(kernel: str, place: str, triton: bool) -> bool:
    _say_once(kernel, place)
    return triton


@cache
def _say_once(kernel: str, place: str) -> None:
    _log.info("%s runs in %s", kernel, place)
