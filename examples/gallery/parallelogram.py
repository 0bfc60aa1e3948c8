"""The determinant as area: a matrix takes the unit square to a parallelogram.

    python examples/gallery/parallelogram.py

The same 250 points lie in both: their density falls as the area grows. Takes a second.
"""

import numpy as np
from matplotlib.patches import Polygon
from matplotlib.patheffects import withStroke
from style import BLUE, GREY, SKY, VERMILLION, parse, plt, save

MATRIX = np.array([[2.0, 0.5], [0.5, 1.75]])
SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def panel(axes, matrix, points):
    """Draw the images of the unit square, of points in it and of the two unit vectors."""
    axes.axhline(0.0, color=GREY, linewidth=0.6, zorder=0)
    axes.axvline(0.0, color=GREY, linewidth=0.6, zorder=0)
    axes.add_patch(Polygon(SQUARE @ matrix.T, facecolor=SKY, alpha=0.4, edgecolor=BLUE))
    axes.plot(*(points @ matrix.T).T, ".", color=BLUE, markersize=3.0)
    arrow = {"arrowstyle": "-|>", "color": VERMILLION, "linewidth": 2.0}
    for vector, offset in zip(matrix.T, ((0.05, -0.25), (-0.05, 0.1))):
        axes.annotate("", vector, (0.0, 0.0), arrowprops={**arrow, "shrinkA": 0.0, "shrinkB": 0.0})
        name = f"({vector[0]:g}, {vector[1]:g})"
        text = axes.text(*(vector + offset), name, color=VERMILLION, ha="center", weight="bold")
        text.set_path_effects([withStroke(linewidth=3.0, foreground="white")])
    axes.set(aspect="equal", xlim=(-0.6, 2.8), ylim=(-0.4, 2.5))


def main():
    arguments = parse(__doc__, "parallelogram.png")
    points = np.random.default_rng(arguments.seed).random((250, 2))
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.0, 3.3), layout="constrained")
    panel(left, np.eye(2), points)
    panel(right, MATRIX, points)
    area = np.linalg.det(MATRIX)
    left.set(title="unit square: area 1, density 1", xlabel="$z_1$", ylabel="$z_2$")
    right.set(
        title=f"$x = A z$: area {area:.2f}, density 1 / {area:.2f}",
        xlabel="$x_1$",
        ylabel="$x_2$",
    )
    figure.get_layout_engine().set(wspace=0.08)
    save(figure, arguments.output)


if __name__ == "__main__":
    main()
