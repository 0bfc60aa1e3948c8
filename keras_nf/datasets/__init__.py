"""Targets of two components: sets of points, and densities by their energies.

Example:

>>> import keras_nf
>>> keras_nf.datasets.two_moons(1000, seed=0).shape
(1000, 2)
"""

from keras_nf.datasets.energies import u1, u2, u3, u4
from keras_nf.datasets.samplers import (
    checkerboard,
    eight_gaussians,
    pinwheel,
    rings,
    spirals,
    two_moons,
)

__all__ = [
    "checkerboard",
    "eight_gaussians",
    "pinwheel",
    "rings",
    "spirals",
    "two_moons",
    "u1",
    "u2",
    "u3",
    "u4",
]
