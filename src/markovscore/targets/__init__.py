"""Targets for score regression on a short window of a nonlinear process (paper B and ours)."""

from .identity import check_drift, check_score, wrapped
from .local import (
    Schedule,
    check_schedule,
    check_walls,
    clock_window,
    covariance_factor,
    fixed_window,
    local_draw,
    local_moments,
    local_target,
    local_transition,
    phi1,
    phi2,
    window_start,
)
from .path_shift import Weight, linearised_weight, path_shift_target
from .stein import SteinCheck
from .stein_check import stein_check

__all__ = [
    "Schedule",
    "SteinCheck",
    "Weight",
    "check_drift",
    "check_schedule",
    "check_score",
    "check_walls",
    "clock_window",
    "covariance_factor",
    "fixed_window",
    "linearised_weight",
    "local_draw",
    "local_moments",
    "local_target",
    "local_transition",
    "path_shift_target",
    "phi1",
    "phi2",
    "stein_check",
    "window_start",
    "wrapped",
]
