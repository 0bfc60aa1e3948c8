"""The base of a model: a name, or a function of the user's own."""

import tensorflow as tf
from tensorflow_probability import distributions as tfd

__all__ = ["BASES", "make_base", "numbers_of"]


def _normal(zeros):
    return tfd.Normal(zeros, tf.ones_like(zeros))


def _uniform(zeros):
    return tfd.Uniform(zeros, tf.ones_like(zeros))


def _logistic(zeros):
    return tfd.Logistic(zeros, tf.ones_like(zeros))


BASES = {"normal": _normal, "uniform": _uniform, "logistic": _logistic}


def make_base(base, flow):
    """Return the distribution of a name or a function, for the events of a flow.

    A function takes the event size, or where an event has several axes, its shape.

    Raises:
      ValueError: if the function returns something else, or something that ought to be trained.
    """
    shape, ndims = flow.event_shape, flow.event_ndims
    if not callable(base):
        return tfd.Independent(BASES[base](tf.zeros(shape, flow.dtype)), ndims)
    with tf.GradientTape() as tape:
        distribution = base(shape if ndims > 1 else flow.event_size)
    if not isinstance(distribution, tfd.Distribution) or distribution.event_shape[-ndims:] != shape:
        raise ValueError(
            f"The base function must return a tfd.Distribution with event shape {shape}, or "
            f"more axes before. Received: {distribution!r}."
        )
    variables = {v.name: None for v in (*distribution.variables, *tape.watched_variables())}
    if variables:
        raise ValueError(
            "The base function must return a distribution without variables: `fit` would not train "
            f"them, and files would lose them. Received: {distribution!r}, which depends on "
            f"{', '.join(variables)}. Give it numbers, and begin the chain with "
            "keras_nf.Scaling(use_shift=True), which trains a mean and a scale."
        )
    return distribution


def numbers_of(distribution):
    """Return the numbers that a distribution depends on, as bytes, where they are known."""
    numbers = []
    for value in tf.nest.flatten(distribution.parameters):
        if isinstance(value, tfd.Distribution):
            numbers.append(numbers_of(value))
        elif hasattr(value, "dtype") and hasattr(value, "__array__"):
            numbers.append(value.__array__().tobytes())
        elif isinstance(value, (bool, int, float)):
            numbers.append(repr(value).encode())
    return b",".join(numbers)
