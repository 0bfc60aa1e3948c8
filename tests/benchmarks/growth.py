"""How the times of a masked autoregressive flow grow with its sizes.

python tests/benchmarks/growth.py --output docs/images/growth.png
"""

import argparse
import functools
import math
import os
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib
import tensorflow as tf
from timing import FitSteps, make_data, randomize

import keras_nf

matplotlib.use("Agg")
from matplotlib import pyplot as plt

BASE = {"size": 16, "width": 128, "layers": 5, "batch": 512}
PANELS = {
    "size": ("event size", (4, 8, 16, 32, 64, 128, 256)),
    "width": ("hidden units", (32, 64, 128, 256, 512, 1024)),
    "layers": ("layers", (1, 2, 5, 10, 20)),
    "batch": ("batch", (32, 128, 512, 2048, 8192)),
}
WORKS = ("training step", "density", "sampling")
REPETITIONS = 5
# Shortest time of one measurement, in seconds.
ENOUGH = 0.1


def measure(function):
    """Median of the seconds of a call, after those that compile."""
    function()
    start = time.perf_counter()
    function()
    calls = math.ceil(ENOUGH / (time.perf_counter() - start))
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        times.append((time.perf_counter() - start) / calls)
    return median(times)


def measure_fit(fit):
    """Median of the seconds of a step of `fit`."""
    fit(2)
    steps = 1 + math.ceil(ENOUGH / fit(2))
    return median(fit(steps) for _ in range(REPETITIONS))


@functools.cache
def measure_all(size, width, layers, batch):
    """Seconds of each of `WORKS`, on one batch."""
    keras.backend.clear_session()
    flow = keras_nf.maf(size, layers=layers, hidden_units=(width, width))
    steps = FitSteps(flow, size, batch=batch, jit_compile=True)
    train = measure_fit(steps.fit)
    model = keras_nf.FlowModel(flow)
    randomize(model.trainable_variables)
    log_prob = tf.function(model.log_prob, jit_compile=True)
    x = tf.constant(make_data(batch, size))
    density = measure(lambda: log_prob(x).numpy())
    return train, density, measure(lambda: model.sample(batch, seed=0).numpy())


def draw(results, path):
    """One panel for each size, one line for each work."""
    figure, panels = plt.subplots(1, len(PANELS), figsize=(12, 3.4), sharey=True)
    for axes, (name, (label, values)) in zip(panels, PANELS.items()):
        for work, seconds in zip(WORKS, zip(*results[name])):
            axes.loglog(values, [1e3 * s for s in seconds], marker="o", markersize=3, label=work)
        axes.set_xlabel(label)
        axes.set_xticks(values, map(str, values))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("milliseconds")
    panels[0].legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("docs/images/growth.png"))
    path = parser.parse_args().output
    results = {}
    for name, (label, values) in PANELS.items():
        fixed = ", ".join(f"{key} {value}" for key, value in BASE.items() if key != name)
        print(f"\n{label} ({fixed}): milliseconds of {', '.join(WORKS)}")
        results[name] = []
        for value in values:
            results[name].append(measure_all(**{**BASE, name: value}))
            print(f"{value:5d}", *(f"{1e3 * s:9.2f}" for s in results[name][-1]), flush=True)
    draw(results, path)


if __name__ == "__main__":
    main()
