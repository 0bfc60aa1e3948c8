"""What a density and a sample cost, for each recipe with its defaults.

    python examples/gallery/costs.py

Processor time for each of 1,000 events of 16 components on one thread, compiled by XLA, the least
of several repetitions; prints the numbers as a table. Takes two minutes.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import time

import numpy as np
import tensorflow as tf
from style import BLUE, ORANGE, parse, plt, save

import keras_nf

SIZE, ROWS = 16, 1000
RECIPES = {
    "planar": keras_nf.planar_flow,
    "NICE": keras_nf.nice,
    "Real NVP": keras_nf.real_nvp,
    "MAF": keras_nf.maf,
    "IAF": keras_nf.iaf,
    "NSF, couplings": lambda size: keras_nf.nsf(size, coupling=True),
    "NSF": keras_nf.nsf,
}


def make_flow(recipe, rng):
    flow = recipe(SIZE)
    flow.build((None, SIZE))
    for weight in flow.trainable_variables:
        weight.assign_add(0.1 * rng.normal(size=weight.shape))
    return flow


def microseconds(method, events, repetitions=60):
    """Return the least processor time of a compiled call, for each event."""
    call = tf.function(method, jit_compile=True)
    call(events)
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        call(events)
        times.append(time.process_time() - start)
    return 1e6 * min(times) / len(events)


def main():
    arguments = parse(__doc__, "costs.png")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(arguments.seed)
    events = tf.constant(rng.normal(size=(ROWS, SIZE)), "float32")
    rows = []
    for name, recipe in RECIPES.items():
        flow = make_flow(recipe, rng)
        ways = flow.inverse_and_log_det, flow.forward_and_log_det
        rows.append([microseconds(way, events) for way in ways])
        density, sample = rows[-1]
        print(f"| {name} | {density:.1f} | {sample:.1f} | {sample / density:.2f} |", flush=True)
    figure, axes = plt.subplots(figsize=(6.0, 3.2), layout="constrained")
    places = np.arange(len(rows))
    densities, samples = np.array(rows).T
    axes.barh(places - 0.2, densities, 0.38, color=BLUE, label="density")
    axes.barh(places + 0.2, samples, 0.38, color=ORANGE, label="sample")
    axes.set_yticks(places, list(RECIPES))
    axes.invert_yaxis()
    axes.set_xlabel("µs for each event of 16 components")
    axes.legend(frameon=False)
    save(figure, arguments.output)


if __name__ == "__main__":
    main()
