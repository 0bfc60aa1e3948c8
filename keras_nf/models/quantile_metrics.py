"""Metrics of quantiles: coverage of central intervals, pinball loss, CRPS."""

from typing import Any

import keras
from keras import ops

from keras_nf.arguments import check_count, check_level

__all__ = ["CRPS", "Coverage", "PinballLoss", "QuantileMetric"]


class QuantileMetric(keras.metrics.Mean):
    """Mean over rows of what a subclass makes of a target and some quantiles.

    A `FlowModel` of events of one component hands it its own quantiles, at the price of an
    evaluation of its flow for each, and of another one of its encoder. Other models predict them.

    Args:
      levels: probabilities of the quantiles.
      name: name of the metric.
      **kwargs: `dtype`, as for any Keras metric.
    """

    def __init__(self, levels: Any, name: str, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.levels = tuple(levels)
        self._quantiles = None

    def score(self, y, quantiles):
        """Return a number for each row, of targets `(batch, 1)` and quantiles `(batch, levels)`."""
        raise NotImplementedError

    def give(self, quantiles):
        """Take the quantiles of the rows of which the next update is."""
        self._quantiles = quantiles

    def update_state(self, y_true, y_pred, sample_weight=None):
        quantiles, self._quantiles = self._quantiles, None
        quantiles = ops.cast(y_pred if quantiles is None else quantiles, self.dtype)
        shape = tuple(quantiles.shape)
        if len(shape) != 2 or shape[1] != len(self.levels):
            raise ValueError(
                f"Expected quantiles of shape (batch, {len(self.levels)}), of the levels "
                f"{', '.join(f'{level:g}' for level in self.levels)}. Received: shape {shape}. Use "
                "the metric in a keras_nf.FlowModel of events of one component, or predict them."
            )
        y = ops.reshape(ops.cast(y_true, self.dtype), (-1, 1))
        return super().update_state(self.score(y, quantiles), sample_weight)


def _pinball(y, quantiles, levels):
    """Return the pinball loss of each quantile: p (y - q) above it, (1 - p) (q - y) below."""
    excess = y - quantiles
    levels = ops.convert_to_tensor(levels, excess.dtype)
    return ops.maximum(levels * excess, (levels - 1.0) * excess)


@keras.saving.register_keras_serializable("keras_nf")
class PinballLoss(QuantileMetric):
    """Pinball loss of a quantile, in the units of the target.

    p (y - q) for a target y above the quantile q of level p, and (1 - p) (q - y) below. The right
    quantile has the least mean; of p = 1/2 it is half the mean absolute error of the median.

    Args:
      level: p, between 0 and 1.
      name: name of the metric.
      **kwargs: `dtype`, as for any Keras metric.

    Call arguments:
      y_true: targets of shape `(batch, 1)` or `(batch,)`.
      y_pred: quantiles of shape `(batch, 1)`. A `FlowModel` gives its own.
      sample_weight: weights of the rows, of `weighted_metrics`.

    Raises:
      ValueError: if the level is not between 0 and 1, or on quantiles of another shape.

    Example:

    >>> import numpy as np, keras_nf
    >>> metric = keras_nf.PinballLoss(0.9)
    >>> round(float(metric(np.array([3.0, 1.0]), np.array([[2.0], [2.0]]))), 3)
    0.5

    References:
      Roger Koenker, Gilbert Bassett. Regression Quantiles. Econometrica 46(1), 1978.
    """

    def __init__(self, level: float = 0.5, name: str = "pinball_loss", **kwargs: Any) -> None:
        self.level = check_level(level)
        super().__init__([self.level], name, **kwargs)

    def score(self, y, quantiles):
        return _pinball(y, quantiles, self.levels)[:, 0]

    def get_config(self):
        return {**super().get_config(), "level": self.level}


@keras.saving.register_keras_serializable("keras_nf")
class CRPS(QuantileMetric):
    """Continuous ranked probability score, in the units of the target.

    The integral of (F(x) - [y <= x])^2 over x, with F the distribution function: the mean absolute
    error of a distribution in place of a number. It is computed as twice the mean pinball loss of
    evenly spaced quantiles, at levels (k - 1/2) / n, which is 0.03 % too much for a normal
    distribution and 50 of them.

    Args:
      quantiles: n, how many.
      name: name of the metric.
      **kwargs: `dtype`, as for any Keras metric.

    Call arguments:
      y_true: targets of shape `(batch, 1)` or `(batch,)`.
      y_pred: quantiles of shape `(batch, n)`. A `FlowModel` gives its own.
      sample_weight: weights of the rows, of `weighted_metrics`.

    Raises:
      ValueError: if `quantiles` is no positive integer, or on quantiles of another shape.

    Example:

    >>> import numpy as np, keras_nf
    >>> metric = keras_nf.CRPS(quantiles=2)
    >>> float(metric(np.array([1.0]), np.array([[0.0, 2.0]])))
    0.5

    References:
      Tilmann Gneiting, Adrian E. Raftery. Strictly Proper Scoring Rules, Prediction, and
      Estimation. Journal of the American Statistical Association 102(477), 2007.
    """

    def __init__(self, quantiles: int = 50, name: str = "crps", **kwargs: Any) -> None:
        self.quantiles = check_count(quantiles, "quantiles")
        levels = [(k + 0.5) / self.quantiles for k in range(self.quantiles)]
        super().__init__(levels, name, **kwargs)

    def score(self, y, quantiles):
        return 2.0 * ops.mean(_pinball(y, quantiles, self.levels), axis=-1)

    def get_config(self):
        return {**super().get_config(), "quantiles": self.quantiles}


@keras.saving.register_keras_serializable("keras_nf")
class Coverage(QuantileMetric):
    """Share of the targets that lie within the central interval of a level.

    The right distribution has a coverage equal to the level. Less tells of intervals that are too
    narrow, an overconfident model; more of intervals that are too wide.

    Args:
      level: probability of the interval, between 0 and 1.
      name: name of the metric.
      **kwargs: `dtype`, as for any Keras metric.

    Call arguments:
      y_true: targets of shape `(batch, 1)` or `(batch,)`.
      y_pred: both ends of the interval, of shape `(batch, 2)`. A `FlowModel` gives its own.
      sample_weight: weights of the rows, of `weighted_metrics`.

    Raises:
      ValueError: if the level is not between 0 and 1, or on ends of another shape.

    Example:

    >>> import numpy as np, keras_nf
    >>> metric = keras_nf.Coverage(0.9)
    >>> float(metric(np.array([1.0, 5.0]), np.array([[0.0, 2.0], [0.0, 2.0]])))
    0.5
    """

    def __init__(self, level: float = 0.9, name: str = "coverage", **kwargs: Any) -> None:
        self.level = check_level(level)
        super().__init__([0.5 - 0.5 * self.level, 0.5 + 0.5 * self.level], name, **kwargs)

    def score(self, y, quantiles):
        low, high = quantiles[:, :1], quantiles[:, 1:]
        is_inside = ops.logical_and(low <= y, y <= high)
        return ops.cast(is_inside, self.dtype)[:, 0]

    def get_config(self):
        return {**super().get_config(), "level": self.level}
