"""A number, a diagonal or a matrix, for each row or for all: one representation of linear maps.

Noise ``G``, Jacobians ``J`` of drifts, covariances ``P`` and their factors, weights of a shift:

* :class:`Scalar`, ``a I``, ``value`` 0-dim or ``(B, 1)``;
* :class:`Diagonal`, ``diag(sigma)``, ``value`` ``(d,)`` or ``(B, d)``;
* :class:`Dense`, any matrix, ``value`` ``(d, m)`` or ``(B, d, m)``.

Each map ``A`` has, whatever its kind (``d`` is asked for where a number does not know it),

* ``A @ z``, rows ``z`` ``(B, m)`` mapped to ``(B, d)``, and ``A.T``;
* ``A.add_to(y, z, size)``, ``y += size (A z)`` in place, the kick of a step of a simulation;
* ``A.gram()``, ``A A^T``, and ``A.times(factor)`` for a factor 0-dim or ``(B, 1)``: of one kind;
* ``A.whitened(z)``, ``(A A^T)^{-1} A z`` for rows ``z``, None where ``A A^T`` is singular;
* ``A.cholesky()``: ``C`` with ``C C^T = A``, lower triangular, and ``(B or 1, d or 1)``, true for
  the coordinates that, given the earlier ones, have no variance (then ``C`` is no factor);
* ``A.trace(d)`` and ``A.row_norm()``, the largest sum of moduli in a row, 0-dim or ``(B,)``;
* ``A.matrix(d)``, ``(d, m)`` or ``(B, d, m)``, and ``A.columns(d)``, its ``m``;
* ``A.first(rows)``, the maps of the first rows, and ``A.is_diagonal``.

What others return in these forms is read once, where it comes in, by :func:`read_noise` and
:func:`read_jacobian`; behind that nobody asks for a tensor's rank.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from .checks import as_tensor
from .linear import first_silent
from .modes import full_precision


class _Elementwise:
    """``A z`` is ``value * z``: numbers and diagonals; the methods are those of :class:`Dense`."""

    is_diagonal: ClassVar[bool] = True

    if TYPE_CHECKING:

        @property
        def value(self) -> Tensor: ...

        @classmethod
        def of(cls, value: Tensor) -> Self: ...

    def __matmul__(self, z: Tensor) -> Tensor:
        return self.value * z

    @property
    def T(self) -> Self:
        return self

    def gram(self) -> Self:
        return self.of(self.value.square())

    def times(self, factor: Tensor) -> Self:
        return self.of(self.value * factor)

    def whitened(self, z: Tensor) -> Tensor | None:
        return None if bool((self.value == 0).any()) else z / self.value

    def cholesky(self) -> tuple[Self, Tensor]:
        return self.of(self.value.clamp(min=0).sqrt()), ~(torch.atleast_2d(self.value) > 0)

    def columns(self, d: int) -> int:
        return d


@dataclass(frozen=True, eq=False)
class Scalar(_Elementwise):
    """``a I``: ``value`` is ``a``, 0-dim, or ``(B, 1)``, one number for each row."""

    value: Tensor

    @classmethod
    def of(cls, value: Tensor) -> Self:
        return cls(value)

    @property
    def rows(self) -> Tensor:
        """The numbers as ``(1,)`` or ``(B,)``: against ``(B,)``, ``(B, 1)`` would broadcast."""
        return self.value.reshape(-1)

    def add_to(self, y: Tensor, z: Tensor, size: float) -> Tensor:
        if self.value.ndim == 0:  # one operation: half the time of a cheap drift
            return y.add_(z, alpha=size * float(self.value))
        return y.add_(self @ z, alpha=size)

    def trace(self, d: int) -> Tensor:
        return d * self.value.sum(-1)

    def row_norm(self) -> Tensor:
        return self.value.abs().sum(-1)

    def matrix(self, d: int) -> Tensor:
        return self.value[..., None] * torch.eye(
            d, dtype=self.value.dtype, device=self.value.device
        )

    def first(self, rows: int) -> "Scalar":
        return self if self.value.ndim == 0 else Scalar(self.value[:rows])


@dataclass(frozen=True, eq=False)
class Diagonal(_Elementwise):
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

    @classmethod
    def of(cls, value: Tensor) -> Self:
        """``diag(value)`` of numbers that are known to be right, without the checks."""
        diagonal = object.__new__(cls)
        object.__setattr__(diagonal, "sigma", value)
        return diagonal

    @property
    def value(self) -> Tensor:
        """``sigma``."""
        return self.sigma

    def add_to(self, y: Tensor, z: Tensor, size: float) -> Tensor:
        return y.add_(self @ z, alpha=size)

    def trace(self, d: int) -> Tensor:
        return self.sigma.sum(-1)

    def row_norm(self) -> Tensor:
        return self.sigma.abs().amax(-1)

    def matrix(self, d: int) -> Tensor:
        return torch.diag_embed(self.sigma)

    def first(self, rows: int) -> "Diagonal":
        return self if self.sigma.ndim == 1 else Diagonal.of(self.sigma[:rows])


@dataclass(frozen=True, eq=False)
class Dense:
    """A matrix, ``value`` ``(d, m)`` for all rows, or ``(B, d, m)``."""

    value: Tensor
    is_diagonal: ClassVar[bool] = False

    @full_precision
    def __matmul__(self, z: Tensor) -> Tensor:
        if self.value.ndim == 2:
            return z @ self.value.mT
        return (self.value @ z.unsqueeze(-1)).squeeze(-1)

    @property
    def T(self) -> "Dense":
        """``A^T``."""
        return Dense(self.value.mT)

    @full_precision
    def gram(self) -> "Dense":
        """``A A^T``."""
        return Dense(self.value @ self.value.mT)

    def times(self, factor: Tensor) -> "Dense":
        """``factor A`` for a factor 0-dim or ``(B, 1)``."""
        return Dense(self.value * factor[..., None])

    def whitened(self, z: Tensor) -> Tensor | None:
        """``(A A^T)^{-1} A z``, or None where ``A A^T`` has no inverse."""
        factor, silent = self.gram().cholesky()
        if bool(silent.any()):
            return None
        # Two triangular solves: never a batched LU.
        half = torch.linalg.solve_triangular(factor.value, (self @ z).unsqueeze(-1), upper=False)
        return torch.linalg.solve_triangular(factor.value.mT, half, upper=True).squeeze(-1)

    def add_to(self, y: Tensor, z: Tensor, size: float) -> Tensor:
        """``y + size A z``, written into ``y``."""
        if self.value.ndim == 2 and self.value.shape[1] == 1:
            return y.addcmul_(z, self.value.mT, value=size)
        return y.add_(self @ z, alpha=size)

    def cholesky(self) -> tuple["Dense", Tensor]:
        """``L`` with ``L L^T = A``, and where ``A`` is not positive definite."""
        d = self.value.shape[-1]
        factor, silent = first_silent(self.value.reshape(-1, d, d))
        return Dense(factor), silent

    def trace(self, d: int) -> Tensor:
        """The trace, 0-dim or ``(B,)``."""
        return self.value.diagonal(dim1=-2, dim2=-1).sum(-1)

    def row_norm(self) -> Tensor:
        """The largest sum of absolute values of a row, 0-dim or ``(B,)``."""
        return self.value.abs().sum(-1).amax(-1)

    def columns(self, d: int) -> int:
        """``m``, if the points have dimension ``d``."""
        return self.value.shape[-1]

    def matrix(self, d: int) -> Tensor:
        """``A`` as ``(d, m)`` or ``(B, d, m)``."""
        return self.value

    def first(self, rows: int) -> "Dense":
        """The maps of the first rows of the batch."""
        return self if self.value.ndim == 2 else Dense(self.value[:rows])


LinearMap = Scalar | Diagonal | Dense


# Where they come in


def read_noise(value: Any, y: Tensor, rows: int | None, dtype: torch.dtype) -> LinearMap:
    """What ``dispersion(t)`` returned for points like ``y`` ``(B, d)``; ``rows``: for how many
    times it was asked, None for one 0-dim time.

    Raises:
        ValueError: none of the forms.
    """
    d = y.shape[1]
    if isinstance(value, Diagonal):
        sigma = value.sigma.to(device=y.device, dtype=dtype)
        if sigma.shape == (d,) or (rows is not None and sigma.shape == (rows, d)):
            return Diagonal.of(sigma)
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


def read_jacobian(value: Tensor, y: Tensor, name: str = "drift_jacobian") -> Diagonal | Dense:
    """What a method returned as the Jacobian at the rows of ``y`` ``(B, d)``: matrices
    ``(B, d, d)``, or the diagonals ``(B, d)`` of diagonal ones.

    Raises:
        ValueError: another shape.
    """
    n, d = y.shape
    if value.shape == (n, d):
        return Diagonal.of(value)
    if value.shape == (n, d, d):
        return Dense(value)
    raise ValueError(
        f"{name}: expected shape {(n, d, d)}, or {(n, d)} for a diagonal one, "
        f"found {tuple(value.shape)}"
    )
