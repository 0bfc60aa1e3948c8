"""MADE against its definition: output i has paths from the inputs before i, and from no other."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb

from keras_nf import MADE

ORDERS = pytest.mark.parametrize("order", ["sequential", "reversed", "random", "given"])
SIZES = pytest.mark.parametrize("size", [1, 2, 8], ids=lambda size: f"size{size}")
CONDITIONS = pytest.mark.parametrize("condition_size", [0, 3], ids=["plain", "conditional"])
DEPTHS = pytest.mark.parametrize(
    "hidden_units",
    [(), (2,), (8,), (12, 9), (3, 20, 4)],
    ids=lambda units: "x".join(map(str, units)) or "linear",
)
# A layer with a unit for each degree, so that no dependency is lost.
WIDE = pytest.mark.parametrize(
    "hidden_units",
    [(), (8,), (12, 9), (8, 8, 8)],
    ids=lambda u: "x".join(map(str, u)) or "-",
)


def given_order(size):
    """A permutation that is none of those with a name: even components, then odd ones backward."""
    return (*range(0, size, 2), *reversed(range(1, size, 2)))


def made_of(size, hidden_units=(16,), parameters=1, *, order="sequential", condition_size=0, **kw):
    """Return a built network with random weights in float64."""
    order = given_order(size) if order == "given" else order
    made = MADE(hidden_units, parameters, order=order, seed=4, dtype="float64", **kw)
    made.build((None, size), (None, condition_size) if condition_size else None)
    return perturb(made, seed=1)


def positions(made, size):
    """Position of every component in the network's order, found from its arguments alone."""
    named = {"sequential": range(size), "reversed": range(size)[::-1]}
    if made.order == "random":
        order = np.random.RandomState(made.seed).permutation(size)
    else:
        order = np.array(named.get(made.order, made.order))
    return np.argsort(order)


def allowed(made, size):
    """Matrix (inputs, outputs) of the dependencies of the definition: j before i."""
    rank = positions(made, size)
    return np.tile(rank[:, None] < rank[None, :], (1, made.parameters))


def paths(made):
    """Matrix (inputs, outputs) of the numbers of paths through the masks."""
    counts = [np.asarray(mask, "int64") for mask in [p.mask for p in made._products]]
    return np.linalg.multi_dot(counts) if len(counts) > 1 else counts[0]


def jacobian(made, x, condition=None, of="inputs"):
    """Jacobian (batch, inputs, outputs) with respect to the inputs or the condition."""
    x = tf.constant(x)
    condition = None if condition is None else tf.constant(condition)
    source = x if of == "inputs" else condition
    with tf.GradientTape() as tape:
        tape.watch(source)
        y = made(x, condition=condition)
    return np.swapaxes(tape.batch_jacobian(y, source), 1, 2)


def draws(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@CONDITIONS
@DEPTHS
@ORDERS
@SIZES
def test_masks_leave_no_path_from_the_component_itself_or_a_later_one(
    size, order, hidden_units, condition_size
):
    made = made_of(size, hidden_units, order=order, condition_size=condition_size)
    assert not paths(made)[~allowed(made, size)].any()


@CONDITIONS
@WIDE
@ORDERS
@SIZES
def test_wide_masks_leave_a_path_from_every_earlier_component(
    size, order, hidden_units, condition_size
):
    made = made_of(size, hidden_units, order=order, condition_size=condition_size)
    np.testing.assert_array_equal(paths(made) > 0, allowed(made, size))


@pytest.mark.parametrize("units", [1, 2, 3, 5])
def test_a_layer_narrower_than_the_event_still_connects_the_last_component_to_all_others(units):
    made = made_of(8, (units,))
    assert (paths(made)[:-1, -1] > 0).all()


@pytest.mark.parametrize("parameters", [1, 2, 5])
@ORDERS
def test_each_parameter_of_a_component_sees_the_same_inputs(order, parameters):
    made = made_of(5, (12, 9), parameters, order=order)
    by_parameter = np.split(paths(made), parameters, axis=1)
    assert len(by_parameter) == parameters
    for connections in by_parameter:
        np.testing.assert_array_equal(connections > 0, allowed(made, 5)[:, :5])


@CONDITIONS
@pytest.mark.parametrize("parameters", [1, 2, 5])
@ORDERS
def test_jacobian_is_that_of_the_definition(order, parameters, condition_size):
    # With tanh and random weights no derivative that is allowed vanishes by chance.
    made = made_of(
        5, (12, 9), parameters, order=order, condition_size=condition_size, activation="tanh"
    )
    condition = draws(3, condition_size, seed=1) if condition_size else None
    derivatives = jacobian(made, draws(3, 5), condition)
    np.testing.assert_array_equal(
        derivatives != 0.0, np.broadcast_to(allowed(made, 5), (3, 5, 5 * parameters))
    )


@DEPTHS
def test_jacobian_of_a_network_of_any_depth_has_no_forbidden_entry(hidden_units):
    made = made_of(8, hidden_units, 2, order="random", activation="tanh")
    assert not jacobian(made, draws(3, 8))[:, ~allowed(made, 8)].any()


@WIDE
@ORDERS
@SIZES
def test_every_output_depends_on_every_component_of_the_condition(size, order, hidden_units):
    made = made_of(size, hidden_units, 2, order=order, condition_size=3, activation="tanh")
    derivatives = jacobian(made, draws(2, size), draws(2, 3, seed=1), of="condition")
    assert derivatives.shape == (2, 3, 2 * size)
    assert (derivatives != 0.0).all()


@pytest.mark.parametrize("size", [2, 6])
def test_two_units_are_enough_for_every_output_to_see_the_condition(size):
    made = made_of(size, (2,), condition_size=1, activation="tanh")
    assert (jacobian(made, draws(2, size), draws(2, 1, seed=1), of="condition") != 0.0).all()


def test_a_single_component_depends_on_nothing():
    made = made_of(1, (8,), 2)
    y = made(draws(6, 1))
    np.testing.assert_array_equal(y, np.broadcast_to(y[0], (6, 2)))


def test_a_single_component_depends_on_the_condition():
    made = made_of(1, (8,), 2, condition_size=2, activation="tanh")
    assert (jacobian(made, draws(4, 1), draws(4, 2, seed=1), of="condition") != 0.0).all()


@pytest.mark.parametrize("k", range(5))
def test_component_k_of_the_order_depends_on_exactly_those_before_it(k):
    order = (3, 0, 4, 1, 2)
    made = made_of(5, (16, 16), order=order, activation="tanh")
    sources = np.flatnonzero(jacobian(made, draws(1, 5))[0, :, order[k]])
    assert set(sources) == set(order[:k])


def test_masks_hold_whatever_the_kernels_are():
    made = made_of(5, (12, 9), activation="tanh")
    for weight in made.trainable_variables:
        weight.assign(tf.ones_like(weight) * 0.1)
    np.testing.assert_array_equal(jacobian(made, draws(1, 5))[0] != 0.0, allowed(made, 5))


@pytest.mark.parametrize("condition_size", [0, 3])
@pytest.mark.parametrize("hidden_units", [(), (16,), (12, 9)])
def test_output_agrees_with_the_formula_in_numpy(hidden_units, condition_size):
    made = made_of(5, hidden_units, 2, condition_size=condition_size, activation="tanh")
    weights = {weight.name: weight.numpy() for weight in made.weights}
    x, c = draws(4, 5), draws(4, condition_size, seed=1)
    h = x
    for k, mask in enumerate([p.mask for p in made._products]):
        h = (np.tanh(h) if k else h) @ (weights[f"kernel_{k}"] * mask) + weights[f"bias_{k}"]
        if k == 0 and condition_size:
            h = h + c @ weights["condition_kernel"]
    # A sum of some ten products, rounded in another order.
    np.testing.assert_allclose(
        made(x, condition=c if condition_size else None), h, rtol=1e-12, atol=1e-12
    )


@CONDITIONS
@pytest.mark.parametrize("parameters", [1, 2, 5])
@pytest.mark.parametrize("hidden_units", [(), (16,), (12, 9)])
def test_number_of_weights(hidden_units, parameters, condition_size):
    made = made_of(5, hidden_units, parameters, condition_size=condition_size)
    sizes = (5, *hidden_units, 5 * parameters)
    dense = sum((rows + 1) * columns for rows, columns in itertools.pairwise(sizes))
    assert made.count_params() == dense + condition_size * sizes[1]


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 4)], ids=["rank3", "rank4"])
def test_leading_axes_are_kept(shape):
    made = made_of(4, (8,), 2)
    x = draws(*shape)
    expected = made(x.reshape(-1, 4)).numpy().reshape(*shape[:-1], 8)
    # The batch is laid out differently, which may change the order of the sums.
    np.testing.assert_allclose(made(x), expected, rtol=1e-12, atol=1e-12)


def test_fresh_network_returns_zero():
    np.testing.assert_array_equal(MADE((16,), 2)(draws(3, 4)), np.zeros((3, 8)))


def test_equal_seeds_give_equal_orders():
    first, second = made_of(20, order="random"), made_of(20, order="random")
    np.testing.assert_array_equal(paths(first), paths(second))


def test_other_seeds_give_other_orders():
    def connections(seed):
        made = MADE((32,), order="random", seed=seed)
        made.build((None, 20))
        return paths(made)

    assert not np.array_equal(connections(0), connections(1))


def test_drawn_seed_follows_the_global_one():
    def drawn():
        keras.utils.set_random_seed(7)
        return MADE(order="random").seed

    assert drawn() == drawn()


def test_drawn_seeds_differ():
    assert MADE(order="random").seed != MADE(order="random").seed


@CONDITIONS
@ORDERS
def test_config_and_weights_restore_the_network(order, condition_size):
    made = made_of(5, (12, 9), 2, order=order, condition_size=condition_size, activation="tanh")
    clone = MADE.from_config(made.get_config())
    clone.build((None, 5), (None, condition_size) if condition_size else None)
    clone.set_weights(made.get_weights())
    condition = draws(3, condition_size, seed=1) if condition_size else None
    x = draws(3, 5)
    np.testing.assert_array_equal(clone(x, condition=condition), made(x, condition=condition))


def test_config_keeps_the_drawn_seed():
    made = MADE(order="random")
    assert MADE.from_config(made.get_config()).seed == made.seed


# Degrees of the user's own, unsorted, unequally spread, and with some left out.
DEGREES = ((4, 0, 2, 2, 4), (1, 4, 0))


@CONDITIONS
@ORDERS
def test_given_degrees_are_numbers_of_components_that_a_unit_sees(order, condition_size):
    made = made_of(5, (5, 3), 2, order=order, condition_size=condition_size, degrees=DEGREES)
    place = positions(made, 5)
    levels = [place + 1, *map(np.array, DEGREES), np.tile(place, 2)]
    for product, before, after in zip(made._products, levels, levels[1:]):
        np.testing.assert_array_equal(product.mask, before[:, None] <= after[None, :])
    x, c = draws(4, 5), draws(4, condition_size, seed=1) if condition_size else None
    assert not jacobian(made, x, c)[:, ~allowed(made, 5)].any()


def test_given_degrees_are_kept_in_the_config():
    made = made_of(5, (5, 3), degrees=[list(DEGREES[0]), np.array(DEGREES[1])])
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert copy.degrees == made.degrees == DEGREES


@pytest.mark.parametrize(
    "degrees", [((1, 2),), ((1, 2, 3), (1,)), ((1, 2, -1),), ((1.0, 2.0, 3.0),)], ids=str
)
def test_degrees_of_other_units_are_refused(degrees):
    with pytest.raises(ValueError, match=r"`degrees` must hold .*Received: .*\(3,\)"):
        MADE((3,), degrees=degrees)


def test_degree_of_the_last_component_is_refused():
    made = MADE((3,), degrees=((1, 5, 2),))
    with pytest.raises(ValueError, match=r"less than event_size=5\. Received: a degree of 5"):
        made.build((None, 5))


def test_different_degrees_of_residual_layers_are_refused():
    with pytest.raises(ValueError, match="`degrees` must be the same for all"):
        MADE((2, 2, 2), residual=True, degrees=((0, 1), (0, 1), (1, 1)))
