r"""Forward processes ``dY = f(Y, t) dt + G(t) dW`` on ``[0, horizon]``.

A diffusion is any object with ``drift(y, t) -> (B, d)`` and ``dispersion(t)``; nothing has to be
inherited. Samplers also read ``dim``, ``horizon`` and ``prior`` (the law at the horizon), and use
``project`` (back into the state space) and ``drift_divergence`` where the object has them; else
they take the identity and exact automatic differentiation.

``y`` is ``(B, d)``, images are flat rows. Both methods get ``t`` as a tensor with the dtype and
device of ``y`` that broadcasts against it: 0-dim, one time for all rows, or ``(B, 1)``, one for
each; so ``torch.cos(t) - y`` is right in every call. ``dispersion(t)`` returns one of

* a number ``g``, for ``g I``: a float, 0-dim, or ``(B, 1)`` for times ``(B, 1)``;
* a matrix ``(d, m)``, or ``(B, d, m)`` for times ``(B, 1)``: ``t[..., None] * G`` is both;
* ``markovscore.Diagonal(sigma)``, a size for each coordinate: ``(d,)``, or ``(B, d)`` for
  ``(B, 1)``.

Other shapes are refused, a bare ``(d,)`` among them, whatever ``B`` is. A score ``s(x, t)`` gets
its times 0-dim or ``(B,)``, as networks expect.

All that a diffusion may have beside is listed, with its default, in ``core.types.Process``.
"""

import math

import torch
from torch import Tensor

from ..core import (
    Process,
    Time,
    check_number,
    check_time,
    drift_at,
    takes_arrays,
    value_and_divergence,
)

SQRT2 = math.sqrt(2.0)


def as_time(t: Time) -> Tensor:
    """``t`` as a tensor; a number becomes 0-dim float64, which promotes no tensor it meets."""
    return t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64, device="cpu")


def times_of(t: Time, var: Tensor) -> Tensor:
    """``t``: 0-dim, or one for each row of ``var`` ``(B or 1, ...)``, of its rank."""
    t = check_time(t, len(var) if var.ndim and len(var) > 1 else None, like=var)
    return t.reshape(-1, *[1] * (var.ndim - 1)) if t.ndim and var.ndim else t


def check_horizon(horizon: float) -> float:
    """``horizon`` as a finite positive number; ``ValueError`` where it is not."""
    return check_number(horizon, "horizon", positive=True)


@takes_arrays
class Diffusion(Process):
    """Base class: ``drift`` and ``dispersion`` are the model, the rest has exact defaults.

    The package calls both with ``t`` as a tensor, 0-dim or ``(B, 1)``, dtype and device of ``y``
    ``(B, d)``; a score it calls with ``t`` 0-dim or ``(B,)``. The methods of the classes here also
    take a float and ``(B,)``.

    Attributes:
        dim: number of coordinates ``d``.
        horizon: end of the time interval, in the process's clock.
        prior: law at the horizon, None where it is not known.
    """

    dim: int
    horizon: float

    def drift_divergence(self, y: Tensor, t: Time) -> Tensor:
        """``div f(y, t)``, shape ``(B,)``, exact by ``torch.func``."""
        return value_and_divergence(lambda y, t: drift_at(self, y, t), y, t)[1]

    def project(self, y: Tensor) -> Tensor:
        """Bring points back into the state space; the identity on ``R^d``."""
        return y

    def contains(self, x: Tensor) -> Tensor:
        """True for the rows of ``x`` in the state space, shape ``(B,)``."""
        return torch.isfinite(x).all(dim=1)
