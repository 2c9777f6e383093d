"""Whether a law is what its eigenfunctions need: values of the right shape, a score that is the
gradient of its log density."""

from typing import Any

import torch
from torch import Tensor

from ..core import as_tensor

_POINTS = 64
_STEP = 1e-5  # of differences, relative to the distance of the walls
_WRONG = 0.1  # relative error of a directional derivative: rough laws are differentiated roughly
_SHARE = 0.25  # of the points, at which it may be larger than that
_CURL = 1e-3  # relative to the score's own size


def check_values(prior: Any) -> None:
    """At three points: log densities ``(3,)`` and scores ``(3, d)``, in double precision.

    Raises ``ValueError`` otherwise.
    """
    x = torch.zeros(3, prior.dim, dtype=torch.float64)
    for name, shape in (("log_prob", (3,)), ("score", (3, prior.dim))):
        found = as_tensor(getattr(prior, name)(x), name)
        if found.shape != shape:
            raise ValueError(
                f"prior: expected {name}(x) of shape {shape} for x of shape {tuple(x.shape)}, "
                f"found {tuple(found.shape)}: one {'number' if len(shape) == 1 else 'row'} a point"
            )
        if found.dtype != torch.float64:
            raise ValueError(
                f"prior: expected {name}(x) in the precision of x, float64, found {found.dtype}: "
                "eigenvalues need it; leave out what rounds, such as x.float()"
            )


def check_autograd(prior: Any, x: Tensor) -> None:
    """Raise ``TypeError`` where autograd does not go through the log density at ``(n, d)``."""
    try:
        with torch.enable_grad():
            found = prior.log_prob(x.detach().clone().requires_grad_())
        through = isinstance(found, Tensor) and found.requires_grad
    except RuntimeError:  # an array of a tensor that requires gradients
        through = False
    if not through:
        raise TypeError(
            "prior: expected a log_prob of torch operations where coordinates are not independent, "
            "found one through which autograd does not go: write it with torch"
        )


def check_gradient(prior: Any, walls: Tensor) -> None:
    """At points between walls ``(2, d)``: the score along random directions is the derivative of
    the log density, by central differences.

    Raises ``ValueError`` for a score that is not, and names its curl where it has one.
    """
    generator, sides = torch.Generator().manual_seed(1), walls[1] - walls[0]
    shape = 3, _POINTS, prior.dim
    share, *along = torch.rand(shape, generator=generator, dtype=torch.float64)
    x = walls[0] + sides * (0.25 + 0.5 * share)
    first, second = (_STEP * sides * (2 * way - 1) for way in along)

    def change(name: str, step: Tensor) -> Tensor:
        ends = (as_tensor(getattr(prior, name)(x + s * step), name).detach() for s in (1, -1))
        return -sum((0.5 * s * end for s, end in zip((-1, 1), ends, strict=True)), 0 * share[0, 0])

    score = as_tensor(prior.score(x), "score").detach()
    found, truth = (score * first).sum(1), change("log_prob", first)
    size = (score * first).norm(dim=1) + truth.abs()
    wrong = (found - truth).abs() > _WRONG * size
    if float(wrong.double().mean()) <= _SHARE:
        return
    turned = (first * change("score", second)).sum(1) - (second * change("score", first)).sum(1)
    area = (first.square().sum(1) * second.square().sum(1)).sqrt()
    curl = 0.5 * float((turned / area).abs().max())
    row = int(wrong.nonzero()[0])
    at = [round(value, 3) for value in x[row].tolist()][:4]
    raise ValueError(
        "prior: expected score(x), the gradient of log_prob(x), found a derivative of "
        f"{float(found[row] / first[row].norm()):.4g} at {at} where that of log_prob is "
        f"{float(truth[row] / first[row].norm()):.4g}: correct the one or the other"
        + (
            f"; the curl of the score is up to {curl:.3g}, so that it is the gradient of nothing "
            "and the process not reversible"
            if curl > _CURL * float(score.norm(dim=1).max())
            else ""
        )
    )
