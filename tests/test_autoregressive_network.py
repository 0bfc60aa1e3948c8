"""Autoregressive networks: the default of their contract, and what it refuses."""

import numpy as np
import pytest
import tensorflow as tf
from cases import MeansOfEarlier, perturb

import keras_nf
from keras_nf.elementwise import Affine, Shift

pytestmark = pytest.mark.usefixtures("without_xla")

SIZE, BATCH = 5, 4


@pytest.mark.parametrize("in_graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("condition_size", [0, 3])
@pytest.mark.parametrize("order", ["sequential", "random"])
def test_default_agrees_with_the_stairs(order, condition_size, in_graph):
    """One call for each component: values, and gradients in all that they depend on."""
    made = keras_nf.MADE((8, 8), 2, activation="tanh", order=order, seed=1, dtype="float64")
    made.build((None, SIZE), (None, condition_size) if condition_size else None)
    perturb(made)
    rng = np.random.default_rng(0)
    sizes = [SIZE, condition_size] if condition_size else [SIZE]
    inputs = [tf.constant(rng.normal(size=(BATCH, size))) for size in sizes]
    of_log_det = tf.constant(rng.normal(size=BATCH))

    def results(solve):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y, log_det = solve(Affine(), *inputs)
            loss = tf.reduce_sum(tf.sin(y)) + tf.reduce_sum(log_det * of_log_det)
        weights = [weight.value for weight in made.trainable_weights]
        return [y, log_det, *tape.gradient(loss, [*inputs, *weights])]

    def by_default(*args):
        return keras_nf.AutoregressiveNetwork.solve(made, *args)

    evaluate = tf.function(results, autograph=False) if in_graph else results
    for actual, expected in zip(evaluate(by_default), evaluate(made.solve), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_any_batch_shape():
    made = keras_nf.MADE((8,), 2, dtype="float64")
    made.build((None, SIZE))
    perturb(made)
    x = np.random.default_rng(0).normal(size=(2, 3, SIZE))
    for actual, expected in zip(
        keras_nf.AutoregressiveNetwork.solve(made, Affine(), tf.constant(x)),
        made.solve(Affine(), tf.constant(x)),
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


def flow_and_input():
    flow = keras_nf.Autoregressive(Affine(), conditioner=MeansOfEarlier())
    x = tf.ones((2, 3))
    flow(x)
    return perturb(flow), x


def test_second_derivatives_are_refused():
    flow, x = flow_and_input()
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = flow(x)
        first = inner.gradient(y, x)
    with pytest.raises(NotImplementedError, match="no second ones"):
        outer.gradient(first, x)


@pytest.mark.parametrize("around", [False, True], ids=["eager", "around-a-graph"])
def test_forward_mode_is_refused(around):
    flow, x = flow_and_input()
    function = tf.function(flow.forward, autograph=False) if around else flow.forward
    with (
        pytest.raises(NotImplementedError, match=r"in forward mode.*Use a tf.GradientTape"),
        tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)),
    ):
        function(x)


def test_layers_are_built_in_the_flow():
    flow = keras_nf.Autoregressive(Affine(), conditioner=MeansOfEarlier(), event_size=3)
    flow.build((None, 3), (None, 2))
    assert [tuple(weight.shape) for weight in flow.weights] == [(2, 6), (6,), (6, 2), (2,), (2, 6)]


def test_number_of_parameters():
    with pytest.raises(ValueError, match=r"1 parameter\(s\).*whose `parameters` is 2"):
        keras_nf.Autoregressive(Shift(), conditioner=MeansOfEarlier())


def test_number_of_outputs():
    class Wrong(keras_nf.AutoregressiveNetwork):
        parameters = 2

        def call(self, inputs, condition=None):
            return inputs

    flow = keras_nf.Autoregressive(Affine(), conditioner=Wrong())
    with pytest.raises(ValueError, match=r"for each of 3 components, shape \(..., 6\).*\(2, 3\)"):
        flow.inverse(np.zeros((2, 3), "float32"))


def test_order_is_that_of_the_network():
    with pytest.raises(ValueError, match="order='reversed' beside a `conditioner`"):
        keras_nf.MaskedAutoregressive(conditioner=MeansOfEarlier(), order="reversed")


def test_what_is_no_autoregressive_network():
    with pytest.raises(ValueError, match=r"must be a keras_nf.AutoregressiveNetwork.*MLP"):
        keras_nf.MaskedAutoregressive(conditioner=keras_nf.MLP(units=6))


def test_made_of_ones_own():
    made = keras_nf.MADE((8,), parameters=2, order="reversed")
    flow = keras_nf.MaskedAutoregressive(conditioner=made)
    twin = keras_nf.MaskedAutoregressive(hidden_units=(8,), order="reversed")
    x = np.random.default_rng(0).normal(size=(4, SIZE)).astype("float32")
    twin.inverse(x)
    flow.inverse(x)
    perturb(flow)
    twin.set_weights(flow.get_weights())
    np.testing.assert_array_equal(flow.inverse(x), twin.inverse(x))
    again = keras_nf.MaskedAutoregressive.from_config(flow.get_config())
    assert again.conditioner.order == "reversed"


def test_check_flow_finds_a_network_that_sees_too_much():
    class SeesAll(keras_nf.AutoregressiveNetwork):
        parameters = 1

        def call(self, inputs, condition=None):
            return tf.cumsum(inputs, axis=-1)

    flow = keras_nf.Autoregressive(Shift(), conditioner=SeesAll())
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    with pytest.raises(ValueError, match=r"[1-9]\d* of \d+ checks failed"):
        keras_nf.check_flow(flow, x)
