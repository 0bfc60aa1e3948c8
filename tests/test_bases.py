"""Bases that are layers: densities, weights that train and are saved, files and exports."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from keras import ops
from tensorflow_probability import distributions as tfd

import keras_nf
from keras_nf import bases

pytestmark = pytest.mark.usefixtures("without_xla")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 2)).astype("float32")


@keras.saving.register_keras_serializable("bases_tests")
class Laplace(bases.Base):
    """A base of the user's own, with a trained scale."""

    def build(self, inputs_shape):
        super().build(inputs_shape)
        self.log_scale = self.add_weight(shape=self.event_shape, initializer="zeros")

    def distribution(self):
        return tfd.Independent(tfd.Laplace(0.0, ops.exp(self.log_scale.value)), 1)


# How each is made, the number of its weights, and its marginal density.
FIXED = {
    "normal": (bases.Normal, scipy.stats.norm()),
    "logistic": (bases.Logistic, scipy.stats.logistic()),
    "student": (bases.StudentT, scipy.stats.t(5.0)),
    "student-3": (lambda **kwargs: bases.StudentT(3.0, **kwargs), scipy.stats.t(3.0)),
    "uniform": (bases.Uniform, scipy.stats.uniform()),
    "uniform-wide": (lambda **kw: bases.Uniform(-1.0, 3.0, **kw), scipy.stats.uniform(-1.0, 4.0)),
}
TRAINED = {
    "normal": (lambda **kwargs: bases.Normal(trainable=True, **kwargs), 2),
    "logistic": (lambda **kwargs: bases.Logistic(trainable=True, **kwargs), 2),
    "student": (lambda **kwargs: bases.StudentT(trainable=True, **kwargs), 3),
    "mixture": (lambda **kwargs: bases.Mixture(3, **kwargs), 3),
    "own": (Laplace, 1),
}
trained = pytest.mark.parametrize(("make", "weights"), TRAINED.values(), ids=TRAINED)


def flow():
    return keras_nf.AffineCoupling(hidden_units=(8,), activation="tanh")


def perturb(base):
    rng = np.random.default_rng(1)
    for weight in base.weights:
        weight.assign(0.5 * rng.standard_normal(weight.shape))


@pytest.mark.parametrize("name", [name for name in bases.__all__ if name[0].isupper()])
def test_every_base_has_a_docstring_with_an_example(name):
    assert ">>> " in getattr(bases, name).__doc__


@pytest.mark.parametrize(("make", "marginal"), FIXED.values(), ids=FIXED)
@pytest.mark.parametrize("shape", [(2,), (4, 3, 2)], ids=str)
def test_density_of_a_fixed_base(make, marginal, shape):
    base = make(dtype="float64")
    base.build((None, *shape))
    assert base.weights == []
    dist = base.distribution()
    assert (dist.event_shape, dist.batch_shape) == (shape, ())
    z = RNG.uniform(0.1, 0.9, size=(5, *shape))
    expected = marginal.logpdf(z).reshape(5, -1).sum(axis=1)
    np.testing.assert_allclose(dist.log_prob(z), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["normal", "logistic", "uniform"])
def test_names_are_those_of_the_fixed_layers(name):
    layer = {"normal": bases.Normal, "logistic": bases.Logistic, "uniform": bases.Uniform}[name]
    scaling = keras_nf.Scaling(event_size=2)
    x = np.abs(X) % 1.0
    named = keras_nf.FlowModel(scaling, base=name).log_prob(x)
    np.testing.assert_array_equal(keras_nf.FlowModel(scaling, base=layer()).log_prob(x), named)


def test_location_and_scale():
    base = bases.Normal(trainable=True, dtype="float64")
    base.build((None, 2))
    base.loc.assign([1.0, -2.0])
    base.log_scale.assign([0.5, -0.5])
    z = RNG.normal(size=(5, 2))
    expected = scipy.stats.norm([1.0, -2.0], np.exp([0.5, -0.5])).logpdf(z).sum(axis=1)
    np.testing.assert_allclose(base.distribution().log_prob(z), expected, rtol=1e-12)


def test_density_of_a_mixture():
    base = bases.Mixture(2, dtype="float64")
    base.build((None, 3))
    perturb(base)
    z = RNG.normal(size=(5, 3))
    weights = np.exp(base.logits) / np.sum(np.exp(base.logits))
    parts = [
        w * np.prod(scipy.stats.norm(m, np.exp(s)).pdf(z), axis=1)
        for w, m, s in zip(weights, base.loc.numpy(), base.log_scale.numpy(), strict=True)
    ]
    np.testing.assert_allclose(base.distribution().log_prob(z), np.log(sum(parts)), rtol=1e-12)


@trained
def test_fit_trains_every_weight_of_the_base(make, weights):
    base = make()
    model = keras_nf.FlowModel(flow(), base=base)
    model.build((None, 2))
    assert len(base.trainable_weights) == weights
    assert len(model.trainable_weights) == weights + 4
    before = [weight.numpy() for weight in base.weights]
    model.compile("adam")
    model.fit(X + 1.0, epochs=2, verbose=0)
    for weight, old in zip(base.weights, before, strict=True):
        assert np.all(weight.numpy() != old), weight.path


@trained
def test_variational_fit_trains_every_weight_of_the_base(make, weights):
    base = make()
    chain = keras_nf.Chain([flow()], event_size=2)
    model = keras_nf.VariationalModel(chain, lambda x: -tf.reduce_sum((x - 1.0) ** 4, -1), base)
    before = [weight.numpy() for weight in base.weights]
    model.compile("adam", jit_compile=False)
    model.fit(batch_size=64, steps_per_epoch=2, seed=1, verbose=0)
    for weight, old in zip(base.weights, before, strict=True):
        assert np.all(weight.numpy() != old), weight.path


@trained
def test_frozen_base_stays(make, weights):
    base = make()
    base.trainable = False
    model = keras_nf.FlowModel(flow(), base=base)
    model.compile("adam")
    model.build((None, 2))
    before = [weight.numpy() for weight in base.weights]
    model.fit(X + 1.0, verbose=0)
    for weight, old in zip(base.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert len(base.non_trainable_weights) == weights


@trained
@pytest.mark.parametrize("frozen", [False, True])
def test_keras_file(make, weights, frozen, tmp_path):
    model = keras_nf.FlowModel(flow(), base=make())
    model.build((None, 2))
    perturb(model.base)
    model.base.trainable = not frozen
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.base) is type(model.base)
    assert len(loaded.base.trainable_weights) == (0 if frozen else weights)
    np.testing.assert_array_equal(loaded.log_prob(X), model.log_prob(X))
    np.testing.assert_array_equal(loaded.sample(5, seed=0), model.sample(5, seed=0))


@trained
def test_weights_file(make, weights, tmp_path):
    model, other = (keras_nf.FlowModel(flow(), base=make()) for _ in range(2))
    for each in (model, other):
        each.build((None, 2))
    perturb(model.base)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.log_prob(X), model.log_prob(X))


def test_weights_of_another_base_are_refused(tmp_path):
    model = keras_nf.FlowModel(flow(), base=bases.Normal(trainable=True))
    other = keras_nf.FlowModel(flow(), base=bases.Logistic(trainable=True))
    for each in (model, other):
        each.build((None, 2))
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match=r"weights of another model: Normal 2 2.*Logistic 2 2"):
        other.load_weights(tmp_path / "model.weights.h5")


@trained
def test_exports_hold_the_base(make, weights, tmp_path):
    model = keras_nf.FlowModel(flow(), base=make())
    model.build((None, 2))
    perturb(model.base)
    model.export(tmp_path)
    served = tf.saved_model.load(str(tmp_path)).signatures
    density = served["log_prob"](x=tf.constant(X))["log_prob"]
    np.testing.assert_allclose(density, model.log_prob(X), rtol=1e-5, atol=1e-5)
    draws = served["sample"](n=tf.constant(5), seed=tf.constant([0, 3]))["x"]
    np.testing.assert_allclose(draws, model.sample(5, seed=(0, 3)), rtol=1e-5, atol=1e-5)


def test_density_and_draws_follow_the_weights():
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2), base=bases.Normal(trainable=True))
    before, draws = model.log_prob(X), model.sample(5, seed=0)
    predicted = model.predict(X, verbose=0)
    model.base.loc.assign([1.0, -1.0])
    shift = X @ np.array([1.0, -1.0], "float32") - 1.0
    np.testing.assert_allclose(model.log_prob(X), before + shift, atol=1e-5)
    np.testing.assert_allclose(model.predict(X, verbose=0), predicted + shift, atol=1e-5)
    np.testing.assert_allclose(model.sample(5, seed=0), draws + [1.0, -1.0], atol=1e-6)


def test_mixture_beats_a_normal_base_on_two_modes():
    x = RNG.normal(size=(2000, 2)) * 0.5 + 6.0 * RNG.choice([-1.0, 1.0], size=(2000, 1))
    entropy = 2.0 * (0.5 * np.log(2.0 * np.pi * np.e) + np.log(0.5)) + np.log(2.0)
    losses = {}
    for name, base in {"normal": "normal", "mixture": bases.Mixture(2)}.items():
        keras.utils.set_random_seed(0)
        chain = [keras_nf.real_nvp(2, layers=2, hidden_units=(16,)), keras_nf.Standardize()]
        model = keras_nf.FlowModel(keras_nf.Chain(chain), base=base)
        model.adapt(x)
        model.compile(keras.optimizers.Adam(1e-2))
        model.fit(x.astype("float32"), epochs=15, batch_size=100, verbose=0)
        losses[name] = model.evaluate(x.astype("float32"), verbose=0)
    # What is left to the entropy of the data is the estimate's error, and a sample's.
    assert losses["mixture"] < entropy + 0.15
    assert losses["normal"] > losses["mixture"] + 0.15


def test_images():
    images = RNG.normal(size=(5, 4, 4, 3)).astype("float32")

    class Doubling(keras_nf.Flow):
        def _forward_and_log_det(self, x, condition=None):
            return 2.0 * x, self._constant_log_det(x, 48.0 * np.log(2.0))

        def _inverse_and_log_det(self, y, condition=None):
            return y / 2.0, self._constant_log_det(y, -48.0 * np.log(2.0))

    model = keras_nf.FlowModel(Doubling(event_ndims=3), base=bases.Mixture(2))
    assert model.log_prob(images).shape == (5,)
    assert model.base.loc.shape == (2, 4, 4, 3)


@pytest.mark.parametrize("base", [bases.Normal, bases.Base, keras.layers.Dense, "gauss", None, 3])
def test_what_is_no_base(base):
    with pytest.raises(ValueError, match=r"`base` must be one of 'normal'.*keras_nf\.bases"):
        keras_nf.FlowModel(flow(), base=base)


def test_base_of_another_dtype():
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2), base=bases.Normal(dtype="float64"))
    with pytest.raises(ValueError, match="base has dtype float64, the flow float32"):
        model.log_prob(X)


@pytest.mark.parametrize("components", [0, -1, 2.5, True])
def test_components_of_a_mixture(components):
    with pytest.raises(ValueError, match="`components` must be a positive integer"):
        bases.Mixture(components)


@pytest.mark.parametrize("degrees", [0.0, -1.0, float("nan")])
def test_degrees_of_freedom(degrees):
    with pytest.raises(ValueError, match="`degrees_of_freedom` must be positive"):
        bases.StudentT(degrees)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_the_base_in_float32(policy):
    base = bases.Normal(trainable=True, dtype=policy)
    network = keras_nf.AffineCoupling(hidden_units=(8,), dtype=policy)
    model = keras_nf.FlowModel(network, base=base)
    model.build((None, 2))
    base.loc.assign([1.0 + 2.0**-12, 0.0])
    assert model(X).dtype == "float32"
    x = tf.constant([[1.0 + 2.0**-12, 0.0]])
    np.testing.assert_allclose(model(x), [-np.log(2.0 * np.pi)], rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, -2.0), (0.0, np.inf), (np.nan, 1.0)])
def test_ends_of_a_uniform_base(low, high):
    with pytest.raises(ValueError, match=r"`low` must be a number below `high`\. Received: low="):
        bases.Uniform(low, high)


def test_a_uniform_base_keeps_its_ends_in_files(tmp_path):
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2), bases.Uniform(-2.0, 3.0))
    model.build((None, 2))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert (loaded.base.low, loaded.base.high) == (-2.0, 3.0)
    np.testing.assert_allclose(loaded.log_prob(np.full((1, 2), 2.5)), -2.0 * np.log(5.0), rtol=1e-6)
