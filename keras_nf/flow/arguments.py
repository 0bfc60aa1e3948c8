"""Arguments and results of a flow: conversion and checks."""

import keras
import tensorflow as tf
from keras import ops

__all__ = [
    "check_components",
    "check_condition",
    "check_floating",
    "check_result",
    "check_sizes",
    "sizes_from",
    "title",
    "to_condition",
    "to_events",
]


def title(flow):
    """Return how errors call a flow."""
    return f"{type(flow).__name__} '{flow.name}'"


def check_components(flow, **ends):
    """Refuse tuples of one number per component that have another size than the event."""
    for name, end in ends.items():
        if isinstance(end, tuple) and len(end) != flow.event_size:
            raise ValueError(
                f"`{name}` of {title(flow)} has {len(end)} numbers, but the event has "
                f"{flow.event_size} components. Give one for each, or a single one for all."
            )


def to_events(flow, x, direction="inverse"):
    """Return what a direction of a flow takes as a tensor of the flow's dtype."""
    x = _to_tensor(flow, x, "inputs", "event_size")
    check_floating(flow, x, direction)
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


def check_floating(flow, value, direction="inverse"):
    """Refuse what has a dtype that is no float, but for integers as data of a flow of those."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return
    dtype = tf.as_dtype(dtype)
    is_integer = dtype.is_integer or dtype.is_bool
    if dtype.is_floating or (is_integer and direction == "inverse" and flow.takes_integers):
        return
    raise ValueError(
        f"{title(flow)} needs inputs of a floating-point dtype. Received: dtype {dtype.name}. Cast "
        "continuous values to float; dequantize discrete data, since counts have no density: put "
        "a keras_nf.Dequantize last in the chain."
    )


def _words(flow):
    """Return how errors write the shape of the inputs."""
    return "(..., event_size)" if flow.event_ndims == 1 else f"(..., {flow.event_ndims} event axes)"


def sizes_from(flow, inputs_shape, condition_shape):
    """Return the event shape and the size of the condition that a flow is built for."""
    shape = tuple(inputs_shape[-flow.event_ndims :])
    if len(shape) < flow.event_ndims or None in shape:
        raise ValueError(
            f"{title(flow)} needs inputs of shape {_words(flow)} with a known last axis. "
            f"Received: shape {tuple(inputs_shape)}. Add an axis for the event, also when it "
            "has a single component, and give its size."
        )
    known = flow.event_shape if flow.built else flow.declared_shape
    if known not in (None, shape):
        raise ValueError(
            f"{title(flow)} was made for events of size {flow.event_size}. Received: inputs of "
            f"shape {tuple(inputs_shape)}. Pass events of that size, or make a flow for these."
        )
    shape = tuple(map(int, shape))
    if not flow.uses_condition or condition_shape is None:
        return shape, flow.condition_size
    if len(condition_shape) == 0 or condition_shape[-1] is None:
        raise ValueError(
            f"{title(flow)} needs a condition of shape (..., condition_size) with a known "
            f"last axis. Received: shape {tuple(condition_shape)}. Add that axis, also when there "
            "is a single number for each event: condition[:, None]."
        )
    return shape, int(condition_shape[-1])


def check_sizes(flow, event_shape, shape, condition_shape):
    """Refuse shapes that a built flow is not for.

    Args:
      flow: the flow.
      event_shape: shape of the events that it takes.
      shape: `tf.TensorShape` of the inputs.
      condition_shape: `tf.TensorShape` of the condition, or `None`.
    """
    ndims = flow.event_ndims
    if shape.rank is not None and not (
        shape.rank >= ndims and shape[-ndims:].is_compatible_with(event_shape)
    ):
        expected = ", ".join(map(str, event_shape))
        raise ValueError(
            f"{title(flow)} was built for inputs of shape (..., {expected}). Received: "
            f"shape {tuple(shape)}. Pass events of that size, or make a new flow."
        )
    check_condition(flow, condition_shape)
    if not flow.uses_condition or condition_shape is None:
        return
    try:
        tf.broadcast_static_shape(shape[:-ndims], condition_shape[:-1])
    except ValueError:
        raise ValueError(
            f"{title(flow)} needs a condition whose leading axes broadcast against the batch. "
            f"Received: inputs of shape {tuple(shape)} and a condition of shape "
            f"{tuple(condition_shape)}. Pass one for each event, or a single one for all, of shape "
            f"({flow.condition_size},)."
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
            f"Received: shape {tuple(shape)}. Pass conditions of that size, each number in an axis "
            "of its own (condition[:, None]), or make a new flow."
        )


def check_result(flow, name, x, event_shape, result):
    """Return what a flow's own method returned, which must be a value and a log-determinant.

    Args:
      flow: the flow.
      name: name of the method.
      x: what it took.
      event_shape: shape of the events that it must return.
      result: what it returned.
    """
    wanted = f"{title(flow)} must return (value, log_det) from `{name}`, of the dtype and shape"
    if not (isinstance(result, (tuple, list)) and len(result) == 2):
        raise ValueError(f"{wanted} of its inputs and of their batch. Received: {result!r}.")
    batch_shape = x.shape[: -flow.event_ndims]
    shape = batch_shape.concatenate(event_shape)
    y, log_det = (tf.convert_to_tensor(part, dtype_hint=x.dtype) for part in result)
    if y.dtype != x.dtype or not _have_shape(y, shape):
        raise ValueError(
            f"{wanted} of its inputs, {x.dtype.name} {tuple(shape)}. Received: a value of "
            f"{y.dtype.name} {tuple(y.shape)}."
        )
    if log_det.dtype != x.dtype or not _have_shape(log_det, batch_shape):
        raise ValueError(
            f"{wanted} of its inputs and of their batch, {x.dtype.name} "
            f"{tuple(batch_shape)}. Received: a log-determinant of {log_det.dtype.name} "
            f"{tuple(log_det.shape)}. Sum log-derivatives over the event; give a constant "
            "the shape of the batch: ops.zeros_like(x[..., 0]) + constant."
        )
    return y, log_det


def _have_shape(tensor, shape):
    return tensor.shape.rank in (None, shape.rank) and tensor.shape.is_compatible_with(shape)
