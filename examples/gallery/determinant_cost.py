"""What a log-determinant costs: a MAF's own, beside that of its Jacobian by automatic derivatives.

    python examples/gallery/determinant_cost.py

Processor time for each event on one thread, the least of several repetitions; prints it as well.
The second way takes all D^2 derivatives, and an LU decomposition of about D^3 products. Takes
half a minute.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from style import BLUE, GREY, VERMILLION, parse, plt, save

import keras_nf

SIZES = [4, 8, 16, 32, 64, 128, 256, 512]
ROWS = 32


def own_log_det(flow):
    return tf.function(lambda x: flow.inverse_and_log_det(x)[1])


def log_det_of_jacobian(flow):
    @tf.function
    def log_det(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = flow.inverse(x)
        return tf.linalg.slogdet(tape.batch_jacobian(z, x))[1]

    return log_det


def microseconds(call, x, repetitions=20):
    """Return the least processor time of a call, for each row."""
    call(x)
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        call(x)
        times.append(time.process_time() - start)
    return 1e6 * min(times) / len(x)


def main():
    arguments = parse(__doc__, "determinant_cost.png")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(arguments.seed)
    rows = []
    for size in SIZES:
        flow = keras_nf.MaskedAutoregressive(hidden_units=(128,))
        flow.build((None, size))
        x = tf.constant(rng.normal(size=(ROWS, size)), "float32")
        ways = own_log_det(flow), log_det_of_jacobian(flow)
        np.testing.assert_allclose(ways[0](x), ways[1](x), atol=1e-4)
        rows.append([microseconds(way, x) for way in ways])
        print(size, *(f"{value:.1f}" for value in rows[-1]))
    own, jacobian = np.array(rows).T
    figure, axes = plt.subplots(figsize=(5.0, 3.2), layout="constrained")
    axes.loglog(SIZES, jacobian, "o-", color=VERMILLION, label="Jacobian, then LU")
    axes.loglog(SIZES, own, "s-", color=BLUE, label="MAF's own log-det")
    guide = np.array(SIZES[-3:])
    axes.loglog(guide, 0.4 * jacobian[-1] * (guide / guide[-1]) ** 3.0, "--", color=GREY)
    axes.text(guide[1], 0.25 * jacobian[-1] * 0.5**3.0, "slope 3", color=GREY)
    axes.set(xlabel="components D", ylabel="µs for each event")
    axes.set_xticks(SIZES, [str(size) for size in SIZES], minor=False)
    axes.minorticks_off()
    axes.legend(frameon=False)
    save(figure, arguments.output)


if __name__ == "__main__":
    main()
