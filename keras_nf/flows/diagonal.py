"""Diagonal affine flows: Scaling, ActNorm, and Standardize for data in raw units."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_nf.flow.adaptation import moments_of
from keras_nf.flow.contract import Flow

__all__ = ["ActNorm", "Scaling", "Standardize"]


class _Diagonal(Flow):
    """x_i = s_i z_i + t_i, of which a subclass gives s, log s and t."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(is_constant_jacobian=True, **kwargs)

    @property
    def recomputable(self):
        return True

    def _forward_and_log_det(self, x, condition=None):
        scale, log_scale, shift = self._scale_and_shift()
        return x * scale + shift, self._constant_log_det(x, ops.sum(log_scale))

    def _inverse_and_log_det(self, y, condition=None):
        scale, log_scale, shift = self._scale_and_shift()
        return (y - shift) / scale, self._constant_log_det(y, -ops.sum(log_scale))


class _Adapted(_Diagonal):
    """A diagonal flow that takes mean and standard deviation from data."""

    @property
    def needs_data(self):
        return True

    @property
    def adapted(self):
        return self.built and bool(self.is_adapted.numpy() > 0.0)

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        self._add_statistics((self.event_size,))
        self.is_adapted = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="is_adapted"
        )

    def adapt(self, data: Any) -> None:
        """Set mean and standard deviation to those of the data.

        Args:
          data: array of shape `(..., event_size)`, or a `tf.data.Dataset` of such batches. Rows are
            read once, and accumulated in float64, block by block.

        Raises:
          ValueError: if a component is constant, or its standard deviation out of range in the
            flow's dtype; if the data are not real, masked, not finite or fewer than two rows.
        """
        mean, std = moments_of(self, data)
        self._assign_statistics(mean, std)
        self.is_adapted.assign(1.0)


@keras.saving.register_keras_serializable("keras_nf")
class Scaling(_Diagonal):
    """Positive scaling of each component, the last layer of NICE.

    x_i = s_i z_i with s = exp(log_scale) > 0, so log|det dx/dz| = sum_i log s_i. Both directions
    are cheap. A fresh layer is the identity. With `use_shift=True`, x_i = s_i z_i + t_i: put first
    in a chain, it trains the mean and the scale of a normal base.

    Args:
      use_shift: whether to add a trained shift t.
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if an input has the wrong rank, size or dtype.

    Example:

    >>> import numpy as np, keras_nf
    >>> scaling = keras_nf.Scaling()
    >>> x, log_det = scaling.forward_and_log_det(np.ones((3, 2), "float32"))
    >>> np.asarray(log_det).tolist()
    [0.0, 0.0, 0.0]

    References:
      Laurent Dinh, David Krueger, Yoshua Bengio. NICE: Non-linear Independent Components
      Estimation. 2014. arXiv:1410.8516
    """

    def __init__(self, *, use_shift: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_shift = bool(use_shift)

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        shape = (self.event_size,)
        self.log_scale = self.add_weight(shape=shape, initializer="zeros", name="log_scale")
        if self.use_shift:
            self.shift = self.add_weight(shape=shape, initializer="zeros", name="shift")

    def _scale_and_shift(self):
        shift = self.shift if self.use_shift else 0.0
        return ops.exp(self.log_scale), self.log_scale, shift

    def get_config(self):
        return {**super().get_config(), "use_shift": self.use_shift}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if "shift" in config:
            # Its name in earlier files.
            config["use_shift"] = config.pop("shift")
        return super().from_config(config)


@keras.saving.register_keras_serializable("keras_nf")
class ActNorm(_Adapted):
    """Activation normalization of Glow: a scale and a shift that start from data, and are trained.

    x_i = s_i z_i + t_i with s = exp(log_scale) > 0, so log|det dx/dz| = sum_i log s_i. Both
    directions are cheap. `adapt(data)` sets the two so that the latents of the data have mean 0
    and variance 1; `Chain.adapt` and `FlowModel.adapt` do so for each of a chain's layers, with the
    data as the layers after it leave them. Before, the layer is the identity.

    Args:
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Input shape: `(..., event_size)`. The last axis is scaled, at each position of an image alike.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: in `adapt`, if a component is constant, or its standard deviation out of range in
        the dtype; if the data are not real, masked, not finite or fewer than two rows.

    Example:

    >>> import numpy as np, keras_nf
    >>> norm = keras_nf.ActNorm()
    >>> norm.adapt(np.array([[0.0, 10.0], [2.0, 30.0]]))
    >>> z = norm.inverse(np.array([[2.0, 20.0]], "float32"))
    >>> np.asarray(z).round(6).tolist()
    [[1.0, 0.0]]

    References:
      Diederik P. Kingma, Prafulla Dhariwal. Glow: Generative Flow with Invertible 1x1 Convolutions.
      2018. arXiv:1807.03039
    """

    def _add_statistics(self, shape):
        self.log_scale = self.add_weight(shape=shape, initializer="zeros", name="log_scale")
        self.shift = self.add_weight(shape=shape, initializer="zeros", name="shift")

    def _assign_statistics(self, mean, std):
        self.log_scale.assign(np.log(std))
        self.shift.assign(mean)

    def _scale_and_shift(self):
        return ops.exp(self.log_scale), self.log_scale, self.shift


@keras.saving.register_keras_serializable("keras_nf")
class Standardize(_Adapted):
    """Fixed mean and standard deviation of the data.

    x = mean + std z, with log|det dx/dz| = sum_i log std_i. It stands last in a chain, so that the
    flows before it see data of mean 0 and variance 1, while the model takes and returns raw
    units. `adapt(data)` sets the two, as `keras.layers.Normalization` does; they are weights that
    are saved, but not trained. Before `adapt` the layer is the identity. Both directions are
    cheap.

    Args:
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: in `adapt`, if a component is constant, or its standard deviation out of range in
        the dtype; if the data are not real, masked, not finite or fewer than two rows.

    Example:

    >>> import numpy as np, keras_nf
    >>> standardize = keras_nf.Standardize()
    >>> standardize.adapt(np.array([[0.0, 10.0], [2.0, 30.0]]))
    >>> np.asarray(standardize.inverse(np.array([[2.0, 20.0]], "float32"))).tolist()
    [[1.0, 0.0]]
    """

    def _add_statistics(self, shape):
        self.mean = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="mean")
        self.std = self.add_weight(shape=shape, initializer="ones", trainable=False, name="std")

    def _assign_statistics(self, mean, std):
        self.mean.assign(mean)
        self.std.assign(std)

    def _scale_and_shift(self):
        return self.std, ops.log(self.std), self.mean

    def load_own_variables(self, store):
        # Earlier files do not say whether the layer was adapted.
        known = {"2": np.ones(()), **{name: store[name] for name in store.keys()}}  # noqa: SIM118
        super().load_own_variables(known)
