"""What the laws of ``markovscore.priors`` share: types of arguments, and their checks."""

import math
from typing import Any

import torch
from torch import Tensor

from ._modes import remembered
from ._validate import as_tensor, check_generator, check_integer

LOG_2PI = math.log(2 * math.pi)

Source = torch.Generator | None
Type = torch.dtype | None
Device = torch.device | str | None
Parameter = float | Tensor


def _placement(generator: Source, dtype: Type, device: Device) -> dict[str, Any]:
    """Keyword arguments of torch's random functions: the generator decides where none is named."""
    check_generator(generator)
    if device is None and generator is not None:
        device = generator.device
    return {"generator": generator, "dtype": dtype, "device": device}


# Half the spacing of float32 numbers near one: a bound that went through float32 is off by so much.
_ROUNDING = 2.0**-24
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def with_rounding(low: float, high: float) -> tuple[float, float]:
    """``[low, high]`` with the float32 roundings of its ends: what counts as inside."""
    return low - _ROUNDING * abs(low), high + _ROUNDING * abs(high)


@remembered
def inner_bounds(
    low: float, high: float, dtype: torch.dtype, half_open: bool = False
) -> tuple[float, float]:
    """The first and the last number of ``dtype`` in ``[low, high]``, or in ``[low, high)``.

    The nearest numbers may lie outside: that to ``-pi`` in float32 is smaller than ``-pi``.
    """
    ends = torch.tensor([low, high], dtype=torch.float64)
    nearest = ends.to(dtype)
    first, last = nearest.double().tolist()
    out = torch.tensor([first < low, last > high or (half_open and last >= high)])
    away = torch.tensor([low > 0, high < 0])  # from zero, the way inside
    bits = nearest.view(_BITS[nearest.element_size()])
    moved = torch.where(out, bits + torch.where(away, 1, -1).to(bits), bits).view(dtype)
    first, last = moved.double().tolist()
    return first, last


def _check_dim(dim: int) -> int:
    return check_integer(dim, "dim")


def _check_positive(value: Any, name: str) -> Tensor:
    """``value`` as a float64 tensor of finite positive numbers."""
    value = as_tensor(value, name, torch.float64)
    if not bool((torch.isfinite(value) & (value > 0)).all()):
        raise ValueError(f"{name}: expected finite positive numbers, found {value.tolist()}")
    return value
