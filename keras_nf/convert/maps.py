"""Elementwise maps in the parameters of other libraries, equal to theirs from data to base."""

import math

import keras
import tensorflow as tf
from keras import ops

from keras_nf.elementwise.spline import RationalQuadraticSpline, knots_of
from keras_nf.increasing import softly_bounded

__all__ = ["NflowsAffine", "NflowsSpline", "ZukoSpline"]


@keras.saving.register_keras_serializable("keras_nf")
class NflowsAffine:
    """z = s x + t with s = softplus(r) + 0.001, of raw parameters r and t: nflows's affine map."""

    parameters = 2

    def _log_scale(self, raw):
        return ops.log(ops.softplus(raw) + 1e-3)

    def forward(self, x, parameters):
        raw, shift = ops.unstack(parameters)
        log_scale = self._log_scale(raw)
        return (x - shift) * ops.exp(-log_scale), -log_scale

    def inverse(self, y, parameters):
        raw, shift = ops.unstack(parameters)
        log_scale = self._log_scale(raw)
        return y * ops.exp(log_scale) + shift, log_scale

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


class _SplineOfData(RationalQuadraticSpline):
    """Rational-quadratic spline that takes data to the base, where ours takes the base to data."""

    def forward(self, x, parameters):
        return super().inverse(x, parameters)

    def inverse(self, y, parameters):
        return super().forward(y, parameters)

    def _curve(self, parameters):
        widths, heights, slopes = tf.split(parameters, [self.bins, self.bins, -1])
        sizes = ops.stack([self._widths(widths), self._heights(heights)], axis=1)
        ends = ops.zeros_like(parameters[:1])
        log_slopes = ops.concatenate([ends, self._log_slopes(slopes), ends])
        return knots_of(sizes, self.bound)[0], log_slopes


@keras.saving.register_keras_serializable("keras_nf")
class ZukoSpline(_SplineOfData):
    """zuko's `MonotonicRQSTransform`, a rational-quadratic spline of the data.

    With the softly bounded s(r, b) = r / (1 + |r| / b) and b = -log(slope), widths and heights are
    proportional to exp(s(r, b / 2)), slopes at knots exp(s(r, b)).

    Args:
      bins: number of bins.
      bound: half the length of the interval.
      slope: smallest slope at a knot.
    """

    def __init__(self, bins: int, bound: float = 5.0, *, slope: float = 1e-3) -> None:
        super().__init__(bins, bound)
        if not 0.0 < slope < 1.0:
            raise ValueError(f"`slope` must be between 0 and 1. Received: {slope!r}.")
        self.slope = float(slope)

    def _widths(self, raw):
        return ops.exp(softly_bounded(raw, -0.5 * math.log(self.slope)))

    _heights = _widths

    def _log_slopes(self, raw):
        return softly_bounded(raw, -math.log(self.slope))

    def get_config(self):
        return {"bins": self.bins, "bound": self.bound, "slope": self.slope}


@keras.saving.register_keras_serializable("keras_nf")
class NflowsSpline(_SplineOfData):
    """nflows's rational-quadratic spline of the data, with linear tails.

    Widths and heights are a smallest part of the interval and a softmax of the rest, slopes at
    knots a smallest one and a softplus.

    Args:
      bins: number of bins.
      bound: half the length of the interval.
      min_bin_width: smallest width, as a part of the interval.
      min_bin_height: smallest height, as a part of the interval.
      min_derivative: smallest slope at a knot.
    """

    def __init__(
        self,
        bins: int,
        bound: float,
        *,
        min_bin_width: float = 1e-3,
        min_bin_height: float = 1e-3,
        min_derivative: float = 1e-3,
    ) -> None:
        super().__init__(bins, bound)
        if not 0.0 < bins * min_bin_width < 1.0 or not 0.0 < bins * min_bin_height < 1.0:
            raise ValueError(
                "`min_bin_width` and `min_bin_height` must be positive, and less than one over the "
                f"number of bins. Received: {min_bin_width!r} and {min_bin_height!r} for {bins} "
                "bins."
            )
        if not min_derivative > 0.0:
            raise ValueError(f"`min_derivative` must be positive. Received: {min_derivative!r}.")
        self.min_bin_width = float(min_bin_width)
        self.min_bin_height = float(min_bin_height)
        self.min_derivative = float(min_derivative)

    def _parts(self, raw, smallest):
        return smallest + (1.0 - smallest * self.bins) * ops.softmax(raw, axis=0)

    def _widths(self, raw):
        return self._parts(raw, self.min_bin_width)

    def _heights(self, raw):
        return self._parts(raw, self.min_bin_height)

    def _log_slopes(self, raw):
        return ops.log(self.min_derivative + ops.softplus(raw))

    def get_config(self):
        return {
            "bins": self.bins,
            "bound": self.bound,
            "min_bin_width": self.min_bin_width,
            "min_bin_height": self.min_bin_height,
            "min_derivative": self.min_derivative,
        }
