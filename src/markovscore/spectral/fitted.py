"""Files of fitted scores: safetensors, with the diffusion's class and arguments as metadata."""

import inspect
import json
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..core import output_path, user_path, write_whole
from ..diffusions import BoxBrownian, OrnsteinUhlenbeck, TorusBrownian, VariancePreserving

_CLASSES = (OrnsteinUhlenbeck, VariancePreserving, TorusBrownian, BoxBrownian)


def _known(name: str) -> Any:
    """The package's own class of that name, or None."""
    return next((made for made in _CLASSES if made.__name__ == name), None)


def write_score(path: Any, kind: str, diffusion: Any, tensors: dict[str, Tensor]) -> None:
    """Write the file whole or not at all.

    Of a diffusion whose class is not the package's own (a subclass included) the name alone is
    kept, with its dimension: code is not stored.
    """
    made = type(diffusion)
    settings: dict[str, Any] = {"class": made.__qualname__, "dim": diffusion.dim}
    if _known(made.__name__) is not made:
        settings["foreign"] = True
    elif diffusion.settings is not None:
        settings |= diffusion.settings
    else:
        settings |= {name: getattr(diffusion, name) for name in inspect.signature(made).parameters}
    metadata = {"format": f"markovscore.{kind}/1", "diffusion": json.dumps(settings)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(output_path(path, "path"), safetensors.torch.save(tensors, metadata))


def read_score(path: Any, kind: str, diffusion: Any = None) -> tuple[Any, dict[str, Tensor]]:
    """The diffusion (that is given, or built anew) and the tensors that :func:`write_score` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a corrupt file, or one of another kind; a diffusion that is needed and not
            given, or is given and of another class or dimension than the stored one.
    """
    path = user_path(path)
    if not path.is_file():
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
    return _diffusion(path, kind, json.loads(metadata["diffusion"]), diffusion), tensors


def _diffusion(path: Any, kind: str, settings: dict[str, Any], given: Any) -> Any:
    name = settings.pop("class")
    if given is not None:
        wanted, found = (name, settings["dim"]), (type(given).__qualname__, given.dim)
        if found != wanted:
            raise ValueError(
                f"diffusion: expected {wanted[0]} of dimension {wanted[1]}, to which the score in "
                f"{path} was fitted, found {found[0]} of dimension {found[1]}: pass that one"
            )
        return given
    known = None if settings.get("foreign") else _known(name)
    if known is None:
        raise ValueError(
            f"{path}: expected a score of one of the package's diffusions, found one of {name}, a "
            f"class of your own: pass {kind}.load(path, diffusion=...), built as it was"
        )
    return known(**settings)
