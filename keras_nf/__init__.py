"""Normalizing flows for Keras 3 and TensorFlow Probability."""

_NEEDS_TENSORFLOW = (
    "keras_nf needs Keras's TensorFlow backend, but the backend is {!r}. Set the environment "
    "variable KERAS_BACKEND=tensorflow before keras is imported."
)

try:
    import keras
except ModuleNotFoundError as error:
    if error.name not in ("jax", "torch", "openvino"):
        raise
    raise ImportError(_NEEDS_TENSORFLOW.format(error.name)) from None

if keras.backend.backend() != "tensorflow":
    raise ImportError(_NEEDS_TENSORFLOW.format(keras.backend.backend()))

from keras_nf import bases, convert, datasets, diagnostics, elementwise, plot, tables
from keras_nf.diagnostics import check_flow
from keras_nf.flow import Flow
from keras_nf.flows import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Autoregressive,
    BatchNormalization,
    Chain,
    Coupling,
    Dequantize,
    InverseAutoregressive,
    Invert,
    Log,
    Logit,
    LULinear,
    MaskedAutoregressive,
    Multiscale,
    Permute,
    Planar,
    Scaling,
    SplineAutoregressive,
    SplineCoupling,
    Squeeze,
    Standardize,
)
from keras_nf.models import (
    CRPS,
    BitsPerDim,
    Coverage,
    DensityHead,
    FlowModel,
    PinballLoss,
    VariationalModel,
    export_saved_model,
)
from keras_nf.networks import MADE, MLP, AutoregressiveNetwork, ConvNet
from keras_nf.recipes import (
    density_head,
    glow,
    iaf,
    image_real_nvp,
    maf,
    nice,
    nsf,
    planar_flow,
    real_nvp,
)

__version__ = "0.1.0"

__all__ = [
    "CRPS",
    "MADE",
    "MLP",
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "Autoregressive",
    "AutoregressiveNetwork",
    "BatchNormalization",
    "BitsPerDim",
    "Chain",
    "ConvNet",
    "Coupling",
    "Coverage",
    "DensityHead",
    "Dequantize",
    "Flow",
    "FlowModel",
    "InverseAutoregressive",
    "Invert",
    "LULinear",
    "Log",
    "Logit",
    "MaskedAutoregressive",
    "Multiscale",
    "Permute",
    "PinballLoss",
    "Planar",
    "Scaling",
    "SplineAutoregressive",
    "SplineCoupling",
    "Squeeze",
    "Standardize",
    "VariationalModel",
    "bases",
    "check_flow",
    "convert",
    "datasets",
    "density_head",
    "diagnostics",
    "elementwise",
    "export_saved_model",
    "glow",
    "iaf",
    "image_real_nvp",
    "maf",
    "nice",
    "nsf",
    "planar_flow",
    "plot",
    "real_nvp",
    "tables",
]
