"""The training loop, its checkpoints, and its processes."""

from .loop import TrainResult, train
