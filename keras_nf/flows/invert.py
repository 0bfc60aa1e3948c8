"""Invert: a flow with its directions swapped."""

from typing import Any

import keras

from keras_nf.config import serialize_layer
from keras_nf.flow.arguments import title
from keras_nf.flow.batch import mark_unreached
from keras_nf.flow.contract import Flow
from keras_nf.flow.members import build_members, check_dtypes

__all__ = ["Invert"]


@keras.saving.register_keras_serializable("keras_nf")
class Invert(Flow):
    """Inverse of a flow.

    x = f^{-1}(z): `forward` runs the flow's `inverse` and the reverse, at the same costs.

    Args:
      flow: the flow to invert.
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.
        The dtype is the flow's unless given.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if `flow` is not a flow.

    Example:

    >>> import numpy as np, keras_nf
    >>> logit = keras_nf.Invert(keras_nf.Logit())
    >>> np.asarray(logit(np.array([[0.5]], "float32"))).tolist()
    [[0.0]]
    """

    def __init__(self, flow: Flow, **kwargs: Any) -> None:
        if not isinstance(flow, Flow):
            raise ValueError(
                f"`flow` must be a keras_nf flow. Received: {flow!r}. Use tfb.Invert for other TFP "
                "bijectors."
            )
        kwargs.setdefault("dtype", flow.dtype_policy)
        super().__init__(
            event_ndims=flow.event_ndims, is_constant_jacobian=flow.is_constant_jacobian, **kwargs
        )
        check_dtypes(self, [flow])
        self.flow = flow

    @property
    def uses_condition(self):
        return self.flow.uses_condition

    @property
    def recomputable(self):
        return self.flow.recomputable

    @property
    def needs_data(self):
        return self.flow.needs_data

    @property
    def adapted(self):
        return self.flow.adapted

    def adapt(self, data: Any) -> None:
        """Refuse data for a flow that would have to adapt to its own latents."""
        if self.needs_data:
            raise ValueError(
                f"{title(self)} cannot adapt: the data are the latents of {title(self.flow)}. Call "
                "`adapt` of that flow, with what it is to learn from."
            )

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        build_members(self, [self.flow], self.data_shape, condition_shape)

    def _forward_event_shape(self, shape):
        return self.flow.inverse_event_shape(shape)

    def _inverse_event_shape(self, shape):
        return self.flow.forward_event_shape(shape)

    def _forward_and_log_det(self, x, condition=None):
        return self.flow._run("inverse", x, condition)

    def _inverse_and_log_det(self, y, condition=None):
        return self.flow._run("forward", y, condition)

    def _forward(self, x, condition=None):
        y, log_det = self.forward_and_log_det(x, condition)
        if self.flow.reaches_everything:
            return y
        # As the flow's `inverse` alone has it: what the flow does not reach has no latent.
        return mark_unreached(y, log_det)

    def call(self, inputs, condition=None, return_log_det=False):
        if return_log_det:
            return self.forward_and_log_det(inputs, condition)
        return self._forward(inputs, condition)

    def get_config(self):
        return {**super().get_config(), "flow": serialize_layer(self.flow)}
