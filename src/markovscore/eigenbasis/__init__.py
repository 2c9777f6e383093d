"""Eigenfunctions of generators, their index sets and averages."""

from .base import Eigenbasis, index_set, quadrature_weights
from .hermite import Hermite
from .moments import (
    JITTER,
    MIN_SCALE,
    POLYNOMIAL_JITTER,
    Moments,
    SpectralWarning,
    warn,
    warn_if_flat,
)
from .trigonometric import Cosine, Fourier, Trigonometric
