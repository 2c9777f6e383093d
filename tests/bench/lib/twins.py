"""The PyTorch twins of the kernels, as candidates of a benchmark."""

import os
from collections.abc import Callable

from markovscore.kernels import VARIABLE


def in_torch(function: Callable[[], object]) -> Callable[[], object]:
    """The same with the kernels switched off."""

    def call() -> object:
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = "torch"
        try:
            return function()
        finally:
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before

    return call
