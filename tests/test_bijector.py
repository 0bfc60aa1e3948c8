"""Every row of the table as a TFP bijector."""

import numpy as np
import pytest
import tensorflow as tf
from cases import (
    CASES,
    assert_close,
    base_distribution,
    base_points,
    build,
    conditions,
    data_points,
    has_condition,
    has_weights,
    is_kind,
    make,
    perturb,
    rows,
)
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import keras_nf
from keras_nf import Flow

DIRECTIONS = pytest.mark.parametrize("direction", ["forward", "inverse"])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def fused(flow, direction):
    return getattr(flow, f"{direction}_and_log_det")


def points(case, direction, *batch, **kwargs):
    return {"forward": base_points, "inverse": data_points}[direction](case, *batch, **kwargs)


def assert_all_close(actual, expected, dtype="float64", factor=1.0):
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, dtype, factor)


def density(case, flow, x, **condition):
    """Log-density from the flow's inverse, without any of TFP's or our distributions."""
    z, log_det = flow.inverse_and_log_det(x, **condition)
    return base_distribution(case, x.dtype).log_prob(z) + log_det


# Ways to get the density of a flow: each gives a function of the points and the condition.
def through_flow(flow, base):
    dist = flow(base)
    return lambda x, condition: dist.log_prob(x, **condition)


def through_tfp(flow, base):
    dist = tfd.TransformedDistribution(base, flow)
    return lambda x, condition: dist.log_prob(x, bijector_kwargs=condition)


def through_tfp_chain(flow, base):
    dist = tfd.TransformedDistribution(base, tfb.Chain([flow]))
    return lambda x, condition: dist.log_prob(x, bijector_kwargs={flow.name: condition})


def through_tfp_invert(flow, base):
    dist = tfd.TransformedDistribution(base, tfb.Invert(keras_nf.Invert(flow)))
    return lambda x, condition: dist.log_prob(x, bijector_kwargs=condition)


THROUGH = pytest.mark.parametrize(
    "through",
    [through_flow, through_tfp, through_tfp_chain, through_tfp_invert],
    ids=["flow", "tfd", "tfb-chain", "tfb-invert"],
)


# The table itself.


def test_every_public_flow_has_a_row():
    flows = {
        name
        for name in keras_nf.__all__
        if isinstance(getattr(keras_nf, name), type)
        and issubclass(getattr(keras_nf, name), Flow)
        and name != "Flow"
    }
    recipes = set(keras_nf.recipes.__all__)
    assert (flows | recipes) - {case.public for case in CASES} == set()


@pytest.mark.parametrize("name", keras_nf.__all__)
def test_every_public_name_has_a_docstring_with_an_example(name):
    doc = getattr(keras_nf, name).__doc__ or ""
    assert "Example:\n" in doc
    assert ">>> " in doc


def test_names_of_rows_are_unique():
    names = [case.name for case in CASES]
    assert sorted(set(names)) == sorted(names)


@rows()
def test_row_makes_what_it_says(case):
    public = getattr(keras_nf, case.public)
    expected = public if isinstance(public, type) else keras_nf.Chain
    assert type(case.flow()) is expected


@rows(variations=False)
def test_condition_is_used_where_the_row_says(case):
    assert make(case).uses_condition is case.conditional


@rows(lambda case: case.data_shape == case.base_shape)
def test_kept_components_pass_unchanged(case):
    x = base_points(case, 7)
    y = make(case).forward(x, **conditions(case, 7))
    assert tuple(np.flatnonzero(np.all(x == y, axis=0))) == case.kept


# The map and its inverse.


@rows()
@DTYPES
def test_inverse_undoes_forward(case, dtype):
    flow, condition = make(case, dtype), conditions(case, 50, dtype=dtype)
    z = base_points(case, 50, dtype=dtype)
    y, _ = flow.forward_and_log_det(z, **condition)
    assert_close(flow.inverse_and_log_det(y, **condition)[0], z, dtype)


@rows()
@DTYPES
def test_forward_undoes_inverse(case, dtype):
    flow, condition = make(case, dtype), conditions(case, 50, dtype=dtype)
    y = data_points(case, 50, dtype=dtype)
    z, _ = flow.inverse_and_log_det(y, **condition)
    assert_close(flow.forward_and_log_det(z, **condition)[0], y, dtype)


@rows()
@DTYPES
def test_log_dets_of_the_two_directions_cancel(case, dtype):
    flow, condition = make(case, dtype), conditions(case, 50, dtype=dtype)
    y, forward = flow.forward_and_log_det(base_points(case, 50, dtype=dtype), **condition)
    assert_close(flow.inverse_and_log_det(y, **condition)[1], -forward, dtype)


@rows()
@DIRECTIONS
def test_log_det_is_that_of_the_jacobian(case, direction):
    flow, condition = make(case), conditions(case, 6)
    x = points(case, direction, 6)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y, log_det = fused(flow, direction)(x, **condition)
        components = tf.unstack(tf.reshape(y, (6, -1)), axis=-1)
    jacobian = tf.stack([tape.gradient(component, x) for component in components], axis=1)
    jacobian = tf.reshape(jacobian, (6, case.size, case.size))
    assert_close(log_det, np.linalg.slogdet(jacobian)[1])


@rows(variations=False)
@DIRECTIONS
def test_tfp_methods_give_what_the_fused_method_gives(case, direction):
    flow, condition = make(case), conditions(case, 6)
    x = points(case, direction, 6)
    value = getattr(flow, direction)(x, **condition)
    of_log_det = getattr(flow, f"{direction}_log_det_jacobian")
    log_det = of_log_det(x, event_ndims=case.event_ndims, **condition)
    assert_all_close((value, log_det), fused(flow, direction)(x, **condition))


@rows(variations=False)
def test_keras_call_is_forward(case):
    flow, condition = make(case), conditions(case, 6)
    x = base_points(case, 6)
    assert_all_close(
        flow(x, return_log_det=True, **condition), flow.forward_and_log_det(x, **condition)
    )


# A single component leaves an autoregressive flow nothing but an affine map.
@rows(lambda case: case.size > 1)
def test_affine_rows_and_no_others_are_affine(case):
    flow, condition = make(case), conditions(case, 20)
    a, b = base_points(case, 20), base_points(case, 20, seed=1)
    middle = flow.forward((a + b) / 2, **condition)
    mean = (flow.forward(a, **condition) + flow.forward(b, **condition)) / 2
    assert np.allclose(middle, mean, rtol=1e-9, atol=1e-9) is case.affine


# Batches.


@rows(variations=False)
@DIRECTIONS
@pytest.mark.parametrize("batch", [(), (0,), (2, 3)], ids=str)
def test_batches_of_any_rank(case, direction, batch):
    flow = make(case)
    x, condition = points(case, direction, *batch), conditions(case, *batch)
    value, log_det = fused(flow, direction)(x, **condition)
    assert value.shape == (*batch, *case.shape_from(direction))
    assert log_det.shape == batch
    flat_condition = {
        name: tf.reshape(value, (-1, case.condition_size)) for name, value in condition.items()
    }
    flat_value, flat_log_det = fused(flow, direction)(
        tf.reshape(x, (-1, *x.shape[len(batch) :])), **flat_condition
    )
    expected = np.reshape(flat_value, value.shape), np.reshape(flat_log_det, batch)
    assert_all_close((value, log_det), expected)


@rows(variations=False)
@DIRECTIONS
def test_unknown_batch_size(case, direction):
    flow, x, condition = make(case), points(case, direction, 6), conditions(case, 6)
    signature = [tf.TensorSpec((None, *t.shape[1:]), t.dtype) for t in (x, *condition.values())]

    @tf.function(input_signature=signature)
    def run(x, condition=None):
        value, log_det = fused(flow, direction)(x, condition)
        assert value.shape.as_list() == [None, *case.shape_from(direction)]
        assert log_det.shape.as_list() == [None]
        return value, log_det

    assert_all_close(run(x, *condition.values()), fused(flow, direction)(x, **condition))


@rows(is_kind)
@DIRECTIONS
def test_unknown_rank(case, direction):
    flow = make(case)
    tensors = 1 + len(conditions(case))

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float64)] * tensors)
    def run(x, condition=None):
        return fused(flow, direction)(x, condition)

    for batch in ((), (2, 3)):
        x, condition = points(case, direction, *batch), conditions(case, *batch)
        value, log_det = run(x, *condition.values())
        assert log_det.shape == batch
        assert_all_close((value, log_det), fused(flow, direction)(x, **condition))


# Compilation.


# Other operations than those of the first rows.
OTHERS = {
    *("planar-sigmoid", "planar-arctan", "planar-softplus", "planar-elu", "spline-circular"),
    *("affine-network", "affine-residual-conditional", "maf-residual-conditional", "maf-long"),
    *("chain-nested", "invert-maf", "recipe-nsf-coupling"),
}


@pytest.mark.slow
@rows(lambda case: is_kind(case) or case.name in OTHERS)
def test_compiled_functions_give_the_eager_numbers(case):
    flow, condition = make(case, "float32"), conditions(case, 6, dtype="float32")
    z, x = base_points(case, 6, dtype="float32"), data_points(case, 6, dtype="float32")

    def both(z, x, condition):
        return (
            *flow.forward_and_log_det(z, **condition),
            *flow.inverse_and_log_det(x, **condition),
        )

    compiled = tf.function(both, jit_compile=True)(z, x, condition)
    assert_all_close(compiled, both(z, x, condition), "float32")


# Numbers that are none.


def has_nan(values):
    """Which events have a NaN."""
    return np.isnan(np.reshape(values, (len(values), -1))).any(axis=1)


@rows(variations=False)
@DIRECTIONS
def test_nan_stays_nan_and_in_its_row(case, direction):
    """A NaN in each component, one at a time, of two rows of nineteen."""
    flow, x = make(case), points(case, direction, 19).numpy()
    components, broken = list(np.ndindex(*x.shape[1:])), [3, 18]
    count = len(components)
    is_broken = np.tile(np.isin(np.arange(19), broken), count)
    with_nan = np.tile(x, (count, *[1] * len(x.shape[1:])))
    for i, component in enumerate(components):
        with_nan[([19 * i + row for row in broken], *component)] = np.nan
    condition = conditions(case, 19)
    tiled = {name: tf.tile(value, (count, 1)) for name, value in condition.items()}
    value, log_det = (np.asarray(part) for part in fused(flow, direction)(with_nan, **tiled))
    for part, expected in zip((value, log_det), fused(flow, direction)(x, **condition)):
        others = np.delete(np.arange(19), broken)
        expected = np.concatenate([np.asarray(expected)[others]] * count)
        assert_close(part[~is_broken], expected)
    assert has_nan(value)[is_broken].all()
    assert not np.isinf(log_det[is_broken]).any()
    assert has_nan(getattr(flow, direction)(with_nan, **tiled))[is_broken].all()
    if direction == "inverse":
        log_prob = flow(base_distribution(case)).log_prob(with_nan, **tiled)
        np.testing.assert_array_equal(np.isnan(log_prob), is_broken)


# Densities.


# Numbers of base points between which nearly all of the mass lies.
REACH = {"normal": (-7.0, 7.0), "uniform": (1e-7, 1.0 - 1e-7)}


@rows(lambda case: case.event_size == 2)
def test_density_integrates_to_one(case):
    flow = make(case)
    edge = np.linspace(*REACH[case.base], 41)
    z = np.stack(np.meshgrid(edge, edge), axis=-1).reshape(-1, 2)
    condition = {name: value[0] for name, value in conditions(case, 1).items()}
    image = flow.forward(z, **condition).numpy()
    axes = [np.linspace(image[:, i].min(), image[:, i].max(), 301) for i in range(2)]
    x = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    density = np.exp(flow(base_distribution(case)).log_prob(x.reshape(-1, 2), **condition))
    mass = np.sum(density) * np.prod([axis[1] - axis[0] for axis in axes])
    # The density is nearly zero at the edges, where the plain sum is then the trapezoidal rule. It
    # takes a few steps over the narrowest features; kinks of the activations cost the most.
    assert mass == pytest.approx(1.0, abs=2e-3)


@rows(is_kind)
@THROUGH
def test_log_prob_is_the_density_of_the_inverse(case, through):
    flow, condition = make(case), conditions(case, 6)
    x = data_points(case, 6)
    log_prob = through(flow, base_distribution(case))
    assert_close(log_prob(x, condition), density(case, flow, x, **condition))


@rows(lambda case: is_kind(case) and has_weights(case))
@THROUGH
def test_log_prob_of_the_same_tensor_follows_the_weights(case, through):
    flow, condition = make(case, seed=1), conditions(case, 6)
    x, log_prob = data_points(case, 6), through(flow, base_distribution(case))
    before = log_prob(x, condition)
    perturb(flow, seed=2)
    after = log_prob(x, condition)
    assert not np.allclose(before, after, rtol=1e-3, atol=1e-3)
    assert_close(after, density(case, flow, tf.identity(x), **condition))


@rows(lambda case: is_kind(case) and has_weights(case))
@DIRECTIONS
@pytest.mark.parametrize("wrap", [lambda flow: flow, tfb.Invert], ids=["flow", "tfb-invert"])
def test_maps_of_the_same_tensor_follow_the_weights(case, direction, wrap):
    flow, condition = make(case, seed=1), conditions(case, 6)
    wrapped = wrap(flow)
    opposite = {"forward": "inverse", "inverse": "forward"}
    own = direction if wrapped is flow else opposite[direction]
    x = points(case, own, 6)
    value = getattr(wrapped, direction)
    log_det = getattr(wrapped, f"{direction}_log_det_jacobian")
    # TFP's cache lasts as long as what was computed is kept.
    before = value(x, **condition), log_det(x, **condition)
    perturb(flow, seed=2)
    after = value(x, **condition), log_det(x, **condition)
    assert not np.allclose(after[0], before[0], rtol=1e-3, atol=1e-3)
    assert_all_close(after, fused(flow, own)(tf.identity(x), **condition))


@rows(has_weights, variations=False)
def test_equal_looking_flows_are_different(case):
    one, other = make(case, seed=1, name="flow"), make(case, seed=2, name="flow")
    assert one != other
    assert hash(one) != hash(other)
    x, condition = base_points(case, 6), conditions(case, 6)
    first, second = one.forward(x, **condition), other.forward(x, **condition)
    assert not np.allclose(first, second, rtol=1e-3, atol=1e-3)


@rows(variations=False)
def test_sample_and_log_prob_agree(case):
    flow, condition = make(case), conditions(case, 4)
    dist = flow(base_distribution(case))
    x, log_prob = dist.experimental_sample_and_log_prob(3, seed=1, **condition)
    # Twice the tolerance of one direction: the points come out of the other.
    condition = {name: tf.broadcast_to(c, (3, *c.shape)) for name, c in condition.items()}
    assert_close(log_prob, density(case, flow, x, **condition), factor=2.0)


@rows(variations=False)
def test_sample_is_forward_of_the_base_sample(case):
    flow, condition = make(case), conditions(case, 4)
    base = base_distribution(case)
    shape = (3, 4) if condition else (3,)
    z = base.sample(shape, seed=(1, 2))
    assert_close(flow(base).sample(3, seed=(1, 2), **condition), flow.forward(z, **condition))


@rows()
def test_constant_jacobian_is_claimed_for_affine_rows_alone(case):
    assert make(case).is_constant_jacobian is case.affine


@rows(lambda case: case.affine)
def test_mean_of_an_affine_flow(case):
    flow = make(case)
    base = tfd.Independent(tfd.Normal(base_points(case), 1.0), case.event_ndims)
    assert_close(flow(base).mean(), flow.forward(base.mean()))


@rows(lambda case: not case.affine)
def test_mean_of_other_flows_is_refused(case):
    with pytest.raises(NotImplementedError, match="affine"):
        make(case)(base_distribution(case)).mean()


# Weights and their gradients.


def gradients_of(flow, loss):
    with tf.GradientTape() as tape:
        value = loss()
    return tape.gradient(value, [v.value for v in flow.trainable_variables])


def assert_reach(case, flow, gradients):
    for i, (weight, gradient) in enumerate(zip(flow.trainable_variables, gradients, strict=True)):
        assert gradient is not None, weight.path
        assert np.isfinite(gradient).all(), weight.path
        assert np.any(np.abs(gradient) > 1e-9) == (i not in case.idle), weight.path


@rows(lambda case: is_kind(case) and has_weights(case))
@THROUGH
def test_log_prob_reaches_every_weight(case, through):
    flow, condition = make(case), conditions(case, 20)
    x, log_prob = data_points(case, 20), through(flow, base_distribution(case))
    gradients = gradients_of(flow, lambda: tf.reduce_mean(log_prob(x, condition)))
    assert_reach(case, flow, gradients)


@rows(has_weights)
def test_sample_reaches_every_weight(case):
    flow, condition = make(case), conditions(case, 4)
    dist = flow(base_distribution(case))

    def loss():
        x = dist.sample(10, seed=1, **condition)
        return tf.reduce_mean(tf.sin(x) + x**2)

    assert_reach(case, flow, gradients_of(flow, loss))


def has_loops(case):
    """Whether a direction of a single flow is a loop, or has a gradient of its own."""
    evaluations = case.inverse_evaluations, case.forward_evaluations
    return (None in evaluations or "Planar" in case.public) and "recipe" not in case.name


@rows(has_loops, variations={"maf-residual-conditional"})
@DIRECTIONS
def test_gradients_through_a_loop_are_those_without(case, direction):
    flow, x, condition = make(case), points(case, direction, 2, 3), conditions(case, 3)
    weights = [v.value for v in flow.trainable_variables]

    def at_once(x):
        return fused(flow, direction)(x, **condition)

    def in_a_loop(x):
        return tf.map_fn(at_once, x, fn_output_signature=(x.dtype, x.dtype))

    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, log_det = function(x)
            loss = tf.reduce_sum(y**2) + tf.reduce_sum(log_det)
        return tape.gradient(loss, [x, *weights], unconnected_gradients="zero")

    expected = gradients(at_once)
    for a, e in zip(tf.function(gradients)(in_a_loop), expected, strict=True):
        assert_close(a, e, "float64", 10.0)


@rows(has_weights, variations=False)
def test_log_prob_of_samples_reaches_every_weight(case):
    flow, condition = make(case), conditions(case, 4)
    dist = flow(base_distribution(case))

    def loss():
        x, log_prob = dist.experimental_sample_and_log_prob(10, seed=1, **condition)
        return tf.reduce_mean(log_prob) + tf.reduce_mean(x**2)

    assert_reach(case, flow, gradients_of(flow, loss))


@rows(has_weights)
@DIRECTIONS
def test_gradients_are_those_of_finite_differences(case, direction):
    flow, condition = make(case), conditions(case, 5)
    x = points(case, direction, 5)
    weights = flow.trainable_variables
    rng = np.random.default_rng(0)
    step = [rng.standard_normal(w.shape) for w in weights]
    start = [w.numpy() for w in weights]

    def loss():
        value, log_det = fused(flow, direction)(x, **condition)
        return tf.reduce_mean(tf.sin(value)) + tf.reduce_mean(log_det)

    gradients = gradients_of(flow, loss)
    slope = sum(np.sum(g * s) for g, s in zip(gradients, step))

    def moved(size):
        for weight, value, change in zip(weights, start, step):
            weight.assign(value + size * change)
        return float(loss())

    # Error of a central difference: the step squared, 1e-10, times a third derivative that is large
    # where the maps stretch; the step, where a log-slope has a kink; a rounding of 1e-16 over it.
    central = (moved(1e-5) - moved(-1e-5)) / 2e-5
    assert slope == pytest.approx(central, rel=1e-5, abs=1e-5)


@rows(variations=False)
def test_variables_are_found_through_a_distribution(case):
    flow = make(case)
    dist = flow(base_distribution(case))
    assert len(dist.trainable_variables) == case.weights
    assert {id(v) for v in dist.trainable_variables} == {
        id(v.value) for v in flow.trainable_variables
    }


@rows(is_kind)
@pytest.mark.parametrize(
    "wrap", [lambda flow: tfb.Chain([flow]), tfb.Invert], ids=["tfb-chain", "tfb-invert"]
)
def test_variables_are_found_through_tfp_bijectors(case, wrap):
    flow = make(case)
    wrapped = wrap(flow)
    dist = tfd.TransformedDistribution(base_distribution(case), wrapped)
    expected = {id(v.value) for v in flow.trainable_variables}
    for module in (wrapped, dist):
        assert {id(v) for v in module.trainable_variables} == expected
        # Those that are no weights are the states of generators.
        assert len(module.variables) == len(flow.variables)


# Evaluations of networks.


def count_evaluations(flow):
    """Count the evaluations of every network of the flow, in a list that grows."""
    calls = []

    def counting(layer, call):
        def counted(*args, **kwargs):
            calls.append(layer.name)
            return call(*args, **kwargs)

        return counted

    for layer in flow._flatten_layers():
        network = vars(layer).get("conditioner")
        if network is not None:
            object.__setattr__(network, "call", counting(network, network.call))
    return calls


def eager(run):
    return run()


def in_graph(run):
    return tf.function(run)()


def under_tape(run):
    with tf.GradientTape():
        return run()


MODES = pytest.mark.parametrize(
    "mode", [eager, in_graph, under_tape], ids=lambda mode: mode.__name__
)


@rows(lambda case: case.inverse_evaluations, variations=False)
@MODES
@pytest.mark.parametrize("through", [through_flow, through_tfp], ids=["flow", "tfd"])
def test_a_density_evaluates_each_network_once(case, mode, through):
    flow, condition = make(case), conditions(case, 6)
    x, log_prob = data_points(case, 6), through(flow, base_distribution(case))
    calls = count_evaluations(flow)
    mode(lambda: log_prob(x, condition))
    assert len(calls) == case.inverse_evaluations


@rows(lambda case: case.forward_evaluations, variations=False)
@MODES
def test_a_sample_with_its_density_evaluates_each_network_once(case, mode):
    flow, condition = make(case), conditions(case, 6)
    base = base_distribution(case)
    calls = count_evaluations(flow)
    mode(lambda: flow(base).experimental_sample_and_log_prob(6, seed=1, **condition))
    assert len(calls) == case.forward_evaluations


# Conditions.


@rows(lambda case: is_kind(case) and has_condition(case))
@DIRECTIONS
@pytest.mark.parametrize(
    ("batch", "condition_batch"),
    [((4,), ()), ((4,), (5, 4)), ((), (4,)), ((4,), (5, 1)), ((5, 4), (4,)), ((1,), (4,))],
    ids=str,
)
def test_condition_broadcasts_against_the_batch(case, direction, batch, condition_batch):
    flow = make(case)
    x = points(case, direction, *batch)
    condition = conditions(case, *condition_batch)["condition"]
    value, log_det = fused(flow, direction)(x, condition)
    full = np.broadcast_shapes(batch, condition_batch)
    assert log_det.shape == full
    expected = fused(flow, direction)(
        tf.broadcast_to(x, (*full, *x.shape[len(batch) :])),
        tf.broadcast_to(condition, (*full, case.condition_size)),
    )
    assert_all_close((value, log_det), expected)


@rows(has_condition)
@DIRECTIONS
def test_condition_changes_every_component_that_is_not_kept(case, direction):
    flow, x = make(case), points(case, direction, 5)
    one, other = (getattr(flow, direction)(x, **conditions(case, 5, seed=i)) for i in (0, 1))
    changed = np.any(np.abs(one - other) > 1e-6, axis=0)
    assert tuple(np.flatnonzero(~changed)) == case.kept


@rows(has_condition, variations=False)
def test_samples_of_each_condition(case):
    dist = make(case)(base_distribution(case))
    condition = conditions(case, 4)
    assert dist.sample(3, seed=1, **condition).shape == (3, 4, *case.data_shape)
    assert dist.sample(seed=1, **condition).shape == (4, *case.data_shape)
    assert dist.sample((3, 2), seed=1, **condition).shape == (3, 2, 4, *case.data_shape)


@rows(has_condition, variations=False)
def test_samples_of_equal_conditions_have_their_own_noise(case):
    dist = make(case)(base_distribution(case))
    condition = tf.repeat(conditions(case, 1)["condition"], 4, axis=0)
    x = dist.sample(seed=1, condition=condition).numpy()
    assert len(np.unique(x.reshape(4, -1)[:, 0])) == 4


@rows(lambda case: not case.conditional)
def test_condition_is_ignored_by_flows_without_a_network(case):
    flow, x = make(case), base_points(case, 5)
    condition = tf.ones((5, 2), "float64")
    assert_all_close(flow.forward_and_log_det(x, condition), flow.forward_and_log_det(x))


def test_build_and_make_differ():
    case = CASES[0]
    x = base_points(case, 5)
    assert np.array_equal(build(case).forward(x), x)
    assert not np.allclose(make(case).forward(x), x)
