"""Networks that are scores."""

from .mlp import ScoreMLP
from .residual import ResidualScore
from .unet import ScoreUNet
