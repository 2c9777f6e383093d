"""The nouns of the package as types: what a user must write, and what the package looks for beside.

What is *required* is a Protocol: :class:`DiffusionLike`, :class:`Score`, :class:`Objective`. What
is *optional* is listed once, with its default, in the class beside it: :class:`Process`,
:class:`ScoreModel`, :class:`Criterion`. Every public function calls :func:`as_diffusion`,
:func:`as_score` or :func:`as_objective` on what it is given; what comes back has every attribute,
so that nothing behind an entry point asks whether there is one. Nothing has to be inherited.
"""

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .checks import check_callable, is_integer, is_number
from .views import Test, function, has_methods, refuse_class, seen_as, shown, takes

Method = Any  # a function, or None where there is none


# Diffusions


class DiffusionLike(Protocol):
    """A forward process ``dY = f(Y, t) dt + G(t) dW``: any object with these two methods.

    ``y`` is ``(B, d)``. ``t`` comes as a tensor with the dtype and device of ``y`` that broadcasts
    against it: 0-dim, one time for all rows, or ``(B, 1)``. What else there may be is in
    :class:`Process`.
    """

    def drift(self, y: Tensor, t: Tensor, /) -> Tensor:
        """``f(y, t)``, shape ``(B, d)``; each row by itself."""

    def dispersion(self, t: Tensor, /) -> Any:
        """``G(t)``: a number, 0-dim or ``(B, 1)``; a matrix, ``(d, m)`` or ``(B, d, m)``; or
        :class:`markovscore.Diagonal`. The second forms are for ``t`` ``(B, 1)``."""


class Clock(Protocol):
    """``tau(t) = int_0^t beta`` of a process ``dY = beta(t) g(Y) dt + sqrt(beta(t)) G dW``, which
    is autonomous in it. All methods take and return float64 tensors of any shape."""

    def rate(self, t: Tensor) -> Tensor:
        """``beta(t)``, positive."""

    def elapsed(self, t: Tensor) -> Tensor:
        """``tau(t) = int_0^t beta``."""

    def between(self, s: Tensor, t: Tensor) -> Tensor:
        """``int_s^t beta`` for ``s <= t``, to full relative accuracy however close they are."""

    def inverse(self, tau: Tensor) -> Tensor:
        """The ``t`` with ``tau(t) = tau``."""


class IdentityClock:
    """``tau = t``: the clock of a process that has none."""

    def rate(self, t: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(t)

    def elapsed(self, t: Tensor) -> Tensor:
        """``t``."""
        return t

    def between(self, s: Tensor, t: Tensor) -> Tensor:
        """``t - s``."""
        return t - s

    def inverse(self, tau: Tensor) -> Tensor:
        """``tau``."""
        return tau


class Process:
    """All that the package may ask of a diffusion, with the default where it has no such thing.

    ``None`` for a method: there is none, and the package does without.

    Attributes:
        dim: number of coordinates ``d``; None: that of the points.
        horizon: end of the time interval.
        prior: law at the horizon: ``sample(n, generator=, dtype=, device=)``, ``log_prob(x)``.
        clock: a :class:`Clock`, in which simulation, windows and linearisation count.
        elementwise: coordinate ``i`` of the drift depends on ``y_i`` alone.
        autonomous: per unit of clock, drift and ``G G^T`` do not depend on time.
        reflects: the state space has walls.
        drift_divergence: ``(y, t) -> (B,)``, ``div f``; else by autograd.
        drift_jacobian: ``(y, t) -> (B, d, d)``, ``J[b, i, j] = d f_i / d y_j``, or ``(B, d)``, the
            diagonal of a diagonal one; else by autograd.
        drift_and_vjp: ``(y, t, v) -> f, J^T v``, where the two share work.
        sample_transition: ``(x0, t, generator) -> (B, d)``, exact draws of ``Y_t``.
        transition_score: ``(y, x0, t) -> (B, d)``, ``grad_y log p(Y_t = y | Y_0 = x0)``.
        std: ``(t) ->`` the noise scale at ``t``, the shape of ``t``.
        evolve_gaussian: ``(mean, var, t) -> mean, var`` of a start from ``N(mean, var I)``.
        log_kernel: ``(y, mean, var) -> (...)``, the log density of the law with these moments.
        kernel_score: ``(y, mean, var) -> (..., d)``, its gradient in ``y``.
        shift_target: ``(states, noise, step) -> (B, d)``, the rule of ``path_shift_target`` where
            ``G`` is singular.
        euler_kernel: ``() ->`` the drift as the GPU program of whole paths knows it, or None.
        eigenbasis: ``(n_functions) ->`` the slowest eigenfunctions of the generator.
        ou_time: ``(t) ->`` the time of the unit Ornstein-Uhlenbeck process that this one is.
        chart: of an affine image of another process, ``inner``, the map between their coordinates:
            fits, samples and likelihoods are made in those of ``inner``.
        settings: arguments that build the process again, for a file; None: those of its class.
    """

    dim: int | None = None
    horizon: float = math.inf
    prior: Any = None
    clock: Clock = IdentityClock()
    elementwise: bool = False
    autonomous: bool = False
    reflects: bool = False
    drift_divergence: Method = None
    drift_jacobian: Method = None
    drift_and_vjp: Method = None
    sample_transition: Method = None
    transition_score: Method = None
    std: Method = None
    evolve_gaussian: Method = None
    log_kernel: Method = None
    kernel_score: Method = None
    shift_target: Method = None
    euler_kernel: Method = None
    eigenbasis: Method = None
    ou_time: Method = None
    chart: Any = None
    settings: Any = None

    def drift(self, y: Tensor, t: Any) -> Tensor:
        """``f(y, t)``, shape ``(B, d)``, for ``t`` 0-dim or ``(B, 1)``."""
        raise NotImplementedError(f"{type(self).__name__} needs drift(y, t) -> (B, d)")

    def dispersion(self, t: Any) -> Any:
        """``G(t)``: a number, 0-dim or ``(B, 1)``; a matrix, ``(d, m)`` or ``(B, d, m)``; or
        :class:`Diagonal`. The second forms are for ``t`` ``(B, 1)``."""
        raise NotImplementedError(f"{type(self).__name__} needs dispersion(t)")

    def project(self, y: Tensor) -> Tensor:
        """Bring points back into the state space; the identity on ``R^d``."""
        return y

    def contains(self, x: Tensor) -> Tensor:
        """True for the rows of ``x`` in the state space, shape ``(B,)``."""
        return torch.ones(len(x), dtype=torch.bool, device=x.device)


def as_diffusion(diffusion: Any) -> Process:
    """``diffusion`` with every attribute of :class:`Process`: itself if it is one, else a view of
    it that has the defaults where it has nothing, and follows it where it changes.

    Raises:
        TypeError: no ``drift`` or ``dispersion``, one that does not take ``(y, t)`` or ``(t)``, or
            an attribute of another kind than :class:`Process` says.
    """
    if not isinstance(diffusion, Process):
        refuse_class(diffusion, "diffusion")
        for method in ("drift", "dispersion"):
            if not callable(getattr(diffusion, method, None)):
                raise TypeError(
                    "diffusion: expected drift(y, t) and dispersion(t), found "
                    f"{type(diffusion).__name__} without {method}: define it"
                )
    return seen_as(Process, diffusion, _PROCESS, "diffusion")


# Scores


class Score(Protocol):
    """``s(x, t) ~ grad log rho_t(x)``: any callable from points ``(B, d)`` and times, 0-dim or
    ``(B,)``, to ``(B, d)``. What else it may have: :class:`ScoreModel`."""

    def __call__(self, x: Tensor, t: Any, /) -> Tensor:
        """``s(x, t)``, shape ``(B, d)``; each row by itself."""


class ScoreModel:
    """All that the package may ask of a score, with the default where it has no such thing.

    Attributes:
        times: increasing noise levels ``(T,)`` that it was fitted at: the samplers' grid.
        time_range: ``(first, last)``, where it has no ``times``.
        finest_time: when the noise is as wide as the data's smallest scale.
        score_and_divergence: ``(x, t) -> s, div s``, ``(B, d)`` and ``(B,)``.
        divergence: ``(x, t) -> (B,)``.
        probe_divergence: ``(x, t, probe) -> s``, and ``div s`` estimated with random signs.
        unchecked: ``(x) ->`` the same score for a flow from the points ``x``, which it checks there
            and then, once: its calls have no checks, and the flow answers for state and times.
        in_chart: ``(chart) ->`` the same score in the coordinates of ``chart.inner``.
        checksum: a string that names what it is built on, for checkpoints.
        dtype: of the points it was made from, and of samples where nothing else says.
        device: likewise.
    """

    times: Any = None
    time_range: Any = None
    finest_time: float | None = None
    score_and_divergence: Method = None
    divergence: Method = None
    probe_divergence: Method = None
    unchecked: Method = None
    in_chart: Method = None
    checksum: str | None = None
    dtype: torch.dtype | None = None
    device: Any = None

    def __call__(self, x: Tensor, t: Any) -> Tensor:
        """``s(x, t)``, shape ``(B, d)``."""
        raise NotImplementedError


def as_score(score: Any, noun: str = "score") -> ScoreModel:
    """``score`` with every attribute of :class:`ScoreModel`, as :func:`as_diffusion` does.

    Raises:
        TypeError: it cannot be called, or an attribute is of another kind.
    """
    refuse_class(score, noun)
    check_callable(score, noun)
    if not takes(score, 2):
        raise TypeError(
            f"{noun}: expected a function (x, t) -> (B, d), found {shown(score)}: give it these two"
        )
    return seen_as(ScoreModel, score, _SCORE, noun)


# Objectives


class Objective(Protocol):
    """What a network is asked to minimise. What else it may have: :class:`Criterion`."""

    def loss(self, score: Any, x0: Tensor, generator: torch.Generator, /) -> Tensor:
        """Unbiased estimate of the loss of ``score``, 0-dim, from the data ``x0`` ``(B, d)``."""


class Criterion:
    """All that training may ask of an objective, with the default where it has no such thing.

    Attributes:
        state: ``() -> dict`` of named tensors, all that ``restore`` needs to go on.
        restore: ``(state, device)``; an empty state begins anew.
        description: ``() -> str``, the settings, by which a checkpoint refuses another one; else
            the ``repr``.
    """

    state: Method = None
    restore: Method = None
    description: Method = None

    def loss(self, score: Any, x0: Tensor, generator: torch.Generator) -> Tensor:
        """Unbiased estimate of the loss of ``score``, 0-dim."""
        raise NotImplementedError


def as_objective(objective: Any) -> Criterion:
    """``objective`` with every attribute of :class:`Criterion`, as :func:`as_diffusion` does.

    Raises:
        TypeError: no ``loss``, or an attribute of another kind.
    """
    refuse_class(objective, "objective")
    if not callable(getattr(objective, "loss", None)):
        raise TypeError(
            "objective: expected loss(score, x0, generator), found "
            f"{type(objective).__name__} without it: pass DenoisingSM, LocalDSM or a class of "
            "your own that has it"
        )
    return seen_as(Criterion, objective, _OBJECTIVE, "objective")


# Laws


class Law:
    """All that ``Langevin`` may ask of its prior; ``dim`` and ``score(x)`` are required.

    Attributes:
        hessian: ``(x) -> (B, d, d)`` of ``log pi``, or ``(B, d)``, its diagonal; else by autograd.
        score_and_hessian_product: ``(x, v) -> grad log pi, H v``, where the two share work.
        path_drift: ``() ->`` half the score as the GPU program of whole paths knows it, or None.
    """

    hessian: Method = None
    score_and_hessian_product: Method = None
    path_drift: Method = None

    def score(self, x: Tensor) -> Tensor:
        """``grad log pi(x)``, shape ``(B, d)``."""
        raise NotImplementedError


def as_law(prior: Any) -> Law:
    """``prior`` with every attribute of :class:`Law`, as :func:`as_diffusion` does.

    Raises:
        TypeError: no ``dim`` or ``score``, or an attribute of another kind.
    """
    for name in ("dim", "score"):
        if not hasattr(prior, name):
            raise TypeError(
                f"prior: expected dim and score(x) -> (B, d), found {type(prior).__name__} "
                f"without {name}: define it, or pass a law such as markovscore.Gaussian"
            )
    return seen_as(Law, prior, _LAW, "prior")


# Kinds of attributes. What is not here is looked at where it is used: times by ``check_times``, a
# prior by who draws from it.
_FLAG: Test = (lambda value: isinstance(value, bool | np.bool_), "True or False")
_PROCESS: dict[str, Test] = {
    "drift": function(2, "(y, t) -> (B, d)", optional=False),
    "dispersion": function(1, "(t)", optional=False),
    "dim": (lambda value: value is None or is_integer(value), "an integer or None"),
    "horizon": (is_number, "a number"),
    "clock": has_methods("rate", "elapsed", "between", "inverse"),
    "elementwise": _FLAG,
    "autonomous": _FLAG,
    "reflects": _FLAG,
    "project": function(1, "(y) -> (B, d)", optional=False),
    "contains": function(1, "(x) -> (B,)", optional=False),
    "drift_divergence": function(2, "(y, t) -> (B,)"),
    "drift_jacobian": function(2, "(y, t) -> (B, d, d) or (B, d)"),
    "drift_and_vjp": function(3, "(y, t, v) -> f, J^T v"),
    "sample_transition": function(3, "(x0, t, generator) -> (B, d)"),
    "transition_score": function(3, "(y, x0, t) -> (B, d)"),
    "std": function(1, "(t)"),
    "evolve_gaussian": function(3, "(mean, var, t) -> mean, var"),
    "log_kernel": function(3, "(y, mean, var)"),
    "kernel_score": function(3, "(y, mean, var)"),
    "shift_target": function(3, "(states, noise, step) -> (B, d)"),
    "euler_kernel": function(0, "()"),
    "eigenbasis": function(1, "(n_functions)"),
    "chart": (lambda value: value is None or hasattr(value, "to_inner"), "a chart or None"),
    "ou_time": function(1, "(t)"),
}
_SCORE: dict[str, Test] = {
    "score_and_divergence": function(2, "(x, t) -> s, div s"),
    "divergence": function(2, "(x, t) -> (B,)"),
    "probe_divergence": function(3, "(x, t, probe) -> s, div s"),
    "unchecked": function(1, "(x) -> score"),
    "in_chart": function(1, "(chart) -> score"),
    "finest_time": (lambda value: value is None or is_number(value), "a number or None"),
    "dtype": (lambda value: isinstance(value, torch.dtype | None), "a torch.dtype or None"),
}
_OBJECTIVE: dict[str, Test] = {
    "loss": function(3, "(score, x0, generator) -> 0-dim", optional=False),
    "state": function(0, "() -> dict"),
    "restore": function(2, "(state, device)"),
    "description": function(0, "() -> str"),
}
_LAW: dict[str, Test] = {
    "score": function(1, "(x) -> (B, d)", optional=False),
    "hessian": function(1, "(x) -> (B, d, d) or (B, d)"),
    "score_and_hessian_product": function(2, "(x, v) -> score, H v"),
    "path_drift": function(0, "()"),
}
