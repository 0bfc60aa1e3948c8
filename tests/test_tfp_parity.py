"""Our flows against TFP's own bijectors, on copied weights."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from cases import perturb
from tensorflow_probability import bijectors as tfb

import keras_nf

POINTS, SIZE = 1000, 5
BOUND = 7.0

# Both sides round some fifty times and differ in the order of sums.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE)
CONDITION_SIZES = pytest.mark.parametrize("condition_size", [0, 2])
SHIFTS = pytest.mark.parametrize("shift_first", [True, False], ids=["shift-first", "shift-last"])
ORDERS = pytest.mark.parametrize("order", ["sequential", "reversed", (3, 0, 4, 1, 2)], ids=str)


def draw(size, dtype, seed):
    return tf.constant(np.random.default_rng(seed).standard_normal((POINTS, size)), dtype)


def ready(flow, condition_size):
    flow.build((None, SIZE), (None, condition_size) if condition_size else None)
    return perturb(flow)


def bounded(raw):
    return raw / (1.0 + tf.abs(raw) / BOUND)


def plain_network(flow, masks=(1.0, 1.0)):
    """One hidden layer of tanh in plain TensorFlow, on copies of the weights."""
    kernel_0, bias_0, kernel_1, bias_1, *condition_kernel = by_name(flow)
    kernel_0, kernel_1 = kernel_0 * masks[0], kernel_1 * masks[1]

    def network(x, condition=None):
        h = x @ kernel_0 + bias_0
        if condition is not None:
            h = h + condition @ condition_kernel[0]
        return tf.tanh(h) @ kernel_1 + bias_1

    return network


def by_name(flow):
    names = ["kernel_0", "bias_0", "kernel_1", "bias_1", "condition_kernel"]
    weights = {weight.name: weight.numpy() for weight in flow.conditioner.weights}
    return [weights[name] for name in names if name in weights]


def assert_parity(flow, bijector, dtype, **condition):
    """Compare values and log-determinants of both directions at points of each side."""
    x = draw(SIZE, dtype, seed=1)
    tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    y, log_det = flow.forward_and_log_det(x, **condition)
    np.testing.assert_allclose(y, bijector.forward(x), **tolerance)
    np.testing.assert_allclose(
        log_det,
        bijector.forward_log_det_jacobian(x, event_ndims=1) * tf.ones_like(log_det),
        **tolerance,
    )
    x, log_det = flow.inverse_and_log_det(draw(SIZE, dtype, seed=2), **condition)
    y = draw(SIZE, dtype, seed=2)
    np.testing.assert_allclose(x, bijector.inverse(y), **tolerance)
    np.testing.assert_allclose(
        log_det,
        bijector.inverse_log_det_jacobian(y, event_ndims=1) * tf.ones_like(log_det),
        **tolerance,
    )


def shift_and_log_scale_of(flow, parameters):
    """What TFP, which adds the shift last, takes in the place of the flow's raw parameters."""
    shift, raw = tf.split(parameters, 2, axis=-1)
    log_scale = bounded(raw)
    return shift * tf.exp(log_scale) if flow.elementwise.shift_first else shift, log_scale


def real_nvp(flow, affine, condition):
    network = plain_network(flow)

    def shift_and_log_scale(kept, units):
        kept = kept if condition is None else tf.concat([kept, condition], axis=-1)
        parameters = network(kept)
        if not affine:
            return parameters, None
        return shift_and_log_scale_of(flow, parameters)

    return tfb.RealNVP(
        num_masked=(SIZE + 1) // 2,
        shift_and_log_scale_fn=shift_and_log_scale,
        is_constant_jacobian=not affine,
    )


@DTYPES
@CONDITION_SIZES
@pytest.mark.parametrize(
    "coupling",
    [
        keras_nf.AdditiveCoupling,
        functools.partial(keras_nf.AffineCoupling, log_scale_bound=BOUND),
        functools.partial(keras_nf.AffineCoupling, log_scale_bound=BOUND, shift_first=False),
    ],
    ids=["additive", "affine", "affine-shift-last"],
)
def test_couplings_are_those_of_real_nvp(coupling, condition_size, dtype):
    flow = coupling(hidden_units=(8,), activation="tanh", dtype=dtype)
    affine = isinstance(flow, keras_nf.AffineCoupling)
    ready(flow, condition_size)
    condition = draw(condition_size, dtype, seed=3) if condition_size else None
    assert_parity(flow, real_nvp(flow, affine, condition), dtype, condition=condition)


def masked_autoregressive(flow, condition):
    network = plain_network(flow, [p.mask for p in flow.conditioner._products])

    def shift_and_log_scale(y):
        return shift_and_log_scale_of(flow, network(y, condition))

    return tfb.MaskedAutoregressiveFlow(shift_and_log_scale_fn=shift_and_log_scale)


def autoregressive(flow, order, condition_size, dtype, **options):
    options = {"log_scale_bound": BOUND, "dtype": dtype, **options}
    flow = flow(hidden_units=(8,), activation="tanh", order=order, **options)
    ready(flow, condition_size)
    return flow, draw(condition_size, dtype, seed=3) if condition_size else None


@DTYPES
@CONDITION_SIZES
@ORDERS
@SHIFTS
def test_maf_is_that_of_tfp(shift_first, order, condition_size, dtype):
    flow, condition = autoregressive(
        keras_nf.MaskedAutoregressive, order, condition_size, dtype, shift_first=shift_first
    )
    assert_parity(flow, masked_autoregressive(flow, condition), dtype, condition=condition)


@DTYPES
@CONDITION_SIZES
@ORDERS
@SHIFTS
def test_iaf_is_the_inverted_maf_of_tfp(shift_first, order, condition_size, dtype):
    flow, condition = autoregressive(
        keras_nf.InverseAutoregressive, order, condition_size, dtype, shift_first=shift_first
    )
    bijector = tfb.Invert(masked_autoregressive(flow, condition))
    assert_parity(flow, bijector, dtype, condition=condition)
