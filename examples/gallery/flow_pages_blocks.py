"""Pictures of the flow pages: diagrams of images and of components."""

import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from style import GREEN, INK, ORANGE, PALE, PURPLE, SKY, VERMILLION, plt

import keras_nf

COLOURS = [SKY, ORANGE, GREEN, PURPLE]


def canvas(width, height, size):
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.set(xlim=(0.0, width), ylim=(0.0, height), aspect="equal")
    axes.axis("off")
    return figure, axes


def times(*sizes):
    return r" $\times$ ".join(map(str, sizes))


def arrow(axes, start, end, **options):
    style = {"arrowstyle": "-|>", "mutation_scale": 11, "color": INK, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, **{**style, **options}))


def cells(axes, corner, numbers, colours, size=0.5):
    """Draw a table of numbers, the first row on top."""
    for row, (values, shades) in enumerate(zip(numbers, colours)):
        for column, (value, colour) in enumerate(zip(values, shades)):
            x, y = corner[0] + size * column, corner[1] - size * (row + 1)
            axes.add_patch(Rectangle((x, y), size, size, facecolor=colour, edgecolor="white"))
            middle = x + 0.5 * size, y + 0.5 * size
            axes.text(*middle, str(value), ha="center", va="center", fontsize=9)


def squeeze(_):
    image = np.arange(1, 17, dtype="float32").reshape(4, 4, 1)
    z = np.asarray(keras_nf.Squeeze().inverse(image)).astype(int)
    image = image.astype(int)[..., 0]
    colours = np.array(COLOURS, dtype=object)
    figure, axes = canvas(9.6, 3.2, (7.0, 2.4))
    cells(axes, (0.1, 2.6), image, colours[np.add.outer(2 * (np.arange(4) % 2), np.arange(4) % 2)])
    axes.text(1.1, 2.75, "data, " + times(4, 4, 1), ha="center")
    for channel in range(4):
        corner = 4.7 + 1.25 * channel, 1.85
        cells(axes, corner, z[..., channel], np.full((2, 2), COLOURS[channel], dtype=object))
        axes.text(corner[0] + 0.5, 0.55, f"channel {channel}", ha="center", fontsize=9)
    axes.text(7.1, 2.75, "base, " + times(2, 2, 4), ha="center")
    arrow(axes, (2.4, 1.75), (4.4, 1.75))
    arrow(axes, (4.4, 1.15), (2.4, 1.15))
    axes.text(3.4, 1.85, "inverse", ha="center", fontsize=9)
    axes.text(3.4, 0.8, "forward", ha="center", fontsize=9)
    return figure


def permute(_):
    figure, panels = plt.subplots(1, 3, figsize=(7.0, 2.5), layout="constrained")
    colours = [*COLOURS, VERMILLION]
    rows = [("(2, 0, 1)", (2, 0, 1)), ("reversed", "reversed"), ("random, seed 1", "random")]
    for axes, (title, permutation) in zip(panels, rows):
        size = 3 if isinstance(permutation, tuple) else 5
        flow = keras_nf.Permute(permutation, seed=1)
        order = np.asarray(flow(np.arange(size, dtype="float32"))).astype(int)
        top = 0.5 * (5 - size)
        for place, source in enumerate(order):
            y, y_z = 4.0 - place - top, 4.0 - source - top
            for x, height, name, number in ((0.0, y_z, "z", source), (3.0, y, "x", place)):
                box = Rectangle((x - 0.4, height - 0.4), 0.8, 0.8, facecolor=colours[source])
                axes.add_patch(box)
                axes.text(x, height, f"${name}_{number}$", ha="center", va="center")
            arrow(axes, (0.45, y_z), (2.55, y), color=colours[source], linewidth=1.6)
        axes.set(xlim=(-0.7, 3.7), ylim=(-0.6, 4.6), aspect="equal", title=title)
        axes.axis("off")
    return figure


def box(axes, corner, size, text, colour=PALE, fontsize=8.5):
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(
        FancyBboxPatch(corner, *size, boxstyle=style, facecolor=colour, edgecolor="none")
    )
    middle = corner[0] + 0.5 * size[0], corner[1] + 0.5 * size[1]
    axes.text(*middle, text, ha="center", va="center", fontsize=fontsize)


def multiscale(_):
    figure, axes = canvas(12.0, 4.6, (7.0, 2.7))
    for top, colour, name in ((3.7, SKY, 1), (1.7, ORANGE, 2)):
        for row in range(2):
            corner = 9.6, top - 0.55 * (row + 1)
            axes.add_patch(Rectangle(corner, 2.2, 0.5, facecolor=colour))
        for row in range(8):
            corner = 0.9 + 0.55 * (row % 4), top - 0.55 * (row // 4 + 1)
            axes.add_patch(Rectangle(corner, 0.5, 0.5, facecolor=colour))
        middle = top - 0.55
        axes.text(0.45, middle, f"$z_{name}$", ha="center", va="center")
        arrow(axes, (3.3, middle), (9.2, middle))
        box(axes, (3.9, middle - 0.5), (1.6, 1.0), "Squeeze")
        if name == 1:
            box(axes, (6.1, middle - 0.5), (2.5, 1.0), "other layers of $f$")
    axes.text(2.0, 4.1, "base, " + times(7, 7, 16), ha="center")
    axes.text(10.7, 4.1, "data, " + times(14, 14, 4), ha="center")
    return figure


def level_of_glow(axes, top, shape, is_last):
    """Draw a level of a Glow; return the shape of what goes on to the next."""
    height, width, channels = shape
    box(axes, (0.1, top), (2.2, 0.8), times(height, width, channels), "#b9d9ee")
    is_even = height % 2 == 0
    if is_even:
        box(axes, (2.8, top), (1.5, 0.8), "Squeeze")
        arrow(axes, (2.3, top + 0.4), (2.8, top + 0.4))
        height, width, channels = height // 2, width // 2, 4 * channels
    arrow(axes, (4.3 if is_even else 2.3, top + 0.4), (4.8, top + 0.4))
    box(axes, (4.8, top - 0.2), (4.1, 1.4), "", "#f4f4f4")
    for number, name in enumerate(("ActNorm", "LULinear", "coupling")):
        box(axes, (4.9 + 1.33 * number, top), (1.25, 0.8), name, fontsize=7.5)
    axes.text(6.85, top + 0.87, "steps", ha="center", fontsize=7.5)
    rest = channels if is_last else channels // 2
    if not is_last:
        box(axes, (9.4, top), (1.4, 0.8), "coupling")
        arrow(axes, (8.9, top + 0.4), (9.4, top + 0.4))
        turns = [9.15, 9.15, 1.2], [top + 0.4, top - 0.65, top - 0.65]
        axes.plot(*turns, color=INK, linewidth=1.0)
        arrow(axes, (1.2, top - 0.65), (1.2, top - 1.2))
    arrow(axes, (8.9 if is_last else 10.8, top + 0.4), (11.3, top + 0.4))
    box(axes, (11.3, top), (2.2, 0.8), times(height, width, rest), ORANGE)
    return height, width, channels - rest


def glow(_):
    """Shapes of an image of 28 x 28 pixels on its way to the base, with three levels."""
    figure, axes = canvas(13.6, 6.0, (7.0, 3.1))
    shape = 28, 28, 1
    for level in range(3):
        shape = level_of_glow(axes, 4.7 - 2.0 * level, shape, level == 2)
    axes.text(1.2, 5.65, "data", ha="center")
    axes.text(12.4, 5.65, "base", ha="center")
    return figure
