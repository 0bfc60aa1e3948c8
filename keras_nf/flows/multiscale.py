"""Multiscale: a flow for one half of the channels of an image."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_nf.config import serialize_layer
from keras_nf.flow.adaptation import mapped
from keras_nf.flow.arguments import title, to_events
from keras_nf.flow.contract import Flow
from keras_nf.flow.members import build_members, check_dtypes, run_member
from keras_nf.layout import depth_to_space, space_to_depth

__all__ = ["Multiscale"]

# Height and width that every square that a flow may make of pixels divides.
_DIVISIBLE = 2**10 * 3**3 * 5**2 * 7


@keras.saving.register_keras_serializable("keras_nf")
class Multiscale(Flow):
    """Multiscale architecture: a flow maps half of the channels, the others are done.

    x = [f(z_1), z_2], with log|det dx/dz| that of f. The first half of the channels, or one more
    than that, is f's. Where f has a `Squeeze`, z_2 is squeezed as well, so that z is one tensor,
    of the positions of the latents of f. Each half of a half of the channels may be left to another
    `Multiscale`, at the base's end of f: fine detail is then done after few layers.

    Args:
      flow: f.
      **kwargs: `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Call arguments:
      condition: passed on to the flow.

    Input shape: `(..., height / s, width / s, s**2 * channels)`, for squares of s x s pixels that f
    makes positions of.

    Output shape: `(..., height, width, channels)`; log-determinants have shape `(...)`.

    Raises:
      ValueError: if `flow` is no flow, or there is a single channel.

    Example:

    >>> import numpy as np, keras_nf
    >>> coarse = keras_nf.Chain([keras_nf.ActNorm(), keras_nf.Squeeze()])
    >>> flow = keras_nf.Multiscale(coarse)
    >>> flow.inverse(np.zeros((5, 8, 8, 4), "float32")).shape
    TensorShape([5, 4, 4, 16])

    References:
      Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio. Density Estimation using Real NVP. 2016.
      arXiv:1605.08803
    """

    def __init__(self, flow: Flow, **kwargs: Any) -> None:
        if not isinstance(flow, Flow):
            raise ValueError(
                f"`flow` must be a keras_nf flow. Received: {flow!r}. Put several into "
                "keras_nf.Chain([...])."
            )
        kwargs.setdefault("dtype", flow.dtype_policy)
        super().__init__(event_ndims=3, is_constant_jacobian=flow.is_constant_jacobian, **kwargs)
        check_dtypes(self, [flow])
        self.flow = flow
        # Width of the squares of pixels that the flow makes positions of.
        probe = flow.inverse_event_shape((_DIVISIBLE, _DIVISIBLE, 2 * _DIVISIBLE))
        self._factor = _DIVISIBLE // probe[0]

    @property
    def uses_condition(self):
        return self.flow.uses_condition

    @property
    def reaches_everything(self):
        return self.flow.reaches_everything

    @property
    def needs_data(self):
        return self.flow.needs_data

    @property
    def adapted(self):
        return self.flow.adapted

    def adapt(self, data: Any) -> None:
        """Let the flow adapt to its half of the channels.

        Args:
          data: array of shape `(rows, height, width, channels)`, a dictionary of it as `"x"` and a
            `"condition"`, or a `tf.data.Dataset` of batches of either.
        """
        if self.needs_data:
            self.flow.adapt(mapped(data, lambda x, _: self._halves(to_events(self, x))[0]))

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        *positions, channels = self.data_shape
        if channels < 2:
            raise ValueError(
                f"{title(self)} needs images of several channels, of which to leave out half. "
                f"Received: data of shape {self.data_shape}. Put a Squeeze before it, towards the "
                "data."
            )
        shape = self.flow.inverse_event_shape((*positions, _first(channels)))
        build_members(self, [self.flow], tuple(shape), condition_shape)

    def _forward_event_shape(self, shape):
        *batch, height, width, channels = shape
        factor = self._factor
        height, width = (None if n is None else n * factor for n in (height, width))
        return tf.TensorShape([*batch, height, width, channels and channels // factor**2])

    def _inverse_event_shape(self, shape):
        channels = shape[-1]
        own = None if channels is None else _first(channels)
        inner = self.flow.inverse_event_shape([*shape[:-1], own])
        return tf.TensorShape([*inner[:-1], channels and channels * self._factor**2])

    def _halves(self, x):
        channels = _first(x.shape[-1])
        return x[..., :channels], x[..., channels:]

    def _forward_and_log_det(self, x, condition=None):
        channels = self.flow.event_shape[-1]
        own, rest = x[..., :channels], x[..., channels:]
        own, log_det = run_member(self, "forward", self.flow, own, condition)
        return ops.concatenate([own, depth_to_space(rest, self._factor)], axis=-1), log_det

    def _inverse_and_log_det(self, y, condition=None):
        own, rest = self._halves(y)
        own, log_det = run_member(self, "inverse", self.flow, own, condition)
        return ops.concatenate([own, space_to_depth(rest, self._factor)], axis=-1), log_det

    def get_config(self):
        return {**super().get_config(), "flow": serialize_layer(self.flow)}


def _first(channels):
    """Return how many channels are the flow's."""
    return channels - channels // 2
