"""Planar flows of 1, 2 and 10 folds on a Gaussian and on a uniform base.

    python examples/gallery/planar_layers.py

The weights are drawn at random; the first folds of the longer flows are those of the shorter ones.
Like figure 1 of Rezende and Mohamed (2015). Takes half a minute.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from style import density, parse, plt, save
from tensorflow_probability import distributions as tfd

import keras_nf

REACH = 5.0
FOLDS = (1, 2, 10)


def bases():
    zeros = tf.zeros(2)
    gaussian = tfd.MultivariateNormalDiag(zeros)
    uniform = tfd.Independent(tfd.Uniform(zeros - 2.0, zeros + 2.0), 1)
    return {"Gaussian": gaussian, "uniform": uniform}


def draw_weights(rng, folds):
    """Return directions w of length 2, strong shifts u, rather along them, and offsets b."""
    angle = rng.uniform(0.0, 2.0 * np.pi, folds)
    w = 2.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    u = 0.6 * rng.normal(size=(folds, 2)) + 0.2 * w
    strong_first = np.argsort(-np.linalg.norm(u, axis=1))
    return w[strong_first], u[strong_first], rng.normal(size=folds)


def make_flow(weights, folds):
    flow = keras_nf.Planar(folds=folds)
    flow.build((None, 2))
    flow.set_weights([weight[:folds] for weight in weights])
    return flow


def main():
    arguments = parse(__doc__, "planar_layers.png")
    weights = draw_weights(np.random.default_rng(arguments.seed), FOLDS[-1])
    figure, rows = plt.subplots(2, 4, figsize=(7.0, 3.6), layout="compressed")
    for row, (name, base) in zip(rows, bases().items()):
        flows = [make_flow(weights, folds) for folds in FOLDS]
        for axes, distribution in zip(row, [base, *(flow(base) for flow in flows)]):
            image = density(axes, distribution.log_prob, REACH, points=250, vmax=0.15)
        row[0].set_ylabel(f"{name} base")
    for axes, folds in zip(rows[0, 1:], FOLDS):
        axes.set_title(f"K = {folds}")
    rows[0, 0].set_title("base")
    figure.colorbar(image, ax=rows, label="density", extend="max", aspect=30)
    save(figure, arguments.output, palette=False)


if __name__ == "__main__":
    main()
