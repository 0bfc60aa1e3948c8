"""Batches of a model: what `fit`, `evaluate` and `predict` take, checked."""

from typing import Any

import tensorflow as tf

from keras_nf.arguments import batch_shape, check_count
from keras_nf.flow.arguments import check_floating, title, to_events
from keras_nf.inputs import join_inputs, split_inputs
from keras_nf.models.pipeline import as_arrays, count_rows, make_batches
from keras_nf.models.replicas import seed_of_all
from keras_nf.seeds import draw_seed

__all__ = ["specs_of", "to_arrays", "to_batches"]


def specs_of(data: Any) -> Any:
    """Return what one element of a dataset, or all arrays, are like; `None` if it is not known."""
    if not isinstance(data, tf.data.Dataset):
        return data
    spec = data.element_spec
    return spec[0] if isinstance(spec, tuple) and spec else spec


def _check_batch(flow, inputs):
    """Check the shapes of arrays or of a dataset; what Keras says of them later is no help."""
    x, condition = split_inputs(inputs)
    check_floating(flow, x)
    shape = getattr(x, "shape", None)
    if shape is None or tf.TensorShape(shape).rank is None:
        return
    ndims = flow.event_ndims
    if len(shape) < 1 + ndims:
        raise ValueError(
            f"Expected data of shape (batch, {'event_size' if ndims == 1 else '*event_shape'}). "
            "Received: shape "
            f"{tuple(shape)}. Batch a dataset; add an axis for the event to an array, also "
            "when it has a single component: x[:, None]."
        )
    if flow.built and not tf.TensorShape(shape)[-ndims:].is_compatible_with(flow.data_shape):
        raise ValueError(
            f"{title(flow)} was built for data of shape {batch_shape(flow.data_shape)}. "
            f"Received: shape {tuple(shape)}. Pass events of that size, or make a new flow."
        )
    for part in tf.nest.flatten(condition):
        rows = part.shape[0] if hasattr(part, "shape") and len(part.shape) else None
        if None not in (rows, shape[0]) and rows != shape[0]:
            raise ValueError(
                f"Expected a condition for each row of the data. Received: {shape[0]} rows in "
                f"'x' and {rows} in 'condition'."
            )


def to_arrays(model, inputs, sample_weight):
    """Return inputs and weights as tensors of the model's dtype, or `None` if not of arrays."""
    x, condition = split_inputs(inputs)
    if isinstance(x, (tf.RaggedTensor, tf.SparseTensor)):
        x = to_events(model.flow, x)
    x = as_arrays(x, model.variable_dtype)
    if condition is not None:
        # An encoder casts by itself.
        condition = as_arrays(condition, None if model.encoder else model.variable_dtype)
        x = None if condition is None else x
    if x is None:
        if sample_weight is not None:
            raise ValueError(
                "`sample_weight` goes beside arrays. Put the weights of a dataset into it, as "
                f"(x, w, w). Received: {type(inputs).__name__}."
            )
        return None
    weight = None if sample_weight is None else as_arrays(sample_weight, model.variable_dtype)
    arrays = join_inputs(x, condition), weight
    if count_rows(arrays) is None:
        _check_batch(model.flow, arrays[0])
        raise ValueError(
            f"Expected a sample weight for each row of the data. Received: {x.shape[0]} rows "
            f"and weights of shape {tuple(getattr(weight, 'shape', ()))}."
        )
    return arrays


def to_batches(model, inputs, sample_weight, batch_size, shuffle=False):
    """Return checked batches: a dataset of arrays, and anything else as it is."""
    if batch_size is None:
        # For what needs no gradient, and not a power of two, which suits caches less. An encoder's
        # inputs may be large.
        batch_size = 1000 if model.encoder is None else 32
    batch_size = check_count(batch_size, "batch_size")
    arrays = to_arrays(model, inputs, sample_weight)
    _check_batch(model.flow, specs_of(inputs) if arrays is None else arrays[0])
    if arrays is None:
        return inputs
    data = arrays[0] if arrays[1] is None else (arrays[0], arrays[1], arrays[1])
    seed = seed_of_all(draw_seed(), model.distribute_strategy) if shuffle else None
    return make_batches(data, batch_size, seed)
