"""The contract of a flow: one object that is a Keras layer and a TFP bijector, and its door."""

import contextlib
import threading
from typing import Any

import keras
import tensorflow as tf
from keras import ops
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from keras_nf.arguments import check_count
from keras_nf.config import FORMAT_VERSION, automatic_arguments, check_format, deserialize
from keras_nf.flow.arguments import (
    broadcast_batch,
    check_result,
    check_sizes,
    sizes_from,
    title,
    to_condition,
    to_events,
    with_known_size,
)
from keras_nf.flow.bijector import LayerBijector
from keras_nf.flow.distribution import FlowDistribution

__all__ = ["BUILDING", "Flow"]

# Building is no business of several threads: each would add the weights again.
BUILDING = threading.RLock()


class Flow(LayerBijector):
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
    - `get_config()`, when `__init__` takes arguments other than numbers, strings and booleans, and
      those of this class as `**kwargs`.

    The rest follows. `forward_and_log_det` and `inverse_and_log_det` convert their arguments to the
    variable dtype, check them, build an unbuilt flow, broadcast `x` and `condition` to a common
    batch shape where `uses_condition` is true, and call the method of the same name with an
    underscore. It must accept any number of leading batch axes, also none, and return a
    log-determinant of the full batch shape, which is checked. A flow that holds flows may call
    either. `keras_nf.check_flow` tells whether the two agree, and much else.

    Networks may compute in a lower precision (set `dtype="mixed_float16"` or a global policy);
    the flow's own arithmetic and its log-determinants stay in the variable dtype.

    Args:
      event_size: size of the last axis of the inputs; `None` leaves it to the first call.
      is_constant_jacobian: whether the map is affine, so that means and entropies of a
        transformed distribution are known in closed form.
      validate_args: whether to stop on NaN or infinite inputs, with an
        `tf.errors.InvalidArgumentError`. The check is an assertion in the graph, which XLA cannot
        run, so that Keras does not compile a model that holds such a flow with XLA on its own.
      **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Call arguments:
      inputs: floating-point tensor of shape `(..., event_size)`.
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
    ...     def _forward_and_log_det(self, x: Any, condition: Any = None) -> tuple[Any, Any]:
    ...         first, second = ops.split(x, 2, axis=-1)
    ...         y = ops.concatenate([first, second + first**2], axis=-1)
    ...         return y, ops.zeros_like(x[..., 0])
    ...     def _inverse_and_log_det(self, y: Any, condition: Any = None) -> tuple[Any, Any]:
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

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in ("forward_and_log_det", "inverse_and_log_det"):
            if name in vars(cls):
                raise TypeError(
                    f"{cls.__name__} must implement `_{name}`, with an underscore, instead of "
                    f"`{name}`, which checks and converts the arguments and then calls it."
                )

    def __init__(
        self,
        *,
        event_size: int | None = None,
        is_constant_jacobian: bool = False,
        validate_args: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            is_constant_jacobian=is_constant_jacobian,
            validate_args=validate_args,
            **check_format(kwargs),
        )
        self.event_size = None if event_size is None else check_count(event_size, "event_size")
        self.condition_size = None
        if validate_args:
            self.supports_jit = False

    @property
    def uses_condition(self) -> bool:
        """Whether a `condition` changes what the flow computes."""
        return False

    @property
    def reaches_everything(self) -> bool:
        """Whether `forward` reaches every point; where it does not, `inverse` gives infinity."""
        return True

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

    def build(self, inputs_shape, condition_shape=None):
        sizes = sizes_from(self, inputs_shape, condition_shape)
        self.event_size, self.condition_size = sizes

    @tf.autograph.experimental.do_not_convert
    def forward_and_log_det(self, x: Any, condition: Any = None) -> tuple[Any, Any]:
        """Return y = f(x), of the shape of `x`, and log|det dy/dx|, of its batch shape, in nats."""
        return self._enter("forward", x, condition)

    @tf.autograph.experimental.do_not_convert
    def inverse_and_log_det(self, y: Any, condition: Any = None) -> tuple[Any, Any]:
        """Return x = f^{-1}(y), of the shape of `y`, and log|det dx/dy|, in nats."""
        return self._enter("inverse", y, condition)

    def _forward_and_log_det(self, x, condition=None):
        raise NotImplementedError(f"{type(self).__name__} must implement `_forward_and_log_det`.")

    def _inverse_and_log_det(self, y, condition=None):
        raise NotImplementedError(f"{type(self).__name__} must implement `_inverse_and_log_det`.")

    def _enter(self, direction, x, condition):
        """Convert, check, build, broadcast; then run a direction.

        AutoGraph stays outside of this door: it would rewrite the source of all that a flow runs,
        at seconds for each trace, and find nothing to do. Keras leaves it out as well.
        """
        x = to_events(self, x)
        condition = self._own(condition)
        if condition is not None:
            condition = to_condition(self, condition)
        self._build_once(x, condition)
        self._freeze_values()
        check_sizes(self, x.shape, None if condition is None else condition.shape)
        x = with_known_size(self, x)
        if condition is not None:
            x, condition = broadcast_batch(self, x, condition)
        if x.shape.rank is not None:
            return self._run(direction, x, condition)
        # A tensor of unknown rank does not even know the size of its last axis.
        shape = tf.shape(x)
        x = tf.reshape(x, (-1, self.event_size))
        if condition is not None:
            condition = tf.reshape(condition, (-1, self.condition_size))
        y, log_det = self._run(direction, x, condition)
        return tf.reshape(y, shape), tf.reshape(log_det, shape[:-1])

    def _run(self, direction, x, condition):
        """Run a direction on arguments that this flow, or one that holds it, has prepared."""
        if self.validate_args:
            x = tf.debugging.assert_all_finite(
                x,
                f"{title(self)} received NaN or infinite inputs; remove or impute those rows",
            )
        name = f"_{direction}_and_log_det"
        return check_result(self, name, x, getattr(self, name)(x, self._own(condition)))

    def _own(self, condition):
        return condition if self.uses_condition else None

    def _build_once(self, x, condition):
        if self.built:
            return
        shapes = [None if part is None else (None, *part.shape[-1:]) for part in (x, condition)]
        with BUILDING:
            if not self.built:
                self.build(*shapes)

    def _constant_log_det(self, x, value):
        """Give a log-determinant that does not depend on `x` the full batch shape."""
        return ops.zeros_like(x[..., 0]) + value

    def call(self, inputs, condition=None, return_log_det=False):
        y, log_det = self.forward_and_log_det(inputs, condition)
        return (y, log_det) if return_log_det else y

    def compute_output_shape(self, inputs_shape, condition_shape=None):
        if condition_shape is None or not self.uses_condition:
            return tuple(inputs_shape)
        batch_shape = tf.broadcast_static_shape(
            tf.TensorShape(inputs_shape[:-1]), tf.TensorShape(condition_shape[:-1])
        )
        return (*batch_shape, inputs_shape[-1])

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
            "event_size": self.event_size,
            "validate_args": self.validate_args,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize(config))
