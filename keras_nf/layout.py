"""The layout in which networks and maps compute: components first, then the batch."""

import contextlib
import contextvars
import functools

import tensorflow as tf
from keras import ops
from tensorflow.python.eager import forwardprop_util

__all__ = [
    "feature_major",
    "has_accelerator",
    "is_portable",
    "portable_operations",
    "refuse_forward_mode",
    "saturate",
    "update_rows",
]

_portable = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable_operations():
    """Within this context, graphs get operations that other runtimes than XLA implement."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def is_portable():
    """Return whether graphs are for runtimes other than this one."""
    return _portable.get()


def update_rows(values, row, rows):
    """Return `values` with some rows, from number `row` on, replaced by `rows`."""
    if not is_portable():
        return ops.slice_update(values, (row, 0), rows)
    indices = row + tf.range(tf.shape(rows)[0])
    return tf.tensor_scatter_nd_update(values, indices[:, None], rows)


def refuse_forward_mode(what, tensors):
    """Raise an error if forward-mode derivatives, which would be wrong, follow the tensors."""
    # TensorFlow has no public way to ask for them.
    followed = forwardprop_util.pack_tangents(tensors)
    if followed.tangents:
        raise NotImplementedError(
            f"{what} has no derivatives in forward mode (tf.autodiff.ForwardAccumulator). Use a "
            "tf.GradientTape; `jacobian` and `batch_jacobian` of one give the same numbers."
        )


def saturate(x, dtype):
    """Cast what goes into a network or comes out, and keep it where sums do not overflow.

    Beyond are infinities, of which the next product makes NaN. The bound is 7,000 in float16, where
    large inputs meet it, and 1e30 and more in other dtypes, where only absurd ones do.
    """
    largest = min(float(tf.as_dtype(kind).max) for kind in (x.dtype, dtype))
    limit = largest**0.8
    return ops.cast(ops.clip(x, -limit, limit), dtype)


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


@functools.cache
def has_accelerator():
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())
