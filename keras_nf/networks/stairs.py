"""The stairs of MADE: its units, sorted by the step of the sequential direction."""

import numpy as np
import tensorflow as tf
from keras import ops

from keras_nf.permutation import invert_permutation, permute

__all__ = ["Stairs"]

# Rows of the widest layer in one block: wide enough for a fast product, low enough for the cache.
_BLOCK_ROWS = 128


class Stairs:
    """Which rows a step computes, and a block of steps. Layer 0 are the components.

    Attributes:
      orders: the units of each layer, by step; `missing` rows without a unit follow.
      heights, widths: number of rows of a block, and of a step, in each layer.
      counts: how many rows of a step are its own, of shape (steps, layers).
      windows: first row of each block, and after the last one, of shape (blocks + 1, layers).
      starts: first row of each step, counted from its block's, of shape (steps, layers).
    """

    def __init__(self, made, turned=False):
        self.turned, self.dtype, self.steps = turned, made.compute_dtype, len(made.steps[0])
        orders = [np.argsort(steps, kind="stable") for steps in made.steps]
        counts = [np.bincount(steps, minlength=self.steps) for steps in made.steps]
        self.orders = [order[::-1] for order in orders] if turned else orders
        self.counts = np.stack(counts, axis=1)[:: -1 if turned else 1]
        ends = np.cumsum(self.counts, axis=0)
        blocks = max(min(int(ends[-1].max()) // _BLOCK_ROWS, self.steps), 1)
        self.size = -(-self.steps // blocks)
        # No block is empty.
        self.blocks = -(-self.steps // self.size)
        self.windows = np.append((ends - self.counts)[:: self.size], ends[-1:], axis=0)
        self.starts = ends - self.counts - self.windows[np.arange(self.steps) // self.size]
        self.widths = self.counts.max(axis=0)
        # Products of a single row are slow.
        self.widths[1:-1] = np.maximum(self.widths[1:-1], 2)
        self.heights = self.reach(self.size)
        self.missing = self.windows[-2] + self.heights - self.windows[-1]

    def reach(self, steps):
        """Return how many rows of any block its first steps compute."""
        return self.starts[np.arange(self.steps) % self.size < steps].max(axis=0) + self.widths

    def arrange(self, values, layer):
        """Sort rows, one for each unit of a layer, by step; rows of no unit follow, as zeros."""
        return tf.pad(permute(values, self.orders[layer]), [[0, self.missing[layer]], [0, 0]])

    def arrange_kernel(self, weight, layer):
        """Arrange the kernel between a layer and the next, with a row for each unit it leads to."""
        kernel = tf.transpose(permute(ops.cast(weight, self.dtype), self.orders[layer]))
        kernel = permute(kernel, self.orders[layer + 1])
        kernel = tf.pad(kernel, [[0, self.missing[i]] for i in (layer + 1, layer)])
        return tf.transpose(kernel) if self.turned else kernel

    def restore(self, rows, layer):
        """Undo `arrange`."""
        return permute(rows[: self.windows[-1][layer]], invert_permutation(self.orders[layer]))
