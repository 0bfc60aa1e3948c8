"""Bad input: each is refused with a message that says what was expected, what came, what to do."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import keras_nf
from keras_nf import FlowModel

EVENT, CONDITION = 3, 2
X = np.random.default_rng(0).standard_normal((8, EVENT)).astype("float32")
C = np.random.default_rng(1).standard_normal((8, CONDITION)).astype("float32")
OTHER_SIZE = np.zeros((8, EVENT + 1), "float32")
WITH_NAN = np.where(np.arange(EVENT) == 1, np.float32("nan"), X)


def maf(**kwargs):
    return keras_nf.MaskedAutoregressive(hidden_units=(8,), **kwargs)


def coupling(**kwargs):
    return keras_nf.AffineCoupling(hidden_units=(8,), **kwargs)


def built(flow, condition=None):
    """Return the flow after its first call."""
    flow.inverse_and_log_det(X, condition)
    return flow


def model_of(flow=None, condition=None, **kwargs):
    """Return a compiled model whose flow has had its first call."""
    model = FlowModel(built(maf() if flow is None else flow, condition), **kwargs)
    model.compile("sgd")
    return model


def fresh_model(flow=None, **kwargs):
    model = FlowModel(maf() if flow is None else flow, **kwargs)
    model.compile("sgd")
    return model


def dataset(*parts):
    return tf.data.Dataset.from_tensor_slices(parts[0] if len(parts) == 1 else parts).batch(4)


def fit(model, x, y=None, **kwargs):
    return model.fit(x, y, verbose=0, **kwargs)


def refused(*words, error=ValueError):
    """Expect an error whose message has all these parts, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, words)))


# Every way from data into a flow; each takes a function that makes the flow, and the data.
ENTRIES = {
    "call": lambda flow, x: flow(x),
    "forward": lambda flow, x: flow.forward(x),
    "inverse": lambda flow, x: flow.inverse(x),
    "inverse-keyword": lambda flow, x: flow.inverse(y=x),
    "forward-log-det": lambda flow, x: flow.forward_log_det_jacobian(x),
    "inverse-log-det": lambda flow, x: flow.inverse_log_det_jacobian(x),
    "forward-and-log-det": lambda flow, x: flow.forward_and_log_det(x),
    "inverse-and-log-det": lambda flow, x: flow.inverse_and_log_det(x),
    "model": lambda flow, x: FlowModel(flow)(x),
    "log-prob": lambda flow, x: FlowModel(flow).log_prob(x),
    "fit": lambda flow, x: fit(fresh_model(flow), x),
    "fit-dataset": lambda flow, x: fit(fresh_model(flow), dataset(x)),
    "evaluate": lambda flow, x: fresh_model(flow).evaluate(x, verbose=0),
    "predict": lambda flow, x: FlowModel(flow).predict(x, verbose=0),
}
entries = pytest.mark.parametrize("enter", ENTRIES.values(), ids=ENTRIES.keys())


@entries
def test_wrong_event_size(enter):
    with refused("MaskedAutoregressive", "was built for", f"{EVENT})", "Received: shape", "4)"):
        enter(built(maf()), OTHER_SIZE)


@entries
def test_another_event_size_than_announced(enter):
    with refused("was made for events of size 3", "Received", "4)", "make a flow for these"):
        enter(maf(event_size=3), OTHER_SIZE)


def test_a_refused_size_is_not_kept():
    flow = keras_nf.LULinear((1, 0))
    with refused("`permutation` has 2 entries", "the event has 3"):
        flow.inverse(np.zeros((5, 3), "float32"))
    assert flow.inverse(np.zeros((5, 2), "float32")).shape == (5, 2)


@pytest.mark.parametrize("name", ["fit", "evaluate"])
def test_wrong_event_size_after_a_first_fit(name):
    model = fresh_model()
    fit(model, X)
    with refused("was built for", "(batch, 3)", "Received: shape (8, 4)", "make a new flow"):
        getattr(model, name)(OTHER_SIZE, verbose=0)


def test_wrong_event_size_that_only_shows_at_run_time():
    # With a last axis unknown to the graph, one component would broadcast to three.
    flow = built(keras_nf.Scaling())
    inverse = tf.function(flow.inverse_and_log_det, input_signature=[tf.TensorSpec((None, None))])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected shape \[\?,3\]"):
        inverse(tf.zeros((8, 1)))


@pytest.mark.parametrize(
    "name", ["call", "forward", "inverse", "forward-and-log-det", "model", "log-prob"]
)
def test_scalar_input(name):
    with refused("needs inputs of shape (..., event_size)", "Received", "Add an axis"):
        ENTRIES[name](maf(), np.float32(1.0))


def test_single_column_without_an_axis():
    with refused("Expected data of shape (batch, event_size)", "Received", "x[:, None]"):
        fit(fresh_model(), X[:, 0])


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_single_column_without_an_axis_for_a_model_that_is_built(name):
    # As many rows as the event has components would pass for one event.
    model = fresh_model()
    fit(model, X)
    with refused("Expected data of shape (batch, event_size)", "Received", "x[:, None]"):
        getattr(model, name)(X[: X.shape[1], 0], verbose=0)


def test_dataset_that_is_not_batched():
    rows = tf.data.Dataset.from_tensor_slices(X)
    with refused("Expected data of shape (batch, event_size)", "shape (3,)", "Batch a dataset"):
        fit(fresh_model(), rows)


@entries
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
def test_integer_array(enter, dtype):
    with refused(
        "needs inputs of a floating-point dtype", f"Received: dtype {dtype}", "dequantize"
    ):
        enter(maf(), np.zeros((8, EVENT), dtype))


@entries
def test_integer_tensor(enter):
    with refused("needs inputs of a floating-point dtype", "Received: dtype int32", "dequantize"):
        enter(maf(), tf.zeros((8, EVENT), tf.int32))


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "float64"])
def test_condition_of_another_dtype_is_cast(dtype):
    model = FlowModel(keras_nf.maf(2, layers=2, hidden_units=(8,)))
    x, labels = np.ones((3, 2), "float32"), np.eye(3)
    model({"x": x, "condition": labels})
    perturb(model.flow)
    expected = model.log_prob(x, labels.astype("float32"))
    assert len(set(expected.numpy())) == 3
    np.testing.assert_array_equal(model.log_prob(x, labels.astype(dtype)), expected)
    data = {"x": x, "condition": labels.astype(dtype)}
    np.testing.assert_allclose(model.predict(data, verbose=0), expected, rtol=1e-6)
    samples = model.sample(2, labels.astype(dtype), seed=0)
    np.testing.assert_array_equal(samples, model.sample(2, labels.astype("float32"), seed=0))


@pytest.mark.parametrize(
    "method",
    ["forward", "inverse", "forward_log_det_jacobian", "inverse_log_det_jacobian"],
)
def test_condition_without_its_name(method):
    with refused(f"{method}(x, condition=c)", "is TFP's", "(8, 2)"):
        getattr(built(maf(), C), method)(X, C)


def test_condition_of_strings():
    with refused("a condition of numbers or booleans", "dtype string", "one-hot"):
        maf()(X, condition=np.array([["a"]] * len(X)))


@pytest.mark.parametrize(
    "value", [[X, C], {"x": X}, None, object()], ids=lambda v: type(v).__name__
)
def test_what_is_no_array(value):
    with refused("needs inputs as one array or tensor", "Received"):
        FlowModel(maf()).log_prob(value)


@pytest.mark.parametrize("flow", [maf, keras_nf.Scaling, keras_nf.Planar], ids=lambda f: f.__name__)
@entries
def test_nan_with_validation(enter, flow):
    with refused("received NaN or infinite inputs", error=tf.errors.InvalidArgumentError):
        enter(flow(validate_args=True), WITH_NAN)


def test_infinity_with_validation():
    with refused("NaN or infinite", "remove or impute", error=tf.errors.InvalidArgumentError):
        maf(validate_args=True).inverse(np.where(np.isnan(WITH_NAN), np.inf, WITH_NAN))


def test_nan_with_validation_of_a_chain():
    with refused("Chain", "NaN or infinite", error=tf.errors.InvalidArgumentError):
        fit(
            fresh_model(keras_nf.maf(EVENT, layers=2, hidden_units=(8,), validate_args=True)),
            WITH_NAN,
        )


def test_nan_without_validation_gives_nan():
    assert np.isnan(FlowModel(maf()).log_prob(WITH_NAN)).all()


def test_nan_without_validation_fits_to_nan():
    assert np.isnan(fit(fresh_model(), WITH_NAN).history["loss"][0])


@pytest.mark.parametrize("flow", [keras_nf.AffineCoupling, keras_nf.AdditiveCoupling])
class TestMask:
    def test_transforms_nothing(self, flow):
        with refused("`mask` is True for every component", "transform nothing", "at least one"):
            flow(mask=[True, True])

    def test_keeps_nothing(self, flow):
        with refused("`mask` is False for every component", "nothing to condition on"):
            flow(mask=[False, False])

    def test_wrong_length(self, flow):
        with refused("`mask` has 2 entries, but the event has 3", "one boolean per component"):
            built(flow(mask=[True, False]))

    @pytest.mark.parametrize(
        "mask", [[0.5, 1.0], [0, 2], ["a", "b"], None, 3, [[True, False]]], ids=str
    )
    def test_not_boolean(self, flow, mask):
        with refused("`mask` must hold one boolean per component", "Received: " + repr(mask)):
            flow(mask=mask)

    def test_unknown_name(self, flow):
        with refused("`mask` must be one of 'half', 'alternating', 'random'", "'checkers'"):
            flow(mask="checkers")

    def test_array_is_accepted(self, flow):
        assert flow(mask=np.array([True, False, True])).mask == (True, False, True)

    def test_single_component(self, flow):
        with refused("event_size must be at least 2", "event_size=1", "MaskedAutoregressive"):
            flow().inverse(np.zeros((2, 1), "float32"))


@pytest.mark.parametrize("recipe", [keras_nf.real_nvp, keras_nf.nice], ids=lambda f: f.__name__)
def test_recipe_of_couplings_for_a_single_component(recipe):
    with refused("at least 2", "event_size=1", "keras_nf.maf"):
        recipe(1)


@pytest.mark.parametrize("recipe", [keras_nf.real_nvp, keras_nf.nice], ids=lambda f: f.__name__)
def test_recipe_of_couplings_with_an_unknown_mask(recipe):
    with refused("`mask` must be one of 'half', 'alternating', 'random'", "'checkers'"):
        recipe(4, mask="checkers")


NETWORKS = {
    "mlp": keras_nf.MLP,
    "made": keras_nf.MADE,
    "coupling": lambda units: keras_nf.AffineCoupling(hidden_units=units),
    "maf": lambda units: keras_nf.MaskedAutoregressive(hidden_units=units),
    "recipe": lambda units: keras_nf.maf(2, hidden_units=units),
}


@pytest.mark.parametrize("units", [8, (0,), (-1,), (8.0,), ("8",), (True,), None], ids=str)
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_hidden_units(network, units):
    with refused("`hidden_units` must be a tuple of positive integers", f"Received: {units!r}"):
        network(units)


@pytest.mark.parametrize("units", [[8, 4], (np.int64(8), np.int32(4))], ids=["list", "numpy"])
def test_hidden_units_of_other_kinds_become_a_tuple_of_integers(units):
    hidden_units = keras_nf.MLP(units).hidden_units
    assert hidden_units == (8, 4)
    assert {type(u) for u in hidden_units} == {int}


def test_layer_too_narrow_for_a_condition():
    flow = keras_nf.MaskedAutoregressive(hidden_units=(8, 1))
    with refused("at least 2 units", "hidden_units=(8, 1)"):
        flow.inverse(X, condition=C)


def test_mlp_without_units():
    with refused("does not know the size of its output", "Pass `units`"):
        keras_nf.MLP((8,))(X)


AUTOREGRESSIVE = pytest.mark.parametrize(
    "make",
    [
        keras_nf.MADE,
        keras_nf.MaskedAutoregressive,
        keras_nf.InverseAutoregressive,
    ],
    ids=lambda make: make.__name__,
)


@AUTOREGRESSIVE
@pytest.mark.parametrize(
    "order", [(0, 0, 1), (1, 2, 3), (0.0, 1.0, 2.0), 3, None, ((0, 1),)], ids=str
)
def test_order_that_is_no_permutation(make, order):
    with refused("`order` must be a permutation of range(event_size)", f"Received: {order!r}"):
        make(order=order)


@AUTOREGRESSIVE
def test_order_of_the_wrong_length(make):
    with refused("`order` has 2 entries, but the event has 3", "permutation of range(event_size)"):
        make(order=(1, 0)).build((None, 3))


@AUTOREGRESSIVE
def test_unknown_order(make):
    with refused("`order` must be 'sequential', 'reversed', 'random' or a permutation", "'left'"):
        make(order="left")


@pytest.mark.parametrize("recipe", [keras_nf.maf, keras_nf.iaf], ids=lambda f: f.__name__)
@pytest.mark.parametrize("order", ["alternating", (0, 0), None], ids=str)
def test_unknown_order_of_a_recipe(recipe, order):
    with refused("`order` must be ", "permutation of range(event_size)", f"Received: {order!r}"):
        recipe(2, order=order)


@pytest.mark.parametrize("permutation", [(0, 0), (1, 2), (0.0, 1.0), None], ids=str)
def test_permutation_that_is_none(permutation):
    with refused("`permutation` must be a permutation of range(event_size)", f"{permutation!r}"):
        keras_nf.Permute(permutation)


def test_permutation_of_the_wrong_length():
    with refused("`permutation` has 2 entries, but the event has 3"):
        built(keras_nf.Permute((1, 0)))


def test_unknown_permutation():
    with refused("`permutation` must be", "'reversed', 'random' or a permutation", "'shuffle'"):
        keras_nf.Permute("shuffle")


# Every way from a condition into a flow that was built already.
CONDITIONED = {
    "call": lambda flow, c: flow(X, condition=c),
    "forward": lambda flow, c: flow.forward(X, condition=c),
    "inverse": lambda flow, c: flow.inverse(X, condition=c),
    "distribution": lambda flow, c: FlowModel(flow).distribution.log_prob(X, condition=c),
    "log-prob": lambda flow, c: FlowModel(flow).log_prob(X, condition=c),
    "sample": lambda flow, c: FlowModel(flow).sample(4, condition=c),
    "fit": lambda flow, c: fit(fresh_model(flow), X if c is None else {"x": X, "condition": c}),
}
conditioned = pytest.mark.parametrize("enter", CONDITIONED.values(), ids=CONDITIONED.keys())
CONDITIONAL = pytest.mark.parametrize(
    "flow",
    [maf, coupling, lambda: keras_nf.Chain([coupling(), maf()])],
    ids=["maf", "coupling", "chain"],
)


@conditioned
@CONDITIONAL
def test_missing_condition(flow, enter):
    with refused("was built with a condition of size 2", "needs it in every call", "(..., 2)"):
        enter(built(flow(), C), None)


@conditioned
@CONDITIONAL
def test_unexpected_condition(flow, enter):
    with refused("was built without a condition", "received one of shape", "2)", "make a new flow"):
        enter(built(flow()), C)


@conditioned
@CONDITIONAL
def test_wrong_condition_size(flow, enter):
    words = "was built for a condition of shape (..., 2)", "Received: shape", "3)", "of that size"
    with refused(*words):
        enter(built(flow(), C), X)


@pytest.mark.parametrize("name", ["call", "forward", "inverse", "distribution", "log-prob"])
def test_condition_that_does_not_broadcast(name):
    words = "broadcast against the batch", "shape (8, 3)", "condition of shape (5, 2)"
    with refused(*words, "one for each event, or a single one for all, of shape (2,)"):
        CONDITIONED[name](built(maf(), C), C[:5])


def test_condition_without_an_axis_of_its_own():
    with refused("of shape (..., condition_size)", "Received: shape (None,)", "condition[:, None]"):
        fit(fresh_model(), {"x": X, "condition": C[:, 0]})


@pytest.mark.parametrize("name", ["fit", "evaluate"])
def test_condition_with_another_number_of_rows(name):
    with refused("a condition for each row", "8 rows in 'x' and 5 in 'condition'"):
        getattr(fresh_model(), name)({"x": X, "condition": C[:5]}, verbose=0)


def test_condition_with_another_number_of_rows_in_validation_data():
    data = {"x": X, "condition": C}
    with refused("a condition for each row", "8 rows in 'x' and 5 in 'condition'"):
        fit(fresh_model(), data, validation_data=({"x": X, "condition": C[:5]},))


def test_scalar_condition():
    with refused("needs a condition of shape (..., condition_size)", "Received: a scalar", "axis"):
        FlowModel(maf()).log_prob(X, condition=1.0)


@pytest.mark.parametrize("name", ["log-prob", "sample", "fit"])
def test_condition_for_a_model_that_uses_none(name):
    flow = built(keras_nf.planar_flow(EVENT, layers=2))
    with refused("No part of Chain", "uses a condition", "Leave it out", "use couplings"):
        CONDITIONED[name](flow, C)


NETWORKS = pytest.mark.parametrize("make", [maf, coupling, keras_nf.MLP, keras_nf.MADE])


@NETWORKS
def test_unknown_activation_of_a_network(make):
    with refused("Could not interpret activation function identifier: swoosh"):
        make(activation="swoosh")


def centred(h):
    return h - keras.ops.mean(h, axis=-1, keepdims=True)


@pytest.mark.parametrize("activation", ["softmax", centred])
@NETWORKS
def test_activation_that_mixes_units(make, activation):
    with refused("`activation` must act on each unit alone", "mixes the units"):
        make(activation=activation)


@pytest.mark.parametrize("activation", ["relu", np.tanh, ["tanh"]], ids=str)
def test_unknown_activation_of_a_planar_flow(activation):
    with refused("`activation` must be one of 'tanh'", "slope", f"Received: {activation!r}"):
        keras_nf.Planar(activation)


@pytest.mark.parametrize("folds", [0, -1, 2.0, True, None, "two"], ids=str)
def test_folds_of_a_planar_flow(folds):
    with refused("`folds` must be a positive integer", f"Received: {folds!r}"):
        keras_nf.Planar(folds=folds)


@pytest.mark.parametrize(
    "base", ["gauss", None, ["normal"], tfd.Normal(0.0, 1.0)], ids=lambda b: type(b).__name__
)
def test_unknown_base(base):
    with refused(
        "`base` must be one of 'normal', 'uniform', 'logistic', a layer of keras_nf.bases",
        "Received",
    ):
        FlowModel(maf(), base=base)


@pytest.mark.parametrize(
    "wrap", [lambda layer: layer, lambda layer: keras.Sequential([layer])], ids=["layer", "model"]
)
def test_conditioner_with_the_wrong_output_size(wrap):
    flow = keras_nf.AffineCoupling(conditioner=wrap(keras.layers.Dense(3)))
    with refused("conditioner of AffineCoupling", "(batch, 2)", "shape (None, 3)", "Dense(2)"):
        built(flow)


@pytest.mark.parametrize(
    "conditioner",
    [3, "mlp", lambda x: x, keras.layers.Dense],
    ids=["int", "str", "lambda", "class"],
)
def test_conditioner_that_is_no_layer(conditioner):
    with refused("`conditioner` must be a Keras layer or model", f"Received: {conditioner!r}"):
        keras_nf.AffineCoupling(conditioner=conditioner)


@pytest.mark.parametrize(
    "flows",
    [[keras.layers.Dense(2)], [tfb.Exp()], [keras_nf.Scaling(), None], keras_nf.Scaling(), None],
    ids=["layer", "bijector", "none-among-flows", "flow", "none"],
)
def test_chain_of_what_are_no_flows(flows):
    with refused("`flows` must be a list of keras_nf flows", "Received", "tfb.Chain"):
        keras_nf.Chain(flows)


@pytest.mark.parametrize(
    "flow", [tfb.Exp(), keras.layers.Dense(2), None], ids=["tfb", "layer", "none"]
)
def test_invert_of_what_is_no_flow(flow):
    with refused("`flow` must be a keras_nf flow", "Received", "tfb.Invert"):
        keras_nf.Invert(flow)


@pytest.mark.parametrize(
    "flow", [tfb.Exp(), [keras_nf.Scaling()], None], ids=["tfb", "list", "none"]
)
def test_model_of_what_is_no_flow(flow):
    with refused("`flow` must be a keras_nf flow", "Received", "keras_nf.Chain"):
        FlowModel(flow)


def test_mixed_dtypes_in_a_chain():
    with refused("same dtype", "float32", "Scaling", "float64", "Pass dtype="):
        keras_nf.Chain([keras_nf.Scaling(), keras_nf.Scaling(dtype="float64")])


def test_event_sizes_that_differ_in_a_chain():
    with refused("Scaling", "was made for events of size 2", "(None, 3)"):
        built(keras_nf.Chain([keras_nf.Scaling(event_size=2)]))


def test_base_with_a_scalar_event():
    with refused("event shape (event_size,)", "no event axes", "tfd.Independent"):
        maf()(tfd.Normal(tf.zeros(EVENT), 1.0))


def test_base_of_another_dtype():
    with refused("base has dtype float64, the flow float32", "dtype='float64'"):
        maf()(tfd.MultivariateNormalDiag(np.zeros(EVENT)))


def test_base_of_another_event_size():
    with refused("base has events of size 2, the flow of size 3", "same size"):
        built(maf())(tfd.MultivariateNormalDiag(tf.zeros(2)))


@pytest.mark.parametrize(
    "base",
    [
        lambda size: tfd.MultivariateNormalDiag(tf.zeros(size - 1)),
        lambda size: tfd.Normal(tf.zeros(size), 1.0),
        lambda size: size,
    ],
    ids=["size", "scalar-event", "no-distribution"],
)
def test_base_function_that_returns_something_else(base):
    with refused("base function must return a tfd.Distribution with event shape (3,)", "Received"):
        FlowModel(maf(), base=base).log_prob(X)


def test_base_function_of_another_dtype():
    model = FlowModel(maf(), base=lambda size: tfd.MultivariateNormalDiag(np.zeros(size)))
    with refused("base has dtype float64, the flow float32"):
        model.log_prob(X)


TARGETS = {
    "fit": lambda model: model.fit(X, X, verbose=0),
    "fit-keyword": lambda model: model.fit(X, y=X, verbose=0),
    "fit-dataset": lambda model: model.fit(dataset(X, X), verbose=0),
    "fit-with-weights": lambda model: model.fit(X, X, sample_weight=X[:, 0], verbose=0),
    "validation": lambda model: model.fit(X, validation_data=(X, X), verbose=0),
    "validation-dataset": lambda model: model.fit(X, validation_data=dataset(X, X), verbose=0),
    "evaluate": lambda model: model.evaluate(X, X, verbose=0),
    "evaluate-dataset": lambda model: model.evaluate(dataset(X, X), verbose=0),
    "train-on-batch": lambda model: model.train_on_batch(X, X),
    "test-on-batch": lambda model: model.test_on_batch(X, X),
}


@pytest.mark.parametrize("use", TARGETS.values(), ids=TARGETS.keys())
def test_targets(use):
    with refused("takes no targets", "Received: y", '{"x": y, "condition": c}'):
        use(model_of())


@pytest.mark.parametrize("loss", ["mse", lambda y_true, y_pred: y_pred], ids=["name", "function"])
def test_loss(loss):
    with refused("trains by maximum likelihood and takes no loss", "loss=", "Leave it out"):
        FlowModel(maf()).compile("adam", loss=loss)


def test_fit_before_compile():
    with refused("You must call `compile()`"):
        FlowModel(maf()).fit(X)


INPUTS = {
    "call": lambda model, x: model(x),
    "fit": lambda model, x: model.fit(x, verbose=0),
    "evaluate": lambda model, x: model.evaluate(x, verbose=0),
    "predict": lambda model, x: model.predict(x, verbose=0),
}
inputs = pytest.mark.parametrize("use", INPUTS.values(), ids=INPUTS.keys())


@inputs
def test_list_of_arrays(use):
    words = "one tensor, or a dictionary with 'x' and 'condition'", "Received", "of 2"
    with refused(*words, "np.asarray(x)", "{'x': x, 'condition': c}"):
        use(fresh_model(), [X, C])


@inputs
@pytest.mark.parametrize("key", ["cond", "y"])
def test_unknown_key_of_a_dictionary(use, key):
    with refused(
        "a dictionary with 'x' and, optionally, 'condition'", f"keys {sorted(['x', key])}"
    ):
        use(fresh_model(), {"x": X, key: C})


@inputs
def test_dictionary_without_x(use):
    with refused("a dictionary with 'x'", "keys ['condition']"):
        use(fresh_model(), {"condition": C})


@pytest.mark.parametrize("n", [-1, 2.0, "2", None, (2, 3)], ids=str)
def test_number_of_samples(n):
    with refused("`n` must be a whole number, at least 0", f"Received: {n!r}"):
        model_of().sample(n)


@pytest.mark.parametrize("seed", [1.5, (1, 2, 3)], ids=str)
def test_seed(seed):
    with refused("`seed` must be an integer, two of them, or None", f"Received: {seed!r}"):
        model_of().sample(2, seed=seed)


@pytest.mark.parametrize(
    "use",
    [lambda model: model.distribution, lambda model: model.sample(2)],
    ids=["distribution", "sample"],
)
def test_event_size_not_known_yet(use):
    with refused("The event size of", "is not known yet", "model.build((None, event_size))"):
        use(FlowModel(maf()))


CONSTANT = np.column_stack([X[:, 0], np.full(8, 0.1)])
# Half a minute of them, which float32 rounds to multiples of 128.
UNIX_TIMES = np.column_stack([X[:, 0], 1.7e9 + np.arange(0.0, 32.0, 4.0)])


def batches_of(*columns):
    """A dataset whose batches differ in their number of columns."""
    return tf.data.Dataset.from_generator(
        lambda: (X[:, :count] for count in columns),
        output_signature=tf.TensorSpec((None, None), "float32"),
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        # The mean of eight times 0.1 is not 0.1: rounding leaves a standard deviation of 1e-17.
        (CONSTANT, ("Constant components", "[1]", "Drop them, or add noise")),
        (np.ones((4, 2)), ("Constant components", "[0, 1]")),
        (WITH_NAN, ("`data` must be finite", "8 of 8 rows", "[1]", "Remove or impute")),
        (dataset(np.concatenate([X, WITH_NAN])), ("`data` must be finite", "8 of 16 rows", "[1]")),
        (np.array([[0.0, np.inf], [1.0, 2.0]]), ("`data` must be finite", "[1]")),
        (np.zeros((0, 2)), ("at least two rows", "Received: 0")),
        ([], ("at least two rows", "Received: 0")),
        (np.zeros((1, 2)), ("at least two rows", "Received: 1")),
        (X[:, 0], ("shape (rows, event_size)", "(8,)", "is missing", "data[:, None]")),
        (dataset(X[:, 0]), ("shape (rows, event_size)", "(None,)", "is missing")),
        (1.0, ("`data` must have shape (..., event_size)", "Received: 1.0")),
        ({"y": X}, ("a dictionary with 'x'", "keys ['y']")),
        (dataset({"y": X}), ("a dictionary with 'x'", "keys ['y']")),
        (dataset(X).take(0), ("at least two rows", "Received: 0")),
        (dataset(X).repeat(), ("`data` must end", "without `repeat`")),
        (np.ma.array(X, mask=X > 1.0), ("no masked values", f"with {np.sum(X > 1.0)} of them")),
        (X.astype(str), ("must hold real numbers", "dtype <U32", "x.astype('float32')")),
        (dataset(X.astype(str)), ("must hold real numbers", "dtype object")),
        (X.astype(object), ("must hold real numbers", "dtype object")),
        (X + 1j, ("must hold real numbers", "dtype complex64")),
        (X.astype("datetime64[s]"), ("must hold real numbers", "dtype datetime64[s]")),
        ([[1.0], [1.0, 2.0]], ("must be one array", "a list", "same number of components")),
        (tf.ragged.constant([[1.0], [1.0, 2.0]]), ("must be one array", "a RaggedTensor")),
        (tf.sparse.from_dense(X), ("must be one array", "a SparseTensor", "dense array")),
        (iter(X), ("must be one array", "dataset of such batches", "that is no array")),
        (keras.Input((EVENT,)), ("must be one array", "a KerasTensor")),
        (batches_of(1, 3), ("same number of components in every batch", "of 1 and of 3 columns")),
        (batches_of(3, 1), ("same number of components in every batch", "of 3 and of 1 columns")),
        (X * [1.0, 1e-60, 1.0], ("between 1.2e-38 and 3.4e+38 in float32", "[1]", "Rescale")),
        (X * [1.0, 1e-39, 1e39], ("between 1.2e-38 and 3.4e+38 in float32", "[1, 2]")),
        (UNIX_TIMES, ("too few digits in float32", "[1]", "Subtract an offset", "float64")),
        (UNIX_TIMES.astype("float32"), ("too few digits in float32", "[1]")),
        (UNIX_TIMES[:1].astype("float32").repeat(9, 0) + [[0]], ("Constant", "[0, 1]")),
        (np.float32(X[:, :1] * [0, 1] + [1.7e9, 0]), ("too few digits in float32", "[0]")),
    ],
    ids=[
        "constant",
        "all-constant",
        "nan",
        "nan-in-a-dataset",
        "infinite",
        "no-rows",
        "empty-list",
        "one-row",
        "no-event-axis",
        "no-event-axis-in-a-dataset",
        "scalar",
        "dictionary",
        "dataset-of-dictionaries",
        "empty-dataset",
        "endless-dataset",
        "masked",
        "strings",
        "dataset-of-strings",
        "objects",
        "complex",
        "dates",
        "ragged-list",
        "ragged",
        "sparse",
        "iterator",
        "symbolic",
        "batches-of-1-and-3",
        "batches-of-3-and-1",
        "tiny-scale",
        "subnormal-and-huge-scale",
        "times-for-float32",
        "times-in-float32",
        "constant-in-float64",
        "constant-in-float32",
    ],
)
def test_data_to_standardize(data, words):
    with refused(*words):
        keras_nf.Standardize().adapt(data)


def test_times_that_float64_holds():
    standardize = keras_nf.Standardize(dtype="float64")
    standardize.adapt(UNIX_TIMES)
    np.testing.assert_allclose(standardize.std, UNIX_TIMES.std(axis=0), rtol=1e-12)


def test_scales_that_float64_cannot_square():
    with refused("between 1e-150 and 1e+150 in float64", "[0, 2]"):
        keras_nf.Standardize(dtype="float64").adapt(X * [1e-200, 1.0, 1e200])


@pytest.mark.parametrize("as_data", [np.asarray, dataset], ids=["array", "dataset"])
def test_latents_of_values_outside_an_interval(as_data):
    x = np.random.default_rng(0).uniform(size=(20, 2)).astype("float32")
    x[3, 0], x[7, 1], x[7, 0], x[9, 1] = -0.01, 1.01, np.nan, np.inf
    with refused("must be finite", "3 of 20 rows", "[0, 1]", "`Logit`", "outside"):
        keras_nf.Standardize().adapt(as_data(keras_nf.Logit().inverse(x)))


def test_constant_data_in_a_dataset():
    with refused("Constant components", "[1]"):
        keras_nf.Standardize().adapt(tf.data.Dataset.from_tensor_slices(CONSTANT).batch(3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_data_of_another_size_to_standardize(dtype):
    with refused("Standardize", "was built for inputs of shape (..., 3)", "2)"):
        built(keras_nf.Standardize(dtype=dtype)).adapt(C)


@pytest.mark.parametrize(
    ("low", "high"),
    [(1.0, 0.0), (1.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))],
    ids=["swapped", "equal", "nan", "infinite"],
)
def test_interval_of_logit(low, high):
    with refused("`low` must be less than `high`", "finite", f"low={low!r}, high={high!r}"):
        keras_nf.Logit(low, high)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        ([0.0, 0.0], [1.0, 0.0], ("less than `high`", "low=0.0, high=0.0 in component 1")),
        (0.0, [1.0, -1.0, -2.0], ("high=-1.0 in component 1", "also wrong: [2]")),
        ([0.0, 1.0], [2.0, float("inf")], ("both finite", "high=inf in component 1")),
        ([0.0, 0.0], [1.0, 1.0, 1.0], ("one number per component", "2 in `low` and 3 in `high`")),
        ([[0.0]], 1.0, ("`low` must be a number, or a sequence", "[[0.0]]")),
        (0.0, "1", ("`high` must be a number, or a sequence", "'1'")),
        ([], 1.0, ("`low` must be a number, or a sequence", "[]")),
        # Next to each other, or the same, in float32.
        (1.0, 1.0 + 2.0**-23, ("need numbers between them in float32", "low=1.0", "offset")),
        ([0.0, 1e9], [1.0, 1e9 + 1], ("float32", "low=1000000000.0", "component 1", "float64")),
        (-3e38, 3e38, ("need numbers between them in float32", "rescale")),
    ],
)
def test_intervals_of_logit(low, high, words):
    with refused(*words):
        keras_nf.Logit(low, high, margin=0.0)


@pytest.mark.parametrize("ends", [([0.0, 0.0], 1.0), (0.0, (1.0, 1.0))], ids=["low", "high"])
def test_intervals_of_logit_for_another_event(ends):
    with refused("of Logit", "has 2 numbers, but the event has 3 components"):
        keras_nf.Logit(*ends).inverse(X)


@pytest.mark.parametrize("margin", [-0.1, 0.5, float("nan")])
def test_margin_of_logit(margin):
    with refused("`margin` must lie in [0, 0.5)", f"Received: {margin!r}"):
        keras_nf.Logit(margin=margin)


@pytest.mark.parametrize("bound", [0, -1.0, float("nan")])
@pytest.mark.parametrize("make", [maf, coupling], ids=["maf", "coupling"])
def test_bound_of_the_log_scale(make, bound):
    with refused("`log_scale_bound` must be a positive number, or None", f"Received: {bound!r}"):
        make(log_scale_bound=bound)


@pytest.mark.parametrize(
    "name", ["forward", "inverse", "forward_and_log_det", "inverse_and_log_det"]
)
def test_symbolic_tensor_outside_of_call(name):
    with refused("symbolic Keras tensor outside of `call`", "flow(x)", "keras_nf.Invert(flow)"):
        getattr(maf(), name)(keras.Input((EVENT,)))


def test_symbolic_tensor_of_unknown_size():
    with refused("with a known last axis", "(None, None)", "give its size"):
        maf()(keras.Input((None,)))


def test_variational_model_takes_no_encoder():
    flow = keras_nf.planar_flow(2, layers=1)
    with refused("without a condition and takes no `encoder`", "Leave it out"):
        keras_nf.VariationalModel(flow, lambda x: x[:, 0], encoder=keras.layers.Dense(2))


@pytest.mark.parametrize("name", ["quantile", "cdf"])
def test_quantiles_and_cdf(name):
    density = built(maf())(tfd.Independent(tfd.Normal(tf.zeros(EVENT), 1.0), 1))
    with refused("events of one component", "from samples"):
        getattr(density, name)(X[0])
