"""What the loss of a training tells of its data: warnings that say what is wrong and what to do."""

import math
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_nf.inputs import split_inputs

__all__ = ["with_alarm"]

# Nats for each component. Standardized data begin near 1.4; those whose values lie 14 standard
# deviations of the base from its mean, at this.
_HIGH = 100.0


def with_alarm(callbacks, x, weighted):
    """Return the callbacks of a training, and one that warns of a loss that tells of a fault.

    Args:
      callbacks: what `fit` takes.
      x: data, or a dictionary of them and a condition, or a dataset.
      weighted: whether the loss may be another than the mean of -log p(x).
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    given = [] if callbacks is None else keras.tree.flatten(callbacks)
    return [*given, _Alarm(x, weighted)]


class _Alarm(keras.callbacks.Callback):
    """Warns at most once: of a loss that is not finite, or of a first one that is far too high."""

    def __init__(self, x, weighted):
        super().__init__()
        self.data, self.weighted = x, weighted
        self.epochs, self.is_done = 0, False

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        loss = (logs or {}).get("loss", 0.0)
        text = None if self.is_done else self._text(float(loss))
        if text is not None:
            self.is_done = True
            warnings.warn(text, stacklevel=2)

    def _text(self, loss):
        if math.isnan(loss):
            return f"The loss is NaN. {_advice_on_nan(self.data)}"
        if math.isinf(loss):
            return (
                "The loss is infinite: some rows have density zero. They lie outside of the "
                "interval of a Logit, or their latents outside of that of a uniform base. Find "
                "them where `model.log_prob(x)` is -inf; remove them, widen the interval, or take "
                "a base that reaches everything. Where it is -inf everywhere, steps were too "
                "large: lower the learning rate."
            )
        if self.epochs > 1 or self.weighted or loss < _HIGH:
            return None
        size = math.prod(self.model.distribution.event_shape)
        if loss < _HIGH * size:
            return None
        return (
            f"The mean of -log p(x) in the first epoch is {loss:.3g} nats, for events of size "
            f"{size}: the data lie far from the base, near which the flow starts. For data in raw "
            "units put a keras_nf.Standardize() last in the chain, and call `model.adapt(x)` "
            "before `fit`; for heavy tails take the base keras_nf.bases.StudentT(); or lower the "
            "learning rate."
        )


def _advice_on_nan(data):
    bad, rows = _bad_rows(data)
    if bad:
        return (
            f"Rows with NaN or infinite values: {bad} of {rows}. Remove or impute them: one makes "
            "the gradient, and then all weights, NaN."
        )
    steps = (
        "Standardize the data, lower the learning rate, or give the optimizer a `global_clipnorm`."
    )
    if rows:
        return f"The data are finite, so that steps were too large. {steps}"
    return f"Remove or impute rows with NaN or infinite values. If there are none: {steps}"


def _bad_rows(data):
    """Return how many rows of arrays are not finite, and how many there are; 0 of 0 if unknown."""
    arrays = [part for part in split_inputs(data) if part is not None]
    if not all(hasattr(part, "__array__") for part in arrays):
        return 0, 0
    bad = 0
    for part in arrays:
        values = np.asarray(part)
        if values.dtype.kind not in "biu":
            finite = np.asarray(tf.math.is_finite(tf.cast(values, "float64")))
            bad = bad | ~finite.reshape(len(values), -1).all(axis=1)
    return int(np.sum(bad)), len(arrays[0])
