"""The contract of a flow: one object that is a Keras layer and a TFP bijector."""

import contextlib
import functools
import threading
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from keras import ops
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from keras_nf.arguments import check_count
from keras_nf.config import (
    FORMAT_VERSION,
    automatic_arguments,
    deserialize,
    of_known_format,
)
from keras_nf.distribution import FlowDistribution

__all__ = ["Flow"]

# Building is no business of several threads: each would add the weights again.
BUILDING = threading.RLock()


class _NoCache:
    """Stands in for TFP's bijector cache and remembers nothing.

    TFP keys its cache by tensor identity and knows nothing of weights, so a value computed before
    a training step would be combined with a log-determinant computed after it.
    """

    def __init__(self, flow=None):
        self._flow = flow

    def __get__(self, flow, owner=None):
        return _NoCache(flow)

    def forward(self, x, **kwargs):
        return self._flow._forward(x, **kwargs)

    def inverse(self, y, **kwargs):
        return self._flow._inverse(y, **kwargs)

    def forward_attributes(self, x, **kwargs):
        return {}

    def inverse_attributes(self, y, **kwargs):
        return {}


class _KnownLogDet:
    """A bijector of which only the log-determinant at one point is asked, and known."""

    def __init__(self, log_det) -> None:
        self._log_det = log_det

    def forward_log_det_jacobian(self, x, event_ndims=1):
        extra_axes = list(range(-(event_ndims - 1), 0))
        return tf.reduce_sum(self._log_det, axis=extra_axes) if extra_axes else self._log_det


def _prepared(method):
    """Check, build and broadcast before a flow's own `forward_` or `inverse_and_log_det`."""

    # AutoGraph would rewrite the source of all that a flow runs, at seconds for each trace, and
    # find nothing to do. Keras leaves it out as well.
    @tf.autograph.experimental.do_not_convert
    @functools.wraps(method)
    def wrapper(self, x, condition=None):
        x, condition = self._prepare(x, condition)

        def evaluate(x, condition=None):
            return self._check_result(method.__name__, x, method(self, x, condition))

        if x.shape.rank is not None:
            return evaluate(x, condition)
        # A tensor of unknown rank does not even know the size of its last axis.
        shape = tf.shape(x)
        x = tf.reshape(x, (-1, self.event_size))
        if condition is not None:
            condition = tf.reshape(condition, (-1, self.condition_size))
        y, log_det = evaluate(x, condition)
        return tf.reshape(y, shape), tf.reshape(log_det, shape[:-1])

    return wrapper


def mark_unreached(value, log_det):
    """Return a value that is infinite where a flow, by its log-determinant, does not reach."""
    return ops.where(log_det[..., None] == -np.inf, np.inf, value)


def _have_shape(tensor, shape):
    return tensor.shape.rank in (None, shape.rank) and tensor.shape.is_compatible_with(shape)


def _refusing_integers(method):
    """Check the dtype before TFP would convert integers and go on with them."""

    @functools.wraps(method)
    def wrapper(self, *args, **kwargs):
        for value in (*args[:1], kwargs.get("x"), kwargs.get("y")):
            self._check_floating(value)
        return method(self, *args, **kwargs)

    return wrapper


class Flow(tfb.Bijector, keras.layers.Layer):
    """Base class of every flow: an invertible map x = f(z) with a known log-determinant.

    A flow is a Keras layer (`flow(z)` runs `forward`; it trains in any Keras model) and a
    `tfp.bijectors.Bijector` (it can be used in `tfd.TransformedDistribution`, `tfb.Chain` and
    `tfb.Invert`). `forward` maps the base to the data, `inverse` the data to the base.

    To write a flow, subclass `Flow` and implement

    - `forward_and_log_det(x, condition=None) -> (y, log_det)`, with log_det = log|det dy/dx|;
    - `inverse_and_log_det(y, condition=None) -> (x, log_det)`, with log_det = log|det dx/dy|;
    - `build(inputs_shape, condition_shape=None)`, when there are weights, starting with
      `super().build(inputs_shape, condition_shape)`, which sets `event_size`, `condition_size`;
    - the property `uses_condition`, returning true, when a condition changes the result;
    - `get_config()`, when `__init__` takes arguments other than numbers, strings and booleans, and
      those of this class as `**kwargs`.

    The rest follows. Before either method runs, its arguments are converted to the variable dtype
    and checked, an unbuilt flow is built, and, where `uses_condition` is true, `x` and
    `condition` are broadcast to a common batch shape. Both methods must accept any number of
    leading batch axes, also none, and return a log-determinant of the full batch shape, which is
    checked. `keras_nf.check_flow` tells whether the two agree, and much else.

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
    ...     def forward_and_log_det(self, x: Any, condition: Any = None) -> tuple[Any, Any]:
    ...         first, second = ops.split(x, 2, axis=-1)
    ...         y = ops.concatenate([first, second + first**2], axis=-1)
    ...         return y, ops.zeros_like(x[..., 0])
    ...     def inverse_and_log_det(self, y: Any, condition: Any = None) -> tuple[Any, Any]:
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

    _cache = _NoCache()

    # Whether XLA shortens a step of `FlowModel.fit` by so much that it is the default on a CPU too.
    _prefers_xla = False

    # Arguments that configs of format 1 leave out, where the default has changed since.
    _MISSING_IN_FORMAT_1: dict[str, Any] = {}

    # `tf.Module` collects `tf.Variable`s from attributes; Keras's own lists are the truth.
    variables = keras.layers.Layer.variables
    trainable_variables = keras.layers.Layer.trainable_variables
    non_trainable_variables = keras.layers.Layer.non_trainable_variables

    forward = _refusing_integers(tfb.Bijector.forward)
    inverse = _refusing_integers(tfb.Bijector.inverse)
    forward_log_det_jacobian = _refusing_integers(tfb.Bijector.forward_log_det_jacobian)
    inverse_log_det_jacobian = _refusing_integers(tfb.Bijector.inverse_log_det_jacobian)

    # TFP compares bijectors by hyper-parameters; two flows with equal ones have their own weights.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    __repr__ = keras.layers.Layer.__repr__
    __str__ = keras.layers.Layer.__str__

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in ("forward_and_log_det", "inverse_and_log_det"):
            if name in vars(cls):
                setattr(cls, name, _prepared(vars(cls)[name]))
        if "from_config" in vars(cls):
            cls.from_config = of_known_format(vars(cls)["from_config"].__func__)

    def __init__(
        self,
        *,
        event_size: int | None = None,
        is_constant_jacobian: bool = False,
        validate_args: bool = False,
        **kwargs: Any,
    ) -> None:
        keras.layers.Layer.__init__(self, **kwargs)
        tfb.Bijector.__init__(
            self,
            forward_min_event_ndims=1,
            is_constant_jacobian=is_constant_jacobian,
            validate_args=validate_args,
            name=self.name,
        )
        self.event_size = None if event_size is None else check_count(event_size, "event_size")
        self.condition_size = None
        self._has_hidden_variables = False
        self._visible_variables = self._tf_variables = ()
        if validate_args:
            self.supports_jit = False

    @property
    def name(self) -> str:
        """Name of the layer and of the bijector."""
        return self._keras_name

    @name.setter
    def name(self, value):
        self._keras_name = value

    @property
    def trainable(self) -> bool:
        """Whether the weights are trained, by Keras and by TFP."""
        return keras.layers.Layer.trainable.fget(self)

    @trainable.setter
    def trainable(self, value):
        keras.layers.Layer.trainable.fset(self, value)
        self._freeze_values()

    @property
    def dtype(self) -> tf.DType:
        """Dtype of the weights, the inputs and the outputs, a `tf.DType` (equal to its name)."""
        return tf.as_dtype(self.variable_dtype)

    @property
    def input_dtype(self):
        return self.variable_dtype

    @property
    def uses_condition(self) -> bool:
        """Whether a `condition` changes what the flow computes."""
        return False

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
        if len(inputs_shape) == 0 or inputs_shape[-1] is None:
            raise ValueError(
                f"{self._title} needs inputs of shape (..., event_size) with a known last axis. "
                f"Received: shape {tuple(inputs_shape)}. Add an axis for the event, also when it "
                "has a single component, and give its size."
            )
        if self.event_size not in (None, inputs_shape[-1]):
            raise ValueError(
                f"{self._title} was made for events of size {self.event_size}. Received: inputs of "
                f"shape {tuple(inputs_shape)}."
            )
        if self.uses_condition and condition_shape is not None:
            if len(condition_shape) == 0 or condition_shape[-1] is None:
                raise ValueError(
                    f"{self._title} needs a condition of shape (..., condition_size) with a known "
                    f"last axis. Received: shape {tuple(condition_shape)}."
                )
            self.condition_size = int(condition_shape[-1])
        self.event_size = int(inputs_shape[-1])

    def _constant_log_det(self, x, value):
        """Give a log-determinant that does not depend on `x` the full batch shape."""
        return ops.zeros_like(x[..., 0]) + value

    def _post_build(self):
        super()._post_build()
        self._expose_variables()

    def _expose_variables(self):
        """Show the weights to TFP and `tf.train.Checkpoint`, which do not see Keras's lists."""
        # Under a distribution strategy, weights that `fit` builds get their values later.
        variables = [v for v in self.variables if v._value is not None]
        self._has_hidden_variables = len(variables) < len(self.variables)
        self._visible_variables = self._no_dependency(variables)
        self._tf_variables = self._no_dependency([v._value for v in variables])
        for i, variable in enumerate(self._tf_variables):
            self._track_trackable(variable, f"variable_{i}", overwrite=True)

    def _freeze_values(self):
        """Let TFP, which trains whatever value is trainable, train what Keras does."""
        for variable, value in zip(self._visible_variables, self._tf_variables):
            if value.trainable != variable.trainable:
                for part in getattr(value, "values", (value,)):
                    part._trainable = variable.trainable

    def _forward_dtype(self, input_dtype, **kwargs):
        # The first thing that TFP asks, also of the members of its own compositions.
        if self._has_hidden_variables:
            self._expose_variables()
        self._freeze_values()
        return super()._forward_dtype(input_dtype, **kwargs)

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        if self._has_hidden_variables:
            self._expose_variables()
        return super()._trackable_children(save_type, **kwargs)

    @property
    def _title(self):
        return f"{type(self).__name__} '{self.name}'"

    def _prepare(self, x, condition):
        """Convert, check, build, broadcast: what every direction needs before it can run."""
        x = self._to_tensor(x, "inputs", "event_size")
        if condition is not None and self.uses_condition:
            condition = self._to_tensor(condition, "a condition", "condition_size")
        else:
            condition = None
        self._build_once(x, condition)
        self._freeze_values()
        self._check_sizes(x, condition)
        x = self._known_sizes(x)
        if self.validate_args:
            x = tf.debugging.assert_all_finite(
                x,
                f"{self._title} received NaN or infinite inputs; remove or impute those rows",
            )
        if condition is not None:
            x, condition = self._broadcast_batch(x, condition)
        return x, condition

    def _build_once(self, x, condition):
        if self.built:
            return
        shapes = [None if part is None else (None, *part.shape[-1:]) for part in (x, condition)]
        with BUILDING:
            if not self.built:
                self.build(*shapes)

    def _to_tensor(self, value, what, size_name):
        if isinstance(value, keras.KerasTensor):
            raise ValueError(
                f"{self._title} received a symbolic Keras tensor outside of `call`. Call the flow "
                "itself (`flow(x)` or `flow(x, return_log_det=True)`), or `keras_nf.Invert(flow)` "
                "for the inverse direction."
            )
        if isinstance(value, tf.SparseTensor):
            # What Keras takes a number times a symbolic tensor for.
            value = tf.ensure_shape(tf.sparse.to_dense(value), value.shape)
        try:
            value = tf.convert_to_tensor(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"{self._title} needs {what} as one array or tensor. Received: {value!r}."
            ) from None
        if size_name == "event_size":
            self._check_floating(value)
        elif not (value.dtype.is_floating or value.dtype.is_integer or value.dtype.is_bool):
            raise ValueError(
                f"{self._title} needs {what} of numbers or booleans. Received: dtype "
                f"{value.dtype.name}. Encode categories as numbers, as one-hot vectors or by an "
                "embedding."
            )
        if value.shape.rank == 0:
            raise ValueError(
                f"{self._title} needs {what} of shape (..., {size_name}). Received: a scalar. "
                "Add an axis for the event, also when it has a single component."
            )
        return ops.cast(value, self.variable_dtype)

    def _check_floating(self, value):
        dtype = getattr(value, "dtype", None)
        if dtype is not None and not tf.as_dtype(dtype).is_floating:
            raise ValueError(
                f"{self._title} needs inputs of a floating-point dtype. Received: dtype "
                f"{tf.as_dtype(dtype).name}. Cast continuous values to float; dequantize discrete "
                "data (add uniform noise), since counts have no density."
            )

    def _known_sizes(self, x):
        """Pin an unknown last axis to the event size, for a value of another would broadcast."""
        if x.shape.rank is None or x.shape[-1] is not None:
            return x
        return tf.ensure_shape(x, (*x.shape[:-1], self.event_size))

    def _broadcast_batch(self, x, condition):
        """Broadcast the leading axes of two tensors against each other."""
        if x.shape[:-1].is_fully_defined() and x.shape[:-1] == condition.shape[:-1]:
            return x, condition
        batch_shape, other = tf.shape(x)[:-1], tf.shape(condition)[:-1]
        if x.shape.rank == condition.shape.rank and x.shape.rank is not None:
            # ONNX has no operation for the general case.
            batch_shape = tf.where(tf.equal(batch_shape, 1), other, batch_shape)
        else:
            batch_shape = tf.broadcast_dynamic_shape(batch_shape, other)
        static_shape = tf.broadcast_static_shape(x.shape[:-1], condition.shape[:-1])

        def broadcast(value, size):
            value = tf.broadcast_to(value, tf.concat([batch_shape, [size]], axis=0))
            value.set_shape(static_shape.concatenate(size))
            return value

        return broadcast(x, self.event_size), broadcast(condition, self.condition_size)

    def _check_sizes(self, x, condition):
        if x.shape.rank is not None and x.shape[-1] not in (None, self.event_size):
            raise ValueError(
                f"{self._title} was built for inputs of shape (..., {self.event_size}). Received: "
                f"shape {tuple(x.shape)}. Pass events of that size, or make a new flow."
            )
        self._check_condition(condition)
        if condition is None:
            return
        try:
            tf.broadcast_static_shape(x.shape[:-1], condition.shape[:-1])
        except ValueError:
            raise ValueError(
                f"{self._title} needs a condition whose leading axes broadcast against the batch. "
                f"Received: inputs of shape {tuple(x.shape)} and a condition of shape "
                f"{tuple(condition.shape)}."
            ) from None

    def _check_condition(self, condition):
        if not self.uses_condition:
            return
        if condition is None and self.condition_size is not None:
            raise ValueError(
                f"{self._title} was built with a condition of size {self.condition_size} and "
                "needs it in every call. Pass `condition=` with shape "
                f"(..., {self.condition_size})."
            )
        if condition is not None and self.condition_size is None:
            raise ValueError(
                f"{self._title} was built without a condition, but received one of shape "
                f"{tuple(condition.shape)}. Leave it out, or make a new flow and pass the "
                "condition in its first call."
            )
        if condition is None:
            return
        if condition.shape.rank is not None and condition.shape[-1] != self.condition_size:
            raise ValueError(
                f"{self._title} was built for a condition of shape (..., {self.condition_size}). "
                f"Received: shape {tuple(condition.shape)}."
            )

    def _check_result(self, name, x, result):
        """Return what a flow's own method returned, which must be a value and a log-determinant."""
        wanted = f"{self._title} must return (value, log_det) from `{name}`, of the dtype and shape"
        if not (isinstance(result, (tuple, list)) and len(result) == 2):
            raise ValueError(f"{wanted} of its inputs and of their batch. Received: {result!r}.")
        y, log_det = (tf.convert_to_tensor(part, dtype_hint=x.dtype) for part in result)
        if y.dtype != x.dtype or not _have_shape(y, x.shape):
            raise ValueError(
                f"{wanted} of its inputs, {x.dtype.name} {tuple(x.shape)}. Received: a value of "
                f"{y.dtype.name} {tuple(y.shape)}."
            )
        if log_det.dtype != x.dtype or not _have_shape(log_det, x.shape[:-1]):
            raise ValueError(
                f"{wanted} of its inputs and of their batch, {x.dtype.name} "
                f"{tuple(x.shape[:-1])}. Received: a log-determinant of {log_det.dtype.name} "
                f"{tuple(log_det.shape)}. Sum log-derivatives over the last axis; give a constant "
                "the shape of the batch: ops.zeros_like(x[..., 0]) + constant."
            )
        return y, log_det

    def forward_and_log_det(self, x: Any, condition: Any = None) -> tuple[Any, Any]:
        """Return y = f(x), of the shape of `x`, and log|det dy/dx|, of its batch shape, in nats."""
        raise NotImplementedError(f"{type(self).__name__} must implement `forward_and_log_det`.")

    def inverse_and_log_det(self, y: Any, condition: Any = None) -> tuple[Any, Any]:
        """Return x = f^{-1}(y), of the shape of `y`, and log|det dx/dy|, in nats."""
        raise NotImplementedError(f"{type(self).__name__} must implement `inverse_and_log_det`.")

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

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def _is_increasing(self, **kwargs):
        raise NotImplementedError(
            f"{self._title} does not say whether it increases, so that the cdf and the quantiles "
            "of its distribution are not known. Take them from samples."
        )

    def _forward(self, x, condition=None):
        return self.forward_and_log_det(x, condition)[0]

    def _forward_log_det_jacobian(self, x, condition=None):
        return self.forward_and_log_det(x, condition)[1]

    def _inverse(self, y, condition=None):
        x, log_det = self.inverse_and_log_det(y, condition)
        # `tfd.TransformedDistribution.log_prob` asks for the value, then at once for its density
        # correction. The tensor itself carries the answer from one to the other.
        x._keras_nf_inverse_log_det = log_det
        return x

    def _inverse_log_det_jacobian(self, y, condition=None):
        return self.inverse_and_log_det(y, condition)[1]

    def experimental_compute_density_correction(
        self, x, tangent_space, backward_compat=False, **kwargs
    ):
        log_det = vars(x).pop("_keras_nf_inverse_log_det", None) if tf.is_tensor(x) else None
        is_full_space = isinstance(tangent_space, tfp.experimental.tangent_spaces.FullSpace)
        if log_det is None or not is_full_space:
            return super().experimental_compute_density_correction(
                x, tangent_space, backward_compat=backward_compat, **kwargs
            )
        kwargs.pop("condition", None)
        return tangent_space.transform_dimension_preserving(x, _KnownLogDet(-log_det), **kwargs)

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

    @of_known_format
    def from_config(cls, config):  # noqa: N805
        return cls(**deserialize(config))
