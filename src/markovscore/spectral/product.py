"""Operator-informed score matching: the score at all noise levels, in closed form.

Relative to the stationary law ``pi`` write ``s(x,t) = grad log pi(x) + grad h_t(x)`` with
``h_t = sum_k alpha_k(t) phi_k`` in eigenfunctions of the generator.  The generalised implicit
score-matching loss is a quadratic form whose matrix ``A_t`` and slope ``b_t`` need only averages
of eigenfunctions over the data, since ``P_t phi_k = e^{lambda_k t} phi_k``; its minimiser is
``alpha_t = A_t^{-1} b_t`` (paper A, Examples 5-7).  No training, no simulation, all ``t`` at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import (
    as_diffusion,
    as_tensor,
    check_points,
    check_time,
    check_times,
    drift_at,
    drift_divergence,
    full_precision,
    lasting,
)
from ..diffusions import Diffusion
from ..eigenbasis import Eigenbasis, Fourier, Moments, SpectralWarning, Trigonometric
from ..kernels import kernel_applies, torus_score
from .fitted import read_score, write_score
from .reach import NAMES, Reach
from .shrinkage import shrink

_MAX_ENERGY_RATIO = 4.0
_MIN_NOISE_SHARE = 0.1  # of an excess of energy that may be noise
_CHUNK = 4096  # points with a time of their own that are evaluated at once


def solve(moments: Moments, times) -> Tensor:
    """``alpha_t = A_t^{-1} b_t`` ``(T, K)``, float64, at increasing times ``(T,)``."""
    times = check_times(times).to(moments.mean.device)
    factor = moments.factor(times)
    _warn_if_noisy(factor[0], moments, times)
    return torch.cholesky_solve(moments.slope(times)[..., None], factor)[..., 0]


def _warn_if_noisy(factor: Tensor, moments: Moments, times: Tensor) -> None:
    """Compare the fitted energy ``E Gamma(h,h) = b^T A^{-1} b`` with that of heat-shrunk moments.

    Where the rough moments are noise the energy explodes (by 1e3 for 80 functions of 1,000 points
    at t = 0, with the true value in reach of 20 functions).  The condition number of ``A_t`` alone
    does not tell: it is as large where the data merely leave part of the space empty.  Nor does
    the ratio: heat also smooths a law that is truly narrow, so the excess must be within what the
    standard errors of ``b`` can give, ``E b^T A^{-1} b`` of independent errors; and an excess
    below ``0.1 |lambda_1|``, which bounds the divergence of the two laws by 0.05 where they
    satisfy the stationary law's logarithmic Sobolev inequality, is of no consequence.
    """
    if moments.heat > 0 or not bool(moments.variance.any()):
        return
    smooth = shrink(moments, "heat")
    found = _energy(factor, moments.slope(times[:1])[0])
    expected = _energy(smooth.factor(times[:1])[0], smooth.slope(times[:1])[0])
    slowest = float(moments.rates[moments.rates < 0].max())
    if found <= _MAX_ENERGY_RATIO * expected or found - expected < 0.1 * abs(slowest):
        return
    errors = moments.slope_errors(times[:1])[0]
    scattered = torch.linalg.solve_triangular(factor, errors.diag(), upper=False)
    if float(scattered.square().sum()) < _MIN_NOISE_SHARE * (found - expected):
        return
    spectrum = torch.linalg.svdvals(factor)
    warnings.warn(
        f"{len(factor)} functions are more than the moments of {moments.n_points} points support "
        f"at t = {float(times[0]):g}: the fitted energy is {found:.3g}, that of heat-shrunk "
        f"moments {expected:.3g}, and A_t has condition number "
        f"{float(spectrum[0] / spectrum[-1]) ** 2:.1e}; use shrinkage='heat', fewer functions, or "
        "a larger first time",
        SpectralWarning,
        stacklevel=5,  # the caller of fit_spectral, past its decorator
    )


def _energy(factor: Tensor, slope: Tensor) -> float:
    """``b^T A^{-1} b``."""
    return float(torch.linalg.solve_triangular(factor, slope[:, None], upper=False).square().sum())


@dataclass(frozen=True)
class SpectralScore:
    """The score ``s(x,t) = grad log pi(x) + sum_k alpha_k(t) grad phi_k(x)`` and its divergence.

    ``diffusion``, ``basis``; ``times`` ``(T,)`` float64; ``coefficients`` ``(T, K)`` float64;
    ``finest_time``, when the noise is as wide as the data's smallest scale, by which samplers grade
    their steps, None where it is not known (files of earlier versions); ``reach``, beyond which a
    polynomial of degree three or more is continued by a Gaussian's score, else None (four
    deviations of the noise from the data; files of earlier versions have none, and no
    continuation).
    Between fitted times the coefficients are interpolated linearly (paper A, Figure 5).
    Evaluation follows the dtype of ``x``.
    """

    diffusion: Diffusion
    basis: Eigenbasis
    times: Tensor
    coefficients: Tensor
    finest_time: float | None = None
    reach: Reach | None = None

    @full_precision
    def __call__(self, x: Tensor, t) -> Tensor:
        """``s(x, t)`` ``(B, d)`` at ``x`` ``(B, d)`` and a time, or ``(B,)`` or ``(B, 1)`` of them.

        Raises ``ValueError`` for a time outside the fitted range or points of another shape.
        """
        x = as_tensor(x)
        if (found := self._by_kernel(x, t)) is not None:
            return found[0]
        x, t = self._checked(x, t)
        beyond = None if self.reach is None else self.reach.beyond(x, t)
        if beyond is None:
            return self._value(x, t)
        return beyond.continued(self._value(beyond.nearest, t))

    def _value(self, x: Tensor, t: Any) -> Tensor:
        gradient = self._evaluate(self.basis.gradient_tensors, x, t).T.contiguous()
        # G = sqrt2 I and reversibility make the drift the stationary score: f = grad log pi
        uniform = isinstance(self.basis, Trigonometric)
        return gradient if uniform else drift_at(as_diffusion(self.diffusion), x, 0.0) + gradient

    def divergence(self, x: Tensor, t) -> Tensor:
        """``div s(x, t)`` ``(B,)``."""
        return self.score_and_divergence(x, t)[1]

    @full_precision
    def score_and_divergence(self, x: Tensor, t) -> tuple[Tensor, Tensor]:
        """``s(x, t)`` ``(B, d)`` and ``div s(x, t)`` ``(B,)``, sharing the features.

        Raises ``ValueError`` as a call does.
        """
        x = as_tensor(x)
        if (found := self._by_kernel(x, t)) is not None:
            return found
        x, t = self._checked(x, t)
        beyond = None if self.reach is None else self.reach.beyond(x, t)
        if beyond is None:
            return self._jet(x, t)
        value, divergence = self._jet(beyond.nearest, t)
        outside = beyond.divergence(self._value, t)
        return beyond.continued(value), divergence.masked_scatter(beyond.rows, outside)

    def _jet(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        jets = self._evaluate(self.basis.jet_tensors, x, t)
        gradient, laplacian = jets[:-1].T.contiguous(), jets[-1]
        if isinstance(self.basis, Trigonometric):  # whose stationary law is uniform
            return gradient, laplacian
        process = as_diffusion(self.diffusion)
        drift, divergence = (f(process, x, 0.0) for f in (drift_at, drift_divergence))
        return drift + gradient, divergence + laplacian

    def _by_kernel(self, x: Tensor, t) -> tuple[Tensor, Tensor] | None:
        """Score and divergence where the torus has a kernel for ``x``: on a GPU, or forced."""
        waves, on_torus = self.basis.indices, isinstance(self.basis, Fourier)
        if not (on_torus and isinstance(x, Tensor) and kernel_applies(x, waves, self.coefficients)):
            return None
        x = check_points(x, self.basis.dim, finite=False)  # the kernel meets NaN and inf itself
        t = self._check_time(t, x)
        if _is_shared(t) or len(self.times) == 1:
            return torus_score(x, waves, self._interpolated(t.reshape(-1)[0]))
        return torus_score(x, waves, self.coefficients, *self._place(t.to(self.times.device)))

    def _checked(self, x: Tensor, t) -> tuple[Tensor, Tensor]:
        x = check_points(x, self.basis.dim)
        return x, self._check_time(t, x)

    def _evaluate(self, tensors: Callable[[Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
        """``(Q, B)``: one contraction for a shared time, else one for each point, in chunks."""
        if _is_shared(t):
            return self.basis.contract(tensors(self._interpolated(t.reshape(-1)[0])).to(x), x)
        parts = [
            self.basis.contract_each(tensors(self._interpolated(times)).to(x), points)
            for points, times in zip(x.split(_CHUNK), t.split(_CHUNK), strict=True)
        ]
        return torch.cat(parts, 1)

    def at(self, t) -> Tensor:
        """Coefficients ``alpha(t)``, ``(K,)`` for a number and ``(B, K)`` for ``(B,)`` times."""
        t = check_time(t, None).to(self.times.device)
        self._check_range(t)
        return self._interpolated(t)

    def _interpolated(self, t: Tensor) -> Tensor:
        """:meth:`at` checked times."""
        t = t.to(self.times.device)
        if len(self.times) == 1:
            return self.coefficients[0].expand(*t.shape, -1)
        upper, share = (part.to(self.coefficients.device) for part in self._place(t))
        return torch.lerp(self.coefficients[upper - 1], self.coefficients[upper], share[..., None])

    def _place(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The first fitted time at or after ``t``, and the share of the way to it."""
        upper = torch.searchsorted(self.times, t.contiguous()).clamp(1, len(self.times) - 1)
        left, right = self.times[upper - 1], self.times[upper]
        return upper, ((t - left) / (right - left)).clamp(0, 1)

    def _check_time(self, t, x: Tensor) -> Tensor:
        """``t`` in float64: a number, or one for each point."""
        t = check_time(t, len(x))
        self._check_range(t)
        return t

    def _check_range(self, t: Tensor) -> None:
        first, last = float(self.times[0]), float(self.times[-1])
        slack = 1e-6 * last  # a time that went through float32 may miss the end by its rounding
        low, high = (float(v) for v in t.aminmax())  # NaN fails both comparisons
        if not (low >= first - slack and high <= last + slack):
            raise ValueError(
                f"t: expected times in the fitted range [{first:g}, {last:g}]; found "
                f"{float(t.min()):g} to "
                f"{float(t.max()):g}; fit with times that cover it"
            )

    def save(self, path) -> None:
        """Write a safetensors file, whole or not at all."""
        tensors = {
            "times": self.times,
            "coefficients": self.coefficients,
            "indices": self.basis.indices,
        }
        if self.finest_time is not None:
            tensors["finest_time"] = torch.tensor(self.finest_time, dtype=torch.float64)
        if self.reach is not None:
            tensors |= {name: getattr(self.reach, name) for name in NAMES}
            tensors["heat"] = torch.tensor(self.reach.heat, dtype=torch.float64)
        write_score(path, "SpectralScore", self.diffusion, tensors)

    @classmethod
    @lasting
    def load(cls, path, diffusion=None) -> SpectralScore:
        """Read what :meth:`save` wrote; a diffusion of a class of one's own is passed again.

        Raises ``FileNotFoundError``; ``ValueError`` for a corrupt file or one of another kind, for
        another diffusion, or none where one is needed.
        """
        diffusion, tensors = read_score(path, "SpectralScore", diffusion)
        basis = diffusion.eigenbasis(tensors["coefficients"].shape[1])
        basis = basis.with_indices(tensors["indices"])
        finest = float(tensors["finest_time"]) if "finest_time" in tensors else None
        reach = None
        if "axes" in tensors:
            reach = Reach(**{name: tensors[name] for name in NAMES}, heat=float(tensors["heat"]))
        return cls(diffusion, basis, tensors["times"], tensors["coefficients"], finest, reach)


def _is_shared(t: Tensor) -> bool:
    """One time for all points: a number, or a constant vector as samplers pass it."""
    return t.ndim == 0 or bool((t == t[0]).all())
