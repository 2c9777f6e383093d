"""Stationary laws: where the forward process ends and the samplers start.

Each class has ``dim``, ``log_prob(x) -> (B,)``, ``score(x) -> (B, d)``, the gradient of the log
density, and ``sample(n, generator, dtype, device) -> (n, d)``; also ``hessian(x)`` of the log
density, ``(B, d, d)``, or ``(B, d)``, its diagonal, where the coordinates are independent. A prior
of one's own needs ``dim`` and what it is used for: ``score`` for ``Langevin``, ``log_prob`` and
``sample`` for the samplers. Parameters are kept in float64 and cast to the dtype and device of the
points. Constructors validate; the methods, which run inside solvers and training loops, do not:
``x`` is a finite floating ``(B, d)`` tensor by then.
Samples have ``dtype`` (default: torch's) and lie on ``device`` (default: the generator's, or CPU).
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..core import (
    Constants,
    Law,
    as_tensor,
    check_generator,
    check_integer,
    check_number,
    full_precision,
    lasting,
    remembered,
    takes_arrays,
)
from ..kernels import MAX_COORDINATES, PathDrift

LOG_2PI = math.log(2 * math.pi)

Source = torch.Generator | None
Type = torch.dtype | None
Device = torch.device | str | None
Parameter = float | Tensor


def placement(generator: Source, dtype: Type, device: Device) -> dict[str, Any]:
    """Keyword arguments of torch's random functions: the generator decides where none is named."""
    check_generator(generator)
    if device is None and generator is not None:
        device = generator.device
    return {"generator": generator, "dtype": dtype, "device": device}


# Half the spacing of float32 numbers near one: a bound that went through float32 is off by so much.
_ROUNDING = 2.0**-24
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def with_rounding(low: float, high: float) -> tuple[float, float]:
    """``[low, high]`` with the float32 roundings of its ends: what counts as inside."""
    return low - _ROUNDING * abs(low), high + _ROUNDING * abs(high)


@remembered
def inner_bounds(
    low: float, high: float, dtype: torch.dtype, half_open: bool = False
) -> tuple[float, float]:
    """The first and the last number of ``dtype`` in ``[low, high]``, or in ``[low, high)``.

    The nearest numbers may lie outside: that to ``-pi`` in float32 is smaller than ``-pi``.
    """
    ends = torch.tensor([low, high], dtype=torch.float64)
    nearest = ends.to(dtype)
    first, last = nearest.double().tolist()
    out = torch.tensor([first < low, last > high or (half_open and last >= high)])
    away = torch.tensor([low > 0, high < 0])  # from zero, the way inside
    bits = nearest.view(_BITS[nearest.element_size()])
    moved = torch.where(out, bits + torch.where(away, 1, -1).to(bits), bits).view(dtype)
    first, last = moved.double().tolist()
    return first, last


def check_dim(dim: int) -> int:
    """``dim`` as an integer >= 1; ``ValueError`` where it is not."""
    return check_integer(dim, "dim")


def check_positive(value: Any, name: str) -> Tensor:
    """``value`` as a float64 tensor of finite positive numbers."""
    value = as_tensor(value, name, torch.float64)
    if not bool((torch.isfinite(value) & (value > 0)).all()):
        raise ValueError(f"{name}: expected finite positive numbers, found {value.tolist()}")
    return value


class Sampled(Law):
    """What all laws here share: ``dim``, and draws by :meth:`_draws`."""

    dim: int

    def sample(
        self, n: int, generator: Source = None, dtype: Type = None, device: Device = None
    ) -> Tensor:
        """``n`` independent draws, shape ``(n, d)``."""
        n = check_integer(n, "n", 0)
        return self._draws(n, **placement(generator, dtype, device))

    def _draws(self, n: int, **where: Any) -> Tensor:
        raise NotImplementedError


def mixture(
    count: int, scale: Parameter, weights: Tensor | None, each: str
) -> tuple[Tensor, Tensor]:
    """Scales and normalised weights of ``count`` components, ``(M,)`` each.

    Raises:
        ValueError: other shapes, or numbers that are not positive.
    """
    scale = check_positive(scale, "scale")
    weights = check_positive([1.0] * count if weights is None else weights, "weights")
    if scale.shape not in ((), (count,)) or weights.shape != (count,):
        raise ValueError(
            f"expected scale: a number or ({count},), and weights: ({count},), one for each "
            f"{each}; found {tuple(scale.shape)} and {tuple(weights.shape)}"
        )
    return scale.expand(count), weights / weights.sum()


@takes_arrays
class Gaussian(Sampled):
    r"""The normal law :math:`\mathcal N(\mu, C)`.

    Args:
        dim: number of coordinates ``d``.
        mean: a number, or a ``(d,)`` tensor.
        scale: the standard deviation: a number, one for each axis ``(d,)``, or the lower Cholesky
            factor ``(d, d)`` of the covariance.

    Raises:
        ValueError: a shape that does not fit ``dim``, a scale that is not positive, or a matrix
            that is not lower triangular.
    """

    @lasting
    def __init__(self, dim: int, mean: Parameter = 0.0, scale: Parameter = 1.0) -> None:
        self.dim = check_dim(dim)
        mean = as_tensor(mean, "mean", torch.float64)
        if mean.shape not in ((), (self.dim,)):
            raise ValueError(
                f"mean: expected a number or shape ({dim},), found {tuple(mean.shape)}"
            )
        self.mean = mean.expand(self.dim)
        scale = as_tensor(scale, "scale", torch.float64)
        if scale.shape not in ((), (self.dim,), (self.dim, self.dim)):
            raise ValueError(
                f"scale: expected a number, shape ({dim},) or ({dim}, {dim}), "
                f"found {tuple(scale.shape)}"
            )
        self._dense = scale.ndim == 2
        if self._dense and bool((scale.triu(1) != 0).any()):
            raise ValueError(
                "scale: expected a lower triangular matrix, found entries above the diagonal: "
                "pass torch.linalg.cholesky(covariance)"
            )
        check_positive(scale.diagonal() if self._dense else scale, "scale")
        self.scale = scale if self._dense else scale.expand(self.dim)

    @full_precision
    def _whiten(self, x: Tensor) -> Tensor:
        """``z`` with ``x = mean + scale z``."""
        centred, scale = x - self.mean.to(x), self.scale.to(x)
        if self._dense:
            return torch.linalg.solve_triangular(scale, centred.T, upper=False).T
        return centred / scale

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at ``x`` ``(B, d)``, shape ``(B,)``."""
        diagonal = self.scale.diagonal() if self._dense else self.scale
        constant = 0.5 * self.dim * LOG_2PI + float(diagonal.log().sum())
        return -0.5 * self._whiten(x).square().sum(1) - constant

    def score(self, x: Tensor) -> Tensor:
        """Gradient of the log density, ``-C^{-1} (x - mean)``, shape ``(B, d)``."""
        z, scale = self._whiten(x), self.scale.to(x)
        if self._dense:
            return -torch.linalg.solve_triangular(scale.T, z.T, upper=True).T
        return -z / scale

    def hessian(self, x: Tensor) -> Tensor:
        """``-C^{-1}``, ``(B, d, d)``; for independent coordinates its diagonal, ``(B, d)``."""
        if self._dense:
            return -torch.cholesky_inverse(self.scale).to(x).expand(len(x), -1, -1)
        return -self.scale.to(x).square().reciprocal().expand_as(x)

    @full_precision
    def _draws(self, n: int, **where: Any) -> Tensor:
        z = torch.randn(n, self.dim, **where)
        scale = self.scale.to(z)
        return self.mean.to(z) + (z @ scale.T if self._dense else z * scale)


@takes_arrays
class GaussianMixture(Sampled):
    r"""Mixture of isotropic normal laws, :math:`\sum_m w_m \mathcal N(\mu_m, \sigma_m^2 I)`.

    Args:
        means: ``(M, d)``.
        scale: standard deviation of every component, or one for each ``(M,)``.
        weights: ``(M,)``, positive; normalised to sum 1. Default: equal.

    Raises:
        ValueError: wrong shapes, non-finite means, scales or weights that are not positive.
    """

    @lasting
    def __init__(self, means: Tensor, scale: Parameter, weights: Tensor | None = None) -> None:
        means = as_tensor(means, "means", torch.float64)
        if means.ndim != 2 or means.numel() == 0 or not bool(torch.isfinite(means).all()):
            raise ValueError(
                f"means: expected a finite (M, d) tensor, found shape {tuple(means.shape)}: "
                "one row per component"
            )
        count, self.dim = means.shape
        self.means = means
        self.scale, self.weights = mixture(count, scale, weights, "row of means")
        height = self.dim * (self.scale.log() + 0.5 * LOG_2PI)
        log_heights = (self.weights.log() - height)[:, None]
        precision = self.scale[:, None].square().reciprocal()
        self._constants = Constants(means.T[:, :, None].contiguous(), log_heights, precision)

    def _pull(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``log w_m + log N(x; mu_m, sigma_m^2)`` ``(M, B)``, ``sigma_m^-2`` ``(M, 1)``, and
        ``mu_m - x`` ``(d, M, B)``: long last axes make the operations fast."""
        means, heights, precision = self._constants.like(x)
        # Differences first: p @ means - x would cancel where the scale is small.
        offset = means - x.T.contiguous()[:, None]
        square = _contract(offset, offset)
        return torch.addcmul(heights, precision, square, value=-0.5), precision, offset

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at ``x`` ``(B, d)``, shape ``(B,)``."""
        return torch.logsumexp(self._pull(x)[0], dim=0)

    def score(self, x: Tensor) -> Tensor:
        """``sum_m p(m | x) (mu_m - x) / sigma_m^2``, shape ``(B, d)``."""
        log_terms, precision, offset = self._pull(x)
        return (log_terms.softmax(0) * precision * offset).sum(1).T

    def _spread(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``p(m | x)`` ``(M, B)``, components' scores less their mean ``(d, M, B)``, that mean
        ``(d, B)`` (the score), and ``E_p[sigma_m^-2]`` ``(B,)``."""
        log_terms, precision, offset = self._pull(x)
        p, scores = log_terms.softmax(0), precision * offset
        score = (p * scores).sum(1)
        return p, scores - score[:, None], score, (precision * p).sum(0)

    @full_precision
    def hessian(self, x: Tensor) -> Tensor:
        """``Cov_p(s_m) - E_p[sigma_m^-2] I`` for the components' scores ``s_m``, ``(B, d, d)``."""
        p, spread, _, precision = self._spread(x)
        covariance = torch.einsum("mb,imb,jmb->bij", p, spread, spread)
        return covariance - torch.diag_embed(precision[:, None].expand_as(x))

    def score_and_hessian_product(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The score, and the Hessian times ``v`` ``(B, d)``, from one pass; ``(B, d)`` each."""
        p, spread, score, precision = self._spread(x)
        v = v.T.contiguous()
        along = p * _contract(spread, v[:, None])
        return score.T, ((along * spread).sum(1) - precision * v).T

    def path_drift(self) -> PathDrift | None:
        """Half the score, for ``markovscore.kernels.paths``; None beyond its dimensions."""
        if self.dim > MAX_COORDINATES:
            return None
        return PathDrift.mixture(self.means, self.scale, self.weights)

    def _draws(self, n: int, **where: Any) -> Tensor:
        z = torch.randn(n, self.dim, **where)
        count, source = max(n, 1), where["generator"]
        m = torch.multinomial(self.weights.to(z.device), count, replacement=True, generator=source)
        return self.means.to(z)[m[:n]] + self.scale.to(z)[m[:n], None] * z


@takes_arrays
class _Uniform(Sampled):
    """A constant density: its logarithm has no slope."""

    def score(self, x: Tensor) -> Tensor:
        """Zero, shape ``(B, d)``."""
        return torch.zeros_like(x)

    def hessian(self, x: Tensor) -> Tensor:
        """Zero, the diagonal, shape ``(B, d)``."""
        return torch.zeros_like(x)


@takes_arrays
class UniformTorus(_Uniform):
    """The uniform law on the torus ``[-p/2, p/2)^d`` of period ``p``; points may be any real
    numbers.

    Raises:
        ValueError: ``dim < 1``, or a period that is not finite and positive.
    """

    def __init__(self, dim: int, period: float = 2 * math.pi) -> None:
        self.dim = check_dim(dim)
        self.period = check_number(period, "period", positive=True)

    def log_prob(self, x: Tensor) -> Tensor:
        """``-d log p`` everywhere, shape ``(B,)``; NaN where ``x`` is not finite."""
        value = torch.full_like(x[:, 0], -self.dim * math.log(self.period))
        return torch.where(torch.isfinite(x).all(1), value, torch.nan)

    def _draws(self, n: int, **where: Any) -> Tensor:
        u, half = torch.rand(n, self.dim, **where), self.period / 2
        low, high = inner_bounds(-half, half, u.dtype, half_open=True)
        return (half * (2 * u - 1)).clamp(low, high)


@takes_arrays
class UniformBox(_Uniform):
    """The uniform law on the box ``[low, high]^d``.

    Raises:
        ValueError: ``dim < 1``, or not ``low < high``.
    """

    def __init__(self, dim: int, low: float = 0.0, high: float = 1.0) -> None:
        self.dim = check_dim(dim)
        self.low, self.high = check_number(low, "low"), check_number(high, "high")
        if not self.low < self.high:
            raise ValueError(f"expected low < high, found low = {low}, high = {high}: swap them")

    def log_prob(self, x: Tensor) -> Tensor:
        """``-d log(high - low)`` in the box, ``-inf`` outside, shape ``(B,)``."""
        low, high = with_rounding(self.low, self.high)
        inside = ((x >= low) & (x <= high)).all(1)
        value = torch.full_like(x[:, 0], -self.dim * math.log(self.high - self.low))
        return torch.where(inside, value, -torch.inf)

    def _draws(self, n: int, **where: Any) -> Tensor:
        u = torch.rand(n, self.dim, **where)
        low, high = inner_bounds(self.low, self.high, u.dtype)
        return (self.low + (self.high - self.low) * u).clamp(low, high)


def _contract(a: Tensor, b: Tensor) -> Tensor:
    """``sum_i a_i b_i`` over the first axis."""
    if len(a) > 8:
        return (a * b).sum(0)
    # For a few coordinates a running sum is several times faster than a reduction.
    u = a.unbind(0)
    v = u if b is a else b.unbind(0)
    total = u[0] * v[0]
    for one, other in zip(u[1:], v[1:], strict=True):
        total = torch.addcmul(total, one, other)
    return total
