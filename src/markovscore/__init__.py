"""Scores of Markov diffusions: in closed form from the generator's spectrum, or by regression."""

import importlib
from typing import Any

from . import datasets, metrics
from .core import Diagonal
from .datasets import DiffusedMixture, Images, mixture_1d, toy
from .diffusions import (
    ActiveSwimmer,
    Affine,
    BoxBrownian,
    Diffusion,
    DoubleWell,
    Gaussian,
    GaussianMixture,
    Langevin,
    LinearSDE,
    Logistic,
    OrnsteinUhlenbeck,
    Product,
    ProductMixture,
    TorusBrownian,
    Trajectory,
    TrappedParticles,
    UniformBox,
    UniformTorus,
    VariancePreserving,
    simulate,
    whitened,
)
from .eigenbasis import Cosine, Fourier, Hermite, SpectralWarning
from .networks import ResidualScore, ScoreMLP, ScoreUNet
from .objectives import DenoisingSM, ImplicitSM, LocalDSM, PathBuffer, PathShiftDSM
from .reference import FokkerPlanck, fokker_planck
from .sampling import elbo, log_likelihood, sample_ode, sample_sde
from .spectral import (
    AdditiveMoments,
    AdditiveScore,
    AdditiveSpectralScore,
    Jackknife,
    SpectralScore,
    fit_additive,
    fit_spectral,
    jackknife,
)
from .targets import (
    SteinCheck,
    clock_window,
    fixed_window,
    linearised_weight,
    local_target,
    local_transition,
    path_shift_target,
    stein_check,
)
from .training import TrainResult, train

__version__ = "0.1.0"

__all__ = [
    "ActiveSwimmer",
    "AdditiveMoments",
    "AdditiveScore",
    "AdditiveSpectralScore",
    "Affine",
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
    "Jackknife",
    "Langevin",
    "LinearSDE",
    "LocalDSM",
    "Logistic",
    "OrnsteinUhlenbeck",
    "PathBuffer",
    "PathShiftDSM",
    "Product",
    "ProductMixture",
    "ResidualScore",
    "ScoreMLP",
    "ScoreUNet",
    "SpectralDensity",
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
    "fit_additive",
    "fit_spectral",
    "fixed_window",
    "fokker_planck",
    "jackknife",
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
    "whitened",
]

# With libraries of their own (matplotlib, IPython, scikit-learn): imported when first used. The
# first two are for the book alone.
_LAZY = ("claims", "figures")
_LAZY_NAMES = {"SpectralDensity": "estimator"}

for _name in __all__:  # one address for every public name, wherever it is defined
    if hasattr(_thing := globals().get(_name), "__module__"):
        _thing.__module__ = __name__
del _name, _thing


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _LAZY_NAMES:
        thing = getattr(importlib.import_module(f"{__name__}.{_LAZY_NAMES[name]}"), name)
        thing.__module__ = __name__
        return thing
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
