"""Checks of arguments that several classes and functions take."""

import numbers

import numpy as np

__all__ = ["as_config", "batch_shape", "check_count", "check_level", "numbers_of"]


def check_count(value, argument):
    """Return a number of things, which must be a whole one, and at least one."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{argument}` must be a positive integer. Received: {value!r}.")
    return int(value)


def check_level(level):
    """Return a probability, which must be a number between 0 and 1, without the two."""
    if isinstance(level, bool) or not isinstance(level, numbers.Real) or not 0.0 < level < 1.0:
        raise ValueError(f"`level` must be a number between 0 and 1. Received: {level!r}.")
    return float(level)


def batch_shape(event_shape):
    """Return how errors write the shape of a batch of events."""
    return f"(batch, {', '.join(map(str, event_shape))})"


def numbers_of(value, argument):
    """Return a number, or one per component, as a float64 array of at most one axis."""
    try:
        array = np.asarray(value)
        is_valid = array.ndim <= 1 and array.size > 0 and array.dtype.kind in "iuf"
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError(
            f"`{argument}` must be a number, or a sequence with one number per component. "
            f"Received: {value!r}."
        )
    return array.astype("float64")


def as_config(array):
    """Return what `numbers_of` returned as it goes into a config: a number or a tuple."""
    return tuple(array.tolist()) if array.ndim else float(array)
