"""A density in closed form with scikit-learn's habits; needs scikit-learn, an optional library."""

from typing import Any

import numpy as np
import torch

from .core import DiffusionLike, as_diffusion, name_of
from .diffusions import OrnsteinUhlenbeck, whitened
from .sampling import log_likelihood, sample_ode
from .spectral import SpectralScore, fit_spectral

try:
    from sklearn.base import BaseEstimator, DensityMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "SpectralDensity: expected scikit-learn 1.6 or later, found none: pip install scikit-learn"
    ) from error

_DTYPES = [np.float64, np.float32]


class SpectralDensity(DensityMixin, BaseEstimator):
    r"""Density estimation by the score of a diffused data set, in closed form (paper A, OISM).

    .. math:: \log \hat\rho(x) = \log \pi(x_T) + \int_{t_0}^T \operatorname{div} v_t(x_t)\, dt,
              \qquad v_t = \nabla \log \pi - \hat s_t

    with the fitted score of :func:`~markovscore.fit_spectral`. Densities are in the units of ``X``.

    Args:
        space: where the data live: "auto", every column a real number; or a process:
            ``TorusBrownian`` for angles, ``BoxBrownian`` for what has ends, ``OrnsteinUhlenbeck``
            for real numbers, :class:`~markovscore.Product` of these.
        n_functions: number of eigenfunctions; None lets the held-out loss choose.
        shrinkage: as in :func:`~markovscore.fit_spectral`.
        whiten: the scale of real numbers is taken from the data, along their principal axes
            ("axes") or column by column ("columns"; :func:`~markovscore.whitened`); None leaves
            them as they are.
        wrap: bring points outside the torus or the box back into it instead of raising.
        random_state: an integer, a numpy ``RandomState`` or None: draws the folds of the choice,
            and samples.

    Attributes:
        space_: the process in the units of the data.
        score_: :class:`~markovscore.SpectralScore`, ``score_(x, t)``.
        n_features_in_: the number of columns; ``feature_names_in_``, their names if they have any.
    """

    def __init__(
        self,
        space: Any = "auto",
        *,
        n_functions: int | None = None,
        shrinkage: str | None = None,
        whiten: str | None = "axes",
        wrap: bool = False,
        random_state: Any = None,
    ) -> None:
        self.space = space
        self.n_functions = n_functions
        self.shrinkage = shrinkage
        self.whiten = whiten
        self.wrap = wrap
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, weights: Any = None) -> "SpectralDensity":
        """Fit to ``X`` ``(n_samples, n_features)``; ``y`` is not looked at.

        ``weights`` ``(n_samples,)`` are those of a survey or of importance. They do not count
        repetitions, as scikit-learn's ``sample_weight`` does: two points of weight one half say
        less than two points, and the shrinkage knows.

        Raises ``ValueError`` for fewer than two points, or such from which the scale or the sizes
        cannot be told.
        """
        x = torch.from_numpy(validate_data(self, X, dtype=_DTYPES, ensure_min_samples=2).copy())
        self.space_: DiffusionLike = self._space(x, weights)
        x = self._inside(x)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.score_: SpectralScore = fit_spectral(
            x,
            self.space_,
            self.n_functions,
            shrinkage=self.shrinkage,
            weights=weights,
            generator=torch.Generator().manual_seed(seed),
        )
        return self

    def _space(self, x: torch.Tensor, weights: Any) -> DiffusionLike:
        """The process in the units of the data."""
        space = OrnsteinUhlenbeck(x.shape[1]) if isinstance(self.space, str) else self.space
        if isinstance(self.space, str) and self.space != "auto":
            raise ValueError(f"space: expected 'auto' or a process, found {self.space!r}")
        process = as_diffusion(space)
        if process.dim != x.shape[1]:
            raise ValueError(
                f"space: expected one of {x.shape[1]} coordinates, one for each feature, found "
                f"{name_of(process)} of {process.dim}"
            )
        if self.whiten is None or process.chart is not None or process.eigenbasis is None:
            return space
        lines = process.eigenbasis(2).lines
        return whitened(space, x, self.whiten, weights) if lines else space

    def _inside(self, x: torch.Tensor) -> torch.Tensor:
        return as_diffusion(self.space_).project(x) if self.wrap else x

    def _points(self, X: Any) -> torch.Tensor:
        check_is_fitted(self)
        x = validate_data(self, X, dtype=_DTYPES, reset=False)
        return self._inside(torch.from_numpy(x.copy()))

    def score_samples(self, X: Any) -> np.ndarray:
        """Log densities ``(n_samples,)``, natural logarithms, in the units of ``X``."""
        values: np.ndarray = log_likelihood(self.score_, self.space_, self._points(X)).numpy()
        return values

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of :meth:`score_samples`, as ``GaussianMixture`` has it."""
        return float(self.score_samples(X).mean(dtype=np.float64))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draws ``(n_samples, n_features)`` by the probability flow."""
        check_is_fitted(self)
        state = self.random_state if random_state is None else random_state
        seed = int(check_random_state(state).randint(2**31 - 1))
        generator = torch.Generator().manual_seed(seed)
        x: np.ndarray = sample_ode(self.score_, self.space_, n_samples, generator=generator).numpy()
        return x
