"""The nouns of the package as types: what a user must write, and what the package looks for beside.

What is *required* is a Protocol: :class:`DiffusionLike`, :class:`Score`, :class:`Objective`. What
is *optional* is listed once, with its default, in the class beside it: :class:`Process`,
:class:`ScoreModel`, :class:`Criterion`. Every public function calls :func:`as_diffusion`,
:func:`as_score` or :func:`as_objective` on what it is given; what comes back has every attribute,
so that nothing behind an entry point asks whether there is one. Nothing has to be inherited.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from .checks import check_callable, is_integer, is_number

Kind = TypeVar("Kind")
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
        log_kernel, kernel_score: ``(y, mean, var)``, the law with these moments and its score.
        shift_target: ``(states, noise, step) -> (B, d)``, the rule of ``path_shift_target`` where
            ``G`` is singular.
        euler_kernel: ``() ->`` the drift as the GPU program of whole paths knows it, or None.
        eigenbasis: ``(n_functions) ->`` the slowest eigenfunctions of the generator.
        ou_time: ``(t) ->`` the time of the unit Ornstein-Uhlenbeck process that this one is.
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
    if isinstance(diffusion, Process):
        process = diffusion
    else:
        for method in ("drift", "dispersion"):
            if not callable(getattr(diffusion, method, None)):
                raise TypeError(
                    "diffusion: expected drift(y, t) and dispersion(t), found "
                    f"{type(diffusion).__name__} without {method}: define it"
                )
        process = _view(Process, diffusion)
    _check_kinds(process, _PROCESS, "diffusion")
    return process


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
        unchecked: the same score for points and times that are known to be right, if it can leave
            out its checks.
        checksum: a string that names what it is built on, for checkpoints.
        dtype, device: of the points it was made from: of samples, where nothing else says.
    """

    times: Any = None
    time_range: Any = None
    finest_time: float | None = None
    score_and_divergence: Method = None
    divergence: Method = None
    probe_divergence: Method = None
    unchecked: Any = None
    checksum: str | None = None
    dtype: torch.dtype | None = None
    device: Any = None

    def __call__(self, x: Tensor, t: Any) -> Tensor:
        """``s(x, t)``, shape ``(B, d)``."""
        raise NotImplementedError


def as_score(score: Any) -> ScoreModel:
    """``score`` with every attribute of :class:`ScoreModel`, as :func:`as_diffusion` does.

    Raises:
        TypeError: it cannot be called, or an attribute is of another kind.
    """
    check_callable(score)
    model = score if isinstance(score, ScoreModel) else _view(ScoreModel, score)
    _check_kinds(model, _SCORE, "score")
    return model


# Objectives


class Objective(Protocol):
    """What a network is asked to minimise. What else it may have: :class:`Criterion`."""

    def loss(self, score: Any, x0: Tensor, generator: torch.Generator, /) -> Tensor:
        """Unbiased estimate of the loss of ``score``, 0-dim, from the data ``x0`` ``(B, d)``."""


class Criterion:
    """All that training may ask of an objective, with the default where it has no such thing.

    Attributes:
        state: ``() -> dict`` of named tensors, all that :attr:`restore` needs to go on.
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
    if not callable(getattr(objective, "loss", None)):
        raise TypeError(
            "objective: expected loss(score, x0, generator), found "
            f"{type(objective).__name__} without it: pass DenoisingSM, LocalDSM or a class of "
            "your own that has it"
        )
    criterion = objective if isinstance(objective, Criterion) else _view(Criterion, objective)
    _check_kinds(criterion, _OBJECTIVE, "objective")
    return criterion


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
                f"without {name}: define it, or pass a law of markovscore.priors"
            )
    law = prior if isinstance(prior, Law) else _view(Law, prior)
    _check_kinds(law, _LAW, "prior")
    return law


# Views


def original(thing: Any) -> Any:
    """The user's own object behind a view, or ``thing`` itself."""
    return thing.own if isinstance(thing, _View) else thing


def name_of(thing: Any) -> str:
    """The name of the user's own class, for messages."""
    return type(original(thing)).__name__


_ABSENT = object()


class _View:
    """An object with the defaults of a class of this module where it has no attribute."""

    __slots__ = ("own",)

    def __init__(self, own: Any) -> None:
        self.own = own

    def __repr__(self) -> str:
        return repr(self.own)


class _Read:
    """An attribute of a view: that of the user's object, else the default."""

    def __init__(self, name: str, default: Any) -> None:
        self.name, self.default = name, default

    def __get__(self, view: Any, owner: type) -> Any:
        value = getattr(view.own, self.name, _ABSENT)
        if value is _ABSENT:
            value = self.default
            return value.__get__(view) if inspect.isfunction(value) else value
        return value


@functools.cache
def _view_class(kind: Any) -> Any:
    names = [name for name in vars(kind) if not name.startswith("__")]
    readers: dict[str, Any] = {name: _Read(name, vars(kind)[name]) for name in names}
    if "__call__" in vars(kind):
        readers["__call__"] = lambda view, *args: view.own(*args)
    return type(f"{kind.__name__}View", (_View, kind), readers)


def _view(kind: type[Kind], own: Any) -> Kind:
    made: Any = kind
    view: Any = _view_class(made)
    return view(own)


# What an attribute is expected to be: a test of its value, and the words for it.
_Test = tuple[Callable[[Any], bool], str]


def _method(arguments: int, form: str, optional: bool = True) -> _Test:
    def fits(value: Any) -> bool:
        return (optional and value is None) or (callable(value) and _takes(value, arguments))

    return fits, f"a function {form}" + (" or None" if optional else "")


_FLAG: _Test = (lambda value: isinstance(value, bool), "True or False")
_CLOCK: _Test = (
    lambda value: all(
        callable(getattr(value, name, None)) for name in ("rate", "elapsed", "between", "inverse")
    ),
    "an object with rate, elapsed, between and inverse",
)
_PROCESS: dict[str, _Test] = {
    "drift": _method(2, "(y, t) -> (B, d)", optional=False),
    "dispersion": _method(1, "(t)", optional=False),
    "dim": (lambda value: value is None or is_integer(value), "an integer or None"),
    "horizon": (is_number, "a number"),
    "clock": _CLOCK,
    "elementwise": _FLAG,
    "autonomous": _FLAG,
    "reflects": _FLAG,
    "project": _method(1, "(y) -> (B, d)", optional=False),
    "contains": _method(1, "(x) -> (B,)", optional=False),
    "drift_divergence": _method(2, "(y, t) -> (B,)"),
    "drift_jacobian": _method(2, "(y, t) -> (B, d, d) or (B, d)"),
    "drift_and_vjp": _method(3, "(y, t, v) -> f, J^T v"),
    "sample_transition": _method(3, "(x0, t, generator) -> (B, d)"),
    "transition_score": _method(3, "(y, x0, t) -> (B, d)"),
    "std": _method(1, "(t)"),
    "evolve_gaussian": _method(3, "(mean, var, t) -> mean, var"),
    "shift_target": _method(3, "(states, noise, step) -> (B, d)"),
    "eigenbasis": _method(1, "(n_functions)"),
    "ou_time": _method(1, "(t)"),
}
_SCORE: dict[str, _Test] = {
    "score_and_divergence": _method(2, "(x, t) -> s, div s"),
    "divergence": _method(2, "(x, t) -> (B,)"),
    "probe_divergence": _method(3, "(x, t, probe) -> s, div s"),
    "finest_time": (lambda value: value is None or is_number(value), "a number or None"),
}
_OBJECTIVE: dict[str, _Test] = {
    "loss": _method(3, "(score, x0, generator) -> 0-dim", optional=False),
    "state": _method(0, "() -> dict"),
    "restore": _method(2, "(state, device)"),
    "description": _method(0, "() -> str"),
}
_LAW: dict[str, _Test] = {
    "score": _method(1, "(x) -> (B, d)", optional=False),
    "hessian": _method(1, "(x) -> (B, d, d) or (B, d)"),
    "score_and_hessian_product": _method(2, "(x, v) -> score, H v"),
}


def _check_kinds(thing: Any, tests: dict[str, _Test], noun: str) -> None:
    for name, (fits, words) in tests.items():
        value = getattr(thing, name)
        if not fits(value):
            raise TypeError(
                f"{noun}: expected {name_of(thing)}.{name} to be {words}, found {_shown(value)}: "
                "mend it, or leave it out"
            )


def _shown(value: Any) -> str:
    if not callable(value):
        return f"{type(value).__name__} {value!r}"[:80]
    return f"one that takes {inspect.signature(value)}"


def _takes(method: Callable[..., Any], arguments: int) -> bool:
    """Whether ``method`` can be called with so many positional arguments."""
    if isinstance(method, nn.Module):
        return True
    function = getattr(method, "__func__", None)
    try:
        if function is not None:
            return _bindable(function, arguments + 1)
        return _bindable(method, arguments)
    except TypeError:  # what has no hash is asked anew
        return _bindable.__wrapped__(method, arguments)


@functools.lru_cache(maxsize=1024)
def _bindable(function: Callable[..., Any], arguments: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except TypeError:
        return False
    except ValueError:  # no signature to read
        return True
    return True
