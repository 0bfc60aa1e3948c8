"""Scaling: the last layer of NICE."""

from typing import Any

import keras
from keras import ops

from keras_nf.flow.contract import Flow

__all__ = ["Scaling"]


@keras.saving.register_keras_serializable("keras_nf")
class Scaling(Flow):
    """Positive scaling of each component.

    x_i = s_i z_i with s = exp(log_scale) > 0, so log|det dx/dz| = sum_i log s_i. Both directions
    are cheap. A fresh layer is the identity. With `shift=True`, x_i = s_i z_i + t_i: put first in a
    chain, it trains the mean and the scale of a normal base.

    Args:
      shift: whether to add a trained shift t.
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if an input has the wrong rank, size or dtype.

    Example:

    >>> import numpy as np, keras_nf
    >>> scaling = keras_nf.Scaling()
    >>> x, log_det = scaling.forward_and_log_det(np.ones((3, 2), "float32"))
    >>> np.asarray(log_det).tolist()
    [0.0, 0.0, 0.0]

    References:
      Laurent Dinh, David Krueger, Yoshua Bengio. NICE: Non-linear Independent Components
      Estimation. 2014. arXiv:1410.8516
    """

    def __init__(self, *, shift: bool = False, **kwargs: Any) -> None:
        super().__init__(is_constant_jacobian=True, **kwargs)
        self._with_shift = bool(shift)

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        shape = (self.event_size,)
        self.log_scale = self.add_weight(shape=shape, initializer="zeros", name="log_scale")
        self.shift = 0.0
        if self._with_shift:
            self.shift = self.add_weight(shape=shape, initializer="zeros", name="shift")

    def _forward_and_log_det(self, x, condition=None):
        log_det = self._constant_log_det(x, ops.sum(self.log_scale))
        return x * ops.exp(self.log_scale) + self.shift, log_det

    def _inverse_and_log_det(self, y, condition=None):
        log_det = self._constant_log_det(y, -ops.sum(self.log_scale))
        return (y - self.shift) * ops.exp(-self.log_scale), log_det

    def get_config(self):
        return {**super().get_config(), "shift": self._with_shift}
