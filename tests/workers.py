"""A program of several workers, each a process of its own, that train one model together.

    python tests/workers.py FOLDER SECONDS PLAN COUNT [MISSING]

It starts the workers of a cluster, but for one, after all imports, which take longer than most of
what a worker does. `run` runs it in tests.
"""

import contextlib
import faulthandler
import json
import multiprocessing
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import tensorflow as tf

import keras_nf

# No number of workers divides these rows.
X = np.random.default_rng(0).normal(size=(33, 3)).astype("float32")
BATCH, EPOCHS = 16, 3


def run(count, folder, plan, *missing, seconds=300):
    """Run the program; return the exit codes of the workers, and what they printed."""
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    words = map(str, (sys.executable, __file__, folder, seconds, plan, count, *missing))
    subprocess.run([*words], env=environment, check=True)
    codes = json.loads((folder / "codes.json").read_text())
    return codes, [log.read_text() for log in sorted(folder.glob("*.log"))]


def make_model(scope, mask="half", **options):
    with scope:
        couplings = [keras_nf.AffineCoupling(mask=mask, hidden_units=(8,), swap=s) for s in (0, 1)]
        model = keras_nf.FlowModel(keras_nf.Chain([keras_nf.ActNorm(), *couplings]))
        sgd = keras.optimizers.SGD(1e-2, momentum=0.9)
        model.compile(sgd, metrics=[keras_nf.BitsPerDim()], **options)
    model.adapt(X)
    return model


def train(scope, folder, *, shuffle=True, kill=None):
    """Train a model in a scope, and return numbers that ought not to depend on it."""

    class Watch(keras.callbacks.Callback):
        losses = []

        def on_train_batch_end(self, batch, logs=None):
            self.losses.append(float(logs["loss"]))
            if len(self.losses) == kill:
                os.kill(os.getpid(), signal.SIGKILL)

    keras.utils.set_random_seed(1)
    model = make_model(scope)
    backup = keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)
    options = {"batch_size": BATCH, "epochs": EPOCHS, "shuffle": shuffle, "verbose": 0}
    weights = np.linspace(0.5, 1.5, len(X), dtype="float32")
    validation = (X[:5], None, weights[:5])
    history = model.fit(
        X, sample_weight=weights, validation_data=validation, callbacks=[backup, Watch()], **options
    )
    model.save(folder / "model.keras")
    model.export(folder / "export")
    return {
        **{f"weight {i}": weight for i, weight in enumerate(model.get_weights())},
        **history.history,
        "batches": Watch.losses,
        "evaluate": model.evaluate(X, verbose=0),
        "predict": model.predict(X, batch_size=10, verbose=0),
        "log_prob": model.log_prob(X),
        "sample": model.sample(4, seed=2),
    }


def vary(scope):
    """Train on draws, whose weights ought to be the same on all workers."""
    with scope:
        flow = keras_nf.iaf(2, layers=1, hidden_units=(4,))
        model = keras_nf.VariationalModel(flow, lambda x: -keras_nf.datasets.u1(x))
        model.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
    model.fit(batch_size=15, steps_per_epoch=2, seed=0, verbose=0)
    bound = model.evaluate(batch_size=15, steps=2, seed=1, verbose=0)
    return {f"varied {i}": w for i, w in enumerate(model.get_weights())} | {"bound": bound}


def refusals(strategy):
    """Return the errors for masks that each worker draws anew, and for several steps at once."""
    keras.utils.set_random_seed(os.getpid())
    different = make_model(strategy.scope(), mask="random")
    several = make_model(strategy.scope(), steps_per_execution=2)
    errors = {}
    for name, model in {"different": different, "several": several}.items():
        try:
            model.fit(X, verbose=0)
        except ValueError as error:
            errors[name] = str(error)
    return errors


def reduce_as_mended(values, strategy, reduction):
    """Reduce what workers report as a Keras would that knows scalars, in place of its own."""

    def reduce(value):
        if reduction == "concat":
            return strategy.gather(value, axis=0)
        return strategy.reduce("MEAN", value, axis=None)

    return keras.tree.map_structure(reduce, values)


def work(folder, plan, cluster, index):
    """Take a place among the workers, and print to a file."""
    with (folder / f"worker_{index}.log").open("w") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    config = {"cluster": {"worker": cluster}, "task": {"type": "worker", "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(config)
    faulthandler.dump_traceback_later(10 if plan == "alone" else 120, exit=True)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    faulthandler.cancel_dump_traceback_later()
    if plan == "mended":
        from keras.src.backend.tensorflow import trainer

        trainer.reduce_per_replica = reduce_as_mended
    kill = 8 if plan == "kill" and index == 1 else None
    shuffle = plan in ("train", "mended")
    results = train(strategy.scope(), folder, shuffle=shuffle, kill=kill)
    if plan == "train":
        results |= vary(strategy.scope()) | refusals(strategy)
    np.savez(folder / f"worker_{index}.npz", **results)


def main(folder, seconds, plan, count, *missing):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(int(count))]
        for place in sockets:
            place.bind(("localhost", 0))
        cluster = [f"localhost:{place.getsockname()[1]}" for place in sockets]
    folder, deadline = pathlib.Path(folder), time.monotonic() + float(seconds)
    process = multiprocessing.get_context("fork").Process
    places = sorted({*range(int(count))} - {*map(int, missing)})
    processes = [process(target=work, args=(folder, plan, cluster, place)) for place in places]
    for each in processes:
        each.start()
    for each in processes:
        each.join(deadline - time.monotonic())
        each.kill()
        each.join()
    (folder / "codes.json").write_text(json.dumps([each.exitcode for each in processes]))


if __name__ == "__main__":
    main(*sys.argv[1:])
