"""Batches: what `fit`, `evaluate` and `predict` take, described once for arrays and datasets.

Keras makes pipelines of arrays, too, but rounds them to its default float, and has `tf.data` tune
them, for whose next round the end of every epoch waits: epochs take up to twice as long.
"""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def as_arrays(inputs: Any, dtype: Any = None) -> Any:
    """Return arrays, variables and tables as tensors, or `None` for what makes its own batches.

    Args:
      inputs: anything that `fit` takes.
      dtype: dtype of numbers with a fractional part; their own when `None`.
    """
    if isinstance(inputs, dict):
        arrays = {name: as_arrays(part, dtype) for name, part in inputs.items()}
        return None if any(part is None for part in arrays.values()) else arrays
    if isinstance(inputs, (list, tuple)):
        parts = [as_arrays(part, dtype) for part in inputs]
        return None if not parts or any(part is None for part in parts) else type(inputs)(parts)
    if isinstance(inputs, keras.Variable):
        inputs = inputs.value
    if not (tf.is_tensor(inputs) or hasattr(inputs, "__array__")):
        return None
    if isinstance(inputs, (tf.RaggedTensor, tf.SparseTensor)) or not tf.executing_eagerly():
        return None
    if not tf.is_tensor(inputs):
        inputs = np.asarray(inputs)
        if inputs.ndim == 0:
            return None
        if dtype is not None and inputs.dtype.kind == "f":
            # Before the copy to a tensor, of which there is then one.
            inputs = inputs.astype(tf.as_dtype(dtype).as_numpy_dtype, copy=False)
    with tf.device("CPU:0"):
        tensor = tf.identity(inputs)
        is_cast = dtype is not None and tensor.dtype.is_floating
        return tf.cast(tensor, dtype) if is_cast else tensor


def count_rows(data: Any) -> int | None:
    """Return the number of rows of tensors, or `None` if they differ in it."""
    sizes = {array.shape[0] for array in tf.nest.flatten(data) if array is not None}
    return sizes.pop() if len(sizes) == 1 else None


def split_rows(data: Any, fraction: float) -> tuple[Any, Any]:
    """Return the first rows and the last ones, of which there are `fraction`.

    Raises:
      ValueError: if either part would be empty.
    """
    rows = count_rows(data) or 0
    first = math.floor(rows * (1.0 - fraction))
    if not (0.0 < fraction < 1.0 and 0 < first < rows):
        raise ValueError(
            "`validation_split` must be a fraction between 0 and 1 that leaves rows to train with "
            f"and rows to validate with. Received: {fraction!r} of {rows} rows."
        )

    def take(rows):
        return tf.nest.map_structure(lambda array: None if array is None else array[rows], data)

    return take(slice(first)), take(slice(first, None))


def make_batches(data: Any, batch_size: int, seed: int | None = None) -> tf.data.Dataset:
    """Return the rows in batches, with a seed in another order for each iteration.

    Places in the new order are computed one by one, so that an iteration begins without delay and
    holds nothing beside the arrays.
    """
    rows = count_rows(data) or 0

    def batch(start, seeds=None):
        chosen = tf.range(start, tf.minimum(start + batch_size, rows))
        if seeds is not None:
            # Not `tf.random.experimental.index_shuffle`, whose 4 rounds make batches too alike.
            chosen = tf.raw_ops.RandomIndexShuffle(
                index=chosen, seed=seeds, max_index=rows - 1, rounds=8
            )
        return tf.nest.map_structure(lambda array: tf.gather(array, chosen), data)

    batches = tf.data.Dataset.range(0, rows, batch_size)
    count = len(batches)
    if seed is not None:
        # Three numbers for each iteration, which repeat to its end.
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
        seeds = seeds.batch(3, drop_remainder=True).take(1)
        seeds = seeds.flat_map(lambda three: tf.data.Dataset.from_tensors(three).repeat())
        batches = tf.data.Dataset.zip((batches, seeds))
    options = tf.data.Options()
    options.autotune.enabled = False
    # They would write the arrays into a graph.
    options.experimental_optimization.apply_default_optimizations = False
    policies = tf.data.experimental.AutoShardPolicy
    options.experimental_distribute.auto_shard_policy = policies.DATA
    batches = batches.map(batch).apply(tf.data.experimental.assert_cardinality(count))
    return batches.prefetch(2).with_options(options)
