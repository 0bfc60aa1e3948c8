"""BatchNormalization: statistics of the batch in training, running ones otherwise."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import COMPILED

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)) @ RNG.normal(size=(3, 3)) + [1.0, -3.0, 2.0]
GAMMA, BETA = np.array([0.5, 2.0, 1.5]), np.array([0.3, 0.0, -1.0])
EPSILON = 1e-5


class Training(keras.layers.Layer):
    """Calls a flow in a call of Keras."""

    def __init__(self, flow):
        super().__init__(dtype=flow.dtype.name)
        self.flow = flow

    def call(self, x, direction="inverse", training=None):
        return getattr(self.flow, f"{direction}_and_log_det")(x)


def in_training(flow, x, direction="inverse"):
    return Training(flow)(x, direction=direction, training=True)


def layer(dtype="float64", **kwargs):
    norm = keras_nf.BatchNormalization(dtype=dtype, **kwargs)
    norm.build((None, 3))
    norm.log_gamma.assign(np.log(GAMMA))
    norm.beta.assign(BETA)
    norm.running_mean.assign([2.0, 0.0, 1.0])
    norm.running_variance.assign([4.0, 1.0, 0.25])
    return norm


def normalize(x, mean, variance, epsilon=EPSILON):
    """Return z and the log-determinant by the formula of the paper."""
    z = (x - mean) / np.sqrt(variance + epsilon) * GAMMA + BETA
    log_det = np.sum(np.log(GAMMA) - 0.5 * np.log(variance + epsilon))
    return z, np.full(x.shape[:-1], log_det)


def assert_pairs_close(actual, expected, tolerance=1e-12):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


def log_normal(z):
    return -0.5 * np.sum(z**2 + np.log(2.0 * np.pi), axis=-1)


def test_evaluation_takes_the_running_statistics():
    norm, running = layer(), (np.array([2.0, 0.0, 1.0]), np.array([4.0, 1.0, 0.25]))
    z, log_det = normalize(X, *running)
    assert_pairs_close(norm.inverse_and_log_det(X), (z, log_det))
    assert_pairs_close(norm.forward_and_log_det(z), (X, -log_det))
    assert_pairs_close((norm.running_mean, norm.running_variance), running)


def test_training_takes_those_of_the_batch():
    expected = normalize(X, X.mean(axis=0), X.var(axis=0))
    assert_pairs_close(in_training(layer(), X), expected)
    np.testing.assert_allclose(expected[0].mean(axis=0), BETA, atol=1e-12)
    np.testing.assert_allclose(expected[0].std(axis=0), GAMMA, rtol=1e-4)


def test_epsilon_is_added_to_the_variance():
    expected = normalize(X, X.mean(axis=0), X.var(axis=0), epsilon=0.1)
    assert_pairs_close(in_training(layer(epsilon=0.1), X), expected)


@pytest.mark.parametrize("shape", [(20, 3, 3), (5, 4, 3, 3)], ids=["sequences", "images"])
def test_statistics_of_channels_are_those_over_all_other_axes(shape):
    z, log_det = normalize(X, X.mean(axis=0), X.var(axis=0))
    expected = z.reshape(shape), log_det.reshape(shape[:-1])
    norm = layer()
    assert_pairs_close(in_training(norm, X.reshape(shape)), expected)
    np.testing.assert_allclose(norm.running_mean, 0.99 * np.array([2, 0, 1]) + 0.01 * X.mean(0))


def test_sampling_takes_the_running_statistics_in_training_too():
    norm = layer()
    assert_pairs_close(in_training(norm, X, "forward"), norm.forward_and_log_det(X), 0.0)
    np.testing.assert_array_equal(norm.running_mean, [2.0, 0.0, 1.0])


def test_an_inverted_layer_normalizes_in_training():
    norm = layer()
    model = keras.Sequential([keras.Input((3,), dtype="float64"), keras_nf.Invert(norm)])
    expected, _ = normalize(X, X.mean(axis=0), X.var(axis=0))
    np.testing.assert_allclose(model(X, training=True), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(model(X), norm.inverse(X))


def test_gradients_go_through_the_statistics():
    norm, x, weight = layer(), tf.constant(X), RNG.normal(size=X.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z, log_det = in_training(norm, x)
        loss = tf.reduce_sum(weight * z) + tf.reduce_sum(log_det)
    gradient = tape.gradient(loss, x)
    # d z_j / d x_i = (delta_ij - 1/n - n_i n_j / n) gamma / s, with n the normalized events.
    s, rows = np.sqrt(X.var(axis=0) + EPSILON), len(X)
    n = (X - X.mean(axis=0)) / s
    expected = (weight - weight.mean(axis=0) - n * (weight * n).mean(axis=0)) * GAMMA / s
    expected += rows * -n / (rows * s)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-10)


def replay(x, batch_size, momentum):
    """Return the running statistics after one epoch over data that nothing else changes."""
    mean, variance = np.zeros(3), np.ones(3)
    for start in range(0, len(x), batch_size):
        batch = x[start : start + batch_size]
        mean = momentum * mean + (1.0 - momentum) * batch.mean(axis=0)
        variance = momentum * variance + (1.0 - momentum) * batch.var(axis=0)
    return mean, variance


@pytest.mark.usefixtures("with_xla")
@COMPILED
@pytest.mark.parametrize("eager", [False, True])
def test_fit_moves_the_running_statistics(jit_compile, eager):
    norm = keras_nf.BatchNormalization(momentum=0.9, dtype="float64")
    model = keras_nf.FlowModel(norm)
    jit_compile = jit_compile and not eager
    model.compile("adam", jit_compile=jit_compile, run_eagerly=eager)
    # A last batch with fewer rows.
    model.fit(X, batch_size=16, shuffle=False, verbose=0)
    assert_pairs_close((norm.running_mean, norm.running_variance), replay(X, 16, 0.9), 1e-10)
    assert np.any(norm.log_gamma.numpy())
    assert np.any(norm.beta.numpy())


def test_no_other_call_moves_them():
    model = keras_nf.FlowModel(layer())
    model.compile("sgd")
    model.fit(X, batch_size=20, validation_data=X, shuffle=False, verbose=0)
    before = [w.numpy() for w in model.flow.non_trainable_weights]
    model.evaluate(X, verbose=0)
    model.predict(X, verbose=0)
    model.log_prob(X)
    model.sample(5, seed=0)
    model.flow.inverse(X)
    assert_pairs_close(model.flow.non_trainable_weights, before, 0.0)
    # Three steps, none of them in validation.
    rate = 1.0 - 0.99**3
    expected = [2.0, 0.0, 1.0] + rate * (X.mean(axis=0) - [2.0, 0.0, 1.0])
    np.testing.assert_allclose(before[0], expected, atol=2e-4)


def test_the_loss_of_a_step_is_that_of_the_batch():
    model = keras_nf.FlowModel(layer())
    model.compile(keras.optimizers.SGD(0.0))
    history = model.fit(X, batch_size=60, validation_data=X, verbose=0).history
    z, log_det = normalize(X, X.mean(axis=0), X.var(axis=0))
    np.testing.assert_allclose(history["loss"], -np.mean(log_normal(z) + log_det), rtol=1e-6)
    mean = 0.99 * np.array([2.0, 0.0, 1.0]) + 0.01 * X.mean(axis=0)
    variance = 0.99 * np.array([4.0, 1.0, 0.25]) + 0.01 * X.var(axis=0)
    z, log_det = normalize(X, mean, variance)
    np.testing.assert_allclose(history["val_loss"], -np.mean(log_normal(z) + log_det), rtol=1e-6)
    assert abs(history["val_loss"][0] - history["loss"][0]) > 1.0


def test_a_frozen_layer_trains_with_the_running_statistics():
    norm = layer(trainable=False)
    assert norm.trainable_weights == []
    assert_pairs_close(in_training(norm, X), norm.inverse_and_log_det(X), 0.0)
    np.testing.assert_array_equal(norm.running_mean, [2.0, 0.0, 1.0])
    norm.trainable = True
    assert_pairs_close(in_training(norm, X), normalize(X, X.mean(axis=0), X.var(axis=0)))


DEGENERATE = {
    "one row": X[:1],
    "constant component": np.where([True, False, False], 7.0, X),
    "huge": 1e30 * X,
    "large mean": X + 1e6,
    "tiny": 1e-30 * X,
}


@pytest.mark.parametrize("x", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_batches_give_finite_numbers(x):
    model = keras_nf.FlowModel(layer("float32"))
    x = x.astype("float32")
    with tf.GradientTape() as tape:
        inputs = tf.constant(x)
        tape.watch(inputs)
        log_prob = model(inputs, training=True)
    gradients = tape.gradient(log_prob, [inputs, *model.trainable_weights])
    for value in (log_prob, *gradients, *model.weights):
        assert np.isfinite(value).all()


def test_a_large_mean_leaves_the_digits_of_the_deviations():
    x = (X + 1e6).astype("float32")
    z, log_det = in_training(layer("float32"), x)
    exact = x.astype("float64")
    expected, exact_log_det = normalize(exact, exact.mean(axis=0), exact.var(axis=0))
    # The mean is off by a sixteenth or two, which moves all events alike, and its square is added
    # to the variance.
    np.testing.assert_allclose(z - z[0], expected - expected[0], rtol=2e-2, atol=1e-6)
    np.testing.assert_allclose(log_det, exact_log_det, atol=2e-2)


def test_an_empty_batch_moves_nothing():
    norm = layer()
    z, log_det = in_training(norm, X[:0])
    assert z.shape == (0, 3)
    assert log_det.shape == (0,)
    np.testing.assert_array_equal(norm.running_mean, [2.0, 0.0, 1.0])
    np.testing.assert_array_equal(norm.running_variance, [4.0, 1.0, 0.25])


def test_mixed_precision_leaves_the_statistics_in_float32():
    norm = layer("mixed_float16")
    x = X.astype("float32")
    z, log_det = in_training(norm, x)
    assert z.dtype == log_det.dtype == norm.running_mean.dtype == "float32"
    assert_pairs_close((z, log_det), normalize(X, X.mean(axis=0), X.var(axis=0)), 1e-5)


# `adapt`.


def chain():
    flows = [keras_nf.AffineCoupling(hidden_units=(8,)), keras_nf.BatchNormalization()]
    return keras_nf.Chain([*flows, keras_nf.Permute(), keras_nf.BatchNormalization()])


def test_adapt_sets_the_statistics_of_all_data():
    model = keras_nf.FlowModel(chain())
    assert model.flow.adapted
    model.compile("adam")
    x = X.astype("float32")
    model.fit(x, epochs=2, verbose=0)
    before = [w.numpy() for w in model.trainable_weights]
    model.adapt(x)
    assert_pairs_close(model.trainable_weights, before, 0.0)
    _, first, _, last = model.flow.flows
    np.testing.assert_allclose(last.running_mean, X.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(last.running_variance, X.var(axis=0), rtol=1e-5)
    z = model.flow.flows[2].inverse(last.inverse(x))
    np.testing.assert_allclose(first.running_mean, np.mean(z, axis=0), atol=1e-5)
    np.testing.assert_allclose(first.running_variance, np.var(z, axis=0), rtol=1e-4)
    # With all data in one batch, training and evaluation are the same.
    np.testing.assert_allclose(model(x), model(x, training=True), rtol=1e-4, atol=1e-4)


def test_a_file_keeps_the_running_statistics(tmp_path):
    model = keras_nf.FlowModel(chain())
    model.compile("adam")
    model.fit(X.astype("float32"), epochs=3, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_pairs_close(loaded.weights, model.weights, 0.0)
    assert_pairs_close([loaded.log_prob(X)], [model.log_prob(X)], 0.0)
    assert loaded.flow.flows[1].momentum == 0.99
    other = keras_nf.FlowModel(chain())
    other.build((None, 3))
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    assert_pairs_close(other.weights, model.weights, 0.0)


def test_an_export_evaluates(tmp_path):
    model = keras_nf.FlowModel(layer("float32"))
    model.build((None, 3))
    keras_nf.export_saved_model(model, tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["log_prob"]
    x = tf.constant(X, tf.float32)
    np.testing.assert_allclose(served(x=x)["log_prob"], model.log_prob(x), rtol=1e-5)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 99])
def test_momentum_out_of_range(momentum):
    with pytest.raises(ValueError, match=r"`momentum` must lie in \[0, 1\)"):
        keras_nf.BatchNormalization(momentum=momentum)


@pytest.mark.parametrize("epsilon", [0.0, -1e-3, np.inf])
def test_epsilon_out_of_range(epsilon):
    with pytest.raises(ValueError, match="`epsilon` must be a positive number"):
        keras_nf.BatchNormalization(epsilon=epsilon)
