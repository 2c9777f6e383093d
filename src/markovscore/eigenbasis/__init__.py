"""Eigenfunctions of the generators: Hermite (Ornstein-Uhlenbeck), Fourier (torus), cosine (box)."""

from .base import Eigenbasis, index_set
from .hermite import Hermite
from .trigonometric import Cosine, Fourier, Trigonometric

__all__ = ["Cosine", "Eigenbasis", "Fourier", "Hermite", "Trigonometric", "index_set"]
