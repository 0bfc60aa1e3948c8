"""FlowModel: a density that trains with `fit`."""

import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_nf.arguments import batch_shape, check_count
from keras_nf.elementwise.spline import RationalQuadraticSpline
from keras_nf.flow.arguments import title
from keras_nf.flow.door import BUILDING
from keras_nf.flows.planar import Planar
from keras_nf.inputs import join_inputs, split_inputs
from keras_nf.models.alarm import with_alarm
from keras_nf.models.batches import specs_of, to_arrays, to_batches
from keras_nf.models.density import DensityModel
from keras_nf.models.pipeline import split_rows
from keras_nf.models.quantile_metrics import QuantileMetric
from keras_nf.models.replicas import as_one_batch

__all__ = ["FlowModel"]


@keras.saving.register_keras_serializable("keras_nf")
def negative_log_likelihood(y_true, y_pred):
    """Loss of a model that returns log-densities; there are no targets."""
    return -y_pred


@keras.saving.register_keras_serializable("keras_nf")
class FlowModel(DensityModel):
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

    Threads may share a model. `log_prob`, `sample` and `predict` run beside anything; beside `fit`
    they may see some weights before a step and others after it. `fit` and `evaluate` sum losses in
    the same metrics, and wait for each other.

    Args:
      flow: the flow, or a `Chain` of flows.
      base: distribution of z: `"normal"` (standard normal), `"uniform"` (on [0, 1]),
        `"logistic"` (standard logistic); a layer of `keras_nf.bases`, whose weights are trained and
        saved; or a function of `event_size` that returns a `tfd.Distribution` with event shape
        `(event_size,)`. Register the function with
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
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(3.0, 1.0, size=(256, 2)).astype("float32")
    >>> model = keras_nf.FlowModel(keras_nf.maf(event_size=2, hidden_units=(16,)))
    >>> model.compile("adam")
    >>> history = model.fit(x, epochs=1, verbose=0)
    >>> model.log_prob(x).shape, model.sample(3, seed=0).shape
    (TensorShape([256]), TensorShape([3, 2]))
    """

    def compile(self, optimizer="adam", *, loss=None, jit_compile="auto", **kwargs):
        """Configure training: `keras.Model.compile` without a loss.

        Args:
          optimizer: optimizer or its name.
          loss: must stay `None`; the loss is the mean negative log-likelihood.
          jit_compile: whether to compile with XLA; `"auto"` leaves it to Keras, which does on
            accelerators, but compiles planar flows and splines on a CPU too.
          **kwargs: the other arguments of `keras.Model.compile`.

        Raises:
          ValueError: if a loss is given.
        """
        if loss is not None:
            raise ValueError(
                "FlowModel trains by maximum likelihood and takes no loss. Received: "
                f"loss={loss!r}. Leave it out, or put the flow into a keras.Model of your own."
            )
        given = keras.tree.flatten([kwargs.get("metrics"), kwargs.get("weighted_metrics")])
        quantile_metrics = [metric for metric in given if isinstance(metric, QuantileMetric)]
        # A function, for Keras would track once more what it finds in a list.
        self._quantile_metrics = lambda: quantile_metrics
        super().compile(optimizer, loss=negative_log_likelihood, jit_compile=jit_compile, **kwargs)
        # Planar flows search for roots, and splines for bins, by many small operations, which XLA
        # merges on a CPU too. The other conditions are those on which Keras chooses XLA on an
        # accelerator.
        searches = any(
            isinstance(layer, Planar)
            or isinstance(getattr(layer, "elementwise", None), RationalQuadraticSpline)
            for layer in self._flatten_layers()
        )
        undecided = jit_compile == "auto" and not self.run_eagerly
        if searches and undecided and self._distribute_strategy is None:
            with warnings.catch_warnings():
                # It stays off, with a warning, where a layer or determinism forbids it.
                warnings.simplefilter("ignore")
                self.jit_compile = True

    def adapt(self, x):
        """Let the flows that start from data adapt to them: `Standardize` and `ActNorm`.

        Args:
          x: data, or `{"x": data, "condition": condition}`, or a dataset of either.

        Raises:
          ValueError: on data of a wrong shape, or that a flow cannot adapt to.
        """
        if self.encoder is not None:
            x = to_batches(self, x, None, None).map(self._with_encoding)
        with self._weights_scope():
            self.flow.adapt(x)

    def _with_encoding(self, inputs, *weights):
        x, condition = split_inputs(inputs)
        return join_inputs(x, self.encode(condition))

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

        A loss that is NaN or infinite, or far too high after the first epoch, comes with a warning
        that says what it tells of the data.

        Raises:
          ValueError: on targets, on data of a wrong shape, if a flow has to `adapt` first, on
            `sample_weight` or `validation_split` beside a dataset, or on a useless split.
        """
        _check_no_targets(y, kwargs)
        if not self.flow.adapted:
            waiting = [f for f in self.flow._flatten_layers() if not getattr(f, "adapted", True)]
            raise ValueError(
                f"{title(waiting[-1])} starts from data that it has not seen. Call "
                "`model.adapt(x)` before `fit`, with the data to train on."
            )
        if not isinstance(shuffle, bool):
            raise ValueError(f"`shuffle` must be True or False. Received: {shuffle!r}.")
        is_weighted = sample_weight is not None or isinstance(getattr(x, "element_spec", 0), tuple)
        kwargs["callbacks"] = with_alarm(kwargs.get("callbacks"), x, is_weighted)
        batch_size = 32 if batch_size is None else check_count(batch_size, "batch_size")
        self._forget_stale_graphs()
        weight_val = None
        if isinstance(validation_data, tuple):
            validation_data, y_val, weight_val = (*validation_data, None, None)[:3]
            _check_no_targets(y_val)
        if validation_split and validation_data is None:
            arrays = to_arrays(self, x, sample_weight)
            if arrays is None:
                raise ValueError(
                    "`validation_split` takes rows from arrays. Pass `validation_data`; a dataset "
                    f"is split by its own `take` and `skip`. Received: {type(x).__name__}."
                )
            (x, sample_weight), (validation_data, weight_val) = split_rows(arrays, validation_split)
        batches = to_batches(self, x, sample_weight, batch_size, shuffle)
        self._build_for(specs_of(x))
        if kwargs.get("steps_per_epoch") and batches is not x:
            batches = batches.repeat()
        if validation_data is not None:
            size = check_count(validation_batch_size or batch_size, "validation_batch_size")
            validation_data = to_batches(self, validation_data, weight_val, size)
        return super().fit(batches, shuffle=False, validation_data=validation_data, **kwargs)

    def _build_for(self, inputs):
        """Build model and optimizer where the shapes are known before the first step.

        Keras would build them inside of it, and would then have to trace it a second time.
        """
        x, condition = split_inputs(inputs)
        parts = [x] if condition is None else [x, condition]
        shapes = [tf.TensorShape(getattr(part, "shape", None)) for part in parts]
        unknown = any(s.rank is None or s.rank < 2 or s[-1] is None for s in shapes)
        if unknown or not self.compiled:
            return
        with BUILDING:
            if not self.built:
                self.build(join_inputs(*[(None, *shape[1:]) for shape in shapes]))
        self._build_optimizer()

    def evaluate(self, x=None, y=None, batch_size=None, *, sample_weight=None, **kwargs):
        """Return the mean of -log p(x), in nats: `keras.Model.evaluate` without targets.

        Args:
          x: data, or `{"x": data, "condition": condition}`, or a dataset of either.
          y: must stay `None`.
          batch_size: rows in a batch of arrays, by default 1,000, or 32 with an encoder.
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
            x = to_batches(self, x, sample_weight, batch_size)
        return super().evaluate(x, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if y is not None and sample_weight is None:
            raise ValueError(_NO_TARGETS)
        if y_pred.shape.rank == 0:
            raise ValueError(
                f"Expected batches of shape {batch_shape(self.distribution.event_shape)}. "
                f"Received: a single event of shape {tuple(split_inputs(x)[0].shape)}. Add an axis "
                "for the event, or batch the dataset."
            )
        loss = super().compute_loss(x, y_pred, y_pred, sample_weight, training)
        return as_one_batch(loss, tf.shape(y_pred)[0])

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        data, condition = split_inputs(x)
        for metric in self._quantile_metrics():
            if not self.has_exact_quantiles:
                raise ValueError(
                    f"{metric.name!r} needs quantiles, which are known of events of one component "
                    f"on a base of independent ones. Received: events of shape "
                    f"{self.flow.event_shape}, base {self.base!r}. Leave the metric out."
                )
            quantiles = tf.transpose(self._at_levels(np.array(metric.levels), condition)[..., 0])
            metric.give(tf.broadcast_to(quantiles, (tf.shape(y_pred)[0], len(metric.levels))))
        return super().compute_metrics(x, data, y_pred, sample_weight)


_NO_TARGETS = (
    "FlowModel models the density of x and takes no targets. Received: y. For a conditional "
    'density p(y | c) pass {"x": y, "condition": c} as x; sample weights in a dataset go third: '
    "(x, w, w)."
)


def _check_no_targets(y, options=()):
    if y is not None:
        raise ValueError(_NO_TARGETS)
    if "class_weight" in options and options.pop("class_weight") is not None:
        raise ValueError(
            "FlowModel models the density of x, which has no classes, and takes no `class_weight`. "
            "Give each row a weight by `sample_weight`."
        )
