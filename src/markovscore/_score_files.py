"""Files of fitted scores: safetensors, with the diffusion's class and arguments as metadata."""

import inspect
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import diffusions, variance_preserving

_HOMES = (diffusions, variance_preserving)


def write_score(path: Any, kind: str, diffusion: Any, tensors: dict[str, Tensor]) -> None:
    """Write the file whole or not at all: a temporary file in the same folder, then a rename."""
    names = inspect.signature(type(diffusion)).parameters
    if hasattr(diffusion, "settings"):
        settings = diffusion.settings
    else:
        settings = {name: getattr(diffusion, name) for name in names}
    described = json.dumps({"class": type(diffusion).__name__, **settings})
    metadata = {"format": f"markovscore.{kind}/1", "diffusion": described}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_score(path: Any, kind: str) -> tuple[Any, dict[str, Tensor]]:
    """The diffusion and the tensors that :func:`write_score` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a corrupt file, or one of another kind.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected a file written by {kind}.save, found none")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path}: expected a safetensors file, found a corrupt one ({error}); save it again"
        ) from error
    expected = f"markovscore.{kind}/1"
    if metadata.get("format") != expected:
        raise ValueError(
            f"{path}: expected format {expected}, found {metadata.get('format')}: not a {kind}"
        )
    settings = json.loads(metadata["diffusion"])
    name = settings.pop("class")
    home = next(home for home in _HOMES if hasattr(home, name))
    return getattr(home, name)(**settings), tensors
