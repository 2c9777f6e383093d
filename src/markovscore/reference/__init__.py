"""Fokker-Planck solvers: densities to compare with."""

from .finite_volume import bernoulli, between_centres, diffusive_sweep, transport_sweep
from .solution import FokkerPlanck, fokker_planck
