"""DensityHead: parameters of a density as the output of a layer, and the loss that reads them."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from tensorflow_probability import distributions as tfd

from keras_nf.arguments import check_count
from keras_nf.base import make_base
from keras_nf.elementwise.affine import Affine
from keras_nf.elementwise.spline import RationalQuadraticSpline
from keras_nf.flows.autoregressive import Autoregressive
from keras_nf.flows.chain import Chain
from keras_nf.layout import feature_major
from keras_nf.moments import mean_and_std
from keras_nf.networks.autoregressive import AutoregressiveNetwork, parameters_at
from keras_nf.recipes.head import LOG_SCALE_BOUND, targets

__all__ = ["DensityHead", "DensityLoss"]


class _Given(AutoregressiveNetwork):
    """A conditioner whose outputs are a part of the condition."""

    def __init__(self, first, parameters, **kwargs):
        super().__init__(**kwargs)
        self.first, self.parameters = first, parameters

    def call(self, inputs, condition=None):
        return condition[:, self.first : self.first + self.parameters * inputs.shape[-1]]

    def solve(self, elementwise, x, condition=None):
        # No component depends on another.
        x, restore = feature_major(x)
        y, log_derivatives = elementwise.forward(x, parameters_at(self, x, condition))
        return restore(y), restore(ops.sum(log_derivatives, axis=0))


def _targets(options):
    """Return the flow between the real line and the targets of a head with these options."""
    dtype = options["dtype"]
    flows = targets(options["low"], options["high"], False, dtype)
    return Chain(flows, event_size=options["event_size"], dtype=dtype)


def _flow(options):
    """Return the flow whose condition is the output of a head with these options, and its size."""
    size, dtype, flows, first = options["event_size"], options["dtype"], [], 0
    maps = [
        RationalQuadraticSpline(options["bins"], options["bound"]),
        Affine(LOG_SCALE_BOUND, shift_first=False),
        # Mean and deviation of the targets.
        Affine(None, shift_first=False),
    ]
    for elementwise in maps:
        given = _Given(first, elementwise.parameters, dtype=dtype)
        flows.append(Autoregressive(elementwise, conditioner=given, dtype=dtype))
        first += elementwise.parameters * size
    flow = Chain([*flows, _targets(options)], event_size=size, dtype=dtype)
    flow.build((None, size), (None, first))
    return flow, first


@keras.saving.register_keras_serializable("keras_nf")
class DensityLoss(keras.losses.Loss):
    """-log p(y | features), in nats, of the outputs of a `DensityHead`, which is `head.loss`.

    Args:
      **kwargs: the options of the head; `name` and `reduction`, as for any Keras loss.

    Call arguments:
      y_true: targets of shape `(batch, event_size)`, or `(batch,)` of single ones.
      y_pred: outputs of the head.
    """

    def __init__(
        self, *, name: str = "density_loss", reduction: str = "sum_over_batch_size", **kwargs
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=kwargs["dtype"])
        self.options = kwargs
        self._flow, self._size = _flow(kwargs)

    def call(self, y_true, y_pred):
        if y_pred.shape[-1] != self._size:
            raise ValueError(
                f"Expected the outputs of a keras_nf.DensityHead, of shape (batch, {self._size}). "
                f"Received: shape {tuple(y_pred.shape)}. Give each output the loss of its own head."
            )
        y = ops.reshape(y_true, (-1, self.options["event_size"]))
        return -_distribution(self._flow, y_pred).log_prob(y)

    def get_config(self):
        return {"name": self.name, "reduction": self.reduction, **self.options}


def _distribution(flow, outputs):
    """Return p(y | features) of the outputs of a head."""
    return flow(make_base("normal", flow), condition=tf.cast(outputs, flow.dtype))


@keras.saving.register_keras_serializable("keras_nf")
class DensityHead(keras.layers.Layer):
    """Outputs that are the parameters of p(y | features), for models of several outputs.

    It stands where `Dense(1)` did, and `head.loss` where "mse" did. Its outputs are all that the
    density depends on, and the loss has no weights, so that any Keras model trains, saves and
    predicts it; `head.distribution(outputs)` is the density itself, with `log_prob`, `cdf`,
    `quantile` and `sample`. The density is that of `density_head`: a standard normal, bent by a
    rational-quadratic spline, scaled and shifted, all linear in the features. Several targets of
    one head are independent given the features; a `FlowModel` has their joint density, and for a
    single output more answers and exports.

    `adapt(y)`, before `head.loss`, takes mean and deviation from the targets, so that training
    starts from their normal distribution.

    Args:
      event_size: number of targets.
      low, high: bounds of the targets, as for `density_head`.
      bins: number of bins of the spline.
      bound: the spline acts on (-bound, bound), in standard deviations.
      **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Input shape: `(batch, features)`.

    Output shape: `(batch, parameters)`, in the variable dtype.

    Raises:
      ValueError: on bounds that do not fit, on features of another rank, or if the loss is asked
        for before `adapt`.

    Example:

    >>> import keras, keras_nf, numpy as np
    >>> x = np.random.default_rng(0).normal(size=(256, 3)).astype("float32")
    >>> price, sold = np.exp(x[:, 0]), x[:, 1] > 0.0
    >>> inputs = keras.Input((3,))
    >>> features = keras.layers.Dense(16, activation="relu")(inputs)
    >>> head = keras_nf.DensityHead(low=0.0, name="price")
    >>> head.adapt(price)
    >>> outputs = {
    ...     "price": head(features),
    ...     "sold": keras.layers.Dense(1, activation="sigmoid")(features),
    ... }
    >>> model = keras.Model(inputs, outputs)
    >>> losses = {"price": head.loss, "sold": "binary_crossentropy"}
    >>> model.compile("adam", loss=losses)
    >>> history = model.fit(x, {"price": price, "sold": sold}, verbose=0)
    >>> predicted = head.distribution(model.predict(x[:5], verbose=0)["price"])
    >>> predicted.quantile(0.9).shape
    TensorShape([5, 1])
    """

    def __init__(
        self,
        event_size: int = 1,
        *,
        low: float | None = None,
        high: float | None = None,
        bins: int = 8,
        bound: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.event_size = check_count(event_size, "event_size")
        self.options = {
            "event_size": self.event_size,
            "low": low,
            "high": high,
            "bins": bins,
            "bound": bound,
        }
        # Not a layer of this one, for it has no weights.
        flow, size = _flow({**self.options, "dtype": self.variable_dtype})
        self._parts = lambda: (flow, size)
        for name, initializer in (("mean", "zeros"), ("std", "ones")):
            weight = self.add_weight(
                shape=(self.event_size,), initializer=initializer, trainable=False, name=name
            )
            setattr(self, name, weight)
        self.is_adapted = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="is_adapted"
        )

    def build(self, inputs_shape):
        if len(inputs_shape) != 2 or inputs_shape[-1] is None:
            raise ValueError(
                f"{self.name!r} takes features of shape (batch, features). Received: shape "
                f"{tuple(inputs_shape)}. Flatten or pool them."
            )
        units = self._parts()[1] - 2 * self.event_size
        shape = (inputs_shape[-1], units)
        self.kernel = self.add_weight(shape=shape, initializer="zeros", name="kernel")
        self.bias = self.add_weight(shape=(units,), initializer="zeros", name="bias")

    def call(self, inputs):
        outputs = ops.cast(ops.matmul(inputs, self.kernel), self.variable_dtype) + self.bias
        statistics = ops.concatenate([self.mean, ops.log(self.std)])
        statistics = ops.broadcast_to(statistics, (ops.shape(inputs)[0], 2 * self.event_size))
        return ops.concatenate([outputs, ops.cast(statistics, self.variable_dtype)], axis=-1)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self._parts()[1])

    def adapt(self, y: Any) -> None:
        """Take mean and deviation from targets, in the space where they are unbounded.

        Args:
          y: array of shape `(rows, event_size)`, or `(rows,)` of single targets.

        Raises:
          ValueError: if a target is constant, out of its bounds, not finite, or there are fewer
            than two.
        """
        y = np.asarray(y).reshape(-1, self.event_size)
        *_, unbounded = self._parts()[0].flows
        line = unbounded.inverse(tf.cast(y, unbounded.dtype))
        mean, std = mean_and_std(line, unbounded.dtype)
        self.mean.assign(mean)
        self.std.assign(std)
        self.is_adapted.assign(1.0)

    @property
    def loss(self) -> DensityLoss:
        """The loss of the outputs: the mean of -log p(y | features), in nats."""
        if not self.is_adapted.numpy():
            raise ValueError(
                f"{self.name!r} has not seen targets. Call `head.adapt(y)` before `head.loss`, "
                "with those to train on."
            )
        return DensityLoss(**self.options, dtype=self.variable_dtype)

    def distribution(self, outputs: Any) -> tfd.TransformedDistribution:
        """Return p(y | features) of outputs of the layer, of shape `(batch, parameters)`."""
        flow, size = self._parts()
        if np.shape(outputs)[-1:] != (size,):
            raise ValueError(
                f"Expected outputs of {self.name!r}, of shape (..., {size}). Received: shape "
                f"{tuple(np.shape(outputs))}."
            )
        return _distribution(flow, outputs)

    def get_config(self):
        return {**super().get_config(), **self.options}
