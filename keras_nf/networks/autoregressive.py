"""Networks whose outputs for a component see those before it alone: the contract, and a default."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_nf.layout import (
    by_parameter,
    differentiable_once,
    feature_major,
    refuse_forward_mode,
    saturate,
)

__all__ = ["SEQUENTIAL", "AutoregressiveNetwork", "parameters_at"]

# How errors call it.
SEQUENTIAL = "The sequential direction of an autoregressive flow"


class AutoregressiveNetwork(keras.layers.Layer):
    """Base class of the networks that parameterize an autoregressive flow.

    To write one, subclass `AutoregressiveNetwork`, register it with
    `keras.saving.register_keras_serializable`, and give it

    - `call(inputs, condition=None)`, whose outputs for a component depend on the components before
      it in `component_order`, and on the condition, alone. It must give the same outputs at each
      call: no dropout and no statistics of the batch. `keras_nf.check_flow` tells whether it does;
    - `parameters`, the number of outputs per component, which the map of the flow must need;
    - `component_order`, if it is not 0, 1, 2 and so on: the components, the first one first;
    - `build(inputs_shape, condition_shape=None)`, when it adds weights of its own. By default the
      layers that `call` uses are built, by tracing it;
    - `get_config()`, as any Keras layer.

    `solve` is the sequential direction, by one call for each component. A network that knows what a
    component changes may override it, as `MADE` does, at the cost of about one call in all.

    Args:
      **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape: `(batch, event_size)`; `condition`: `(batch, condition_size)`.

    Output shape: `(batch, parameters * event_size)`, all components of the first parameter first.

    Example:

    >>> import keras, numpy as np, keras_nf
    >>> from keras import ops
    >>> @keras.saving.register_keras_serializable("my_package")
    ... class Average(keras_nf.AutoregressiveNetwork):
    ...     parameters = 1
    ...     def call(self, inputs: Any, condition: Any = None) -> Any:
    ...         return ops.cumsum(inputs, axis=-1) - inputs
    >>> shift = keras_nf.elementwise.Shift()
    >>> flow = keras_nf.Autoregressive(shift, conditioner=Average())
    >>> np.asarray(flow(np.array([[1.0, 1.0, 1.0]], "float32"))).tolist()
    [[1.0, 2.0, 4.0]]
    """

    parameters: int
    component_order: Any = None

    def build(self, inputs_shape, condition_shape=None):
        shapes = [shape for shape in (inputs_shape, condition_shape) if shape is not None]
        inputs = [keras.KerasTensor(shape, dtype=self.compute_dtype) for shape in shapes]
        keras.Operation.compute_output_spec(self, *inputs)

    def compute_output_shape(self, inputs_shape, condition_shape=None):
        return (*inputs_shape[:-1], self.parameters * inputs_shape[-1])

    def solve(self, elementwise: Any, x: Any, condition: Any = None) -> tuple[Any, Any]:
        """Solve y_i = map(x_i; network_i(y_<i, condition)) for y.

        The gradient costs a backward pass for each component. There are no second derivatives.

        Args:
          elementwise: the map; see `keras_nf.elementwise`.
          x: tensor of shape `(..., event_size)`.
          condition: `None`, or a tensor of shape `(..., condition_size)`.

        Returns:
          y, of the shape of `x`, and the sum of the map's log-derivatives, of shape `(...)`.

        Raises:
          NotImplementedError: where second derivatives, or some in forward mode, are asked for.
        """
        x, restore = feature_major(x)
        size = x.shape[0]
        order = np.arange(size) if self.component_order is None else self.component_order
        turns = tf.constant(np.argsort(order)[:, None])

        def image(x, y):
            return elementwise.forward(x, parameters_at(self, y, condition))

        def advance(turn, y):
            # What is not known yet stays zero, so that nothing grows in vain.
            return turn + 1, tf.where(turns == turn, image(x, y)[0], y)

        _, known = tf.while_loop(
            lambda turn, _: turn < size,
            advance,
            (tf.constant(0, turns.dtype), tf.zeros_like(x)),
        )
        known = tf.stop_gradient(known)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(known)
            # These have the derivatives of each component with those before it held.
            alone = image(x, known)
        refuse_forward_mode(SEQUENTIAL, alone)

        @tf.custom_gradient
        def with_later_components(y, log_derivatives):
            """Add to the adjoint of each component what it does to those after it."""

            def gradient(upstream, of_log_derivatives):
                def through(i, bar):
                    return tape.gradient(alone[i], known, bar, "zero")

                upstream = upstream + through(1, of_log_derivatives)
                _, bar = tf.while_loop(
                    lambda turn, _: turn < size - 1,
                    lambda turn, bar: (turn + 1, upstream + through(0, bar)),
                    (tf.constant(0), upstream),
                )
                return differentiable_once(SEQUENTIAL, [bar, of_log_derivatives])

            return (tf.identity(y), tf.identity(log_derivatives)), gradient

        y, log_derivatives = with_later_components(*alone)
        return restore(y), restore(tf.reduce_sum(log_derivatives, axis=0))


def parameters_at(network, y, condition=None):
    """Return the parameters of the map of each component, of shape (parameters, size, batch).

    Args:
      network: an `AutoregressiveNetwork`.
      y: tensor of shape (size, batch).
      condition: `None`, or a tensor of shape `(..., condition_size)`, of that batch.
    """
    dtype = network.compute_dtype
    if condition is not None:
        condition = saturate(ops.transpose(feature_major(condition)[0]), dtype)
    outputs = network(saturate(ops.transpose(y), dtype), condition)
    units = network.parameters * y.shape[0]
    if outputs.shape[-1] != units:
        raise ValueError(
            f"{network!r} must return {network.parameters} parameter(s) for each of {y.shape[0]} "
            f"components, shape (..., {units}). Received: shape {tuple(outputs.shape)}."
        )
    return by_parameter(saturate(ops.transpose(outputs), y.dtype), network.parameters)
