"""Data on their way through flows that adapt to them."""

import numpy as np
import tensorflow as tf

from keras_nf.flow.arguments import to_events
from keras_nf.inputs import join_inputs, split_inputs

__all__ = ["events_of", "latents_of", "mapped"]

# Rows that go through a flow at a time.
_ROWS = 1024


def events_of(data):
    """Return the data of what `fit` takes, without conditions and weights."""
    if isinstance(data, tf.data.Dataset):
        is_structured = isinstance(data.element_spec, (dict, tuple))
        return data.map(lambda *element: _split(_as_one(element))[0]) if is_structured else data
    return _split(data)[0] if isinstance(data, dict) else data


def latents_of(flow, data):
    """Return what a flow's inverse makes of data, in batches, with the conditions beside them."""
    return mapped(data, lambda x, c: flow.inverse(to_events(flow, x), condition=c))


def mapped(data, function):
    """Return what a function of data and conditions gives, in batches, with the conditions."""
    if not isinstance(data, tf.data.Dataset):
        data = _in_batches(data)

    def of_element(*element):
        x, condition = _split(_as_one(element))
        return join_inputs(function(x, condition), condition)

    for element in data.take(1):
        # Outside of the graph below, which would keep the weights.
        of_element(*(element if isinstance(element, tuple) else (element,)))
    return data.map(of_element)


def _split(element):
    """Return events and condition of an element of a dataset, which may go on with weights."""
    return split_inputs(element[0] if isinstance(element, tuple) else element)


def _as_one(arguments):
    """Return an element of a dataset, whose tuples `map` hands on as several arguments."""
    return arguments if len(arguments) > 1 else arguments[0]


def _in_batches(arrays):
    if not isinstance(arrays, dict):
        arrays = {"x": arrays}
    arrays = {name: tf.convert_to_tensor(np.asarray(part)) for name, part in arrays.items()}
    rows = len(arrays["x"])

    def batch(start):
        return {name: array[start : start + _ROWS] for name, array in arrays.items()}

    return tf.data.Dataset.range(0, rows, _ROWS).map(batch)
