r"""Is the derivative that a target rests on that of the drift, or of the score?

Path shift and implicit matching are integrations by parts. They hold for a field ``f`` whose change
along any segment is the integral of the derivative ``J`` that is used,

.. math:: f(y + u) - f(y) = \int_0^1 J(y + \theta u)\, u\, d\theta ,

be it smooth or kinked. That cannot be seen in a result: a ``sign``, a term under ``no_grad`` or a
wrong Jacobian leave a target that looks like any other and has another mean.

So cut the segment into ``2^k`` pieces and add up the Taylor remainders of all. Each piece of a
smooth field leaves less than a quarter of the remainder of one twice as long, the piece with a kink
half, so that the sum goes to zero; at a jump, or where a part of the derivative is missing, it
stays. The sum over the pieces is estimated by following one (:class:`Halving`): at each halving a
half is drawn with probability proportional to its remainder, and weighs as much the more. So a jump
is found however steep the smooth parts are, and a slope of ``1 / s`` is told from a jump as soon as
the pieces are shorter than ``s``: a fixed pair of lengths would miss the one or refuse the other.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..core import (
    LinearMap,
    Process,
    Time,
    Walk,
    drift_and_vjp,
    drift_at,
    euler_step,
    jacobian_at,
    make_grid,
    name_of,
    noise_like,
    pull_back,
)
from .verdicts import SEED, known, trial_windows

# Up to this share of a field's change may stay unexplained: what a target loses is less.
_SHARE = 0.01
# The mean excess over the share, in its standard errors, that is not chance: p = 3e-5, one-sided.
_SIGMAS = 4.0
_HALVINGS = 24
_NODES = 4  # of a window, where its paths are looked at

Slope = Callable[[Tensor], tuple[Tensor, Tensor]]
Piece = tuple[Tensor, Tensor, Tensor]


def check_drift(
    process: Process, y: Tensor, s: Tensor, t: Tensor, steps: int, jacobian: bool = False
) -> None:
    """Check the derivative of the drift on paths from ``y`` over the window; once for each object.

    Thousands of paths of their own, from a generator of their own, are looked at in four places of
    the window (float64 ends ``(1,)`` or ``(B,)``), along the noise of the step there. ``jacobian``
    checks ``drift_jacobian`` in place of ``drift_and_vjp``.

    Raises:
        ValueError: a part of the drift's change is not in its derivative.
    """
    name = "drift_jacobian" if jacobian else "drift_and_vjp"
    if name in known(process):
        return
    full = jacobian and not process.elementwise
    y, s, t, generator = trial_windows(y, s, t, _NODES * (y.shape[1] if full else 1))
    places = {round(i * (steps - 1) / (_NODES - 1)) for i in range(_NODES)}

    def staying(y: Tensor) -> Tensor:
        # Runaway paths are the simulation's business, which names their time and its remedy.
        return torch.where(torch.isfinite(y).all(1, keepdim=True), y, walk.y)

    grid = make_grid(process, s, t, steps)
    walk = Walk(process, y, grid, generator, project=staying, watched=False)
    for step in walk:
        if step.i not in places:
            continue
        still = torch.zeros_like(y)
        noise = _like_noise(y, euler_step(still, still, step.G, step.z, step.h), generator)
        v = _signs(noise, generator)
        slope = _jacobian_slope if jacobian else _product_slope
        share, at = unexplained(slope(process, step.time, v, noise), step.y, noise, generator)
        if share > 0:
            _refuse(process, name, share, step.y[at], grid.middle[step.i])
    known(process).add(name)


def _product_slope(process: Process, time: Time, v: Tensor, u: Tensor) -> Slope:
    """``v_i f_i`` and ``v . J u`` at points, for rows ``v`` and ``u``, by ``drift_and_vjp``."""

    def along(points: Tensor) -> tuple[Tensor, Tensor]:
        value, pulled = drift_and_vjp(process, points, time, v)
        return v * value, (pulled * u).sum(1)

    return along


def _jacobian_slope(process: Process, time: Time, v: Tensor, u: Tensor) -> Slope:
    """The same by ``drift_jacobian``."""

    def along(points: Tensor) -> tuple[Tensor, Tensor]:
        moved = jacobian_at(process, points, time) @ u
        return v * drift_at(process, points, time), (v * moved).sum(1)

    return along


def check_score(
    score: Callable[[Tensor, Tensor], Tensor], y: Tensor, t: Tensor, G: LinearMap
) -> None:
    """Check the derivative of a score at ``y``, along a tenth of the noise up to ``t``.

    Raises:
        ValueError: a part of the score's change is not in its derivative.
    """
    generator = torch.Generator(device=y.device).manual_seed(SEED)
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
        0 where at most ``_SHARE`` stays at some number of pieces, or no more than chance; the row
        with the most.
    """
    if not bool(u.any()):
        return 0.0, 0
    halving = Halving(along, y, u)
    if not bool(halving.good.any()):
        return 0.0, 0  # the simulation names it
    allowed = halving.allowed
    for _ in range(halving.depth()):
        if not float(halving.total.mean()) > float(allowed.mean()):
            return 0.0, 0
        halving.halve(generator)
    excess = halving.total - allowed
    error = excess.std() / math.sqrt(len(y))
    if not float(excess.mean()) > _SIGMAS * float(error):
        return 0.0, 0
    return _SHARE * float(halving.total.mean() / allowed.mean()), int(halving.total.argmax())


class Halving:
    """The segments from ``y`` to ``y + u``, and of each the one piece that is followed.

    Attributes:
        total: estimate of the sum of all remainders at the present length of the pieces, ``(n,)``.
        allowed: what may remain, ``_SHARE`` of the whole change.
        good: false for the rows that met what is not finite.
    """

    def __init__(self, along: Slope, y: Tensor, u: Tensor) -> None:
        self._along, self._y, self._u = along, y, u
        self._place, self._length = torch.zeros_like(y[:, :1]), torch.ones_like(y[:, 0])
        self._left, self._right = left, right = self._piece(y), self._piece(y + u)
        self.good = torch.isfinite(left[0] + left[1] + right[0] + right[1] + u.sum(1))
        tiny = torch.finfo(y.dtype).tiny
        self._reach = (y.abs() + u.abs()).amax(1) / u.abs().amax(1).clamp(min=tiny)
        self._eps = 16 * torch.finfo(y.dtype).eps
        change = torch.maximum((right[0] - left[0]).abs(), 0.5 * (left[1].abs() + right[1].abs()))
        self.allowed = _SHARE * torch.where(self.good, change, 0.0)
        self._weight, self.total = torch.ones_like(self._length), self._remainder(left, right)

    def depth(self) -> int:
        """How often to halve: pieces below the spacing of the numbers are rounding."""
        reach = float(self._reach[self.good].median())
        return min(_HALVINGS, max(1, int(math.log2(1 / (4 * self._eps * reach)))))

    def halve(self, generator: torch.Generator) -> None:
        """Go on to one half of every piece."""
        self._length = 0.5 * self._length
        middle = self._piece(self._y + (self._place + self._length[:, None]) * self._u)
        self.good &= torch.isfinite(middle[0] + middle[1])
        first, second = self._remainder(self._left, middle), self._remainder(middle, self._right)
        both = first + second
        draw = torch.rand(len(both), generator=generator, dtype=both.dtype, device=both.device)
        go_left = draw * both < first
        self.total = torch.where(self.good, self._weight * both, 0.0)
        self._weight = torch.where(both > 0, self.total / torch.where(go_left, first, second), 0.0)
        step = torch.where(go_left, 0.0, self._length)
        self._place = self._place + step[:, None]
        self._left = _where(go_left, self._left, middle)
        self._right = _where(go_left, middle, self._right)

    def _piece(self, points: Tensor) -> Piece:
        """``v . f``, ``v . J u`` and the size of the numbers that were added up, ``(n,)`` each."""
        terms, slope = self._along(points)
        return terms.sum(1), slope, terms.abs().sum(1)

    def _remainder(self, a: Piece, b: Piece) -> Tensor:
        """Of the trapezoid rule on a piece of the present length, less what rounding may leave."""
        length = self._length
        gap = (b[0] - a[0] - 0.5 * length * (a[1] + b[1])).abs()
        rounding = self._eps * (a[2] + b[2] + self._reach * length * (a[1].abs() + b[1].abs()))
        return torch.where(self.good, (gap - rounding).clamp(min=0), 0.0)


def _where(chosen: Tensor, a: Piece, b: Piece) -> Piece:
    first, slope, size = (torch.where(chosen, u, v) for u, v in zip(a, b, strict=True))
    return first, slope, size


def _like_noise(y: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
    """Directions of the noise's size, in all coordinates, also those that it does not reach."""
    z = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
    return z * noise.square().mean(1, keepdim=True).sqrt().to(y)


def _signs(y: Tensor, generator: torch.Generator) -> Tensor:
    """Random signs: no coordinate's remainder can cancel another's for long."""
    z = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
    return torch.where(z < 0, -1.0, 1.0).to(y)


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
