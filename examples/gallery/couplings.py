"""A grid on its way through couplings: additive ones and a scaling, or affine ones.

    python examples/gallery/couplings.py
    python examples/gallery/couplings.py --affine

Cells are coloured by the logarithm of how many times as large they have become. Additive couplings
shear: they move whole columns or rows, and no cell changes its area. The networks have random
weights. Takes ten seconds.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
from pathlib import Path

import numpy as np
from matplotlib.collections import PolyCollection
from style import GALLERY, plt, save

import keras_nf

REACH, CELLS = 2.0, 10
NETWORK = {"hidden_units": (8,), "activation": "tanh"}


def nice(rng):
    """Return two additive couplings and a scaling, by their titles."""
    flows = {
        "additive": keras_nf.AdditiveCoupling(**NETWORK),
        "additive, swapped": keras_nf.AdditiveCoupling(swap=True, **NETWORK),
    }
    draw_weights(flows, rng)
    flows["scaling"] = keras_nf.Scaling()
    flows["scaling"].build((None, 2))
    flows["scaling"].set_weights([np.log([1.2, 0.4])])
    return flows


def real_nvp(rng):
    """Return three affine couplings, by their titles."""
    flows = {
        "affine": keras_nf.AffineCoupling(**NETWORK),
        "affine, swapped": keras_nf.AffineCoupling(swap=True, **NETWORK),
        "affine again": keras_nf.AffineCoupling(**NETWORK),
    }
    draw_weights(flows, rng)
    return flows


def draw_weights(flows, rng):
    for flow in flows.values():
        flow.build((None, 2))
        weights = [rng.normal(size=weight.shape) for weight in flow.weights]
        flow.set_weights([*weights[:2], *(0.35 * weight for weight in weights[2:])])


def outlines():
    """Return the outlines of the cells of a grid, of shape (cells, points, 2)."""
    t = np.linspace(0.0, 1.0, 9)[:-1]
    zeros, ones = np.zeros_like(t), np.ones_like(t)
    x, y = np.concatenate([t, ones, 1.0 - t, zeros]), np.concatenate([zeros, t, ones, 1.0 - t])
    corners = np.stack(np.meshgrid(*2 * [np.arange(CELLS)], indexing="ij"), axis=-1).reshape(-1, 2)
    cells = corners[:, None] + np.stack([x, y], axis=1)
    return (cells * 2.0 * REACH / CELLS - REACH).astype("float32")


def areas(polygons):
    x, y = np.moveaxis(polygons.astype("float64"), -1, 0)
    return 0.5 * np.abs(np.sum(x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1), axis=1))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--affine", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seed", type=int, default=9)
    arguments = parser.parse_args()
    name = "affine_couplings.png" if arguments.affine else "additive_couplings.png"
    flows = (real_nvp if arguments.affine else nice)(np.random.default_rng(arguments.seed))
    figure, panels = plt.subplots(1, 4, figsize=(7.0, 2.4), layout="compressed")
    cells = outlines()
    area = areas(cells)
    for axes, (title, flow) in zip(panels, {"base": None, **flows}.items()):
        if flow is not None:
            cells = np.asarray(flow.forward(cells))
        growth = np.log(areas(cells) / area)
        image = PolyCollection(cells, array=growth, edgecolor="white", linewidth=0.5)
        image.set_clim(-1.5, 1.5)
        axes.add_collection(image)
        axes.set(title=title, xlim=(-4.2, 4.2), ylim=(-4.2, 4.2), aspect="equal")
        axes.set(xticks=[-3, 0, 3], yticks=[-3, 0, 3])
    for axes in panels[1:]:
        axes.set_yticklabels([])
    figure.colorbar(image, ax=panels, label="log growth of area", extend="both", aspect=15)
    save(figure, arguments.output or GALLERY / name)


if __name__ == "__main__":
    main()
