"""Where the kernels run: on the GPU if there is one, else in Triton's interpreter."""

import pytest
import torch


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device on which the Triton version of every kernel runs (forced, so no test can pass on
    the twin by mistake)."""
    if torch.cuda.is_available():
        monkeypatch.setenv("MARKOVSCORE_KERNELS", "triton")
        return torch.device("cuda")
    monkeypatch.setenv("MARKOVSCORE_KERNELS", "interpret")
    return torch.device("cpu")


@pytest.fixture
def in_torch(monkeypatch: pytest.MonkeyPatch):
    """``in_torch(function, *arguments)`` calls the twin."""

    def call(function, *arguments, **named):
        with monkeypatch.context() as patch:
            patch.setenv("MARKOVSCORE_KERNELS", "torch")
            return function(*arguments, **named)

    return call
