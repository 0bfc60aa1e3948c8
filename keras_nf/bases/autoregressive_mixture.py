"""AutoregressiveMixture: components that are mixtures of normals, given those before them."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from keras import ops
from tensorflow_probability import distributions as tfd

from keras_nf.arguments import check_count
from keras_nf.base import Base
from keras_nf.flow.batch import broadcast_batch
from keras_nf.flow.distribution import LayerDistribution
from keras_nf.increasing import check_bound, softly_bounded
from keras_nf.layout import feature_major
from keras_nf.networks.autoregressive import parameters_at
from keras_nf.networks.made import MADE
from keras_nf.networks.mlp import NETWORK_OPTIONS

__all__ = ["AutoregressiveMixture"]


@keras.saving.register_keras_serializable("keras_nf")
class AutoregressiveMixture(Base):
    """Components each of which is a mixture of normals, given those before it.

    p(z) = prod_i sum_k w_ik N(z_i; m_ik, s_ik), where log w, m and log s are functions of
    z_1 ... z_{i-1}, from one `MADE`: the MADE MoG of the paper on MAF, and with one component its
    MADE. As the base of a MAF it makes a MAF MoG; below a flow that only standardizes, it is a
    density of its own. The density costs one evaluation of the network. Draws are exact: they
    compute each hidden unit once, component after component, and have gradients in all weights.

    log s is softly bounded, as in `keras_nf.elementwise.Affine`. A fresh base is close to the
    standard normal distribution. The components of an event of several axes follow each other in
    the order of its memory, the last axis first.

    Args:
      components: number of normal distributions for each component of the event, at least 1.
      hidden_units: width of each hidden layer of the network.
      activation: activation of the network.
      residual: whether the network has residual blocks; see `keras_nf.MADE`.
      dropout: rate of dropout in the network, in training.
      order: which component comes first, as for `keras_nf.MADE`.
      seed: seed of a random order; drawn, and kept in the config, when `None`.
      log_scale_bound: largest |log s - log s_0|, in nats, with s_0 of a fresh base; `None` for no
        bound.
      conditional: whether the network sees the condition.
      **kwargs: `name`, `dtype` (that of the flow) and `trainable`, as for any Keras layer.

    Raises:
      ValueError: if `components` is no positive integer, the bound is not positive, or the network
        refuses its arguments.

    Example:

    >>> import keras_nf
    >>> base = keras_nf.bases.AutoregressiveMixture(10, hidden_units=(32,))
    >>> base.build((None, 3))
    >>> base.distribution().sample(5, seed=0).shape
    TensorShape([5, 3])

    References:
      Mathieu Germain, Karol Gregor, Iain Murray, Hugo Larochelle. MADE: Masked Autoencoder for
      Distribution Estimation. 2015. arXiv:1502.03509
      George Papamakarios, Theo Pavlakou, Iain Murray. Masked Autoregressive Flow for Density
      Estimation. 2017. arXiv:1705.07057
    """

    def __init__(
        self,
        components: int = 10,
        *,
        hidden_units: Sequence[int] = (128, 128),
        activation: str | Callable[[Any], Any] = "relu",
        residual: bool = False,
        dropout: float = 0.0,
        order: str | Sequence[int] = "sequential",
        seed: int | None = None,
        log_scale_bound: float | None = 8.0,
        conditional: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.components = check_count(components, "components")
        self.log_scale_bound = check_bound(log_scale_bound)
        self.conditional = bool(conditional)
        self.network = MADE(
            hidden_units,
            3 * self.components,
            activation=activation,
            residual=residual,
            dropout=dropout,
            order=order,
            seed=seed,
            dtype=self.dtype_policy,
            name="network",
        )
        shares = (np.arange(self.components) + 0.5) / self.components
        self._loc = np.array([statistics.NormalDist().inv_cdf(share) for share in shares])
        # The variance of all is one.
        self._log_scale = 0.5 * math.log(1.0 - np.mean(self._loc**2))

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        if not self.network.built:
            size = int(np.prod(self.event_shape))
            self.network.build((None, size), condition_shape if self.conditional else None)

    def distribution(self, condition=None):
        return _AutoregressiveDistribution(self, condition)

    def _mixtures(self, parameters):
        """Return log w, m and log s, each of shape (components, event_size, batch)."""
        logits, loc, log_scale = tf.split(parameters, 3)
        log_scale = softly_bounded(log_scale, self.log_scale_bound)
        loc += ops.cast(self._loc[:, None, None], loc.dtype)
        return tf.nn.log_softmax(logits, axis=0), loc, log_scale + self._log_scale

    def get_config(self):
        network = self.network.get_config()
        shared = (*NETWORK_OPTIONS, "order", "seed")
        return {
            **super().get_config(),
            "components": self.components,
            **{name: network[name] for name in shared},
            "log_scale_bound": self.log_scale_bound,
            "conditional": self.conditional,
        }


class _AutoregressiveDistribution(LayerDistribution):
    """The distribution of an `AutoregressiveMixture`, for a condition."""

    def _flat(self, z):
        """Return events of one axis, and the condition of each."""
        ndims = len(self._layer.event_shape)
        batch_shape, size = z.shape[:-ndims], int(np.prod(self._layer.event_shape))
        if ndims > 1:
            z = tf.reshape(z, tf.concat([tf.shape(z)[:-ndims], [size]], axis=0))
            z.set_shape(batch_shape.concatenate(size))
        if self._condition is None:
            return z, None
        return broadcast_batch(z, [size], self._condition, self._layer.condition_size)

    def _log_prob(self, z):
        z, condition = self._flat(z)
        z, restore = feature_major(z)
        parameters = parameters_at(self._layer.network, z, condition)
        log_weights, loc, log_scale = self._layer._mixtures(parameters)
        distance = (z - loc) * ops.exp(-log_scale)
        log_densities = log_weights - log_scale - 0.5 * (distance**2 + math.log(2.0 * math.pi))
        return restore(ops.sum(ops.logsumexp(log_densities, axis=0), axis=0))

    def _sample_n(self, n, seed=None):
        shape = tf.concat([[n], self.batch_shape_tensor(), self._layer.event_shape], axis=0)
        # Of 53 random bits, the mixture's component takes some.
        noise = tf.random.stateless_uniform(shape, tfp.random.sanitize_seed(seed), dtype=tf.float64)
        draws, _ = self._layer.network.solve(_Draw(self._layer), *self._flat(noise))
        return tf.reshape(tf.cast(draws, self.dtype), shape)


class _Draw:
    """Map of noise u of U(0, 1) to draws of mixtures, for `AutoregressiveNetwork.solve`.

    Where u lies among the shares w_k chooses a normal distribution, and where in its share, the
    quantile. The gradient is that of moving y so that P(Y <= y) stays: dy = -dP(Y <= y) / p(y).
    """

    def __init__(self, base):
        self._base = base
        self.parameters = base.network.parameters

    def forward(self, u, parameters):
        log_weights, loc, log_scale = self._base._mixtures(parameters)
        weights, normals = ops.exp(log_weights), tfd.Normal(loc, ops.exp(log_scale))
        y = tf.stop_gradient(self._draw(u, weights, normals))
        below = ops.sum(weights * normals.cdf(y), axis=0)
        density = tf.stop_gradient(ops.sum(weights * normals.prob(y), axis=0))
        return y - (below - tf.stop_gradient(below)) / density, ops.zeros_like(u)

    def _draw(self, u, weights, normals):
        ends = ops.cumsum(weights, axis=0)
        chosen = ops.sum(ops.cast(u >= ends[:-1], "int32"), axis=0)
        is_chosen = ops.equal(chosen, np.arange(self._base.components)[:, None, None])
        share = ops.where(is_chosen, (u - ends + weights) / weights, 0.5)
        share = ops.clip(share, np.finfo("float64").tiny, 1.0 - np.finfo("float64").epsneg)
        return ops.sum(ops.where(is_chosen, normals.quantile(share), 0.0), axis=0)
