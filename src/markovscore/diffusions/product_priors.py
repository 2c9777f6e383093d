"""Laws with independent, equal coordinates, whose Hessian is diagonal: priors for images.

Their methods are those of ``priors``.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import as_tensor, check_number, full_precision, lasting, takes_arrays
from ..kernels import PathDrift
from .priors import LOG_2PI, Parameter, Sampled, check_dim, mixture


@takes_arrays
class Logistic(Sampled):
    r"""Independent logistic coordinates, density :math:`\prod_i \operatorname{sech}^2(x_i/2s)/4s`.

    Its score is ``-tanh(x / (2 s)) / s``: bounded, with exponential tails.

    Raises:
        ValueError: ``dim < 1`` or a scale that is not one positive number.
    """

    def __init__(self, dim: int, scale: float = 1.0) -> None:
        self.dim = check_dim(dim)
        self.scale = check_number(scale, "scale", positive=True)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at ``x`` ``(B, d)``, shape ``(B,)``; no overflow in the tails."""
        u = x.abs() / self.scale
        return -(u + 2 * torch.log1p(torch.exp(-u))).sum(1) - self.dim * math.log(self.scale)

    def score(self, x: Tensor) -> Tensor:
        """Gradient of the log density, shape ``(B, d)``."""
        return torch.tanh(x * (0.5 / self.scale)) * (-1 / self.scale)

    def hessian(self, x: Tensor) -> Tensor:
        """Diagonal of the Hessian, ``-sech^2(x / (2 s)) / (2 s^2)``, shape ``(B, d)``."""
        return (torch.tanh(x / (2 * self.scale)).square() - 1) / (2 * self.scale**2)

    def path_drift(self) -> PathDrift:
        """Half the score, for ``markovscore.kernels.paths``."""
        return PathDrift.logistic(self.scale)

    def _draws(self, n: int, **where: Any) -> Tensor:
        generator = where.pop("generator")
        # The inverse distribution function of a uniform draw would give inf for a draw of 0.
        first, second = torch.empty(2, n, self.dim, **where).exponential_(generator=generator)
        return self.scale * (second.log() - first.log())


# log int exp(y^2 - y^4/2) dy = log( pi/2 e^{1/4} (I_{-1/4}(1/4) + I_{1/4}(1/4)) )
_LOG_QUARTIC = 1.426895867881731
# At least the maximum, 0.48294, of y^2 - y^4/2 - log(e^{-(y-1)^2} + e^{-(y+1)^2}).
_QUARTIC_EXCESS = 0.483


@takes_arrays
class Quartic(Sampled):
    r"""Independent coordinates, each :math:`\propto e^{y^2 - y^4 / 2}`: two wells at -1 and 1.

    The stationary law of ``DoubleWell``; ``dim``, the number of coordinates.
    """

    def __init__(self, dim: int = 1) -> None:
        self.dim = check_dim(dim)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at ``x`` ``(B, d)``, shape ``(B,)``."""
        squares = x.square()
        return (squares - 0.5 * squares.square()).sum(1) - self.dim * _LOG_QUARTIC

    def score(self, x: Tensor) -> Tensor:
        """``2 (x - x^3)``, shape ``(B, d)``."""
        return 2 * (x - x.pow(3))

    def hessian(self, x: Tensor) -> Tensor:
        """Diagonal of the Hessian, ``2 - 6 x^2``, shape ``(B, d)``."""
        return 2 - 6 * x.square()

    def _draws(self, n: int, **where: Any) -> Tensor:
        """By rejection, from normal laws of variance 1/2 at both wells; 73% are kept."""
        kept: list[Tensor] = []
        missing = n * self.dim
        while missing > 0:
            uniform, side = torch.rand(2, 2 * missing, **where)
            y = torch.randn(2 * missing, **where) * 0.5**0.5 + torch.where(side < 0.5, -1.0, 1.0)
            bound = torch.logaddexp(-(y - 1).square(), -(y + 1).square()) + _QUARTIC_EXCESS
            found = y[uniform.log() < y.square() - 0.5 * y.pow(4) - bound][:missing]
            kept.append(found)
            missing -= len(found)
        return torch.cat(kept).view(n, self.dim) if kept else torch.randn(n, self.dim, **where)


@takes_arrays
class ProductMixture(Sampled):
    r"""Independent coordinates, each the mixture :math:`\sum_m w_m \mathcal N(\mu_m, \sigma_m^2)`.

    In one dimension it is ``GaussianMixture``; in ``d`` dimensions it is the one with all ``M^d``
    combinations of the means, at the price of ``M``. The Hessian is diagonal, so ``Langevin`` with
    this prior has the closed forms of ``local_transition`` and of the adaptive path shift for any
    ``d`` (Singhal, Goldstein and Ranganath 2024, image experiments with mixture priors; the product
    over coordinates and the parameters are our choice).

    Args:
        dim: number of coordinates ``d``.
        means: ``(M,)``.
        scale: standard deviation of every component, or one for each ``(M,)``.
        weights: ``(M,)``, positive; normalised to sum 1. Default: equal.

    Raises:
        ValueError: ``dim < 1``, wrong shapes, non-finite means, scales or weights that are not
            positive.
    """

    @lasting
    def __init__(
        self, dim: int, means: Tensor, scale: Parameter, weights: Tensor | None = None
    ) -> None:
        self.dim = check_dim(dim)
        means = as_tensor(means, "means", torch.float64)
        if means.ndim != 1 or means.numel() == 0 or not bool(torch.isfinite(means).all()):
            raise ValueError(
                f"means: expected a finite (M,) tensor, found shape {tuple(means.shape)}: one "
                "number per component; GaussianMixture takes means in d dimensions"
            )
        self.means = means
        self.scale, self.weights = mixture(len(means), scale, weights, "mean")
        self._precision = self.scale.square().reciprocal()
        self._log_heights = self.weights.log() - self.scale.log() - 0.5 * LOG_2PI

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at ``x`` ``(B, d)``, shape ``(B,)``."""
        return _blockwise(lambda flat: (self._terms(flat)[0].logsumexp(0),), x)[0].sum(1)

    def score(self, x: Tensor) -> Tensor:
        """``sum_m p(m | x_i) (mu_m - x_i) / sigma_m^2`` in each coordinate, shape ``(B, d)``."""
        return _blockwise(lambda flat: self._posterior(flat)[2:], x)[0]

    def hessian(self, x: Tensor) -> Tensor:
        """Diagonal of the Hessian, ``Var_p(s_m) - E_p[sigma_m^-2]`` for the components' scores
        ``s_m``, shape ``(B, d)``."""
        return _blockwise(self._score_and_hessian, x)[1]

    def score_and_hessian_product(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The score, and the Hessian times ``v`` ``(B, d)``, from one pass; ``(B, d)`` each."""
        score, hessian = _blockwise(self._score_and_hessian, x)
        return score, hessian * v

    def path_drift(self) -> PathDrift:
        """Half the score, for ``markovscore.kernels.paths``."""
        return PathDrift.mixture(self.means[:, None], self.scale, self.weights)

    # Of all coordinates of all points, one after the other, ``(n,)``; one row a component.

    def _terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``log w_m + log N(x_i; mu_m, sigma_m^2)`` and its slope in ``x_i``, ``(M, n)`` each."""
        heights, means, precision = (
            v.to(x)[:, None] for v in (self._log_heights, self.means, self._precision)
        )
        # Differences first: polynomials in x cancel where the means are many scales apart.
        offset = means - x
        pull = precision * offset
        return torch.addcmul(heights, pull, offset, value=-0.5), pull

    @full_precision
    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``p(m | x_i)`` and the components' scores ``(M, n)``, and the score ``(n,)``."""
        terms, pull = self._terms(x)
        p = terms.softmax(0)
        return p, pull, (p * pull).sum(0)

    @full_precision
    def _score_and_hessian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p, pull, score = self._posterior(x)
        # The components' scores less their mean: the difference of two means of squares cancels.
        spread = pull - score
        return score, (p * spread.square()).sum(0) - self._precision.to(x) @ p

    def _draws(self, n: int, **where: Any) -> Tensor:
        z = torch.randn(n, self.dim, **where)
        weights, source = self.weights.to(z.device), where["generator"]
        m = torch.multinomial(weights, z.numel(), replacement=True, generator=source).view_as(z)
        return self.means.to(z)[m] + self.scale.to(z)[m] * z


# Numbers in a block: the components' rows of a block stay in a CPU's cache, which made the score
# of 85 images of 3072 pixels twice as fast, and the Hessian 2.5 times.
_BLOCK = 2**15


def _blockwise(f: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor) -> tuple[Tensor, ...]:
    """An elementwise ``f`` of the numbers of ``x``, each result with its shape."""
    flat = x.reshape(-1)
    if len(flat) <= _BLOCK or x.device.type != "cpu":
        return tuple(value.view_as(x) for value in f(flat))
    parts = [f(block) for block in flat.split(_BLOCK)]
    return tuple(torch.cat(field).view_as(x) for field in zip(*parts, strict=True))
