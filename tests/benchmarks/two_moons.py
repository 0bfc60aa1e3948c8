"""Two moons as a newcomer trains them: how far held-out densities are from the true one.

python tests/benchmarks/two_moons.py --recipe maf nsf --epochs 50 --seed 0
"""

import argparse
import json
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import make_moons

import keras_nf

RECIPES = ("planar_flow", "nice", "real_nvp", "maf", "nsf")
HELD_OUT = 5_000


def draw(points, rows, seed):
    """Return points, with the noise, the scale and the centre of the moons."""
    if points == "keras_nf":
        return keras_nf.datasets.two_moons(rows, seed=seed), 0.2, 2.0, (0.5, 0.25)
    x = make_moons(rows, noise=0.05, random_state=seed)[0]
    return x.astype("float32"), 0.05, 1.0, (0.0, 0.0)


def true_log_density(x, noise, scale, centre):
    """Return the mean of log p(x), by quadrature along both moons."""
    angle = (np.arange(1_500) + 0.5) / 1_500 * np.pi
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    moons = (np.concatenate([upper, [1.0, 0.5] - upper]) - centre) * scale
    parts = []
    for part in np.array_split(x.astype("float64"), 20):
        distance = np.sum((part[:, None] - moons) ** 2, axis=-1) / (2.0 * noise**2)
        least = distance.min(axis=1, keepdims=True)
        parts.append(np.log(np.mean(np.exp(least - distance), axis=1)) - least[:, 0])
    return np.mean(np.concatenate(parts)) - np.log(2.0 * np.pi * noise**2)


def train(recipe, arguments, seed):
    """Return the gap to the true density, in nats, after some of the epochs."""
    x, *about = draw(arguments.points, arguments.rows, seed)
    test = draw(arguments.points, HELD_OUT, 1_000 + seed)[0]
    limit = true_log_density(test, *about)
    keras.utils.set_random_seed(seed)
    flow = getattr(keras_nf, recipe)(event_size=2, **arguments.options)
    if arguments.standardize:
        flow = keras_nf.Chain([flow, keras_nf.Standardize()])
    model = keras_nf.FlowModel(flow)
    model.adapt(x)
    steps, rate = -(-len(x) // arguments.batch_size), arguments.learning_rate
    if arguments.cosine:
        rate = keras.optimizers.schedules.CosineDecay(rate, steps * arguments.epochs)
    # The steps of `compile("adam")`, in less time.
    optimizer = keras.optimizers.Adam(rate)
    model.compile(optimizer, jit_compile=True, steps_per_execution=steps)
    gaps = {}

    def check(epoch, logs):
        if epoch + 1 in (*arguments.check, arguments.epochs):
            gaps[epoch + 1] = round(float(limit - np.mean(model.log_prob(test))), 2)

    callback = keras.callbacks.LambdaCallback(on_epoch_end=check)
    model.fit(
        x,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        callbacks=[callback],
        verbose=0,
    )
    return gaps


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", nargs="+", default=RECIPES, choices=RECIPES)
    parser.add_argument("--points", default="keras_nf", choices=("keras_nf", "scikit-learn"))
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--check", type=int, nargs="+", default=(1, 5, 20))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--cosine", action="store_true", help="let the rate fall to zero")
    parser.add_argument("--standardize", action="store_true", help="end in a Standardize")
    parser.add_argument("--options", type=json.loads, default={}, help="of the recipe, as JSON")
    parser.add_argument("--seed", type=int, nargs="+", default=(0,))
    arguments = parser.parse_args()
    for recipe in arguments.recipe:
        for seed in arguments.seed:
            start = time.process_time()
            gaps = train(recipe, arguments, seed)
            seconds = time.process_time() - start
            print(recipe, f"seed {seed}", gaps, f"{seconds:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
