"""The layout in which networks and maps compute: components first, then the batch."""

import contextlib
import contextvars

import tensorflow as tf
from keras import ops

__all__ = ["feature_major", "portable_operations", "update_rows"]

_portable = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable_operations():
    """Within this context, graphs get no operation that the XLA compiler alone implements."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def update_rows(values, row, rows):
    """Return `values` with some rows, from number `row` on, replaced by `rows`."""
    if not _portable.get():
        return ops.slice_update(values, (row, 0), rows)
    indices = row + tf.range(tf.shape(rows)[0])
    return tf.tensor_scatter_nd_update(values, indices[:, None], rows)


def feature_major(x):
    """Return `x`, of shape `(..., size)`, as (size, batch), and the function that leads back.

    In this layout the parts of an event and the parameters of a map are contiguous rows, whatever
    the size of the event, and products with a kernel and their gradients need no transposed copy
    of the batch. Compilers drop the transpositions between one flow and the next.

    The returned function takes (size, batch) to `(..., size)` and (batch,) to `(...)`.
    """
    if x.shape.rank == 2:
        return ops.transpose(x), ops.transpose
    batch_shape, static_shape = tf.shape(x)[:-1], x.shape[:-1]

    def restore(value):
        value = ops.transpose(value)
        restored = tf.reshape(value, tf.concat([batch_shape, tf.shape(value)[1:]], axis=0))
        restored.set_shape(static_shape.concatenate(value.shape[1:]))
        return restored

    return ops.transpose(tf.reshape(x, (-1, x.shape[-1]))), restore
