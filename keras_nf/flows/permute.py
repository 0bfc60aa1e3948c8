"""Permute: a fixed reordering of the components."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_nf.flow.contract import Flow
from keras_nf.layout import feature_major
from keras_nf.permutation import (
    check_permutation,
    invert_permutation,
    permute,
    resolve_permutation,
)
from keras_nf.seeds import draw_seed

__all__ = ["Permute"]


@keras.saving.register_keras_serializable("keras_nf")
class Permute(Flow):
    """Fixed permutation of the components.

    x_i = z_{p(i)}, with log|det dx/dz| = 0. Both directions are cheap; there are no weights.

    Args:
      permutation: `"reversed"`, `"random"`, or a permutation p of `range(event_size)`.
      seed: seed of the random permutation; drawn, and kept in the config, when `None`.
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if `permutation` is not one, or has another size than the event.

    Example:

    >>> import numpy as np, keras_nf
    >>> permute = keras_nf.Permute((2, 0, 1))
    >>> np.asarray(permute(np.array([[1.0, 2.0, 3.0]], "float32"))).tolist()
    [[3.0, 1.0, 2.0]]
    """

    def __init__(
        self,
        permutation: str | Sequence[int] = "reversed",
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(is_constant_jacobian=True, **kwargs)
        self.permutation = check_permutation(permutation, "permutation")
        self.seed = draw_seed() if seed is None and permutation == "random" else seed

    @property
    def recomputable(self):
        return True

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        self.component_order = resolve_permutation(
            self.permutation, self.event_size, self.seed, "permutation"
        )

    def _forward_and_log_det(self, x, condition=None):
        rows, restore = feature_major(x)
        return restore(permute(rows, self.component_order)), self._constant_log_det(x, 0.0)

    def _inverse_and_log_det(self, y, condition=None):
        rows, restore = feature_major(y)
        indices = invert_permutation(self.component_order)
        return restore(permute(rows, indices)), self._constant_log_det(y, 0.0)

    def get_config(self):
        return {**super().get_config(), "permutation": self.permutation, "seed": self.seed}
