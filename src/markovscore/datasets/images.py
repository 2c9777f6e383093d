"""Images as points: 8-bit pixels, uniform dequantisation, and bits per dimension.

A pixel ``p`` takes one of ``L = levels`` values ``0..L-1``. A density needs numbers, so each
pixel is spread over its cell and scaled, ``x = 2 (p + U) / L - 1`` with ``U`` uniform on
``[0, 1)``. If ``q`` is a density of ``x`` in ``R^d``, then ``Q(p) = int q over the cell of p`` is a
law of the pixels, and by Jensen's inequality the mean of :meth:`Images.bits_per_dim` over ``x`` is
at least the bits per dimension that ``Q`` needs (Theis, van den Oord and Bethge 2016,
arXiv:1511.01844, section 3.1); the two agree if ``q`` is constant on each cell.

Rows are flat, ``d = C H W``, channels first.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core import check_integer, check_points, crc32
from .cifar10 import SHAPE, content_checksum, open_split

SPLITS = ("train", "test")
DIGITS_TRAIN = 1500


@dataclass(frozen=True, eq=False)
class Images:
    """A split of a set of images; nothing here can mix it with another.

    Attributes:
        pixels: uint8 ``(N, d)`` on any device; on the CPU possibly memory-mapped.
        labels: int64 ``(N,)``.
        shape: ``(C, H, W)`` with ``C H W = d``.
        levels: number ``L`` of values a pixel takes, from 2 to 256.
        name: of the data set.
        split: ``"train"`` or ``"test"``.
        checksum: names the content; stored in checkpoints.

    Raises:
        ValueError: the fields do not agree with each other.
    """

    pixels: Tensor
    labels: Tensor
    shape: tuple[int, int, int]
    levels: int
    name: str
    split: str
    checksum: str

    def __post_init__(self) -> None:
        _check_split(self.split)
        rows, dim = (*self.pixels.shape, 0, 0)[:2]
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 2 or dim != self.dim or not rows:
            raise ValueError(
                f"pixels: expected uint8 of shape (N, {self.dim}) for images {self.shape}, found "
                f"{self.pixels.dtype} {tuple(self.pixels.shape)}: flatten with x.flatten(1)"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != (rows,):
            raise ValueError(
                f"labels: expected int64 of shape ({rows},), found {self.labels.dtype} "
                f"{tuple(self.labels.shape)}: one label per image"
            )
        if not 2 <= self.levels <= 256:
            raise ValueError(f"levels: expected 2 to 256, found {self.levels}: pixels are uint8")
        if self.levels < 256 and int(self.pixels.max()) >= self.levels:
            raise ValueError(
                f"pixels: expected values below levels = {self.levels}, found "
                f"{int(self.pixels.max())}: correct levels"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def dim(self) -> int:
        """``d = C H W``."""
        return math.prod(self.shape)

    def batch(self, rows: Tensor | Sequence[int] | slice, generator: torch.Generator) -> Tensor:
        """``2 (p + U) / L - 1`` for the images ``rows``: float32 ``(B, d)`` in ``[-1, 1]``.

        Args:
            rows: int64 ``(B,)`` on any device, a list, or a slice.
            generator: draws ``U``, afresh for every call; the result lies on its device.

        Raises:
            IndexError: a row that does not exist.
        """
        if not isinstance(rows, slice):
            rows = torch.as_tensor(rows, device=self.pixels.device)
        pixels = self.pixels[rows].to(generator.device)
        noise = torch.rand(
            pixels.shape, generator=generator, dtype=torch.float32, device=generator.device
        )
        return noise.add_(pixels).mul_(2 / self.levels).sub_(1)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """All images once, in order, dequantised: float32 ``(size, d)``, the last one shorter.

        Raises:
            ValueError: ``size`` is not an integer >= 1.
        """
        size = check_integer(size, "size")
        starts = range(0, len(self), size)
        return (self.batch(slice(start, start + size), generator) for start in starts)

    def dequantised(self, generator: torch.Generator, n: int | None = None) -> Tensor:
        """The first ``n`` images (default: all, ``4 N d`` bytes) as float32 ``(n, d)``.

        Raises:
            ValueError: ``n`` is not in ``1..N``.
        """
        return self.batch(slice(0, self._count(n)), generator)

    def take(self, n: int) -> "Images":
        """The first ``n`` images, sharing their memory, with a checksum of their own.

        Raises:
            ValueError: ``n`` is not in ``1..N``.
        """
        n = self._count(n)
        pixels, labels = self.pixels[:n], self.labels[:n]
        return _images(pixels, labels, self.shape, self.levels, self.name, self.split)

    def _count(self, n: int | None) -> int:
        return len(self) if n is None else check_integer(n, "n", 1, len(self))

    def bits_per_dim(self, log_prob: Tensor) -> Tensor:
        """``-log_prob / (d log 2) - log2(2 / L)``: bits per dimension of the pixels.

        Args:
            log_prob: natural logarithm of a density of ``x`` (as from :meth:`batch`), any shape.
        """
        return -log_prob / (self.dim * math.log(2)) - math.log2(2 / self.levels)

    def to_display(self, x: Tensor) -> Tensor:
        """Points ``(B, d)`` as pictures in ``[0, 1]``, on the CPU: ``(x + 1) / 2``, clamped.

        The shape is ``(B, H, W, C)``, or ``(B, H, W)`` if ``C = 1``, as matplotlib wants it.

        Raises:
            ValueError: ``x`` has another shape, or is not finite.
        """
        x = check_points(x.detach(), self.dim).cpu()
        pictures = ((x + 1) / 2).clamp(0, 1).reshape(-1, *self.shape).movedim(1, -1)
        return pictures[..., 0] if self.shape[0] == 1 else pictures


def load_digits(split: str) -> Images:
    """The 8 x 8 digits of scikit-learn (UCI; 17 grey levels): 1,500 to train, 297 to test.

    Image ``i`` of 1,797 goes by the SHA-256 of ``"digits <i>"``: the 1,500 smallest are the
    training images, in that order. So the split is random, not stratified, and the same with every
    version of every library.

    Args:
        split: ``"train"`` or ``"test"``.

    Raises:
        ValueError: another split.
        ImportError: scikit-learn, which brings the images, is missing.
    """
    _check_split(split)
    try:
        from sklearn.datasets import load_digits as embedded
    except ImportError as error:
        raise ImportError(
            "digits: expected scikit-learn, which brings the images, found none: "
            "pip install scikit-learn"
        ) from error
    images, labels = embedded(return_X_y=True)
    keys = [hashlib.sha256(f"digits {index}".encode()).digest() for index in range(len(labels))]
    order = sorted(range(len(labels)), key=keys.__getitem__)
    rows = order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]
    pixels = torch.from_numpy(images[rows].astype(np.uint8))
    return _images(pixels, torch.from_numpy(labels[rows]).long(), (1, 8, 8), 17, "digits", split)


def load_cifar10(split: str) -> Images:
    """CIFAR-10 (Krizhevsky 2009): 32 x 32 colour images, 50,000 to train and 10,000 to test.

    They come from the Parquet files ``train-*.parquet`` and ``test-*.parquet`` (columns ``img`` and
    ``label``, as in ``uoft-cs/cifar10`` on the Hugging Face hub) in the folder that the environment
    variable ``MARKOVSCORE_CIFAR10`` names, or in its subfolder ``plain_text``; without the
    variable, from the library ``datasets``, which downloads them. The number of images is that of
    the files, and a file ``SHA256SUMS`` beside them is obeyed. The first call decodes the images
    into ``MARKOVSCORE_CACHE`` (default: ``markovscore`` in the user's cache folder); every call
    maps that array into memory and checks its CRC-32.

    Args:
        split: ``"train"`` or ``"test"``.

    Raises:
        ValueError: another split; a file that is truncated, has other columns, other images or
            another SHA-256 than ``SHA256SUMS`` says; a cache that was damaged.
        FileNotFoundError: no such folder, a file missing from it, or no data and no network.
        ImportError: pyarrow, pillow or datasets is missing (``markovscore[images]``).
        PermissionError: the cache cannot be written.
    """
    _check_split(split)
    pixels, labels, found = open_split(split)
    return Images(
        torch.from_numpy(pixels), torch.from_numpy(labels), SHAPE, 256, "cifar10", split, found
    )


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, found {split!r}")


def _images(
    pixels: Tensor, labels: Tensor, shape: tuple[int, int, int], levels: int, name: str, split: str
) -> Images:
    """Images with the checksum of their content."""
    found = content_checksum(labels.cpu().numpy(), crc32(pixels))
    return Images(pixels, labels, shape, levels, name, split, found)
