"""Processes with walls are refused: their paths cannot be shifted and have boundary terms.

A process says so (``reflects``), or its ``project`` shows it: only a translation by periods of the
process, a torus, leaves targets what they are.
"""

import torch
from torch import Tensor

from ..core import Process, Time, drift_at, name_of
from .verdicts import known, spread_rows, trial_rows


def check_walls(process: Process) -> None:
    """Refuse a process that ``reflects``."""
    if process.reflects:
        raise ValueError(
            f"expected a process without walls, found {name_of(process)}: near a wall its "
            "local transition is not Gaussian and its paths cannot be shifted; it has an exact "
            "transition, use DenoisingSM"
        )


def wrapped(process: Process, y: Tensor, time: Time) -> Tensor:
    """The ends of free paths ``y``, brought back by the process's ``project``, once that is known
    to be a translation by periods of the process; where it has never moved a point, as it is.

    Raises:
        ValueError: it is something else, a wall for instance.
    """
    projected = process.project(y)
    passed = known(process)
    if "translation" in passed or ("still" in passed and torch.equal(projected, y)):
        return projected
    passed.add(check_translation(process, y, time))
    return projected


@torch.no_grad()
def check_translation(process: Process, y: Tensor, time: Time) -> str:
    """``"translation"``, or ``"still"`` where ``project`` moves none of the points tried.

    Tried are rows of ``y`` and the same pushed out by up to eight times their spread. Where
    ``project`` adds ``c`` to a point, it must add the same around it (a reflection has slope -1, a
    clamp 0), undo ``c`` wherever it is added, and leave the drift as it was.

    Raises:
        ValueError: it does not.
    """
    project = process.project
    rows, generator = trial_rows(y, 4)
    y, time = y[rows], time[rows] if isinstance(time, Tensor) and time.ndim else time
    spread = (y - y.mean(0)).square().mean().sqrt() + 1e-3 * y.abs().mean() + 1e-6

    def normal(p: Tensor) -> Tensor:
        return torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device)

    p = torch.cat([y + push * spread * normal(y) for push in (0, 1, 2, 4, 8)])
    added = project(p) - p
    rounding = 64 * torch.finfo(p.dtype).eps * (1 + p.abs().amax() + added.abs().amax())
    acts = added.abs().amax(1) > rounding
    if not bool(acts.any()):
        return "still"
    name, p, added = name_of(process), p[acts], added[acts]
    step = 1e-3 * spread * normal(p)
    moved = project(p + step) - project(p)
    bent = (moved - step).abs().amax(1) > 0.1 * step.abs().amax(1) + rounding
    if _often(bent):
        steepest = ((moved * step).sum(1) / step.square().sum(1))[bent]
        raise _wall(
            f"its slope is {float(steepest.median()):.2g} at such points, where a translation has 1"
        )
    shifts = added[torch.randperm(len(added), generator=generator, device=y.device)]
    if _often((project(p + shifts) - project(p)).abs().amax(1) > 4 * rounding):
        raise _wall(f"it moves points by {added[0, :8].tolist()}, which is no period of {name}")
    shifts = shifts[spread_rows(len(shifts), len(y), y.device)]
    here, there = (drift_at(process, v, time) for v in (y, y + shifts))
    slack = 1e-3 * (here.abs().amax() + there.abs().amax()) * (y.element_size() < 8) + 1e-6
    if _often((here - there).abs().amax(1) > slack * (1 + here.abs().amax(1))):
        raise _wall(f"the drift of {name} differs between a point and where project moves it")
    return "translation"


def _often(bad: Tensor) -> bool:
    """In more than a tenth of the rows: a few lie across the cut."""
    return float(bad.double().mean()) > 0.1


def _wall(found: str) -> ValueError:
    return ValueError(
        f"project: expected the identity, or a translation by periods of the process (a torus), "
        f"found that {found}: paths with walls cannot be shifted and have boundary terms; use "
        "DenoisingSM with an exact transition (BoxBrownian), or a drift that keeps the paths inside"
    )
