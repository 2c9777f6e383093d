r"""Whole Euler-Maruyama integrations in one launch, with the path-shift target along the way.

.. math:: y_{i+1} = y_i + h f(y_i) + \sqrt h\, \sigma z_i

for drifts ``f`` that the kernel knows, in steps of equal length ``h``: those of the process's own
clock, in which it runs at unit rate: ``dY = f(Y) dtau + sigma dW`` (``markovscore.simulation``).
The ``z_i`` are drawn inside the kernel from counters (``markovscore.kernels.philox``), so a path
depends on the seed, its row and its steps alone. Over a window of ``N`` steps the target for the
score at its end is, in the same loop and without a stored path,

.. math:: -\frac{1}{N \sigma \sqrt h} \sum_i [z_i - i h\, J(y_i)^\top z_i]

(``markovscore.path_shift`` with the linear weight ``i / N``); the swimmer has the rule of
``ActiveSwimmer.shift_target``.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core import check_finite, check_points, check_steps, check_time
from .dispatch import unsupported, use_triton
from .path_twins import Drift, Lengths, follow, walk
from .philox import seed_tensor

MAX_COORDINATES = 8
Kind = Literal["double_well", "logistic", "mixture", "swimmer"]


@dataclass(frozen=True, eq=False)
class PathDrift:
    """A drift at unit rate that the kernel knows, and the size of its noise.

    Made by one of the functions of the class. ``table`` holds the parameters, float64 on the CPU;
    ``coordinates`` is how many depend on each other: 1 for an elementwise drift, of any dimension.
    """

    kind: Kind
    table: Tensor
    coordinates: int = 1
    noise: float = 1.0

    @classmethod
    def double_well(cls) -> "PathDrift":
        """``f(y) = y - y^3`` in each coordinate."""
        return cls("double_well", torch.zeros(1, 1, dtype=torch.float64))

    @classmethod
    def logistic(cls, scale: float) -> "PathDrift":
        """``f(y) = -tanh(y / 2 s) / 2 s`` in each coordinate: half the score of ``Logistic``."""
        values = [[1 / (scale * math.log(2)), 0.5 / scale]]
        return cls("logistic", torch.tensor(values, dtype=torch.float64))

    @classmethod
    def mixture(cls, means: Tensor, scale: Tensor, weights: Tensor) -> "PathDrift":
        """Half the score of a mixture of ``N(mu_m, sigma_m^2 I)``; ``(M, D)``, ``(M,)``, ``(M,)``.

        With ``D = 1`` of the mixture in each coordinate (``ProductMixture``), else of the one in
        ``D`` dimensions.
        """
        half = 0.5 / scale.square()
        log2 = weights.log2() - means.shape[1] * scale.log2()
        columns = [half, half / math.log(2), log2 - log2.max()]
        table = torch.cat([means, torch.stack(columns, 1)], 1)
        return cls("mixture", table.double().cpu(), means.shape[1])

    @classmethod
    def swimmer(cls, gamma: float, noise: float) -> "PathDrift":
        """``f(x, v) = (v - x^3, -gamma v)``, with noise on ``v`` alone."""
        return cls("swimmer", torch.tensor([[gamma]], dtype=torch.float64), 2, noise)


@dataclass(frozen=True, eq=False)
class Steps:
    """``count`` steps of equal ``length`` in the clock: a number, or one for each row ``(B,)``."""

    count: int
    length: float | Tensor


def kernel_limit(drift: PathDrift, y0: Tensor) -> str | None:
    """Why the kernel cannot take this drift and these points, None if it can."""
    if drift.coordinates > MAX_COORDINATES:
        return f"expected at most {MAX_COORDINATES} coordinates, found {drift.coordinates}"
    return unsupported(y0)


def euler_paths(
    drift: PathDrift,
    y0: Tensor,
    before: Steps | None,
    window: Steps | None = None,
    *,
    seed: int | Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Points at the window's start and end, and the path-shift target; see the module's text.

    Args:
        drift: a :class:`PathDrift`.
        y0: ``(B, d)``, float32 or float64 for the kernel; ``B = 0`` will do.
        before: the steps from ``y0`` to the window; None: the window starts at ``y0``.
        window: the steps of the window, of positive length, two or more for the swimmer; None:
            there is none.
        seed: of the noise, 64 bits: an int, or one int64 in a tensor. The phases draw from
            different counters, so ``before`` and ``window`` one after the other with one seed give
            what they give together.

    Returns:
        ``y_s``, ``y_t`` and ``target``, ``(B, d)`` each, dtype and device of ``y0``. Without a
        window ``y_t`` is ``y_s`` and the target None; without ``before``, ``y_s`` is ``y0``. The
        noise is in float32 for both types: a path in float64 has the same noise as in float32.

    Raises:
        TypeError, ValueError: malformed points, steps or seed; a path that is not finite or
            diverges, by which a cubic drift is meant to have grown a thousandfold in one step
            (``h y^2 > 1e9`` after it): the row, and the step at which it happened.
    """
    y0 = _check_start(drift, y0)
    first = _lengths(drift, before, y0, "before")
    second = _lengths(drift, window, y0, "window")
    key = seed_tensor(seed, y0.device)
    if use_triton("euler_paths", y0, limit=kernel_limit(drift, y0)):
        from ._triton import paths

        start, table = y0.contiguous(), drift.table.to(y0)
        y_s, y_t, target, bad = paths.run(
            drift.kind, table, drift.coordinates, start, first, second, key
        )
    else:
        y_s, y_t, target, bad = follow(_field(drift, y0), y0, first, second, key)
    if bad is not None:
        _diverged(drift, y0, first, second, key, bad)
    return y_s, y_t, target


def _check_start(drift: PathDrift, y0: Tensor) -> Tensor:
    elementwise = drift.coordinates == 1
    columns = None if elementwise else drift.coordinates
    if isinstance(y0, Tensor) and y0.ndim == 2 and len(y0) == 0:
        check_points(y0.new_zeros(1, y0.shape[1]), columns, "y0")
        return y0
    # A start that is not finite stays so: it is found at the end, without a pass over the data.
    return check_points(y0, columns, "y0", finite=False)


def _field(drift: PathDrift, y0: Tensor) -> Drift:
    return Drift(drift.kind, drift.table.to(y0), drift.coordinates)


def _lengths(drift: PathDrift, steps: Steps | None, y0: Tensor, name: str) -> Lengths | None:
    """The count, and ``h`` and ``sigma sqrt(h)`` as ``(1 or B, 2)``."""
    if steps is None:
        return None
    count = check_steps(steps.count)
    h = check_time(steps.length, len(y0), name).reshape(-1, 1)
    shift = name == "window"
    if not bool(((h > 0) if shift else (h >= 0)).all() & torch.isfinite(h).all()):
        bound = "positive" if shift else "non-negative"
        raise ValueError(f"{name}: expected finite {bound} lengths, found {h[:, 0].tolist()[:3]}")
    if shift and drift.kind == "swimmer" and count < 2:
        raise ValueError(
            f"steps: expected at least 2 for the swimmer's window, found {count}: the noise needs "
            "two steps to reach x"
        )
    return count, torch.cat([h, drift.noise * h.sqrt()], 1).to(y0)


def _diverged(
    drift: PathDrift, y0: Tensor, before: Lengths | None, window: Lengths | None, key: Tensor,
    row: int,
) -> None:  # fmt: skip
    """Follow the bad row alone, by its own counters, and say where it left the numbers."""
    check_finite(y0, "y0")
    field, y = _field(drift, y0), y0[row : row + 1]
    counters, slope = torch.tensor([row], device=y0.device), field.slope(y)
    for stream, phase in enumerate((before, window)):
        if phase is None:
            continue
        count, lengths = phase[0], phase[1][-1:] if len(phase[1]) == 1 else phase[1][row : row + 1]
        h = float(lengths[0, 0])
        for i, _, _, y_next, _ in walk(field, y, (count, lengths), key, counters, stream):
            y = y_next
            if bool(field.diverged(y, lengths[:, :1]).any()):
                trial = min(0.5 * h, 1 / slope) if 0 < slope < math.inf else 0.5 * h
                raise ValueError(
                    f"the particles diverge in step {i + 1} of {count} of {h:g} in the clock, the "
                    f"first in row {row} (started at {y0[row].tolist()[:8]}): the step is too long "
                    f"for the drift's slope {slope:.3g} there, try a step of at most {trial:.2g}, "
                    f"that is steps >= {math.ceil(count * h / trial)}"
                )
    raise ValueError(
        f"the path of row {row} (started at {y0[row].tolist()[:8]}) or its target is not finite: "
        "take shorter steps, or float64"
    )
