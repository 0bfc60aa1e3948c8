"""Chains that recompute their inputs: gradients as without, memory as of one flow, and refusals."""

import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import COMPILED, perturb
from keras import ops

import keras_nf
from keras_nf import Chain

BATCH, EVENT, CONDITION = 7, 4, 3

# Inputs that are recomputed differ by some roundings, 1e-16 or 6e-8, which the maps of these
# weights stretch by some tens from flow to flow; beside the largest number of a gradient.
TOLERANCE = {"float64": 1e-10, "float32": 2e-4}


@keras.saving.register_keras_serializable("recomputation_tests")
class Turn(keras_nf.Flow):
    """Turns images upside down."""

    def __init__(self, **kwargs):
        super().__init__(event_ndims=3, is_constant_jacobian=True, **kwargs)

    @property
    def recomputable(self):
        return True

    def _forward_and_log_det(self, x, condition=None):
        return x[..., ::-1, :, :], self._constant_log_det(x, 0.0)

    _inverse_and_log_det = _forward_and_log_det


def frozen(flow):
    flow.trainable = False
    return flow


def half_frozen(flow):
    flow.conditioner = keras.Sequential(
        [
            frozen(keras.layers.Dense(5, "tanh", dtype=flow.dtype_policy)),
            keras.layers.Dense(4, dtype=flow.dtype_policy),
        ]
    )
    return flow


def flows(kind, dtype):
    """The flows of a chain, those of one kind."""
    small = {"hidden_units": (8, 8), "activation": "tanh", "dtype": dtype}
    couple = functools.partial(keras_nf.AffineCoupling, **small)
    linear = functools.partial(keras_nf.LULinear, "reversed", dtype=dtype)
    shared = couple()
    return {
        "couplings": lambda: [couple(), couple(swap=True), couple(mask="random", seed=1)],
        "linear": lambda: [
            linear(),
            couple(),
            keras_nf.Permute(dtype=dtype),
            keras_nf.ActNorm(dtype=dtype),
            keras_nf.Scaling(use_shift=True, dtype=dtype),
            keras_nf.Standardize(dtype=dtype),
        ],
        "maps": lambda: [
            keras_nf.SplineCoupling(bins=4, bound=3.0, **small),
            keras_nf.AdditiveCoupling(swap=True, **small),
            keras_nf.Invert(couple()),
        ],
        "others between": lambda: [
            couple(),
            keras_nf.MaskedAutoregressive(**small),
            linear(),
            couple(),
            keras_nf.Planar(dtype=dtype),
            keras_nf.Invert(keras_nf.Logit(-99.0, 99.0, dtype=dtype)),
        ],
        "shared": lambda: [shared, linear(), shared, keras_nf.Invert(shared), shared],
        "nested": lambda: [
            couple(),
            Chain([couple(swap=True), linear()], dtype=dtype),
            keras_nf.Invert(Chain([couple(), linear()], dtype=dtype)),
            Chain([linear(), couple()], recompute=True, dtype=dtype),
        ],
        "frozen": lambda: [couple(), frozen(couple(swap=True)), half_frozen(couple()), linear()],
        "images": lambda: [couple(), Turn(dtype=dtype), linear(), couple(swap=True)],
    }[kind]()


KINDS = ["couplings", "linear", "maps", "others between", "shared", "nested", "frozen", "images"]


def pair(kind, dtype="float64"):
    """A chain that keeps, and one of the same weights that recomputes; events and conditions."""
    rng = np.random.default_rng(0)
    positions = (2, 3) if kind == "images" else ()
    x = tf.constant(rng.standard_normal((BATCH, *positions, EVENT)), dtype)
    condition = tf.constant(rng.standard_normal((BATCH, CONDITION)), dtype)
    chains = [Chain(flows(kind, dtype), recompute=r, dtype=dtype) for r in (False, True)]
    for chain in chains:
        chain.build(x.shape, condition.shape)
        perturb(chain)
    return *chains, x, condition


def value_and_gradients(chain, direction, x, condition):
    with tf.GradientTape() as tape:
        tape.watch([x, condition])
        y, log_det = getattr(chain, f"{direction}_and_log_det")(x, condition)
        loss = tf.reduce_sum(tf.sin(y)) + tf.reduce_sum(tf.cos(log_det))
    return loss, tape.gradient(loss, [x, condition, *chain.trainable_variables])


def assert_close(actual, expected, tolerance):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected):
        largest = np.abs(b).max()
        assert largest > 0.0
        np.testing.assert_allclose(a, b, rtol=0.0, atol=tolerance * largest)


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.long)])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_a_chain_that_keeps(kind, direction, dtype):
    keeping, recomputing, x, condition = pair(kind, dtype)
    loss, expected = value_and_gradients(keeping, direction, x, condition)
    actual_loss, actual = value_and_gradients(recomputing, direction, x, condition)
    np.testing.assert_allclose(actual_loss, loss, rtol=TOLERANCE[dtype])
    assert_close(actual, expected, TOLERANCE[dtype])


@COMPILED
@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize(
    "kind",
    ["others between", *(pytest.param(k, marks=pytest.mark.long) for k in ("nested", "images"))],
)
def test_gradients_in_a_graph(kind, direction, jit_compile):
    keeping, recomputing, x, condition = pair(kind)
    _, expected = value_and_gradients(keeping, direction, x, condition)
    function = functools.partial(value_and_gradients, recomputing, direction)
    specs = [tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in (x, condition)]
    function = tf.function(function, jit_compile=jit_compile, input_signature=specs)
    assert_close(function(x, condition)[1], expected, TOLERANCE["float64"])


@pytest.mark.parametrize("shape", [(EVENT,), (2, 3, EVENT), (0, EVENT)], ids=str)
def test_gradients_of_any_batch(shape):
    keeping, recomputing, *_ = pair("couplings")
    x, condition = tf.random.normal(shape, dtype="float64"), tf.ones([CONDITION], "float64")
    _, expected = value_and_gradients(keeping, "inverse", x, condition)
    for spec in (tf.TensorSpec(shape, "float64"), tf.TensorSpec(None, "float64")):
        function = functools.partial(value_and_gradients, recomputing, "inverse")
        function = tf.function(function, input_signature=[spec, tf.TensorSpec([3], "float64")])
        for a, b in zip(function(x, condition)[1], expected):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@COMPILED
def test_gradients_in_a_loop(jit_compile):
    keeping, recomputing, x, condition = pair("couplings")

    @tf.function(jit_compile=jit_compile)
    def gradients(chain):
        with tf.GradientTape() as tape:
            tape.watch([x, condition])
            _, y, log_det = tf.while_loop(
                lambda i, *_: i < 3,
                lambda i, y, total: (i + 1, *add(chain.forward_and_log_det(y, condition), total)),
                (0, x, tf.zeros([BATCH], x.dtype)),
                maximum_iterations=3,
            )
            loss = tf.reduce_sum(tf.sin(y)) + tf.reduce_sum(tf.cos(log_det))
        return tape.gradient(loss, [x, condition, *chain.trainable_variables])

    def add(results, total):
        return results[0], total + results[1]

    assert_close(gradients(recomputing), gradients(keeping), TOLERANCE["float64"])


def test_gradients_are_vectorized():
    keeping, recomputing, x, condition = pair("couplings")
    jacobians = []
    for chain in (keeping, recomputing):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, _ = chain.forward_and_log_det(x, condition)
        jacobians.append(tape.batch_jacobian(y, x))
    assert_close(jacobians[1:], jacobians[:1], TOLERANCE["float64"])


def test_values_of_weights_are_those_of_the_call():
    keeping, recomputing, x, condition = pair("couplings")
    gradients = []
    for chain in (keeping, recomputing):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(chain.inverse_and_log_det(x, condition)[1])
        weights = chain.trainable_variables
        perturb(chain, seed=1)
        gradients.append(tape.gradient(loss, weights, unconnected_gradients="zero"))
    for a, b in zip(*gradients):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_weights_may_be_arguments():
    """As in `stateless_call`, which has values of its own for them."""
    keeping, recomputing, x, condition = pair("couplings")
    results = []
    for chain in (keeping, recomputing):
        values = [tf.constant(0.9 * variable.numpy()) for variable in chain.trainable_variables]
        others = [variable.value for variable in chain.non_trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(values)
            y, _ = chain.stateless_call(values, others, x, condition)
            loss = tf.reduce_sum(tf.sin(y))
        results.append([loss, *tape.gradient(loss, values)])
    assert_close(results[1], results[0], TOLERANCE["float64"])


@COMPILED
@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.long)]
)
def test_fit_trains_alike(dtype, jit_compile):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, EVENT)).astype("float32")
    c = rng.standard_normal((64, 5)).astype("float32")
    weights = []
    for recompute in (False, True):
        encoder = keras.layers.Dense(CONDITION, "tanh", dtype=dtype)
        small = {"layers": 4, "hidden_units": (8, 8), "activation": "tanh"}
        flow = keras_nf.real_nvp(EVENT, dtype=dtype, recompute=recompute, **small)
        model = keras_nf.FlowModel(flow, encoder=encoder)
        model.build({"x": (None, EVENT), "condition": (None, 5)})
        perturb(model)
        model.compile(keras.optimizers.SGD(0.01), jit_compile=jit_compile)
        model.fit({"x": x, "condition": c}, batch_size=16, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    # A number of bfloat16 has three digits, and eight steps of the optimizer are small.
    tolerance = {"float32": 1e-5, "mixed_bfloat16": 1e-2}[dtype]
    for a, b in zip(*weights):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


class Louder(keras.layers.Layer):
    """Doubles in training, without a state."""

    def call(self, inputs, training=None):
        return 2.0 * inputs if training else inputs


def with_layer(layer, recompute=True, dtype="float32"):
    """A coupling in a chain, the network of which has a layer."""
    network = keras.Sequential([layer, keras.layers.Dense(4, kernel_initializer="ones")])
    return Chain([keras_nf.AffineCoupling(conditioner=network)], recompute=recompute)


@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_phase_of_training_is_that_of_the_call(wrap):
    class Model(keras.Model):
        def __init__(self, flow):
            super().__init__()
            self.flow = flow

        def call(self, inputs, training=None):
            return self.flow(inputs)

    x = tf.random.stateless_normal((BATCH, EVENT), (0, 1))

    @wrap
    def gradient(model, training):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=training)
        return tape.gradient(y, x)

    gradients = {}
    for training in (False, True):
        models = [Model(with_layer(Louder(), recompute)) for recompute in (False, True)]
        gradients[training] = [gradient(model, training) for model in models]
        assert_close(gradients[training][1:], gradients[training][:1], TOLERANCE["float32"])
    assert np.abs(gradients[True][0] - gradients[False][0]).max() > 0.1


class Noise(keras.layers.Layer):
    """Adds numbers of the seed that all layers share, whatever the phase."""

    def call(self, inputs):
        return inputs + keras.random.normal(ops.shape(inputs))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.Dropout(0.5),
        keras.layers.BatchNormalization,
        Noise,
        lambda: keras.layers.ActivityRegularization(l2=1.0),
    ],
    ids=["dropout", "batch normalization", "noise", "loss"],
)
def test_networks_that_change_are_refused(layer):
    model = keras_nf.FlowModel(with_layer(layer()))
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"AffineCoupling .* draws random numbers, changes"):
        model.fit(np.ones((4, EVENT), "float32"), verbose=0)


@pytest.mark.parametrize(
    "layer",
    [lambda: keras.layers.Dropout(0.5), keras.layers.LayerNormalization],
    ids=["dropout", "layer normalization"],
)
def test_networks_that_do_not_change_are_taken(layer):
    """Those of the last test, outside of training, and others."""
    chains = [with_layer(layer(), recompute) for recompute in (False, True)]
    x = tf.random.stateless_normal((BATCH, EVENT), (0, 1))
    for chain in chains:
        chain(x)
    chains[1].set_weights(chains[0].get_weights())
    gradients = []
    for chain in chains:
        with tf.GradientTape() as tape:
            tape.watch(x)
            _, log_det = chain.inverse_and_log_det(x)
        gradients.append(tape.gradient(log_det, x))
    assert_close(gradients[1:], gradients[:1], TOLERANCE["float32"])


def test_second_derivatives_are_refused():
    _, chain, x, condition = pair("couplings")
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y, _ = chain.forward_and_log_det(x, condition)
        gradient = inner.gradient(y, x)
    with pytest.raises(NotImplementedError, match=r"no second ones .* without `recompute`"):
        outer.gradient(gradient, x)


@pytest.mark.parametrize("where", ["eager", "inside", "around"])
def test_forward_mode_is_refused(where):
    _, chain, x, condition = pair("couplings")

    def run(x):
        return chain.forward_and_log_det(x, condition)

    function = tf.function(run) if where == "around" else run

    def derivative(x):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            y, _ = function(x)
        return accumulator.jvp(y)

    derivative = tf.function(derivative) if where == "inside" else derivative
    with pytest.raises(NotImplementedError, match=r"recomputes .*in forward mode"):
        derivative(x)


def test_nothing_to_recompute_is_refused():
    for flow in (keras_nf.maf(EVENT), keras_nf.Planar(), keras_nf.Logit()):
        with pytest.raises(ValueError, match=r"`recompute=True` is for chains of couplings"):
            Chain([flow], recompute=True)
    Chain([keras_nf.Invert(Chain([keras_nf.Permute()]))], recompute=True)


def test_what_loses_values_is_kept():
    """Beyond its interval a `Logit` has no inverse, and within it rounds to the ends."""
    x = tf.constant([[0.0, 0.2], [-1.0, 0.5], [1.0, 0.7], [0.3, 2.0]])
    gradients = []
    for recompute in (False, True):
        chain = Chain([keras_nf.Scaling(), keras_nf.Logit()], recompute=recompute)
        with tf.GradientTape() as tape:
            tape.watch(x)
            z, _ = chain.inverse_and_log_det(x)
        gradients.append(tape.gradient(z, x))
    np.testing.assert_array_equal(*gradients)


def test_files_keep_the_option(tmp_path):
    model = keras_nf.FlowModel(keras_nf.real_nvp(EVENT, layers=2, recompute=True))
    x = np.ones((3, EVENT), "float32")
    expected = model.log_prob(x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.flow.recompute
    np.testing.assert_array_equal(loaded.log_prob(x), expected)
    earlier = {**model.flow.get_config()}
    del earlier["recompute"]
    assert not Chain.from_config(earlier).recompute


def test_check_of_a_flow_passes():
    _, chain, x, condition = pair("linear")
    assert ": 0 of " in keras_nf.check_flow(chain, x, condition)


# Much larger than all that does not grow with the batch.
LARGE = 5_000


def training_graph(chain, condition_size=2):
    """Operations of a density, and those of its gradient, which has one more argument."""
    specs = [tf.TensorSpec([LARGE, EVENT]), tf.TensorSpec([LARGE, condition_size])]
    parts = {}

    def step(x, condition, upstream):
        with tf.GradientTape() as tape:
            _, log_det = chain.inverse_and_log_det(x, condition)
        first = tf.compat.v1.get_default_graph().get_operations()
        gradients = tape.gradient(log_det, chain.trainable_variables, upstream)
        everything = tf.compat.v1.get_default_graph().get_operations()
        names = {operation.name for operation in first}
        parts["density"] = first
        parts["gradient"] = [op for op in everything if op.name not in names]
        return gradients

    graph = tf.function(step).get_concrete_function(*specs, tf.TensorSpec([LARGE])).graph
    upstream = graph.inputs[2]
    return parts["density"], parts["gradient"], upstream


def kept(chain):
    """Numbers that the gradient of a density takes from its computation, of the size of a batch."""
    chain.build((None, EVENT), (None, 2))
    density, gradient, _ = training_graph(chain)
    names = {operation.name for operation in density}
    tensors = {t.name: t for op in gradient for t in op.inputs if t.op.name in names}
    sizes = [math.prod(t.shape) for t in tensors.values() if t.shape.is_fully_defined()]
    return sum(size for size in sizes if size >= LARGE) / LARGE


def couplings(count, **kwargs):
    small = {"layers": count, "hidden_units": (16, 16)}
    return keras_nf.real_nvp(EVENT, **small, **kwargs)


def test_what_is_kept_does_not_grow():
    few, many = (kept(couplings(count)) for count in (2, 8))
    assert many > 3 * few
    few, many = (kept(couplings(count, recompute=True)) for count in (2, 8))
    # What it maps, the last output and the condition, with the gradient that comes from outside.
    assert few == many <= 4 * EVENT


def test_chains_inside_keep_nothing_either():
    def nested(count):
        inside = keras_nf.Invert(Chain([couplings(count)]))
        return Chain([keras_nf.Scaling(), inside], recompute=True)

    assert kept(nested(2)) == kept(nested(8))


def test_recomputation_waits_for_the_gradient():
    """What ran as soon as it can would take the memory at once."""
    chain = couplings(3, recompute=True)
    chain.build((None, EVENT), (None, 2))
    _, gradient, upstream = training_graph(chain)
    products = [operation for operation in gradient if operation.type == "MatMul"]
    # Three networks of three layers: each runs twice, and its layers have two gradients each.
    per_flow = 3 * (2 + 2)
    assert len(products) == 3 * per_flow
    for i, product in enumerate(products):
        before, by_data = ancestors(product), ancestors(product, control=False)
        # For XLA, which drops control dependencies.
        assert upstream.op.name in by_data
        # All of the flows whose gradients come first.
        done = {operation.name for operation in products[: i // per_flow * per_flow]}
        assert done <= before


def ancestors(operation, control=True):
    """Names of the operations before another."""
    found, stack = set(), [operation]
    while stack:
        operation = stack.pop()
        above = [tensor.op for tensor in operation.inputs]
        above += operation.control_inputs if control else []
        stack += [other for other in above if other.name not in found]
        found |= {other.name for other in above}
    return found
