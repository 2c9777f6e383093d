"""Exponentials of small matrices, and the local transition, against torch.linalg.matrix_exp."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from markovscore.kernels import expm as exponentials
from markovscore.kernels import local_transition as transitions

Case = tuple[str, dict[str, Callable[[], object]], dict[str, float]]

SIZES = (2, 3, 4, 6, 8, 12, 16)
BATCHES = {True: (512, 10_000), False: (10_000, 100_000, 1_000_000)}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _matrices(n: int, count: int, dtype: torch.dtype) -> Tensor:
    """Norms around 1, as of a drift's Jacobian over a window."""
    g = torch.Generator().manual_seed(n)
    draws = torch.randn(count, n, n, generator=g, dtype=torch.float64) / (2 * n**0.5)
    return draws.to(_device(), dtype)


def exponential_cases(small: bool) -> Iterator[Case]:
    """``n`` and the batch grow; bytes: each matrix is read and written once."""
    for dtype in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        for n in SIZES:
            for count in BATCHES[small][: 1 if small and n > 8 else None]:
                A = _matrices(n, count, dtype)
                products = 5 if dtype == torch.float32 else 8  # of the kernel, without squarings
                yield (
                    f"expm {name}, n = {n}, batch {count}",
                    {
                        "ours": lambda A=A: exponentials.expm(A),
                        "twin": lambda A=A: exponentials._twin(A),
                        "torch.linalg.matrix_exp": lambda A=A: torch.linalg.matrix_exp(A),
                    },
                    {
                        "bytes": 2.0 * A.numel() * A.element_size(),
                        "flops": 2.0 * products * n * A.numel(),
                    },
                )


def textbook(J: Tensor, f: Tensor, h: float) -> Callable[[], object]:
    """The augmented and the Van Loan matrices, built once; two calls of ``matrix_exp``."""
    n, d = f.shape
    A, V = J.new_zeros(n, d + 2, d + 2), J.new_zeros(n, 2 * d, 2 * d)
    A[:, :d, :d], A[:, :d, d + 1], A[:, d, d + 1] = J, f, 1
    V[:, :d, :d], V[:, :d, d:], V[:, d:, d:] = -J, 0.49 * torch.eye(d).to(J), J.mT
    return lambda: (torch.linalg.matrix_exp(A * h), torch.linalg.matrix_exp(V * h))


def transition_cases(small: bool) -> Iterator[Case]:
    """All of a draw: mean, covariance, factor, sample and target; the peer has the moments only."""
    for d in (2, 3, 4, 6, 8):
        for count in BATCHES[small][: 1 if small else None]:
            J = _matrices(d, count, torch.float64)
            f, y, z = (torch.randn_like(J[:, 0]) for _ in range(3))
            h, Q = torch.full_like(f[:, 0], 0.1), torch.tensor(0.49, dtype=J.dtype).to(J)
            parts = (J, Q, f, None, h, y, z)
            yield (
                f"local transition, d = {d}, batch {count}",
                {
                    "ours": lambda parts=parts: transitions.local_transition(*parts),
                    "twin": lambda parts=parts: transitions._twin(*parts),
                    "two of torch.linalg.matrix_exp": textbook(J, f, 0.1),
                },
                {
                    "bytes": 8.0 * count * (3 * d * d + 6 * d + 1.5),
                    # series of the covariance and the mean, factor, sample, target
                    "flops": 2.0 * count * (18 * d**3 + 13 * d * d + d**3 / 6 + 2 * d * d),
                },
            )


def cases(small: bool) -> Iterator[Case]:
    """(label, candidates, least bytes moved and operations) for growing sizes."""
    yield from exponential_cases(small)
    yield from transition_cases(small)
