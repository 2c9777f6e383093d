r"""The time in which the eigenfunctions of a process decay, and the process's own.

.. math:: dY = \tfrac12 g(t)^2 \, \nabla\log\pi(Y) \, dt + g(t) \, dW, \qquad
          \tau(t) = \tfrac12 \int_0^t g^2, \qquad
          L = \Delta + \nabla\log\pi\cdot\nabla

In ``tau`` it is the process with the generator ``L``: ``P_tau phi_k = e^{lambda_k tau} phi_k``.
"""

import math

import torch
from torch import Tensor

from ..core import Process, as_tensor, name_of

_FIRST = 0.002
_LEVELS = 160  # from there to the horizon


class GeneratorClock:
    """``tau`` of a process whose dispersion is a number.

    Attributes: ``unit``, what one unit of the process's clock is; ``half_noise``, ``g^2 / 2`` at
    the horizon; ``horizon``, in ``tau``; ``last``, in the process's own time.

    Raises ``ValueError`` for a dispersion that is no number, or not constant in the clock.
    """

    def __init__(self, process: Process) -> None:
        self._clock = process.clock
        ends = torch.tensor([0.5, 1.0], dtype=torch.float64) * process.horizon
        halves = [self._half(process, t) for t in ends]
        middle, self.unit = (
            half / float(self._clock.rate(t)) for half, t in zip(halves, ends, strict=True)
        )
        if abs(middle - self.unit) > 1e-9 * self.unit:
            raise ValueError(
                f"diffusion: expected {name_of(process)} to be autonomous in its clock, found "
                f"g^2 = {2 * middle:g} and {2 * self.unit:g} per unit of it: give it the clock "
                "int g^2 dt"
            )
        self.half_noise = halves[1]
        self.last = float(ends[1])
        self.horizon = float(self.of(ends[1]))

    @staticmethod
    def _half(process: Process, t: Tensor) -> float:
        g = as_tensor(process.dispersion(t), "dispersion", torch.float64)
        if g.ndim:
            raise ValueError(
                f"diffusion: expected {name_of(process)} to have a number for its dispersion, "
                f"found shape {tuple(g.shape)}"
            )
        half = 0.5 * float(g) ** 2
        return 1.0 if abs(half - 1) < 1e-12 else half

    def of(self, t: Tensor) -> Tensor:
        """``tau`` of the process's times, float64."""
        return self.unit * self._clock.elapsed(t.double())

    def inverse(self, tau: Tensor) -> Tensor:
        """The process's times, float64."""
        return self._clock.inverse(tau.double() / self.unit)


def own_time(clock: GeneratorClock, tau: float) -> float:
    """The process's time."""
    return float(clock.inverse(torch.tensor(tau, dtype=torch.float64)))


def usual_time(clock: GeneratorClock) -> float:
    """0.002 in ``tau``, of a long horizon 1e-5."""
    return max(_FIRST, 1e-5 * clock.horizon)


def first_time(clock: GeneratorClock, variance: float) -> float:
    """The usual one, or where the noise adds 1% to the least standard deviation of the data."""
    return min(usual_time(clock), 0.01 * variance)


def log_times(clock: GeneratorClock, first: float) -> Tensor:
    """Log-spaced in ``tau``, as dense as 160 from the usual first one to the horizon."""
    horizon = clock.horizon
    count = round(_LEVELS * math.log(horizon / first) / math.log(horizon / usual_time(clock)))
    times = clock.inverse(log_spaced(first, horizon, count))
    return times.clamp(max=clock.last)


def log_spaced(first: float, last: float, count: int) -> Tensor:
    """Times in ``tau``, ``(count,)``."""
    return torch.logspace(math.log10(first), math.log10(last), count, dtype=torch.float64)
