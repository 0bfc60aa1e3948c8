"""Bases of independent components, each of a location and a scale or of an interval."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from tensorflow_probability import distributions as tfd

from keras_nf.base import Base

__all__ = ["Logistic", "Normal", "StudentT", "Uniform"]


class _LocationScale(Base):
    """Independent components of a location and a scale: 0 and 1, or trained ones."""

    def __init__(
        self, *, trainable: bool = False, conditional: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(trainable=trainable, **kwargs)
        self.has_weights = bool(trainable)
        self.conditional = bool(conditional)
        if conditional and not trainable:
            raise ValueError(
                "A conditional base has weights. Received: conditional=True and "
                f"trainable={trainable!r}. Pass trainable=True."
            )

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        if self.has_weights:
            self.add_parameter("loc", self.event_shape)
            self.add_parameter("log_scale", self.event_shape)

    def _location_and_scale(self, condition):
        if self.has_weights:
            loc = self.parameter("loc", condition)
            return loc, ops.exp(self.parameter("log_scale", condition))
        zeros = tf.zeros(self.event_shape, self.variable_dtype)
        return zeros, tf.ones_like(zeros)

    def get_config(self):
        config = super().get_config()
        return {**config, "has_weights": self.has_weights, "conditional": self.conditional}

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
      conditional: whether they are affine functions of the condition.
      **kwargs: `name` and `dtype` (that of the flow), as for any Keras layer.

    Example:

    >>> import keras_nf
    >>> base = keras_nf.bases.Normal()
    >>> base.build((None, 2))
    >>> round(float(base.distribution().log_prob([0.0, 0.0])), 4)
    -1.8379
    """

    def distribution(self, condition=None):
        return self._independent(tfd.Normal(*self._location_and_scale(condition)))


@keras.saving.register_keras_serializable("keras_nf")
class Logistic(_LocationScale):
    """Independent logistic components, the base of NICE.

    log p(z) = sum_i log sech^2((z_i - m_i) / 2 s_i) / 4 s_i, with m = 0 and s = 1, or trained ones.

    Args:
      trainable: whether m and log s are trained weights, which start at 0.
      conditional: whether they are affine functions of the condition.
      **kwargs: `name` and `dtype` (that of the flow), as for any Keras layer.

    Example:

    >>> import keras_nf
    >>> base = keras_nf.bases.Logistic()
    >>> base.build((None, 1))
    >>> round(float(base.distribution().log_prob([0.0])), 4)
    -1.3863
    """

    def distribution(self, condition=None):
        return self._independent(tfd.Logistic(*self._location_and_scale(condition)))


@keras.saving.register_keras_serializable("keras_nf")
class StudentT(_LocationScale):
    """Independent components with the heavy tails of Student's t distribution.

    log p(z) = sum_i log t((z_i - m_i) / s_i; k_i) - log s_i, with k degrees of freedom, m = 0 and
    s = 1, or trained ones. Maps with bounded slopes, as affine couplings, keep the tails of their
    base: heavy tails of data ask for a base with heavy tails.

    Args:
      degrees_of_freedom: k of every component, or where it starts; positive.
      trainable: whether m, log s and log k are trained weights.
      conditional: whether they are affine functions of the condition.
      **kwargs: `name` and `dtype` (that of the flow), as for any Keras layer.

    Raises:
      ValueError: if the degrees of freedom are not positive, or the base is conditional, but not
        trainable.

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

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        if self.has_weights:
            start = keras.initializers.Constant(np.log(self.degrees_of_freedom))
            self.add_parameter("log_degrees", self.event_shape, start)

    def distribution(self, condition=None):
        loc, scale = self._location_and_scale(condition)
        degrees = tf.ones_like(loc) * self.degrees_of_freedom
        if self.has_weights:
            degrees = ops.exp(self.parameter("log_degrees", condition))
        return self._independent(tfd.StudentT(degrees, loc, scale))

    def get_config(self):
        return {**super().get_config(), "degrees_of_freedom": self.degrees_of_freedom}


@keras.saving.register_keras_serializable("keras_nf")
class Uniform(Base):
    """Independent components, uniform between two numbers. It has no weights.

    Args:
      low: lower end of each component.
      high: upper end of each component.
      **kwargs: `name` and `dtype` (that of the flow), as for any Keras layer.

    Raises:
      ValueError: if `low` is not below `high`.

    Example:

    >>> import keras_nf
    >>> base = keras_nf.bases.Uniform()
    >>> base.build((None, 2))
    >>> float(base.distribution().prob([0.5, 0.1]))
    1.0
    """

    def __init__(self, low: float = 0.0, high: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not -np.inf < low < high < np.inf:
            raise ValueError(
                f"`low` must be a number below `high`. Received: low={low!r}, high={high!r}."
            )
        self.low, self.high = float(low), float(high)

    def distribution(self, condition=None):
        zeros = tf.zeros(self.event_shape, self.variable_dtype)
        return self._independent(tfd.Uniform(zeros + self.low, zeros + self.high))

    def get_config(self):
        return {**super().get_config(), "low": self.low, "high": self.high}
