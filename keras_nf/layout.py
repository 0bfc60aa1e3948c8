"""The layout in which networks and maps compute: components first, then the batch."""

import contextlib
import contextvars
import functools
import os

import numpy as np
import tensorflow as tf
from keras import ops
from tensorflow.python.eager import forwardprop_util, record

__all__ = [
    "feature_major",
    "has_accelerator",
    "in_chunks",
    "is_portable",
    "portable_operations",
    "refuse_forward_mode",
    "saturate",
    "update_rows",
]

# Events that go through a flow at a time on a single core.
_CHUNK = 1000

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


@functools.cache
def _count_cores():
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    if threads == 0 and hasattr(os, "sched_getaffinity"):
        threads = len(os.sched_getaffinity(0))
    return threads or os.cpu_count() or 1


def _chunk_rows(rows):
    """Return how many rows of a batch of known size make a chunk, or `None` for no chunks."""
    if rows < 2 * _CHUNK or tf.executing_eagerly():
        return None
    # Several cores hold a batch in the caches of all, and share the work of small chunks badly.
    if has_accelerator() or _count_cores() > 1:
        return None
    # A gradient is no faster in chunks. TensorFlow has no public way to ask for a tape.
    if record.could_possibly_record():
        return None
    # Rows of values start at the bounds of cache lines.
    return -(-rows // round(rows / _CHUNK) // 16) * 16


def in_chunks(function, shapes, x, condition=None):
    """Return `function(x, condition)`, of a large batch chunk by chunk.

    On a single core the activations of a chunk stay in the cache, where those of a large batch
    would leave it between any two operations. Batches stay whole where a tape records.

    Args:
      function: function of each event alone.
      shapes: `tf.TensorShape`s of what it returns for one event.
      x: tensor of shape `(..., size)`. The batch is cut if its shape is known.
      condition: `None`, or a tensor of the batch shape of `x`.
    """
    batch_shape = x.shape[:-1]
    rows = batch_shape.num_elements()
    chunk = None if rows is None else _chunk_rows(rows)
    if chunk is None:
        return function(x, condition)
    # The last chunk starts early enough to be full, and only what is new of it counts.
    starts = np.minimum(np.arange(0, rows, chunk), rows - chunk)
    new = rows - chunk * (len(starts) - 1)

    def cut(values):
        columns = tf.transpose(tf.reshape(values, (rows, values.shape[-1])))
        return lambda start: tf.transpose(tf.slice(columns, [0, start], [columns.shape[0], chunk]))

    def join(values, shape):
        values = tf.concat(
            [tf.reshape(values[:-1], (-1, *shape)), values[-1, chunk - new :]], axis=0
        )
        return tf.reshape(values, batch_shape + shape)

    # XLA has no gradient of the loop to offer to a tape outside of the compiled function: such a
    # tape gets that of the whole batch.
    @tf.recompute_grad
    def evaluate(*parts):
        if record.could_possibly_record():
            return function(*parts)
        cuts = [cut(part) for part in parts]
        results = tf.map_fn(
            lambda start: function(*(part(start) for part in cuts)),
            tf.constant(starts, tf.int32),
            parallel_iterations=1,
            fn_output_signature=tf.nest.map_structure(
                lambda shape: tf.TensorSpec((chunk, *shape), x.dtype), shapes
            ),
        )
        return tf.nest.map_structure(join, results, shapes)

    return evaluate(*(part for part in (x, condition) if part is not None))
