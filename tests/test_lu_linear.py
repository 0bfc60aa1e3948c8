"""LULinear: what its factors are, and solves that keep their digits."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

import keras_nf

RNG = np.random.default_rng(0)


def perturbed(size, *arguments, scale=0.5, dtype="float64", **options):
    flow = keras_nf.LULinear(*arguments, dtype=dtype, **options)
    flow.build((None, size))
    for weight in flow.trainable_variables:
        weight.assign(scale * RNG.normal(size=weight.shape))
    return flow


def matrix_of(flow):
    """Return the matrix of the linear map, column by column."""
    size = flow.event_size
    return (flow.forward(np.eye(size)) - flow.forward(np.zeros(size))).numpy().T


@pytest.mark.parametrize("permutation", ["sequential", "reversed", (2, 0, 3, 1)], ids=str)
def test_a_fresh_layer_is_the_permutation(permutation):
    x = RNG.normal(size=(5, 4)).astype("float32")
    linear, permute = keras_nf.LULinear(permutation), keras_nf.Permute(permutation)
    np.testing.assert_array_equal(linear(x), permute(x))
    np.testing.assert_array_equal(linear.inverse(x), permute.inverse(x))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 17])
def test_agrees_with_tfp(size):
    flow = perturbed(size, "random", seed=1, use_shift=False)
    kernel = flow.kernel.numpy()
    scale = np.exp(np.diag(kernel))[:, None]
    packed = np.tril(kernel, -1) + scale * (np.triu(kernel, 1) + np.eye(size))
    # TFP applies the inverse of the permutation that it is given.
    order = np.argsort(flow.component_order)
    tfp = tfb.ScaleMatvecLU(tf.constant(packed), order)
    x = RNG.normal(size=(6, size))
    y, log_det = flow.forward_and_log_det(x)
    np.testing.assert_allclose(y, tfp.forward(x), atol=1e-12)
    np.testing.assert_allclose(flow.inverse(y), tfp.inverse(y), atol=1e-10)
    np.testing.assert_allclose(log_det, tfp.forward_log_det_jacobian(x, 1), atol=1e-12)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(matrix_of(flow))[1], atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-15)])
@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0])
def test_inverse_is_as_exact_as_a_solve(scale, dtype, tolerance):
    flow = perturbed(24, scale=scale, dtype=dtype, use_shift=False)
    matrix = matrix_of(perturbed_copy(flow, "float64"))
    y = RNG.normal(size=(50, 24)).astype(dtype)
    expected = np.linalg.solve(matrix, y.T.astype("float64")).T
    # A solve by LU loses what the condition of its factors says.
    factors = np.tril(flow.kernel, -1) + np.eye(24), np.triu(flow.kernel, 1) + np.eye(24)
    condition = np.prod([np.linalg.cond(factor.astype("float64")) for factor in factors])
    difference = np.abs(flow.inverse(y).numpy() - expected).max()
    assert difference < tolerance * condition * np.abs(expected).max()


def perturbed_copy(flow, dtype):
    copy = keras_nf.LULinear(use_shift=False, dtype=dtype)
    copy.build((None, flow.event_size))
    copy.kernel.assign(flow.kernel.numpy())
    return copy


def test_ones_below_the_diagonal():
    # Their inverse has ones beside the diagonal, sums of powers would be as large as 2^62.
    flow = keras_nf.LULinear(use_shift=False)
    flow.build((None, 64))
    flow.kernel.assign(np.tril(np.ones((64, 64)), -1))
    x = RNG.normal(size=(5, 64)).astype("float32")
    np.testing.assert_allclose(flow.inverse(flow(x)), x, atol=1e-4)


def test_channels_of_images():
    flow = perturbed(3, "reversed")
    images = RNG.normal(size=(2, 4, 5, 3))
    y, log_det = flow.forward_and_log_det(images)
    rows, row_log_det = flow.forward_and_log_det(images.reshape(-1, 3))
    np.testing.assert_allclose(y, np.reshape(rows, images.shape), atol=1e-14)
    np.testing.assert_allclose(log_det, np.reshape(row_log_det, (2, 4, 5)), atol=1e-14)


def test_mean_and_covariance_of_a_normal():
    flow = perturbed(3, "random", seed=0)
    base = keras_nf.FlowModel(flow).distribution
    np.testing.assert_allclose(base.mean(), flow.shift, atol=1e-12)
    draws = base.sample(200_000, seed=0).numpy()
    matrix = matrix_of(flow)
    np.testing.assert_allclose(np.cov(draws.T), matrix @ matrix.T, atol=0.1)
