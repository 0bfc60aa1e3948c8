"""Base functions of the user's own: numbers may change, what ought to be trained is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

X = np.random.default_rng(0).normal(size=(6, 2)).astype("float32")
VARIABLE = tf.Variable(1.0, name="mean")
LAYER = keras.layers.Dense(2)
LAYER.build((None, 1))
FLOW = keras_nf.Scaling(event_size=2)
FLOW.build((None, 2))


def normal(mean):
    return tfd.Independent(tfd.Normal(tf.zeros(2) + mean, 1.0), 1)


TRAINABLE = {
    "parameter": lambda size: tfd.Independent(tfd.Normal(tf.Variable(tf.zeros(size)), 1.0), 1),
    "read": lambda size: normal(tf.exp(VARIABLE)),
    "deeper": lambda size: tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.Variable(tf.zeros(3))),
        tfd.Independent(tfd.Normal(tf.zeros((3, size)), 1.0), 1),
    ),
    "layer": lambda size: normal(LAYER(tf.ones((1, 1)))[0]),
    "flow": lambda size: FLOW(normal(0.0)),
}


@pytest.mark.parametrize("base", TRAINABLE.values(), ids=TRAINABLE.keys())
@pytest.mark.parametrize("enter", ["log_prob", "sample", "fit"])
def test_base_with_variables_is_refused(base, enter):
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2), base)
    model.compile("sgd")
    arguments = {"log_prob": (X,), "sample": (2,), "fit": (X,)}[enter]
    with pytest.raises(ValueError, match=r"without variables.*keras_nf\.bases\.Mixture"):
        getattr(model, enter)(*arguments)


def test_numbers_that_change_are_followed():
    means = [0.0]
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2), lambda size: normal(means[0]))
    model.compile("sgd")

    def everything():
        return [
            model.log_prob(X).numpy(),
            model.predict(X, verbose=0),
            model.sample(5, seed=0).numpy(),
            np.float32(model.evaluate(X, verbose=0)),
        ]

    before = everything()
    means[0] = 1.0
    after = everything()
    shift = X.sum(axis=1) - 1.0
    np.testing.assert_allclose(after[0], before[0] + shift, atol=1e-5)
    np.testing.assert_allclose(after[1], before[1] + shift, atol=1e-5)
    np.testing.assert_allclose(after[2], before[2] + 1.0, atol=1e-5)
    np.testing.assert_allclose(after[3], before[3] - shift.mean(), atol=1e-5)
    means[0] = 0.0
    for a, b in zip(everything(), before, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_numbers_that_stay_keep_the_graphs():
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2), lambda size: normal(0.5))
    model.compile("sgd")
    model.predict(X, verbose=0)
    function = model.predict_function
    model.predict(X, verbose=0)
    assert model.predict_function is function
