"""The checksum by which data, weights and runs are recognised."""

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

Content = Tensor | np.ndarray | bytes | str


def crc32(content: Content, start: int = 0) -> int:
    """CRC-32 of the bytes of ``content``, in order of its rows, continued from ``start``."""
    if isinstance(content, Tensor):
        content = content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    if isinstance(content, np.ndarray):
        return zlib.crc32(np.ascontiguousarray(content).data, start)
    return zlib.crc32(content.encode() if isinstance(content, str) else content, start)


def checksum(*contents: Content, start: int = 0) -> str:
    """CRC-32 of ``contents`` one after the other, as eight hexadecimal digits."""
    for content in contents:
        start = crc32(content, start)
    return f"{start:08x}"


def named_checksum(named: Mapping[str, Tensor], start: int = 0) -> str:
    """:func:`checksum` of names and tensors, in the order of the names."""
    return checksum(*(part for name in sorted(named) for part in (name, named[name])), start=start)
