"""Chance and convergence in the tests: generators, draws, standard errors, orders.

Not called ``statistics``: a file of that name here would stand before the standard library's.
"""

import contextlib
import math

import torch

F64 = torch.float64


def rng(seed=0, device="cpu"):
    """A generator of its own for every draw: no test depends on what ran before it."""
    return torch.Generator(device).manual_seed(seed)


def points(n, d=2, seed=0, scale=1.0, dtype=F64):
    """``scale Z`` with ``Z`` standard normal, ``(n, d)``: the same numbers in every dtype."""
    return (scale * torch.randn(n, d, generator=rng(seed), dtype=F64, device="cpu")).to(dtype)


def sigmas(samples, expected=0.0):
    """Distance of the mean of independent ``samples`` ``(n, ...)`` from ``expected``, in standard
    errors ``std / sqrt(n)`` of that mean; shape ``(...)``. Below 6 but for one time in 5e8."""
    error = samples.std(0) / math.sqrt(len(samples))
    return ((samples.mean(0) - expected) / error).abs()


def agrees(samples, expected=0.0, slack=0.0):
    """Whether the mean of independent ``samples`` ``(n, ...)`` is ``expected`` everywhere, within
    6 standard errors and ``slack`` (a known bias: of a scheme, of a first time)."""
    bound = 6 * samples.std(0) / math.sqrt(len(samples)) + slack
    return bool(((samples.mean(0) - expected).abs() <= bound).all())


def products(x):
    """``x_i x_j`` of every row, ``(n, d^2)``: what second moments are the means of."""
    return (x[:, :, None] * x[:, None, :]).flatten(1)


def equal(a, b):
    """Whether two series of tensors are the same, bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def slope(sizes, errors):
    """Least-squares slope of ``log errors`` over ``log sizes``: the order in a step size, minus
    the order in a number of steps or cells."""
    x, y = (torch.as_tensor(v, dtype=F64).log() for v in (sizes, errors))
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / x.square().sum())


@contextlib.contextmanager
def default_dtype(dtype):
    """In it torch's default is ``dtype``; after it what it was."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
