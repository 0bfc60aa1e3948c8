"""Bases whose parameters are affine functions of the condition."""

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
C = RNG.normal(size=(64, 3)).astype("float32")


@keras.saving.register_keras_serializable("conditional_bases_tests")
class Laplace(bases.Base):
    """A base of the user's own, with a scale that depends on the condition."""

    conditional = True

    def build(self, inputs_shape, condition_shape=None):
        super().build(inputs_shape, condition_shape)
        self.add_parameter("log_scale", self.event_shape)

    def distribution(self, condition=None):
        scale = ops.exp(self.parameter("log_scale", condition))
        return tfd.Independent(tfd.Laplace(0.0, scale), 1)


MADE_BY = {
    "normal": lambda **kwargs: bases.Normal(trainable=True, conditional=True, **kwargs),
    "logistic": lambda **kwargs: bases.Logistic(trainable=True, conditional=True, **kwargs),
    "student": lambda **kwargs: bases.StudentT(trainable=True, conditional=True, **kwargs),
    "mixture": lambda **kwargs: bases.Mixture(3, conditional=True, **kwargs),
    "own": Laplace,
}
every_base = pytest.mark.parametrize("make", MADE_BY.values(), ids=MADE_BY)

# Flows that use a condition themselves, and one that does not.
FLOWS = {
    "conditional": lambda: keras_nf.AffineCoupling(hidden_units=(8,), activation="tanh"),
    "unconditional": lambda: keras_nf.planar_flow(2, layers=2),
}
every_flow = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)


def perturbed(model):
    model({"x": X, "condition": C})
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(0.5 * rng.standard_normal(weight.shape))
    return model


def test_density_of_a_normal_base():
    base = bases.Normal(trainable=True, conditional=True, dtype="float64")
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2, dtype="float64"), base=base)
    x, c = X.astype("float64"), C.astype("float64")
    model({"x": x, "condition": c})
    for weight in base.weights:
        weight.assign(RNG.normal(size=weight.shape))
    mean = base.loc.numpy() + c @ base.loc_kernel.numpy()
    scale = np.exp(base.log_scale.numpy() + c @ base.log_scale_kernel.numpy())
    expected = scipy.stats.norm(mean, scale).logpdf(x).sum(axis=1)
    np.testing.assert_allclose(model.log_prob(x, c), expected, rtol=1e-12)
    draws = model.sample(4000, c[:2], seed=0)
    assert draws.shape == (4000, 2, 2)
    error = np.mean(draws, axis=0) - mean[:2]
    np.testing.assert_allclose(error / scale[:2], 0.0, atol=5.0 / np.sqrt(4000))


def test_a_kernel_of_zero_is_the_unconditional_base():
    for make, plain in (
        (MADE_BY["normal"], bases.Normal()),
        (MADE_BY["logistic"], bases.Logistic()),
        (MADE_BY["student"], bases.StudentT()),
    ):
        scaling = keras_nf.Scaling(event_size=2)
        expected = keras_nf.FlowModel(scaling, base=plain).log_prob(X)
        actual = keras_nf.FlowModel(scaling, base=make()).log_prob(X, C)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


@every_flow
@every_base
def test_fit_trains_every_weight(make, flow):
    model = keras_nf.FlowModel(flow(), base=make())
    model({"x": X, "condition": C})
    before = [weight.numpy() for weight in model.base.weights]
    model.compile("adam")
    model.fit({"x": X + C[:, :2], "condition": C}, epochs=2, verbose=0)
    assert len(before) >= 2
    for weight, old in zip(model.base.weights, before, strict=True):
        assert np.any(weight != old), weight.path


@every_flow
@every_base
def test_draws_have_the_density_they_say(make, flow):
    model = perturbed(keras_nf.FlowModel(flow(), base=make()))
    draws, log_probs = model.distribution.experimental_sample_and_log_prob(
        5, seed=(1, 2), condition=C[:4]
    )
    assert (draws.shape, log_probs.shape) == ((5, 4, 2), (5, 4))
    np.testing.assert_allclose(model.log_prob(draws, C[:4]), log_probs, rtol=1e-4, atol=1e-4)


def test_condition_that_is_bound():
    model = perturbed(keras_nf.FlowModel(FLOWS["unconditional"](), base=MADE_BY["mixture"]()))
    bound = model.flow(model.distribution.distribution, condition=C[:4])
    assert bound.batch_shape == (4,)
    expected = model.log_prob(X[:4], C[:4])
    np.testing.assert_allclose(bound.log_prob(X[:4]), expected, rtol=1e-5)
    assert bound.sample(3, seed=1).shape == (3, 4, 2)


def test_one_condition_for_all_rows():
    model = perturbed(keras_nf.FlowModel(FLOWS["unconditional"](), base=MADE_BY["normal"]()))
    expected = model.log_prob(X, np.tile(C[:1], (64, 1)))
    np.testing.assert_allclose(model.log_prob(X, C[0]), expected, rtol=1e-5)
    assert model.sample(3, C[0], seed=1).shape == (3, 2)


@pytest.mark.parametrize("name", [pytest.param("normal", marks=pytest.mark.long), "mixture", "own"])
def test_files_and_exports(name, tmp_path):
    make = MADE_BY[name]
    model = perturbed(keras_nf.FlowModel(FLOWS["unconditional"](), base=make()))
    expected = model.log_prob(X, C)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_prob(X, C), expected)
    keras_nf.export_saved_model(model, tmp_path / "1")
    signatures = tf.saved_model.load(str(tmp_path / "1")).signatures
    served = signatures["log_prob"](x=tf.constant(X), condition=tf.constant(C))["log_prob"]
    np.testing.assert_allclose(served, expected, rtol=1e-4, atol=1e-4)
    n, seed = tf.constant(3), tf.constant([1, 2])
    draws = signatures["sample"](n=n, seed=seed, condition=tf.constant(C))["x"]
    np.testing.assert_allclose(draws, model.sample(3, C, seed=(1, 2)), rtol=1e-4, atol=1e-4)


def test_encoder():
    encoder = keras.layers.Dense(3)
    model = keras_nf.FlowModel(FLOWS["unconditional"](), MADE_BY["normal"](), encoder=encoder)
    wide = RNG.normal(size=(64, 7)).astype("float32")
    model.compile("adam")
    model.fit({"x": X, "condition": wide}, epochs=1, verbose=0)
    assert model.base.loc_kernel.shape == (3, 2)
    assert model.log_prob(X, wide).shape == (64,)


def test_a_base_that_follows_the_condition_beats_one_that_does_not():
    c = RNG.uniform(-2.0, 2.0, size=(1000, 1)).astype("float32")
    x = (3.0 * c + 0.5 * RNG.normal(size=(1000, 2))).astype("float32")
    losses = []
    for base in (bases.Normal(trainable=True), MADE_BY["normal"]()):
        model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2), base=base)
        data = {"x": x, "condition": c} if base.conditional else x
        model.compile(keras.optimizers.Adam(0.05))
        model.fit(data, epochs=20, batch_size=100, verbose=0)
        losses.append(model.evaluate(data, verbose=0))
    # Two normal components of standard deviation 0.5.
    assert losses[1] < 2.0 * (0.5 * np.log(2.0 * np.pi * np.e) + np.log(0.5)) + 0.1
    assert losses[0] > losses[1] + 1.0


def test_missing_condition():
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2), base=MADE_BY["normal"]())
    with pytest.raises(ValueError, match="is conditional and needs a condition"):
        model.log_prob(X)
    with pytest.raises(ValueError, match="is conditional and needs a condition"):
        model.sample(3)
    model({"x": X, "condition": C})
    for call in (lambda: model.log_prob(X), lambda: model.sample(3)):
        with pytest.raises(ValueError, match=r"of shape \(\.\.\., 3\). Received: none"):
            call()


def test_condition_of_another_size():
    model = perturbed(keras_nf.FlowModel(keras_nf.Scaling(), base=MADE_BY["normal"]()))
    with pytest.raises(ValueError, match=r"of shape \(\.\.\., 3\). Received: shape \(64, 2\)"):
        model.log_prob(X, C[:, :2])


def test_conditional_without_weights():
    with pytest.raises(ValueError, match=r"A conditional base has weights.*trainable=True"):
        bases.Normal(conditional=True)


def test_variational_model_has_no_condition():
    with pytest.raises(ValueError, match=r"without a condition. Received: the conditional base"):
        keras_nf.VariationalModel(
            keras_nf.Scaling(event_size=2), lambda x: -x[:, 0], base=MADE_BY["normal"]()
        )
