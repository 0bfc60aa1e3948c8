"""The sequential direction of an autoregressive flow at the cost of about one pass through MADE.

A hidden unit of degree k depends on the first k components alone, so each unit has to be computed
once: a step computes the units of one degree from the components known so far, then the
parameters of the next component, then the component. The units of a layer are sorted by degree;
padded to groups of equal size, they let one loop body serve every step. Activations are stored as
(units, batch), so that a step reads contiguous rows of the weights and writes contiguous rows of
a buffer.

Steps come in blocks, as in blocked triangular solves: what a block needs of the units before it
is one matrix product; its steps add what they need of each other.

The gradient has the same structure, in reverse order: the adjoint of a component is known once
the adjoints of all units of higher degree are. Given those of all components, the gradients of
the weights are one ordinary backward pass at the known result. Nothing is stored per step.
"""

import itertools

import numpy as np
import tensorflow as tf
from keras import ops

_BLOCK = 8
_STAGES = 2


class _Layout:
    """Static arrangement of MADE's units: groups of rows, one group per step and layer.

    Step k computes the hidden units of degree k + lowest and then component k + lowest, in order.
    Without a condition, `lowest` is 1, and the first component depends on biases alone.

    Attributes:
      lowest: lowest degree of a hidden unit, the number of components before the first step.
      block: number of steps in a block.
      steps: number of steps, padded to whole blocks.
      widths: rows per step, for the components, each hidden layer and the parameters.
    """

    def __init__(self, made):
        self.order, self.parameters, self.degrees = made._order, made.parameters, made._degrees
        self.lowest = 0 if made._condition_kernel is not None or len(self.order) == 1 else 1
        steps = len(self.order) - self.lowest
        self.block = min(_BLOCK, max(steps, 1))
        self.steps = -(-steps // self.block) * self.block
        self.counts = [np.bincount(d - self.lowest, minlength=steps) for d in self.degrees]
        self.widths = [1, *[int(max(count)) for count in self.counts], self.parameters]

    def stages(self):
        """Ranges of blocks; in each, buffers hold no more rows than the range needs."""
        blocks = self.steps // self.block
        bounds = np.linspace(0, blocks, _STAGES + 1).astype(int).tolist()
        return [(start, end) for start, end in itertools.pairwise(bounds) if start < end]

    def components(self, values):
        """Rows of the components computed in steps, from a row for each component."""
        return _grow(_take(values, self.order)[self.lowest :], self.steps)

    def unordered(self, first, rows):
        """Rows of all components, from the first one's and those computed in steps."""
        rows = rows[: len(self.order) - self.lowest]
        rows = rows if first is None else tf.concat([first, rows], axis=0)
        return _take(rows, np.argsort(self.order))

    def parameter_rows(self, values):
        """Rows of the parameters computed in steps, a step's next to each other."""
        size, columns = len(self.order), tf.shape(values)[1]
        values = tf.transpose(tf.reshape(values, (self.parameters, size, columns)), (1, 0, 2))
        rows = _take(values, self.order)[self.lowest :]
        return _grow(tf.reshape(rows, (-1, columns)), self.steps * self.parameters)

    def hidden_rows(self, values, layer):
        """Rows of a hidden layer, each step's group padded with zeros to the widest."""
        counts, width = self.counts[layer], self.widths[layer + 1]
        if counts.min() < width - 1 or (np.diff(counts) > 0).any():
            groups = np.split(np.arange(counts.sum()), np.cumsum(counts)[:-1])
            rows = np.full((len(counts), width), counts.sum())
            for row, group in zip(rows, groups):
                row[: len(group)] = group
            values = tf.gather(_grow(values, counts.sum() + 1), rows.ravel())
        elif counts.min() < width:
            # Full groups come first. Padding is much cheaper than a gather.
            full = int((counts == width).sum()) * width
            columns = tf.shape(values)[1]
            short = tf.reshape(values[full:], (-1, width - 1, columns))
            short = tf.reshape(tf.pad(short, [[0, 0], [0, 1], [0, 0]]), (-1, columns))
            values = tf.concat([values[:full], short], axis=0)
        return _grow(values, self.steps * width)

    def rows(self, values, layer):
        """Rows of one layer, from a row for each unit: 0 stands for the components."""
        if layer == 0:
            return self.components(values)
        if layer <= len(self.counts):
            return self.hidden_rows(values, layer - 1)
        return self.parameter_rows(values)


def _take(values, rows):
    if np.array_equal(rows, np.arange(len(rows))):
        return values
    if np.array_equal(rows, np.arange(len(rows))[::-1]):
        return tf.reverse(values, [0])
    return tf.gather(values, rows)


def _rows(values, index, count):
    """Return `count` rows of a matrix, from row `index * count`."""
    return tf.slice(values, [index * count, 0], [count, tf.shape(values)[1]])


def _write(values, index, rows):
    return ops.slice_update(values, (index * rows.shape[0], 0), rows)


def _grow(values, height):
    if values.shape[0] == height:
        return values
    return tf.pad(values, [[0, height - values.shape[0]], [0, 0]])


class _Solver:
    """Both loops for one MADE and one elementwise map, on matrices of shape (rows, batch)."""

    def __init__(self, made, elementwise):
        self.made = made
        self.elementwise = elementwise
        self.layout = _Layout(made)

    def _arrange(self, first, condition, weights):
        """Masked kernels as (rows out, rows in) and biases as (rows out, 1 or batch).

        `first` is the component before the first step, if there is one; the first layer's biases
        contain what it and the condition contribute. Its column of the first kernel comes third.
        """
        made, layout = self.made, self.layout
        depth, dtype = len(made._masks), made.compute_dtype
        kernels, biases = [], []
        for i, mask in enumerate(made._masks):
            kernel, bias = weights[i], weights[depth + i]
            kernel = ops.cast(kernel * ops.cast(mask, kernel.dtype), dtype)
            bias = layout.rows(ops.cast(bias, dtype)[:, None], i + 1)
            if i == 0:
                if condition is not None:
                    shift = tf.matmul(
                        ops.cast(weights[-1], dtype),
                        ops.cast(condition, dtype),
                        transpose_a=True,
                        transpose_b=True,
                    )
                    bias = bias + layout.rows(shift, 1)
                column = None
                if layout.lowest == 1:
                    column = layout.rows(kernel[made._order[0]][:, None], 1)
                    bias = bias + column * ops.cast(first, dtype)
            kernel = tf.transpose(layout.rows(kernel, i))
            kernels.append(layout.rows(kernel, i + 1))
            biases.append(bias)
        return kernels, biases, column

    def _component(self, x, raw):
        """Apply the map to one component, with `parameters` rows of raw parameters."""
        raw = ops.cast(raw, x.dtype)
        y, log_derivative = self.elementwise.forward(x, *tf.unstack(raw))
        return y, tf.zeros_like(y) if log_derivative is None else log_derivative

    def _first(self, x, weights):
        """Return the component before the first step, if any, and its log-derivative."""
        if self.layout.lowest == 0:
            return None, tf.zeros_like(x[0])
        made = self.made
        bias = tf.reshape(weights[2 * len(made._masks) - 1], (made.parameters, -1))
        raw = ops.cast(bias[:, made._order[0]], made.compute_dtype)
        y, log_derivative = self._component(x[made._order[0]], raw[:, None] + tf.zeros_like(x[:1]))
        return y[None], log_derivative

    def solve(self, x, condition, weights):
        """Return y and the sum of log-derivatives, for x of shape (components, batch)."""
        layout, dtype = self.layout, self.made.compute_dtype
        block, widths = layout.block, layout.widths
        first, log_det = self._first(x, weights)
        kernels, biases, _ = self._arrange(first, condition, weights)
        x_steps = layout.components(x)
        batch = x.shape[1] if x.shape[1] is not None else tf.shape(x)[1]

        def solve_block(n, log_det, *buffers):
            starts, diagonals = [], []
            for i, (kernel, bias) in enumerate(zip(kernels, biases)):
                height, width = block * widths[i + 1], block * widths[i]
                start = _rows(bias, n, height)
                if layout.steps > block:
                    known = ops.cast(buffers[i], dtype)
                    rows = tf.slice(kernel, [n * height, 0], [height, known.shape[0]])
                    start = start + tf.matmul(rows, known)
                starts.append(start)
                diagonals.append(tf.slice(kernel, [n * height, n * width], [height, width]))
            x_block = _rows(x_steps, n, block)

            def step(k, log_det, *own):
                below, updated = ops.cast(own[0], dtype), []
                for i, (diagonal, start) in enumerate(zip(diagonals, starts)):
                    width = widths[i + 1]
                    pre = tf.matmul(_rows(diagonal, k, width), below) + _rows(start, k, width)
                    if i < len(own) - 1:
                        below = _write(own[i + 1], k, self.made.activation(pre))
                        updated.append(below)
                y, log_derivative = self._component(x_block[k], pre)
                return (k + 1, log_det + log_derivative, _write(own[0], k, y[None]), *updated)

            own = [
                tf.zeros((block * width, batch), buffer.dtype)
                for width, buffer in zip(widths, buffers)
            ]
            _, log_det, *own = tf.while_loop(
                lambda k, *state: k < block,
                step,
                (0, log_det, *own),
                maximum_iterations=block,
            )
            return (n + 1, log_det, *[_write(b, n, o) for b, o in zip(buffers, own)])

        buffers = [tf.zeros((0, batch), x.dtype)]
        buffers += [tf.zeros((0, batch), dtype) for _ in self.made._degrees]
        for start, end in layout.stages():
            buffers = [_grow(buffer, end * block * width) for buffer, width in zip(buffers, widths)]
            _, log_det, *buffers = tf.while_loop(
                lambda n, *state, end=end: n < end,
                solve_block,
                (start, log_det, *buffers),
                maximum_iterations=end - start,
            )
        return layout.unordered(first, buffers[0]), log_det

    def adjoints(self, x, y, upstream_y, upstream_log_det, condition, weights):
        """Return the total derivative with respect to each component of y."""
        layout, dtype = self.layout, self.made.compute_dtype
        block, widths, lowest = layout.block, layout.widths, layout.lowest
        first = y[layout.order[0]][None] if lowest == 1 else None
        kernels, biases, column = self._arrange(first, condition, weights)
        slopes, direct, indirect = self._local_derivatives(
            layout.components(x),
            layout.components(y),
            kernels,
            biases,
            upstream_log_det,
        )
        columns = [tf.transpose(kernel) for kernel in kernels]
        upstream = layout.components(upstream_y)
        batch = x.shape[1] if x.shape[1] is not None else tf.shape(x)[1]
        depth = len(kernels)

        def solve_block(n, total, *buffers):
            # `buffers` holds the adjoints of each hidden layer's and the parameters' rows.
            starts, diagonals = [_rows(upstream, n, block)], []
            for i in range(depth):
                height, width = block * widths[i], block * widths[i + 1]
                diagonals.append(tf.slice(columns[i], [n * height, n * width], [height, width]))
                if i > 0:
                    starts.append(tf.zeros((height, batch), dtype))
                if layout.steps > block:
                    later = tf.matmul(_rows(columns[i], n, height), buffers[i])
                    starts[i] = starts[i] + ops.cast(later, starts[i].dtype)
            own_slopes = [_rows(slope, n, block * w) for slope, w in zip(slopes, widths[1:])]

            def step(k, own_total, *own):
                back = tf.matmul(_rows(diagonals[0], k, 1), own[0])
                total_k = _rows(starts[0], k, 1) + ops.cast(back, x.dtype)
                row = n * block + k
                theta = _rows(direct, row, widths[-1]) * total_k + _rows(indirect, row, widths[-1])
                above = _write(own[-1], k, ops.cast(theta, dtype))
                updated = [above]
                for i in range(depth - 1, 0, -1):
                    width = widths[i]
                    bar = tf.matmul(_rows(diagonals[i], k, width), above)
                    bar = (bar + _rows(starts[i], k, width)) * _rows(own_slopes[i - 1], k, width)
                    above = _write(own[i - 1], k, bar)
                    updated.append(above)
                return (k - 1, _write(own_total, k, total_k), *updated[::-1])

            own = [tf.zeros((block * width, batch), dtype) for width in widths[1:]]
            _, own_total, *own = tf.while_loop(
                lambda k, *state: k >= 0,
                step,
                (block - 1, tf.zeros((block, batch), x.dtype), *own),
                maximum_iterations=block,
            )
            updated = [_write(buffer, n, rows) for buffer, rows in zip(buffers, own)]
            return (n - 1, _write(total, n, own_total), *updated)

        buffers = [tf.zeros((layout.steps * width, batch), dtype) for width in widths[1:]]
        blocks = layout.steps // block
        _, total, *buffers = tf.while_loop(
            lambda n, *state: n >= 0,
            solve_block,
            (blocks - 1, tf.zeros((layout.steps, batch), x.dtype), *buffers),
            maximum_iterations=blocks,
        )
        if lowest == 1:
            back = tf.matmul(column, buffers[0], transpose_a=True)
            first = upstream_y[layout.order[0]][None] + ops.cast(back, x.dtype)
        return layout.unordered(first, total)

    def _local_derivatives(self, x, y, kernels, biases, upstream_log_det):
        """Slopes of all hidden units, and of the map in its parameters, at the known result."""
        slopes, below = [], ops.cast(y, self.made.compute_dtype)
        for kernel, bias in zip(kernels[:-1], biases[:-1]):
            pre = tf.matmul(kernel, below) + bias
            with tf.GradientTape() as tape:
                tape.watch(pre)
                below = self.made.activation(pre)
            slopes.append(tape.gradient(below, pre))
        raw = ops.cast(tf.matmul(kernels[-1], below) + biases[-1], x.dtype)
        theta = tf.reshape(raw, (self.layout.steps, self.made.parameters, -1))
        theta = tf.unstack(theta, axis=1)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(theta)
            value, log_derivative = self.elementwise.forward(x, *theta)
        direct = tape.gradient(value, theta, unconnected_gradients="zero")
        indirect = [tf.zeros_like(value) for _ in theta]
        if log_derivative is not None:
            indirect = tape.gradient(log_derivative, theta, unconnected_gradients="zero")
        rows = (self.layout.steps * self.made.parameters, -1)
        # Rows of (component, parameter), like those of the last kernel.
        direct = tf.reshape(tf.stack(direct, axis=1), rows)
        indirect = tf.reshape(tf.stack(indirect, axis=1) * upstream_log_det, rows)
        return slopes, direct, indirect


def solve_sequentially(made, elementwise, x, condition=None):
    """Solve y_i = map(x_i; MADE_i(y_<i, condition)) for y.

    Args:
      made: a built `MADE`.
      elementwise: the map; see `keras_nf.elementwise`.
      x: tensor of shape `(batch, event_size)`.
      condition: `None`, or a tensor of shape `(batch, condition_size)`.

    Returns:
      y, of the shape of `x`, and the sum of the map's log-derivatives, of shape `(batch,)`.
    """
    solver = _Solver(made, elementwise)
    conditions = [] if condition is None else [condition]

    @tf.custom_gradient
    def solve(x, *arguments):
        condition = arguments[0] if conditions else None
        weights = arguments[len(conditions) :]
        y, log_det = solver.solve(tf.transpose(x), condition, weights)
        y = tf.transpose(y)

        def gradient(upstream_y, upstream_log_det):
            columns = map(tf.transpose, (x, y, upstream_y))
            total = solver.adjoints(*columns, upstream_log_det, condition, weights)
            sources = [x, *arguments]
            with tf.GradientTape() as tape:
                tape.watch(sources)
                raw = ops.cast(made.apply(y, condition, weights), x.dtype)
                theta = tf.split(raw, made.parameters, axis=-1)
                value, log_derivative = elementwise.forward(x, *theta)
            targets, upstreams = [value], [tf.transpose(total)]
            if log_derivative is not None:
                targets.append(log_derivative)
                upstreams.append(tf.zeros_like(log_derivative) + upstream_log_det[:, None])
            return tape.gradient(
                targets, sources, output_gradients=upstreams, unconnected_gradients="zero"
            )

        return (y, log_det), gradient

    return solve(x, *conditions, *made.weight_tensors())
