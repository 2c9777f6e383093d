"""The paths of ``markovscore.kernels.paths`` in plain PyTorch, one step after the other."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .constants import DIVERGED
from .philox import four_normals

Lengths = tuple[int, Tensor]  # number of steps; their length, and sqrt of it times sigma, (n, 2)
Step = tuple[int, Tensor, Tensor, Tensor, Tensor | None]


@dataclass(frozen=True, eq=False)
class Drift:
    """The drift of a ``PathDrift`` with its table in the dtype and on the device of the points."""

    kind: str
    table: Tensor
    coordinates: int

    def at(self, y: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """``f(y)`` and ``J(y)^T v``, ``(B, d)`` each; no product where ``v`` is None."""
        return getattr(self, f"_{self.kind}")(y, v)

    def noise(self, z: Tensor, y: Tensor) -> Tensor:
        """The noise ``z`` ``(B, m)`` on the coordinates that it enters, ``(B, d)``."""
        return torch.cat([torch.zeros_like(z), z], 1) if self.kind == "swimmer" else z

    def diverged(self, y: Tensor, h: Tensor) -> Tensor:
        """Rows that are not finite, or that a step of length ``h`` has blown up, ``(B,)``."""
        cubic = {"double_well": y, "swimmer": y[:, :1]}.get(self.kind)
        bad = ~torch.isfinite(y).all(1)
        return bad if cubic is None else bad | ~(h * cubic * cubic < DIVERGED).all(1)

    def slope(self, y: Tensor) -> float:
        """Largest sum of moduli in a row of the Jacobian at one point ``(1, d)``."""
        if self.coordinates == 1:
            return float(self.at(y, torch.ones_like(y))[1].abs().max())  # type: ignore[union-attr]
        axes = torch.eye(self.coordinates).to(y)
        return float(self.at(y.expand_as(axes), axes)[1].abs().sum(1).max())  # type: ignore[union-attr]

    def _double_well(self, y: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor | None]:
        square = y * y
        return y - square * y, None if v is None else (1 - 3 * square) * v

    def _logistic(self, y: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor | None]:
        rate, half = self.table[0]
        tanh = 1 - 2 / (1 + torch.exp2(y * rate))
        return -half * tanh, None if v is None else half * half * (tanh * tanh - 1) * v

    def _swimmer(self, y: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor | None]:
        position, speed, gamma = y[:, 0], y[:, 1], self.table[0, 0]
        f = torch.stack([speed - position**3, -gamma * speed], 1)
        if v is None:
            return f, None
        return f, torch.stack([-3 * position**2 * v[:, 0], v[:, 0] - gamma * v[:, 1]], 1)

    def _mixture(self, y: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor | None]:
        size = self.coordinates
        half, curvature, height = (self.table[:, size + i, None] for i in range(3))
        offset = self.table[:, None, :size] - y.reshape(-1, size)
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


def follow(
    field: Drift, y0: Tensor, before: Lengths | None, window: Lengths | None, seed: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, int | None]:
    """``y_s``, ``y_t``, the target, and the first row that diverged, if one did."""
    rows = torch.arange(len(y0), device=y0.device)
    y_s, target, bad = y0, None, torch.zeros(len(y0), dtype=torch.bool, device=y0.device)
    if before is not None:
        for step in walk(field, y0, before, seed, rows, 0):
            y_s = step[3]
        bad |= field.diverged(y_s, before[1][:, :1])
    y_t = y_s
    if window is not None:
        rule = (_Swimmer if field.kind == "swimmer" else _Linear)(field, y_s, window)
        for i, z, _, y_next, product in walk(field, y_s, window, seed, rows, 1, product=True):
            rule.add(i, z, y_next, product)
            y_t = y_next
        target = rule.target(y_t)
        bad |= field.diverged(y_t, window[1][:, :1]) | ~torch.isfinite(target).all(1)
    return y_s, y_t, target, int(bad.nonzero()[0]) if bool(bad.any()) else None


def walk(
    field: Drift, y: Tensor, steps: Lengths, seed: Tensor, rows: Tensor, stream: int,
    product: bool = False,
) -> Iterator[Step]:  # fmt: skip
    """``(i, z, y_i, y_{i+1}, J(y_i)^T z)`` of every step; ``rows`` are those of the counters."""
    count, lengths = steps
    h, root = lengths[:, :1], lengths[:, 1:]
    columns = 1 if field.kind == "swimmer" else y.shape[1]
    for i in range(count):
        if i % 4 == 0:
            drawn = four_normals(seed, rows, columns, i // 4, stream).to(y)
        z = field.noise(drawn[i % 4], y)
        f, pulled = field.at(y, z if product else None)
        y_next = y + h * f + root * z
        yield i, z, y, y_next, pulled
        y = y_next


class _Linear:
    """``-sum_i [z_i - i h J^T z_i] / (N sigma sqrt(h))``."""

    def __init__(self, field: Drift, y: Tensor, window: Lengths) -> None:
        self.count, (self.h, self.root) = window[0], window[1].split(1, 1)
        self.sum = torch.zeros_like(y)

    def add(self, i: int, z: Tensor, y_next: Tensor, product: Tensor | None) -> None:
        assert product is not None
        self.sum = self.sum + z - self.h * i * product

    def target(self, y: Tensor) -> Tensor:
        return -self.sum / (self.root * self.count)


class _Swimmer:
    """``ActiveSwimmer.shift_target``, as its steps go by; ``a`` and ``u`` are named there."""

    def __init__(self, field: Drift, y: Tensor, window: Lengths) -> None:
        self.count, (self.h, self.root) = window[0], window[1].split(1, 1)
        self.gamma, self.sums = field.table[0, 0], y.new_zeros(len(y), 2)
        self.u = torch.zeros_like(self.sums)  # of the rule for v, and of that for x

    def add(self, i: int, z: Tensor, y_next: Tensor, product: Tensor | None) -> None:
        now, later = self._path(i + 1), self._path(i + 2)
        rise = (later - now) / self.h
        if i + 1 == self.count:
            rise = now.new_tensor([1.0, 0.0])
        u = rise + 3 * y_next[:, :1].square() * now
        self.sums = self.sums + (u - self.u + self.h * self.gamma * self.u) * z[:, 1:]
        self.u = u

    def target(self, y: Tensor) -> Tensor:
        along_v, along_x = (-self.sums / self.root).split(1, 1)
        return torch.cat([along_x - 3 * y[:, :1].square() * along_v, along_v], 1)

    def _path(self, node: int) -> Tensor:
        """``a`` of both rules at a node, ``(1 or B, 2)``."""
        rho = max(node - 1, 0) / (self.count - 1)
        first = (self.count - 1) * self.h * (rho**3 - rho**2)
        return torch.cat([first, torch.full_like(first, 3 * rho**2 - 2 * rho**3)], 1)
