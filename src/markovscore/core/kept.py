"""What took long to find, kept on disk by its content."""

import hashlib
import inspect
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from .files import write_whole

CACHE = "MARKOVSCORE_CACHE"


def cache_folder() -> Path:
    """``$MARKOVSCORE_CACHE``, or ``markovscore`` in ``$XDG_CACHE_HOME`` (default ``~/.cache``)."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "markovscore"
    return Path(os.environ.get(CACHE) or default).expanduser().resolve()


def kept_on_disk(
    kind: str, about: Iterable[Tensor], make: Callable[[], dict[str, Tensor]], seconds: float
) -> dict[str, Tensor]:
    """What ``make`` finds, from a file in the cache folder where there is one of the same ``kind``,
    of the same tensors ``about`` and of the same source: all of the folder in which ``make`` is
    written, so that another algorithm reads no old results. Written there where it took more than
    ``seconds``.

    A file is whole or absent, whoever else writes it; one that cannot be read is made again, and a
    folder that cannot be written keeps nothing.
    """
    content = hashlib.sha256(kind.encode())
    for source in sorted(Path(inspect.getfile(make)).parent.glob("*.py")):
        content.update(source.read_bytes())
    for tensor in about:
        content.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    path = cache_folder() / f"{kind}-{content.hexdigest()[:32]}.safetensors"
    with suppress(OSError, SafetensorError):
        return safetensors.torch.load_file(path)
    started = time.perf_counter()
    found = make()
    if time.perf_counter() - started > seconds:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            content_of = {name: value.contiguous() for name, value in found.items()}
            write_whole(path, safetensors.torch.save(content_of))
    return found
