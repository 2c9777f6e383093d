"""Scores in closed form from the eigenfunctions of the generator (paper A)."""

from .additive import AdditiveScore
from .additive_moments import AdditiveMoments, Covariance
from .additive_numerical import AdditiveSpectralScore
from .error_bars import Jackknife, jackknife
from .fit import fit_spectral
from .fit_additive import fit_additive
from .held_out import Path, Selection, choose
from .product import SpectralScore, solve
from .sample import Sample, read_sample
from .selection import greedy
from .shrinkage import heat_kernel, heat_risk, james_stein, shrink
