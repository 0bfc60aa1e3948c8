"""What a base is: the contract of its layers, and what else a user may name as one."""

from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_nf.flow.distribution import ConditionalBase

__all__ = ["Base", "check_base", "is_conditional", "is_function", "make_base", "numbers_of"]


class Base(keras.layers.Layer):
    """Base class of the distributions of z whose weights a model trains, saves and exports.

    To write one, subclass `Base`, register it with `keras.saving.register_keras_serializable`, and
    implement

    - `distribution(condition=None)`, which returns a `tfd.Distribution` with event shape
      `self.event_shape`, made anew of the weights at each call;
    - `build(inputs_shape, condition_shape=None)`, when there are weights, starting with
      `super().build(inputs_shape, condition_shape)`, which sets `event_shape` and `condition_size`;
    - `conditional = True`, when the distribution depends on the condition; its batch shape is then
      that of a condition of shape `(..., condition_size)`.

    `add_parameter` adds a weight, `parameter` is its value: v, or in a conditional base v + K^T c,
    with a kernel K that starts at zero.

    Args:
      **kwargs: `name`, `dtype` (that of the flow) and `trainable`, as for any Keras layer.

    Raises:
      ValueError: if a conditional base is built, or asked for its distribution, without a
        condition, or with one of another size.

    Example:

    >>> import keras_nf
    >>> base = keras_nf.bases.Normal(trainable=True)
    >>> flow = keras_nf.maf(event_size=2, hidden_units=(8,))
    >>> model = keras_nf.FlowModel(flow, base=base)
    >>> model.build((None, 2))
    >>> [weight.name for weight in base.trainable_weights]
    ['loc', 'log_scale']
    """

    conditional = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.event_shape: tuple[int, ...] | None = None
        self.condition_size: int | None = None

    def add_weight(self, *args, autocast=False, **kwargs):
        return super().add_weight(*args, autocast=autocast, **kwargs)

    def build(self, inputs_shape, condition_shape=None):
        self.event_shape = tuple(inputs_shape[1:])
        if self.conditional and condition_shape is None:
            raise ValueError(
                f"The base {self.name!r} is conditional and needs a condition of shape "
                "(..., condition_size). Received: none. Pass the model a condition from its first "
                "call on."
            )
        self.condition_size = condition_shape[-1] if self.conditional else None

    def add_parameter(self, name, shape, initializer="zeros"):
        """Add a weight, and the kernel of the condition, on which its value may depend."""
        setattr(self, name, self.add_weight(shape=shape, initializer=initializer, name=name))
        if self.conditional:
            kernel = f"{name}_kernel"
            shape = (self.condition_size, *shape)
            setattr(self, kernel, self.add_weight(shape=shape, initializer="zeros", name=kernel))

    def parameter(self, name, condition=None):
        """Return the value of a weight, of shape `(..., *shape)` with a condition `(..., size)`."""
        value = getattr(self, name).value
        if not self.conditional:
            return value
        condition = tf.convert_to_tensor(condition, value.dtype)
        return value + tf.tensordot(condition, getattr(self, f"{name}_kernel").value, 1)

    def distribution(self, condition: Any = None) -> tfd.Distribution:
        """Return the distribution of z, with event shape `event_shape`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `distribution`.")

    def _independent(self, marginals):
        return tfd.Independent(marginals, len(self.event_shape))


_NAMES = {"normal": tfd.Normal, "uniform": tfd.Uniform, "logistic": tfd.Logistic}


def is_function(base):
    """Return whether a base is a function of the user's own; layers can be called as well."""
    return callable(base) and not isinstance(base, Base)


def is_conditional(base):
    """Return whether a base depends on the condition, as layers alone can."""
    return isinstance(base, Base) and base.conditional


def check_base(base):
    """Refuse what is no base."""
    if isinstance(base, type) or not (callable(base) or base in tuple(_NAMES)):
        raise ValueError(
            f"`base` must be one of {', '.join(map(repr, _NAMES))}, a layer of keras_nf.bases, or "
            f"a function of event_size that returns a tfd.Distribution. Received: {base!r}."
        )


def make_base(base, flow):
    """Return the distribution of a name, a layer or a function, for the events of a flow.

    A function takes the event size, or where an event has several axes, its shape.

    Raises:
      ValueError: if the function returns something else, or something that ought to be trained.
    """
    shape, ndims = flow.event_shape, flow.event_ndims
    if isinstance(base, str):
        zeros = tf.zeros(shape, flow.dtype)
        return tfd.Independent(_NAMES[base](zeros, tf.ones_like(zeros)), ndims)
    if isinstance(base, Base):
        if not base.built:
            base.build((None, *shape))
        return ConditionalBase(base) if base.conditional else base.distribution()
    with tf.GradientTape() as tape:
        distribution = base(shape if ndims > 1 else flow.event_size)
    if not isinstance(distribution, tfd.Distribution) or distribution.event_shape[-ndims:] != shape:
        raise ValueError(
            f"The base function must return a tfd.Distribution with event shape {shape}, or "
            f"more axes before. Received: {distribution!r}."
        )
    variables = {v.name: None for v in (*distribution.variables, *tape.watched_variables())}
    if variables:
        raise ValueError(
            "The base function must return a distribution without variables: `fit` would not train "
            f"them, and files would lose them. Received: {distribution!r}, which depends on "
            f"{', '.join(variables)}. Use a layer instead, as keras_nf.bases.Mixture or "
            "keras_nf.bases.Normal(trainable=True), or a subclass of keras_nf.bases.Base."
        )
    return distribution


def numbers_of(distribution):
    """Return the numbers that a distribution depends on, as bytes, where they are known."""
    numbers = []
    for value in tf.nest.flatten(distribution.parameters):
        if isinstance(value, tfd.Distribution):
            numbers.append(numbers_of(value))
        elif hasattr(value, "dtype") and hasattr(value, "__array__"):
            numbers.append(value.__array__().tobytes())
        elif isinstance(value, (bool, int, float)):
            numbers.append(repr(value).encode())
    return b",".join(numbers)
