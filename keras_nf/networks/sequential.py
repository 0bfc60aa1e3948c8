"""The sequential direction of an autoregressive flow, at the cost of about one pass through MADE.

A hidden unit of degree k depends on the first k components alone. So the layers are stairs: with
units sorted by degree, step t computes those of degree t, layer by layer, then the parameters of
component t, then the component, on which the next step builds. What is not known yet is zero.

All steps share one loop body: each computes as many rows as the widest step has, gives zeros for
those that come too early, and the next step overwrites them. Blocks of steps, whose rows fit the
cache, share another: a block climbs on its own rows alone, then looks right and adds its products
to the sums of the blocks to come. So compilation takes as long for events of any size.

What ends a residual block adds its rows of two layers before, of units of the same degree.

The gradient is the same climb, of the stairs turned round: the adjoint of a unit is known once
those of all units of higher degree are. Given all, the gradient of a kernel is one product.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from keras import ops
from tensorflow.python.eager import record

from keras_nf.layout import (
    batch_size,
    by_parameter,
    differentiable_once,
    fill_lines,
    refuse_forward_mode,
    saturate,
    take_rows,
    update_rows,
)
from keras_nf.networks.autoregressive import SEQUENTIAL
from keras_nf.networks.stairs import Stairs


class _Stage(NamedTuple):
    """What every step does in one layer.

    Attributes:
      finish: function of the product, the step's rows of the stages before, by layer, and its rows
        of `data`; returns the step's rows of the result.
      data: matrices with a row for each of the layer.
      kernel: of shape (rows of this stage, rows of the one before); `None` for no product.
      give: function of the result and the step's rows of `data`; returns what the stage after
        multiplies.
    """

    finish: Callable
    data: Sequence
    kernel: Any = None
    give: Callable = lambda result, *_: result


def _climb(stairs, stages, kept, x):
    """Run the stages, one for each layer, in turn at each step.

    Returns the results of layer 0, in the dtype of `x`, and of the layers that are `kept`.
    """
    tables = stairs.windows, stairs.starts, stairs.counts
    windows, starts, counts = (tf.constant(table, tf.int32) for table in tables)
    batch, heights, below = batch_size(x), stairs.heights, 1 if stairs.turned else -1
    sources = {i: i + below for i, stage in stages.items() if stage.kernel is not None}

    def tile(i, window, other):
        """Return what links the rows of a block to what the same or another block gives."""
        size = [heights[i], heights[sources[i]]]
        return tf.slice(stages[i].kernel, [window[i], other[sources[i]]], size)

    def zeros(layers, dtype=stairs.dtype):
        rows = stairs.windows[-1] + stairs.missing
        return {i: tf.zeros((rows[i], batch), dtype) for i in layers}

    def climb_block(b, results, sums):
        window = tf.unstack(windows[b])
        given = {i: tf.zeros((0, batch), stairs.dtype) for i in sources.values()}
        parts = [0, -(-stairs.size // 2), stairs.size] if stairs.blocks == 1 else [0, stairs.size]
        for begin, end in itertools.pairwise(parts):
            # Rows that no step of this part can know yet are left out.
            reach = stairs.reach(end)
            own = {i: tile(i, window, window)[:, : reach[s]] for i, s in sources.items()}
            for i, rows in given.items():
                given[i] = tf.pad(rows, [[0, reach[i] - rows.shape[0]], [0, 0]])

            def step(t, results, given, own=own):
                start, count = (tf.unstack(a[b * stairs.size + t]) for a in (starts, counts))
                rows = {}
                for i, stage in stages.items():
                    place, width, product = window[i] + start[i], stairs.widths[i], None
                    if i in sources:
                        product = _product(take_rows(own[i], start[i], width), given[sources[i]])
                        product += take_rows(sums[i], place, width) if sums else 0
                    data = [take_rows(values, place, width) for values in stage.data]
                    rows[i] = stage.finish(product, rows, *data)
                    if i in results:
                        results[i] = update_rows(results[i], place, rows[i])
                    if i in given:
                        gift = stage.give(rows[i], *data)
                        if (stairs.counts[:, i] < width).any():
                            gift = _first_rows(gift, count[i])
                        given[i] = update_rows(given[i], start[i], gift)
                return results, given

            end = tf.minimum(end, stairs.steps - b * stairs.size)
            results, given = _repeat(step, begin, end, results, given)

        def look_right(j, sums):
            later, after = tf.unstack(windows[j]), tf.unstack(windows[j + 1])
            for i, total in sums.items():
                kernel = _first_rows(tile(i, later, window), after[i] - later[i])
                rows = take_rows(total, later[i], heights[i]) + _product(kernel, given[sources[i]])
                sums[i] = update_rows(total, later[i], rows)
            return (sums,)

        if sums:
            (sums,) = _repeat(look_right, b + 1, stairs.blocks, sums)
        return results, sums

    results = {**zeros(kept), **zeros([0], x.dtype)}
    if stairs.blocks == 1:
        results, _ = climb_block(0, results, {})
    else:
        results, _ = _repeat(climb_block, 0, stairs.blocks, results, zeros(sources))
    return {i: stairs.restore(rows, i) for i, rows in results.items()}


def _repeat(body, begin, end, *state):
    """Apply `body` to a counter, from `begin` to before `end`, and a state; return the state."""
    return tf.while_loop(
        lambda i, *_: i < end, lambda i, *state: (i + 1, *body(i, *state)), (begin, *state)
    )[1:]


def _first_rows(values, count):
    """Return a matrix with zeros in place of all but the first rows."""
    return tf.where(tf.range(values.shape[0])[:, None] < count, values, 0)


def _product(kernel, values):
    # XLA would turn the product of a single row into a sum that is many times slower, hence two.
    rows = kernel.shape[0]
    kernel = tf.pad(kernel, [[0, 1], [0, 0]]) if rows == 1 else kernel
    # Without a slice, also of all rows, LiteRT 2.3 gives wrong numbers: see tests/test_runtimes.py.
    return tf.matmul(kernel, values)[:rows]


def _map(elementwise, x, theta):
    """Return the values and log-derivatives of the map; `theta` has its parameters in turn."""
    return elementwise.forward(x, by_parameter(theta, elementwise.parameters))


def _solve(made, elementwise, keeps, x, weights, condition=None):
    """Return y and the outputs of the layers, of the last one alone if it keeps no others."""
    stairs, depth, stages = Stairs(made), len(made.steps) - 1, {}
    for i in range(depth):

        def finish(product, rows, bias, *gate, i=i):
            output = product + bias
            if i not in made.block_ends:
                return output
            # Layers of a block have units of equal degrees, so equal rows at each step.
            return made.add_block(output, *gate or [None], rows[i - 1])

        def give(output, *_, i=i):
            return made.feed(i, output)

        data = [made.layer_bias(i, condition, weights), made.gate(i, condition, weights)]
        data = [stairs.arrange(values, i + 1) for values in data if values is not None]
        stages[i + 1] = _Stage(finish, data, stairs.arrange_kernel(weights[i], i), give)
    stages[0] = _Stage(
        lambda _, rows, x: _map(elementwise, x, saturate(rows[depth], x.dtype))[0],
        [stairs.arrange(x, 0)],
        give=lambda y, _: saturate(y, stairs.dtype),
    )
    kept = range(1, depth + 1) if keeps else [depth]
    results = _climb(stairs, stages, kept, x)
    return results[0], [results[i] for i in kept]


def _within(values, dtype):
    """Return one where `saturate` leaves a value as it is, and zero where nothing depends on it."""
    with tf.GradientTape() as tape:
        tape.watch(values)
        saturated = saturate(values, dtype)
    return tape.gradient(saturated, values)


def _gradients(made, elementwise, x, y, outputs, upstream, of_log_det, weights, condition=None):
    """Return the gradients with respect to x, the weights and the condition, if there is one."""
    stairs, depth = Stairs(made, turned=True), len(made.steps) - 1
    is_narrow, seen = stairs.dtype == "float16", saturate(y, stairs.dtype)
    outputs = outputs if len(outputs) == depth else made.outputs(seen, condition, weights)
    theta = saturate(outputs[-1], x.dtype)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, theta, *outputs])
        value, log_derivative = _map(elementwise, x, theta)
        weighted = log_derivative * of_log_det
        hidden = [made.feed(i, output) for i, output in enumerate(outputs[:-1])]
    stretch, direct = tape.gradient(value, [x, theta], unconnected_gradients="zero")
    tilt, indirect = tape.gradient(weighted, [x, theta], unconnected_gradients="zero")
    kernels = [stairs.arrange_kernel(weights[i], i) for i in range(depth)]
    upstream = [stairs.arrange(upstream, 0)]
    if is_narrow:
        upstream.append(stairs.arrange(_within(y, stairs.dtype), 0))
        within = ops.cast(_within(outputs[-1], x.dtype), x.dtype)
        direct, indirect = direct * within, indirect * within
    derivatives = [stairs.arrange(rows, depth) for rows in (direct, indirect)]

    def add_upstream(product, _, bar, *factor):
        product = ops.cast(product, x.dtype)
        return bar + (product * factor[0] if is_narrow else product)

    stages = {
        0: _Stage(add_upstream, upstream, kernels[0]),
        depth: _Stage(lambda _, rows, a, b: ops.cast(a * rows[0] + b, stairs.dtype), derivatives),
    }
    for i in reversed(range(1, depth)):
        gate, is_kept = made.gate(i - 1, condition, weights), i + 1 in made.block_ends

        def finish(product, rows, slope, *others, i=i, is_kept=is_kept):
            bar = product * slope
            if not is_kept:
                return bar
            return bar + (rows[i + 2] * others[-1] if is_narrow else rows[i + 2])

        def give(bar, slope, *others, is_gated=gate is not None):
            return bar * others[0] if is_gated else bar

        data = [tape.gradient(hidden[i - 1], outputs[i - 1]), gate]
        if is_narrow and is_kept:
            data.append(_within(outputs[i - 1], stairs.dtype))
        data = [stairs.arrange(values, i) for values in data if values is not None]
        stages[i] = _Stage(finish, data, kernels[i], give)
    bars = _climb(stairs, stages, stages, x)
    total, *adjoints = (bars[i] for i in range(depth + 1))
    own = made.layer_gradients([seen, *hidden], adjoints, weights, condition)
    return total * stretch + tilt, *own


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
    keeps, batch = record.could_possibly_record(), batch_size(x)
    x, *conditions = [fill_lines(values) for values in (x, condition) if values is not None]

    @tf.custom_gradient
    def solve(x, *others):
        # Under two tapes, TensorFlow would ask for the gradient of the loops, which is below.
        with record.stop_recording():
            y, outputs = _solve(made, elementwise, keeps, x, *others)
            _, log_derivative = _map(elementwise, x, saturate(outputs[-1], x.dtype))

        def gradient(*upstream):
            # The tapes see tensors of this graph alone, which may be that of a loop's gradient.
            known = tf.nest.map_structure(tf.identity, (x, y, outputs, *upstream, *others))
            return differentiable_once(SEQUENTIAL, _gradients(made, elementwise, *known))

        return (y, tf.reduce_sum(log_derivative, axis=0)), gradient

    arguments = x, made.weight_tensors(), *conditions
    refuse_forward_mode(SEQUENTIAL, tf.nest.flatten(arguments))
    y, log_det = solve(*arguments)
    return y[:, :batch], log_det[:batch]
