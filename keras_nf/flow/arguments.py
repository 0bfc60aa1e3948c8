"""Arguments and results of a flow: conversion, checks, one batch for x and its condition."""

import keras
import tensorflow as tf
from keras import ops

__all__ = [
    "broadcast_batch",
    "build_members",
    "check_condition",
    "check_dtypes",
    "check_floating",
    "check_result",
    "check_sizes",
    "sizes_from",
    "title",
    "to_condition",
    "to_events",
    "with_known_size",
]


def title(flow):
    """Return how errors call a flow."""
    return f"{type(flow).__name__} '{flow.name}'"


def to_events(flow, x):
    """Return what a flow maps as a tensor of its dtype."""
    x = _to_tensor(flow, x, "inputs", "event_size")
    check_floating(flow, x)
    return ops.cast(x, flow.variable_dtype)


def to_condition(flow, condition):
    """Return a condition as a tensor of the flow's dtype; numbers and booleans are cast."""
    condition = _to_tensor(flow, condition, "a condition", "condition_size")
    dtype = condition.dtype
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise ValueError(
            f"{title(flow)} needs a condition of numbers or booleans. Received: dtype "
            f"{dtype.name}. Encode categories as numbers, as one-hot vectors or by an embedding."
        )
    return ops.cast(condition, flow.variable_dtype)


def _to_tensor(flow, value, what, size_name):
    if isinstance(value, keras.KerasTensor):
        raise ValueError(
            f"{title(flow)} received a symbolic Keras tensor outside of `call`. Call the flow "
            "itself (`flow(x)` or `flow(x, return_log_det=True)`), or `keras_nf.Invert(flow)` "
            "for the inverse direction."
        )
    if isinstance(value, tf.SparseTensor):
        # What Keras takes a number times a symbolic tensor for.
        value = tf.ensure_shape(tf.sparse.to_dense(value), value.shape)
    try:
        value = tf.convert_to_tensor(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{title(flow)} needs {what} as one array or tensor. Received: {value!r}."
        ) from None
    if value.shape.rank == 0:
        raise ValueError(
            f"{title(flow)} needs {what} of shape (..., {size_name}). Received: a scalar. "
            "Add an axis for the event, also when it has a single component."
        )
    return value


def check_floating(flow, value):
    """Refuse integers, which TFP would convert, and what has another dtype that is no float."""
    dtype = getattr(value, "dtype", None)
    if dtype is not None and not tf.as_dtype(dtype).is_floating:
        raise ValueError(
            f"{title(flow)} needs inputs of a floating-point dtype. Received: dtype "
            f"{tf.as_dtype(dtype).name}. Cast continuous values to float; dequantize discrete "
            "data (add uniform noise), since counts have no density."
        )


def sizes_from(flow, inputs_shape, condition_shape):
    """Return the sizes of the events and of the condition that a flow is built for."""
    if len(inputs_shape) == 0 or inputs_shape[-1] is None:
        raise ValueError(
            f"{title(flow)} needs inputs of shape (..., event_size) with a known last axis. "
            f"Received: shape {tuple(inputs_shape)}. Add an axis for the event, also when it "
            "has a single component, and give its size."
        )
    if flow.event_size not in (None, inputs_shape[-1]):
        raise ValueError(
            f"{title(flow)} was made for events of size {flow.event_size}. Received: inputs of "
            f"shape {tuple(inputs_shape)}."
        )
    if not flow.uses_condition or condition_shape is None:
        return int(inputs_shape[-1]), flow.condition_size
    if len(condition_shape) == 0 or condition_shape[-1] is None:
        raise ValueError(
            f"{title(flow)} needs a condition of shape (..., condition_size) with a known "
            f"last axis. Received: shape {tuple(condition_shape)}."
        )
    return int(inputs_shape[-1]), int(condition_shape[-1])


def check_sizes(flow, shape, condition_shape):
    """Refuse shapes, `tf.TensorShape`s or `None`, that a built flow is not for."""
    if shape.rank is not None and shape[-1] not in (None, flow.event_size):
        raise ValueError(
            f"{title(flow)} was built for inputs of shape (..., {flow.event_size}). Received: "
            f"shape {tuple(shape)}. Pass events of that size, or make a new flow."
        )
    check_condition(flow, condition_shape)
    if not flow.uses_condition or condition_shape is None:
        return
    try:
        tf.broadcast_static_shape(shape[:-1], condition_shape[:-1])
    except ValueError:
        raise ValueError(
            f"{title(flow)} needs a condition whose leading axes broadcast against the batch. "
            f"Received: inputs of shape {tuple(shape)} and a condition of shape "
            f"{tuple(condition_shape)}."
        ) from None


def check_condition(flow, shape):
    """Refuse the shape of a condition, or none, that a built flow is not for."""
    if not flow.uses_condition:
        return
    if shape is None and flow.condition_size is not None:
        raise ValueError(
            f"{title(flow)} was built with a condition of size {flow.condition_size} and "
            "needs it in every call. Pass `condition=` with shape "
            f"(..., {flow.condition_size})."
        )
    if shape is not None and flow.condition_size is None:
        raise ValueError(
            f"{title(flow)} was built without a condition, but received one of shape "
            f"{tuple(shape)}. Leave it out, or make a new flow and pass the "
            "condition in its first call."
        )
    if shape is not None and shape.rank is not None and shape[-1] != flow.condition_size:
        raise ValueError(
            f"{title(flow)} was built for a condition of shape (..., {flow.condition_size}). "
            f"Received: shape {tuple(shape)}."
        )


def build_members(holder, flows, inputs_shape, condition_shape):
    """Build the flows that a flow holds; those that are built must be of the same sizes."""
    for flow in flows:
        if not flow.built:
            flow.build(inputs_shape, condition_shape)
    shape = tf.TensorShape([None, holder.event_size])
    size = holder.condition_size
    for flow in flows:
        check_sizes(flow, shape, None if size is None else tf.TensorShape([None, size]))


def check_dtypes(holder, flows):
    """Refuse flows of another dtype than that of the flow that is to hold them."""
    for flow in flows:
        if flow.variable_dtype != holder.variable_dtype:
            raise ValueError(
                f"A flow and those that it holds need the same dtype. {title(holder)} has "
                f"{holder.variable_dtype}, but {title(flow)} {flow.variable_dtype}. Pass dtype= "
                "to both."
            )


def with_known_size(flow, x):
    """Pin an unknown last axis to the event size, for a value of another would broadcast."""
    if x.shape.rank is None or x.shape[-1] is not None:
        return x
    return tf.ensure_shape(x, (*x.shape[:-1], flow.event_size))


def broadcast_batch(flow, x, condition):
    """Broadcast the leading axes of two tensors against each other."""
    if x.shape[:-1].is_fully_defined() and x.shape[:-1] == condition.shape[:-1]:
        return x, condition
    batch_shape, other = tf.shape(x)[:-1], tf.shape(condition)[:-1]
    if x.shape.rank == condition.shape.rank and x.shape.rank is not None:
        # ONNX has no operation for the general case.
        batch_shape = tf.where(tf.equal(batch_shape, 1), other, batch_shape)
    else:
        batch_shape = tf.broadcast_dynamic_shape(batch_shape, other)
    static_shape = tf.broadcast_static_shape(x.shape[:-1], condition.shape[:-1])

    def broadcast(value, size):
        value = tf.broadcast_to(value, tf.concat([batch_shape, [size]], axis=0))
        value.set_shape(static_shape.concatenate(size))
        return value

    return broadcast(x, flow.event_size), broadcast(condition, flow.condition_size)


def check_result(flow, name, x, result):
    """Return what a flow's own method returned, which must be a value and a log-determinant."""
    wanted = f"{title(flow)} must return (value, log_det) from `{name}`, of the dtype and shape"
    if not (isinstance(result, (tuple, list)) and len(result) == 2):
        raise ValueError(f"{wanted} of its inputs and of their batch. Received: {result!r}.")
    y, log_det = (tf.convert_to_tensor(part, dtype_hint=x.dtype) for part in result)
    if y.dtype != x.dtype or not _have_shape(y, x.shape):
        raise ValueError(
            f"{wanted} of its inputs, {x.dtype.name} {tuple(x.shape)}. Received: a value of "
            f"{y.dtype.name} {tuple(y.shape)}."
        )
    if log_det.dtype != x.dtype or not _have_shape(log_det, x.shape[:-1]):
        raise ValueError(
            f"{wanted} of its inputs and of their batch, {x.dtype.name} "
            f"{tuple(x.shape[:-1])}. Received: a log-determinant of {log_det.dtype.name} "
            f"{tuple(log_det.shape)}. Sum log-derivatives over the last axis; give a constant "
            "the shape of the batch: ops.zeros_like(x[..., 0]) + constant."
        )
    return y, log_det


def _have_shape(tensor, shape):
    return tensor.shape.rank in (None, shape.rank) and tensor.shape.is_compatible_with(shape)
