"""Whether a computation is part of training: PhaseCall says so, TrainingPhase asks."""

import contextlib
import contextvars

import keras

__all__ = ["PhaseCall", "TrainingPhase", "adapting", "is_adapting"]

_ADAPTING = contextvars.ContextVar("adapting", default=False)


class TrainingPhase(keras.layers.Layer):
    """Tells layers whose methods take no `training` whether they run in training.

    Calling it, with any tensor, returns a boolean: the argument `training` of the call of Keras in
    which it happens, as that of a model by `fit`, and false outside of any.
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, inputs, training=None):
        return bool(training)


class PhaseCall(keras.layers.Layer):
    """Runs a function as a call of Keras in a phase of training, that of the call around it if any.

    Whatever precision that call computes in, weights are read as they are.
    """

    def __init__(self, function) -> None:
        super().__init__(autocast=False)
        self.function = function

    def call(self, inputs, training=None):
        return self.function(inputs)


@contextlib.contextmanager
def adapting():
    """Mark what is computed, or traced, inside: latents that flows adapt to before training."""
    token = _ADAPTING.set(True)
    try:
        yield
    finally:
        _ADAPTING.reset(token)


def is_adapting():
    """Return whether latents are computed for flows that adapt to them."""
    return _ADAPTING.get()
