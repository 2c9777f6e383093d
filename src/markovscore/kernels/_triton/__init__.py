"""The Triton side of ``markovscore.kernels``: one file for each kernel, named as its twin's.

Imported by the first call that runs a kernel (``dispatch.use_triton``). A file holds the jitted
functions and one launcher, which takes checked, contiguous tensors of one device. Block sizes are
constants with a reason: autotuning would make a result depend on the machine's mood.
"""

import os

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
