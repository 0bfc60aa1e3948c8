"""Planar flow: folds along hyperplanes."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_nf.arguments import check_count
from keras_nf.flow.arguments import title
from keras_nf.flow.contract import Flow
from keras_nf.increasing import INCREASING
from keras_nf.layout import feature_major, refuse_forward_mode, saturate, update_rows
from keras_nf.root import invert_monotone

__all__ = ["Planar"]


# The weights of all layers have a last axis of size 1 where the whole batch shares them.


def _along(w, x):
    """Return the products of w, (layers, event_size, batch or 1), with x, (event_size, batch)."""
    return ops.matmul(w[..., 0], x) if w.shape[-1] == 1 else ops.sum(w * x, axis=1)


def _combine(u, h):
    """Return the sum over layers of u, (layers, event_size, batch or 1), times h."""
    return (
        ops.sum(u * h[:, None], axis=0)
        if u.shape[-1] != 1
        else ops.matmul(ops.transpose(u[..., 0]), h)
    )


def _of_pairs(w, u):
    """Return w^T u of every layer with every layer, of shape (layers, layers, batch or 1)."""
    if w.shape[-1] == 1:
        return ops.matmul(w[..., 0], ops.transpose(u[..., 0]))[..., None]
    pairs = ops.matmul(ops.transpose(w, (2, 0, 1)), ops.transpose(u, (2, 1, 0)))
    return ops.transpose(pairs, (1, 2, 0))


def _outer(adjoint, h, columns):
    """Return the products of (layers, batch) with (layers, batch), summed over a shared batch."""
    if columns == 1:
        return ops.matmul(adjoint, ops.transpose(h))[..., None]
    return adjoint[:, None] * h


@keras.saving.register_keras_serializable("keras_nf")
class Planar(Flow):
    """Planar flow.

    x = z + u_hat h(w^T z + b), with log|det dx/dz| = log|1 + w^T u_hat h'(w^T z + b)|. The weights
    are w, u and b; u_hat = u + (m(w^T u) - w^T u) w / |w|^2, m(a) = softplus(a + c) - 1 / max h',
    keeps w^T u_hat > -1 / max h', so that the map is invertible. The constant c makes m(0) = 0:
    the fold of u = 0 is the identity, and u_hat has no pole at w = 0. In appendix A.1 of the
    paper, where h = tanh and max h' = 1, c is 0, which gives the same maps by other u.
    `folds` of these follow one another; their products with the event are formed together.

    With `amortized=True` each event has weights of its own, an affine function of its condition
    (section 4.2 of the paper, where the condition is the last hidden layer of an encoder).

    `forward` is a closed form. `inverse` has none: along w it is one scalar equation,
    a + w^T u_hat h(a + b) = w^T x, for each layer, solved to float precision by a safeguarded
    Newton search (some ten evaluations of h), with exact gradients for the input and the weights.
    A fresh layer is close to the identity.

    Args:
      activation: h, one of `"tanh"`, `"sigmoid"`, `"arctan"`, `"softplus"`, `"elu"`: increasing,
        with a known bound of its slope.
      folds: number of folds, the first next to the base.
      amortized: whether w, u and b depend on the condition.
      **kwargs: `event_size`, `validate_args`, `name`, `dtype`, `trainable`; see `keras_nf.Flow`.

    Call arguments:
      condition: tensor of shape `(..., condition_size)`, which an amortized flow needs.

    Input shape: `(..., event_size)`.

    Output shape: the same; log-determinants have shape `(...)`.

    Raises:
      ValueError: if the activation is not one of those above, `folds` is not a positive integer,
        or an amortized flow is built without a condition.

    Example:

    >>> import numpy as np, keras_nf
    >>> planar = keras_nf.Planar(folds=4)
    >>> z = np.array([[0.5, -1.0]], "float32")
    >>> bool(np.allclose(planar.inverse(planar(z)), z, atol=1e-6))
    True

    References:
      Danilo Jimenez Rezende, Shakir Mohamed. Variational Inference with Normalizing Flows. 2015.
      arXiv:1505.05770
    """

    def __init__(
        self,
        activation: str = "tanh",
        *,
        folds: int = 1,
        amortized: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if activation not in tuple(INCREASING):
            raise ValueError(
                f"`activation` must be one of {', '.join(map(repr, INCREASING))}: the flow needs "
                f"an increasing function with a known bound of its slope. Received: {activation!r}."
            )
        self.activation = activation
        self.folds = check_count(folds, "folds")
        self.amortized = bool(amortized)
        self._h, self._max_slope = INCREASING[activation]

    @property
    def uses_condition(self):
        return self.amortized

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        if self.amortized and self.condition_size is None:
            raise ValueError(
                f"{title(self)} is amortized and needs a condition of shape (..., condition_size), "
                "which gives each event its weights. Received: none. Pass `condition=`."
            )
        shape = (self.folds, self.event_size)
        direction = keras.initializers.RandomNormal(stddev=1.0)
        noise = keras.initializers.RandomNormal(stddev=0.01)

        def initial_w(shape, dtype=None):
            # Half as long as a standard normal usually is, so that a fold bends all over the data;
            # near w = 0 small steps of w are long for x.
            w = direction(shape, dtype=dtype)
            return 0.5 * w * ops.sqrt(self.event_size / ops.sum(w**2, axis=1, keepdims=True))

        self.w = self.add_weight(shape=shape, initializer=initial_w, name="w")
        self.u = self.add_weight(shape=shape, initializer=noise, name="u")
        self.b = self.add_weight(shape=shape[:1], initializer="zeros", name="b")
        if self.amortized:
            units = self.folds * (2 * self.event_size + 1)
            self.kernel = self.add_weight(
                shape=(self.condition_size, units), initializer="zeros", name="kernel"
            )

    def _weights(self, condition):
        """Return w, u and b, with a last axis of the batch, or of size 1 where all share them."""
        w, u, b = self.w.value[..., None], self.u.value[..., None], self.b.value[:, None]
        if condition is None:
            return w, u, b
        kernel = ops.cast(ops.transpose(self.kernel.value), self.compute_dtype)
        effect = ops.matmul(kernel, saturate(feature_major(condition)[0], self.compute_dtype))
        size = self.folds * self.event_size
        effects = tf.split(saturate(effect, self.variable_dtype), [size, size, self.folds])
        # The last axis of the batch may be unknown to `ops.reshape`.
        on_w, on_u = (
            tf.reshape(part, (self.folds, self.event_size, tf.shape(part)[1]))
            for part in effects[:2]
        )
        return w + on_w, u + on_u, b + effects[2]

    def _directions(self, condition):
        """Return w, u_hat, b and softplus(w^T u + c) = w^T u_hat + 1 / max h' of every layer."""
        w, u, b = self._weights(condition)
        projection = ops.sum(w * u, axis=1)
        # A smaller excess changes nothing but the width of the inverse's bracket.
        excess = ops.maximum(
            ops.softplus(projection + np.log(np.expm1(1.0 / self._max_slope))),
            float(np.finfo(self.variable_dtype).eps) ** 2,
        )
        # Only w = 0, where every u_hat is allowed, needs the guard.
        norm = ops.maximum(ops.sum(w**2, axis=1), float(np.finfo(self.variable_dtype).tiny))
        along_w = (excess - 1.0 / self._max_slope - projection) / norm
        return w, u + along_w[:, None] * w, b, excess

    def _earlier(self, w, u_hat):
        """Return w^T u_hat of each layer (row) with those before it (columns), zeros elsewhere."""
        # tf.linalg.band_part and set_diag are more than the converter of TensorFlow.js takes.
        before = np.tri(self.folds, k=-1, dtype=bool)[:, :, None]
        return ops.where(before, _of_pairs(w, u_hat), 0.0)

    def _log_det(self, v, excess):
        _, slope, slack = self._h(v)
        # 1 + w^T u_hat h' as a sum of two terms that are not negative.
        return ops.sum(ops.log(slack + excess * slope), axis=0)

    def _forward_and_log_det(self, x, condition=None):
        w, u_hat, b, excess = self._directions(condition)
        x, restore = feature_major(x)

        def closed_form(k, target):
            return target, self._h(target)[0]

        v, h = self._solve(-self._earlier(w, u_hat), _along(w, x) + b, closed_form)
        return restore(x + _combine(u_hat, h)), restore(self._log_det(v, excess))

    def _inverse_and_log_det(self, y, condition=None):
        # The last fold is undone first.
        w, u_hat, b, excess = (ops.flip(part, axis=0) for part in self._directions(condition))
        y, restore = feature_major(y)
        factor = excess - 1.0 / self._max_slope
        own = factor[:, None] * np.eye(self.folds, dtype=self.variable_dtype)[:, :, None]

        def root(k, target):
            def along_w(v):
                h, slope, slack = self._h(v)
                return v + factor[k] * h, slack + excess[k] * slope

            # The map's slope along w lies between 1 and 1 + w^T u_hat max h'.
            gap = target - along_w(target)[0]
            far = target + gap / ops.minimum(1.0, self._max_slope * excess[k])
            near = target + gap / ops.maximum(1.0, self._max_slope * excess[k])
            v = invert_monotone(along_w, target, ops.minimum(near, far), ops.maximum(near, far))
            # Where the map is steep, what is left of the error of v would be stretched twice.
            steep = ops.maximum(factor[k], 1.0)
            return v, ops.where(factor[k] > 1.0, (target - v) / steep, self._h(v)[0])

        v, h = self._solve(self._earlier(w, u_hat) + own, _along(w, y) + b, root)
        return restore(y - _combine(u_hat, h)), restore(-self._log_det(v, excess))

    def _solve(self, mixing, target, solve_layer):
        """Solve v + mixing h(v) = target, layer by layer; return v and h(v).

        The derivative of the solution is that of the equations, of any order, whichever way they
        were solved.

        Args:
          mixing: lower triangular matrices (layers, layers, batch), or a single one.
          target: tensor (layers, batch).
          solve_layer: takes the number of a layer and what the layers before it leave of its
            target; returns its v and h(v).
        """
        columns = ops.stop_gradient(ops.transpose(mixing, (1, 0, 2)))

        def advance(k, rest, v, h):
            v_k, h_k = solve_layer(k, rest[k])
            rest = rest - columns[k] * h_k
            v, h = (update_rows(a, k, a_k[None]) for a, a_k in ((v, v_k), (h, h_k)))
            return k + 1, rest, v, h

        # Zeros of their own for each: TensorFlow.js writes updated rows over what it updates.
        v, h = ops.zeros_like(target), ops.zeros_like(target)
        _, _, v, h = ops.while_loop(
            lambda k, *_: k < self.folds,
            advance,
            (ops.convert_to_tensor(0), ops.stop_gradient(target), v, h),
        )
        v, h = ops.stop_gradient(v), ops.stop_gradient(h)
        v = self._implicit(v, mixing, target)
        with_gradient = self._h(v)[0]
        return v, h + (with_gradient - ops.stop_gradient(with_gradient))

    def _implicit(self, v, mixing, target):
        """Return v, with the derivatives of the solution of v + mixing h(v) = target."""

        if not tf.executing_eagerly():
            # Graphs leave out gradients of our own in this mode.
            refuse_forward_mode("A planar flow inside of a tf.function", [mixing, target])

        @ops.custom_gradient
        def solution(v, mixing, target):
            def gradient(upstream):
                # Accumulators around a function see tensors of the gradient's own graph alone.
                root, mixed, aim = (tf.identity(known) for known in (v, mixing, target))
                h, slope, _ = self._h(self._implicit(root, mixed, aim))
                adjoints = [None] * self.folds
                for k in reversed(range(self.folds)):
                    adjoints[k] = upstream[k] / (1.0 + mixed[k, k] * slope[k])
                    upstream = upstream - mixed[k] * slope * adjoints[k]
                adjoint = ops.stack(adjoints)
                return None, -_outer(adjoint, h, mixed.shape[-1]), adjoint

            return tf.identity(v), gradient

        return solution(v, mixing, target)

    def get_config(self):
        return {
            **super().get_config(),
            "activation": self.activation,
            "folds": self.folds,
            "amortized": self.amortized,
        }

    @classmethod
    def from_config(cls, config):
        config = {name: value for name, value in config.items() if name != "seed"}
        if "layers" in config:
            # Its name in earlier files, which also had a seed of the initial weights.
            config["folds"] = config.pop("layers")
        return super().from_config(config)
