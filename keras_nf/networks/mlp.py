"""Multilayer perceptron: the default conditioner of couplings."""

import itertools
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_nf.layout import feature_major, saturate

__all__ = ["MLP"]


def check_hidden_units(hidden_units):
    units = tuple(hidden_units) if isinstance(hidden_units, (tuple, list)) else hidden_units
    if not isinstance(units, tuple) or not all(
        isinstance(u, numbers.Integral) and not isinstance(u, bool) and u > 0 for u in units
    ):
        raise ValueError(
            "`hidden_units` must be a tuple of positive integers, one per hidden layer. "
            f"Received: {hidden_units!r}."
        )
    return tuple(int(u) for u in units)


def check_activation(activation):
    """Return the function, which must act on each unit alone, wherever the axis of units is."""
    function = keras.activations.get(activation)
    with tf.init_scope():
        x = ops.convert_to_tensor([[-2.0, -0.5, 1.0], [0.5, 3.0, 0.0]])
        agree = np.allclose(function(x), ops.transpose(function(ops.transpose(x))))
    if not agree:
        raise ValueError(
            "`activation` must act on each unit alone, as relu, tanh or silu do. Received: "
            f"{activation!r}, which mixes the units of a layer."
        )
    return function


def fan_in_uniform(links):
    """Return an initializer of kernels and biases: uniform in ±1/sqrt(links), unit by unit.

    A bias is as large as a weight, so that the kinks of a layer lie all over the data instead of in
    the origin. A masked unit is scaled by the inputs that it sees: with the shape of the kernel in
    their place, units of few inputs start too small.

    Args:
      links: number of inputs of each unit, or one number for all.
    """
    draw = keras.initializers.RandomUniform(-1.0, 1.0)
    limit = 1.0 / np.sqrt(np.maximum(links, 1))

    def initialize(shape, dtype=None):
        return draw(shape, dtype=dtype) * ops.cast(limit, dtype)

    return initialize


@keras.saving.register_keras_serializable("keras_nf")
class MLP(keras.layers.Layer):
    """Multilayer perceptron whose last layer starts at zero.

    h_0 = x, h_k = activation(W_k h_{k-1} + b_k), y = W h_K + b, with W = 0 and b = 0 at first, so
    that the flow that it parameterizes starts as the identity. Kernels and biases of the hidden
    layers start uniform in ±1/sqrt(n), for units of n inputs.

    Args:
      hidden_units: width of each hidden layer; `()` for a linear map.
      units: size of the output. `None` leaves it to the flow that owns the network.
      activation: activation of the hidden layers, as in `keras.layers.Dense`; one that acts on
        each unit alone.
      **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape: `(..., size)`.

    Output shape: `(..., units)`.

    Raises:
      ValueError: if a width is not a positive integer, the activation mixes units, or `units` is
        unknown when built.

    Example:

    >>> import numpy as np, keras_nf
    >>> mlp = keras_nf.MLP((32, 32), units=4)
    >>> mlp(np.zeros((5, 3), "float32")).shape
    TensorShape([5, 4])
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (128, 128),
        units: int | None = None,
        *,
        activation: str | Callable[[Any], Any] = "relu",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_units = check_hidden_units(hidden_units)
        self.units = units
        self.activation = check_activation(activation)

    def build(self, inputs_shape):
        if self.units is None:
            raise ValueError(
                f"MLP '{self.name}' does not know the size of its output. Pass `units`, or give "
                "the network to a flow, which sets it."
            )
        self._add_dense_weights((inputs_shape[-1], *self.hidden_units, self.units))

    def _add_dense_weights(self, sizes, links=None):
        """Add the weights of all layers; `links` counts the inputs of the units of each."""
        self._kernels, self._biases = [], []
        links = sizes[:-1] if links is None else links
        last = len(sizes) - 2
        for i, (shape, count) in enumerate(zip(itertools.pairwise(sizes), links)):
            kernel, bias = ("zeros" if i == last else fan_in_uniform(count) for _ in range(2))
            self._kernels.append(
                self.add_weight(shape=shape, initializer=kernel, name=f"kernel_{i}")
            )
            self._biases.append(
                self.add_weight(shape=shape[1:], initializer=bias, name=f"bias_{i}")
            )

    def call(self, inputs):
        h, restore = feature_major(inputs)
        for i, (kernel, bias) in enumerate(zip(self._kernels, self._biases)):
            if i > 0:
                h = self.activate(h)
            h = tf.matmul(kernel, h, transpose_a=True) + ops.expand_dims(bias, 1)
        return restore(h)

    def activate(self, h):
        """Return the activation of what a layer gives, within the range of half precision."""
        if self.compute_dtype == "float16":
            h = saturate(h, "float16")
        return self.activation(h)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": self.hidden_units,
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
        }
