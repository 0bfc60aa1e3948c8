"""Data and their latents: what the inverse of a flow makes of five blades.

    python examples/gallery/latents.py

Points keep their colour. The circles hold 50, 90 and 99 % of a standard normal distribution; the
share of the latents within each is printed. The flow is that of `trained.py`, from the folder
`--cache`, or trained in less than a minute.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from style import BLUE, GALLERY, GREEN, GREY, INK, ORANGE, PURPLE, VERMILLION, plt, save
from trained import CACHE, SETS, Training

import keras_nf

POINTS = 4000
SHARES = (0.5, 0.9, 0.99)
COLOURS = ListedColormap([BLUE, VERMILLION, GREEN, PURPLE, ORANGE])


def blade_of(x):
    """Return the number of the blade that each point of the pinwheel belongs to."""
    turns = (np.arctan2(x[:, 1], x[:, 0]) + 0.25 * np.exp(np.hypot(*x.T) / 2.0)) / (2.0 * np.pi)
    return np.round(5.0 * turns).astype(int) % 5


def draw(axes, points, blades, title, reach):
    axes.scatter(*points.T, c=blades, s=3.0, linewidths=0.0, cmap=COLOURS)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set(visible=True, color=GREY, linewidth=0.5)
    axes.set_title(title)


def draw_circles(axes, z, title):
    for share in SHARES:
        radius = np.sqrt(-2.0 * np.log(1.0 - share))
        axes.add_patch(Circle((0.0, 0.0), radius, fill=False, edgecolor=INK, linewidth=1.0))
        text = axes.text(0.0, -radius, f"{share:.0%}", ha="center", va="center", fontsize=8)
        text.set_path_effects([withStroke(linewidth=3.0, foreground="white")])
        print(f"{title}: {np.mean(np.hypot(*z.T) < radius):.3f} within the circle of {share:g}")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flow", default="real_nvp", help="a name of trained.FLOWS")
    parser.add_argument("--steps", type=int, help="another number of steps of training")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--output", type=Path, default=GALLERY / "latents.png")
    options = parser.parse_args(arguments)
    training = Training(options.flow, steps=options.steps, cache=options.cache)
    flow = training.fit("pinwheel").flow
    x = keras_nf.datasets.pinwheel(POINTS, seed=2)
    blades = blade_of(x)
    # An untrained flow is the identity, but for the last part, which standardizes the data.
    before, after = np.asarray(flow.flows[-1].inverse(x)), np.asarray(flow.inverse(x))
    figure, panels = plt.subplots(1, 3, figsize=(7.0, 2.6), layout="constrained")
    draw(panels[0], x, blades, "data: x", SETS["pinwheel"].reach)
    for axes, z, title in zip(panels[1:], (before, after), ("before training", "after training")):
        draw(axes, z, blades, f"latents, {title}", 3.6)
        draw_circles(axes, z, title)
    save(figure, options.output)


if __name__ == "__main__":
    main()
