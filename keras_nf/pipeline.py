"""Arrays as batches, for `fit`, `evaluate` and `predict`.

Keras makes such a pipeline, too, but with the autotuning of `tf.data`, for whose next round the end
of every epoch waits. Rounds come at intervals that double, so that epochs take up to twice as long.
"""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_nf.permutation import draw_seed


def count_rows(data: Any) -> int | None:
    """Return the number of rows of arrays, or `None` for anything that Keras should see itself."""
    arrays = [array for array in tf.nest.flatten(data) if array is not None]
    if not all(_is_array(array) for array in arrays):
        return None
    sizes = {len(array) for array in arrays}
    return sizes.pop() if len(sizes) == 1 else None


def _is_array(array):
    if isinstance(array, np.ndarray):
        return array.ndim > 0 and array.dtype.kind in "biuf"
    return tf.is_tensor(array) and hasattr(array, "numpy") and array.shape.rank > 0


def splits_rows(data: Any, fraction: float) -> bool:
    """Return whether the last `fraction` of the rows is some, but not all of them."""
    rows = count_rows(data)
    return rows is not None and 0 < math.floor(rows * (1.0 - fraction)) < rows


def split_rows(data: Any, fraction: float) -> tuple[Any, Any]:
    """Return the first rows and the last ones, of which there are `fraction`."""
    first = math.floor((count_rows(data) or 0) * (1.0 - fraction))

    def take(rows):
        return tf.nest.map_structure(lambda array: None if array is None else array[rows], data)

    return take(slice(first)), take(slice(first, None))


def make_batches(data: Any, batch_size: int, shuffle: bool) -> tf.data.Dataset:
    """Return the rows in batches, when shuffled in another order for each iteration.

    Places in the new order are computed one by one, so that an iteration begins without delay and
    holds nothing beside the arrays.
    """
    rows = count_rows(data) or 0
    with tf.device("CPU:0"):
        data = tf.nest.map_structure(_to_tensor, data)

    def batch(start, seed=None):
        chosen = tf.range(start, tf.minimum(start + batch_size, rows))
        if shuffle:
            # Not `tf.random.experimental.index_shuffle`, whose 4 rounds make batches too alike.
            chosen = tf.raw_ops.RandomIndexShuffle(
                index=chosen, seed=seed, max_index=rows - 1, rounds=8
            )
        return tf.nest.map_structure(lambda array: tf.gather(array, chosen), data)

    batches = tf.data.Dataset.range(0, rows, batch_size)
    count = len(batches)
    if shuffle:
        # Three numbers for each iteration, which repeat to its end.
        seeds = tf.data.Dataset.random(seed=draw_seed(), rerandomize_each_iteration=True)
        seeds = seeds.batch(3, drop_remainder=True).take(1)
        seeds = seeds.flat_map(lambda seed: tf.data.Dataset.from_tensors(seed).repeat())
        batches = tf.data.Dataset.zip((batches, seeds))
    options = tf.data.Options()
    options.autotune.enabled = False
    # They would write the arrays into a graph.
    options.experimental_optimization.apply_default_optimizations = False
    batches = batches.map(batch).apply(tf.data.experimental.assert_cardinality(count))
    return batches.prefetch(2).with_options(options)


def _to_tensor(array):
    tensor = tf.identity(array)
    # As Keras does it.
    return tf.cast(tensor, keras.config.floatx()) if tensor.dtype.is_floating else tensor
