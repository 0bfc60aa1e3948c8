"""The layout in which networks and maps compute: components first, then the batch."""

import contextlib
import contextvars
import functools

import tensorflow as tf
from keras import ops
from tensorflow.python.eager import forwardprop_util

__all__ = [
    "batch_size",
    "by_parameter",
    "depth_to_space",
    "differentiable_once",
    "feature_major",
    "fill_lines",
    "flat_batch",
    "has_accelerator",
    "is_portable",
    "portable_operations",
    "refuse_forward_mode",
    "saturate",
    "space_to_depth",
    "take_rows",
    "update_rows",
]

# From this size on, a few more events cost less than rows that cross cache lines.
_LARGE_BATCH = 256

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


def batch_size(values):
    """Return the number of columns of a matrix, as a tensor where it is unknown."""
    return values.shape[1] if values.shape[1] is not None else tf.shape(values)[1]


def by_parameter(values, count):
    """Arrange rows, those of the first parameter in front, as (count, rows, batch)."""
    if is_portable():
        # LiteRT has no reshape with a batch of unknown size next to other axes.
        return ops.stack(ops.split(values, count))
    return tf.reshape(values, (count, values.shape[0] // count, batch_size(values)))


def take_rows(values, row, count):
    """Return `count` rows of a matrix, from number `row` on."""
    return tf.slice(values, [row, 0], [count, batch_size(values)])


def update_rows(values, row, rows):
    """Return `values` with some rows, from number `row` on, replaced by `rows`."""
    if not is_portable():
        return ops.slice_update(values, (row, 0), rows)
    indices = row + tf.range(tf.shape(rows)[0])
    return tf.tensor_scatter_nd_update(values, indices[:, None], rows)


def fill_lines(values):
    """Repeat the last column so that rows of a large batch start at the bounds of cache lines."""
    batch = values.shape[1]
    missing = 0 if batch is None or batch < _LARGE_BATCH else -batch % 16
    return tf.concat([values, *[values[:, -1:]] * missing], axis=1) if missing else values


def refuse_forward_mode(what, tensors):
    """Raise an error if forward-mode derivatives, which would be wrong, follow the tensors."""
    # TensorFlow has no public way to ask for them.
    followed = forwardprop_util.pack_tangents(tensors)
    if followed.tangents:
        raise NotImplementedError(
            f"{what} has no derivatives in forward mode (tf.autodiff.ForwardAccumulator). Use a "
            "tf.GradientTape; `jacobian` and `batch_jacobian` of one give the same numbers."
        )


def differentiable_once(what, gradients, instead="the flow's other direction, which has all"):
    """Return the gradients; an error is raised where those of them are asked for.

    Args:
      what: what they are the gradients of.
      gradients: the gradients.
      instead: what has second derivatives.
    """

    @tf.custom_gradient
    def once(*gradients):
        def refuse(*upstream):
            raise NotImplementedError(
                f"{what} has first derivatives, but no second ones and none in forward mode. Use a "
                f"tf.GradientTape for the first, and for the second {instead}."
            )

        return [tf.identity(gradient) for gradient in gradients], refuse

    return once(*gradients)


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
    rows, restore = flat_batch(x, 1)
    return ops.transpose(rows), lambda value: restore(ops.transpose(value))


def flat_batch(x, event_ndims):
    """Return `x` with a single batch axis, and the function that leads back to its own."""
    if x.shape.rank == 1 + event_ndims:
        return x, lambda value: value
    batch_shape, static_shape = tf.shape(x)[:-event_ndims], x.shape[:-event_ndims]

    def restore(value):
        restored = tf.reshape(value, tf.concat([batch_shape, tf.shape(value)[1:]], axis=0))
        restored.set_shape(static_shape.concatenate(value.shape[1:]))
        return restored

    return tf.reshape(x, (-1, *x.shape[-event_ndims:])), restore


def depth_to_space(x, factor):
    """Turn channels of images `(..., height, width, channels)` into squares of pixels."""
    return _move(tf.nn.depth_to_space, x, factor)


def space_to_depth(x, factor):
    """Undo `depth_to_space`."""
    return _move(tf.nn.space_to_depth, x, factor)


def _move(operation, x, factor):
    if factor == 1:
        return x
    images, restore = flat_batch(x, 3)
    return restore(operation(images, factor))


@functools.cache
def has_accelerator():
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())
