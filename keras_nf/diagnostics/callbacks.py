"""Callbacks that log diagnostics during `fit`: `Calibration` and `RoundTripError`."""

from typing import Any

import keras

from keras_nf.arguments import check_count
from keras_nf.diagnostics.maps import round_trip
from keras_nf.diagnostics.regions import coverage
from keras_nf.diagnostics.uniform import pit

__all__ = ["Calibration", "RoundTripError"]


class _Logging(keras.callbacks.Callback):
    """Adds numbers to the logs of every epoch, or of some."""

    def __init__(self, x: Any, condition: Any = None, *, every: int = 1) -> None:
        super().__init__()
        self.x, self.condition = x, condition
        self.every = check_count(every, "every")

    def numbers(self) -> dict[str, float]:
        raise NotImplementedError

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None and (epoch + 1) % self.every == 0:
            logs.update(self.numbers())


class Calibration(_Logging):
    """Callback that logs how calibrated the model is on data that it does not train on.

    `val_pit_distance` is the largest Kolmogorov-Smirnov distance of `pit`, `val_coverage` the share
    of rows in the regions of `coverage` of one level. They stand in the history, and go to later
    callbacks, as `keras.callbacks.TensorBoard`. Names begin with `val_`, as those of other
    numbers that not every epoch has: pass `validation_freq=every` to `keras_nf.plot.history`.

    Args:
      x: data of shape `(rows, *event_shape)`.
      condition: condition of the rows, where the model has one.
      level: probability of the regions.
      every: number of epochs from one measurement to the next.

    Example:

    >>> import numpy as np, keras_nf
    >>> x = np.random.default_rng(0).normal(size=(400, 2)).astype("float32")
    >>> flow = keras_nf.real_nvp(2, layers=2, hidden_units=(8,))
    >>> model = keras_nf.FlowModel(flow)
    >>> model.compile("adam")
    >>> calibration = keras_nf.diagnostics.Calibration(x[300:], every=2)
    >>> history = model.fit(x[:300], epochs=4, verbose=0, callbacks=[calibration])
    >>> logs = history.history
    >>> len(logs["val_pit_distance"]), len(logs["val_coverage"])
    (2, 2)
    """

    def __init__(
        self, x: Any, condition: Any = None, *, level: float = 0.9, every: int = 1
    ) -> None:
        super().__init__(x, condition, every=every)
        self.level = level

    def numbers(self) -> dict[str, float]:
        distances = pit(self.model, self.x, self.condition).distances
        shares = coverage(self.model, self.x, self.condition, levels=(self.level,)).shares
        return {"val_pit_distance": float(distances.max()), "val_coverage": float(shares[0])}


class RoundTripError(_Logging):
    """Callback that logs the larger error of the two round trips as `val_round_trip`.

    It grows where a training makes a flow steep: beyond `keras_nf.diagnostics.round_trip`'s
    tolerance, samples and densities are no longer those of one model.

    Args:
      x: data of shape `(rows, *event_shape)`.
      condition: condition of the rows, where the model has one.
      every: number of epochs from one measurement to the next.

    Example:

    >>> import numpy as np, keras_nf
    >>> x = np.random.default_rng(0).normal(size=(300, 2)).astype("float32")
    >>> flow = keras_nf.real_nvp(2, layers=2, hidden_units=(8,))
    >>> model = keras_nf.FlowModel(flow)
    >>> model.compile("adam")
    >>> callbacks = [keras_nf.diagnostics.RoundTripError(x)]
    >>> history = model.fit(x, epochs=2, verbose=0, callbacks=callbacks)
    >>> max(history.history["val_round_trip"]) < 1e-4
    True
    """

    def numbers(self) -> dict[str, float]:
        result = round_trip(self.model, self.x, self.condition)
        return {"val_round_trip": max(result.inverse_forward, result.forward_inverse)}
