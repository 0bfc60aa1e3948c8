"""Orders of the components of an event, and tensors put into such an order."""

import numpy as np
import tensorflow as tf
from keras import ops

from keras_nf.layout import is_portable


def check_permutation(permutation, argument):
    """Return the argument as it goes into a config: a known name, or a tuple of indices."""
    if isinstance(permutation, str):
        if permutation not in ("sequential", "reversed", "random"):
            raise ValueError(
                f"`{argument}` must be 'sequential', 'reversed', 'random' or a permutation of "
                f"range(event_size). Received: {permutation!r}."
            )
        return permutation
    indices = np.asarray(permutation)
    if (
        indices.ndim != 1
        or indices.dtype.kind not in "iu"
        or not np.array_equal(np.sort(indices), np.arange(indices.size))
    ):
        raise ValueError(
            f"`{argument}` must be a permutation of range(event_size): each index once. "
            f"Received: {permutation!r}."
        )
    return tuple(int(i) for i in indices)


def reverse(permutation):
    """Return a checked argument, which is not `"random"`, for the opposite order."""
    if isinstance(permutation, tuple):
        return permutation[::-1]
    return {"sequential": "reversed", "reversed": "sequential"}[permutation]


def resolve_permutation(permutation, size, seed, argument):
    """Turn a checked argument into an array of indices, for events of the given size."""
    if isinstance(permutation, tuple):
        if len(permutation) != size:
            raise ValueError(
                f"`{argument}` has {len(permutation)} entries, but the event has {size}. Give a "
                "permutation of range(event_size)."
            )
        return np.array(permutation)
    if permutation == "random":
        # The legacy generator's stream is frozen: files must load the same under any NumPy.
        return np.random.RandomState(seed).permutation(size)
    indices = np.arange(size)
    return indices if permutation == "sequential" else indices[::-1].copy()


def invert_permutation(indices):
    return np.argsort(indices)


def permute(x, indices):
    """Return the rows `x[indices]` for a permutation, with a gradient that is one as well.

    At most one axis of `x`, the batch, is of unknown size.
    """
    size = len(indices)
    if np.array_equal(indices, np.arange(size)):
        return x
    if np.array_equal(indices, np.arange(size)[::-1]):
        return ops.flip(x, axis=0)
    columns = max(int(indices[1]), 1)
    turned = size % columns == 0 and np.arange(size).reshape(-1, columns).T.ravel()
    # LiteRT has no reshape with a batch of unknown size next to other axes.
    if np.array_equal(indices, turned) and not is_portable():
        # Every so many rows, in turn. A compiler drops a transposition with the one that undoes it.
        rest = [-1 if length is None else length for length in x.shape[1:]]
        rows = tf.reshape(x, [size // columns, columns, *rest])
        axes = [1, 0, *range(2, rows.shape.rank)]
        return tf.reshape(tf.transpose(rows, axes), [size, *rest])
    inverse = invert_permutation(indices)

    @ops.custom_gradient
    def gather(x):
        def gradient(upstream):
            return permute(upstream, inverse)

        return tf.gather(x, indices), gradient

    return gather(x)
