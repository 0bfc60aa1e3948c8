"""Flows of zuko."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_nf.convert.arrays import Arrays, Layer, count_bins
from keras_nf.convert.maps import ZukoSpline
from keras_nf.convert.networks import autoregressive, chain
from keras_nf.flows.autoregressive import Autoregressive, MaskedAutoregressive
from keras_nf.flows.chain import Chain

__all__ = ["zuko_maf", "zuko_nsf"]

_SUPPORTED = (
    "state dict of a zuko.flows.{} (zuko 1.6) of at least 2 features, with any number of "
    "transforms, any order and passes, with or without a context; without residual blocks and "
    "without an adjacency of its own"
)

# Slope of zuko's affine map, which a MAF has no argument for.
_SLOPE = 1e-3


def zuko_maf(
    state: Mapping[str, Any],
    *,
    activation: str | Callable[[Any], Any] = "relu",
    dtype: str | None = None,
) -> Chain:
    """Return the flow of a zuko `MAF`.

    Args:
      state: its state dict, as NumPy arrays.
      activation: activation of its networks, as in `keras.layers.Dense`.
      dtype: dtype or policy of every layer.

    Returns:
      A `Chain` of `MaskedAutoregressive`; conditional where the source has a context.

    Raises:
      ValueError: if arrays are missing, left over, or of other shapes.

    Example:

    >>> import numpy as np, keras_nf
    >>> state = {"base.loc": np.zeros(2), "base.scale": np.ones(2)}
    >>> state["transform.transforms.0.order"] = np.array([1, 0])
    >>> state["transform.transforms.0.hyper.0.weight"] = np.ones((4, 2))
    >>> state["transform.transforms.0.hyper.0.bias"] = np.ones(4)
    >>> mask = np.array([[0, 1], [0, 1], [0, 0], [0, 0]])
    >>> state["transform.transforms.0.hyper.0.mask"] = mask
    >>> chain = keras_nf.convert.zuko_maf(state)
    >>> chain.flows[0].conditioner.order
    (1, 0)
    """
    arrays = Arrays(state, _SUPPORTED.format("MAF"))

    def make(layers, size):
        if len(layers[-1].bias) != 2 * size:
            raise arrays.error(f"a last layer of {len(layers[-1].bias)} units for {size} features")
        # zuko has z = x exp(a) + b, ours z = x exp(-s) - t.
        layers[-1] = Layer(-layers[-1].kernel, -layers[-1].bias, layers[-1].mask)
        return functools.partial(MaskedAutoregressive, log_scale_bound=-math.log(_SLOPE))

    return _convert(arrays, make, activation, dtype)


def zuko_nsf(
    state: Mapping[str, Any],
    *,
    slope: float = 1e-3,
    activation: str | Callable[[Any], Any] = "relu",
    dtype: str | None = None,
) -> Chain:
    """Return the flow of a zuko `NSF`, autoregressive or of couplings (`passes=2`).

    Args:
      state: its state dict, as NumPy arrays.
      slope: its argument of that name.
      activation: activation of its networks, as in `keras.layers.Dense`.
      dtype: dtype or policy of every layer.

    Returns:
      A `Chain` of `Autoregressive`; conditional where the source has a context.

    Raises:
      ValueError: if arrays are missing, left over, or of other shapes.

    Example:

    >>> import numpy as np, keras_nf
    >>> state = {"base.loc": np.zeros(2), "base.scale": np.ones(2)}
    >>> state["transform.transforms.0.order"] = np.array([0, 1])
    >>> state["transform.transforms.0.hyper.0.weight"] = np.ones((10, 2))
    >>> state["transform.transforms.0.hyper.0.bias"] = np.ones(10)
    >>> mask = np.array(5 * [[0, 0]] + 5 * [[1, 0]])
    >>> state["transform.transforms.0.hyper.0.mask"] = mask
    >>> chain = keras_nf.convert.zuko_nsf(state)
    >>> chain.flows[0].elementwise.bins
    2
    """
    arrays = Arrays(state, _SUPPORTED.format("NSF"))

    def make(layers, size):
        bins = count_bins(arrays, len(layers[-1].bias), size)
        return functools.partial(Autoregressive, ZukoSpline(bins, slope=slope))

    return _convert(arrays, make, activation, dtype)


def _convert(arrays, make, activation, dtype):
    """Return the chain; `make` takes layers and size, and returns a constructor of the flow."""
    loc, scale = arrays.take("base.loc", 1), arrays.take("base.scale", 1)
    if loc.any() or (scale != 1.0).any():
        raise arrays.error("a base that is not the standard normal")
    flows = []
    while arrays.names(f"transform.transforms.{len(flows)}."):
        prefix = f"transform.transforms.{len(flows)}"
        levels = arrays.take(f"{prefix}.order", 1, "iu")
        indices = []
        while f"{prefix}.hyper.{2 * len(indices)}.weight" in arrays:
            indices.append(2 * len(indices))
        if not indices:
            raise arrays.error(f"no network {prefix + '.hyper'!r}")
        layers = [arrays.take_layer(f"{prefix}.hyper.{i}", masked=True) for i in indices]
        if layers[0].kernel.shape[0] < len(levels):
            raise arrays.error(
                f"a network of {layers[0].kernel.shape[0]} inputs for {len(levels)} features"
            )
        constructor = make(layers, len(levels))
        degrees = _degrees(levels, layers)
        order = np.argsort(levels, kind="stable")
        flows.append(autoregressive(arrays, constructor, layers, order, degrees, activation, dtype))
    if not flows:
        raise arrays.error("no 'transform.transforms.0'")
    # zuko lists them from the data to the base.
    return chain(arrays, flows[::-1], dtype)


def _degrees(levels, layers):
    """Return how many features each hidden unit sees, by the rule of `zuko.nn.MaskedMLP`.

    Units take turns at the numbers of features that outputs see, without those that nothing leads
    to.
    """
    numbers = np.unique((levels[:, None] > levels).sum(axis=1))
    conditional = layers[0].kernel.shape[0] > len(levels)
    lowest = numbers[0 if conditional else 1 :].min(initial=len(levels))
    degrees = []
    for layer in layers[:-1]:
        reachable = numbers[numbers >= lowest]
        degrees.append(np.resize(reachable, len(layer.bias)))
        lowest = degrees[-1].min()
    return degrees
