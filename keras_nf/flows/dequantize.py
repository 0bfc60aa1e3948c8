"""Dequantize: integers, made continuous by uniform noise in training."""

import math
import numbers
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_nf.arguments import check_count
from keras_nf.flow.contract import Flow
from keras_nf.seeds import draw_seed
from keras_nf.training import TrainingPhase, is_adapting

__all__ = ["Dequantize"]


@keras.saving.register_keras_serializable("keras_nf")
class Dequantize(Flow):
    """Integers from low to low + levels - 1 as points of the unit interval, with noise in training.

    x = levels z + low - 1/2, so log|det dx/dz| = n log(levels) for n components: integers are the
    centres of bins of width one, which fill the image of (0, 1). Both directions are cheap. It
    stands last in a chain, behind a `Logit` where the base is not on the unit interval. Such a
    chain, and its models, take integers as they are, as images in uint8.

    In training, by `fit` or another call of Keras with `training=True`, the `inverse` first adds
    noise u to x, uniform on (-1/2, 1/2) and fresh in every step. The mean of log p(x + u) is a
    lower bound of log P(x), the probability of the integers, which is the integral of the density
    over their bins. `adapt` of a chain and of a model adds it too, so that layers which start from
    data see those of the training. In evaluation there is none: the density of integers is that
    at the centres of their bins, and the two directions are inverses. With `always=True` each
    evaluation is a draw of the bound.

    Samples are continuous: `np.clip(np.round(x), low, low + levels - 1)` makes integers of them. Of
    a single component P(k) = `cdf(k + 1/2) - cdf(k - 1/2)` is exact.

    Args:
      levels: number of levels, at least 2.
      low: the least of them, an integer.
      always: whether `inverse` adds noise in evaluation too, so that it is no exact inverse then.
      seed: integer that fixes the noise; `None` draws one. How many times noise was drawn is a
        weight, and saved: after loading, training goes on with fresh noise.
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Input shape: `(..., event_size)`. The inverse takes integers and booleans as well as floats.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if `levels` is no integer of at least 2, `low` is none, or the levels have too
        many digits for the dtype.

    Example:

    >>> import numpy as np, keras_nf
    >>> dequantize = keras_nf.Dequantize(4)
    >>> np.asarray(dequantize.inverse(np.array([[0, 1, 2, 3]], "uint8"))).tolist()
    [[0.125, 0.375, 0.625, 0.875]]

    References:
      Benigno Uria, Iain Murray, Hugo Larochelle. RNADE: The Real-valued Neural Autoregressive
      Density-estimator. 2013. arXiv:1306.0186

      Lucas Theis, Aäron van den Oord, Matthias Bethge. A note on the evaluation of generative
      models. 2015. arXiv:1511.01844
    """

    def __init__(
        self,
        levels: int = 256,
        *,
        low: int = 0,
        always: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(is_constant_jacobian=True, **kwargs)
        self.levels, self.always = check_count(levels, "levels"), bool(always)
        if isinstance(low, bool) or not isinstance(low, numbers.Integral):
            raise ValueError(f"`low` must be an integer. Received: {low!r}.")
        self.low = int(low)
        self.seed = draw_seed() if seed is None else int(seed)
        one = self.dtype.as_numpy_dtype(1.0)
        digits = -round(math.log2(np.nextafter(one, one + one) - one))
        # Binary digits that are left for the place in a bin, of which the last marks a middle.
        largest = max(self.levels - 1, abs(self.low), abs(self.low + self.levels - 1))
        digits -= largest.bit_length() + 1
        if self.levels < 2 or digits < 4:
            raise ValueError(
                f"`levels` must be an integer of at least 2, whose levels {self.dtype.name} can "
                f"divide in 16 or more parts. Received: {levels!r}, from {self.low} on. Pass "
                "dtype='float64' for many."
            )
        self._parts = 2.0**digits
        self._phase = TrainingPhase()

    @property
    def takes_integers(self):
        return True

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        self.draws = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int64",
            trainable=False,
            aggregation="only_first_replica",
            name="draws",
        )

    def _forward_and_log_det(self, x, condition=None):
        return self.levels * x + (self.low - 0.5), self._log_det(x, 1.0)

    def _inverse_and_log_det(self, y, condition=None):
        is_noisy = self.always or self._phase(y) or is_adapting()
        place = self._draw_places(y) if is_noisy else 0.5
        return (y - self.low + place) / self.levels, self._log_det(y, -1.0)

    def _log_det(self, x, sign):
        return self._constant_log_det(x, sign * self.event_size * math.log(self.levels))

    def _draw_places(self, y):
        """Draw where in their bins, of the unit interval, the numbers are to lie."""
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.convert_to_tensor(self.draws)])
        replica = tf.distribute.get_replica_context()
        if replica is not None:
            # Replicas have a count in common, and rows of their own.
            number = replica.replica_id_in_sync_group
            seed = tf.random.experimental.stateless_fold_in(seed, number)
        self.draws.assign(self.draws + 1)
        noise = tf.random.stateless_uniform(tf.shape(y), seed, dtype=y.dtype)
        # Middles of parts: sums are exact, and never round to an end of a bin, where a `Logit` may
        # have no density.
        return (ops.floor(noise * self._parts) + 0.5) / self._parts

    def get_config(self):
        return {
            **super().get_config(),
            "levels": self.levels,
            "low": self.low,
            "always": self.always,
            "seed": self.seed,
        }
