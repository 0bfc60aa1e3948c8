"""FlowModel: a density that trains with `fit`."""

import itertools
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_nf.export import export_saved_model
from keras_nf.flow import FORMAT_VERSION, Flow, check_format
from keras_nf.layout import portable_operations
from keras_nf.permutation import draw_seed
from keras_nf.pipeline import count_rows, make_batches, split_rows, splits_rows

__all__ = ["FlowModel"]


def _normal(zeros):
    return tfd.Normal(zeros, tf.ones_like(zeros))


def _uniform(zeros):
    return tfd.Uniform(zeros, tf.ones_like(zeros))


def _logistic(zeros):
    return tfd.Logistic(zeros, tf.ones_like(zeros))


_BASES = {"normal": _normal, "uniform": _uniform, "logistic": _logistic}


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
        if not callable(base) and base not in tuple(_BASES):
            raise ValueError(
                f"`base` must be one of {', '.join(map(repr, _BASES))} or a function of event_size "
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
        self._compiled_sample: Callable[..., tf.Tensor] | None = None

    @property
    def input_dtype(self):
        return self.variable_dtype

    def build(self, inputs_shape):
        x_shape, condition_shape = _unpack(inputs_shape)
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

    def call(self, inputs, training=None):
        # Keras hands `training` on to the layers of the encoder.
        x, condition = _unpack(inputs)
        x = self.flow._to_tensor(x, "inputs", "event_size")
        distribution = self.distribution
        event_shape = distribution.event_shape
        if not x.shape[-event_shape.rank : -1].is_compatible_with(event_shape[:-1]):
            raise ValueError(
                f"Expected data of shape {self._batch_shape()}, as the base function has it. "
                f"Received: shape {tuple(x.shape)}. Pass whole events, or give the base event "
                f"shape ({self.flow.event_size},), which makes an event of each position."
            )
        return distribution.log_prob(x, condition=self._encode(condition))

    def _encode(self, condition):
        """Return what the flow sees of a condition, a tensor, or `None` if there is none."""
        self._check_condition(condition)
        if self.encoder is not None:
            self._check_given(condition)
            condition = self.encoder(condition)
        if condition is None:
            return None
        return self.flow._to_tensor(condition, "a condition", "condition_size")

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
                f"No part of {self.flow._title} uses a condition, but one was given. Leave it out, "
                "or use couplings, autoregressive flows, or Planar(amortized=True)."
            )

    def _check_arrays(self, inputs):
        """Check the sizes of whole arrays; what Keras says of them later is no help."""
        x, condition = _unpack(inputs)
        if not hasattr(x, "shape"):
            return
        if len(x.shape) < 2:
            raise ValueError(
                "Expected data of shape (batch, event_size). Received: shape "
                f"{tuple(x.shape)}. Add an axis for the event, also when it has a single "
                "component: x[:, None]."
            )
        if self.flow.built and tuple(x.shape[-1:]) != (self.flow.event_size,):
            raise ValueError(
                f"{self.flow._title} was built for data of shape (batch, {self.flow.event_size}). "
                f"Received: shape {tuple(x.shape)}. Pass events of that size, or make a new flow."
            )
        if hasattr(condition, "shape") and len(x) != len(condition):
            raise ValueError(
                f"Expected a condition for each row of the data. Received: {len(x)} rows in 'x' "
                f"and {len(condition)} in 'condition'."
            )

    def _build_for(self, data):
        """Build model and optimizer where the shapes are known before the first step.

        Keras would build them inside of it, and would then have to trace it a second time.
        """
        if isinstance(data, tf.data.Dataset):
            spec = data.element_spec
            data = spec[0] if isinstance(spec, tuple) else spec
        x, condition = _unpack(data)
        parts = [x] if condition is None else [x, condition]
        if not self.compiled or not all(hasattr(part, "shape") for part in parts):
            return
        shapes = [tf.TensorShape(part.shape) for part in parts]
        if any(shape.rank is None or shape.rank < 2 or shape[-1] is None for shape in shapes):
            return
        shapes = [(None, *shape[1:]) for shape in shapes]
        with self.distribute_strategy.scope():
            if not self.built:
                self.build(shapes[0] if len(shapes) == 1 else dict(zip(("x", "condition"), shapes)))
        self._build_optimizer()

    def _build_optimizer(self):
        with self.distribute_strategy.scope():
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)

    def _batch_shape(self):
        return f"(batch, {', '.join(map(str, self.distribution.event_shape))})"

    def _known_event_size(self):
        if self.flow.event_size is None:
            raise ValueError(
                f"The event size of {self.flow._title} is not known yet. Build the model first: "
                "model.build((None, event_size)), or fit it."
            )
        return self.flow.event_size

    @property
    def distribution(self) -> tfd.TransformedDistribution:
        """The density as a `tfd.TransformedDistribution`, built anew at each access."""
        size = self._known_event_size()
        if not callable(self.base):
            zeros = tf.zeros((size,), self.flow.dtype)
            return self.flow(tfd.Independent(_BASES[self.base](zeros), 1))
        base = self.base(size)
        if not isinstance(base, tfd.Distribution) or base.event_shape[-1:] != (size,):
            raise ValueError(
                f"The base function must return a tfd.Distribution with event shape ({size},), or "
                f"more axes before that one. Received: {base!r}."
            )
        return self.flow(base)

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
        x = self.flow._to_tensor(x, "inputs", "event_size")
        if condition is None:
            return self(x)
        if self.encoder is None:
            condition = self.flow._to_tensor(condition, "a condition", "condition_size")
        return self({"x": x, "condition": condition})

    def sample(self, n: int, condition: Any = None, seed: Any = None) -> tf.Tensor:
        """Draw from the model.

        The computation is compiled once for each `n` and shape of the condition.

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
            self.flow._check_condition(condition)
        if self._compiled_sample is None:
            self._compiled_sample = self._make_compiled_sample()
        conditions = [] if condition is None else [condition]
        return self._compiled_sample(int(n), two_seeds(seed), *conditions)

    def _make_compiled_sample(self):
        jit_compile = all(layer.supports_jit for layer in self._flatten_layers())
        # In a closure, so that an export does not take the traces for endpoints.
        traces = {}

        def compiled_sample(n, *arguments):
            key = n, *[tuple(argument.shape) for argument in arguments]
            if key not in traces:
                forward = tf.function(self.flow.forward, jit_compile=jit_compile, autograph=False)

                def sample(seed, condition=None):
                    # Outside of XLA, whose generators are many times slower on a CPU.
                    x = self.distribution._sample_base(n, seed, condition=condition)
                    return forward(x, condition=condition)

                function = tf.function(sample, autograph=False)
                traces[key] = function.get_concrete_function(*arguments)
            return traces[key](*arguments)

        return compiled_sample

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
          shuffle: whether to draw another order of the arrays for each epoch.
          validation_split: fraction of the arrays, their last rows, to validate with.
          validation_data: data like `x`, or `(x, None, sample_weight)`.
          validation_batch_size: as `batch_size`, which is its default.
          **kwargs: the other arguments of `keras.Model.fit`.

        Returns:
          A `keras.callbacks.History`.

        Raises:
          ValueError: on targets.
        """
        x_val, weight_val = validation_data, None
        if isinstance(validation_data, tuple):
            x_val, y_val, weight_val = (*validation_data, None, None)[:3]
            self._check_arrays(x_val)
            validation_data = (x_val, _placeholder(y_val, weight_val), weight_val)
        self._check_arrays(x)
        self._build_for(x)
        y = _placeholder(y, sample_weight)
        if validation_data is None and splits_rows((x, sample_weight), validation_split):
            (x, sample_weight), (x_val, weight_val) = split_rows(
                (x, sample_weight), validation_split
            )
            validation_data = (x_val, weight_val, weight_val)
            y, validation_split = sample_weight, 0.0
        validation_batch_size = validation_batch_size or batch_size
        if x_val is not None and not kwargs.get("validation_steps"):
            batches = self._batches(x_val, weight_val, validation_batch_size)
            validation_data = validation_data if batches is None else batches
        if not any(kwargs.get(name) for name in ("steps_per_epoch", "class_weight")):
            batches = self._batches(x, sample_weight, batch_size, shuffle)
            if batches is not None:
                x, y, sample_weight, shuffle = batches, None, None, False
        return super().fit(
            x,
            y,
            batch_size=batch_size,
            sample_weight=sample_weight,
            shuffle=shuffle,
            validation_split=validation_split,
            validation_data=validation_data,
            validation_batch_size=validation_batch_size,
            **kwargs,
        )

    def _batches(self, x, sample_weight, batch_size, shuffle=False):
        """Return arrays as a dataset of batches, or `None` if Keras has to make the batches."""
        data = x if sample_weight is None else (x, sample_weight, sample_weight)
        batch_size = 32 if batch_size is None else batch_size
        whole = isinstance(batch_size, int) and batch_size > 0 and isinstance(shuffle, bool)
        if self._distribute_strategy is not None or not whole or not count_rows(data):
            return None
        return make_batches(data, batch_size, shuffle)

    def evaluate(self, x=None, y=None, batch_size=None, *, sample_weight=None, **kwargs):
        """Return the mean of -log p(x), in nats: `keras.Model.evaluate` without targets.

        Args:
          x: data, or `{"x": data, "condition": condition}`, or a dataset of either.
          y: must stay `None`.
          batch_size: rows in a batch of arrays, by default 32.
          sample_weight: weight of each row's -log p(x).
          **kwargs: the other arguments of `keras.Model.evaluate`.

        Returns:
          The loss, or with metrics a list, or with `return_dict=True` a dictionary.

        Raises:
          ValueError: on targets.
        """
        # `fit` evaluates its validation data, which has passed `fit`'s own check, with this flag.
        if not kwargs.get("_use_cached_eval_dataset"):
            self._check_arrays(x)
            y = _placeholder(y, sample_weight)
            batches = self._batches(x, sample_weight, batch_size)
            if batches is not None and not kwargs.get("steps"):
                x, y, sample_weight = batches, None, None
        return super().evaluate(x, y, batch_size=batch_size, sample_weight=sample_weight, **kwargs)

    def predict(self, x, batch_size=None, **kwargs):
        """Return log p(x) as an array, in batches: `keras.Model.predict`.

        Args:
          x: data, or `{"x": data, "condition": condition}`, or a dataset of either.
          batch_size: rows in a batch of arrays, by default 32.
          **kwargs: the other arguments of `keras.Model.predict`.

        Returns:
          Array of shape `(rows,)`, in nats.

        Raises:
          ValueError: on data of a wrong shape.
        """
        self._check_arrays(x)
        batches = None if kwargs.get("steps") else self._batches(x, None, batch_size)
        return super().predict(x if batches is None else batches, batch_size=batch_size, **kwargs)

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
                f"shape {tuple(_unpack(x)[0].shape)}. Add an axis for the event, or batch the "
                "dataset."
            )
        return super().compute_loss(x, y_pred, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, _unpack(x)[0], y_pred, sample_weight)

    def _structure(self):
        """Name the flows in order, with the shapes of the weights and the fixed orders of each."""
        return [_describe(layer) for layer in self.flow._flatten_layers()]

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self.flow.built:
            store[_STRUCTURE] = np.frombuffer("\n".join(self._structure()).encode(), "uint8")

    def load_own_variables(self, store):
        """Refuse weights of other flows, of which Keras would load what happens to fit."""
        own = {name: store[name] for name in store.keys() if name != _STRUCTURE}  # noqa: SIM118
        super().load_own_variables(own)
        if _STRUCTURE not in store.keys():  # noqa: SIM118
            return
        saved = np.asarray(store[_STRUCTURE]).tobytes().decode().split("\n")
        for there, here in itertools.zip_longest(saved, self._structure(), fillvalue="nothing"):
            if there != here:
                raise ValueError(
                    f"The file holds the weights of other flows: {there}, where this model has "
                    f"{here}. Make the model with the arguments of the saved one, with the seeds "
                    "where masks or orders are random; or save it as a .keras file and load that "
                    "with keras.models.load_model."
                )

    def get_config(self):
        return {
            **super().get_config(),
            "format_version": FORMAT_VERSION,
            "flow": keras.saving.serialize_keras_object(self.flow),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
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


_NO_TARGETS = (
    "FlowModel models the density of x and takes no targets. Received: y. For a conditional "
    'density p(y | c) pass {"x": y, "condition": c} as x; sample weights in a dataset go third: '
    "(x, w, w)."
)


# Name of the description of the flows among the weights in a file.
_STRUCTURE = "structure"


def _describe(layer):
    """Say in a few words what decides the meaning of a layer's own weights."""
    words = [type(layer).__name__]
    for variable in layer._trainable_variables + layer._non_trainable_variables:
        words.append("x".join(map(str, variable.shape)) or "scalar")
    order = getattr(layer, "_order", getattr(layer, "_indices", None))
    if order is not None:
        words.append(f"order {zlib.crc32(np.asarray(order, '<i4').tobytes()):08x}")
    if getattr(getattr(layer, "elementwise", None), "shift_first", False):
        words.append("shift first")
    return " ".join(words)


def _unpack(inputs):
    """Split what `fit` and `call` take, or its shapes, into the data and the condition."""
    if not isinstance(inputs, dict):
        if isinstance(inputs, (list, tuple)) and any(
            isinstance(part, (list, tuple)) or hasattr(part, "shape") for part in inputs
        ):
            raise ValueError(
                f"Expected one tensor, or a dictionary with 'x' and 'condition'. Received: "
                f"{type(inputs).__name__} of {len(inputs)}."
            )
        return inputs, None
    if "x" not in inputs or not set(inputs) <= {"x", "condition"}:
        raise ValueError(
            f"Expected a dictionary with 'x' and, optionally, 'condition'. Received: keys "
            f"{sorted(inputs)}."
        )
    return inputs["x"], inputs.get("condition")


def _placeholder(y, sample_weight):
    """Keras drops sample weights that come without targets; the weights stand in for those."""
    if y is not None:
        raise ValueError(_NO_TARGETS)
    return sample_weight


def two_seeds(seed):
    """Return the seed as the pair of int32 that stateless random operations take."""
    if seed is None:
        return tf.constant([draw_seed(), draw_seed()], tf.int32)
    if hasattr(seed, "__index__") and np.ndim(seed) == 0:
        seed = int(seed)
        return tf.constant([(seed >> 31) & 0x7FFFFFFF, seed & 0x7FFFFFFF], tf.int32)
    seeds = tf.convert_to_tensor(seed)
    if seeds.shape != (2,) or not seeds.dtype.is_integer:
        raise ValueError(f"`seed` must be an integer, two of them, or None. Received: {seed!r}.")
    return tf.cast(seeds, tf.int32)
