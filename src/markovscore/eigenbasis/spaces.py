"""The bases of one kind of coordinate, by the names of their functions."""

import math

from ..core import check_integer
from .axes import Circle, Interval, Line
from .base import Eigenbasis


class Hermite(Eigenbasis):
    """Ornstein-Uhlenbeck: ``phi_k = prod_i He_{k_i}(x_i)/sqrt(k_i!)``, ``lambda_k = -|k|_1``.

    Paper A, Example 4.
    """

    def __init__(self, dim: int, n_functions: int):
        super().__init__((Line(),) * check_integer(dim, "dim"), n_functions)


class Fourier(Eigenbasis):
    """Torus: ``sqrt2 cos(w k.x)``, ``sqrt2 sin(w k.x)``, ``lambda_k = -w^2 |k|^2``,
    ``w = 2 pi / period``.

    ``k`` runs over the ``K/2`` shortest vectors of a half-space of ``Z^d`` (first non-zero entry
    positive); all cosines come first, then all sines: the real and imaginary parts of the waves
    ``e^{i w k.x}`` (paper A, Example 7).

    Raises ``ValueError`` for an odd function count.
    """

    def __init__(self, dim: int, n_functions: int, period: float = 2 * math.pi):
        self.period = period
        super().__init__((Circle(period),) * check_integer(dim, "dim"), n_functions)


class Cosine(Eigenbasis):
    """Box ``[low, high]^d``: ``prod_i n_{k_i} cos(k_i pi (x_i - low)/(high - low))``.

    Brownian motion with reflecting walls; ``n_0 = 1``, ``n_k = sqrt2``, and the eigenvalues are
    ``lambda_k = -(pi/(high - low))^2 |k|^2`` (paper A, Example 7).
    """

    def __init__(self, dim: int, n_functions: int, low: float = 0.0, high: float = 1.0):
        interval = Interval(low, high)
        self.low, self.high = interval.low, interval.high
        super().__init__((interval,) * check_integer(dim, "dim"), n_functions)
