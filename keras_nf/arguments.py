"""Checks of arguments that several classes and functions take."""

import numbers

__all__ = ["batch_shape", "check_count"]


def check_count(value, argument):
    """Return a number of things, which must be a whole one, and at least one."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"`{argument}` must be a positive integer. Received: {value!r}.")
    return int(value)


def batch_shape(event_shape):
    """Return how errors write the shape of a batch of events."""
    return f"(batch, {', '.join(map(str, event_shape))})"
