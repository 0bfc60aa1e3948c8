"""Shift and affine map."""

import keras
from keras import ops

from keras_nf.increasing import check_bound, softly_bounded

__all__ = ["FORMAT_1", "Affine", "Shift"]

# What configs of format 1 of an affine map leave out.
FORMAT_1 = {"shift_first": False}


@keras.saving.register_keras_serializable("keras_nf")
class Shift:
    """y = x + shift, the map of additive couplings. Its log-derivative is zero.

    Example:

    >>> import numpy as np, keras_nf
    >>> shift = keras_nf.elementwise.Shift()
    >>> y, log_derivative = shift.forward(np.ones(3), np.full((1, 3), 2.0))
    >>> np.asarray(y).tolist(), np.asarray(log_derivative).tolist()
    ([3.0, 3.0, 3.0], [0.0, 0.0, 0.0])

    References:
      Laurent Dinh, David Krueger, Yoshua Bengio. NICE: Non-linear Independent Components
      Estimation. 2014. arXiv:1410.8516
    """

    parameters = 1

    def forward(self, x, parameters):
        return x + parameters[0], ops.zeros_like(x)

    def inverse(self, y, parameters):
        return y - parameters[0], ops.zeros_like(y)

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("keras_nf")
class Affine:
    """y = (x + shift) exp(s), with the log-scale s = r / (1 + |r| / bound) of a raw parameter r.

    `inverse`, which the density runs in most flows, is x = y exp(-s) - shift, the form in which
    Real NVP is published. For a normal base the derivative of -log p in the shift is then minus the
    latent, however thin the density. With the shift added last, as MAF is published, it is that
    times exp(-s): where the density is thin, steps that ought to be small become large.

    The bound is soft: |s| < bound for every r, and the gradient never vanishes altogether. Layers
    add up: five of 2 nats make scales from exp(-10) to exp(10). Wider bounds gain little, and
    let the latents of outliers, and of all that training has not seen, grow out of hand.

    Args:
      log_scale_bound: largest |log-scale|, in nats; `None` for no bound (s = r).
      shift_first: whether the shift is added before the scale; otherwise y = x exp(s) + shift, the
        same family by other parameters, as in files of format 1.

    Raises:
      ValueError: if the bound is not positive.

    Example:

    >>> import numpy as np, keras_nf
    >>> affine = keras_nf.elementwise.Affine(log_scale_bound=None)
    >>> shift_and_log_scale = np.array([[1.0], [np.log(3.0)]])
    >>> y, log_derivative = affine.forward(np.array([1.0]), shift_and_log_scale)
    >>> round(float(y[0]), 4), round(float(log_derivative[0]), 4)
    (6.0, 1.0986)

    References:
      Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio. Density Estimation Using Real NVP. 2016.
      arXiv:1605.08803
      George Papamakarios, Theo Pavlakou, Iain Murray. Masked Autoregressive Flow for Density
      Estimation. 2017. arXiv:1705.07057
    """

    parameters = 2

    def __init__(self, log_scale_bound: float | None = 2.0, *, shift_first: bool = True) -> None:
        self.log_scale_bound = check_bound(log_scale_bound)
        self.shift_first = bool(shift_first)

    def forward(self, x, parameters):
        shift, raw_log_scale = ops.unstack(parameters)
        log_scale = softly_bounded(raw_log_scale, self.log_scale_bound)
        scale = ops.exp(log_scale)
        return (x + shift) * scale if self.shift_first else x * scale + shift, log_scale

    def inverse(self, y, parameters):
        shift, raw_log_scale = ops.unstack(parameters)
        log_scale = softly_bounded(raw_log_scale, self.log_scale_bound)
        scale = ops.exp(-log_scale)
        return y * scale - shift if self.shift_first else (y - shift) * scale, -log_scale

    def get_config(self):
        return {"log_scale_bound": self.log_scale_bound, "shift_first": self.shift_first}

    @classmethod
    def from_config(cls, config):
        return cls(**{**FORMAT_1, **config})
