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
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from .constants import VARIABLE

MODES = ("torch", "triton", "interpret")
FLOATS = (torch.float32, torch.float64)

_TRITON = f"{__package__}._triton"
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
    mode = _mode()
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


def triton_source(kernel: str) -> ModuleType:
    """The file of Triton functions of ``kernel``, for who compiles or measures those: defined for
    the interpreter if that is forced, else for a GPU, which need not be there.

    Raises:
        ValueError, RuntimeError: as :func:`use_triton`.
        ImportError: Triton is not installed, or has no such kernel.
    """
    _prepare(interpret=_mode() == "interpret")
    return import_module(f"{_TRITON}.{kernel}")


def _mode() -> str:
    mode = os.environ.get(VARIABLE) or "auto"
    if mode not in ("auto", *MODES):
        raise ValueError(f"{VARIABLE}: expected one of {', '.join(MODES)}, found {mode!r}")
    return mode


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
    package = sys.modules.get(_TRITON)
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


@cache
def _choose(kernel: str, place: str, triton: bool) -> bool:
    """``triton``; the first time that a kernel goes to a place it is logged."""
    _log.info("%s runs in %s", kernel, place)
    return triton
