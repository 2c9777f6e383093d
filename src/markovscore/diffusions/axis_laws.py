r"""Gaussian laws on the line, the circle and the interval: elementwise log densities and scores.

A Brownian motion on a torus or a box started from a point (or from a Gaussian) has the product of
these laws, one factor a coordinate, so transitions and diffused mixtures share this one file.
All functions are elementwise, differentiable, and broadcast ``x``, ``mean`` and ``var``.

The wrapped normal has two expansions, linked by Poisson summation (Jacobi's theta function):

.. math::
    w(z; v) = \sum_k \mathcal N(z + 2\pi k; 0, v)
            = \frac{1}{2\pi} \Big(1 + 2 \sum_{n \ge 1} e^{-n^2 v / 2} \cos n z\Big).

For a variance below :data:`SWITCH` the image sum is used, above it the series; at the switch both
are converged to rounding and neither cancels, so that no digit is lost at any variance.
"""

import math

import torch
from torch import Tensor

Number = float | Tensor

SWITCH = math.pi
# First terms left out at the switch, relative: image 3 weighs e^{-12 pi} = 4e-17 at most, and
# harmonic 5 is 2 e^{-12.5 pi} = 2e-17.
_IMAGES = 2
_HARMONICS = 4


def image_sum(z: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Log density and score at ``z`` in [-pi, pi) by the image sum, for ``var <= SWITCH``.

    The nearest image is factored out, so nothing underflows however small the variance is:
    ``(z + 2 pi k)^2 - z^2 = 4 pi k (pi k + z) >= 0``.
    """
    extra = torch.zeros_like(z * var)  # weight of the other images relative to the nearest
    pull = z
    for k in range(1, _IMAGES + 1):
        right = torch.exp(-2 * math.pi * k * (math.pi * k + z) / var)
        left = torch.exp(-2 * math.pi * k * (math.pi * k - z) / var)
        extra = extra + right + left
        pull = pull + (z + 2 * math.pi * k) * right + (z - 2 * math.pi * k) * left
    log_prob = torch.log1p(extra) - 0.5 * (z.square() / var + torch.log(2 * math.pi * var))
    return log_prob, -pull / (var * (1 + extra))


def theta_series(z: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Log density and score at ``z`` by the Fourier series, for ``var >= SWITCH``."""
    cos, sin = torch.cos(z), torch.sin(z)
    cos_n, sin_n = cos, sin
    total = slope = torch.zeros_like(z * var)
    for n in range(1, _HARMONICS + 1):
        weight = 2 * torch.exp(-0.5 * n**2 * var)
        total = total + weight * cos_n
        slope = slope + n * weight * sin_n
        cos_n, sin_n = cos_n * cos - sin_n * sin, sin_n * cos + cos_n * sin
    return torch.log1p(total) - math.log(2 * math.pi), -slope / (1 + total)


def _wrapped(x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Log density and score of the wrapped normal; each branch sees only variances it can take."""
    delta = x - mean
    z = delta - 2 * math.pi * torch.round(delta / (2 * math.pi))
    small = image_sum(z, var.clamp(max=SWITCH))
    large = theta_series(z, var.clamp(min=SWITCH))
    near = var < SWITCH
    return torch.where(near, small[0], large[0]), torch.where(near, small[1], large[1])


def _as_like(x: Tensor, *values: Number) -> list[Tensor]:
    """Numbers become 0-dim tensors of ``x``'s dtype and device."""
    return [torch.as_tensor(value, dtype=x.dtype, device=x.device) for value in values]


def normal_log_prob(x: Tensor, mean: Number, var: Number) -> Tensor:
    """Log density of N(mean, var) on the line, elementwise; ``var > 0``."""
    mean, var = _as_like(x, mean, var)
    return -0.5 * ((x - mean).square() / var + torch.log(2 * math.pi * var))


def normal_score(x: Tensor, mean: Number, var: Number) -> Tensor:
    """``d/dx log N(x; mean, var)``, elementwise; ``var > 0``."""
    mean, var = _as_like(x, mean, var)
    return (mean - x) / var


def wrapped_normal_log_prob(x: Tensor, mean: Number, var: Number) -> Tensor:
    """Log density on [-pi, pi) of N(mean, var) wrapped round the circle, elementwise.

    Relative accuracy a few roundings for every ``var > 0``; ``x`` may be any real number.
    """
    return _wrapped(x, *_as_like(x, mean, var))[0]


def wrapped_normal_score(x: Tensor, mean: Number, var: Number) -> Tensor:
    """``d/dx`` of :func:`wrapped_normal_log_prob`, in closed form."""
    return _wrapped(x, *_as_like(x, mean, var))[1]


def _reflected(
    x: Tensor, mean: Number, var: Number, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Log density and score of the reflected normal: two wrapped normals on a circle of 2 lengths.

    The map ``theta = pi (x - low) / (high - low)`` takes the interval to half a circle; the images
    in the mirrors are the wrapped images of ``theta_mean`` and of ``-theta_mean``.
    """
    mean, var = _as_like(x, mean, var)
    unit = math.pi / (high - low)
    theta, theta_mean, theta_var = unit * (x - low), unit * (mean - low), unit**2 * var
    log_direct, score_direct = _wrapped(theta, theta_mean, theta_var)
    log_mirror, score_mirror = _wrapped(theta, -theta_mean, theta_var)
    log_prob = torch.logaddexp(log_direct, log_mirror)
    direct, mirror = torch.exp(log_direct - log_prob), torch.exp(log_mirror - log_prob)
    score = direct * score_direct + mirror * score_mirror
    return log_prob + math.log(unit), unit * score


def reflected_normal_log_prob(
    x: Tensor, mean: Number, var: Number, low: float, high: float
) -> Tensor:
    """Log density on ``[low, high]`` of N(mean, var) folded at both ends, elementwise, ``var > 0``.

    Outside the interval the even, periodic continuation is returned, which is smooth.
    """
    return _reflected(x, mean, var, low, high)[0]


def reflected_normal_score(x: Tensor, mean: Number, var: Number, low: float, high: float) -> Tensor:
    """``d/dx`` of :func:`reflected_normal_log_prob`, in closed form; zero at both walls."""
    return _reflected(x, mean, var, low, high)[1]
