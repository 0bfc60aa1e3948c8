"""Multilayer perceptron: the default conditioner of couplings."""

import itertools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_nf.layout import feature_major, saturate

__all__ = ["MLP", "NETWORK_OPTIONS"]

# Arguments of a network that a flow takes for the one that it makes.
NETWORK_OPTIONS = ("hidden_units", "activation", "residual", "dropout")


def check_hidden_units(hidden_units, residual=False):
    units = tuple(hidden_units) if isinstance(hidden_units, (tuple, list)) else hidden_units
    if not isinstance(units, tuple) or not all(
        isinstance(u, numbers.Integral) and not isinstance(u, bool) and u > 0 for u in units
    ):
        raise ValueError(
            "`hidden_units` must be a tuple of positive integers, one per hidden layer. "
            f"Received: {hidden_units!r}."
        )
    if residual and (len(units) < 3 or len(units) % 2 == 0 or len(set(units)) > 1):
        raise ValueError(
            "With `residual=True`, `hidden_units` must hold one width three, five, seven or more "
            "times: for the first layer, and for the two layers of each block. For two blocks of "
            "128 units, give (128,) * 5. "
            f"Received: hidden_units={hidden_units!r}."
        )
    return tuple(int(u) for u in units)


def check_rate(dropout):
    """Return the rate of dropout, a number in [0, 1)."""
    if not isinstance(dropout, numbers.Real) or not 0.0 <= dropout < 1.0:
        raise ValueError(f"`dropout` must be a rate, in [0, 1). Received: {dropout!r}.")
    return float(dropout)


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

    With `residual`, the first layer gives s = W_1 x + b_1, to which each block of two layers adds
    W' activation(W activation(s) + b) + b', and y = W s + b. With a condition c, which the first
    layer sees, what a block adds is multiplied by a gate, sigmoid(V c + d).

    Args:
      hidden_units: width of each hidden layer; `()` for a linear map. With `residual`, one for the
        first layer and two for each block, all equal: `(128,) * 5` for two blocks.
      units: size of the output. `None` leaves it to the flow that owns the network.
      activation: activation of the hidden layers, as in `keras.layers.Dense`; one that acts on
        each unit alone.
      residual: whether the hidden layers after the first are residual blocks.
      dropout: rate of dropout in training: after each activation of the hidden layers, or with
        `residual` before the second layer of each block.
      condition_size: how many of the inputs, the last ones, are the condition of the gates.
      **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape: `(..., size)`.

    Output shape: `(..., units)`.

    Raises:
      ValueError: if a width is not a positive integer, the widths of residual blocks differ, the
        rate is not in [0, 1), the activation mixes units, or `units` is unknown when built.

    Example:

    >>> import numpy as np, keras_nf
    >>> mlp = keras_nf.MLP((32, 32), units=4)
    >>> mlp(np.zeros((5, 3), "float32")).shape
    TensorShape([5, 4])

    References:
      Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun. Identity Mappings in Deep Residual
      Networks. 2016. arXiv:1603.05027
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (128, 128),
        units: int | None = None,
        *,
        activation: str | Callable[[Any], Any] = "relu",
        residual: bool = False,
        dropout: float = 0.0,
        condition_size: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_units = check_hidden_units(hidden_units, residual)
        self.units = units
        self.activation = check_activation(activation)
        self.residual = bool(residual)
        self.dropout = check_rate(dropout)
        self.condition_size = condition_size
        self._dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy) if dropout else None
        # The second layer of each block.
        self.block_ends = tuple(range(2, len(self.hidden_units), 2)) if residual else ()

    def build(self, inputs_shape):
        if self.units is None:
            raise ValueError(
                f"MLP '{self.name}' does not know the size of its output. Pass `units`, or give "
                "the network to a flow, which sets it."
            )
        self._add_dense_weights((inputs_shape[-1], *self.hidden_units, self.units))
        self._add_gates()

    def _add_dense_weights(self, sizes, links=None):
        """Add the weights of all layers; `links` counts the inputs of the units of each."""
        self._kernels, self._biases, self._condition_weights = [], [], []
        shapes = self._kernel_shapes(sizes)
        links = [math.prod(shape[:-1]) for shape in shapes] if links is None else links
        last = len(shapes) - 1
        for i, (shape, count) in enumerate(zip(shapes, links)):
            kernel, bias = ("zeros" if i == last else fan_in_uniform(count) for _ in range(2))
            self._kernels.append(
                self.add_weight(shape=shape, initializer=kernel, name=f"kernel_{i}")
            )
            self._biases.append(
                self.add_weight(shape=shape[-1:], initializer=bias, name=f"bias_{i}")
            )

    def _kernel_shapes(self, sizes):
        return list(itertools.pairwise(sizes))

    def _add_gates(self):
        """Add the weights of the gates, a kernel and a bias for each block, where they are."""
        for i in self.block_ends if self.condition_size else ():
            shape = (self.condition_size, self.hidden_units[i])
            for name, part in (("gate_kernel", shape), ("gate_bias", shape[1:])):
                initializer = fan_in_uniform(self.condition_size)
                self._condition_weights.append(
                    self.add_weight(shape=part, initializer=initializer, name=f"{name}_{i}")
                )

    def weight_tensors(self):
        """Kernels, biases and the weights of the condition, as `outputs` takes them."""
        weights = [*self._kernels, *self._biases, *self._condition_weights]
        return list(map(tf.convert_to_tensor, weights))

    def outputs(self, inputs, condition, weights, training=False):
        """Return what each layer gives before its activation; the last result is the network's.

        Args:
          inputs: tensor of shape (size, batch).
          condition: `None`, or a tensor of shape (condition_size, batch).
          weights: as of `weight_tensors`.
          training: whether dropout acts.
        """
        outputs = [self.apply_layer(0, inputs, condition, weights)]
        for i in range(1, len(self._kernels)):
            h = self.feed(i - 1, outputs[-1], training)
            output = self.apply_layer(i, h, condition, weights)
            if i in self.block_ends:
                output = self.add_block(output, self.gate(i, condition, weights), outputs[i - 2])
            outputs.append(output)
        return outputs

    def apply_layer(self, i, inputs, condition, weights):
        """Return the product of layer `i` with its inputs, and its bias."""
        dtype = self.compute_dtype
        product = self.product(i, ops.cast(weights[i], dtype), ops.cast(inputs, dtype))
        return product + self.layer_bias(i, condition, weights)

    def product(self, i, kernel, inputs):
        """Return the product of the kernel of layer `i` with its inputs."""
        return tf.matmul(kernel, inputs, transpose_a=True)

    def layer_bias(self, i, condition, weights):
        """Return what layer `i` adds to its product, of shape (size, 1) or (size, batch)."""
        return ops.cast(weights[len(self._kernels) + i], self.compute_dtype)[:, None]

    def gate(self, i, condition, weights):
        """Return the gate, of shape (size, batch), of the block that layer `i` ends, or `None`."""
        if condition is None or i not in self.block_ends:
            return None
        place = i - 2 - 2 * len(self.block_ends)
        kernel, bias, condition = (
            ops.cast(a, self.compute_dtype) for a in (weights[place], weights[place + 1], condition)
        )
        return tf.sigmoid(self.linear(kernel, bias, condition))

    def linear(self, kernel, bias, condition):
        """Return the linear map of a condition that a gate is the sigmoid of."""
        return tf.matmul(kernel, condition, transpose_a=True) + bias[:, None]

    def add_block(self, output, gate, earlier):
        """Add what a block gives, through its gate if it has one, to what the block took."""
        if self.compute_dtype == "float16":
            earlier = saturate(earlier, "float16")
        return earlier + (output if gate is None else output * gate)

    def feed(self, i, output, training=False):
        """Return what the layer after hidden layer `i` takes, given the output of that."""
        h = output
        if self.compute_dtype == "float16":
            h = saturate(h, "float16")
        if self.residual and i == len(self.hidden_units) - 1:
            return h
        h = self.activation(h)
        if self._dropout is not None and (not self.residual or i + 1 in self.block_ends):
            h = self._dropout(h, training=training)
        return h

    def call(self, inputs, training=None):
        inputs, restore = feature_major(inputs)
        condition = inputs[-self.condition_size :] if self._condition_weights else None
        return restore(self.outputs(inputs, condition, self.weight_tensors(), training)[-1])

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": self.hidden_units,
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "residual": self.residual,
            "dropout": self.dropout,
            "condition_size": self.condition_size,
        }
