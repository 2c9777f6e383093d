"""Forward processes, their clocks and priors, and their simulation."""

from . import axis_laws
from .affine import Affine, Chart, whitened
from .base import Diffusion
from .clock import (
    LONGEST_STEP,
    LinearClock,
    QuadratureClock,
    graded_times,
    log_clock,
    make_clock,
    refined_times,
)
from .kernel_paths import shifted
from .linear import LinearSDE, TrappedParticles
from .nonlinear import ActiveSwimmer, DoubleWell, Langevin
from .priors import Gaussian, GaussianMixture, UniformBox, UniformTorus, inner_bounds
from .product import Product
from .product_priors import Logistic, ProductMixture, Quartic
from .separable import BoxBrownian, OrnsteinUhlenbeck, TorusBrownian, VariancePreserving
from .simulation import Trajectory, draw_state, propagate, simulate
