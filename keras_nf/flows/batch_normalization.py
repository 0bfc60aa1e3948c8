"""BatchNormalization: statistics of the batch in training, running ones otherwise."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_nf.flow.adaptation import moments_of
from keras_nf.flow.contract import Flow
from keras_nf.training import TrainingPhase

__all__ = ["BatchNormalization"]


@keras.saving.register_keras_serializable("keras_nf")
class BatchNormalization(Flow):
    """Batch normalization between the layers of a flow, as in the MAF paper.

    Data to base: z = (x - m) / sqrt(v + epsilon) gamma + beta, with trained gamma = exp(log_gamma)
    and beta, so that log|det dz/dx| = sum_i (log gamma_i - log(v_i + epsilon) / 2). Both directions
    are cheap. In training, by `fit` or another call of Keras with `training=True`, the `inverse`
    takes mean m and variance v from the batch, and moves the running ones by 1 - momentum towards
    them; gradients go through m and v, but the log-determinant is that of the map of one event,
    with both constant. Otherwise, and in a layer with `trainable=False`, m and v are the running
    ones, and the two directions are inverses. A fresh layer is then the
    identity, but for epsilon.

    `forward` always takes the running ones: m and v are those of data, which latents do not tell,
    and draws of a batch must not depend on each other.

    `adapt(data)` sets the running mean and variance to those of all data: after training, what
    the paper evaluates with. `Chain.adapt` and `FlowModel.adapt` do so for each such layer, with
    the data as the layers after it leave them.

    Sample weights do not reach the layer: every row counts the same in m and v. Under a strategy
    of `tf.distribute` each replica takes m and v from its own part of the batch, and the running
    ones are averaged over the replicas.

    Args:
      momentum: what the running mean and variance keep in a step of training, in [0, 1).
      epsilon: what is added to the variance, a positive number.
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Input shape: `(..., event_size)`. Mean and variance are those of each component of the last
    axis over all others: of each channel, for images and sequences.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if `momentum` or `epsilon` is out of range; in `adapt`, as `Standardize`.

    Example:

    >>> import numpy as np, keras_nf
    >>> norm = keras_nf.BatchNormalization()
    >>> norm.adapt(np.array([[0.0, 10.0], [2.0, 30.0]]))
    >>> z = norm.inverse(np.array([[2.0, 20.0]], "float32"))
    >>> np.asarray(z).round(4).tolist()
    [[1.0, 0.0]]

    References:
      Sergey Ioffe, Christian Szegedy. Batch Normalization: Accelerating Deep Network Training by
      Reducing Internal Covariate Shift. 2015. arXiv:1502.03167

      George Papamakarios, Theo Pavlakou, Iain Murray. Masked Autoregressive Flow for Density
      Estimation. 2017. arXiv:1705.07057
    """

    def __init__(self, *, momentum: float = 0.99, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(is_constant_jacobian=True, **kwargs)
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"`momentum` must lie in [0, 1). Received: {momentum!r}.")
        if not 0.0 < epsilon < np.inf:
            raise ValueError(f"`epsilon` must be a positive number. Received: {epsilon!r}.")
        self.momentum, self.epsilon = float(momentum), float(epsilon)
        self._phase = TrainingPhase()

    @property
    def needs_data(self):
        return True

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        shape = (self.event_size,)
        self.log_gamma = self.add_weight(shape=shape, initializer="zeros", name="log_gamma")
        self.beta = self.add_weight(shape=shape, initializer="zeros", name="beta")
        running = {"shape": shape, "trainable": False, "aggregation": "mean"}
        self.running_mean = self.add_weight(initializer="zeros", name="running_mean", **running)
        self.running_variance = self.add_weight(
            initializer="ones", name="running_variance", **running
        )

    def adapt(self, data: Any) -> None:
        """Set the running mean and variance to those of the data.

        Args:
          data: array of shape `(..., event_size)`, or a `tf.data.Dataset` of such batches.

        Raises:
          ValueError: as `Standardize.adapt`.
        """
        mean, std = moments_of(self, data)
        self.running_mean.assign(mean)
        self.running_variance.assign(np.minimum(std**2, float(self.dtype.max)))

    def _forward_and_log_det(self, x, condition=None):
        std, log_scale = self._std_and_log_scale(self.running_variance)
        y = (x - self.beta) / ops.exp(self.log_gamma) * std + self.running_mean
        return y, self._constant_log_det(x, -ops.sum(log_scale))

    def _inverse_and_log_det(self, y, condition=None):
        mean, variance = self.running_mean, self.running_variance
        if self.trainable and self._phase(y):
            mean, variance = self._take_statistics(y)
        std, log_scale = self._std_and_log_scale(variance)
        # Divided first: products of large numbers, in gradients, would overflow.
        x = (y - mean) / std * ops.exp(self.log_gamma) + self.beta
        return x, self._constant_log_det(y, ops.sum(log_scale))

    def _std_and_log_scale(self, variance):
        """Return what the inverse divides by, and the logarithm of its slope."""
        variance = variance + self.epsilon
        return ops.sqrt(variance), self.log_gamma - 0.5 * ops.log(variance)

    def _take_statistics(self, y):
        """Return mean and variance of a batch, and move the running ones towards them."""
        axes = list(range(y.shape.rank - 1))
        rows = ops.cast(ops.size(y[..., 0]), y.dtype)
        mean = ops.sum(y / rows, axis=axes)
        # A replica may get no rows of the last batch.
        rate = (1.0 - self.momentum) * ops.minimum(rows, 1.0)
        # Squares may overflow where the data do not.
        variance = ops.sum(ops.square(y - mean) / rows, axis=axes)
        variance = ops.minimum(variance, float(self.dtype.max))
        for running, value in (self.running_mean, mean), (self.running_variance, variance):
            running.assign(running + rate * (value - running))
        return mean, variance

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}
