"""What the benchmarks share: data, weights, and ways to time a contestant."""

import math
import time

import keras
import numpy as np

import keras_nf

# Shortest time of one measurement, in seconds.
ENOUGH = 0.15


def make_data(rows, size):
    return np.random.default_rng(0).normal(size=(rows, size)).astype("float32")


def randomize(variables):
    """Set weights of the size that training gives, so that no part of a flow is the identity."""
    generator = np.random.default_rng(0)
    for variable in variables:
        variable.assign(0.05 * generator.normal(size=variable.shape))
        # TFP's masks.
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable))


class Calls:
    """A function, timed over several calls after those that compile it."""

    def __init__(self, function):
        self._function = function
        self._seconds = None

    def measure(self, benchmark):
        if self._seconds is None:
            self._function()
            start = time.perf_counter()
            self._function()
            self._seconds = time.perf_counter() - start
        iterations = max(1, int(ENOUGH / 5 / self._seconds))
        rounds = min(5, math.ceil(ENOUGH / self._seconds))
        benchmark.pedantic(self._function, iterations=iterations, rounds=rounds)
        return benchmark.stats.stats.median


class Once:
    """A function that is timed as a whole, in one call."""

    def __init__(self, function):
        self._function = function

    def measure(self, benchmark):
        benchmark.pedantic(self._function)
        return benchmark.stats.stats.median


class FitSteps:
    """Steps of `fit`, timed between its callbacks: without its start, which a longer fit hides."""

    def __init__(self, flow, size, *, batch, **options):
        self._model = keras_nf.FlowModel(flow)
        self._model.compile("adam", **options)
        self._steps_per_callback = options.get("steps_per_execution", 1)
        self._size, self._batch = size, batch
        self._steps = None

    def measure(self, benchmark):
        if self._steps is None:
            self.fit(32)
            self._steps = 16 * (1 + math.ceil(ENOUGH / (16 * self.fit(32))))
        return benchmark.pedantic(self.fit, args=(self._steps,))

    def fit(self, steps):
        """Return the seconds of one step."""
        ends = []
        callback = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
        )
        x = make_data(steps * self._batch, self._size)
        options = {"batch_size": self._batch, "shuffle": False, "verbose": 0}
        self._model.fit(x, callbacks=[callback], **options)
        return (ends[-1] - ends[0]) / (steps - self._steps_per_callback)
