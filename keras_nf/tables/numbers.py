"""Columns of numbers: standardized, perhaps between bounds, with noise where they are rounded."""

import dataclasses
import math
import warnings
from typing import Any

import numpy as np

from keras_nf.tables.columns import Column
from keras_nf.tables.frames import Values
from keras_nf.tables.grid import check_grid, multiples
from keras_nf.tables.regions import Intervals, draw_decodable, log_normal

__all__ = ["Number", "fit_number"]


@dataclasses.dataclass
class Number(Column):
    """Numbers, standardized, after the logarithm or the logit between bounds.

    Attributes:
      mean, std: of the numbers after that.
      low, high: the bounds, or `None`; with a step, the smallest and the largest number.
      step: what numbers are multiples of, or `None`.
      missing: the share of missing values, or `None` without any.
    """

    mean: float
    std: float
    low: float | None
    high: float | None
    step: float | None
    missing: float | None

    @property
    def components(self):
        return [self.name] if self.missing is None else [f"{self.name} missing", self.name]

    @property
    def is_exact(self):
        return self.step is None and self.missing is None

    def transform(self, column, rng):
        if not column.is_number:
            raise ValueError(
                f"Column {self.name!r} held numbers in `fit`. Received: dtype "
                f"{column.dtype['name']}."
            )
        present = ~column.missing
        if self.missing is None and not present.all():
            raise ValueError(
                f"Column {self.name!r} has missing values, and had none in `fit`. Remove those "
                "rows, or fit on rows that have some."
            )
        x = column.values[present]
        check_numbers(self.name, x, self.low, self.high, self.step)
        z = rng.standard_normal((len(present), 1)).astype("float32")
        z[present, 0] = self._draw(x, rng)
        if self.missing is None:
            return z
        return np.concatenate([self._draw_gaps(column.missing.astype(int), rng), z], axis=1)

    @property
    def _gaps(self):
        return Intervals([1.0 - self.missing, self.missing])

    def _draw_gaps(self, codes, rng):
        return draw_decodable(self.name, codes, lambda c: self._gaps.draw(c, rng), self._gaps.codes)

    def _draw(self, x, rng):
        if self.step is None:
            return self._standardize(x).astype("float32")
        step, codes = self.step, np.rint(x / self.step)
        return draw_decodable(
            self.name,
            codes,
            lambda codes: self._standardize(step * (codes + rng.random(len(codes)) - 0.5)),
            lambda z: np.rint(self._to_x(z) / step),
        )

    def _standardize(self, x):
        return (to_line(x, *ends_of(self.low, self.high, self.step)) - self.mean) / self.std

    def _to_line(self, z):
        return z.astype("float64") * self.std + self.mean

    def _to_x(self, z):
        return from_line(self._to_line(z), *ends_of(self.low, self.high, self.step))

    def inverse(self, z):
        x = self._to_x(z[:, -1])
        if self.step is not None:
            x = multiples(np.rint(x / self.step), self.step)
        if not (self.low is None and self.high is None):
            x = np.clip(x, self.low, self.high)
        if self.missing is None:
            return x, np.zeros(len(x), bool)
        return x, self._gaps.codes(z[:, :1]) == 1

    def log_det(self, z):
        line = self._to_line(z[:, -1])
        ends = ends_of(self.low, self.high, self.step)
        observed = -math.log(self.std) - log_slope(line, *ends)
        if self.missing is None:
            return observed
        is_missing = self._gaps.codes(z[:, :1]) == 1
        filled = -log_normal(z[:, -1])
        return self._gaps.log_det(z[:, :1]) + np.where(is_missing, filled, observed)


def fit_number(name: str, column: Values, step: float | None, bounds: Any) -> Number | None:
    """Return a fitted column, or `None` of constant numbers."""
    x = column.values[~column.missing]
    low, high = bounds
    if not len(x) or x.min() == x.max():
        return None
    if step is None:
        warn_of_repetition(name, x)
    check_numbers(name, x, low, high, step)
    line = to_line(x, *ends_of(low, high, step))
    share = float(column.missing.mean()) or None
    return Number(name, column.dtype, float(line.mean()), float(line.std()), low, high, step, share)


def warn_of_repetition(name, x):
    number = len(np.unique(x))
    if number <= len(x) // 2:
        warnings.warn(
            f"Column {name!r} repeats {number} numbers in {len(x)} rows, at which a density grows "
            f"without bound. Give what they are multiples of, such as steps={{{name!r}: 0.01}}, or "
            "make categories of them.",
            stacklevel=2,
        )


def check_numbers(name, x, low, high, step):
    if step is not None:
        check_grid(name, np.append(x, [end for end in (low, high) if end is not None]), step)
    # Numbers with a step may lie on their bounds, where they have half a step of room.
    low, high = ends_of(low, high, step)
    is_out = np.zeros(len(x), bool)
    if low is not None:
        is_out |= x <= low
    if high is not None:
        is_out |= x >= high
    if is_out.any():
        raise ValueError(
            f"Column {name!r} has {int(is_out.sum())} of {len(x)} values outside of its bounds, or "
            f"on them, such as {x[is_out][0]:g}. Correct those rows, or give wider bounds."
        )


def ends_of(low, high, step):
    """Return the ends of the interval that values, and their noise, fill."""
    room = 0.5 * (step or 0.0)
    return None if low is None else low - room, None if high is None else high + room


def to_line(x, low, high):
    if low is None:
        return x if high is None else -np.log(high - x)
    return np.log(x - low) - (0.0 if high is None else np.log(high - x))


def from_line(y, low, high):
    with np.errstate(over="ignore"):
        if low is None:
            return y if high is None else high - np.exp(-y)
        return low + (np.exp(y) if high is None else (high - low) / (1.0 + np.exp(-y)))


def log_slope(y, low, high):
    """Return log|dx/dy| of `from_line`."""
    if low is None:
        return np.zeros_like(y) if high is None else -y
    if high is None:
        return y
    return math.log(high - low) - np.logaddexp(0.0, y) - np.logaddexp(0.0, -y)
