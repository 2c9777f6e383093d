"""Scores and their divergences over blocks of rows, so that memory does not grow with the batch.

A block holds a number of values (rows times coordinates), so that points in the plane and images
both fit: the activations of a network grow with either. Up to 16,384 rows of at most 8 coordinates
a derivative is one block; a plain evaluation is one up to 2^19 values.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .fields import (
    Field,
    Time,
    check_field,
    noise_at,
    pull_back,
    value_and_divergence,
    value_and_probe,
)
from .types import Process, Score, ScoreModel
from .walk import noise_like

VALUES = 2**19
# Derivatives keep every activation. 2^17 values are 42 images of 3 x 32 x 32: 2 GB for the network
# of 36 million parameters, 0.3 GB for a default ScoreUNet. Accelerators want larger blocks.
TRACE_VALUES, TRACE_VALUES_ACCELERATOR = 2**17, 2**19
TRACE_ROWS = 16_384


def block_rows(x: Tensor) -> int:
    """Rows evaluated at once."""
    return max(1, VALUES // x.shape[1])


def trace_rows(x: Tensor) -> int:
    """Rows differentiated at once."""
    values = TRACE_VALUES if x.device.type == "cpu" else TRACE_VALUES_ACCELERATOR
    return max(1, min(TRACE_ROWS, values // x.shape[1]))


def by_blocks(
    function: Callable[..., tuple[Tensor, ...]], rows: int, x: Tensor, t: Time, *others: Tensor
) -> tuple[Tensor, ...]:
    """``function(x, t, *others)`` on ``rows`` rows at a time; ``t`` is a number or ``(B,)``."""
    if len(x) <= rows:
        return function(x, t, *others)
    one_each = isinstance(t, Tensor) and t.ndim == 1 and len(t) == len(x)
    parts = []
    for first in range(0, len(x), rows):
        block = slice(first, first + rows)
        time = t[block] if isinstance(t, Tensor) and one_each else t
        parts.append(function(x[block], time, *(other[block] for other in others)))
    return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))


def score_values(score: Callable[..., Tensor], x: Tensor, t: Time) -> Tensor:
    """``score(x, t)``, shape ``(B, d)``."""
    return by_blocks(lambda x, t: (check_field(score(x, t), x, "score"),), block_rows(x), x, t)[0]


def score_and_divergence(
    score: ScoreModel, x: Tensor, t: Time, signs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``s`` ``(B, d)`` and ``div s`` ``(B,)``: the score's own where it has one, else its trace.

    With ``signs`` ``(B, P, d)`` the trace is estimated by ``P`` probes a row.
    """
    if signs is not None and score.probe_divergence is not None:
        return _pair(by_blocks(lambda *a: _probed(score, *a), block_rows(x), x, t, signs))
    if score.score_and_divergence is not None:
        return _pair(by_blocks(score.score_and_divergence, block_rows(x), x, t))
    if (divergence := score.divergence) is not None:
        found = by_blocks(lambda x, t: (divergence(x, t),), block_rows(x), x, t)[0]
        return score_values(score, x, t), found
    return field_and_divergence(score, x, t, signs)


def field_and_divergence(
    field: Field, x: Tensor, t: Time, signs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A field ``(B, d)`` and its divergence ``(B,)`` by autograd: exact, or by the given signs."""
    if signs is None:
        return _pair(by_blocks(lambda x, t: value_and_divergence(field, x, t), trace_rows(x), x, t))
    return _pair(by_blocks(lambda *a: value_and_probe(field, *a), trace_rows(x), x, t, signs))


def random_signs(
    x: Tensor, probes: int, generator: torch.Generator | None, columns: int | None = None
) -> Tensor:
    """Independent signs ``(B, probes, d)``, int8: a quarter of the memory until they are used.

    With ``columns`` the last axis has that length in place of ``d``.
    """
    shape = (len(x), probes, columns or x.shape[1])
    bits = torch.randint(0, 2, shape, generator=generator, dtype=torch.int8, device=x.device)
    return bits.mul_(2).sub_(1)


def _probed(score: ScoreModel, x: Tensor, t: Time, signs: Tensor) -> tuple[Tensor, Tensor]:
    assert score.probe_divergence is not None
    pairs = [score.probe_divergence(x, t, v) for v in signs.to(x).unbind(1)]
    return pairs[0][0], torch.stack([estimate for _, estimate in pairs]).mean(0)


def _pair(parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    value, divergence = parts
    return value, divergence


@contextmanager
def explain_memory(knob: str) -> Iterator[None]:
    """Turns a failed allocation into one that says what to reduce; also a decorator.

    Raises:
        torch.OutOfMemoryError: memory ran out, on any device.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # A failed allocation on the CPU is a plain RuntimeError that names its allocator.
        host = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
        if not (host or isinstance(error, torch.OutOfMemoryError)):
            raise
        raise torch.OutOfMemoryError(
            f"out of memory: {knob}, or use a smaller network ({error})"
        ) from error


def score_and_trace(
    process: Process, score: Score, y: Tensor, t: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """``s`` ``(B, d)`` and ``tr(G^T Ds G)`` ``(B,)``; with a generator, by one random probe."""
    s, vjp = pull_back(lambda x, _: score(x, t), y, t)
    G = noise_at(process, y, t)
    if generator is not None:
        u = G @ noise_like(G, y, generator).sign()
        return s, (vjp(u) * u).sum(1)
    trace = torch.zeros_like(y[:, 0])
    columns = G.columns(y.shape[1])
    for column in range(columns):
        one_hot = y.new_zeros(len(y), columns)
        one_hot[:, column] = 1
        u = G @ one_hot
        trace = trace + (vjp(u) * u).sum(1)
    return s, trace
