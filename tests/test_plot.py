"""Pictures, by what they draw: curves, images, dots, colours and files."""

import random

import keras
import matplotlib as mpl
import numpy as np
import pytest
import tensorflow as tf
from processes import run_python

import keras_nf
from keras_nf import plot

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib import colors

pytestmark = pytest.mark.usefixtures("without_xla")

rng = np.random.default_rng(0)
X = rng.normal(size=(300, 2)).astype("float32")
BLUE, VERMILLION = "#0072B2", "#D55E00"


@pytest.fixture
def axes():
    _, axes = plt.subplots()
    return axes


def normal(x):
    return np.exp(-0.5 * x**2) / np.sqrt(2.0 * np.pi)


def identity(size, **options):
    """Return a model whose density is that of its base."""
    return keras_nf.FlowModel(keras_nf.Scaling(event_size=size), **options)


def affine(scale, shift):
    """Return the model of x = scale z + shift."""
    flow = keras_nf.Scaling(use_shift=True, event_size=len(scale))
    flow.build((None, len(scale)))
    flow.log_scale.assign(np.log(scale))
    flow.shift.assign(shift)
    return keras_nf.FlowModel(flow)


def conditional():
    """Return a model of x ~ N(c, 1), both of two components."""
    flow = keras_nf.Scaling(event_size=2)
    base = keras_nf.bases.Normal(trainable=True, conditional=True)
    model = keras_nf.FlowModel(flow, base=base)
    model.log_prob(X, condition=X)
    base.loc_kernel.assign(np.eye(2))
    return model


class TestDensity:
    def test_curve(self, axes):
        assert plot.density(identity(1), -2.0, 3.0, points=11, axes=axes) is axes
        x, density = axes.lines[0].get_data()
        np.testing.assert_allclose(x, np.linspace(-2.0, 3.0, 11))
        np.testing.assert_allclose(density, normal(x), rtol=1e-5)
        assert axes.get_xlim() == (-2.0, 3.0)
        assert axes.get_ylim()[0] == 0.0

    def test_curve_over_data(self, axes):
        data = np.array([[-0.5], [0.1], [0.3], [9.0]])
        plot.density(identity(1), -1.0, 1.0, data=data, axes=axes, vmax=0.7)
        heights, edges, _ = axes.patches[0].get_data()
        # A row in four lies beyond the picture.
        assert np.sum(heights * np.diff(edges)) == pytest.approx(0.75)
        assert (edges[0], edges[-1]) == (-1.0, 1.0)
        assert axes.get_ylim() == (0.0, 0.7)
        assert axes.get_legend_handles_labels()[1] == ["data", "model"]

    def test_image(self, axes):
        model = affine([2.0, 0.5], [1.0, -1.0])
        plot.density(model, (-1.0, 0.0), (1.0, 3.0), points=6, axes=axes)
        (image,) = axes.images
        # At the centres of its pixels, the first component across and the second up.
        across, up = (-1.0 + 2.0 * (np.arange(6) + 0.5) / 6), 3.0 * (np.arange(6) + 0.5) / 6
        expected = normal((up[:, None] + 1.0) / 0.5) * normal((across - 1.0) / 2.0)
        np.testing.assert_allclose(image.get_array(), expected, rtol=1e-4)
        assert image.get_extent() == [-1.0, 1.0, 0.0, 3.0]
        assert image.origin == "lower"
        assert axes.get_aspect() == 1.0
        assert image.get_clim() == (0.0, pytest.approx(expected.max(), rel=1e-4))
        assert image.get_cmap().name == "viridis"

    def test_scale(self):
        _, (left, right) = plt.subplots(1, 2, layout="constrained")
        model = identity(2)
        plot.density(model, -1.0, 1.0, points=4, axes=left)
        plot.density(model, -1.0, 1.0, points=4, axes=right, vmax=0.1, cmap="cividis")
        bars = [axes.images[0].colorbar for axes in (left, right)]
        assert [bar.extend for bar in bars] == ["neither", "max"]
        assert right.images[0].get_clim() == (0.0, 0.1)
        assert right.images[0].get_cmap().name == "cividis"
        assert bars[0].ax.get_ylabel() == "density"

    @pytest.mark.parametrize("layout", [None, "constrained", "tight"])
    def test_colour_bar_fits_its_image(self, layout):
        figure, axes = plt.subplots(figsize=(7.0, 3.0), layout=layout)
        plot.density(identity(2), (-2.0, -1.0), (2.0, 1.0), points=4, axes=axes)
        figure.draw_without_rendering()
        image, bar = axes.get_window_extent(), axes.images[0].colorbar.ax.get_window_extent()
        np.testing.assert_allclose([bar.y0, bar.y1], [image.y0, image.y1], atol=0.5)
        assert bar.x0 > image.x1
        assert figure.get_tightbbox().x1 < 7.0

    def test_without_colour_bar_the_size_is_the_same(self):
        figure, pair = plt.subplots(1, 2, figsize=(9.0, 4.0), layout="constrained")
        for axes, colorbar in zip(pair, (True, False)):
            plot.density(identity(2), -1.0, 1.0, points=4, axes=axes, colorbar=colorbar)
        figure.draw_without_rendering()
        assert pair[1].images[0].colorbar is None
        sizes = [axes.get_window_extent().size for axes in pair]
        np.testing.assert_allclose(*sizes, rtol=1e-3)

    def test_limits_of_data(self, axes):
        data = np.array([[0.0, 0.0], [10.0, 2.0]])
        plot.density(identity(2), high=(20.0, 3.0), data=data, points=3, axes=axes)
        assert axes.get_xlim() == (-1.0, 20.0)
        assert axes.get_ylim() == (-0.2, 3.0)
        np.testing.assert_allclose(axes.collections[0].get_offsets(), data)

    def test_current_axes(self):
        axes = plot.density(identity(1), -1.0, 1.0)
        assert axes is plt.gca()
        assert plot.density(identity(1), -1.0, 1.0) is axes

    def test_condition(self, axes):
        model = conditional()
        plot.density(model, -3.0, 3.0, condition=[0.5, 1.0], points=60, axes=axes)
        row, column = np.unravel_index(np.argmax(axes.images[0].get_array()), (60, 60))
        assert -3.0 + 6.0 * (column + 0.5) / 60 == pytest.approx(0.5, abs=0.06)
        assert -3.0 + 6.0 * (row + 0.5) / 60 == pytest.approx(1.0, abs=0.06)
        with pytest.raises(ValueError, match=r"one condition\. Received: several"):
            plot.density(model, -3.0, 3.0, condition=X[:5], axes=axes)

    def test_refusals(self, axes):
        model = identity(2)
        image = keras_nf.FlowModel(keras_nf.Squeeze())
        image.build((None, 4, 4, 1))
        for wrong, options, match in (
            (identity(3), {"low": 0.0, "high": 1.0}, "a model of 3 components.*plot.corner"),
            (image, {"low": 0.0, "high": 1.0}, r"events of shape \(4, 4, 1\).*plot.images"),
            (model.flow, {"low": 0.0, "high": 1.0}, "Expected a keras_nf.FlowModel"),
            (model, {"low": 0.0}, "Give `low` and `high`"),
            (model, {"low": 1.0, "high": 0.0}, "`low` must be below `high`"),
            (model, {"low": (0.0, 0.0, 0.0), "high": 1.0}, "a number or 2 of them"),
            (model, {"data": np.zeros((5, 3))}, r"shape \(rows, 2\). Received: shape \(5, 3\)"),
            (model, {"data": np.zeros((0, 2))}, "no finite rows"),
            (model, {"low": 0.0, "high": 1.0, "points": 0}, "`points` must be a positive"),
            (model, {"low": 0.0, "high": 1.0, "axes": [axes]}, "pass an entry"),
        ):
            with pytest.raises(ValueError, match=match):
                plot.density(wrong, **{"axes": axes, **options})


class TestGrid:
    def test_lines(self, axes):
        flow = affine([2.0, 0.5], [1.0, -1.0]).flow
        assert plot.grid(flow, -1.0, 1.0, lines=3, axes=axes) is axes
        across, up = (np.array(lines.get_segments()) for lines in axes.collections)
        z = np.linspace(-1.0, 1.0, 400)
        for line, level in zip(across, (-1.0, 0.0, 1.0)):
            expected = np.stack([2.0 * z + 1.0, np.full(400, 0.5 * level - 1.0)], axis=-1)
            np.testing.assert_allclose(line, expected, atol=1e-6)
        for line, level in zip(up, (-1.0, 0.0, 1.0)):
            expected = np.stack([np.full(400, 2.0 * level + 1.0), 0.5 * z - 1.0], axis=-1)
            np.testing.assert_allclose(line, expected, atol=1e-6)
        assert axes.get_aspect() == 1.0
        assert axes.get_legend_handles_labels()[1] == ["along z[0]", "along z[1]"]
        # The limits hold all lines.
        assert axes.get_xlim()[0] <= -1.0
        assert axes.get_xlim()[1] >= 3.0

    def test_colours(self, axes):
        plot.grid(identity(2).flow, lines=5, axes=axes)
        for lines, colour in zip(axes.collections, (BLUE, VERMILLION)):
            shades = lines.get_colors()[:, :3]
            assert np.all(np.diff(shades.sum(axis=1)) < 0.0)
            # White paper: contrast of at least 1.5 also where a line is lightest.
            assert 1.05 / (shades[0] ** 2.2 @ [0.2126, 0.7152, 0.0722] + 0.05) > 1.5
            hues = colors.rgb_to_hsv(shades)[:, 0]
            np.testing.assert_allclose(hues, colors.rgb_to_hsv(colors.to_rgb(colour))[0], atol=0.02)

    def test_condition(self, axes):
        flow = keras_nf.AffineCoupling(event_size=2, hidden_units=(4,))
        flow.forward(X, condition=X)
        plot.grid(flow, lines=2, condition=[0.0, 1.0], axes=axes)
        assert len(axes.collections[0].get_segments()) == 2

    def test_refusals(self, axes):
        model = identity(3)
        for flow, options, match in (
            (model.flow, {}, "flows of two components. Received: Scaling"),
            (model, {}, "Expected a keras_nf flow, as `model.flow`"),
            (identity(2).flow, {"low": 3.0}, "`low` must be below"),
            (identity(2).flow, {"lines": 1.5}, "`lines` must be a positive"),
        ):
            with pytest.raises(ValueError, match=match):
                plot.grid(flow, axes=axes, **options)


def rings_of(contours):
    """Return the points of each contour, from the outermost in."""
    return [path.vertices for path in contours.get_paths()]


class TestLatents:
    def test_circles_of_a_normal_base(self, axes):
        model = affine([2.0, 0.5], [1.0, -1.0])
        x = X * [2.0, 0.5] + [1.0, -1.0]
        assert plot.latents(model, x, axes=axes) is axes
        points, contours = axes.collections
        np.testing.assert_allclose(points.get_offsets(), X, atol=1e-5)
        for ring, share in zip(rings_of(contours), (0.99, 0.9, 0.5)):
            # The radius within which lies a share of a standard normal in the plane.
            radius = np.sqrt(-2.0 * np.log1p(-share))
            np.testing.assert_allclose(np.hypot(*ring.T), radius, rtol=0.03)
        assert [text.get_text() for text in axes.texts] == ["99 %", "90 %", "50 %"]
        assert (axes.get_xlabel(), axes.get_aspect()) == ("z[0]", 1.0)

    def test_square_of_a_uniform_base(self, axes):
        x = rng.uniform(size=(50, 2)).astype("float32")
        plot.latents(identity(2, base="uniform"), x, axes=axes)
        (square,) = rings_of(axes.collections[1])
        np.testing.assert_allclose(square.min(axis=0), 0.0, atol=0.02)
        np.testing.assert_allclose(square.max(axis=0), 1.0, atol=0.02)

    def test_one_condition(self, axes):
        plot.latents(conditional(), X, condition=[[0.5, 1.0]], axes=axes)
        ring = rings_of(axes.collections[1])[0]
        np.testing.assert_allclose(0.5 * (ring.min(axis=0) + ring.max(axis=0)), [0.5, 1], atol=0.05)

    @pytest.mark.parametrize("size", [1, 3])
    def test_quantiles(self, axes, size):
        # Latents of exact quantiles of 2 z + 1, against a standard normal base.
        shares = (np.arange(2000) + 0.5) / 2000
        z = 2.0 * np.sqrt(2.0) * np.asarray(tf.math.erfinv(2.0 * shares - 1.0)) + 1.0
        plot.latents(identity(size), np.tile(z[:, None], size), axes=axes)
        diagonal, *curves = axes.lines
        np.testing.assert_array_equal(*diagonal.get_data())
        assert len(curves) == size
        for curve in curves:
            theirs, ours = curve.get_data()
            np.testing.assert_allclose(ours, 2.0 * theirs + 1.0, atol=0.25)
        labels = [f"z[{i}]" for i in range(size)] if size > 1 else ["z[0]"]
        assert axes.get_legend_handles_labels()[1] == labels

    def test_several_conditions(self, axes):
        # z ~ N(c, 1): by its own condition each latent is one of its base.
        c = 3.0 * rng.normal(size=(4000, 2)).astype("float32")
        z = c + rng.normal(size=c.shape).astype("float32")
        plot.latents(conditional(), z, condition=c, axes=axes)
        for curve in axes.lines[1:]:
            theirs, ours = curve.get_data()
            assert np.abs(ours).max() > 6.0
            np.testing.assert_allclose(ours, theirs, atol=0.6)

    def test_images(self, axes):
        model = keras_nf.FlowModel(keras_nf.Squeeze())
        plot.latents(model, rng.normal(size=(20, 4, 4, 1)).astype("float32"), axes=axes)
        assert len(axes.lines) == 17

    def test_refusals(self, axes):
        for x in (X[0], X[None], X[:0]):
            with pytest.raises(ValueError, match=r"data of shape \(batch, 2\)"):
                plot.latents(identity(2), x, axes=axes)
        with pytest.raises(ValueError, match="Expected a keras_nf"):
            plot.latents(identity(2).flow, X, axes=axes)


class TestSamples:
    def test_over(self, axes):
        model = affine([2.0, 0.5], [1.0, -1.0])
        assert plot.samples(model, X, seed=3, axes=axes) is axes
        data, samples = axes.collections
        np.testing.assert_array_equal(data.get_offsets(), X)
        np.testing.assert_allclose(samples.get_offsets(), model.sample(300, seed=3), rtol=1e-6)
        assert colors.same_color(data.get_facecolor()[0, :3], BLUE)
        assert colors.same_color(samples.get_facecolor()[0, :3], VERMILLION)
        assert axes.get_aspect() == 1.0

    def test_beside(self):
        _, pair = plt.subplots(1, 2)
        draws = X[:50] + 4.0
        assert plot.samples(draws, X, axes=pair) is pair
        for axes, points in zip(pair, (X, draws)):
            np.testing.assert_array_equal(axes.collections[0].get_offsets(), points)
            low, high = X.min(axis=0), draws.max(axis=0)
            np.testing.assert_allclose(axes.get_xlim(), [low[0], high[0]], rtol=0.2)
            assert axes.get_xlim() == pair[0].get_xlim()
            assert axes.get_ylim() == pair[0].get_ylim()
        assert [axes.get_title() for axes in pair] == ["data", "samples"]

    def test_conditions(self, axes):
        model, far = conditional(), 100.0 * X
        plot.samples(model, X, condition=far, axes=axes)
        offsets = axes.collections[1].get_offsets()
        np.testing.assert_allclose(offsets, far, atol=5.0)
        plot.samples(model, X, condition=[50.0, -50.0], axes=axes)
        offsets = axes.collections[3].get_offsets()
        assert len(offsets) == len(X)
        np.testing.assert_allclose(offsets, np.tile([50.0, -50.0], (300, 1)), atol=5.0)
        with pytest.raises(ValueError, match="Received: 300 for 7 rows"):
            plot.samples(model, X[:7], condition=far, axes=axes)

    def test_refusals(self, axes):
        for model, x, options, match in (
            (X, X[None], {}, r"`x`, the data, must have the shape \(rows, 2\)"),
            (rng.normal(size=(5, 3)), X, {}, r"Samples must .* shape \(5, 3\)"),
            (identity(3), X, {}, r"Samples must .* shape \(300, 3\)"),
            (X, X, {"axes": [axes] * 3}, r"or two of them .* Received: an array of shape \(3,\)"),
        ):
            with pytest.raises(ValueError, match=match):
                plot.samples(model, x, **{"axes": axes, **options})


class TestCorner:
    def test_panels(self):
        first, second = rng.normal(size=(400, 3)), rng.normal(size=(100, 3)) + 5.0
        figure = plot.corner(first, second, labels=["a", "b", "c"], names=["one", "two"], bins=10)
        places = [axes.get_subplotspec() for axes in figure.axes]
        places = [(place.rowspan.start, place.colspan.start) for place in places]
        assert places == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
        for axes, (row, column) in zip(figure.axes, places):
            if row != column:
                for dots, rows in zip(axes.collections, (first, second)):
                    np.testing.assert_array_equal(dots.get_offsets(), rows[:, [column, row]])
            else:
                for steps, rows in zip(axes.patches, (first, second)):
                    heights, edges, _ = steps.get_data()
                    inside = (rows[:, row] >= edges[0]) & (rows[:, row] <= edges[-1])
                    assert len(heights) == 10
                    assert np.sum(heights * np.diff(edges)) == pytest.approx(inside.mean())
        bottom = [axes.get_xlabel() for axes in figure.axes[3:]]
        assert bottom == ["a", "b", "c"]
        assert [figure.axes[i].get_ylabel() for i in (0, 1, 3)] == ["", "b", "c"]
        assert figure.axes[1].get_xlim() == figure.axes[0].get_xlim() == figure.axes[3].get_xlim()
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["one", "two"]
        shades = [patch.get_facecolor() for patch in legend.get_patches()]
        assert all(map(colors.same_color, shades, (BLUE, VERMILLION)))

    def test_limits(self):
        rows = rng.normal(size=(10_000, 2))
        rows[0] = 1e6
        figure = plot.corner(rows)
        # One outlier does not count; the rest reaches the quantiles of a normal.
        np.testing.assert_allclose(figure.axes[1].get_xlim(), [-3.4, 3.4], atol=0.4)
        figure = plot.corner(rows, limits=[(-1.0, 1.0), (-2.0, 3.0)])
        assert figure.axes[1].get_xlim() == (-1.0, 1.0)
        assert figure.axes[1].get_ylim() == (-2.0, 3.0)

    def test_figure(self):
        figure = plt.figure()
        assert plot.corner(X[:, :1], names=["data"], figure=figure) is figure
        assert len(figure.axes) == 1
        assert figure.axes[0].get_xlabel() == "x[0]"

    def test_refusals(self):
        for arrays, options, match in (
            ((), {}, "one to 6 sets"),
            ((X, X[:, :1]), {}, r"Received: shapes \[\(300, 2\), \(300, 1\)\]"),
            ((X[None],), {}, r"A set must have the shape \(rows, components\)"),
            ((X[:0],), {}, "one to 6 sets"),
            ((X,), {"labels": ["a"]}, "`labels` must have 2 entries"),
            ((X,), {"names": ["a", "b"]}, "`names` must have 1 entries"),
            ((X,), {"limits": [(0.0, 1.0)]}, "`limits` must have 2 entries"),
            ((X,), {"bins": 0}, "`bins` must be a positive"),
        ):
            with pytest.raises(ValueError, match=match):
                plot.corner(*arrays, **options)


class TestImages:
    def test_integers(self, axes):
        images = rng.integers(256, size=(5, 3, 4), dtype="uint8")
        assert plot.images(images, columns=3, axes=axes) is axes
        sheet = axes.images[0].get_array()
        assert sheet.shape == (7, 14, 3)
        for index, image in enumerate(images):
            top, left = index // 3 * 4, index % 3 * 5
            part = sheet[top : top + 3, left : left + 4]
            np.testing.assert_allclose(part, np.tile(image[..., None] / 255.0, 3), atol=0.003)
        # Gaps, and the place of a sixth image.
        for white in (sheet[3], sheet[:, 4], sheet[:, 9], sheet[4:, 10:]):
            np.testing.assert_array_equal(white, 1.0)
        assert not axes.axison

    def test_floats(self, axes):
        images = rng.uniform(-2.0, 6.0, size=(4, 2, 2, 1))
        images[0, 0, 0], images[3, 1, 1] = -2.0, 6.0
        plot.images(images, axes=axes)
        plot.images(images, vmin=0.0, vmax=1.0, axes=axes)
        whole, clipped = (image.get_array() for image in axes.images)
        assert whole.shape == (5, 5, 3)
        np.testing.assert_allclose(whole[:2, :2, 0], (images[0, ..., 0] + 2.0) / 8.0, atol=0.003)
        expected = np.clip(images[0, ..., 0], 0.0, 1.0)
        np.testing.assert_allclose(clipped[:2, :2, 0], expected, atol=0.003)

    def test_colours(self, axes):
        images = rng.random((2, 32, 40, 3))
        images[0, 0, 0], images[1, 0, 0] = 0.0, 1.0
        plot.images(images, axes=axes)
        sheet = axes.images[0].get_array()
        assert sheet.shape == (32, 83, 3)
        np.testing.assert_allclose(sheet[:, :40], images[0], atol=1e-6)
        plot.images(images[..., 0], cmap="viridis", axes=axes)
        expected = mpl.colormaps["viridis"](images[1, ..., 0])[..., :3]
        np.testing.assert_allclose(axes.images[1].get_array()[:, 43:], expected, atol=0.02)

    @pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8, 2), (0, 8, 8), (1, 2, 8, 8, 3)])
    def test_refusals(self, axes, shape):
        with pytest.raises(ValueError, match="Expected images of shape"):
            plot.images(np.zeros(shape), axes=axes)

    def test_all_alike(self, axes):
        plot.images(np.full((1, 2, 2), 3.0), axes=axes)
        assert np.isfinite(axes.images[0].get_array()).all()


def curves_of(axes):
    return {line.get_label(): line for line in axes.lines}


class TestHistory:
    LOGS = {
        "loss": [3.0, 2.0, 1.0, 0.5],
        "bits_per_dim": [4.0, 3.0, 2.0, 1.0],
        "learning_rate": [0.1] * 4,
        "val_loss": [2.5, 1.5],
        "val_bits_per_dim": [3.5, 2.5],
    }

    def test_curves(self, axes):
        assert plot.history(self.LOGS, validation_freq=2, axes=axes) is axes
        curves = curves_of(axes)
        assert list(curves) == ["loss", "bits_per_dim", "val_loss", "val_bits_per_dim"]
        np.testing.assert_array_equal(curves["loss"].get_data(), [[1, 2, 3, 4], self.LOGS["loss"]])
        np.testing.assert_array_equal(curves["val_loss"].get_data(), [[2, 4], [2.5, 1.5]])
        for name in ("loss", "bits_per_dim"):
            assert curves[name].get_color() == curves[f"val_{name}"].get_color()
            assert curves[name].get_linestyle() == "-"
            assert curves[f"val_{name}"].get_linestyle() == "--"
        assert curves["loss"].get_color() != curves["bits_per_dim"].get_color()

    def test_history_of_fit(self, axes):
        model = identity(2)
        model.compile("sgd", jit_compile=False)
        options = {"epochs": 6, "initial_epoch": 3, "verbose": 0, "validation_freq": [4, 6]}
        history = model.fit(X, validation_data=X, **options)
        plot.history(history, validation_freq=[4, 6], axes=axes)
        curves = curves_of(axes)
        np.testing.assert_array_equal(curves["loss"].get_xdata(), [4, 5, 6])
        np.testing.assert_array_equal(curves["val_loss"].get_xdata(), [4, 6])
        np.testing.assert_array_equal(curves["val_loss"].get_ydata(), history.history["val_loss"])

    def test_refusals(self, axes):
        with pytest.raises(ValueError, match=r"'val_loss' has 2 numbers for 4 epochs.*`valid"):
            plot.history(self.LOGS, axes=axes)
        for wrong in ({}, {"loss": []}, [1.0, 2.0]):
            with pytest.raises(ValueError, match="Expected what `fit` returned"):
                plot.history(wrong, axes=axes)


def trained(callbacks, epochs=4):
    """Return a model trained on draws of its own of noise, and its losses."""
    keras.utils.set_random_seed(0)
    flow = keras_nf.Chain([keras_nf.maf(2, layers=1, hidden_units=(4,)), keras_nf.Dequantize()])
    model = keras_nf.FlowModel(flow)
    model.compile("adam", jit_compile=False)
    history = model.fit(np.round(X), epochs=epochs, verbose=0, callbacks=callbacks)
    return model, history.history["loss"]


class TestDraw:
    @staticmethod
    def draw(model, figure):
        left, right = figure.subplots(1, 2)
        plot.density(model, -3.0, 3.0, points=5, axes=left)
        # Without a seed, by whatever generators there are.
        right.plot(*np.asarray(model.sample(10)).T, ".")
        random.random()
        np.random.random()

    def test_files(self, tmp_path):
        seen = []

        def draw(model, figure):
            seen.append(int(model.optimizer.iterations))
            self.draw(model, figure)

        folder = tmp_path / "new" / "pictures"
        callback = plot.Draw(draw, folder, every=3, size=(3.0, 2.0), dpi=50)
        model, _ = trained([callback], epochs=7)
        assert sorted(path.name for path in folder.iterdir()) == [
            "epoch_0003.png",
            "epoch_0006.png",
        ]
        steps = int(model.optimizer.iterations) // 7
        assert seen == [3 * steps, 6 * steps]
        picture = plt.imread(folder / "epoch_0003.png")
        assert picture.shape == (100, 150, 4)
        assert picture[..., :3].std() > 0.1

    def test_training_goes_on_as_without(self, tmp_path):
        expected, losses = trained([])
        model, same = trained([plot.Draw(self.draw, tmp_path)])
        assert same == losses
        for a, b in zip(model.get_weights(), expected.get_weights()):
            np.testing.assert_array_equal(a, b)

    def test_generators_are_left_alone(self, tmp_path):
        # A user's own data may draw from them.
        states = random.getstate(), np.random.get_state()[1].tolist()
        plot.Draw(self.draw, tmp_path).picture(identity(2))
        assert (random.getstate(), np.random.get_state()[1].tolist()) == states

    def test_pyplot_is_left_alone(self, tmp_path):
        figure = plt.figure()
        plot.Draw(self.draw, tmp_path).picture(identity(2))
        assert plt.get_fignums() == [figure.number]
        assert not figure.axes

    def test_tensorboard(self, tmp_path):
        callback = plot.Draw(self.draw, tmp_path, every=2, tensorboard=True)
        callback.set_model(identity(2))
        for epoch in range(4):
            callback.on_epoch_end(epoch)
        callback.on_train_end()
        (events,) = tmp_path.glob("events*")
        images = {}
        for event in tf.compat.v1.train.summary_iterator(str(events)):
            for value in event.summary.value:
                images[event.step] = value.tag, value.tensor.string_val
        # Keras counts epochs from 0 for TensorBoard.
        assert sorted(images) == [1, 3]
        name, (width, height, png) = images[1]
        assert name == "picture"
        assert (width, height) == (b"480", b"400")
        picture = tf.io.decode_png((tmp_path / "epoch_0002.png").read_bytes(), channels=3)
        np.testing.assert_array_equal(tf.io.decode_png(png), picture)

    def test_the_chief_draws(self, tmp_path, monkeypatch):
        monkeypatch.setattr("keras_nf.models.replicas.is_chief", lambda strategy: False)
        drawn = []
        callback = plot.Draw(lambda *arguments: drawn.append(1), tmp_path / "none")
        callback.set_model(identity(2))
        callback.on_epoch_end(0)
        assert drawn == []
        assert not (tmp_path / "none").exists()

    def test_picture(self, tmp_path):
        callback = plot.Draw(lambda model, figure: plot.corner(X, figure=figure), tmp_path)
        assert callback.picture(None).startswith(b"\x89PNG")
        assert list(tmp_path.iterdir()) == []

    def test_refusals(self, tmp_path):
        with pytest.raises(ValueError, match="`draw` must be a function"):
            plot.Draw("density", tmp_path)
        with pytest.raises(ValueError, match="`every` must be a positive integer"):
            plot.Draw(self.draw, tmp_path, every=0)
        elsewhere = plot.Draw(lambda model, figure: plt.plot([1.0, 2.0]), tmp_path)
        with pytest.raises(ValueError, match="has drawn nothing in the figure that it got"):
            elsewhere.picture(None)


@pytest.mark.slow
def test_without_matplotlib():
    printed = run_python(
        """
        import sys
        sys.modules["matplotlib"] = None
        import keras_nf
        plot = keras_nf.plot
        for draw in (lambda: plot.history({"loss": [1.0]}), lambda: plot.Draw(print, "folder")):
            try:
                draw()
            except ModuleNotFoundError as error:
                print(error)
        """
    )
    assert printed.count('Install it: pip install "keras_nf[plot]"') == 2
