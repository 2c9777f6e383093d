"""Simulations that a kernel does in one launch: which ones, and what it is given.

A class offers ``euler_kernel() -> PathDrift | None``, its drift in the clock at unit rate (a prior
``path_drift()``, half its score). It is used where ``markovscore.kernels.dispatch`` chooses Triton;
everywhere else the loops of ``simulation`` and ``path_shift`` run, with torch's own noise.
"""

import os
from typing import Any

import torch
from torch import Tensor

from ..core import Process, original
from ..kernels import VARIABLE, PathDrift, Steps, euler_paths, kernel_limit, use_triton


def offered(owner: Any, method: str, *fields: str) -> PathDrift | None:
    """The drift that ``method`` of ``owner`` gives; None without one, and where a subclass has its
    own version of one of the ``fields`` that the kernel would stand in for."""
    if getattr(owner, method) is None:
        return None
    order = [vars(c) for c in type(original(owner)).__mro__]
    place = next((i for i, names in enumerate(order) if method in names), len(order))
    replaced = any(field in names for names in order[:place] for field in fields)
    return None if replaced else getattr(owner, method)()


def simulated(
    process: Process, y: Tensor, s: Tensor, t: Tensor, steps: int, generator: torch.Generator | None
) -> Tensor | None:
    """:func:`markovscore.simulate` in a kernel, None where there is none for this call."""
    drift = _drift(process, y)
    if drift is None:
        return None
    length = process.clock.between(s, t) / steps
    return euler_paths(drift, y, Steps(steps, length), seed=_seed(y, generator))[1]


def shifted(
    process: Process, y: Tensor, s: Tensor, t: Tensor, steps: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor] | None:
    """:func:`markovscore.path_shift_target` with its default weight, or None, likewise."""
    drift = _drift(process, y)
    if drift is None:
        return None
    length = process.clock.between(s, t) / steps
    _, end, target = euler_paths(drift, y, None, Steps(steps, length), seed=_seed(y, generator))
    assert target is not None
    return end, target


def _drift(process: Process, y: Tensor) -> PathDrift | None:
    if process.euler_kernel is None:
        return None
    # Where the answer is PyTorch in any case, no parameters are gathered: 70 us of a short call.
    if not y.is_cuda and os.environ.get(VARIABLE) != "interpret":
        use_triton("euler_paths", y)  # logs it, and refuses where Triton is forced
        return None
    fields = ("drift", "dispersion", "shift_target", "project")
    drift = offered(process, "euler_kernel", *fields)
    if drift is None:
        return None
    return drift if use_triton("euler_paths", y, limit=kernel_limit(drift, y)) else None


def _seed(y: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randint(2**63 - 1, (1,), generator=generator, device=y.device)
