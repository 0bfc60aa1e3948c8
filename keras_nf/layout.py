"""The layout in which networks and maps compute: components first, then the batch."""

import tensorflow as tf
from keras import ops

__all__ = ["feature_major"]


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
