"""MADE: a network whose i-th output sees only the inputs before i."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_nf.arguments import check_count
from keras_nf.layout import feature_major, saturate
from keras_nf.networks.autoregressive import AutoregressiveNetwork
from keras_nf.networks.masked import MaskedProduct
from keras_nf.networks.masks import check_degrees, given_degrees, hidden_degrees, made_levels
from keras_nf.networks.mlp import MLP, fan_in_uniform
from keras_nf.networks.sequential import solve_sequentially
from keras_nf.permutation import check_permutation, invert_permutation, resolve_permutation
from keras_nf.seeds import draw_seed
from keras_nf.training import TrainingPhase

__all__ = ["MADE"]


@keras.saving.register_keras_serializable("keras_nf")
class MADE(AutoregressiveNetwork, MLP):
    """Masked autoencoder for distribution estimation: an autoregressive multilayer perceptron.

    h_k = activation((M_k * W_k) h_{k-1} + b_k): each kernel is multiplied by a constant 0/1 mask,
    so that the outputs for a component have no path from it or from those after it in `order`.
    The last layer starts at zero, kernels and biases of the others uniform in ±1/sqrt(n) for units
    of n links, masked ones not counted. The masks are not weights: they follow from the config.

    With a `condition`, the first hidden layer also sees V c, unmasked; with `residual`, blocks have
    gates, as in `keras_nf.MLP`.

    Args:
      hidden_units: width of each hidden layer; `()` for a masked linear map. A layer narrower
        than `event_size - 1` is allowed, but each of its units then stands for several components.
        With `residual`, one for the first layer and two for each block, all equal.
      parameters: number of outputs per component of the event.
      activation: activation of the hidden layers, as in `keras.layers.Dense`; one that acts on
        each unit alone.
      residual: whether the hidden layers after the first are residual blocks, as in `keras_nf.MLP`.
        The layers of a block have the units of the layer before, so that masks hold.
      dropout: rate of dropout in training, as in `keras_nf.MLP`, in one evaluation of the network.
        The sequential direction refuses to run in training with it.
      order: which component comes first: `"sequential"`, `"reversed"`, `"random"`, or a
        permutation of `range(event_size)`; component `order[0]` depends on no other.
      seed: seed of the random order; drawn, and kept in the config, when `None`.
      degrees: how many components, the first ones in `order`, each hidden unit sees, a sequence of
        integers for each layer. `None` spreads them evenly.
      **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape: `(..., event_size)`; `condition`: `(..., condition_size)`.

    Output shape: `(..., parameters * event_size)`, all components of the first parameter first.

    Raises:
      ValueError: if a width is not a positive integer, the widths of residual blocks differ, the
        rate is not in [0, 1), the activation mixes units, a conditional layer has no unit to spare
        for the condition, the order is no permutation, or the degrees have other sizes than the
        layers, are not less than the event size, or differ between layers of residual blocks.

    Example:

    >>> import numpy as np, keras_nf
    >>> made = keras_nf.MADE((32, 32), parameters=2)
    >>> made(np.zeros((5, 3), "float32")).shape
    TensorShape([5, 6])

    References:
      Mathieu Germain, Karol Gregor, Iain Murray, Hugo Larochelle. MADE: Masked Autoencoder for
      Distribution Estimation. 2015. arXiv:1502.03509
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (128, 128),
        parameters: int = 1,
        *,
        activation: str | Callable[[Any], Any] = "relu",
        residual: bool = False,
        dropout: float = 0.0,
        order: str | Sequence[int] = "sequential",
        seed: int | None = None,
        degrees: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            hidden_units, activation=activation, residual=residual, dropout=dropout, **kwargs
        )
        self.parameters = check_count(parameters, "parameters")
        self.order = check_permutation(order, "order")
        self.seed = draw_seed() if seed is None and order == "random" else seed
        self.degrees = None
        if degrees is not None:
            self.degrees = check_degrees(degrees, self.hidden_units, self.residual)
        self._phase = TrainingPhase() if dropout else None

    def build(self, inputs_shape, condition_shape=None):
        size = inputs_shape[-1]
        conditional = condition_shape is not None
        self.component_order = resolve_permutation(self.order, size, self.seed, "order")
        if self.degrees is None:
            self._degrees = tuple(hidden_degrees(size, self.hidden_units, conditional))
        else:
            self._degrees = tuple(given_degrees(self.degrees, size))
        component = invert_permutation(self.component_order)
        # In which step of the sequential direction each unit is known, by layer.
        self.steps = (component, *self._degrees, np.tile(component, self.parameters))
        levels = made_levels(self.component_order, self._degrees, self.parameters)
        groups = [*[1] * len(self._degrees), self.parameters]
        self._products = [MaskedProduct(*pair, n) for pair, n in zip(levels, groups)]
        self.units = self.parameters * size
        self.condition_size = condition_shape[-1] if conditional else 0
        sizes = (size, *self.hidden_units, self.units)
        links = [product.links for product in self._products]
        links[0] = links[0] + self.condition_size
        self._add_dense_weights(sizes, links)
        if conditional:
            self._condition_weights.append(
                self.add_weight(
                    shape=(self.condition_size, sizes[1]),
                    initializer=fan_in_uniform(links[0]) if self.hidden_units else "zeros",
                    name="condition_kernel",
                )
            )
        self._add_gates()

    def product(self, i, kernel, inputs):
        return self._products[i](kernel, inputs)

    def layer_bias(self, i, condition, weights):
        bias = super().layer_bias(i, condition, weights)
        if i > 0 or condition is None:
            return bias
        kernel = weights[2 * len(self._products)]
        kernel, condition = (ops.cast(a, self.compute_dtype) for a in (kernel, condition))
        return bias + tf.matmul(kernel, condition, transpose_a=True)

    def layer_gradients(self, inputs, adjoints, weights, condition):
        """Return the gradients in the weights and, if there is one, in the condition.

        Args:
          inputs: what each layer takes in its product.
          adjoints: gradients in the outputs of each layer, before its activation.
          weights: as for `outputs`.
          condition: as for `outputs`.
        """
        inputs = [ops.cast(h, self.compute_dtype) for h in inputs]
        of_gates, adjoints = self._gate_gradients(inputs, adjoints, weights, condition)
        gradients = [
            product.kernel_gradient(*pair)
            for product, *pair in zip(self._products, inputs, adjoints)
        ]
        gradients += [tf.reduce_sum(adjoint, axis=1) for adjoint in adjoints]
        sources = weights
        if condition is not None:
            kernel = weights[2 * len(self._products)]
            kernel, c = (ops.cast(a, self.compute_dtype) for a in (kernel, condition))
            gradients.append(tf.matmul(c, adjoints[0], transpose_b=True))
            *of_gates, of_condition = of_gates
            gradients += [*of_gates, tf.matmul(kernel, adjoints[0]) + of_condition]
            sources = [*weights, condition]
        return [ops.cast(bar, source.dtype) for bar, source in zip(gradients, sources)]

    def _gate_gradients(self, inputs, adjoints, weights, condition):
        """Return the gradients in the gates' weights and the condition, and in what gates take."""
        adjoints = list(adjoints)
        if condition is None or not self.block_ends:
            return [0], adjoints
        sources = [*weights[-2 * len(self.block_ends) :], condition]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            gates = {i: self.gate(i, condition, weights) for i in self.block_ends}
        upstream = []
        for i, gate in gates.items():
            upstream.append(adjoints[i] * self.apply_layer(i, inputs[i], condition, weights))
            adjoints[i] = adjoints[i] * gate
        gradients = tape.gradient(list(gates.values()), sources, output_gradients=upstream)
        return [ops.cast(bar, self.compute_dtype) for bar in gradients], adjoints

    def call(self, inputs, condition=None, training=None):
        inputs, restore = feature_major(inputs)
        if condition is not None:
            condition, _ = feature_major(condition)
        return restore(self.outputs(inputs, condition, self.weight_tensors(), training)[-1])

    def solve(self, elementwise, x, condition=None):
        if self._phase is not None and self._phase(x):
            raise ValueError(
                "In training, dropout acts where a network is evaluated once: in the density of a "
                "MAF, in the samples of an IAF. It cannot act in the other, sequential direction. "
                f"Received: dropout={self.dropout} in {self!r}. Train by the direction of one "
                "evaluation, or set dropout=0.0."
            )
        x, restore = feature_major(x)
        if condition is not None:
            condition = saturate(feature_major(condition)[0], self.compute_dtype)
        y, log_det = solve_sequentially(self, elementwise, x, condition)
        return restore(y), restore(log_det)

    def get_config(self):
        config = super().get_config()
        del config["units"], config["condition_size"]
        return {
            **config,
            "parameters": self.parameters,
            "order": self.order,
            "seed": self.seed,
            "degrees": self.degrees,
        }
