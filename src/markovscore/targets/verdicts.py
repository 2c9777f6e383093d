"""What has been found out about an object, for as long as it lives; and points to try it on."""

import weakref
from typing import Any

import torch
from torch import Tensor

from ..core import original

# Rows, as many as make this many numbers within bounds: a jump must lie between the ends of some.
_NUMBERS, _FEWEST, _MOST = 2**18, 64, 4096
SEED = 20_240_229

PASSED: dict[int, tuple[Any, set[str]]] = {}


def known(owner: Any) -> set[str]:
    """The names of the checks that ``owner`` has passed; forgotten with it.

    An object that cannot be referred to weakly is checked at every call.
    """
    owner = original(owner)
    key = id(owner)
    if key not in PASSED:
        try:
            PASSED[key] = (weakref.ref(owner, lambda _: PASSED.pop(key, None)), set())
        except TypeError:
            return set()
    return PASSED[key][1]


def spread_rows(rows: int, wanted: int, device: torch.device) -> Tensor:
    """``wanted`` of ``rows`` row numbers, evenly spread, or repeated where there are fewer."""
    every = torch.arange(wanted, device=device)
    return (every * rows) // wanted if rows >= wanted else every % rows


def trial_rows(y: Tensor, share: int = 1) -> tuple[Tensor, torch.Generator]:
    """Numbers of rows of ``y``, thousands over ``share``, repeated or left out; and a generator for
    them alone."""
    wanted = max(_FEWEST, min(_MOST, _NUMBERS // y.shape[1]) // share)
    generator = torch.Generator(device=y.device).manual_seed(SEED)
    return spread_rows(len(y), wanted, y.device), generator


def trial_windows(
    y: Tensor, s: Tensor, t: Tensor, share: int = 1
) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    """:func:`trial_rows` of points and their windows, and the generator."""
    rows, generator = trial_rows(y, share)
    s, t = (v if len(v) == 1 else v[rows.to(v.device)] for v in (s, t))
    return y[rows], s, t, generator
