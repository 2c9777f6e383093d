"""Where the kernels run: on the GPU if there is one, else in Triton's interpreter."""

import functools
import math

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


@pytest.fixture
def sides(device, in_torch):
    """``sides(function)``: the kernel's version of it, then the twin's."""
    return lambda function: (function, functools.partial(in_torch, function))


@pytest.fixture
def unwritten(monkeypatch):
    """After ``unwritten()`` new memory is NaN, so that a number that nobody writes is seen."""

    def filled(make):
        def call(*arguments, **named):
            made = make(*arguments, **named)
            return made.fill_(math.nan if made.is_floating_point() else 77)

        return call

    def start():
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            monkeypatch.setattr(owner, name, filled(getattr(owner, name)))

    return start
