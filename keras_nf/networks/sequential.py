"""The sequential direction of an autoregressive flow at the cost of about one pass through MADE.

A hidden unit of degree k depends on the first k components alone, so each unit has to be computed
once: a step computes the units of one degree from the components known so far, then the
parameters of the next component, then the component. The units of a layer are sorted by degree
and stored as (units, batch), so that a step reads contiguous rows of the weights and writes
contiguous rows of a buffer, and one loop body serves many steps. A few loops follow each other,
the stages. A stage multiplies the rows known at its end, for later rows would be multiplied by
zero; where it is tall, one product brings in all earlier stages before its loop begins.

The gradient has the same structure, in reverse order: the adjoint of a unit is known once those
of all units of higher degree are. Given those of all units, the gradient of a kernel is one
product of them with the activations. Nothing is stored per step.
"""

import itertools

import numpy as np
import tensorflow as tf
from keras import ops

from keras_nf.permutation import invert_permutation, permute

# More would save little more of the products with zeros, and each costs compilation.
_STAGES = 4
# Rows of a layer in one stage from which a product for all earlier stages is faster.
_TALL = 128


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
        self.positions = [self._positions(layer) for layer in range(len(self.counts))]

    def _positions(self, layer):
        """Return the row of each unit of a layer; the other rows are padding."""
        tops = [
            top + step * widths[layer]
            for (a, b), widths, top in zip(
                itertools.pairwise(self.bounds), self.widths, self.tops[layer]
            )
            for step in range(b - a)
        ]
        return np.concatenate([top + np.arange(n) for top, n in zip(tops, self.counts[layer])])

    def is_tall(self, stage):
        """Whether the rows before a stage are worth a product of their own."""
        heights = [layer[stage + 1] - layer[stage] for layer in self.tops[1:-1]]
        return max(heights, default=0) >= _TALL

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
            return permute(values, self.order)[self.lowest :]
        if layer == len(self.counts) - 1:
            # From parameter by parameter to component by component.
            shape = (self.parameters, len(self.order), tf.shape(values)[1])
            values = permute(tf.transpose(tf.reshape(values, shape), (1, 0, 2)), self.order)
            return tf.reshape(values[self.lowest :], (-1, shape[2]))
        return _spread(values, self.positions[layer], self.tops[layer][-1])

    def all_components(self, first, rows):
        """Return the rows of all components, from the first one's and those of the steps."""
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


def _rows(values, index, count):
    """Return `count` rows of a matrix, from row `index * count`."""
    return tf.slice(values, [index * count, 0], [count, tf.shape(values)[1]])


def _row_product(kernel, index, count, values):
    """Return the product of `count` rows of a kernel, from row `index * count`.

    XLA would turn the product of a single row into a sum that is many times slower, hence two.
    """
    rows = tf.pad(_rows(kernel, index, count), [[0, max(2 - count, 0)], [0, 0]])
    return tf.matmul(rows, values)[:count]


def _product(kernel, values):
    """Return kernel @ values, or zeros in a single column where no row is multiplied.

    The operations are the same in both cases: a graph does not depend on the size of an event.
    """
    return tf.matmul(kernel, values[:, : None if kernel.shape[1] else 1])


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
        dtypes = [x.dtype, *[dtype] * (len(kernels) - 1)]
        known = [tf.zeros((0, batch), row_dtype) for row_dtype in dtypes]

        for stage, (start, end) in enumerate(itertools.pairwise(layout.bounds)):
            widths = layout.widths[stage]
            tops, ends = zip(*[layer[stage : stage + 2] for layer in layout.tops])
            origins = tops if layout.is_tall(stage) else [0] * len(tops)
            own_x = x_steps[start:end]
            own_kernels, own_biases = [], []
            for i, (kernel, bias) in enumerate(zip(kernels, biases)):
                kernel, bias = kernel[tops[i + 1] : ends[i + 1]], bias[tops[i + 1] : ends[i + 1]]
                early = ops.cast(known[i][: origins[i]], dtype)
                own_biases.append(bias + _product(kernel[:, : origins[i]], early))
                own_kernels.append(kernel[:, origins[i] : ends[i]])
            buffers = [
                tf.pad(rows[origin:], [[0, b - a], [0, 0]])
                for rows, origin, a, b in zip(known, origins, tops, ends)
            ]
            rests = [top - origin for top, origin in zip(tops, origins)]

            def step(
                k,
                log_det,
                *buffers,
                w=widths,
                rests=rests,
                x=own_x,
                kernels=own_kernels,
                biases=own_biases,
            ):
                below, hidden = ops.cast(buffers[0], dtype), []
                for i, (kernel, bias) in enumerate(zip(kernels, biases), start=1):
                    pre = _row_product(kernel, k, w[i], below) + _rows(bias, k, w[i])
                    if i < len(kernels):
                        activated = self.made.activation(pre)
                        row = rests[i] + k * w[i]
                        below = ops.slice_update(buffers[i], (row, 0), activated)
                        hidden.append(below)
                y, log_derivative = self._component(x[k], pre)
                y = ops.slice_update(buffers[0], (rests[0] + k, 0), y[None])
                return (k + 1, log_det + log_derivative, y, *hidden)

            _, log_det, *buffers = tf.while_loop(
                lambda k, *state, steps=end - start: k < steps,
                step,
                (0, log_det, *buffers),
                maximum_iterations=end - start,
            )
            known = [
                tf.concat([rows[:origin], buffer], axis=0)
                for rows, origin, buffer in zip(known, origins, buffers)
            ]
        return layout.all_components(first, known[0]), log_det

    def gradients(self, x, y, upstream_y, upstream_log_det, condition, weights):
        """Return the gradients with respect to x, the condition, if any, and the weights."""
        layout, dtype = self.layout, self.made.compute_dtype
        sources = [*([] if condition is None else [condition]), *weights]
        with tf.GradientTape() as arrangement:
            arrangement.watch(sources)
            first = y[layout.order[0]][None] if layout.lowest == 1 else None
            kernels, biases, column = self._arrange(first, condition, weights)
        x_steps, y_steps = layout.rows(x, 0), layout.rows(y, 0)
        activations, slopes, raw = self._evaluate(y_steps, kernels, biases)
        stretch, tilt, direct, indirect = self._map_derivatives(x_steps, raw, upstream_log_det)
        upstream = layout.rows(upstream_y, 0)
        batch = _batch_size(x)
        # Adjoints of the rows of each hidden layer and of the parameters, in the stages behind.
        known = [tf.zeros((0, batch), dtype) for _ in kernels]
        totals = []

        for stage, (start, end) in reversed(list(enumerate(itertools.pairwise(layout.bounds)))):
            widths = layout.widths[stage]
            tops, ends = zip(*[layer[stage : stage + 2] for layer in layout.tops])
            # Rows of the layers above, counted from the stage's first, that the loop multiplies.
            rests = [
                (b if layout.is_tall(stage) else layer[-1]) - a
                for a, b, layer in zip(tops[1:], ends[1:], layout.tops[1:])
            ]
            columns, backs = [], []
            for i, kernel in enumerate(kernels):
                transposed = tf.transpose(kernel[tops[i + 1] :, tops[i] : ends[i]])
                late = known[i][rests[i] - (ends[i + 1] - tops[i + 1]) :]
                columns.append(transposed[:, : rests[i]])
                backs.append(_product(transposed[:, rests[i] :], late))
            own = (
                upstream[start:end],
                direct[tops[-1] : ends[-1]],
                indirect[tops[-1] : ends[-1]],
                *[slope[tops[i] : ends[i]] for i, slope in enumerate(slopes, start=1)],
            )

            def step(k, total, *buffers, w=widths, columns=columns, backs=backs, own=own):
                def back(i, above):
                    return _row_product(columns[i], k, w[i], above) + _rows(backs[i], k, w[i])

                upstream, direct, indirect, *slopes = own
                total_k = _rows(upstream, k, 1) + ops.cast(back(0, buffers[0]), x.dtype)
                theta = _rows(direct, k, w[-1]) * total_k + _rows(indirect, k, w[-1])
                above = ops.slice_update(buffers[-1], (k * w[-1], 0), ops.cast(theta, dtype))
                updated = [above]
                for i in range(len(slopes), 0, -1):
                    bar = back(i, above) * _rows(slopes[i - 1], k, w[i])
                    above = ops.slice_update(buffers[i - 1], (k * w[i], 0), bar)
                    updated.append(above)
                total = ops.slice_update(total, (k, 0), total_k)
                return (k - 1, total, *updated[::-1])

            heights = [b - a for a, b in zip(tops[1:], ends[1:])]
            buffers = [
                tf.pad(rows[: rest - height], [[height, 0], [0, 0]])
                for rows, rest, height in zip(known, rests, heights)
            ]
            _, total, *buffers = tf.while_loop(
                lambda k, *state: k >= 0,
                step,
                (end - start - 1, tf.zeros((end - start, batch), x.dtype), *buffers),
                maximum_iterations=end - start,
            )
            known = [
                tf.concat([buffer, rows[rest - height :]], axis=0)
                for buffer, rows, rest, height in zip(buffers, known, rests, heights)
            ]
            totals.insert(0, total)
        total = tf.concat(totals, axis=0)
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
        back = tf.matmul(column, known[0], transpose_a=True)
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
        y, log_det = solver.solve(x, condition, weights)

        def gradient(upstream_y, upstream_log_det):
            return solver.gradients(x, y, upstream_y, upstream_log_det, condition, weights)

        return (y, log_det), gradient

    return solve(x, *conditions, *made.weight_tensors())
