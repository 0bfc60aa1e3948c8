"""What joins flows: layers that differ where they should, conditions that broadcast, precision."""

import numpy as np
import pytest
from cases import perturb

import keras_nf

SMALL = {"hidden_units": (8,)}


@pytest.mark.parametrize("recipe", [keras_nf.maf, keras_nf.iaf], ids=lambda f: f.__name__)
def test_random_orders_differ_from_layer_to_layer(recipe):
    flow = recipe(16, layers=4, order="random", seed=0, **SMALL)
    flow.build((None, 16))
    orders = {tuple(layer.conditioner.component_order) for layer in flow.flows}
    assert len(orders) == 4


ORDERS = {
    "sequential": [0, 1, 2, 3],
    "reversed": [3, 2, 1, 0],
    (2, 0, 3, 1): [2, 0, 3, 1],
}


@pytest.mark.parametrize("recipe", [keras_nf.maf, keras_nf.iaf], ids=lambda f: f.__name__)
@pytest.mark.parametrize("order", [None, *ORDERS], ids=str)
def test_orders_are_reversed_from_layer_to_layer(recipe, order):
    options = SMALL if order is None else {"order": order, **SMALL}
    flow = recipe(4, layers=3, **options)
    flow.build((None, 4))
    first = ORDERS[order or "sequential"]
    orders = [list(layer.conditioner.component_order) for layer in flow.flows]
    assert orders == [first, first[::-1], first]


@pytest.mark.parametrize("recipe", [keras_nf.nice, keras_nf.real_nvp], ids=lambda f: f.__name__)
def test_random_masks_differ_from_pair_to_pair(recipe):
    flow = recipe(16, layers=8, mask="random", seed=0, **SMALL)
    flow.build((None, 16))
    kept = [frozenset(layer.component_order[:8]) for layer in flow.flows[:8]]
    for first, second in zip(kept[::2], kept[1::2]):
        assert first | second == set(range(16))
        assert not first & second
    assert len(set(kept)) == 8


@pytest.mark.parametrize("flow", [keras_nf.MaskedAutoregressive, keras_nf.AffineCoupling])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_log_det_is_summed_in_the_dtype_of_the_weights(flow, direction):
    size = 301
    flow = flow(hidden_units=(), dtype="mixed_float16")
    flow.build((None, size))
    for weight in flow.weights:
        weight.assign(np.zeros(weight.shape) if len(weight.shape) > 1 else np.ones(weight.shape))
    log_det = getattr(flow, f"{direction}_and_log_det")(np.zeros((2, size), "float32"))[1]
    # The log-scale of a raw 1 with a bound of 2; half precision knows only multiples of 1/8 there.
    transformed = size if "Masked" in type(flow).__name__ else size // 2
    expected = transformed / 1.5 * (1.0 if direction == "forward" else -1.0)
    np.testing.assert_allclose(log_det, [expected] * 2, rtol=1e-5)


@pytest.mark.parametrize("recipe", [keras_nf.maf, keras_nf.real_nvp, keras_nf.iaf])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_single_condition_is_that_of_every_event(recipe, direction):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4)).astype("float32")
    condition = rng.normal(size=(1, 2)).astype("float32")
    flow = recipe(4, layers=2, **SMALL)
    flow.inverse(x, condition=np.repeat(condition, 5, axis=0))
    perturb(flow)
    function = getattr(flow, f"{direction}_and_log_det")
    expected = function(x, np.repeat(condition, 5, axis=0))
    for single in (condition, condition[0]):
        for actual, right in zip(function(x, single), expected):
            np.testing.assert_allclose(actual, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recipe", ["planar_flow", "nice", "real_nvp", "maf", "iaf"])
@pytest.mark.parametrize("options", [{"layers": 0}, {"layers": -1}, {"layers": 1.5}], ids=str)
def test_recipe_without_layers(recipe, options):
    with pytest.raises(ValueError, match=r"`layers` must be a positive integer. Received"):
        getattr(keras_nf, recipe)(4, **options)


@pytest.mark.parametrize("recipe", ["planar_flow", "nice", "real_nvp", "maf", "iaf"])
@pytest.mark.parametrize("event_size", [0, -1, 2.0, "2"])
def test_recipe_for_no_event(recipe, event_size):
    with pytest.raises(ValueError, match=r"`event_size` must be a positive integer. Received"):
        getattr(keras_nf, recipe)(event_size)


@pytest.mark.parametrize("recipe", ["real_nvp", "maf", "iaf"])
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float32"])
def test_large_inputs_give_small_densities(recipe, dtype):
    flow = getattr(keras_nf, recipe)(6, layers=4, hidden_units=(64, 64), dtype=dtype)
    flow.build((None, 6))
    rng = np.random.default_rng(0)
    for weight in flow.weights:
        weight.assign(weight + 0.3 * rng.normal(size=weight.shape))
    model = keras_nf.FlowModel(flow)
    signs = np.sign(rng.normal(size=(20, 6))).astype("float32")
    for scale in (1e2, 1e4, 1e10):
        assert np.all(model.log_prob(scale * signs) < -scale)
    assert np.all(model.log_prob(np.float32(1e37) * signs) == -np.inf)
    assert not np.isnan(flow.forward(1e4 * signs)).any()
