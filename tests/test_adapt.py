"""`adapt` of chains and models: each flow sees the data as the flows after it leave them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import assert_close

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

RNG = np.random.default_rng(0)
X = np.exp(RNG.normal(size=(3000, 3)) @ RNG.normal(size=(3, 3)) + [1.0, 3.0, 2.0])
C = RNG.normal(size=(3000, 2))


def coupling():
    return keras_nf.AffineCoupling(hidden_units=(8,), activation="tanh", dtype="float64")


class Logarithm(keras_nf.Flow):
    """x = exp(z): fixed, and known in closed form."""

    def _forward_and_log_det(self, x, condition=None):
        return tf.exp(x), tf.reduce_sum(x, axis=-1)

    def _inverse_and_log_det(self, y, condition=None):
        x = tf.math.log(y)
        return x, -tf.reduce_sum(x, axis=-1)


def chain():
    """Return a chain in which the first and the last flow but one start from data."""
    flows = [keras_nf.ActNorm(dtype="float64"), coupling()]
    flows += [keras_nf.Standardize(dtype="float64"), Logarithm(dtype="float64")]
    return keras_nf.Chain(flows, dtype="float64")


def assert_adapted(flow, condition=None):
    norm, own_coupling, standardize, _ = flow.flows
    z = np.log(X)
    np.testing.assert_allclose(standardize.mean, z.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(standardize.std, z.std(axis=0), rtol=1e-10)
    z = own_coupling.inverse((z - z.mean(axis=0)) / z.std(axis=0), condition=condition).numpy()
    np.testing.assert_allclose(norm.shift, z.mean(axis=0), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(norm.log_scale, np.log(z.std(axis=0)), rtol=1e-8, atol=1e-10)
    latents = flow.inverse(X, condition=condition)
    np.testing.assert_allclose(np.mean(latents, axis=0), np.zeros(3), atol=1e-10)
    np.testing.assert_allclose(np.std(latents, axis=0), np.ones(3), rtol=1e-10)


def as_dataset(data):
    return tf.data.Dataset.from_tensor_slices(data).batch(700)


DATA = {
    "array": lambda x: x,
    "tensor": tf.constant,
    "dictionary": lambda x: {"x": x},
    "dataset": as_dataset,
    "dataset with weights": lambda x: as_dataset((x, x[:, 0], x[:, 0])),
    "dataset of dictionaries": lambda x: as_dataset({"x": x}),
    "nested": lambda x: x.tolist(),
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_a_chain_adapts_from_the_data_to_the_base(data):
    flow = chain()
    assert flow.needs_data
    assert not flow.adapted
    flow.adapt(data(X))
    assert flow.adapted
    assert_adapted(flow)


@pytest.mark.parametrize(
    "data",
    [lambda x, c: {"x": x, "condition": c}, lambda x, c: as_dataset({"x": x, "condition": c})],
    ids=["arrays", "dataset"],
)
def test_conditions_go_along(data):
    flow = chain()
    flow.inverse(X[:2], condition=C[:2])
    for weight in flow.flows[1].trainable_variables:
        weight.assign(weight + 0.3 * RNG.normal(size=weight.shape))
    flow.adapt(data(X, C))
    assert_adapted(flow, C)


def test_chains_in_chains():
    inner = chain()
    keras_nf.Chain([keras_nf.Permute(dtype="float64"), inner], dtype="float64").adapt(X)
    assert_adapted(inner)


def test_images_adapt_by_channels():
    norm = keras_nf.ActNorm(dtype="float64")
    images = X.reshape(30, 10, 10, 3)
    norm.adapt(images)
    np.testing.assert_allclose(norm.shift, X.mean(axis=0))
    assert norm.inverse(images).shape == images.shape


@pytest.mark.parametrize("as_data", [lambda x: x, tf.data.Dataset.from_tensors], ids=["x", "data"])
def test_images_without_channels_are_no_image(as_data):
    flow = keras_nf.Chain([keras_nf.ActNorm(), keras_nf.Squeeze()])
    with pytest.raises(
        ValueError, match=r"shape \(rows, 3 event axes\). Received: shape \(8, 4, 4\)"
    ):
        flow.adapt(as_data(np.zeros((8, 4, 4), "float32")))


def test_adapting_again_starts_anew():
    flow = chain()
    flow.adapt(7.0 * X)
    flow.adapt(X)
    assert_adapted(flow)


def test_nothing_to_adapt_costs_nothing():
    flow = keras_nf.Chain([coupling()], dtype="float64")
    flow.adapt("no data at all")
    assert flow.adapted
    assert not flow.needs_data
    assert not flow.built


def test_flows_before_the_first_that_needs_data_do_not_run():
    class Forbidden(keras_nf.Flow):
        pass

    flow = keras_nf.Chain([Forbidden(), keras_nf.Standardize()])
    flow.adapt(X)
    assert flow.adapted


def test_an_inverted_flow_cannot_adapt():
    flow = keras_nf.Chain([keras_nf.Invert(keras_nf.Standardize(name="inner"))])
    with pytest.raises(ValueError, match=r"Invert .* cannot adapt.*'inner'"):
        flow.adapt(X)


# Models.


def test_model_adapts_its_flow():
    model = keras_nf.FlowModel(chain())
    model.adapt(X)
    assert_adapted(model.flow)


def test_model_with_an_encoder():
    encoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, dtype="float64")])
    model = keras_nf.FlowModel(chain(), encoder=encoder)
    model.adapt({"x": X, "condition": C})
    assert_adapted(model.flow, model.encode(C))


@pytest.mark.parametrize("flow", [keras_nf.Standardize, keras_nf.ActNorm])
def test_fit_without_adapt_is_refused(flow):
    model = keras_nf.FlowModel(keras_nf.Chain([keras_nf.Scaling(), flow(name="waiting")]))
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"'waiting' starts from data.*model\.adapt\(x\)"):
        model.fit(X, verbose=0)
    model.adapt(X)
    model.fit(X, epochs=1, verbose=0)
    assert np.isfinite(model.log_prob(X)).all()


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_a_file_says_that_a_flow_was_adapted(name, tmp_path):
    model = keras_nf.FlowModel(chain())
    model.adapt(X)
    model.log_prob(X)
    if name.endswith("keras"):
        keras.saving.register_keras_serializable("adapt_tests")(Logarithm)
        model.save(tmp_path / name)
        loaded = keras.saving.load_model(tmp_path / name)
    else:
        model.save_weights(tmp_path / name)
        loaded = keras_nf.FlowModel(chain())
        loaded.build((None, 3))
        assert not loaded.flow.adapted
        loaded.load_weights(tmp_path / name)
    assert loaded.flow.adapted
    np.testing.assert_array_equal(loaded.log_prob(X), model.log_prob(X))


def test_training_moves_an_act_norm_and_no_standardize():
    flow = keras_nf.Chain([keras_nf.ActNorm(), keras_nf.Standardize()])
    model = keras_nf.FlowModel(flow)
    model.adapt(X)
    before = [weight.numpy() for weight in flow.weights]
    model.compile("adam")
    model.fit(X[:100], verbose=0)
    moved = [bool(np.any(w != b)) for w, b in zip(flow.weights, before, strict=True)]
    names = [weight.name for weight in flow.weights]
    assert {name for name, has in zip(names, moved) if has} == {"log_scale", "shift"}


def test_a_deep_act_normed_flow_starts_with_unit_latents():
    flows = []
    for _ in range(4):
        flows += [coupling(), keras_nf.ActNorm(dtype="float64"), keras_nf.Permute(dtype="float64")]
    flow = keras_nf.Chain(flows, dtype="float64")
    model = keras_nf.FlowModel(flow)
    model.adapt(np.log(X))
    z = flow.inverse(np.log(X))
    assert_close(np.std(z, axis=0), np.ones(3), factor=100.0)
    assert_close(np.mean(z, axis=0), np.zeros(3), factor=100.0)
