"""Conditional densities for regression: a flow where `Dense(1)` and a squared error would stand.

    python examples/conditional_density.py --out results.csv

Trains a network with two heads: `keras_nf.density_head` without its spline, which is a Gaussian
whose mean and scale depend on the features, and the whole of it. The whole is trained twice, from
where the Gaussian ended and by itself: the first does better where there is little noise. Of these
two, and of several rates of dropout, what has the best validation likelihood is taken. Validated
and kept are running means of the weights, which do better than the weights of any one step. Printed
are test log-likelihoods in nats, in the units of the targets, the RMSE of the predictive mean, and
the share of targets inside of the 90 % intervals. Of the sets in `--integers` the likelihood is
that of the integer, a probability, and the Gaussian is on the line that a logit makes of their
range.

The data are scikit-learn's `diabetes` set with ten random splits, or those of `--data FILE.npz`:
for each set the arrays `<set>_x` of shape (rows, features), `<set>_y` of shape (rows,) and
`<set>_test` of shape (splits, test rows), row numbers. docs/conditional.md makes such a file of
nine UCI sets from the repository that publishes their splits. Results are appended to `--out` one
by one; a second run goes on where the first one stopped.

References:
  José Miguel Hernández-Lobato, Ryan P. Adams. Probabilistic Backpropagation for Scalable Learning
  of Bayesian Neural Networks. 2015. arXiv:1502.05336. The source of the published splits.
  Brian L. Trippe, Richard E. Turner. Conditional Density Estimation with Bayesian Normalising
  Flows. 2018. arXiv:1802.04908. Flows whose weights a network gives, on the same sets.
"""

import argparse
import csv
import os
import time
from operator import itemgetter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_diabetes

import keras_nf

FIELDS = ["set", "split", "head", "log_likelihood", "rmse", "inside", "rows"]
FIELDS += ["validation", "epochs", "phases", "dropout", "seconds"]
LEVEL = 0.9
HEADS = ("gaussian", "flow")
# Heads in the order in which they are trained, and in how many phases. What has one phase starts
# from fresh weights, the second phase of the flow from those of the Gaussian, at half the rate.
PLAN = (("gaussian", 1), ("flow", 2), ("flow", 1))


def make_models(features, y, options, dropout, is_integer=False):
    """Return untrained densities p(y | features), in the units of the targets, by their names.

    The Gaussian is the flow without its first layer, the spline. They share all others.
    """
    encoder = keras.Sequential([keras.Input((features,))])
    for _ in range(options.hidden_layers):
        encoder.add(keras.layers.Dense(options.units, activation="relu"))
        encoder.add(keras.layers.Dropout(dropout))
    ends = {"low": int(y.min()), "high": int(y.max()), "integers": True} if is_integer else {}
    head = keras_nf.density_head(bins=options.bins, **ends)
    chains = {"gaussian": keras_nf.Chain(head.flows[1:], event_size=1), "flow": head}
    models = {name: keras_nf.FlowModel(chains[name], encoder=encoder) for name in HEADS}
    for model in models.values():
        model.build({"x": (None, 1), "condition": (None, features)})
    return models


def log_likelihood(model, y, features, is_integer):
    """Return the mean of log p(y | features), or of integers, of log P(y | features)."""
    if not is_integer:
        return np.mean(model.log_prob(y, features), dtype="float64")
    above, below = (model.cdf(y + side, features) for side in (0.5, -0.5))
    return np.mean(np.log(np.maximum(above - below, 1e-7)), dtype="float64")


def load(path):
    """Return the arrays of the sets, by the names in which the file would hold them."""
    if path is None:
        x, y = load_diabetes(return_X_y=True)
        rng = np.random.default_rng(0)
        test = [rng.choice(len(y), len(y) // 10, replace=False) for _ in range(10)]
        return {"diabetes_x": x, "diabetes_y": y, "diabetes_test": np.stack(test)}
    wanted = "Expected an npz file with the arrays <set>_x, <set>_y and <set>_test (splits, rows)."
    advice = "docs/conditional.md says how to make one; without --data the set is `diabetes`."
    if not path.is_file():
        raise SystemExit(f"{wanted} Received: {path}, where there is no file. {advice}")
    with np.load(path) as arrays:
        for name in sets_of(arrays) or [""]:
            if missing := {f"{name}_{part}" for part in ("x", "y", "test")} - set(arrays):
                raise SystemExit(f"{wanted} {path} has no {min(missing)}. {advice}")
        return dict(arrays)


def sets_of(arrays):
    return [name.removesuffix("_test") for name in arrays if name.endswith("_test")]


def split_rows(x, y, test_rows, seed):
    """Return train, validation and test pairs; features are standardized by the train rows."""
    rest = np.setdiff1d(np.arange(len(x)), test_rows)
    rest = np.random.default_rng(seed).permutation(rest)
    validation_rows, train_rows = np.split(rest, [len(rest) // 10])
    mean, std = x[train_rows].mean(axis=0), x[train_rows].std(axis=0)
    x = (x - mean) / np.where(std > 1e-9 * np.abs(mean), std, 1.0)
    x, y = x.astype("float32"), y[:, None].astype("float32")
    return [{"x": y[i], "condition": x[i]} for i in (train_rows, validation_rows, test_rows)]


def batches(pairs, options):
    """Batches in random order, for an epoch of at least `--min-steps` of them."""
    rows = len(pairs["x"])
    size = min(options.batch_size, rows)
    repeats = -(-options.min_steps // (rows // size))

    def shuffled(_):
        order = tf.random.shuffle(tf.range(rows))
        return {name: tf.gather(values, order) for name, values in pairs.items()}

    # All rows at once: one by one, they would take a quarter of the time of the training.
    dataset = tf.data.Dataset.range(repeats).map(shuffled).rebatch(size, drop_remainder=True)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(repeats * rows // size))
    settings = tf.data.Options()
    settings.autotune.enabled = False
    return dataset.with_options(settings)


class Trainer:
    """Both densities of a network for all splits of a set: their steps are compiled once."""

    def __init__(self, features, y, options, dropout, is_integer):
        self.make = lambda: make_models(features, y, options, dropout, is_integer)
        self.options, self.is_integer = options, is_integer
        self.models = self.make()
        for model in self.models.values():
            optimizer = keras.optimizers.AdamW(
                options.learning_rate,
                weight_decay=options.weight_decay,
                global_clipnorm=options.clip,
                use_ema=True,
            )
            model.compile(optimizer, jit_compile=True, steps_per_execution=options.min_steps)

    def train(self, train, validation, held_out, seed):
        """Yield head, phases, losses and measures of each density, as soon as it is trained."""
        patience = self.options.patience
        for head, phases in PLAN:
            if phases == 1:
                keras.utils.set_random_seed(seed)
                # All weights, for the flow has those of the Gaussian.
                self.models["flow"].set_weights(self.make()["flow"].get_weights())
                self.models["gaussian"].adapt(train)
            model = self.models[head]
            for variable in model.optimizer.variables:
                variable.assign(keras.ops.zeros_like(variable))
            model.optimizer.learning_rate = self.options.learning_rate / phases
            callbacks = [
                # First, so that the others see the means too.
                keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
                keras.callbacks.ReduceLROnPlateau(factor=0.3, patience=patience // 2),
                keras.callbacks.EarlyStopping(patience=patience, restore_best_weights=True),
            ]
            losses = model.fit(
                batches(train, self.options),
                validation_data=tf.data.Dataset.from_tensors(validation),
                epochs=self.options.epochs,
                callbacks=callbacks,
                verbose=0,
            ).history["val_loss"]
            yield {
                "head": head,
                "phases": phases,
                **measure(model, held_out, self.is_integer),
                "validation": -min(losses),
                "epochs": len(losses),
            }


def measure(model, held_out, is_integer):
    """Return what the table has of a density and test pairs."""
    targets, features = held_out["x"], held_out["condition"]
    error = model.mean(features) - targets
    low, high = model.interval(LEVEL, features)
    return {
        "log_likelihood": log_likelihood(model, targets, features, is_integer),
        "rmse": np.sqrt(np.mean(error**2, dtype="float64")),
        "inside": int(np.sum((low <= targets) & (targets <= high))),
        "rows": len(targets),
    }


def run_set(name, arrays, done, options):
    """Yield the rows of results of each split that is not done yet, one for each density."""
    x, y, test = (np.asarray(arrays[f"{name}_{part}"]) for part in ("x", "y", "test"))
    # Also for the noise of dropout, whose generators are made with the models.
    keras.utils.set_random_seed(options.seed)
    trainers = None
    for split, test_rows in enumerate(test[: options.splits]):
        if (name, split) in done:
            continue
        start = time.perf_counter()
        trainers = trainers or {
            dropout: Trainer(x.shape[1], y[:, None], options, dropout, name in options.integers)
            for dropout in options.dropout
        }
        seed = options.seed + split
        parts = split_rows(x, y, test_rows, seed)
        candidates = [
            {"set": name, "split": split, **row, "dropout": dropout}
            for dropout, trainer in trainers.items()
            for row in trainer.train(*parts, seed)
        ]
        seconds = round(time.perf_counter() - start, 1)
        best = (
            max((row for row in candidates if row["head"] == head), key=itemgetter("validation"))
            for head in HEADS
        )
        yield [{**row, "seconds": seconds} for row in best]


def print_table(rows, names):
    """Print means and standard errors over the splits, and the share inside of the intervals."""
    titles = (f"{head + ' log p':>20}{'RMSE':>10}{'inside':>8}" for head in HEADS)
    print(f"{'set':<14}{'splits':>7}", *titles)
    for name in names:
        columns = []
        for head in HEADS:
            own = [row for row in rows if row["set"] == name and row["head"] == head]
            log_prob = np.array([float(row["log_likelihood"]) for row in own])
            if not own:
                columns.append(f"{'-':>20}{'-':>10}{'-':>8}")
                continue
            error = log_prob.std(ddof=1) / np.sqrt(len(own)) if len(own) > 1 else np.nan
            rmse = np.mean([float(row["rmse"]) for row in own])
            inside = sum(int(row["inside"]) for row in own) / sum(int(row["rows"]) for row in own)
            columns.append(
                f"{f'{log_prob.mean():.3f} ± {error:.3f}':>20}{rmse:>10.4g}{inside:>8.3f}"
            )
        print(f"{name:<14}{len(own):>7}", *columns)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="FILE", help="default: diabetes")
    parser.add_argument("--out", type=Path, default=Path("results.csv"))
    parser.add_argument("--sets", nargs="+", metavar="SET", help="default: all")
    parser.add_argument("--splits", type=int, help="first splits to run; default: all")
    parser.add_argument("--epochs", type=int, default=200, help="most epochs of a phase")
    parser.add_argument("--patience", type=int, default=10, help="epochs without improvement")
    parser.add_argument("--min-steps", type=int, default=100, help="fewest steps of an epoch")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-2)
    parser.add_argument("--clip", type=float, default=0.1, help="longest gradient")
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--hidden-layers", type=int, default=2)
    parser.add_argument(
        "--dropout", type=float, nargs="+", default=[0.0, 0.05], help="rates, of which the best"
    )
    parser.add_argument("--bins", type=int, default=8, help="bins of the flow's spline")
    parser.add_argument("--integers", nargs="*", default=["wine_red"], metavar="SET")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    arrays = load(options.data)
    names = options.sets or sets_of(arrays)
    for name in set(names) - set(sets_of(arrays)):
        parser.error(f"--sets takes {', '.join(sets_of(arrays))}. Received: {name}.")
    rows = []
    if options.out.exists():
        with options.out.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        if reader.fieldnames not in (None, FIELDS):
            parser.error(
                f"--out goes on with a file of the columns {', '.join(FIELDS)}. Received: "
                f"{options.out} with {', '.join(reader.fieldnames)}. Give another name."
            )
    done = {(row["set"], int(row["split"])) for row in rows}
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if not rows:
            writer.writeheader()
        for name in names:
            for results in run_set(name, arrays, done, options):
                writer.writerows(results)
                file.flush()
                rows += results
                for row in results:
                    print(*(f"{v:.4g}" if isinstance(v, float) else v for v in row.values()))
    print_table(rows, names)


if __name__ == "__main__":
    main()
