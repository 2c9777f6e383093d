"""Targets for score regression on a short window of a nonlinear process (paper B and ours)."""

from .derivative import check_drift, check_score, unexplained
from .local import (
    Linearised,
    LocalDraw,
    covariance_factor,
    law_draw,
    linearised,
    local_draw,
    local_moments,
    local_target,
    local_transition,
    phi1,
    phi2,
    small_laws,
)
from .path_shift import path_shift_target, shifted_path
from .steering import first_step, first_step_diagonal
from .stein_check import stein_check
from .stein_identities import SteinCheck
from .verdicts import PASSED, known
from .walls import check_walls, wrapped
from .weights import Weight, linearised_weight
from .windows import Schedule, check_schedule, clock_window, fixed_window, kept_ends, window_ends
