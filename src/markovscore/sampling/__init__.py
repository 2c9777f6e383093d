"""Samples, densities and bounds from a score."""

from .elbo import elbo
from .flow import sample_ode, sample_sde
from .likelihood import log_likelihood
