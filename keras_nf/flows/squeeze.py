"""Squeeze: squares of pixels and channels."""

from typing import Any

import keras
import tensorflow as tf

from keras_nf.arguments import check_count
from keras_nf.flow.contract import Flow
from keras_nf.layout import depth_to_space, space_to_depth

__all__ = ["Squeeze"]


@keras.saving.register_keras_serializable("keras_nf")
class Squeeze(Flow):
    """Turns squares of pixels into channels, from the data to the base.

    z has shape (height / f, width / f, f^2 channels) for x of shape (height, width, channels): the
    entries of each square of f x f pixels, row by row, are the channels of one position. No number
    changes, so log|det dx/dz| = 0.

    Args:
      factor: f, the width of a square.
      **kwargs: `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Input shape: `(..., height / factor, width / factor, factor**2 * channels)`.

    Output shape: `(..., height, width, channels)`; log-determinants have shape `(...)`.

    Raises:
      ValueError: if the factor does not divide height and width, or its square the channels.

    Example:

    >>> import numpy as np, keras_nf
    >>> images = np.zeros((5, 28, 28, 1), "float32")
    >>> keras_nf.Squeeze().inverse(images).shape
    TensorShape([5, 14, 14, 4])

    References:
      Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio. Density Estimation using Real NVP. 2016.
      arXiv:1605.08803
    """

    def __init__(self, factor: int = 2, **kwargs: Any) -> None:
        super().__init__(event_ndims=3, is_constant_jacobian=True, **kwargs)
        self.factor = check_count(factor, "factor")

    @property
    def recomputable(self):
        return True

    def _forward_event_shape(self, shape):
        *batch, height, width, channels = shape
        self._check([channels], self.factor**2, "channels of the base", shape)
        height, width = (_times(size, self.factor) for size in (height, width))
        return tf.TensorShape([*batch, height, width, channels and channels // self.factor**2])

    def _inverse_event_shape(self, shape):
        *batch, height, width, channels = shape
        self._check([height, width], self.factor, "height and width of the data", shape)
        height, width = (size and size // self.factor for size in (height, width))
        return tf.TensorShape([*batch, height, width, _times(channels, self.factor**2)])

    def _check(self, sizes, divisor, what, shape):
        if any(size is not None and size % divisor for size in sizes):
            raise ValueError(
                f"Squeeze(factor={self.factor}) needs {what} that {divisor} divides. Received: "
                f"events of shape {tuple(shape[-3:])}. Pad them, or use another factor."
            )

    def _forward_and_log_det(self, x, condition=None):
        return depth_to_space(x, self.factor), self._constant_log_det(x, 0.0)

    def _inverse_and_log_det(self, y, condition=None):
        return space_to_depth(y, self.factor), self._constant_log_det(y, 0.0)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def _times(size, factor):
    return None if size is None else size * factor
