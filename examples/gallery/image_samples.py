"""Images drawn from NICE and from Real NVP, beside data.

    python examples/gallery/image_samples.py
    python examples/gallery/image_samples.py --data mnist.npz --epochs 20 --output mnist.png

Trains on scikit-learn's 1,797 digits of 8 x 8 pixels, of which 297 are held out, or on the images
of an npz file with `x_train` and `x_test`, uint8, of shape (rows, height, width). Prints the mean
of log p(x) for the images held out, integers with uniform noise, in nats and in bits per dimension.

NICE is that of the paper: dense additive couplings of alternating pixels, a scaling, a logistic
base. Real NVP is the multiscale one of images.
"""

import argparse
import math
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from sklearn.datasets import load_digits
from style import GALLERY, plt, save

import keras_nf
from keras_nf import plot

SHOWN = 36


def load(path):
    """Return images of training and images held out, and the number of levels of a pixel."""
    if path is None:
        images = np.random.default_rng(0).permutation(load_digits().images.astype("uint8"))
        return images[:1500], images[1500:], 17
    with np.load(path) as data:
        return data["x_train"], data["x_test"], 256


def make_nice(shape, levels, units):
    """Return a model of flat images."""
    size = math.prod(shape)
    flow = keras_nf.nice(size, layers=6, hidden_units=(units, units), mask="alternating")
    pixels = keras_nf.Dequantize(levels, always=True)
    chain = keras_nf.Chain([flow, keras_nf.Standardize(), pixels])
    return keras_nf.FlowModel(chain, base="logistic")


def make_real_nvp(shape, levels, units):
    """Return a model of images with one channel."""
    flow = keras_nf.image_real_nvp((*shape, 1), hidden_units=(units, units))
    pixels = keras_nf.Dequantize(levels, always=True)
    return keras_nf.FlowModel(keras_nf.Chain([flow, keras_nf.Logit(margin=1e-3), pixels]))


# Of each model its title, how it is made, its units, and the shape of its events.
MODELS = {
    "NICE": (make_nice, 256, lambda x: x.reshape(len(x), -1)),
    "Real NVP": (make_real_nvp, 32, lambda x: x[..., None]),
}


def fit(model, x, held_out, options):
    """Train a model, keep the weights that were best on a tenth of the images, and print how."""
    validation = len(x) // 10
    batch = 100
    steps = options.epochs * ((len(x) - validation) // batch)
    model.adapt(x[:5000])
    rate = keras.optimizers.schedules.CosineDecay(options.rate, steps)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.1))
    start = time.process_time()
    model.fit(
        x[validation:],
        validation_data=x[:validation],
        batch_size=batch,
        epochs=options.epochs,
        callbacks=[
            keras.callbacks.EarlyStopping(patience=options.epochs, restore_best_weights=True)
        ],
        verbose=options.verbose,
    )
    seconds = time.process_time() - start
    log_prob = model.predict(held_out, batch_size=100, verbose=0)
    nats, error = log_prob.mean(), log_prob.std(ddof=1) / math.sqrt(len(log_prob))
    bits = -nats / math.prod(x.shape[1:]) / math.log(2.0)
    return f"{nats:.2f} ± {error:.2f} nats, {bits:.3f} bits per dimension, {seconds:.0f} s"


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="npz file of images")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument("--output", type=Path, default=GALLERY / "image_samples.png")
    options = parser.parse_args(arguments)
    train, held_out, levels = load(options.data)
    figure, panels = plt.subplots(1, 3, figsize=(7.0, 2.5), layout="constrained")
    figure.get_layout_engine().set(wspace=0.1)
    plot.images(held_out[:SHOWN], vmin=0, vmax=levels - 1, cmap="gray_r", axes=panels[0])
    panels[0].set_title("data, held out")
    for axes, (title, (make, units, shape_of)) in zip(panels[1:], MODELS.items()):
        keras.utils.set_random_seed(options.seed)
        model = make(train.shape[1:], levels, units)
        print(f"{title}:", fit(model, shape_of(train), shape_of(held_out), options), flush=True)
        samples = np.asarray(model.sample(SHOWN, seed=options.seed)).reshape(-1, *train.shape[1:])
        samples = np.clip(np.round(samples), 0, levels - 1)
        plot.images(samples, vmin=0, vmax=levels - 1, cmap="gray_r", axes=axes)
        axes.set_title(f"samples of {title}")
    save(figure, options.output)


if __name__ == "__main__":
    main()
