"""Flows of images: squares of pixels, masks, convolutions, scales, recipes, and the example."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb
from processes import run_example

import keras_nf
from keras_nf import FlowModel

pytestmark = pytest.mark.usefixtures("without_xla")

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 4, 6, 2))
LABELS = np.eye(3)[RNG.integers(3, size=6)]
SMALL = {"hidden_units": (8,), "activation": "tanh"}


def built(flow, x=IMAGES, condition=None):
    flow.inverse_and_log_det(x, condition)
    return perturb(flow)


# Squeeze.


@pytest.mark.parametrize("factor", [1, 2])
def test_squares_of_pixels_become_channels(factor):
    z = keras_nf.Squeeze(factor, dtype="float64").inverse(IMAGES).numpy()
    for i in range(factor):
        for j in range(factor):
            first = 2 * (factor * i + j)
            expected = IMAGES[:, i::factor, j::factor]
            np.testing.assert_array_equal(z[..., first : first + 2], expected)


def test_batches_of_images_of_any_rank_are_squeezed():
    flow = keras_nf.Squeeze(dtype="float64")
    z = flow.inverse(IMAGES)
    np.testing.assert_array_equal(
        flow.inverse(IMAGES.reshape(2, 3, 4, 6, 2)), z.numpy().reshape(2, 3, 2, 3, 8)
    )
    np.testing.assert_array_equal(flow.inverse(IMAGES[0]), z[0])


@pytest.mark.parametrize(
    ("direction", "shape", "message"),
    [
        ("inverse", (1, 3, 4, 1), r"height and width of the data that 2 divides.*\(3, 4, 1\)"),
        ("forward", (1, 3, 4, 6), r"channels of the base that 4 divides.*\(3, 4, 6\)"),
    ],
)
def test_sizes_that_cannot_be_squeezed(direction, shape, message):
    with pytest.raises(ValueError, match=message):
        getattr(keras_nf.Squeeze(), direction)(np.zeros(shape, "float32"))


# Couplings of images.


def changed(flow, shape):
    """Which entries of an image a coupling changes, in any of some images."""
    x = RNG.normal(size=(4, *shape))
    return np.any(built(flow, x).forward(x) != x, axis=0)


@pytest.mark.parametrize("swap", [False, True])
def test_checkerboard_alternates_in_both_directions(swap):
    flow = keras_nf.AdditiveCoupling(
        mask="checkerboard", swap=swap, event_ndims=3, dtype="float64", **SMALL
    )
    expected = [[False, True, False], [True, False, True]]
    for channel in range(2):
        actual = changed(flow, (2, 3, 2))[..., channel]
        np.testing.assert_array_equal(actual, np.array(expected) != swap)


@pytest.mark.parametrize(
    ("mask", "transformed"), [("half", (2,)), ("alternating", (1,)), ((False, True, False), (0, 2))]
)
def test_masks_of_channels(mask, transformed):
    flow = keras_nf.AdditiveCoupling(mask=mask, event_ndims=3, dtype="float64", **SMALL)
    expected = np.isin(range(3), transformed)
    assert (changed(flow, (2, 3, 3)) == expected).all()


def test_a_network_sees_the_neighbours_of_a_pixel_and_no_others():
    flow = keras_nf.AdditiveCoupling(
        mask="checkerboard", event_ndims=3, dtype="float64", hidden_units=()
    )
    x = RNG.normal(size=(1, 5, 5, 1))
    built(flow, x)
    moved = x.copy()
    moved[0, 2, 2] += 1.0
    change = (flow.forward(moved) - flow.forward(x))[0, ..., 0].numpy()
    # What is transformed of the square around a kept pixel: its four neighbours.
    expected = [[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0] * 5]
    np.testing.assert_array_equal(change != 0.0, np.array(expected, bool))


def test_the_condition_is_the_same_at_each_pixel():
    """Far from the borders an image of one colour stays one, in the transformed channel."""
    flow = keras_nf.AffineCoupling(event_ndims=3, dtype="float64", **SMALL)
    x = np.ones((2, 7, 7, 2))
    built(flow, x, LABELS[:2])
    y = flow.forward(x, condition=LABELS[:2]).numpy()[:, 2:-2, 2:-2, 1]
    np.testing.assert_allclose(y, np.broadcast_to(y[:, :1, :1], y.shape), atol=1e-14)
    labels = LABELS[:1] + [[1.0, 0.0, 0.0]]
    assert abs(flow.forward(x[:1], condition=labels)[0, 3, 3, 1] - y[0, 0, 0]) > 1e-3


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        ({"mask": "checkerboard", "event_ndims": 1}, "'half', 'alternating', 'random' or one bool"),
        ({"event_ndims": 3}, "must be at least 2.*Use mask='checkerboard'"),
        ({"mask": ((True, False),), "event_ndims": 3}, "one boolean per component"),
        ({"mask": (((True,), (False,)),), "event_ndims": 3}, "1x2x1 entries, but.*2x2x1"),
    ],
)
def test_masks_that_are_none(flow, message):
    with pytest.raises(ValueError, match=message):
        keras_nf.AffineCoupling(**flow).inverse(np.zeros((1, 2, 2, 1), "float32"))


def test_a_checkerboard_of_one_pixel():
    flow = keras_nf.AffineCoupling(mask="checkerboard", event_ndims=3)
    with pytest.raises(ValueError, match=r"several positions.*Use a mask of its last axis"):
        flow.inverse(np.zeros((1, 1, 1, 4), "float32"))


def test_a_network_that_sees_images():
    """Any Keras network of the right shapes will do."""
    network = keras.Sequential(
        [
            keras.layers.Conv2D(8, 3, padding="same", activation="gelu", dtype="float64"),
            keras.layers.Conv2D(2, 1, dtype="float64"),
        ]
    )
    flow = keras_nf.AffineCoupling(event_ndims=3, conditioner=network, dtype="float64")
    built(flow)
    np.testing.assert_allclose(flow.inverse(flow.forward(IMAGES)), IMAGES, atol=1e-12)
    wrong = keras_nf.AffineCoupling(event_ndims=3, conditioner=keras.layers.Conv2D(2, 3))
    with pytest.raises(ValueError, match=r"\(batch, 4, 6, 1\) to \(batch, 4, 6, 2\).*\(None, 2, 4"):
        wrong.inverse(IMAGES)


# Networks.


@pytest.mark.parametrize("hidden_units", [(), (5,), (5, 4), (5, 4, 3)], ids=str)
def test_convnet_is_a_stack_of_convolutions(hidden_units):
    network = keras_nf.ConvNet(hidden_units, units=3, kernel_size=5, activation="tanh")
    network.build((None, 4, 6, 2))
    weights = [0.3 * RNG.normal(size=w.shape).astype("float32") for w in network.weights]
    network.set_weights(weights)
    layers = []
    for i, (kernel, bias) in enumerate(zip(weights[0::2], weights[1::2])):
        is_last = i == len(hidden_units)
        size = 5 if i % 2 == 0 or is_last else 1
        activation = None if is_last else "tanh"
        layer = keras.layers.Conv2D(len(bias), size, padding="same", activation=activation)
        layer.build((None, 4, 6, kernel.shape[-2]))
        layer.set_weights([kernel, bias])
        layers.append(layer)
    x = IMAGES.astype("float32")
    np.testing.assert_allclose(network(x), keras.Sequential(layers)(x), rtol=1e-5, atol=1e-5)


def test_convnet_starts_at_zero_with_the_links_of_its_units():
    network = keras_nf.ConvNet((50, 50), units=3)
    network.build((None, 4, 6, 2))
    for i, links in enumerate([9 * 2, 50]):
        for weight in network.weights[2 * i : 2 * i + 2]:
            largest = np.max(np.abs(weight)) * np.sqrt(links)
            assert 0.9 < largest <= 1.0, weight.path
    assert not np.any(network(IMAGES.astype("float32")))


def test_residual_convnet_adds_blocks_by_a_gate():
    network = keras_nf.ConvNet((4, 4, 4), units=3, residual=True, condition_size=1, dtype="float64")
    network.build((None, 4, 6, 2))
    perturb(network)
    weights = {weight.name: weight.numpy() for weight in network.weights}

    def layer(i, h):
        return tf.nn.conv2d(h, weights[f"kernel_{i}"], 1, "SAME") + weights[f"bias_{i}"]

    stream = layer(0, IMAGES)
    gate = tf.sigmoid(IMAGES[..., 1:] @ weights["gate_kernel_2"] + weights["gate_bias_2"])
    stream = stream + gate * layer(2, tf.nn.relu(layer(1, tf.nn.relu(stream))))
    np.testing.assert_allclose(network(IMAGES), layer(3, stream), atol=1e-12)


def test_convnet_of_sequences_and_volumes():
    for shape in ((7, 2), (3, 4, 5, 2)):
        network = keras_nf.ConvNet((4,), units=3)
        assert network(np.zeros((2, *shape), "float32")).shape == (2, *shape[:-1], 3)


def test_an_even_kernel_has_no_centre():
    with pytest.raises(ValueError, match=r"`kernel_size` must be odd.*Received: 4"):
        keras_nf.ConvNet(kernel_size=4)


def test_linear_layer_of_an_image_is_a_convolution_of_one_pixel():
    chain = keras_nf.Chain(
        [keras_nf.LULinear("random", seed=0, dtype="float64"), keras_nf.Squeeze(dtype="float64")],
        dtype="float64",
    )
    built(chain)
    z = RNG.normal(size=(6, 2, 3, 8))
    linear = chain.flows[0]
    matrix = (linear.forward(np.eye(8)) - linear.forward(np.zeros(8))).numpy()
    x, log_det = chain.forward_and_log_det(z)
    convolved = tf.nn.conv2d(z, matrix[None, None], 1, "SAME") + linear.shift
    np.testing.assert_allclose(chain.flows[1].inverse(x), convolved, atol=1e-12)
    np.testing.assert_allclose(log_det, 6 * np.linalg.slogdet(matrix)[1], rtol=1e-12)


# Scales.


def test_half_of_the_channels_are_done():
    inner = keras_nf.Chain(
        [keras_nf.Scaling(dtype="float64"), keras_nf.Squeeze(dtype="float64")], dtype="float64"
    )
    flow = keras_nf.Multiscale(inner)
    x = RNG.normal(size=(5, 4, 4, 3))
    built(flow, x)
    z, log_det = flow.inverse_and_log_det(x)
    own, own_log_det = inner.inverse_and_log_det(x[..., :2])
    np.testing.assert_array_equal(z[..., :8], own)
    np.testing.assert_array_equal(z[..., 8:], keras_nf.Squeeze(dtype="float64").inverse(x[..., 2:]))
    np.testing.assert_array_equal(log_det, own_log_det)


def test_scales_in_scales():
    """Each has half of the channels of the one before, and half of the height and the width."""

    def level(flows):
        return keras_nf.Chain([*flows, keras_nf.Squeeze(dtype="float64")], dtype="float64")

    flow = level([])
    for _ in range(2):
        flow = level([keras_nf.Multiscale(flow)])
    x = RNG.normal(size=(2, 8, 16, 1))
    assert flow.inverse_event_shape((8, 16, 1)) == (1, 2, 64)
    assert flow.forward_event_shape((1, 2, 64)) == (8, 16, 1)
    z = flow.inverse(x)
    np.testing.assert_array_equal(np.sort(z, axis=None), np.sort(x, axis=None))
    np.testing.assert_array_equal(flow.forward(z), x)


def test_images_of_one_channel_have_no_half():
    flow = keras_nf.Multiscale(keras_nf.ActNorm())
    with pytest.raises(ValueError, match=r"needs images of several channels.*Put a Squeeze"):
        flow.inverse(np.zeros((1, 2, 2, 1), "float32"))
    with pytest.raises(ValueError, match="`flow` must be a keras_nf flow"):
        keras_nf.Multiscale([keras_nf.ActNorm()])


def test_the_flow_of_a_scale_adapts_to_its_channels():
    x = RNG.normal(3.0, 2.0, size=(50, 4, 4, 2))
    flow = keras_nf.Multiscale(keras_nf.ActNorm(dtype="float64"))
    assert flow.needs_data
    assert not flow.adapted
    flow.adapt(x)
    assert flow.adapted
    z = flow.inverse(x).numpy()
    np.testing.assert_allclose([z[..., 0].mean(), z[..., 0].std()], [0.0, 1.0], atol=1e-12)
    np.testing.assert_array_equal(z[..., 1], x[..., 1])


# Recipes.


RECIPES = {
    "glow": lambda **options: keras_nf.glow((4, 6, 2), levels=2, steps=2, **SMALL, **options),
    "real-nvp": lambda **options: keras_nf.image_real_nvp((4, 6, 2), **SMALL, **options),
}
recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def names(flow):
    return [type(member).__name__ for member in flow.flows]


def test_steps_of_glow():
    flow = keras_nf.glow((12, 20, 1), levels=3, steps=2)
    steps = 2 * ["AffineCoupling", "LULinear", "ActNorm"]
    outer = flow
    for _ in range(2):
        assert names(outer) == ["Multiscale", "AffineCoupling", *steps, "Squeeze"]
        outer = outer.flows[0].flow
    # Three rows of pixels cannot be squeezed.
    assert names(outer) == steps
    assert flow.inverse_event_shape((12, 20, 1)) == (3, 5, 16)


def test_layers_of_the_multiscale_real_nvp():
    flow = keras_nf.image_real_nvp((8, 8, 3))
    couplings = [f for f in flow.flows if isinstance(f, keras_nf.AffineCoupling)]
    assert [(f.mask, f.swap) for f in couplings] == [
        *[("half", swap) for swap in (False, True, False)],
        *[("checkerboard", swap) for swap in (False, True, False)],
    ]
    inner = flow.flows[0].flow
    assert {f.mask for f in inner.flows[::2]} == {"checkerboard"}
    assert len(inner.flows) == 8


@pytest.mark.parametrize("recipe", [keras_nf.glow, keras_nf.image_real_nvp])
def test_recipes_of_images_take_images(recipe):
    with pytest.raises(ValueError, match=r"`event_shape` must be \(height, width, channels\)"):
        recipe((28, 28))


@recipes
def test_fresh_flows_only_move_entries(recipe):
    flow = recipe(dtype="float64")
    z, log_det = flow.inverse_and_log_det(IMAGES)
    np.testing.assert_array_equal(np.sort(z, axis=None), np.sort(IMAGES, axis=None))
    np.testing.assert_array_equal(log_det, np.zeros(6))


@recipes
def test_adapted_flows_have_unit_latents(recipe):
    model = FlowModel(recipe(dtype="float64"))
    x = RNG.normal(5.0, 3.0, size=(200, 4, 6, 2))
    model.adapt(x)
    z = model.flow.inverse(x).numpy()
    assert abs(z.mean()) < 0.1
    assert abs(z.std() - 1.0) < 0.1


@pytest.mark.parametrize(
    ("recipe", "condition"),
    [
        pytest.param(RECIPES["glow"], LABELS, id="glow-by-class"),
        pytest.param(RECIPES["glow"], None, id="glow", marks=pytest.mark.long),
        pytest.param(RECIPES["real-nvp"], LABELS, id="real-nvp-by-class", marks=pytest.mark.long),
        pytest.param(RECIPES["real-nvp"], None, id="real-nvp", marks=pytest.mark.slow),
    ],
)
def test_images_train_and_are_drawn(recipe, condition, tmp_path):
    x = np.tile(IMAGES, (8, 1, 1, 1)).astype("float32")
    data = x if condition is None else {"x": x, "condition": np.tile(condition, (8, 1))}
    model = FlowModel(recipe())
    model.adapt(data)
    model.compile(keras.optimizers.Adam(0.01))
    losses = model.fit(data, epochs=8, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 1.0
    drawn = model.sample(3, condition=condition, seed=0)
    assert drawn.shape == (3, *(() if condition is None else (6,)), 4, 6, 2)
    assert np.isfinite(drawn).all()
    model.save(tmp_path / "images.keras")
    loaded = keras.saving.load_model(tmp_path / "images.keras")
    np.testing.assert_array_equal(loaded.sample(3, condition=condition, seed=0), drawn)
    first = IMAGES.astype("float32")
    np.testing.assert_array_equal(
        loaded.log_prob(first, condition), model.log_prob(first, condition)
    )


@pytest.mark.slow
@recipes
def test_served_images(recipe, tmp_path):
    model = FlowModel(recipe())
    x = IMAGES.astype("float32")
    model.log_prob(x)
    perturb(model.flow)
    keras_nf.export_saved_model(model, tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served")).signatures
    (log_prob,) = served["log_prob"](x=tf.constant(x)).values()
    np.testing.assert_allclose(log_prob, model.log_prob(x), rtol=1e-5)
    (drawn,) = served["sample"](n=tf.constant(5), seed=tf.constant([1, 2])).values()
    np.testing.assert_allclose(drawn, model.sample(5, seed=(1, 2)), rtol=1e-4, atol=1e-4)
    assert drawn.shape == (5, 4, 6, 2)


# The example.


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["glow", "--by-class"], marks=pytest.mark.slow),
        pytest.param(["real_nvp"], marks=pytest.mark.long),
        pytest.param(["maf"], marks=pytest.mark.long),
    ],
    ids=str,
)
def test_the_example_trains_and_draws(options, tmp_path):
    pytest.importorskip("matplotlib")
    shapes = {"x_train": (2300, 8, 8), "x_test": (200, 8, 8), "y_train": 2300, "y_test": 200}
    highest = {"x_train": 16, "x_test": 16, "y_train": 10, "y_test": 10}
    data = {name: RNG.integers(highest[name], size=shape) for name, shape in shapes.items()}
    np.savez(tmp_path / "data.npz", **{name: part.astype("uint8") for name, part in data.items()})
    small = ["--minutes", "0.1", "--levels", "2", "--steps", "1", "--units", "8", "8"]
    paths = ["--data", tmp_path / "data.npz", "--out", tmp_path / "out"]
    printed = run_example("images", *paths, *small, "--model", *options)
    (mean, error) = re.search(r"([\d.]+) ± ([\d.]+) bits per dim", printed).groups()
    # Levels of 4 bits, which no model beats; a short training of small ones learns nearly that.
    assert 3.9 < float(mean) < (np.inf if options[0] == "maf" else 8.0)
    assert 0.0 < float(error) < np.inf
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"samples.png", "interpolations.png", "log.csv", "model.keras"}
