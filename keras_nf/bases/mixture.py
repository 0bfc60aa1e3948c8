"""Mixture: a base of several modes."""

from typing import Any

import keras
from keras import ops
from tensorflow_probability import distributions as tfd

from keras_nf.arguments import check_count
from keras_nf.base import Base

__all__ = ["Mixture"]


@keras.saving.register_keras_serializable("keras_nf")
class Mixture(Base):
    """Mixture of normal distributions, each with independent components.

    p(z) = sum_k w_k prod_i N(z_i; m_ki, s_ki). A flow is continuous, and must stretch a single mode
    into thin bridges between several of the data; a base of several modes spares it that.

    Args:
      components: number of normal distributions, at least 1.
      conditional: whether log w, m and log s are affine functions of the condition.
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

    def __init__(self, components: int, *, conditional: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.components = check_count(components, "components")
        self.conditional = bool(conditional)

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        shape = (self.components, *self.event_shape)
        self.add_parameter("logits", shape[:1])
        self.add_parameter("loc", shape, keras.initializers.RandomNormal(stddev=1.0))
        self.add_parameter("log_scale", shape)

    def distribution(self, condition=None):
        loc = self.parameter("loc", condition)
        scale = ops.exp(self.parameter("log_scale", condition))
        # Draws have gradients in all weights.
        return tfd.MixtureSameFamily(
            tfd.Categorical(logits=self.parameter("logits", condition)),
            self._independent(tfd.Normal(loc, scale)),
            reparameterize=True,
        )

    def get_config(self):
        config = super().get_config()
        return {**config, "components": self.components, "conditional": self.conditional}
