"""The sequential direction of an autoregressive flow, at the cost of about one pass through MADE.

A hidden unit of degree k depends on the first k components alone. So the layers are stairs: with
units sorted by degree, step t computes the units of degree t in each layer, from the bottom to the
top, then the parameters of component t, then the component, on which the next step builds. Each
unit is computed once.

Steps are alike: each computes as many rows of a layer as the widest step has. Rows that it computes
too early, the next step overwrites; until then, the masked kernels are zero where they would count.
Steps come in blocks, whose rows fit the cache: a block first looks left, at what the rows of blocks
before it give to its own, then climbs. All blocks share one loop body, and all steps another, so
that compilation takes as long for events of any size.

The gradient is the same climb, of the stairs turned round, with kernels transposed: the adjoint of
a unit is known once those of all units of higher degree are.
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
_BLOCK_ROWS = 64
_SINGLE_ROWS = 192
_PARTS = 2
# From this size on, a few more events cost less than rows that cross cache lines.
_LARGE_BATCH = 256


class _Stairs:
    """Which rows of each layer a step computes, and a block of steps.

    Layer 0 are the components, the last one their parameters.

    Args:
      made: a built `MADE`.
      turned: whether the last component comes first.

    Attributes:
      steps: number of steps; `size` of them are a block, of which there are `blocks`.
      rows: rows of each layer; some at the end may belong to no unit.
      widths, heights: rows that a step and a block compute, for each layer.
      windows: first row of each block, of shape (blocks, layers).
      starts: first row of each step, counted from that of its block, of shape (steps, layers).
      own: for each layer, which of the rows that a block computes no later block does, of shape
        (blocks, height).
    """

    def __init__(self, made, turned=False):
        self.turned, self.steps = turned, made.steps[0].size
        self.orders = [np.argsort(steps, kind="stable") for steps in made.steps]
        counts = np.stack([np.bincount(steps, minlength=self.steps) for steps in made.steps])
        counts = counts[:, ::-1] if turned else counts
        widest = int(counts.sum(axis=1).max())
        blocks = min(max(widest // _BLOCK_ROWS, 1), self.steps) if widest >= _SINGLE_ROWS else 1
        self.size = -(-self.steps // blocks)
        # No block is empty.
        self.blocks = -(-self.steps // self.size)
        parts = min(_PARTS, self.steps) if self.blocks == 1 else 1
        self.parts = [self.size * part // parts for part in range(parts + 1)]
        self.counts = counts.T
        ends = np.cumsum(counts, axis=1).T
        first = ends - counts.T
        self.windows = first[:: self.size]
        self.starts = first - np.repeat(self.windows, self.size, axis=0)[: self.steps]
        self.widths = counts.max(axis=1)
        # Products of a single row are slow.
        self.widths[1:-1] = np.maximum(self.widths[1:-1], 2)
        self.heights = self.starts.max(axis=0) + self.widths
        self.missing = self.windows[-1] + self.heights - ends[-1]
        owned = np.append(self.windows[1:], ends[-1:], axis=0) - self.windows
        self.own = [np.arange(n) < end[:, None] for n, end in zip(self.heights, owned.T)]

    def sort(self, values, layer):
        """Sort rows, one for each unit of a layer, by step."""
        rows = permute(values, self.orders[layer])
        return ops.flip(rows, axis=0) if self.turned else rows

    def arrange(self, values, layer):
        """Sort rows, and add those of no unit, as zeros."""
        return tf.pad(self.sort(values, layer), [[0, self.missing[layer]], [0, 0]])

    def arrange_kernel(self, kernel, source, layer):
        """Arrange a kernel of shape (units that the layer takes, units of the layer)."""
        kernel = tf.transpose(self.sort(tf.transpose(self.sort(kernel, source)), layer))
        return tf.pad(kernel, [[0, self.missing[source]], [0, self.missing[layer]]])

    def restore(self, rows, layer):
        """Undo `arrange`."""
        rows = rows[: len(self.orders[layer])]
        rows = ops.flip(rows, axis=0) if self.turned else rows
        return permute(rows, invert_permutation(self.orders[layer]))


class _Stage(NamedTuple):
    """What each step does in one layer.

    Attributes:
      layer: the layer.
      dtype: that of the result.
      finish: function of a function that takes the step's rows from a matrix, of the product, or
        `None`, and of the result of the stage before; returns the result, the step's rows.
      kernel: what the results of stage `source` are multiplied with, if anything.
      kept: whether the results are asked for.
    """

    layer: int
    dtype: Any
    finish: Callable
    kernel: Any = None
    source: int | None = None
    kept: bool = True


def _climb(stairs, stages, batch):
    """Run all stages, in their order, at each step; return the results of those that are kept."""
    windows, starts, counts = (
        tf.constant(a, tf.int32) for a in (stairs.windows, stairs.starts, stairs.counts)
    )
    layers = [stage.layer for stage in stages]
    linked = [s for s, stage in enumerate(stages) if stage.kernel is not None]
    sources = [stages[s].source for s in linked]

    def zeros(rows, some):
        return {s: tf.zeros((rows[layers[s]], batch), stages[s].dtype) for s in some}

    def tile(s, source_window, window):
        """Cut what links the rows of one block to those of another, or the same, from a kernel."""
        layer, source = layers[s], layers[stages[s].source]
        start = [source_window[source], window[layer]]
        size = [stairs.heights[source], stairs.heights[layer]]
        return tf.transpose(tf.slice(stages[s].kernel, start, size))

    def climb_block(b, results, sums):
        window = tf.unstack(windows[b])
        kernels = {s: tile(s, window, window) for s in linked}
        buffers = zeros(0 * stairs.heights, sources)
        last = tf.minimum(stairs.size, stairs.steps - b * stairs.size)
        for begin, end in itertools.pairwise(stairs.parts):
            # Rows that no step of this part can know yet are left out.
            reach = stairs.heights
            if stairs.blocks == 1:
                reach = stairs.starts[:end].max(axis=0) + stairs.widths
            used = {s: kernels[s][:, : reach[layers[stages[s].source]]] for s in linked}
            buffers = {
                s: tf.pad(rows, [[0, reach[layers[s]] - rows.shape[0]], [0, 0]])
                for s, rows in buffers.items()
            }

            def step(t, results, buffers, used=used):
                results, buffers, result = dict(results), dict(buffers), None
                start, count = (tf.unstack(a[b * stairs.size + t]) for a in (starts, counts))
                for s, (layer, _, finish, kernel, source, kept) in enumerate(stages):
                    first, width, product = start[layer], stairs.widths[layer], None
                    place = window[layer] + first
                    if kernel is not None:
                        product = _product(_rows(used[s], first, width), buffers[source])
                        if sums:
                            product += _rows(sums[s], place, width)
                    result = finish(lambda m, r=place, n=width: _rows(m, r, n), product, result)
                    if (stairs.counts[:, layer] < width).any():
                        result = tf.where(tf.range(width, dtype=tf.int32)[:, None] < count[layer], result, 0)
                    if kept:
                        results[s] = update_rows(results[s], place, result)
                    if s in sources:
                        buffers[s] = update_rows(buffers[s], first, result)
                return results, buffers

            results, buffers = _repeat(step, begin, tf.minimum(end, last), results, buffers)

        def look_right(j, sums):
            later, updated = tf.unstack(windows[j]), {}
            for s in linked:
                place, height = later[layers[s]], stairs.heights[layers[s]]
                own = tf.constant(stairs.own[layers[s]])[j][:, None]
                product = _product(tf.where(own, tile(s, window, later), 0), buffers[stages[s].source])
                updated[s] = update_rows(sums[s], place, _rows(sums[s], place, height) + product)
            return (updated,)

        if sums:
            (sums,) = _repeat(look_right, b + 1, stairs.blocks, sums)
        return results, sums

    rows = stairs.missing + [len(order) for order in stairs.orders]
    results = zeros(rows, [s for s, stage in enumerate(stages) if stage.kept])
    if stairs.blocks == 1:
        return climb_block(0, results, {})[0]
    return _repeat(climb_block, 0, stairs.blocks, results, zeros(rows, linked))[0]


def _repeat(body, begin, end, *state):
    """Apply `body` to a counter, from `begin` to before `end`, and a state; return the state."""
    return tf.while_loop(
        lambda i, *_: i < end, lambda i, *state: (i + 1, *body(i, *state)), (begin, *state)
    )[1:]


def _rows(values, start, count):
    """Return `count` rows of a matrix, from row `start`."""
    return tf.slice(values, [start, 0], [count, _batch_size(values)])


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
    """Return the values and log-derivatives of the map, for parameters one after the other."""
    y, log_derivative = elementwise.forward(x, *tf.split(theta, elementwise.parameters))
    return y, tf.zeros_like(y) if log_derivative is None else log_derivative


def _solve(made, elementwise, x, condition, weights, keeps):
    """Return y, and what each layer gives before its activation, for the last one or all."""
    stairs, dtype, depth = _Stairs(made), made.compute_dtype, len(made.steps) - 1
    x, stages = stairs.arrange(x, 0), []
    for i in range(depth):
        kernel = stairs.arrange_kernel(ops.cast(weights[i], dtype), i, i + 1)
        bias = stairs.arrange(made.layer_bias(i, condition, weights), i + 1)
        finish = lambda at, product, _, bias=bias: product + at(bias)
        # The first layer takes what the last stage gives.
        source = len(stages) - 1 if i else 2 * depth
        stages.append(_Stage(i + 1, dtype, finish, kernel, source, keeps or i == depth - 1))
        if i < depth - 1:
            activation = lambda at, _, output: made.activate(output)
            stages.append(_Stage(i + 1, dtype, activation, kept=False))
    component = lambda at, _, theta: _map(elementwise, at(x), saturate(theta, x.dtype))[0]
    stages.append(_Stage(0, x.dtype, component))
    stages.append(_Stage(0, dtype, lambda at, _, y: saturate(y, dtype), kept=False))
    results = _climb(stairs, stages, _batch_size(x))
    *outputs, y = [stairs.restore(rows, stages[s].layer) for s, rows in sorted(results.items())]
    return y, outputs


def _gradients(made, elementwise, x, y, outputs, upstream, upstream_log_det, condition, weights):
    """Return the gradients with respect to x, the condition, if any, and the weights."""
    if len(outputs) < len(made.steps) - 1:
        outputs = made.outputs(y, condition, weights)
    theta = saturate(outputs[-1], x.dtype)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, theta, *outputs])
        value, log_derivative = _map(elementwise, x, theta)
        hidden = [made.activate(output) for output in outputs[:-1]]
    slopes = [tape.gradient(*pair) for pair in zip(hidden, outputs)]
    stretch, direct = tape.gradient(value, [x, theta], unconnected_gradients="zero")
    tilt, indirect = tape.gradient(
        log_derivative,
        [x, theta],
        output_gradients=tf.zeros_like(x) + upstream_log_det,
        unconnected_gradients="zero",
    )
    stairs, dtype, depth = _Stairs(made, turned=True), made.compute_dtype, len(outputs)
    upstream = stairs.arrange(upstream, 0)
    direct, indirect = (stairs.arrange(bar, depth) for bar in (direct, indirect))
    slopes = [stairs.arrange(slope, i) for i, slope in enumerate(slopes, start=1)]
    kernels = [
        stairs.arrange_kernel(tf.transpose(ops.cast(weights[i], dtype)), i + 1, i)
        for i in range(depth)
    ]
    # The sums of all derivatives with respect to y, and those with respect to the outputs.
    total = lambda at, product, _: at(upstream) + ops.cast(product, x.dtype)
    raw = lambda at, _, total: ops.cast(at(direct) * total + at(indirect), dtype)
    stages = [_Stage(0, x.dtype, total, kernels[0], depth), _Stage(depth, dtype, raw)]
    for i in range(depth - 1, 0, -1):
        finish = lambda at, product, _, slope=slopes[i - 1]: product * at(slope)
        stages.append(_Stage(i, dtype, finish, kernels[i], len(stages) - 1))
    results = _climb(stairs, stages, _batch_size(x))
    total, *bars = [stairs.restore(rows, stages[s].layer) for s, rows in sorted(results.items())]
    bars = made.layer_gradients([y, *hidden], condition, bars[::-1], weights)
    return total * stretch + tilt, *bars


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
    batch = _batch_size(x)
    # Without a tape in sight, a gradient has to evaluate the network again.
    keeps = record.could_possibly_record()
    x, *conditions = [_fill(values) for values in (x, condition) if values is not None]

    @tf.custom_gradient
    def solve(x, *arguments):
        condition = arguments[0] if conditions else None
        weights = arguments[len(conditions) :]
        # Under two tapes, TensorFlow would ask for the gradient of the loops, which is below.
        with record.stop_recording():
            y, outputs = _solve(made, elementwise, x, condition, weights, keeps)
            _, log_derivative = _map(elementwise, x, saturate(outputs[-1], x.dtype))

        def gradient(*upstream):
            # The tapes see tensors of this graph alone, which may be that of a loop's gradient.
            known = x, y, outputs, *upstream, condition, weights
            known = tf.nest.map_structure(lambda v: None if v is None else tf.identity(v), known)
            return _differentiable_once(*_gradients(made, elementwise, *known))

        return (y, tf.reduce_sum(log_derivative, axis=0)), gradient

    arguments = [x, *conditions, *made.weight_tensors()]
    refuse_forward_mode("The sequential direction of an autoregressive flow", arguments)
    y, log_det = solve(*arguments)
    return y[:, :batch], log_det[:batch]
