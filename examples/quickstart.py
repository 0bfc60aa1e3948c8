"""Density of handwritten digits: train, compare, sample, save, export, reload.

Trains a masked autoregressive flow on scikit-learn's 1,797 images of 8 x 8 pixels and prints its
test log-likelihood beside a full-covariance Gaussian's. Writes `samples.png`, `digits.keras` and
the SavedModel `served/1` to the folder given by `--output`, as examples/serve.py takes it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib as mpl
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import keras_nf

mpl.use("Agg")
import matplotlib.pyplot as plt

LEVELS = 17.0  # pixels hold 0 ... 16
SIZE = 64

# Runs in a process of its own, in which nothing but TensorFlow and NumPy is imported.
RELOAD = """
import sys
import numpy as np
import tensorflow as tf
from absl import logging
# It would warn of second derivatives, which are not a part of an export.
logging.set_verbosity(logging.ERROR)
model, data, result = sys.argv[1:]
served = tf.saved_model.load(model)
np.save(result, served.log_prob(np.load(data))["log_prob"])
"""


def dequantize(levels, rng):
    """Add uniform noise to integer levels, so that they have a density."""
    return levels + rng.random(levels.shape, dtype="float32")


def gaussian_log_prob(train, test):
    """Log-density of the test rows under a full-covariance Gaussian fitted to the train rows."""
    mean, covariance = train.mean(axis=0), np.cov(train.T)
    centred = test - mean
    distance = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred)
    return -0.5 * (distance + np.linalg.slogdet(2 * np.pi * covariance)[1])


def reloaded_log_prob(model, x):
    """Log-density of an exported model, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        data, result = Path(folder, "data.npy"), Path(folder, "log_prob.npy")
        np.save(data, x)
        subprocess.run([sys.executable, "-c", RELOAD, model, data, result], check=True)
        return np.load(result)


def report(name, log_prob):
    error = 2 * log_prob.std() / np.sqrt(len(log_prob))
    print(f"  {name:<32} {log_prob.mean():8.2f}  (two standard errors {error:.2f})")


def picture(data, samples, path):
    figure, axes = plt.subplots(1, 2, figsize=(8, 4.4))
    for axis, images, title in ((axes[0], data, "data"), (axes[1], samples, "samples of the flow")):
        framed = np.pad(images[:64].reshape(64, 8, 8), ((0, 0), (1, 1), (1, 1)))
        grid = framed.reshape(8, 8, 10, 10).transpose(0, 2, 1, 3).reshape(80, 80)
        axis.imshow(grid, cmap="gray_r", vmin=0, vmax=LEVELS)
        axis.set_title(title)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=200, help="most epochs to train")
    parser.add_argument("--output", type=Path, default=Path("quickstart"), help="folder to write")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    levels = rng.permutation(load_digits().data.astype("float32"))
    train, validation, test = levels[:1300], levels[1300:1500], levels[1500:]
    x_validation, x_test = dequantize(validation, rng), dequantize(test, rng)
    x_train = dequantize(np.tile(train, (20, 1)), rng)

    logit = keras_nf.Logit(low=0.0, high=LEVELS)
    standardize = keras_nf.Standardize()
    standardize.adapt(logit.inverse(x_train))
    maf = keras_nf.maf(event_size=SIZE, layers=5, hidden_units=(256,))
    model = keras_nf.FlowModel(keras_nf.Chain([maf, standardize, logit]))
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.1))

    # Fresh noise in every epoch.
    dataset = tf.data.Dataset.from_tensor_slices(train).shuffle(len(train)).batch(100)
    dataset = dataset.map(lambda x: x + tf.random.uniform(tf.shape(x)))
    stopping = keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True)
    model.fit(dataset, validation_data=x_validation, epochs=options.epochs, callbacks=[stopping])
    model.summary()

    log_prob = model.predict(x_test, verbose=0)
    print("\nMean test log-likelihood, nats per image:")
    report("full-covariance Gaussian", gaussian_log_prob(x_train, x_test))
    z_test, log_det = logit.inverse_and_log_det(x_test)
    in_logits = gaussian_log_prob(np.asarray(logit.inverse(x_train)), np.asarray(z_test))
    report("Gaussian of the logits", in_logits + np.asarray(log_det))
    report("masked autoregressive flow", log_prob)

    samples = np.asarray(model.sample(64, seed=1))
    picture(x_test, samples, options.output / "samples.png")
    model.save(options.output / "digits.keras")
    model.export(options.output / "served" / "1")

    served = reloaded_log_prob(options.output / "served" / "1", x_test)
    difference = float(np.abs(served - log_prob).max())
    print(f"\nThe export, reloaded in a fresh process: largest difference {difference:.1e} nats.")
    if difference > 1e-3:
        raise SystemExit("The exported model does not give the densities of the trained one.")
    print(f"Wrote {options.output}/: samples.png, digits.keras, served/1/.")
    print(f"Took {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    main()
