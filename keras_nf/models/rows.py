"""What a model computes again and again, traced or compiled for few sizes of what it takes."""

import numpy as np
import tensorflow as tf

__all__ = ["Graphs"]

_SMALLEST = 16
_LARGEST_POWER = 1024
# Rows of numbers whose distance in memory is a large power of two share few places of a cache: a
# compiled density of 1,024 events takes a tenth longer than one of 1,056.
_BESIDE_POWER = 32


def traced_by_rank(function):
    """Return the function as graphs, at most two for each choice of ranks and dtypes.

    The first serves the shapes that it was traced for, the second all others: sizes that differed
    once are unknown in it.
    """
    graphs = {}

    def trace(arguments, specs):
        def of_tensors(*tensors):
            tensors = iter(tensors)
            parts = [None if part is None else next(tensors) for part in flat]
            return function(*tf.nest.pack_sequence_as(arguments, parts))

        flat = tf.nest.flatten(arguments)
        # Calls of a concrete function do not count as retracing, of which TensorFlow would warn.
        return tf.function(of_tensors, autograph=False).get_concrete_function(*specs)

    def call(*arguments):
        parts = tf.nest.map_structure(
            lambda part: None if part is None else tf.convert_to_tensor(part), arguments
        )
        tensors = [part for part in tf.nest.flatten(parts) if part is not None]
        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
        is_given = [part is not None for part in tf.nest.flatten(parts)]
        key = (*is_given, *((spec.shape.rank, spec.dtype) for spec in specs))
        known = graphs.setdefault(key, [])
        for own, graph in known:
            if all(a.is_compatible_with(b) for a, b in zip(own, specs)):
                return graph(*tensors)
        if known:
            specs = [a.most_specific_common_supertype([b]) for a, b in zip(known[-1][0], specs)]
        graph = trace(parts, specs)
        del known[1:]
        known.append((specs, graph))
        return graph(*tensors)

    return call


def round_up(rows):
    """Return the number of rows to compute with: one of seven up to 1,056, then of eight an octave.

    A compiled program takes megabytes and a second or more, for as long as the process lives.
    """
    power = max(1 << (rows - 1).bit_length(), _SMALLEST)
    if power < _LARGEST_POWER:
        return power
    step = power // 16 if power > _LARGEST_POWER else power
    return -(-rows // step) * step + _BESIDE_POWER


class CompiledRows:
    """A function of rows, computed for a number of rows that was perhaps compiled before.

    The last row is repeated, up to one of few numbers, and what comes of the repetitions is left
    out. A batch of unknown size is computed without compiling.

    Args:
      function: takes x, of shape `(rows, *event_shape)`, and a condition, of shape `(rows,
        condition_size)`, or no condition; returns events, perhaps of another shape.
      jit_compile: whether XLA may compile it.
      event_ndims: number of axes of an event.
    """

    def __init__(self, function, jit_compile, event_ndims=1):
        self._function, self._jit_compile = function, jit_compile
        self._event_ndims = event_ndims
        self._compiled = {}

    def __call__(self, x, condition=None):
        batch_shape = x.shape[: -self._event_ndims]
        rows = batch_shape.num_elements()
        if not rows:
            return self._function(x, condition)
        parts = [tf.reshape(x, (rows, *x.shape[-self._event_ndims :]))]
        if condition is not None:
            condition = tf.broadcast_to(condition, (*batch_shape, condition.shape[-1]))
            parts.append(tf.reshape(condition, (rows, condition.shape[-1])))
        size = round_up(rows)
        if size > rows:
            repeated = np.minimum(np.arange(size), rows - 1)
            parts = [tf.gather(part, repeated) for part in parts]
        key = size, len(parts)
        if key not in self._compiled:
            graph = tf.function(
                lambda *parts: self._function(*parts),
                jit_compile=self._jit_compile,
                autograph=False,
            )
            self._compiled[key] = graph.get_concrete_function(*parts)
        y = self._compiled[key](*parts)[:rows]
        return tf.reshape(y, (*batch_shape, *y.shape[1:]))


class Graphs:
    """Density and draws of a model; kept apart from it, for an export would take them along."""

    def __init__(self, model):
        self.log_prob = traced_by_rank(lambda inputs: model(inputs))
        # Outside of XLA, whose generators are many times slower on a CPU.
        self.draw = traced_by_rank(
            lambda n, seed, c: model.distribution.sample_base(n, seed, condition=c)
        )
        jit_compile = all(layer.supports_jit for layer in model._flatten_layers())
        self.forward = CompiledRows(
            lambda z, c=None: model.flow.forward(z, condition=c),
            jit_compile,
            model.flow.event_ndims,
        )
