"""A program that several workers run, each a process of its own, to train one model together.

    python tests/workers.py FOLDER PLAN

It takes its place among the workers from `TF_CONFIG`. `start` and `finish` run it in tests.
"""

import contextlib
import faulthandler
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np

# No number of workers divides these rows.
X = np.random.default_rng(0).normal(size=(33, 3)).astype("float32")
BATCH, EPOCHS = 16, 3


def start(count, folder, plan, *, missing=()):
    """Start the program for the places of a cluster, but for some; return the processes."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for place in sockets:
            place.bind(("localhost", 0))
        cluster = {"worker": [f"localhost:{place.getsockname()[1]}" for place in sockets]}
    processes = []
    for index in sorted(set(range(count)) - set(missing)):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        environment = {
            **os.environ,
            "TF_CONFIG": config,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        command = [sys.executable, __file__, str(folder), plan]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **pipes))
    return processes


def finish(processes, seconds):
    """Wait for processes; return their exit codes and what they printed."""
    deadline = time.monotonic() + seconds
    try:
        printed = [p.communicate(timeout=deadline - time.monotonic())[0] for p in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], printed


def make_model(scope, mask="half", **options):
    import keras

    import keras_nf

    with scope:
        couplings = [keras_nf.AffineCoupling(mask=mask, hidden_units=(8,), swap=s) for s in (0, 1)]
        model = keras_nf.FlowModel(keras_nf.Chain([keras_nf.ActNorm(), *couplings]))
        sgd = keras.optimizers.SGD(1e-2, momentum=0.9)
        model.compile(sgd, metrics=[keras_nf.BitsPerDim()], **options)
    model.adapt(X)
    return model


def train(scope, folder, *, shuffle=True, kill=None):
    """Train a model in a scope, and return numbers that ought not to depend on it."""
    import keras

    from keras_nf import plot

    class Watch(keras.callbacks.Callback):
        losses = []

        def on_train_batch_end(self, batch, logs=None):
            self.losses.append(float(logs["loss"]))
            if len(self.losses) == kill:
                os.kill(os.getpid(), signal.SIGKILL)

    keras.utils.set_random_seed(1)
    model = make_model(scope)
    backup = keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)

    def draw(model, figure):
        plot.latents(model, X, axes=figure.gca())
        plot.corner(model.sample(20), figure=figure)

    pictures = plot.Draw(draw, folder / f"pictures_{os.getpid()}")
    options = {"batch_size": BATCH, "epochs": EPOCHS, "shuffle": shuffle, "verbose": 0}
    weights = np.linspace(0.5, 1.5, len(X), dtype="float32")
    validation = (X[:5], None, weights[:5])
    history = model.fit(
        X,
        sample_weight=weights,
        validation_data=validation,
        callbacks=[backup, Watch(), pictures],
        **options,
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
    import keras

    import keras_nf

    with scope:
        flow = keras_nf.iaf(2, layers=1, hidden_units=(4,))
        model = keras_nf.VariationalModel(flow, lambda x: -keras_nf.datasets.u1(x))
        model.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
    model.fit(batch_size=15, steps_per_epoch=2, seed=0, verbose=0)
    bound = model.evaluate(batch_size=15, steps=2, seed=1, verbose=0)
    return {f"varied {i}": w for i, w in enumerate(model.get_weights())} | {"bound": bound}


def refusals(strategy):
    """Return the errors for masks that each worker draws anew, and for several steps at once."""
    import keras

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
    import keras

    def reduce(value):
        if reduction == "concat":
            return strategy.gather(value, axis=0)
        return strategy.reduce("MEAN", value, axis=None)

    return keras.tree.map_structure(reduce, values)


def main(folder, plan):
    faulthandler.dump_traceback_later(20 if plan == "alone" else 120, exit=True)
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    faulthandler.cancel_dump_traceback_later()
    index = strategy.cluster_resolver.task_id
    if plan == "mended":
        from keras.src.backend.tensorflow import trainer

        trainer.reduce_per_replica = reduce_as_mended
    kill = 8 if plan == "kill" and index == 1 else None
    whole = plan in ("train", "mended")
    results = train(strategy.scope(), folder, shuffle=whole, kill=kill)
    if whole:
        results |= vary(strategy.scope()) | refusals(strategy)
    np.savez(folder / f"worker_{index}.npz", **results)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
