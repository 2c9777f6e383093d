"""The package's processes as other libraries want them."""

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
