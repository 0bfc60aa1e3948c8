"""LULinear: an invertible linear map of the components."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_nf.flow.contract import Flow
from keras_nf.layout import feature_major
from keras_nf.permutation import check_permutation, invert_permutation, permute, resolve_permutation
from keras_nf.seeds import draw_seed

__all__ = ["LULinear"]


@keras.saving.register_keras_serializable("keras_nf")
class LULinear(Flow):
    """Invertible linear map, by its LU decomposition.

    x = P L U z + t, with a fixed permutation P, L lower triangular with ones on its diagonal, and
    U = exp(d) R, R upper triangular with ones there, so that log|det dx/dz| = sum_i d_i. L, R and d
    are what is below, above and on the diagonal of one matrix, which starts at zero: a fresh layer
    is the permutation alone. Both directions cost one product, with L U or with its inverse, which
    substitution gives block by block. On images the map is that of the channels of each pixel, an
    invertible 1x1 convolution.

    Args:
      permutation: P: `"sequential"` (none), `"reversed"`, `"random"`, or a permutation p of
        `range(event_size)`, which takes component p(i) to the place i. It is not trained.
      use_shift: whether to add a trained shift t.
      seed: seed of the random permutation; drawn, and kept in the config, when `None`.
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if `permutation` is not one, or has another size than the event.

    Example:

    >>> import numpy as np, keras_nf
    >>> linear = keras_nf.LULinear("reversed")
    >>> np.asarray(linear(np.array([[1.0, 2.0, 3.0]], "float32"))).tolist()
    [[3.0, 2.0, 1.0]]

    References:
      Diederik P. Kingma, Prafulla Dhariwal. Glow: Generative Flow with Invertible 1x1 Convolutions.
      2018. arXiv:1807.03039
      Emiel Hoogeboom, Rianne van den Berg, Max Welling. Emerging Convolutions for Generative
      Normalizing Flows. 2019. arXiv:1901.11137
    """

    def __init__(
        self,
        permutation: str | Sequence[int] = "sequential",
        *,
        use_shift: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(is_constant_jacobian=True, **kwargs)
        self.permutation = check_permutation(permutation, "permutation")
        self.use_shift = bool(use_shift)
        self.seed = draw_seed() if seed is None and permutation == "random" else seed

    @property
    def recomputable(self):
        return True

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        size = self.event_size
        self.component_order = resolve_permutation(self.permutation, size, self.seed, "permutation")
        self.kernel = self.add_weight(shape=(size, size), initializer="zeros", name="kernel")
        if self.use_shift:
            self.shift = self.add_weight(shape=(size,), initializer="zeros", name="shift")

    def _factors(self):
        """Return L, d as a column, and R."""
        kernel = ops.convert_to_tensor(self.kernel)
        # Constants, and a product for the diagonal: TensorFlow.js has no operations for these.
        one = np.eye(self.event_size, dtype=self.variable_dtype)
        log_scale = ops.sum(kernel * one, axis=1, keepdims=True)
        return ops.tril(kernel, -1) + one, log_scale, ops.triu(kernel, 1) + one

    def _forward_and_log_det(self, x, condition=None):
        lower, log_scale, upper = self._factors()
        rows, restore = feature_major(x)
        y = tf.matmul(lower, ops.exp(log_scale) * upper) @ rows
        y = permute(y, self.component_order)
        if self.use_shift:
            y = y + self.shift[:, None]
        return restore(y), self._constant_log_det(x, ops.sum(log_scale))

    def _inverse_and_log_det(self, y, condition=None):
        lower, log_scale, upper = self._factors()
        rows, restore = feature_major(y)
        if self.use_shift:
            rows = rows - self.shift[:, None]
        rows = permute(rows, invert_permutation(self.component_order))
        factors = ops.stack([lower, ops.transpose(upper)])
        below, above = ops.unstack(unit_triangular_inverses(factors))
        x = tf.matmul(above, ops.exp(-log_scale) * below, transpose_a=True) @ rows
        return restore(x), self._constant_log_det(y, -ops.sum(log_scale))

    def get_config(self):
        return {
            **super().get_config(),
            "permutation": self.permutation,
            "use_shift": self.use_shift,
            "seed": self.seed,
        }


def unit_triangular_inverses(matrices):
    """Invert lower triangular matrices with ones on their diagonals, of shape (count, n, n).

    Of blocks twice as large from step to step: [[A, 0], [C, B]] has the inverse
    [[1/A, 0], [-1/B C 1/A, 1/B]]. These are the sums of forward substitution, in products that
    every runtime has.
    """
    count, size = matrices.shape[0], matrices.shape[-1]
    steps = max(size - 1, 0).bit_length()
    width = 2**steps
    rest = width - size
    padded = ops.pad(matrices, ((0, 0), (0, rest), (0, rest)))
    inverses = ops.ones((count, width, 1, 1), matrices.dtype)
    for step in range(steps):
        n = 2**step
        corners = [padded[:, i + n : i + 2 * n, i : i + n] for i in range(0, width, 2 * n)]
        corner = ops.stack(corners, axis=1)
        first, last = inverses[:, 0::2], inverses[:, 1::2]
        corner = -tf.matmul(tf.matmul(last, corner), first)
        top = ops.concatenate([first, ops.zeros_like(first)], axis=-1)
        inverses = ops.concatenate([top, ops.concatenate([corner, last], axis=-1)], axis=-2)
    return inverses[:, 0, :size, :size]
