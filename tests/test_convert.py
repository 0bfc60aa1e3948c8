"""Flows of other libraries, converted: against the densities that their sources gave."""

import functools
import importlib.util
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_nf
from keras_nf import FlowModel, convert
from keras_nf.convert.maps import NflowsAffine, NflowsSpline, ZukoSpline

pytestmark = pytest.mark.usefixtures("without_xla")

SCRIPT = pathlib.Path(__file__).with_name("data") / "make_convert_fixtures.py"
spec = importlib.util.spec_from_file_location("make_convert_fixtures", SCRIPT)
fixtures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fixtures)

COUPLING = {
    "tail_bound": 3.0,
    "min_bin_width": 1e-2,
    "min_bin_height": 2e-2,
    "min_derivative": 3e-2,
}

# Of each fixture: the function, what the arrays do not tell, and the size of the condition.
CASES = {
    "zuko_maf": (convert.zuko_maf, {}, 0),
    "zuko_maf_context": (convert.zuko_maf, {"activation": "elu"}, 2),
    "zuko_nsf": (convert.zuko_nsf, {}, 0),
    "zuko_nsf_coupling": (convert.zuko_nsf, {"slope": 1e-2}, 2),
    "nflows_maf": (convert.nflows_maf, {"activation": "tanh"}, 0),
    "nflows_maf_residual": (convert.nflows_maf, {}, 0),
    "nflows_rq_nsf": (convert.nflows_rq_nsf, {"tail_bound": 3.0}, 0),
    "nflows_rq_nsf_coupling": (convert.nflows_rq_nsf, COUPLING, 0),
    "nflows_rq_nsf_coupling_context": (convert.nflows_rq_nsf, COUPLING, 2),
    "tfp_maf": (convert.tfp_maf, {"activation": "relu", "input_order": "right-to-left"}, 0),
    "tfp_maf_conditional": (
        convert.tfp_maf,
        {"activation": "tanh", "input_order": (2, 3, 1)},
        2,
    ),
    "tfp_real_nvp": (convert.tfp_real_nvp, {}, 0),
    "tfp_real_nvp_last_masked": (
        convert.tfp_real_nvp,
        {"num_masked": -2, "shift_only": True},
        0,
    ),
}

# Sums of up to five terms of some tens, of networks and splines that round some fifty times.
TOLERANCE = {
    "float32": {"rtol": 1e-6, "atol": 1e-5},
    "float64": {"rtol": 0.0, "atol": 1e-12},
}
# The way back starts where rounding has moved the point to, and log-slopes of splines change fast.
ROUND_TRIP = {"float32": {"rtol": 0.0, "atol": 5e-5}, "float64": {"rtol": 0.0, "atol": 1e-11}}
names = pytest.mark.parametrize("name", CASES)
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)


def source(name):
    """Return a copy of the arrays of a fixture, as its function takes them."""
    arrays = dict(fixtures.read(name)[0])
    return list(arrays.values()) if name.startswith("tfp") else arrays


@functools.cache
def converted(name, dtype):
    function, options, _ = CASES[name]
    return function(source(name), dtype=dtype, **options)


def data(name, dtype):
    """Return points and condition, as arguments."""
    x, c = fixtures.points(converted(name, dtype).event_size, CASES[name][2])
    return x.astype(dtype), {} if c is None else {"condition": c.astype(dtype)}


@dtypes
@names
def test_densities_are_those_of_the_source(name, dtype):
    x, condition = data(name, dtype)
    log_prob = FlowModel(converted(name, dtype)).log_prob(x, **condition)
    np.testing.assert_allclose(log_prob, fixtures.read(name)[1], **TOLERANCE[dtype])


@dtypes
@names
def test_both_directions_undo_each_other(name, dtype):
    chain, (x, condition) = converted(name, dtype), data(name, dtype)
    z, log_det = chain.inverse_and_log_det(x, **condition)
    back, opposite = chain.forward_and_log_det(z, **condition)
    np.testing.assert_allclose(back, x, **ROUND_TRIP[dtype])
    np.testing.assert_allclose(opposite, -log_det, **ROUND_TRIP[dtype])
    z = x / 1.5
    y, log_det = chain.forward_and_log_det(z, **condition)
    back, opposite = chain.inverse_and_log_det(y, **condition)
    np.testing.assert_allclose(back, z, **ROUND_TRIP[dtype])
    np.testing.assert_allclose(opposite, -log_det, **ROUND_TRIP[dtype])


MADES = [name for name in CASES if not re.search("real_nvp|nflows_rq_nsf_coupling", name)]


@pytest.mark.parametrize("name", MADES)
def test_staircase_is_right_at_the_degrees_of_the_source(name):
    chain, (x, condition) = converted(name, "float64"), data(name, "float64")
    flow = next(flow for flow in chain.flows if isinstance(flow, keras_nf.Autoregressive))
    made, step_by_step = flow.conditioner, keras_nf.AutoregressiveNetwork.solve
    rows, c = tf.constant(x[:20]), None
    if condition:
        c = tf.constant(condition["condition"][:20])
    gradients = []
    for solve in (made.solve, functools.partial(step_by_step, made)):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            y, log_det = solve(flow.elementwise, rows, c)
            loss = tf.reduce_sum(y**2) + tf.reduce_sum(log_det)
        gradients.append([y, log_det, *tape.gradient(loss, [rows, *made.trainable_weights])])
    for ours, default in zip(*gradients):
        np.testing.assert_allclose(ours, default, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("zuko_nsf", "nflows_maf") else pytest.mark.slow)
        for name in CASES
    ],
)
def test_file_of_a_converted_flow(name, tmp_path):
    model = FlowModel(converted(name, "float32"))
    x, condition = data(name, "float32")
    log_prob = model.log_prob(x, **condition)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.log_prob(x, **condition), log_prob)


# One of each kind of map, and a condition.
@pytest.mark.parametrize(
    "name",
    [
        "zuko_maf_context",
        *(pytest.param(n, marks=pytest.mark.long) for n in ("nflows_rq_nsf", "tfp_real_nvp")),
    ],
)
def test_converted_flow_samples_and_trains(name):
    function, options, _ = CASES[name]
    # A chain of its own, which this test trains.
    model = FlowModel(function(source(name), dtype="float32", **options))
    x, condition = data(name, "float32")
    before = model.log_prob(x, **condition)
    own = {key: value[:1] for key, value in condition.items()}
    samples = np.reshape(model.sample(5, **own, seed=0), (5, -1))
    assert np.isfinite(
        model.log_prob(samples, **{k: np.repeat(v, 5, 0) for k, v in own.items()})
    ).all()
    model.compile(keras.optimizers.SGD(1e-3))
    model.fit({"x": x, **condition}, epochs=2, batch_size=250, verbose=0)
    assert np.mean(model.log_prob(x, **condition)) > np.mean(before)


@names
def test_every_weight_has_a_gradient(name):
    chain, (x, condition) = converted(name, "float64"), data(name, "float64")
    with tf.GradientTape() as tape:
        z, log_det = chain.inverse_and_log_det(x, **condition)
        loss = tf.reduce_mean(log_det) - tf.reduce_mean(z**2)
    for weight, gradient in zip(
        chain.trainable_weights, tape.gradient(loss, [w.value for w in chain.trainable_weights])
    ):
        assert np.isfinite(gradient).all(), weight.path
        assert np.any(gradient), weight.path


@pytest.mark.slow
def test_converted_flow_is_exported(tmp_path):
    model = FlowModel(converted("zuko_nsf", "float32"))
    x, _ = data("zuko_nsf", "float32")
    model.log_prob(x)
    keras_nf.export_saved_model(model, tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    log_prob = served.signatures["log_prob"](x=tf.constant(x))["log_prob"]
    np.testing.assert_allclose(log_prob, fixtures.read("zuko_nsf")[1], **TOLERANCE["float32"])


# The maps, where networks of the fixtures do not lead.


MAPS = {
    "NflowsAffine": NflowsAffine(),
    "NflowsSpline": NflowsSpline(5, 3.0, min_derivative=1e-2),
    "ZukoSpline": ZukoSpline(5, 3.0),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_at_large_parameters(name):
    elementwise = MAPS[name]
    raw = 5.0 * np.random.RandomState(0).standard_normal((elementwise.parameters, 1, 400))
    ends = np.array([-3.0, 3.0, np.nextafter(3.0, 9.0), 0.0, -40.0, 1e6])
    y = np.concatenate([np.linspace(-4.0, 4.0, 31), ends])[:, None] * np.ones(400)
    raw, y = tf.constant(np.repeat(raw, len(y), axis=1)), tf.constant(y)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([y, raw])
        x, log_derivative = elementwise.inverse(y, raw)
        back, opposite = elementwise.forward(x, raw)
    np.testing.assert_allclose(back, y, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(opposite, -log_derivative, atol=1e-6)
    slope = tape.gradient(x, y)
    np.testing.assert_allclose(np.log(slope), log_derivative, atol=1e-6)
    for value in (x, log_derivative, back, opposite):
        for gradient in tape.gradient(value, [y, raw], unconnected_gradients="zero"):
            assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", MAPS)
def test_config_of_maps(name):
    elementwise = MAPS[name]
    config = keras.saving.serialize_keras_object(elementwise)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is type(elementwise)
    assert copy.get_config() == elementwise.get_config()


# Arrays that are others.


def refused(*words):
    return pytest.raises(ValueError, match="(?s)" + ".*".join(map(re.escape, words)))


def changed(name, **arrays):
    """Return the arrays of a fixture with some, by the ends of their names, replaced."""
    state = source(name)
    for end, array in arrays.items():
        (key,) = [key for key in state if key.endswith(end.replace("__", "."))]
        state[key] = array
    return state


def test_array_that_is_left_over_is_refused():
    state = {**source("zuko_maf"), "transform.transforms.0.hyper.1.0.weight": np.ones((2, 2))}
    with refused("zuko.flows.MAF", "without residual blocks", "also", "hyper.1.0.weight"):
        convert.zuko_maf(state)


def test_array_that_is_missing_is_refused():
    state = source("zuko_maf")
    del state["transform.transforms.1.hyper.2.bias"]
    with refused("there is no 'transform.transforms.1.hyper.2.bias'"):
        convert.zuko_maf(state)


def test_adjacency_without_an_order_is_refused():
    state = source("zuko_maf")
    del state["transform.transforms.0.order"]
    with refused("without an adjacency of its own", "there is no 'transform.transforms.0.order'"):
        convert.zuko_maf(state)


def test_single_feature_of_zuko_is_refused():
    state = {f"transform.transforms.0.phi.{i}": np.ones(1) for i in range(2)}
    state |= {"base.loc": np.zeros(1), "base.scale": np.ones(1)}
    with refused("at least 2 features", "'transform.transforms.0.order'"):
        convert.zuko_maf(state)


def test_other_base_is_refused():
    with refused("base that is not the standard normal"):
        convert.zuko_maf(changed("zuko_maf", base__loc=np.ones(4)))


def test_other_mask_is_refused():
    mask = source("zuko_maf")["transform.transforms.0.hyper.2.mask"]
    state = changed("zuko_maf", **{"transforms__0__hyper__2__mask": ~mask})
    with refused("the mask of layer 1"):
        convert.zuko_maf(state)


def test_shape_that_does_not_fit_is_refused():
    state = changed("zuko_maf", **{"transforms__0__hyper__2__bias": np.ones(3)})
    with refused("shapes", "transform.transforms.0.hyper.2"):
        convert.zuko_maf(state)


def test_array_of_integers_is_refused():
    state = changed("zuko_maf", **{"transforms__0__hyper__2__bias": np.ones(10, int)})
    with refused("hyper.2.bias", "int64", "1 axes of floats"):
        convert.zuko_maf(state)


def test_splines_are_no_affine_maps():
    with refused("zuko.flows.MAF", "42 units for 3 features"):
        convert.zuko_maf(source("zuko_nsf"))
    with refused("zuko.flows.NSF", "8 units for 4 components", "3 * bins - 1"):
        convert.zuko_nsf(source("zuko_maf"))
    with refused("MaskedAffineAutoregressiveTransform", "42 units for 3 components"):
        convert.nflows_maf(source("nflows_rq_nsf"))


def test_something_else_than_a_dictionary_is_refused():
    with refused("dictionary of NumPy arrays", "Received: list"):
        convert.zuko_maf([np.ones(3)])
    with refused("list of NumPy arrays", "Received: dict"):
        convert.tfp_maf({"kernel": np.ones(3)})


def test_batch_norm_of_nflows_is_refused():
    names = ("unconstrained_weight", "bias", "running_mean", "running_var")
    state = source("nflows_maf")
    state |= {f"_transform._transforms.4.{name}": np.ones(4) for name in names}
    with refused("without batch norm", "'_transform._transforms.4.'", "running_mean"):
        convert.nflows_maf(state)
    state = source("nflows_maf")
    state["_transform._transforms.1.autoregressive_net.blocks.0.batch_norm.bias"] = np.ones(10)
    with refused("without batch norm", "also", "blocks.0.batch_norm.bias"):
        convert.nflows_maf(state)


def test_context_of_nflows_is_refused():
    state = source("nflows_maf")
    state["_transform._transforms.1.autoregressive_net.context_layer.bias"] = np.ones(10)
    with refused("but for couplings, a context", "also", "context_layer.bias"):
        convert.nflows_maf(state)


def test_couplings_of_nflows_that_are_no_splines_are_refused():
    with refused("MaskedAffineAutoregressiveTransform", "identity_features"):
        convert.nflows_maf(source("nflows_rq_nsf_coupling"))


def test_unconditional_transform_of_nflows_is_refused():
    state = source("nflows_rq_nsf_coupling")
    prefix = "_transform._transforms.0._transforms.1."
    state[f"{prefix}unconditional_transform.unnormalized_widths"] = np.ones((2, 5))
    with refused("without an unconditional transform", "also", "unconditional_transform"):
        convert.nflows_rq_nsf(state, **COUPLING)


def test_network_of_nflows_without_blocks_is_refused():
    names = [name for name in source("nflows_maf") if ".blocks." in name]
    state = {name: array for name, array in source("nflows_maf").items() if name not in names}
    with refused("'_transform._transforms.1.autoregressive_net.' without blocks"):
        convert.nflows_maf(state)


def test_minima_that_leave_no_room_are_refused():
    for option in ("min_bin_width", "min_bin_height"):
        with refused("less than one over the number of bins", "5 bins"):
            convert.nflows_rq_nsf(source("nflows_rq_nsf"), tail_bound=3.0, **{option: 0.2})
    with refused("`min_derivative` must be positive"):
        convert.nflows_rq_nsf(source("nflows_rq_nsf"), tail_bound=3.0, min_derivative=0.0)
    with refused("`slope` must be between 0 and 1"):
        convert.zuko_nsf(source("zuko_nsf"), slope=1.0)


def test_other_order_of_tfp_is_refused():
    with refused("the mask of layer 0"):
        convert.tfp_maf(source("tfp_maf"), activation="relu")
    with refused("`input_order`", "Received: 'random'"):
        convert.tfp_maf(source("tfp_maf"), input_order="random")


def test_variables_of_the_bijector_of_tfp_are_refused():
    arrays = source("tfp_maf")
    with refused("a layer of 8 units before one of 4 inputs"):
        convert.tfp_maf([*arrays[-2:], *arrays[:-2]], input_order="right-to-left")


def test_condition_of_all_layers_of_tfp_is_refused():
    arrays = source("tfp_maf_conditional")
    every = [*arrays[:5], np.ones((2, 12)), *arrays[5:], np.ones((2, 6))]
    with refused("conditional_input_layers='first_layer'"):
        convert.tfp_maf(every, input_order=(2, 3, 1))


def test_other_number_of_masked_components_is_refused():
    with refused("a first layer of 2 inputs", "num_masked=3"):
        convert.tfp_real_nvp(source("tfp_real_nvp"), num_masked=3)
    with refused("a last one of 3 units", "shift_only=False"):
        convert.tfp_real_nvp(source("tfp_real_nvp_last_masked"), num_masked=-2)
