"""OISM on images: the fit against reading and its own arithmetic, and its share of a training step.

CIFAR-10 where ``MARKOVSCORE_CIFAR10`` names it, else as many random bytes from a file.
"""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import torch
from lib.timing import median, paired, ratio, report

import markovscore as ms
from markovscore.datasets import load_cifar10

ORDER, BLOCK = 6, 42  # rows of 3,072 numbers that stay in the cache
VP = ms.VariancePreserving(3072)


def images(folder: str) -> ms.Images:
    """50,000 images of 3,072 bytes, mapped from a file."""
    if os.environ.get("MARKOVSCORE_CIFAR10"):
        return load_cifar10("train")
    path = Path(folder) / "bytes.npy"
    if not path.exists():
        numpy.save(path, numpy.random.default_rng(0).integers(0, 256, (50_000, 3072), numpy.uint8))
    pixels = torch.from_numpy(numpy.load(path, mmap_mode="c"))
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    return ms.Images(pixels, labels, (3, 32, 32), 256, "bytes", "train", "random")


def fit(data: ms.Images, order: int = ORDER, rotation: str | None = None) -> ms.AdditiveScore:
    """All pixels, 1,001 noise levels."""
    g = torch.Generator().manual_seed(0)
    return ms.fit_spectral(
        data, VP, features="additive", order=order, rotation=rotation, generator=g
    )


def floor(data: ms.Images) -> torch.Tensor:
    """Reading and dequantising, and one product and one sum for each moment, in the cache."""
    g = torch.Generator().manual_seed(0)
    sums = torch.zeros(2 * ORDER - 2, 3072, dtype=torch.float64)
    for batch in data.batches(2000, g):
        for rows in batch.split(BLOCK):
            u = rows.double()
            power = u.clone()
            for total in sums:
                total += power.sum(0)
                power *= u
    return sums


def fitting(data: ms.Images, folder: str) -> dict[str, float]:
    """Seconds and memory of the fits, and the ratio to reading plus the moments' arithmetic."""
    seconds = paired({"fit": lambda: fit(data), "floor": lambda: floor(data)}, rounds=3)
    script = f"import images; images.fit(images.images({folder!r}))"
    command = [sys.executable, "-c", script]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    subprocess.run(command, check=True, cwd=Path(__file__).parent)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    rotated = paired({"pca": lambda: fit(data, 2, "pca")}, rounds=1)
    return {
        "seconds: order 6, 50,000 images, 1,001 levels (target < 60)": median(seconds["fit"]),
        "fit / (reading + moments' arithmetic) (target <= 2)": ratio(seconds, "fit", "floor"),
        "peak memory of the fit's process, GB (target < 3)": max(peak, before) / 1e6,
        "seconds: order 2 along principal axes": median(rotated["pca"]),
    }


def step_share(data: ms.Images, channels: int, batch: int, rounds: int) -> dict[str, float]:
    """Time of the closed-form part beside a whole training step of a U-Net, per image."""
    g = torch.Generator().manual_seed(0)
    sizes = {"multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (16,)}
    net = ms.ScoreUNet((3, 32, 32), channels=channels, std=VP.std, **sizes)
    objective = ms.DenoisingSM(VP, t_min=1e-3, times="importance")
    x, base = data.batch(range(batch), g), fit(data.take(2000))
    t = torch.rand(batch, generator=g).clamp(min=1e-3)

    def step() -> None:
        net.zero_grad()
        objective.loss(net, x, g).backward()

    seconds = paired({"base": lambda: base(x, t), "step": step}, rounds)
    share = ratio(seconds, "base", "step")
    name = f"channels {channels}, batch {batch}"
    return {
        f"seconds: training step, {name}": median(seconds["step"]),
        f"OISM(6) / training step, {name} (target < 0.05 at 128 channels)": share,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        data = images(folder)
        rows = {"fit": fitting(data, folder)}
        rows["share of a step"] = step_share(data, 32, 32, 3) | step_share(data, 128, 4, 3)
        report(rows)
