"""Scores in closed form from the eigenfunctions of the generator (paper A)."""

from .additive import AdditiveScore
from .additive_moments import AdditiveMoments, Covariance
from .fit import fit_additive, fit_spectral
from .product import SpectralScore, solve
from .selection import greedy
from .shrinkage import heat_kernel, heat_risk, james_stein, shrink
