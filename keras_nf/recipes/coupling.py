"""Recipes of couplings: NICE and Real NVP."""

from collections.abc import Sequence
from typing import Any

from keras_nf.flows.chain import Chain
from keras_nf.flows.coupling import AdditiveCoupling, AffineCoupling
from keras_nf.flows.diagonal import Scaling
from keras_nf.recipes.layers import Activation, couplings

__all__ = ["nice", "real_nvp"]


def nice(
    event_size: int,
    *,
    layers: int = 4,
    hidden_units: Sequence[int] = (128, 128),
    activation: Activation = "relu",
    residual: bool = False,
    dropout: float = 0.0,
    mask: str | Sequence[bool] = "half",
    seed: int | None = None,
    dtype: str | None = None,
    **kwargs: Any,
) -> Chain:
    """NICE: additive couplings and a final scaling (Dinh, Krueger and Bengio, 2014).

    Each coupling exchanges the kept and the transformed part of the one before. The paper uses a
    logistic base: `FlowModel(nice(...), base="logistic")`. Its scaling is next to the base; here it
    is next to the data, whose units it takes up. Both directions are cheap.

    Args:
      event_size: size of the event, at least 2.
      layers: number of `AdditiveCoupling` layers.
      hidden_units: width of each hidden layer of their networks.
      activation: activation of their networks.
      residual: whether their networks have residual blocks; see `keras_nf.MLP`.
      dropout: rate of dropout in their networks, in training.
      mask: partition of the event; with `"random"` each layer has its own.
      seed: seed of random masks; drawn when `None`.
      dtype: dtype or policy of every layer.
      **kwargs: `validate_args`, `recompute`, `name` of the chain.

    Returns:
      A `Chain`.

    Raises:
      ValueError: if the event cannot be partitioned.

    Example:

    >>> import keras_nf
    >>> nice = keras_nf.nice(event_size=4, layers=2)
    >>> [type(flow).__name__ for flow in nice.flows]
    ['AdditiveCoupling', 'AdditiveCoupling', 'Scaling']

    References:
      Laurent Dinh, David Krueger, Yoshua Bengio. NICE: Non-linear Independent Components
      Estimation. 2014. arXiv:1410.8516
    """
    options = {
        "hidden_units": hidden_units,
        "activation": activation,
        "residual": residual,
        "dropout": dropout,
        "dtype": dtype,
    }
    flows = couplings(AdditiveCoupling, event_size, layers, mask, seed, options)
    return Chain([*flows, Scaling(dtype=dtype)], event_size=event_size, dtype=dtype, **kwargs)


def real_nvp(
    event_size: int,
    *,
    layers: int = 8,
    hidden_units: Sequence[int] = (128, 128),
    activation: Activation = "relu",
    residual: bool = False,
    dropout: float = 0.0,
    mask: str | Sequence[bool] = "half",
    seed: int | None = None,
    log_scale_bound: float | None = 2.0,
    dtype: str | None = None,
    **kwargs: Any,
) -> Chain:
    """Real NVP: affine couplings (Dinh, Sohl-Dickstein and Bengio, 2016).

    Each coupling exchanges the kept and the transformed part of the one before. Both directions
    are cheap.

    Args:
      event_size: size of the event, at least 2.
      layers: number of `AffineCoupling` layers.
      hidden_units: width of each hidden layer of their networks.
      activation: activation of their networks.
      residual: whether their networks have residual blocks; see `keras_nf.MLP`.
      dropout: rate of dropout in their networks, in training.
      mask: partition of the event; with `"random"` each layer has its own.
      seed: seed of random masks; drawn when `None`.
      log_scale_bound: largest |log-scale| of a layer, in nats.
      dtype: dtype or policy of every layer.
      **kwargs: `validate_args`, `recompute`, `name` of the chain.

    Returns:
      A `Chain`.

    Raises:
      ValueError: if the event cannot be partitioned.

    Example:

    >>> import keras_nf
    >>> len(keras_nf.real_nvp(event_size=2, layers=6, hidden_units=(64, 64)).flows)
    6

    References:
      Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio. Density Estimation using Real NVP. 2016.
      arXiv:1605.08803
    """
    options = {
        "hidden_units": hidden_units,
        "activation": activation,
        "residual": residual,
        "dropout": dropout,
        "log_scale_bound": log_scale_bound,
        "dtype": dtype,
    }
    flows = couplings(AffineCoupling, event_size, layers, mask, seed, options)
    return Chain(flows, event_size=event_size, dtype=dtype, **kwargs)
