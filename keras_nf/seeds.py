"""Seeds: of configs, and of draws."""

import random

import numpy as np
import tensorflow as tf

__all__ = ["draw_seed", "two_seeds"]


def draw_seed():
    """Draw a seed to keep in a config; `keras.utils.set_random_seed` makes it reproducible."""
    return random.randint(0, 2**31 - 1)


def two_seeds(seed):
    """Return the seed as the pair of int32 that stateless random operations take.

    For `None`, each execution gets a pair of its own: in a graph, TensorFlow draws it, since what
    Python draws while a graph is traced would stay in it for ever.
    """
    if seed is None and tf.executing_eagerly():
        return tf.constant([draw_seed(), draw_seed()], tf.int32)
    if seed is None:
        return tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
    if hasattr(seed, "__index__") and np.ndim(seed) == 0:
        seed = int(seed)
        return tf.constant([(seed >> 31) & 0x7FFFFFFF, seed & 0x7FFFFFFF], tf.int32)
    seeds = tf.convert_to_tensor(seed)
    if seeds.shape != (2,) or not seeds.dtype.is_integer:
        raise ValueError(f"`seed` must be an integer, two of them, or None. Received: {seed!r}.")
    return tf.cast(seeds, tf.int32)
