"""Draws: new ones wherever they run, of the right batch, compiled for few sizes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb
from tensorflow_probability import distributions as tfd

import keras_nf
from keras_nf.models.rows import CompiledRows, round_up, traced_by_rank

pytestmark = pytest.mark.usefixtures("without_xla")

SMALL = {"layers": 2, "hidden_units": (8,), "activation": "tanh"}
C = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")


def flow_of(condition=None):
    flow = keras_nf.maf(3, **SMALL)
    flow.inverse(np.zeros((1, 3), "float32"), condition=condition)
    perturb(flow)
    return flow


def model_of(condition=None, **options):
    return keras_nf.FlowModel(flow_of(condition), **options)


def normal(*shape):
    return tfd.Independent(tfd.Normal(tf.zeros(shape), 1.0), 1)


# Python's numbers in graphs.


def in_a_function(model):
    draw = tf.function(lambda: model.sample(2))
    return [draw() for _ in range(8)]


def in_a_compiled_function(model):
    draw = tf.function(lambda: model.sample(2), jit_compile=True)
    return [draw() for _ in range(8)]


def in_a_dataset(model):
    return list(tf.data.Dataset.range(8).map(lambda _: model.sample(2)))


def in_a_train_step(model):
    class Regression(keras.Sequential):
        def train_step(self, data):
            draws.append(model.sample(2))
            seen.assign(tf.concat([seen[1:], draws[-1][None]], axis=0))
            return super().train_step(data)

    draws, seen = [], tf.Variable(tf.zeros((8, 2, 3)))
    network = Regression([keras.layers.Dense(1)])
    network.compile("sgd", "mse", jit_compile=False)
    network.fit(np.zeros((8, 1)), np.zeros(8), batch_size=1, verbose=0)
    assert len(draws) < 8
    return list(seen.numpy())


@pytest.mark.parametrize("draw", [in_a_function, in_a_dataset, in_a_train_step])
def test_graph_draws_anew_at_every_call(draw):
    draws = {np.asarray(x).tobytes() for x in draw(model_of())}
    assert len(draws) == 8


@pytest.mark.usefixtures("with_xla")
def test_compiled_function_draws_anew_at_every_call():
    test_graph_draws_anew_at_every_call(in_a_compiled_function)


def test_draws_of_a_graph_follow_the_global_seed():
    model = model_of()

    def draws():
        keras.utils.set_random_seed(3)
        return [x.numpy().tolist() for x in in_a_function(model)]

    assert draws() == draws()


def test_seed_fixes_the_draws_of_a_graph():
    model = model_of()
    draw = tf.function(lambda: model.sample(5, seed=3))
    np.testing.assert_allclose(draw(), model.sample(5, seed=3), rtol=1e-6)
    np.testing.assert_array_equal(draw(), draw())


# Sizes.


@pytest.mark.parametrize(
    ("rows", "size"),
    [(1, 16), (16, 16), (17, 32), (1000, 1056), (1025, 1184), (4096, 4128), (10_000, 10_272)],
)
def test_sizes_are_rounded_up(rows, size):
    assert round_up(rows) == size


def test_few_sizes_serve_all():
    assert len({round_up(rows) for rows in range(1, 1001)}) == 7
    assert all(0 <= round_up(n) - n <= max(n / 8, 512) + 32 for n in range(1, 100_000, 7))


def test_rows_are_those_of_the_function():
    traced = []

    def function(x, condition=None):
        traced.append(x.shape)
        return 2.0 * x if condition is None else x + condition

    rows = CompiledRows(function, jit_compile=False)
    for shape in [(3, 2), (5, 3, 2), (2,), (0, 2), (14, 2)]:
        x = np.random.default_rng(1).normal(size=shape).astype("float32")
        np.testing.assert_array_equal(rows(tf.constant(x)), 2.0 * x)
        np.testing.assert_array_equal(rows(tf.constant(x), tf.ones(2)), x + 1.0)
    # No rows are computed without compiling.
    assert [shape for shape in traced if shape[0]] == [(16, 2)] * 2


def test_repeated_rows_leave_no_trace_in_gradients():
    x = tf.Variable(np.ones((3, 2), "float32"))
    rows = CompiledRows(lambda x, condition=None: tf.math.log(x), jit_compile=False)
    with tf.GradientTape() as tape:
        y = rows(tf.convert_to_tensor(x))
    gradient = tf.convert_to_tensor(tape.gradient(y, x))
    np.testing.assert_allclose(gradient, np.ones((3, 2)), rtol=1e-6)


@pytest.mark.usefixtures("with_xla")
def test_draws_of_any_size_are_those_of_the_distribution():
    model = model_of()
    for n in (0, 1, 15, 16, 17, 40):
        expected = model.distribution.sample(n, seed=keras_nf.seeds.two_seeds(n))
        np.testing.assert_allclose(model.sample(n, seed=n), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("with_xla")
def test_new_sizes_of_samples_compile_nothing(caplog):
    model = model_of()
    model.sample(100)
    traces = []
    forward = model.flow.forward
    model.flow.forward = lambda *args, **kwargs: traces.append(args) or forward(*args, **kwargs)
    for n in range(65, 128):
        assert model.sample(n).shape == (n, 3)
    assert traces == []
    assert not caplog.records


def test_graphs_for_all_sizes_of_a_rank():
    traced = []

    def function(x, rest):
        traced.append(x.shape.as_list())
        return x + 1.0 if rest["y"] is None else x + rest["y"]

    graph = traced_by_rank(function)
    for shape in [(3, 2), (3, 2), (5, 2), (7, 2), (3, 2), (2, 5, 2), (4, 3)]:
        np.testing.assert_array_equal(graph(tf.ones(shape), {"y": None}), np.full(shape, 2.0))
    assert traced == [[3, 2], [None, 2], [2, 5, 2], [None, None]]
    np.testing.assert_array_equal(graph(tf.ones(2), {"y": tf.ones(2)}), [2.0, 2.0])


# Batch shapes.


@pytest.mark.parametrize(
    ("base", "condition", "batch_shape"),
    [
        ((), C, (4,)),
        ((4,), C, (4,)),
        ((4,), C[:1], (4,)),
        ((4,), C[0], (4,)),
        ((1,), C, (4,)),
        ((4,), C[:3, None], (3, 4)),
        ((2, 1), C, (2, 4)),
    ],
    ids=str,
)
def test_conditions_broadcast_against_the_batch_of_the_base(base, condition, batch_shape):
    density = flow_of(C)(normal(*base, 3))
    x = density.sample(5, seed=(0, 1), condition=condition)
    assert x.shape == (5, *batch_shape, 3)
    assert len(np.unique(x.numpy().reshape(-1, 3), axis=0)) == 5 * np.prod(batch_shape)
    y, log_prob = density.experimental_sample_and_log_prob(5, seed=(0, 1), condition=condition)
    assert y.shape == x.shape
    expected = density.log_prob(y, condition=condition)
    assert log_prob.shape == expected.shape == (5, *batch_shape)
    np.testing.assert_allclose(log_prob, expected, atol=1e-4)


@pytest.mark.parametrize("condition", [None, C[:1]], ids=["plain", "conditional"])
def test_samples_come_with_their_densities_also_for_more_event_axes(condition):
    base = tfd.Independent(tfd.Normal(tf.zeros((4, 3)), 1.0), 2)
    density = flow_of(condition)(base)
    condition = {} if condition is None else {"condition": condition[None]}
    x, log_prob = density.experimental_sample_and_log_prob(5, seed=(0, 1), **condition)
    assert np.ptp(log_prob) > 1.0
    np.testing.assert_allclose(log_prob, density.log_prob(x, **condition), atol=1e-4)


def test_bound_condition():
    flow = flow_of(C)
    density, bound = flow(normal(3)), flow(normal(3), condition=C)
    assert bound.batch_shape == tuple(bound.batch_shape_tensor()) == (4,)
    x = bound.sample(5, seed=(0, 1))
    np.testing.assert_array_equal(x, density.sample(5, seed=(0, 1), condition=C))
    np.testing.assert_array_equal(bound.log_prob(x), density.log_prob(x, condition=C))
    # What a call names goes before.
    np.testing.assert_array_equal(
        bound.log_prob(x, condition=C[::-1]), density.log_prob(x, condition=C[::-1])
    )


def test_member_of_a_joint_distribution():
    flow = flow_of(C)
    joint = tfd.JointDistributionSequential(
        [
            tfd.Sample(tfd.Normal(0.0, 1.0), 2),
            lambda c: flow(normal(3), condition=c),
        ]
    )
    c, x = joint.sample(6, seed=(0, 1))
    assert x.shape == (6, 3)
    expected = flow(normal(3)).log_prob(x, condition=c) + np.sum(
        -0.5 * c.numpy() ** 2 - 0.5 * np.log(2.0 * np.pi), axis=1
    )
    np.testing.assert_allclose(joint.log_prob([c, x]), expected, rtol=1e-5)


def test_condition_that_no_part_uses_is_not_bound():
    with pytest.raises(ValueError, match=r"uses no condition, but one was bound.*Leave it out"):
        keras_nf.Scaling()(normal(3), condition=C)
