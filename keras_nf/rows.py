"""Functions that are traced or compiled for few sizes of what they take."""

import numpy as np
import tensorflow as tf

__all__ = ["CompiledRows", "traced_by_rank"]

_SMALLEST = 16
_LARGEST_POWER = 1024


def traced_by_rank(function):
    """Return the function as a graph for each choice of ranks, whatever the sizes."""
    graphs = {}

    def call(*arguments):
        parts = tf.nest.flatten(arguments)
        ranks = tuple(None if part is None else np.ndim(part) for part in parts)
        if ranks not in graphs:
            # One graph for all would forget the rank.
            graphs[ranks] = tf.function(function, autograph=False, reduce_retracing=True)
        return graphs[ranks](*arguments)

    return call


def round_up(rows):
    """Return the number of rows to compute with: one of seven up to 1,024, then of eight an octave.

    A compiled program takes megabytes and a second or more, for as long as the process lives.
    """
    power = max(1 << (rows - 1).bit_length(), _SMALLEST)
    if power <= _LARGEST_POWER:
        return power
    step = power // 16
    return -(-rows // step) * step


class CompiledRows:
    """A function of rows, computed for a number of rows that was perhaps compiled before.

    The last row is repeated, up to one of few numbers, and what comes of the repetitions is left
    out. A batch of unknown size is computed without compiling.

    Args:
      function: takes x, of shape `(rows, size)`, and a condition, of shape `(rows,
        condition_size)`, or no condition; returns a tensor of the shape of x.
      jit_compile: whether XLA may compile it.
    """

    def __init__(self, function, jit_compile):
        self._function = function
        self._options = {"jit_compile": jit_compile, "autograph": False}
        # One for each size, or TensorFlow would warn of retracing.
        self._compiled = {}

    def __call__(self, x, condition=None):
        rows = x.shape[:-1].num_elements()
        if rows == 0:
            return x
        if rows is None:
            return self._function(x, condition)
        parts = [x]
        if condition is not None:
            parts.append(tf.broadcast_to(condition, (*x.shape[:-1], condition.shape[-1])))
        parts = [tf.reshape(part, (rows, part.shape[-1])) for part in parts]
        size = round_up(rows)
        if size > rows:
            repeated = np.minimum(np.arange(size), rows - 1)
            parts = [tf.gather(part, repeated) for part in parts]
        compiled = self._compiled.setdefault(size, tf.function(self._function, **self._options))
        return tf.reshape(compiled(*parts)[:rows], x.shape)
