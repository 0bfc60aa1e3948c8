"""Events with more axes than the one on which a flow acts."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb
from tensorflow_probability import distributions as tfd

import keras_nf
from keras_nf import FlowModel

pytestmark = pytest.mark.usefixtures("without_xla")

BATCH, POSITIONS, EVENT, CONDITION = 8, 5, 3, 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(BATCH, POSITIONS, EVENT)).astype("float32")
C = RNG.normal(size=(BATCH, POSITIONS, CONDITION)).astype("float32")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@keras.saving.register_keras_serializable("event_axes_tests")
def sequences(event_size):
    return tfd.Sample(tfd.Normal(0.0, 1.0), (POSITIONS, event_size))


def maf():
    return keras_nf.maf(EVENT, layers=2, hidden_units=(8,), activation="tanh")


def model_of(condition=None):
    model = FlowModel(maf(), base=sequences)
    model.log_prob(X, condition)
    perturb(model.flow)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    return model


@pytest.mark.parametrize("condition", [None, C], ids=["plain", "conditional"])
def test_density_of_a_sequence_is_the_sum_over_its_positions(condition):
    model = model_of(condition)
    by_position = FlowModel(model.flow).log_prob(X, condition)
    assert by_position.shape == (BATCH, POSITIONS)
    expected = np.sum(by_position, axis=1)
    np.testing.assert_allclose(model.log_prob(X, condition), expected, **CLOSE)
    data = X if condition is None else {"x": X, "condition": condition}
    weights = RNG.uniform(0.5, 2.0, size=BATCH)
    history = model.fit(data, sample_weight=weights, verbose=0).history
    np.testing.assert_allclose(history["loss"], -np.mean(weights * expected), rtol=1e-5)


@pytest.mark.parametrize("condition", [None, C], ids=["plain", "conditional"])
def test_samples(condition):
    model = model_of(condition)
    shape = (4, *(() if condition is None else (BATCH,)), POSITIONS, EVENT)
    samples = model.sample(4, condition=condition, seed=0)
    assert samples.shape == shape
    # No position repeats another.
    assert len(np.unique(samples)) == np.prod(shape)


@pytest.mark.parametrize(
    "condition",
    [pytest.param(None, marks=pytest.mark.long, id="plain"), pytest.param(C, id="conditional")],
)
def test_files(condition, tmp_path):
    model = model_of(condition)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    log_prob = model.log_prob(X, condition)
    np.testing.assert_array_equal(loaded.log_prob(X, condition), log_prob)
    loaded.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served")).signatures
    given = {} if condition is None else {"condition": condition}
    np.testing.assert_allclose(served["log_prob"](x=X, **given)["log_prob"], log_prob, **CLOSE)
    latents = served["inverse"](x=X, **given)["z"]
    np.testing.assert_allclose(served["forward"](z=latents, **given)["x"], X, atol=1e-5)
    draws = served["sample"](n=tf.constant(4), seed=tf.constant([0, 3]), **given)["x"]
    np.testing.assert_allclose(
        draws, model.sample(4, condition=condition, seed=[0, 3]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("axes", [(POSITIONS,), (4, 6)])
def test_layer_in_a_graph_maps_each_position(axes):
    flow = maf()
    inputs = keras.Input((*axes, EVENT))
    context = keras.Input((*axes, CONDITION))
    outputs = flow(inputs, condition=context, return_log_det=True)
    assert outputs[1].shape == (None, *axes)
    model = keras.Model([inputs, context], outputs)
    perturb(flow)
    x = RNG.normal(size=(BATCH, *axes, EVENT)).astype("float32")
    c = RNG.normal(size=(BATCH, *axes, CONDITION)).astype("float32")
    y, log_det = model([x, c])
    flat = flow.forward_and_log_det(x.reshape(-1, EVENT), c.reshape(-1, CONDITION))
    np.testing.assert_allclose(np.reshape(y, (-1, EVENT)), flat[0], **CLOSE)
    np.testing.assert_allclose(np.reshape(log_det, -1), flat[1], **CLOSE)


@pytest.mark.parametrize("x", [X[:, :3], X[:, 0], X[0, :4]], ids=["fewer", "one", "no batch"])
@pytest.mark.parametrize("call", ["log_prob", "fit", "predict"])
def test_data_of_other_positions(call, x):
    options = {} if call == "log_prob" else {"verbose": 0}
    with pytest.raises(ValueError, match=r"of shape \(batch, 5, 3\)"):
        getattr(model_of(), call)(x, **options)


def test_condition_without_positions():
    with pytest.raises(ValueError, match="leading axes broadcast"):
        model_of(C).log_prob(X, C[:, 0])
