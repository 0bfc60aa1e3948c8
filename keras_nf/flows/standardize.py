"""Standardize: data in raw units."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_nf.flow import Flow

__all__ = ["Standardize"]


@keras.saving.register_keras_serializable("keras_nf")
class Standardize(Flow):
    """Fixed mean and standard deviation of the data.

    x = mean + std z, with log|det dx/dz| = sum_i log std_i. It stands last in a chain, so that the
    flows before it see data of mean 0 and variance 1, while the model takes and returns raw
    units. `adapt(data)` sets the two, as `keras.layers.Normalization` does; they are weights that
    are saved, but not trained. Before `adapt` the layer is the identity. Both directions are
    cheap.

    Args:
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: in `adapt`, if a component is constant, or the data are not finite or fewer than
        two rows.

    Example:

    >>> import numpy as np, keras_nf
    >>> standardize = keras_nf.Standardize()
    >>> standardize.adapt(np.array([[0.0, 10.0], [2.0, 30.0]]))
    >>> np.asarray(standardize.inverse(np.array([[2.0, 20.0]], "float32"))).tolist()
    [[1.0, 0.0]]
    """

    _gains_from_chunks = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(is_constant_jacobian=True, **kwargs)

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        shape = (self.event_size,)
        self.mean = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="mean")
        self.std = self.add_weight(shape=shape, initializer="ones", trainable=False, name="std")

    def adapt(self, data: Any) -> None:
        """Set mean and standard deviation to those of the data.

        Args:
          data: array of shape `(..., event_size)`, or a `tf.data.Dataset` of such batches. Rows are
            read once and accumulated in float64.

        Raises:
          ValueError: if a component is constant, or the data are not finite or fewer than two
            rows.
        """
        count, mean, squares = 0, np.zeros(()), np.zeros(())
        for batch in data.as_numpy_iterator() if isinstance(data, tf.data.Dataset) else (data,):
            if isinstance(batch, (dict, tuple)):
                raise ValueError(
                    "`data` must be an array or a dataset of arrays. Received: a "
                    f"{type(batch).__name__}. Take x alone, for example with "
                    "dataset.map(lambda x, *_: x)."
                )
            batch = np.asarray(batch, dtype="float64")
            if batch.ndim == 0:
                raise ValueError(f"`data` must have shape (..., event_size). Received: {data!r}.")
            if batch.size == 0:
                continue
            rows = batch.reshape(-1, batch.shape[-1])
            total = count + len(rows)
            shift = rows.mean(axis=0) - mean
            squares = squares + ((rows - rows.mean(axis=0)) ** 2).sum(axis=0)
            squares = squares + shift**2 * count * len(rows) / total
            mean = mean + shift * len(rows) / total
            count = total
        if count < 2:
            raise ValueError(
                "`data` must hold at least two rows, of shape (rows, event_size), to take a "
                f"standard deviation of. Received: {count}."
            )
        std = np.sqrt(squares / count)
        if not np.isfinite(std).all():
            raise ValueError(
                "`data` must be finite. Components with NaN or infinite values: "
                f"{np.flatnonzero(~np.isfinite(std)).tolist()}. Remove or impute those rows."
            )
        # Rounding leaves a constant a tiny standard deviation.
        constant = std <= np.finfo(self.variable_dtype).eps * np.abs(mean)
        if constant.any():
            raise ValueError(
                "Constant components have no density and cannot be standardized: "
                f"{np.flatnonzero(constant).tolist()}. Drop them, or add noise."
            )
        if not self.built:
            self.build((None, len(mean)))
        self._check_sizes(tf.zeros((1, len(mean))), None)
        self.mean.assign(mean)
        self.std.assign(std)

    def forward_and_log_det(self, x, condition=None):
        return x * self.std + self.mean, self._constant_log_det(x, ops.sum(ops.log(self.std)))

    def inverse_and_log_det(self, y, condition=None):
        return (y - self.mean) / self.std, self._constant_log_det(y, -ops.sum(ops.log(self.std)))
