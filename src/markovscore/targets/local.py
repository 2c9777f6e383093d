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

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import (
    Clock,
    Dense,
    IdentityClock,
    Noise,
    Process,
    Scalar,
    Time,
    as_diffusion,
    as_tensor,
    check_finite,
    check_from_start,
    check_generator,
    check_number,
    check_points,
    check_time,
    check_window,
    drift_at,
    drift_jacobian,
    expand_like,
    first_silent,
    full_precision,
    name_of,
    noise_at,
)
from ..kernels import TOO_LONG, SingularCovarianceError
from ..kernels import local_transition as window_law

Schedule = Callable[[Tensor], Tensor]

# Schedules


def fixed_window(t: Time, width: float) -> Time:
    """``s(t) = max(t - width, 0)``, the type of ``t``.

    Raises:
        ValueError: a width that is not positive.
    """
    width = _check_width(width, "width")
    check_from_start(check_time(t, None))
    if isinstance(t, float | int):
        return max(t - width, 0.0)
    return (torch.as_tensor(t) - width).clamp(min=0)


def clock_window(diffusion: Any, t: Time, width: float) -> Time:
    r"""``s_lambda(t)``: the ``s`` with ``int_s^t beta = lambda``, 0 where ``t`` is too early.

    The error of the linearised mean is second order in the *clock* window, so this schedule keeps
    it level while ``beta`` changes (Singhal et al. 2024, figure 2). Any clock: closed form for
    linear ``beta``, quadrature and Newton's method for a callable.

    Args:
        diffusion: its ``clock``, or ``tau = t`` if it has none, which gives :func:`fixed_window`;
            the form of the noise, a :class:`Diagonal` for instance, plays no part.
        t: a number or a tensor; ``s`` is of the same type and computed in float64.
        width: ``lambda``, positive.

    Raises:
        ValueError: a width that is not positive.
    """
    width = _check_width(width, "width")
    clock, end = as_diffusion(diffusion).clock, check_from_start(check_time(t, None).cpu())
    start = clock.inverse((clock.elapsed(end) - width).clamp(min=0))
    start = torch.minimum(start, end)
    if isinstance(t, float | int):
        return float(start)
    t = torch.as_tensor(t)
    return start.reshape(t.shape).to(t if t.is_floating_point() else start)


def _check_width(width: float, name: str) -> float:
    return check_number(width, name, positive=True, finite=False)


def check_schedule(window: Any) -> Any:
    """``window``, a positive length of clock or a schedule ``t -> s``.

    Raises:
        TypeError: neither.
        ValueError: not positive.
    """
    if callable(window):
        return window
    if isinstance(window, bool | str) or not hasattr(window, "__float__"):
        raise TypeError(
            f"window: expected a length of clock or a schedule t -> s, found {window!r}"
        )
    return _check_width(window, "window")


def window_start(process: Process, window: float | Schedule, t: Tensor) -> Tensor:
    """``s(t)`` by a length of clock or a schedule, dtype and device of ``t``.

    Raises:
        ValueError: a schedule outside ``0 <= s < t``.
    """
    if callable(window):
        s = check_window(process.horizon, window(t), t, len(t))[0]
        return s.expand(len(t)).to(t)
    start = clock_window(process, t, window)
    assert isinstance(start, Tensor)  # as t is
    return start


# Local linearisation


def local_transition(diffusion: Any, y_s: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
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
    m, P = local_moments(diffusion, y_s, s, t)
    P = P if P.ndim == 3 else torch.diag_embed(P)
    y_s = as_tensor(y_s)
    return m.to(y_s), P.to(y_s)


def local_target(
    diffusion: Any, y_s: Tensor, s: Time, t: Time, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """``y = m + C z`` and ``target = -C^{-T} z``, ``C C^T = P``, ``(B, d)`` each: local-DSM.

    ``target`` is the score at ``y`` of the Gaussian of :func:`local_transition`. Arguments and
    errors as there, and

    Raises:
        ValueError: ``P`` is not positive definite (the window to change is named).
    """
    y, target, _, _ = local_draw(diffusion, y_s, s, t, generator)
    return y, target


class LocalDraw(NamedTuple):
    """``y = m + C z`` and its target, in the dtype of the start; ``C`` and ``z``.

    ``factor`` is ``C``, ``(B, d, d)`` in float64, or ``(B, d)`` where it is diagonal.
    """

    y: Tensor
    target: Tensor
    factor: Tensor
    noise: Tensor


@torch.no_grad()
@full_precision
def local_draw(
    diffusion: Any, y_s: Tensor, s: Time, t: Time, generator: torch.Generator | None
) -> LocalDraw:
    """:func:`local_target` with the factor and the noise."""
    y_s, parts, diagonal = _window(diffusion, y_s, s, t)
    check_generator(generator, y_s.device)
    if diagonal:
        m, P = _diagonal_law(y_s, *parts)
        z = torch.randn(m.shape, generator=generator, dtype=m.dtype, device=m.device)
        C = covariance_factor(P, s, t)
        return LocalDraw((m + C * z).to(y_s), (-z / C).to(y_s), C, z)
    z = torch.randn(y_s.shape, generator=generator, dtype=torch.float64, device=y_s.device)
    try:
        _, _, factor, sample, target = window_law(*parts, y_s, z)
    except SingularCovarianceError as error:
        raise _no_noise(error.row, error.axis, s, t) from None
    assert factor is not None and sample is not None and target is not None
    return LocalDraw(sample, target, factor, z)


@torch.no_grad()
@full_precision
def local_moments(diffusion: Any, y_s: Tensor, s: Time, t: Time) -> tuple[Tensor, Tensor]:
    """:func:`local_transition` before the last step: ``P`` as its diagonal ``(B, d)`` where it is
    diagonal, in the dtype of ``y_s``; else ``(B, d, d)``, both in float64."""
    y_s, parts, diagonal = _window(diffusion, y_s, s, t)
    if diagonal:
        return _diagonal_law(y_s, *parts)
    return window_law(*parts, y_s)[:2]


def _window(
    diffusion: Any, y_s: Tensor, s: Time, t: Time
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor], bool]:
    """``y_s`` checked; ``J``, ``G G^T``, ``f``, ``f'`` and the length; whether all is diagonal.

    Then ``J`` is ``(B, d)`` and ``G G^T`` broadcasts against it.
    """
    process = as_diffusion(diffusion)
    y_s = check_points(y_s, process.dim, "y_s")
    start, end = check_window(process.horizon, s, t, len(y_s))
    check_walls(process)
    clock = process.clock
    length = clock.between(start, end)
    J, f, f_dot = expansion(process, clock, y_s, start)
    Q = unit_noise(process, clock, y_s, start, length).gram()
    length = length.to(y_s.device).expand(len(y_s))
    if J.ndim == 2 and not isinstance(Q, Dense):
        each = Q.value if isinstance(Q, Scalar) else Q.sigma
        return y_s, (J, each.to(y_s), f, f_dot, length.to(y_s)), True
    J = J if J.ndim == 3 else torch.diag_embed(J)
    return y_s, (J, rate_matrix(Q), f, f_dot, length), False


def rate_matrix(Q: Noise) -> Tensor:
    """``G G^T`` as ``window_moments`` reads it: 0-dim, ``(B,)``, ``(d, d)`` or ``(B, d, d)``."""
    if isinstance(Q, Scalar):
        return Q.value if Q.value.ndim == 0 else Q.rows
    return Q.matrix(0)


def _diagonal_law(
    y_s: Tensor, J: Tensor, Q: Tensor, f: Tensor, f_dot: Tensor | None, length: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variances for diagonal ``J`` and ``Q``."""
    shift, P = _diagonal_moments(J, Q, f, f_dot, length)
    check_finite(torch.cat([shift, P], 1), "local moments", TOO_LONG)
    return y_s + shift, P


def covariance_factor(P: Tensor, s: Time, t: Time) -> Tensor:
    """``C`` with ``C C^T = P``: lower triangular ``(B, d, d)``, or the roots of a diagonal.

    Raises:
        ValueError: ``P`` is not positive definite; the first bad row, its window and the direction
            without noise are named.
    """
    if P.ndim == 2:
        factor, silent = P.clamp(min=0).sqrt(), ~(P > 0)
    else:
        factor, silent = first_silent(P)
    bad = silent.nonzero()
    if len(bad) == 0:
        return factor
    row, axis = bad[0].tolist()
    raise _no_noise(row, axis, s, t)


def _no_noise(row: int, axis: int, s: Time, t: Time) -> ValueError:
    low, high = (float(torch.as_tensor(v).reshape(-1)[row % torch.as_tensor(v).numel()])
                 for v in (s, t))  # fmt: skip
    return ValueError(
        f"expected a positive definite covariance, found a singular one for the window "
        f"[{low:g}, {high:g}] of row {row} (coordinate {axis}, given the earlier ones, gets no "
        "noise): change that window, longer if rounding swallowed the noise, shorter if the noise "
        "has collapsed onto fewer directions; a direction that G and the drift never reach has no "
        "local score at any window"
    )


def expansion(
    process: Process, clock: Clock, y: Tensor, s: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``J``, ``f`` and ``f'`` at ``(y, s)`` per unit of clock; ``f'`` None where it vanishes."""
    time = s.to(y).expand(len(y))[:, None]
    rate, steady = clock.rate(s), isinstance(clock, IdentityClock)
    slower = rate if steady else 1 / expand_like(rate, y)

    def slowed(u: Tensor) -> Tensor:
        speed = expand_like(clock.rate(u.to(torch.float64)), y)
        return drift_at(process, y, u) / speed

    if process.autonomous:
        f, f_dot = drift_at(process, y, time), None
        f = f if steady else f * slower
    else:
        speed = (1 / rate).to(y).expand(len(y))[:, None]
        # Two reverse passes make a forward one; torch's own takes seconds to load its rules.
        f, pull = torch.func.vjp(slowed, time)[:2]
        slope = torch.func.vjp(lambda v: pull(v)[0], torch.zeros_like(f))[1](speed)[0]
        f_dot = slope if bool(slope.any()) else None
    J = drift_jacobian(process, y, time)
    if not steady:
        J = J * (slower if J.ndim == 2 else slower[:, :, None])
    if not bool(torch.isfinite(J.sum() + f.sum())):
        _check_expansion(J, f, time)
    return J, f, f_dot


def _check_expansion(J: Tensor, f: Tensor, time: Tensor) -> None:
    """Name the time of the first row that is not finite."""
    for name, value in (("drift", f), ("drift_jacobian", J)):
        bad = ~torch.isfinite(value.flatten(1)).all(1)
        if bool(bad.any()):
            when = float(time[int(bad.int().argmax())])
            check_finite(value, name, f"at time {when:g}; check the {name} at these points")


def unit_noise(process: Process, clock: Clock, y: Tensor, s: Tensor, length: Tensor) -> Noise:
    """``G`` per unit of clock in the middle of the window, float64."""
    middle = clock.inverse(clock.elapsed(s) + 0.5 * length)
    G = noise_at(process, y, middle.to(y), torch.float64)
    if isinstance(clock, IdentityClock):
        return G
    root = clock.rate(middle).sqrt().to(y.device)
    if bool((root == 1).all()):
        return G
    return G.times(1 / (root[0] if len(root) == 1 else root[:, None]))


def _diagonal_moments(
    a: Tensor, Q: Tensor, f: Tensor, f_dot: Tensor | None, h: Tensor
) -> tuple[Tensor, Tensor]:
    """``v`` and the variances, ``(B, d)`` each, for ``J = diag(a)`` and a diagonal ``Q``."""
    h = h[:, None]
    x = a * h
    shift = h * phi1(x) * f
    if f_dot is not None:
        shift = shift + h.square() * phi2(x) * f_dot
    return shift, Q * h * phi1(2 * x)


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


def check_walls(process: Process) -> None:
    """Refuse a process that ``reflects``."""
    if process.reflects:
        raise ValueError(
            f"expected a process without walls, found {name_of(process)}: near a wall its "
            "local transition is not Gaussian and its paths cannot be shifted; it has an exact "
            "transition, use DenoisingSM"
        )
