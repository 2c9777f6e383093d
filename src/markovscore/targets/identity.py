r"""What makes a target a target: the checks of a process and a score before they are trusted.

Path shift and implicit matching are integrations by parts. They hold for a field ``f`` whose change
along any segment is the integral of the derivative ``J`` that is used,

.. math:: f(y + u) - f(y) = \int_0^1 J(y + \theta u)\, u\, d\theta ,

be it smooth or kinked, and for paths that nothing confines. Neither can be seen in a result: a
``sign``, a term under ``no_grad``, a wrong Jacobian or a reflecting ``project`` leave a target that
looks like any other and has another mean.

**The derivative** (:func:`unexplained`). Cut the segment into ``2^k`` pieces and add up the Taylor
remainders of all. Each piece of a smooth field leaves less than a quarter of the remainder of one
twice as long, the piece with a kink half, so that the sum goes to zero; at a jump, or where a part
of the derivative is missing, it stays. The sum over the pieces is estimated by following one: at
each halving a half is drawn with probability proportional to its remainder, and weighs as much the
more. So a jump is found however steep the smooth parts are, and a slope of ``1 / s`` is told from a
jump as soon as the pieces are shorter than ``s``: a fixed pair of lengths would miss the one or
refuse the other.
"""

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import (
    Noise,
    Process,
    Time,
    Walk,
    check_window,
    drift_and_vjp,
    drift_at,
    drift_jacobian,
    euler_step,
    make_grid,
    name_of,
    noise_like,
    original,
    pull_back,
)

# Up to this share of a field's change may stay unexplained: what a target loses is less.
SHARE = 0.01
# The mean excess over the share, in its standard errors, that is not chance: p = 3e-5, one-sided.
_SIGMAS = 4.0
_HALVINGS = 24
# Rows, as many as make this many numbers within bounds: a jump must lie between the ends of some.
_NUMBERS, _FEWEST, _MOST = 2**18, 64, 4096
_NODES = 4  # of a window, where its paths are looked at
_SEED = 20_240_229

Slope = Callable[[Tensor], tuple[Tensor, Tensor]]
Piece = tuple[Tensor, Tensor, Tensor]


# What has been checked already

_KNOWN: dict[int, tuple[Any, set[str]]] = {}


def known(owner: Any) -> set[str]:
    """The names of the checks that ``owner`` has passed; forgotten with it.

    An object that cannot be referred to weakly is checked at every call.
    """
    owner = original(owner)
    key = id(owner)
    if key not in _KNOWN:
        try:
            _KNOWN[key] = (weakref.ref(owner, lambda _: _KNOWN.pop(key, None)), set())
        except TypeError:
            return set()
    return _KNOWN[key][1]


# The derivative


def check_drift(
    process: Process, y: Tensor, s: Time, t: Time, steps: int, jacobian: bool = False
) -> None:
    """Check the derivative of the drift on paths from ``y`` over the window; once for each object.

    Thousands of paths of their own, from a generator of their own, are looked at in four places of
    the window, along the noise of the step there. ``jacobian`` checks ``drift_jacobian`` in place
    of ``drift_and_vjp``.

    Raises:
        ValueError: a part of the drift's change is not in its derivative.
    """
    name = "drift_jacobian" if jacobian else "drift_and_vjp"
    if name in known(process):
        return
    full = jacobian and not process.elementwise
    start, end = check_window(process.horizon, s, t, len(y))
    y, start, end, generator = several(y, start, end, _NODES * (y.shape[1] if full else 1))
    grid = make_grid(process, start, end, steps)
    places = {round(i * (steps - 1) / (_NODES - 1)) for i in range(_NODES)}

    def staying(y: Tensor) -> Tensor:
        # Runaway paths are the simulation's business, which names their time and its remedy.
        return torch.where(torch.isfinite(y).all(1, keepdim=True), y, walk.y)

    walk = Walk(process, y, grid, generator, project=staying, watched=False)
    for step in walk:
        if step.i not in places:
            continue
        still = torch.zeros_like(y)
        noise = _like_noise(y, euler_step(still, still, step.G, step.z, step.h), generator)
        along = _along_drift(process, step.time, jacobian, noise, generator)
        share, at = unexplained(along, step.y, noise, generator)
        if share > 0:
            _refuse(process, name, share, step.y[at], grid.middle[step.i])
    known(process).add(name)


def several(
    y: Tensor, s: Tensor, t: Tensor, share: int = 1
) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    """Rows of ``y`` and their window, thousands over ``share``, repeated or left out; and a
    generator for them alone."""
    wanted = max(_FEWEST, min(_MOST, _NUMBERS // y.shape[1]) // share)
    rows = _pick(len(y), wanted, y.device)
    s, t = (v if len(v) == 1 else v[rows.to(v.device)] for v in (s, t))
    return y[rows], s, t, torch.Generator(device=y.device).manual_seed(_SEED)


def check_score(score: Callable[[Tensor, Tensor], Tensor], y: Tensor, t: Tensor, G: Noise) -> None:
    """Check the derivative of a score at ``y``, along a tenth of the noise up to ``t``.

    Raises:
        ValueError: a part of the score's change is not in its derivative.
    """
    generator = torch.Generator(device=y.device).manual_seed(_SEED)
    modules = list(score.modules()) if isinstance(score, torch.nn.Module) else []
    training = [m.training for m in modules]
    for m in modules:
        m.training = False  # no dropout: one function, and nothing taken from the global generator
    try:
        noise = 0.1 * t.sqrt()[:, None] * (G @ noise_like(G, y, generator))
        noise = _like_noise(y, noise, generator)
        v = _signs(y, generator)

        def along(points: Tensor) -> tuple[Tensor, Tensor]:
            value, vjp = pull_back(lambda x, _: score(x, t), points, t)
            return v * value.detach(), (vjp(v) * noise).sum(1)

        share, at = unexplained(along, y, noise, generator)
    finally:
        for m, mode in zip(modules, training, strict=True):
            m.training = mode
    if share > 0:
        raise ValueError(
            f"score: expected one whose change is the integral of its derivative, found {share:.0%}"
            f" of it missing from what automatic differentiation finds, at t = {float(t[at]):g}: "
            "its trace would be wrong; remove torch.no_grad, .detach() and numpy inside it, "
            "replace what jumps (sign, round, comparisons), or pass check_derivative=False"
        )


@torch.no_grad()
def unexplained(
    along: Slope, y: Tensor, u: Tensor, generator: torch.Generator
) -> tuple[float, int]:
    """Share of a field's change from ``y`` to ``y + u`` that its derivative leaves out, and where.

    Args:
        along: at points ``(n, d)``, ``v_i f_i`` ``(n, d)`` for a fixed ``v`` and ``v . J u``.

    Returns:
        0 where at most ``SHARE`` stays at some number of pieces, or no more than chance; the row
        with the most.
    """
    if not bool(u.any()):
        return 0.0, 0
    place, length = torch.zeros_like(y[:, :1]), torch.ones_like(y[:, 0])
    left, right = _piece(along, y), _piece(along, y + u)
    good = torch.isfinite(left[0] + left[1] + right[0] + right[1] + u.sum(1))
    if not bool(good.any()):
        return 0.0, 0  # the simulation names it
    reach = (y.abs() + u.abs()).amax(1) / u.abs().amax(1).clamp(min=torch.finfo(y.dtype).tiny)
    eps = 16 * torch.finfo(y.dtype).eps

    def remainder(a: Piece, b: Piece) -> Tensor:
        """Of the trapezoid rule on a piece of the present length, less what rounding may leave."""
        gap = (b[0] - a[0] - 0.5 * length * (a[1] + b[1])).abs()
        rounding = eps * (a[2] + b[2] + reach * length * (a[1].abs() + b[1].abs()))
        return torch.where(good, (gap - rounding).clamp(min=0), 0.0)

    change = torch.maximum((right[0] - left[0]).abs(), 0.5 * (left[1].abs() + right[1].abs()))
    allowed = SHARE * torch.where(good, change, 0.0)
    weight, total = torch.ones_like(length), remainder(left, right)
    # Pieces below the spacing of the numbers are rounding.
    deepest = math.log2(1 / (4 * eps * float(reach[good].median())))
    for _ in range(min(_HALVINGS, max(1, int(deepest)))):
        if not float(total.mean()) > float(allowed.mean()):
            return 0.0, 0
        length = 0.5 * length
        middle = _piece(along, y + (place + length[:, None]) * u)
        good &= torch.isfinite(middle[0] + middle[1])
        first, second = remainder(left, middle), remainder(middle, right)
        both = first + second
        draw = torch.rand(len(y), generator=generator, dtype=y.dtype, device=y.device)
        go_left = draw * both < first
        total = torch.where(good, weight * both, 0.0)
        weight = torch.where(both > 0, total / torch.where(go_left, first, second), 0.0)
        place = torch.where(go_left[:, None], place, place + length[:, None])
        left, right = _where(go_left, left, middle), _where(go_left, middle, right)
    excess = total - allowed
    error = excess.std() / math.sqrt(len(y))
    if not float(excess.mean()) > _SIGMAS * float(error):
        return 0.0, 0
    return SHARE * float(total.mean() / allowed.mean()), int(total.argmax())


def _where(chosen: Tensor, a: Piece, b: Piece) -> Piece:
    first, slope, size = (torch.where(chosen, u, v) for u, v in zip(a, b, strict=True))
    return first, slope, size


def _piece(along: Slope, points: Tensor) -> Piece:
    """``v . f``, ``v . J u`` and the size of the numbers that were added up, ``(n,)`` each."""
    terms, slope = along(points)
    return terms.sum(1), slope, terms.abs().sum(1)


def _along_drift(
    process: Process, time: Time, jacobian: bool, u: Tensor, generator: torch.Generator
) -> Slope:
    v = _signs(u, generator)

    def along(points: Tensor) -> tuple[Tensor, Tensor]:
        if not jacobian:
            value, pulled = drift_and_vjp(process, points, time, v)
            return v * value, (pulled * u).sum(1)
        J = drift_jacobian(process, points, time)
        moved = J * u if J.ndim == 2 else (J @ u.unsqueeze(-1)).squeeze(-1)
        return v * drift_at(process, points, time), (v * moved).sum(1)

    return along


def _like_noise(y: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
    """Directions of the noise's size, in all coordinates, also those that it does not reach."""
    z = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
    return z * noise.square().mean(1, keepdim=True).sqrt().to(y)


def _signs(y: Tensor, generator: torch.Generator) -> Tensor:
    """Random signs: no coordinate's remainder can cancel another's for long."""
    z = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
    return torch.where(z < 0, -1.0, 1.0).to(y)


def _pick(rows: int, wanted: int, device: torch.device) -> Tensor:
    """``wanted`` of ``rows`` row numbers, evenly spread, or repeated where there are fewer."""
    return (
        (torch.arange(wanted, device=device) * rows) // wanted
        if rows >= wanted
        else (torch.arange(wanted, device=device) % rows)
    )


def _refuse(process: Process, name: str, share: float, y: Tensor, time: Tensor) -> None:
    own = [m for m in ("drift_and_vjp", "drift_jacobian") if getattr(process, m) is not None]
    own = own if name == "drift_and_vjp" else own[-1:]
    source = f"its own {own[0]}" if own else "automatic differentiation"
    raise ValueError(
        f"drift: expected one whose change is the integral of its derivative, found {share:.0%} of "
        f"the change over a step missing from {source} of {name_of(process)}, at time "
        f"{float(time.reshape(-1)[0]):g}, for instance near y = {y[:8].tolist()}: the target would "
        "be wrong; "
        + (f"mend {own[0]}, " if own else "remove torch.no_grad, .detach() and numpy inside it, ")
        + "replace what jumps (sign, round, comparisons) by something continuous, or pass "
        "check_derivative=False if a target that is off by as much will do"
    )


# The projection


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
    generator = torch.Generator(device=y.device).manual_seed(_SEED)
    rows = _pick(len(y), max(_FEWEST, min(_MOST, _NUMBERS // y.shape[1])) // 4, y.device)
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
    shifts = shifts[_pick(len(shifts), len(y), y.device)]
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
