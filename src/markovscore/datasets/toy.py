"""Two-dimensional toy sets."""

import math

import torch
from torch import Tensor

from ..core import check_generator, check_integer

TOY_NAMES = ("8gaussians", "2spirals", "pinwheel", "checkerboard", "rings", "moons", "swissroll")


def toy(
    name: str,
    n: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """``n`` independent points ``(n, 2)`` of the toy set ``name``, one of ``TOY_NAMES``.

    The sets are those common since FFJORD (Grathwohl et al. 2019, arXiv:1810.01367); other code
    differs in scales and noise, and the exact definitions here are in the source of this module.
    The points have ``dtype`` (default: torch's) and lie on ``device`` (default: the generator's, or
    the CPU), at a distance of a few units from the origin.

    Raises:
        ValueError: an unknown name (the message lists the known ones), or ``n < 1``.
    """
    samplers = (
        _eight_gaussians,
        _two_spirals,
        _pinwheel,
        _checkerboard,
        _rings,
        _moons,
        _swissroll,
    )
    if name not in TOY_NAMES:
        raise ValueError(f"name: expected one of {', '.join(TOY_NAMES)}, found {name!r}")
    draw = Draw(n, generator, dtype, device)
    return samplers[TOY_NAMES.index(name)](draw)


class Draw:
    """Independent draws ``(n,)``, all from one generator."""

    def __init__(
        self,
        n: int,
        generator: torch.Generator | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ):
        check_generator(generator)
        if device is None and generator is not None:
            device = generator.device
        self.n, self.generator = check_integer(n, "n"), generator
        self.dtype, self.device = dtype, device

    def uniform(self) -> Tensor:
        return torch.rand(self.n, generator=self.generator, dtype=self.dtype, device=self.device)

    def normal(self) -> Tensor:
        return torch.randn(self.n, generator=self.generator, dtype=self.dtype, device=self.device)

    def choice(self, high: int) -> Tensor:
        return torch.randint(high, (self.n,), generator=self.generator, device=self.device)

    def turn(self, parts: int) -> Tensor:
        """One of ``parts`` equal angles, in the dtype of the points."""
        dtype = torch.get_default_dtype() if self.dtype is None else self.dtype
        return self.choice(parts).to(dtype) * (2 * math.pi / parts)


def _stack(x1: Tensor, x2: Tensor) -> Tensor:
    return torch.stack([x1, x2], dim=1)


def _eight_gaussians(draw: Draw) -> Tensor:
    """Standard deviation 0.5 around eight points on a circle of radius 4; all divided by 1.414."""
    angle = draw.turn(8)
    noise = _stack(draw.normal(), draw.normal())
    return (4 * _stack(angle.cos(), angle.sin()).to(noise) + 0.5 * noise) / 1.414


def _two_spirals(draw: Draw) -> Tensor:
    """``+- (-u cos u + U/2, u sin u + U/2) / 3`` with ``u = 3 pi sqrt(U)``, plus ``0.1 Z``."""
    u = 3 * math.pi * draw.uniform().sqrt()
    arm = _stack(-u * u.cos() + draw.uniform() / 2, u * u.sin() + draw.uniform() / 2)
    sign = 1 - 2 * draw.choice(2)[:, None]
    return sign * arm / 3 + 0.1 * _stack(draw.normal(), draw.normal())


def _pinwheel(draw: Draw) -> Tensor:
    """Five arms: ``(1 + 0.3 Z, 0.1 Z)`` rotated by ``2 pi arm / 5 + exp(r) / 4``, times 2."""
    r, q = 1 + 0.3 * draw.normal(), 0.1 * draw.normal()
    angle = draw.turn(5) + 0.25 * r.exp()
    c, s = angle.cos(), angle.sin()
    return 2 * _stack(r * c - q * s, r * s + q * c)


def _checkerboard(draw: Draw) -> Tensor:
    """Uniform on eight unit squares of ``[-2, 2]^2``: those like ``[0, 1]^2`` on a chess board."""
    x1 = 4 * draw.uniform() - 2
    x2 = draw.uniform() - 2 * draw.choice(2) + x1.floor().remainder(2)
    return _stack(x1, x2)


def _rings(draw: Draw) -> Tensor:
    """Four circles of radii 0.75, 1.5, 2.25, 3 with equal probability, plus ``0.08 Z``."""
    radius, angle = 0.75 * (draw.choice(4) + 1), 2 * math.pi * draw.uniform()
    noise = _stack(draw.normal(), draw.normal())
    return radius[:, None] * _stack(angle.cos(), angle.sin()) + 0.08 * noise


def _moons(draw: Draw) -> Tensor:
    """Half circles of radius 2 about ``(-1, -0.2)`` (upper) and ``(1, 0.8)``, plus ``0.2 Z``."""
    angle, lower = math.pi * draw.uniform(), draw.choice(2)
    sign = 1 - 2 * lower
    x1, x2 = sign * angle.cos() + lower, sign * angle.sin() + lower / 2
    noise = _stack(draw.normal(), draw.normal())
    return 2 * (_stack(x1, x2) + 0.1 * noise) + noise.new_tensor([-1.0, -0.2])


def _swissroll(draw: Draw) -> Tensor:
    """``u = 3 pi (1 + 2U) / 2``, ``(u cos u, u sin u) / 5`` plus ``0.2 Z``."""
    u = 1.5 * math.pi * (1 + 2 * draw.uniform())
    noise = _stack(draw.normal(), draw.normal())
    return (_stack(u * u.cos(), u * u.sin()) + noise) / 5
