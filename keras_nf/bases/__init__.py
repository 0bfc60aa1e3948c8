"""Bases: the distribution of z, by a name, as a layer with weights, or from a function.

Example:

>>> import keras_nf
>>> flow = keras_nf.maf(event_size=2, hidden_units=(8,))
>>> model = keras_nf.FlowModel(flow, base=keras_nf.bases.Mixture(2))
>>> model.build((None, 2))
>>> model.sample(3, seed=0).shape
TensorShape([3, 2])
"""

from keras_nf.base import Base
from keras_nf.bases.autoregressive_mixture import AutoregressiveMixture
from keras_nf.bases.location_scale import Logistic, Normal, StudentT, Uniform
from keras_nf.bases.mixture import Mixture

__all__ = [
    "AutoregressiveMixture",
    "Base",
    "Logistic",
    "Mixture",
    "Normal",
    "StudentT",
    "Uniform",
]
