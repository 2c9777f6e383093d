"""Fokker-Planck solvers: densities to compare with."""

from .finite_volume import bernoulli, between_centres, diffusive_sweep, transport_sweep
from .solution import FokkerPlanck, fokker_planck

__all__ = [
    "FokkerPlanck",
    "bernoulli",
    "between_centres",
    "diffusive_sweep",
    "fokker_planck",
    "transport_sweep",
]
