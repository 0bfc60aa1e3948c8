"""Held-out log-densities of a table by the precision of networks: trained in it, or moved to it.

python tests/benchmarks/mixed_precision.py --data power.npz

Runs of one seed start from the same weights and see the same batches. The last lines hold what a
model that was trained in float32 makes of the rows once its weights are in one of another policy.
"""

import argparse
import math
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_nf

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
BATCH, STEPS_PER_CALL = 512, 16


def make_model(size, policy, layers, seed):
    keras.utils.set_random_seed(seed)
    model = keras_nf.FlowModel(keras_nf.maf(size, layers=layers, dtype=policy))
    model.build((None, size))
    return model


def train(model, rows, steps, seed):
    """Make so many steps, the rate falling to zero, and return how many were skipped."""
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    model.compile(
        keras.optimizers.Adam(schedule), jit_compile=True, steps_per_execution=STEPS_PER_CALL
    )
    order = np.random.default_rng(seed)
    done, epoch = 0, STEPS_PER_CALL * (len(rows) // (BATCH * STEPS_PER_CALL))
    while done < steps:
        count = min(epoch, steps - done)
        chosen = rows[order.permutation(len(rows))[: count * BATCH]]
        model.fit(chosen, batch_size=BATCH, shuffle=False, verbose=0)
        done += count
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return steps - int(optimizer.iterations)


def describe(differences):
    """Return the mean of differences, one for each seed, and its standard error."""
    error = np.std(differences, ddof=1) / math.sqrt(len(differences))
    return f"{np.mean(differences):+.4f} ± {error:.4f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="archive of `train` and `test`")
    parser.add_argument("--steps", type=int, default=16_000)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    data = np.load(options.data)
    rows, test = data["train"].astype("float32"), data["test"].astype("float32")
    results, moved = {policy: [] for policy in POLICIES}, {policy: [] for policy in POLICIES[1:]}
    for seed in options.seeds:
        for policy in POLICIES:
            model = make_model(rows.shape[1], policy, options.layers, seed)
            start = time.perf_counter()
            skipped = train(model, rows, options.steps, seed)
            seconds = time.perf_counter() - start
            log_probs = model.predict(test, verbose=0)
            results[policy].append(log_probs.mean(dtype="float64"))
            row = [seed, policy, f"{results[policy][-1]:.4f}", skipped, f"{seconds:.0f} s"]
            print("|", " | ".join(map(str, row)), "|", flush=True)
            if policy == "float32":
                weights, exact = model.get_weights(), log_probs
        for policy in POLICIES[1:]:
            model = make_model(rows.shape[1], policy, options.layers, seed)
            model.set_weights(weights)
            moved[policy].append(model.predict(test, verbose=0).astype("float64") - exact)
    print("\n| policy | test log-density | less that of float32 |\n|---|--:|--:|")
    for policy, means in results.items():
        difference = np.subtract(means, results["float32"])
        print(f"| {policy} | {describe(means).lstrip('+')} | {describe(difference)} |")
    print("\n| weights of float32 in | mean difference | mean size | of 99 % below | largest |")
    print("|---|--:|--:|--:|--:|")
    for policy, differences in moved.items():
        sizes = np.abs(differences)
        figures = sizes.mean(), *np.quantile(sizes, [0.99, 1.0])
        cells = [f"{np.mean(differences):+.4f}", *(f"{size:.3f}" for size in figures)]
        print(f"| {policy} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
