"""What every room may use: types, checks, derivatives, linear maps, the Euler walk, files."""

from .arrays import takes_arrays
from .blocks import (
    block_rows,
    by_blocks,
    explain_memory,
    field_and_divergence,
    random_signs,
    score_and_divergence,
    score_and_trace,
    score_values,
    trace_rows,
)
from .checks import (
    as_input,
    as_tensor,
    check_callable,
    check_finite,
    check_generator,
    check_integer,
    check_number,
    check_points,
    check_precision,
    check_steps,
)
from .checksums import checksum, crc32, named_checksum
from .fields import (
    Field,
    Time,
    check_field,
    drift_and_vjp,
    drift_at,
    drift_divergence,
    field_jacobian,
    jacobian_at,
    noise_at,
    noise_norm,
    noise_part,
    pull_back,
    value_and_divergence,
)
from .files import output_path, user_path, whole_folder, write_whole
from .hermite import between, hermite, series, standard_scale
from .kept import CACHE, cache_folder, kept_on_disk
from .linear import (
    SINGULAR,
    cholesky,
    first_silent,
    linear_transition,
    multiplier,
    stationary_factor,
    window_moments,
)
from .linear_maps import Dense, Diagonal, LinearMap, Scalar, read_jacobian
from .modes import Constants, full_precision, lasting, ordinary_tensors, recorded, remembered
from .progress import bar, check_progress, counter
from .times import (
    check_from_start,
    check_time,
    check_time_range,
    check_times,
    check_window,
    expand_like,
)
from .types import (
    Clock,
    Criterion,
    DiffusionLike,
    IdentityClock,
    Law,
    Objective,
    Process,
    Score,
    ScoreModel,
    as_diffusion,
    as_law,
    as_objective,
    as_score,
)
from .views import name_of, original
from .walk import Grid, Step, Walk, Watch, euler_step, make_grid, noise_like
