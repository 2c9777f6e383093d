"""Where the coefficients of a torus score stand in the kernel's table."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import remembered


@dataclass(frozen=True)
class Plan:
    r"""Where the coefficients stand in the kernel's table; made once for a set of waves.

    The last coordinate is the inner sum, one *row* for each vector ``o`` of the others (up to
    sign): with ``X = o . (x_1..x_{d-1})``,

    .. math:: h = \sum_o \cos X \sum_j (p_j \cos j x_d + q_j \sin j x_d)
                       + \sin X \sum_j (r_j \cos j x_d + s_j \sin j x_d)

    so ``k`` and its mirror image ``(o, -k_d)`` share four numbers ``p, q, r, s``. A row is stored
    from ``j = 0`` to its own last one: what a half disc leaves out of a square is skipped.

    Attributes:
        offsets: ``(rows,)`` int32: first entry of each row, in fours.
        tops: ``(rows,)`` int32: last ``j``, -1 for an empty row. Rows count ``k_1 = 0..R_1``, then
            in three dimensions ``(0, -), (1, +), (1, -), ...`` of ``k_2``: ``2 |k_2| + [k_2 < 0]``.
        reach: ``R_1, R_2`` (zero where there is no such coordinate).
        size: numbers in the table.
        places, sources, signs: ``(4 M,)``: number ``places`` gets ``signs`` times a coefficient.
    """

    offsets: Tensor
    tops: Tensor
    reach: tuple[int, int]
    size: int
    places: Tensor
    sources: Tensor
    signs: Tensor

    def table(self, coefficients: Tensor) -> Tensor:
        """Coefficients ``(..., 2 M)``, on the device of the plan -> ``(..., size)``."""
        values = coefficients[..., self.sources] * self.signs.to(coefficients)
        table = coefficients.new_zeros(*coefficients.shape[:-1], self.size)
        return table.index_add_(-1, self.places, values)


def plan_of(waves: Tensor, device: torch.device) -> Plan:
    """The plan of ``waves`` ``(M, d)``, ``d <= 3``; the last ones are kept."""
    return _plan(waves_content(waves), waves.shape[1], device)


@remembered
def _plan(content: bytes, dim: int, device: torch.device) -> Plan:
    waves = waves_from(content, dim)
    mirrored = dim > 1 and waves[:, :1] < 0  # k -> -k turns b into -b
    flip = torch.where(torch.as_tensor(mirrored).reshape(-1), -1, 1).expand(len(waves))
    k = torch.cat([torch.zeros(len(waves), 3 - dim, dtype=torch.int64), flip[:, None] * waves], 1)
    if dim == 2:  # the kernel's coordinates are (k_1, k_2, last), of which k_2 may be missing
        k = k[:, [1, 0, 2]]
    reach_1, reach_2 = (int(r) for r in k.abs().amax(0)[:2])
    row = k[:, 0] * (2 * reach_2 + 2) + 2 * k[:, 1].abs() + (k[:, 1] < 0).long()
    last = k[:, 2].abs()
    tops = torch.full(((reach_1 + 1) * (2 * reach_2 + 2),), -1, dtype=torch.int64)
    tops.scatter_reduce_(0, row, last, "amax")
    offsets = (tops + 1).cumsum(0) - (tops + 1)
    place = 4 * (offsets[row] + last)
    m, side = torch.arange(len(waves)), torch.where(k[:, 2] < 0, -1, 1)
    # a cos(X + ly) + b sin(X + ly), l = side |l|: p = a, q = side b, r = b, s = -side a
    signs = torch.stack([torch.ones_like(m), side * flip, flip, -side])
    return Plan(
        offsets.int().to(device),
        tops.int().to(device),
        (reach_1, reach_2),
        4 * int((tops + 1).sum()),
        torch.stack([place + i for i in range(4)]).reshape(-1).to(device),
        torch.stack([m, m + len(m), m + len(m), m]).reshape(-1).to(device),
        math.sqrt(2) * signs.double().reshape(-1).to(device),
    )


def waves_content(waves: Tensor) -> bytes:
    """The bytes of int64 waves, by which a plan is remembered."""
    return waves.cpu().contiguous().numpy().tobytes()


def waves_from(content: bytes, dim: int) -> Tensor:
    """The waves ``(M, d)`` that :func:`waves_content` wrote."""
    return torch.frombuffer(bytearray(content), dtype=torch.int64).reshape(-1, dim)
