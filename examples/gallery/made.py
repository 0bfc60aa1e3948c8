"""MADE: the links that its masks leave, and the masks.

    python examples/gallery/made.py

A unit of degree m sees the first m components; a link is kept where degrees do not fall, or, to an
output, where they rise. What the masks say is checked against the derivatives of the real network.
Takes ten seconds.
"""

import itertools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from matplotlib.colors import ListedColormap
from matplotlib.patches import Circle
from style import INK, PALE, SKY, parse, plt, save

import keras_nf

SIZE = 4
HIDDEN = [[1, 1, 2, 2, 3, 3], [1, 1, 2, 2, 3, 3]]
LEVELS = [np.array(level) for level in ([1, 2, 3, 4], *HIDDEN, [1, 2, 3, 4])]
COLORS = plt.get_cmap("viridis")(np.linspace(0.95, 0.3, SIZE))


def masks():
    """Return the masks of the kernels, of shape (outputs, inputs)."""
    pairs = list(itertools.pairwise(LEVELS))
    kept = [after[:, None] >= before for before, after in pairs[:-1]]
    before, after = pairs[-1]
    return [*kept, after[:, None] > before]


def check(product):
    """Compare where derivatives of a MADE with these degrees can be other than zero."""
    made = keras_nf.MADE([len(level) for level in HIDDEN], activation="tanh", degrees=HIDDEN)
    made.build((None, SIZE))
    made.set_weights([keras.random.normal(weight.shape, seed=1) for weight in made.weights])
    x = keras.random.normal((20, SIZE), seed=2)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = made(x)
    derivatives = tape.batch_jacobian(outputs, x).numpy()
    np.testing.assert_array_equal(np.abs(derivatives).max(axis=0) > 0.0, product > 0)


def draw_network(axes, kept):
    places = [
        [(width * 1.9, -(i - (len(level) - 1) / 2.0)) for i in range(len(level))]
        for width, level in enumerate(LEVELS)
    ]
    for mask, before, after in zip(kept, places, places[1:]):
        for j, end in enumerate(after):
            for i, start in enumerate(before):
                if mask[j, i]:
                    axes.plot(*zip(start, end), color=SKY, linewidth=1.0, zorder=1)
    for k, (level, points) in enumerate(zip(LEVELS, places)):
        for degree, (x, y) in zip(level, points):
            face = COLORS[degree - 1]
            axes.add_patch(Circle((x, y), 0.33, facecolor=face, edgecolor=INK, zorder=2))
            dark = np.mean(face[:3]) < 0.45
            label = {"ha": "center", "va": "center", "color": "white" if dark else "black"}
            axes.text(x, y, degree, zorder=3, **label)
            if k == 0:
                axes.text(x - 0.55, y, f"$x_{degree}$", ha="right", va="center")
            elif k == len(LEVELS) - 1:
                axes.text(x + 0.55, y, rf"$s_{degree}, t_{degree}$", ha="left", va="center")
    axes.set(xlim=(-1.2, 7.3), ylim=(-3.0, 3.0), aspect="equal", title="links, by degree")
    axes.axis("off")


def draw_mask(axes, mask, name):
    axes.pcolormesh(mask, cmap=ListedColormap([PALE, SKY]), vmin=0, vmax=1, edgecolor="white")
    axes.invert_yaxis()
    axes.set(title=name, aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def main():
    arguments = parse(__doc__, "made.png")
    kept = masks()
    product = kept[2].astype(int) @ kept[1].astype(int) @ kept[0].astype(int)
    check(product)
    figure = plt.figure(figsize=(7.0, 3.1), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.35, 1.0])
    draw_network(left.subplots(), kept)
    names = ["$M_1$", "$M_2$", "$M_3$", "paths: $M_3 M_2 M_1$"]
    for axes, mask, name in zip(right.subplots(2, 2).flat, [*kept, product > 0], names):
        draw_mask(axes, mask, name)
    save(figure, arguments.output)


if __name__ == "__main__":
    main()
