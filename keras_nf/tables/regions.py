"""Regions of a standard normal, one for each category, that have the categories' probabilities."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["Intervals", "Race", "draw_decodable", "log_normal"]

_TRIES = 30
_LEAST = 2.0**-53


def draw_decodable(name: str, codes: Any, draw: Callable, decode: Callable) -> np.ndarray:
    """Draw points in float32 that `decode` gives the codes of; those rounded away are redrawn."""
    points = draw(codes).astype("float32")
    for _ in range(_TRIES):
        is_wrong = decode(points) != codes
        if not is_wrong.any():
            return points
        points[is_wrong] = draw(codes[is_wrong])
    raise ValueError(
        f"Column {name!r} has values too close to one another, beside its spread, for float32 to "
        f"tell them apart: {int(is_wrong.sum())} of {len(codes)} rows. Divide its range, or use a "
        "larger step."
    )


def log_normal(z: np.ndarray) -> np.ndarray:
    """Return the logarithm of the standard normal density of each component."""
    return -0.5 * np.square(z, dtype="float64") - 0.5 * np.log(2.0 * np.pi)


def _upper(z):
    """Return the probability of a standard normal above z."""
    return 0.5 * tf.math.erfc(np.asarray(z, "float64") / np.sqrt(2.0)).numpy()


def _quantile(p):
    return tf.math.ndtri(np.clip(p, _LEAST, 1.0 - _LEAST)).numpy()


class _Regions:
    """What the two kinds have in common: the density of the points, given that of the categories.

    A category of probability P(k) draws z from the normal within its region, of density
    N(z) / P(k). So log P(k) - log N(z) is what a density of z lacks to a bound of log P(k).
    """

    def __init__(self, probabilities: Sequence[float]) -> None:
        self.probabilities = np.asarray(probabilities, "float64")

    def codes(self, z):
        raise NotImplementedError

    def log_det(self, z):
        return np.log(self.probabilities)[self.codes(z)] - log_normal(z).sum(axis=1)


class Intervals(_Regions):
    """Intervals of one component, from left to right."""

    def __init__(self, probabilities: Sequence[float]) -> None:
        super().__init__(probabilities)
        self._ends = np.cumsum(self.probabilities)

    def draw(self, codes, rng):
        share = rng.random(len(codes))
        below = self._ends[codes] - self.probabilities[codes]
        return _quantile(below + share * self.probabilities[codes])[:, None]

    def codes(self, z):
        return np.searchsorted(self._ends[:-1], 1.0 - _upper(z[:, 0]), side="right")


class Race(_Regions):
    """One component for each category; the smallest of E_k / P(k) wins, E_k = -log cdf(z_k).

    Standard normal z make E_k independent and exponential, for which k wins with probability P(k).
    """

    def draw(self, codes, rng):
        # The time of the winner, and what the others take longer: exponentials have no memory.
        first = rng.exponential(size=(len(codes), 1))
        later = rng.exponential(size=(len(codes), len(self.probabilities)))
        later[np.arange(len(codes)), codes] = 0.0
        times = first * self.probabilities + later
        return np.where(
            times > np.log(2.0), _quantile(np.exp(-times)), -_quantile(-np.expm1(-times))
        )

    def codes(self, z):
        with np.errstate(divide="ignore"):
            times = np.where(z > 0.0, -np.log1p(-_upper(z)), -np.log(_upper(-z)))
        return np.argmin(times / self.probabilities, axis=1)
