"""A Real NVP layer by layer: points of the base, and a grid, on their way to the data.

    python examples/gallery/layer_by_layer.py
    python examples/gallery/layer_by_layer.py --set pinwheel --output pinwheel.webp

Writes an animation, and a strip of some of its moments for readers who prefer no motion. Each
affine coupling moves one of the two components, given the other one. The flow is that of
`trained.py`, from the folder `--cache`, or trained in less than a minute.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from matplotlib.collections import LineCollection
from PIL import Image
from style import GALLERY, GREY, plt, save
from trained import CACHE, SETS, Training

POINTS = 1000
REACH = 4.2
FRAMES = 5  # from a layer to the next
PAUSE, END = 120, 2500  # milliseconds
TICK = 70


def paths(flow, z):
    """Return where points are in the base and after each layer."""
    recipe, standardize = flow.flows
    places = [z]
    for layer in (*recipe.flows, standardize):
        places.append(np.asarray(layer.forward(places[-1])))
    return np.stack(places)


def grid():
    """Return the lines of a grid of the base, of shape (lines, points, 2)."""
    levels, along = np.linspace(-3.0, 3.0, 13), np.linspace(-3.0, 3.0, 200)
    lines = np.stack(np.meshgrid(along, levels), axis=-1).astype("float32")
    return np.concatenate([lines, lines[..., ::-1]])


def draw(axes, lines, points, colours):
    """Draw bent lines, and points on top of them."""
    axes.add_collection(LineCollection(lines, colors=GREY, linewidths=0.5, alpha=0.6))
    axes.scatter(*points.T, c=colours, s=3.5, linewidths=0.0, cmap="viridis", zorder=2)
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set(visible=True, color=GREY, linewidth=0.5)


def title_of(layer, layers):
    if layer in (0, layers):
        return "base: z" if layer == 0 else "data: x = f(z)"
    return f"after layer {layer} of {layers - 1}"


def frame(lines, points, colours, title):
    figure, axes = plt.subplots(figsize=(3.0, 3.2), layout="constrained", dpi=110)
    draw(axes, lines, points, colours)
    axes.set_title(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return Image.open(buffer).convert("RGB")


def animate(lines, points, colours, path):
    """Write the animation: a pause after each layer, and a long one at the end."""
    images, times = [], []
    last = len(points) - 1
    for layer in range(last):
        for part in np.linspace(0.0, 1.0, FRAMES, endpoint=False):
            weight = part * part * (3.0 - 2.0 * part)
            between = [(1 - weight) * x[layer] + weight * x[layer + 1] for x in (lines, points)]
            title = title_of(layer + (part > 0.5), last)
            images.append(frame(*between, colours, title))
            times.append(TICK + PAUSE * (part == 0.0))
    images.append(frame(lines[last], points[last], colours, title_of(last, last)))
    times[0], times = 1000, [*times, END]
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=times,
        loop=0,
        quality=50,
        method=6,
    )
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def still(lines, points, colours, path):
    """Write some of the places side by side."""
    last = len(points) - 1
    shown = [0, *np.linspace(0, last, 6).round().astype(int)[1:-1], last]
    figure, panels = plt.subplots(2, 3, figsize=(7.0, 4.9), layout="constrained")
    for axes, layer in zip(panels.flat, shown):
        draw(axes, lines[layer], points[layer], colours)
        axes.set_title(title_of(layer, last))
    save(figure, path)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=list(SETS), default="two_moons")
    parser.add_argument("--steps", type=int, help="another number of steps of training")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--output", type=Path, default=GALLERY / "layer_by_layer.webp")
    parser.add_argument("--still", type=Path, default=GALLERY / "layer_by_layer.png")
    options = parser.parse_args(arguments)
    training = Training("real_nvp", steps=options.steps, cache=options.cache)
    flow = training.fit(options.set).flow
    z = np.random.default_rng(0).normal(size=(POINTS, 2)).astype("float32")
    lines, points = paths(flow, grid()), paths(flow, z)
    colours = z[:, 0].argsort().argsort()  # as many points of each colour
    still(lines, points, colours, options.still)
    animate(lines, points, colours, options.output)


if __name__ == "__main__":
    main()
