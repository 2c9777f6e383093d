"""The Triton side of ``markovscore.kernels``: one file for each kernel, named as its twin's.

Imported by the first call that runs a kernel (``dispatch.use_triton``). A file holds the jitted
functions and one launcher, which takes checked, contiguous tensors of one device. Block sizes are
constants with a reason: autotuning would make a result depend on the machine's mood.
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def on_own_device(launcher: Callable[..., Any]) -> Callable[..., Any]:
    """Triton launches on the current device: make it that of the launcher's first argument."""

    @wraps(launcher)
    def launch(first: Tensor, *rest: Any) -> Any:
        with torch.cuda.device_of(first):
            return launcher(first, *rest)

    return launch
