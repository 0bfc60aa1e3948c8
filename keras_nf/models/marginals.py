"""Marginals: distribution functions, quantiles and moments of the components of a model."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_nf.arguments import check_count, check_level
from keras_nf.flow import univariate
from keras_nf.flow.arguments import to_events
from keras_nf.flow.distribution import ConditionalBase

__all__ = ["Marginals"]

# Latents of a normal base, of which both tails hold 2e-7, in float32 the last that differ from 1;
# and their weights. Sums over evenly spaced points converge fast where a function fades out.
_NODES = np.linspace(-5.2, 5.2, 129)
_PROBABILITIES = np.array([0.5 * math.erfc(-node / math.sqrt(2.0)) for node in _NODES])
_WEIGHTS = np.exp(-0.5 * _NODES**2) / np.exp(-0.5 * _NODES**2).sum()


class Marginals:
    """What a model says of its components one by one.

    Of events of one component on a base of independent ones it is exact: the flow is monotone,
    increasing or decreasing, and carries the quantiles of the base to those of the data. Of other
    events each component gets a marginal answer, from draws, as many as `draws` says.

    A mixin of `DensityModel`, which has what it uses.
    """

    flow: Any
    base: Any
    encode: Any
    sample: Any
    distribution: Any

    def cdf(self, x: Any, condition: Any = None, *, draws: int = 1000, seed: Any = None):
        """Return P(X <= x).

        Of events of one component it is exact. Of others it is that of each component, from draws,
        with a standard error of at most 0.5 / sqrt(draws).

        Args:
          x: data of shape `(..., event_size)`.
          condition: as for `log_prob`.
          draws: number of draws for each condition, where there are more components than one.
          seed: seed of the draws, as for `sample`.

        Returns:
          Tensor of shape `(...)` for events of one component, otherwise of the shape of `x`,
          broadcast against the batch of conditions.

        Raises:
          ValueError: on a wrong size or dtype, or a missing or unexpected condition.
        """
        x = to_events(self.flow, x)
        if self.has_exact_quantiles:
            return self.distribution.cdf(x, condition=self.encode(condition))
        x_draws = self._draws(draws, condition, seed)
        # Axes of the batch that conditions lack.
        missing = [1] * (len(x.shape) + 1 - len(x_draws.shape))
        x_draws = tf.reshape(x_draws, (x_draws.shape[0], *missing, *x_draws.shape[1:]))
        return tf.reduce_mean(tf.cast(x_draws <= x, x.dtype), axis=0)

    def quantile(self, p: Any, condition: Any = None, *, draws: int = 1000, seed: Any = None):
        """Return the x with P(X <= x) = p.

        Of events of one component it is exact. Of others it is that of each component, from draws.

        Args:
          p: probabilities of shape `(...)`, which broadcasts against the batch of conditions.
          condition: as for `log_prob`.
          draws: number of draws for each condition, where there are more components than one.
          seed: seed of the draws, as for `sample`.

        Returns:
          Tensor of shape `(..., event_size)`.

        Raises:
          ValueError: if a probability is not between 0 and 1, or on a missing or unexpected
            condition.
        """
        return self._quantile(lambda axes: p, condition, draws, seed)

    def interval(self, level: float = 0.9, condition: Any = None, **kwargs: Any):
        """Return the ends of the central interval that holds a share of the probability.

        Args:
          level: probability of the interval, between 0 and 1, for example 0.9: from the quantile
            of 0.05 to that of 0.95.
          condition: as for `log_prob`.
          **kwargs: `draws` and `seed`, as for `quantile`.

        Returns:
          Two tensors of shape `(..., event_size)`, with the batch of conditions.

        Raises:
          ValueError: if the level is not between 0 and 1; as `quantile`.
        """
        level = check_level(level)
        levels = np.array([0.5 - 0.5 * level, 0.5 + 0.5 * level])
        return tuple(tf.unstack(self._at_levels(levels, condition, **kwargs)))

    def median(self, condition: Any = None, **kwargs: Any):
        """Return the median: `quantile` of 0.5.

        Args:
          condition: as for `log_prob`.
          **kwargs: `draws` and `seed`, as for `quantile`.

        Returns:
          Tensor of shape `(..., event_size)`, with the batch of conditions.

        Raises:
          ValueError: as `quantile`.
        """
        return self._at_levels(np.array([0.5]), condition, **kwargs)[0]

    def mean(self, condition: Any = None, **kwargs: Any):
        """Return the mean.

        Of events of one component it is an integral over 129 quantiles, which leaves out a
        probability of 1e-7 at either end: right to about 1e-4 standard deviations, unless tails
        are heavier than exponential. Of others it is that of draws.

        Args:
          condition: as for `log_prob`.
          **kwargs: `draws` and `seed`, as for `quantile`.

        Returns:
          Tensor of shape `(..., event_size)`, with the batch of conditions.

        Raises:
          ValueError: as `quantile`.
        """
        return self._moments(condition, **kwargs)[0]

    def stddev(self, condition: Any = None, **kwargs: Any):
        """Return the standard deviation, computed as `mean` is.

        Args:
          condition: as for `log_prob`.
          **kwargs: `draws` and `seed`, as for `quantile`.

        Returns:
          Tensor of shape `(..., event_size)`, with the batch of conditions.

        Raises:
          ValueError: as `quantile`.
        """
        return self._moments(condition, **kwargs)[1]

    @property
    def has_exact_quantiles(self) -> bool:
        """Whether `cdf`, `quantile` and what follows from them are exact, without draws."""
        base = self.distribution.distribution
        if isinstance(base, ConditionalBase):
            base = base.given(tf.zeros(self.base.condition_size, base.dtype))
        return univariate.has_quantiles(base, self.flow)

    def _draws(self, number, condition, seed):
        return self.sample(check_count(number, "draws"), condition, seed)

    def _at_levels(self, levels, condition=None, draws=1000, seed=None):
        """Return quantiles with an axis for the levels in front of the batch of conditions."""
        return self._quantile(lambda axes: levels.reshape(-1, *[1] * axes), condition, draws, seed)

    def _quantile(self, probabilities, condition, draws, seed):
        """Return quantiles of probabilities, a function of the number of axes of the batch."""
        distribution = self.distribution
        if self.has_exact_quantiles:
            condition = self.encode(condition)
            p = probabilities(0 if condition is None else len(condition.shape) - 1)
            return distribution.quantile(p, condition=condition)
        x = self._draws(draws, condition, seed)
        p = probabilities(len(x.shape) - 1 - len(distribution.event_shape))
        p = univariate.check_probabilities(p, x.dtype)
        return _quantiles(x, p, distribution.event_shape)

    def _moments(self, condition, draws=1000, seed=None):
        if self.has_exact_quantiles:
            x = self._at_levels(_PROBABILITIES, condition)
            weights = tf.constant(_WEIGHTS.reshape(-1, *[1] * (len(x.shape) - 1)), x.dtype)
        else:
            x = self._draws(draws, condition, seed)
            weights = tf.constant(1.0 / draws, x.dtype)
        mean = tf.reduce_sum(weights * x, axis=0)
        return mean, tf.sqrt(tf.reduce_sum(weights * (x - mean) ** 2, axis=0))


def _quantiles(draws, p, event_shape):
    """Return quantiles of draws of shape `(n, *batch, *event_shape)`, for p of shape `(...)`.

    The probabilities broadcast against the batch; between two draws they are interpolated.
    """
    axes = len(draws.shape) - 1 - len(event_shape)
    p = tf.reshape(p, (*[1] * (axes - len(p.shape)), *p.shape))
    levels, batch = p.shape[: len(p.shape) - axes], draws.shape[1 : 1 + axes]
    p = tf.broadcast_to(p, (*levels, *batch))
    # From here on: a row for each condition, with its draws in order, and its probabilities.
    number, rows, count = draws.shape[0], batch.num_elements(), levels.num_elements()
    draws = tf.sort(tf.reshape(draws, (number, rows, -1)), axis=0)
    place = tf.reshape(p, (count, rows)) * tf.cast(number - 1, p.dtype)
    below = tf.cast(tf.floor(place), tf.int32)
    part = (place - tf.cast(below, p.dtype))[..., None]
    row = tf.broadcast_to(tf.range(rows), (count, rows))

    def at(place):
        return tf.gather_nd(draws, tf.stack([place, row], axis=-1))

    x = at(below) + part * (at(tf.minimum(below + 1, number - 1)) - at(below))
    return tf.reshape(x, (*levels, *batch, *event_shape))
