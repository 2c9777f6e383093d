"""Scores of Markov diffusions: in closed form from the generator's spectrum, or by regression."""

from . import claims, datasets, figures, metrics
from .additive import AdditiveScore
from .additive_moments import AdditiveMoments
from .datasets import DiffusedMixture, mixture_1d, toy
from .diffusions import BoxBrownian, Diffusion, LinearSDE, OrnsteinUhlenbeck, TorusBrownian
from .eigenbasis import Cosine, Fourier, Hermite
from .evidence import elbo
from .images import Images
from .linear_maps import Diagonal
from .networks import ScoreMLP
from .objectives import DenoisingSM
from .path_buffer import PathBuffer
from .path_objectives import ImplicitSM, LocalDSM, PathShiftDSM
from .path_shift import linearised_weight, path_shift_target
from .priors import Gaussian, GaussianMixture, Logistic, ProductMixture, UniformBox, UniformTorus
from .processes import ActiveSwimmer, DoubleWell, Langevin, TrappedParticles
from .reference import FokkerPlanck, fokker_planck
from .residual import ResidualScore
from .sampling import log_likelihood, sample_ode, sample_sde
from .simulation import Trajectory, simulate
from .spectral import SpectralScore, SpectralWarning, fit_spectral
from .stein import SteinCheck, stein_check
from .training import TrainResult, train
from .transitions import clock_window, fixed_window, local_target, local_transition
from .unet import ScoreUNet
from .variance_preserving import VariancePreserving

__version__ = "0.1.0"

__all__ = [
    "ActiveSwimmer",
    "AdditiveMoments",
    "AdditiveScore",
    "BoxBrownian",
    "Cosine",
    "DenoisingSM",
    "Diagonal",
    "DiffusedMixture",
    "Diffusion",
    "DoubleWell",
    "FokkerPlanck",
    "Fourier",
    "Gaussian",
    "GaussianMixture",
    "Hermite",
    "Images",
    "ImplicitSM",
    "Langevin",
    "LinearSDE",
    "LocalDSM",
    "Logistic",
    "OrnsteinUhlenbeck",
    "PathBuffer",
    "PathShiftDSM",
    "ProductMixture",
    "ResidualScore",
    "ScoreMLP",
    "ScoreUNet",
    "SpectralScore",
    "SpectralWarning",
    "SteinCheck",
    "TorusBrownian",
    "TrainResult",
    "Trajectory",
    "TrappedParticles",
    "UniformBox",
    "UniformTorus",
    "VariancePreserving",
    "claims",
    "clock_window",
    "datasets",
    "elbo",
    "figures",
    "fit_spectral",
    "fixed_window",
    "fokker_planck",
    "linearised_weight",
    "local_target",
    "local_transition",
    "log_likelihood",
    "metrics",
    "mixture_1d",
    "path_shift_target",
    "sample_ode",
    "sample_sde",
    "simulate",
    "stein_check",
    "toy",
    "train",
]
