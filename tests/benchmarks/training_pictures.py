"""Densities that the recipes learn, with their defaults, beside the data.

python tests/benchmarks/training_pictures.py --output docs/images/recipes.png
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib
import numpy as np
from training_sets import load

import keras_nf
from keras_nf import plot

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RECIPES = ("planar_flow", "nice", "real_nvp", "maf", "iaf", "nsf")
SETS = ("two_moons", "eight_gaussians", "checkerboard", "two_spirals")
LIMIT = 2.4


def fit(recipe, data):
    """Train a recipe for 50 epochs, as a newcomer would."""
    keras.utils.set_random_seed(0)
    model = keras_nf.FlowModel(getattr(keras_nf, recipe)(2))
    model.compile(jit_compile=True, steps_per_execution=12)
    model.fit(data.train, batch_size=256, epochs=50, verbose=0)
    print(recipe, f"{-float(np.mean(model.log_prob(data.test))):.3f}", flush=True)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("docs/images/recipes.png"))
    path = parser.parse_args().output
    size = (2.1 * (1 + len(RECIPES)), 2.2 * len(SETS))
    figure, grid = plt.subplots(len(SETS), 1 + len(RECIPES), figsize=size)
    for name, row in zip(SETS, grid):
        data = load(name, folder=None)
        print(name)
        row[0].plot(*data.test[:4000].T, ",", color="black")
        row[0].set_title("data")
        row[0].set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT))
        for recipe, axes in zip(RECIPES, row[1:]):
            model = fit(recipe, data)
            plot.density(model, -LIMIT, LIMIT, axes=axes, colorbar=False)
            axes.set_title(recipe)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], xlabel="", ylabel="", aspect="equal")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
