r"""Path-shift targets: an unbiased target for the score from a simulated path.

Shift the whole path on a window ``[s, t]`` by ``w_r e``, with ``w_s = 0`` and ``w_t = I``. A
translation has unit Jacobian, so for any drift with Jacobian ``J``

.. math:: \nabla \log \rho_t(y) = E[\text{target} \mid Y_t = y], \qquad
          \text{target} = -\int_s^t [\dot w_r - J(Y_r) w_r]^\top (G G^\top)^{-1} G\, dW_r .

For the Euler chain ``y_{i+1} = y_i + h f(y_i) + sqrt(h) G z_i`` the same argument is exact:

.. math:: \text{target} = -\sum_i [w_{i+1} - w_i - h J(y_i) w_i]^\top
          (G G^\top)^{-1} G z_i / \sqrt h

is a conditional-mean target for the score of the chain itself, so its only bias is the weak error
of the scheme. With ``J`` frozen at ``y_s`` and :func:`linearised_weight` it is local-DSM.
``w_{i+1}`` may also depend on the path up to ``y_i``: the map ``y_i -> y_i + w_i e`` is then
triangular with unit diagonal. ``weight="adaptive"`` uses it to steer at the least cost.

The continuous formula is an integration by parts of Driver (1997, J. Math. Pures Appl. 76) that
Wang (2014, arXiv:1203.4023) derives by the same shift; Ni (2025, arXiv:2507.04035) has a formula
that is exact in discrete time. The use as a regression target on a window, and the weight that
follows the path, are ours as far as we know.
"""

from typing import Any

import torch
from torch import Tensor

from ..core import (
    Diagonal,
    DiffusionLike,
    Grid,
    LinearMap,
    Process,
    Step,
    Time,
    Walk,
    check_field,
    check_finite,
    check_generator,
    check_steps,
    drift_and_vjp,
    drift_at,
    full_precision,
    jacobian_at,
    make_grid,
    name_of,
)
from ..diffusions import shifted
from .derivative import check_drift
from .local import check_request
from .stein_identities import stein_scores
from .verdicts import known, trial_windows
from .walls import wrapped
from .weights import Weight, WeightPath, WeightTable, is_adaptive, named_weight, steered

# A z-score that refuses a shift rule: beyond the bound of a check, for tails heavier than normal.
_REFUSED = 8.0


def path_shift_target(
    diffusion: DiffusionLike,
    y_s: Tensor,
    s: Time,
    t: Time,
    *,
    steps: int = 20,
    generator: torch.Generator | None = None,
    weight: Weight = None,
    check_derivative: bool = True,
) -> tuple[Tensor, Tensor]:
    """Simulate the window and return ``y`` ``(B, d)`` at ``t`` and a ``target`` ``(B, d)`` with
    ``E[target | y] = grad log rho_t(y)``, whatever the law at ``s`` and the window's length.

    Args:
        diffusion: has ``drift`` and ``dispersion``; ``drift_and_vjp`` or ``drift_jacobian`` are
            used where it has them, else ``torch.func``. ``G G^T`` must be invertible, or the class
            supply ``shift_target(states, noise, step) -> (B, d)`` (see ``ActiveSwimmer``).
        y_s: ``(B, d)`` at time ``s``.
        s, t: numbers, or ``(B,)`` or ``(B, 1)`` tensors, ``0 <= s < t <= horizon``.
        steps: Euler steps on the window, equal in the process's clock.
        generator: source of the noise, one draw a step; in a kernel one in all, as in
            :func:`simulate`.
        weight: ``w`` as a function of the elapsed share of the window's clock, ``(N + 1,)`` in
            float64 from 0 to 1. Its rank says what it is: ``(N + 1,)`` times the identity,
            ``(N + 1, d)`` a diagonal, ``(N + 1, d, d)`` a matrix, ``(N + 1, B, d, d)`` one for each
            row, which may depend on ``y_s`` but on nothing later. ``"linear"``, the default: the
            share itself; ``"quadratic"``: its square, as cheap and often better on long windows.
            ``"adaptive"`` follows the path with the Jacobian at every step, see the source: less
            variance on long windows (2.8 times less on the double well over ``[0, 1]``); cheap for
            a diagonal Jacobian, some ten times the default's seconds for a full one (``d = 2``).
        check_derivative: at the first use of ``diffusion``, look whether the derivative in the
            target is that of the drift, on up to 4,096 paths of its own from a generator of its
            own (``markovscore.targets.derivative``; a shift rule: Stein identities). The verdict
            holds for the object as long as it lives: one whose drift changes later is not looked at
            again.

    Returns:
        ``y`` and ``target``, dtype and device of ``y_s``, without gradients.

    Raises:
        TypeError, ValueError: malformed points or window, ``steps < 1``; a weight that does not run
            from 0 to the identity; singular noise without a shift rule; a process with walls; a
            drift that jumps, or whose derivative is wrong or detached; a ``project`` that is not a
            translation by periods; a target that is not finite; and as in :func:`simulate`.
    """
    process, y, start, end = check_request(diffusion, y_s, s, t)
    steps = check_steps(steps)
    check_generator(generator, y.device)
    return shifted_path(process, y, start, end, steps, generator, weight, check_derivative)


# Of what is checked


@torch.no_grad()
@full_precision
def shifted_path(
    process: Process,
    y: Tensor,
    s: Tensor,
    t: Tensor,
    steps: int,
    generator: torch.Generator | None,
    weight: Weight = None,
    check_derivative: bool = True,
) -> tuple[Tensor, Tensor]:
    """:func:`path_shift_target` for float64 ends ``(1,)`` or ``(B,)``."""
    if check_derivative:
        _check_source(process, y, s, t, steps, weight)
    end, target, time = shift(process, y, s, t, steps, generator, weight)
    if not bool(torch.isfinite(target.sum())):
        check_finite(target, "target", "the drift's derivative is not finite on these paths")
    return wrapped(process, end, time), target


def shift(
    process: Process,
    y: Tensor,
    s: Tensor,
    t: Tensor,
    steps: int,
    generator: torch.Generator | None,
    weight: Weight,
) -> tuple[Tensor, Tensor, Time]:
    """The ends of the paths in the unwrapped space, the targets, and the last step's time."""
    path: Any = named_weight(weight)
    grid = make_grid(process, s, t, steps)
    last = grid.steps(y)[-1][0]
    whole = shifted(process, y, s, t, steps, generator) if path is None else None
    if whole is not None:
        return *whole, last
    if process.shift_target is not None:
        if path is not None:
            raise ValueError(
                f"weight: expected none for {name_of(process)}, found one: its noise is "
                "singular and the shift is that of its own shift_target"
            )
        return *_by_rule(process, y, grid, generator), last
    if is_adaptive(path):
        return *_adaptive(process, y, grid, generator), last
    return *_by_weight(process, y, grid, generator, path), last


def _check_source(
    process: Process, y: Tensor, s: Tensor, t: Tensor, steps: int, weight: Weight
) -> None:
    """That the derivative in the target is the drift's; a shift rule, whose derivative is inside,
    by its Stein identities. Once for each object, on paths of its own."""
    if process.shift_target is None:
        check_drift(process, y, s, t, steps, jacobian=is_adaptive(weight))
        return
    if "shift_target" in known(process):
        return
    y, s, t, generator = trial_windows(y, s, t)
    try:
        end, target, _ = shift(process, y, s, t, steps, generator, "linear")
    except ValueError:  # of the process or the request: the caller's own run says it
        return
    found = stein_scores(process, end, target)
    if found.largest > _REFUSED:
        raise ValueError(f"shift_target: expected a target whose mean is the score, found: {found}")
    known(process).add("shift_target")


def _by_weight(
    process: Process,
    y: Tensor,
    grid: Grid,
    generator: torch.Generator | None,
    weight: WeightPath | None,
) -> tuple[Tensor, Tensor]:
    """Path shift by a deterministic ``w``."""
    w, target = WeightTable(weight, grid.count + 1, y), torch.zeros_like(y)
    walk = Walk(process, y, grid, generator)
    for step in walk:
        push = _noise_score(step)
        target -= w.rise(step.i).T @ push
        if step.i:  # w_0 = 0: the first step needs no Jacobian
            step.drift, pulled = drift_and_vjp(process, step.y, step.time, push)
            target += step.h * (w.at(step.i).T @ pulled)
    return walk.y, target


def _adaptive(
    process: Process, y: Tensor, grid: Grid, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Path shift with ``w_{i+1} = w_i + h J w_i + v_i``, whose target is ``-sum v_i^T (...)``.

    ``v`` steers ``w`` from 0 to the identity in the steps that are left, at the least ``sum v_i^T
    (G G^T)^{-1} v_i``, the variance, if ``J`` stayed as it is; so for a linear drift the target is
    the exact score of the chain's transition. ``steering`` says how, at any growth.
    """
    walk, target = Walk(process, y, grid, generator), torch.zeros_like(y)
    w: LinearMap = Diagonal.of(torch.zeros_like(y))
    for step in walk:
        step.drift = drift_at(process, step.y, step.time)
        J, push = jacobian_at(process, step.y, step.time), _noise_score(step)
        w, v = steered(J, step.G, step.h, w, grid.count - step.i)
        target -= v.T @ push
    return walk.y, target


def _by_rule(
    process: Process, y: Tensor, grid: Grid, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """The class's own rule on the whole simulated path."""
    assert process.shift_target is not None
    walk = Walk(process, y, grid, generator)
    passed = [(step.y, step.z) for step in walk]
    states = torch.stack([*(y for y, _ in passed), walk.y])
    target = process.shift_target(states, torch.stack([z for _, z in passed]), grid.step.to(y))
    return walk.y, check_field(target, y, "shift_target")


def _noise_score(step: Step) -> Tensor:
    """``(G G^T)^{-1} G z / sqrt(h)``, shape ``(B, d)``."""
    push = step.G.whitened(step.z)
    if push is None:
        raise _no_rule(step.time)
    return push / step.h**0.5


def _no_rule(time: Tensor) -> ValueError:
    when = float(time.reshape(-1)[0])
    return ValueError(
        f"expected an invertible G G^T, found a singular one at time {when:g} and no shift rule: "
        "add shift_target(states, noise, step) -> (B, d) to the class, as ActiveSwimmer does, or "
        "use local_target, which needs no inverse"
    )
