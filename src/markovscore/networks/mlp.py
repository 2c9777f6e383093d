"""Networks that represent a score ``s(x, t)``: the baseline of the closed-form estimators.

A network is a ``torch.nn.Module`` called as ``net(x, t)`` with ``x`` of shape ``(B, d)`` and ``t``
a float, a 0-dim tensor, ``(B,)`` or ``(B, 1)``; it returns ``(B, d)``.
Nothing forces the output to be a gradient: a regression-trained network is a score only
approximately, unlike a ``SpectralScore``.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ..core import as_input, check_from_start, check_integer, expand_like, ordinary_tensors

# log(t + T_FLOOR) is finite at t = 0 and equal to log(t), nearly, at the times used in training.
T_FLOOR = 1e-6
# Angular frequencies of the sinusoidal features of log t: the slowest makes under half a period
# over eight decades, the fastest one in a factor of eight; twice as fast did worse in trials.
N_FREQUENCIES, SLOWEST, FASTEST = 16, 0.1, 3.0
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class ScoreMLP(nn.Module):
    r"""Multilayer perceptron ``s(x, t)`` for points in ``R^d``, on the torus, or in a box.

    .. math:: s(x, t) = \frac{1}{\sigma(t)} W_{out}\, h_D, \qquad
              h_{l+1} = \mathrm{silu}(W_l h_l + b_l + U_l\, e(t)),\quad h_0 = x
              \text{ or } (\cos x, \sin x)

    ``e(t)`` are sines and cosines of ``log t`` at 16 geometric frequencies, so every decade of
    noise gets the same resolution; they enter each hidden layer as a shift.
    With ``std`` given, :math:`\sigma(t)` is the noise scale of the transition and the network
    before the division predicts minus the noise (Ho et al. 2020, arXiv:2006.11239, section 3.2):
    its output is then of order one at all times, which is what makes small times learnable.
    The last layer starts a hundred times smaller than the others, so training starts close to the
    zero score.

    Args:
        dim: number of coordinates ``d`` of a point.
        width: units of a hidden layer.
        depth: number of hidden layers.
        periodic: feed ``(cos x, sin x)``, so the score is ``2 pi``-periodic in each coordinate.
        std: a function of ``t`` ``(B,)``, e.g. ``diffusion.std``; the output is divided by it, and
            ``t`` must be positive.
        generator: source of the initial weights, on the CPU; by default one seeded with 0, so that
            two networks built alike are equal. The global random state is neither read nor changed.

    Raises:
        ValueError: ``dim``, ``width`` or ``depth`` below one; at a call, ``x`` not ``(B, dim)``, or
            ``t`` of another shape than those.
        TypeError: ``x`` has another dtype than the parameters.
    """

    frequencies: Tensor

    @ordinary_tensors()
    def __init__(
        self,
        dim: int,
        width: int = 256,
        depth: int = 3,
        periodic: bool = False,
        std: Callable[[Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        dim, width = check_integer(dim, "dim"), check_integer(width, "width")
        depth = check_integer(depth, "depth")
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        self.dim, self.periodic, self.std = dim, periodic, std
        sizes = [2 * dim if periodic else dim] + [width] * depth
        self.hidden = nn.ModuleList(linear(a, b, generator) for a, b in pairwise(sizes))
        # One matrix product makes the shifts of all the layers.
        self.time = linear(2 * N_FREQUENCIES, depth * width, generator)
        self.out = linear(width, dim, generator, gain=0.01)
        self.register_buffer("frequencies", time_frequencies())

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Score ``(B, d)`` at ``x`` ``(B, d)`` and ``t``: one, ``(B,)`` or ``(B, 1)``."""
        x = self._checked(x)
        # One time for all points stays one row: its features are then computed once.
        t = check_from_start(expand_like(t, x))
        shifts = self.time(time_features(t, self.frequencies)).chunk(len(self.hidden), dim=-1)
        h = torch.cat([x.cos(), x.sin()], dim=-1) if self.periodic else x
        for layer, shift in zip(self.hidden, shifts, strict=True):
            h = silu(layer(h) + shift)
        y = self.out(h).to(x.dtype)  # under autocast of lower precision than the noise scale
        return y if self.std is None else y / expand_like(self.std(t[:, 0]), y)

    def _checked(self, x: Tensor) -> Tensor:
        x = as_input(x, self.out.weight)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(
                f"x: expected shape (B, {self.dim}), found {tuple(x.shape)}: build the network "
                "with dim equal to the number of coordinates"
            )
        if x.dtype != self.out.weight.dtype:
            raise TypeError(
                f"x: expected the network's dtype {self.out.weight.dtype}, found {x.dtype}: "
                f"convert the points, or the network with net.to({x.dtype})"
            )
        return x


# Parts shared by all networks


def time_frequencies() -> Tensor:
    """The 16 geometric angular frequencies of :func:`time_features`."""
    return torch.logspace(math.log10(SLOWEST), math.log10(FASTEST), N_FREQUENCIES)


def time_features(t: Tensor, frequencies: Tensor) -> Tensor:
    """Sines and cosines of ``log t``, ``(..., 2 F)`` for times ``(..., 1)``."""
    phase = torch.log(t + T_FLOOR) * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def linear(inputs: int, outputs: int, generator: torch.Generator, gain: float = 1.0) -> nn.Linear:
    """A linear layer with weights ``N(0, gain^2 / inputs)`` from ``generator`` and zero bias."""
    # skip_init: the usual constructor would draw from the global random state.
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    return initialise(layer, gain / math.sqrt(inputs), generator)


def initialise(layer: Layer, std: float, generator: torch.Generator) -> Layer:
    """``layer`` with weights ``N(0, std^2)`` from ``generator`` and zero bias."""
    if layer.weight.device == generator.device:
        nn.init.normal_(layer.weight, std=std, generator=generator)
    else:  # under another default device; the numbers are the generator's
        drawn = torch.empty(layer.weight.shape, device=generator.device)
        with torch.no_grad():
            layer.weight.copy_(drawn.normal_(std=std, generator=generator))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
