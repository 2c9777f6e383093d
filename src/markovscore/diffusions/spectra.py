r"""Where the eigenfunctions of a nonlinear reversible process are found: its coordinates and walls.

A law whose coordinates are independent, :math:`\log \pi(x) = \sum_i f_i(x_i)`, has products of
one-dimensional eigenfunctions. Whether a law is one is measured: its mixed differences

.. math:: \log\pi(x) + \log\pi(y) - \log\pi(x') - \log\pi(y'), \qquad x'_i = y_i, \; y'_i = x_i,

with the other coordinates unchanged, vanish for all points and coordinates, and for no other law.
Another law in the plane has its eigenfunctions on elements of the plane, with more coordinates in a
span of functions made for it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import as_tensor, lasting
from ..eigenbasis import (
    Axis,
    Components,
    Eigenbasis,
    Galerkin,
    Numerical,
    Planar,
    Plane,
    Ritz,
    fit_components,
)
from .law_checks import check_autograd, check_gradient, check_values
from .plane_box import plane_box
from .priors import GaussianMixture

_TAIL = 1e-8  # of the law, beyond each wall
_FARTHEST = 1e6
_FAINT = -45.0  # log density, relative to its maximum, that is no part of the law
_FARTHEST_WALL = -100.0  # at which a wall may stand
# Where data may still be: entries of A_t grow as one over the density, and beyond e^-32 of them
# the rounding is as large as what the bulk of the law has.
_FARTHEST_DATA = -32.0
_PAIRS = 64  # of points, at which a law is tested
_SAME = 1e-9  # of log densities: to rounding
_CELLS = 20_000
_WRONG = 0.1  # relative error of the integral of a slope: rough ones are integrated roughly
_MOST_COORDINATES = 6  # that are not independent
_DRAWS = 4000  # of a law, by which it is seen as a mixture of normal laws
_DEEP = 45.0  # log density below its maximum, to which a box that is given is filled

LogDensity = Callable[[Tensor], Tensor]
Space = Callable[[int], Eigenbasis]  # from the number of functions


@lasting
def numerical_space(prior: Any, box: Any = None) -> Space:
    """The eigenfunctions of a law between walls, as many as are asked for: products where its
    coordinates are independent; others in the plane, or of three to six coordinates in a span.

    Args:
        prior: with ``dim``, ``log_prob`` and its gradient ``score``; of independent
            coordinates, no autograd goes through them.
        box: ``(low, high)``, numbers or ``(d,)``; None: beyond each wall 1e-8 of the law, and the
            walls may go for data to where its density is ``e^-32`` of the largest.

    Raises:
        TypeError: a law without ``log_prob``, or, where it is needed, ``sample``.
        ValueError: more than six coordinates that are not independent, or a box around more than
            two; a law whose tails do not end within a million, a box that is none, a ``score``
            that is not the gradient.
    """
    if not callable(getattr(prior, "log_prob", None)):
        raise TypeError(
            f"prior: expected log_prob(x), found {type(prior).__name__} without it: eigenfunctions "
            "need the density"
        )
    check_values(prior)
    factors: list[LogDensity] = [partial(_level, prior, i) for i in range(prior.dim)]
    walls, limits = _walls(factors, box)
    check_gradient(prior, walls)
    gap = _mixed_difference(prior, walls)
    if gap <= _SAME:
        return partial(Eigenbasis, _axes(prior, factors, walls, limits))
    if prior.dim > 2:
        return partial(Ritz, _galerkin(prior, box, gap))
    check_autograd(prior, walls)
    low, high, depth = (*walls, _DEEP) if box is not None else plane_box(prior.log_prob)
    return partial(Planar, Plane(prior.log_prob, low, high, depth))


def _galerkin(prior: Any, box: Any, gap: float) -> Galerkin:
    """The span for a law of a few coordinates, by its draws."""
    if prior.dim > _MOST_COORDINATES:
        raise ValueError(
            "prior: expected independent coordinates, whose log density is a sum over them, or at "
            f"most {_MOST_COORDINATES} coordinates, found {prior.dim} with a mixed difference of "
            f"{gap:.2g}: train a score, for instance with LocalDSM"
        )
    if box is not None:
        raise ValueError(
            f"box: expected none with {prior.dim} coordinates that are not independent, found one: "
            "their eigenfunctions are those of the whole space"
        )
    if isinstance(prior, GaussianMixture):
        variances = prior.scale.square()[:, None].expand_as(prior.means)
        parts = Components.of(prior.weights, prior.means, torch.diag_embed(variances))
        return Galerkin(prior.log_prob, prior.score, parts)
    if not callable(getattr(prior, "sample", None)):
        raise TypeError(
            "prior: expected sample(n, generator, dtype, device), since draws say where a law of "
            f"{prior.dim} coordinates is that are not independent, found {type(prior).__name__} "
            "without it"
        )
    generator = torch.Generator().manual_seed(0)
    where = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
    draws = as_tensor(prior.sample(_DRAWS, **where), "sample", torch.float64)
    if draws.shape != (_DRAWS, prior.dim) or not bool(draws.isfinite().all()):
        raise ValueError(
            f"prior: expected finite draws ({_DRAWS}, {prior.dim}) of sample({_DRAWS}), found "
            f"shape {tuple(draws.shape)}"
        )
    log_prob, score = (partial(_whole, prior, name) for name in ("log_prob", "score"))
    return Galerkin(log_prob, score, fit_components(draws.cpu(), generator))


def _whole(prior: Any, name: str, x: Tensor) -> Tensor:
    """``log_prob`` or ``score`` at ``(n, d)``, float64."""
    return as_tensor(getattr(prior, name)(x), name, torch.float64).detach()


def _axes(prior: Any, factors: list[LogDensity], walls: Tensor, limits: Tensor) -> list[Axis]:
    """The coordinates, each between its walls; those that are alike are one."""
    axes: list[Axis] = []
    ends = zip(factors, walls.T.tolist(), limits.T.tolist(), strict=True)
    for i, (factor, (low, high), (lowest, highest)) in enumerate(ends):
        slope = partial(_slope, prior, i)
        made = Numerical(factor, low, high, slope, (lowest, highest))
        twin = next((axis for axis in axes if _same(axis, made)), None)
        if twin is None:
            _check_walls(factor, low, high)
        if twin is None or not _same_pull(twin, made):
            _check_slope(factor, slope, low, high)
        axes.append(twin or made)
    return axes


def _along(prior: Any, i: int, x: Tensor) -> Tensor:
    """Points ``(n, d)`` of a line through zero."""
    unit = torch.zeros(prior.dim, dtype=x.dtype, device=x.device)
    unit[i] = 1.0
    return x[:, None] * unit


def _level(prior: Any, i: int, x: Tensor) -> Tensor:
    """``f_i`` ``(n,) -> (n,)``, up to a constant: the log density along a line through zero."""
    return as_tensor(prior.log_prob(_along(prior, i, x)), "log_prob", torch.float64).detach()


def _slope(prior: Any, i: int, x: Tensor) -> Tensor:
    """``f_i'``."""
    return as_tensor(prior.score(_along(prior, i, x)), "score", torch.float64)[:, i].to(x)


def _check_walls(factor: LogDensity, low: float, high: float) -> None:
    """Functions grow as one over the root of the density: far beyond the law they are rounding."""
    x = torch.linspace(low, high, _CELLS + 1, dtype=torch.float64)
    level = factor(x)
    level = level - level[level.isfinite()].max()
    if bool((level[[0, -1]] >= _FARTHEST_WALL).all()):
        return
    some = x[level > _FAINT]
    found = [round(value, 3) for value in level[[0, -1]].tolist()]
    raise ValueError(
        f"box: expected walls at which the log density is within {-_FARTHEST_WALL:g} of its "
        f"maximum, found {found} below it at {[low, high]}: pass box=({float(some[0]):.4g}, "
        f"{float(some[-1]):.4g}), or nearer ones"
    )


def _check_slope(factor: LogDensity, slope: LogDensity, low: float, high: float) -> None:
    """The integral of a slope, by trapezoids, is the difference of log densities."""
    x = torch.linspace(low, high, _CELLS + 1, dtype=torch.float64)
    level = factor(x)
    top = int(level.argmax())
    for part in (slice(None, top + 1), slice(top, None)):
        rise = float(torch.trapezoid(slope(x[part]).detach(), x[part]))
        first, last = x[part][[0, -1]].tolist()
        truth = float(level[part][-1] - level[part][0])
        if not abs(rise - truth) <= _WRONG * max(1.0, abs(truth)):
            raise ValueError(
                "prior: expected score(x), the gradient of log_prob(x), found a log density that "
                f"changes by {truth:.4g} from {first:.3g} to {last:.3g}, where the integral of "
                f"the score is {rise:.4g}: correct the one or the other"
            )


def _walls(factors: list[LogDensity], box: Any) -> tuple[Tensor, Tensor]:
    """The walls, and how far out they may go, ``(2, d)`` each: those that are given stay."""
    if box is None:
        found = torch.tensor(_boxes(factors), dtype=torch.float64).T
        return found[:2], found[2:]
    pair = box if isinstance(box, list | tuple | Tensor | np.ndarray) else [box]
    ends = [as_tensor(end, "box", torch.float64) for end in pair]
    if len(ends) != 2 or any(end.shape not in ((), (len(factors),)) for end in ends):
        raise ValueError(
            f"box: expected (low, high), numbers or ({len(factors)},) each, found "
            f"{[tuple(end.shape) for end in ends]}"
        )
    walls = torch.stack([end.expand(len(factors)) for end in ends])
    if not bool((walls[0] < walls[1]).all() & walls.isfinite().all()):
        raise ValueError(f"box: expected low < high, finite, found {walls.tolist()}")
    return walls, walls


def _boxes(factors: list[LogDensity]) -> list[tuple[float, ...]]:
    """Walls and limits of each; they are looked for once where coordinates have the same law."""
    x = _spread(513)
    levels: list[Tensor] = []
    found: list[tuple[float, ...]] = []
    for factor in factors:
        level = factor(x)
        twins = (i for i, other in enumerate(levels) if _close(level, other))
        twin = next(twins, None)
        found.append(_box(factor) if twin is None else found[twin])
        levels.append(level)
    return found


def _close(level: Tensor, other: Tensor) -> bool:
    """Whether two log densities differ by a constant and rounding; at some points both may be
    minus infinity."""
    middle = len(level) // 2
    gap = (level - level[middle]) - (other - other[middle])
    scale = 1 + level.abs() + other.abs()
    return bool(((gap.abs() <= _SAME * scale) | (level == other)).all())


def _spread(count: int) -> Tensor:
    """Points to a million and back, evenly near zero and geometrically far out."""
    reach = torch.asinh(torch.tensor(1e3 * _FARTHEST, dtype=torch.float64))
    return torch.sinh(torch.linspace(-1, 1, count, dtype=torch.float64) * reach) / 1e3


def _box(log_density: LogDensity) -> tuple[float, ...]:
    """Walls beyond which there is 1e-8 of the law at each side, and limits beyond which no data may
    be: ``low, high, lowest, highest``.

    Looked for on a grid that is even near zero and geometric far out, then on an even one.
    """
    coarse = _spread(8001)
    level = log_density(coarse)
    level = level - level[level.isfinite()].max()
    if not bool(level[0] < _FAINT) or not bool(level[-1] < _FAINT):
        raise ValueError(
            f"prior: expected a density whose tails end within {_FARTHEST:g} of zero, found a log "
            f"density of {float(level[0]):.3g} and {float(level[-1]):.3g} there, relative to its "
            "maximum: pass box=(low, high)"
        )
    some = (level > _FAINT).nonzero()[:, 0]
    low, high = float(coarse[some[0] - 1]), float(coarse[some[-1] + 1])
    x = torch.linspace(low, high, _CELLS + 1, dtype=torch.float64)
    level = log_density(x)
    level = level - level.max()
    density = level.exp()
    below = (0.5 * (density[1:] + density[:-1])).cumsum(0)
    some = (level > _FARTHEST_DATA).nonzero()[:, 0]
    lowest, highest = int(some[0]), int(some[-1])
    first = max(int(torch.searchsorted(below, _TAIL * below[-1])), lowest)
    last = min(int(torch.searchsorted(below, (1 - _TAIL) * below[-1])) + 1, highest)
    ends = first, last, lowest, highest
    return tuple(float(x[end]) for end in ends)


def _mixed_difference(prior: Any, walls: Tensor) -> float:
    """The largest one, relative to the log densities, at pairs of points between the walls."""
    if prior.dim == 1:
        return 0.0
    generator = torch.Generator().manual_seed(0)
    shape = 2, _PAIRS, prior.dim
    x, y = walls[0] + (walls[1] - walls[0]) * torch.rand(
        shape, generator=generator, dtype=torch.float64
    )

    def both(u: Tensor, v: Tensor) -> Tensor:
        found = (as_tensor(prior.log_prob(part), "log_prob", torch.float64) for part in (u, v))
        return sum(found, torch.zeros(())).detach()

    plain, size = both(x, y), 1.0
    worst = 0.0
    for i in range(prior.dim):
        u, v = x.clone(), y.clone()
        u[:, i], v[:, i] = y[:, i], x[:, i]
        other = both(u, v)
        size = 1.0 + float(torch.maximum(plain.abs(), other.abs()).max())
        worst = max(worst, float((plain - other).abs().max()) / size)
    return worst


def _same(axis: Any, other: Numerical) -> bool:
    """Whether two coordinates have the same law between the same walls."""
    ends = torch.tensor([axis.low - other.low, axis.high - other.high])
    if float(ends.abs().max()) > _SAME * (other.high - other.low):
        return False
    x = torch.linspace(other.low, other.high, 257, dtype=torch.float64)
    gap = axis.log_density(x) - other.log_density(x)
    return float((gap - gap[128]).abs().max()) < _SAME


def _same_pull(axis: Axis, other: Numerical) -> bool:
    """Whether two coordinates have the same slope."""
    x = torch.linspace(other.low, other.high, 257, dtype=torch.float64)
    pull = other.pull(x)
    return bool(((axis.pull(x) - pull).abs() <= _SAME * (1 + pull.abs())).all())
