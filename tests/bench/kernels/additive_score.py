"""Score and divergence of additive OISM: bound by reading the points and writing the score.

Peers: the twin without its blocks, which is what eager PyTorch does (it makes ``(K, B, d)``
coefficients where rows have times of their own), and the same compiled. The product with the
Jacobian is timed with the forward pass it needs, as training does.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from markovscore.core import between, check_finite, expand_like, series, standard_scale
from markovscore.kernels import REACH, additive_score

Case = tuple[str, dict[str, Callable[[], object]], dict[str, float]]
LEVELS = 1001
# Rows, columns, functions, own times, gradient.
SIZES = [(n, 3072, 6, False, False) for n in (128, 2_000, 10_000, 50_000, 200_000)]
SIZES += [(50_000, 3072, k, False, False) for k in (2, 9)]
SIZES += [(n, 3072, 6, True, False) for n in (128, 2_000, 10_000)]
SIZES += [(50_000, 3072, 6, False, True), (10_000, 3072, 6, True, True)]
SIZES += [(50_000_000 // d, d, 6, False, False) for d in (2, 64, 784)]
SMALL = [(n, 3072, 6, False, False) for n in (16, 128, 1_000, 8_000)]
SMALL += [(1_000, 3072, k, False, False) for k in (2, 9)]
SMALL += [(128, 3072, 6, own, True) for own in (False, True)] + [(128, 3072, 6, True, False)]


def problem(n: int, d: int, count: int, own: bool, device: torch.device) -> tuple[Tensor, tuple]:
    g = torch.Generator(device).manual_seed(0)
    x = torch.randn(n, d, generator=g, device=device)
    cpu = torch.Generator().manual_seed(0)
    times = n if own else 1
    upper = torch.randint(1, LEVELS, (times,), generator=cpu)
    ou_time, share = torch.rand(2, times, generator=cpu, dtype=torch.float64).unbind()
    table = torch.randn(LEVELS, count, d, generator=g, device=device)
    ends = torch.ones(4, d, device=device)
    ends[2] *= -1
    return x, (ou_time, upper, share, table, *ends.unbind())


def eager(
    x: Tensor, ou_time: Tensor, upper: Tensor, share: Tensor, table: Tensor, *columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Score and divergence, all rows at a time."""
    check_finite(x, "x")
    centre, scale, low, high = columns
    ou = expand_like(ou_time, x)
    a, s_t, _ = standard_scale(scale, ou)
    reach = REACH * (-torch.expm1(-2 * ou)).sqrt()
    inside = torch.clamp(x, a * low - reach, a * high + reach)
    excess = (x - inside) / s_t
    value, slope = series((inside - a * centre) / s_t, between(table, upper, share), True)
    slope = torch.where(excess == 0, slope, -1.0)
    return (value - excess) / s_t, (slope / s_t.square()).sum(1)


def cases(small: bool) -> Iterator[Case]:
    """Label, candidates, and the least bytes and operations."""
    on_gpu = torch.cuda.is_available() and not small
    device = torch.device("cuda" if on_gpu else "cpu")
    for n, d, count, own, gradient in SMALL if small else SIZES:
        x, rest = problem(n, d, count, own, device)
        x.requires_grad_(gradient)
        ours = partial(additive_score, x, *rest)
        twin = partial(eager, x, *rest)
        run = {"ours": partial(both, ours, x), "twin": partial(both, twin, x)}
        if on_gpu and n * d == 50_000 * 3072 and not gradient:
            torch.compiler.reset()  # each size for itself: no shape is made dynamic
            compiled = torch.compile(eager, dynamic=False)
            run["torch.compile"] = partial(compiled, x, *rest)
        levels = min(2 * n, LEVELS) if own else 2
        passes = 2 + 3 * gradient  # x and score; then x and two gradients, one of which is written
        least = 4.0 * n * d * passes + 4.0 * levels * count * d * (1 + gradient)
        floor = {"bytes": least, "flops": (5.0 * count + 10) * (1 + gradient) * n * d}
        label = f"{n} x {d}, {count} functions, {'own times' if own else 'one time'}"
        yield label + (", gradient" if gradient else ""), run, floor


def both(run: Callable[[], tuple[Tensor, Tensor]], x: Tensor) -> object:
    """Score and divergence, and the gradient of their sums where ``x`` asks for one."""
    score, divergence = run()
    if not x.requires_grad:
        return score, divergence
    return torch.autograd.grad([score, divergence], x, [score.detach(), divergence.detach()])
