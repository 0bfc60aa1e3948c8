"""TrainingPhase: whether a computation is part of training."""

import keras

__all__ = ["TrainingPhase"]


class TrainingPhase(keras.layers.Layer):
    """Tells layers whose methods take no `training` whether they run in training.

    Calling it, with any tensor, returns a boolean: the argument `training` of the call of Keras in
    which it happens, as that of a model by `fit`, and false outside of any.
    """

    def call(self, inputs, training=None):
        return bool(training)
