"""Bases: the distribution of z, by a name, as a layer with weights, or from a function.

Example:

>>> import keras_nf
>>> flow = keras_nf.maf(event_size=2, hidden_units=(8,))
>>> model = keras_nf.FlowModel(flow, base=keras_nf.bases.Mixture(2))
>>> model.build((None, 2))
>>> model.sample(3, seed=0).shape
TensorShape([3, 2])
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from tensorflow_probability import distributions as tfd

from keras_nf.arguments import check_count

__all__ = [
    "Base",
    "Logistic",
    "Mixture",
    "Normal",
    "StudentT",
    "Uniform",
    "check_base",
    "is_function",
    "make_base",
    "numbers_of",
]


class Base(keras.layers.Layer):
    """Base class of the distributions of z whose weights a model trains, saves and exports.

    To write one, subclass `Base`, register it with `keras.saving.register_keras_serializable`, and
    implement

    - `distribution()`, which returns a `tfd.Distribution` with event shape `self.event_shape`, made
      anew of the weights at each call;
    - `build(inputs_shape)`, when there are weights, starting with `super().build(inputs_shape)`,
      which sets `event_shape`.

    Args:
      **kwargs: `name`, `dtype` (that of the flow) and `trainable`, as for any Keras layer.

    Example:

    >>> import keras_nf
    >>> base = keras_nf.bases.Normal(trainable=True)
    >>> model = keras_nf.FlowModel(keras_nf.maf(event_size=2, hidden_units=(8,)), base=base)
    >>> model.build((None, 2))
    >>> [weight.name for weight in base.trainable_weights]
    ['loc', 'log_scale']
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.event_shape: tuple[int, ...] | None = None

    def add_weight(self, *args, autocast=False, **kwargs):
        return super().add_weight(*args, autocast=autocast, **kwargs)

    def build(self, inputs_shape):
        self.event_shape = tuple(inputs_shape[1:])

    def distribution(self) -> tfd.Distribution:
        """Return the distribution of z, with event shape `event_shape`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `distribution`.")

    def _independent(self, marginals):
        return tfd.Independent(marginals, len(self.event_shape))


class _LocationScale(Base):
    """Independent components of a location and a scale: 0 and 1, or trained ones."""

    def __init__(self, *, trainable: bool = False, **kwargs: Any) -> None:
        super().__init__(trainable=trainable, **kwargs)
        self.has_weights = bool(trainable)

    def build(self, inputs_shape):
        super().build(inputs_shape)
        if self.has_weights:
            shape = self.event_shape
            self.loc = self.add_weight(shape=shape, initializer="zeros", name="loc")
            self.log_scale = self.add_weight(shape=shape, initializer="zeros", name="log_scale")

    def _location_and_scale(self):
        if self.has_weights:
            return self.loc.value, ops.exp(self.log_scale.value)
        zeros = tf.zeros(self.event_shape, self.variable_dtype)
        return zeros, tf.ones_like(zeros)

    def get_config(self):
        return {**super().get_config(), "has_weights": self.has_weights}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        has_weights, trainable = config.pop("has_weights"), config.pop("trainable")
        base = cls(trainable=has_weights, **config)
        # Weights may be frozen.
        base.trainable = trainable
        return base


@keras.saving.register_keras_serializable("keras_nf")
class Normal(_LocationScale):
    """Independent normal components.

    log p(z) = sum_i log N(z_i; m_i, s_i), with m = 0 and s = 1, or trained ones.

    Args:
      trainable: whether m and log s are trained weights, which start at 0.
      **kwargs: `name` and `dtype` (that of the flow), as for any Keras layer.

    Example:

    >>> import keras_nf
    >>> base = keras_nf.bases.Normal()
    >>> base.build((None, 2))
    >>> round(float(base.distribution().log_prob([0.0, 0.0])), 4)
    -1.8379
    """

    def distribution(self):
        return self._independent(tfd.Normal(*self._location_and_scale()))


@keras.saving.register_keras_serializable("keras_nf")
class Logistic(_LocationScale):
    """Independent logistic components, the base of NICE.

    log p(z) = sum_i log sech^2((z_i - m_i) / 2 s_i) / 4 s_i, with m = 0 and s = 1, or trained ones.

    Args:
      trainable: whether m and log s are trained weights, which start at 0.
      **kwargs: `name` and `dtype` (that of the flow), as for any Keras layer.

    Example:

    >>> import keras_nf
    >>> base = keras_nf.bases.Logistic()
    >>> base.build((None, 1))
    >>> round(float(base.distribution().log_prob([0.0])), 4)
    -1.3863
    """

    def distribution(self):
        return self._independent(tfd.Logistic(*self._location_and_scale()))


@keras.saving.register_keras_serializable("keras_nf")
class StudentT(_LocationScale):
    """Independent components with the heavy tails of Student's t distribution.

    log p(z) = sum_i log t((z_i - m_i) / s_i; k_i) - log s_i, with k degrees of freedom, m = 0 and
    s = 1, or trained ones. Maps with bounded slopes, as affine couplings, keep the tails of their
    base: heavy tails of data ask for a base with heavy tails.

    Args:
      degrees_of_freedom: k of every component, or where it starts; positive.
      trainable: whether m, log s and log k are trained weights.
      **kwargs: `name` and `dtype` (that of the flow), as for any Keras layer.

    Raises:
      ValueError: if the degrees of freedom are not positive.

    Example:

    >>> import keras_nf
    >>> base = keras_nf.bases.StudentT(degrees_of_freedom=1.0)
    >>> base.build((None, 1))
    >>> round(float(base.distribution().log_prob([0.0])), 4)
    -1.1447

    References:
      Priyank Jaini, Ivan Kobyzev, Yaoliang Yu, Marcus Brubaker. Tails of Lipschitz Triangular
      Flows. 2020. arXiv:1907.04481
    """

    def __init__(self, degrees_of_freedom: float = 5.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not degrees_of_freedom > 0:
            raise ValueError(
                f"`degrees_of_freedom` must be positive. Received: {degrees_of_freedom!r}."
            )
        self.degrees_of_freedom = float(degrees_of_freedom)

    def build(self, inputs_shape):
        super().build(inputs_shape)
        if self.has_weights:
            self.log_degrees = self.add_weight(
                shape=self.event_shape,
                initializer=keras.initializers.Constant(np.log(self.degrees_of_freedom)),
                name="log_degrees",
            )

    def distribution(self):
        loc, scale = self._location_and_scale()
        degrees = tf.ones_like(loc) * self.degrees_of_freedom
        if self.has_weights:
            degrees = ops.exp(self.log_degrees.value)
        return self._independent(tfd.StudentT(degrees, loc, scale))

    def get_config(self):
        return {**super().get_config(), "degrees_of_freedom": self.degrees_of_freedom}


@keras.saving.register_keras_serializable("keras_nf")
class Uniform(Base):
    """Independent components, uniform between 0 and 1. It has no weights.

    Args:
      **kwargs: `name` and `dtype` (that of the flow), as for any Keras layer.

    Example:

    >>> import keras_nf
    >>> base = keras_nf.bases.Uniform()
    >>> base.build((None, 2))
    >>> float(base.distribution().prob([0.5, 0.1]))
    1.0
    """

    def distribution(self):
        zeros = tf.zeros(self.event_shape, self.variable_dtype)
        return self._independent(tfd.Uniform(zeros, tf.ones_like(zeros)))


@keras.saving.register_keras_serializable("keras_nf")
class Mixture(Base):
    """Mixture of normal distributions, each with independent components.

    p(z) = sum_k w_k prod_i N(z_i; m_ki, s_ki). A flow is continuous, and must stretch a single mode
    into thin bridges between several of the data; a base of several modes spares it that.

    Args:
      components: number of normal distributions, at least 1.
      **kwargs: `name`, `dtype` (that of the flow) and `trainable`, as for any Keras layer. The
        means start at draws from a standard normal, the scales at 1 and the weights equal; they are
        trained unless `trainable=False`, and saved in either case.

    Raises:
      ValueError: if `components` is no positive integer.

    Example:

    >>> import keras_nf
    >>> base = keras_nf.bases.Mixture(4)
    >>> base.build((None, 2))
    >>> [tuple(weight.shape) for weight in base.trainable_weights]
    [(4,), (4, 2), (4, 2)]
    """

    def __init__(self, components: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.components = check_count(components, "components")

    def build(self, inputs_shape):
        super().build(inputs_shape)
        shape = (self.components, *self.event_shape)
        self.logits = self.add_weight(shape=shape[:1], initializer="zeros", name="logits")
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self.loc = self.add_weight(shape=shape, initializer=normal, name="loc")
        self.log_scale = self.add_weight(shape=shape, initializer="zeros", name="log_scale")

    def distribution(self):
        # Draws have gradients in all weights.
        return tfd.MixtureSameFamily(
            tfd.Categorical(logits=self.logits.value),
            self._independent(tfd.Normal(self.loc.value, ops.exp(self.log_scale.value))),
            reparameterize=True,
        )

    def get_config(self):
        return {**super().get_config(), "components": self.components}


_NAMES = {"normal": tfd.Normal, "uniform": tfd.Uniform, "logistic": tfd.Logistic}


def is_function(base):
    """Return whether a base is a function of the user's own; layers can be called as well."""
    return callable(base) and not isinstance(base, Base)


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
        return base.distribution()
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
