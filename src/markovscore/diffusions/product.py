"""Independent processes side by side: angles, lengths and real numbers in one space."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import (
    DiffusionLike,
    Process,
    Time,
    as_diffusion,
    as_tensor,
    drift_divergence,
    name_of,
    takes_arrays,
)
from ..eigenbasis import Eigenbasis, Line, Numerical
from .base import SQRT2, Diffusion, check_horizon
from .priors import Device, Sampled, Source, Type, check_dim


@takes_arrays
class Product(Diffusion):
    r"""Independent processes ``dY = grad log pi(Y) dt + sqrt2 dW``, each of some coordinates.

    .. math:: \pi(x) = \prod_i \pi_i(x_i), \qquad \phi_k(x) = \prod_i \phi_{k_i}(x_i), \qquad
              \lambda_k = \sum_i \lambda_{k_i}

    The coordinates are those of the first factor, then those of the second, and so on. All run on
    one clock, and the time that is ``t`` for one is ``t`` for all: scale the data so that what
    should be smoothed alike has like units.

    Args:
        factors: processes with an ``eigenbasis``: ``TorusBrownian``, ``BoxBrownian``,
            ``OrnsteinUhlenbeck``, ``Langevin`` with ``beta = 2``, another ``Product``.
        horizon: end of the time interval; by default the longest of the factors'.

    Raises:
        TypeError: a factor without eigenbasis, dimension or prior.
        ValueError: no factors, or one whose dispersion is not ``sqrt2``.
    """

    elementwise = True

    def __init__(self, factors: Sequence[DiffusionLike], horizon: float | None = None) -> None:
        found = [as_diffusion(factor) for factor in factors]
        if not found:
            raise ValueError("factors: expected one process or more, found none")
        for factor in found:
            if factor.eigenbasis is None or factor.dim is None or factor.prior is None:
                raise TypeError(
                    "factors: expected processes with eigenbasis, dim and prior, found "
                    f"{name_of(factor)}: use TorusBrownian, BoxBrownian or OrnsteinUhlenbeck"
                )
            _check_dispersion(factor)
        self.factors = tuple(factors)
        self._parts = found
        self._dims = [check_dim(factor.dim) for factor in found]  # type: ignore[arg-type]
        self.dim = sum(self._dims)
        self.reflects = any(factor.reflects for factor in found)
        longest = max(float(factor.horizon) for factor in found)
        self.horizon = check_horizon(longest if horizon is None else horizon)
        self.prior = _ProductLaw([factor.prior for factor in found], self._dims)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that build this process, for a file."""
        return {"factors": list(self.factors), "horizon": self.horizon}

    def _each(self, method: Callable[..., Tensor], *arrays: Tensor) -> list[Tensor]:
        """``method(factor, its coordinates of each array)`` of all factors."""
        pieces = zip(*(array.split(self._dims, -1) for array in arrays), strict=True)
        return [method(part, *own) for part, own in zip(self._parts, pieces, strict=True)]

    def drift(self, y: Tensor, t: Time) -> Tensor:
        """``grad log pi(y)``, shape ``(B, d)``."""
        return torch.cat(self._each(lambda part, own: part.drift(own, t), y), 1)

    def dispersion(self, t: Time) -> Tensor:
        """``sqrt2``, a 0-dim tensor."""
        return torch.tensor(SQRT2, dtype=torch.float64, device="cpu")

    def drift_divergence(self, y: Tensor, t: Time) -> Tensor:
        """``Laplacian log pi(y)``, shape ``(B,)``."""
        parts = self._each(lambda part, own: drift_divergence(part, own, t), y)
        return torch.stack(parts).sum(0)

    def project(self, y: Tensor) -> Tensor:
        """Bring points back into the state space, each factor's by its own rule."""
        return torch.cat(self._each(lambda part, own: part.project(own), y), 1)

    def contains(self, x: Tensor) -> Tensor:
        """True for the rows of ``x`` in the state space, shape ``(B,)``."""
        return torch.stack(self._each(lambda part, own: part.contains(own), x)).all(0)

    def sample_transition(self, x0: Tensor, t: Time, generator: Source = None) -> Tensor:
        """Exact draws of ``Y_t`` given ``Y_0 = x0`` ``(B, d)``, shape ``(B, d)``; ``t >= 0``."""
        drawn = self._each(lambda part, own: part.sample_transition(own, t, generator), x0)
        return torch.cat(drawn, 1)

    def log_transition(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        """``log p(Y_t = y | Y_0 = x0)``, shape ``(B,)``; ``t > 0``."""
        parts = self._each(lambda part, *own: part.log_transition(*own, t), y, x0)
        return torch.stack(parts).sum(0)

    def transition_score(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        """``grad_y log p(Y_t = y | Y_0 = x0)``, shape ``(B, d)``; ``t > 0``."""
        return torch.cat(self._each(lambda part, *own: part.transition_score(*own, t), y, x0), 1)

    def eigenbasis(self, n_functions: int) -> Eigenbasis:
        """The ``n_functions`` slowest non-constant products of the factors' eigenfunctions."""
        axes = [axis for part in self._parts for axis in _axes(part)]
        if any(isinstance(axis, Numerical) for axis in axes):  # then all lines are, between walls
            axes = [_BELL if isinstance(axis, Line) else axis for axis in axes]
        return Eigenbasis(axes, n_functions)


def _bell(x: Tensor) -> Tensor:
    return -0.5 * x.square()


# 1e-9 of the normal law is beyond each wall; at the limits its density is e^-32 of the largest.
_BELL = Numerical(_bell, -6.0, 6.0, limits=(-8.0, 8.0))


def _check_dispersion(factor: Process) -> None:
    for share in (0.25, 1.0):
        time = torch.tensor(share * factor.horizon, dtype=torch.float64)
        found = as_tensor(factor.dispersion(time), "dispersion", torch.float64)
        if found.ndim or abs(float(found) - SQRT2) > 1e-9:
            raise ValueError(
                "factors: expected processes with dispersion sqrt2, so that one time is that of "
                f"all, found {found.tolist()} of {name_of(factor)}: pass Langevin(prior, beta=2.0)"
            )


def _axes(factor: Process) -> Sequence[Any]:
    assert factor.eigenbasis is not None
    axes: Sequence[Any] = factor.eigenbasis(2).axes
    if not axes:
        raise ValueError(
            "factors: expected priors whose coordinates are independent, found one of two that are "
            f"not, of {name_of(factor)}: its eigenfunctions are no products; fit it alone"
        )
    return axes


@takes_arrays
class _ProductLaw(Sampled):
    """Independent laws side by side."""

    def __init__(self, laws: Sequence[Any], dims: list[int]) -> None:
        self.laws, self._dims, self.dim = tuple(laws), dims, sum(dims)

    def log_prob(self, x: Tensor) -> Tensor:
        """The sum over the laws, shape ``(B,)``."""
        pieces = zip(self.laws, x.split(self._dims, 1), strict=True)
        return torch.stack([law.log_prob(own) for law, own in pieces]).sum(0)

    def score(self, x: Tensor) -> Tensor:
        """Gradient of the log density, shape ``(B, d)``."""
        pieces = zip(self.laws, x.split(self._dims, 1), strict=True)
        return torch.cat([law.score(own) for law, own in pieces], 1)

    def sample(
        self, n: int, generator: Source = None, dtype: Type = None, device: Device = None
    ) -> Tensor:
        """``n`` independent draws, shape ``(n, d)``."""
        drawn = [law.sample(n, generator, dtype, device) for law in self.laws]
        return torch.cat(drawn, 1)
