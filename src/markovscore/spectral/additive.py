r"""OISM for many coordinates: one polynomial potential for each, at a cost linear in their number.

.. math:: s(x, t) = -x + \nabla h_t(x), \qquad h_t(x) = \sum_i \sum_{n \le N} \alpha_{i,n}(t)\,
          \phi_n(x_i)

for a process with stationary law ``N(0, I)``. Gradients of functions of different coordinates are
orthogonal, so ``A_t`` is block-diagonal *without* any assumption of independence: ``d`` systems of
size ``N`` a noise level (paper A, OISM(N) on images; the block structure is our reading).

Numerically each block is solved in the standardised variable ``u = (x_i - a c_i) / s_{i,t}``,
``s_{i,t}^2 = a^2 s_i^2 + 1 - a^2``, ``a = e^{-t}``: under the process ``u`` is an
Ornstein-Uhlenbeck process too, with ``r = a s_i / s_{i,t}`` in place of ``a``, so that
``E phi_n(u_t) = r^n M_n``. For ``N >= 2`` the space of potentials is the same, hence the estimate;
what changes is the condition of ``A_t``, which for a pixel of standard deviation 0.03 and ``N = 6``
would pass 1e15.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..core import Constants, check_points, check_time, hermite, lasting, series, standard_scale
from ..kernels import additive_score
from .fitted import FittedScore, one_time

_COLUMNS = ("table", "centre", "scale", "low", "high")


@dataclass(frozen=True, eq=False)
class AdditiveScore(FittedScore):
    """The fitted score ``s(x, t)`` and its divergence; made by :func:`markovscore.fit_additive`.

    Attributes:
        diffusion: with stationary law ``N(0, I)`` and ``ou_time``.
        times: ``(T,)`` float64, the fitted noise levels, in the diffusion's (normalised) time.
        table: ``(T, max(N, 2), d)`` float64, coefficients of the score in the standardised
            variable, interpolated linearly in time (paper A, Figure 5).
        centre: ``(d,)`` float64, of the coordinates at time zero: their mean in the first batch.
        scale: ``(d,)`` float64, their standard deviation there.
        low: ``(d,)`` float64, lower end of their range (infinite where the score is linear).
        high: ``(d,)`` float64, upper end. Beyond four standard deviations of noise from the range
            the polynomial is continued by the Gaussian's slope, ``-1 / s_{i,t}^2``: there it is
            extrapolation, and a flow that goes with it leaves the numbers (our choice).
        rotation: None, or ``(d, d)``, principal axes as columns: coordinates are ``x @ rotation``.
        columns: what the coordinates are called, where the data were a frame.
        dtype: of the data, and of samples.
        device: likewise.

    Evaluation follows dtype and device of ``x``; copies of the tables are kept for each.
    """

    kind: ClassVar[str] = "AdditiveScore"
    diffusion: Any
    times: Tensor = field()  # required, as it is not by the base class
    table: Tensor
    centre: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    rotation: Tensor | None = None
    columns: tuple[str, ...] | None = None
    dtype: torch.dtype = field(default=torch.float64, repr=False)
    device: torch.device = field(default=torch.device("cpu"), repr=False)

    def check(self, x: Any) -> Tensor:
        """The points ``x`` as a tensor ``(B, d)``; :func:`additive_score` looks at the numbers."""
        return check_points(x, len(self.centre), finite=False)

    def evaluate(self, x: Tensor, t: Tensor, divergence: bool) -> tuple[Tensor, Tensor | None]:
        """Score ``(B, d)`` and divergence ``(B,)`` or None, for checked points and times.

        A rotation does not change the divergence.
        """
        table, centre, scale, low, high, *axes = self._constants.like(x)
        t = one_time(t).reshape(-1)
        upper, share = self.levels.place(t)
        z = x @ axes[0] if axes else x
        columns = table, centre, scale, low, high
        score, total = additive_score(
            z, self.diffusion.ou_time(t), upper, share, *columns, divergence=divergence
        )
        return (score @ axes[0].T if axes else score), total

    @cached_property
    def _constants(self) -> Constants:
        return Constants(*list(self.tensors().values())[1:])

    @cached_property
    def finest_time(self) -> float:  # type: ignore[override]
        r"""The process's time at which the noise is as wide as the smallest scale of the data.

        There ``1 - a^2 = v``, where ``v`` is the least of the variances ``s_i^2`` and, at the first
        level, ``1 / |\partial_i s_i|`` of a pull over the range of the data.

        Samplers grade their steps by it; so do the default levels.
        """
        first = self.diffusion.ou_time(self.times[:1])[:, None]
        a, s_t, _ = standard_scale(self.scale, first)
        reach = 3 * self.scale
        low = torch.where(self.low.isfinite(), self.low, self.centre - reach)
        high = torch.where(self.high.isfinite(), self.high, self.centre + reach)
        points = torch.lerp(low, high, torch.linspace(0, 1, 65, dtype=torch.float64)[:, None])
        slope = series(a * (points - self.centre) / s_t, self.table[0][:, None])[1] / s_t.square()
        pull = max(1.0, float(-slope.min()), 1 / float(self.scale.square().min()))
        clock, end = self.process.clock, torch.tensor(self.process.horizon, dtype=torch.float64)
        ratio = clock.elapsed(end) / self.diffusion.ou_time(end)
        return float(clock.inverse(0.5 / pull * ratio))

    @property
    def coefficients(self) -> Tensor:
        """:meth:`at` the fitted times, ``(T, K, d)``."""
        return self.at(self.times)

    @lasting
    def at(self, t: float | Tensor) -> Tensor:
        r"""``alpha(t)`` ``(T, K, d)`` at ``(T,)`` times, in the Hermite functions of the paper.

        By projection, ``alpha_n = n^{-1/2} E_{z ~ N(0,1)} phi_{n-1}(z) (s(z, t) + z)``, exact with
        Gauss-Hermite nodes (paper A, Figure 5). ``K = max(N, 2)``; a rotated fit's are those of the
        rotated coordinates.
        """
        t = check_time(t, None).reshape(-1)
        self.levels.check(t)
        count = self.table.shape[1]
        points, weights = np.polynomial.hermite_e.hermegauss(count + 1)
        z = torch.from_numpy(points)[:, None, None]
        a, s_t, _ = standard_scale(self.scale, self.diffusion.ou_time(t)[:, None])
        g = self.levels.interpolate(self.table, t).transpose(0, 1)
        value = series((z - a * self.centre) / s_t, g[:, None])[0] / s_t + z
        phi = torch.stack(list(hermite(z[:, 0, 0], count)))
        n = torch.arange(1, count + 1, dtype=torch.float64)[:, None]
        share = phi * torch.from_numpy(weights / weights.sum()) / n.sqrt()
        return torch.einsum("nq,qtd->tnd", share, value)

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds."""
        named = {name: getattr(self, name) for name in ("times", *_COLUMNS)}
        return named if self.rotation is None else named | {"rotation": self.rotation}

    @classmethod
    def from_tensors(
        cls, diffusion: Any, tensors: dict[str, Tensor], **placement: Any
    ) -> AdditiveScore:
        """The inverse of :meth:`tensors`."""
        arguments: dict[str, Any] = tensors | placement
        return cls(diffusion, **arguments)

    def __deepcopy__(self, memo: dict) -> AdditiveScore:
        return self  # immutable: averaged copies of a network share it
