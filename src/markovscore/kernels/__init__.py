"""Kernels for GPUs, each with a plain-PyTorch twin that runs everywhere else.

``dispatch`` says which of the two a call uses and how ``MARKOVSCORE_KERNELS`` forces one. A file
here has the public function, with its checks, and the twin; the file of the same name in
``_triton`` has the kernel.
"""

from .additive_score import additive_score
from .blocks import row_blocks
from .constants import MAX_COORDINATE, REACH, VARIABLE
from .dispatch import triton_source, unsupported, use_triton
from .expm import expm
from .hermite_moments import hermite_moments
from .local_transition import TOO_LONG, SingularCovarianceError, local_transition
from .path_drift import PathDrift
from .paths import MAX_COORDINATES, Steps, euler_paths, kernel_limit
from .philox import box_muller, philox_normals, philox_words, seed_tensor
from .torus_score import kernel_applies, torus_score
