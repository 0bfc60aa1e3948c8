"""Scaling: the last layer of NICE."""

from typing import Any

import keras
from keras import ops

from keras_nf.flow import Flow

__all__ = ["Scaling"]


@keras.saving.register_keras_serializable("keras_nf")
class Scaling(Flow):
    """Positive scaling of each component.

    x_i = s_i z_i with s = exp(log_scale) > 0, so log|det dx/dz| = sum_i log s_i. Both directions
    are cheap. A fresh layer is the identity.

    Args:
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

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(is_constant_jacobian=True, **kwargs)

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        self.log_scale = self.add_weight(
            shape=(self.event_size,), initializer="zeros", name="log_scale"
        )

    def forward_and_log_det(self, x, condition=None):
        return x * ops.exp(self.log_scale), self._constant_log_det(x, ops.sum(self.log_scale))

    def inverse_and_log_det(self, y, condition=None):
        return y * ops.exp(-self.log_scale), self._constant_log_det(y, -ops.sum(self.log_scale))
