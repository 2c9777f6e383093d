r"""The Gaussian transition of a process linearised at each row, a draw from it and its score."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..core import SINGULAR, check_finite, first_silent, window_moments
from .dispatch import FLOATS, unsupported, use_triton

# Beyond this size four matrices of doubles do not fit in the registers of the threads.
_LARGEST = 8
TOO_LONG = "the window is too long for the drift's slope, shorten it"


class LocalTransition(NamedTuple):
    """``mean`` ``(B, d)``, ``covariance`` ``(B, d, d)``; and if ``z`` was given the rest.

    The first two and the Cholesky ``factor`` are float64; ``sample`` and ``target`` have the dtype
    of the start.
    """

    mean: Tensor
    covariance: Tensor
    factor: Tensor | None = None
    sample: Tensor | None = None
    target: Tensor | None = None


class SingularCovarianceError(ValueError):
    """A covariance is not positive definite: ``row``, and the first ``axis`` that gets no noise."""

    def __init__(self, row: int, axis: int) -> None:
        super().__init__(
            f"expected a positive definite covariance, found a singular one in row {row} "
            f"(coordinate {axis}, given the earlier ones, gets no noise): change that window, or Q"
        )
        self.row, self.axis = row, axis


def local_transition(
    J: Tensor, Q: Tensor, f: Tensor, f_dot: Tensor | None, h: Tensor, y: Tensor,
    z: Tensor | None = None,
) -> LocalTransition:  # fmt: skip
    r"""Law after the time ``h`` of ``dY = (J (Y - y) + f + u f') du + G dW`` from ``Y_0 = y``.

    .. math:: m = y + \int_0^h e^{J(h-u)} (f + u f')\, du, \qquad
              P = \int_0^h e^{Ju} Q e^{J^\top u}\, du, \qquad Q = G G^\top,

    and with noise ``z``, for ``C C^T = P`` lower triangular, the sample ``m + C z`` and the
    Gaussian's score there, ``-C^{-T} z``: local-DSM's target (Singhal, Goldstein and Ranganath
    2024). By series over ``h / 2^k`` and ``k`` doublings, in float64 whatever the dtype, because
    the smallest entries of ``P`` go as ``h^(2d - 1)``.

    On a GPU one launch for ``d <= 8``, a matrix in the registers of one thread or four; larger
    ones, gradients and the CPU take PyTorch.

    Args:
        J: Jacobians ``(B, d, d)``.
        Q: ``G G^T``: 0-dim or ``(B,)``, times the identity; ``(d, d)`` or ``(B, d, d)``.
        f, f_dot: the forcing and its slope, ``(B, d)``; None is zero.
        h: lengths of the windows ``(B,)``, positive.
        y: starts ``(B, d)``.
        z: standard normal ``(B, d)``, or None for mean and covariance alone.

    Raises:
        TypeError: a tensor that is neither float32 nor float64.
        ValueError: shapes that do not fit; moments that are not finite (first bad row named).
        SingularCovarianceError: a ``ValueError`` with ``row`` and ``axis``, if ``z`` is given and
            ``P`` is not positive definite.
    """
    _check(J, Q, f, f_dot, h, y, z)
    tensors = [x for x in (J, Q, f, f_dot, h, y, z) if x is not None]
    if len(f) == 0:
        law = LocalTransition(f.double(), torch.empty_like(J, dtype=torch.float64))
        return law if z is None else LocalTransition(*law[:2], law[1], y.clone(), y.clone())
    if not use_triton("local_transition", *tensors, limit=_limit(f, tensors)):
        return _twin(J, Q, f, f_dot, h, y, z)
    from ._triton import local_transition as kernel

    J, Q, f, h, y = (x.contiguous() for x in (J, Q, f, h, y))
    f_dot, z = (None if x is None else x.contiguous() for x in (f_dot, z))
    outputs, infinite, silent = kernel.local_transition(J, Q, f, f_dot, h, y, z, SINGULAR)
    if infinite is not None:
        _check_moments(outputs[0] - y, outputs[1])
    if silent is not None:
        raise SingularCovarianceError(*silent)
    return LocalTransition(*outputs)


def _twin(
    J: Tensor, Q: Tensor, f: Tensor, f_dot: Tensor | None, h: Tensor, y: Tensor, z: Tensor | None
) -> LocalTransition:
    slope = None if f_dot is None else f_dot.double()
    shift, P = window_moments(J.double(), Q.double(), f.double(), slope, h.double())
    _check_moments(shift, P)
    mean = y + shift
    if z is None:
        return LocalTransition(mean, P)
    factor, silent = first_silent(P)
    bad = silent.nonzero()
    if len(bad):
        raise SingularCovarianceError(*bad[0].tolist())
    z = z.double().unsqueeze(-1)
    sample = mean + (factor @ z).squeeze(-1)
    target = -torch.linalg.solve_triangular(factor.mT, z, upper=True).squeeze(-1)
    return LocalTransition(mean, P, factor, sample.to(y), target.to(y))


def _check_moments(shift: Tensor, P: Tensor) -> None:
    """Raise for the first row that is not finite, as ``check_finite`` does."""
    if not bool(torch.isfinite(shift.sum() + P.sum())):
        check_finite(torch.cat([shift, P.flatten(1)], 1), "local moments", TOO_LONG)


def _limit(f: Tensor, tensors: list[Tensor]) -> str | None:
    if f.shape[1] > _LARGEST:
        return f"expected at most {_LARGEST} coordinates, found {f.shape[1]}"
    return unsupported(*tensors)


def _check(
    J: Tensor, Q: Tensor, f: Tensor, f_dot: Tensor | None, h: Tensor, y: Tensor, z: Tensor | None
) -> None:
    if f.ndim != 2 or f.shape[1] == 0:
        raise ValueError(f"f: expected shape (B, d), found {tuple(f.shape)}: rows are points")
    rows, d = f.shape
    shapes = {"J": (J, (rows, d, d)), "f": (f, (rows, d)), "f_dot": (f_dot, (rows, d)),
              "h": (h, (rows,)), "y": (y, (rows, d)), "z": (z, (rows, d))}  # fmt: skip
    for name, (value, shape) in shapes.items():
        if value is not None and value.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, found {tuple(value.shape)}")
    if Q.shape not in ((), (rows,), (d, d), (rows, d, d)):
        raise ValueError(
            f"Q: expected a number or shape {(rows,)}, {(d, d)} or {(rows, d, d)}, found "
            f"{tuple(Q.shape)}"
        )
    for name, value in {"J": J, "Q": Q, "f": f, "f_dot": f_dot, "h": h, "y": y, "z": z}.items():
        if value is not None and value.dtype not in FLOATS:
            raise TypeError(f"{name}: expected float32 or float64, found {value.dtype}")
