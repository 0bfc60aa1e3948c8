"""Mixed precision: networks in the low one, flows in float32, trained by a scaled loss."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import (
    assert_close,
    base_distribution,
    base_points,
    build,
    conditions,
    data_points,
    make,
    perturb,
    rows,
)
from keras import ops

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

# Half the distance between neighbouring numbers near one.
ROUNDOFF = {"mixed_bfloat16": 2.0**-8, "mixed_float16": 2.0**-11}
POLICIES = pytest.mark.parametrize("policy", ROUNDOFF)
# Where rows of the table or large flows take time.
LONG_POLICIES = pytest.mark.parametrize(
    "policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
DIRECTIONS = {"forward": base_points, "inverse": data_points}
SMALL = {"hidden_units": (8,), "activation": "tanh"}


def rounded(values, policy):
    return np.asarray(tf.cast(tf.cast(values, policy.removeprefix("mixed_")), tf.float32))


def fused(flow, direction, x, condition):
    return [np.asarray(t) for t in getattr(flow, f"{direction}_and_log_det")(x, **condition)]


# The arithmetic of flows.


def know_parameters(flow, policy):
    """Let networks, without their kernels, give the same in every precision: their last bias."""
    for layer in flow._flatten_layers():
        weights = []
        if hasattr(layer, "conditioner"):
            weights = layer.conditioner.trainable_weights
            last = max(i for i, w in enumerate(weights) if w.name.startswith("bias"))
            weights[last].assign(rounded(weights[last], policy))
            # With a condition a linear network has two.
            weights = [weight for weight in weights if "kernel" in weight.name]
        elif isinstance(layer, keras_nf.Planar) and layer.amortized:
            weights = layer.trainable_weights[-1:]
        for kernel in weights:
            kernel.assign(np.zeros(kernel.shape))


@rows()
@LONG_POLICIES
def test_flows_of_known_parameters_are_as_exact_as_in_float32(case, policy):
    mixed = make(case, policy)
    know_parameters(mixed, policy)
    exact = build(case, "float64")
    exact.set_weights(mixed.get_weights())
    for direction, points in DIRECTIONS.items():
        x, condition = points(case, 20, dtype="float32"), conditions(case, 20, dtype="float32")
        found = fused(mixed, direction, x, condition)
        condition = {name: tf.cast(c, tf.float64) for name, c in condition.items()}
        expected = fused(exact, direction, tf.cast(x, tf.float64), condition)
        for f, e in zip(found, expected):
            assert_close(f, e, "float32")


@pytest.mark.parametrize(
    ("direction", "flow", "shape"),
    [
        ("forward", keras_nf.AffineCoupling, (6,)),
        ("inverse", keras_nf.MaskedAutoregressive, (6,)),
        ("forward", keras_nf.InverseAutoregressive, (6,)),
        ("inverse", lambda **kwargs: keras_nf.AffineCoupling(event_ndims=3, **kwargs), (4, 4, 2)),
    ],
    ids=["coupling", "maf", "iaf", "images"],
)
@POLICIES
def test_networks_see_rounded_numbers_and_flows_all_digits(direction, flow, shape, policy):
    rng = np.random.default_rng(0)
    x = rounded(rng.normal(size=(20, *shape)), policy)
    condition = rounded(rng.normal(size=(20, 2)), policy)
    moved = [(a * (1.0 + ROUNDOFF[policy] / 8.0)).astype("float32") for a in (x, condition)]
    results = {}
    for dtype in (policy, "float32"):
        built = flow(dtype=dtype, **SMALL)
        built.build((None, *shape), (None, 2))
        perturb(built)
        function = getattr(built, f"{direction}_and_log_det")
        results[dtype] = [np.asarray(a) for a in (*function(x, condition), *function(*moved))]
    y, log_det, y_moved, log_det_moved = results[policy]
    # Log-determinants are of networks alone, which cannot see so small a step.
    np.testing.assert_array_equal(log_det_moved, log_det)
    assert (results["float32"][3] != results["float32"][1]).all()
    # What is beside the networks does.
    assert (y_moved != y).mean() > 0.9


@pytest.mark.parametrize(
    ("network", "shape", "conditional"),
    [
        (lambda **kwargs: keras_nf.MLP((32,) * 3, 8, **kwargs), (6,), False),
        (lambda **kwargs: keras_nf.MLP((32,) * 3, 8, residual=True, **kwargs), (6,), False),
        (lambda **kwargs: keras_nf.ConvNet((8, 8), 4, **kwargs), (4, 4, 2), False),
        (lambda **kwargs: keras_nf.MADE((32,) * 3, 2, **kwargs), (6,), True),
        (lambda **kwargs: keras_nf.MADE((32,) * 3, 2, residual=True, **kwargs), (6,), True),
    ],
    ids=["mlp", "residual-mlp", "conv", "made", "residual-made"],
)
@POLICIES
def test_every_layer_of_a_network_rounds(network, shape, conditional, policy):
    rng = np.random.default_rng(0)
    arguments = [rounded(rng.normal(size=(50, *shape)), policy)]
    if conditional:
        arguments.append(rounded(rng.normal(size=(50, 3)), policy))
    mixed, exact = network(dtype=policy), network(dtype="float64")
    for made in (mixed, exact):
        made.build(*[(None, *a.shape[1:]) for a in arguments])
    perturb(mixed)
    exact.set_weights(mixed.get_weights())
    found = np.asarray(tf.cast(mixed(*arguments), tf.float32))
    expected = np.asarray(exact(*[a.astype("float64") for a in arguments]))
    # Were its last rounding the only one, the network would give the next number in every case.
    assert np.mean(found == rounded(expected, policy)) < 0.8
    assert np.max(np.abs(found - expected)) < 20 * ROUNDOFF[policy] * np.max(np.abs(expected))


@rows(variations=False)
@LONG_POLICIES
def test_round_trips_are_those_of_float32(case, policy):
    flow = make(case, policy)
    for (there, points), back in zip(DIRECTIONS.items(), reversed(DIRECTIONS)):
        x, condition = points(case, 50, dtype="float32"), conditions(case, 50, dtype="float32")
        y, log_det = fused(flow, there, x, condition)
        again, back_log_det = fused(flow, back, y, condition)
        error = np.abs(again - x) / (1.0 + np.abs(x))
        error = np.maximum(error.reshape(50, -1).max(axis=1), np.abs(back_log_det + log_det))
        # Both ways see the same numbers, but for those that lie between two of the low precision.
        assert np.quantile(error, 0.9) < 2e-5
        assert np.max(error) < 20 * ROUNDOFF[policy]


# Densities.

DOCS = pathlib.Path(__file__).parents[1] / "docs" / "training_study.md"
IMAGE = (8, 8, 1)

# For each recipe what 99 of 100 events keep below, in nats: in bfloat16 and in float16.
RECIPES = {
    "planar_flow": (keras_nf.planar_flow, 6, {}, (0.0, 0.0)),
    "nice": (keras_nf.nice, 6, {}, (0.01, 0.002)),
    "real_nvp": (keras_nf.real_nvp, 6, {}, (0.03, 0.005)),
    "maf": (keras_nf.maf, 6, {}, (0.03, 0.005)),
    "iaf": (keras_nf.iaf, 6, {}, (0.02, 0.003)),
    "nsf": (keras_nf.nsf, 6, {}, (0.15, 0.025)),
    "nsf, coupling=True": (keras_nf.nsf, 6, {"coupling": True}, (0.04, 0.006)),
    "glow": (keras_nf.glow, IMAGE, {"levels": 2, "steps": 2}, (0.2, 0.04)),
    "image_real_nvp": (keras_nf.image_real_nvp, IMAGE, {"levels": 2}, (0.06, 0.01)),
}


def density_distances(recipe, policy, strong, count=200):
    """Return |log p - log p in float32| of normal events.

    `strong` draws the last layers as the others are, where log-scales are some tenths of a nat.
    """
    make_flow, event, options, _ = RECIPES[recipe]
    shape = event if isinstance(event, tuple) else (event,)
    x = np.random.default_rng(0).normal(size=(count, *shape)).astype("float32")
    log_probs = []
    for dtype in ("float32", policy):
        keras.utils.set_random_seed(0)
        model = keras_nf.FlowModel(make_flow(event, dtype=dtype, **options))
        model.build((None, *shape))
        if strong:
            spread(model.flow)
        log_probs.append(np.asarray(model(x)))
    return np.abs(np.subtract(*log_probs))


def spread(flow):
    """Draw weights that start at zero or one uniform in ±1/sqrt(n) around it, n their inputs."""
    rng = np.random.default_rng(0)
    for weight in flow.trainable_weights:
        values = np.asarray(weight)
        if np.ptp(values) == 0.0:
            limit = 1.0 / np.sqrt(np.prod(values.shape[:-1]) if values.ndim > 1 else 128)
            weight.assign(values + rng.uniform(-limit, limit, values.shape))


@pytest.mark.parametrize("recipe", RECIPES)
@LONG_POLICIES
def test_densities_are_as_close_to_those_of_float32_as_the_docs_say(recipe, policy):
    *_, limits = RECIPES[recipe]
    limit = limits[list(ROUNDOFF).index(policy)]
    distances = density_distances(recipe, policy, strong=True)
    assert np.quantile(distances, 0.99) <= limit
    # A limit that says something, of networks that round.
    assert np.max(distances) >= limit / 8
    assert f"| `{recipe}` | {limits[0]:g} | {limits[1]:g} |" in DOCS.read_text()


@pytest.mark.parametrize("recipe", ["real_nvp", "nsf", "glow"])
@POLICIES
def test_fresh_densities_are_those_of_float32(recipe, policy):
    # The networks give zeros.
    assert np.max(density_distances(recipe, policy, strong=False)) < 1e-4


@rows(variations=False)
@LONG_POLICIES
def test_densities_of_perturbed_flows(case, policy):
    mixed, exact = make(case, policy), make(case, "float32")
    x, condition = data_points(case, 50, dtype="float32"), conditions(case, 50, dtype="float32")
    base = base_distribution(case, "float32")
    log_probs = [
        base.log_prob(z) + log_det
        for z, log_det in (fused(flow, "inverse", x, condition) for flow in (mixed, exact))
    ]
    # Some ten roundings in each network, of numbers that the perturbed weights make large.
    distance = np.abs(np.subtract(*log_probs)) / (1.0 + np.abs(log_probs[1]))
    assert np.max(distance) < 20 * ROUNDOFF[policy]


# Training.


def coupling(dtype="mixed_float16"):
    keras.utils.set_random_seed(0)
    flow = keras_nf.AffineCoupling(event_size=2, dtype=dtype, **SMALL)
    flow.build((None, 2))
    return perturb(flow)


def gaussian(x):
    return -0.5 * tf.reduce_sum((x - 2.0) ** 2, axis=-1)


def weights_of(model):
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()])


X = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")


MODELS = pytest.mark.parametrize(
    "make_model",
    [keras_nf.FlowModel, lambda flow: keras_nf.VariationalModel(flow, gaussian)],
    ids=["flow", "variational"],
)


@MODELS
def test_loss_is_scaled_in_float16_alone(make_model):
    for dtype in ("mixed_float16", "mixed_bfloat16", "float32"):
        model = make_model(coupling(dtype))
        model.compile("adam")
        is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert is_scaled == (dtype == "mixed_float16")


def test_scaled_loss_keeps_gradients_that_float16_would_lose():
    moves = {}
    for dtype, scales in (("float32", True), ("mixed_float16", True), ("mixed_float16", False)):
        model = keras_nf.FlowModel(coupling(dtype))
        # Gradients in what the network gives are some 1e-9; float16 ends at 6e-8.
        model.compile(keras.optimizers.SGD(1e4), auto_scale_loss=scales)
        before = weights_of(model)
        weights = np.full(64, 1e-7, "float32")
        model.fit(X, batch_size=64, sample_weight=weights, shuffle=False, verbose=0)
        moves[dtype, scales] = weights_of(model) - before
    exact, scaled, lost = moves.values()
    assert np.linalg.norm(scaled - exact) < 0.01 * np.linalg.norm(exact)
    assert np.linalg.norm(lost - exact) > 0.5 * np.linalg.norm(exact)


@MODELS
def test_steps_that_overflow_are_skipped(make_model):
    model = make_model(coupling())
    model.compile("adam")
    model.build((None, 2))
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    is_flow_model = isinstance(model, keras_nf.FlowModel)
    data = {"x": X, "batch_size": 64} if is_flow_model else {"steps_per_epoch": 1}
    before = weights_of(model)
    for scale, steps in ((2.0**40, 0), (2.0**8, 1)):
        optimizer.dynamic_scale.assign(scale)
        model.fit(**data, verbose=0)
        assert optimizer.iterations == steps
        assert optimizer.dynamic_scale == (scale if steps else scale / 2.0)
        assert (weights_of(model) != before).any() == bool(steps)


@pytest.mark.parametrize("offset", [1e5, pytest.param(0.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "recipe", ["real_nvp", *(pytest.param(n, marks=pytest.mark.slow) for n in ("maf", "iaf"))]
)
def test_training_on_large_numbers(recipe, offset):
    rng = np.random.default_rng(0)
    x = (offset + 1e4 * rng.normal(size=(64, 3))).astype("float32")
    flow = getattr(keras_nf, recipe)(3, layers=2, hidden_units=(8,), dtype="mixed_float16")
    model = keras_nf.FlowModel(flow)
    model.compile(keras.optimizers.Adam(1e-2))
    before = -np.mean(model.log_prob(x))
    model.fit(np.tile(x, (80, 1)), batch_size=64, shuffle=False, verbose=0)
    # Steps are skipped until the scale is small enough.
    assert model.optimizer.iterations > 20
    assert -np.mean(model.log_prob(x)) < 0.9 * before
    assert np.isfinite(weights_of(model)).all()
    assert not np.isnan(model.log_prob(1e3 * x)).any()


class SameNetwork(keras_nf.AutoregressiveNetwork):
    """A `MADE` by the general way to solve, which autodiff differentiates."""

    parameters = 2

    def __init__(self, made):
        super().__init__(dtype=made.dtype_policy)
        self.made = made

    def call(self, inputs, condition=None):
        return self.made(inputs, condition)


@pytest.mark.parametrize(
    ("residual", "scale", "last"), [(False, 30.0, 1.0), (True, 1.0, 1.0), (True, 1.0, 0.03)]
)
@pytest.mark.parametrize("size", [1.0, 1e4, 1e5])
def test_gradients_beyond_what_float16_holds(residual, scale, last, size):
    rng = np.random.default_rng(0)
    flow = keras_nf.InverseAutoregressive(
        hidden_units=(16,) * 3, residual=residual, dtype="mixed_float16"
    )
    flow.build((None, 3))
    perturb(flow)
    # With a small last layer, sums within saturate alone.
    kernel = flow.trainable_weights[-2]
    kernel.assign(last * kernel)
    other = keras_nf.InverseAutoregressive(
        conditioner=SameNetwork(flow.conditioner), dtype="mixed_float16"
    )
    other.build((None, 3))
    x = tf.constant(size * rng.normal(size=(32, 3)), "float32")
    gradients = []
    for each in (flow, other):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z, log_det = each.inverse_and_log_det(x)
            loss = scale * ops.mean(ops.tanh(z / size) + log_det[:, None])
        gradients.append(tape.gradient(loss, [x, *flow.trainable_weights]))
    for found, expected in zip(*gradients, strict=True):
        assert np.isfinite(expected).all()
        # Numbers of float16 are multiples of 6e-8.
        atol = max(1e-2 * np.max(np.abs(expected)), 5e-7)
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=atol)


def test_variational_model_goes_on_after_a_bad_draw():
    def target(x):
        # Some draws in a hundred have no gradient.
        return gaussian(x) + tf.where(x[:, 1] > 4.0, np.nan, 0.0) * x[:, 1]

    model = keras_nf.VariationalModel(coupling(), target)
    model.compile("adam")
    for goal in (25, 50, 75):
        model.fit(batch_size=16, steps_per_epoch=50, seed=0, verbose=0)
        # Some steps are skipped, and all after the first of them, were its draws made again.
        assert goal < model.optimizer.iterations
    assert model.optimizer.iterations < 147
    assert np.isfinite(weights_of(model)).all()


def test_variational_run_goes_on_as_it_would_have():
    models = [keras_nf.VariationalModel(coupling(), gaussian) for _ in range(2)]
    for model, epochs in zip(models, ([4], [1, 3])):
        model.compile("adam")
        model.optimizer.build(model.trainable_variables)
        # The first steps are skipped.
        model.optimizer.dynamic_scale.assign(2.0**22)
        for count in epochs:
            model.fit(batch_size=8, steps_per_epoch=4, epochs=count, seed=0, verbose=0)
    assert 0 < models[0].optimizer.iterations < 16
    np.testing.assert_array_equal(*map(weights_of, models))


# Files.


@POLICIES
def test_saved_model_loads_in_its_precision(policy, tmp_path):
    model = keras_nf.FlowModel(coupling(policy))
    model.compile("adam")
    model.fit(X, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.dtype_policy.name == loaded.flow.dtype_policy.name == policy
    assert loaded.flow.conditioner.compute_dtype == policy.removeprefix("mixed_")
    assert {weight.dtype for weight in loaded.weights} == {"float32"}
    np.testing.assert_array_equal(loaded.log_prob(X), model.log_prob(X))
    assert type(loaded.optimizer) is type(model.optimizer)
    for variable, other in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(variable, other)


@POLICIES
def test_weights_pass_from_float32_and_back(policy, tmp_path):
    exact, mixed, again = (
        keras_nf.FlowModel(coupling(dtype)) for dtype in ("float32", policy, "float32")
    )
    for model in (exact, mixed, again):
        model.build((None, 2))
    for model in (mixed, again):
        model.set_weights([np.zeros(weight.shape) for weight in model.weights])
    exact.save_weights(tmp_path / "exact.weights.h5")
    mixed.load_weights(tmp_path / "exact.weights.h5")
    mixed.save_weights(tmp_path / "mixed.weights.h5")
    again.load_weights(tmp_path / "mixed.weights.h5")
    np.testing.assert_array_equal(weights_of(again), weights_of(exact))
    np.testing.assert_array_equal(again.log_prob(X), exact.log_prob(X))
    assert np.any(mixed.log_prob(X) != exact.log_prob(X))
