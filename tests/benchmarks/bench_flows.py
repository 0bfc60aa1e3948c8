"""Time of keras_nf against raw TFP on the same networks.

    pytest tests/benchmarks/bench_flows.py -k "train-maf-d6-" --repetitions 3 --table table.md

A work item has contestants, which alternate from repetition to repetition, so that what else the
machine does hits them alike. Compilation is outside of the timed part unless the title says so.
"""

import gc
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
import tfp_flows
from timing import Calls, FitSteps, Once, make_data, randomize

import keras_nf

tfd = tfp.distributions

HERE = os.path.dirname(os.path.abspath(__file__))
BATCH = 512
FAST = {"jit_compile": True, "steps_per_execution": 16}


def couplings_of_splines(size, *, layers, hidden_units):
    options = {"bins": 8, "bound": 5.0, "hidden_units": hidden_units}
    couplings = [keras_nf.SplineCoupling(swap=i % 2 == 1, **options) for i in range(layers)]
    return keras_nf.Chain(couplings, event_size=size)


FLOWS = {
    "maf": (keras_nf.maf, tfp_flows.maf, 5),
    "iaf": (keras_nf.iaf, tfp_flows.iaf, 5),
    "real_nvp": (keras_nf.real_nvp, tfp_flows.real_nvp, 8),
    "nsf": (couplings_of_splines, tfp_flows.nsf, 8),
}


def make_ours(kind, size, width):
    make, _, layers = FLOWS[kind]
    return make(size, layers=layers, hidden_units=(width, width))


def make_theirs(kind, size, width):
    _, make, layers = FLOWS[kind]
    return make(size, layers=layers, hidden_units=(width, width))


def make_model(kind, size, width):
    model = keras_nf.FlowModel(make_ours(kind, size, width))
    model.build((None, size))
    randomize(model.trainable_variables)
    return model


def compile_calls(function, *inputs, jit_compile=True):
    compiled = tf.function(function, jit_compile=jit_compile)
    return Calls(lambda: compiled(*inputs).numpy())


def graph_and_xla(make):
    """TFP's contestants: TensorFlow's graph, and XLA."""
    return {"TFP graph": make(jit_compile=False), "TFP XLA": make(jit_compile=True)}


def train(make_flow, size, reference):
    batches = np.split(make_data(16 * BATCH, reference[1]), 16)
    batches = itertools.cycle([tf.constant(batch) for batch in batches])

    def tfp_steps(jit_compile):
        step = tfp_flows.make_train_step(make_theirs(*reference), jit_compile=jit_compile)
        return Calls(lambda: step(next(batches)).numpy())

    return {
        "keras_nf fit": FitSteps(make_flow(), size, batch=BATCH),
        "keras_nf fit fast": FitSteps(make_flow(), size, batch=BATCH, **FAST),
        **graph_and_xla(tfp_steps),
    }


def reverse_kl(kind, size, width):
    target = tfd.MultivariateNormalDiag(loc=[1.0] * size)
    base = tfd.MultivariateNormalDiag(loc=[0.0] * size)
    flow = make_ours(kind, size, width)
    flow.build((None, size))
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(flow.trainable_variables)

    @tf.function(jit_compile=True)
    def our_step():
        with tf.GradientTape() as tape:
            x, log_prob = flow(base).experimental_sample_and_log_prob(BATCH)
            loss = tf.reduce_mean(log_prob - target.log_prob(x))
        variables = flow.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    def tfp_steps(jit_compile):
        distribution = make_theirs(kind, size, width)

        def loss():
            # The bijector's cache spares the second pass.
            x = distribution.sample(BATCH)
            return tf.reduce_mean(distribution.log_prob(x) - target.log_prob(x))

        variables = distribution.trainable_variables
        step = tfp_flows.make_step(loss, variables, jit_compile=jit_compile)
        return Calls(lambda: step().numpy())

    return {"keras_nf": Calls(lambda: our_step().numpy()), **graph_and_xla(tfp_steps)}


def density(kind, size, width):
    x = tf.constant(make_data(10_000, size))
    model, distribution = make_model(kind, size, width), make_theirs(kind, size, width)
    randomize(distribution.trainable_variables)
    products = make_products(kind, size, width)
    return {
        "keras_nf": compile_calls(model.log_prob, x),
        **graph_and_xla(partial(compile_calls, distribution.log_prob, x)),
        "floor": Calls(lambda: products(x).numpy()),
    }


def make_products(kind, size, width):
    """Return the dense products of one density pass, unmasked, and nothing else."""
    kept = size // 2 if kind in ("real_nvp", "nsf") else size
    parameters = 23 if kind == "nsf" else 2
    shapes = [(kept, width), (width, width), (width, parameters * kept)]
    layers = [[tf.Variable(tf.zeros(shape)) for shape in shapes] for _ in range(FLOWS[kind][2])]
    randomize(tf.nest.flatten(layers))

    @tf.function(jit_compile=True)
    def products(x):
        x = x[:, :kept]
        for first, second, last in layers:
            y = x @ first @ second @ last
            # All parameters go on, or the compiler would drop some.
            x = sum(tf.split(y, parameters, axis=1))
        return x

    return products


def sampling(kind, size, width):
    x = tf.constant(make_data(1000, size))
    model, distribution = make_model(kind, size, width), make_theirs(kind, size, width)
    randomize(distribution.trainable_variables)
    return {
        "keras_nf": Calls(lambda: model.sample(1000, seed=0).numpy()),
        **graph_and_xla(partial(compile_calls, lambda: distribution.sample(1000))),
        "floor": compile_calls(model.log_prob, x),
    }


def sample_gradient(kind, size, width):
    model = make_model(kind, size, width)
    # Noise that is given: XLA's own generator would take a good part of the time without gradient.
    noise = tf.constant(make_data(1000, size))

    def loss(noise):
        return tf.reduce_mean(model.flow.forward(noise) ** 2)

    @tf.function(jit_compile=True)
    def gradient(noise):
        with tf.GradientTape() as tape:
            value = loss(noise)
        return value, tape.gradient(value, model.trainable_variables)

    return {
        "keras_nf": Calls(lambda: gradient(noise)[0].numpy()),
        "floor": compile_calls(loss, noise),
    }


def end_to_end(kind, size, width):
    # The last batch of an epoch is smaller, for which XLA compiles anew.
    x = make_data(50_000, size)
    dataset = tf.data.Dataset.from_tensor_slices(x).shuffle(len(x)).batch(256)
    # At the end of an epoch, a pipeline may wait for the next round of its autotuning.
    pipeline_options = tf.data.Options()
    pipeline_options.autotune.enabled = False
    dataset = dataset.prefetch(2).with_options(pipeline_options)

    def fit(**options):
        model = keras_nf.FlowModel(make_ours(kind, size, width))
        model.compile("adam", **options)
        model.fit(x, batch_size=256, epochs=3, verbose=0)

    def loop(jit_compile):
        step = tfp_flows.make_train_step(make_theirs(kind, size, width), jit_compile=jit_compile)
        for batch in dataset.repeat(3):
            loss = step(batch)
        loss.numpy()

    return {
        "keras_nf fit": Once(fit),
        "keras_nf fit fast": Once(partial(fit, **FAST)),
        **graph_and_xla(lambda jit_compile: Once(partial(loop, jit_compile))),
    }


FIT = """
import numpy as np, keras_nf
model = keras_nf.FlowModel(keras_nf.maf(16, layers=5, hidden_units=(128, 128)))
model.compile("adam", **{options})
model.fit(np.random.normal(size=(512, 16)).astype("float32"), batch_size=512, verbose=0)
"""
TFP_STEP = """
import numpy as np, tfp_flows
distribution = tfp_flows.maf(16, layers=5, hidden_units=(128, 128))
step = tfp_flows.make_train_step(distribution, jit_compile={jit_compile})
step(np.random.normal(size=(512, 16)).astype("float32")).numpy()
"""
IMPORT = """
import keras, tensorflow, tensorflow_probability
tensorflow_probability.bijectors, tensorflow_probability.distributions
"""


def process(script):
    """A script in a process of its own, from its start to the script's last line."""
    script += "\nimport os\nos._exit(0)"
    path = os.pathsep.join([HERE, os.path.dirname(os.path.dirname(keras_nf.__file__))])
    options = {"env": {**os.environ, "PYTHONPATH": path}, "capture_output": True, "check": True}
    return Once(lambda: subprocess.run([sys.executable, "-c", script], **options))


def first_step():
    return {
        "keras_nf fit": process(FIT.format(options={})),
        "keras_nf fit fast": process(FIT.format(options=FAST)),
        **graph_and_xla(lambda jit_compile: process(TFP_STEP.format(jit_compile=jit_compile))),
    }


def imports():
    return {"keras_nf": process(IMPORT + "import keras_nf"), "floor": process(IMPORT)}


class Work(NamedTuple):
    """A work item; `make` returns its contestants, by name."""

    title: str
    contestants: tuple[str, ...]
    make: Callable
    repetitions: int = 7

    @property
    def slug(self):
        """The title without what is in parentheses, as `-k` takes it."""
        words = self.title.partition(" (")[0].lower().replace(",", "").replace("=", "")
        return words.replace(" ", "-")


TFP = ("TFP graph", "TFP XLA")
FITS = ("keras_nf fit", "keras_nf fit fast", *TFP)
TITLES = {"maf": "MAF", "iaf": "IAF", "real_nvp": "Real NVP", "nsf": "NSF"}
MAFS = [("maf", 6, 128), ("maf", 16, 128), ("maf", 64, 128), ("maf", 64, 512)]
NSFS = [("nsf", 16, 128)]
REAL_NVPS = [("real_nvp", 2, 128), ("real_nvp", 16, 128), ("real_nvp", 64, 128)]


def works(title, contestants, make, flows, note="", **options):
    for kind, size, width in flows:
        name = f"{title} {TITLES[kind]} D={size} H={width}"
        yield Work(name + note, contestants, partial(make, kind, size, width), **options)


def train_flow(*flow):
    return train(partial(make_ours, *flow), flow[1], flow)


def train_planar():
    return train(partial(keras_nf.planar_flow, 2, layers=16), 2, ("maf", 6, 128))


WORKS = [
    *works("train", FITS, train_flow, [*MAFS, *REAL_NVPS, *NSFS]),
    Work("train planar D=2 (TFP: MAF D=6 H=128)", FITS, train_planar),
    *works("reverse KL", ("keras_nf", *TFP), reverse_kl, [("iaf", 6, 128), ("iaf", 16, 128)]),
    *works("density", ("keras_nf", *TFP, "floor"), density, [*MAFS, *REAL_NVPS, *NSFS]),
    *works(
        "sample",
        ("keras_nf", *TFP, "floor"),
        sampling,
        [*MAFS, REAL_NVPS[1], *NSFS],
        " (floor: one density pass)",
    ),
    *works(
        "sample gradient",
        ("keras_nf", "floor"),
        sample_gradient,
        [MAFS[1], MAFS[3]],
        " (floor: without gradient)",
    ),
    *works(
        "end to end",
        FITS,
        end_to_end,
        [MAFS[1], REAL_NVPS[1]],
        repetitions=3,
    ),
    Work("import (floor: TensorFlow, Keras, TFP)", ("keras_nf", "floor"), imports, 3),
    Work("first step of a process, MAF D=16 H=128", FITS, first_step, 3),
]

_prepared = {}


def prepare(work):
    """Return the contestants of a work item; those of the one before are dropped."""
    if work.title not in _prepared:
        _prepared.clear()
        keras.backend.clear_session()
        tf_keras.backend.clear_session()
        gc.collect()
        _prepared[work.title] = work.make()
    return _prepared[work.title]


def pytest_generate_tests(metafunc):
    repetitions = metafunc.config.option.repetitions
    cases = [
        (work, repetition, contestant)
        for work in WORKS
        for repetition in range(repetitions or work.repetitions)
        for contestant in work.contestants
    ]
    ids = [f"{work.slug}-rep{i}-{name.replace(' ', '-')}" for work, i, name in cases]
    metafunc.parametrize(("work", "repetition", "contestant"), cases, ids=ids)


def test_time(benchmark, record, work, repetition, contestant):
    seconds = prepare(work)[contestant].measure(benchmark)
    record(work.title, contestant, repetition, seconds)
