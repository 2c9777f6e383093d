r"""Objectives for processes that have no exact transition: local-DSM, path-shift DSM, implicit.

Each simulates the forward process, and has, beside ``losses`` and ``loss`` as in
``markovscore.objectives``, a buffer of paths: ``loss``, which training calls, takes its rows from
there and refills it, when it is empty, with paths from ``x0`` (:class:`PathBuffer` says how often,
and why that is unbiased); ``losses`` always simulates ``x0`` itself and leaves the buffer alone.
``state`` and ``restore`` let ``train`` save the buffer; every run of it starts with an empty one.
A buffer holds ``ahead * B`` rows of a few numbers per coordinate: for images of 3072 pixels and
``B = 64`` some 10 MB, for ``B = 512`` 100 MB, where ``ahead = 1`` does as well.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..core import (
    DiffusionLike,
    Score,
    as_diffusion,
    as_score,
    check_field,
    check_steps,
    jacobian_at,
    name_of,
    noise_at,
    noise_norm,
    score_and_trace,
)
from ..diffusions import draw_state, propagate
from ..targets import (
    Schedule,
    Weight,
    check_drift,
    check_schedule,
    check_score,
    check_walls,
    kept_ends,
    law_draw,
    local_draw,
    shifted_path,
    small_laws,
    window_ends,
    wrapped,
)
from .denoising import check_data
from .draws import PathBuffer, Rows, TimeSampler
from .pilot import SEED, WEIGHTS, WIDEST, Choice, candidates, choose, pilot_rows

# Numbers in a block of paths. A CPU's cache holds the few arrays of this size that a step touches:
# 512 images of 3 x 32 x 32 take half the time in blocks of 85 that they take at once.
BLOCK = 2**18
# Euler steps on a local window whose drift is looked at: where its paths are, no more.
_CHECK_STEPS = 4


class _PathObjective:
    """Times, buffer and entry checks; a subclass gives ``_paths``, ``_terms`` and ``_settings``."""

    def __init__(
        self,
        diffusion: DiffusionLike,
        steps: int,
        reuse: int,
        ahead: int,
        t_min: float,
        t_max: float | None,
        times: str,
        check_derivative: bool,
    ) -> None:
        process = as_diffusion(diffusion)
        check_walls(process)
        self.check_derivative = check_derivative
        self._times = TimeSampler(process, t_min, t_max, times)
        self.t_min, self.t_max = self._times.low, self._times.high
        self.diffusion, self._process = diffusion, process
        self.steps, self.times = check_steps(steps), times
        self.buffer = PathBuffer(reuse, ahead)

    def __repr__(self) -> str:
        return self.description()

    def description(self) -> str:
        """The settings, of which a checkpoint is."""
        d = self._process
        horizon = None if d.horizon == math.inf else d.horizon
        process = f"{name_of(d)}(dim={d.dim}, horizon={horizon})"
        settings = {**self._settings(), "steps": self.steps}
        settings |= {"reuse": self.buffer.reuse, "ahead": self.buffer.ahead}
        settings |= {"t_min": self.t_min, "t_max": self.t_max, "times": self.times}
        listed = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        return f"{type(self).__name__}({process}, {listed})"

    def loss(self, score: Score, x0: Tensor, generator: torch.Generator) -> Tensor:
        """Unbiased estimate of the loss, 0-dim, from ``B`` rows of the buffer.

        ``x0`` is as in :meth:`losses`; fresh paths start there where some are due.
        """
        as_score(score)
        x0 = check_data(self._process, x0)
        self._prepare(x0)
        rows = self.buffer.draw(lambda start: self._blocks(start, generator), x0, generator)
        return self._terms(score, generator, *rows).mean()

    def losses(self, score: Score, x0: Tensor, generator: torch.Generator) -> Tensor:
        """One independent, unbiased estimate per data point, ``(B,)``, from fresh paths.

        ``x0`` is ``(B, d)``, floating point, finite, in the diffusion's domain; the result has its
        dtype and device, and ``generator`` must be on that device.
        """
        as_score(score)
        x0 = check_data(self._process, x0)
        self._prepare(x0)
        return self._terms(score, generator, *self._blocks(x0, generator))

    def state(self) -> dict[str, Tensor]:
        """The buffer as named tensors, for a checkpoint."""
        return self.buffer.state()

    def restore(self, state: dict[str, Tensor], device: torch.device | None = None) -> None:
        """Continue from ``state``; an empty one forgets all paths."""
        self.buffer.restore(state, device)

    def _prepare(self, x0: Tensor) -> None:
        """What must be known before the first batch."""

    def _blocks(self, x0: Tensor, generator: torch.Generator) -> Rows:
        """``_paths`` from all rows of ``x0``; on a CPU a block after the other."""
        if x0.numel() <= BLOCK or x0.device.type != "cpu":
            return self._paths(x0, generator)
        blocks = x0.split(max(1, BLOCK // x0.shape[1]))
        parts = [self._paths(block, generator) for block in blocks]
        return tuple(torch.cat(field) for field in zip(*parts, strict=True))

    def _start(self, x0: Tensor, s: Tensor, generator: torch.Generator) -> Tensor:
        """``Y_s`` from ``x0``, for the starts of windows, float64 ``(B,)`` on the CPU."""
        return propagate(self._process, x0, torch.zeros_like(s), s, self.steps, generator)

    def _settings(self) -> dict[str, Any]:
        raise NotImplementedError

    def _paths(self, x0: Tensor, generator: torch.Generator) -> Rows:
        raise NotImplementedError

    def _terms(self, score: Score, generator: torch.Generator, *rows: Tensor) -> Tensor:
        raise NotImplementedError


class LocalDSM(_PathObjective):
    r"""Denoising score matching with the local, linearised transition ``q(y_t | y_s)``.

    .. math:: L(\theta) = \frac{1}{T - t_{min}} \int_{t_{min}}^T E\,
              \| s_\theta(y_t, t) - \nabla_{y_t} \log q(y_t | y_s) \|^2_\Lambda\, dt,
              \qquad y_s \sim q(\cdot | x_0),\ s = s(t)

    (Singhal, Goldstein and Ranganath 2024, lemma 1 and algorithms 1 and 2). By the lemma the
    minimiser is the score; the linearisation biases it, by an amount that shrinks with the window
    (:func:`local_transition`), and not at all for a linear process with constant ``G``.
    ``y_s`` comes from the buffer, with the transition that starts there unless that is diagonal or
    in more than 8 dimensions; the noise of the window is drawn anew at each use.

    Args:
        diffusion: has ``drift`` and ``dispersion``; a singular ``G`` will do where it reaches every
            coordinate through the drift.
        window: a length of clock, :func:`clock_window`; or a schedule ``t (B,) -> s (B,)`` with
            ``0 <= s < t``, for instance ``lambda t: fixed_window(t, 0.05)``.
        steps: Euler steps from 0 to ``s``.
        weighting: ``"likelihood"`` for ``Lambda = G(t) G(t)^T``; ``"perceptual"`` for the local
            covariance ``P``, which makes every term the squared error of the window's noise.
            ``P`` depends on ``y_s``, so the minimiser is then off the score by first order in the
            window, where the likelihood weighting's is by second order. To weigh all noise levels
            alike without that, take the likelihood weighting with ``times="importance"``: every
            term is then, up to one constant, ``std(t)^2 |s - target|^2``, the error of a noise
            prediction with a scale that depends on ``t`` alone. That is a weighting only; whether
            the network *returns* a score or a noise (the paper's score parametrisations) is its own
            business, ``std`` of ``ScoreMLP``.
        reuse, ahead: uses of a path, and batches simulated at a time (:class:`PathBuffer`).
        t_min, t_max, times: as in :class:`DenoisingSM`.
        check_derivative: as in :func:`path_shift_target`, of the Jacobian that the linearisation
            takes.

    Raises:
        TypeError: no drift or dispersion, or a window that is neither a number nor a schedule.
        ValueError: a window that is not positive, ``steps < 1``, malformed times, an unknown
            weighting, a process with walls; at a call, malformed data, a schedule outside
            ``0 <= s < t``, and all that :func:`simulate` and :func:`local_target` raise.
    """

    def __init__(
        self,
        diffusion: DiffusionLike,
        window: float | Schedule = 0.1,
        steps: int = 20,
        weighting: str = "likelihood",
        *,
        reuse: int = 1,
        ahead: int = 8,
        t_min: float = 1e-3,
        t_max: float | None = None,
        times: str = "uniform",
        check_derivative: bool = True,
    ) -> None:
        super().__init__(diffusion, steps, reuse, ahead, t_min, t_max, times, check_derivative)
        self.window, self.weighting = check_schedule(window), _check_weighting(weighting)

    def _settings(self) -> dict[str, Any]:
        return {"window": self.window, "weighting": self.weighting}

    def _paths(self, x0: Tensor, generator: torch.Generator) -> Rows:
        """The first half of algorithm 1: a time, the start of its window, the process there."""
        t, importance = self._times.draw(x0, generator)
        start, end = window_ends(self._process, self.window, t)
        y_s = self._start(x0, start, generator)
        if self.check_derivative:
            check_drift(self._process, y_s, start, end, _CHECK_STEPS, jacobian=True)
        return y_s, start.to(t), t, importance, *small_laws(self._process, y_s, start, end)

    def _terms(self, score: Score, generator: torch.Generator, *rows: Tensor) -> Tensor:
        """Algorithm 2, linearise and draw ``y_t``; and the rest of algorithm 1, the loss."""
        y_s, s, t, importance, *law = rows
        if law:
            m, factor = law
            y_t, target, C, z = law_draw(m, factor, y_s, generator)
        else:
            ends = kept_ends(self._process, s, t)
            y_t, target, C, z = local_draw(self._process, y_s, *ends, generator)
        y_t = wrapped(self._process, y_t, t)
        prediction = check_field(score(y_t, t), y_t, "score")
        if self.weighting == "perceptual":
            noise = -(C.T @ prediction.to(z)).to(y_s)
            return importance * (noise - z.to(y_s)).square().sum(1)
        return importance * noise_norm(self._process, prediction - target, t)


class PathShiftDSM(_PathObjective):
    r"""Score regression on path-shift targets: local-DSM without its bias.

    .. math:: L(\theta) = \frac{1}{T - t_{min}} \int_{t_{min}}^T E\,
              \| s_\theta(Y_t, t) - \text{target} \|^2_\Lambda\, dt,
              \qquad E[\text{target} | Y_t] = \nabla \log \rho_t(Y_t)

    (:func:`path_shift_target`; Driver 1997, Wang 2014). No linearisation, so the window may be as
    long as ``[0, t]``; which length is best depends on the process: the variance of the target
    first falls with it and then grows with the squared Jacobian along the path. Points and targets
    come from the buffer.

    **The pilot.** What is not given of ``window`` and ``weight`` is chosen before the first batch
    (of every run of ``train``) by the measured variance of a few hundred targets from its points,
    in the loss's own norm and over its own times: five windows, the whole clock and its thirds to
    1/81, and three weights, ``"linear"``, ``"quadratic"`` and, where Jacobians are diagonal or at
    most 64 wide, ``"adaptive"``, which costs more a step and is taken only where it saves a fifth
    of the variance beyond doubt. The pilot has a generator of its own; ``choice``, the ``repr`` and
    the logger ``markovscore.pilot`` show what it found; checkpoints hold it.

    Args:
        diffusion: as in :func:`path_shift_target`: ``G G^T`` invertible, or a ``shift_target``.
        window: as in :class:`LocalDSM`; windows that would start before 0 start there. None: by
            the pilot.
        steps: Euler steps from 0 to ``s``, and as many on the window.
        weighting: ``"likelihood"`` for ``Lambda = G G^T``; ``"perceptual"`` for
            ``G(t) G(t)^T int_s^t beta / beta(t)``, the local covariance to first order. Both are
            functions of ``t`` alone, so neither moves the minimiser. ``times="importance"`` with
            the likelihood weighting weighs by ``std(t)^2``, as in :class:`LocalDSM`.
        weight: the path of the shift, as in :func:`path_shift_target`. None: by the pilot.
        reuse, ahead: uses of a path, and batches simulated at a time (:class:`PathBuffer`).
        t_min, t_max, times: as in :class:`DenoisingSM`.
        check_derivative: as in :func:`path_shift_target`.

    Raises:
        TypeError, ValueError: as in :class:`LocalDSM`, and all that :func:`path_shift_target`
            raises.
    """

    def __init__(
        self,
        diffusion: DiffusionLike,
        window: float | Schedule | None = None,
        steps: int = 20,
        weighting: str = "likelihood",
        *,
        weight: Weight = None,
        reuse: int = 1,
        ahead: int = 8,
        t_min: float = 1e-3,
        t_max: float | None = None,
        times: str = "uniform",
        check_derivative: bool = True,
    ) -> None:
        super().__init__(diffusion, steps, reuse, ahead, t_min, t_max, times, check_derivative)
        self.window = None if window is None else check_schedule(window)
        self.weight, self.weighting = weight, _check_weighting(weighting)
        self.choice: Choice | None = None

    def _settings(self) -> dict[str, Any]:
        window, weight = ("pilot" if v is None else v for v in (self.window, self.weight))
        return {"window": window, "weighting": self.weighting, "weight": weight}

    def __repr__(self) -> str:
        if self.choice is None:
            return self.description()
        chosen = f"chosen window={self.choice.window!r}, weight={self.choice.weight!r}"
        return f"{self.description()[:-1]}, {chosen})"

    def state(self) -> dict[str, Tensor]:
        """The buffer and the pilot's choice as named tensors, for a checkpoint."""
        if self.choice is None:
            return super().state()
        c = self.choice
        place = torch.tensor([c.windows.index(c.window), c.weights.index(c.weight)])
        tables = torch.stack([c.variance, c.error])
        return super().state() | {"choice": place, "choice.tables": tables}

    def restore(self, state: dict[str, Tensor], device: torch.device | None = None) -> None:
        """Continue from ``state``; an empty one forgets all paths, and the choice."""
        named, self.choice = dict(state), None
        if "choice" in named:
            i, k = named.pop("choice").tolist()
            variance, error = named.pop("choice.tables").cpu()
            windows, weights = self._candidates(variance.shape[1])
            self.choice = Choice(windows[i], weights[k], variance, error, windows, weights)
        super().restore(named, device)

    def _prepare(self, x0: Tensor) -> None:
        """The pilot, where something is to be chosen and nothing is yet."""
        if self.choice is not None or None not in (self.window, self.weight):
            return
        if self._process.shift_target is not None and self.window is not None:
            return  # one rule, one window
        full = not self._diagonal(x0)
        wide = full and x0.shape[1] > WIDEST
        windows, weights = self._candidates(
            1 if self._process.shift_target is not None else 2 if wide else 3
        )
        count = pilot_rows(x0.shape[1], full and "adaptive" in weights)
        start = x0[torch.arange(count, device=x0.device) % len(x0)].detach()

        def squares(window: Any, weight: Any) -> Tensor:
            generator = torch.Generator(device=x0.device).manual_seed(SEED)
            t, importance = self._times.draw(start, generator)
            ends = window_ends(self._process, window, t)
            _, target = self._shifted(start, ends, generator, weight, False)
            if self.weighting == "perceptual":  # by that of the longest window: common to all
                length = self._length(torch.zeros_like(ends[1]), ends[1])
                importance = importance * length.to(importance)
            return importance * noise_norm(self._process, target, t)

        self.choice = choose(windows, weights, squares)

    def _candidates(self, weights: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Windows, and so many weights, of which the given ones are the only ones."""
        windows = candidates(self._process, self.t_max) if self.window is None else (self.window,)
        return windows, WEIGHTS[:weights] if self.weight is None else (self.weight,)

    def _diagonal(self, x0: Tensor) -> bool:
        d = self._process
        if d.elementwise or d.drift_jacobian is None:
            return d.elementwise
        return jacobian_at(d, x0[:1].detach(), x0.new_full((1,), self.t_max)).is_diagonal

    def _length(self, s: Tensor, t: Tensor) -> Tensor:
        """``int_s^t beta / beta(t)``."""
        clock = self._process.clock
        return clock.between(s, t) / clock.rate(t)

    def _shifted(
        self,
        x0: Tensor,
        ends: tuple[Tensor, Tensor],
        generator: torch.Generator,
        weight: Weight,
        check_derivative: bool,
    ) -> tuple[Tensor, Tensor]:
        y_s, steps = self._start(x0, ends[0], generator), self.steps
        return shifted_path(self._process, y_s, *ends, steps, generator, weight, check_derivative)

    def _paths(self, x0: Tensor, generator: torch.Generator) -> Rows:
        window: Any = self.window
        weight: Any = self.weight
        if self.choice is not None:
            window, weight = self.choice.window, self.choice.weight
        t, importance = self._times.draw(x0, generator)
        ends = window_ends(self._process, window, t)
        y_t, target = self._shifted(x0, ends, generator, weight, self.check_derivative)
        if self.weighting == "perceptual":
            importance = importance * self._length(*ends).to(importance)
        return y_t, target, t, importance

    def _terms(self, score: Score, generator: torch.Generator, *rows: Tensor) -> Tensor:
        y_t, target, t, importance = rows
        prediction = check_field(score(y_t, t), y_t, "score")
        return importance * noise_norm(self._process, prediction - target, t)


class ImplicitSM(_PathObjective):
    r"""Implicit score matching (Hyvarinen 2005, JMLR 6): no target, but a trace.

    .. math:: L(\theta) = \frac{1}{T - t_{min}} \int_{t_{min}}^T E\, \big[
              \| G^\top s_\theta(Y_t, t) \|^2 + 2 \operatorname{div}(G G^\top s_\theta)(Y_t, t)
              \big]\, dt,

    the explicit loss ``E |G^T (s - grad log rho_t)|^2`` less ``E |G^T grad log rho_t|^2``. ``Y_t``
    is an exact draw where the diffusion has ``sample_transition``, else simulated; buffered.

    Args:
        diffusion: has ``drift`` and ``dispersion``; ``sample_transition`` is used where it has it.
        trace: ``"exact"``, one backward pass for each column of ``G``; ``"hutchinson"``, one in
            all, ``v^T G^T Ds G v`` for random signs ``v``, drawn anew at each use (Hutchinson 1990;
            Song et al. 2020, arXiv:1905.07088, for score matching).
        steps: Euler steps from 0 to ``t``.
        reuse, ahead: uses of a point, and batches simulated at a time (:class:`PathBuffer`,
            which says why more than one use does harm here).
        t_min, t_max, times: as in :class:`DenoisingSM`.
        check_derivative: look, at the first batch of every run, whether the score's derivative
            accounts for its change between points (``markovscore.targets.derivative``): the trace
            of one that is partly detached is wrong, and minimising the loss finds out how to
            profit.

    Raises:
        TypeError, ValueError: an unknown trace, and as in :class:`LocalDSM`; at a call, a score
            that autograd cannot follow.
    """

    def __init__(
        self,
        diffusion: DiffusionLike,
        trace: str = "exact",
        steps: int = 20,
        *,
        reuse: int = 1,
        ahead: int = 8,
        t_min: float = 1e-3,
        t_max: float | None = None,
        times: str = "uniform",
        check_derivative: bool = True,
    ) -> None:
        super().__init__(diffusion, steps, reuse, ahead, t_min, t_max, times, check_derivative)
        if trace not in ("exact", "hutchinson"):
            raise ValueError(f"trace: expected 'exact' or 'hutchinson', found {trace!r}")
        self.trace, self._looked = trace, False

    def restore(self, state: dict[str, Tensor], device: torch.device | None = None) -> None:
        """Continue from ``state``; the score is looked at anew."""
        super().restore(state, device)
        self._looked = False

    def _settings(self) -> dict[str, Any]:
        return {"trace": self.trace}

    def _paths(self, x0: Tensor, generator: torch.Generator) -> Rows:
        t, importance = self._times.draw(x0, generator)
        y = draw_state(self._process, x0, t, self.steps, generator)
        wrapped(self._process, y, t)  # refuses walls; the points are in the domain already
        return y, t, importance

    def _terms(self, score: Score, generator: torch.Generator, *rows: Tensor) -> Tensor:
        y, t, importance = rows
        if self.check_derivative and not self._looked:
            check_score(score, y, t, noise_at(self._process, y, t))
            self._looked = True
        probe = generator if self.trace == "hutchinson" else None
        s, divergence = score_and_trace(self._process, score, y, t, probe)
        return importance * (noise_norm(self._process, s, t) + 2 * divergence)


# Parts


def _check_weighting(weighting: str) -> str:
    if weighting not in ("likelihood", "perceptual"):
        raise ValueError(f"weighting: expected 'likelihood' or 'perceptual', found {weighting!r}")
    return weighting
