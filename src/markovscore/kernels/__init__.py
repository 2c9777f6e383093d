"""Kernels for GPUs, each with a plain-PyTorch twin that runs everywhere else.

``dispatch`` says which of the two a call uses and how ``MARKOVSCORE_KERNELS`` forces one. A file
here has the public function, with its checks, and the twin; the file of the same name in
``_triton`` has the kernel.
"""

from . import dispatch
from .additive_score import additive_score
from .constants import MAX_COORDINATE, REACH
from .dispatch import VARIABLE, recorded, row_blocks, unsupported, use_triton
from .expm import expm
from .hermite_moments import hermite_moments
from .local_transition import TOO_LONG, SingularCovarianceError, local_transition
from .paths import MAX_COORDINATES, PathDrift, Steps, euler_paths, kernel_limit
from .philox import philox_normals, seed_tensor
from .torus_score import kernel_applies, torus_score

__all__ = [
    "MAX_COORDINATE",
    "MAX_COORDINATES",
    "REACH",
    "TOO_LONG",
    "VARIABLE",
    "PathDrift",
    "SingularCovarianceError",
    "Steps",
    "additive_score",
    "dispatch",
    "euler_paths",
    "expm",
    "hermite_moments",
    "kernel_applies",
    "kernel_limit",
    "local_transition",
    "philox_normals",
    "recorded",
    "row_blocks",
    "seed_tensor",
    "torus_score",
    "unsupported",
    "use_triton",
]
