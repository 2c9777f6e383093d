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
Wang (2014, arXiv:1203.4023) derives by the same shift. The exact discrete form as a regression
target on a window, and the weights, are ours as far as we know.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ..core import (
    Dense,
    Grid,
    Noise,
    Process,
    Time,
    Walk,
    as_diffusion,
    check_field,
    check_finite,
    check_generator,
    check_points,
    check_steps,
    check_window,
    drift_and_vjp,
    drift_at,
    drift_jacobian,
    full_precision,
    make_grid,
    name_of,
)
from ..diffusions import shifted
from .identity import check_drift, known, several, wrapped
from .local import check_walls, covariance_factor, expansion, rate_matrix, unit_noise
from .steering import between, first_step, first_step_diagonal, flow
from .stein import stein_scores

WeightPath = Callable[[Tensor], Tensor]
_NAMED: dict[str, Any] = {"linear": None, "quadratic": torch.square}
# A z-score that refuses a shift rule: beyond the bound of a check, for tails heavier than normal.
_REFUSED = 8.0
Weight = WeightPath | Literal["linear", "quadratic", "adaptive"] | None


@torch.no_grad()
@full_precision
def path_shift_target(
    diffusion: Any,
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
            own (``markovscore._identity``; a shift rule: Stein identities). The verdict holds for
            the object as long as it lives: one whose drift changes later is not looked at again.

    Returns:
        ``y`` and ``target``, dtype and device of ``y_s``, without gradients.

    Raises:
        TypeError, ValueError: malformed points or window, ``steps < 1``; a weight that does not run
            from 0 to the identity; singular noise without a shift rule; a process with walls; a
            drift that jumps, or whose derivative is wrong or detached; a ``project`` that is not a
            translation by periods; a target that is not finite; and as in :func:`simulate`.
    """
    process = as_diffusion(diffusion)
    y, start, end = check_request(process, y_s, s, t)
    steps = check_steps(steps)
    check_generator(generator, y.device)
    if check_derivative:
        _check_source(process, y, start, end, steps, weight)
    y, target, time = shift(process, y, start, end, steps, generator, weight)
    if not bool(torch.isfinite(target.sum())):
        check_finite(target, "target", "the drift's derivative is not finite on these paths")
    return wrapped(process, y, time), target


def check_request(process: Process, y_s: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor, Tensor]:
    """Points and window of :func:`path_shift_target`, checked."""
    y = check_points(y_s, process.dim, "y_s")
    start, end = check_window(process.horizon, s, t, len(y))
    check_walls(process)
    return y, start, end


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
    if isinstance(weight, str):
        weight = _NAMED.get(weight, weight)
    grid = make_grid(process, s, t, steps)
    last = grid.steps(y)[-1][0]
    whole = shifted(process, y, s, t, steps, generator) if weight is None else None
    if whole is not None:
        return *whole, last
    if process.shift_target is not None:
        if weight is not None:
            raise ValueError(
                f"weight: expected none for {name_of(process)}, found one: its noise is "
                "singular and the shift is that of its own shift_target"
            )
        return *_by_rule(process, y, grid, generator), last
    if isinstance(weight, str) and weight == "adaptive":
        return *_adaptive(process, y, grid, generator), last
    return *_by_weight(process, y, grid, generator, weight), last


def _check_source(
    process: Process, y: Tensor, s: Tensor, t: Tensor, steps: int, weight: Weight
) -> None:
    """That the derivative in the target is the drift's; a shift rule, whose derivative is inside,
    by its Stein identities. Once for each object, on paths of its own."""
    if process.shift_target is None:
        adaptive = isinstance(weight, str) and weight == "adaptive"
        check_drift(process, y, s, t, steps, jacobian=adaptive)
        return
    if "shift_target" in known(process):
        return
    y, s, t, generator = several(y, s, t)
    try:
        end, target, _ = shift(process, y, s, t, steps, generator, "linear")
    except ValueError:  # of the process or the request: the caller's own run says it
        return
    found = stein_scores(process, end, target)
    if found.largest > _REFUSED:
        raise ValueError(f"shift_target: expected a target whose mean is the score, found: {found}")
    known(process).add("shift_target")


def _by_weight(
    process: Process, y: Tensor, grid: Grid, generator: torch.Generator | None, weight: Any
) -> tuple[Tensor, Tensor]:
    """Path shift by a deterministic ``w``."""
    w, target = _weights(weight, grid, y), torch.zeros_like(y)
    walk = Walk(process, y, grid, generator)
    for step in walk:
        push = _noise_score(step.G, step.z, step.time) / step.h**0.5
        target -= _transposed(w[step.i + 1] - w[step.i], push)
        if step.i:  # w_0 = 0: the first step needs no Jacobian
            step.drift, pulled = drift_and_vjp(process, step.y, step.time, push)
            target += step.h * _transposed(w[step.i], pulled)
    return walk.y, target


@torch.no_grad()
@full_precision
def linearised_weight(diffusion: Any, y_s: Tensor, s: Time, t: Time) -> WeightPath:
    r"""The weight path of least variance for the drift linearised at ``y_s``.

    .. math:: w_r = P(r h)\, e^{J^\top (1 - r) h}\, P(h)^{-1}, \qquad
              P(u) = \int_0^u e^{Jv} G G^\top e^{J^\top v}\, dv ,

    the regression of ``Y_r`` on ``Y_t``. For a linear drift the target is then a function of ``y``
    and ``y_s`` alone, the exact transition score. Pass it as ``weight`` with the same ``y_s``,
    ``s`` and ``t``; its table is ``(N + 1, B, d, d)``, so for small ``d``.

    Raises:
        ValueError: as :func:`local_transition`, and a singular ``G G^T``.
    """
    process = as_diffusion(diffusion)
    y = check_points(y_s, process.dim, "y_s")
    start, end = check_window(process.horizon, s, t, len(y))
    clock = process.clock
    h = clock.between(start, end)
    J = expansion(process, clock, y, start)[0].double()
    J = J if J.ndim == 3 else torch.diag_embed(J)
    Q = rate_matrix(unit_noise(process, clock, y, start, h).gram())
    h = h.to(y.device).expand(len(y))
    eye = torch.eye(y.shape[1]).to(J)
    root = eye.expand_as(J) if Q.ndim < 2 else covariance_factor(Q.expand_as(J), s, t)
    unit = torch.linalg.solve_triangular(root, J @ root, upper=False)
    back = torch.linalg.solve_triangular(root, eye.expand_as(J), upper=False)

    def weight(share: Tensor) -> Tensor:
        nodes = [torch.zeros_like(J)]
        for r in share[1:-1].tolist():
            nodes.append(root @ between(flow(unit, r * h), flow(unit, (1 - r) * h)) @ back)
        return torch.stack([*nodes, eye.expand_as(J)])

    return weight


def _adaptive(
    process: Process, y: Tensor, grid: Grid, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Path shift with ``w_{i+1} = w_i + h J w_i + v_i``, whose target is ``-sum v_i^T (...)``.

    ``v`` steers ``w`` from 0 to the identity in the steps that are left, at the least ``sum v_i^T
    (G G^T)^{-1} v_i``, the variance, if ``J`` stayed as it is; so for a linear drift the target is
    the exact score of the chain's transition. ``markovscore._steering`` says how, at any growth.
    """
    walk, target, w = Walk(process, y, grid, generator), torch.zeros_like(y), torch.zeros_like(y)
    count = len(grid.step)
    for step in walk:
        time, h, G = step.time, step.h, step.G
        step.drift, J = drift_at(process, step.y, time), drift_jacobian(process, step.y, time)
        push = _noise_score(G, step.z, time) / h**0.5
        if J.ndim == 2 and not isinstance(G, Dense):
            moved, w = w + h * J * w, first_step_diagonal(h * J, w, count - step.i)
            target -= (w - moved) * push
        else:
            J = J if J.ndim == 3 else torch.diag_embed(J)
            w = w if w.ndim == 3 else torch.zeros_like(J)
            length = h[:, :, None] if isinstance(h, Tensor) else h
            moved = w + length * (J @ w)
            w = _first_step(length * J, rate_matrix(G.gram()), w, count - step.i)
            target -= _transposed(w - moved, push)
    return walk.y, target


def _first_step(rate: Tensor, Q: Tensor, w: Tensor, count: int) -> Tensor:
    """``w_1`` on the cheapest way from ``w`` to the identity, ``(B, d, d)``, in coordinates where
    ``Q`` is the identity; a multiple of it cancels."""
    eye = torch.eye(w.shape[1], dtype=torch.float64, device=w.device)
    M = eye + rate.double()
    if Q.ndim < 2:
        return first_step(M, w.double(), eye, count).to(w)
    root = torch.linalg.cholesky_ex(Q.double())[0].expand_as(M)
    M = torch.linalg.solve_triangular(root, M @ root, upper=False)
    w_in, end = (torch.linalg.solve_triangular(root, v, upper=False) for v in (w.double(), eye))
    return (root @ first_step(M, w_in, end, count)).to(w)


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


def _noise_score(G: Noise, z: Tensor, time: Time) -> Tensor:
    """``(G G^T)^{-1} G z``, shape ``(B, d)``."""
    push = G.whitened(z)
    if push is None:
        raise _no_rule(time)
    return push


def _no_rule(time: Time) -> ValueError:
    when = float(torch.as_tensor(time).reshape(-1)[0])
    return ValueError(
        f"expected an invertible G G^T, found a singular one at time {when:g} and no shift rule: "
        "add shift_target(states, noise, step) -> (B, d) to the class, as ActiveSwimmer does, or "
        "use local_target, which needs no inverse"
    )


def _weights(weight: WeightPath | None, grid: Grid, y: Tensor) -> Tensor:
    """``w`` at the nodes; see :func:`path_shift_target`."""
    if weight is not None and not callable(weight):
        raise ValueError(
            f'weight: expected "linear", "quadratic", "adaptive" or a callable, found {weight!r}'
        )
    count, (n, d) = len(grid.times), y.shape
    share = torch.linspace(0, 1, count, dtype=torch.float64)
    w = share if weight is None else torch.as_tensor(weight(share))
    if w.shape not in ((count,), (count, d), (count, d, d), (count, n, d, d)):
        raise ValueError(
            f"weight: expected shape ({count},), ({count}, {d}), ({count}, {d}, {d}) or "
            f"({count}, {n}, {d}, {d}), found {tuple(w.shape)}"
        )
    w = w.to(y)
    identity = torch.eye(d).to(w) if w.ndim > 2 else torch.ones(()).to(w)
    gap = max(float(w[0].abs().max()), float((w[-1] - identity).abs().max()))
    if not gap < 1e-5:
        raise ValueError(
            f"weight: expected w = 0 at the start and the identity at the end, found it off by "
            f"{gap:.2g}: subtract and divide so that both ends are met"
        )
    return w


def _transposed(w: Tensor, u: Tensor) -> Tensor:
    """``w^T u`` for one node's ``w``: 0-dim, ``(d,)``, ``(d, d)`` or ``(B, d, d)``."""
    return w * u if w.ndim < 2 else (w.mT @ u.unsqueeze(-1)).squeeze(-1)
