"""Linear maps of noise: ``G = g I``, ``G = diag(sigma)`` or any matrix, one for all rows or each.

All three map rows ``z`` ``(B, m)`` by ``G @ z`` to ``(B, d)``, and have ``G.T``, ``G.gram()``
``= G G^T`` (of the same kind) and ``G.whitened(z) = (G G^T)^{-1} G z``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import as_tensor
from .linear import first_silent
from .modes import full_precision


@dataclass(frozen=True, eq=False)
class Scalar:
    """``G = g I``, ``value`` ``g``: 0-dim, or ``(B, 1)``, one number for each row."""

    value: Tensor

    def __matmul__(self, z: Tensor) -> Tensor:
        return self.value * z

    @property
    def T(self) -> "Scalar":
        return self

    @property
    def rows(self) -> Tensor:
        """The numbers as ``(1,)`` or ``(B,)``: against ``(B,)``, ``(B, 1)`` would broadcast."""
        return self.value.reshape(-1)

    def gram(self) -> "Scalar":
        return Scalar(self.value.square())

    def times(self, factor: Tensor) -> "Scalar":
        """Multiplied by ``factor``, 0-dim or ``(B, 1)``."""
        return Scalar(self.value * factor)

    def whitened(self, z: Tensor) -> Tensor | None:
        """``(G G^T)^{-1} G z``, None where ``G G^T`` is singular."""
        return None if bool((self.value == 0).any()) else z / self.value

    def columns(self, d: int) -> int:
        return d

    def matrix(self, d: int) -> Tensor:
        """``(d, d)`` or ``(B, d, d)``."""
        return self.value[..., None] * torch.eye(d).to(self.value)

    def first(self, rows: int) -> "Scalar":
        return self if self.value.ndim == 0 else Scalar(self.value[:rows])


@dataclass(frozen=True, eq=False)
class Diagonal:
    r"""Noise of its own size in each coordinate, :math:`G = \operatorname{diag}(\sigma)`.

    What ``dispersion(t)`` returns for it: ``return ms.Diagonal(sigma)``. A bare tensor is a number
    or a matrix, because ``(d,)`` and one number for each of ``d`` rows look alike.

    Args:
        sigma: ``(d,)`` for all rows, or ``(B, d)``, for each row its own: what ``sigma * t`` is for
            the times ``(B, 1)``. A tensor, array or list of real numbers.

    Raises:
        TypeError: not real numbers.
        ValueError: another rank, or none.
    """

    sigma: Tensor

    def __post_init__(self) -> None:
        given: Any = self.sigma
        own = isinstance(given, Tensor | np.ndarray)  # else numbers, in double precision
        sigma = as_tensor(given, "sigma", None if own else torch.float64)
        if sigma.is_complex() or sigma.dtype == torch.bool:
            raise TypeError(f"sigma: expected real numbers, found {sigma.dtype}")
        if sigma.ndim not in (1, 2) or 0 in sigma.shape:
            raise ValueError(
                f"sigma: expected shape (d,) or (B, d), found {tuple(sigma.shape)}: one size for "
                "each coordinate; a number is a dispersion by itself, and so is a matrix"
            )
        object.__setattr__(self, "sigma", sigma if sigma.is_floating_point() else sigma.double())

    def __matmul__(self, z: Tensor) -> Tensor:
        return self.sigma * z

    @property
    def T(self) -> "Diagonal":
        return self

    def gram(self) -> "Diagonal":
        return Diagonal(self.sigma.square())

    def times(self, factor: Tensor) -> "Diagonal":
        return Diagonal(self.sigma * factor)

    def whitened(self, z: Tensor) -> Tensor | None:
        return None if bool((self.sigma == 0).any()) else z / self.sigma

    def columns(self, d: int) -> int:
        return d

    def matrix(self, d: int) -> Tensor:
        return torch.diag_embed(self.sigma)

    def first(self, rows: int) -> "Diagonal":
        return self if self.sigma.ndim == 1 else Diagonal(self.sigma[:rows])


@dataclass(frozen=True, eq=False)
class Dense:
    """``G`` ``(d, m)`` for all rows, or ``(B, d, m)``."""

    value: Tensor

    @full_precision
    def __matmul__(self, z: Tensor) -> Tensor:
        if self.value.ndim == 2:
            return z @ self.value.mT
        return (self.value @ z.unsqueeze(-1)).squeeze(-1)

    @property
    def T(self) -> "Dense":
        return Dense(self.value.mT)

    @full_precision
    def gram(self) -> "Dense":
        return Dense(self.value @ self.value.mT)

    def times(self, factor: Tensor) -> "Dense":
        return Dense(self.value * factor[..., None])

    def whitened(self, z: Tensor) -> Tensor | None:
        d = self.value.shape[-2]
        factor, silent = first_silent(self.gram().value.reshape(-1, d, d))
        if bool(silent.any()):
            return None
        # Two triangular solves: never a batched LU.
        half = torch.linalg.solve_triangular(factor, (self @ z).unsqueeze(-1), upper=False)
        return torch.linalg.solve_triangular(factor.mT, half, upper=True).squeeze(-1)

    def columns(self, d: int) -> int:
        return self.value.shape[-1]

    def matrix(self, d: int) -> Tensor:
        return self.value

    def first(self, rows: int) -> "Dense":
        return self if self.value.ndim == 2 else Dense(self.value[:rows])


Noise = Scalar | Diagonal | Dense


def read_noise(value: Any, y: Tensor, rows: int | None, dtype: torch.dtype) -> Noise:
    """What ``dispersion(t)`` returned for points like ``y`` ``(B, d)``; ``rows``: for how many
    times it was asked, None for one 0-dim time.

    Raises:
        ValueError: none of the forms.
    """
    d = y.shape[1]
    if isinstance(value, Diagonal):
        sigma = value.sigma.to(device=y.device, dtype=dtype)
        if sigma.shape == (d,) or (rows is not None and sigma.shape == (rows, d)):
            return Diagonal(sigma)
        raise _no_noise(f"ms.Diagonal with sigma of shape {tuple(sigma.shape)}", d, rows)
    try:
        if type(value) in (int, float):  # in double precision, on no device
            G = torch.tensor(value, dtype=torch.float64, device="cpu")
        else:
            G = as_tensor(value, "dispersion")
    except (TypeError, ValueError, RuntimeError):
        raise _no_noise(type(value).__name__, d, rows) from None
    if G.ndim == 0:  # promotes nothing, whatever its dtype, and is on no device
        return Scalar(G if G.is_floating_point() else G.to(dtype))
    G = G.to(device=y.device, dtype=dtype)
    if G.ndim == 2 and rows is not None and G.shape == (rows, 1):
        return Scalar(G)
    if G.shape[-2:-1] == (d,) and (G.ndim == 2 or (G.ndim == 3 and len(G) == rows)):
        return Dense(G)
    raise _no_noise(f"shape {tuple(G.shape)}", d, rows)


def _no_noise(found: str, d: int, rows: int | None) -> ValueError:
    if rows is None:
        forms = f"a number, a matrix of shape ({d}, m) or ms.Diagonal(sigma) with sigma ({d},)"
        asked = "one time"
    else:
        forms = (
            f"a number or shape (B, 1), a matrix of shape ({d}, m) or (B, {d}, m), or "
            f"ms.Diagonal(sigma) with sigma ({d},) or (B, {d})"
        )
        asked = "times of shape (B, 1)"
    return ValueError(
        f"dispersion: expected {forms} for {asked}, found {found}: for a noise of its own size in "
        "each coordinate return ms.Diagonal(sigma), for a matrix times a function of t write "
        "t[..., None] * G"
    )
