"""The fused local transition against the two matrix exponentials of the textbook."""

from collections.abc import Callable, Iterator

import torch
from kernels.expm import BATCHES, Case, matrices
from lib.twins import in_torch
from torch import Tensor

from markovscore.kernels import local_transition


def textbook(J: Tensor, f: Tensor, h: float) -> Callable[[], object]:
    """The augmented and the Van Loan matrices, built once; two calls of ``matrix_exp``."""
    n, d = f.shape
    A, V = J.new_zeros(n, d + 1, d + 1), J.new_zeros(n, 2 * d, 2 * d)
    A[:, :d, :d], A[:, :d, d] = J, f
    V[:, :d, :d], V[:, :d, d:], V[:, d:, d:] = -J, 0.49 * torch.eye(d).to(J), J.mT
    return lambda: (torch.linalg.matrix_exp(A * h), torch.linalg.matrix_exp(V * h))


def cases(small: bool) -> Iterator[Case]:
    """All of a draw: mean, covariance, factor, sample and target; the peer has the moments only."""
    for d in (2, 3, 4, 6, 8):
        for count in BATCHES[small]:
            J = matrices(d, count, torch.float64)
            f, y, z = (torch.randn_like(J[:, 0]) for _ in range(3))
            h, Q = torch.full_like(f[:, 0], 0.1), torch.tensor(0.49, dtype=J.dtype).to(J)
            parts = (J, Q, f, None, h, y, z)
            run = {
                "ours": lambda parts=parts: local_transition(*parts),
                "two of torch.linalg.matrix_exp": textbook(J, f, 0.1),
            }
            if not small:  # on a CPU ours is the twin
                run["twin"] = in_torch(run["ours"])
            # series of the covariance and the mean, factor, sample, target
            flops = 2.0 * count * (18 * d**3 + 13 * d * d + d**3 / 6 + 2 * d * d)
            least = 8.0 * count * (3 * d * d + 6 * d + 1.5)
            floor = {"bytes": least, "flops": flops, "dtype": "float64"}
            yield f"d = {d}, batch {count}", run, floor
