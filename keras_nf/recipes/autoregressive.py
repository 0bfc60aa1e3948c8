"""Recipes of autoregressive flows: MAF and IAF."""

from collections.abc import Sequence
from typing import Any

from keras_nf.flows.autoregressive import InverseAutoregressive, MaskedAutoregressive
from keras_nf.flows.chain import Chain
from keras_nf.recipes.layers import Activation, autoregressive_layers

__all__ = ["iaf", "maf"]


def maf(
    event_size: int,
    *,
    layers: int = 5,
    hidden_units: Sequence[int] = (128, 128),
    activation: Activation = "relu",
    residual: bool = False,
    dropout: float = 0.0,
    order: str | Sequence[int] = "sequential",
    seed: int | None = None,
    log_scale_bound: float | None = 2.0,
    dtype: str | None = None,
    **kwargs: Any,
) -> Chain:
    """Masked autoregressive flow (Papamakarios, Pavlakou and Murray, 2017).

    Density is cheap, sampling sequential.

    Args:
      event_size: size of the event.
      layers: number of `MaskedAutoregressive` layers.
      hidden_units: width of each hidden layer of their networks.
      activation: activation of their networks.
      residual: whether their networks have residual blocks; see `keras_nf.MADE`.
      dropout: rate of dropout in their networks, in training.
      order: which component comes first, as for the layers: `"sequential"`, `"reversed"`, or a
        permutation, each reversed from layer to layer, as in the paper; or `"random"`, one for each
        layer.
      seed: seed of random orders; drawn when `None`.
      log_scale_bound: largest |log-scale| of a layer, in nats.
      dtype: dtype or policy of every layer.
      **kwargs: `validate_args`, `name` of the chain.

    Returns:
      A `Chain`.

    Raises:
      ValueError: if the order is no permutation of the components.

    Example:

    >>> import keras_nf
    >>> len(keras_nf.maf(event_size=64, layers=5, hidden_units=(512, 512)).flows)
    5

    References:
      George Papamakarios, Theo Pavlakou, Iain Murray. Masked Autoregressive Flow for Density
      Estimation. 2017. arXiv:1705.07057
    """
    options = {
        "hidden_units": hidden_units,
        "activation": activation,
        "residual": residual,
        "dropout": dropout,
        "log_scale_bound": log_scale_bound,
        "dtype": dtype,
    }
    flows = autoregressive_layers(MaskedAutoregressive, layers, order, seed, options)
    return Chain(flows, event_size=event_size, dtype=dtype, **kwargs)


def iaf(
    event_size: int,
    *,
    layers: int = 5,
    hidden_units: Sequence[int] = (128, 128),
    activation: Activation = "relu",
    residual: bool = False,
    dropout: float = 0.0,
    order: str | Sequence[int] = "sequential",
    seed: int | None = None,
    log_scale_bound: float | None = 2.0,
    dtype: str | None = None,
    **kwargs: Any,
) -> Chain:
    """Inverse autoregressive flow (Kingma and others, 2016).

    Sampling is cheap, the density of given data sequential.

    Args:
      event_size: size of the event.
      layers: number of `InverseAutoregressive` layers.
      hidden_units: width of each hidden layer of their networks.
      activation: activation of their networks.
      residual: whether their networks have residual blocks; see `keras_nf.MADE`.
      dropout: rate of dropout in their networks, in training.
      order: which component comes first, as for the layers: `"sequential"`, `"reversed"`, or a
        permutation, each reversed from layer to layer, as in the paper; or `"random"`, one for each
        layer.
      seed: seed of random orders; drawn when `None`.
      log_scale_bound: largest |log-scale| of a layer, in nats.
      dtype: dtype or policy of every layer.
      **kwargs: `validate_args`, `name` of the chain.

    Returns:
      A `Chain`.

    Raises:
      ValueError: if the order is no permutation of the components.

    Example:

    >>> import keras_nf
    >>> type(keras_nf.iaf(event_size=2).flows[0]).__name__
    'InverseAutoregressive'

    References:
      Diederik P. Kingma, Tim Salimans, Rafal Jozefowicz, Xi Chen, Ilya Sutskever, Max Welling.
      Improving Variational Inference with Inverse Autoregressive Flow. 2016. arXiv:1606.04934
    """
    options = {
        "hidden_units": hidden_units,
        "activation": activation,
        "residual": residual,
        "dropout": dropout,
        "log_scale_bound": log_scale_bound,
        "dtype": dtype,
    }
    flows = autoregressive_layers(InverseAutoregressive, layers, order, seed, options)
    return Chain(flows, event_size=event_size, dtype=dtype, **kwargs)
