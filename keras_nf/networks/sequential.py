"""The sequential direction of an autoregressive flow at the cost of about one pass through MADE.

A hidden unit of degree k depends on the first k components alone, so each unit has to be computed
once: a step computes the units of one degree from the components known so far, then the
parameters of the next component, then the component. The units of a layer are sorted by degree
and stored as (units, batch), so that a step reads contiguous rows of the weights and writes
contiguous rows of a buffer, and one loop body serves many steps. A few loops follow each other,
each over the rows known at its end: later rows would be multiplied by zero.

The gradient has the same structure, in reverse order: the adjoint of a component is known once
the adjoints of all units of higher degree are. Given those of all components, the gradients of
the weights are one ordinary backward pass at the known result. Nothing is stored per step.
"""

import itertools

import numpy as np
import tensorflow as tf
from keras import ops

# More would save little more of the products with zeros, and each costs compilation.
_STAGES = 4


class _Layout:
    """Static arrangement of MADE's units in rows: a group for each step, padded within a stage.

    Step k computes the hidden units of degree k + lowest and then component k + lowest, in order.
    Without a condition, `lowest` is 1, and the first component depends on biases alone. Layers
    are counted from the components to the parameters.

    Attributes:
      lowest: lowest degree of a hidden unit, the number of components before the first step.
      bounds: first step of each stage, and the number of steps.
      widths: rows per step, for each stage and layer.
      tops: first row of each stage, and the number of rows, for each layer.
    """

    def __init__(self, made):
        self.order, self.parameters = made._order, made.parameters
        self.lowest = 0 if made._condition_kernel is not None or len(self.order) == 1 else 1
        steps = len(self.order) - self.lowest
        hidden = [np.bincount(d - self.lowest, minlength=steps) for d in made._degrees]
        self.counts = [np.ones(steps, int), *hidden, np.full(steps, self.parameters)]
        self.bounds = self._stage_bounds(steps, hidden)
        stages = list(itertools.pairwise(self.bounds))
        self.widths = [[int(c[a:b].max()) for c in self.counts] for a, b in stages]
        rows = [[(b - a) * w for w in ws] for (a, b), ws in zip(stages, self.widths)]
        self.tops = [np.cumsum([0, *layer]).tolist() for layer in zip(*rows)]
        self.tops = self.tops or [[0]] * len(self.counts)

    def _stage_bounds(self, steps, hidden):
        bounds = np.unique(np.linspace(0, steps, min(_STAGES, steps) + 1).astype(int))
        # A stage may end where the groups of the widest layer become smaller: no padding then.
        changes = np.flatnonzero(np.diff(max(hidden, key=np.sum, default=np.ones(1)))) + 1
        if len(changes) == 1 and len(bounds) > 2:
            bounds[1 + np.abs(bounds[1:-1] - changes[0]).argmin()] = changes[0]
        return bounds.tolist()

    def rows(self, values, layer):
        """Arrange rows, one for each unit of a layer; padding is zero."""
        if layer == 0:
            return _take(values, self.order)[self.lowest :]
        if layer == len(self.counts) - 1:
            # From parameter by parameter to component by component.
            shape = (self.parameters, len(self.order), tf.shape(values)[1])
            values = _take(tf.transpose(tf.reshape(values, shape), (1, 0, 2)), self.order)
            return tf.reshape(values[self.lowest :], (-1, shape[2]))
        ends = np.cumsum([0, *self.counts[layer]])
        pieces = [
            _pad_groups(values[ends[a] : ends[b]], self.counts[layer][a:b], widths[layer])
            for (a, b), widths in zip(itertools.pairwise(self.bounds), self.widths)
        ]
        return tf.concat(pieces, axis=0) if pieces else values[:0]

    def all_components(self, first, rows):
        """Return the rows of all components, from the first one's and those of the steps."""
        rows = rows if first is None else tf.concat([first, rows], axis=0)
        return _take(rows, np.argsort(self.order))


def _take(values, rows):
    if np.array_equal(rows, np.arange(len(rows))):
        return values
    if np.array_equal(rows, np.arange(len(rows))[::-1]):
        return tf.reverse(values, [0])
    return tf.gather(values, rows)


def _pad_groups(values, counts, width):
    """Pad groups of adjacent rows to one width."""
    if (counts == width).all():
        return values
    groups = np.split(np.arange(counts.sum()), np.cumsum(counts)[:-1])
    rows = np.full((len(counts), width), counts.sum())
    for row, group in zip(rows, groups):
        row[: len(group)] = group
    return tf.gather(tf.pad(values, [[0, 1], [0, 0]]), rows.ravel())


def _rows(values, index, count):
    """Return `count` rows of a matrix, from row `index * count`."""
    return tf.slice(values, [index * count, 0], [count, tf.shape(values)[1]])


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
        x_steps = layout.rows(x, 0)
        batch = _batch_size(x)
        buffers = [tf.zeros((0, batch), x.dtype)]
        buffers += [tf.zeros((0, batch), dtype) for _ in kernels[1:]]

        for stage, (start, end) in enumerate(itertools.pairwise(layout.bounds)):
            widths = layout.widths[stage]
            tops, ends = zip(*[layer[stage : stage + 2] for layer in layout.tops])
            own_x = x_steps[start:end]
            own_kernels = [
                kernel[tops[i + 1] : ends[i + 1], : ends[i]] for i, kernel in enumerate(kernels)
            ]
            own_biases = [bias[tops[i + 1] : ends[i + 1]] for i, bias in enumerate(biases)]

            def step(
                k,
                log_det,
                *buffers,
                w=widths,
                tops=tops,
                x=own_x,
                kernels=own_kernels,
                biases=own_biases,
            ):
                below, hidden = ops.cast(buffers[0], dtype), []
                for i, (kernel, bias) in enumerate(zip(kernels, biases), start=1):
                    pre = tf.matmul(_rows(kernel, k, w[i]), below) + _rows(bias, k, w[i])
                    if i < len(kernels):
                        row = tops[i] + k * w[i]
                        below = ops.slice_update(buffers[i], (row, 0), self.made.activation(pre))
                        hidden.append(below)
                y, log_derivative = self._component(x[k], pre)
                y = ops.slice_update(buffers[0], (tops[0] + k, 0), y[None])
                return (k + 1, log_det + log_derivative, y, *hidden)

            buffers = [
                tf.pad(buffer, [[0, b - a], [0, 0]]) for buffer, a, b in zip(buffers, tops, ends)
            ]
            _, log_det, *buffers = tf.while_loop(
                lambda k, *state, steps=end - start: k < steps,
                step,
                (0, log_det, *buffers),
                maximum_iterations=end - start,
            )
        return layout.all_components(first, buffers[0]), log_det

    def adjoints(self, x, y, upstream_y, upstream_log_det, condition, weights):
        """Return the total derivative with respect to each component of y."""
        layout, dtype = self.layout, self.made.compute_dtype
        first = y[layout.order[0]][None] if layout.lowest == 1 else None
        kernels, biases, column = self._arrange(first, condition, weights)
        slopes, direct, indirect = self._local_derivatives(
            layout.rows(x, 0), layout.rows(y, 0), kernels, biases, upstream_log_det
        )
        upstream = layout.rows(upstream_y, 0)
        batch = _batch_size(x)
        # Adjoints of the rows of each hidden layer and of the parameters, from the stage's on.
        buffers = [tf.zeros((0, batch), dtype) for _ in kernels]
        totals = []

        for stage, (start, end) in reversed(list(enumerate(itertools.pairwise(layout.bounds)))):
            widths = layout.widths[stage]
            tops, ends = zip(*[layer[stage : stage + 2] for layer in layout.tops])
            columns = [
                tf.transpose(kernel[tops[i + 1] :, tops[i] : ends[i]])
                for i, kernel in enumerate(kernels)
            ]
            own = (
                upstream[start:end],
                direct[tops[-1] : ends[-1]],
                indirect[tops[-1] : ends[-1]],
                *[slope[tops[i] : ends[i]] for i, slope in enumerate(slopes, start=1)],
            )

            def step(k, total, *buffers, w=widths, columns=columns, own=own):
                upstream, direct, indirect, *slopes = own
                back = tf.matmul(_rows(columns[0], k, 1), buffers[0])
                total_k = _rows(upstream, k, 1) + ops.cast(back, x.dtype)
                theta = _rows(direct, k, w[-1]) * total_k + _rows(indirect, k, w[-1])
                theta = ops.cast(theta, dtype)
                above = ops.slice_update(buffers[-1], (k * w[-1], 0), theta)
                updated = [above]
                for i in range(len(slopes), 0, -1):
                    bar = tf.matmul(_rows(columns[i], k, w[i]), above)
                    bar = bar * _rows(slopes[i - 1], k, w[i])
                    above = ops.slice_update(buffers[i - 1], (k * w[i], 0), bar)
                    updated.append(above)
                total = ops.slice_update(total, (k, 0), total_k)
                return (k - 1, total, *updated[::-1])

            buffers = [
                tf.pad(buffer, [[b - a, 0], [0, 0]])
                for buffer, a, b in zip(buffers, tops[1:], ends[1:])
            ]
            _, total, *buffers = tf.while_loop(
                lambda k, *state: k >= 0,
                step,
                (end - start - 1, tf.zeros((end - start, batch), x.dtype), *buffers),
                maximum_iterations=end - start,
            )
            totals.insert(0, total)
        if layout.lowest == 1:
            back = tf.matmul(column, buffers[0], transpose_a=True)
            first = upstream_y[layout.order[0]][None] + ops.cast(back, x.dtype)
        return layout.all_components(first, tf.concat([tf.zeros_like(x[:0]), *totals], axis=0))

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
        theta = tf.reshape(raw, (x.shape[0], self.made.parameters, _batch_size(x)))
        theta = tf.unstack(theta, axis=1)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(theta)
            value, log_derivative = self.elementwise.forward(x, *theta)
        direct = tape.gradient(value, theta, unconnected_gradients="zero")
        indirect = [tf.zeros_like(value) for _ in theta]
        if log_derivative is not None:
            indirect = tape.gradient(log_derivative, theta, unconnected_gradients="zero")
        shape = tf.shape(raw)
        # Rows of (component, parameter), like those of the last kernel.
        direct = tf.reshape(tf.stack(direct, axis=1), shape)
        indirect = tf.reshape(tf.stack(indirect, axis=1) * upstream_log_det, shape)
        return slopes, direct, indirect


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
        y, log_det = solver.solve(x, condition, weights)

        def gradient(upstream_y, upstream_log_det):
            total = solver.adjoints(x, y, upstream_y, upstream_log_det, condition, weights)
            sources = [x, *arguments]
            with tf.GradientTape() as tape:
                tape.watch(sources)
                raw = ops.cast(made.apply(y, condition, weights), x.dtype)
                theta = tf.split(raw, made.parameters)
                value, log_derivative = elementwise.forward(x, *theta)
            targets, upstreams = [value], [total]
            if log_derivative is not None:
                targets.append(log_derivative)
                upstreams.append(tf.zeros_like(log_derivative) + upstream_log_det)
            return tape.gradient(
                targets, sources, output_gradients=upstreams, unconnected_gradients="zero"
            )

        return (y, log_det), gradient

    return solve(x, *conditions, *made.weight_tensors())
