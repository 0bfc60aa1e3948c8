"""Draws the density of a flow as its training goes on, by the callback `plot.Draw`.

A Real NVP learns two moons for twenty epochs, a quarter of a minute on one core; the pictures of
three of them are put side by side in `docs/images/guides/epochs.png`.
"""

import tempfile
from pathlib import Path

import keras
from style import GALLERY, parse, plt, save

import keras_nf
from keras_nf import plot

EPOCHS = (1, 4, 20)


def draw(model, figure):
    axes = plot.density(model, -4.0, 4.0, vmax=0.25, colorbar=False, axes=figure.gca())
    axes.set_axis_off()


def main():
    options = parse(__doc__, GALLERY.parent / "guides" / "epochs.png", steps=2000)
    epochs = max(1, options.steps // 100)
    keras.utils.set_random_seed(options.seed)
    x = keras_nf.datasets.two_moons(10_000, seed=options.seed)
    model = keras_nf.FlowModel(keras_nf.real_nvp(event_size=2))
    rate = keras.optimizers.schedules.CosineDecay(3e-3, 100 * epochs)
    model.compile(keras.optimizers.Adam(rate), steps_per_execution=20)
    with tempfile.TemporaryDirectory() as folder:
        callback = plot.Draw(draw, folder, size=(3.0, 3.0))
        model.fit(x, batch_size=100, epochs=epochs, callbacks=[callback], verbose=0)
        shown = [epoch for epoch in EPOCHS if epoch <= epochs]
        pictures = [plt.imread(Path(folder) / f"epoch_{epoch:04d}.png") for epoch in shown]
    figure, axes = plt.subplots(1, len(EPOCHS), figsize=(7.5, 2.8), layout="constrained")
    for axis in axes:
        axis.set_axis_off()
    for axis, epoch, picture in zip(axes, shown, pictures):
        axis.imshow(picture)
        axis.set_title(f"{epoch} epoch{'s' if epoch > 1 else ''}")
    save(figure, options.output)


if __name__ == "__main__":
    main()
