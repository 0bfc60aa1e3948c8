"""The Jacobian as local volume: a planar flow bends a grid, and small squares to parallelograms.

    python examples/gallery/local_volume.py

Cells are coloured by the log-determinant in their middle. The last panel is a close view of one
cell, beside the parallelogram of the Jacobian in its middle. Takes ten seconds.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from matplotlib.collections import PolyCollection
from matplotlib.patches import Polygon
from style import BLUE, VERMILLION, parse, plt, save

import keras_nf

REACH, CELLS = 2.4, 12
WIDTH = 2.0 * REACH / CELLS
NUMBER = 6 * CELLS + 3  # the cell that is looked at


def make_flow():
    flow = keras_nf.Planar(folds=2, dtype="float64")
    flow.build((None, 2))
    flow.w.assign([[1.0, 0.6], [-0.4, 0.9]])
    flow.u.assign([[1.4, -1.0], [1.2, 1.6]])
    flow.b.assign([0.4, 0.2])
    return flow


def jacobian(flow, z):
    z = tf.constant(z[None])
    with tf.GradientTape() as tape:
        tape.watch(z)
        x = flow.forward(z)
    return tape.batch_jacobian(x, z).numpy()[0]


def grid():
    """Return the outlines of all cells, of shape (cells, points, 2), and their middles."""
    t = np.linspace(0.0, 1.0, 9)[:-1]
    zeros, ones = np.zeros_like(t), np.ones_like(t)
    x, y = np.concatenate([t, ones, 1.0 - t, zeros]), np.concatenate([zeros, t, ones, 1.0 - t])
    corners = np.stack(np.meshgrid(*2 * [np.arange(CELLS)], indexing="ij"), axis=-1).reshape(-1, 2)
    outlines = corners[:, None] + np.stack([x, y], axis=1)
    return outlines * WIDTH - REACH, (corners + 0.5) * WIDTH - REACH


def draw_cells(axes, polygons, values):
    cells = PolyCollection(polygons, array=values, edgecolor="white", linewidth=0.5)
    axes.add_collection(cells)
    edge = {"facecolor": "none", "edgecolor": VERMILLION, "linewidth": 2.5, "joinstyle": "round"}
    axes.add_patch(Polygon(polygons[NUMBER], **edge))
    return cells


def main():
    arguments = parse(__doc__, "local_volume.png")
    flow = make_flow()
    outlines, middles = grid()
    images, log_det = map(
        np.asarray, (flow.forward(outlines), flow.forward_and_log_det(middles)[1])
    )
    figure, panels = plt.subplots(1, 3, figsize=(7.0, 3.2), layout="constrained")
    draw_cells(panels[0], outlines, log_det)
    cells = draw_cells(panels[1], images, log_det)
    figure.colorbar(
        cells, ax=panels[:2], label=r"$\log\,|\det J|$", location="bottom", shrink=0.7, aspect=35
    )
    middle = middles[NUMBER]
    tangent = (
        np.asarray(flow.forward(middle)) + (outlines[NUMBER] - middle) @ jacobian(flow, middle).T
    )
    panels[2].add_patch(
        Polygon(images[NUMBER], facecolor=VERMILLION, alpha=0.4, label="image of the square")
    )
    dashes = {"facecolor": "none", "edgecolor": BLUE, "linestyle": "--", "linewidth": 1.8}
    panels[2].add_patch(Polygon(tangent, label="parallelogram of $J$", **dashes))
    area = np.exp(log_det[NUMBER])
    panels[0].set(title="base: a grid of squares", xlabel="$z_1$", ylabel="$z_2$")
    panels[1].set(title="its image", xlabel="$x_1$", ylabel="$x_2$")
    panels[2].set(title=rf"close: $|\det J|$ = {area:.2f}", xlabel="$x_1$", ylabel="$x_2$")
    for axes in panels:
        axes.autoscale_view()
        axes.set_aspect("equal", adjustable="datalim")
    panels[2].margins(0.2)
    figure.legend(frameon=False, loc="lower right")
    save(figure, arguments.output)


if __name__ == "__main__":
    main()
