"""Overfitting of a small table, and what helps: curves of held-out losses, and a table.

    python examples/gallery/overfitting.py

Real NVP on 200 rows of breast cancer, 30 columns, with rows to stop by and rows to test. Each
training goes to the end; the weights that early stopping would keep are those of the epoch with the
least loss of the validation rows. Ten seconds for a training on a quiet core, of which there are
`--seeds` for each of six settings. Trainings are kept in `--cache`, if given, and read from there.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_breast_cancer
from style import BLUE, GALLERY, GREEN, ORANGE, PURPLE, SKY, VERMILLION, plt, save

import keras_nf

# Name, options of the recipe, decay of weights, and noise in deviations of the columns.
SETTINGS = {
    "nothing": ({}, 0.0, 0.0),
    "weight decay 1": ({}, 1.0, 0.0),
    "dropout 0.2": ({"dropout": 0.2}, 0.0, 0.0),
    "noise 0.1": ({}, 0.0, 0.1),
    "noise 0.3": ({}, 0.0, 0.3),
    "noise 0.1, dropout 0.2": ({"dropout": 0.2}, 0.0, 0.1),
}
COLOURS = dict(zip(SETTINGS, (VERMILLION, ORANGE, PURPLE, SKY, BLUE, GREEN)))


def load(seed):
    """Return rows to train with, to stop by and to test, in standard deviations of the first."""
    x = np.random.default_rng(seed).permutation(load_breast_cancer().data)
    x_train = x[:200]
    x = (x - x_train.mean(axis=0)) / x_train.std(axis=0)
    return np.split(x.astype("float32"), [200, 300])


def train(setting, seed, epochs):
    """Return the losses of the validation rows and of the test rows after each epoch."""
    options, weight_decay, noise = SETTINGS[setting]
    keras.utils.set_random_seed(seed)
    x_train, x_val, x_test = load(seed)
    model = keras_nf.FlowModel(keras_nf.real_nvp(event_size=30, **options))
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=weight_decay), steps_per_execution=4)
    batches = tf.data.Dataset.from_tensor_slices(x_train).shuffle(200).batch(50)
    if noise:
        batches = batches.map(lambda x: x + noise * tf.random.normal(tf.shape(x)))
    losses, others = [], np.concatenate([x_val, x_test])

    def measure(epoch, logs):
        parts = np.split(-model.log_prob(others), [len(x_val)])
        losses.append([np.mean(part, dtype="float64") for part in parts])

    callback = keras.callbacks.LambdaCallback(on_epoch_end=measure)
    model.fit(batches, epochs=epochs, callbacks=[callback], verbose=0)
    return np.array(losses)


def cached(folder, setting, seed, epochs):
    """Return the losses of a training, from a file where they were kept there."""
    if folder is None:
        return train(setting, seed, epochs)
    path = folder / f"{setting} {seed} {epochs}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path, train(setting, seed, epochs))
    return np.load(path)


def print_table(curves):
    """Print a table of means over the seeds: stopped early, at the end, and when it was best."""
    print("| | best epoch | early stopping | at the end |\n|---|--:|--:|--:|")
    for name, each in curves.items():
        best = np.argmin(each[..., 0], axis=1)
        early = each[np.arange(len(each)), best, 1]
        cells = [f"{1 + np.mean(best):.0f}"]
        for values in (early, each[:, -1, 1]):
            cells.append(f"{np.mean(values):,.1f} ({np.min(values):,.1f} to {np.max(values):,.1f})")
        print("|", " | ".join([name, *cells]), "|")


def draw(curves):
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    for name, colour in COLOURS.items():
        each = curves[name]
        epochs = np.arange(1, each.shape[1] + 1)
        for index, values in enumerate(each[..., 1]):
            axes.plot(epochs, values, color=colour, linewidth=1.2, label=None if index else name)
            best = np.argmin(each[index, :, 0])
            axes.plot(epochs[best], values[best], "o", color=colour, markersize=5)
    axes.axhline(42.6, color="black", linestyle=":", label="standard normal")
    axes.set(yscale="log", xlabel="epoch", ylabel="-log p(x) of other rows, nats")
    axes.set_yticks([20, 50, 100, 200, 500, 1000], ["20", "50", "100", "200", "500", "1,000"])
    axes.minorticks_off()
    axes.set(title="Real NVP, 200 rows of 30 columns; dots: early stopping")
    figure.legend(loc="outside right center")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where trainings are kept")
    parser.add_argument("--output", type=Path, default=GALLERY.parent / "guides/overfitting.png")
    options = parser.parse_args()
    curves = {name: [] for name in SETTINGS}
    for seed in range(options.seeds):
        for name in SETTINGS:
            curves[name].append(cached(options.cache, name, seed, options.epochs))
            print(name, seed, curves[name][-1][-1], flush=True)
    curves = {name: np.stack(each) for name, each in curves.items()}
    print_table(curves)
    save(draw(curves), options.output)


if __name__ == "__main__":
    main()
