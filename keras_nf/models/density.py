"""DensityModel: the density of a flow and a base, without a way to train it."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_nf.arguments import batch_shape
from keras_nf.base import Base, check_base, is_conditional, is_function, make_base, numbers_of
from keras_nf.flow.arguments import check_condition, title, to_condition, to_events
from keras_nf.flow.contract import Flow
from keras_nf.flow.door import BUILDING
from keras_nf.inputs import join_inputs, split_inputs
from keras_nf.layout import portable_operations
from keras_nf.models.batches import to_batches
from keras_nf.models.export import export_saved_model, input_specs
from keras_nf.models.files import StoredModel
from keras_nf.models.marginals import Marginals
from keras_nf.models.replicas import by_chief, refuse_no_rows
from keras_nf.models.rows import Graphs
from keras_nf.seeds import two_seeds

__all__ = ["DensityModel"]


class DensityModel(Marginals, StoredModel):
    """What the models share: flow, base and encoder, densities, draws, files and exports.

    A subclass adds an objective, by its own `compile`, `fit` and `evaluate`. The arguments are
    those of `FlowModel`.
    """

    def __init__(
        self,
        flow: Flow,
        base: str | Base | Callable[[Any], tfd.Distribution] = "normal",
        *,
        encoder: keras.layers.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(flow, Flow):
            raise ValueError(
                f"`flow` must be a keras_nf flow. Received: {flow!r}. Put several into "
                "keras_nf.Chain([...])."
            )
        check_base(base)
        if encoder is not None and not isinstance(encoder, keras.layers.Layer):
            raise ValueError(f"`encoder` must be a Keras layer or model. Received: {encoder!r}.")
        kwargs.setdefault("dtype", flow.dtype_policy)
        super().__init__(**kwargs)
        self.flow = flow
        self.base = base
        self.encoder = encoder
        # Of what the model takes, batch axis included; an encoder may take several tensors.
        self.condition_shape: Any = None
        self._check_condition(encoder)
        self._graphs: Graphs | None = None
        # Training and evaluation sum up losses in the same metrics.
        self._metrics_lock = threading.RLock()
        self._base_numbers: bytes | None = None

    @property
    def input_dtype(self):
        return self.variable_dtype

    def build(self, inputs_shape):
        with self._weights_scope():
            self._build(*split_inputs(inputs_shape))

    def _build(self, x_shape, condition_shape):
        self.condition_shape = condition_shape
        if self.encoder is not None:
            self._check_condition(condition_shape)
            if not self.encoder.built:
                self.encoder.build(condition_shape)
            condition_shape = self.encoder.compute_output_shape(condition_shape)
        if not self.flow.built:
            event_shape = self.flow.inverse_event_shape(x_shape[-self.flow.event_ndims :])
            self.flow.build((None, *event_shape), condition_shape)
        if isinstance(self.base, Base) and not self.base.built:
            own_condition = (condition_shape,) if self.base.conditional else ()
            self.base.build((None, *self.flow.event_shape), *own_condition)

    def summary(self, *args, expand_nested=True, **kwargs):
        return super().summary(*args, expand_nested=expand_nested, **kwargs)

    def __call__(self, *args, **kwargs):
        with contextlib.nullcontext() if self.built else BUILDING:
            return super().__call__(*args, **kwargs)

    def call(self, inputs, training=None):
        # Keras hands `training` on to the layers of the encoder.
        x, condition = split_inputs(inputs)
        x = to_events(self.flow, x)
        if self.flow.event_ndims > 1:
            x = refuse_no_rows(x)
        distribution = self.distribution
        self._check_positions(x, distribution.event_shape)
        return distribution.log_prob(x, condition=self.encode(condition))

    def _check_positions(self, x, event_shape):
        positions = event_shape.rank - self.flow.event_ndims
        given = x.shape[-event_shape.rank :][:positions]
        if not given.is_compatible_with(event_shape[:positions]):
            raise ValueError(
                f"Expected data of shape {batch_shape(event_shape)}, as the base function has it. "
                f"Received: shape {tuple(x.shape)}. Pass whole events, or give the base event "
                f"shape {self.flow.event_shape}, which makes an event of each position."
            )

    def encode(self, condition: Any) -> Any:
        """Return what the flow sees of a condition, a tensor, or `None` if there is none."""
        self._check_condition(condition)
        if condition is None:
            return None
        if self.encoder is not None:
            shape = self.condition_shape or ()
            # A single condition has an axis less than a batch, which can be told of one tensor.
            is_one_tensor = not any(isinstance(part, (str, tuple, list)) for part in shape)
            if is_one_tensor and np.ndim(condition) == len(shape) - 1:
                condition = self.encoder(tf.convert_to_tensor(condition)[None])[0]
            else:
                condition = self.encoder(condition)
        return to_condition(self.flow, condition)

    def _check_condition(self, condition):
        if condition is None and self.encoder is not None:
            raise ValueError(
                "The model has an encoder, whose output the flow needs as its condition, but no "
                'condition was given. Pass {"x": x, "condition": c} to `fit`, `evaluate` and '
                "`predict`, and `condition=c` to `log_prob` and `sample`."
            )
        has_use = self.flow.uses_condition or is_conditional(self.base)
        if condition is not None and not has_use:
            raise ValueError(
                f"No part of {title(self.flow)} uses a condition, nor does the base, but one was "
                "given. Leave it out, or use couplings, autoregressive flows, "
                "Planar(amortized=True), or a conditional base."
            )

    @property
    def distribution(self) -> tfd.TransformedDistribution:
        """The density as a `tfd.TransformedDistribution`, built anew at each access."""
        if self.flow.event_shape is None:
            raise ValueError(
                f"The event size of {title(self.flow)} is not known yet. Build the model first: "
                "model.build((None, event_size)), or fit it."
            )
        return self.flow(make_base(self.base, self.flow))

    def _forget_stale_graphs(self):
        """Drop what was traced, if the base function returns other numbers than it did then."""
        if not is_function(self.base) or self.flow.event_shape is None:
            return
        if not tf.executing_eagerly():
            return
        numbers = numbers_of(make_base(self.base, self.flow))
        if self._base_numbers not in (None, numbers):
            self.train_function = self.test_function = self.predict_function = None
            self._graphs = None
        self._base_numbers = numbers

    def _graphs_of_now(self):
        self._forget_stale_graphs()
        if self._graphs is None:
            self._graphs = Graphs(self)
        return self._graphs

    def log_prob(self, x: Any, condition: Any = None) -> tf.Tensor:
        """Log-density in nats.

        Args:
          x: data of shape `(..., event_size)`.
          condition: `None`, or a tensor of shape `(..., condition_size)` that broadcasts against
            the batch, or what the encoder takes.

        Returns:
          Tensor of shape `(...)`.

        Raises:
          ValueError: on a wrong size or dtype, or a missing or unexpected condition.
        """
        x = to_events(self.flow, x)
        if condition is not None and self.encoder is None:
            condition = to_condition(self.flow, condition)
        inputs = join_inputs(x, condition)
        if not tf.executing_eagerly():
            return self(inputs)
        if not self.built:
            self(inputs)
        if is_function(self.base):
            # Before a graph for all sizes, which does not see them; a named base has no positions.
            self._check_positions(x, self.distribution.event_shape)
        return self._graphs_of_now().log_prob(inputs)

    def sample(self, n: int, condition: Any = None, seed: Any = None) -> tf.Tensor:
        """Draw from the model.

        The computation is compiled for a few numbers of draws and rounded up to the next of them;
        a new `n` seldom costs a compilation.

        Args:
          n: number of draws, an integer.
          condition: `None`, or a tensor of shape `(..., condition_size)`, or what the encoder
            takes; each of its rows gets `n` draws of its own.
          seed: integer, or two of them, which fix the draws; `None` draws a seed, which
            `keras.utils.set_random_seed` makes reproducible.

        Returns:
          Tensor of shape `(n, event_size)`, or `(n, ..., event_size)` with a condition.

        Raises:
          ValueError: if `n` is negative or no integer, on a missing or unexpected condition, or
            before the event size is known.
        """
        if not (hasattr(n, "__index__") and np.ndim(n) == 0 and n >= 0):
            raise ValueError(f"`n` must be a whole number, at least 0. Received: {n!r}.")
        condition = self.encode(condition)
        if self.flow.built:
            check_condition(self.flow, None if condition is None else condition.shape)
        graphs = self._graphs_of_now()
        z = graphs.draw(tf.constant(int(n)), two_seeds(seed), condition)
        if not tf.executing_eagerly():
            z.set_shape([int(n), *z.shape[1:]])
        return graphs.forward(z, condition)

    def predict(self, x, batch_size=None, **kwargs):
        """Return log p(x) as an array, in batches: `keras.Model.predict`.

        Args:
          x: data, or `{"x": data, "condition": condition}`, or a dataset of either.
          batch_size: rows in a batch of arrays, by default 1,000, or 32 with an encoder.
          **kwargs: the other arguments of `keras.Model.predict`.

        Returns:
          Array of shape `(rows,)`, in nats.

        Raises:
          ValueError: on data of a wrong shape.
        """
        self._forget_stale_graphs()
        return super().predict(to_batches(self, x, None, batch_size), **kwargs)

    def fit(self, *args, **kwargs):
        with self._metrics_lock:
            return super().fit(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        with self._metrics_lock:
            return super().evaluate(*args, **kwargs)

    def train_on_batch(self, *args, **kwargs):
        with self._metrics_lock:
            return super().train_on_batch(*args, **kwargs)

    def test_on_batch(self, *args, **kwargs):
        with self._metrics_lock:
            return super().test_on_batch(*args, **kwargs)

    @by_chief
    def export(self, filepath, format="tf_saved_model", **kwargs):  # noqa: A002
        """Write the model for other runtimes: `keras.Model.export`.

        Args:
          filepath: file or folder to write to.
          format: `"tf_saved_model"`, the signatures of `keras_nf.export_saved_model`; or another
            format of Keras, for log p(x).
          **kwargs: for other formats, the other arguments of `keras.Model.export`.

        Raises:
          ValueError: if the model was not built, or on options that the format does not have.
        """
        if format != "tf_saved_model":
            kwargs.setdefault("input_signature", [join_inputs(*input_specs(self))])
            with portable_operations():
                super().export(filepath, format=format, **kwargs)
            return
        if not kwargs.get("verbose"):
            kwargs.pop("verbose", None)
        if kwargs:
            raise ValueError(
                "The signatures of a SavedModel follow from the model. Received: "
                f"{', '.join(f'{name}={value!r}' for name, value in kwargs.items())}. Leave it out."
            )
        export_saved_model(self, filepath)
