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
      steps: number of steps, padded to whole blocks.
      block: number of steps in a block.
      widths: rows per step, for the components, each hidden layer and the parameters.
      rows: the unit in each row, for the same layers; the number of units stands for padding.
    """

    def __init__(self, made):
        order = made._order
        size = len(order)
        self.lowest = 0 if made._condition_kernel is not None or size == 1 else 1
        steps = size - self.lowest
        layers = [[np.array([unit]) for unit in order[self.lowest :]]]
        units = [size]
        for degrees in made._degrees:
            layers.append([np.flatnonzero(degrees == k + self.lowest) for k in range(steps)])
            units.append(len(degrees))
        parameters = np.arange(made.parameters) * size
        layers.append([unit + parameters for unit in order[self.lowest :]])
        units.append(size * made.parameters)
        self.widths = [max((len(group) for group in layer), default=1) for layer in layers]
        self.block = min(_BLOCK, max(steps, 1))
        self.steps = -(-steps // self.block) * self.block
        self.rows = []
        for layer, width, count in zip(layers, self.widths, units):
            rows = np.full((self.steps, width), count)
            for row, group in zip(rows, layer):
                row[: len(group)] = group
            self.rows.append(rows.ravel())

    def stages(self):
        """Ranges of blocks; in each, buffers hold no more rows than the range needs."""
        blocks = self.steps // self.block
        bounds = np.linspace(0, blocks, _STAGES + 1).astype(int).tolist()
        return [(start, end) for start, end in itertools.pairwise(bounds) if start < end]


def _take(values, rows, axis):
    """Take rows, where an index past the end stands for zeros."""
    size = values.shape[axis]
    if np.array_equal(rows, np.arange(size)):
        return values
    if (rows >= size).any():
        values = tf.pad(values, [[0, int(a == axis)] for a in range(len(values.shape))])
    return tf.gather(values, rows, axis=axis)


def _rows(values, index, count):
    """Return `count` rows of a matrix, from row `index * count`."""
    return tf.slice(values, [index * count, 0], [count, tf.shape(values)[1]])


def _write(values, index, rows):
    return ops.slice_update(values, (index * rows.shape[0], 0), rows)


def _grow(values, height):
    return tf.pad(values, [[0, height - values.shape[0]], [0, 0]])


class _Solver:
    """Both loops for one MADE and one elementwise map, on matrices of shape (rows, batch)."""

    def __init__(self, made, elementwise):
        self.made = made
        self.elementwise = elementwise
        self.layout = _Layout(made)

    def _arrange(self, first, condition, weights):
        """Masked kernels as (rows out, rows in) and biases as (rows out, 1 or batch).

        `first` holds the components before the first step; the first layer's biases contain what
        they and the condition contribute. Returns the first column of the first kernel as well.
        """
        made, layout = self.made, self.layout
        depth, dtype = len(made._masks), made.compute_dtype
        kernels, biases = [], []
        for i, mask in enumerate(made._masks):
            kernel, bias = weights[i], weights[depth + i]
            kernel = tf.transpose(ops.cast(kernel * ops.cast(mask, kernel.dtype), dtype))
            kernel = _take(kernel, layout.rows[i + 1], 0)
            bias = _take(ops.cast(bias, dtype)[:, None], layout.rows[i + 1], 0)
            if i == 0:
                if condition is not None:
                    shift = tf.matmul(
                        ops.cast(weights[-1], dtype),
                        ops.cast(condition, dtype),
                        transpose_a=True,
                        transpose_b=True,
                    )
                    bias = bias + _take(shift, layout.rows[1], 0)
                column = tf.gather(kernel, made._order[: layout.lowest], axis=1)
                bias = bias + tf.matmul(column, ops.cast(first, dtype))
            kernels.append(_take(kernel, layout.rows[i], 1))
            biases.append(bias)
        return kernels, biases, column

    def _component(self, x, raw):
        """Apply the map to one component, with `parameters` rows of raw parameters."""
        raw = ops.cast(raw, x.dtype)
        y, log_derivative = self.elementwise.forward(x, *tf.unstack(raw))
        return y, tf.zeros_like(y) if log_derivative is None else log_derivative

    def _first(self, x, weights):
        """Return the components before the first step and their log-derivatives."""
        if self.layout.lowest == 0:
            return x[:0], tf.zeros_like(x[0])
        made = self.made
        bias = tf.reshape(weights[2 * len(made._masks) - 1], (made.parameters, -1))
        raw = ops.cast(bias[:, made._order[0]], made.compute_dtype)
        y, log_derivative = self._component(x[0], raw[:, None] + tf.zeros_like(x[:1]))
        return y[None], log_derivative

    def solve(self, x, condition, weights):
        """Return y and the sum of log-derivatives, for x of shape (components, batch)."""
        layout, dtype = self.layout, self.made.compute_dtype
        block, widths = layout.block, layout.widths
        first, log_det = self._first(x, weights)
        kernels, biases, _ = self._arrange(first, condition, weights)
        x_steps = _grow(x[layout.lowest :], layout.steps)
        batch = tf.shape(x)[1]

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
        y = tf.concat([first, buffers[0]], axis=0)
        return y[: x.shape[0]], log_det

    def adjoints(self, x, y, condition, weights, upstream_y, upstream_log_det):
        """Return the total derivative with respect to each component of y."""
        layout, dtype = self.layout, self.made.compute_dtype
        block, widths, lowest = layout.block, layout.widths, layout.lowest
        kernels, biases, column = self._arrange(y[:lowest], condition, weights)
        slopes, direct, indirect = self._local_derivatives(
            _grow(x[lowest:], layout.steps),
            _grow(y[lowest:], layout.steps),
            kernels,
            biases,
            upstream_log_det,
        )
        columns = [tf.transpose(kernel) for kernel in kernels]
        upstream = _grow(upstream_y[lowest:], layout.steps)
        batch = tf.shape(x)[1]
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
        back = tf.matmul(column, buffers[0], transpose_a=True)
        first = upstream_y[:lowest] + ops.cast(back, x.dtype)
        return tf.concat([first, total], axis=0)[: x.shape[0]]

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
    order = made._order
    inverse_order = np.argsort(order)
    conditions = [] if condition is None else [condition]

    def to_rows(values):
        return _take(tf.transpose(values), order, 0)

    def from_rows(values):
        return tf.transpose(_take(values, inverse_order, 0))

    @tf.custom_gradient
    def solve(x, *arguments):
        condition = arguments[0] if conditions else None
        weights = arguments[len(conditions) :]
        y, log_det = solver.solve(to_rows(x), condition, weights)
        y = from_rows(y)

        def gradient(upstream_y, upstream_log_det):
            total = solver.adjoints(
                to_rows(x), to_rows(y), condition, weights, to_rows(upstream_y), upstream_log_det
            )
            sources = [x, *arguments]
            with tf.GradientTape() as tape:
                tape.watch(sources)
                raw = ops.cast(made.apply(y, condition, weights), x.dtype)
                theta = tf.split(raw, made.parameters, axis=-1)
                value, log_derivative = elementwise.forward(x, *theta)
            targets, upstreams = [value], [from_rows(total)]
            if log_derivative is not None:
                targets.append(log_derivative)
                upstreams.append(tf.zeros_like(log_derivative) + upstream_log_det[:, None])
            return tape.gradient(
                targets, sources, output_gradients=upstreams, unconnected_gradients="zero"
            )

        return (y, log_det), gradient

    return solve(x, *conditions, *made.weight_tensors())
