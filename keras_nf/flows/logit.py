"""Logit: data in a bounded interval."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_nf.arguments import as_config, numbers_of
from keras_nf.flow.arguments import check_components
from keras_nf.flow.contract import Flow

__all__ = ["Logit"]


def _check_ends(low, high):
    """Return the ends as they go into a config, each a number or a tuple of one per component."""
    ends = {"low": numbers_of(low, "low"), "high": numbers_of(high, "high")}
    sizes = {array.size for array in ends.values() if array.ndim == 1}
    if len(sizes) > 1:
        raise ValueError(
            "`low` and `high` must have one number per component, or a single one for all. "
            f"Received: {ends['low'].size} in `low` and {ends['high'].size} in `high`."
        )
    _check_components(
        (ends["low"] < ends["high"]) & np.isfinite(ends["low"]) & np.isfinite(ends["high"]),
        "`low` must be less than `high`, and both finite.",
        ends["low"],
        ends["high"],
    )
    return [as_config(end) for end in ends.values()]


def _check_components(are_right, expectation, low, high, advice=""):
    if np.all(are_right):
        return
    where = ""
    if np.ndim(are_right):
        wrong = np.flatnonzero(~are_right)
        low, high = (np.broadcast_to(end, are_right.shape)[wrong[0]] for end in (low, high))
        where = f" in component {wrong[0]}"
        where += f" (also wrong: {wrong[1:].tolist()})" if len(wrong) > 1 else ""
    raise ValueError(
        f"{expectation} Received: low={float(low)!r}, high={float(high)!r}{where}.{advice}"
    )


@keras.saving.register_keras_serializable("keras_nf")
class Logit(Flow):
    """Map between the real line and a bounded interval.

    Data to base: z = logit(p), p = lambda + (1 - 2 lambda) (x - low) / (high - low). Base to
    data: x = low + (high - low) (sigmoid(z) - lambda) / (1 - 2 lambda). It stands last in a chain,
    next to data such as pixels. The margin lambda keeps the bounds themselves at a finite
    distance; the flow reaches beyond the interval by lambda / (1 - 2 lambda) of its width. Without
    a margin it reaches neither bound, also where rounding would take a draw there. Both directions
    are cheap.

    An event further out has no latent and density zero. `inverse` alone gives infinity for it,
    which `Standardize.adapt` refuses. `inverse_and_log_det`, from which densities are made, gives
    the middle of the interval and a log-determinant of -inf: the flows and the base that follow
    see finite numbers, the density is -inf, and its gradients are finite. NaN stays NaN.

    Args:
      low: lower end of the data; a number, or a sequence with one for each component.
      high: upper end of the data, in the same way.
      margin: lambda of the MAF paper (1e-6 there for MNIST, 0.05 for CIFAR-10).
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if `low >= high` in some component, one of them is not finite, they have another
        size than the event, the dtype has no numbers between them, or the margin is outside
        [0, 0.5).

    Example:

    >>> import numpy as np, keras_nf
    >>> logit = keras_nf.Logit(low=0.0, high=256.0)
    >>> np.asarray(logit.inverse(np.array([[128.0], [300.0]], "float32"))).tolist()
    [[0.0], [inf]]
    >>> latitude_longitude = keras_nf.Logit(low=[-90.0, -180.0], high=[90.0, 180.0])
    >>> np.asarray(latitude_longitude(np.zeros((1, 2), "float32"))).tolist()
    [[0.0, 0.0]]

    References:
      Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio. Density Estimation using Real NVP. 2016.
      arXiv:1605.08803

      George Papamakarios, Theo Pavlakou, Iain Murray. Masked Autoregressive Flow for Density
      Estimation. 2017. arXiv:1705.07057
    """

    def __init__(
        self,
        low: float | Sequence[float] = 0.0,
        high: float | Sequence[float] = 1.0,
        *,
        margin: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0.0 <= margin < 0.5:
            raise ValueError(f"`margin` must lie in [0, 0.5). Received: {margin!r}.")
        self.low, self.high = _check_ends(low, high)
        self.margin = float(margin)
        self._set_constants()

    @property
    def reaches_everything(self):
        return False

    def _set_constants(self):
        """Round the interval to the dtype, and find the first and the last number in reach."""
        dtype = self.dtype.as_numpy_dtype
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            low, high = (np.asarray(end, "float64").astype(dtype) for end in (self.low, self.high))
            exact_low, exact_high = low.astype("float64"), high.astype("float64")
            width = (exact_high - exact_low) / (1.0 - 2.0 * self.margin)
            self._low, self._high, self._width = low, high, width.astype(dtype)
            # Without a margin, the quotient by the width could underflow, and does not matter.
            scale = np.reciprocal(width) if self.margin > 0.0 else np.ones_like(width)
            self._scale, self._margin = scale.astype(dtype), dtype(self.margin)
            has_numbers = (width > 0.0) & np.isfinite(self._width) & np.isfinite(self._scale)
        if np.all(has_numbers):
            self._log_width = np.log(width).astype(dtype)
            self._log_factor = (np.log(width) + 2.0 * np.log(scale)).astype(dtype)
            # The smallest number that is not flushed to zero.
            tiny = 4.0 / float(self.dtype.max)
            reach = self.margin * width - tiny
            self._first, self._least_p = self._edge((exact_low - reach).astype(dtype), tiny, 0)
            self._last, self._least_q = self._edge((exact_high + reach).astype(dtype), tiny, 1)
            has_numbers = self._first <= self._last
        _check_components(
            has_numbers,
            f"`low` and `high` need numbers between them in {self.dtype.name}.",
            np.asarray(self.low),
            np.asarray(self.high),
            " Subtract an offset from the data, rescale them, or pass dtype='float64'.",
        )
        middle = (0.5 * exact_low + 0.5 * exact_high).astype(dtype)
        self._middle = np.clip(middle, self._first, self._last)

    def _edge(self, x, tiny, end):
        """Return the number next to an end, from `x` inwards, that is in reach; its p or 1 - p."""
        inwards = x.dtype.type(-np.inf if end else np.inf)
        while np.any(rounds_to_end := self._distances(x)[end] < tiny):
            x = np.where(rounds_to_end, np.nextafter(x, inwards), x)
        return x, self._distances(x)[end]

    def _distances(self, y):
        """Return p and 1 - p, or without a margin their products with the width."""
        # The products keep XLA from adding the constants first, which would cost digits.
        return (
            (y - self._low) * self._scale + self._margin,
            (self._high - y) * self._scale + self._margin,
        )

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        check_components(self, low=self.low, high=self.high)

    def _is_outside(self, y):
        # Comparisons with NaN are false.
        return ops.logical_or(y < self._first, y > self._last)

    def _move_to(self, is_moved, end, y):
        """Return `y`, but `end` where it is moved, with the gradient of `y` everywhere."""
        return ops.where(is_moved, end + (y - ops.stop_gradient(y)), y)

    def _forward_and_log_det(self, x, condition=None):
        # Through the nearer end, so that values close to either keep their relative precision.
        from_low = self._low + (ops.sigmoid(x) - self._margin) * self._width
        from_high = self._high - (ops.sigmoid(-x) - self._margin) * self._width
        y = ops.where(x < 0.0, from_low, from_high)
        # Rounding must not leave the support: the density of a draw would be zero.
        y = self._move_to(y < self._first, self._first, y)
        y = self._move_to(y > self._last, self._last, y)
        log_det = self._log_width - ops.softplus(x) - ops.softplus(-x)
        return y, ops.sum(log_det, axis=-1)

    def _inverse_and_log_det(self, y, condition=None):
        outside = self._is_outside(y)
        p, q = self._distances(ops.where(outside, self._middle, y))
        # A compiler that rounds in another way must not find zero on the edge.
        log_p = ops.log(ops.where(p < self._least_p, self._least_p, p))
        log_q = ops.log(ops.where(q < self._least_q, self._least_q, q))
        log_det = ops.where(outside, -np.inf, self._log_factor - log_p - log_q)
        return log_p - log_q, ops.sum(log_det, axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "low": self.low,
            "high": self.high,
            "margin": self.margin,
        }
