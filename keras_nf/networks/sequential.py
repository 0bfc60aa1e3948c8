"""The sequential direction of an autoregressive flow at the cost of about one pass through MADE.

A hidden unit of degree k depends on the first k components alone, so each unit has to be computed
once: a step computes the units of one degree from the components known so far, then the
parameters of the next component, then the component. The units of a layer are sorted by degree
and stored as (units, batch), so that a step writes contiguous rows of a buffer. Steps are grouped
into blocks: the steps of a block multiply the rows of their own block alone, which stay in the
cache, and a block that is done adds its products to the sums of all blocks to come. One loop body
serves all blocks, and one all steps, so that compilation takes the same time for events of any
size.

The gradient has the same structure, in reverse order: the adjoint of a unit is known once those
of all units of higher degree are. Given those of all units, the gradient of a kernel is one
product of them with the activations. Nothing is stored per step.
"""

import itertools

import numpy as np
import tensorflow as tf
from keras import ops
from tensorflow.python.eager import record

from keras_nf.layout import refuse_forward_mode, saturate, update_rows
from keras_nf.permutation import invert_permutation, permute

# Rows of the widest layer in one block: wide enough for a fast product, low enough for the cache.
_BLOCK_ROWS = 64
# A block of its own is not worth it below; two loops, the first with half the rows, are.
_SINGLE_ROWS = 3 * _BLOCK_ROWS
# From this size on, a few more events cost less than rows that cross cache lines.
_LARGE_BATCH = 256


class _Rows:
    """The rows of one layer's units, sorted by degree, which steps and blocks compute.

    A step covers `width` rows, as many as the most units of one degree, but `at_least` so many if
    there are, of which those of its own degree count. A block covers the `height` rows that its
    steps cover, from row `windows[block]`.

    Attributes:
      count: rows of the layer.
      width: rows that a step covers.
      height: rows that a block covers.
      windows: first row of each block.
      starts: first row of each step within its block, of shape (blocks, steps of a block).
      own_of_step: whether a row that a step covers is its own, of shape (*starts.shape, width, 1).
      own_of_block: whether a row that a block covers is its own, of shape (blocks, height).
    """

    def __init__(self, counts, blocks, before=0, at_least=1):
        steps = -(-len(counts) // blocks)
        bounds = before + np.concatenate([[0], np.cumsum(counts)])
        self.count = int(bounds[-1])
        self.width = max(int(counts.max()), min(at_least, self.count))
        starts = np.minimum(bounds[:-1], self.count - self.width)
        # Rows before those of the first step belong to the first block.
        first = np.append(0, starts[steps::steps])
        last = np.append(starts[steps - 1 : -1 : steps], starts[-1]) + self.width
        self.height = int((last - first).max())
        self.windows = np.minimum(first, self.count - self.height)
        self.starts = self._of_blocks(starts, steps) - self.windows[:, None]
        rows = starts[:, None] + np.arange(self.width)
        own = (bounds[:-1, None] <= rows) & (rows < bounds[1:, None])
        self.own_of_step = self._of_blocks(own, steps)[..., None]
        rows = self.windows[:, None] + np.arange(self.height)
        ends = np.append(bounds[steps:-1:steps], bounds[-1])
        self.own_of_block = (np.append(0, ends[:-1])[:, None] <= rows) & (rows < ends[:, None])

    def _of_blocks(self, values, steps):
        """Arrange values, one for each step, by blocks; the last repeats its last one."""
        missing = -len(values) % steps
        values = np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])
        return values.reshape(-1, steps, *values.shape[1:])

    def reach(self, steps):
        """Return how many rows of any block its first steps need."""
        return int(self.starts[:, :steps].max()) + self.width

    def skip(self, steps):
        """Return how many rows in front no step of any block needs after its first ones."""
        return int(self.starts[:, steps:].min()) if steps > 0 else 0


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
        self.layers = [_Rows(ones, self.blocks, before=self.lowest)]
        # Products of a single row are slow.
        self.layers += [_Rows(units, self.blocks, at_least=2) for units in hidden]
        self.layers += [_Rows(self.parameters * ones, self.blocks)]
        self.windows = np.stack([layer.windows for layer in self.layers], axis=-1)
        self.starts = np.stack([layer.starts for layer in self.layers], axis=-1)

    def sort(self, rows):
        """Sort rows, one for each component, by order."""
        return permute(rows, self.order)

    def unsort(self, rows):
        """Undo `sort`."""
        return permute(rows, invert_permutation(self.order))

    def raw_parameters(self, values):
        """Sort MADE's outputs: from parameter by parameter to component by component."""
        shape = (self.parameters, len(self.order), _batch_size(values))
        values = self.sort(tf.transpose(tf.reshape(values, shape), (1, 0, 2)))
        return tf.reshape(values[self.lowest :], (-1, shape[2]))

    def unsort_parameters(self, rows):
        """Undo `raw_parameters`, for rows of all components."""
        batch = _batch_size(rows)
        rows = tf.reshape(rows, (len(self.order), self.parameters, batch))
        return tf.reshape(tf.transpose(self.unsort(rows), (1, 0, 2)), (-1, batch))


class _Block:
    """A block of steps: the rows that it covers in each layer.

    Args:
      layout: the arrangement.
      index: the block, a tensor of rank 0.
    """

    def __init__(self, layout, index):
        self.layers, self.index, self.is_single = layout.layers, index, layout.blocks == 1
        self.windows = [0] * len(self.layers)
        if not self.is_single:
            self.windows = tf.unstack(tf.constant(layout.windows, tf.int32)[index])
        self.steps = tf.minimum(layout.block_steps, layout.steps - index * layout.block_steps)

    def rows(self, values, layer):
        return _rows(values, self.windows[layer], self.layers[layer].height)

    def own(self, layer):
        """Return which of the rows no other block computes."""
        return tf.constant(self.layers[layer].own_of_block)[self.index]

    def own_rows(self, values, layer):
        """Return the block's rows; those that others compute are zero."""
        if self.is_single:
            return values
        return tf.where(self.own(layer)[:, None], self.rows(values, layer), 0)

    def put(self, values, rows, layer):
        """Return values with the block's own rows replaced."""
        if self.is_single:
            return rows
        rows = tf.where(self.own(layer)[:, None], rows, self.rows(values, layer))
        return update_rows(values, self.windows[layer], rows)

    def add(self, values, rows, layer):
        return update_rows(values, self.windows[layer], self.rows(values, layer) + rows)

    def tile(self, kernel, layer, other):
        """Return what links the rows of a layer to another block's rows of the next layer."""
        starts = [self.windows[layer], other.windows[layer + 1]]
        return tf.slice(kernel, starts, [rows.height for rows in self.layers[layer : layer + 2]])


class _Step:
    """A step of a block: the rows that it covers in each layer.

    Args:
      layout: the arrangement.
      block: the block.
      index: the step within the block, a tensor of rank 0.
      shifts: for each layer, where the block's first row is in its buffer.
    """

    def __init__(self, layout, block, index, shifts):
        self.block, self.index, self.layers, self.shifts = block, index, layout.layers, shifts
        self.starts = tf.unstack(tf.constant(layout.starts, tf.int32)[block.index, index])
        self.starts_of_all = self.starts
        if not block.is_single:
            self.starts_of_all = [a + b for a, b in zip(block.windows, self.starts)]

    def rows(self, values, layer):
        return _rows(values, self.starts_of_all[layer], self.layers[layer].width)

    def rows_of_block(self, values, layer):
        """Return the step's rows of the block's rows."""
        return _rows(values, self.starts[layer], self.layers[layer].width)

    def put(self, values, rows, layer):
        """Return values with the step's own rows replaced."""
        return self._put(values, self.starts_of_all[layer], rows, layer)

    def put_of_block(self, buffer, rows, layer):
        """Return the buffer of the block's rows with the step's own rows replaced."""
        start, shift = self.starts[layer], self.shifts[layer]
        return self._put(buffer, start + shift if shift else start, rows, layer)

    def _put(self, values, start, rows, layer):
        own = self.layers[layer].own_of_step
        if not own.all():
            own = tf.constant(own)[self.block.index, self.index]
            rows = tf.where(own, rows, _rows(values, start, self.layers[layer].width))
        return update_rows(values, start, rows)


def _rows(values, start, count):
    """Return `count` rows of a matrix, from row `start`."""
    return tf.slice(values, [start, 0], [count, _batch_size(values)])


def _product(kernel, values, transpose=False):
    """Return the product of a kernel, or of its transpose, with values.

    XLA would turn the product of a single row into a sum that is many times slower, hence two.
    """
    rows = kernel.shape[1 if transpose else 0]
    if rows == 1:
        kernel = tf.pad(kernel, [[0, 0], [0, 1]] if transpose else [[0, 1], [0, 0]])
    # Without a slice, also of all rows, LiteRT 2.3 gives wrong numbers: see tests/test_runtimes.py.
    return tf.matmul(kernel, values, transpose_a=transpose)[:rows]


def _batch_size(values):
    return values.shape[1] if values.shape[1] is not None else tf.shape(values)[1]


def _fill(values):
    """Repeat the last column so that rows of a large batch start at the bounds of cache lines."""
    batch = values.shape[1]
    missing = 0 if batch is None or batch < _LARGE_BATCH else -batch % 16
    return tf.concat([values, *[values[:, -1:]] * missing], axis=1) if missing else values


def _repeat(body, start, stop, *state, step=1):
    """Apply `body` to a counter, from `start` to before `stop`, and a state; return the state."""
    goes_on = tf.less if step > 0 else tf.greater
    return tf.while_loop(
        lambda i, *_: goes_on(i, stop), lambda i, *s: (i + step, *body(i, *s)), (start, *state)
    )[1:]


class _Solver:
    """Both loops for one MADE and one elementwise map, on matrices of shape (rows, batch).

    What no step has computed yet is zero in every buffer, so that masks are not needed.
    """

    def __init__(self, made, elementwise):
        self.made = made
        self.elementwise = elementwise
        self.layout = _Layout(made)

    def solve(self, x, condition, weights, keeps):
        """Return y and the sum of log-derivatives, for x of shape (components, batch).

        The third value holds what each layer gives before its activation, sorted by step, for the
        gradient, or is empty if it does not keep that.
        """
        layout, dtype = self.layout, self.made.compute_dtype
        first, log_det = self._first(x, weights)
        kernels, biases = self._kernels(weights), self._biases(condition, weights)
        x, batch = layout.sort(x), _batch_size(x)
        kept = [tf.zeros((rows.count, batch), dtype) for rows in layout.layers[1:] if keeps]

        def solve_block(s, log_det, kept, y, sums):
            block = _Block(layout, s)
            log_det, kept, *buffers = self._solve_block(
                block, x, log_det, kept, y, kernels, biases, sums
            )
            y = block.put(y, buffers[0], 0)

            def add_products(j, sums):
                later, result = _Block(layout, j), []
                for i, (kernel, rows) in enumerate(zip(kernels, buffers)):
                    tile = tf.where(later.own(i + 1), block.tile(kernel, i, later), 0)
                    product = _product(tile, saturate(rows, dtype), transpose=True)
                    result.append(later.add(sums[i], product, i + 1))
                return (result,)

            (sums,) = _repeat(add_products, s + 1, layout.blocks, sums)
            return log_det, kept, y, sums

        if layout.blocks == 1:
            sums = [] if condition is None else biases[:1]
            log_det, kept, y, *_ = self._solve_block(
                _Block(layout, 0), x, log_det, kept, first, kernels, biases, sums
            )
        else:
            y = tf.pad(first, [[0, len(layout.order) - first.shape[0]], [0, 0]])
            sums = [bias + tf.zeros((1, batch), dtype) for bias in biases]
            state = (log_det, kept, y, sums)
            log_det, kept, y, _ = _repeat(solve_block, 0, layout.blocks, *state)
        return layout.unsort(y), log_det, kept

    def _solve_block(self, block, x, log_det, kept, y, kernels, biases, sums):
        """Compute the rows of one block.

        Args:
          block: the block.
          x: the components of x, by order.
          log_det: sum of log-derivatives so far.
          kept: outputs of the layers so far, or nothing.
          y: the components of y that are known, by order.
          kernels: those of all layers.
          biases: those of all layers.
          sums: biases and products of earlier blocks, of all layers, or of the first few; the
            others have their biases alone.

        Returns:
          The sum of log-derivatives, the outputs of the layers if they are kept, and the block's
          rows of the components and hidden layers.
        """
        layout, depth = self.layout, len(kernels)
        batch = _batch_size(x)
        # These get a first unit of one, of which the bias is the weight.
        ones = [int(len(sums) <= i < depth) for i in range(depth + 1)]
        own = [tf.transpose(block.tile(kernel, i, block)) for i, kernel in enumerate(kernels)]
        own = [
            tf.concat([bias, kernel], axis=1) if one else kernel
            for one, bias, kernel in zip(ones, biases, own)
        ]
        buffers = [block.own_rows(y, 0)]
        buffers += [tf.zeros((0, batch), kernel.dtype) for kernel in kernels[1:]]
        buffers = [
            tf.concat([tf.ones((1, batch), rows.dtype), rows], axis=0) if one else rows
            for one, rows in zip(ones, buffers)
        ]
        for start, end in itertools.pairwise(layout.parts):
            reach = [layer.reach(end) for layer in layout.layers]
            heights = [one + rows for one, rows in zip(ones, reach)]
            used = own
            if end < layout.block_steps:
                used = [kernel[: reach[i + 1], : heights[i]] for i, kernel in enumerate(own)]
            buffers = [
                tf.pad(rows, [[0, n - rows.shape[0]], [0, 0]]) for rows, n in zip(buffers, heights)
            ]

            def solve_step(t, log_det, kept, *buffers, used=used):
                step = _Step(layout, block, t, ones)
                below, hidden, outputs = saturate(buffers[0], used[0].dtype), [], []
                for i, kernel in enumerate(used, start=1):
                    output = _product(step.rows_of_block(kernel, i), below)
                    if i <= len(sums):
                        output += step.rows(sums[i - 1], i)
                    outputs.append(output)
                    if i < depth:
                        below = step.put_of_block(buffers[i], self.made.activate(output), i)
                        hidden.append(below)
                y, log_derivative = self._component(step.rows(x, 0)[0], output)
                y = step.put_of_block(buffers[0], y[None], 0)
                kept = [step.put(*rows, i) for i, rows in enumerate(zip(kept, outputs), start=1)]
                return (log_det + log_derivative, kept, y, *hidden)

            stop = tf.minimum(end, block.steps)
            log_det, kept, *buffers = _repeat(solve_step, start, stop, log_det, kept, *buffers)
        return log_det, kept, *[rows[one:] if one else rows for one, rows in zip(ones, buffers)]

    def gradients(self, x, y, kept, upstream_y, upstream_log_det, condition, weights):
        """Return the gradients with respect to x, the condition, if any, and the weights."""
        # The tapes below see tensors of this graph alone, which may be that of a loop's gradient.
        x, y, kept, condition, weights = tf.nest.map_structure(
            lambda value: None if value is None else tf.identity(value),
            (x, y, kept, condition, weights),
        )
        layout, dtype = self.layout, self.made.compute_dtype
        inputs, slopes, raw = self._evaluate(y, kept, condition, weights)
        first = layout.lowest * self.made.parameters
        raw = tf.concat([self._first_raw(weights, _batch_size(x)), raw], axis=0)
        stretch, tilt, *rows = self._map_derivatives(layout.sort(x), raw, upstream_log_det)
        (first_direct, direct), (first_indirect, indirect) = [
            tf.split(derivatives, [first, -1]) for derivatives in rows
        ]
        upstream, kernels = layout.sort(upstream_y), self._kernels(weights)
        depth, batch = len(kernels), _batch_size(x)

        def pull_back_block(s, total, known, sums):
            block = _Block(layout, s)
            own = [block.tile(kernel, i, block) for i, kernel in enumerate(kernels)]
            buffers = [tf.zeros((0, batch), dtype) for _ in kernels]
            for start, end in reversed(list(itertools.pairwise(layout.parts))):
                skipped = [layer.skip(start) for layer in layout.layers]
                used = [kernel[:, skipped[i + 1] :] for i, kernel in enumerate(own)]
                heights = [layer.height - n for layer, n in zip(layout.layers, skipped)][1:]
                buffers = [
                    tf.pad(rows, [[n - rows.shape[0], 0], [0, 0]])
                    for rows, n in zip(buffers, heights)
                ]

                def pull_back_step(t, total, *buffers, used=used, skipped=skipped):
                    step = _Step(layout, block, t, [-rows for rows in skipped])

                    def back(i, above):
                        product = _product(step.rows_of_block(used[i], i), above)
                        return product + step.rows(sums[i], i) if sums else product

                    total_t = step.rows(upstream, 0) + ops.cast(back(0, buffers[0]), x.dtype)
                    theta = step.rows(direct, depth) * total_t + step.rows(indirect, depth)
                    above = step.put_of_block(buffers[-1], ops.cast(theta, dtype), depth)
                    updated = [above]
                    for i in range(depth - 1, 0, -1):
                        bar = back(i, above) * step.rows(slopes[i - 1], i)
                        above = step.put_of_block(buffers[i - 1], bar, i)
                        updated.append(above)
                    return (step.put(total, total_t, 0), *updated[::-1])

                last = tf.minimum(end, block.steps) - 1
                state = (total, *buffers)
                total, *buffers = _repeat(pull_back_step, last, start - 1, *state, step=-1)
            known = [block.put(*rows, i) for i, rows in enumerate(zip(known, buffers), start=1)]

            def add_products(j, sums):
                earlier, result = _Block(layout, j), []
                for i, (kernel, rows) in enumerate(zip(turned, buffers)):
                    starts = [block.windows[i + 1], earlier.windows[i]]
                    tile = tf.slice(kernel, starts, [rows.shape[0], layout.layers[i].height])
                    product = _product(tf.where(earlier.own(i), tile, 0), rows, transpose=True)
                    result.append(earlier.add(sums[i], product, i))
                return (result,)

            if not block.is_single:
                (sums,) = _repeat(add_products, s - 1, -1, sums, step=-1)
            return total, known, sums

        # The sums of all derivatives by y, and the adjoints of the layers above it.
        known = [tf.zeros((layer.count, batch), dtype) for layer in layout.layers[1:]]
        total = tf.zeros_like(upstream)
        if layout.blocks == 1:
            total, known, _ = pull_back_block(0, total, known, [])
        else:
            turned = [tf.transpose(kernel) for kernel in kernels]
            sums = [tf.zeros((layer.count, batch), dtype) for layer in layout.layers[:-1]]
            state = (total, known, sums)
            total, known, _ = _repeat(pull_back_block, layout.blocks - 1, -1, *state, step=-1)
        theta = known[-1]
        if layout.lowest > 0:
            # Not a product of one row: Grappler would take the sum for a bias and fuse the two.
            back = tf.reduce_sum(kernels[0][0][:, None] * known[0], axis=0)
            first_total = upstream[:1] + ops.cast(back, x.dtype)
            total = tf.concat([first_total, total[1:]], axis=0)
            first_theta = first_direct * first_total + first_indirect
            theta = tf.concat([ops.cast(first_theta, dtype), theta], axis=0)
        adjoints = [*known[:-1], layout.unsort_parameters(theta)]
        bars = self.made.layer_gradients(inputs, condition, adjoints, weights)
        return layout.unsort(total * stretch + tilt), *bars

    def _kernels(self, weights):
        """Return the kernels; components and parameters are sorted by step."""
        kernels = weights[: len(self.made._products)]
        kernels = [ops.cast(kernel, self.made.compute_dtype) for kernel in kernels]
        kernels[-1] = tf.transpose(self.layout.raw_parameters(tf.transpose(kernels[-1])))
        kernels[0] = self.layout.sort(kernels[0])
        return kernels

    def _biases(self, condition, weights):
        """Return biases as (rows, 1), the first with the condition's part as (rows, batch)."""
        depth = len(self.made._products)
        biases = [self.made.layer_bias(i, condition, weights) for i in range(depth)]
        biases[-1] = self.layout.raw_parameters(biases[-1])
        return biases

    def _component(self, x, raw):
        """Apply the map to one component, with `parameters` rows of raw parameters."""
        y, log_derivative = self.elementwise.forward(x, *tf.unstack(saturate(raw, x.dtype)))
        return y, tf.zeros_like(y) if log_derivative is None else log_derivative

    def _first_raw(self, weights, batch):
        """Return the raw parameters of the component before the first step, if there is one."""
        made, layout = self.made, self.layout
        bias = tf.reshape(weights[2 * len(made._products) - 1], (made.parameters, -1))
        raw = tf.gather(ops.cast(bias, made.compute_dtype), layout.order[: layout.lowest], axis=1)
        return tf.reshape(raw, (-1, 1)) + tf.zeros((1, batch), raw.dtype)

    def _first(self, x, weights):
        """Return the row of the component before the first step, if any, and its log-derivative."""
        if self.layout.lowest == 0:
            return tf.zeros((0, _batch_size(x)), x.dtype), tf.zeros_like(x[0])
        raw = self._first_raw(weights, _batch_size(x))
        y, log_derivative = self._component(x[self.layout.order[0]], raw)
        return y[None], log_derivative

    def _evaluate(self, y, kept, condition, weights):
        """Return what each layer takes, slopes of the activations, and the raw parameters."""
        inputs, slopes, depth = [y], [], len(self.made._products)
        for i in range(depth):
            output = kept[i] if kept else self.made.apply_layer(i, inputs[-1], condition, weights)
            if i < depth - 1:
                with tf.GradientTape() as tape:
                    tape.watch(output)
                    inputs.append(self.made.activate(output))
                slopes.append(tape.gradient(inputs[-1], output))
        return inputs, slopes, output if kept else self.layout.raw_parameters(output)

    def _map_derivatives(self, x, raw, upstream_log_det):
        """Derivatives of the values, and of the weighted log-derivatives, in x and parameters."""
        shape = tf.shape(raw)
        theta = tf.reshape(
            saturate(raw, x.dtype), (x.shape[0], self.made.parameters, _batch_size(x))
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
    solver = _Solver(made, elementwise)
    batch = _batch_size(x)
    # Without a tape in sight nothing is kept, and a gradient has to evaluate the network again.
    keeps = record.could_possibly_record()
    x, *conditions = [_fill(values) for values in (x, condition) if values is not None]

    @tf.custom_gradient
    def solve(x, *arguments):
        condition = arguments[0] if conditions else None
        weights = arguments[len(conditions) :]
        # Under two tapes, TensorFlow would ask for the gradient of the loops, which is below.
        with record.stop_recording():
            y, log_det, kept = solver.solve(x, condition, weights, keeps)

        def gradient(upstream_y, upstream_log_det):
            upstream = upstream_y, upstream_log_det
            return _differentiable_once(
                *solver.gradients(x, y, kept, *upstream, condition, weights)
            )

        return (y, log_det), gradient

    arguments = [x, *conditions, *made.weight_tensors()]
    refuse_forward_mode("The sequential direction of an autoregressive flow", arguments)
    y, log_det = solve(*arguments)
    return y[:, :batch], log_det[:batch]
