"""Products with masked kernels, tiled or not, against the dense product with the mask."""

import numpy as np
import pytest
import tensorflow as tf

from keras_nf.networks import masked
from keras_nf.networks.masked import MaskedProduct

BATCH = 3


def sorted_degrees(size, degrees):
    return np.sort(np.arange(size) % degrees)


CASES = {
    "narrow": (sorted_degrees(12, 4), sorted_degrees(20, 4), 1),
    "square": (sorted_degrees(512, 64), sorted_degrees(512, 64), 1),
    "uneven": (sorted_degrees(300, 7), sorted_degrees(401, 7), 1),
    "one-narrow-side": (sorted_degrees(40, 40), sorted_degrees(512, 40), 1),
    "reversed-rows": (np.arange(270)[::-1], sorted_degrees(300, 270), 1),
    "shuffled-rows": (np.random.RandomState(0).permutation(270), sorted_degrees(300, 270), 1),
    "groups": (sorted_degrees(300, 270), np.tile(np.arange(270) - 1, 3), 3),
    "without-links": (np.repeat([0, 5], 150), np.repeat([-1, 7], 150), 1),
    "reversed-groups": (sorted_degrees(300, 270), np.tile(np.arange(270)[::-1] - 1, 2), 2),
}


def draws(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def dense(product, kernel, x):
    return tf.transpose(kernel * product.mask) @ x


@pytest.fixture(params=CASES)
def case(request):
    rows, columns, groups = CASES[request.param]
    product = MaskedProduct(rows, columns, groups)
    return product, draws(len(rows), len(columns)), draws(len(rows), BATCH, seed=1)


def test_mask_is_that_of_the_definition():
    product = MaskedProduct(np.array([0, 2]), np.array([1, 2, 0]))
    assert product.mask.tolist() == [[True, True, True], [False, True, False]]


def test_value(case):
    product, kernel, x = case
    np.testing.assert_allclose(product(kernel, x), dense(product, kernel, x), atol=1e-12)


def test_gradients(case):
    product, kernel, x = case
    upstream = draws(kernel.shape[1], BATCH, seed=2)

    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch([kernel, x])
            y = function(kernel, x)
        return tape.gradient(y, [kernel, x], output_gradients=upstream)

    expected = gradients(lambda *arguments: dense(product, *arguments))
    for actual, reference in zip(gradients(product), expected):
        np.testing.assert_allclose(actual, reference, atol=1e-12)


def test_second_derivatives(case):
    product, kernel, x = case

    def hessian_products(function):
        with tf.GradientTape() as outer:
            outer.watch([kernel, x])
            with tf.GradientTape() as inner:
                inner.watch([kernel, x])
                y = tf.reduce_sum(function(kernel, x) ** 3)
            inner_sum = sum(tf.reduce_sum(g * g) for g in inner.gradient(y, [kernel, x]))
        return outer.gradient(inner_sum, [kernel, x])

    expected = hessian_products(lambda *arguments: dense(product, *arguments))
    for actual, reference in zip(hessian_products(product), expected):
        np.testing.assert_allclose(actual, reference, rtol=1e-9, atol=1e-6)


def products(product, kernel, x):
    """Multiply-adds of the matrix products in the graph of a product and its gradients."""

    @tf.function
    def run(kernel, x):
        with tf.GradientTape() as tape:
            tape.watch([kernel, x])
            y = product(kernel, x)
        return tape.gradient(y, [kernel, x])

    operations = run.get_concrete_function(kernel, x).graph.get_operations()
    total = 0
    for operation in operations:
        if operation.type == "MatMul":
            (rows, columns), contracted = operation.outputs[0].shape, operation.inputs[0].shape
            total += rows * columns * contracted[0 if operation.get_attr("transpose_a") else 1]
    return total


@pytest.mark.parametrize("degrees", [4, 63, 64, 511])
def test_tiles_leave_out_nearly_half_of_the_arithmetic(monkeypatch, degrees):
    # The bounds of tiles need not be those of the degrees.
    units, kernel, x = sorted_degrees(512, degrees), draws(512, 512), draws(512, BATCH)
    tiled = products(MaskedProduct(units, units), kernel, x)
    monkeypatch.setattr(masked, "_SMALLEST_LAYER", 513)
    share = tiled / products(MaskedProduct(units, units), kernel, x)
    # Half of the mask, half of each of the six tiles on the diagonal, and a degree of each.
    assert 0.5 < share <= 0.5 + 0.5 / 6 + 1.0 / degrees


def test_an_accelerator_gets_whole_products(monkeypatch):
    monkeypatch.setattr(masked, "has_accelerator", lambda: True)
    rows, columns, _ = CASES["square"]
    kernel, x = draws(512, 512), draws(512, BATCH)
    # The product and its two gradients.
    assert products(MaskedProduct(rows, columns), kernel, x) == 3 * 512 * 512 * BATCH
