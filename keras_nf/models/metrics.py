"""BitsPerDim: the negative log-likelihood as images are measured."""

import math
from typing import Any

import keras
from keras import ops

__all__ = ["BitsPerDim"]


@keras.saving.register_keras_serializable("keras_nf")
class BitsPerDim(keras.metrics.Mean):
    """Mean of -log2 p(x) for each component of x, in bits per dimension.

    For data of n components it is the loss of a `FlowModel`, in nats, divided by n log 2. Densities
    depend on the units of the data: those of integer levels behind a `Dequantize` give the number
    that papers on images report, a bound of it in training and, with `Dequantize(always=True)`, in
    evaluation.

    Args:
      name: name of the metric.
      **kwargs: `dtype`, as for any Keras metric.

    Call arguments:
      y_true: data of shape `(batch, *event_shape)`, of which the shape alone counts.
      y_pred: log-densities of shape `(batch,)`, in nats. A `FlowModel` calls its metrics so.
      sample_weight: weights of the rows. Keras hands them to metrics that are given as
        `weighted_metrics`.

    Raises:
      ValueError: if the data have no axes beside those of the log-densities.

    Example:

    >>> import numpy as np, keras_nf
    >>> metric = keras_nf.BitsPerDim()
    >>> x = np.zeros((5, 2, 2, 1), "uint8")
    >>> log_prob = np.full(5, -4.0 * np.log(256.0))
    >>> float(metric(x, log_prob))
    8.0
    """

    def __init__(self, name: str = "bits_per_dim", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def update_state(self, y_true, y_pred, sample_weight=None):
        event_shape = ops.shape(y_true)[len(y_pred.shape) :]
        if len(event_shape) == 0:
            raise ValueError(
                "Expected data with an axis more than their log-densities. Received: shapes "
                f"{tuple(y_true.shape)} and {tuple(y_pred.shape)}. Use the metric in a "
                "keras_nf.FlowModel, or pass the data as `y_true`."
            )
        size = ops.cast(math.prod(event_shape), self.dtype)
        bits = -ops.cast(y_pred, self.dtype) / (size * math.log(2.0))
        return super().update_state(bits, sample_weight)
