"""How well the recipes learn: held-out log-densities over data sets, options and seeds.

python tests/benchmarks/training.py --data FOLDER --output results.jsonl
python tests/benchmarks/training.py --data FOLDER --output results.jsonl --options '{"layers": 16}'
python tests/benchmarks/training.py --table results.jsonl

The first two append a line for each run and leave out what the file has, so that they can be
stopped and started again, and several can share the work by `--shard 0/2`, `--shard 1/2`. The last
prints tables of the file, or of several side by side.
"""

import argparse
import functools
import inspect
import itertools
import json
import math
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from training_sets import SETS, load

RECIPES = ("planar_flow", "nice", "real_nvp", "maf", "iaf", "nsf")
# Flows of other libraries, where they are installed.
PEERS = ("zuko_maf", "zuko_nsf", "nflows_maf")
BATCH = 256
CHECKS = 10
# Fewer steps for sets of few rows: with 2,000, every flow would overfit them.
STEPS = {"kin8nm": 1_000, "miniboone": 500, "digits": 80}
# A run has failed that ends with NaN, or by more than this below its best check, in nats.
FAILURE = 1.0


class KerasFlow:
    """A recipe of keras_nf, compiled once and trained from new initial weights in each run."""

    def __init__(self, recipe, options, size, condition_size):
        import keras_nf

        base = "logistic" if recipe == "nice" else "normal"
        make = getattr(keras_nf, recipe)
        # Recipes without random masks or orders take no seed of their own.
        seeded = "seed" in inspect.signature(make).parameters
        self._new_model = lambda seed: keras_nf.FlowModel(
            make(size, **options, **({"seed": seed} if seeded else {})), base
        )
        self._shape = (None, size)
        if condition_size:
            self._shape = {"x": self._shape, "condition": (None, condition_size)}
        self._model = None

    def _compile(self, steps):
        import tensorflow as tf

        # Random masks and orders are those of one seed; the weights are of each run's own.
        self._model = self._new_model(0)
        # One compiled call from check to check.
        self._model.compile("adam", jit_compile=True, steps_per_execution=steps)
        self._model.build(self._shape)
        self._model.optimizer.build(self._model.trainable_variables)
        self._mean_log_prob = tf.function(
            lambda x: tf.reduce_mean(self._model(x)), jit_compile=True
        )

    def _reset(self, learning_rate, seed):
        import keras

        keras.utils.set_random_seed(seed)
        fresh = self._new_model(seed)
        fresh.build(self._shape)
        self._model.set_weights(fresh.get_weights())
        for variable in self._model.optimizer.variables:
            variable.assign(np.zeros(variable.shape))
        self._model.optimizer.learning_rate = learning_rate

    def train(self, data, batches, learning_rate, seed, checks):
        """Return the held-out log-density after each of so many equal parts of the batches."""
        import keras
        import tensorflow as tf

        def inputs(x, condition):
            parts = x if condition is None else {"x": x, "condition": condition}
            return tf.nest.map_structure(tf.constant, parts)

        train = inputs(data.train, data.train_condition)
        test = inputs(data.test, data.test_condition)
        steps = len(batches) // checks
        if self._model is None:
            self._compile(steps)
        self._reset(learning_rate, seed)
        dataset = tf.data.Dataset.from_tensor_slices(batches)
        dataset = dataset.map(lambda i: tf.nest.map_structure(lambda a: tf.gather(a, i), train))
        results = []
        # Not `validation_data`, of which `steps_per_execution` batches are evaluated at a time.
        check = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: results.append(float(self._mean_log_prob(test)))
        )
        options = {"steps_per_epoch": steps, "epochs": checks, "shuffle": False, "verbose": 0}
        self._model.fit(dataset.repeat(), callbacks=[check], **options)
        return results


def make_flow(recipe, *arguments):
    if recipe not in PEERS:
        return KerasFlow(recipe, *arguments)
    from training_peers import TorchFlow

    return TorchFlow(recipe, *arguments)


def make_batches(rows, steps, seed):
    """Return the rows of each step: epochs in an order of their own, cut into batches."""
    rng = np.random.default_rng(seed)
    epochs = math.ceil(steps * BATCH / rows)
    order = np.concatenate([rng.permutation(rows) for _ in range(epochs)])
    return order[: steps * BATCH].reshape(steps, BATCH)


def jobs(arguments):
    """Return all runs, as they go into the file; those of one compiled flow follow one another."""
    keys = ("recipe", "options", "learning_rate", "set", "seed")
    grid = itertools.product(*(getattr(arguments, key) for key in keys))
    return [dict(zip(keys, job)) for job in grid]


def read(path):
    """Return the runs of a file, with their results."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(arguments):
    """Make the runs that the file lacks."""
    output = arguments.output
    done = read(output) if output.exists() else []
    data = functools.cache(functools.partial(load, folder=arguments.data))
    groups = {}
    for job in jobs(arguments):
        if any(job.items() <= result.items() for result in done):
            continue
        train, _, condition, _ = data(job["set"])
        sizes = tuple(0 if a is None else a.shape[1] for a in (train, condition))
        steps = STEPS.get(job["set"], 2_000)
        key = job["recipe"], json.dumps(job["options"]), sizes, steps
        groups.setdefault(key, []).append(job)
    shard, shards = map(int, arguments.shard.split("/"))
    for (recipe, options, sizes, steps), group in list(groups.items())[shard::shards]:
        flow = make_flow(recipe, json.loads(options), *sizes)
        for job in group:
            start = time.perf_counter()
            rows = data(job["set"])
            batches = make_batches(len(rows.train), steps, job["seed"])
            checks = flow.train(rows, batches, job["learning_rate"], job["seed"], CHECKS)
            seconds = round(time.perf_counter() - start, 1)
            with output.open("a") as file:
                file.write(json.dumps({**job, "checks": checks, "seconds": seconds}) + "\n")
            print(recipe, options, job["set"], job["seed"], f"{checks[-1]:.3f}", flush=True)


def has_failed(checks):
    return not checks[-1] >= max(checks) - FAILURE


def describe(runs):
    """Return mean and half the range of the last checks of the seeds, and how many failed."""
    if not runs:
        return "-"
    last = [result["checks"][-1] for result in runs]
    failed = sum(has_failed(result["checks"]) for result in runs)
    text = f"{np.mean(last):.2f} ± {(max(last) - min(last)) / 2:.2f}"
    return text + (f", {failed} of {len(runs)} failed" if failed else "")


def print_tables(paths):
    """Print a table for each choice of options: a row for each set, a column for each recipe."""
    files = [read(path) for path in paths]
    everything = [result for results in files for result in results]
    variants = {(json.dumps(r["options"]), r["learning_rate"]): None for r in everything}
    for options, rate in variants:
        own = {"options": json.loads(options), "learning_rate": rate}
        chosen = {r["recipe"] for r in everything if own.items() <= r.items()}
        recipes = [name for name in (*RECIPES, *PEERS) if name in chosen]
        print(f"\noptions {options}, learning rate {rate:g}\n")
        print("| set |", " | ".join(recipes), "|")
        print("|---|" + "---|" * len(recipes))
        for name in SETS:
            cells = []
            for recipe in recipes:
                wanted = {**own, "recipe": recipe, "set": name}
                runs = [[r for r in file if wanted.items() <= r.items()] for file in files]
                cells.append(" → ".join(map(describe, runs)))
            print("|", " | ".join([name, *cells]), "|")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", type=Path, nargs="+", help="files of results, to be printed")
    parser.add_argument(
        "--data", type=Path, help="folder of the archives; see docs/training_study.md"
    )
    parser.add_argument("--output", type=Path, help="file of results, to be continued")
    parser.add_argument("--recipe", nargs="+", default=RECIPES, choices=(*RECIPES, *PEERS))
    parser.add_argument("--set", nargs="+", default=SETS, choices=SETS)
    parser.add_argument(
        "--options", nargs="+", type=json.loads, default=({},), help="of the recipe, as JSON"
    )
    parser.add_argument("--learning-rate", nargs="+", type=float, default=(1e-3,))
    parser.add_argument("--seed", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--shard", default="0/1", help="K/N: the K-th of N parts of the runs")
    arguments = parser.parse_args()
    if arguments.table:
        print_tables(arguments.table)
    elif arguments.output:
        run(arguments)
    else:
        parser.error("give --output, or --table")


if __name__ == "__main__":
    main()
