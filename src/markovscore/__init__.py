"""Scores of Markov diffusions: in closed form from the spectrum of the generator, or by
regression."""

from . import claims, datasets, figures, metrics
from .datasets import DiffusedMixture, mixture_1d, toy
from .diffusions import BoxBrownian, Diffusion, LinearSDE, OrnsteinUhlenbeck, TorusBrownian
from .eigenbasis import Cosine, Fourier, Hermite
from .networks import ScoreMLP
from .objectives import DenoisingSM
from .priors import Gaussian, GaussianMixture, Logistic, UniformBox, UniformTorus
from .reference import FokkerPlanck, fokker_planck
from .sampling import log_likelihood, sample_ode, sample_sde
from .spectral import SpectralScore, SpectralWarning, fit_spectral
from .training import TrainResult, train

__version__ = "0.1.0"

__all__ = [
    "BoxBrownian",
    "Cosine",
    "DenoisingSM",
    "DiffusedMixture",
    "Diffusion",
    "FokkerPlanck",
    "Fourier",
    "Gaussian",
    "GaussianMixture",
    "Hermite",
    "LinearSDE",
    "Logistic",
    "OrnsteinUhlenbeck",
    "ScoreMLP",
    "SpectralScore",
    "SpectralWarning",
    "TorusBrownian",
    "TrainResult",
    "UniformBox",
    "UniformTorus",
    "claims",
    "datasets",
    "figures",
    "fit_spectral",
    "fokker_planck",
    "log_likelihood",
    "metrics",
    "mixture_1d",
    "sample_ode",
    "sample_sde",
    "toy",
    "train",
]
