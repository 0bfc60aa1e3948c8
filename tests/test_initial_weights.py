"""Where weights start: by the links of each unit, with kinks all over the data."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_nf

UNITS = 4000


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


def weights_of(network):
    return {weight.name: weight.numpy() for weight in network.weights}


def assert_uniform(values, limit):
    """Check range and variance; a uniform distribution on ±limit has a third of limit squared."""
    assert np.abs(values).max() <= limit
    # Of 4,000 numbers the variance of the square is 4/45 of limit^4: this is some eight deviations.
    np.testing.assert_allclose(np.mean(values**2), limit**2 / 3.0, rtol=0.12)


def test_kernels_and_biases_go_by_the_number_of_inputs():
    mlp = keras_nf.MLP((UNITS, 40), units=3)
    mlp.build((None, 5))
    weights = weights_of(mlp)
    for layer, inputs in enumerate((5, UNITS)):
        limit = 1.0 / np.sqrt(inputs)
        assert_uniform(weights[f"kernel_{layer}"], limit)
        assert np.abs(weights[f"bias_{layer}"]).max() <= limit
    assert_uniform(weights["bias_0"], 1.0 / np.sqrt(5.0))


def test_last_layer_is_zero():
    mlp, made = keras_nf.MLP((8,), units=3), keras_nf.MADE((8,), 2)
    for network in (mlp, made):
        network.build((None, 4))
        weights = weights_of(network)
        assert not weights["kernel_1"].any()
        assert not weights["bias_1"].any()


@pytest.mark.parametrize("condition_size", [0, 3])
def test_masked_units_go_by_their_links(condition_size):
    made = keras_nf.MADE((UNITS, 30), 2, order="reversed")
    made.build((None, 4), (None, condition_size) if condition_size else None)
    weights, masks = weights_of(made), [product.mask for product in made._products]
    links = masks[0].sum(axis=0) + condition_size
    assert sorted(set(links)) == ([3, 4, 5, 6] if condition_size else [1, 2, 3])
    # All units alike once the links are taken out, and none by the size of the event.
    scales = np.sqrt(links)
    assert_uniform(weights["kernel_0"] * scales, 1.0)
    assert_uniform(weights["bias_0"] * scales, 1.0)
    if condition_size:
        assert_uniform(weights["condition_kernel"] * scales, 1.0)
    assert_uniform(weights["kernel_1"] * np.sqrt(masks[1].sum(axis=0)), 1.0)


def test_units_without_links_stay_finite():
    made = keras_nf.MADE((8,), 2)
    made.build((None, 1))
    assert np.isfinite(weights_of(made)["kernel_0"]).all()
    assert np.abs(weights_of(made)["bias_0"]).max() <= 1.0


@pytest.mark.parametrize("dtype", ["float64", "mixed_bfloat16"])
def test_dtype_is_that_of_the_weights(dtype):
    mlp = keras_nf.MLP((8,), units=3, activation="tanh", dtype=dtype)
    mlp.build((None, 4))
    assert {weight.dtype for weight in mlp.weights} == {mlp.variable_dtype}


def test_weights_differ_and_follow_the_global_seed():
    def drawn(seed):
        keras.utils.set_random_seed(seed)
        flow = keras_nf.maf(3, layers=2, hidden_units=(8, 8))
        flow.build((None, 3))
        return [layer.conditioner.get_weights() for layer in flow.flows]

    (first, second), (again, _), (other, _) = drawn(0), drawn(0), drawn(1)
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], second[0])
    assert not np.array_equal(first[0], other[0])
    # The bias is no copy of a row of the kernel, although both have the same range.
    assert not np.array_equal(first[0][0], first[3])


def test_planar_directions_have_half_the_length_of_a_standard_normal():
    planar = keras_nf.Planar(folds=5)
    planar.build((None, 8))
    lengths = np.linalg.norm(planar.w, axis=1)
    np.testing.assert_allclose(lengths, np.full(5, 0.5 * np.sqrt(8.0)), rtol=1e-6)
    assert np.linalg.matrix_rank(planar.w) == 5


@pytest.mark.parametrize("shift_first", [True, False])
def test_gradient_of_the_shift(shift_first):
    """With the shift first it is the latent; otherwise the latent over the scale."""
    scale = 0.05
    flow = keras_nf.MaskedAutoregressive(
        hidden_units=(), log_scale_bound=None, shift_first=shift_first, dtype="float64"
    )
    flow.build((None, 1))
    _, bias = flow.trainable_variables
    bias.assign([0.0, np.log(scale)])
    x = np.array([[0.1]])
    with tf.GradientTape() as tape:
        z, log_det = flow.inverse_and_log_det(x)
        loss = 0.5 * tf.reduce_sum(z**2) - tf.reduce_sum(log_det)
    gradient = tape.gradient(loss, bias.value)[0]
    latent = 0.1 / scale
    np.testing.assert_allclose(gradient, -latent if shift_first else -latent / scale, rtol=1e-12)
