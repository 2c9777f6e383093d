"""Whether a target is one, tried on simulated paths."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import (
    DiffusionLike,
    as_diffusion,
    check_field,
    check_generator,
    check_number,
    check_points,
    check_steps,
    check_window,
    original,
)
from ..diffusions import propagate
from .path_shift import shift
from .stein_identities import SteinCheck, stein_scores
from .walls import check_walls

Target = Callable[..., tuple[Tensor, Tensor]]


@torch.no_grad()
def stein_check(
    process: DiffusionLike,
    x0: Tensor,
    t: float,
    *,
    s: float = 0.0,
    steps: int = 20,
    paths: int = 20_000,
    weight: Any = None,
    target: Target | None = None,
    generator: torch.Generator | None = None,
) -> SteinCheck:
    """Test on simulated paths from ``x0`` whether the target for the score at ``t`` is right.

    The path-shift target is exact for the Euler chain, so that any excess is a fault of the process
    and not of the number of steps. Nothing is refused here: what ``path_shift_target`` refuses can
    be measured. A target is tested for the law that its own points are drawn from: ``local_target``
    passes, though its law is not that of a nonlinear process.

    Args:
        process: has ``drift`` and ``dispersion``.
        x0: ``(B, d)``, where paths start at time 0; rows are used in turn, ``paths`` of them.
        t, s: numbers, ``0 <= s < t <= horizon``: the window.
        steps: Euler steps from 0 to ``s``, and on the window.
        paths: independent paths; the standard error of a mean is one over their root.
        weight: as in ``path_shift_target``.
        target: another target to test, called as ``target(process, y_s, s, t, generator=...)`` and
            returning ``y, target``, for instance ``local_target``.
        generator: source of the noise, on the device of ``x0``; None: seed 0.

    Returns:
        :class:`SteinCheck`, whose ``print`` says what the z-scores mean.

    Raises:
        TypeError, ValueError: malformed points, window or numbers; both ``weight`` and ``target``;
            and as in ``simulate``.
    """
    process = as_diffusion(process)
    x0 = check_points(x0, process.dim, "x0")
    check_generator(generator, x0.device)
    s, t, paths = check_number(s, "s"), check_number(t, "t", positive=True), check_steps(paths)
    if weight is not None and target is not None:
        raise ValueError("expected weight or target, found both: a target has its own weight")
    first, last = check_window(process.horizon, s, t, 1)
    steps = check_steps(steps)
    if generator is None:
        generator = torch.Generator(device=x0.device).manual_seed(0)
    start = x0[torch.arange(paths, device=x0.device) % len(x0)]
    y_s = propagate(process, start, torch.zeros_like(first), first, steps, generator)
    if target is not None:
        y, found = target(original(process), y_s, s, t, generator=generator)
    else:
        check_walls(process)
        y, found, _ = shift(process, y_s, first, last, steps, generator, weight)
        y = process.project(y)
    return stein_scores(process, y, check_field(found, y, "target"))
