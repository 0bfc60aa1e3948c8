"""The sequential direction of an autoregressive flow at the cost of about one pass through MADE.

A hidden unit of degree k depends on the first k components alone, so each unit has to be computed
once: a step computes the units of one degree from the components known so far, then the
parameters of the next component, then the component. The units of a layer are sorted by degree
and stored as (units, batch), so that a step reads contiguous rows of the weights and writes
contiguous rows of a buffer. Steps are grouped into blocks: products of whole blocks bring in all
earlier ones, and the steps of a block multiply the rows of their own block alone, which stay in
the cache. One loop body serves all blocks, and one all steps, so that compilation takes the same
time for events of any size.

The gradient has the same structure, in reverse order: the adjoint of a unit is known once those
of all units of higher degree are. Given those of all units, the gradient of a kernel is one
product of them with the activations. Nothing is stored per step.
"""

import itertools

import numpy as np
import tensorflow as tf
from keras import ops
from tensorflow.python.eager import record

from keras_nf.layout import update_rows
from keras_nf.permutation import invert_permutation, permute

# Rows of the widest layer in one block: wide enough for a fast product, low enough for the cache.
_BLOCK_ROWS = 128
# A block of its own is not worth it below; two loops, the first with half the rows, are.
_SINGLE_ROWS = 3 * _BLOCK_ROWS


class _Rows:
    """Arrangement of one layer's units in blocks of as many rows.

    A step covers `width` rows, as many as the most units of one degree. Where it has fewer, it
    covers rows of another step as well, which that step sets right before they are used, and
    `slack` rows before and after the units of a block make room for it.

    Attributes:
      width: rows that a step computes.
      height: rows of a block.
      count: rows of all blocks.
      positions: row of each unit.
      starts: first row of each step within its block, of shape (blocks, steps of a block), when
        steps run forwards.
      ends: the same when they run backwards.
      sizes: units of each step, of the same shape.
    """

    def __init__(self, counts, blocks):
        steps = -(-len(counts) // blocks)
        sizes = np.zeros((blocks, steps), int)
        sizes.ravel()[: len(counts)] = counts
        self.width, slack = int(counts.max()), int(counts.max() - counts.min())
        self.starts = slack + np.cumsum(sizes, axis=1) - sizes
        self.ends = self.starts + sizes - self.width
        self.sizes = sizes
        self.height = int(sizes.sum(axis=1).max()) + 2 * slack
        self.count = blocks * self.height
        first = (self.starts + self.height * np.arange(blocks)[:, None]).ravel()[: len(counts)]
        self.positions = np.concatenate([a + np.arange(n) for a, n in zip(first, counts)])

    def reach(self, steps):
        """Return how many rows of any block its first steps need."""
        return int(self.starts[:, :steps].max()) + self.width

    @property
    def uniform(self):
        return np.all(self.sizes == self.width)


class _Layout:
    """Static arrangement of MADE's layers.

    Step k computes the hidden units of degree k + lowest and then component k + lowest, in order.
    Without a condition, `lowest` is 1, and the first component depends on biases alone. Layers
    are counted from the components to the parameters.
    """

    def __init__(self, made):
        self.order, self.parameters = made._order, made.parameters
        self.lowest = 0 if made._condition_kernel is not None or len(self.order) == 1 else 1
        self.steps = len(self.order) - self.lowest
        ones = np.ones(self.steps, int)
        hidden = [np.bincount(d - self.lowest, minlength=self.steps) for d in made._degrees]
        widest = max([ones, *hidden], key=np.sum)
        rows = int(widest.sum())
        blocks = min(max(rows // _BLOCK_ROWS, 1), self.steps) if rows >= _SINGLE_ROWS else 1
        self.block_steps = -(-self.steps // blocks)
        # No block is empty.
        self.blocks = -(-self.steps // self.block_steps)
        parts = 2 if self.blocks == 1 and self.steps > 1 else 1
        self.parts = [self.block_steps * part // parts for part in range(parts + 1)]
        counts = [ones, *hidden, self.parameters * ones]
        self.layers = [_Rows(layer, self.blocks) for layer in counts]

    def rows(self, values, layer):
        """Arrange rows, one for each unit of a layer; padding is zero."""
        if layer == 0:
            values = permute(values, self.order)[self.lowest :]
        elif layer == len(self.layers) - 1:
            # From parameter by parameter to component by component.
            shape = (self.parameters, len(self.order), tf.shape(values)[1])
            values = permute(tf.transpose(tf.reshape(values, shape), (1, 0, 2)), self.order)
            values = tf.reshape(values[self.lowest :], (-1, shape[2]))
        return _spread(values, self.layers[layer].positions, self.layers[layer].count)

    def all_components(self, first, rows):
        """Return the rows of all components, from the first one's and those of the steps."""
        rows = rows[: self.steps]
        rows = rows if first is None else tf.concat([first, rows], axis=0)
        return permute(rows, invert_permutation(self.order))


def _spread(values, positions, count):
    """Put rows at their positions among `count` rows, of which the others are zero."""
    if len(positions) == count:
        return values
    sources = np.full(count, len(positions))
    sources[positions] = np.arange(len(positions))

    @tf.custom_gradient
    def spread(values):
        rows = tf.gather(tf.pad(values, [[0, 1], [0, 0]]), sources)
        return rows, lambda upstream: tf.gather(upstream, positions)

    return spread(values)


def _rows(values, start, count):
    """Return `count` rows of a matrix, from row `start`."""
    return tf.slice(values, [start, 0], [count, tf.shape(values)[1]])


def _row_product(kernel, start, count, values):
    """Return the product of `count` rows of a kernel, from row `start`.

    XLA would turn the product of a single row into a sum that is many times slower, hence two.
    """
    rows = tf.pad(_rows(kernel, start, count), [[0, max(2 - count, 0)], [0, 0]])
    return tf.matmul(rows, values)[:count]


def _batch_size(values):
    return values.shape[1] if values.shape[1] is not None else tf.shape(values)[1]


class _Solver:
    """Both loops for one MADE and one elementwise map, on matrices of shape (rows, batch)."""

    def __init__(self, made, elementwise):
        self.made = made
        self.elementwise = elementwise
        self.layout = _Layout(made)

    def solve(self, x, condition, weights):
        """Return y and the sum of log-derivatives, for x of shape (components, batch)."""
        layout, dtype = self.layout, self.made.compute_dtype
        first, log_det = self._first(x, weights)
        kernels, biases, _ = self._arrange(first, condition, weights)
        x_rows = layout.rows(x, 0)
        batch = _batch_size(x)
        heights = [layer.height for layer in layout.layers]
        tables = [tf.constant(layer.starts, tf.int32) for layer in layout.layers]
        dtypes = [x.dtype, *[dtype] * (len(kernels) - 1)]

        def block(s, log_det, *known):
            offsets = [_rows(bias, s * n, n) for bias, n in zip(biases, heights[1:])]
            offsets = self._add_products(offsets, kernels, known, s, 0, s)
            x_s = _rows(x_rows, s * layout.block_steps, layout.block_steps)
            buffers = [tf.zeros((0, batch), kind) for kind in dtypes]
            for start, end in itertools.pairwise(layout.parts):
                reach = [layer.reach(end) for layer in layout.layers]
                own = [
                    tf.slice(kernel, [s * n, s * m], shape)
                    for kernel, n, m, shape in zip(
                        kernels, heights[1:], heights[:-1], zip(reach[1:], reach[:-1])
                    )
                ]

                def step(t, log_det, *buffers, own=own):
                    below, hidden = ops.cast(buffers[0], dtype), []
                    for i, (kernel, offset) in enumerate(zip(own, offsets), start=1):
                        row, width = tables[i][s, t], layout.layers[i].width
                        pre = _row_product(kernel, row, width, below) + _rows(offset, row, width)
                        if i < len(own):
                            activated = self._of_step(self.made.activation(pre), i, s, t)
                            below = update_rows(buffers[i], row, activated)
                            hidden.append(below)
                    y, log_derivative = self._component(x_s[t], pre)
                    y = update_rows(buffers[0], t, y[None])
                    return (t + 1, log_det + log_derivative, y, *hidden)

                buffers = [
                    tf.pad(rows, [[0, n - rows.shape[0]], [0, 0]])
                    for rows, n in zip(buffers, reach)
                ]
                stop = tf.minimum(end, self._steps_of(s))
                _, log_det, *buffers = tf.while_loop(
                    lambda t, *state, stop=stop: t < stop, step, (start, log_det, *buffers)
                )
            known = [
                update_rows(rows, s * n, own_rows)
                for rows, n, own_rows in zip(known, heights, buffers)
            ]
            return s + 1, log_det, *known

        known = [tf.zeros((layer.count, batch), kind) for layer, kind in zip(layout.layers, dtypes)]
        _, log_det, *known = self._over_blocks(block, (0, log_det, *known))
        return layout.all_components(first, known[0]), log_det

    def gradients(self, x, y, upstream_y, upstream_log_det, condition, weights):
        """Return the gradients with respect to x, the condition, if any, and the weights."""
        # The tapes below see tensors of this graph alone, which may be that of a loop's gradient.
        x, y, condition, weights = tf.nest.map_structure(
            lambda value: None if value is None else tf.identity(value), (x, y, condition, weights)
        )
        layout, dtype = self.layout, self.made.compute_dtype
        sources = [*([] if condition is None else [condition]), *weights]
        with tf.GradientTape() as arrangement:
            arrangement.watch(sources)
            first = y[layout.order[0]][None] if layout.lowest == 1 else None
            kernels, biases, column = self._arrange(first, condition, weights)
        x_rows, y_rows = layout.rows(x, 0), layout.rows(y, 0)
        activations, slopes, raw = self._evaluate(y_rows, kernels, biases)
        stretch, tilt, direct, indirect = self._map_derivatives(x_rows, raw, upstream_log_det)
        upstream = layout.rows(upstream_y, 0)
        batch = _batch_size(x)
        heights = [layer.height for layer in layout.layers]
        widths = [layer.width for layer in layout.layers]
        tables = [tf.constant(layer.ends, tf.int32) for layer in layout.layers]
        transposed = [tf.transpose(kernel) for kernel in kernels]

        def block(s, total, *known):
            late = [tf.zeros((n, 1), dtype) for n in heights[:-1]]
            late = self._add_products(late, transposed, known, s, s + 1, layout.blocks)
            own = [
                tf.slice(kernel, [s * n, s * m], [n, m])
                for kernel, n, m in zip(transposed, heights[:-1], heights[1:])
            ]
            slopes_s = [_rows(a, s * n, n) for a, n in zip(slopes, heights[1:-1])]
            upstream_s = _rows(upstream, s * heights[0], heights[0])
            direct_s, indirect_s = (
                _rows(a, s * heights[-1], heights[-1]) for a in (direct, indirect)
            )

            def step(t, total, *buffers):
                starts = [table[s, t] for table in tables]

                def back(i, above):
                    product = _row_product(own[i], starts[i], widths[i], above)
                    return product + _rows(late[i], starts[i], widths[i])

                total_t = _rows(upstream_s, t, 1) + ops.cast(back(0, buffers[0]), x.dtype)
                parts = [_rows(a, starts[-1], widths[-1]) for a in (direct_s, indirect_s)]
                theta = ops.cast(parts[0] * total_t + parts[1], dtype)
                above = update_rows(buffers[-1], starts[-1], theta)
                updated = [above]
                for i in range(len(slopes), 0, -1):
                    bar = back(i, above) * _rows(slopes_s[i - 1], starts[i], widths[i])
                    bar = self._of_step(bar, i, s, t, backwards=True)
                    above = update_rows(buffers[i - 1], starts[i], bar)
                    updated.append(above)
                total = update_rows(total, s * heights[0] + t, total_t)
                return (t - 1, total, *updated[::-1])

            buffers = [tf.zeros((n, batch), dtype) for n in heights[1:]]
            _, total, *buffers = tf.while_loop(
                lambda t, *state: t >= 0, step, (self._steps_of(s) - 1, total, *buffers)
            )
            known = [
                update_rows(rows, s * n, own_rows)
                for rows, n, own_rows in zip(known, heights[1:], buffers)
            ]
            return s - 1, total, *known

        # The sums of all derivatives by y, and the adjoints of the layers above it.
        known = [tf.zeros((layer.count, batch), dtype) for layer in layout.layers[1:]]
        state = (layout.blocks - 1, tf.zeros_like(upstream), *known)
        _, total, *known = self._over_blocks(block, state)
        kernel_bars = [tf.matmul(bar, h, transpose_b=True) for bar, h in zip(known, activations)]
        bias_bars = [
            bar if bias.shape[1] != 1 else tf.reduce_sum(bar, axis=1, keepdims=True)
            for bar, bias in zip(known, biases)
        ]
        bars = arrangement.gradient(
            [*kernels, *biases],
            sources,
            output_gradients=[*kernel_bars, *bias_bars],
            unconnected_gradients="zero",
        )
        x_bar = total * stretch + tilt
        if layout.lowest == 0:
            return layout.all_components(None, x_bar), *bars
        # A product of a single row, which Grappler would fuse with the sum as if that were a bias.
        back = tf.reduce_sum(column * known[0], axis=0)
        total = upstream_y[layout.order[0]][None] + ops.cast(back, x.dtype)
        with tf.GradientTape() as tape:
            tape.watch([x, *sources])
            value, log_derivative = self._first(x, weights)
        first_x_bar, *first_bars = tape.gradient(
            [value, log_derivative],
            [x, *sources],
            output_gradients=[total, upstream_log_det],
            unconnected_gradients="zero",
        )
        x_bar = layout.all_components(tf.zeros_like(total), x_bar) + first_x_bar
        return x_bar, *[a + b for a, b in zip(bars, first_bars)]

    def _over_blocks(self, block, state):
        """Apply `block` from the first block to the last, or backwards, whichever comes first."""
        if self.layout.blocks == 1:
            return block(*state)
        return tf.while_loop(
            lambda s, *_: tf.logical_and(s >= 0, s < self.layout.blocks), block, state
        )

    def _steps_of(self, block):
        """Return the number of steps of a block; the last may have fewer."""
        return tf.minimum(
            self.layout.block_steps, self.layout.steps - block * self.layout.block_steps
        )

    def _of_step(self, rows, layer, block, step, backwards=False):
        """Set rows that belong to other steps to zero: they are incomplete, and may overflow."""
        layer = self.layout.layers[layer]
        if layer.uniform:
            return rows
        size = tf.constant(layer.sizes, tf.int32)[block, step]
        row = np.arange(layer.width)[:, None]
        return tf.where(row >= layer.width - size if backwards else row < size, rows, 0)

    def _add_products(self, sums, kernels, known, block, first, last):
        """Add the products of one block of rows of each kernel with known blocks of each layer.

        Args:
          sums: what to add to, of one block's rows each; a single column serves the whole batch.
          kernels: matrices of blocks.
          known: what to multiply, all blocks of rows.
          block: the block of rows.
          first: first of the known blocks.
          last: the one after the last of them.
        """
        if self.layout.blocks == 1:
            return sums
        heights = [total.shape[0] for total in sums]
        depths = [rows.shape[0] // self.layout.blocks for rows in known]
        sums = [total + tf.zeros((1, _batch_size(known[0])), total.dtype) for total in sums]

        def add(j, *sums):
            parts = [
                tf.matmul(
                    tf.slice(kernel, [block * n, j * m], [n, m]),
                    ops.cast(_rows(rows, j * m, m), kernel.dtype),
                )
                for kernel, rows, n, m in zip(kernels, known, heights, depths)
            ]
            return j + 1, *[total + part for total, part in zip(sums, parts)]

        return tf.while_loop(lambda j, *_: j < last, add, (first, *sums))[1:]

    def _arrange(self, first, condition, weights):
        """Return masked kernels as (rows out, rows in) and biases as (rows out, 1 or batch).

        `first` is the component before the first step, if there is one; the first layer's biases
        contain what it and the condition contribute. Its column of the first kernel comes third.
        """
        made, layout = self.made, self.layout
        depth, dtype = len(made._products), made.compute_dtype
        kernels, biases, column = [], [], None
        for i, product in enumerate(made._products):
            kernel = product.masked(ops.cast(weights[i], dtype))
            bias = layout.rows(ops.cast(weights[depth + i], dtype)[:, None], i + 1)
            if i == 0 and condition is not None:
                shift = tf.matmul(
                    ops.cast(weights[-1], dtype),
                    ops.cast(condition, dtype),
                    transpose_a=True,
                )
                bias = bias + layout.rows(shift, 1)
            if i == 0 and first is not None:
                column = layout.rows(kernel[layout.order[0]][:, None], 1)
                bias = bias + column * ops.cast(first, dtype)
            kernels.append(layout.rows(tf.transpose(layout.rows(kernel, i)), i + 1))
            biases.append(bias)
        return kernels, biases, column

    def _component(self, x, raw):
        """Apply the map to one component, with `parameters` rows of raw parameters."""
        y, log_derivative = self.elementwise.forward(x, *tf.unstack(ops.cast(raw, x.dtype)))
        return y, tf.zeros_like(y) if log_derivative is None else log_derivative

    def _first(self, x, weights):
        """Return the component before the first step, if any, and its log-derivative."""
        made, layout = self.made, self.layout
        if layout.lowest == 0:
            return None, tf.zeros_like(x[0])
        bias = tf.reshape(weights[2 * len(made._products) - 1], (made.parameters, -1))
        raw = ops.cast(bias[:, layout.order[0]], made.compute_dtype)
        y, log_derivative = self._component(
            x[layout.order[0]], raw[:, None] + tf.zeros((1, _batch_size(x)), raw.dtype)
        )
        return y[None], log_derivative

    def _evaluate(self, y, kernels, biases):
        """Return the inputs of each layer at the known result, their slopes, the raw parameters."""
        activations, slopes = [ops.cast(y, self.made.compute_dtype)], []
        for kernel, bias in zip(kernels[:-1], biases[:-1]):
            pre = tf.matmul(kernel, activations[-1]) + bias
            with tf.GradientTape() as tape:
                tape.watch(pre)
                activated = self.made.activation(pre)
            activations.append(activated)
            slopes.append(tape.gradient(activated, pre))
        return activations, slopes, tf.matmul(kernels[-1], activations[-1]) + biases[-1]

    def _map_derivatives(self, x, raw, upstream_log_det):
        """Derivatives of the values, and of the weighted log-derivatives, in x and parameters."""
        shape = tf.shape(raw)
        theta = tf.reshape(
            ops.cast(raw, x.dtype), (x.shape[0], self.made.parameters, _batch_size(x))
        )
        sources = [x, *tf.unstack(theta, axis=1)]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(sources)
            value, log_derivative = self.elementwise.forward(*sources)
        stretch, *direct = tape.gradient(value, sources, unconnected_gradients="zero")
        tilt, *indirect = [tf.zeros_like(x) for _ in sources]
        if log_derivative is not None:
            tilt, *indirect = tape.gradient(
                log_derivative,
                sources,
                output_gradients=tf.zeros_like(x) + upstream_log_det,
                unconnected_gradients="zero",
            )
        # Rows of (component, parameter), like those of the last kernel.
        direct, indirect = [tf.reshape(tf.stack(d, axis=1), shape) for d in (direct, indirect)]
        return stretch, tilt, direct, indirect


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
    solver = _Solver(made, elementwise)
    conditions = [] if condition is None else [condition]

    @tf.custom_gradient
    def solve(x, *arguments):
        condition = arguments[0] if conditions else None
        weights = arguments[len(conditions) :]
        # Under two tapes, TensorFlow would ask for the gradient of the loops, which is below.
        with record.stop_recording():
            y, log_det = solver.solve(x, condition, weights)

        def gradient(upstream_y, upstream_log_det):
            return solver.gradients(x, y, upstream_y, upstream_log_det, condition, weights)

        return (y, log_det), gradient

    return solve(x, *conditions, *made.weight_tensors())
