"""`Log` at its bound, and beyond it."""

import numpy as np
import pytest
import tensorflow as tf
from cases import COMPILED
from tensorflow_probability import distributions as tfd

import keras_nf

LOWS = [0.0, 1.0, -5.0, 1e6, -1e-30, (0.0, -1.0, 1e6)]
FAR = [-np.inf, -1e4, -200, -80, -40, -20, -5, 0, 5, 20, 40, 80, 200, 1e4, np.inf]


def compiled(function, jit_compile):
    return tf.function(function, jit_compile=True) if jit_compile else function


@COMPILED
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_draw_has_a_density(dtype, jit_compile):
    flows = [keras_nf.Log(low, dtype=dtype) for low in LOWS]
    z = tf.constant(np.repeat(np.array(FAR)[:, None], 3, axis=1), dtype)
    draws = compiled(lambda z: [flow.forward(z) for flow in flows], jit_compile)(z)
    inverse = compiled(
        lambda *draws: [flow.inverse_and_log_det(x) for flow, x in zip(flows, draws)], jit_compile
    )
    for flow, x, (back, log_det) in zip(flows, draws, inverse(*draws)):
        assert np.all(np.asarray(x, "float64") > np.asarray(flow.low)), flow.low
        for numbers in (x, back, log_det, flow.inverse(x)):
            assert np.isfinite(numbers).all(), flow.low


def test_density_is_that_of_a_log_normal():
    model = keras_nf.FlowModel(keras_nf.Log(event_size=1))
    model.build((None, 1))
    x = np.array([[1e-3], [0.5], [1.0], [30.0]], "float32")
    expected = tfd.LogNormal(0.0, 1.0).log_prob(x[:, 0])
    np.testing.assert_allclose(model.log_prob(x), expected, rtol=1e-5)
    np.testing.assert_allclose(model.mean(), [np.exp(0.5)], rtol=1e-4)
    np.testing.assert_allclose(model.cdf(x), tfd.LogNormal(0.0, 1.0).cdf(x[:, 0]), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_beyond_the_bound(dtype):
    flows = [keras_nf.Scaling(dtype=dtype), keras_nf.Log(2.0, dtype=dtype)]
    flow = keras_nf.Chain(flows, event_size=2, dtype=dtype)
    x = tf.constant([[2.0, 3.0], [1.0, 3.0], [3.0, 3.0], [np.nan, 3.0]], dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        log_prob = flow(tfd.MultivariateNormalDiag(tf.zeros(2, dtype))).log_prob(x)
    np.testing.assert_array_equal(np.isneginf(log_prob), [True, True, False, False])
    assert np.isnan(log_prob[3])
    assert np.isfinite(tape.gradient(log_prob, x)[:3]).all()
    np.testing.assert_array_equal(np.isinf(flow.inverse(x)).any(axis=1), [True, True, False, False])


@pytest.mark.parametrize(
    ("low", "words"),
    [
        (np.inf, "`low` must be finite in float32. Received: inf"),
        (1e39, "`low` must be finite in float32"),
        ("0", "`low` must be a number, or a sequence with one number per component"),
    ],
)
def test_bounds_that_are_none(low, words):
    with pytest.raises(ValueError, match=words):
        keras_nf.Log(low)


def test_bounds_for_another_event():
    with pytest.raises(ValueError, match=r"`low` of Log .* has 2 numbers, but the event has 3"):
        keras_nf.Log((0.0, 1.0)).inverse(np.ones((1, 3), "float32"))
