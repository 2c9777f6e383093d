"""The window and the weight of path-shift targets, chosen by the variance that a pilot measures.

With the linear weight the variance of a target first falls with the window, as more noise is
averaged, and then grows with the squared Jacobian along it: for Lorenz-96 in 40 dimensions it is
22, 11 and 26 a coordinate at windows 0.05, 0.2 and 1. So a default must look.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import Process

# Shares of the clock of the whole time interval.
SHARES = tuple(3.0**-k for k in range(5))
WEIGHTS = ("linear", "quadratic", "adaptive")
# Adaptive steps cost several times more, so they must save at least this share of the variance.
MARGIN = 0.2
# The widest drift whose full Jacobians are tried, and numbers in a pilot's arrays.
WIDEST, _NUMBERS = 64, 2**16
_FEWEST, _MOST = 32, 512
SEED = 20_240_301

_log = logging.getLogger("markovscore.pilot")


@dataclass(frozen=True)
class Choice:
    """What a pilot batch found; ``print`` it.

    ``window``, ``weight``: the chosen ones. ``variance``, ``error``: ``(W, K)`` float64, the mean
    square of the target in the loss's own norm over its own times (the variance, up to what all
    share) and its standard error, for the ``windows`` and ``weights`` tried; infinite where the
    simulation diverged.
    """

    window: Any
    weight: Any
    variance: Tensor
    error: Tensor
    windows: tuple[Any, ...]
    weights: tuple[Any, ...]

    def __str__(self) -> str:
        rows = [f"window {_short(self.window)} and weight {_short(self.weight)}, by a pilot:"]
        for window, values, errors in zip(self.windows, self.variance, self.error, strict=True):
            cells = [
                f"{_short(w)} {float(v):.4g} +- {float(e):.2g}"
                for w, v, e in zip(self.weights, values, errors, strict=True)
            ]
            rows.append(f"  window {_short(window)}: " + ", ".join(cells))
        return "\n".join(rows)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def candidates(process: Process, t_max: float) -> tuple[float, ...]:
    """The windows that are tried, in the clock."""
    zero, end = torch.zeros(1, dtype=torch.float64), torch.tensor([t_max], dtype=torch.float64)
    length = float(process.clock.between(zero, end))
    return tuple(share * length for share in SHARES)


def pilot_rows(d: int, full: bool) -> int:
    """Rows of a pilot; fewer where full Jacobians are made."""
    return max(_FEWEST, min(_MOST, _NUMBERS // (d * d if full else d)))


def choose(
    windows: tuple[Any, ...], weights: tuple[Any, ...], squares: Callable[[Any, Any], Tensor]
) -> Choice:
    """The pair with the least mean of ``squares(window, weight)`` ``(n,)``, on the same noise.

    ``"adaptive"`` is taken only where it saves the ``MARGIN`` by more than two standard errors of
    the difference, row by row.

    Raises:
        ValueError: every pair fails; the first error.
    """
    table: dict[tuple[int, int], Tensor] = {}
    failure: ValueError | None = None
    for i, window in enumerate(windows):
        for k, weight in enumerate(weights):
            try:
                found = squares(window, weight).double().cpu()
            except ValueError as error:
                failure = failure or error
                found = torch.full((2,), torch.inf, dtype=torch.float64)
            table[i, k] = found
    mean = torch.stack([torch.stack([table[i, k].mean() for k in range(len(weights))])
                        for i in range(len(windows))])  # fmt: skip
    mean = torch.nan_to_num(mean, nan=torch.inf)
    if not bool(torch.isfinite(mean).any()):
        raise failure or ValueError("target: expected finite numbers, found none in the pilot")
    spread = torch.stack([torch.stack([table[i, k].std() / len(table[i, k]) ** 0.5
                                       for k in range(len(weights))])
                          for i in range(len(windows))])  # fmt: skip
    i, k = _least(mean, table, [isinstance(w, str) and w == "adaptive" for w in weights])
    choice = Choice(windows[i], weights[k], mean, torch.nan_to_num(spread, nan=torch.inf),
                    windows, weights)  # fmt: skip
    _log.info("%s", choice)
    return choice


def _least(mean: Tensor, table: dict[tuple[int, int], Tensor], dear: list[bool]) -> tuple[int, int]:
    """Row and column of the choice."""

    def best(columns: list[int]) -> tuple[int, int]:
        place = int(mean[:, columns].argmin())
        return place // len(columns), columns[place % len(columns)]

    cheap, costly = ([k for k, d in enumerate(dear) if d is flag] for flag in (False, True))
    if not cheap or not costly:
        return best(cheap or costly)
    first, second = best(cheap), best(costly)
    if not bool(torch.isfinite(mean[first])):
        return second
    saved = (1 - MARGIN) * table[first] - table[second]
    return second if float(saved.mean()) > 2 * float(saved.std()) / len(saved) ** 0.5 else first
