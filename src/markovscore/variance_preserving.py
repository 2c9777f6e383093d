"""The variance-preserving process: Ornstein-Uhlenbeck run at a speed that grows with time."""

from typing import Any

import torch
from torch import Tensor

from ._clock import make_clock
from ._fields import Time
from ._modes import lasting
from ._validate import expand_like, takes_arrays
from .diffusions import OrnsteinUhlenbeck, _check_horizon, _Separable, _time
from .priors import Source


@takes_arrays
class VariancePreserving(_Separable):
    r"""``dY = -beta(t) / 2 Y dt + sqrt(beta(t)) dW``, stationary law ``N(0, I)``, linear ``beta``.

    .. math:: Y_t \mid Y_0 = x_0 \sim \mathcal N\big(e^{-\tau / 2} x_0,\ (1 - e^{-\tau}) I\big),
              \qquad \tau(t) = \int_0^t \beta

    (Song et al. 2021, arXiv:2011.13456, section 3.4 and appendix C, with their default ``beta``
    from 0.1 to 20 on the normalised time ``[0, 1]``; Ho et al. 2020, arXiv:2006.11239, in the limit
    of many steps). It is :class:`OrnsteinUhlenbeck` at the time ``tau(t) / 2``, which is what
    :meth:`ou_time` returns: whatever is known in closed form there, such as an OISM fit at the time
    ``u``, holds here at the ``t`` with ``ou_time(t) = u``, that is ``clock.inverse(2 u)``.

    Times are turned into ``tau`` in float64 by a product, never a difference, and
    ``1 - e^{-tau}`` by ``expm1``: a float32 ``t`` is as good down to ``1e-6`` as at 1.

    Args:
        dim: number of coordinates ``d``.
        beta: a positive number, or a pair ``(beta(0), beta(horizon))`` for a linear function.
        horizon: end of the time interval.

    Attributes:
        clock: ``tau``; simulation, windows and linearisation count in it, as for ``Langevin``.

    Raises:
        TypeError: ``beta`` is a function: ``Langevin(Gaussian(dim), beta)`` takes one.
        ValueError: ``beta`` not finite and positive, ``dim < 1``, or a bad horizon.
    """

    autonomous = True

    @lasting
    def __init__(
        self, dim: int, beta: float | tuple[float, float] = (0.1, 20.0), horizon: float = 1.0
    ) -> None:
        if callable(beta):
            raise TypeError(
                "beta: expected a number or a pair (beta(0), beta(horizon)), found a function: "
                "Langevin(Gaussian(dim), beta) takes one, and simulates"
            )
        self.horizon = _check_horizon(horizon)
        self.clock = make_clock(beta, self.horizon)
        self._unit = OrnsteinUhlenbeck(dim, float(self.ou_time(self.horizon)))
        self.dim, self.prior = self._unit.dim, self._unit.prior

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that build this process, for a file."""
        beta = self.clock.rate(torch.tensor([0.0, self.horizon], dtype=torch.float64)).tolist()
        return {"dim": self.dim, "beta": beta, "horizon": self.horizon}

    def beta(self, t: Time) -> Tensor:
        """``beta(t)``, float64, the shape of ``t``."""
        return self.clock.rate(_time(t).double())

    def ou_time(self, t: Time) -> Tensor:
        """``int_0^t beta / 2``, the time of ``OrnsteinUhlenbeck``; float64, the shape of ``t``."""
        return 0.5 * self.clock.elapsed(_time(t).double())

    def drift(self, y: Tensor, t: Time) -> Tensor:
        """``-beta(t) / 2 y``, shape ``(B, d)``."""
        return expand_like(-0.5 * self.beta(t), y) * y

    def dispersion(self, t: Time) -> Tensor:
        """``sqrt(beta(t))``, float64, the shape of ``t``."""
        return self.beta(t).sqrt()

    def drift_jacobian(self, y: Tensor, t: Time) -> Tensor:
        """The diagonal, ``-beta(t) / 2`` everywhere, shape ``(B, d)``."""
        return expand_like(-0.5 * self.beta(t), y).expand_as(y)

    def drift_and_vjp(self, y: Tensor, t: Time, v: Tensor) -> tuple[Tensor, Tensor]:
        """``f(y, t)`` and ``J^T v``, ``(B, d)`` each."""
        slope = expand_like(-0.5 * self.beta(t), y)
        return slope * y, slope * v

    def drift_divergence(self, y: Tensor, t: Time) -> Tensor:
        """``-d beta(t) / 2``, shape ``(B,)``."""
        return expand_like(-0.5 * self.dim * self.beta(t), y[:, 0]).expand(len(y))

    def std(self, t: Time) -> Tensor:
        """``sqrt(1 - e^{-tau(t)})``, dtype and shape of ``t``."""
        return self._unit.std(self.ou_time(t)).to(_time(t))

    def sample_transition(self, x0: Tensor, t: Time, generator: Source = None) -> Tensor:
        """Exact draws of ``Y_t`` given ``Y_0 = x0`` ``(B, d)``, shape ``(B, d)``; ``t >= 0``."""
        return self._unit.sample_transition(x0, self.ou_time(t), generator)

    def evolve_gaussian(self, mean: Tensor, var: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """``e^{-tau/2} mean`` ``(..., d)`` and ``e^{-tau} var + 1 - e^{-tau}`` ``(...)``."""
        return self._unit.evolve_gaussian(mean, var, self.ou_time(t))

    _axis_log_prob = staticmethod(OrnsteinUhlenbeck._axis_log_prob)
    _axis_score = staticmethod(OrnsteinUhlenbeck._axis_score)
