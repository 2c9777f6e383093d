"""Operator-informed score matching: the score at all noise levels, in closed form.

Relative to the stationary law ``pi`` write ``s(x,t) = grad log pi(x) + grad h_t(x)`` with
``h_t = sum_k alpha_k(t) phi_k`` in eigenfunctions of the generator.  The generalised implicit
score-matching loss is a quadratic form whose matrix ``A_t`` and slope ``b_t`` need only averages
of eigenfunctions over the data, since ``P_t phi_k = e^{lambda_k t} phi_k``; its minimiser is
``alpha_t = A_t^{-1} b_t`` (paper A, Examples 5-7).  No training, no simulation, all ``t`` at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core import (
    Process,
    as_diffusion,
    as_tensor,
    bar,
    check_points,
    check_time,
    check_times,
    drift_at,
    drift_divergence,
)
from ..diffusions import Diffusion
from ..eigenbasis import Circle, Eigenbasis, Moments, between, moved_walls, warn
from ..kernels import kernel_applies, torus_score
from .clock import GeneratorClock
from .fitted import FittedScore, one_time
from .held_out import Selection
from .reach import NAMES, Reach
from .shrinkage import shrink

_MAX_ENERGY_RATIO = 4.0
_MIN_NOISE_SHARE = 0.1  # of an excess of energy that may be noise
_FACTOR_ENTRIES = 2**20  # of the factors that are held at once: 8 MiB stay in cache
_DEVICE_FACTORS = 2**25  # on other devices: 256 MiB, so that launches are few
_CHUNK = 4096  # points with a time of their own that are evaluated at once


def solve(moments: Moments, times: Any, progress: bool | None = None) -> Tensor:
    """``alpha_t = A_t^{-1} b_t`` ``(T, K)``, float64, at increasing times ``(T,)``."""
    times = check_times(times).to(moments.mean.device)
    slope = moments.slope(times)
    out = torch.empty_like(slope)  # before the factors, whose memory is then free to be reused
    held = _FACTOR_ENTRIES if slope.device.type == "cpu" else _DEVICE_FACTORS
    block = max(1, held // slope.shape[1] ** 2)
    pieces = list(zip(times.split(block), slope.split(block), out.split(block), strict=True))
    for number, (levels, right, piece) in enumerate(bar(pieces, "noise levels", progress)):
        factor = moments.factor(levels)
        if number == 0:
            _warn_if_noisy(factor[0], moments, times)
        half = torch.linalg.solve_triangular(factor, right[..., None], upper=False)
        piece.copy_(torch.linalg.solve_triangular(factor.mT, half, upper=True)[..., 0])
    return out


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
    warn(
        f"{len(factor)} functions are more than the moments of {moments.n_points} points support "
        f"at t = {float(times[0]):g}: the fitted energy is {found:.3g}, that of heat-shrunk "
        f"moments {expected:.3g}, and A_t has condition number "
        f"{float(spectrum[0] / spectrum[-1]) ** 2:.1e}; use shrinkage='heat', fewer functions, or "
        "a larger first time"
    )


def stationary(
    process: Process, clock: GeneratorClock, x: Tensor, divergence: bool
) -> tuple[Tensor, Tensor | None]:
    """``grad log pi`` ``(B, d)`` and its divergence ``(B,)`` or None: reversibility makes the drift
    ``f = 1/2 G^2 grad log pi``."""
    last, half = process.horizon, clock.half_noise
    score = drift_at(process, x, last) / half
    return score, drift_divergence(process, x, last) / half if divergence else None


def _energy(factor: Tensor, slope: Tensor) -> float:
    """``b^T A^{-1} b``."""
    return float(torch.linalg.solve_triangular(factor, slope[:, None], upper=False).square().sum())


@dataclass(frozen=True)
class SpectralScore(FittedScore):
    """The score ``s(x,t) = grad log pi(x) + sum_k alpha_k(t) grad phi_k(x)`` and its divergence.

    ``diffusion``, ``basis``; ``times`` ``(T,)`` float64; ``coefficients`` ``(T, K)`` float64;
    ``finest_time``, when the noise is as wide as the data's smallest scale, by which samplers grade
    their steps, None where it is not known (files of earlier versions); ``reach``, beyond which a
    polynomial of degree three or more is continued by a Gaussian's score, else None (four
    deviations of the noise from the data; files of earlier versions have none, and no
    continuation); ``selection``, how the sizes were chosen where they were; ``columns``, what the
    coordinates are called, or None; ``dropped``, the number of rows left out for a NaN; ``dtype``
    and ``device``, of the data, and of samples.
    Between fitted times the coefficients are interpolated linearly (paper A, Figure 5).
    Evaluation follows the dtype of ``x``.
    """

    kind: ClassVar[str] = "SpectralScore"
    diffusion: Diffusion
    basis: Eigenbasis
    times: Tensor = field()  # required, as it is not by the base class
    coefficients: Tensor
    finest_time: float | None = None
    reach: Reach | None = None
    selection: Selection | None = field(default=None, repr=False)
    columns: tuple[str, ...] | None = None
    dropped: int = 0
    dtype: torch.dtype = field(default=torch.float64, repr=False)
    device: torch.device = field(default=torch.device("cpu"), repr=False)

    def check(self, x: Any) -> Tensor:
        """The points ``x`` as a tensor ``(B, d)``; a kernel meets NaN and inf itself."""
        x = as_tensor(x)
        return check_points(x, self.basis.dim, finite=not self._has_kernel(x))

    def _has_kernel(self, x: Tensor) -> bool:
        """Whether the torus has a kernel for ``x``: on a GPU, or forced."""
        on_torus = all(axis == Circle() for axis in self.basis.axes)
        return on_torus and kernel_applies(x, self.basis.indices, self.coefficients)

    def evaluate(self, x: Tensor, t: Tensor, divergence: bool) -> tuple[Tensor, Tensor | None]:
        """Score ``(B, d)`` and divergence ``(B,)`` or None, for checked points and times."""
        if self._has_kernel(x):
            return self._by_kernel(x, one_time(t))
        beyond = None if self.reach is None else self.reach.beyond(x, t)
        if beyond is None:
            return self._series(x, t, divergence)
        value, total = self._series(beyond.nearest, t, divergence)
        if total is not None:
            outside = beyond.divergence(self._value, t)
            total = total.masked_scatter(beyond.rows, outside)
        return beyond.continued(value), total

    def _value(self, x: Tensor, t: Any) -> Tensor:
        return self._series(x, t, False)[0]

    def _by_kernel(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        waves = self.basis.indices
        if t.ndim == 0 or len(self.times) == 1:
            return torus_score(x, waves, self.interpolated(t.reshape(-1)[0]))
        return torus_score(x, waves, self.coefficients, *self.levels.place(t))

    def _series(self, x: Tensor, t: Tensor, divergence: bool) -> tuple[Tensor, Tensor | None]:
        """The stationary law's score and the sum of gradients, wherever the data are."""
        parts = self._contract(x, t, divergence)
        gradient = parts[: x.shape[1]].T.contiguous()
        laplacian = parts[-1] if divergence else None
        if self.basis.uniform:
            return gradient, laplacian
        score, total = stationary(self.canonical, self.clock, x, divergence)
        if total is None or laplacian is None:
            return score + gradient, None
        return score + gradient, total + laplacian

    def _contract(self, x: Tensor, t: Tensor, divergence: bool) -> Tensor:
        """Gradient ``(d, B)``, or with the Laplacian ``(d+1, B)``: one contraction for a shared
        time, else one for each point, in chunks."""
        t = one_time(t)
        if t.ndim == 0:
            return self.basis.derivatives(self.interpolated(t), x, divergence)
        parts = [
            self.basis.derivatives(self.interpolated(times), points, divergence)
            for points, times in zip(x.split(_CHUNK), t.split(_CHUNK), strict=True)
        ]
        return torch.cat(parts, 1)

    def at(self, t: float | Tensor) -> Tensor:
        """Coefficients ``alpha(t)``, ``(K,)`` for a number and ``(B, K)`` for ``(B,)`` times."""
        t = check_time(t, None).to(self.times.device)
        self.levels.check(t)
        return self.interpolated(t)

    def interpolated(self, t: Tensor) -> Tensor:
        """:meth:`at` checked times."""
        return self.levels.interpolate(self.coefficients, t)

    @cached_property
    def clock(self) -> GeneratorClock:
        """In which the eigenfunctions decay."""
        return GeneratorClock(self.canonical)

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds."""
        found = {
            "times": self.times,
            "coefficients": self.coefficients,
            "indices": self.basis.indices,
        }
        walls = moved_walls(self.basis.axes)
        if walls is not None:
            found["walls"] = walls
        if self.finest_time is not None:
            found["finest_time"] = torch.tensor(self.finest_time, dtype=torch.float64)
        if self.reach is not None:
            found |= {name: getattr(self.reach, name) for name in NAMES}
            found["heat"] = torch.tensor(self.reach.heat, dtype=torch.float64)
        return found

    def record(self) -> dict[str, Tensor]:
        """What a file holds besides, on which the values do not depend."""
        found = {} if self.selection is None else self.selection.tensors()
        found |= {"dropped": torch.tensor(self.dropped)}
        return found if self.basis.uniform else found | {"eigenvalues": self.basis.eigenvalues}

    @classmethod
    def from_tensors(
        cls, diffusion: Any, tensors: dict[str, Tensor], **placement: Any
    ) -> SpectralScore:
        """The inverse of :meth:`tensors`."""
        chart = as_diffusion(diffusion).chart
        canonical = diffusion if chart is None else chart.inner
        count = tensors["coefficients"].shape[1]
        basis = canonical.eigenbasis(count)
        if "walls" in tensors:
            basis = Eigenbasis(between(basis.axes, tensors["walls"]), count)
        basis = basis.with_indices(tensors["indices"])
        _check_same(basis, tensors.get("eigenvalues", basis.eigenvalues))
        finest = float(tensors["finest_time"]) if "finest_time" in tensors else None
        reach = None
        if "axes" in tensors:
            reach = Reach(**{name: tensors[name] for name in NAMES}, heat=float(tensors["heat"]))
        fitted = tensors["times"], tensors["coefficients"]
        score = cls(diffusion, basis, *fitted, finest, reach, **placement)
        selection = Selection.from_tensors(tensors)
        return replace(score, selection=selection, dropped=int(tensors.get("dropped", 0)))


def _check_same(basis: Eigenbasis, rates: Tensor) -> None:
    """A file's functions are those of the process that is passed: their eigenvalues tell."""
    if basis.eigenvalues.shape != rates.shape or not torch.allclose(basis.eigenvalues, rates, 1e-6):
        found, expected = ([round(float(v), 6) for v in r[:3]] for r in (basis.eigenvalues, rates))
        raise ValueError(
            f"diffusion: expected the process that the score was fitted to, with the eigenvalues "
            f"{expected} and so on, found {found}: pass one with the same prior and box"
        )
