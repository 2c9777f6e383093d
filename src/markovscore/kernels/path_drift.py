"""The drifts that the kernel of whole paths knows, as processes at unit rate.

A drift is a row of ``_FIELDS``, from its table of parameters, points and a vector; the kernel has
the same four by name.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..core import Process, Time
from .constants import DIVERGED

Kind = Literal["double_well", "logistic", "mixture", "swimmer"]


@dataclass(frozen=True, eq=False)
class PathDrift(Process):
    """``dY = f(Y) dtau + sigma dW`` with a drift that the kernel knows, and the size of its noise.

    Made by one of the functions of the class. ``table`` holds the parameters, float64 on the CPU;
    ``coordinates`` is how many depend on each other: 1 for an elementwise drift, of any dimension.
    """

    kind: Kind
    table: Tensor
    coordinates: int = 1
    noise: float = 1.0

    autonomous = True

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

    def drift(self, y: Tensor, t: Any) -> Tensor:
        """``f(y)``, shape ``(B, d)``."""
        return _FIELDS[self.kind](self.table.to(y), y, None)[0]

    def drift_and_vjp(self, y: Tensor, t: Any, v: Tensor) -> tuple[Tensor, Tensor]:
        """``f(y)`` and ``J(y)^T v``, ``(B, d)`` each."""
        f, product = _FIELDS[self.kind](self.table.to(y), y, v)
        assert product is not None
        return f, product

    def dispersion(self, t: Any) -> Any:
        """``sigma``; of the swimmer ``[[0], [sigma]]``."""
        if self.kind != "swimmer":
            return self.noise
        return torch.tensor([[0.0], [self.noise]], dtype=torch.float64, device="cpu")

    def diverged(self, y: Tensor, h: Time) -> Tensor:
        """Rows that are not finite, or that a step of length ``h`` has blown up, ``(B,)``."""
        cubic = {"double_well": y, "swimmer": y[:, :1]}.get(self.kind)
        bad = ~torch.isfinite(y).all(1)
        return bad if cubic is None else bad | ~(h * cubic * cubic < DIVERGED).all(1)

    def slope(self, y: Tensor) -> float:
        """Largest sum of moduli in a row of the Jacobian at one point ``(1, d)``."""
        if self.coordinates == 1:
            return float(self.drift_and_vjp(y, 0.0, torch.ones_like(y))[1].abs().max())
        axes = torch.eye(self.coordinates, dtype=y.dtype, device=y.device)
        return float(self.drift_and_vjp(y.expand_as(axes), 0.0, axes)[1].abs().sum(1).max())


Field = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


def _double_well(table: Tensor, y: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor | None]:
    square = y * y
    return y - square * y, None if v is None else (1 - 3 * square) * v


def _logistic(table: Tensor, y: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor | None]:
    rate, half = table[0]
    tanh = 1 - 2 / (1 + torch.exp2(y * rate))
    return -half * tanh, None if v is None else half * half * (tanh * tanh - 1) * v


def _swimmer(table: Tensor, y: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor | None]:
    position, speed, gamma = y[:, 0], y[:, 1], table[0, 0]
    f = torch.stack([speed - position**3, -gamma * speed], 1)
    if v is None:
        return f, None
    return f, torch.stack([-3 * position**2 * v[:, 0], v[:, 0] - gamma * v[:, 1]], 1)


def _mixture(table: Tensor, y: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor | None]:
    size = table.shape[1] - 3
    half, curvature, height = (table[:, size + i, None] for i in range(3))
    offset = table[:, None, :size] - y.reshape(-1, size)
    log = height - curvature * offset.square().sum(2)
    weight = torch.exp2(log - log.amax(0))
    weight = (weight / weight.sum(0))[:, :, None]
    b = half[:, :, None] * offset
    f = (weight * b).sum(0)
    if v is None:
        return f.view_as(y), None
    v = v.reshape(-1, size)
    along = ((b - f) * v).sum(2, keepdim=True)
    product = (weight * (2 * along * (b - f) - half[:, :, None] * v)).sum(0)
    return f.view_as(y), product.view_as(y)


_FIELDS: dict[str, Field] = {
    "double_well": _double_well,
    "logistic": _logistic,
    "mixture": _mixture,
    "swimmer": _swimmer,
}
