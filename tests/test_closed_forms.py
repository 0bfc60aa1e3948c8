"""Densities, derivatives and limits that are known in closed form."""

import numpy as np
import pytest
import tensorflow as tf
from cases import base_points, build, conditions, make, perturb, rows
from tensorflow_probability import distributions as tfd

import keras_nf
from keras_nf.root import invert_monotone

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52}


def uniform(low, high, dtype="float64"):
    low = tf.constant([low], dtype)
    return tfd.Independent(tfd.Uniform(low, tf.constant([high], dtype)), 1)


# Change of variables.


class Exp(keras_nf.Flow):
    """x = exp(z)."""

    def _forward_and_log_det(self, x, condition=None):
        return tf.exp(x), tf.reduce_sum(x, axis=-1)

    def _inverse_and_log_det(self, y, condition=None):
        x = tf.math.log(y)
        return x, -tf.reduce_sum(x, axis=-1)


class Linear(keras_nf.Flow):
    """x = A z."""

    def __init__(self, matrix, **kwargs):
        super().__init__(is_constant_jacobian=True, **kwargs)
        self.matrix = np.asarray(matrix)

    def _forward_and_log_det(self, x, condition=None):
        log_det = np.linalg.slogdet(self.matrix)[1]
        return tf.linalg.matvec(self.matrix, x), self._constant_log_det(x, log_det)

    def _inverse_and_log_det(self, y, condition=None):
        log_det = np.linalg.slogdet(self.matrix)[1]
        return tf.linalg.matvec(np.linalg.inv(self.matrix), y), self._constant_log_det(y, -log_det)


def test_four_times_a_uniform():
    flow = keras_nf.Scaling(dtype="float64")
    flow.build((None, 1))
    flow.log_scale.assign([np.log(4.0)])
    dist = flow(uniform(0.0, 2.0))
    np.testing.assert_allclose(dist.prob([[4.0]]), [1 / 8], rtol=1e-14)
    np.testing.assert_array_equal(dist.prob([[-1.0], [9.0]]), [0.0, 0.0])


def test_exponential_of_a_uniform():
    x = np.linspace(1.01, np.exp(2.0) - 0.01, 50)[:, None]
    dist = Exp(dtype="float64")(uniform(0.0, 2.0))
    np.testing.assert_allclose(dist.prob(x), 1 / (2 * x[:, 0]), rtol=1e-14)


def test_exponential_of_a_normal_is_log_normal():
    x = np.linspace(0.1, 10.0, 50)[:, None]
    base = tfd.MultivariateNormalDiag(tf.constant([0.3], "float64"), [0.7])
    density = np.exp(-0.5 * ((np.log(x) - 0.3) / 0.7) ** 2) / (x * 0.7 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(Exp(dtype="float64")(base).prob(x), density[:, 0], rtol=1e-13)


MATRIX = np.array([[2.0, -1.0, 0.5], [0.3, 1.5, 0.0], [-0.7, 0.2, 0.8]])


def normal_log_density(x, mean, covariance):
    difference = x - mean
    quadratic = np.einsum("ni,ij,nj->n", difference, np.linalg.inv(covariance), difference)
    log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
    return -0.5 * (quadratic + log_det)


def test_linear_map_of_a_normal():
    mean, scale = np.array([1.0, -2.0, 0.5]), np.array([0.5, 1.0, 2.0])
    base = tfd.MultivariateNormalDiag(mean, scale)
    dist = Linear(MATRIX, dtype="float64")(base)
    x = np.random.default_rng(0).normal(size=(50, 3))
    covariance = MATRIX @ np.diag(scale**2) @ MATRIX.T
    expected = normal_log_density(x, MATRIX @ mean, covariance)
    np.testing.assert_allclose(dist.log_prob(x), expected, rtol=1e-12)
    np.testing.assert_allclose(dist.mean(), MATRIX @ mean, rtol=1e-14)
    np.testing.assert_allclose(dist.covariance(), covariance, rtol=1e-12)


def test_linear_map_of_any_density():
    base = tfd.Independent(tfd.Gumbel(tf.zeros(3, "float64"), 1.0), 1)
    x = np.random.default_rng(0).normal(size=(50, 3))
    z = np.linalg.solve(MATRIX, x.T).T
    expected = np.sum(-z - np.exp(-z), axis=-1) - np.log(abs(np.linalg.det(MATRIX)))
    dist = Linear(MATRIX, dtype="float64")(base)
    np.testing.assert_allclose(dist.log_prob(x), expected, rtol=1e-12)


def test_linear_maf_of_a_normal():
    flow = keras_nf.MaskedAutoregressive(
        hidden_units=(), log_scale_bound=None, shift_first=False, dtype="float64"
    )
    flow.build((None, 3))
    kernel, bias = np.zeros((3, 6)), np.array([1.0, -2.0, 0.5, 0.2, -0.4, 0.6])
    kernel[0, 1], kernel[0, 2], kernel[1, 2] = 0.7, -0.3, 1.2
    flow.set_weights([kernel, bias])
    # x = K^T x + shift + exp(log_scale) z, solved for x.
    solved = np.linalg.inv(np.eye(3) - kernel[:, :3].T)
    mean, factor = solved @ bias[:3], solved @ np.diag(np.exp(bias[3:]))
    x = np.random.default_rng(0).normal(size=(50, 3))
    dist = flow(tfd.MultivariateNormalDiag(tf.zeros(3, "float64")))
    expected = normal_log_density(x, mean, factor @ factor.T)
    np.testing.assert_allclose(dist.log_prob(x), expected, rtol=1e-12)
    np.testing.assert_allclose(flow.forward(x), mean + x @ factor.T, rtol=1e-12)


def test_maf_that_shifts_first():
    flow = keras_nf.MaskedAutoregressive(hidden_units=(), log_scale_bound=None, dtype="float64")
    flow.build((None, 2))
    flow.set_weights([np.zeros((2, 4)), np.array([1.0, -2.0, 0.2, -0.4])])
    z = np.random.default_rng(0).normal(size=(50, 2))
    x, log_det = flow.forward_and_log_det(z)
    np.testing.assert_allclose(x, (z + [1.0, -2.0]) * np.exp([0.2, -0.4]), rtol=1e-12)
    np.testing.assert_allclose(log_det, np.full(50, -0.2), rtol=1e-12)


def test_logit_of_a_logistic_is_uniform():
    flow = keras_nf.Logit(low=-1.0, high=3.0, margin=0.0, dtype="float64")
    base = tfd.Independent(tfd.Logistic(tf.zeros(1, "float64"), 1.0), 1)
    x = np.linspace(-0.99, 2.99, 50)[:, None]
    np.testing.assert_allclose(flow(base).prob(x), np.full(50, 0.25), rtol=1e-12)
    np.testing.assert_array_equal(flow(base).prob([[-1.1], [3.1]]), [0.0, 0.0])


# The planar flow of the paper.


def planar_with(w, u, b, dtype, activation="tanh"):
    flow = keras_nf.Planar(activation, dtype=dtype)
    flow.build((None, len(w)))
    flow.w.assign([w])
    flow.u.assign([u])
    flow.b.assign([b])
    return flow


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_planar_layers_are_those_of_a_chain(activation):
    rng = np.random.default_rng(0)
    w, u, b = rng.normal(size=(5, 3)), 3.0 * rng.normal(size=(5, 3)), rng.normal(size=5)
    deep = keras_nf.Planar(activation, folds=5, dtype="float64")
    deep.build((None, 3))
    for weight, value in zip(deep.trainable_variables, (w, u, b)):
        weight.assign(value)
    flows = [planar_with(*weights, "float64", activation) for weights in zip(w, u, b)]
    chain = keras_nf.Chain(flows, dtype="float64")
    z = rng.normal(size=(9, 3))
    x, log_det = deep.forward_and_log_det(z)
    expected, expected_log_det = chain.forward_and_log_det(z)
    np.testing.assert_allclose(x, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(log_det, expected_log_det, rtol=1e-12, atol=1e-12)
    back, log_det = deep.inverse_and_log_det(x)
    np.testing.assert_allclose(back, z, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(log_det, -expected_log_det, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("event_size", [1, 3])
@pytest.mark.parametrize("direction", ["forward_and_log_det", "inverse_and_log_det"])
def test_amortized_planar_is_a_planar_for_each_condition(event_size, direction):
    layers, rng = 3, np.random.default_rng(0)
    amortized = keras_nf.Planar(folds=layers, amortized=True, dtype="float64")
    amortized.build((None, event_size), (None, 2))
    perturb(amortized)
    x, condition = rng.normal(size=(5, event_size)), rng.normal(size=(5, 2))
    values, log_dets = getattr(amortized, direction)(x, condition)
    size = layers * event_size
    for i in range(5):
        effects = np.split(condition[i] @ amortized.kernel.numpy(), [size, 2 * size])
        single = keras_nf.Planar(folds=layers, dtype="float64")
        single.build((None, event_size))
        for weight, shared, effect in zip(single.weights, amortized.weights, effects):
            weight.assign(shared + effect.reshape(weight.shape))
        value, log_det = getattr(single, direction)(x[i])
        np.testing.assert_allclose(values[i], value, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(log_dets[i], log_det, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("seed", range(5))
def test_planar_is_that_of_the_paper(seed):
    rng = np.random.default_rng(seed)
    w, u, b, z = rng.normal(size=4), 3.0 * rng.normal(size=4), rng.normal(), rng.normal(size=(9, 4))
    # Appendix A.1: m(a) = -1 + log(1 + e^a).
    u_hat = u + (-1.0 + np.log1p(np.exp(w @ u)) - w @ u) * w / (w @ w)
    h = np.tanh(z @ w + b)
    psi = (1.0 - h**2)[:, None] * w
    # Here m(0) = 0, so that u is less by what the paper needs for that.
    u = u - np.log(np.e - 1.0) * w / (w @ w)
    x, log_det = planar_with(w, u, b, "float64").forward_and_log_det(z)
    np.testing.assert_allclose(x, z + u_hat * h[:, None], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(log_det, np.log(np.abs(1.0 + psi @ u_hat)), rtol=1e-11, atol=1e-12)


SLOPES = {
    "tanh": (np.tanh, lambda v: 1.0 - np.tanh(v) ** 2, 1.0),
    "sigmoid": (
        lambda v: 1.0 / (1.0 + np.exp(-v)),
        lambda v: np.exp(-v) / (1.0 + np.exp(-v)) ** 2,
        0.25,
    ),
    "arctan": (np.arctan, lambda v: 1.0 / (1.0 + v**2), 1.0),
    "softplus": (lambda v: np.log1p(np.exp(v)), lambda v: 1.0 / (1.0 + np.exp(-v)), 1.0),
    "elu": (lambda v: np.where(v > 0, v, np.expm1(v)), lambda v: np.exp(np.minimum(v, 0.0)), 1.0),
}


def planar_u_hat(w, u, max_slope):
    excess = np.logaddexp(0.0, w @ u + np.log(np.expm1(1.0 / max_slope)))
    return u + (excess - 1.0 / max_slope - w @ u) * w / (w @ w)


@pytest.mark.parametrize("activation", SLOPES)
def test_planar_of_every_activation(activation):
    h, slope, max_slope = SLOPES[activation]
    rng = np.random.default_rng(0)
    w, u, b, z = rng.normal(size=3), rng.normal(size=3), 0.3, rng.normal(size=(9, 3))
    u_hat = planar_u_hat(w, u, max_slope)
    v = z @ w + b
    x, log_det = planar_with(w, u, b, "float64", activation).forward_and_log_det(z)
    np.testing.assert_allclose(x, z + u_hat * h(v)[:, None], rtol=1e-12, atol=1e-12)
    expected = np.log(np.abs(1.0 + slope(v) * (w @ u_hat)))
    np.testing.assert_allclose(log_det, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("activation", SLOPES)
def test_planar_of_no_u_is_the_identity(activation):
    z = np.random.default_rng(0).normal(size=(9, 3))
    flow = planar_with(np.array([1.0, -2.0, 0.5]), np.zeros(3), 0.3, "float64", activation)
    x, log_det = flow.forward_and_log_det(z)
    np.testing.assert_allclose(x, z, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(log_det, 0.0, atol=1e-14)


@pytest.mark.parametrize("activation", SLOPES)
def test_planar_of_one_component_has_no_pole(activation):
    # A network that gives the weights takes w through 0: the map tends to a shift by m'(0) u h(b).
    h, _, max_slope = SLOPES[activation]
    z, u, b = np.random.default_rng(0).normal(size=(9, 1)), np.array([1.5]), 0.7
    shift = -np.expm1(-1.0 / max_slope) * u * h(b)
    for w in (-1e-6, -1e-7, 1e-7, 1e-6):
        x, log_det = planar_with(np.array([w]), u, b, "float64", activation).forward_and_log_det(z)
        np.testing.assert_allclose(x, z + shift, atol=1e-5)
        np.testing.assert_allclose(log_det, 0.0, atol=1e-5)


# Length of w, w^T u / |w| and b, at which the map is nearly flat, steep, far away, or nearly
# without a direction.
EXTREME = {
    "nearly-flat": (1.0, -20.0, 0.0),
    "flat": (1.0, -80.0, 0.1),
    "underflow": (1.0, -1000.0, 0.1),
    "steep": (1.0, 1e4, -0.5),
    "long-w": (1e3, 1e-3, 0.0),
    "long-w-flat": (1e2, -5e-3, 30.0),
    "short-w": (1e-3, 1.0, 0.0),
    "short-w-flat": (1e-3, -1e4, 0.0),
    "far": (1.0, 2.0, 1e4),
}


@DTYPES
@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("extreme", EXTREME)
def test_planar_inverse_under_extreme_weights(extreme, activation, dtype):
    length, along, b = EXTREME[extreme]
    w, u = length * np.array([0.6, -0.8]), along * np.array([0.6, -0.8]) + [0.4, 0.3]
    flow = planar_with(w, u, b, dtype, activation)
    y = tf.constant(5.0 * np.random.default_rng(0).standard_normal((200, 2)), dtype)
    x, log_det = flow.inverse_and_log_det(y)
    assert np.isfinite(x).all()
    assert np.isfinite(log_det).all()
    # Roundings of what the map adds up, stretched by no more than its derivative I + u_hat h' w^T,
    # and those of u, from which u_hat is computed.
    size = np.max(np.abs(np.concatenate([y, x], axis=-1)), axis=-1)
    size = np.maximum(size, np.linalg.norm(u)) + abs(b / length)
    u_hat = planar_u_hat(w, u, SLOPES[activation][2])
    stretch = 1.0 + (np.linalg.norm(u_hat) + np.linalg.norm(u)) * length * SLOPES[activation][2]
    error = np.max(np.abs(flow.forward(x) - y), axis=-1)
    assert np.max(error / size) < 8 * stretch * EPSILON[dtype]


# The root search.


def sinh(v):
    return tf.sinh(v), tf.cosh(v)


def arctan(v):
    return tf.atan(v), 1.0 / (1.0 + v**2)


@DTYPES
def test_root_is_accurate(dtype):
    target = tf.constant(np.concatenate([[0.0], np.geomspace(1e-6, 1e2, 60)]), dtype)
    target = tf.concat([-target, target], axis=0)
    wide = tf.fill(target.shape, tf.constant(20.0, dtype))
    root = invert_monotone(sinh, target, -wide, wide)
    exact = np.arcsinh(target)
    # The search stops at a step of one rounding of the root or of the target.
    size = np.maximum(np.abs(exact), np.abs(target))
    assert np.max(np.abs(root - exact) / np.maximum(size, 1e-9)) < 2 * EPSILON[dtype]


@DTYPES
def test_root_is_found_where_newton_diverges(dtype):
    target = tf.constant(np.linspace(-1.5, 1.5, 61), dtype)
    wide = tf.fill(target.shape, tf.constant(1e4, dtype))
    root = invert_monotone(arctan, target, -wide, wide)
    np.testing.assert_allclose(
        np.arctan(root), target, rtol=4 * EPSILON[dtype], atol=EPSILON[dtype]
    )


def test_root_at_an_end_of_the_bracket():
    target = tf.constant([-1.0, 1.0], "float64")
    exact = np.arcsinh(target)
    root = invert_monotone(sinh, target, tf.constant(exact - [0, 1]), tf.constant(exact + [1, 0]))
    np.testing.assert_allclose(root, exact, rtol=1e-14)


@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("along", [-1.5, 4.0], ids=["flat", "steep"])
def test_derivatives_of_the_planar_inverse(activation, along):
    rng = np.random.default_rng(0)
    flow = keras_nf.Planar(activation, folds=2, dtype="float64")
    flow.build((None, 2))
    w = np.array([[0.9, -1.2], [0.5, 0.8]])
    flow.w.assign(w)
    flow.u.assign(along * w / np.sum(w**2, axis=1, keepdims=True) + [0.4, 0.3])
    flow.b.assign([0.2, -0.1])
    y = rng.standard_normal((7, 2))
    variables = [v.value for v in flow.trainable_variables]
    start = [v.numpy() for v in variables]
    change = [rng.standard_normal(value.shape) for value in start]

    def directional(gradients):
        return sum(tf.reduce_sum(g * c) for g, c in zip(gradients, change))

    def derivatives():
        """Return the log-density, and its derivatives along the change of the weights."""
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                z, log_det = flow.inverse_and_log_det(y)
                value = tf.reduce_sum(log_det - 0.5 * tf.reduce_sum(z**2, axis=-1))
            first = directional(inner.gradient(value, variables))
        return float(value), float(first), float(directional(outer.gradient(first, variables)))

    def moved(size):
        for weight, value, step in zip(flow.trainable_variables, start, change):
            weight.assign(value + size * step)
        return derivatives()

    def difference(size):
        return (np.array(moved(size)) - moved(-size)) / (2 * size)

    _, first, second = derivatives()
    # Central differences err by size^2, which cancels here, and by 1e-16 / size of the numbers.
    size = 1e-5
    by_value, by_first, _ = (4 * difference(size) - difference(2 * size)) / 3
    assert first == pytest.approx(by_value, rel=1e-7, abs=1e-7)
    assert second == pytest.approx(by_first, rel=1e-7, abs=1e-7)


# Limits.

LARGE = [-1e8, -1e4, 1e4, 1e8]


def large_points(case, shape):
    """Every component large, and each of them alone."""
    inputs = [np.full(case.size, size) for size in LARGE]
    inputs += [size * row for size in LARGE for row in np.eye(case.size)]
    return tf.constant(np.reshape(inputs, (-1, *shape)), "float32")


@rows()
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_large_inputs_give_no_nan(case, direction):
    shape = case.base_shape if direction == "forward" else case.data_shape
    flow, x = make(case, "float32"), large_points(case, shape)
    condition = conditions(case, len(x), dtype="float32")
    value, log_det = getattr(flow, f"{direction}_and_log_det")(x, **condition)
    assert np.isfinite(value).all()
    # Outside of a bounded interval the density is zero.
    bounded = case.base == "uniform" if direction == "forward" else case.data != (-3.0, 3.0)
    assert not np.isnan(log_det).any()
    assert np.isfinite(log_det).all() or bounded


@rows(lambda case: case.base == "normal" and case.data == (-3.0, 3.0))
def test_large_inputs_give_finite_gradients(case):
    flow = make(case, "float32")
    for direction, shape in (("forward", case.base_shape), ("inverse", case.data_shape)):
        x = large_points(case, shape)
        condition = conditions(case, len(x), dtype="float32")
        with tf.GradientTape() as tape:
            tape.watch(x)
            value, log_det = getattr(flow, f"{direction}_and_log_det")(x, **condition)
            loss = tf.reduce_mean(value) + tf.reduce_mean(log_det)
        sources = [x, *[v.value for v in flow.trainable_variables]]
        gradients = tape.gradient(loss, sources, unconnected_gradients="zero")
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def is_fresh_identity(case):
    others = ("Permute", "Log", "Logit", "Dequantize", "BatchNormalization", "Planar")
    others += ("planar_flow", "density_head")
    # An image is put together anew.
    same_shape = case.data_shape == case.base_shape
    return (
        same_shape
        and case.public not in others
        and not any(
            part in case.name
            for part in ("logit", "planar", "chain", "network", "lu-linear-random")
        )
    )


@rows(is_fresh_identity)
def test_fresh_flow_is_the_identity(case):
    flow, x = build(case), base_points(case, 9)
    y, log_det = flow.forward_and_log_det(x, **conditions(case, 9))
    # A spline adds what is left of a knot to what is right of it.
    tolerance = 1e-14 if "spline" in case.name or case.public == "nsf" else 0.0
    np.testing.assert_allclose(y, x, rtol=0.0, atol=tolerance)
    np.testing.assert_allclose(log_det, np.zeros(9), rtol=0.0, atol=tolerance)


@rows(lambda case: case.public in ("Planar", "planar_flow"))
def test_fresh_planar_flow_is_close_to_the_identity(case):
    flow, x = build(case), base_points(case, 9)
    y, log_det = flow.forward_and_log_det(x, **conditions(case, 9))
    # The initial noise has a standard deviation of 0.01 for each component and layer.
    np.testing.assert_allclose(y, x, atol=0.2)
    np.testing.assert_allclose(log_det, np.zeros(9), atol=0.2)


@pytest.mark.parametrize("bound", [0.5, 7.0])
def test_log_scale_stays_below_its_bound(bound):
    flow = keras_nf.AffineCoupling(hidden_units=(), log_scale_bound=bound, dtype="float64")
    flow.build((None, 2))
    perturb(flow)
    _, log_det = flow.forward_and_log_det(np.array([[1e6, 0.0], [-1e6, 0.0]]))
    assert np.all(np.abs(log_det) < bound)
    assert np.all(np.abs(log_det) > 0.99 * bound)
