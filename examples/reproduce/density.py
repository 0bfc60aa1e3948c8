"""The density benchmark of the MAF paper: test log-likelihood of flows on five sets of data.

    python examples/reproduce/density.py --set power --model maf-5 --data data --minutes 30

Trains with a learning rate that falls to zero over `--epochs`, keeps the weights with the least
validation loss, and appends the mean test log-likelihood, with two standard errors, to
`density.csv` in the folder `--out`. A command that was killed, or that `--minutes` has ended, goes
on from where it was when it is given again. The folder of the run has `log.csv`, the curve, and
`model.keras`. `tables.py` beside this file says which files `--data` may hold.

The Gaussian is not trained: it has the mean and the covariance of the training data. With
`--mirror` patches are turned over at random, for a set that has fewer than the paper's: photographs
are, all in all, as likely the other way round.

References:
  George Papamakarios, Theo Pavlakou, Iain Murray. Masked Autoregressive Flow for Density
  Estimation. 2017. arXiv:1705.07057
  Conor Durkan, Artur Bekasov, Iain Murray, George Papamakarios. Neural Spline Flows. 2019.
  arXiv:1906.04032
"""

from functools import partial

import numpy as np
from harness import batches_of, fill_in, gaussian_log_prob, mean_and_error, parser_of, record, train
from tables import NAMES, dequantize, load

# isort: split
import keras
import tensorflow as tf

import keras_nf

# Units of a hidden layer in the MAF paper, which has two, and in the NSF paper: of blocks of
# autoregressive flows; layers, blocks of each and units of couplings.
UNITS = {
    "power": (100, 256, (10, 2, 256)),
    "gas": (100, 256, (10, 2, 256)),
    "hepmass": (512, 256, (20, 1, 128)),
    "miniboone": (512, 32, (10, 2, 32)),
    "bsds300": (512, 512, (20, 1, 128)),
}

# Of the networks of spline flows; others have none.
DROPOUT = {"power": 0.0, "gas": 0.1, "hepmass": 0.2, "miniboone": 0.2, "bsds300": 0.2}


def two_layers(units, dropout):
    """Return the options of the networks that the MAF paper has."""
    return {"hidden_units": (units[0],) * 2, "dropout": dropout}


def made(size, units, dropout, components):
    return [], keras_nf.bases.AutoregressiveMixture(components, **two_layers(units, dropout))


def real_nvp(size, units, dropout, layers):
    return [keras_nf.real_nvp(size, layers=layers, **two_layers(units, dropout))], "normal"


def maf(size, units, dropout, layers):
    return [keras_nf.maf(size, layers=layers, **two_layers(units, dropout))], "normal"


def maf_mixture(size, units, dropout):
    return maf(size, units, dropout, 5)[0], made(size, units, dropout, 10)[1]


def maf_residual(size, units, dropout, layers=10):
    """Residual networks, and linear maps of all components in place of reversed orders."""
    network = {"hidden_units": (units[1],) * 5, "residual": True, "dropout": dropout}
    flows = [keras_nf.MaskedAutoregressive(**network)]
    for _ in range(layers - 1):
        flows += [keras_nf.LULinear("random"), keras_nf.MaskedAutoregressive(**network)]
    return flows, "normal"


def nsf(size, units, dropout, coupling):
    """Linear maps of all components, which are between the splines, also lie at both ends."""
    layers, blocks, units = units[2] if coupling else (10, 2, units[1])
    network = {"hidden_units": (units,) * (1 + 2 * blocks), "residual": True, "dropout": dropout}
    splines = keras_nf.nsf(size, layers=layers, coupling=coupling, bound=4.0, **network)
    return [keras_nf.LULinear(), splines, keras_nf.LULinear()], "normal"


# By name: the function, its further arguments, and epochs, rows in a batch and learning rate.
MODELS = {
    "gaussian": None,
    "made": (made, (1,), 20, 1000, 2e-3),
    "made-mog": (made, (10,), 20, 1000, 2e-3),
    "real-nvp-5": (real_nvp, (5,), 20, 1000, 2e-3),
    "real-nvp-10": (real_nvp, (10,), 20, 1000, 2e-3),
    "maf-5": (maf, (5,), 20, 1000, 2e-3),
    "maf-10": (maf, (10,), 20, 1000, 2e-3),
    "maf-mog": (maf_mixture, (), 20, 1000, 2e-3),
    "maf-residual": (maf_residual, (), 20, 1000, 1e-3),
    "nsf-coupling": (nsf, (True,), 20, 1000, 1e-3),
    "nsf": (nsf, (False,), 20, 1000, 1e-3),
}


def mirrored(patches):
    """Turn patches over, left to right, top to bottom, both or neither, each at random."""
    x = tf.reshape(patches, (-1, 8, 8))
    for axis in (1, 2):
        is_turned = tf.random.uniform((len(x), 1, 1)) < 0.5
        x = tf.where(is_turned, tf.reverse(x, [axis]), x)
    return tf.reshape(x, tf.shape(patches))


def as_events(x, mirror=False):
    """Return what the flow sees of a batch: patches get noise anew each time."""
    if x.dtype != tf.uint8:
        return x
    if mirror:
        x = mirrored(x)
    x = (tf.cast(x, tf.float32) + tf.random.uniform(tf.shape(x))) / 256.0
    return (x - tf.reduce_mean(x, axis=1, keepdims=True))[:, :-1]


def main():
    parser = parser_of(__doc__, data="a folder of files")
    parser.add_argument("--set", choices=NAMES, required=True)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--dropout", type=float, help="its rate")
    parser.add_argument("--mirror", action="store_true", help="turn patches over at random")
    options = parser.parse_args()
    x_train, x_val, x_test = load(options.set, options.data)
    x_train = x_train[: options.rows]
    rng = np.random.default_rng(0)
    seen, x_val, x_test = (
        dequantize(x, rng) if x.dtype == np.uint8 else x for x in (x_train, x_val, x_test)
    )
    size = seen.shape[1]
    if options.mirror and x_train.dtype != np.uint8:
        parser.error(f"--mirror is for patches, of bsds300_patches.npz. Received: {options.set}")
    name = options.model + "-mirrored" * options.mirror
    run = {"set": options.set, "model": name, "seed": options.seed}
    results = options.out / "density.csv"
    if options.model == "gaussian":
        log_prob = gaussian_log_prob(seen, x_test)
        record(results, {**run, "dropout": ""}, size * (size + 3) // 2, mean_and_error(log_prob))
        return

    make, arguments, *defaults = MODELS[options.model]
    fill_in(options, defaults)
    if options.dropout is None:
        options.dropout = DROPOUT[options.set] if make is nsf else 0.0
    keras.utils.set_random_seed(options.seed)
    flows, base = make(size, UNITS[options.set], options.dropout, *arguments)
    model = keras_nf.FlowModel(keras_nf.Chain([*flows, keras_nf.Standardize()]), base=base)
    model.adapt(seen)
    folder = options.out / "-".join(map(str, ("density", *run.values())))
    transform = partial(as_events, mirror=options.mirror)
    batches = batches_of(x_train, options.batch_size, transform)
    progress = train(model, batches, x_val, len(x_train), options, folder)
    model.save(folder / "model.keras")
    log_prob = model.predict(x_test, batch_size=2000, verbose=0)
    settings = {**run, "dropout": options.dropout}
    record(results, settings, model.count_params(), mean_and_error(log_prob), progress)


if __name__ == "__main__":
    main()
