"""The networks that parameterize flows."""

from keras_nf.networks.autoregressive import AutoregressiveNetwork
from keras_nf.networks.conv import ConvNet
from keras_nf.networks.made import MADE
from keras_nf.networks.mlp import MLP

__all__ = ["MADE", "MLP", "AutoregressiveNetwork", "ConvNet"]
