"""`Logit` at the ends of its intervals, and beyond them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import COMPILED
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import keras_nf

# Of very different magnitudes, of mixed signs, and several at once.
INTERVALS = [
    (0.0, 1.0),
    (0.0, 256.0),
    (-1.0, 3.0),
    (-5.0, 0.0),
    (0.1, 0.3),
    (1e6, 1e6 + 1.0),
    (-1e-30, 1e6),
    (0.0, 1e37),
    # Some numbers in here are flushed to zero.
    (-1e-38, 2e-38),
    ((0.0, -1.0, 1e6), (1.0, 3e4, 1e6 + 1.0)),
]


def compiled(function, jit_compile):
    return tf.function(function, jit_compile=True) if jit_compile else function


@COMPILED
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_draw_has_a_density(dtype, jit_compile):
    flows = [
        keras_nf.Logit(*interval, margin=margin, dtype=dtype)
        for interval in INTERVALS
        for margin in (0.0, 1e-6, 0.05)
    ]
    far = np.array([-np.inf, -1e4, -200, -80, -40, -20, -5, 0, 5, 20, 40, 80, 200, 1e4, np.inf])
    z = tf.constant(np.repeat(far[:, None], 3, axis=1), dtype)

    draws = compiled(lambda z: [flow.forward(z) for flow in flows], jit_compile)(z)
    inverse = compiled(
        lambda *draws: [flow.inverse_and_log_det(x) for flow, x in zip(flows, draws)], jit_compile
    )
    for flow, x, (back, log_det) in zip(flows, draws, inverse(*draws)):
        name = f"{flow.low}, {flow.high}, {flow.margin}"
        assert np.isfinite(back).all(), name
        assert np.isfinite(log_det).all(), name
        assert np.isfinite(flow.inverse(x)).all(), name
        if flow.margin == 0.0:
            assert np.all(np.asarray(x, "float64") > flow.low), name
            assert np.all(np.asarray(x, "float64") < flow.high), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.1, 0.3), (1e6, 1e6 + 1.0)])
def test_draws_end_next_to_the_bounds(low, high, dtype):
    flow = keras_nf.Logit(low, high, margin=0.0, dtype=dtype)
    low, high = np.array([low, high], dtype)
    expected = [np.nextafter(low, high), np.nextafter(high, low)]
    np.testing.assert_array_equal(flow.forward([[-45.0, 45.0]])[0], expected)
    # Latents of zero would pass as the middle.
    assert np.all(np.abs(flow.inverse([expected])) > 2.0)
    assert np.isinf(flow.inverse([[low, high]])).all()


def test_log_det_of_a_draw_at_a_bound_is_that_of_the_map():
    flow = keras_nf.Logit(0.0, 4.0, margin=0.0)
    z = np.array([[20.0], [30.0], [-30.0], [0.0]], "float32")
    _, log_det = flow.forward_and_log_det(z)
    exact = (
        np.log(4.0) - np.abs(z[:, 0]) - 2.0 * np.log1p(np.exp(-np.abs(z[:, 0].astype("float64"))))
    )
    np.testing.assert_allclose(log_det, exact, rtol=1e-6)


@COMPILED
def test_numbers_next_to_the_support_are_told_apart(jit_compile):
    flow = keras_nf.Logit(0.0, 1.0, margin=0.25)
    x = np.array([[-0.5], [-0.4999], [0.0], [1.4999], [1.5], [1.5001]], "float32")
    _, log_det = compiled(flow.inverse_and_log_det, jit_compile)(x)
    np.testing.assert_array_equal(np.isinf(log_det), [True, False, False, False, True, True])


def test_one_interval_for_each_component():
    low, high = (-90.0, 0.0, 5.0), (90.0, 1.0, 1e4)
    flow = keras_nf.Logit(low, high, margin=0.01, dtype="float64")
    rng = np.random.default_rng(0)
    x = rng.uniform(low, high, size=(20, 3))
    z, log_det = flow.inverse_and_log_det(x)
    alone = [keras_nf.Logit(*ends, margin=0.01, dtype="float64") for ends in zip(low, high)]
    expected = [one.inverse_and_log_det(x[:, i, None]) for i, one in enumerate(alone)]
    np.testing.assert_allclose(z, np.concatenate([e[0] for e in expected], axis=1), rtol=1e-12)
    np.testing.assert_allclose(log_det, sum(e[1] for e in expected), rtol=1e-12)
    np.testing.assert_allclose(flow.forward(z), x, rtol=1e-10)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 2), (np.array([0.0, -1.0]), 3.0), ([0, -1], np.float32([1, 2])), (0.5, (1, 2))],
)
def test_config_of_intervals(low, high):
    flow = keras_nf.Logit(low, high, margin=0.1)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(flow))
    assert copy.get_config() == flow.get_config()
    x = np.full((1, 2), 0.75, "float32")
    np.testing.assert_array_equal(copy.inverse(x), flow.inverse(x))


# NaN, and what lies outside.

BAD = np.array(
    [
        [0.3, 0.6],
        [np.nan, 0.5],
        [-0.5, 0.5],
        [0.5, 1.5],
        [np.inf, 0.5],
        [0.5, -np.inf],
        [np.nan, 2],
    ],
    "float32",
)
IS_NAN = [False, True, False, False, False, False, True]
IS_OUTSIDE = [False, False, True, True, True, True, False]


def random_chain():
    standardize = keras_nf.Standardize()
    standardize.adapt(np.random.default_rng(0).normal(2.0, 3.0, size=(20, 2)))
    chain = keras_nf.Chain(
        [
            keras_nf.maf(event_size=2, layers=2, hidden_units=(8,)),
            keras_nf.Planar(),
            keras_nf.real_nvp(event_size=2, layers=2, hidden_units=(8,)),
            standardize,
            keras_nf.Logit(),
        ]
    )
    chain.build((None, 2))
    rng = np.random.default_rng(1)
    for weight in chain.trainable_variables:
        weight.assign(0.5 * rng.standard_normal(weight.shape))
    return chain


def assert_densities(log_prob):
    np.testing.assert_array_equal(np.isnan(log_prob), IS_NAN)
    np.testing.assert_array_equal(np.asarray(log_prob) == -np.inf, IS_OUTSIDE)


@COMPILED
@pytest.mark.parametrize("base", ["normal", "logistic"])
def test_densities_outside(base, jit_compile):
    model = keras_nf.FlowModel(random_chain(), base=base)
    model.build((None, 2))
    assert_densities(compiled(model.log_prob, jit_compile)(BAD))


@pytest.mark.parametrize("flow", [keras_nf.Logit, random_chain])
def test_densities_outside_through_tfp(flow):
    flow = flow()
    factor = tf.constant([[1.0, 0.0], [0.5, 1.0]])
    base = tfd.MultivariateNormalTriL(tf.zeros(2), factor)
    assert_densities(flow(base).log_prob(BAD))
    base = tfd.MultivariateNormalDiag(tf.zeros(2), tf.ones(2))
    assert_densities(tfd.TransformedDistribution(base, flow).log_prob(BAD))
    # Here TFP asks for the log-determinant at the latent, where there is none.
    log_prob = tfd.TransformedDistribution(base, tfb.Chain([flow])).log_prob(BAD)
    np.testing.assert_array_equal(np.isfinite(log_prob), ~np.logical_or(IS_NAN, IS_OUTSIDE))


def test_latents_outside():
    logit = keras_nf.Logit()
    z = logit.inverse(BAD)
    np.testing.assert_array_equal(np.isnan(z), np.isnan(BAD))
    # An event is outside as a whole.
    np.testing.assert_array_equal(np.isinf(z).any(axis=1), IS_OUTSIDE)
    np.testing.assert_array_equal(np.isinf(z).all(axis=1), IS_OUTSIDE)
    with_density, _ = logit.inverse_and_log_det(BAD)
    np.testing.assert_array_equal(np.isfinite(with_density), ~np.isnan(BAD))


@pytest.mark.parametrize(
    "inverse",
    [
        lambda chain: chain.inverse,
        lambda chain: keras_nf.Invert(chain).forward,
        keras_nf.Invert,
        lambda chain: keras.Sequential([keras_nf.Invert(chain)]),
        pytest.param(
            lambda chain: tf.function(chain.inverse, jit_compile=True), marks=pytest.mark.slow
        ),
    ],
    ids=["inverse", "invert-forward", "invert", "keras", "xla"],
)
def test_latents_of_a_chain_outside(inverse):
    z = np.asarray(inverse(random_chain())(BAD))
    np.testing.assert_array_equal(np.isinf(z).any(axis=1), IS_OUTSIDE)
    np.testing.assert_array_equal(np.isnan(z).any(axis=1), IS_NAN)
    assert np.isfinite(z[0]).all()


def test_gradients_of_a_batch_with_values_outside_are_finite():
    chain, x = random_chain(), tf.constant(BAD[~np.array(IS_NAN)])
    model = keras_nf.FlowModel(chain)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_mean(model.log_prob(x))
    assert loss == -np.inf
    by_x, *by_weights = tape.gradient(loss, [x, *(w.value for w in chain.trainable_variables)])
    # What lies outside has no slope; the rest is as if it were alone.
    np.testing.assert_array_equal(by_x == 0.0, (x < 0.0) | (x > 1.0))
    assert np.isfinite(by_x).all()
    with tf.GradientTape() as tape:
        tape.watch(x)
        inside = model.log_prob(x[:1])
    np.testing.assert_allclose(5.0 * by_x[0], tape.gradient(inside, x)[0], rtol=1e-5)
    assert all(np.isfinite(gradient).all() for gradient in by_weights)
