r"""The clock of a process, ``tau(t) = int_0^t beta``, its rate ``beta`` and its inverse.

A process ``dY = beta(t) g(Y) dt + sqrt(beta(t)) G dW`` is the autonomous ``dY = g dtau + G dW`` run
at speed ``beta``. So a diffusion may have an attribute ``clock`` with the four methods below, and
simulation, windows and local linearisation then count in ``tau``. Without one, ``tau = t``.
All methods take and return float64 tensors of any shape.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import Process, as_tensor, lasting, remembered

Beta = float | tuple[float, float] | Callable[[Tensor], Tensor]


class LinearClock:
    """``beta`` linear from ``first`` at 0 to ``last`` at ``horizon``; all in closed form."""

    def __init__(self, first: float, last: float, horizon: float) -> None:
        self.first, self.last, self.horizon = float(first), float(last), float(horizon)
        self._slope = (self.last - self.first) / self.horizon

    def rate(self, t: Any) -> Any:
        """``first + slope t``; a number for a number."""
        return self.first + self._slope * t

    def elapsed(self, t: Tensor) -> Tensor:
        """``first t + slope t^2 / 2``."""
        return self.between(torch.zeros_like(t), t)

    def between(self, s: Tensor, t: Tensor) -> Tensor:
        """``(t - s) beta((s + t) / 2)``: no difference of two large clocks."""
        return (t - s) * self.rate(0.5 * (s + t))

    def inverse(self, tau: Tensor) -> Tensor:
        """The root of the quadratic, in the form that stays exact as the slope goes to zero."""
        root = (self.first**2 + 2 * self._slope * tau).clamp(min=0).sqrt()
        return 2 * tau / (self.first + root)


# Gauss-Legendre on [0, 1]: with 16 points a piece whose halves agree with it is exact to rounding.
_RULE = np.polynomial.legendre.leggauss(16)
_PIECES, _MAX_HALVINGS, _TOLERANCE = 16, 70, 1e-14


@remembered
def _gauss_legendre() -> tuple[Tensor, Tensor]:
    nodes, weights = (torch.from_numpy(v) for v in _RULE)
    return 0.5 * (nodes + 1), 0.5 * weights


class QuadratureClock:
    """``beta`` any positive integrable function of ``t`` on ``[0, horizon]``.

    Pieces are halved until Gauss-Legendre agrees with its two halves, so a jump or an integrable
    singularity costs a few dozen pieces; the ends are never evaluated, ``beta`` may be infinite
    there. Elapsed time is the sum of the pieces before plus one more quadrature.

    Raises:
        ValueError: ``beta`` returns another shape, or a number that is not finite and positive.
    """

    @lasting
    def __init__(self, beta: Callable[[Tensor], Tensor], horizon: float) -> None:
        self._beta, self.horizon = beta, float(horizon)
        edges = torch.linspace(0, self.horizon, _PIECES + 1, dtype=torch.float64)
        low, high = edges[:-1], edges[1:]
        mass = self._quadrature(low, high)
        done: list[tuple[Tensor, Tensor]] = []
        for _ in range(_MAX_HALVINGS):
            middle = 0.5 * (low + high)
            left, right = self._quadrature(low, middle), self._quadrature(middle, high)
            total = float(mass.sum() + sum(float(m.sum()) for _, m in done))
            good = (left + right - mass).abs() <= _TOLERANCE * total
            done.append((low[good], mass[good]))
            bad = ~good
            if not bool(bad.any()):
                break
            low = torch.cat([low[bad], middle[bad]])
            high = torch.cat([middle[bad], high[bad]])
            mass = torch.cat([left[bad], right[bad]])
        else:
            done.append((low, mass))
        starts, masses = (torch.cat(parts) for parts in zip(*done, strict=True))
        order = starts.argsort()
        self._edges = torch.cat([starts[order], edges[-1:]])
        self._tau = torch.cat([edges[:1], masses[order].cumsum(0)])

    def rate(self, t: Any) -> Any:
        """``beta(t)``; at the ends, where it may be infinite, its value just inside; a
        number for a number."""
        if not isinstance(t, Tensor):
            return float(self.rate(torch.tensor(t, dtype=torch.float64, device="cpu")))
        inside = t.clamp(self.horizon * 2.0**-_MAX_HALVINGS, self.horizon * (1 - 2.0**-52))
        return self._evaluate(inside)

    def elapsed(self, t: Tensor) -> Tensor:
        """``tau(t)``."""
        piece = self._piece(self._edges, t)
        return self._tau[piece] + self._quadrature(self._edges[piece], t)

    def between(self, s: Tensor, t: Tensor) -> Tensor:
        """``int_s^t beta``: one quadrature if no edge lies between, else the rest of both pieces
        and the whole ones."""
        s, t = torch.broadcast_tensors(s, t)
        first, last = self._piece(self._edges, s), self._piece(self._edges, t)
        same = first == last
        inner = torch.where(same, t, self._edges[first + 1])
        outer = torch.where(same, t, self._edges[last])
        whole = torch.where(same, 0.0, self._tau[last] - self._tau[(first + 1)])
        return self._quadrature(s, inner) + whole + self._quadrature(outer, t)

    def inverse(self, tau: Tensor) -> Tensor:
        """Newton's method inside the piece that holds ``tau``, with bisection as its guard."""
        piece = self._piece(self._tau, tau)
        start, low, high = self._edges[piece], self._edges[piece], self._edges[piece + 1]
        target, mass = tau - self._tau[piece], self._tau[piece + 1] - self._tau[piece]
        t = low + (high - low) * (target / mass).clamp(0, 1)
        for _ in range(60):
            gap = self._quadrature(start, t) - target
            low, high = torch.where(gap < 0, t, low), torch.where(gap < 0, high, t)
            trial = t - gap / self.rate(t)
            trial = torch.where((trial >= low) & (trial <= high), trial, 0.5 * (low + high))
            settled = bool(((trial - t).abs() <= 4e-16 * t).all())
            t = trial
            if settled:
                break
        return t

    def _piece(self, edges: Tensor, value: Tensor) -> Tensor:
        """Index of the piece that holds ``value``."""
        return (torch.searchsorted(edges, value.contiguous(), right=True) - 1).clamp(
            0, len(edges) - 2
        )

    def _quadrature(self, low: Tensor, high: Tensor) -> Tensor:
        length = high - low
        nodes, weights = _gauss_legendre()
        points = low[..., None] + length[..., None] * nodes
        return length * (self.rate(points) @ weights)

    def _evaluate(self, t: Tensor) -> Tensor:
        value = as_tensor(self._beta(t), "beta", torch.float64)
        if value.shape not in (t.shape, ()):
            raise ValueError(
                f"beta: expected one number for each time, shape {tuple(t.shape)}, found "
                f"{tuple(value.shape)}: write beta(t) with elementwise torch operations"
            )
        value = value.expand(t.shape)
        bad = (~(torch.isfinite(value) & (value > 0))).nonzero()
        if len(bad):
            at = tuple(bad[0].tolist())
            raise ValueError(
                f"beta: expected finite positive numbers, found {float(value[at]):g} at "
                f"t = {float(t[at]):g}: a clock must run forward"
            )
        return value


def make_clock(beta: Beta, horizon: float) -> LinearClock | QuadratureClock:
    """A number or a pair ``(beta(0), beta(horizon))`` in closed form, a callable by quadrature.

    Raises:
        ValueError: ``beta`` is not finite and positive on ``[0, horizon]``, or not a pair.
    """
    if callable(beta):
        return QuadratureClock(beta, horizon)
    values = as_tensor(beta, "beta", torch.float64)
    if values.shape not in ((), (2,)):
        raise ValueError(
            f"beta: expected a number, a pair (beta(0), beta(T)) or a callable, found {beta!r}"
        )
    first, last = values.expand(2).tolist()
    if not (math.isfinite(first) and math.isfinite(last) and first > 0 and last > 0):
        raise ValueError(
            f"beta: expected finite positive numbers, found {beta!r}: a clock must run forward, "
            "pass for instance beta=(0.1, 10.0)"
        )
    return LinearClock(first, last, horizon)


LONGEST_STEP = 0.05  # of :func:`log_clock`: steps of a second-order method lose about 1e-3


def log_clock(process: Process, t: Tensor, finest: float) -> Tensor:
    """``log(1 + tau(t) / tau(finest))`` at times ``t``, float64: the noise on a scale of its own.

    With the data's smallest scale at ``finest`` the law changes at a rate of about one in this
    variable, before and after: equal steps of it suit a flow from 0 on.
    """
    clock = process.clock
    unit = clock.elapsed(torch.tensor(finest, dtype=torch.float64))
    return torch.log1p(clock.elapsed(t.double()) / unit)


def graded_times(process: Process, last: float, steps: int, finest: float) -> Tensor:
    """``steps + 1`` times from 0 to ``last``, at equal distances in :func:`log_clock`."""
    clock = process.clock
    end = torch.tensor(last, dtype=torch.float64)
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    unit = clock.elapsed(torch.tensor(finest, dtype=torch.float64))
    times = clock.inverse(unit * torch.expm1(share * log_clock(process, end, finest)))
    times[0], times[-1] = 0, end  # without the rounding of the logarithms
    return times


def refined_times(process: Process, times: Tensor, finest: float, longest: float) -> Tensor:
    """``times``, and between them more: steps of at most ``longest`` in :func:`log_clock`."""
    clock = process.clock
    unit = clock.elapsed(torch.tensor(finest, dtype=torch.float64))
    place = log_clock(process, times, finest)
    pieces = (place.diff() / longest - 1e-9).ceil().clamp(min=1).long()
    left = torch.arange(len(pieces)).repeat_interleave(pieces)
    rank = torch.arange(len(left)) - (pieces.cumsum(0) - pieces)[left]
    share = rank.double() / pieces[left]  # else the default dtype
    inside = clock.inverse(unit * torch.expm1(place[left] + share * place.diff()[left]))
    return torch.cat([torch.where(rank == 0, times[left], inside), times[-1:]])
