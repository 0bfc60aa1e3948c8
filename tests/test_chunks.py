"""Large batches in chunks, on a single core: the same numbers as at once."""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from tensorflow_probability import distributions as tfd

import keras_nf
from keras_nf import layout

FLOWS = {
    "maf": lambda: keras_nf.maf(3, layers=2, hidden_units=(8,)),
    "iaf": lambda: keras_nf.iaf(3, layers=2, hidden_units=(8,)),
    "real-nvp": lambda: keras_nf.real_nvp(3, layers=2, hidden_units=(8,)),
    "nice": lambda: keras_nf.nice(3, layers=2, hidden_units=(8,)),
    "one-coupling": lambda: keras_nf.AffineCoupling(hidden_units=(8,)),
    "inverse": lambda: keras_nf.Invert(keras_nf.maf(3, layers=1, hidden_units=(8,))),
    "with-preprocessing": lambda: keras_nf.Chain(
        [keras_nf.MaskedAutoregressive(hidden_units=(8,)), keras_nf.Invert(keras_nf.Logit())]
    ),
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 16 events or more, as on a single core."""
    monkeypatch.setattr(layout, "_CHUNK", 10)
    monkeypatch.setattr(layout, "_count_cores", lambda: 1)


@pytest.fixture(params=FLOWS)
def flow(request):
    return perturbed(FLOWS[request.param]())


def perturbed(flow, condition_shape=None):
    keras.utils.set_random_seed(0)
    flow.build((None, 3), condition_shape)
    rng = np.random.default_rng(1)
    for weight in flow.trainable_variables:
        weight.assign(weight.numpy() + 0.3 * rng.normal(size=weight.shape))
    return flow


def draws(*shape, seed=0):
    # Within the bounds of a logit.
    return tf.constant(np.random.default_rng(seed).uniform(0.1, 0.9, shape), "float32")


def loops(function, *inputs):
    """Number of loops in the graph of a function."""
    graph = tf.function(function).get_concrete_function(*inputs).graph
    return sum(
        operation.type in ("While", "StatelessWhile") for operation in graph.get_operations()
    )


directions = pytest.mark.parametrize("direction", ["forward_and_log_det", "inverse_and_log_det"])
compilers = pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])


@compilers
@directions
@pytest.mark.parametrize("batch", [(32,), (50,), (2, 3, 11)], ids=str)
def test_value_and_log_det(flow, direction, batch, jit_compile):
    x, method = draws(*batch, 3), getattr(flow, direction)
    y, log_det = tf.function(method, jit_compile=jit_compile)(x)
    expected_y, expected_log_det = method(x)
    assert y.shape == x.shape
    assert log_det.shape == x.shape[:-1]
    np.testing.assert_allclose(y, expected_y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_det, expected_log_det, rtol=1e-5, atol=1e-5)


def gradients_of(flow, method, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y, log_det = method(x)
        loss = tf.reduce_mean(y**2) + tf.reduce_mean(log_det)
    return tape.gradient(loss, [x, *[v.value for v in flow.trainable_variables]])


@compilers
@directions
def test_gradients_of_a_function_that_was_traced_without_a_tape(flow, direction, jit_compile):
    x, method = draws(50, 3), getattr(flow, direction)
    function = tf.function(method, jit_compile=jit_compile)
    function(x)
    actual = gradients_of(flow, function, x)
    assert function.experimental_get_tracing_count() == 1
    for one, other in zip(actual, gradients_of(flow, method, x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@compilers
def test_second_derivatives(jit_compile):
    flow, x = perturbed(FLOWS["real-nvp"]()), draws(50, 3)

    def penalty(x):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                z, log_det = flow.inverse_and_log_det(x)
                log_prob = log_det - 0.5 * tf.reduce_sum(z**2, axis=-1)
            loss = tf.reduce_mean(inner.gradient(log_prob, x) ** 2)
        return outer.gradient(loss, flow.trainable_variables)

    actual = tf.function(penalty, jit_compile=jit_compile)(x)
    for one, other in zip(actual, penalty(x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_no_chunks_under_a_tape():
    flow = perturbed(FLOWS["real-nvp"]())
    assert loops(lambda x: gradients_of(flow, flow.inverse_and_log_det, x), draws(50, 3)) == 0


@compilers
@directions
def test_condition(direction, jit_compile):
    flow = perturbed(keras_nf.real_nvp(3, layers=2, hidden_units=(8,)), (None, 2))
    x, condition, method = draws(5, 10, 3), draws(10, 2, seed=1), getattr(flow, direction)
    actual = tf.function(method, jit_compile=jit_compile)(x, condition)
    for one, other in zip(actual, method(x, condition)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_chain_is_cut_once():
    flow = perturbed(keras_nf.real_nvp(3, layers=3, hidden_units=(8,)))
    assert loops(flow.inverse_and_log_det, draws(50, 3)) == 1


@pytest.mark.parametrize(
    ("rows", "cores", "accelerator"),
    [(19, 1, False), (None, 1, False), (50, 2, False), (50, 1, True)],
)
def test_other_batches_stay_whole(monkeypatch, rows, cores, accelerator):
    monkeypatch.setattr(layout, "_count_cores", lambda: cores)
    monkeypatch.setattr(layout, "has_accelerator", lambda: accelerator)
    flow = perturbed(keras_nf.real_nvp(3, layers=1, hidden_units=(8,)))
    assert loops(flow.inverse_and_log_det, tf.TensorSpec((rows, 3))) == 0


class Centering(keras_nf.Flow):
    """A flow of a user's own that looks at the batch."""

    def forward_and_log_det(self, x, condition=None):
        return x - ops.mean(x, axis=0), ops.zeros_like(x[..., 0])


@compilers
@pytest.mark.parametrize("condition_size", [None, 2])
def test_density(condition_size, jit_compile):
    model = keras_nf.FlowModel(keras_nf.maf(3, layers=2, hidden_units=(8,)))
    condition = None if condition_size is None else draws(condition_size, seed=1)
    perturbed(model.flow, None if condition is None else (None, condition_size))
    x = draws(5, 10, 3)
    density = partial(model.log_prob, condition=condition)
    assert loops(density, x) == 1
    actual = tf.function(density, jit_compile=jit_compile)(x)
    np.testing.assert_allclose(actual, density(x), rtol=1e-5, atol=1e-5)


def test_density_of_another_base():
    flow = perturbed(FLOWS["real-nvp"]())
    batch = tfd.MultivariateNormalDiag(loc=tf.zeros((50, 3)))
    density = flow(batch).log_prob
    x = draws(50, 3)
    np.testing.assert_allclose(tf.function(density)(x), density(x), rtol=1e-5, atol=1e-5)


def test_a_flow_of_another_package_sees_the_whole_batch():
    flow = perturbed(keras_nf.Chain([Centering(), keras_nf.AffineCoupling(hidden_units=(8,))]))
    x = draws(50, 3)
    y = tf.function(flow.forward)(x)
    # The first component is kept by the coupling.
    np.testing.assert_allclose(tf.reduce_mean(y[:, 0]), 0.0, atol=1e-6)
    np.testing.assert_allclose(y, flow.forward(x), rtol=1e-5, atol=1e-5)
