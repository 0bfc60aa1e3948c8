"""Log: data above a bound, such as prices and times."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_nf.arguments import as_config, numbers_of
from keras_nf.flow.arguments import check_components
from keras_nf.flow.contract import Flow

__all__ = ["Log"]


@keras.saving.register_keras_serializable("keras_nf")
class Log(Flow):
    """Map between the real line and the numbers above a bound.

    Data to base: z_i = log(x_i - low). Base to data: x_i = low + exp(z_i), so log|det dx/dz| =
    sum_i z_i. It stands last in a chain, next to data that are positive, or behind a
    `Standardize`. Both directions are cheap. `Logit` has two bounds.

    An event with a component at or below the bound has no latent and density zero: `inverse`
    alone gives infinity for it, and `inverse_and_log_det`, from which densities are made, a finite
    point and a log-determinant of -inf, so that what follows stays finite. NaN stays NaN. Draws
    stay above the bound, also where rounding would take them there, and finite.

    Args:
      low: lower bound of the data; a number, or a sequence with one for each component.
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if `low` is not finite, or has another size than the event.

    Example:

    >>> import numpy as np, keras_nf
    >>> log = keras_nf.Log(low=1.0)
    >>> np.asarray(log.inverse(np.array([[2.0], [0.5]], "float32"))).tolist()
    [[0.0], [inf]]

    References:
      George Edward Pelham Box, David Roxbee Cox. An Analysis of Transformations. 1964. Of which it
      is the case of the logarithm.
    """

    def __init__(self, low: float | Sequence[float] = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        ends, dtype = numbers_of(low, "low"), self.dtype.as_numpy_dtype
        self.low = as_config(ends)
        with np.errstate(over="ignore"):
            self._low = ends.astype(dtype)
        if not np.isfinite(self._low).all():
            raise ValueError(f"`low` must be finite in {self.dtype.name}. Received: {self.low!r}.")
        # The first number above the bound that is not flushed to zero, and the last one.
        tiny = dtype(4.0 / float(self.dtype.max))
        self._first = np.maximum(np.nextafter(self._low, dtype(np.inf)), self._low + tiny)
        self._least = self._first - self._low
        self._last = dtype(0.25 * float(self.dtype.max))

    @property
    def reaches_everything(self):
        return False

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        check_components(self, low=self.low)

    def _forward_and_log_det(self, x, condition=None):
        y = self._low + ops.exp(ops.minimum(x, np.log(self._last)))
        return ops.maximum(y, self._first), ops.sum(x, axis=-1)

    def _inverse_and_log_det(self, y, condition=None):
        # Comparisons with NaN are false.
        outside = y < self._first
        distance = ops.where(outside, ops.ones_like(y), y - self._low)
        x = ops.log(ops.maximum(distance, self._least))
        return x, ops.sum(ops.where(outside, -np.inf, -x), axis=-1)

    def get_config(self):
        return {**super().get_config(), "low": self.low}
