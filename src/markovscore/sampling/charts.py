"""Flows of affine images of a process are made in the coordinates of the process."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..core import ScoreModel, Time, as_diffusion, as_score, as_tensor, check_points, original

Function = TypeVar("Function", bound=Callable[..., Any])


class Pulled(ScoreModel):
    """A score ``s(x, t)`` of an affine image as that of ``chart.inner``, ``M^T s(shift + M u)``."""

    def __init__(self, score: ScoreModel, chart: Any) -> None:
        self._score, self._chart = score, chart
        self.times, self.time_range = score.times, score.time_range
        self.dtype, self.device = score.dtype, score.device

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        """``(B, d)`` at ``u`` ``(B, d)``."""
        return self._chart.slope_to_inner(self._score(self._chart.to_user(x), t))


def _pulled(score: Any, chart: Any) -> Any:
    model = as_score(score)
    return Pulled(model, chart) if model.in_chart is None else model.in_chart(chart)


def draws_in_chart(function: Function) -> Function:
    """Decorates a sampler ``(score, diffusion, n, *, x_T, ...) -> (n, d)``."""

    @functools.wraps(function)
    def sampler(score: Any, diffusion: Any, n: int, *, x_T: Any = None, **named: Any) -> Tensor:
        chart = as_diffusion(diffusion).chart
        if chart is None:
            drawn: Tensor = function(score, diffusion, n, x_T=x_T, **named)
            return drawn
        if x_T is not None:
            x_T = chart.to_inner(as_tensor(x_T, "x_T"))
        u = function(_pulled(score, chart), original(chart.inner), n, x_T=x_T, **named)
        user: Tensor = chart.to_user(u)
        return user

    return cast(Function, sampler)


def densities_in_chart(function: Function) -> Function:
    """Decorates ``(score, diffusion, x, ...) -> log densities (B,)``, or these and more."""

    @functools.wraps(function)
    def found(score: Any, diffusion: Any, x: Any, **named: Any) -> Any:
        process = as_diffusion(diffusion)
        chart = process.chart
        if chart is None:
            return function(score, diffusion, x, **named)
        u = chart.to_inner(check_points(x, process.dim))
        values = function(_pulled(score, chart), original(chart.inner), u, **named)
        if isinstance(values, torch.Tensor):
            return values - chart.log_det
        return values[0] - chart.log_det, *values[1:]

    return cast(Function, found)
