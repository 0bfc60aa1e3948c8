"""Planar flow: a fold along one hyperplane."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_nf.flow import Flow
from keras_nf.permutation import draw_seed
from keras_nf.root import invert_monotone

__all__ = ["Planar"]


def _tanh(v):
    h = ops.tanh(v)
    return h, 1.0 - h**2, h**2


def _sigmoid(v):
    h = ops.sigmoid(v)
    return h, h * (1.0 - h), (1.0 - 2.0 * h) ** 2


def _arctan(v):
    slope = 1.0 / (1.0 + v**2)
    return ops.arctan(v), slope, v**2 * slope


def _softplus(v):
    return ops.softplus(v), ops.sigmoid(v), ops.sigmoid(-v)


def _elu(v):
    negative = ops.minimum(v, 0.0)
    drop = -ops.expm1(negative)
    return ops.maximum(v, 0.0) - drop, 1.0 - drop, drop


# Each gives h, h' and 1 - h' / max h', the last without cancellation; beside it, max h'.
_ACTIVATIONS = {
    "tanh": (_tanh, 1.0),
    "sigmoid": (_sigmoid, 0.25),
    "arctan": (_arctan, 1.0),
    "softplus": (_softplus, 1.0),
    "elu": (_elu, 1.0),
}


@keras.saving.register_keras_serializable("keras_nf")
class Planar(Flow):
    """Planar flow.

    x = z + u_hat h(w^T z + b), with log|det dx/dz| = log|1 + w^T u_hat h'(w^T z + b)|. The weights
    are w, u and b; u_hat = u + (m(w^T u) - w^T u) w / |w|^2 with m(a) = softplus(a) - 1 / max h'
    keeps w^T u_hat > -1 / max h' (appendix A.1 of the paper, where h = tanh and max h' = 1), so
    that the map is invertible.

    `forward` is a closed form. `inverse` has none: along w it is one scalar equation,
    a + w^T u_hat h(a + b) = w^T x, solved to float precision by a safeguarded Newton search
    (some ten evaluations of h), with exact gradients for the input and the weights. A fresh layer
    is close to the identity.

    Args:
      activation: h, one of `"tanh"`, `"sigmoid"`, `"arctan"`, `"softplus"`, `"elu"`: increasing,
        with a known bound of its slope.
      seed: seed of the initial weights; drawn, and kept in the config, when `None`.
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if the activation is not one of those above.

    Example:

    >>> import numpy as np, keras_nf
    >>> planar = keras_nf.Planar()
    >>> z = np.array([[0.5, -1.0]], "float32")
    >>> bool(np.allclose(planar.inverse(planar(z)), z, atol=1e-6))
    True

    References:
      Danilo Jimenez Rezende, Shakir Mohamed. Variational Inference with Normalizing Flows. 2015.
      arXiv:1505.05770
    """

    def __init__(self, activation: str = "tanh", *, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if activation not in tuple(_ACTIVATIONS):
            raise ValueError(
                f"`activation` must be one of {', '.join(map(repr, _ACTIVATIONS))}: the flow needs "
                f"an increasing function with a known bound of its slope. Received: {activation!r}."
            )
        self.activation = activation
        self.seed = draw_seed() if seed is None else seed
        self._h, self._max_slope = _ACTIVATIONS[activation]

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        shape = (self.event_size,)
        initial_w = keras.initializers.RandomNormal(stddev=1.0, seed=self.seed)
        noise = keras.initializers.RandomNormal(stddev=0.01, seed=self.seed + 1)

        def initial_u(shape, dtype=None):
            # m(a) = 0 at this a, so that u_hat = 0 but for the noise.
            a = np.log(np.expm1(1.0 / self._max_slope))
            w = initial_w(shape, dtype=dtype)
            return a * w / ops.sum(w**2) + noise(shape, dtype=dtype)

        self.w = self.add_weight(shape=shape, initializer=initial_w, name="w")
        self.u = self.add_weight(shape=shape, initializer=initial_u, name="u")
        self.b = self.add_weight(shape=(), initializer="zeros", name="b")

    def _direction(self):
        """Return w, u_hat and softplus(w^T u) = w^T u_hat + 1 / max h'."""
        w, u = self.w, self.u
        projection = ops.sum(w * u)
        # A smaller excess changes nothing but the width of the inverse's bracket.
        excess = ops.maximum(
            ops.softplus(projection), float(np.finfo(self.variable_dtype).eps) ** 2
        )
        # Only w = 0, where every u_hat is allowed, needs the guard.
        norm = ops.maximum(ops.sum(w**2), float(np.finfo(self.variable_dtype).tiny))
        u_hat = u + (excess - 1.0 / self._max_slope - projection) * w / norm
        return w, u_hat, excess

    def _log_slope(self, excess, slope, slack):
        # 1 + w^T u_hat h' as a sum of two terms that are not negative.
        return ops.log(slack + excess * slope)

    def forward_and_log_det(self, x, condition=None):
        w, u_hat, excess = self._direction()
        h, slope, slack = self._h(ops.sum(x * w, axis=-1) + self.b)
        return x + u_hat * h[..., None], self._log_slope(excess, slope, slack)

    def inverse_and_log_det(self, y, condition=None):
        w, u_hat, excess = self._direction()
        factor = excess - 1.0 / self._max_slope
        target = ops.sum(y * w, axis=-1) + self.b

        def along_w(v):
            h, slope, slack = self._h(v)
            return v + factor * h, slack + excess * slope

        # The map's slope along w lies between 1 and 1 + w^T u_hat max h'.
        gap = target - along_w(target)[0]
        far = target + gap / ops.minimum(1.0, self._max_slope * excess)
        near = target + gap / ops.maximum(1.0, self._max_slope * excess)
        v = invert_monotone(along_w, target, ops.minimum(near, far), ops.maximum(near, far))
        h, slope, slack = self._h(v)
        # Where the map is steep, what is left of the error of v would be stretched twice.
        steep = ops.maximum(factor, 1.0)
        h = ops.where(factor > 1.0, (target - v) / steep, h)
        return y - u_hat * h[..., None], -self._log_slope(excess, slope, slack)

    def get_config(self):
        return {**super().get_config(), "activation": self.activation, "seed": self.seed}
