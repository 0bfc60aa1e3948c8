"""Data on their way through flows that adapt to them."""

import numpy as np
import tensorflow as tf

from keras_nf.flow.arguments import check_sizes, title, to_events
from keras_nf.inputs import join_inputs, split_inputs
from keras_nf.moments import check_dataset, mean_and_std
from keras_nf.training import adapting

__all__ = ["check_rows", "latents_of", "mapped", "moments_of"]

# Rows that go through a flow at a time.
_ROWS = 1024


def moments_of(flow, data):
    """Return mean and standard deviation of what `fit` takes, and build a flow for such data."""
    mean, std = mean_and_std(_events_of(data), flow.dtype)
    if not flow.built:
        flow.build((None, len(mean)))
    check_sizes(flow, flow.event_shape, tf.TensorShape((1, len(mean))), None)
    return mean, std


def _events_of(data):
    """Return the data of what `fit` takes, without conditions and weights."""
    if isinstance(data, tf.data.Dataset):
        is_structured = isinstance(data.element_spec, (dict, tuple))
        return data.map(lambda *element: _split(_as_one(element))[0]) if is_structured else data
    return _split(data)[0] if isinstance(data, dict) else data


def check_rows(flow, data):
    """Refuse data without an axis for rows, of which one event would be taken for many."""
    if isinstance(data, tf.data.Dataset):
        shape = getattr(_split(data.element_spec)[0], "shape", None)
    else:
        shape = np.shape(data["x"] if isinstance(data, dict) else data)
    shape = tf.TensorShape(shape)
    if shape.rank is not None and shape.rank <= flow.event_ndims:
        axes = "event_size" if flow.event_ndims == 1 else f"{flow.event_ndims} event axes"
        raise ValueError(
            f"{title(flow)} adapts to data of shape (rows, {axes}). Received: shape "
            f"{tuple(shape)}. Pass a batch, of events with all of their axes."
        )


def latents_of(flow, data):
    """Return what a flow's inverse makes of data, as arrays, with the conditions beside them."""
    return mapped(data, lambda x, c: flow.inverse(to_events(flow, x), condition=c))


def mapped(data, function):
    """Return what a function of data and conditions gives, as arrays, with the conditions.

    A dataset in their place would repeat, for each flow of a chain, what the flows after it do.
    """
    is_dataset = isinstance(data, tf.data.Dataset)
    if is_dataset:
        check_dataset(data)
    results = []
    for element in data if is_dataset else _in_batches(data):
        x, condition = _split(element)
        with adapting():
            results.append(join_inputs(function(x, condition), condition))
    if not results:
        # An error of the flow that is to adapt says so.
        return data
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *results)


def _split(element):
    """Return events and condition of an element of a dataset, which may go on with weights."""
    return split_inputs(element[0] if isinstance(element, tuple) else element)


def _as_one(arguments):
    """Return an element of a dataset, whose tuples `map` hands on as several arguments."""
    return arguments if len(arguments) > 1 else arguments[0]


def _in_batches(arrays):
    if not isinstance(arrays, dict):
        arrays = {"x": arrays}
    arrays = {name: np.asarray(part) for name, part in arrays.items()}
    for start in range(0, len(arrays["x"]), _ROWS):
        yield {name: array[start : start + _ROWS] for name, array in arrays.items()}
