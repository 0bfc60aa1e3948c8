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

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

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
        ends = np.cumsum(counts, axis=1).T
        first = ends - counts.T
        self.windows = first[:: self.size]
        self.starts = first - np.repeat(self.windows, self.size, axis=0)[: self.steps]
        self.widths = counts.max(axis=1)
        # Products of a single row are slow.
        self.widths[1:-1] = np.maximum(self.widths[1:-1], 2)
        self.heights = self.starts.max(axis=0) + self.widths
        self.rows = self.windows[-1] + self.heights
        owned = np.append(self.windows[1:], ends[-1:], axis=0) - self.windows
        self.own = [np.arange(n) < end[:, None] for n, end in zip(self.heights, owned.T)]

    def arrange(self, values, layer):
        """Arrange rows, one for each unit of a layer, by step."""
        rows = permute(values, self.orders[layer])
        rows = ops.flip(rows, axis=0) if self.turned else rows
        return tf.pad(rows, [[0, self.rows[layer] - len(self.orders[layer])], [0, 0]])

    def restore(self, rows, layer):
        """Undo `arrange`."""
        rows = rows[: len(self.orders[layer])]
        rows = ops.flip(rows, axis=0) if self.turned else rows
        return permute(rows, invert_permutation(self.orders[layer]))

    def arrange_kernel(self, kernel, layer, below):
        """Arrange a kernel of shape (units of the layer, units of the one that it takes)."""
        kernel = self.arrange(tf.transpose(kernel), below)
        return self.arrange(tf.transpose(kernel), layer)


@dataclasses.dataclass(eq=False)
class _Stage:
    """What each step does in one layer.

    Attributes:
      layer: the layer.
      dtype: that of the result.
      finish: function of a function that takes the step's rows from a matrix, of the product, or
        `None`, and of the result of the stage before; returns the result, the step's rows.
      kernel: what the results of stage `source` are multiplied with, if anything.
    """

    layer: int
    dtype: Any
    finish: Callable
    kernel: Any = None
    source: int | None = None


def _climb(stairs, stages, batch):
    """Run all stages, in their order, at each step; return the results of each, for all rows."""
    windows, starts = (tf.constant(a, tf.int32) for a in (stairs.windows, stairs.starts))
    linked = [stage for stage in stages if stage.kernel is not None]
    sources = [stages[stage.source] for stage in linked]

    def zeros(rows, some):
        return [tf.zeros((int(rows[stage.layer]), batch), stage.dtype) for stage in some]

    def tiles(window, other):
        """Cut what links the rows of one block to those of another, or the same, from kernels."""
        for stage, source in zip(linked, sources):
            size = [stairs.heights[stage.layer], stairs.heights[source.layer]]
            yield tf.slice(stage.kernel, [window[stage.layer], other[source.layer]], size)

    def climb_block(b, results, sums):
        window = tf.unstack(windows[b])
        own = list(tiles(window, window))
        buffers = zeros(0 * stairs.heights, sources)
        last = tf.minimum(stairs.size, stairs.steps - b * stairs.size)
        for begin, end in itertools.pairwise(stairs.parts):
            # Rows that no step of this part can know yet are left out.
            reach = stairs.starts[:end].max(axis=0) + stairs.widths if stairs.blocks == 1 else stairs.heights
            used = [kernel[:, : reach[source.layer]] for kernel, source in zip(own, sources)]
            buffers = [
                tf.pad(rows, [[0, reach[source.layer] - rows.shape[0]], [0, 0]])
                for rows, source in zip(buffers, sources)
            ]

            def step(t, results, buffers, used=used):
                results, buffers, result = list(results), list(buffers), None
                start = tf.unstack(starts[b * stairs.size + t])
                for s, stage in enumerate(stages):
                    first, width, product = start[stage.layer], stairs.widths[stage.layer], None
                    place = window[stage.layer] + first
                    if stage.kernel is not None:
                        i = linked.index(stage)
                        product = _product(_rows(used[i], first, width), buffers[i])
                        if sums:
                            product += _rows(sums[i], place, width)
                    result = stage.finish(lambda m, r=place, n=width: _rows(m, r, n), product, result)
                    results[s] = update_rows(results[s], place, result)
                    if stage in sources:
                        i = sources.index(stage)
                        buffers[i] = update_rows(buffers[i], first, result)
                return results, buffers

            results, buffers = _repeat(step, begin, tf.minimum(end, last), results, buffers)

        def look_right(j, sums):
            later, updated = tf.unstack(windows[j]), []
            for stage, source, tile, total, rows in zip(linked, sources, tiles(later, window), sums, buffers):
                own = tf.constant(stairs.own[stage.layer])[j][:, None] & tf.constant(stairs.own[source.layer])[b]
                product = _product(tf.where(own, tile, 0), rows)
                product += _rows(total, later[stage.layer], stairs.heights[stage.layer])
                updated.append(update_rows(total, later[stage.layer], product))
            return (updated,)

        if sums:
            (sums,) = _repeat(look_right, b + 1, stairs.blocks, sums)
        return results, sums

    results = zeros(stairs.rows, stages)
    if stairs.blocks == 1:
        return climb_block(0, results, [])[0]
    return _repeat(climb_block, 0, stairs.blocks, results, zeros(stairs.rows, linked))[0]


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


def _solve(made, elementwise, x, condition, weights):
    """Return y, and what each layer gives before its activation."""
    stairs, dtype, depth = _Stairs(made), made.compute_dtype, len(made.steps) - 1
    kernels, x = made.masked_kernels(weights), stairs.arrange(x, 0)
    stages = []
    for i in range(depth):
        kernel = stairs.arrange_kernel(tf.transpose(kernels[i]), i + 1, i)
        bias = stairs.arrange(made.layer_bias(i, condition, weights), i + 1)
        finish = lambda at, product, _, bias=bias: product + at(bias)
        # The first layer takes what the last stage gives.
        stages.append(_Stage(i + 1, dtype, finish, kernel, len(stages) - 1 if i else 2 * depth))
        if i < depth - 1:
            stages.append(_Stage(i + 1, dtype, lambda at, _, output: made.activate(output)))
    component = lambda at, _, theta: _map(elementwise, at(x), saturate(theta, x.dtype))[0]
    stages.append(_Stage(0, x.dtype, component))
    stages.append(_Stage(0, dtype, lambda at, _, y: saturate(y, dtype)))
    results = _climb(stairs, stages, _batch_size(x))
    outputs = [stairs.restore(results[2 * i], i + 1) for i in range(depth)]
    return stairs.restore(results[-2], 0), outputs


def _gradients(made, elementwise, x, y, outputs, upstream, upstream_log_det, condition, weights):
    """Return the gradients with respect to x, the condition, if any, and the weights."""
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
        stairs.arrange_kernel(kernel, i, i + 1)
        for i, kernel in enumerate(made.masked_kernels(weights))
    ]
    # The sums of all derivatives with respect to y, and those with respect to the outputs.
    total = lambda at, product, _: at(upstream) + ops.cast(product, x.dtype)
    raw = lambda at, _, total: ops.cast(at(direct) * total + at(indirect), dtype)
    stages = [_Stage(0, x.dtype, total, kernels[0], depth), _Stage(depth, dtype, raw)]
    for i in range(depth - 1, 0, -1):
        finish = lambda at, product, _, slope=slopes[i - 1]: product * at(slope)
        stages.append(_Stage(i, dtype, finish, kernels[i], len(stages) - 1))
    results = _climb(stairs, stages, _batch_size(x))
    total, *bars = [stairs.restore(r, stage.layer) for r, stage in zip(results, stages)]
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
    x, *conditions = [_fill(values) for values in (x, condition) if values is not None]

    @tf.custom_gradient
    def solve(x, *arguments):
        condition = arguments[0] if conditions else None
        weights = arguments[len(conditions) :]
        # Under two tapes, TensorFlow would ask for the gradient of the loops, which is below.
        with record.stop_recording():
            y, outputs = _solve(made, elementwise, x, condition, weights)
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
