"""FlowModel: a density that trains with `fit`."""

import contextlib
import os
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_nf.arguments import check_count
from keras_nf.base import BASES, make_base, numbers_of
from keras_nf.config import FORMAT_VERSION, check_format, serialize_layer
from keras_nf.export import export_saved_model
from keras_nf.flow.arguments import (
    check_condition,
    check_floating,
    title,
    to_condition,
    to_events,
)
from keras_nf.flow.contract import BUILDING, Flow
from keras_nf.layout import portable_operations
from keras_nf.models.files import check_description, describe, replacing
from keras_nf.models.pipeline import (
    as_arrays,
    count_rows,
    join_inputs,
    make_batches,
    specs_of,
    split_inputs,
    split_rows,
)
from keras_nf.models.rows import CompiledRows, traced_by_rank
from keras_nf.seeds import two_seeds

__all__ = ["FlowModel"]


@keras.saving.register_keras_serializable("keras_nf")
def negative_log_likelihood(y_true, y_pred):
    """Loss of a model that returns log-densities; there are no targets."""
    return -y_pred


@keras.saving.register_keras_serializable("keras_nf")
class FlowModel(keras.Model):
    """Density model of a flow and a base: x = f(z), z ~ base, trained by maximum likelihood.

    log p(x) = log p_base(f^{-1}(x)) + log|det df^{-1}/dx|, in nats. `fit` minimizes the mean of
    -log p(x), which is the loss that it reports. `model(x)` and `predict` return log p(x), of
    shape `(batch,)`.

    `fit`, `evaluate` and `predict` take x, of shape `(batch, event_size)`, as an array or a
    `tf.data.Dataset`; a conditional density takes `{"x": x, "condition": c}`. There are no
    targets. Sample weights go beside x as usual: `fit(x, sample_weight=w)`, and in a dataset as
    `(x, w, w)`, the second entry being ignored. Metrics are called with the data as `y_true` and
    the log-densities as `y_pred`. Latents are `model.flow.inverse(x)`.

    With an `encoder` the model is p(x | encoder(c)), trained end to end: the flow sees what the
    encoder makes of the condition, which may then be anything that the encoder takes, as images.
    `model.flow` and `model.distribution` take `condition=model.encoder(c)`, the model itself c.

    Args:
      flow: the flow, or a `Chain` of flows.
      base: distribution of z: `"normal"` (standard normal), `"uniform"` (on [0, 1]),
        `"logistic"` (standard logistic), or a function of `event_size` that returns a
        `tfd.Distribution` with event shape `(event_size,)`. Register the function with
        `keras.saving.register_keras_serializable` so that the model can be saved. With an event
        shape `(..., event_size)` an event has more axes, and the flow, which acts on the last, maps
        each position by itself; without, positions are events of their own.
      encoder: layer or model from the condition to a tensor of shape `(batch, condition_size)`;
        with `None` the flow takes the condition as it is.
      **kwargs: `name`, `dtype` (the flow's unless given) and `trainable`, as for any Keras model.

    Raises:
      ValueError: if the flow is no flow, the base is unknown or the encoder is no layer; on
        targets; on a condition that no part of the flow uses.

    Example:

    >>> import numpy as np, keras_nf
    >>> x = np.random.default_rng(0).normal(3.0, 1.0, size=(256, 2)).astype("float32")
    >>> model = keras_nf.FlowModel(keras_nf.maf(event_size=2, hidden_units=(16,)))
    >>> model.compile("adam")
    >>> history = model.fit(x, epochs=1, verbose=0)
    >>> model.log_prob(x).shape, model.sample(3, seed=0).shape
    (TensorShape([256]), TensorShape([3, 2]))
    """

    # Arguments that may be functions of the user's own.
    _FUNCTIONS: tuple[str, ...] = ("base",)

    def __init__(
        self,
        flow: Flow,
        base: str | Callable[[int], tfd.Distribution] = "normal",
        *,
        encoder: keras.layers.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(flow, Flow):
            raise ValueError(
                f"`flow` must be a keras_nf flow. Received: {flow!r}. Put several into "
                "keras_nf.Chain([...])."
            )
        if not callable(base) and base not in tuple(BASES):
            raise ValueError(
                f"`base` must be one of {', '.join(map(repr, BASES))} or a function of event_size "
                f"that returns a tfd.Distribution. Received: {base!r}."
            )
        if encoder is not None and not isinstance(encoder, keras.layers.Layer):
            raise ValueError(f"`encoder` must be a Keras layer or model. Received: {encoder!r}.")
        kwargs.setdefault("dtype", flow.dtype_policy)
        super().__init__(**kwargs)
        self.flow = flow
        self.base = base
        self.encoder = encoder
        self._condition_shape: Any = None
        if encoder is not None:
            self._check_condition(encoder)
        self._graphs: _Graphs | None = None
        self._base_numbers: bytes | None = None

    @property
    def input_dtype(self):
        return self.variable_dtype

    def build(self, inputs_shape):
        x_shape, condition_shape = split_inputs(inputs_shape)
        self._condition_shape = condition_shape
        if self.encoder is not None:
            self._check_given(condition_shape)
            if not self.encoder.built:
                self.encoder.build(condition_shape)
            condition_shape = self.encoder.compute_output_shape(condition_shape)
        if not self.flow.built:
            self.flow.build(x_shape, condition_shape)

    def compile(self, optimizer="adam", *, loss=None, jit_compile="auto", **kwargs):
        """Configure training: `keras.Model.compile` without a loss.

        Args:
          optimizer: optimizer or its name.
          loss: must stay `None`; the loss is the mean negative log-likelihood.
          jit_compile: whether to compile with XLA; `"auto"` leaves it to Keras, which does on
            accelerators, but compiles planar flows on a CPU too.
          **kwargs: the other arguments of `keras.Model.compile`.

        Raises:
          ValueError: if a loss is given.
        """
        if loss is not None:
            raise ValueError(
                "FlowModel trains by maximum likelihood and takes no loss. Received: "
                f"loss={loss!r}. Leave it out, or put the flow into a keras.Model of your own."
            )
        super().compile(optimizer, loss=negative_log_likelihood, jit_compile=jit_compile, **kwargs)
        prefers_xla = any(getattr(layer, "_prefers_xla", False) for layer in self._flatten_layers())
        # The other conditions are those on which Keras chooses XLA on an accelerator.
        undecided = jit_compile == "auto" and not self.run_eagerly
        if prefers_xla and undecided and self._distribute_strategy is None:
            with warnings.catch_warnings():
                # It stays off, with a warning, where a layer or determinism forbids it.
                warnings.simplefilter("ignore")
                self.jit_compile = True

    def get_compile_config(self):
        config = super().get_compile_config()
        if not config:
            return config
        del config["loss"]
        return {**config, "jit_compile": self.jit_compile}

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self._build_optimizer()

    def summary(self, *args, expand_nested=True, **kwargs):
        return super().summary(*args, expand_nested=expand_nested, **kwargs)

    def __call__(self, *args, **kwargs):
        with contextlib.nullcontext() if self.built else BUILDING:
            return super().__call__(*args, **kwargs)

    def call(self, inputs, training=None):
        # Keras hands `training` on to the layers of the encoder.
        x, condition = split_inputs(inputs)
        x = to_events(self.flow, x)
        distribution = self.distribution
        self._check_positions(x, distribution.event_shape)
        return distribution.log_prob(x, condition=self._encode(condition))

    def _check_positions(self, x, event_shape):
        if not x.shape[-event_shape.rank : -1].is_compatible_with(event_shape[:-1]):
            raise ValueError(
                f"Expected data of shape {self._batch_shape()}, as the base function has it. "
                f"Received: shape {tuple(x.shape)}. Pass whole events, or give the base event "
                f"shape ({self.flow.event_size},), which makes an event of each position."
            )

    def _encode(self, condition):
        """Return what the flow sees of a condition, a tensor, or `None` if there is none."""
        self._check_condition(condition)
        if self.encoder is not None:
            self._check_given(condition)
            condition = self._run_encoder(condition)
        if condition is None:
            return None
        return to_condition(self.flow, condition)

    def _run_encoder(self, condition):
        """Encode a batch of conditions, or a single one, which has an axis less."""
        shape = self._condition_shape
        is_one_tensor = shape is not None and not any(isinstance(s, (tuple, list)) for s in shape)
        if is_one_tensor and not isinstance(shape, dict) and np.ndim(condition) == len(shape) - 1:
            return self.encoder(tf.convert_to_tensor(condition)[None])[0]
        return self.encoder(condition)

    def _check_given(self, condition):
        if condition is None:
            raise ValueError(
                "The model has an encoder, whose output the flow needs as its condition, but no "
                'condition was given. Pass {"x": x, "condition": c} to `fit`, `evaluate` and '
                "`predict`, and `condition=c` to `log_prob` and `sample`."
            )

    def _check_condition(self, condition):
        if condition is not None and not self.flow.uses_condition:
            raise ValueError(
                f"No part of {title(self.flow)} uses a condition, but one was given. Leave it out, "
                "or use couplings, autoregressive flows, or Planar(amortized=True)."
            )

    def _check_batch(self, inputs):
        """Check the shapes of arrays or of a dataset; what Keras says of them later is no help."""
        x, condition = split_inputs(inputs)
        check_floating(self.flow, x)
        shape = getattr(x, "shape", None)
        if shape is None or tf.TensorShape(shape).rank is None:
            return
        if len(shape) < 2:
            raise ValueError(
                "Expected data of shape (batch, event_size). Received: shape "
                f"{tuple(shape)}. Batch a dataset; add an axis for the event to an array, also "
                "when it has a single component: x[:, None]."
            )
        if self.flow.built and shape[-1] not in (None, self.flow.event_size):
            raise ValueError(
                f"{title(self.flow)} was built for data of shape (batch, {self.flow.event_size}). "
                f"Received: shape {tuple(shape)}. Pass events of that size, or make a new flow."
            )
        for part in tf.nest.flatten(condition):
            rows = part.shape[0] if hasattr(part, "shape") and len(part.shape) else None
            if None not in (rows, shape[0]) and rows != shape[0]:
                raise ValueError(
                    f"Expected a condition for each row of the data. Received: {shape[0]} rows in "
                    f"'x' and {rows} in 'condition'."
                )

    def _build_for(self, inputs):
        """Build model and optimizer where the shapes are known before the first step.

        Keras would build them inside of it, and would then have to trace it a second time.
        """
        x, condition = split_inputs(inputs)
        parts = [x] if condition is None else [x, condition]
        if not self.compiled or not all(hasattr(part, "shape") for part in parts):
            return
        shapes = [tf.TensorShape(part.shape) for part in parts]
        if any(shape.rank is None or shape.rank < 2 or shape[-1] is None for shape in shapes):
            return
        x_shape, *condition_shape = [(None, *shape[1:]) for shape in shapes]
        with self.distribute_strategy.scope():
            if not self.built:
                self.build(join_inputs(x_shape, *(condition_shape or [None])))
        self._build_optimizer()

    def _build_optimizer(self):
        with self.distribute_strategy.scope():
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)

    def _arrays(self, inputs, sample_weight):
        """Return inputs and weights as tensors of the model's dtype, or `None` if not of arrays."""
        x, condition = split_inputs(inputs)
        if isinstance(x, (tf.RaggedTensor, tf.SparseTensor)):
            x = to_events(self.flow, x)
        x = as_arrays(x, self.variable_dtype)
        if condition is not None:
            # An encoder casts by itself.
            condition = as_arrays(condition, None if self.encoder else self.variable_dtype)
            x = None if condition is None else x
        if x is None:
            if sample_weight is not None:
                raise ValueError(
                    "`sample_weight` goes beside arrays. Put the weights of a dataset into it, as "
                    f"(x, w, w). Received: {type(inputs).__name__}."
                )
            return None
        weight = None if sample_weight is None else as_arrays(sample_weight, self.variable_dtype)
        arrays = join_inputs(x, condition), weight
        if count_rows(arrays) is None:
            self._check_batch(arrays[0])
            raise ValueError(
                f"Expected a sample weight for each row of the data. Received: {x.shape[0]} rows "
                f"and weights of shape {tuple(getattr(weight, 'shape', ()))}."
            )
        return arrays

    def _batches(self, inputs, sample_weight, batch_size, shuffle=False):
        """Return checked batches: a dataset of arrays, and anything else as it is."""
        arrays = self._arrays(inputs, sample_weight)
        self._check_batch(specs_of(inputs) if arrays is None else arrays[0])
        if arrays is None:
            return inputs
        data = arrays[0] if arrays[1] is None else (arrays[0], arrays[1], arrays[1])
        return make_batches(data, batch_size, shuffle)

    def _large_batch(self, batch_size):
        """Return a batch size for what needs no gradient; an encoder's inputs may be large."""
        if batch_size is None:
            return 1024 if self.encoder is None else 32
        return check_count(batch_size, "batch_size")

    def _batch_shape(self):
        return f"(batch, {', '.join(map(str, self.distribution.event_shape))})"

    def _known_event_size(self):
        if self.flow.event_size is None:
            raise ValueError(
                f"The event size of {title(self.flow)} is not known yet. Build the model first: "
                "model.build((None, event_size)), or fit it."
            )
        return self.flow.event_size

    @property
    def distribution(self) -> tfd.TransformedDistribution:
        """The density as a `tfd.TransformedDistribution`, built anew at each access."""
        return self.flow(make_base(self.base, self._known_event_size(), self.flow.dtype))

    def _forget_stale_graphs(self):
        """Drop what was traced, if the base function returns other numbers than it did then."""
        if not callable(self.base) or self.flow.event_size is None or not tf.executing_eagerly():
            return
        numbers = numbers_of(make_base(self.base, self.flow.event_size, self.flow.dtype))
        if self._base_numbers not in (None, numbers):
            self.train_function = self.test_function = self.predict_function = None
            self._graphs = None
        self._base_numbers = numbers

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
        if callable(self.base):
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
        self._known_event_size()
        condition = self._encode(condition)
        if self.flow.built:
            check_condition(self.flow, None if condition is None else condition.shape)
        graphs = self._graphs_of_now()
        z = graphs.draw(tf.constant(int(n)), two_seeds(seed), condition)
        if not tf.executing_eagerly():
            z.set_shape([int(n), *z.shape[1:]])
        return graphs.forward(z, condition)

    def _graphs_of_now(self):
        self._forget_stale_graphs()
        if self._graphs is None:
            self._graphs = _Graphs(self)
        return self._graphs

    def fit(
        self,
        x=None,
        y=None,
        *,
        batch_size=None,
        sample_weight=None,
        shuffle=True,
        validation_split=0.0,
        validation_data=None,
        validation_batch_size=None,
        **kwargs,
    ):
        """Train by maximum likelihood: `keras.Model.fit` without targets.

        Args:
          x: data, or `{"x": data, "condition": condition}`, or a dataset of either.
          y: must stay `None`.
          batch_size: rows in a batch of arrays, by default 32.
          sample_weight: weight of each row's -log p(x).
          shuffle: whether to draw another order of the arrays for each epoch, `True` or `False`.
          validation_split: fraction of the arrays, their last rows, to validate with.
          validation_data: data like `x`, or `(x, None, sample_weight)`.
          validation_batch_size: as `batch_size`, which is its default.
          **kwargs: the other arguments of `keras.Model.fit`.

        Returns:
          A `keras.callbacks.History`.

        Raises:
          ValueError: on targets, on data of a wrong shape, on `sample_weight` or
            `validation_split` beside a dataset, or on a useless split.
        """
        _check_no_targets(y, kwargs)
        if not isinstance(shuffle, bool):
            raise ValueError(f"`shuffle` must be True or False. Received: {shuffle!r}.")
        batch_size = 32 if batch_size is None else check_count(batch_size, "batch_size")
        self._forget_stale_graphs()
        if isinstance(validation_data, tuple):
            x_val, y_val, weight_val = (*validation_data, None, None)[:3]
            _check_no_targets(y_val)
            validation_data = x_val
        else:
            weight_val = None
        if validation_split and validation_data is None:
            arrays = self._arrays(x, sample_weight)
            if arrays is None:
                raise ValueError(
                    "`validation_split` takes rows from arrays. Pass `validation_data`; a dataset "
                    f"is split by its own `take` and `skip`. Received: {type(x).__name__}."
                )
            (x, sample_weight), (validation_data, weight_val) = split_rows(arrays, validation_split)
        batches = self._batches(x, sample_weight, batch_size, shuffle)
        self._build_for(specs_of(x))
        if kwargs.get("steps_per_epoch") and batches is not x:
            batches = batches.repeat()
        if validation_data is not None:
            size = check_count(validation_batch_size or batch_size, "validation_batch_size")
            validation_data = self._batches(validation_data, weight_val, size)
        return super().fit(batches, shuffle=False, validation_data=validation_data, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=None, *, sample_weight=None, **kwargs):
        """Return the mean of -log p(x), in nats: `keras.Model.evaluate` without targets.

        Args:
          x: data, or `{"x": data, "condition": condition}`, or a dataset of either.
          y: must stay `None`.
          batch_size: rows in a batch of arrays, by default 1,024, or 32 with an encoder.
          sample_weight: weight of each row's -log p(x).
          **kwargs: the other arguments of `keras.Model.evaluate`.

        Returns:
          The loss, or with metrics a list, or with `return_dict=True` a dictionary.

        Raises:
          ValueError: on targets.
        """
        # `fit` evaluates its validation data, which has passed `fit`'s own check, with this flag.
        if not kwargs.get("_use_cached_eval_dataset"):
            _check_no_targets(y)
            self._forget_stale_graphs()
            x = self._batches(x, sample_weight, self._large_batch(batch_size))
        return super().evaluate(x, **kwargs)

    def predict(self, x, batch_size=None, **kwargs):
        """Return log p(x) as an array, in batches: `keras.Model.predict`.

        Args:
          x: data, or `{"x": data, "condition": condition}`, or a dataset of either.
          batch_size: rows in a batch of arrays, by default 1,024, or 32 with an encoder.
          **kwargs: the other arguments of `keras.Model.predict`.

        Returns:
          Array of shape `(rows,)`, in nats.

        Raises:
          ValueError: on data of a wrong shape.
        """
        self._forget_stale_graphs()
        return super().predict(self._batches(x, None, self._large_batch(batch_size)), **kwargs)

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
            kwargs.setdefault("input_signature", self._input_signature())
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

    def _input_signature(self):
        """What `call` takes, for a model that was built but perhaps never called."""
        event_shape = self.distribution.event_shape
        x = keras.InputSpec(shape=(None, *event_shape), dtype=self.variable_dtype, name="x")
        condition = self._condition_spec()
        if condition is None:
            return [x]
        return [{"x": x, "condition": keras.InputSpec(**condition, name="condition")}]

    def _condition_spec(self):
        """Return shape and dtype of a condition, or `None` if the model has none."""
        if self.flow.condition_size is None:
            return None
        shape = self._condition_shape
        if not all(size is None or isinstance(size, int) for size in shape):
            raise ValueError(
                "An export takes the condition as a single tensor, but the encoder was built for "
                f"shapes {shape}. Export the encoder by itself, and FlowModel(model.flow)."
            )
        inputs = getattr(self.encoder, "inputs", None)
        dtype = inputs[0].dtype if inputs else self.variable_dtype
        return {"shape": (None, *shape[1:]), "dtype": dtype}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if y is not None and sample_weight is None:
            raise ValueError(_NO_TARGETS)
        if y_pred.shape.rank == 0:
            raise ValueError(
                f"Expected batches of shape {self._batch_shape()}. Received: a single event of "
                f"shape {tuple(split_inputs(x)[0].shape)}. Add an axis for the event, or batch the "
                "dataset."
            )
        return super().compute_loss(x, y_pred, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, split_inputs(x)[0], y_pred, sample_weight)

    def save(self, filepath, overwrite=True, **kwargs):
        """Write the model to a file: `keras.Model.save`, which keeps the old one until it is done.

        Args:
          filepath: path that ends with `.keras`.
          overwrite: whether to replace an existing file without asking.
          **kwargs: the other arguments of `keras.Model.save`.
        """
        with self._new_file(filepath, ".keras", overwrite, kwargs) as new:
            super().save(new, overwrite, **kwargs)

    def save_weights(self, filepath, overwrite=True, **kwargs):
        """Write the weights to a file: `keras.Model.save_weights`, which keeps the old one so long.

        Args:
          filepath: path that ends with `.weights.h5`.
          overwrite: whether to replace an existing file without asking.
          **kwargs: the other arguments of `keras.Model.save_weights`.
        """
        with self._new_file(filepath, ".weights.h5", overwrite, kwargs) as new:
            super().save_weights(new, overwrite, **kwargs)

    def _new_file(self, filepath, suffix, overwrite, options):
        """Give the path to write to: one beside the file, if that is a single local one."""
        path = str(filepath)
        asks = not overwrite and os.path.exists(path)
        if asks or options or "://" in path or not path.endswith(suffix):
            return contextlib.nullcontext(filepath)
        return replacing(path, suffix)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self.flow.built:
            store[_DESCRIPTION] = np.frombuffer(describe(self), "uint8")

    def load_own_variables(self, store):
        own = {name: store[name] for name in store.keys() if name != _DESCRIPTION}  # noqa: SIM118
        super().load_own_variables(own)
        if _DESCRIPTION in store.keys():  # noqa: SIM118
            check_description(np.asarray(store[_DESCRIPTION]).tobytes(), self)

    def get_config(self):
        return {
            **super().get_config(),
            "format_version": FORMAT_VERSION,
            "flow": serialize_layer(self.flow),
            "encoder": serialize_layer(self.encoder),
            **{name: _serialize(getattr(self, name), name) for name in self._FUNCTIONS},
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = check_format(config)
        for name in cls._FUNCTIONS:
            _check_known(config.get(name), name, custom_objects)
        return cls(**keras.saving.deserialize_keras_object(config, custom_objects=custom_objects))


def _serialize(function, name):
    """Return the config of a function of the user's own, or of the name of one of ours."""
    if not callable(function):
        return function
    if keras.saving.get_registered_name(function) == getattr(function, "__name__", None):
        raise ValueError(
            f"The {name} {function!r} is not registered, so that a saved model could not be "
            "loaded. Decorate the function with "
            "@keras.saving.register_keras_serializable('your_package')."
        )
    return keras.saving.serialize_keras_object(function)


def _check_known(function, name, custom_objects):
    """Refuse the config of a function that is not registered in this program."""
    if not isinstance(function, dict):
        return
    known = function.get(
        "config" if function.get("class_name") == "function" else "registered_name"
    )
    if keras.saving.get_registered_object(known, custom_objects) is None:
        raise ValueError(
            f"The {name} of this model is a function registered as {known!r}, which is not "
            "known here. Import the module that registers it with "
            "@keras.saving.register_keras_serializable before loading."
        )


class _Graphs:
    """What a model computes again and again; kept apart, for an export would take it along."""

    def __init__(self, model):
        def draw(n, seed, condition):
            return model.distribution.sample_base(n, seed, condition=condition)

        def forward(z, condition=None):
            return model.flow.forward(z, condition=condition)

        self.log_prob = traced_by_rank(lambda inputs: model(inputs))
        # Outside of XLA, whose generators are many times slower on a CPU.
        self.draw = traced_by_rank(draw)
        jit_compile = all(layer.supports_jit for layer in model._flatten_layers())
        self.forward = CompiledRows(forward, jit_compile)


_NO_TARGETS = (
    "FlowModel models the density of x and takes no targets. Received: y. For a conditional "
    'density p(y | c) pass {"x": y, "condition": c} as x; sample weights in a dataset go third: '
    "(x, w, w)."
)


# Name of the description of the model among the weights in a file.
_DESCRIPTION = "structure"


def _check_no_targets(y, options=()):
    if y is not None:
        raise ValueError(_NO_TARGETS)
    if "class_weight" in options and options.pop("class_weight") is not None:
        raise ValueError(
            "FlowModel models the density of x, which has no classes, and takes no `class_weight`. "
            "Give each row a weight by `sample_weight`."
        )
