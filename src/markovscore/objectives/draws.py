r"""The random times of an objective, and the weights that make up for how they are drawn.

Every objective is an average over ``t`` uniform on ``[t_min, t_max]``. Drawn with another density
``q``, each term carries the weight ``1 / ((t_max - t_min) q(t))``, so that its mean is the same.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..core import (
    Diagonal,
    Process,
    Scalar,
    check_generator,
    check_integer,
    check_time_range,
    name_of,
    noise_at,
)

# Pieces of the table behind "importance": over seven decades each is 1.6% long in t.
PIECES = 1024


class TimeSampler:
    """Times in ``[t_min, t_max]`` and their weights; ``kind`` as in ``DenoisingSM``.

    The density of ``"importance"`` is tabulated once: that of ``log t`` is constant on each of
    1024 equal pieces, with the value of ``t |G(t)|^2 / std(t)^2`` in its middle. Draws invert its
    distribution function exactly, and the weights are those of the density that is drawn, so the
    pieces' length costs a little variance and no bias.

    Raises:
        TypeError: ``"importance"`` for a diffusion without ``std``.
        ValueError: as :func:`check_time_range`; ``"importance"`` for a dispersion that is a matrix,
            or where ``|G|^2 / std^2`` is not finite and positive.
    """

    def __init__(self, process: Process, t_min: float, t_max: float | None, kind: str) -> None:
        self.low, self.high = check_time_range(process.horizon, t_min, t_max, kind)
        self.kind, self._log_span = kind, math.log(self.high / self.low)
        if kind == "importance":
            self._share = self._tabulate(process)
            self._start = torch.cat([torch.zeros(1).double(), self._share.cumsum(0)[:-1]])

    def draw(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A time and its weight ``1 / ((t_max - t_min) q(t))`` for each row, ``(B,)`` each, with
        the dtype and device of ``x0``."""
        check_generator(generator, x0.device)
        span = self.high - self.low
        if self.kind == "importance":
            log_t, density = self._invert(len(x0), generator)
            t = (self.low * log_t.exp()).clamp(max=self.high)
            return t.to(x0), (t / (span * density)).to(x0)
        u = torch.rand(len(x0), generator=generator, dtype=x0.dtype, device=x0.device)
        if self.kind == "uniform":
            return self.low + span * u, torch.ones_like(u)
        t = self.low * torch.exp(self._log_span * u)
        return t, t * (self._log_span / span)

    def _invert(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws of ``log(t / t_min)`` and their density, float64 ``(n,)``."""
        device, length = generator.device, self._log_span / PIECES
        if self._share.device != device:
            self._share, self._start = self._share.to(device), self._start.to(device)
        u = torch.rand(n, generator=generator, dtype=torch.float64, device=device)
        piece = torch.searchsorted(self._start, u, right=True) - 1
        share = self._share[piece]
        inside = ((u - self._start[piece]) / share).clamp(max=1)
        return length * (piece + inside), share / length

    def _tabulate(self, process: Process) -> Tensor:
        """The probability of every piece, float64."""
        if process.std is None:
            raise TypeError(
                "times: 'importance' expected a diffusion with std(t), the noise scale, found "
                f"{name_of(process)} without it: define it, or use 'uniform' or 'log'"
            )
        middle = (torch.arange(PIECES, dtype=torch.float64) + 0.5) / PIECES
        t = self.low * torch.exp(self._log_span * middle)
        rows = t.new_zeros(()).expand(PIECES, process.dim or 1)
        G = noise_at(process, rows, t)
        if not isinstance(G, Scalar):
            kind = "diagonal" if isinstance(G, Diagonal) else "matrix"
            raise ValueError(
                "times: 'importance' expected a scalar dispersion, found "
                f"{name_of(process)} with a {kind}: use 'uniform' or 'log'"
            )
        mass = t * (G.rows / torch.as_tensor(process.std(t), dtype=torch.float64)).square()
        good = torch.isfinite(mass) & (mass > 0)
        if not bool(good.all()):
            at = int((~good).nonzero()[0])
            raise ValueError(
                "times: 'importance' expected finite positive |G(t)| / std(t), found "
                f"|G / std|^2 = {float(mass[at] / t[at]):g} at t = {float(t[at]):g}: use 'uniform' "
                "or 'log'"
            )
        return mass / mass.sum()


Rows = tuple[Tensor, ...]


class PathBuffer:
    """``ahead`` batches of simulated rows, handed out in random order, ``reuse`` times each.

    A call of :meth:`draw` returns as many rows as the batch ``x0`` has, ``B``. Where none are left
    it first simulates ``ahead * B`` rows, ``ahead`` of them from every point of that ``x0``, and
    puts them in ``reuse`` random orders, one after the other. So, per ``ahead * reuse`` calls,

    * one simulation of ``ahead * B`` rows: the refresh rate is ``1 / reuse`` fresh rows per row;
    * every row is drawn exactly ``reuse`` times, and the ``x0`` of the other calls is not used.

    **Unbiased.** Which rows are drawn does not depend on what is in them, so every row of every
    batch has exactly the law of a freshly simulated one, and the mean of any function of it (a loss
    at fixed weights) is the same with the buffer as without. What changes is the dependence:
    batches of one filling share starting points and, where ``reuse > 1``, paths. An average over
    many calls has the variance of the fresh rows, not of all draws.

    **Reuse is not harmless where a network trains**, which has seen the rows before. Measured on
    the checkerboard with a mixture prior (2,000 steps, mean log-likelihood, optimum -2.08; the
    book's chapter on priors): eight uses took implicit score matching with the exact trace from
    -2.74 to -3.50, since a loss without targets is unbounded below on a finite set of points,
    path-shift DSM from -2.68 to -2.78, and local-DSM, which draws the noise of the window anew,
    from -2.87 to -2.86. Simulating ahead costs nothing of the kind.

    Args:
        reuse: uses of a row; 1 makes every path a fresh one.
        ahead: batches simulated at a time.

    Raises:
        ValueError: ``reuse`` or ``ahead`` is not an integer >= 1.
    """

    def __init__(self, reuse: int = 1, ahead: int = 8) -> None:
        self.reuse, self.ahead = check_integer(reuse, "reuse"), check_integer(ahead, "ahead")
        self._rows: Rows = ()
        self._order = torch.zeros(0, dtype=torch.int64)  # of the rows still to be handed out,
        self._left = 0  # and how many orders are to come after this one

    def __repr__(self) -> str:
        return f"PathBuffer(reuse={self.reuse}, ahead={self.ahead})"

    def draw(
        self, simulate: Callable[[Tensor], Rows], x0: Tensor, generator: torch.Generator
    ) -> Rows:
        """As many rows as ``x0`` ``(B, d)`` has, of every tensor that ``simulate(x0)`` returns.

        ``simulate`` makes a row from every point it is given, the first tensor of the kind of
        ``x0``; ``generator`` orders the rows, on their device. Rows of another dtype, device or
        dimension than ``x0``, and a rest smaller than a batch, are forgotten.
        """
        if self.reuse == self.ahead == 1:
            return simulate(x0)
        if self._rows and _kind(self._rows[0]) != _kind(x0):
            self.restore({})
        held = len(self._rows[0]) if self._rows else 0
        if len(self._order) + self._left * held < len(x0):
            self._rows = simulate(x0.repeat(self.ahead, *[1] * (x0.ndim - 1)))
            self._order, self._left = self._order[:0], self.reuse
        while len(self._order) < len(x0):
            count, device = len(self._rows[0]), self._rows[0].device
            again = torch.randperm(count, generator=generator, device=device)
            self._order, self._left = torch.cat([self._order.to(device), again]), self._left - 1
        chosen, self._order = self._order[: len(x0)], self._order[len(x0) :]
        return tuple(field[chosen] for field in self._rows)

    def state(self) -> dict[str, Tensor]:
        """All that :meth:`restore` needs to go on as if nothing had happened, as named tensors."""
        named = {str(i): field for i, field in enumerate(self._rows)}
        return named | {"order": self._order, "left": torch.tensor(self._left)}

    def restore(self, state: dict[str, Tensor], device: torch.device | None = None) -> None:
        """Continue from a :meth:`state`; an empty one empties the buffer."""
        self._order = state.get("order", self._order[:0]).to(device)
        self._left = int(state.get("left", 0))
        self._rows = tuple(state[str(i)].to(device) for i in range(len(state) - 2))


def _kind(y: Tensor) -> tuple[torch.dtype, torch.device, torch.Size]:
    return y.dtype, y.device, y.shape[1:]
