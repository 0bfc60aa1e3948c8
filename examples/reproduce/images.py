"""Densities of MNIST as three papers measure them: NICE, the table of MAF, bits per dimension.

    python examples/reproduce/images.py --model nice --data mnist.npz --minutes 60

- `nice`: pixels with uniform noise, in [0, 1]^784; four additive couplings of five layers of 1,000
  units, odd pixels and even ones, a logistic base. In nats.
- `gaussian`, `made`, `made-mog`, `real-nvp-5`, `maf-5`: the same pixels through a logit, of whose
  784 numbers the density is, in nats. With `--by-class` the networks see the label.
- `glow`, `multiscale`: small ones, of the integers, by uniform noise a bound; log2 p(x) / 784,
  which is minus the bits per dimension.

The mean test log-likelihood, with two standard errors, is appended to `images.csv` in the folder
`--out`, and samples are drawn, `samples.png` in the folder of the run. A command that was killed,
or that `--minutes` has ended, goes on from where it was when it is given again. `--data` is an npz
file with x_train, y_train, x_test and y_test, as Keras has it.

References:
  Laurent Dinh, David Krueger, Yoshua Bengio. NICE: Non-linear Independent Components Estimation.
  2014. arXiv:1410.8516
  Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio. Density Estimation using Real NVP. 2016.
  arXiv:1605.08803
  George Papamakarios, Theo Pavlakou, Iain Murray. Masked Autoregressive Flow for Density
  Estimation. 2017. arXiv:1705.07057
"""

import math
from functools import partial

import numpy as np
from harness import batches_of, fill_in, gaussian_log_prob, mean_and_error, parser_of, record, train

# isort: split
import keras
import matplotlib as mpl
import tensorflow as tf

import keras_nf

mpl.use("Agg")

SIZE, CLASSES, VALIDATION = 784, 10, 10_000
# Of the logit, as in the MAF paper.
MARGIN = 1e-6
# A pixel that is black but for one image in thousands would be, in that one, hundreds of deviations
# away from its mean, and what networks make of it without meaning.
LEAST_DEVIATION = 0.03


def nice():
    """As in the paper, the scaling is next to the base; networks see standardized pixels."""
    mask = np.arange(SIZE) % 2 == 0
    couplings = [
        keras_nf.AdditiveCoupling(mask=mask, swap=swap, hidden_units=(1000,) * 5)
        for swap in (False, True, False, True)
    ]
    return standardized([keras_nf.ActNorm(), *couplings], base="logistic")


def standardized(flows, base="normal"):
    flow = keras_nf.Chain([*flows, keras_nf.Standardize()], event_size=SIZE)
    return keras_nf.FlowModel(flow, base=base)


def made(components, conditional):
    base = keras_nf.bases.AutoregressiveMixture(
        components, hidden_units=(1024,), conditional=conditional
    )
    return standardized([], base)


def real_nvp(layers):
    return standardized([keras_nf.real_nvp(SIZE, layers=layers, hidden_units=(1024,))])


def maf(layers):
    return standardized([keras_nf.maf(SIZE, layers=layers, hidden_units=(1024,))])


def of_integers(flow):
    pixels = [keras_nf.Logit(margin=1e-3), keras_nf.Dequantize(256)]
    return keras_nf.FlowModel(keras_nf.Chain([flow, *pixels]))


def glow():
    return of_integers(keras_nf.glow((28, 28, 1), levels=3, steps=4, hidden_units=(64, 64)))


def multiscale():
    return of_integers(keras_nf.image_real_nvp((28, 28, 1), hidden_units=(32, 32)))


# By name: the model, whether labels condition it; epochs, rows in a batch and learning rate.
MODELS = {
    "nice": (lambda by_class: nice(), 18, 200, 5e-3),
    "gaussian": None,
    "made": (lambda by_class: made(1, by_class), 50, 200, 1e-3),
    "made-mog": (lambda by_class: made(10, by_class), 50, 200, 1e-3),
    "real-nvp-5": (lambda by_class: real_nvp(5), 50, 200, 1e-3),
    "maf-5": (lambda by_class: maf(5), 50, 200, 1e-3),
    "glow": (lambda by_class: glow(), 10, 64, 2e-3),
    "multiscale": (lambda by_class: multiscale(), 10, 64, 2e-3),
}


def events_of(name):
    """Return what a model of this name sees of uint8 pixels, and the way back to grey levels."""

    def unit(x):
        return (tf.cast(x, tf.float64) + tf.random.uniform(tf.shape(x), dtype=tf.float64)) / 256.0

    def logit(x):
        # float64, as close to 1 as the margin is.
        p = MARGIN + (1.0 - 2.0 * MARGIN) * unit(x)
        return tf.cast(tf.math.log(p) - tf.math.log1p(-p), tf.float32)

    def image(x):
        return tf.reshape(tf.cast(x, tf.float32), (-1, 28, 28, 1))

    if name == "nice":
        return lambda x: tf.cast(unit(x), tf.float32), partial(tf.multiply, 256.0)
    if name in ("glow", "multiscale"):
        return image, tf.identity
    return logit, lambda y: 256.0 * tf.sigmoid(y)


def draw_samples(model, to_levels, by_class, path):
    """Write ten rows of ten images; with labels, a column of each."""
    condition = np.eye(CLASSES, dtype="float32") if by_class else None
    samples = model.sample(10 if by_class else 100, condition=condition, seed=0)
    levels = np.clip(to_levels(samples), 0.0, 255.0).reshape(100, 28, 28)
    axes = keras_nf.plot.images(levels, columns=10)
    axes.figure.savefig(path, dpi=100, bbox_inches="tight")


def main():
    parser = parser_of(__doc__, data="an npz file of MNIST")
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--by-class", action="store_true", help="p(image | label)")
    options = parser.parse_args()
    with np.load(options.data) as arrays:
        pixels = {name: arrays[f"x_{name}"].reshape(-1, SIZE) for name in ("train", "test")}
        labels = {name: np.eye(CLASSES)[arrays[f"y_{name}"]] for name in ("train", "test")}
    keras.utils.set_random_seed(options.seed)
    to_events, to_levels = events_of(options.model)

    def inputs(x, label, noise=0.0):
        x = to_events(x)
        if noise:
            x += tf.random.normal(tf.shape(x), stddev=noise)
        return {"x": x, "condition": tf.cast(label, tf.float32)} if options.by_class else x

    kept = len(pixels["train"]) - VALIDATION
    x_train, labels_train = pixels["train"][:kept][: options.rows], labels["train"][:kept]
    labels_train = labels_train[: len(x_train)]
    val = inputs(pixels["train"][kept:], labels["train"][kept:])
    test = inputs(pixels["test"], labels["test"])
    run = {
        "model": options.model + "-by-class" * options.by_class,
        "seed": options.seed,
    }
    results = options.out / "images.csv"
    if options.model == "gaussian":
        seen = np.asarray(to_events(x_train))
        log_prob = gaussian_log_prob(seen, np.asarray(test))
        record(results, run, SIZE * (SIZE + 3) // 2, mean_and_error(log_prob))
        return

    make, *defaults = MODELS[options.model]
    fill_in(options, defaults)
    model = make(options.by_class)
    noise = LEAST_DEVIATION if options.model == "nice" else 0.0
    model.adapt(inputs(x_train[:VALIDATION], labels_train[:VALIDATION], noise))
    folder = options.out / "-".join(map(str, ("images", *run.values())))
    batches = batches_of((x_train, labels_train), options.batch_size, inputs)
    progress = train(model, batches, val, len(x_train), options, folder)
    model.save(folder / "model.keras")
    log_prob = model.predict(test, batch_size=500, verbose=0)
    if options.model in ("glow", "multiscale"):
        log_prob /= SIZE * math.log(2.0)
    record(results, run, model.count_params(), mean_and_error(log_prob), progress)
    draw_samples(model, to_levels, options.by_class, folder / "samples.png")


if __name__ == "__main__":
    main()
