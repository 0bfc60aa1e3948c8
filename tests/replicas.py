"""Training by replicas on one machine, here two logical devices, beside training on one device.

    python tests/replicas.py NAME...

Runs the checks of these names and writes, as JSON, what went wrong in each: all in one process,
which takes longer to start than most of them to run.
"""

import contextlib
import functools
import json
import pathlib
import sys
import tempfile
import traceback

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES

import keras_nf

rng = np.random.default_rng(0)


@functools.cache
def two_devices():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    return strategy


# Recipes: weights, losses and all that a model gives are those of one device.


def data_of(case, rows):
    x = rng.uniform(0.1, 0.9, size=(rows, *case.data_shape)).astype("float32")
    condition = rng.normal(size=(rows, case.condition_size)).astype("float32")
    return {"x": x, "condition": condition} if case.condition_size else x


def train(case, data, batch_size, scope):
    keras.utils.set_random_seed(1)
    with scope:
        model = keras_nf.FlowModel(case.flow())
        model.compile(keras.optimizers.SGD(1e-2, momentum=0.9), jit_compile=False)
    if not model.flow.adapted:
        model.adapt(data)
    options = {"batch_size": batch_size, "validation_data": data, "verbose": 0}
    return model, model.fit(data, epochs=2, **options).history


def compare(case, rows, batch_size):
    data = data_of(case, rows)
    two, losses = train(case, data, batch_size, two_devices().scope())
    one, expected = train(case, data, batch_size, contextlib.nullcontext())
    close = {"rtol": 1e-5, "atol": 1e-5}
    for a, b in zip(two.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, **close)
    for name in expected:
        np.testing.assert_allclose(losses[name], expected[name], **close)
    condition = data["condition"][:3] if case.condition_size else None
    for ask in (
        lambda model: model.evaluate(data, verbose=0),
        lambda model: model.predict(data, batch_size=batch_size, verbose=0),
        lambda model: model.sample(4, condition=condition, seed=2),
    ):
        np.testing.assert_allclose(ask(two), ask(one), rtol=1e-4, atol=1e-4)
    return two, data


def write(two, data):
    folder = pathlib.Path(tempfile.mkdtemp())
    two.save(folder / "model.keras")
    two.export(folder / "export")
    x = data["x"] if isinstance(data, dict) else data
    loaded = keras.models.load_model(folder / "model.keras")
    served = tf.saved_model.load(str(folder / "export")).signatures["log_prob"]
    expected, close = two.predict(data, verbose=0), {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(loaded.predict(data, verbose=0), expected, **close)
    if x is data:
        np.testing.assert_allclose(served(x=tf.constant(x))["log_prob"], expected, **close)


# Whose files and exports are looked at: what replicas have of weights is alike in all.
WRITTEN = ("recipe-real-nvp", "recipe-maf-conditional", "recipe-glow")


def recipe(case):
    # No replica of images may be without rows.
    result = compare(case, 33 if case.event_ndims == 1 else 34, 32)
    if case.name in WRITTEN:
        write(*result)
    if case.event_ndims == 1:
        return
    with pytest.raises(tf.errors.InvalidArgumentError, match="A replica got no rows"):
        train(case, data_of(case, 33), 32, two_devices().scope())


def small_batches(case):
    compare(case, 7, 3)


# What else replicas have in common, or each for itself.


def adam():
    x = rng.normal(1.0, 2.0, size=(64, 3)).astype("float32")

    def run(scope):
        with scope:
            keras.utils.set_random_seed(1)
            model = keras_nf.FlowModel(keras_nf.maf(3, layers=2, hidden_units=(8,)))
            model.compile(keras.optimizers.Adam(1e-2))
        history = model.fit(x, batch_size=16, epochs=2, shuffle=False, verbose=0)
        return history.history["loss"], model.get_weights()

    losses, weights = run(two_devices().scope())
    expected_losses, expected_weights = run(contextlib.nullcontext())
    # Gradients are summed in another order, and Adam divides by their root mean square.
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    for weight, expected in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-3)


def draws_of_a_variational_model():
    def run(scope, **options):
        with scope:
            flow = keras_nf.Scaling(use_shift=True, event_size=2)
            model = keras_nf.VariationalModel(flow, lambda x: -keras_nf.datasets.u1(x))
            model.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
        history = model.fit(steps_per_epoch=1, seed=0, verbose=0, **options)
        return history.history["bound"][0], model.get_weights()

    two, weights = run(two_devices().scope(), batch_size=1000)
    half, half_weights = run(contextlib.nullcontext(), batch_size=500)
    # The first replica draws what one device does with half the draws, the second others.
    assert two != half
    other = 2 * two - half
    assert abs(half - other) < 5.0
    # A mean over replicas, not a sum.
    np.testing.assert_allclose(weights[1], half_weights[1], atol=2e-3)


def statistics_of_batches():
    """Each replica has its own, and the running ones are averaged."""
    x = rng.normal(1.0, 2.0, size=(17, 3)).astype("float32")
    with two_devices().scope():
        norm = keras_nf.BatchNormalization(momentum=0.5)
        model = keras_nf.FlowModel(norm)
        model.compile(keras.optimizers.SGD(0.0))
    # The last batch has a single row, and leaves one replica without any.
    model.fit(x, batch_size=16, shuffle=False, verbose=0)
    mean, variance = np.zeros((2, 3)), np.ones((2, 3))
    for k in range(2):
        part = x[8 * k : 8 * k + 8]
        mean[k] = 0.5 * mean[k] + 0.5 * part.mean(axis=0)
        variance[k] = 0.5 * variance[k] + 0.5 * part.var(axis=0)
    mean, variance = mean.mean(axis=0), variance.mean(axis=0)
    mean = 0.5 * mean + 0.5 * (0.5 * mean + 0.5 * x[16])
    variance = 0.5 * variance + 0.5 * (0.5 * variance)
    for weight, expected in (norm.running_mean, mean), (norm.running_variance, variance):
        copies = weight.value.values
        assert len(copies) == 2
        for copy in copies:
            np.testing.assert_allclose(copy, expected, rtol=1e-5)


def noise_of_pixels():
    x = np.repeat(np.arange(8, dtype="uint8")[:, None], 3, axis=1)
    with two_devices().scope():
        flow = keras_nf.Dequantize(8)
        model = keras_nf.FlowModel(flow, base="uniform")
        model.compile(keras.optimizers.SGD(0.0), metrics=[keras_nf.BitsPerDim()])
        pixels = keras_nf.Chain(
            [keras_nf.ActNorm(), keras_nf.Logit(), keras_nf.Dequantize(8, always=True)]
        )
        pixels.adapt(x)
        assert np.isfinite(keras_nf.FlowModel(pixels).log_prob(x)).all()
    history = model.fit(x, batch_size=4, epochs=2, verbose=0).history
    np.testing.assert_allclose(history["bits_per_dim"], [3.0, 3.0], rtol=1e-6)
    assert [int(copy) for copy in flow.draws.value.values] == [4, 4]

    class Training(keras.layers.Layer):
        def call(self, x, training=None):
            return flow.inverse(x)

    layer = Training()
    draws = two_devices().run(lambda: layer(x, training=True)).values
    assert not np.any(draws[0] == draws[1])


CHECKS = {
    **{case.name: (lambda case=case: recipe(case)) for case in CASES},
    "small batches": lambda: small_batches(next(c for c in CASES if c.name == "recipe-real-nvp")),
    **{
        check.__name__: check
        for check in (adam, draws_of_a_variational_model, statistics_of_batches, noise_of_pixels)
    },
}


def main(names):
    two_devices()
    errors = {}
    for name in names:
        errors[name] = ""
        try:
            CHECKS[name]()
        except Exception:
            errors[name] = traceback.format_exc()
    json.dump(errors, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
