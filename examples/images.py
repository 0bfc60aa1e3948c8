"""Densities of images in bits per dimension: Glow, the multiscale Real NVP, or a dense MAF.

    python examples/images.py --model glow --minutes 20 --out glow

Trains for the time that is given on all images but the last 2,000, which it watches, then prints
the mean of -log2 p(x) per dimension for the test images, with its standard error. Integers from 0
to 255 get uniform noise, so that this is a bound of their code length, in the usual convention.
Writes `samples.png`, `interpolations.png`, `log.csv` and `model.keras`. With `--by-class` the
networks see the label of an image, and a column of the samples is a class.

Keras fetches MNIST once; `--data` takes an npz file instead, with x_train, y_train, x_test and
y_test, uint8, of grey images or of images with channels.

References:
  Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio. Density Estimation using Real NVP. 2016.
  arXiv:1605.08803
  Diederik P. Kingma, Prafulla Dhariwal. Glow: Generative Flow with Invertible 1x1 Convolutions.
  2018. arXiv:1807.03039
  George Papamakarios, Theo Pavlakou, Iain Murray. Masked Autoregressive Flow for Density
  Estimation. 2017. arXiv:1705.07057
"""

import argparse
import math
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib as mpl
import numpy as np

import keras_nf

mpl.use("Agg")
import matplotlib.pyplot as plt

VALIDATION = 2000
LEVELS = 256


def make_flow(name, shape, options):
    """Return a flow, of images or of vectors, whose last layers take the integers of pixels."""
    if name == "glow":
        flows = [
            keras_nf.glow(
                shape, levels=options.levels, steps=options.steps, hidden_units=options.units
            )
        ]
    elif name == "real_nvp":
        flows = [keras_nf.image_real_nvp(shape, hidden_units=options.units)]
    else:
        flows = [keras_nf.maf(math.prod(shape), hidden_units=(512, 512)), keras_nf.ActNorm()]
    pixels = [keras_nf.Logit(margin=options.margin), keras_nf.Dequantize(LEVELS)]
    return keras_nf.Chain([*flows, *pixels])


class UntilTime(keras.callbacks.Callback):
    """Stops after some minutes, until which the learning rate falls to zero along a cosine."""

    def __init__(self, minutes, rate):
        super().__init__()
        self.seconds, self.rate = 60.0 * minutes, rate

    def on_train_begin(self, logs=None):
        self.start = None

    def on_train_batch_end(self, batch, logs=None):
        # The first step traces the graph.
        self.start = self.start or time.perf_counter()
        part = min((time.perf_counter() - self.start) / self.seconds, 1.0)
        self.model.optimizer.learning_rate.assign(
            0.5 * self.rate * (1.0 + math.cos(math.pi * part))
        )
        self.model.stop_training = part == 1.0


def load(path):
    """Return images of shape (rows, height, width, channels) and labels, of training and test."""
    if path is None:
        (train, train_labels), (test, test_labels) = keras.datasets.mnist.load_data()
    elif not path.is_file():
        raise SystemExit(
            "Expected an npz file with the arrays x_train, y_train, x_test and y_test. Received: "
            f"{path}, where there is no file. Leave --data out for MNIST, which Keras fetches."
        )
    else:
        with np.load(path) as data:
            train, train_labels = data["x_train"], data["y_train"]
            test, test_labels = data["x_test"], data["y_test"]
    train, test = (x if x.ndim == 4 else x[..., None] for x in (train, test))
    return train, train_labels, test, test_labels


def with_noise(x, rng):
    """Return integers with the noise of `Dequantize`, drawn once."""
    return (x + rng.uniform(-0.5, 0.5, size=x.shape)).astype("float32")


def bits_per_dim(model, data, size):
    """Return mean and standard error of -log2 p(x) per dimension."""
    bits = -model.predict(data, batch_size=250, verbose=0) / (size * math.log(2.0))
    return bits.mean(), bits.std(ddof=1) / math.sqrt(len(bits))


def between(ends, count=10):
    """Return steps from each row of the first half of some rows to that of the second half."""
    first, last = np.split(np.asarray(ends, "float32"), 2)
    part = np.linspace(0.0, 1.0, count, dtype="float32").reshape(-1, *[1] * (first.ndim - 1))
    return (1.0 - part) * first[:, None] + part * last[:, None]


def picture(rows, path):
    """Write rows of images as one picture, with about 56 pixels for the height of an image."""
    levels = np.clip(np.round(rows), 0, LEVELS - 1)
    zoom = max(1, 56 // levels.shape[2])
    levels = levels.repeat(zoom, axis=2).repeat(zoom, axis=3)
    levels = np.pad(levels, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)], constant_values=128)
    grid = np.concatenate([np.concatenate(row, axis=1) for row in levels])
    grid = grid[..., 0] if grid.shape[-1] == 1 else grid.astype("uint8")
    plt.imsave(path, grid, cmap="gray", vmin=0, vmax=LEVELS - 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["glow", "real_nvp", "maf"], default="glow")
    parser.add_argument("--minutes", type=float, default=20.0, help="time of training")
    parser.add_argument("--levels", type=int, default=3, help="scales of Glow")
    parser.add_argument("--steps", type=int, default=4, help="steps of Glow on each scale")
    parser.add_argument("--units", type=int, nargs="+", default=[64, 64], help="of networks")
    parser.add_argument("--margin", type=float, default=1e-3, help="of the logit of pixels")
    parser.add_argument("--by-class", action="store_true")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, metavar="FILE", help="default: MNIST")
    parser.add_argument("--out", type=Path, default=Path("images"), help="folder to write")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    keras.utils.set_random_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    train, train_labels, test, test_labels = load(options.data)
    shape, classes = train.shape[1:], int(train_labels.max()) + 1
    is_flat = options.model == "maf"

    def inputs(x, labels):
        """Return what the model takes of images, noisy or not, and of their labels."""
        x = x.reshape(len(x), -1) if is_flat else x
        return {"x": x, "condition": np.eye(classes)[labels]} if options.by_class else x

    model = keras_nf.FlowModel(make_flow(options.model, shape, options))
    known, unknown = slice(None, -VALIDATION), slice(-VALIDATION, None)
    model.adapt(inputs(train[known][:VALIDATION], train_labels[known][:VALIDATION]))
    model.compile(
        keras.optimizers.Adam(options.learning_rate, global_clipnorm=100.0),
        metrics=[keras_nf.BitsPerDim()],
    )
    watched = inputs(with_noise(train[unknown], rng), train_labels[unknown])
    log = keras.callbacks.CSVLogger(options.out / "log.csv")
    model.fit(
        inputs(train[known], train_labels[known]),
        validation_data=watched,
        validation_batch_size=250,
        batch_size=options.batch_size,
        epochs=1000,
        callbacks=[UntilTime(options.minutes, options.learning_rate), log],
        verbose=2,
    )
    model.save(options.out / "model.keras")

    mean, error = bits_per_dim(model, inputs(with_noise(test, rng), test_labels), math.prod(shape))
    columns = np.eye(classes)[np.arange(10) % classes] if options.by_class else None
    draws = model.sample(8 if options.by_class else 80, condition=columns, seed=options.seed)
    picture(np.reshape(draws, (8, 10, *shape)), options.out / "samples.png")

    x, condition = inputs(test[:12], test_labels[:12]), None
    if options.by_class:
        x, condition = x["x"], x["condition"]
    z = between(model.flow.inverse(x, condition=condition))
    images = model.flow.forward(z, condition=None if condition is None else between(condition))
    picture(np.reshape(images, (6, 10, *shape)), options.out / "interpolations.png")
    steps, parameters = int(model.optimizer.iterations.numpy()), model.count_params()
    print(f"{options.model}, {parameters:,} parameters, {steps:,} steps, {options.minutes:g} min")
    print(f"{mean:.3f} ± {error:.3f} bits per dimension of {len(test):,} test images")


if __name__ == "__main__":
    main()
