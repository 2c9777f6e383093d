"""Eigenfunctions of generators, their index sets and averages."""

from .averages import mean_features, quadrature_weights
from .axes import Axis, Circle, Interval, Line
from .base import Eigenbasis
from .components import Components, fit_components
from .galerkin import Galerkin
from .indices import index_set
from .moments import (
    JITTER,
    MIN_SCALE,
    POLYNOMIAL_JITTER,
    Moments,
    SpectralWarning,
    warn,
    warn_if_flat,
)
from .numerical import Elements, Numerical, solve_elements
from .planar import Planar
from .plane import Plane, levels, make_mesh, solve_mesh
from .plane_moments import deposit, evolved
from .products import products
from .ritz import Ritz
from .ritz_moments import PARTICLES, Paths, drawn_evenly, level_time
from .spaces import Cosine, Fourier, Hermite
from .walls import around, between, moved_walls, walls_of
