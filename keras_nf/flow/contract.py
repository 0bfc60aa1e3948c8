"""The contract of a flow: one object that is a Keras layer and a TFP bijector."""

import contextlib
from typing import Any

import keras
import tensorflow as tf
from keras import ops
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from keras_nf.arguments import check_count
from keras_nf.config import FORMAT_VERSION, automatic_arguments, check_format, deserialize
from keras_nf.flow.arguments import title
from keras_nf.flow.distribution import FlowDistribution
from keras_nf.flow.door import BUILDING, Door

__all__ = ["Flow"]


class Flow(Door):
    """Base class of every flow: an invertible map x = f(z) with a known log-determinant.

    A flow is a Keras layer (`flow(z)` runs `forward`; it trains in any Keras model) and a
    `tfp.bijectors.Bijector` (it can be used in `tfd.TransformedDistribution`, `tfb.Chain` and
    `tfb.Invert`). `forward` maps the base to the data, `inverse` the data to the base.

    To write a flow, subclass `Flow` and implement

    - `_forward_and_log_det(x, condition=None) -> (y, log_det)`, with log_det = log|det dy/dx|;
    - `_inverse_and_log_det(y, condition=None) -> (x, log_det)`, with log_det = log|det dx/dy|;
    - `build(inputs_shape, condition_shape=None)`, when there are weights, starting with
      `super().build(inputs_shape, condition_shape)`, which sets `event_size`, `condition_size`;
    - the property `uses_condition`, returning true, when a condition changes the result;
    - the property `takes_integers`, returning true, when `inverse` is for integers as well;
    - the property `recomputable`, returning true, when a `Chain` may recompute what the flow takes
      from what it gives: both directions are cheap and repeatable, and lose nothing but rounding;
    - `event_ndims=n` for `super().__init__`, when an event has n axes, as an image has three;
    - `_forward_event_shape(shape)` and `_inverse_event_shape(shape)`, when f changes the shape of
      an event: each takes and returns a `tf.TensorShape`, whose last `event_ndims` axes count;
    - `get_config()`, when `__init__` takes arguments other than numbers, strings and booleans, and
      those of this class as `**kwargs`.

    The rest follows. `forward_and_log_det` and `inverse_and_log_det` convert their arguments to the
    variable dtype, check them, build an unbuilt flow, broadcast `x` and `condition` to a common
    batch shape where `uses_condition` is true, and call the method of the same name with an
    underscore. It must accept any number of leading batch axes, also none, and return a
    log-determinant of the full batch shape, which is checked. A flow that holds flows may call
    either. `keras_nf.check_flow` tells whether the two agree, and much else.

    A flow acts on the last `event_ndims` axes, and what is left of them is the batch. A flow of
    fewer axes than an event has maps each position: an image by its channels, for example.

    Networks may compute in a lower precision (set `dtype="mixed_float16"` or a global policy);
    the flow's own arithmetic and its log-determinants stay in the variable dtype.

    Args:
      event_size: size of the last axis of the inputs, for events of one axis; `None` leaves it to
        the first call.
      event_ndims: number of axes of an event.
      is_constant_jacobian: whether the map is affine, so that means and entropies of a
        transformed distribution are known in closed form.
      validate_args: whether to stop on NaN or infinite inputs, with an
        `tf.errors.InvalidArgumentError`. The check is an assertion in the graph, which XLA cannot
        run, so that Keras does not compile a model that holds such a flow with XLA on its own.
      **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Call arguments:
      inputs: floating-point tensor of shape `(..., event_size)`, or `(..., *event_shape)`.
      condition: `None`, or a tensor of shape `(..., condition_size)` that broadcasts against the
        batch, of numbers or booleans. Flows without a network ignore it.
      return_log_det: whether to return `(y, log_det)` instead of `y`.

    Raises:
      ValueError: if `event_size` is no positive integer, an input has the wrong rank, size or
        dtype, a condition is missing, unexpected or of the wrong size, or a subclass returns
        something else than is asked of it.

    Example:

    >>> import numpy as np, keras, keras_nf
    >>> from keras import ops
    >>> class Shear(keras_nf.Flow):
    ...     def _forward_and_log_det(self, x, condition=None):
    ...         first, second = ops.split(x, 2, axis=-1)
    ...         y = ops.concatenate([first, second + first**2], axis=-1)
    ...         return y, ops.zeros_like(x[..., 0])
    ...     def _inverse_and_log_det(self, y, condition=None):
    ...         first, second = ops.split(y, 2, axis=-1)
    ...         x = ops.concatenate([first, second - first**2], axis=-1)
    ...         return x, ops.zeros_like(y[..., 0])
    >>> shear = Shear()
    >>> y = shear(np.array([[2.0, 1.0]], "float32"))
    >>> np.asarray(y).tolist()
    [[2.0, 5.0]]
    >>> np.asarray(shear.inverse(y)).tolist()
    [[2.0, 1.0]]
    """

    def __init__(
        self,
        *,
        event_size: int | None = None,
        event_ndims: int = 1,
        is_constant_jacobian: bool = False,
        validate_args: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            event_ndims=check_count(event_ndims, "event_ndims"),
            is_constant_jacobian=is_constant_jacobian,
            validate_args=validate_args,
            **check_format(kwargs),
        )
        # Of the base, and of the data, which `build` sets.
        self.event_shape: tuple[int, ...] | None = None
        if event_size is not None:
            self.event_shape = (check_count(event_size, "event_size"),)
            if event_ndims != 1:
                raise ValueError(
                    f"`event_size` is for events of one axis, but those of {title(self)} have "
                    f"{event_ndims}. Received: {event_size!r}. Leave it to the first call."
                )
        # A flow whose building failed is still for events of any other shape.
        self.declared_shape = self.data_shape = self.event_shape
        self.condition_size: int | None = None
        if validate_args:
            self.supports_jit = False

    @property
    def output(self):
        """Output of the first symbolic call that returned the most tensors."""
        # Keras sizes every call in a functional graph by this one; calls with and without
        # `return_log_det` differ.
        calls = range(len(self._inbound_nodes))
        index = max(calls, key=lambda i: len(self._inbound_nodes[i].outputs), default=0)
        return self._get_node_attribute_at_index(index, "output_tensors", "output")

    def add_weight(self, *args, autocast=False, **kwargs):
        return super().add_weight(*args, autocast=autocast, **kwargs)

    def _constant_log_det(self, x, value):
        """Give a log-determinant that does not depend on `x` the full batch shape."""
        return ops.zeros_like(x[(..., *[0] * self.event_ndims)]) + value

    def call(self, inputs, condition=None, return_log_det=False):
        y, log_det = self.forward_and_log_det(inputs, condition)
        return (y, log_det) if return_log_det else y

    def compute_output_shape(self, inputs_shape, condition_shape=None):
        batch_shape = tf.TensorShape(inputs_shape[: -self.event_ndims])
        if condition_shape is not None and self.uses_condition:
            own = tf.TensorShape(condition_shape[:-1])
            batch_shape = tf.broadcast_static_shape(batch_shape, own)
        return (*batch_shape, *self.forward_event_shape(inputs_shape[-self.event_ndims :]))

    def compute_output_spec(self, *args, **kwargs):
        # Trace `call`, for its checks and dtypes, as Keras does where no output shape is defined.
        return super(keras.layers.Layer, self).compute_output_spec(*args, **kwargs)

    def __call__(self, inputs, *args, **kwargs):
        if isinstance(inputs, tfd.Distribution):
            return FlowDistribution(inputs, self, *args, **kwargs)
        if isinstance(inputs, tfb.Bijector):
            return tfb.Bijector.__call__(self, inputs, *args, **kwargs)
        with contextlib.nullcontext() if self.built else BUILDING:
            return keras.layers.Layer.__call__(self, inputs, *args, **kwargs)

    def get_config(self):
        arguments = {}
        if type(self).get_config is Flow.get_config:
            arguments = automatic_arguments(self, Flow)
        return {
            **arguments,
            **keras.layers.Layer.get_config(self),
            "format_version": FORMAT_VERSION,
            "event_size": self.event_size if self.event_ndims == 1 else None,
            "validate_args": self.validate_args,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize(config))
