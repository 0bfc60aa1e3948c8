"""Peak memory and time of a training step of Real NVP by its depth, with and without `recompute`.

python tests/benchmarks/memory.py
"""

import argparse
import multiprocessing
import os
from pathlib import Path
from statistics import median

SIZE, UNITS = 64, (256, 256)
# What takes memory at a batch this small takes it at any: imports, weights, programs.
SMALL_BATCH = 16
REPETITIONS = 5


def make_steps(depth, recompute, jit_compile, batch):
    """Steps of `fit`, in a process that has not imported Keras before."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from timing import FitSteps

    import keras_nf

    flow = keras_nf.real_nvp(SIZE, layers=depth, hidden_units=UNITS, recompute=recompute)
    return FitSteps(flow, SIZE, batch=batch, jit_compile=jit_compile)


def peak(depth, recompute, jit_compile, batch):
    """Most memory that this process has held, in bytes, after some steps."""
    make_steps(depth, recompute, jit_compile, batch).fit(4)
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def seconds(depth, jit_compile, batch):
    """Seconds of a step without and with recomputation, and the ratio, which alternate."""
    contestants = [make_steps(depth, r, jit_compile, batch) for r in (False, True)]
    rounds = [[steps.fit(3) for steps in contestants] for _ in range(REPETITIONS)]
    ratio = median(with_it / without for without, with_it in rounds)
    return *map(median, zip(*rounds)), ratio


def put(results, function, arguments):
    results.put(function(*arguments))


def in_process(function, *arguments):
    """What a function returns in a process of its own."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=put, args=(results, function, arguments))
    process.start()
    result = results.get()
    process.join()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--modes", choices=["graph", "xla"], nargs="+", default=["graph", "xla"])
    options = parser.parse_args()
    print("| step | couplings | MB | MB, recompute | s | s, recompute | ratio |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for mode in options.modes:
        is_xla = mode == "xla"
        for depth in options.depths:
            sizes = []
            for recompute in (False, True):
                peaks = [
                    in_process(peak, depth, recompute, is_xla, batch)
                    for batch in (SMALL_BATCH, options.batch)
                ]
                sizes.append((peaks[1] - peaks[0]) / 1e6)
            times = in_process(seconds, depth, is_xla, options.batch)
            row = [mode, depth, *(f"{n:.0f}" for n in sizes), *(f"{s:.2f}" for s in times)]
            print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()
