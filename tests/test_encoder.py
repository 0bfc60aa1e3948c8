"""Densities of which an encoder, trained with the flow, makes the condition."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb

import keras_nf
from keras_nf import FlowModel

pytestmark = pytest.mark.usefixtures("without_xla")

EVENT, FEATURES, ROWS = 2, 5, 40
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, EVENT)).astype("float32")
C = RNG.normal(size=(ROWS, FEATURES)).astype("float32")
IMAGES = RNG.normal(size=(ROWS, 6, 6, 1)).astype("float32")
TOKENS = RNG.integers(0, 10, size=(ROWS, 4)).astype("int32")


def dense():
    layers = [keras.layers.Dense(8, "tanh"), keras.layers.Dense(3, "tanh")]
    return keras.Sequential([keras.Input((FEATURES,)), *layers])


def unbuilt():
    return keras.Sequential([keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)])


def convolution():
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((6, 6, 1)), *layers])


def embedding():
    layers = [keras.layers.Embedding(10, 3), keras.layers.GlobalAveragePooling1D()]
    return keras.Sequential([keras.Input((4,), dtype="int32"), *layers])


def two_inputs():
    inputs = {"image": keras.Input((6, 6, 1)), "tokens": keras.Input((4,), dtype="int32")}
    parts = [convolution()(inputs["image"]), embedding()(inputs["tokens"])]
    return keras.Model(inputs, keras.layers.Concatenate()(parts))


ENCODERS = {
    "dense": (dense, C),
    "unbuilt": (unbuilt, C),
    "convolution": (convolution, IMAGES),
    "embedding": (embedding, TOKENS),
    "two inputs": (two_inputs, {"image": IMAGES, "tokens": TOKENS}),
}
SINGLE = [name for name in ENCODERS if name != "two inputs"]


def amortized():
    planar = keras_nf.Invert(keras_nf.Planar(folds=2, amortized=True))
    location = keras_nf.MaskedAutoregressive(hidden_units=())
    return keras_nf.Chain([planar, location], event_size=EVENT)


def rows_of(condition, rows):
    return keras.tree.map_structure(lambda values: values[rows], condition)


def model_of(name="dense", flow=None):
    # Densities of some draws of the weights are many times more sensitive to rounding than others.
    keras.utils.set_random_seed(0)
    encoder, condition = ENCODERS[name]
    model = FlowModel(amortized() if flow is None else flow, encoder=encoder())
    # Builds it.
    model({"x": X[:1], "condition": rows_of(condition, slice(1))})
    perturb(model.flow)
    model.compile(keras.optimizers.SGD(1e-2), jit_compile=False)
    return model, condition


@pytest.mark.parametrize("name", ENCODERS)
def test_density_is_that_of_the_flow_given_the_encoding(name):
    model, condition = model_of(name)
    encoded = model.encoder(condition)
    expected = FlowModel(model.flow).log_prob(X, encoded)
    np.testing.assert_allclose(model.log_prob(X, condition), expected, rtol=1e-5, atol=1e-5)
    data = {"x": X, "condition": condition}
    np.testing.assert_allclose(model.predict(data, verbose=0), expected, rtol=1e-5, atol=1e-5)
    loss = model.evaluate(data, verbose=0)
    np.testing.assert_allclose(loss, -np.mean(expected), rtol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_samples_are_those_of_the_flow_given_the_encoding(name):
    model, condition = model_of(name)
    samples = model.sample(7, condition=condition, seed=1)
    assert samples.shape == (7, ROWS, EVENT)
    expected = FlowModel(model.flow).sample(7, condition=model.encoder(condition), seed=1)
    np.testing.assert_allclose(samples, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_fit_trains_encoder_and_flow(name):
    model, condition = model_of(name)
    before = model.get_weights()
    model.fit({"x": X, "condition": condition}, epochs=1, batch_size=ROWS, verbose=0)
    used = [weight.path for weight in model.weights]
    for path, a, b in zip(used, before, model.get_weights(), strict=True):
        # An affine flow's first component depends on biases and the condition alone.
        assert (a != b).any() or "made" in path, path
    moved = [(a != b).any() for a, b in zip(before, model.get_weights(), strict=True)]
    assert sum(moved) >= len(moved) - 1


def test_fit_builds_and_traces_once():
    calls = []

    class Counting(keras.layers.Dense):
        def call(self, inputs, training=None):
            calls.append(training)
            return super().call(inputs)

    model = FlowModel(amortized(), encoder=Counting(3))
    model.compile("adam", jit_compile=False)
    model.fit({"x": X, "condition": C}, epochs=2, verbose=0)
    assert calls == [True]
    model.predict({"x": X, "condition": C}, verbose=0)
    assert not any(calls[1:])


def test_dropout_is_of_training_alone():
    encoder = keras.Sequential([keras.layers.Dropout(0.5, seed=0), keras.layers.Dense(3)])
    model = FlowModel(amortized(), encoder=encoder)
    data = {"x": X, "condition": C}
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    model.build({"x": X.shape, "condition": C.shape})
    perturb(model.flow)
    losses = model.fit(data, batch_size=ROWS, epochs=3, verbose=0).history["loss"]
    assert len(set(losses)) == 3
    assert model.evaluate(data, verbose=0) == model.evaluate(data, verbose=0)


def test_learns_what_depends_on_the_features():
    rng = np.random.default_rng(1)
    features = rng.uniform(-2.0, 2.0, size=(2000, 1)).astype("float32")
    scale = np.where(features > 0.0, 0.1, 1.0)
    y = (np.sin(2.0 * features) + scale * rng.normal(size=features.shape)).astype("float32")
    encoder = keras.Sequential([keras.layers.Dense(64, "relu"), keras.layers.Dense(64, "relu")])
    flow = keras_nf.MaskedAutoregressive(hidden_units=(), event_size=1)
    model = FlowModel(flow, encoder=encoder)
    model.compile(keras.optimizers.Adam(3e-3))
    data = {"x": y, "condition": features}
    loss = model.fit(data, epochs=60, batch_size=100, verbose=0).history["loss"][-1]
    entropy = np.mean(np.log(scale)) + 0.5 * np.log(2 * np.pi * np.e)
    # The noise of the mean over the rows has a standard deviation of 0.016.
    assert entropy - 0.08 < loss < entropy + 0.15


@pytest.mark.parametrize("name", ENCODERS)
def test_keras_file(name, tmp_path):
    model, condition = model_of(name)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_prob(X, condition), model.log_prob(X, condition))


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("convolution", "unbuilt") else pytest.param(name, marks=pytest.mark.long)
        for name in SINGLE
    ],
)
def test_saved_model_takes_what_the_encoder_takes(name, tmp_path):
    model, condition = model_of(name)
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served")).signatures
    given = {"condition": tf.constant(condition)}
    close = {"rtol": 1e-5, "atol": 1e-5}
    log_prob = served["log_prob"](x=X, **given)["log_prob"]
    np.testing.assert_allclose(log_prob, model.log_prob(X, condition), **close)
    latents = served["inverse"](x=X, **given)["z"]
    np.testing.assert_allclose(served["forward"](z=latents, **given)["x"], X, atol=1e-4)
    seed = tf.constant([0, 3])
    draws = served["sample"](n=tf.constant(4), seed=seed, **given)["x"]
    # Folds that are steep somewhere stretch the rounding of their weights, which an encoder gives.
    expected = model.sample(4, condition=condition, seed=seed)
    np.testing.assert_allclose(draws, expected, rtol=1e-4, atol=1e-4)
    nothing = {"condition": tf.constant(condition[:0])}
    assert served["log_prob"](x=X[:0], **nothing)["log_prob"].shape == (0,)


def test_export_of_several_inputs(tmp_path):
    model, _ = model_of("two inputs")
    with pytest.raises(ValueError, match="condition as a single tensor"):
        model.export(tmp_path / "served")


@pytest.mark.parametrize("call", ["log_prob", "sample", "fit", "predict"])
def test_condition_is_missing(call):
    model, _ = model_of()
    run = {
        "log_prob": lambda: model.log_prob(X),
        "sample": lambda: model.sample(3),
        "fit": lambda: model.fit(X, verbose=0),
        "predict": lambda: model.predict(X, verbose=0),
    }[call]
    with pytest.raises(ValueError, match=r"has an encoder, .* no condition was given"):
        run()


def test_flow_without_a_condition():
    with pytest.raises(ValueError, match=r"No part of .* uses a condition"):
        FlowModel(keras_nf.planar_flow(EVENT), encoder=dense())


def test_encoder_is_no_layer():
    with pytest.raises(ValueError, match="must be a Keras layer or model"):
        FlowModel(amortized(), encoder=np.tanh)
