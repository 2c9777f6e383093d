"""Data: toy sets, mixtures with known laws, images, angles."""

from .angles import protein_angles
from .images import Images, load_cifar10, load_digits
from .mixtures import DiffusedMixture, mixture_1d
from .toy import TOY_NAMES, toy

__all__ = [
    "TOY_NAMES",
    "DiffusedMixture",
    "Images",
    "load_cifar10",
    "load_digits",
    "mixture_1d",
    "protein_angles",
    "toy",
]
