r"""Targets for score regression from a short window ``[s, t]`` of a nonlinear process.

For ``s < t`` the score is a conditional mean of the *local* transition's score (Singhal, Goldstein
and Ranganath 2024, lemma 1), ``grad log rho_t(y) = E[grad_y log q(Y_t | Y_s) | Y_t = y]``. Two ways
to a target on the window:

* **local linearisation** (their section on local-DSM): the drift's first-order Taylor expansion at
  ``(y_s, s)`` makes ``q`` Gaussian, :func:`local_transition`; biased in the window's length;
* **path shift** (ours): a target from the simulated path itself, ``path_shift_target``; no
  linearisation, unbiased for any window.

Where the diffusion has a ``clock``, both work in it: drift and ``G G^T`` are divided by its rate
and windows are lengths of clock, so that for ``beta(t)`` times a fixed process nothing depends on
``beta``. Arithmetic on times is float64; targets carry no gradients.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import (
    Dense,
    Diagonal,
    DiffusionLike,
    IdentityClock,
    LinearMap,
    Process,
    Scalar,
    Time,
    as_diffusion,
    check_finite,
    check_generator,
    check_points,
    check_window,
    drift_at,
    full_precision,
    jacobian_at,
    noise_at,
)
from ..kernels import TOO_LONG, SingularCovarianceError
from ..kernels import local_transition as window_law
from .walls import check_walls

# Coordinates up to which a buffer keeps covariance factors, 64 numbers a row at most.
_SMALL = 8


def local_transition(
    diffusion: DiffusionLike, y_s: Tensor, s: Time, t: Time
) -> tuple[Tensor, Tensor]:
    r"""Mean ``m`` ``(B, d)``, covariance ``P`` ``(B, d, d)`` of the process linearised at ``y_s``.

    With ``h`` the clock from ``s`` to ``t``, ``J`` and ``f`` the drift's Jacobian and value at
    ``(y_s, s)`` and ``f'`` its derivative in time, each per unit of clock,

    .. math:: m = y_s + \int_0^h e^{J(h-u)} (f + u f')\, du, \qquad
              P = \int_0^h e^{Ju} G G^\top e^{J^\top u}\, du .

    Exact for a linear process with constant ``G``; in general the mean is off by ``O(h^2)``,
    ``h^2 tr(G G^T Hess f) / 4`` at first. A ``G`` that changes is read in the middle of the window.
    Closed form by ``expm1`` where Jacobian and noise are diagonal (or a number); else by series and
    doubling in float64, with no loss for tiny, huge or singular-noise windows.

    Args:
        diffusion: has ``drift`` and ``dispersion``; a Jacobian of its own is used, else torch.func.
        y_s: points ``(B, d)`` at time ``s``.
        s, t: numbers, or ``(B,)`` or ``(B, 1)`` tensors, ``0 <= s < t <= horizon``.

    Returns:
        ``m`` and ``P``, dtype and device of ``y_s``. ``P`` may underflow in float32 for a tiny
        window: :func:`local_target` does not go through it.

    Raises:
        TypeError, ValueError: malformed points, a window that is empty, outside ``[0, horizon]``,
            or so long that the moments overflow; a drift or Jacobian of the wrong shape, or not
            finite (time and first bad row).
    """
    process, y, start, end = check_request(diffusion, y_s, s, t)
    m, P = local_moments(process, y, start, end)
    return m.to(y), P.matrix(y.shape[1]).to(y)


def local_target(
    diffusion: DiffusionLike,
    y_s: Tensor,
    s: Time,
    t: Time,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """``y = m + C z`` and ``target = -C^{-T} z``, ``C C^T = P``, ``(B, d)`` each: local-DSM.

    ``target`` is the score at ``y`` of the Gaussian of :func:`local_transition`. Arguments and
    errors as there, and

    Raises:
        ValueError: ``P`` is not positive definite (the window to change is named).
    """
    process, y, start, end = check_request(diffusion, y_s, s, t)
    check_generator(generator, y.device)
    draw = local_draw(process, y, start, end, generator)
    return draw.y, draw.target


def check_request(
    diffusion: Any, y_s: Tensor, s: Time, t: Time
) -> tuple[Process, Tensor, Tensor, Tensor]:
    """A process without walls, points, and the ends of windows, float64 ``(1,)`` or ``(B,)``: what
    a target is asked for, checked."""
    process = as_diffusion(diffusion)
    y = check_points(y_s, process.dim, "y_s")
    start, end = check_window(process.horizon, s, t, len(y))
    check_walls(process)
    return process, y, start, end


# Of what is checked


class LocalDraw(NamedTuple):
    """``y = m + C z`` and its target, in the dtype of the start; ``C`` and ``z``, both in float64
    unless ``C`` is diagonal."""

    y: Tensor
    target: Tensor
    factor: LinearMap
    noise: Tensor


@torch.no_grad()
@full_precision
def local_draw(
    process: Process, y: Tensor, s: Tensor, t: Tensor, generator: torch.Generator | None
) -> LocalDraw:
    """:func:`local_target` with the factor and the noise; float64 ends ``(1,)`` or ``(B,)``."""
    around = linearised(process, y, s, t)
    if around.is_diagonal:
        m, P = _diagonal_law(y, around)
        z = torch.randn(m.shape, generator=generator, dtype=m.dtype, device=m.device)
        C = covariance_factor(P, s, t)
        return LocalDraw((m + C @ z).to(y), (-z / C.value).to(y), C, z)
    z = torch.randn(y.shape, generator=generator, dtype=torch.float64, device=y.device)
    try:
        _, _, factor, sample, target = window_law(*around.matrices(), y, z)
    except SingularCovarianceError as error:
        raise _no_noise(error.row, error.axis, s, t) from None
    assert factor is not None and sample is not None and target is not None
    return LocalDraw(sample, target, Dense(factor), z)


@torch.no_grad()
@full_precision
def small_laws(
    process: Process, y: Tensor, s: Tensor, t: Tensor
) -> tuple[Tensor, Tensor] | tuple[()]:
    """``m`` and ``C`` of :func:`local_draw`, float64, to draw from again and again; nothing where
    ``C`` is diagonal, hence cheap, or so large that a buffer of them would be."""
    if process.elementwise or y.shape[1] > _SMALL:
        return ()
    around = linearised(process, y, s, t)
    if around.is_diagonal:
        return ()
    m, P = window_law(*around.matrices(), y)[:2]
    return m, covariance_factor(Dense(P), s, t).value


@torch.no_grad()
@full_precision
def law_draw(m: Tensor, C: Tensor, like: Tensor, generator: torch.Generator | None) -> LocalDraw:
    """The same draw from a law that :func:`small_laws` gave, for points ``like`` these."""
    z = torch.randn(m.shape, generator=generator, dtype=m.dtype, device=m.device)
    factor = Dense(C)
    back = torch.linalg.solve_triangular(C.mT, z.unsqueeze(-1), upper=True).squeeze(-1)
    return LocalDraw((m + factor @ z).to(like), -back.to(like), factor, z)


@torch.no_grad()
@full_precision
def local_moments(
    process: Process, y: Tensor, s: Tensor, t: Tensor
) -> tuple[Tensor, Diagonal | Dense]:
    """:func:`local_transition` for float64 ends ``(1,)`` or ``(B,)``: ``m`` and ``P``, in the dtype
    of ``y`` where ``P`` is diagonal, else in float64."""
    around = linearised(process, y, s, t)
    if around.is_diagonal:
        return _diagonal_law(y, around)
    m, P = window_law(*around.matrices(), y)[:2]
    return m, Dense(P)


class Linearised(NamedTuple):
    """``dY = (J (Y - y) + f + u f') du + G dW``, ``u`` the clock since the start at ``y``.

    ``J`` and ``Q = G G^T``, ``f`` and ``f'`` ``(B, d)`` (None: zero), per unit of clock; the
    ``length`` of the window in it, ``(B,)``.
    """

    J: LinearMap
    Q: LinearMap
    f: Tensor
    f_dot: Tensor | None
    length: Tensor

    @property
    def is_diagonal(self) -> bool:
        """Whether every coordinate goes by itself."""
        return self.J.is_diagonal and self.Q.is_diagonal

    def matrices(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
        """``J``, ``Q``, ``f``, ``f'`` and the length, as ``kernels.local_transition`` takes them: a
        multiple of the identity as one number, 0-dim or ``(B,)``."""
        Q, d = self.Q, self.f.shape[1]
        each = Q.value.reshape(Q.value.shape[:1]) if isinstance(Q, Scalar) else Q.matrix(d)
        return self.J.matrix(d), each, self.f, self.f_dot, self.length


def linearised(process: Process, y: Tensor, s: Tensor, t: Tensor) -> Linearised:
    """The process linearised at each row; float64 ends ``(1,)`` or ``(B,)``."""
    length = process.clock.between(s, t)
    J, f, f_dot = _expansion(process, y, s)
    Q = _unit_noise(process, y, s, length).gram()
    return Linearised(J, Q, f, f_dot, length.to(y.device).expand(len(y)))


def _diagonal_law(y: Tensor, around: Linearised) -> tuple[Tensor, Diagonal]:
    """Mean and covariance where both are coordinate by coordinate."""
    J, Q, f, f_dot, length = around
    h = length.to(y)[:, None]
    x = J.value * h
    shift = h * phi1(x) * f
    if f_dot is not None:
        shift = shift + h.square() * phi2(x) * f_dot
    P = Q.value.to(y) * h * phi1(2 * x)
    check_finite(torch.cat([shift, P], 1), "local moments", TOO_LONG)
    return y + shift, Diagonal.of(P)


def covariance_factor(P: LinearMap, s: Tensor, t: Tensor) -> LinearMap:
    """``C`` with ``C C^T = P``, lower triangular.

    Raises:
        ValueError: ``P`` is not positive definite; the first bad row, its window and the direction
            without noise are named.
    """
    factor, silent = P.cholesky()
    bad = silent.nonzero()
    if len(bad) == 0:
        return factor
    row, axis = bad[0].tolist()
    raise _no_noise(row, axis, s, t)


def _no_noise(row: int, axis: int, s: Tensor, t: Tensor) -> ValueError:
    low, high = (float(ends[row % len(ends)]) for ends in (s, t))
    return ValueError(
        f"expected a positive definite covariance, found a singular one for the window "
        f"[{low:g}, {high:g}] of row {row} (coordinate {axis}, given the earlier ones, gets no "
        "noise): change that window, longer if rounding swallowed the noise, shorter if the noise "
        "has collapsed onto fewer directions; a direction that G and the drift never reach has no "
        "local score at any window"
    )


def _expansion(process: Process, y: Tensor, s: Tensor) -> tuple[LinearMap, Tensor, Tensor | None]:
    """``J``, ``f`` and ``f'`` at ``(y, s)`` per unit of clock; ``f'`` None where it vanishes."""
    clock, time = process.clock, s.to(y).expand(len(y))[:, None]
    f_dot = None
    if process.autonomous:
        f = drift_at(process, y, time)
    else:
        f, f_dot = _forcing(process, y, s, time)
    J = jacobian_at(process, y, time)
    if not isinstance(clock, IdentityClock):
        slower = 1 / clock.rate(s).to(y)[:, None]
        J, f = J.times(slower), f * slower if process.autonomous else f
    if not bool(torch.isfinite(J.value.sum() + f.sum())):
        _check_expansion(J, f, time)
    return J, f, f_dot


def _forcing(process: Process, y: Tensor, s: Tensor, time: Tensor) -> tuple[Tensor, Tensor | None]:
    """The drift per unit of clock, and its slope in the clock, None where that is zero."""
    clock = process.clock

    def slowed(u: Tensor) -> Tensor:
        return drift_at(process, y, u) / clock.rate(u.to(torch.float64)).to(y)

    speed = (1 / clock.rate(s)).to(y).expand(len(y))[:, None]
    # Two reverse passes make a forward one; torch's own takes seconds to load its rules.
    f, pull = torch.func.vjp(slowed, time)[:2]
    slope = torch.func.vjp(lambda v: pull(v)[0], torch.zeros_like(f))[1](speed)[0]
    return f, slope if bool(slope.any()) else None


def _check_expansion(J: LinearMap, f: Tensor, time: Tensor) -> None:
    """Name the time of the first row that is not finite."""
    for name, value in (("drift", f), ("drift_jacobian", J.value)):
        bad = ~torch.isfinite(value.flatten(1)).all(1)
        if bool(bad.any()):
            when = float(time[int(bad.int().argmax())])
            check_finite(value, name, f"at time {when:g}; check the {name} at these points")


def _unit_noise(process: Process, y: Tensor, s: Tensor, length: Tensor) -> LinearMap:
    """``G`` per unit of clock in the middle of the window, float64."""
    clock = process.clock
    middle = clock.inverse(clock.elapsed(s) + 0.5 * length)
    G = noise_at(process, y, middle.to(y), torch.float64)
    if isinstance(clock, IdentityClock):
        return G
    root = clock.rate(middle).sqrt().to(y.device)
    if bool((root == 1).all()):
        return G
    return G.times(1 / (root[0] if len(root) == 1 else root[:, None]))


def phi1(x: Tensor) -> Tensor:
    """``(e^x - 1) / x``."""
    return torch.where(x == 0, 1.0, torch.expm1(x) / torch.where(x == 0, 1.0, x))


def phi2(x: Tensor) -> Tensor:
    """``(e^x - 1 - x) / x^2``; by its series for ``|x| < 1``, where the difference cancels."""
    small = x.abs() < 1
    inside, outside = torch.where(small, x, 0.0), torch.where(small, 1.0, x)
    series = torch.ones_like(x)
    for k in range(19, 2, -1):
        series = 1 + inside / k * series
    return torch.where(small, 0.5 * series, (torch.expm1(outside) / outside - 1) / outside)
