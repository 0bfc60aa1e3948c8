"""P-values of the tests, without SciPy, and Holm's correction for many of them."""

import math

import numpy as np
import tensorflow as tf

__all__ = [
    "binomial",
    "chi_squared",
    "correlation",
    "critical_distance",
    "distances_from_uniform",
    "holm",
    "kolmogorov",
    "normal_quantile",
    "standard_normal",
]


def _float64(value):
    return tf.convert_to_tensor(value, tf.float64)


def normal_quantile(u):
    """Return standard normal quantiles; what rounding made 0 or 1 has finite ones."""
    return np.asarray(tf.math.ndtri(_float64(np.clip(u, 1e-16, 1.0 - 1e-16))))


def standard_normal(z):
    """Return the two-sided p-values of standard normal numbers."""
    return np.asarray(tf.math.erfc(_float64(np.abs(z) / math.sqrt(2.0))))


def chi_squared(total, degrees):
    """Return the two-sided p-values of sums of `degrees` squares of standard normal numbers."""
    half, degrees = _float64(total) / 2.0, _float64(degrees) / 2.0
    sides = tf.math.igamma(degrees, half), tf.math.igammac(degrees, half)
    return np.minimum(1.0, 2.0 * np.minimum(*sides))


def correlation(r, rows):
    """Return the two-sided p-values of correlations of rows, one of them normal, by Student's t."""
    beyond = _float64(np.clip(1.0 - np.square(r), 0.0, 1.0))
    return np.asarray(tf.math.betainc(_float64(rows / 2.0 - 1.0), _float64(0.5), beyond))


def binomial(successes, trials, probability):
    """Return the two-sided p-value of a number of successes: twice that of its side."""

    def at_least(k):
        if k <= 0:
            return 1.0
        return float(tf.math.betainc(_float64(k), _float64(trials - k + 1), _float64(probability)))

    # An effective number of trials need not be whole.
    sides = at_least(successes), 1.0 - at_least(successes + 1.0)
    return min(1.0, 2.0 * max(0.0, min(sides)))


def distances_from_uniform(u):
    """Return the Kolmogorov-Smirnov distances of columns from the uniform distribution."""
    rows = len(u)
    steps = np.arange(rows + 1)[:, None] / rows
    u = np.sort(u, axis=0)
    return np.maximum(steps[1:] - u, u - steps[:-1]).max(axis=0)


def kolmogorov(distances, rows):
    """Return p-values of Kolmogorov-Smirnov distances, by the series with Stephens's correction."""
    t = np.asarray(distances) * (math.sqrt(rows) + 0.12 + 0.11 / math.sqrt(rows))
    k = np.arange(1, 101)
    series = 2.0 * np.sum((-1.0) ** (k - 1) * np.exp(-2.0 * np.square(k * t[..., None])), axis=-1)
    # Below, the series needs more terms, and the p-value is 1 to seven digits.
    return np.where(t < 0.25, 1.0, np.clip(series, 0.0, 1.0))


def critical_distance(alpha, rows):
    """Return the Kolmogorov-Smirnov distance of p-value alpha, by the first term of the series."""
    root = math.sqrt(rows)
    return math.sqrt(-0.5 * math.log(alpha / 2.0)) / (root + 0.12 + 0.11 / root)


def holm(p_values):
    """Return p-values that hold for all tests at once, by Holm's correction."""
    p_values = np.asarray(p_values, "float64")
    flat = p_values.ravel()
    order = np.argsort(flat)
    adjusted = np.maximum.accumulate(flat[order] * np.arange(flat.size, 0, -1))
    result = np.empty_like(flat)
    result[order] = np.minimum(adjusted, 1.0)
    return result.reshape(p_values.shape)
