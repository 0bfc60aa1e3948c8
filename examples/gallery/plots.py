"""Every function of `keras_nf.plot`, on a flow that learns two moons.

    python examples/gallery/plots.py

Writes `plots_density.png`, `plots_checks.png`, `plots_corner.png` and `plots_training.png`. Trains
for 4,000 steps of 250 rows, which takes a few minutes.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from style import parse, plt, save

import keras_nf
from keras_nf import plot

ROWS, BATCH = 10_000, 250
# Epochs after which the training is shown.
SHOWN = (1, 2, 4, 8, 16, 100)


def draw(model, figure):
    """Draw the frame of an epoch."""
    axes = figure.gca()
    plot.density(model, -4.0, 4.0, axes=axes, vmax=0.2, colorbar=False)
    axes.set_axis_off()


def fit(steps, frames):
    """Return a trained model and its history; write a frame of each epoch to a folder."""
    x = keras_nf.datasets.two_moons(ROWS, seed=0)
    standardize = keras_nf.Standardize()
    standardize.adapt(x)
    model = keras_nf.FlowModel(keras_nf.Chain([keras_nf.real_nvp(2), standardize]))
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(keras.optimizers.Adam(schedule), steps_per_execution=ROWS // BATCH)
    history = model.fit(
        x,
        validation_data=keras_nf.datasets.two_moons(2000, seed=1),
        batch_size=BATCH,
        epochs=steps * BATCH // ROWS,
        callbacks=[plot.Draw(draw, frames, size=(1.5, 1.5))],
        verbose=0,
    )
    print(f"validation: {history.history['val_loss'][-1]:.3f} nats")
    return model, history


def draw_density(model, x):
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.0, 2.6), dpi=110, layout="constrained")
    plot.density(model, data=x, axes=left)
    plot.grid(model.flow, axes=right)
    left.set_title("density, with data")
    right.set_title("grid")
    return figure


def draw_checks(model, x, history):
    figure, axes = plt.subplots(1, 3, figsize=(8.0, 2.7), layout="constrained")
    plot.latents(model, x, axes=axes[0])
    plot.samples(model, x, axes=axes[1])
    plot.history(history, axes=axes[2])
    for panel, title in zip(axes, ("latents", "samples", "history")):
        panel.set_title(title)
    return figure


def draw_training(frames):
    paths = [frames / f"epoch_{epoch:04d}.png" for epoch in SHOWN]
    paths = [path for path in paths if path.exists()]
    pictures = np.stack([plt.imread(path)[..., :3] for path in paths])
    figure, axes = plt.subplots(figsize=(8.0, 1.5), layout="constrained")
    plot.images(pictures, columns=len(pictures), axes=axes)
    axes.set_title(f"after {', '.join(map(str, SHOWN[:-1]))} and {SHOWN[-1]} epochs")
    return figure


def main():
    arguments = parse(__doc__, "plots", steps=SHOWN[-1] * ROWS // BATCH)
    keras.utils.set_random_seed(arguments.seed)
    x = keras_nf.datasets.two_moons(2000, seed=2)
    with tempfile.TemporaryDirectory() as folder:
        model, history = fit(arguments.steps, folder)
        training = draw_training(Path(folder))
    samples = model.sample(2000, seed=0)
    figures = {
        "density": draw_density(model, x),
        "checks": draw_checks(model, x, history),
        "corner": plot.corner(x, samples, names=["data", "samples"]),
        "training": training,
    }
    for name, figure in figures.items():
        save(figure, f"{arguments.output}_{name}.png", palette=name in ("checks", "corner"))


if __name__ == "__main__":
    main()
