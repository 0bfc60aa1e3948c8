"""The sequential direction of autoregressive flows, against one network pass per component."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import COMPILED

import keras_nf
from keras_nf.elementwise import Affine, Shift
from keras_nf.flows.autoregressive import Autoregressive

BATCH = 7

# Each element is summed from some tens of products in another order than in the reference.
TOLERANCE = {"float64": 1e-13, "float32": 1e-6}

NETWORKS = {
    "one-component": (1, (4,), "sequential"),
    "one-component-linear": (1, (), "sequential"),
    "linear": (5, (), "reversed"),
    "two-components": (2, (5,), "reversed"),
    "equal-groups": (6, (15, 10), "sequential"),
    "groups-that-differ-by-one": (7, (10, 13, 9), "random"),
    "narrower-than-the-event": (16, (5, 6), "random"),
    "one-unit": (9, (1,), "sequential"),
    "given-order": (6, (8, 8), (3, 1, 2, 0, 5, 4)),
    "every-third": (6, (8, 8), (0, 3, 1, 4, 2, 5)),
    "many-steps": (33, (40, 35), "reversed"),
    "residual": (7, (10, 10, 10), "random"),
    "residual-narrower-than-the-event": (16, (5, 5, 5, 5, 5), "random"),
    "residual-many-steps": (33, (40, 40, 40, 40, 40), "reversed"),
}
VARIATIONS = {"residual-narrower-than-the-event", "two-components", "one-component-linear"}
VARIATIONS |= {"equal-groups", "given-order"}
MARKS = {name: [pytest.mark.slow] for name in VARIATIONS}
MARKS["residual-many-steps"] = [pytest.mark.long]


def perturbed(flow, x, condition):
    """Build a flow and move its weights away from those of the identity."""
    flow.inverse_and_log_det(x, condition)
    rng = np.random.default_rng(1)
    for weight in flow.trainable_variables:
        fan_in = max(1, weight.shape[0])
        weight.assign(weight.numpy() + rng.normal(size=weight.shape) / np.sqrt(fan_in))
    return flow


def component_by_component(flow, x, condition):
    """After k passes of the whole network the first k components, in order, are final."""
    y = tf.zeros_like(x)
    for _ in range(x.shape[1]):
        parameters = flow.conditioner(y, condition)
        parameters = tf.stack(tf.split(parameters, flow.elementwise.parameters, axis=-1))
        y, log_derivative = flow.elementwise.forward(x, parameters)
    return y, tf.reduce_sum(log_derivative, axis=-1)


def make(network, elementwise, condition_size, dtype, activation="tanh"):
    size, hidden_units, order = NETWORKS[network]
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(BATCH, size)), dtype)
    condition = None
    if condition_size:
        condition = tf.constant(rng.normal(size=(BATCH, condition_size)), dtype)
    options = {"hidden_units": hidden_units, "activation": activation, "order": order, "seed": 2}
    options["residual"] = network.startswith("residual")
    keras.utils.set_random_seed(0)
    flow = Autoregressive(elementwise, dtype=dtype, **options)
    return perturbed(flow, x, condition), x, condition


def assert_close(actual, expected, dtype):
    scale = 1.0 + np.abs(expected).max(initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=0.0, atol=TOLERANCE[dtype] * scale)


def in_graph(function):
    return tf.function(function, autograph=False)


# A single unit cannot serve the condition and the event; that is refused when built.
everything = pytest.mark.parametrize(
    ("network", "elementwise", "condition_size"),
    [
        *(
            pytest.param(n, Affine(), size, marks=MARKS.get(n, []))
            for n in NETWORKS
            for size in (0, 3)
            if not (n == "one-unit" and size)
        ),
        ("many-steps", Shift(), 3),
        ("residual", Shift(), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Affine | Shift) else None,
)

maps = pytest.mark.parametrize(
    ("elementwise", "condition_size"), [(Affine(), 3), (Shift(), 0)], ids=["affine", "shift"]
)


@pytest.fixture(params=[None, 4, 9], ids=["one-block", "small-blocks", "blocks"])
def blocks(request, monkeypatch):
    """Cut layers as small as those of the tests into blocks of so many rows."""
    if request.param is not None:
        monkeypatch.setattr("keras_nf.networks.stairs._BLOCK_ROWS", request.param)


def values_and_gradients(function, flow, x, condition):
    """Return what `function` does, and the gradients of it in all that it depends on."""
    rng = np.random.default_rng(3)
    upstream_y, upstream_log_det = rng.normal(size=x.shape), rng.normal(size=x.shape[0])
    sources = [x, *([] if condition is None else [condition])]
    sources += [weight.value for weight in flow.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        y, log_det = function(x, condition)
        loss = tf.reduce_sum(y * tf.constant(upstream_y, y.dtype))
        loss += tf.reduce_sum(log_det * tf.constant(upstream_log_det, y.dtype))
    return y, log_det, *tape.gradient(loss, sources, unconnected_gradients="zero")


@functools.cache
def expected_of(*case):
    flow, x, condition = make(*case)
    function = functools.partial(component_by_component, flow)
    return [array.numpy() for array in values_and_gradients(function, flow, x, condition)]


def assert_as_component_by_component(*case, wrap=lambda function: function):
    """Compare values and gradients with those of full passes, of the same weights."""
    flow, x, condition = make(*case)
    forward = wrap(flow.forward_and_log_det)
    # Without a tape, and so that a graph is traced there.
    values = forward(x, condition)
    assert values[0].shape == x.shape
    expected = expected_of(*case)
    for one, other in zip(values, expected):
        assert_close(one, other, case[-1])
    actual = values_and_gradients(forward, flow, x, condition)
    for one, other in zip(actual, expected, strict=True):
        # A pass backwards rounds as often again.
        assert_close(one.numpy() / 4.0, other / 4.0, case[-1])
    return forward


@everything
@pytest.mark.usefixtures("blocks")
def test_values_and_gradients(network, elementwise, condition_size):
    assert_as_component_by_component(network, elementwise, condition_size, "float64")


# In float32 the same code, with less to see.
@pytest.mark.parametrize(("network", "condition_size"), [("many-steps", 3), ("residual", 0)])
def test_float32(network, condition_size):
    assert_as_component_by_component(network, Affine(), condition_size, "float32")


@maps
@pytest.mark.parametrize(
    "network", ["many-steps", pytest.param("residual", marks=pytest.mark.slow)]
)
@pytest.mark.usefixtures("blocks")
def test_gradients_of_a_graph_traced_without_a_tape(network, elementwise, condition_size):
    """Such a graph keeps nothing for its gradient."""
    case = (network, elementwise, condition_size, "float64")
    forward = assert_as_component_by_component(*case, wrap=in_graph)
    assert forward.experimental_get_tracing_count() == 1


@maps
@pytest.mark.usefixtures("blocks")
def test_a_batch_that_is_filled(elementwise, condition_size, monkeypatch):
    """Columns that are there for the sake of alignment count nowhere."""
    monkeypatch.setattr("keras_nf.layout._LARGE_BATCH", 1)
    assert_as_component_by_component("many-steps", elementwise, condition_size, "float64")


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        ("many-steps", "float16"),
        pytest.param("residual-many-steps", "bfloat16", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("blocks")
def test_mixed_precision(network, kind):
    """The climb computes in half precision what the network computes there, and no more."""
    exact, x, condition = make(network, Affine(), 3, "float32")
    config = {**exact.get_config(), "dtype": f"mixed_{kind}", "name": "mixed"}
    config = {key: value for key, value in config.items() if key != "elementwise"}
    flow = Autoregressive(Affine(), **config)
    flow.inverse_and_log_det(x, condition)
    flow.set_weights([0.3 * weight for weight in exact.get_weights()])
    exact.set_weights(flow.get_weights())

    def results(flow):
        sources = [x, *(weight.value for weight in flow.trainable_variables)]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, log_det = flow.forward_and_log_det(x, condition)
            loss = tf.reduce_mean(tf.cast(y, "float32") ** 2) + tf.reduce_mean(log_det)
        return [y, log_det, *tape.gradient(loss, sources)]

    # Numbers of 11 and of 8 bits; some tens of roundings.
    tolerance = {"float16": 5e-3, "bfloat16": 4e-2}[kind]
    for actual, expected in zip(results(flow), results(exact), strict=True):
        actual, expected = (np.asarray(tf.cast(a, "float32")) for a in (actual, expected))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, rtol=0.0, atol=tolerance * scale)


@pytest.mark.parametrize("activation", ["relu", "elu", "gelu", "sigmoid", "softplus"])
@pytest.mark.usefixtures("blocks")
def test_activations(activation):
    # Padding sends activation(0) on, which is not zero for all of them.
    network = "groups-that-differ-by-one"
    flow, x, condition = make(network, Affine(), 3, "float64", activation)
    y, _ = flow.forward_and_log_det(x, condition)
    expected, _ = component_by_component(flow, x, condition)
    assert_close(y, expected.numpy(), "float64")


@COMPILED
@pytest.mark.parametrize("network", ["groups-that-differ-by-one", "residual"])
@pytest.mark.usefixtures("blocks")
def test_compiled_gradient(network, jit_compile):
    flow, x, _ = make(network, Affine(), 0, "float32")

    def gradient():
        with tf.GradientTape() as tape:
            y, log_det = flow.forward_and_log_det(x)
            loss = tf.reduce_sum(y**2) + tf.reduce_sum(log_det)
        return tape.gradient(loss, flow.trainable_variables[0].value)

    compiled = tf.function(gradient, jit_compile=jit_compile)
    np.testing.assert_allclose(compiled(), gradient(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sizes", [(6, 64), (64, 784), (784, 3072)], ids=str)
def test_graph_does_not_grow_with_the_event(sizes):
    # Layers of less than 256 units are one block, and have a graph of their own.
    hidden_units = 128 if sizes[1] < 256 else 256

    def operations(size):
        flow = keras_nf.maf(event_size=size, layers=2, hidden_units=(hidden_units,))
        flow.build((None, size))
        sampling = tf.function(flow.forward, input_signature=[tf.TensorSpec((None, size))])
        graph = sampling.get_concrete_function().graph.as_graph_def()
        # Those of the bodies of loops are counted with the functions of the library.
        return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)

    assert operations(sizes[0]) == operations(sizes[1])


wraps = pytest.mark.parametrize("wrap", [lambda f: f, in_graph], ids=["eager", "graph"])


def input_gradient(flow, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y, log_det = flow.forward_and_log_det(x)
        loss = tf.reduce_sum(y**2) + tf.reduce_sum(log_det)
    return tape.gradient(loss, x)


@wraps
def test_a_gradient_under_two_tapes(wrap):
    flow, x, _ = make("groups-that-differ-by-one", Affine(), 0, "float64")

    def under_another_tape(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            return input_gradient(flow, x)

    expected = input_gradient(flow, x)
    np.testing.assert_allclose(wrap(under_another_tape)(x), expected, rtol=1e-12, atol=1e-12)


@wraps
def test_second_derivatives_are_refused(wrap):
    flow, x, _ = make("groups-that-differ-by-one", Affine(), 0, "float64")

    def second_derivative(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            first = input_gradient(flow, x)
        return tape.gradient(first, x)

    with pytest.raises(NotImplementedError, match="no second ones"):
        wrap(second_derivative)(x)
