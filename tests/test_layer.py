"""Every row of the table as a Keras layer."""

import json

import keras
import numpy as np
import pytest
from cases import (
    assert_close,
    base_points,
    build,
    conditions,
    data_points,
    has_condition,
    has_weights,
    make,
    rows,
)
from keras.src import testing

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

DIRECTIONS = pytest.mark.parametrize("direction", ["forward", "inverse"])


def fused(flow, direction):
    return getattr(flow, f"{direction}_and_log_det")


def points(case, direction, *batch, **kwargs):
    return {"forward": base_points, "inverse": data_points}[direction](case, *batch, **kwargs)


def symbolic(case, dtype="float32"):
    """Return the inputs of a functional model: x and, where there is one, the condition."""
    inputs = {"x": keras.Input(case.base_shape, dtype=dtype, name="x")}
    if case.condition_size:
        inputs["condition"] = keras.Input((case.condition_size,), dtype=dtype, name="condition")
    return inputs


def functional(case, flow, dtype="float32", **kwargs):
    inputs = symbolic(case, dtype)
    return keras.Model(inputs, apply(flow, inputs, **kwargs))


def batch_of(case, size, dtype="float32"):
    return {"x": base_points(case, size, dtype=dtype), **conditions(case, size, dtype=dtype)}


def apply(flow, x, **kwargs):
    """Call the flow itself on the inputs of its functional model."""
    return flow(x["x"], condition=x.get("condition"), **kwargs)


def assert_identical(actual, expected):
    for a, e in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
        assert np.array_equal(a, e)


# Where Keras does the same with every layer: a few, and those that hold others.
FEW = {"affine-conditional", "act-norm", "multiscale", "chain-conditional", "invert-conditional"}


def is_one_of_few(case):
    return case.name in FEW or case.public in keras_nf.recipes.__all__


few_rows = rows(is_one_of_few, variations=False)


class KerasChecks(testing.TestCase):
    """Keras's own checks of a layer."""


@rows(variations=False)
def test_keras_checks_of_a_layer(case):
    shapes = {"inputs_shape": (2, *case.base_shape)}
    if case.condition_size:
        shapes["condition_shape"] = (2, case.condition_size)
    # A dictionary is how these checks pass several arguments, but their training step cannot.
    one_input = not case.condition_size
    KerasChecks().run_layer_test(
        case.flow,
        init_kwargs={},
        input_shape=shapes["inputs_shape"] if one_input else shapes,
        expected_output_shape=(2, *case.data_shape),
        expected_output_dtype="float32",
        expected_num_trainable_weights=case.weights,
        expected_num_non_trainable_weights=case.fixed,
        expected_num_losses=0,
        run_training_check=one_input,
    )


@rows()
def test_number_of_weights(case):
    flow = build(case)
    assert len(flow.trainable_weights) == case.weights
    assert len(flow.non_trainable_weights) == case.fixed
    assert len(flow.weights) == len({id(weight) for weight in flow.weights})


# Configurations.


def revived_by_config(flow):
    return type(flow).from_config(flow.get_config())


def revived_by_json(flow):
    text = json.dumps(keras.saving.serialize_keras_object(flow))
    return keras.saving.deserialize_keras_object(json.loads(text))


REVIVED = pytest.mark.parametrize("revive", [revived_by_config, revived_by_json])


def assert_revived(case, flow, revive):
    other = revive(flow)
    assert type(other) is type(flow)
    assert json.dumps(other.get_config()) == json.dumps(flow.get_config())
    condition_shape = (None, case.condition_size) if case.condition_size else None
    if not other.built:
        other.build((None, *case.base_shape), condition_shape)
    other.set_weights(flow.get_weights())
    for direction in ("forward", "inverse"):
        x = points(case, direction, 5, dtype="float32")
        condition = conditions(case, 5, dtype="float32")
        assert_identical(
            fused(other, direction)(x, **condition), fused(flow, direction)(x, **condition)
        )


@rows()
def test_config_makes_the_same_flow(case):
    assert_revived(case, make(case, "float32"), revived_by_json)


@rows(variations=False)
@REVIVED
def test_config_of_an_unbuilt_flow_makes_the_same_flow(case, revive):
    flow = case.flow()
    other = revive(flow)
    assert not other.built
    assert json.dumps(other.get_config()) == json.dumps(flow.get_config())


RANDOM = {
    "permute": lambda: keras_nf.Permute("random"),
    "additive": lambda: keras_nf.AdditiveCoupling(mask="random", hidden_units=(4,)),
    "affine": lambda: keras_nf.AffineCoupling(mask="random", hidden_units=(4,)),
    "maf": lambda: keras_nf.MaskedAutoregressive(order="random", hidden_units=(16,)),
    "iaf": lambda: keras_nf.InverseAutoregressive(order="random", hidden_units=(16,)),
    "nice": lambda: keras_nf.nice(12, layers=2, mask="random", hidden_units=(4,)),
    "real-nvp": lambda: keras_nf.real_nvp(12, layers=2, mask="random", hidden_units=(4,)),
    "recipe-maf": lambda: keras_nf.maf(12, layers=2, order="random", hidden_units=(16,)),
    "recipe-iaf": lambda: keras_nf.iaf(12, layers=2, order="random", hidden_units=(16,)),
}


def influence(flow):
    """Return the 0/1 matrix of the components that each output of the flow depends on."""
    flow.build((None, 12))
    rng = np.random.default_rng(0)
    flow.set_weights([rng.standard_normal(weight.shape) for weight in flow.weights])
    x = rng.standard_normal((1, 12)).astype("float32")
    moved = flow.forward(x + np.eye(12, dtype="float32"))
    return np.abs(moved - flow.forward(x)) > 1e-4


@pytest.mark.parametrize("flow", RANDOM.values(), ids=RANDOM)
@REVIVED
def test_randomness_drawn_by_a_flow_survives_its_config(flow, revive):
    flow = flow()
    assert np.array_equal(influence(revive(flow)), influence(flow))


@pytest.mark.parametrize("flow", RANDOM.values(), ids=RANDOM)
def test_randomness_is_drawn_anew_for_each_flow(flow):
    keras.utils.set_random_seed(1)
    assert not np.array_equal(influence(flow()), influence(flow()))


@pytest.mark.parametrize("flow", RANDOM.values(), ids=RANDOM)
def test_randomness_is_reproducible(flow):
    draws = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        draws.append(influence(flow()))
    assert np.array_equal(*draws)


# Files.


@rows(variations=False)
def test_keras_file_gives_the_same_bits(case, tmp_path):
    model = functional(case, make(case, "float32"), return_log_det=True)
    model.save(tmp_path / "model.keras")
    x = batch_of(case, 5)
    assert_identical(keras.saving.load_model(tmp_path / "model.keras")(x), model(x))


@few_rows
def test_weights_file_gives_the_same_bits(case, tmp_path):
    model = functional(case, make(case, "float32", seed=1), return_log_det=True)
    model.save_weights(tmp_path / "model.weights.h5")
    other = functional(case, make(case, "float32", seed=2), return_log_det=True)
    other.load_weights(tmp_path / "model.weights.h5")
    x = batch_of(case, 5)
    assert_identical(other(x), model(x))


# Models.


@rows(variations=False)
def test_symbolic_call_builds_a_fresh_flow(case):
    flow, x = case.flow(), batch_of(case, 5)
    model = functional(case, flow)
    assert flow.built
    assert len(model.trainable_weights) == case.weights
    assert_identical(model(x), apply(flow, x))


@rows(lambda case: not case.condition_size, variations=False)
def test_sequential(case):
    flow, x = make(case, "float32"), batch_of(case, 5)
    model = keras.Sequential([keras.Input(case.base_shape), flow])
    assert_identical(model(x["x"]), apply(flow, x))
    assert len(model.weights) == case.weights + case.fixed


@few_rows
def test_functional_models_with_and_without_the_log_det_share_a_flow(case):
    flow, x = make(case, "float32"), batch_of(case, 5)
    without = functional(case, flow)
    both = functional(case, flow, return_log_det=True)
    again = functional(case, flow)
    assert without.output_shape == (None, *case.data_shape)
    assert [output.shape for output in both.outputs] == [(None, *case.data_shape), (None,)]
    assert {output.dtype for output in (*without.outputs, *both.outputs)} == {"float32"}
    y, log_det = fused(flow, "forward")(x["x"], x.get("condition"))
    assert_identical(without(x), y)
    assert_identical(both(x), (y, log_det))
    assert_identical(again(x), y)


@few_rows
def test_clone_has_its_own_weights(case):
    model = functional(case, make(case, "float32"), return_log_det=True)
    clone = keras.models.clone_model(model)
    assert not {id(weight) for weight in clone.weights} & {id(weight) for weight in model.weights}
    clone.set_weights(model.get_weights())
    x = batch_of(case, 5)
    assert_identical(clone(x), model(x))


@few_rows
def test_keras_describes_models(case):
    model = keras_nf.FlowModel(make(case, "float32"), base=case.base)
    x, condition = data_points(case, 2, dtype="float32"), conditions(case, 2, dtype="float32")
    model({"x": x, **condition} if condition else x)
    lines = []
    for described in (model, functional(case, make(case, "float32"))):
        described.summary(print_fn=lines.append, expand_nested=True, show_trainable=True)
        keras.utils.model_to_dot(described, show_shapes=True, show_dtype=True, expand_nested=True)
    assert f"{model.count_params():,}" in "".join(lines)


@few_rows
def test_symbolic_arithmetic_on_the_inputs(case):
    flow, x = make(case, "float32"), batch_of(case, 5)
    inputs = symbolic(case)
    halved = {name: 0.5 * tensor for name, tensor in inputs.items()}
    model = keras.Model(inputs, apply(flow, halved))
    assert_identical(model(x), apply(flow, {name: 0.5 * value for name, value in x.items()}))


@rows(has_condition, variations=False)
def test_condition_is_symbolic(case):
    flow, x = make(case, "float32"), batch_of(case, 5)
    model = functional(case, flow)
    moved = {**x, "condition": x["condition"] + 1.0}
    assert_identical(model(moved), apply(flow, moved))
    assert not np.allclose(model(moved), model(x), atol=1e-3)


# Precision.

# Half the distance between neighbouring numbers near one.
ROUNDOFF = {"mixed_float16": 2.0**-11, "mixed_bfloat16": 2.0**-8}
POLICIES = pytest.mark.parametrize("policy", ROUNDOFF)


def same_weights(case, dtype, flow):
    other = build(case, dtype)
    other.set_weights(flow.get_weights())
    return other


@rows(variations=False)
@DIRECTIONS
@POLICIES
def test_mixed_precision_is_close_to_float32(case, direction, policy):
    flow = make(case, "float32")
    x, condition = (
        points(case, direction, 50, dtype="float32"),
        conditions(case, 50, dtype="float32"),
    )
    exact = fused(flow, direction)(x, **condition)
    other = same_weights(case, policy, flow)
    mixed = fused(other, direction)(x, **condition)
    assert [t.dtype.name for t in mixed] == ["float32", "float32"]
    # A count is no number to compute with.
    assert {keras.backend.standardize_dtype(w.dtype) for w in other.weights} <= {"float32", "int64"}
    # Some ten roundings in each network, which its log-scales and later networks stretch.
    for m, e in zip(mixed, exact):
        scale = np.maximum(1.0, np.max(np.abs(e)))
        assert np.max(np.abs(m - e)) / scale < 20 * ROUNDOFF[policy]


@rows(lambda case: case.conditional, variations=False)
@POLICIES
def test_networks_compute_in_the_dtype_of_the_policy(case, policy):
    flow = make(case, "float32")
    x, condition = base_points(case, 50, dtype="float32"), conditions(case, 50, dtype="float32")
    mixed = same_weights(case, policy, flow).forward(x, **condition)
    assert not np.array_equal(mixed, flow.forward(x, **condition))


@rows(variations=False)
def test_float64_model(case):
    flow, x = make(case, "float64"), batch_of(case, 5, "float64")
    model = functional(case, flow, "float64", return_log_det=True)
    y, log_det = model(x)
    assert y.dtype == log_det.dtype == "float64"
    z, inverse_log_det = fused(flow, "inverse")(y, x.get("condition"))
    assert_close(z, x["x"])
    assert_close(inverse_log_det, -log_det)


# Training.


def assert_trained(case, flow, before):
    for i, (weight, old) in enumerate(zip(flow.trainable_variables, before, strict=True)):
        assert np.all(np.isfinite(weight)), weight.path
        assert np.array_equal(weight, old) == (i in case.idle), weight.path


# Without a condition, Keras's checks of a layer train it.
@pytest.mark.slow
@rows(lambda case: has_weights(case) and has_condition(case), variations=False)
def test_fit_of_a_keras_model_changes_every_weight(case):
    flow, x = make(case, "float32"), batch_of(case, 16)
    model = functional(case, flow)
    before = [weight.numpy() for weight in flow.trainable_variables]
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    model.fit(x, np.ones((16, *case.data_shape)), batch_size=16, verbose=0)
    assert_trained(case, flow, before)


@rows(has_weights, variations=False)
def test_fit_of_a_flow_model_changes_every_weight(case):
    flow = make(case, "float32")
    before = [weight.numpy() for weight in flow.trainable_variables]
    x, condition = data_points(case, 16, dtype="float32"), conditions(case, 16, dtype="float32")
    model = keras_nf.FlowModel(flow, base=case.base)
    model.compile(keras.optimizers.SGD(0.01))
    model.fit({"x": x, **condition} if condition else x, batch_size=16, verbose=0)
    assert_trained(case, flow, before)
