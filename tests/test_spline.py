"""Rational-quadratic splines: closed forms in both directions, wherever a value lies."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax
from tensorflow_probability import bijectors as tfb

import keras_nf
from keras_nf.elementwise import RationalQuadraticSpline

RNG = np.random.default_rng(0)
BOUND = 3.0
both = pytest.mark.parametrize("circular", [False, True], ids=["linear-tails", "circular"])
precise = pytest.mark.parametrize("dtype", ["float32", "float64"])


def spline_and_parameters(count, scale, dtype="float64", **options):
    """Return a spline and raw parameters for the columns of a matrix of values."""
    spline = RationalQuadraticSpline(6, BOUND, **options)
    return spline, tf.constant(scale * RNG.normal(size=(spline.parameters, 1, count)), dtype)


def bounded(raw):
    return raw / (1.0 + np.abs(raw) / 2.0)


def shape_of(parameters, bins, circular):
    """Return widths, heights and slopes at all knots, by the formulas of the docstring."""
    widths, slopes, at_knots = np.split(parameters.numpy()[:, 0], [bins, 2 * bins])
    log_widths, log_slopes = bounded(widths), bounded(slopes)
    widths = 2.0 * BOUND * softmax(log_widths, axis=0)
    heights = 2.0 * BOUND * softmax(log_widths + log_slopes, axis=0)
    means = np.log(heights / widths)
    if circular:
        means = np.concatenate([means[-1:], means])
    at_knots = np.exp(0.5 * (means[1:] + means[:-1]) + bounded(at_knots))
    ends = at_knots[:1] if circular else np.ones_like(at_knots[:1])
    inner = at_knots[1:] if circular else at_knots
    return widths, heights, np.concatenate([ends, inner, ends])


def hard_values(spline, parameters, dtype):
    """Values inside, at the ends and at the knots, at their neighbors, and far beyond."""
    count = parameters.shape[-1]
    widths, heights, _ = shape_of(parameters, spline.bins, spline.circular)
    ends = [-BOUND, BOUND, 0.0, -0.0, 1e-30, 1.5 * BOUND, -40.0, 1e3]
    rows = [np.full(count, end) for end in ends]
    rows += [RNG.uniform(-BOUND, BOUND, count) for _ in range(20)]
    rows += [*(np.cumsum(sizes, axis=0) - BOUND for sizes in (widths, heights))]
    values = np.concatenate([np.atleast_2d(row) for row in rows]).astype(dtype)
    return np.concatenate([values, np.nextafter(values, 99), np.nextafter(values, -99)])


@both
def test_agrees_with_tfp(circular):
    spline, parameters = spline_and_parameters(500, 2.0, circular=circular)
    widths, heights, slopes = (a.T for a in shape_of(parameters, spline.bins, circular))
    tfp = tfb.RationalQuadraticSpline(widths, heights, slopes[:, 1:-1], range_min=-BOUND)
    x = RNG.uniform(-BOUND, BOUND, 500)
    # TFP's slopes at the ends are 1.
    bins = np.sum(x[:, None] > np.cumsum(widths, axis=1) - BOUND, axis=1)
    inner = (bins > 0) & (bins < spline.bins - 1) if circular else np.ones(500, bool)
    assert inner.sum() > 200
    y, log_derivative = spline.forward(tf.constant(x), parameters)
    np.testing.assert_allclose(y[0][inner], tfp.forward(x)[inner], atol=1e-12)
    expected = tfp.forward_log_det_jacobian(x)[inner]
    np.testing.assert_allclose(log_derivative[0][inner], expected, atol=1e-11)


@both
def test_parameters_of_zero_are_the_identity(circular):
    spline, zeros = spline_and_parameters(7, 0.0, circular=circular)
    x = tf.constant([[-50.0, -3.0, -1.7, 0.0, 0.4, 3.0, 7.5]], tf.float64)
    for direction in (spline.forward, spline.inverse):
        y, log_derivative = direction(x, zeros)
        np.testing.assert_allclose(y, x, atol=1e-15)
        np.testing.assert_allclose(log_derivative, 0.0, atol=1e-15)


@precise
@both
def test_round_trip(circular, dtype):
    spline, parameters = spline_and_parameters(300, 3.0, dtype, circular=circular)
    x = tf.constant(hard_values(spline, parameters, dtype))
    y, log_derivative = spline.forward(x, parameters)
    back, inverse_log_derivative = spline.inverse(y, parameters)
    # In float32 the ends of slopes of e^-4 take fifty roundings of a value into one.
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    scale = np.maximum(1.0, np.abs(x))
    assert np.max(np.abs(back - x) / scale) < tolerance
    far = np.abs(x) > 100.0 if circular else np.zeros(x.shape, bool)
    difference = np.abs(log_derivative + inverse_log_derivative)[~far]
    assert np.max(difference) < 50 * tolerance
    z, _ = spline.inverse(x, parameters)
    assert np.max(np.abs(spline.forward(z, parameters)[0] - x) / scale) < tolerance


@both
def test_log_derivative_is_that_of_the_value(circular):
    spline, parameters = spline_and_parameters(300, 2.0, circular=circular)
    x = tf.constant(hard_values(spline, parameters, "float64"))
    for direction in (spline.forward, spline.inverse):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, log_derivative = direction(x, parameters)
        inside = np.abs(x) <= BOUND if circular else np.full(x.shape, True)
        slope = tape.gradient(y, x)
        np.testing.assert_allclose(np.log(slope)[inside], log_derivative[inside], atol=1e-11)


@precise
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e30])
@both
def test_finite_inputs_give_finite_values_and_gradients(circular, scale, dtype):
    spline, parameters = spline_and_parameters(50, scale, dtype, circular=circular)
    parameters = tf.clip_by_value(parameters, -3e38, 3e38)
    x = hard_values(spline, parameters, dtype)
    x = tf.constant(np.concatenate([x, np.full((1, 50), 1e37), np.full((1, 50), -1e37)]), dtype)
    for direction in (spline.forward, spline.inverse):
        with tf.GradientTape() as tape:
            tape.watch([x, parameters])
            y, log_derivative = direction(x, parameters)
            total = tf.reduce_sum(tf.where(tf.abs(x) < 1e30, y, 0.0)) + tf.reduce_sum(
                log_derivative
            )
        for value in (y, log_derivative, *tape.gradient(total, [x, parameters])):
            assert np.all(np.isfinite(value))


def test_gradients_where_two_roots_meet():
    # At the middle of a symmetric bin the two forms of the root are equal.
    spline, zeros = spline_and_parameters(1, 0.0)
    y = tf.constant([0.5], tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([y, zeros])
        x, _ = spline.inverse(y, zeros)
    assert float(tape.gradient(x, y)[0]) == pytest.approx(1.0, abs=1e-12)
    step = 1e-6
    for i in range(spline.parameters):
        moved = [
            spline.inverse(y, tf.tensor_scatter_nd_add(zeros, [[i, 0, 0]], [s]))[0]
            for s in (step, -step)
        ]
        expected = (moved[0] - moved[1]) / (2.0 * step)
        np.testing.assert_allclose(tape.gradient(x, zeros)[i], expected, atol=2e-6)


def test_slopes_meet_at_the_ends():
    x = tf.constant([-BOUND, np.nextafter(BOUND, 0.0)], tf.float64)
    for circular in (False, True):
        spline, parameters = spline_and_parameters(1, 2.0, circular=circular)
        _, log_derivative = spline.forward(x, tf.repeat(parameters, 2, axis=-1))
        left, right = log_derivative.numpy()[0]
        assert left == pytest.approx(right, abs=1e-12)
        assert (abs(left) < 1e-12) is not circular


def test_a_circular_spline_goes_on_periodically():
    spline, parameters = spline_and_parameters(40, 2.0, circular=True)
    x = tf.constant(RNG.uniform(-BOUND, BOUND, 40))
    y, log_derivative = spline.forward(x, parameters)
    for turns in (-3, 1, 2):
        other, other_log_derivative = spline.forward(x + turns * 2.0 * BOUND, parameters)
        np.testing.assert_allclose(other, y + turns * 2.0 * BOUND, atol=1e-12)
        np.testing.assert_allclose(other_log_derivative, log_derivative, atol=1e-11)


def test_density_on_the_circle_integrates_to_one():
    flow = keras_nf.SplineAutoregressive(bins=5, bound=np.pi, circular=True, hidden_units=(8,))
    model = keras_nf.FlowModel(flow, base=keras_nf.bases.Uniform(-np.pi, np.pi))
    model.build((None, 1))
    for weight in model.trainable_variables:
        weight.assign(RNG.normal(size=weight.shape))
    angles = np.linspace(-np.pi, np.pi, 20_001)[:-1, None].astype("float32")
    density = np.exp(model.log_prob(angles))
    assert np.mean(density) * 2.0 * np.pi == pytest.approx(1.0, abs=1e-4)
    assert density.max() > 1.5 * density.min()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bins": 1}, "`bins` must be an integer of at least 2. Received: 1"),
        ({"bins": 8.0}, "Received: 8.0"),
        ({"bound": 0.0}, "`bound` must be a positive number. Received: 0.0"),
        ({"bound": float("nan")}, "Received: nan"),
        ({"bound": float("inf")}, "Received: inf"),
    ],
)
def test_bad_options(options, words):
    for make in (RationalQuadraticSpline, keras_nf.SplineCoupling, keras_nf.SplineAutoregressive):
        with pytest.raises(ValueError, match=words):
            make(**options)
