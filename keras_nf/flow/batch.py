"""The batch axes of events, conditions and log-determinants."""

import numpy as np
import tensorflow as tf
from keras import ops

__all__ = [
    "KnownLogDet",
    "at_each_position",
    "broadcast_batch",
    "mark_unreached",
    "sum_extra_axes",
    "with_known_sizes",
]


def with_known_sizes(x, event_shape):
    """Pin unknown axes of an event to their sizes, for a value of another would broadcast."""
    ndims = len(event_shape)
    if x.shape.rank is None or x.shape[-ndims:].is_fully_defined():
        return x
    return tf.ensure_shape(x, (*x.shape[:-ndims], *event_shape))


def broadcast_batch(x, event_shape, condition, condition_size):
    """Broadcast the batch axes of events and of their condition against each other."""
    ndims = len(event_shape)
    known, other = x.shape[:-ndims], condition.shape[:-1]
    if known.is_fully_defined() and known == other:
        return x, condition
    static_shape = tf.broadcast_static_shape(known, other)
    batch_shape, other_shape = tf.shape(x)[:-ndims], tf.shape(condition)[:-1]
    if known.rank == other.rank and known.rank is not None:
        # ONNX has no operation for the general case.
        batch_shape = tf.where(tf.equal(batch_shape, 1), other_shape, batch_shape)
    else:
        batch_shape = tf.broadcast_dynamic_shape(batch_shape, other_shape)

    def broadcast(value, sizes):
        value = tf.broadcast_to(value, tf.concat([batch_shape, sizes], axis=0))
        value.set_shape(static_shape.concatenate(sizes))
        return value

    return broadcast(x, event_shape), broadcast(condition, [condition_size])


def at_each_position(condition, x, flow):
    """Return the condition of events for a flow that maps each position of them.

    Args:
      condition: condition of the batch shape of the events.
      x: the events.
      flow: the flow, which may have fewer event axes than they.
    """
    extra = x.shape.rank - flow.event_ndims - (condition.shape.rank - 1)
    if extra == 0:
        return condition
    size = condition.shape[-1]
    condition = condition[(..., *[None] * extra, slice(None))]
    shape = tf.concat([tf.shape(x)[: -flow.event_ndims], [size]], axis=0)
    spread = tf.broadcast_to(condition, shape)
    spread.set_shape(x.shape[: -flow.event_ndims].concatenate(size))
    return spread


def sum_extra_axes(log_det, count):
    """Sum a log-determinant over the last axes, positions of the events of a flow of fewer axes."""
    return tf.reduce_sum(log_det, axis=list(range(-count, 0))) if count else log_det


class KnownLogDet:
    """A bijector of which only the log-determinant at one point is asked, and known."""

    def __init__(self, log_det, event_ndims) -> None:
        self._log_det, self._event_ndims = log_det, event_ndims

    def forward_log_det_jacobian(self, x, event_ndims=1):
        return sum_extra_axes(self._log_det, event_ndims - self._event_ndims)


def mark_unreached(value, log_det):
    """Return a value that is infinite where a flow, by its log-determinant, does not reach."""
    axes = [None] * (value.shape.rank - log_det.shape.rank)
    return ops.where(log_det[(..., *axes)] == -np.inf, np.inf, value)
