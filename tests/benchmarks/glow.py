"""Time and peak memory of a training step of Glow on images, here or in normflows.

    python tests/benchmarks/glow.py keras_nf
    python tests/benchmarks/glow.py normflows --size 32

One process trains one model: three levels of eight steps, networks of 64 channels, batches of 64
images of one channel. normflows halves height and width on each level, so that it takes images of
32 pixels. Its couplings, like ours, have networks of three convolutions, of 3x3, 1x1 and 3x3
pixels, but none standardizes what leaves a level. Peak memory is that of the process, less what it
held before the first step.
"""

import argparse
import os
import resource
import statistics
import time

import numpy as np

STEPS = 20


def peak():
    """Return the largest memory that the process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def with_keras_nf(x, options):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    import keras_nf

    flow = keras_nf.glow(
        x.shape[1:], levels=options.levels, steps=options.steps, hidden_units=(options.units,) * 2
    )
    model = keras_nf.FlowModel(flow)
    model.build((None, *x.shape[1:]))
    model.adapt(x)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=options.xla)
    data = np.tile(x, (STEPS, 1, 1, 1))

    def steps(count):
        model.fit(data[: count * len(x)], batch_size=len(x), shuffle=False, verbose=0)

    return steps, model.count_params()


def with_normflows(x, options):
    import normflows as nf
    import torch

    torch.manual_seed(0)
    images = torch.as_tensor(x.transpose(0, 3, 1, 2).copy())
    channels, size = x.shape[-1], x.shape[1]
    bases, merges, flows = [], [], []
    for i in range(options.levels):
        inner = channels * 2 ** (options.levels + 1 - i)
        blocks = [
            nf.flows.GlowBlock(inner, options.units, split_mode="channel", scale=True)
            for _ in range(options.steps)
        ]
        flows.append([*blocks, nf.flows.Squeeze()])
        side = size // 2 ** (options.levels - i)
        if i > 0:
            merges.append(nf.flows.Merge())
            shape = (inner // 2, side, side)
        else:
            shape = (inner, side, side)
        bases.append(nf.distributions.DiagGaussian(shape))
    model = nf.MultiscaleFlow(bases, flows, merges, class_cond=False)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def steps(count):
        for _ in range(count):
            optimizer.zero_grad()
            loss = model.forward_kld(images)
            loss.backward()
            optimizer.step()

    return steps, sum(parameter.numel() for parameter in model.parameters())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("library", choices=["keras_nf", "normflows"])
    parser.add_argument("--size", type=int, default=28, help="height and width of the images")
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--units", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--xla", action="store_true")
    options = parser.parse_args()
    shape = (options.batch_size, options.size, options.size, 1)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    make = {"keras_nf": with_keras_nf, "normflows": with_normflows}[options.library]
    steps, parameters = make(x, options)
    before = peak()
    steps(2)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        steps(STEPS)
        times.append((time.perf_counter() - start) / STEPS)
    fastest, median = (1e3 * f(times) for f in (min, statistics.median))
    print(
        f"{options.library} {options.size}x{options.size}: {fastest:.1f} ms a step, median "
        f"{median:.1f}; {peak() - before:.0f} MB; {parameters:,} parameters"
    )


if __name__ == "__main__":
    main()
