"""The flows, one file for each flow, scheme or kind."""

from keras_nf.flows.autoregressive import (
    Autoregressive,
    InverseAutoregressive,
    MaskedAutoregressive,
    SplineAutoregressive,
)
from keras_nf.flows.batch_normalization import BatchNormalization
from keras_nf.flows.chain import Chain
from keras_nf.flows.coupling import AdditiveCoupling, AffineCoupling, Coupling, SplineCoupling
from keras_nf.flows.dequantize import Dequantize
from keras_nf.flows.diagonal import ActNorm, Scaling, Standardize
from keras_nf.flows.invert import Invert
from keras_nf.flows.log import Log
from keras_nf.flows.logit import Logit
from keras_nf.flows.lu_linear import LULinear
from keras_nf.flows.multiscale import Multiscale
from keras_nf.flows.permute import Permute
from keras_nf.flows.planar import Planar
from keras_nf.flows.squeeze import Squeeze

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "Autoregressive",
    "BatchNormalization",
    "Chain",
    "Coupling",
    "Dequantize",
    "InverseAutoregressive",
    "Invert",
    "LULinear",
    "Log",
    "Logit",
    "MaskedAutoregressive",
    "Multiscale",
    "Permute",
    "Planar",
    "Scaling",
    "SplineAutoregressive",
    "SplineCoupling",
    "Squeeze",
    "Standardize",
]
