"""Residual blocks and dropout of MLP and MADE, and of the flows that make such networks."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb

import keras_nf
from keras_nf import MADE, MLP

pytestmark = pytest.mark.usefixtures("without_xla")

UNITS = (6, 6, 6, 6, 6)
SIZE, CONDITION = 5, 3
RESIDUAL = {"hidden_units": UNITS, "residual": True, "activation": "tanh"}
CONDITIONS = pytest.mark.parametrize("condition_size", [0, CONDITION], ids=["plain", "conditional"])
rng = np.random.default_rng(0)
X, C = rng.normal(size=(4, SIZE)), rng.normal(size=(4, CONDITION))


def mlp_of(condition_size, **options):
    """Return a network on the components and the condition, with random weights in float64."""
    mlp = MLP(units=2, condition_size=condition_size, dtype="float64", **RESIDUAL, **options)
    mlp.build((None, SIZE + condition_size))
    return perturb(mlp)


def made_of(condition_size, **options):
    made = MADE(parameters=2, order="random", seed=3, dtype="float64", **RESIDUAL, **options)
    made.build((None, SIZE), (None, condition_size) if condition_size else None)
    return perturb(made)


def residual_network(weights, masks, x, c, first_is_conditional):
    """The definition: two blocks, each of which adds to what it reads, by a gate if there is c."""

    def layer(i, h):
        return h @ (weights[f"kernel_{i}"] * masks[i]) + weights[f"bias_{i}"]

    def block(i, s):
        added = layer(i + 1, np.tanh(layer(i, np.tanh(s))))
        if c is None:
            return s + added
        logit = c @ weights[f"gate_kernel_{i + 1}"] + weights[f"gate_bias_{i + 1}"]
        return s + added / (1.0 + np.exp(-logit))

    s = layer(0, x)
    if first_is_conditional:
        s = s + c @ weights["condition_kernel"]
    return layer(5, block(3, block(1, s)))


@CONDITIONS
def test_mlp_is_that_of_the_definition(condition_size):
    mlp = mlp_of(condition_size)
    weights = {weight.name: weight.numpy() for weight in mlp.weights}
    c = C if condition_size else None
    inputs = np.concatenate([X, C], axis=1) if condition_size else X
    expected = residual_network(weights, [1.0] * 6, inputs, c, first_is_conditional=False)
    np.testing.assert_allclose(mlp(inputs), expected, rtol=1e-12, atol=1e-12)


@CONDITIONS
def test_made_is_that_of_the_definition(condition_size):
    made, c = made_of(condition_size), C if condition_size else None
    weights = {weight.name: weight.numpy() for weight in made.weights}
    masks = [product.mask for product in made._products]
    expected = residual_network(weights, masks, X, c, first_is_conditional=c is not None)
    np.testing.assert_allclose(made(X, condition=c), expected, rtol=1e-12, atol=1e-12)


@CONDITIONS
@pytest.mark.parametrize(
    "units", [6, *(pytest.param(units, marks=pytest.mark.slow) for units in (2, 13))]
)
def test_jacobian_of_made_is_strictly_triangular(units, condition_size):
    """In the order of the components; and nothing that is allowed is lost in a wide layer."""
    options = {**RESIDUAL, "hidden_units": (units,) * 5}
    made = MADE(parameters=2, order="random", seed=3, dtype="float64", **options)
    made.build((None, SIZE), (None, condition_size) if condition_size else None)
    perturb(made)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = made(x, condition=C if condition_size else None)
    jacobian = tape.batch_jacobian(y, x).numpy().reshape(4, 2, SIZE, SIZE)
    jacobian = jacobian[:, :, made.component_order][..., made.component_order]
    allowed = np.broadcast_to(np.tri(SIZE, k=-1) > 0, jacobian.shape)
    assert not jacobian[~allowed].any()
    if units >= SIZE:
        assert jacobian[allowed].all()


@pytest.mark.parametrize("block", [2, 4])
@pytest.mark.parametrize("make", [mlp_of, made_of], ids=["mlp", "made"])
def test_each_block_sees_the_condition(make, block):
    network = make(CONDITION)
    for weight in network.weights:
        # The other ways from the condition are cut.
        is_other_gate = "gate" in weight.name and weight.name != f"gate_kernel_{block}"
        if is_other_gate or weight.name == "condition_kernel":
            weight.assign(tf.zeros_like(weight))
        if weight.name == "kernel_0" and make is mlp_of:
            weight.assign(weight * (np.arange(SIZE + CONDITION) < SIZE)[:, None])
    c = tf.constant(C)
    with tf.GradientTape() as tape:
        tape.watch(c)
        y = network(tf.concat([X, c], 1)) if make is mlp_of else network(X, condition=c)
    assert tape.batch_jacobian(y, c).numpy().all()


FLOWS = {
    "coupling": (keras_nf.Coupling, {"elementwise": keras_nf.elementwise.Affine()}),
    "additive": (keras_nf.AdditiveCoupling, {}),
    "affine": (keras_nf.AffineCoupling, {}),
    "spline-coupling": (keras_nf.SplineCoupling, {}),
    "autoregressive": (keras_nf.Autoregressive, {"elementwise": keras_nf.elementwise.Affine()}),
    "maf": (keras_nf.MaskedAutoregressive, {}),
    "iaf": (keras_nf.InverseAutoregressive, {}),
    "spline-autoregressive": (keras_nf.SplineAutoregressive, {}),
    "recipe-nice": (keras_nf.nice, {"event_size": SIZE}),
    "recipe-real-nvp": (keras_nf.real_nvp, {"event_size": SIZE}),
    "recipe-maf": (keras_nf.maf, {"event_size": SIZE}),
    "recipe-iaf": (keras_nf.iaf, {"event_size": SIZE}),
    "recipe-nsf": (keras_nf.nsf, {"event_size": SIZE}),
    "recipe-nsf-coupling": (keras_nf.nsf, {"event_size": SIZE, "coupling": True}),
}


@pytest.mark.parametrize(("flow", "options"), FLOWS.values(), ids=FLOWS)
def test_flows_hand_the_options_to_their_networks(flow, options):
    flow = flow(dropout=0.25, **RESIDUAL, **options)
    for one in (flow, type(flow).from_config(flow.get_config())):
        networks = [layer for layer in one._flatten_layers() if isinstance(layer, MLP)]
        assert networks
        assert {(net.residual, net.dropout, net.hidden_units) for net in networks} == {
            (True, 0.25, UNITS)
        }


def test_a_coupling_tells_its_network_of_the_condition():
    flow = keras_nf.AffineCoupling(**RESIDUAL)
    flow.build((None, 4), (None, CONDITION))
    shapes = {w.name: tuple(w.shape) for w in flow.conditioner.weights}
    assert shapes["kernel_0"] == (2 + CONDITION, 6)
    assert shapes["gate_kernel_2"] == shapes["gate_kernel_4"] == (CONDITION, 6)
    assert shapes["gate_bias_2"] == shapes["gate_bias_4"] == (6,)


WIDTHS = pytest.mark.parametrize("units", [(), (8,), (8, 8), (8,) * 4, (8, 8, 9)], ids=str)


@WIDTHS
@pytest.mark.parametrize("network", [MLP, MADE])
def test_widths_of_blocks(network, units):
    with pytest.raises(ValueError, match=r"one width three, five, seven.*hidden_units=") as caught:
        network(units, residual=True)
    assert f"hidden_units={units!r}" in str(caught.value)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 2, None, "0.5", float("nan")], ids=str)
@pytest.mark.parametrize("network", [MLP, MADE, keras_nf.maf, keras_nf.real_nvp])
def test_rates_of_dropout(network, dropout):
    size = {} if network in (MLP, MADE) else {"event_size": 2}
    with pytest.raises(ValueError, match=r"`dropout` must be a rate, in \[0, 1\)") as caught:
        network(dropout=dropout, **size)
    assert f"Received: {dropout!r}" in str(caught.value)


# Dropout.

RATE, WIDE, ROWS = 0.25, 1000, 200


def dropped(hidden_units, **options):
    """Return a network that sums up what its layers, of ones, are multiplied by."""
    mlp = MLP(hidden_units, units=1, activation="linear", dropout=RATE, **options)
    mlp.build((None, 1))
    last = len(hidden_units)
    for weight in mlp.trainable_weights:
        weight.assign(tf.zeros_like(weight))
        if weight.name in ("bias_0", "bias_1", f"kernel_{last}") and weight.shape != (1,):
            weight.assign(tf.ones_like(weight))
        if weight.name == "kernel_2" and last > 1:
            weight.assign(tf.eye(WIDE))
    return mlp


# The last layer of a block gets 1/(1 - rate) with probability 1 - rate, and what it adds to one.
NETWORKS = {
    "plain": (lambda: dropped((WIDE,)), WIDE),
    "residual": (lambda: dropped((WIDE,) * 3, residual=True), 2 * WIDE),
}


@pytest.mark.parametrize(("make", "total"), NETWORKS.values(), ids=NETWORKS)
def test_dropout_leaves_the_mean_and_has_its_variance(make, total):
    keras.utils.set_random_seed(0)
    mlp, x = make(), np.zeros((ROWS, 1), "float32")
    np.testing.assert_allclose(mlp(x), total, rtol=1e-6)
    drawn = mlp(x, training=True).numpy()[:, 0]
    variance = WIDE * RATE / (1.0 - RATE)
    # Five standard errors of the mean, and of the variance, of that many rows.
    assert abs(drawn.mean() - total) < 5.0 * np.sqrt(variance / ROWS)
    assert abs(drawn.var() / variance - 1.0) < 5.0 * np.sqrt(2.0 / ROWS)


def test_plain_networks_drop_after_each_activation():
    """Of two layers, one that copies the other: each unit stays if both masks leave it."""
    keras.utils.set_random_seed(0)
    mlp = MLP((WIDE, WIDE), units=WIDE, activation="linear", dropout=RATE)
    mlp.build((None, 1))
    for weight in mlp.trainable_weights:
        value = tf.eye(WIDE) if weight.shape == (WIDE, WIDE) else tf.zeros_like(weight)
        weight.assign(tf.ones_like(weight) if weight.name == "bias_0" else value)
    kept = mlp(np.zeros((ROWS, 1), "float32"), training=True).numpy()
    np.testing.assert_allclose(kept[kept != 0.0], (1.0 - RATE) ** -2, rtol=1e-6)
    share = (1.0 - RATE) ** 2
    error = np.sqrt(share * (1.0 - share) / kept.size)
    assert abs((kept != 0.0).mean() - share) < 5.0 * error


DROPOUT = {"layers": 2, "hidden_units": (8, 8, 8), "residual": True, "dropout": 0.5}
DATA = np.random.default_rng(1).normal(size=(64, 4)).astype("float32")


@pytest.mark.parametrize(
    "recipe", [keras_nf.maf, pytest.param(keras_nf.real_nvp, marks=pytest.mark.slow)]
)
def test_dropout_acts_in_training_alone(recipe):
    model = keras_nf.FlowModel(recipe(4, **DROPOUT))
    model(DATA)
    perturb(model.flow)
    assert np.array_equal(model(DATA), model(DATA))
    np.testing.assert_allclose(model(DATA), model.log_prob(DATA), rtol=1e-5)
    assert not np.allclose(model(DATA, training=True), model(DATA, training=True), atol=0.1)
    z = model.flow.inverse(DATA)
    np.testing.assert_allclose(model.flow.forward(z), DATA, atol=1e-4)


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["graph", "xla"]
)
def test_fit_draws_anew_in_each_step(jit_compile):
    model = keras_nf.FlowModel(keras_nf.maf(4, **DROPOUT))
    model(DATA)
    perturb(model.flow)
    # With steps of size zero, and the same batch, the losses differ by what is dropped alone.
    model.compile(keras.optimizers.SGD(0.0), jit_compile=jit_compile)
    losses = model.fit(DATA, batch_size=64, epochs=3, verbose=0).history["loss"]
    assert len(set(losses)) == 3
    evaluated = [model.evaluate(DATA, batch_size=64, verbose=0) for _ in range(2)]
    assert evaluated[0] == evaluated[1]
    np.testing.assert_allclose(evaluated[0], -np.mean(model.log_prob(DATA)), rtol=1e-5)


def test_the_sequential_direction_refuses_dropout_in_training():
    model = keras_nf.FlowModel(keras_nf.iaf(4, **DROPOUT))
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"(?s)sequential direction.*dropout=0\.5.*set dropout=0"):
        model.fit(DATA, verbose=0)
    assert np.isfinite(model.log_prob(DATA)).all()
    assert np.isfinite(model.sample(3, seed=0)).all()


def variational_loss(recipe, dropout):
    """Loss of a step of variational inference that changes no weight."""
    keras.utils.set_random_seed(0)
    flow = recipe(2, layers=1, hidden_units=(32,), dropout=dropout)
    model = keras_nf.VariationalModel(flow, lambda x: -tf.reduce_sum(x**2, axis=-1))
    perturb(flow)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    return model.fit(batch_size=64, steps_per_epoch=1, seed=0, verbose=0).history["loss"][0]


def test_dropout_acts_in_variational_training():
    without = variational_loss(keras_nf.iaf, 0.0)
    assert abs(variational_loss(keras_nf.iaf, 0.5) - without) > 1e-3
    with pytest.raises(ValueError, match="sequential direction"):
        variational_loss(keras_nf.maf, 0.5)


def test_a_network_without_dropout_has_no_state():
    for network in (MLP(units=1), MADE()):
        network.build((None, 3))
        assert network.variables == network.trainable_variables
        assert not list(network._flatten_layers(include_self=False))


def test_weights_go_by_their_links():
    keras.utils.set_random_seed(0)
    options = {"hidden_units": (400,) * 3, "residual": True}
    mlp = MLP(units=1, condition_size=100, **options)
    mlp.build((None, 104))
    made = MADE(**options)
    made.build((None, 4), (None, 100))
    for network, links in ((mlp, 400), (made, made._products[1].links)):
        weights = {weight.name: weight.numpy() for weight in network.weights}
        scaled = [weights[name] * np.sqrt(links) for name in ("kernel_1", "bias_1")]
        scaled += [weights[name] * np.sqrt(100) for name in ("gate_kernel_2", "gate_bias_2")]
        for values in scaled:
            assert 0.95 < np.abs(values).max() <= 1.0 + 1e-6
        assert not weights["kernel_3"].any()


@pytest.mark.slow
def test_check_flow_passes_with_dropout():
    flow = keras_nf.MaskedAutoregressive(dropout=0.5, **RESIDUAL)
    report = keras_nf.check_flow(flow, DATA[:8], DATA[:8, :2])
    assert "0 of 24 checks failed" in report


def test_a_file_keeps_dropout(tmp_path):
    model = keras_nf.FlowModel(keras_nf.maf(4, **DROPOUT))
    model(DATA)
    perturb(model.flow)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_prob(DATA), model.log_prob(DATA))
    assert loaded.flow.flows[0].conditioner.dropout == 0.5


def test_weights_fit_another_rate_of_dropout(tmp_path):
    path = tmp_path / "model.weights.h5"
    one, other = (
        keras_nf.FlowModel(keras_nf.maf(4, **{**DROPOUT, "dropout": p})) for p in (0.5, 0.1)
    )
    for model in (one, other):
        model(DATA)
    perturb(one.flow)
    one.save_weights(path)
    other.load_weights(path)
    np.testing.assert_array_equal(other.log_prob(DATA), one.log_prob(DATA))
