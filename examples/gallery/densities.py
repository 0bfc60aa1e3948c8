"""Densities that every flow learns on six toy sets, and a strip of the best of them.

    python examples/gallery/densities.py
    python examples/gallery/densities.py --only planar nice --sets rings

Writes `densities.png`, a row for each flow, and `strip.png`, the sets above the best flow; prints
the table of docs/gallery.md. The settings stand in `trained.py`. Weights and densities are kept in
the folder `--cache`: what lies there is not trained again. All 42 trainings take about TIME of one
core.
"""

import argparse
from pathlib import Path

import numpy as np
from style import BLUE, GALLERY, INK, plt, save
from trained import CACHE, FLOWS, SETS, Training

import keras_nf

BEST = "nsf"
CELLS = 220  # of a density, along a side
POINTS = 3000  # of a picture of data


def points_of(axes, name):
    x = keras_nf.datasets.__dict__[name](POINTS, seed=2)
    axes.plot(*x.T, ".", color=BLUE, markersize=1.2, markeredgewidth=0.0)


def image_of(axes, values, top):
    axes.imshow(values, origin="lower", vmin=0.0, vmax=top, interpolation="bilinear")


def frame(axes, reach=None):
    axes.set(xticks=[], yticks=[], aspect="equal")
    if reach:
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
    axes.spines[:].set_visible(reach is not None)


def draw(sets, rows, tops, path, size):
    """Draw points of the sets, and below them rows of densities by their titles."""
    figure, panels = plt.subplots(
        1 + len(rows), len(sets), figsize=size, squeeze=False, dpi=size.dpi if 0 else 150
    )
    for column, name in enumerate(sets):
        title, reach = SETS[name]
        points_of(panels[0, column], name)
        frame(panels[0, column], reach)
        panels[0, column].set_title(title, fontsize=11, pad=4)
        for axes, values in zip(panels[1:, column], rows.values()):
            image_of(axes, values[name], tops[name])
            frame(axes)
    save(figure, path)
