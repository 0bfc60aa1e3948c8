"""Logit: data in a bounded interval."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_nf.flow import Flow

__all__ = ["Logit"]


@keras.saving.register_keras_serializable("keras_nf")
class Logit(Flow):
    """Map between the real line and a bounded interval.

    Data to base: z = logit(p), p = lambda + (1 - 2 lambda) (x - low) / (high - low). Base to
    data: x = low + (high - low) (sigmoid(z) - lambda) / (1 - 2 lambda). It stands last in a chain,
    next to data such as pixels. The margin lambda keeps the bounds themselves at a finite
    distance; the flow reaches beyond the interval by lambda / (1 - 2 lambda) of its width. Values
    further out have density zero: their log-determinant is -inf. Both directions are cheap.

    Args:
      low: lower end of the data.
      high: upper end of the data.
      margin: lambda of the MAF paper (1e-6 there for MNIST, 0.05 for CIFAR-10).
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if `low >= high`, one of them is not finite, or the margin is outside [0, 0.5).

    Example:

    >>> import numpy as np, keras_nf
    >>> logit = keras_nf.Logit(low=0.0, high=256.0)
    >>> np.asarray(logit.inverse(np.array([[128.0]], "float32"))).tolist()
    [[0.0]]

    References:
      Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio. Density Estimation using Real NVP. 2016.
      arXiv:1605.08803

      George Papamakarios, Theo Pavlakou, Iain Murray. Masked Autoregressive Flow for Density
      Estimation. 2017. arXiv:1705.07057
    """

    _gains_from_chunks = False

    def __init__(
        self, low: float = 0.0, high: float = 1.0, *, margin: float = 1e-6, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not -np.inf < low < high < np.inf:
            raise ValueError(
                "`low` must be less than `high`, and both finite. Received: "
                f"low={low!r}, high={high!r}."
            )
        if not 0.0 <= margin < 0.5:
            raise ValueError(f"`margin` must lie in [0, 0.5). Received: {margin!r}.")
        self.low, self.high, self.margin = float(low), float(high), float(margin)
        # p = offset + slope * x
        self._slope = (1.0 - 2.0 * self.margin) / (self.high - self.low)
        self._log_slope = float(np.log(self._slope))

    def forward_and_log_det(self, x, condition=None):
        p = ops.sigmoid(x)
        # Through the nearer end, so that values close to either keep their relative precision.
        from_low = self.low + (p - self.margin) / self._slope
        from_high = self.high - (ops.sigmoid(-x) - self.margin) / self._slope
        log_det = -ops.softplus(x) - ops.softplus(-x) - self._log_slope
        return ops.where(x < 0.0, from_low, from_high), ops.sum(log_det, axis=-1)

    def inverse_and_log_det(self, y, condition=None):
        p = self.margin + (y - self.low) * self._slope
        q = self.margin + (self.high - y) * self._slope
        inside = ops.logical_and(p > 0.0, q > 0.0)
        log_p, log_q = ops.log(ops.where(inside, p, 0.5)), ops.log(ops.where(inside, q, 0.5))
        log_det = ops.where(inside, self._log_slope - log_p - log_q, -np.inf)
        return log_p - log_q, ops.sum(log_det, axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "low": self.low,
            "high": self.high,
            "margin": self.margin,
        }
