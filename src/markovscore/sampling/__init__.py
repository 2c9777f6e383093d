"""Samples, densities and bounds from a score."""

from .elbo import elbo
from .flow import log_likelihood, sample_ode, sample_sde
