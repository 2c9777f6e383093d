"""Whole simulations in one launch, against the eager loop and torchsde at equal steps.

Two floors, both of the noise alone, since a drift may be as dear as one likes:

* ``noise``: a kernel that draws the same normals from the same counters and adds them up, with the
  same lanes and blocks: what the hardware takes for Philox and Box-Muller;
* ``instructions``: what those normals need at least, from the compiler's own loop for sm_90. Four
  normals of one draw take 17 wide integer multiplications (20 less those that stay the same from
  step to step), 25 logic operations, 8 integer additions and shifts, 6 conversions, 2 roots and 48
  floating-point operations (two logarithms, sines, cosines and rotations): 106, or 26.5 a normal,
  issued at 4 x 32 a cycle and multiprocessor. A step of the double well adds 4 a coordinate, one of
  four components in the plane about 35.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import markovscore as ms
from markovscore.core import as_diffusion
from markovscore.kernels import Steps, euler_paths, seed_tensor, triton_source

sys.path.append(str(Path(__file__).resolve().parents[1]))
from lib.peers import torchsde_euler
from lib.twins import in_torch

Case = tuple[str, dict[str, Callable[[], object]], dict[str, float]]
CORNERS = [[2.0, 2.0], [-2.0, 2.0], [2.0, -2.0], [-2.0, -2.0]]
END, INSTRUCTIONS = 0.5, 26.5
PROCESSES: dict[str, tuple[Any, int]] = {
    "double well": (ms.DoubleWell(2), 2),
    "mixture 2-D": (ms.Langevin(ms.GaussianMixture(CORNERS, 0.8), 2.0), 2),
    "logistic 3072-D": (ms.Langevin(ms.Logistic(3072), 2.0), 3072),
    "swimmer": (ms.ActiveSwimmer(), 2),
}
# Rows and steps: a series in either, and one size for which PyTorch's arrays leave the cache.
SIZES = {
    "double well": [(10_000, 100), (100_000, 100), (1_000_000, 100), (100_000, 20), (100_000, 500)],
    "mixture 2-D": [(10_000, 100), (100_000, 100), (1_000_000, 20), (100_000, 20)],
    "logistic 3072-D": [(64, 100), (512, 100), (4096, 20)],
    "swimmer": [(10_000, 100), (100_000, 100), (1_000_000, 20)],
}
SMALL = {
    "double well": [(512, 20), (4096, 20), (32_768, 20), (512, 100), (512, 400)],
    "mixture 2-D": [(512, 20), (4096, 20), (32_768, 20), (512, 100)],
    "logistic 3072-D": [(16, 20), (64, 20), (256, 20)],
    "swimmer": [(512, 20), (4096, 20), (32_768, 20)],
}


def cases(small: bool) -> Iterator[Case]:
    """``(size, candidates, floors)``; the points are on the GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, sizes in (SMALL if small else SIZES).items():
        process, d = PROCESSES[name]
        for rows, steps in sizes:
            y = torch.randn(rows, d, generator=torch.Generator().manual_seed(0)).to(device)
            size = f"{name}, {rows} paths, {steps} steps"
            normals = float(rows * steps * (1 if name == "swimmer" else d))
            floors = {
                "bytes": 2.0 * y.numel() * y.element_size(),
                "normals": normals,
                "flops": 2 * INSTRUCTIONS * normals,  # an instruction is two operations at most
            }
            yield size, _simulations(process, y, steps, small), floors
            if rows == sizes[1][0] and not small:
                floors = floors | {"bytes": 3.0 * y.numel() * y.element_size()}
                yield f"target, {size}", _targets(process, y, steps), floors


def _simulations(
    process: Any, y: torch.Tensor, steps: int, small: bool
) -> dict[str, Callable[[], object]]:
    generator = torch.Generator(y.device).manual_seed(1)
    # Both times are on the CPU: the grid is made there.
    length = Steps(steps, _clock_length(process) / steps)
    drift = process.euler_kernel()
    found: dict[str, Callable[[], object]] = {
        "ours": lambda: ms.simulate(process, y, END, steps, generator),
        "torchsde": torchsde_euler(process, y, END, steps),
    }
    if small:  # on a CPU ours is the eager loop
        return found
    found["eager"] = in_torch(found["ours"])
    found["twin"] = in_torch(lambda: euler_paths(drift, y, length, seed=1))
    return found | _noise_floor(process, y, steps)


def _targets(process: Any, y: torch.Tensor, steps: int) -> dict[str, Callable[[], object]]:
    generator = torch.Generator(y.device).manual_seed(1)

    def ours() -> object:
        return ms.path_shift_target(process, y, 0.0, END, steps=steps, generator=generator)

    length, drift = Steps(steps, _clock_length(process) / steps), process.euler_kernel()
    twin = in_torch(lambda: euler_paths(drift, y, None, length, seed=1))
    return {"ours": ours, "eager": in_torch(ours), "twin": twin} | _noise_floor(process, y, steps)


def _clock_length(process: Any) -> float:
    ends = torch.tensor([0.0, END], dtype=torch.float64)
    return float(as_diffusion(process).clock.between(*ends))


def _noise_floor(process: Any, y: torch.Tensor, steps: int) -> dict[str, Callable[[], object]]:
    """The kernel of the noise alone, where it can run."""
    if not y.is_cuda:
        return {}
    four_normals = triton_source("philox").four_normals
    import triton
    import triton.language as tl

    @triton.jit
    def noise(out, seed, lanes, columns, steps, BLOCK: tl.constexpr):
        lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        key, total = tl.load(seed), tl.zeros([BLOCK], tl.float32)
        for group in range(tl.cdiv(steps, 4)):
            a, b, c, d = four_normals(key, lane // columns, lane % columns, group, 0)
            total += (a + b) + (c + d)
        tl.store(out + lane, total, mask=lane < lanes)

    columns = 1 if isinstance(process, ms.ActiveSwimmer) else y.shape[1]
    lanes, seed = len(y) * columns, seed_tensor(1, y.device)
    out = torch.empty(lanes, device=y.device)
    grid = (triton.cdiv(lanes, 128),)
    return {"noise": lambda: noise[grid](out, seed, lanes, columns, steps, BLOCK=128)}


if __name__ == "__main__":
    from lib.timing import median, paired, report

    torch.set_num_threads(1)
    rows = {}
    for label, candidates, _ in cases(small=True):
        seconds = paired(candidates, rounds=7)
        rows[label] = {f"milliseconds: {n}": 1e3 * median(v) for n, v in seconds.items()}
    report(rows)
