"""Dequantize: noise in training alone, and integers as they are; BitsPerDim."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import COMPILED
from tensorflow_probability import distributions as tfd

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, size=(64, 4), dtype="uint8")
FLOATS = X.astype("float32")


class Training(keras.layers.Layer):
    """Calls the inverse of a flow in a call of Keras."""

    def __init__(self, flow):
        super().__init__(dtype=flow.dtype.name)
        self.flow = flow

    def call(self, x, training=None):
        return self.flow.inverse_and_log_det(x)


def places(flow, x, training=True):
    """Return where in their bins the inverse puts integers, of bins from -1/2 to 1/2."""
    z, _ = Training(flow)(x, training=training)
    return flow.levels * np.asarray(z, "float64") - 0.5 - np.asarray(x, "float64")


def pixels(**kwargs):
    keras.utils.set_random_seed(1)
    flows = [keras_nf.real_nvp(4, layers=2, hidden_units=(8,)), keras_nf.Standardize()]
    return keras_nf.Chain([*flows, keras_nf.Logit(), keras_nf.Dequantize(**kwargs)])


def model_of_pixels(metrics=(), **kwargs):
    model = keras_nf.FlowModel(pixels(**kwargs))
    model.build((None, 4))
    model.adapt(X)
    model.compile("adam", metrics=list(metrics))
    return model


@pytest.mark.parametrize(("levels", "low"), [(2, 0), (100, 0), (256, 0), (6, 3), (20, -7)])
def test_evaluation_maps_integers_to_the_centres_of_bins(levels, low):
    flow = keras_nf.Dequantize(levels, low=low, dtype="float64")
    x = low + np.arange(levels)[:, None] * np.ones(3, int)
    z, log_det = flow.inverse_and_log_det(x)
    np.testing.assert_allclose(z, (x - low + 0.5) / levels, rtol=1e-15)
    np.testing.assert_allclose(log_det, np.full(levels, -3.0 * np.log(levels)), rtol=1e-15)
    y, back = flow.forward_and_log_det(z)
    np.testing.assert_allclose(y, x, atol=1e-13)
    np.testing.assert_array_equal(back, -log_det)
    np.testing.assert_array_equal(
        flow.forward([[0.0, 0.5, 1.0]]),
        [[low - 0.5, low + 0.5 * levels - 0.5, low + levels - 0.5]],
    )


@pytest.mark.parametrize("low", [0.0, 1.5, True, "0"])
def test_least_level_that_is_no_integer(low):
    with pytest.raises(ValueError, match="`low` must be an integer"):
        keras_nf.Dequantize(4, low=low)


def test_levels_far_from_zero_need_digits():
    with pytest.raises(ValueError, match="Received: 4, from 16000000 on"):
        keras_nf.Dequantize(4, low=16_000_000)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_noise_is_uniform_over_a_bin(dtype):
    flow = keras_nf.Dequantize(256, seed=5, dtype=dtype)
    x = np.repeat(np.array([[0, 3, 128, 255]], "uint8"), 20_000, axis=0)
    noise = places(flow, x)
    assert -0.5 < noise.min() < -0.499
    assert 0.499 < noise.max() < 0.5
    # Standard errors of the mean and the variance of 20,000 uniform numbers, and of two products.
    np.testing.assert_allclose(noise.mean(axis=0), np.zeros(4), atol=4.0 * (1 / 12 / 20_000) ** 0.5)
    np.testing.assert_allclose(
        noise.var(axis=0), np.full(4, 1 / 12), atol=4.0 * (1 / 180 / 20_000) ** 0.5
    )
    np.testing.assert_allclose(np.corrcoef(noise.T), np.eye(4), atol=4.0 / 20_000**0.5)
    counts = [np.histogram(column, 16, (-0.5, 0.5))[0] for column in noise.T]
    # Chi-squared of 15 degrees of freedom: 0.9999 of it lies below 44.3.
    assert np.max(np.sum((np.array(counts) - 1250.0) ** 2 / 1250.0, axis=1)) < 44.3


def test_noise_leaves_the_log_determinant():
    flow = keras_nf.Dequantize()
    _, log_det = Training(flow)(X, training=True)
    np.testing.assert_allclose(log_det, np.full(64, -4.0 * np.log(256.0)), rtol=1e-6)


def test_noise_is_fresh_at_each_call_and_absent_otherwise():
    flow = keras_nf.Dequantize()
    first, second = places(flow, X), places(flow, X)
    assert np.mean(first == second) < 0.01
    assert np.unique(first).size > 200
    assert np.all(places(flow, X, training=False) == 0.0)
    np.testing.assert_array_equal(flow.inverse(X), flow.inverse(X))
    assert int(flow.draws) == 2


def test_noise_never_leaves_the_unit_interval():
    # Without a margin, a `Logit` has no density at 0 and 1.
    chain = keras_nf.Chain([keras_nf.Logit(margin=0.0), keras_nf.Dequantize()])
    x = np.repeat(np.array([[0, 255]], "uint8"), 1_000_000, axis=0)
    z, log_det = Training(chain)(x, training=True)
    assert np.isfinite(z).all()
    assert np.isfinite(log_det).all()


@pytest.mark.usefixtures("with_xla")
@COMPILED
def test_a_step_of_training_has_fresh_noise(jit_compile):
    seen = []

    class Losses(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(logs["loss"])

    model = model_of_pixels()
    model.compile(keras.optimizers.SGD(0.0), jit_compile=jit_compile)
    # One batch an epoch: its loss is that of the data, with the noise of the step.
    history = model.fit(X, batch_size=64, epochs=5, validation_data=X, verbose=0).history
    assert len(set(history["loss"])) == 5
    assert len(set(history["val_loss"])) == 1
    np.testing.assert_allclose(history["val_loss"][0], -np.mean(model.log_prob(X)), rtol=1e-5)


def test_the_seed_of_keras_reproduces_the_noise():
    noise = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        noise.append(places(keras_nf.Dequantize(), X))
    np.testing.assert_array_equal(*noise)
    assert not np.array_equal(noise[0], places(keras_nf.Dequantize(), X))
    a, b = keras_nf.Dequantize(seed=3), keras_nf.Dequantize(seed=3)
    np.testing.assert_array_equal(places(a, X), places(b, X))


def test_always_adds_noise_in_evaluation():
    model = model_of_pixels(always=True)
    first, second = model.log_prob(X), model.log_prob(X)
    assert np.mean(np.equal(first, second)) < 0.05
    assert model.evaluate(X, verbose=0) != model.evaluate(X, verbose=0)


def test_the_mean_over_noise_is_a_bound_of_the_probability():
    # One component: ln P(x) is that of the difference of the distribution function over a bin.
    flow = keras_nf.Chain(
        [keras_nf.Scaling(dtype="float64"), keras_nf.Logit(dtype="float64")]
        + [keras_nf.Dequantize(4, always=True, dtype="float64")],
        dtype="float64",
    )
    model = keras_nf.FlowModel(flow)
    x = np.arange(4)[:, None]
    model.build((None, 1))
    flow.flows[0].log_scale.assign([np.log(3.0)])
    # The distribution function is that of the logits, of standard deviation 3, at the edges.
    edges = np.linspace(0.0, 1.0, 5)
    logits = np.concatenate([[-np.inf], np.log(edges[1:-1] / (1.0 - edges[1:-1])), [np.inf]])
    edges = tfd.Normal(np.float64(0.0), 3.0).cdf(logits)
    exact = np.log(np.diff(edges))
    draws = model.log_prob(np.tile(x, (5000, 1)).reshape(5000, 4, 1)).numpy()
    errors = draws.std(axis=0) / 5000**0.5
    bound = draws.mean(axis=0)
    assert np.all(bound < exact + 3.0 * errors)
    # Not far below: the density changes by a factor within a bin.
    assert np.all(bound > exact - 0.5)
    np.testing.assert_allclose(np.log(np.mean(np.exp(draws), axis=0)), exact, atol=0.05)


# Integers as they are.

ENTRIES = {
    "log_prob": lambda model, x: model.log_prob(x),
    "call": lambda model, x: model(x),
    "predict": lambda model, x: model.predict(x, verbose=0),
    "evaluate": lambda model, x: model.evaluate(x, verbose=0),
    "inverse": lambda model, x: model.flow.inverse(x),
    "inverse_and_log_det": lambda model, x: model.flow.inverse_and_log_det(x)[1],
    "inverse_log_det_jacobian": lambda model, x: model.flow.inverse_log_det_jacobian(x),
    "distribution": lambda model, x: model.distribution.log_prob(x),
}


@pytest.mark.parametrize("enter", ENTRIES.values(), ids=ENTRIES)
@pytest.mark.parametrize(
    "data",
    [lambda x: x, tf.constant, lambda x: x.astype("int64")],
    ids=["array", "tensor", "int64"],
)
def test_integers_give_the_numbers_of_floats(enter, data):
    model = model_of_pixels()
    np.testing.assert_allclose(enter(model, data(X)), enter(model, FLOATS), rtol=1e-6)


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_datasets_of_integers(name):
    model = model_of_pixels()
    dataset = tf.data.Dataset.from_tensor_slices(X).batch(16)
    expected = getattr(model, name)(FLOATS, verbose=0)
    np.testing.assert_allclose(getattr(model, name)(dataset, verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "data",
    [
        lambda x: x,
        pytest.param(lambda x: {"x": x}, marks=pytest.mark.slow),
        pytest.param(tf.constant, marks=pytest.mark.slow),
    ],
    ids=["array", "dictionary", "tensor"],
)
def test_fit_of_integers_is_that_of_floats(data):
    losses = []
    for x in (X, FLOATS):
        model = model_of_pixels()
        keras.utils.set_random_seed(2)
        history = model.fit(data(x), epochs=2, validation_data=data(x), verbose=0).history
        losses.append([*history["loss"], *history["val_loss"]])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_fit_of_a_dataset_of_integers():
    dataset = tf.data.Dataset.from_tensor_slices(X).batch(16)
    model = model_of_pixels()
    history = model.fit(dataset, validation_data=dataset, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"] + history["val_loss"]).all()


def test_the_pipeline_keeps_bytes():
    seen = []

    class Noting(keras_nf.FlowModel):
        def call(self, inputs, training=None):
            seen.append(inputs.dtype)
            return super().call(inputs, training)

    model = Noting(keras_nf.Chain([keras_nf.Logit(), keras_nf.Dequantize()]))
    model.compile("sgd")
    model.fit(X, verbose=0)
    model.predict(X, verbose=0)
    assert {dtype.name for dtype in seen} == {"uint8"}


def test_adapt_sees_the_noise():
    # A pixel that is always black is constant without noise, and could not be standardized.
    x = X.copy()
    x[:, 0] = 0
    model = keras_nf.FlowModel(pixels())
    model.adapt(x)
    _, standardize, logit, dequantize = model.flow.flows
    assert float(standardize.std[0]) > 0.5
    assert int(dequantize.draws) > 0
    z = np.asarray(logit.inverse(dequantize.inverse(FLOATS)))[:, 1:]
    np.testing.assert_allclose(standardize.mean[1:], z.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(standardize.std[1:], z.std(axis=0), rtol=0.05)
    before = int(dequantize.draws)
    model.log_prob(x)
    assert int(dequantize.draws) == before


def test_images_as_they_are():
    images = RNG.integers(0, 256, size=(32, 4, 4, 1), dtype="uint8")
    flow = keras_nf.Chain([keras_nf.ActNorm(), keras_nf.Logit(), keras_nf.Dequantize()])
    model = keras_nf.FlowModel(flow)
    model.adapt(images)
    model.compile("adam")
    model.fit(images, verbose=0)
    assert model.log_prob(images).shape == (32, 4, 4)


def test_booleans_are_two_levels():
    flow = keras_nf.Dequantize(2)
    np.testing.assert_array_equal(flow.inverse(np.array([[False, True]])), [[0.25, 0.75]])


NOT_AT_THE_END = {
    "none": lambda: keras_nf.Scaling(),
    "first": lambda: keras_nf.Chain([keras_nf.Dequantize(), keras_nf.Scaling()]),
    "inverted": lambda: keras_nf.Invert(keras_nf.Dequantize()),
    "empty": lambda: keras_nf.Chain([]),
}


@pytest.mark.parametrize("flow", NOT_AT_THE_END.values(), ids=NOT_AT_THE_END)
def test_other_flows_refuse_integers(flow):
    flow = flow()
    assert not flow.takes_integers
    for enter in (flow.inverse, flow.inverse_and_log_det, keras_nf.FlowModel(flow).log_prob):
        with pytest.raises(ValueError, match=r"floating-point.*uint8.*keras_nf\.Dequantize"):
            enter(X)


@pytest.mark.parametrize("name", ["forward", "forward_and_log_det", "forward_log_det_jacobian"])
def test_latents_are_no_integers(name):
    flow = pixels()
    assert flow.takes_integers
    with pytest.raises(ValueError, match=r"floating-point.*uint8"):
        getattr(flow, name)(X)


def test_strings_are_refused():
    with pytest.raises(ValueError, match=r"floating-point dtype.*string"):
        keras_nf.Dequantize().inverse(np.array([["a"]]))


@pytest.mark.parametrize("levels", [0, 1, -3, 2.5, True, "256"])
def test_levels_that_are_no_number_of_levels(levels):
    with pytest.raises(ValueError, match="`levels` must be"):
        keras_nf.Dequantize(levels)


def test_levels_that_a_dtype_cannot_divide():
    keras_nf.Dequantize(2**16)
    keras_nf.Dequantize(2**32, dtype="float64")
    keras_nf.Dequantize(16, dtype="float16")
    with pytest.raises(ValueError, match="float16 can divide"):
        keras_nf.Dequantize(256, dtype="float16")
    with pytest.raises(ValueError, match=r"float32 can divide.*float64"):
        keras_nf.Dequantize(2**20)


def test_config():
    flow = keras_nf.Dequantize(17, always=True, seed=5)
    other = keras_nf.Dequantize.from_config(flow.get_config())
    assert (other.levels, other.always, other.seed) == (17, True, 5)
    assert keras_nf.Dequantize.from_config(keras_nf.Dequantize().get_config()).always is False


# Files and exports.


def test_a_file_goes_on_with_fresh_noise(tmp_path):
    model = model_of_pixels([keras_nf.BitsPerDim()])
    model.fit(X, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_prob(X), model.log_prob(X))
    assert loaded.evaluate(X, verbose=0) == model.evaluate(X, verbose=0)
    ends = [m.flow.flows[-1] for m in (loaded, model)]
    assert int(ends[0].draws) == int(ends[1].draws) > 0
    np.testing.assert_array_equal(places(ends[0], X), places(ends[1], X))


@pytest.mark.slow
def test_weights_of_a_training_serve_an_evaluation_with_noise(tmp_path):
    model = model_of_pixels()
    model.fit(X, verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    noisy = keras_nf.FlowModel(pixels(always=True))
    noisy.build((None, 4))
    noisy.load_weights(tmp_path / "model.weights.h5")
    flows = model.flow.flows[:-1]
    shared = keras_nf.FlowModel(keras_nf.Chain([*flows, keras_nf.Dequantize(always=True)]))
    for other in (noisy, shared):
        assert np.mean(np.equal(other.log_prob(X), model.log_prob(X))) < 0.05
        z = np.mean([other.flow.inverse(X) for _ in range(100)], axis=0)
        np.testing.assert_allclose(z, model.flow.inverse(X), atol=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("always", [False, True])
def test_an_export(always, tmp_path):
    model = model_of_pixels(always=always)
    keras_nf.export_saved_model(model, tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["log_prob"]
    first, second = (served(x=tf.constant(FLOATS))["log_prob"].numpy() for _ in range(2))
    assert np.array_equal(first, second) != always
    np.testing.assert_allclose(first, model.log_prob(X), rtol=0.2 if always else 1e-5)


# BitsPerDim.


def test_a_uniform_source_has_as_many_bits_as_its_levels():
    x = RNG.integers(0, 256, size=(5000, 4), dtype="uint8")
    flow = keras_nf.Chain([keras_nf.Scaling(), keras_nf.Logit(), keras_nf.Dequantize()])
    model = keras_nf.FlowModel(flow, base="logistic")
    model.compile(keras.optimizers.Adam(1e-3), metrics=[keras_nf.BitsPerDim()])
    history = model.fit(x, batch_size=500, epochs=2, verbose=0).history
    # The logistic base is the uniform distribution on the interval, but for the margin.
    np.testing.assert_allclose(history["bits_per_dim"], [8.0, 8.0], atol=2e-3)
    np.testing.assert_allclose(model.evaluate(x, verbose=0)[1], 8.0, atol=2e-3)


def test_bits_are_nats_of_a_component():
    model = model_of_pixels([keras_nf.BitsPerDim()])
    loss, bits = model.evaluate(X, verbose=0)
    np.testing.assert_allclose(bits, loss / (4.0 * np.log(2.0)), rtol=1e-6)
    np.testing.assert_allclose(loss, -np.mean(model.log_prob(X)), rtol=1e-5)


def test_weights_of_rows():
    metric = keras_nf.BitsPerDim()
    x, log_prob = np.zeros((3, 2)), np.log([0.5, 0.25, 0.125])
    metric.update_state(x, log_prob)
    np.testing.assert_allclose(metric.result(), 1.0, rtol=1e-6)
    metric.reset_state()
    metric.update_state(x, log_prob, sample_weight=[1.0, 0.0, 3.0])
    np.testing.assert_allclose(metric.result(), (0.5 + 3.0 * 1.5) / 4.0, rtol=1e-6)


def test_weighted_metrics_of_a_model():
    weight = RNG.uniform(size=64)
    model = model_of_pixels()
    model.compile("sgd", weighted_metrics=[keras_nf.BitsPerDim()])
    _, bits = model.evaluate(X, sample_weight=weight, verbose=0)
    expected = np.average(-model.log_prob(X), weights=weight) / (4.0 * np.log(2.0))
    np.testing.assert_allclose(bits, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 2), (7, 4, 4, 3)])
def test_components_of_all_axes_count(shape):
    size = np.prod(shape[1:])
    metric = keras_nf.BitsPerDim()
    metric.update_state(tf.zeros(shape, tf.uint8), tf.fill([7], -np.log(2.0) * size))
    np.testing.assert_allclose(metric.result(), 1.0, rtol=1e-6)


def test_positions_that_are_events_of_their_own():
    model = keras_nf.FlowModel(keras_nf.Dequantize(), base="uniform")
    model.compile("sgd", metrics=[keras_nf.BitsPerDim()])
    images = RNG.integers(0, 256, size=(6, 4, 4, 3), dtype="uint8")
    np.testing.assert_allclose(model.evaluate(images, verbose=0)[1], 8.0, rtol=1e-6)


def test_conditions_are_no_components():
    metric = keras_nf.BitsPerDim()
    flow = keras_nf.Chain(
        [keras_nf.AffineCoupling(hidden_units=(8,)), keras_nf.Logit(), keras_nf.Dequantize()]
    )
    model = keras_nf.FlowModel(flow)
    model.compile("sgd", metrics=[metric])
    data = {"x": X, "condition": RNG.normal(size=(64, 3)).astype("float32")}
    loss, bits = model.evaluate(data, verbose=0)
    np.testing.assert_allclose(bits, loss / (4.0 * np.log(2.0)), rtol=1e-6)


def test_a_metric_without_data_is_refused():
    with pytest.raises(ValueError, match=r"an axis more.*\(3,\) and \(3,\)"):
        keras_nf.BitsPerDim().update_state(np.zeros(3), np.zeros(3))


def test_config_of_the_metric():
    metric = keras_nf.BitsPerDim(name="bits", dtype="float64")
    text = keras.saving.serialize_keras_object(metric)
    other = keras.saving.deserialize_keras_object(text)
    assert isinstance(other, keras_nf.BitsPerDim)
    assert (other.name, other.dtype) == ("bits", "float64")
