"""What a network is asked to minimise so that it becomes a score."""

from .denoising import DenoisingSM
from .draws import PathBuffer, TimeSampler
from .path import ImplicitSM, LocalDSM, PathShiftDSM
