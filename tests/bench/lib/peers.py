"""The package's processes as other libraries want them."""

from collections.abc import Callable
from typing import Any

import torch


class Peer:
    """A diffusion for torchsde; drift and dispersion are the very same calls."""

    sde_type = "ito"

    def __init__(self, process: Any) -> None:
        self.process = process
        matrix = torch.as_tensor(process.dispersion(0.0)).ndim == 2
        self.noise_type = "general" if matrix else "diagonal"

    def f(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.process.drift(y, t)

    def g(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        G = torch.as_tensor(self.process.dispersion(t)).to(y)
        return G.expand(len(y), -1, -1) if G.ndim == 2 else G.expand_as(y)


def torchsde_euler(process: Any, y: torch.Tensor, end: float, steps: int) -> Callable[[], object]:
    """torchsde's Euler scheme from ``y`` at 0, as fast as it can be asked for.

    The span is in double precision, or rounding may leave a sliver of a step at the end; the tree
    of its Brownian path is told the step, or it guesses one from the first interval it sees.
    """
    import torchsde

    peer, span = Peer(process), torch.tensor([0.0, end], dtype=torch.float64, device=y.device)
    G = torch.as_tensor(process.dispersion(0.0))
    size = (len(y), G.shape[1] if G.ndim == 2 else y.shape[1])

    def run() -> object:
        noise = torchsde.BrownianInterval(
            0.0, end, size=size, dtype=y.dtype, device=y.device, dt=end / steps
        )
        with torch.no_grad():
            return torchsde.sdeint(peer, y, span, bm=noise, dt=end / steps, method="euler")

    return run
