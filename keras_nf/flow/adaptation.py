"""Data on their way through flows that adapt to them."""

import numpy as np
import tensorflow as tf

from keras_nf.flow.arguments import to_events

__all__ = ["events_of", "latents_of"]

# Rows that go through a flow at a time.
_ROWS = 1024


def events_of(data):
    """Return the data of what `fit` takes, without conditions and weights."""
    if isinstance(data, tf.data.Dataset):
        is_structured = isinstance(data.element_spec, (dict, tuple))
        return data.map(lambda *element: _split(element)[0]) if is_structured else data
    return data["x"] if isinstance(data, dict) else data


def latents_of(flow, data):
    """Return what a flow's inverse makes of data, in batches, with the conditions beside them."""
    if not isinstance(data, tf.data.Dataset):
        data = _in_batches(data)

    def inverse(*element):
        x, condition = _split(element)
        z = flow.inverse(to_events(flow, x), condition=condition)
        return z if condition is None else {"x": z, "condition": condition}

    for element in data.take(1):
        # Outside of the graph below, which would keep the weights.
        inverse(*(element if isinstance(element, tuple) else (element,)))
    return data.map(inverse)


def _split(element):
    """Return events and condition of an element of a dataset, which may go on with weights."""
    x = element[0]
    if isinstance(x, (tuple, list)):
        x = x[0]
    return (x["x"], x.get("condition")) if isinstance(x, dict) else (x, None)


def _in_batches(arrays):
    if not isinstance(arrays, dict):
        arrays = {"x": arrays}
    arrays = {name: tf.convert_to_tensor(np.asarray(part)) for name, part in arrays.items()}
    rows = len(arrays["x"])

    def batch(start):
        return {name: array[start : start + _ROWS] for name, array in arrays.items()}

    return tf.data.Dataset.range(0, rows, _ROWS).map(batch)
