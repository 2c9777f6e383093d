"""The same diffusion in the user's units: affine images, and the one that the data ask for."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core import (
    DiffusionLike,
    Process,
    Time,
    as_diffusion,
    as_tensor,
    check_points,
    lasting,
    name_of,
    takes_arrays,
)
from .base import Diffusion
from .priors import Device, Parameter, Sampled, Source, Type

_FLAT = 1e-6  # of the largest standard deviation: below, a direction does not vary


@dataclass(frozen=True, eq=False)
class Chart:
    """``x = shift + M u``, between points ``x`` ``(B, d)`` of a process in the user's units and
    ``u`` of the process ``inner``; ``M`` ``(d, d)``, its inverse, ``shift`` ``(d,)``, float64."""

    inner: Process
    matrix: Tensor
    inverse: Tensor
    shift: Tensor

    @property
    def log_det(self) -> float:
        """``log |det M|``: what the log density of ``x`` is less than that of ``u``."""
        return float(torch.linalg.slogdet(self.matrix)[1])

    def same_map(self, other: "Chart") -> bool:
        """Whether ``other`` is the same map."""
        return torch.equal(self.matrix, other.matrix) and torch.equal(self.shift, other.shift)

    def to_inner(self, x: Tensor) -> Tensor:
        """``u`` of ``x``."""
        return ((x - self.shift.to(x)).to(torch.float64) @ self.inverse.T.to(x.device)).to(x.dtype)

    def to_user(self, u: Tensor) -> Tensor:
        """``x`` of ``u``."""
        return self.vector(u) + self.shift.to(u)

    def vector(self, v: Tensor) -> Tensor:
        """``M v``, of vectors such as drifts ``(B, d)``."""
        return v @ self.matrix.T.to(v)

    def slope(self, s: Tensor) -> Tensor:
        """``M^{-T} s``, of gradients such as scores in ``u``: that in ``x``, ``(B, d)``."""
        return s @ self.inverse.to(s)

    def slope_to_inner(self, s: Tensor) -> Tensor:
        """``M^T s``, of gradients in ``x``: that in ``u``, ``(B, d)``."""
        return s @ self.matrix.to(s)


@takes_arrays
class Affine(Diffusion):
    r"""``X = shift + M Y`` of a process ``dY = f dt + g dW``: the same diffusion in other units.

    .. math:: dX = M f(M^{-1}(X - b), t)\, dt + g M dW, \qquad
              \rho^X(x) = \frac{\rho^Y(u)}{|\det M|}, \quad s^X = M^{-T} s^Y

    Fits, samples and likelihoods are those of ``Y``, in the coordinates ``u = M^{-1} (x - b)``, and
    points, densities and scores are in the user's units.

    Args:
        process: a process whose ``dispersion`` is a number.
        matrix: ``M``: a number, a factor for each coordinate ``(d,)``, or ``(d, d)``, invertible.
        shift: ``b``: a number or ``(d,)``.

    Raises:
        TypeError: a process of no known dimension, or whose dispersion is no number.
        ValueError: other shapes, numbers that are not finite, a matrix that is not invertible.
    """

    @lasting
    def __init__(
        self, process: DiffusionLike, matrix: Parameter = 1.0, shift: Parameter = 0.0
    ) -> None:
        inner = as_diffusion(process)
        zero = torch.zeros((), dtype=torch.float64)
        if inner.dim is None or as_tensor(inner.dispersion(zero), "dispersion", torch.float64).ndim:
            raise TypeError(
                "process: expected one with dim and a number for its dispersion, found "
                f"{name_of(inner)}: use OrnsteinUhlenbeck, TorusBrownian, BoxBrownian or Product"
            )
        self.process, self.dim, self.horizon = process, inner.dim, float(inner.horizon)
        self.matrix, self.shift = _map(matrix, shift, inner.dim)
        self.chart = Chart(inner, self.matrix, torch.linalg.inv(self.matrix), self.shift)
        self.clock, self.reflects, self.autonomous = inner.clock, inner.reflects, inner.autonomous
        self.prior = None if inner.prior is None else _AffineLaw(inner.prior, self.chart)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that build this process, for a file."""
        matrix, shift = self.matrix.tolist(), self.shift.tolist()
        return {"process": self.process, "matrix": matrix, "shift": shift}

    def drift(self, y: Tensor, t: Time) -> Tensor:
        """``M f(u, t)``, shape ``(B, d)``."""
        return self.chart.vector(self.chart.inner.drift(self.chart.to_inner(y), t))

    def dispersion(self, t: Time) -> Tensor:
        """``g(t) M``: ``(d, d)``, or ``(B, d, d)`` for ``t`` ``(B, 1)``."""
        g = as_tensor(self.chart.inner.dispersion(t), "dispersion", torch.float64)
        return (g[..., None] if g.ndim else g) * self.matrix.to(g)

    def project(self, y: Tensor) -> Tensor:
        """Bring points back into the state space, by the rule of the process."""
        inside = self.contains(y)[:, None]
        moved = self.chart.to_user(self.chart.inner.project(self.chart.to_inner(y)))
        return torch.where(inside, y, moved)

    def contains(self, x: Tensor) -> Tensor:
        """True for the rows of ``x`` in the state space, shape ``(B,)``."""
        return self.chart.inner.contains(self.chart.to_inner(x))

    def sample_transition(self, x0: Tensor, t: Time, generator: Source = None) -> Tensor:
        """Draws of ``X_t`` given ``X_0 = x0`` ``(B, d)``, shape ``(B, d)``; ``t >= 0``."""
        draw = self._inner("sample_transition")
        return self.chart.to_user(draw(self.chart.to_inner(x0), t, generator))

    def transition_score(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        """``grad_y log p(X_t = y | X_0 = x0)``, shape ``(B, d)``; ``t > 0``."""
        score = self._inner("transition_score")
        return self.chart.slope(score(self.chart.to_inner(y), self.chart.to_inner(x0), t))

    def _inner(self, name: str) -> Any:
        method = getattr(self.chart.inner, name)
        if method is None:
            raise TypeError(f"{name_of(self.chart.inner)} has no {name}: simulate it instead")
        return method


def _map(matrix: Parameter, shift: Parameter, dim: int) -> tuple[Tensor, Tensor]:
    """``M`` ``(d, d)`` and ``b`` ``(d,)``, checked."""
    found = as_tensor(matrix, "matrix", torch.float64)
    if found.shape not in ((), (dim,), (dim, dim)) or not bool(found.isfinite().all()):
        raise ValueError(
            f"matrix: expected finite numbers, one, ({dim},) or ({dim}, {dim}), found shape "
            f"{tuple(found.shape)}"
        )
    found = found if found.ndim == 2 else torch.diag(found.expand(dim))
    if not float(torch.linalg.svdvals(found)[-1]) > 1e-12 * float(found.abs().max()):
        raise ValueError(
            "matrix: expected an invertible one, found one of rank "
            f"{int(torch.linalg.matrix_rank(found))}: give every coordinate a scale"
        )
    moved = as_tensor(shift, "shift", torch.float64)
    if moved.shape not in ((), (dim,)) or not bool(moved.isfinite().all()):
        raise ValueError(f"shift: expected a finite number or ({dim},), found {moved.tolist()}")
    return found.clone(), moved.expand(dim).clone()


@takes_arrays
class _AffineLaw(Sampled):
    """The law of ``shift + M u``."""

    def __init__(self, law: Any, chart: Chart) -> None:
        self._law, self._chart, self.dim = law, chart, len(chart.shift)

    def log_prob(self, x: Tensor) -> Tensor:
        """``log pi(u) - log |det M|``, shape ``(B,)``."""
        log_prob: Tensor = self._law.log_prob(self._chart.to_inner(x))
        return log_prob - self._chart.log_det

    def score(self, x: Tensor) -> Tensor:
        """Gradient of the log density, shape ``(B, d)``."""
        return self._chart.slope(self._law.score(self._chart.to_inner(x)))

    def sample(
        self, n: int, generator: Source = None, dtype: Type = None, device: Device = None
    ) -> Tensor:
        """``n`` independent draws, shape ``(n, d)``."""
        return self._chart.to_user(self._law.sample(n, generator, dtype, device))


@lasting
def whitened(process: DiffusionLike, x: Any, how: str = "axes", weights: Any = None) -> Affine:
    """``process`` in the units of the data ``x`` ``(N, d)``: where it is a real line, the data have
    mean 0 and covariance ``I`` in its coordinates; angles and boxes stay what they are.

    ``how="axes"`` turns the lines to the principal axes of the data and scales those; ``"columns"``
    scales each column by its standard deviation. A density that is then fitted is that of ``x``, in
    its units. With ``weights`` ``(N,)``, of any positive sum, mean and covariance are weighted.

    Raises:
        TypeError: a process without eigenbasis.
        ValueError: fewer than two points, or directions in which they do not vary; another word;
            weights that are negative, or all zero.
    """
    inner = as_diffusion(process)
    if inner.eigenbasis is None:
        raise TypeError(f"process: expected one with an eigenbasis, found {name_of(inner)}")
    x = check_points(x, inner.dim, "x").detach().double().cpu()
    lines = inner.eigenbasis(2).lines
    if how not in ("axes", "columns"):
        raise ValueError(f"how: expected 'axes' or 'columns', found {how!r}")
    if len(x) < 2:
        raise ValueError(f"x: expected two or more points, which have a scale, found {len(x)}")
    w = _shares(weights, len(x))
    mean = w @ x[:, lines]
    centred = x[:, lines] - mean
    covariance = (w[:, None] * centred).T @ centred
    if how == "columns":
        covariance = torch.diag(covariance.diagonal())
    variances, axes = torch.linalg.eigh(covariance)
    flat = _flat(variances)
    if bool(flat.any()):
        raise ValueError(
            f"x: expected data that vary in every direction, found {int(flat.sum())} of "
            f"{len(lines)} in which they do not (columns that are constant, or follow from others, "
            f"or more columns than points): drop columns; the first direction is "
            f"{[round(v, 2) for v in axes[:, 0].tolist()]}"
        )
    matrix = torch.eye(x.shape[1], dtype=torch.float64)
    shift = torch.zeros(x.shape[1], dtype=torch.float64)
    if lines:
        place = torch.tensor(lines)
        matrix[place[:, None], place] = axes * variances.sqrt()
        shift[place] = mean
    return Affine(process, matrix, shift)


def _shares(weights: Any, n: int) -> Tensor:
    """Weights ``(n,)`` of sum one."""
    w = torch.ones(n) if weights is None else as_tensor(weights, "weights", torch.float64).cpu()
    right = w.shape == (n,) and bool((w >= 0).all()) and 0 < float(w.sum()) < torch.inf
    if not right:
        raise ValueError(
            f"weights: expected {n} numbers, none negative, not all zero, found shape "
            f"{tuple(w.shape)} with sum {float(w.sum()):g}"
        )
    return w.double() / w.double().sum()


def _flat(variances: Tensor) -> Tensor:
    """Which of the increasing ``variances`` are none, to rounding."""
    return variances <= _FLAT**2 * variances[-1:].clamp(min=1e-300)
