"""One flow in several places: its weights stay one, trained or frozen, from whatever thread."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from cases import perturb
from tensorflow_probability import distributions as tfd

import keras_nf

X = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
SMALL = {"layers": 2, "hidden_units": (8,)}


def coupling(network):
    return keras_nf.AdditiveCoupling(conditioner=network)


def of_flow(holder):
    """A model that uses a flow by itself and inside of another."""
    flow = keras_nf.maf(4, **SMALL)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, flow(holder(flow)(inputs) + 1.0))
    perturb(flow)
    return model


def of_network():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    inputs = keras.Input((4,))
    return keras.Model(inputs, network(coupling(network)(inputs)[:, :2]))


def of_encoder():
    """A network that two couplings share."""
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    return keras.Sequential([keras.Input((4,)), coupling(network), coupling(network)])


MODELS = {
    "invert": lambda: of_flow(keras_nf.Invert),
    "chain": lambda: of_flow(lambda flow: keras_nf.Chain([keras_nf.Permute(), flow])),
    "nested": lambda: of_flow(lambda flow: keras_nf.Invert(keras_nf.Chain([flow, flow]))),
    "network beside": of_network,
    "network of two": of_encoder,
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_file_keeps_layers_shared(make, tmp_path):
    model = make()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == len(model.weights)
    np.testing.assert_array_equal(loaded(X), model(X))


def test_shared_encoder_of_a_model_stays_shared(tmp_path):
    encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    flow = keras_nf.Chain([keras_nf.maf(4, **SMALL), keras_nf.Invert(keras_nf.maf(4, **SMALL))])
    model = keras_nf.FlowModel(flow, encoder=encoder)
    data = {"x": X, "condition": np.ones((5, 3), "float32")}
    model(data)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == len(model.weights)
    np.testing.assert_array_equal(loaded(data), model(data))


def test_copy_that_cannot_keep_layers_shared_warns():
    model = of_flow(keras_nf.Invert)
    with pytest.warns(UserWarning, match="used by itself and inside of another layer"):
        keras.models.clone_model(model)


def lists(module):
    return {id(variable) for variable in module.trainable_variables}


@pytest.mark.parametrize(
    "part",
    [lambda flow: flow, lambda flow: flow.flows[0], lambda flow: flow.flows[-1].conditioner],
    ids=["chain", "member", "network"],
)
def test_tfp_trains_what_keras_trains(part):
    flow = keras_nf.maf(2, **SMALL)
    flow.build((None, 2))
    perturb(flow)
    base = tfd.Independent(tfd.Normal(tf.zeros(2), 1.0), 1)
    density = flow(base)
    everything = lists(density)
    part(flow).trainable = False
    frozen = [weight for weight in flow.weights if not weight.trainable]
    before = [weight.numpy() for weight in frozen]
    free = [weight.numpy() for weight in flow.trainable_weights]
    assert len(frozen) + len(free) == len(flow.weights)
    assert frozen

    def loss():
        return -tf.reduce_mean(density.log_prob(X[:, :2] + 2.0))

    if free:
        tfp.math.minimize(loss, num_steps=3, optimizer=tf_keras.optimizers.Adam(0.1))
    else:
        loss()
    for weight, value in zip(frozen, before):
        np.testing.assert_array_equal(weight, value)
    assert all(np.any(w != v) for w, v in zip(flow.trainable_weights, free))
    expected = {id(weight.value) for weight in flow.trainable_weights}
    assert lists(density) == expected
    part(flow).trainable = True
    loss()
    assert lists(density) == everything


def call_from_threads(function, count=4):
    """Return the results of a first call that all threads make at once."""
    start, results = threading.Barrier(count), []

    def call():
        start.wait()
        results.append(np.asarray(function(X)))

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count
    return results


@pytest.mark.parametrize("name", ["model", "flow", "log_prob", "inverse"])
def test_first_call_from_several_threads_builds_once(name):
    for seed in range(3):
        model = keras_nf.FlowModel(keras_nf.maf(4, seed=seed, layers=4, hidden_units=(8,)))
        flow = model.flow
        calls = {"model": model, "flow": flow, "log_prob": model.log_prob, "inverse": flow.inverse}
        results = call_from_threads(calls[name])
        assert len(flow.weights) == 4 * 4
        for result in results:
            np.testing.assert_array_equal(result, results[0])
