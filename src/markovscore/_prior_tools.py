"""What the laws of ``markovscore.priors`` share: types of arguments, and their checks."""

import math
from typing import Any

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)

Source = torch.Generator | None
Type = torch.dtype | None
Device = torch.device | str | None
Parameter = float | Tensor


def _placement(generator: Source, dtype: Type, device: Device) -> dict[str, Any]:
    """Keyword arguments of torch's random functions: the generator decides where none is named."""
    if device is None and generator is not None:
        device = generator.device
    return {"generator": generator, "dtype": dtype, "device": device}


def _check_dim(dim: int) -> int:
    if int(dim) != dim or dim < 1:
        raise ValueError(f"dim: expected an integer >= 1, found {dim!r}: pass the number of axes")
    return int(dim)


def _check_positive(value: Any, name: str) -> Tensor:
    """``value`` as a float64 tensor of finite positive numbers."""
    value = torch.as_tensor(value, dtype=torch.float64)
    if not bool((torch.isfinite(value) & (value > 0)).all()):
        raise ValueError(f"{name}: expected finite positive numbers, found {value.tolist()}")
    return value
