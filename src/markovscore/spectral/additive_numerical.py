r"""Additive features of a nonlinear process: for each coordinate the functions of its own spectrum.

.. math:: s(x, t) = \nabla\log\pi(x) + \nabla h_t(x), \qquad h_t(x) = \sum_i \sum_{n \le N}
          \alpha_{i,n}(t)\, \psi_{i,n}(x_i), \qquad \pi(x) = \prod_i \pi_i(x_i)

with :math:`\psi_{i,n}` the eigenfunctions of :math:`f'' + (\log\pi_i)' f'`, found numerically.
Gradients of functions of different coordinates are orthogonal, so ``A_t`` is block-diagonal
*without* any assumption of independence of the data, and each block is the problem of one
coordinate alone: ``d`` fits on a line. The functions are bounded, where the polynomials of
:mod:`markovscore.spectral.additive` are not, so that dozens of them may be used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core import (
    Constants,
    Process,
    as_diffusion,
    check_integer,
    check_points,
    check_times,
    lasting,
    name_of,
)
from ..eigenbasis import (
    MIN_SCALE,
    Axis,
    Eigenbasis,
    Numerical,
    around,
    between,
    moved_walls,
    warn_if_flat,
)
from .clock import GeneratorClock, first_time, log_times, own_time
from .fitted import FittedScore, one_time, placement
from .product import solve, stationary
from .sample import Sample, read_sample
from .shrinkage import shrink

_FLAT = 10 * MIN_SCALE  # the standard deviation given to what does not vary


@dataclass(frozen=True, eq=False)
class AdditiveSpectralScore(FittedScore):
    """The fitted score ``s(x, t)`` and its divergence; made by ``fit_spectral(x, process,
    features="additive", order=N)`` for a ``Langevin`` or ``DoubleWell`` process.

    Attributes:
        diffusion: the process, whose prior has independent coordinates.
        times: ``(T,)`` float64, the fitted noise levels, in the diffusion's time.
        coefficients: ``(T, N, d)`` float64, ``alpha_{i,n}(t)``, interpolated linearly in time
            (paper A, Figure 5).
        finest_time: when the noise is as wide as the narrowest coordinate; samplers grade their
            steps by it.
        walls: ``(2, d)`` float64, where the functions' walls stand for data beyond those of the
            process, else not numbers; None where there are none such.
        columns: what the coordinates are called, where the data were a frame.
        dtype: of the data, and of samples.
        device: likewise.

    Evaluation follows dtype and device of ``x``. Beyond the walls between which the functions were
    found the score is that of the prior.
    """

    kind: ClassVar[str] = "AdditiveSpectralScore"
    diffusion: Any
    times: Tensor = field()  # required, as it is not by the base class
    coefficients: Tensor
    finest_time: float | None = None
    walls: Tensor | None = None
    columns: tuple[str, ...] | None = None
    dtype: torch.dtype = field(default=torch.float64, repr=False)
    device: torch.device = field(default=torch.device("cpu"), repr=False)

    def check(self, x: Any) -> Tensor:
        """The points ``x`` as a tensor ``(B, d)``."""
        return check_points(x, self.coefficients.shape[2])

    def evaluate(self, x: Tensor, t: Tensor, divergence: bool) -> tuple[Tensor, Tensor | None]:
        """Score ``(B, d)`` and divergence ``(B,)`` or None, for checked points and times."""
        (table,) = self._constants.like(x)
        alpha = self.levels.interpolate(table, one_time(t))
        alpha = alpha[:, None] if alpha.ndim == 2 else alpha.transpose(0, 1)  # (N, B or 1, d)
        order, parts = len(alpha), torch.zeros(2, *x.shape, dtype=x.dtype, device=x.device)
        for axis, own in self._groups:
            jets = axis.jets(x[:, own], order, 3 if divergence else 2)[1:, 1:]
            parts[: len(jets), :, own] = (jets * alpha[..., own]).sum(1)
        score, total = stationary(self.process, self._clock, x, divergence)
        return score + parts[0], None if total is None else total + parts[1].sum(1)

    @cached_property
    def _groups(self) -> list[tuple[Axis, list[int]]]:
        """Each axis, and the coordinates that have it."""
        groups: dict[Axis, list[int]] = {}
        axes = numerical_coordinates(self.process)
        for i, axis in enumerate(axes if self.walls is None else between(axes, self.walls)):
            groups.setdefault(axis, []).append(i)
        return list(groups.items())

    @cached_property
    def _clock(self) -> GeneratorClock:
        return GeneratorClock(self.process)

    @cached_property
    def _constants(self) -> Constants:
        return Constants(self.coefficients)

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds."""
        found = {"times": self.times, "coefficients": self.coefficients}
        if self.finest_time is not None:
            found["finest_time"] = torch.tensor(self.finest_time, dtype=torch.float64)
        return found if self.walls is None else found | {"walls": self.walls}

    @classmethod
    def from_tensors(
        cls, diffusion: Any, tensors: dict[str, Tensor], **placement: Any
    ) -> AdditiveSpectralScore:
        """The inverse of :meth:`tensors`."""
        finest = float(tensors["finest_time"]) if "finest_time" in tensors else None
        held = tensors["times"], tensors["coefficients"]
        return cls(diffusion, *held, finest, tensors.get("walls"), **placement)

    def __deepcopy__(self, memo: dict) -> AdditiveSpectralScore:
        return self  # immutable: averaged copies of a network share it


def numerical_coordinates(process: Process) -> list[Numerical]:
    """The axes of a process whose eigenfunctions were found numerically.

    Raises ``TypeError`` for another process.
    """
    axes: tuple[Axis, ...] = ()
    if process.eigenbasis is not None and process.chart is None:
        axes = process.eigenbasis(2).axes
    found = [axis for axis in axes if isinstance(axis, Numerical)]
    if not found or len(found) < len(axes):
        raise TypeError(
            "diffusion: expected VariancePreserving, OrnsteinUhlenbeck, or Langevin or DoubleWell "
            f"with a prior of independent coordinates, found {name_of(process)}: additive features "
            "are functions of one coordinate each"
        )
    return found


@lasting
def fit_coordinates(
    x: Tensor,
    diffusion: Any,
    order: int | None,
    times: Any,
    shrinkage: str | None,
    columns: tuple[str, ...] | None,
) -> AdditiveSpectralScore:
    """Each coordinate's own fit; arguments as of :func:`markovscore.fit_additive`."""
    order, process = check_integer(order, "order"), as_diffusion(diffusion)
    sample = read_sample(x, process)
    axes = around(numerical_coordinates(process), sample.x)
    variances = sample.x.double().var(0, correction=0)
    flat = variances <= _FLAT**2
    warn_if_flat(flat, None, _FLAT, columns)
    least, clock = float(variances.clamp(min=_FLAT**2).min()), GeneratorClock(process)
    times = log_times(clock, first_time(clock, least)) if times is None else check_times(times)
    rule, heats = shrinkage or "heat+1", 0.5 * _FLAT**2 * flat
    solved = []
    for axis, points, heat in zip(axes, sample.x.unbind(1), heats.tolist(), strict=True):
        moments = Sample(points[:, None]).moments(Eigenbasis([axis], order))
        solved.append(solve(shrink(moments, rule).shrunk(heat=heat), clock.of(times)))
    table, levels = torch.stack(solved, 2).cpu(), times.cpu().contiguous()
    finest = own_time(clock, min(0.5 * least, clock.horizon))
    placed = placement(sample.x) | {"columns": columns}
    return AdditiveSpectralScore(diffusion, levels, table, finest, moved_walls(axes), **placed)
