r"""Nonlinear forward processes, and one whose law is known exactly although it is not a toy.

The protocol is that of ``markovscore.diffusions``. Beside it a class may give its clock, Jacobian
and vector-Jacobian product (``drift_jacobian``, ``drift_and_vjp``), and, where ``G`` is
singular, ``shift_target(states, noise, step)``, the rule of ``markovscore.path_shift_target``.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..core import (
    Constants,
    Law,
    LinearMap,
    Time,
    as_law,
    check_number,
    expand_like,
    field_jacobian,
    full_precision,
    lasting,
    pull_back,
    read_jacobian,
    takes_arrays,
)
from ..eigenbasis import Eigenbasis
from ..kernels import PathDrift
from .base import Diffusion, as_time, check_horizon
from .clock import Beta, LinearClock, QuadratureClock, make_clock
from .kernel_paths import offered
from .priors import check_dim
from .product_priors import Quartic
from .spectra import Space, numerical_space


@takes_arrays
class Langevin(Diffusion):
    r"""``dY = (beta(t) / 2) grad log pi(Y) dt + sqrt(beta(t)) dW``: leaves ``pi`` invariant.

    In the clock :math:`\tau(t) = \int_0^t \beta` it is one autonomous process, so simulation,
    windows and local linearisation all count in ``tau`` and are the same for any ``beta``.
    (Singhal, Goldstein and Ranganath 2024, section on non-Gaussian priors; Roberts and Tweedie
    1996 for the process.)

    Args:
        prior: has ``dim`` and ``score(x) -> (B, d)``; ``hessian(x)`` and
            ``score_and_hessian_product(x, v)`` are used where it has them, else ``torch.func``.
        beta: a positive number, a pair ``(beta(0), beta(horizon))`` for a linear function, or any
            positive integrable callable on float64 tensors; the default pair is our choice.
        horizon: end of the time interval.
        box: ``(low, high)``, numbers or ``(d,)``: the reflecting walls between which
            :meth:`eigenbasis` finds eigenfunctions, and nothing else looks for; by default 1e-8 of
            the prior is beyond each, and a fit to data beyond them moves them outwards.

    Raises:
        TypeError: a prior without ``dim`` or ``score``.
        ValueError: ``beta`` not finite and positive, or a bad horizon.
    """

    autonomous = True
    _seen: tuple[Any, Any] = (None, None)  # a prior, and what ``as_law`` made of it
    _solved: tuple[Any, Any] = (None, None)  # a prior, and its eigenfunctions

    def __init__(
        self, prior: Any, beta: Beta = (0.1, 10.0), horizon: float = 1.0, box: Any = None
    ) -> None:
        as_law(prior)  # checks it
        self.prior, self.dim, self.horizon = prior, prior.dim, check_horizon(horizon)
        self.clock: LinearClock | QuadratureClock = make_clock(beta, self.horizon)
        self.box, self._given = box, beta

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that build this process, for a file."""
        return {"prior": self.prior, "beta": self._given, "horizon": self.horizon, "box": self.box}

    def eigenbasis(self, n_functions: int) -> Eigenbasis:
        r"""The ``n_functions`` slowest non-constant eigenfunctions of
        :math:`\Delta + \nabla\log\pi \cdot \nabla`, found numerically: products over the
        coordinates where these are independent; in the plane of any other prior too, as many more
        as share the last eigenvalue; with three to six coordinates those that a span of at most
        600 functions resolves, polynomials times the shares of a few normal laws, whose errors
        ``spectrum`` says. A solution that takes more than two seconds is kept in the folder that
        ``MARKOVSCORE_CACHE`` names.

        Raises:
            TypeError: a prior without ``log_prob``, or ``sample`` where draws are needed.
            ValueError: a prior of more than six coordinates that are not independent, or whose
                tails do not end.
            ArithmeticError: eigenvalues that do not stand, or more functions than are resolved;
                what was reached.
        """
        if self._solved[0] is not self.prior:
            self._solved = (self.prior, numerical_space(self.prior, self.box))
        basis: Eigenbasis = self._solved[1](n_functions)
        return basis

    def beta(self, t: Time) -> Tensor:
        """``beta(t)``, float64, the shape of ``t``."""
        if isinstance(t, float):
            rate = self.clock.rate(t)  # arithmetic on numbers
            return torch.tensor(rate, dtype=torch.float64, device="cpu")
        return self.clock.rate(as_time(t).double())

    def _half_rate(self, t: Time, y: Tensor) -> Tensor:
        """``beta(t) / 2``: 0-dim, which promotes nothing, or of the rank and dtype of ``y``."""
        half = 0.5 * self.beta(t)
        return half if half.ndim == 0 else expand_like(half, y)

    def drift(self, y: Tensor, t: Time) -> Tensor:
        """``beta(t) / 2 grad log pi(y)``, shape ``(B, d)``."""
        return self._half_rate(t, y) * self.prior.score(y)

    def dispersion(self, t: Time) -> Tensor:
        """``sqrt(beta(t))``, float64, the shape of ``t``."""
        return self.beta(t).sqrt()

    def std(self, t: Time) -> Tensor:
        """``sqrt(1 - e^{-tau(t)})``: the transition's scale for a standard normal prior.

        For other priors a scale for networks to divide by, exact only to first order in ``tau``.
        """
        t = as_time(t)
        tau = self.clock.elapsed(t.double().cpu())
        return torch.expm1(-tau).neg().sqrt().to(t)

    def drift_jacobian(self, y: Tensor, t: Time) -> Tensor:
        """``beta(t) / 2`` times the Hessian of ``log pi``: ``(B, d, d)``, or its diagonal."""
        hessian = self._hessian(y, t)
        return self._half_rate(t, hessian.value) * hessian.value

    def drift_and_vjp(self, y: Tensor, t: Time, v: Tensor) -> tuple[Tensor, Tensor]:
        """``f(y, t)`` and ``J^T v``, ``(B, d)`` each."""
        half = self._half_rate(t, y)
        law = self._law()
        if law.score_and_hessian_product is not None:
            score, product = law.score_and_hessian_product(y, v)
        elif law.hessian is not None:
            score, product = law.score(y), self._hessian(y, t).T @ v
        else:
            score, vjp = pull_back(self._score, y, t)
            product = vjp(v)
        return half * score, half * product

    def drift_divergence(self, y: Tensor, t: Time) -> Tensor:
        """``beta(t) / 2`` times the Laplacian of ``log pi``, shape ``(B,)``."""
        return read_jacobian(self.drift_jacobian(y, t), y).trace(self.dim)

    def euler_kernel(self) -> PathDrift | None:
        """The drift at unit rate for ``markovscore.kernels.paths``, if the prior offers one."""
        return offered(self._law(), "path_drift", "score")

    def _score(self, y: Tensor, t: Time) -> Tensor:
        return self.prior.score(y)

    def _law(self) -> Law:
        """The prior with all that may be asked of it; seen anew where another one was assigned."""
        if self._seen[0] is not self.prior:
            self._seen = (self.prior, as_law(self.prior))
        return self._seen[1]

    def _hessian(self, y: Tensor, t: Time) -> LinearMap:
        """That of ``log pi``."""
        law = self._law()
        if law.hessian is None:
            return field_jacobian(self._score, y, t)
        return read_jacobian(law.hessian(y), y, "hessian")


@takes_arrays
class DoubleWell(Diffusion):
    r"""``dY = (Y - Y^3) dt + dW`` in each coordinate: two wells at -1 and 1.

    The prior is the stationary law, proportional to ``exp(y^2 - y^4 / 2)`` in each coordinate. The
    setting of the path-shift trial is ``dim = 1``, ``t = 1``.
    """

    autonomous = elementwise = True

    def __init__(self, dim: int = 1, horizon: float = 5.0) -> None:
        self.dim, self.horizon = check_dim(dim), check_horizon(horizon)
        self.prior = Quartic(self.dim)
        self._space: Space | None = None

    def eigenbasis(self, n_functions: int) -> Eigenbasis:
        """The ``n_functions`` slowest non-constant eigenfunctions of ``Laplacian + grad log pi .
        grad``, found numerically: products over the coordinates."""
        if self._space is None:
            self._space = numerical_space(self.prior)
        return self._space(n_functions)

    def drift(self, y: Tensor, t: Time) -> Tensor:
        """``y - y^3``, shape ``(B, d)``."""
        return torch.addcmul(y, y.square(), y, value=-1)

    def dispersion(self, t: Time) -> Tensor:
        """One, 0-dim."""
        return torch.ones((), dtype=torch.float64, device="cpu")

    def drift_jacobian(self, y: Tensor, t: Time) -> Tensor:
        """The diagonal ``1 - 3 y^2``, shape ``(B, d)``."""
        return 1 - 3 * y.square()

    def drift_divergence(self, y: Tensor, t: Time) -> Tensor:
        """``sum_i 1 - 3 y_i^2``, shape ``(B,)``."""
        return self.drift_jacobian(y, t).sum(1)

    def euler_kernel(self) -> PathDrift:
        """The drift for ``markovscore.kernels.paths``."""
        return PathDrift.double_well()


@takes_arrays
class ActiveSwimmer(Diffusion):
    r"""``dx = (-x^3 + v) dt``, ``dv = -gamma v dt + sqrt(2 gamma D) dW``; a row is ``(x, v)``.

    A particle in a quartic trap driven by its own noisy velocity (Boffi and Vanden-Eijnden 2023,
    arXiv:2206.04642; Singhal et al. 2024, figure 5). The noise enters ``v`` alone, so ``G`` is
    singular and only the ``v`` component of the score appears in ``G G^T s``.

    Args:
        gamma, D, horizon: friction, noise strength and end of the time interval, positive.
    """

    autonomous = True
    dim = 2

    @lasting
    def __init__(self, gamma: float = 0.1, D: float = 1.0, horizon: float = 5.0) -> None:
        self.gamma = check_number(gamma, "gamma", positive=True)
        self.D = check_number(D, "D", positive=True)
        self.horizon = check_horizon(horizon)
        self._sigma = math.sqrt(2 * self.gamma * self.D)
        self._G = torch.tensor([[0.0], [self._sigma]], dtype=torch.float64)
        linear = torch.tensor([[0.0, 0.0], [1.0, -self.gamma]], dtype=torch.float64)
        self._constants = Constants(linear, torch.tensor([-1.0, 0.0], dtype=torch.float64))

    @full_precision
    def drift(self, y: Tensor, t: Time) -> Tensor:
        """``(-x^3 + v, -gamma v)``, shape ``(B, 2)``."""
        # Three operations: columns cut apart and stacked again would take twice the time.
        linear, cubic = self._constants.like(y)
        return torch.addcmul(y @ linear, y**3, cubic)

    def dispersion(self, t: Time) -> Tensor:
        """``[[0], [sqrt(2 gamma D)]]``; as ``t`` where it is a tensor, else float64."""
        return self._G.to(t) if isinstance(t, Tensor) and t.is_floating_point() else self._G

    def drift_jacobian(self, y: Tensor, t: Time) -> Tensor:
        """``[[-3 x^2, 1], [0, -gamma]]``, shape ``(B, 2, 2)``."""
        J = y.new_zeros(len(y), 2, 2)
        J[:, 0, 0], J[:, 0, 1], J[:, 1, 1] = -3 * y[:, 0].square(), 1.0, -self.gamma
        return J

    def drift_divergence(self, y: Tensor, t: Time) -> Tensor:
        """``-3 x^2 - gamma``, shape ``(B,)``."""
        return -3 * y[:, 0].square() - self.gamma

    def euler_kernel(self) -> PathDrift:
        """Drift and noise for ``markovscore.kernels.paths``."""
        return PathDrift.swimmer(self.gamma, self._sigma)

    def shift_target(self, states: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        r"""Unbiased target for both components of the score at the end of a simulated window.

        Shift ``x`` by ``a_i`` and ``v`` by ``u_i = (a_{i+1} - a_i) / h + 3 x_i^2 a_i``: the
        deterministic equation of ``x`` still holds, ``u_i`` depends on earlier noise alone, so the
        map of the noise has unit Jacobian, and with ``a_0 = u_0 = 0``

        .. math:: (a_N, u_N) \cdot \nabla \log \rho_t(y) = E\Big[-\sum_i
                  (u_{i+1} - u_i + h \gamma u_i)\, z_i / (\sigma \sqrt h) \,\Big|\, y_N = y\Big] .

        ``(0, 1)`` gives the ``v`` component; ``(1, 3 x_N^2)``, less ``3 x_N^2`` times it, the ``x``
        component. Exact for the simulated chain. Cubic ``a``, zero at the first two nodes.

        Args:
            states: ``(N + 1, B, 2)``, ``N >= 2``.
            noise: ``(N, B, 1)``, the standard normal draws.
            step: ``(N, 1 or B)``, steps of equal length.

        Returns:
            ``(B, 2)``; the ``x`` component's variance grows as ``1 / window^3``.
        """
        count = len(noise)
        if count < 2:
            raise ValueError(
                f"steps: expected at least 2 for ActiveSwimmer, found {count}: the noise needs "
                "two steps to reach x"
            )
        h, x = step[0].to(states), states[:, :, 0]
        rho = torch.linspace(-1 / (count - 1), 1, count + 1, dtype=torch.float64)
        rho = rho.to(states).clamp(min=0)[:, None]
        slope, targets = 3 * x.square(), []
        for a in ((count - 1) * h * (rho**3 - rho**2), 3 * rho**2 - 2 * rho**3):
            u = a.diff(dim=0) / h + slope[:-1] * a[:-1]
            u = torch.cat([u, (slope[-1] * a[-1] + 1 - a[-1])[None]])
            force = u[1:] - u[:-1] + h * self.gamma * u[:-1]
            targets.append(-(force * noise[:, :, 0]).sum(0) / (self._sigma * h.sqrt()))
        along_v, along_x = targets
        return torch.stack([along_x - slope[-1] * along_v, along_v], 1)
