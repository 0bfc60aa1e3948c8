"""Two moons as training goes on, for good and bad settings.

    python examples/gallery/training.py

All pictures share one scale of colours. The number in each is how far the log-density of fresh
points is below that of the true density, in nats. Takes three minutes on one core.
"""

import os
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from style import GALLERY, parse, plt, save

import keras_nf

ROWS, BATCH, EPOCHS = 2_000, 32, (1, 5, 20, 100)
STEPS = -(-ROWS // BATCH)
LOW, HIGH, POINTS = (-3.6, -2.4), (3.6, 2.4), (240, 160)


class Setting(NamedTuple):
    """What a row of the picture is called, and how it trains."""

    title: str
    recipe: str
    rate: float
    falls: bool
    options: dict


SETTINGS = [
    Setting("MAF, 2 layers,\nrate 1e-3", "maf", 1e-3, False, {"layers": 2}),
    Setting("MAF, rate 1e-2", "maf", 1e-2, False, {}),
    Setting("MAF, rate 1e-3", "maf", 1e-3, False, {}),
    Setting("MAF, rate falls\nfrom 1e-3 to 0", "maf", 1e-3, True, {}),
    Setting("NSF, rate falls\nfrom 1e-3 to 0", "nsf", 1e-3, True, {}),
]


def true_log_density(x):
    """Return log p(x) of `keras_nf.datasets.two_moons`, by quadrature along both moons."""
    angle = (np.arange(600) + 0.5) / 600 * np.pi
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    moons = 2.0 * (np.concatenate([upper, [1.0, 0.5] - upper]) - [0.5, 0.25])
    squares = np.concatenate([((part[:, None] - moons) ** 2).sum(-1) for part in np.split(x, 10)])
    return np.log(np.mean(np.exp(-squares / 0.08), axis=1) / (0.08 * np.pi) + 1e-300)


def grid():
    """Return the points at which densities are drawn."""
    sides = [np.linspace(*ends) for ends in zip(LOW, HIGH, POINTS)]
    return np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2).astype("float32")


def train(setting, seed, test):
    """Yield the densities on the grid, and the mean log-density of the test rows, of a training."""
    keras.utils.set_random_seed(seed)
    flow = getattr(keras_nf, setting.recipe)(2, **setting.options)
    model = keras_nf.FlowModel(keras_nf.Chain([flow, keras_nf.Standardize()]))
    x = keras_nf.datasets.two_moons(ROWS, seed=seed)
    model.adapt(x)
    rate = setting.rate
    if setting.falls:
        rate = keras.optimizers.schedules.CosineDecay(rate, EPOCHS[-1] * STEPS)
    optimizer = keras.optimizers.Adam(rate)
    model.compile(optimizer, jit_compile=True, steps_per_execution=STEPS)
    for done, epochs in zip((0, *EPOCHS), EPOCHS):
        model.fit(x, batch_size=BATCH, initial_epoch=done, epochs=epochs, verbose=0)
        yield np.exp(model.predict(grid(), verbose=0)), np.mean(model.log_prob(test))


def main():
    arguments = parse(__doc__, GALLERY.parent / "guides" / "training.png")
    test = keras_nf.datasets.two_moons(5_000, seed=1_000)
    limit = np.mean(true_log_density(test.astype("float64")))
    vmax = np.exp(true_log_density(grid().astype("float64")).max())
    size = (8.6, 1.32 * len(SETTINGS))
    figure, rows = plt.subplots(len(SETTINGS), len(EPOCHS), figsize=size, layout="constrained")
    for setting, row in zip(SETTINGS, rows):
        results = train(setting, arguments.seed, test)
        for epochs, axes, (density, nats) in zip(EPOCHS, row, results):
            extent = (LOW[0], HIGH[0], LOW[1], HIGH[1])
            image = density.reshape(POINTS[::-1])
            axes.imshow(image, origin="lower", extent=extent, vmin=0.0, vmax=vmax)
            axes.set(xticks=[], yticks=[])
            short = f"{limit - nats:.2f}"
            axes.text(0.97, 0.05, short, transform=axes.transAxes, ha="right", color="white")
            if setting is SETTINGS[0]:
                axes.set_title(f"{epochs} epoch{'s' if epochs > 1 else ''}")
        row[0].set_ylabel(setting.title, rotation=0, ha="right", va="center")
        print(setting.title.replace("\n", " "), short, flush=True)
    save(figure, arguments.output)


if __name__ == "__main__":
    main()
