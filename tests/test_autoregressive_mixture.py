"""A base whose components are mixtures of normals, given those before them."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from cases import COMPILED
from tensorflow_probability import distributions as tfd

import keras_nf
from keras_nf.bases import AutoregressiveMixture

pytestmark = pytest.mark.usefixtures("without_xla")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 3)).astype("float32")
C = RNG.normal(size=(64, 2)).astype("float32")


def make(components=3, shape=(3,), condition_size=None, dtype="float64", strength=0.3, **kwargs):
    """Return a built base with weights off zero."""
    options = {"hidden_units": (16,), "activation": "tanh", "dtype": dtype, **kwargs}
    base = AutoregressiveMixture(components, conditional=condition_size is not None, **options)
    base.build((None, *shape), *([] if condition_size is None else [(None, condition_size)]))
    rng = np.random.default_rng(1)
    for weight in base.weights:
        weight.assign(strength * rng.standard_normal(weight.shape))
    return base


def mixtures_of(base, z, condition=None):
    """Return weights, means and deviations, each of shape (rows, components, size)."""
    outputs = base.network(z) if condition is None else base.network(z, condition)
    size = z.shape[-1]
    logits, loc, log_scale = np.reshape(outputs, (len(z), 3, base.components, size)).swapaxes(0, 1)
    shares = (np.arange(base.components) + 0.5) / base.components
    centres = scipy.stats.norm.ppf(shares)
    bound = base.log_scale_bound
    log_scale = log_scale / (1.0 + np.abs(log_scale) / bound) if bound else log_scale
    scale = np.exp(log_scale) * np.sqrt(1.0 - np.mean(centres**2))
    weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return weights, loc + centres[:, None], scale


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("bound", [8.0, 0.5, None])
@pytest.mark.parametrize("condition_size", [None, 2])
def test_density(components, bound, condition_size):
    base = make(components, condition_size=condition_size, log_scale_bound=bound)
    z, condition = X.astype("float64"), C.astype("float64") if condition_size else None
    weights, loc, scale = mixtures_of(base, z, condition)
    densities = (weights * scipy.stats.norm(loc, scale).pdf(z[:, None, :])).sum(axis=1)
    found = base.distribution(None if condition is None else tf.constant(condition)).log_prob(z)
    np.testing.assert_allclose(found, np.log(densities).sum(axis=1), rtol=1e-12)


def test_a_fresh_base_is_close_to_normal():
    for components in (1, 2, 10):
        base = AutoregressiveMixture(components, hidden_units=(8,), dtype="float64")
        base.build((None, 3))
        expected = scipy.stats.norm().logpdf(X).sum(axis=1)
        error = np.abs(base.distribution().log_prob(X.astype("float64")) - expected)
        assert np.max(error) < (1e-12 if components == 1 else 0.9)
        draws = base.distribution().sample(20_000, seed=0)
        np.testing.assert_allclose(np.mean(draws, axis=0), 0.0, atol=5.0 / np.sqrt(20_000))
        np.testing.assert_allclose(np.var(draws, axis=0), 1.0, atol=0.06)


@COMPILED
@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("order", ["sequential", [2, 0, 1]], ids=["sequential", "permuted"])
def test_draws_follow_the_density(components, order, jit_compile, with_xla):
    """P(Z_i <= z_i | those before) is uniform, and independent of the others."""
    base = make(components, order=order)
    sample = tf.function(
        lambda: base.distribution().sample(20_000, seed=(0, 1)), jit_compile=jit_compile
    )
    draws = sample().numpy()
    weights, loc, scale = mixtures_of(base, draws)
    u = (weights * scipy.stats.norm(loc, scale).cdf(draws[:, None, :])).sum(axis=1)
    for i in range(3):
        assert scipy.stats.kstest(u[:, i], "uniform").pvalue > 1e-3
    correlation = np.corrcoef(u.T) - np.eye(3)
    np.testing.assert_allclose(correlation, 0.0, atol=5.0 / np.sqrt(20_000))


@pytest.mark.parametrize("components", [1, 3])
def test_gradients_of_draws(components):
    """The mean of a function of draws moves with each weight as its integral does."""
    base = make(components, shape=(2,), strength=0.15)
    line = np.linspace(-12.0, 12.0, 481)
    plane = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    of_plane = np.sin(plane).sum(axis=1) * (line[1] - line[0]) ** 2

    def integral():
        return (np.exp(base.distribution().log_prob(plane)) * of_plane).sum()

    with tf.GradientTape() as tape:
        draws = base.distribution().sample(100_000, seed=(0, 1))
        mean = tf.reduce_mean(tf.reduce_sum(tf.sin(draws), axis=-1))
    assert float(mean) == pytest.approx(integral(), abs=0.01)
    gradients = tape.gradient(mean, base.trainable_weights)
    for weight, gradient in zip(base.trainable_weights, gradients, strict=True):
        place = np.unravel_index(np.argmax(np.abs(gradient)), weight.shape)
        value, moved = weight.numpy(), []
        for step in (1e-4, -1e-4):
            changed = value.copy()
            changed[place] += step
            weight.assign(changed)
            moved.append(integral())
        weight.assign(value)
        slope = (moved[0] - moved[1]) / 2e-4
        assert gradient.numpy()[place] == pytest.approx(slope, abs=0.01), weight.path


def test_far_out_nothing_is_nan():
    base = make(dtype="float32", strength=3.0, log_scale_bound=None)
    z = tf.constant([[1e30, -1e30, 3e38], [0.0, 1e20, -5.0], [0.0, 0.0, 0.0]])
    log_prob = base.distribution().log_prob(z).numpy()
    assert not np.isnan(log_prob).any()
    assert log_prob[0] == -np.inf
    assert np.isfinite(log_prob[2])
    row = np.array([[0.0, np.nan, 0.0]], "float32")
    assert np.isnan(base.distribution().log_prob(row)).all()


@pytest.mark.parametrize("conditional", [False, True])
def test_fit_moves_every_weight_that_counts(conditional):
    base = AutoregressiveMixture(2, hidden_units=(8,), conditional=conditional)
    model = keras_nf.FlowModel(keras_nf.maf(3, layers=1, hidden_units=(8,)), base=base)
    data = {"x": X + 1.0, "condition": C} if conditional else X + 1.0
    model.build({"x": (None, 3), "condition": (None, 2)} if conditional else (None, 3))
    before = [weight.numpy() for weight in base.weights]
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(data, epochs=3, batch_size=16, verbose=0)
    assert len(base.trainable_weights) == (5 if conditional else 4)
    for weight, old in zip(base.trainable_weights, before, strict=True):
        # Kernels have masks.
        assert np.mean(weight.numpy() != old) > 0.2, weight.path


@pytest.mark.parametrize("conditional", [False, True])
def test_files_and_exports(conditional, tmp_path):
    base = AutoregressiveMixture(
        2, hidden_units=(8,), order="random", log_scale_bound=3.0, conditional=conditional
    )
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=3), base=base)
    inputs = {"x": X, "condition": C} if conditional else X
    model(inputs)
    rng = np.random.default_rng(2)
    for weight in model.weights:
        weight.assign(0.3 * rng.standard_normal(weight.shape))
    log_prob = model.predict(inputs, verbose=0)
    condition = C[:4] if conditional else None
    draws = model.sample(5, condition=condition, seed=(0, 3))
    assert draws.shape == ((5, 4, 3) if conditional else (5, 3))

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(inputs, verbose=0), log_prob)
    np.testing.assert_array_equal(loaded.sample(5, condition=condition, seed=(0, 3)), draws)

    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served")).signatures
    given = (
        {name: tf.constant(value) for name, value in inputs.items()} if conditional else {"x": X}
    )
    np.testing.assert_allclose(served["log_prob"](**given)["log_prob"], log_prob, atol=1e-5)
    given = {"condition": tf.constant(condition)} if conditional else {}
    found = served["sample"](n=tf.constant(5), seed=tf.constant([0, 3]), **given)["x"]
    np.testing.assert_allclose(found, draws, atol=1e-5)


def test_conditions_broadcast():
    base = make(condition_size=2)
    c = tf.constant(RNG.normal(size=(4, 1, 2)))
    z = RNG.normal(size=(5, 3))
    found = base.distribution(c).log_prob(z)
    assert found.shape == (4, 5)
    for i in range(4):
        np.testing.assert_allclose(found[i], base.distribution(c[i, 0]).log_prob(z), rtol=1e-12)
    draws = base.distribution(c).sample(2, seed=0)
    assert draws.shape == (2, 4, 1, 3)


def test_events_of_several_axes():
    base, flat = make(shape=(2, 3)), make(shape=(6,))
    z = RNG.normal(size=(5, 2, 3))
    distribution = base.distribution()
    assert distribution.event_shape == (2, 3)
    expected = flat.distribution().log_prob(z.reshape(5, 6))
    np.testing.assert_allclose(distribution.log_prob(z), expected, rtol=1e-12)
    draws = distribution.sample(4, seed=(0, 1))
    expected = flat.distribution().sample(4, seed=(0, 1))
    np.testing.assert_allclose(draws, np.reshape(expected, (4, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    mixed, exact = make(dtype=policy), make(dtype="float32")
    for weight, other in zip(mixed.weights, exact.weights, strict=True):
        weight.assign(other)
    found, expected = (base.distribution().log_prob(X) for base in (mixed, exact))
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert not np.array_equal(found, expected)
    assert mixed.distribution().sample(3, seed=0).dtype == tf.float32


def test_it_learns_two_modes_that_follow_each_other():
    """p(z_2 | z_1) has modes at z_1 + 2 and z_1 - 2, which one normal distribution cannot have."""
    z = RNG.normal(size=(4000, 2))
    z[:, 1] = 0.3 * z[:, 1] + z[:, 0] + 2.0 * RNG.choice([-1.0, 1.0], size=4000)
    entropy = np.log(2.0 * np.pi * np.e) + np.log(0.3) + np.log(2.0)
    losses = []
    for components in (1, 2):
        keras.utils.set_random_seed(0)
        base = AutoregressiveMixture(components, hidden_units=(16,))
        model = keras_nf.FlowModel(keras_nf.Standardize(), base=base)
        model.adapt(z)
        model.compile(keras.optimizers.Adam(1e-2))
        model.fit(z.astype("float32"), epochs=10, batch_size=100, verbose=0)
        losses.append(model.evaluate(z.astype("float32"), verbose=0))
    assert losses[1] < entropy + 0.05
    assert losses[0] > losses[1] + 0.5


def test_dropout_acts_in_training_alone():
    base = AutoregressiveMixture(2, hidden_units=(64,), dropout=0.5)
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=3), base=base)
    model(X)
    for weight in model.weights:
        weight.assign(0.3 * np.random.default_rng(2).standard_normal(weight.shape))
    np.testing.assert_array_equal(model(X), model(X))
    assert not np.array_equal(model(X, training=True), model(X))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 0}, "`components` must be a positive integer"),
        ({"log_scale_bound": 0.0}, "`log_scale_bound` must be a positive number"),
        ({"hidden_units": (0,)}, "`hidden_units` must be"),
        ({"order": [0, 0]}, "order"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        AutoregressiveMixture(**options).build((None, 2))


def test_it_is_no_base_of_independent_components():
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=1), base=AutoregressiveMixture(2))
    with pytest.raises(ValueError, match="need a base of independent components"):
        model.distribution.cdf(X[:, :1])


def test_tfp_takes_it():
    base = make(shape=(3,))
    flow = keras_nf.Scaling(event_size=3, dtype="float64")
    distribution = flow(base.distribution())
    assert isinstance(distribution, tfd.TransformedDistribution)
    draws, log_prob = distribution.experimental_sample_and_log_prob(5, seed=(0, 1))
    np.testing.assert_allclose(distribution.log_prob(draws), log_prob, rtol=1e-12)
