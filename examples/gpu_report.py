"""Times and checks on the accelerators that TensorFlow sees, as Markdown tables.

    python examples/gpu_report.py > report.md

Times are those of a training step, a density and a sample of four flows, on the first accelerator
and on the CPU beside it, or on the CPU alone. Checks compare, on the first accelerator or the CPU:

- log-densities of a graph, of XLA and of mixed precision with those of the same weights in float64,
  computed on the CPU, and what comes back of data that pass the flow both ways with the data;
- weights after some steps under `tf.distribute.MirroredStrategy`, over all accelerators, or over
  two logical devices of the CPU, with those of one device on the same batches.

On an accelerator the checks of float32 run twice: with the short products that TensorFlow takes for
float32 there (TensorFloat-32 on NVIDIA GPUs), and without. A difference above its bound ends the
program with status 1. `--quick` runs all of it on small flows, to see that it works.
"""

import argparse
import datetime
import functools
import os
import platform
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_nf

CPU = "CPU:0"
POLICIES = ("mixed_bfloat16", "mixed_float16")
# Of differences in nats over 1 + |log p|, and of numbers that come back over 1 + |x|: float32 has
# seven digits, TensorFloat-32 and float16 have three, bfloat16 two, and flows add up hundreds.
BOUNDS = {"float32": 2e-5, "short products": 5e-3, "mixed_float16": 5e-3, "mixed_bfloat16": 2e-2}
# Of the largest change of a weight: sums of gradients in another order.
WEIGHTS_BOUND = 1e-4


class Sizes:
    """How large flows and batches are."""

    def __init__(self, quick):
        self.event, self.units, self.layers = (4, 16, 2) if quick else (16, 128, 5)
        self.image, self.channels = ((4, 4, 1), 8) if quick else ((16, 16, 1), 64)
        self.batch, self.density, self.draws = (16, 40, 20) if quick else (512, 10_000, 1000)
        self.images = 8 if quick else 64
        self.seconds = 0.0 if quick else 0.5

    def flows(self):
        """Return by name: constructor of the flow, shape of events, divisor."""
        vectors = {"layers": self.layers, "hidden_units": (self.units, self.units)}
        couplings = {**vectors, "layers": 2 * (self.layers - 1)}
        images = {"levels": 2, "steps": 2, "hidden_units": (self.channels,) * 2, "seed": 0}
        event = (self.event,)
        return {
            "MAF": (lambda dtype: keras_nf.maf(*event, dtype=dtype, **vectors), event, 1),
            "Real NVP": (
                lambda dtype: keras_nf.real_nvp(*event, dtype=dtype, **couplings),
                event,
                1,
            ),
            "NSF": (lambda dtype: keras_nf.nsf(*event, dtype=dtype, **vectors), event, 1),
            # An image has as many numbers as several vectors.
            "Glow": (
                lambda dtype: keras_nf.glow(self.image, dtype=dtype, **images),
                self.image,
                max(1, self.batch // self.images),
            ),
        }


def make_data(rows, shape):
    return np.random.default_rng(0).normal(size=(rows, *shape)).astype("float32")


def make_model(make_flow, shape, dtype="float32"):
    """Return a model with weights of the size that training gives, the same in each dtype."""
    model = keras_nf.FlowModel(make_flow(dtype=dtype))
    model.build((None, *shape))
    # Glow starts from data, and would refuse to train before.
    model.adapt(make_data(64, shape))
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(0.05 * generator.normal(size=variable.shape))
    return model


def milliseconds(function, argument, seconds):
    """Return the least time of a call, of those that go on for some seconds and of three at least.

    The first call, which compiles, is left out.
    """
    times = []
    function(argument)
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        # What is copied to the host has been computed.
        function(argument).numpy()
        times.append(time.perf_counter() - start)
    return 1000.0 * min(times)


def times_on(device, make_flow, shape, sizes, divisor):
    """Return milliseconds by what is computed."""
    times = {}
    with tf.device(device):
        model = make_model(make_flow, shape)
        model.compile("adam")
        model.optimizer.build(model.trainable_variables)
        batch = tf.constant(make_data(sizes.batch // divisor, shape))
        many = tf.constant(make_data(sizes.density // divisor, shape))
        draws = sizes.draws // divisor
        steps = {
            f"training step of {len(batch):,}": (lambda x: model.train_step((x,))["loss"], batch),
            f"density of {len(many):,}": (model.log_prob, many),
        }
        for what, (function, x) in steps.items():
            for mode, compiled in modes(function).items():
                times[f"{what}, {mode}"] = milliseconds(compiled, x, seconds=sizes.seconds)
        sample = functools.partial(model.sample, seed=0)
        times[f"sample of {draws:,}"] = milliseconds(sample, draws, seconds=sizes.seconds)
    return times


def modes(function):
    """Return a function as a graph, and compiled by XLA."""
    return {
        name: tf.function(function, jit_compile=jit_compile, autograph=False)
        for name, jit_compile in (("graph", False), ("XLA", True))
    }


def error(actual, expected):
    """Return the largest difference of some numbers over one more than their size."""
    actual, expected = np.asarray(actual, "float64"), np.asarray(expected, "float64")
    return np.max(np.abs(actual - expected) / (1.0 + np.abs(expected)))


def checks_on(device, make_flow, shape, sizes, divisor, has_short_products):
    """Yield what was compared, the largest error, and its bound."""
    x = make_data(sizes.density // divisor, shape)
    with tf.device(CPU):
        expected = make_model(make_flow, shape, "float64").log_prob(x.astype("float64"))
    with tf.device(device):
        for short in (True, False) if has_short_products else (None,):
            if short is not None:
                tf.config.experimental.enable_tensor_float_32_execution(short)
            kind = "short products" if short else "float32"
            model = make_model(make_flow, shape)
            for mode, density in modes(model.log_prob).items():
                yield f"log p, {mode}, {kind}", error(density(x), expected), BOUNDS[kind]
            back = modes(functools.partial(there_and_back, model.flow))["XLA"](x)
            yield f"there and back, {kind}", error(back, x), BOUNDS[kind]
        for policy in POLICIES:
            model = make_model(make_flow, shape, policy)
            yield f"log p, {policy}", error(model.log_prob(x), expected), BOUNDS[policy]


def there_and_back(flow, x):
    return flow.forward(flow.inverse(x))


def check_of_replicas(mirrored, device, make_flow, shape):
    """Return the largest difference of a weight, over its largest change, and the bound."""
    count = mirrored.num_replicas_in_sync
    x, weights = make_data(64 * count, shape), []
    for strategy in (tf.distribute.OneDeviceStrategy(device), mirrored):
        with strategy.scope():
            model = make_model(make_flow, shape)
            model.compile(keras.optimizers.SGD(0.01), jit_compile=False)
        before = model.get_weights()
        model.fit(x, batch_size=16 * count, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    largest = max(np.abs(a - b).max() for a, b in zip(weights[0], before))
    difference = max(np.abs(a - b).max() for a, b in zip(*weights))
    return difference / largest, WEIGHTS_BOUND


def name_of(device):
    """Return what TensorFlow knows of a device, or the system of the CPU."""
    if device.device_type == "CPU":
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    details = tf.config.experimental.get_device_details(device)
    return details.get("device_name", device.name)


def print_table(columns, rows):
    print(f"| {' | '.join(columns)} |")
    print(f"|{'|'.join(['---'] * len(columns))}|")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small flows, for a first try")
    options = parser.parse_args()
    sizes = Sizes(options.quick)

    physical = tf.config.list_physical_devices()
    accelerators = [device for device in physical if device.device_type != "CPU"]
    if not accelerators:
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
    logical = [device.name for device in tf.config.list_logical_devices()]
    found = [name for name in logical if ":CPU:" not in name]
    devices = [*found[:1], CPU]
    # One for all flows: what two of them send over the same devices would mix.
    mirrored = tf.distribute.MirroredStrategy(found or logical)

    rows = [("date", f"{datetime.date.today():%-d %B %Y}"), ("system", platform.platform())]
    rows += [(device.name.split(":", 1)[1], name_of(device)) for device in physical]
    rows += [("Python", platform.python_version()), ("TensorFlow", tf.__version__)]
    rows += [("Keras", keras.__version__), ("keras_nf", keras_nf.__version__)]
    print_table(("what", "which"), rows)

    rows = []
    for flow, (make_flow, shape, divisor) in sizes.flows().items():
        times = [times_on(device, make_flow, shape, sizes, divisor) for device in devices]
        for what in times[0]:
            own = [each[what] for each in times]
            ratio = [f"{own[1] / own[0]:.2g}"] if found else []
            rows.append((flow, what, *(f"{number:.2f}" for number in own), *ratio))
    columns = [f"{device.split('device:')[-1]}, ms" for device in devices]
    print_table(("flow", "step", *columns, *["times as fast"] * bool(found)), rows)

    rows, failures = [], 0
    default = tf.config.experimental.tensor_float_32_execution_enabled()
    for flow, (make_flow, shape, divisor) in sizes.flows().items():
        arguments = devices[0], make_flow, shape, sizes, divisor, bool(found)
        results = [*checks_on(*arguments)]
        replicated = f"weights, {mirrored.num_replicas_in_sync} replicas"
        checked = check_of_replicas(mirrored, devices[0], make_flow, shape)
        results.append((replicated, *checked))
        tf.config.experimental.enable_tensor_float_32_execution(default)
        for what, largest, bound in results:
            # Not a number is above any bound.
            holds = bool(largest <= bound)
            failures += not holds
            rows.append(
                (flow, what, f"{largest:.1e}", f"{bound:.0e}", "yes" if holds else "**no**")
            )
    print_table(("flow", "check", "largest error", "bound", "holds"), rows)
    print(f"{len(rows) - failures} of {len(rows)} checks hold.")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
