"""Couplings of images: checkerboard, squeeze, mask of channels, several scales.

    python examples/gallery/image_couplings.py

The masks and the squeeze are those of real layers, by what they do to an image. Takes ten seconds.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from matplotlib.patches import FancyArrow, Rectangle
from style import BLUE, GREEN, INK, ORANGE, PALE, SKY, VERMILLION, parse, plt, save

import keras_nf

SIZES = ["image, 8 × 8 × 1", "4 × 4 × 2", "2 × 2 × 4"]
CORNERS = [ORANGE, SKY, GREEN, VERMILLION]  # pixels of a square of 2 by 2


def changed_entries(flow, shape, seed):
    """Tell which entries of images a coupling changes, by random weights."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(1, *shape)).astype("float32")
    flow.build((None, *shape))
    flow.set_weights([rng.normal(size=weight.shape) for weight in flow.weights])
    return np.asarray(flow.forward(image))[0] != image[0]


def cells(axes, colors, left=0.0, top=0.0, labels=None):
    """Draw a square of coloured cells, of size 1."""
    for i, row in enumerate(colors):
        for j, color in enumerate(row):
            corner = left + j, top - i - 1
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="white", linewidth=2))
            if labels is not None:
                position = corner[0] + 0.5, corner[1] + 0.45
                axes.text(*position, labels[i][j], ha="center", va="center", color="black")


def finish(axes, title, right, bottom):
    axes.set(title=title, xlim=(-0.2, right), ylim=(bottom, 0.4), aspect="equal")
    axes.axis("off")


def draw_checkerboard(axes, seed):
    coupling = keras_nf.AffineCoupling(event_ndims=3, mask="checkerboard", hidden_units=(8,))
    changed = changed_entries(coupling, (4, 4, 1), seed)[..., 0]
    cells(axes, np.where(changed, BLUE, PALE))
    finish(axes, "checkerboard: blue changes", 4.2, -4.2)


def draw_squeeze(axes):
    image = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    squeezed = np.asarray(keras_nf.Squeeze().inverse(image))[0].astype(int)
    numbers = image[0, ..., 0].astype(int)
    colors = [[CORNERS[2 * (i % 2) + j % 2] for j in range(4)] for i in range(4)]
    cells(axes, colors, labels=numbers)
    axes.add_patch(FancyArrow(4.4, -2.0, 0.9, 0.0, width=0.06, head_width=0.35, color=INK))
    for channel in range(4):
        left, top = 5.9 + 2.3 * (channel % 2), -2.2 * (channel // 2) + 0.1
        color = colors[channel // 2][channel % 2]
        cells(axes, [[color] * 2] * 2, left, top, squeezed[..., channel])
    finish(axes, "squeeze: one channel becomes four", 10.4, -4.3)


def draw_channels(axes, seed):
    coupling = keras_nf.AffineCoupling(event_ndims=3, hidden_units=(8,))
    changed = changed_entries(coupling, (2, 2, 4), seed).all(axis=(0, 1))
    for channel in range(4):
        left, top = 2.3 * (channel % 2), -2.2 * (channel // 2) + 0.1
        cells(axes, [[BLUE if changed[channel] else PALE] * 2] * 2, left, top)
    finish(axes, "channels: blue changes", 4.5, -4.3)


def draw_scales(axes):
    """Draw where the 64 numbers of an image of 8 by 8 pixels go, as bars of that width."""
    bars = [
        (0.0, 0, 64, PALE, SIZES[0]),
        (0.0, 1, 32, SKY, "latents"),
        (32.0, 1, 32, PALE, SIZES[1]),
        (32.0, 2, 16, SKY, "latents"),
        (48.0, 2, 16, PALE, SIZES[2]),
        (48.0, 3, 16, SKY, "latents"),
    ]
    for left, row, width, color, name in bars:
        corner = left + 0.3, -2.0 * row - 1.0
        axes.add_patch(Rectangle(corner, width - 0.6, 1.0, facecolor=color))
        axes.text(left + width / 2.0, corner[1] + 0.45, name, ha="center", va="center")
    for row, (left, width) in enumerate([(0.0, 64.0), (32.0, 32.0), (48.0, 16.0)]):
        text = "couplings" if row == 2 else "couplings, squeeze, couplings; half goes on"
        position = left + width / 2.0, -2.0 * row - 1.5
        axes.text(*position, f"↓ {text}", ha="center", va="center", fontsize=9)
    axes.set(xlim=(0.0, 64.0), ylim=(-7.1, 0.1), title="several scales")
    axes.axis("off")


def main():
    arguments = parse(__doc__, "image_couplings.png")
    figure = plt.figure(figsize=(7.0, 4.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.0, 1.25])
    panels = above.subplots(1, 3, width_ratios=[4.4, 10.6, 4.7])
    draw_checkerboard(panels[0], arguments.seed)
    draw_squeeze(panels[1])
    draw_channels(panels[2], arguments.seed)
    draw_scales(below.subplots())
    save(figure, arguments.output)


if __name__ == "__main__":
    main()
