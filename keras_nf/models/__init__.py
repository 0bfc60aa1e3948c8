"""Densities that train: from data by `FlowModel`, from a function by `VariationalModel`."""

from keras_nf.models.density_head import DensityHead
from keras_nf.models.export import export_saved_model
from keras_nf.models.flow_model import FlowModel
from keras_nf.models.metrics import BitsPerDim
from keras_nf.models.quantile_metrics import CRPS, Coverage, PinballLoss
from keras_nf.models.variational import VariationalModel

__all__ = ["CRPS", "BitsPerDim", "Coverage", "DensityHead", "FlowModel", "PinballLoss"]
__all__ += ["VariationalModel", "export_saved_model"]
