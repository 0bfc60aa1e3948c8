"""Monotonic rational-quadratic spline."""

import numbers

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_nf.increasing import softly_bounded

__all__ = ["RationalQuadraticSpline", "knots_of"]

# Of |log| of widths, of the slopes of bins, and of those between them, in nats.
LOG_BOUND = 2.0


@keras.saving.register_keras_serializable("keras_nf")
class RationalQuadraticSpline:
    """Monotonic rational-quadratic spline of an interval, in closed form in both directions.

    Knots cut the interval (-bound, bound) into bins. With t from 0 at the left knot of a bin to 1
    at the right one, w its width, h its height, s = h / w, and slopes d_0 and d_1 at its knots,

        y = y_0 + h (s t^2 + d_0 t (1 - t)) / (s + (d_0 + d_1 - 2 s) t (1 - t)).

    Beyond the interval the map is the identity, and the slopes at its ends are 1. A circular spline
    is one for angles: the slopes at both ends are one more parameter, and beyond the interval it
    goes on periodically, y(x + 2 bound) = y(x) + 2 bound.

    Widths are proportional to exp(a), heights to exp(a + b), and a slope between two bins is the
    geometric mean of theirs times exp(c). Each of a, b and c is softly bounded, as the log-scale of
    `Affine` is: a raw parameter r gives r / (1 + |r| / 2), within 2 nats. In both directions all
    sums have positive terms, the discriminant among them, so that nothing is lost in differences.

    Args:
      bins: number of bins.
      bound: half the length of the interval.
      circular: whether the interval is a circle.

    Raises:
      ValueError: if there are fewer than two bins, or the bound is not positive.

    Example:

    >>> import numpy as np, keras_nf
    >>> spline = keras_nf.elementwise.RationalQuadraticSpline(bins=4, bound=3.0)
    >>> x = np.array([-9.0, 0.5, 1.0], "float32")
    >>> rng = np.random.default_rng(0)
    >>> raw = rng.normal(size=(spline.parameters, 3)).astype("float32")
    >>> y, log_derivative = spline.forward(x, raw)
    >>> bool(np.allclose(spline.inverse(y, raw)[0], x, atol=1e-6))
    True

    References:
      Conor Durkan, Artur Bekasov, Iain Murray, George Papamakarios. Neural Spline Flows. 2019.
      arXiv:1906.04032
      Danilo Jimenez Rezende, George Papamakarios, Sébastien Racanière, Michael S. Albergo, Gurtej
      Kanwar, Phiala E. Shanahan, Kyle Cranmer. Normalizing Flows on Tori and Spheres. 2020.
      arXiv:2002.02428
    """

    def __init__(self, bins: int = 8, bound: float = 5.0, *, circular: bool = False) -> None:
        if not isinstance(bins, numbers.Integral) or isinstance(bins, bool) or bins < 2:
            raise ValueError(f"`bins` must be an integer of at least 2. Received: {bins!r}.")
        if not 0.0 < bound < float("inf"):
            raise ValueError(f"`bound` must be a positive number. Received: {bound!r}.")
        self.bins = int(bins)
        self.bound = float(bound)
        self.circular = bool(circular)
        # Widths, slopes of bins, and slopes at knots.
        self.parameters = 3 * self.bins - (0 if self.circular else 1)

    def forward(self, x, parameters):
        x, beyond = self._into_interval(x)
        left, right, low, high, d_0, d_1 = self._bin_of(x, parameters, 0)
        t = (x - left) / (right - left)
        u = t * (1.0 - t)
        slope = (high - low) / (right - left)
        denominator = slope * (1.0 - 2.0 * u) + (d_0 + d_1) * u
        y = low + (high - low) * (slope * t * t + d_0 * u) / denominator
        return self._out_of_interval(y, _log_derivative(t, slope, d_0, d_1), beyond)

    def inverse(self, y, parameters):
        y, beyond = self._into_interval(y)
        left, right, low, high, d_0, d_1 = self._bin_of(y, parameters, 1)
        v = (y - low) / (high - low)
        slope = (high - low) / (right - left)
        # The root of a quadratic equation in t, or in 1 - t, whichever has no cancellation.
        tilt = d_0 * (1.0 - v) - d_1 * v
        near = tilt >= 0.0
        root = ops.sqrt(tilt * tilt + 4.0 * slope * slope * v * (1.0 - v))
        rest = root + ops.where(near, tilt, -tilt)
        part = 2.0 * slope * ops.where(near, v, 1.0 - v)
        t = ops.where(near, part, rest) / (part + rest)
        x = left + (right - left) * t
        return self._out_of_interval(x, -_log_derivative(t, slope, d_0, d_1), beyond)

    def _bin_of(self, value, parameters, side):
        """Return the knots of the bin of each value, their images, and the slopes there.

        `side` is 0 for values that go into `forward`, 1 for those that come out of it.
        """
        knots, log_slopes = self._curve(parameters)
        # A tensor whose second axis has, for each knot, its place, its image and the slope.
        knots = ops.concatenate([knots, log_slopes[:, None]], axis=1)
        # Halve the bins until one is left; the halves of an odd number share one.
        bins = self.bins
        while bins > 1:
            half = (bins + 1) // 2
            first, middle, last = tf.split(knots, [bins - half, 2 * half + 1 - bins, bins - half])
            is_upper = value >= ops.unstack(middle[-1], 3)[side]
            lower, upper = ops.concatenate([first, middle]), ops.concatenate([middle, last])
            knots, bins = ops.where(is_upper, upper, lower), half
        left, right = ops.unstack(knots, 2)
        (left, low, d_0), (right, high, d_1) = ops.unstack(left, 3), ops.unstack(right, 3)
        return left, right, low, high, ops.exp(d_0), ops.exp(d_1)

    def _curve(self, parameters):
        """Return all knots, with their images beside them in a second axis, and the log-slopes."""
        raw = softly_bounded(parameters, LOG_BOUND)
        log_widths, log_slopes, at_knots = tf.split(raw, [self.bins, self.bins, -1])
        sizes = ops.exp(ops.stack([log_widths, log_widths + log_slopes], axis=1))
        knots, sums = knots_of(sizes, self.bound)
        width, height = ops.unstack(ops.log(sums), 2, axis=1)
        return knots, self._at_knots(log_slopes + width - height, at_knots)

    def _at_knots(self, log_slopes, raw):
        """Return the log-slopes at all knots."""
        first, but_first = tf.split(log_slopes, [1, -1])
        but_last, last = tf.split(log_slopes, [-1, 1])
        inner = 0.5 * (but_last + but_first)
        if self.circular:
            raw_ends, raw = tf.split(raw, [1, -1])
            ends = 0.5 * (first + last) + raw_ends
        else:
            ends = ops.zeros_like(first)
        return ops.concatenate([ends, inner + raw, ends])

    def _into_interval(self, x):
        """Return x within the interval, and what is needed to go back."""
        if self.circular:
            turns = 2.0 * self.bound * ops.floor((x + self.bound) / (2.0 * self.bound))
            x = x - turns
            # Rounding alone takes x out of the interval, and ought not to end its gradient.
            excess = x - ops.clip(x, -self.bound, self.bound)
            return x - ops.stop_gradient(excess), turns
        return ops.clip(x, -self.bound, self.bound), x

    def _out_of_interval(self, y, log_derivative, beyond):
        if self.circular:
            return y + beyond, log_derivative
        inside = ops.abs(beyond) <= self.bound
        zeros = ops.zeros_like(log_derivative)
        return ops.where(inside, y, beyond), ops.where(inside, log_derivative, zeros)

    def get_config(self):
        return {"bins": self.bins, "bound": self.bound, "circular": self.circular}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def knots_of(sizes, bound):
    """Return knots from -bound to bound, by the sizes of the bins, and the sums of these.

    Sizes lie along the first axis; knots are at distances in proportion to them.
    """
    # Sums by a product of matrices: on a CPU, the gradient of `cumsum` is a hundred times slower.
    bins = sizes.shape[0]
    triangle = np.tri(bins, dtype=keras.backend.standardize_dtype(sizes.dtype))
    sums = ops.reshape(triangle @ ops.reshape(sizes, (bins, -1)), ops.shape(sizes))
    sums, total = tf.split(sums, [-1, 1])
    ends = ops.full_like(total, bound)
    return ops.concatenate([-ends, sums * (2.0 * bound / total) - bound, ends]), total


def _log_derivative(t, slope, d_0, d_1):
    """Return the logarithm of the derivative at t in a bin."""
    u = t * (1.0 - t)
    denominator = slope * (1.0 - 2.0 * u) + (d_0 + d_1) * u
    numerator = d_1 * t * t + 2.0 * slope * u + d_0 * (1.0 - t) * (1.0 - t)
    return 2.0 * ops.log(slope / denominator) + ops.log(numerator)
