"""Invertible scalar maps whose parameters are given: what couplings and autoregression apply.

A map has a number of `parameters` per component and two methods, `forward(x, *parameters)` and
`inverse(y, *parameters)`, each parameter a tensor of the shape of `x`. Both return the value and
the log-derivative per component, or `None` for a derivative of one. Parameters of zero give the
identity.
"""

import keras
from keras import ops

__all__ = ["Affine", "Shift", "sum_log_derivatives"]


def sum_log_derivatives(x, log_derivatives):
    """Sum the log-derivatives of a map of `x`, of shape (components, batch), over components."""
    return ops.zeros_like(x[0]) if log_derivatives is None else ops.sum(log_derivatives, axis=0)


@keras.saving.register_keras_serializable("keras_nf")
class Shift:
    """y = x + shift."""

    parameters = 1

    def forward(self, x, shift):
        return x + shift, None

    def inverse(self, y, shift):
        return y - shift, None

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("keras_nf")
class Affine:
    """y = x exp(s) + shift, with the log-scale s = r / (1 + |r| / bound) of a raw parameter r.

    The bound is soft: |s| < bound for every r, and the gradient never vanishes altogether.

    Args:
      log_scale_bound: largest |log-scale|, in nats; `None` for no bound (s = r).

    Raises:
      ValueError: if the bound is not positive.
    """

    parameters = 2

    def __init__(self, log_scale_bound: float | None = 7.0) -> None:
        if log_scale_bound is not None and not log_scale_bound > 0:
            raise ValueError(
                "`log_scale_bound` must be a positive number, or None for no bound. "
                f"Received: {log_scale_bound!r}."
            )
        self.log_scale_bound = log_scale_bound

    def _log_scale(self, raw):
        if self.log_scale_bound is None:
            return raw
        return raw / (1.0 + ops.abs(raw) / self.log_scale_bound)

    def forward(self, x, shift, raw_log_scale):
        log_scale = self._log_scale(raw_log_scale)
        return x * ops.exp(log_scale) + shift, log_scale

    def inverse(self, y, shift, raw_log_scale):
        log_scale = self._log_scale(raw_log_scale)
        return (y - shift) * ops.exp(-log_scale), -log_scale

    def get_config(self):
        return {"log_scale_bound": self.log_scale_bound}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
