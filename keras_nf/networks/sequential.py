"""The sequential direction of an autoregressive flow, at the cost of about one pass through MADE.

A hidden unit of degree k depends on the first k components alone. So the layers are stairs: with
the units of each sorted by degree, step t computes those of degree t, layer by layer, then the
parameters of component t, then the component, on which the next step builds. What is not known yet
is zero.

All steps share one loop body: each computes as many rows of a layer as the widest step has, those
that come too early as zeros, which the next step overwrites. Blocks of steps, whose rows fit the
cache, share another: a block climbs on its own rows alone, then looks right and adds its products
to the sums of the blocks to come. So compilation takes as long for events of any size.

The gradient is the same climb of the stairs turned round: the adjoint of a unit is known once those
of all units of higher degree are. Given all, the gradient of a kernel is one product.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops
from tensorflow.python.eager import record

from keras_nf.layout import refuse_forward_mode, saturate, update_rows
from keras_nf.permutation import invert_permutation, permute

# Rows of the widest layer in one block: wide enough for a fast product, low enough for the cache.
_BLOCK_ROWS = 128
# From this size on, a few more events cost less than rows that cross cache lines.
_LARGE_BATCH = 256


class _Stairs:
    """Which rows a step computes, and a block of steps. Layer 0 are the components.

    Attributes:
      steps, blocks, size: number of steps, of blocks, and of the steps of a block.
      rows, heights, widths: number of rows of each layer, of a block in it, and of a step.
      counts: how many rows of a step are units of its own, of shape (steps, layers).
      windows: first row of each block, and after the last one, of shape (blocks + 1, layers).
      starts: first row of each step, counted from its block's, of shape (steps, layers).
    """

    def __init__(self, made, turned=False):
        orders = [np.argsort(steps, kind="stable") for steps in made.steps]
        counts = [np.bincount(steps) for steps in made.steps]
        self.steps = len(counts[0])
        counts = [np.pad(count, [0, self.steps - len(count)]) for count in counts]
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
        self.rows = self.windows[-2] + self.heights

    def reach(self, steps):
        """Return how many rows of any block its first steps compute."""
        return self.starts[np.arange(self.steps) % self.size < steps].max(axis=0) + self.widths

    def arrange(self, values, layer):
        """Sort rows, one for each unit of a layer, by step; rows of no unit follow, as zeros."""
        missing = self.rows[layer] - len(self.orders[layer])
        return tf.pad(permute(values, self.orders[layer]), [[0, missing], [0, 0]])

    def arrange_kernel(self, kernel, source, layer):
        """Arrange a kernel of shape (units of the source, units of the layer), transposed."""
        return self.arrange(tf.transpose(self.arrange(kernel, source)), layer)

    def restore(self, rows, layer):
        """Undo `arrange`."""
        order = self.orders[layer]
        return permute(rows[: len(order)], invert_permutation(order))


class _Stage(NamedTuple):
    """What every step does in one layer.

    Attributes:
      finish: function of the product, or `None`, of the result in the layer before, and of the
        step's rows of `data`; returns the result, the step's rows.
      data: matrices with a row for each of the layer.
      kernel: what is multiplied with what layer `source` gives, if anything.
      give: function of the result; returns what the layer gives to products.
    """

    finish: Callable
    data: tuple
    kernel: Any = None
    source: int | None = None
    give: Callable = tf.identity


def _climb(stairs, stages, kept, x, dtype):
    """Go through the stages, one for each layer, in their order, at each step.

    Returns the results of the layers that are `kept`: of the dtype of `x` for layer 0.
    """
    tables = stairs.windows, stairs.starts, stairs.counts
    windows, starts, counts = (tf.constant(table, tf.int32) for table in tables)
    sources = {i: stage.source for i, stage in stages.items() if stage.kernel is not None}
    batch, heights = _batch_size(x), stairs.heights

    def tile(i, window, other):
        """Return what links the rows of a block to what the same or another block gives."""
        kernel, source = stages[i].kernel, sources[i]
        return tf.slice(kernel, [window[i], other[source]], [heights[i], heights[source]])

    def climb_block(b, results, sums):
        window = tf.unstack(windows[b])
        own = {i: tile(i, window, window) for i in sources}
        given = {i: tf.zeros((0, batch), dtype) for i in sources.values()}
        parts = [0, -(-stairs.size // 2), stairs.size] if stairs.blocks == 1 else [0, stairs.size]
        for begin, end in itertools.pairwise(parts):
            # Rows that no step of this part can know yet are left out.
            reach = stairs.reach(end)
            kernels = {i: own[i][:, : reach[source]] for i, source in sources.items()}
            for i, rows in given.items():
                given[i] = tf.pad(rows, [[0, reach[i] - rows.shape[0]], [0, 0]])

            def step(t, results, given, kernels=kernels):
                results, given, result = {**results}, {**given}, None
                start, count = (
                    tf.unstack(table[b * stairs.size + t]) for table in (starts, counts)
                )
                for i, stage in stages.items():
                    place, width, product = window[i] + start[i], stairs.widths[i], None
                    if i in sources:
                        product = _product(_rows(kernels[i], start[i], width), given[sources[i]])
                        product += _rows(sums[i], place, width) if sums else 0
                    data = [_rows(values, place, width) for values in stage.data]
                    result = stage.finish(product, result, *data)
                    if i in results:
                        results[i] = update_rows(results[i], place, result)
                    if i in given:
                        rows = _first_rows(stage.give(result), count[i])
                        given[i] = update_rows(given[i], start[i], rows)
                return results, given

            end = tf.minimum(end, stairs.steps - b * stairs.size)
            results, given = _repeat(step, begin, end, results, given)

        def look_right(j, sums):
            later, after, updated = tf.unstack(windows[j]), tf.unstack(windows[j + 1]), {}
            for i, source in sources.items():
                kernel = _first_rows(tile(i, later, window), after[i] - later[i])
                total = _rows(sums[i], later[i], heights[i]) + _product(kernel, given[source])
                updated[i] = update_rows(sums[i], later[i], total)
            return (updated,)

        if sums:
            (sums,) = _repeat(look_right, b + 1, stairs.blocks, sums)
        return results, sums

    results = {i: tf.zeros((stairs.rows[i], batch), dtype if i > 0 else x.dtype) for i in kept}
    if stairs.blocks == 1:
        results, _ = climb_block(0, results, {})
    else:
        sums = {i: tf.zeros((stairs.rows[i], batch), dtype) for i in sources}
        results, _ = _repeat(climb_block, 0, stairs.blocks, results, sums)
    return {i: stairs.restore(rows, i) for i, rows in results.items()}


def _repeat(body, begin, end, *state):
    """Apply `body` to a counter, from `begin` to before `end`, and a state; return the state."""
    return tf.while_loop(
        lambda i, *_: i < end, lambda i, *state: (i + 1, *body(i, *state)), (begin, *state)
    )[1:]


def _rows(values, start, count):
    """Return `count` rows of a matrix, from row `start`."""
    return tf.slice(values, [start, 0], [count, _batch_size(values)])


def _first_rows(values, count):
    """Return a matrix with zeros in place of all but the first rows."""
    return tf.where(tf.range(values.shape[0])[:, None] < count, values, 0)


def _product(kernel, values):
    """Return the product of a kernel with values.

    XLA would turn the product of a single row into a sum that is many times slower, hence two.
    """
    rows = kernel.shape[0]
    kernel = tf.pad(kernel, [[0, 1], [0, 0]]) if rows == 1 else kernel
    # Without a slice, also of all rows, LiteRT 2.3 gives wrong numbers: see tests/test_runtimes.py.
    return tf.matmul(kernel, values)[:rows]


def _batch_size(values):
    return values.shape[1] if values.shape[1] is not None else tf.shape(values)[1]


def _fill(values):
    """Repeat the last column so that rows of a large batch start at the bounds of cache lines."""
    batch = values.shape[1]
    missing = 0 if batch is None or batch < _LARGE_BATCH else -batch % 16
    return tf.concat([values, *[values[:, -1:]] * missing], axis=1) if missing else values


def _map(elementwise, x, theta):
    """Return the values and log-derivatives of the map; `theta` has its parameters in turn."""
    theta = tf.split(saturate(theta, x.dtype), elementwise.parameters)
    y, log_derivative = elementwise.forward(x, *theta)
    return y, tf.zeros_like(y) if log_derivative is None else log_derivative


def _solve(made, elementwise, keeps, x, weights, condition=None):
    """Return y and the outputs of the layers, of the last one alone if it keeps no others."""
    stairs, dtype, depth = _Stairs(made), made.compute_dtype, len(made.steps) - 1
    stages = {}
    for i in range(depth):
        kernel = stairs.arrange_kernel(ops.cast(weights[i], dtype), i, i + 1)
        bias = stairs.arrange(made.layer_bias(i, condition, weights), i + 1)
        link = (bias,), kernel, i, made.activate
        stages[i + 1] = _Stage(lambda product, _, bias: product + bias, *link)
    stages[0] = _Stage(
        lambda _, theta, x: _map(elementwise, x, theta)[0],
        data=(stairs.arrange(x, 0),),
        give=lambda y: saturate(y, dtype),
    )
    kept = range(1, depth + 1) if keeps else [depth]
    results = _climb(stairs, stages, [0, *kept], x, dtype)
    return results[0], [results[i] for i in kept]


def _gradients(made, elementwise, x, y, outputs, upstream, of_log_det, weights, condition=None):
    """Return the gradients with respect to x, the weights and the condition, if there is one."""
    stairs, dtype, depth = _Stairs(made, turned=True), made.compute_dtype, len(made.steps) - 1
    if len(outputs) < depth:
        outputs = made.outputs(y, condition, weights)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, *outputs])
        value, log_derivative = _map(elementwise, x, outputs[-1])
        weighted = log_derivative * of_log_det
        hidden = [made.activate(output) for output in outputs[:-1]]
    stretch, direct = tape.gradient(value, [x, outputs[-1]], unconnected_gradients="zero")
    tilt, indirect = tape.gradient(weighted, [x, outputs[-1]], unconnected_gradients="zero")
    kernels = [tf.transpose(ops.cast(weights[i], dtype)) for i in range(depth)]
    kernels = [stairs.arrange_kernel(kernel, i + 1, i) for i, kernel in enumerate(kernels)]
    total = _Stage(
        lambda product, _, upstream: upstream + ops.cast(product, x.dtype),
        (stairs.arrange(upstream, 0),),
        kernels[0],
        source=1,
    )
    theta = _Stage(
        lambda _, total, direct, indirect: ops.cast(direct * total + indirect, dtype),
        (stairs.arrange(direct, depth), stairs.arrange(indirect, depth)),
    )
    stages = {0: total, depth: theta}
    for i in range(depth - 1, 0, -1):
        slope = stairs.arrange(tape.gradient(hidden[i - 1], outputs[i - 1]), i)
        link = (slope,), kernels[i], i + 1
        stages[i] = _Stage(lambda product, _, slope: product * slope, *link)
    bars = _climb(stairs, stages, range(depth + 1), x, dtype)
    adjoints = [bars[i + 1] for i in range(depth)]
    own = made.layer_gradients([y, *hidden], adjoints, weights, condition)
    return bars[0] * stretch + tilt, *own


@tf.custom_gradient
def _differentiable_once(*gradients):
    def refuse(*upstream):
        raise NotImplementedError(
            "The sequential direction of an autoregressive flow has first derivatives, but no "
            "second ones. Use the other direction, which has all: the inverse of a "
            "MaskedAutoregressive flow, the forward direction of an InverseAutoregressive one."
        )

    return [tf.identity(gradient) for gradient in gradients], refuse


def solve_sequentially(made, elementwise, x, condition=None):
    """Solve y_i = map(x_i; MADE_i(y_<i, condition)) for y.

    Args:
      made: a built `MADE`.
      elementwise: the map; see `keras_nf.elementwise`.
      x: tensor of shape `(event_size, batch)`.
      condition: `None`, or a tensor of shape `(condition_size, batch)`.

    Returns:
      y, of the shape of `x`, and the sum of the map's log-derivatives, of shape `(batch,)`.
    """
    # Without a tape in sight nothing is kept, and a gradient has to evaluate the network again.
    keeps, batch = record.could_possibly_record(), _batch_size(x)
    x, *conditions = [_fill(values) for values in (x, condition) if values is not None]

    @tf.custom_gradient
    def solve(*arguments):
        # Under two tapes, TensorFlow would ask for the gradient of the loops, which is below.
        with record.stop_recording():
            y, outputs = _solve(made, elementwise, keeps, *arguments)
            _, log_derivative = _map(elementwise, x, outputs[-1])

        def gradient(*upstream):
            # The tapes see tensors of this graph alone, which may be that of a loop's gradient.
            known = tf.nest.map_structure(tf.identity, (x, y, outputs, *upstream, *arguments[1:]))
            return _differentiable_once(*_gradients(made, elementwise, *known))

        return (y, tf.reduce_sum(log_derivative, axis=0)), gradient

    arguments = x, made.weight_tensors(), *conditions
    what = "The sequential direction of an autoregressive flow"
    refuse_forward_mode(what, tf.nest.flatten(arguments))
    y, log_det = solve(*arguments)
    return y[:, :batch], log_det[:batch]
