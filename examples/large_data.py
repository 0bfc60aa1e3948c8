"""Density of data that need not fit into memory: shards on disk, streamed into `fit`.

    python examples/large_data.py --data power.npz --out large

Writes the rows of the array `train` to shards, chunk by chunk, unless the folder has them; trains
a masked autoregressive flow on them; prints rows per second, and the peak of the memory of the
process after the first steps and at the end, between which it should not grow. Without `--data`
it draws rows itself, and prints the loss of the true density. `--epochs 0` only writes.

With `TF_CONFIG` in the environment each process is a worker of
`tf.distribute.MultiWorkerMirroredStrategy`, with shards of its own out of a folder that all of
them see, written before. The first worker writes `model.keras`.
"""

import argparse
import contextlib
import math
import os
import resource
import sys
import time
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_nf

CHUNK = 16384
DTYPE = np.dtype("<f4")


def read_rows(path, name="train"):
    """Return shape and chunks of an array in an npz file, which `np.load` would read at once."""
    if not path.is_file():
        raise SystemExit(
            f"Expected an npz file with an array `{name}` of shape (rows, features). Received: "
            f"{path}, where there is no file. Leave --data out to draw rows."
        )

    def chunks():
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            numbers = np.frombuffer(file.read(count * size * dtype.itemsize), dtype)
            yield numbers.reshape(count, size)

    # Open for as long as its chunks are read.
    file = zipfile.ZipFile(path).open(f"{name}.npy")  # noqa: SIM115
    np.lib.format.read_magic(file)
    (rows, size), _, dtype = np.lib.format.read_array_header_1_0(file)
    return (rows, size), chunks()


def draw_rows(rows, size, seed):
    """Return shape and chunks of curved pairs: the second is near the square of the first."""

    def chunks():
        rng = np.random.default_rng(seed)
        for start in range(0, rows, CHUNK):
            x = rng.normal(size=(min(CHUNK, rows - start), size))
            x[:, 1::2] = 0.5 * x[:, 1::2] + x[:, : size - size % 2 : 2] ** 2 - 1.0
            yield x

    return (rows, size), chunks()


def entropy(size):
    """Mean of -log p(x) of drawn rows, in nats: normal ones, every other of half the width."""
    return 0.5 * size * math.log(2.0 * math.pi * math.e) - (size // 2) * math.log(2.0)


def write_shards(shape, chunks, folder, count, suffix):
    """Deal rows to shards, of npy files or of records that are the bytes of a row."""
    rows, size = shape
    paths = [folder / f"rows-{index:03}{suffix}" for index in range(count)]
    with contextlib.ExitStack() as stack:
        if suffix == ".npy":
            files = [stack.enter_context(path.open("wb")) for path in paths]
            for index, file in enumerate(files):
                own = len(range(index, rows, count))
                header = {"descr": DTYPE.str, "fortran_order": False, "shape": (own, size)}
                np.lib.format.write_array_header_1_0(file, header)
        else:
            files = [stack.enter_context(tf.io.TFRecordWriter(str(path))) for path in paths]
        first = 0
        for x in chunks:
            for index, file in enumerate(files):
                part = np.ascontiguousarray(x[(index - first) % count :: count], DTYPE)
                for row in [part] if suffix == ".npy" else part:
                    file.write(row.tobytes())
            first += len(x)


def stream(folder, suffix, size, batch_size, buffer, seed):
    """Return batches of rows from all shards at once, in a new order each time, without end."""
    names = sorted(str(path) for path in folder.glob(f"rows-*{suffix}"))

    header = np.load(names[0], mmap_mode="r").offset if suffix == ".npy" else None

    def read(name):
        if suffix == ".npy":
            return tf.data.FixedLengthRecordDataset(name, size * DTYPE.itemsize, header)
        return tf.data.TFRecordDataset(name)

    def decode(rows):
        x = tf.io.decode_raw(rows, tf.float32)
        return tf.ensure_shape(x, (batch_size, size))

    batches = (
        tf.data.Dataset.from_tensor_slices(names)
        .shuffle(len(names), seed=seed)
        # Some rows of each shard in turn. Rows stay bytes until they are a batch: an operation for
        # each row costs more than a step of a small flow.
        .interleave(read, cycle_length=len(names), block_length=16)
        .shuffle(buffer, seed=seed)
        .repeat()
        .batch(batch_size, drop_remainder=True)
        .map(decode)
        .prefetch(4)
    )
    options = tf.data.Options()
    # Workers read shards of their own.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.FILE
    return batches.with_options(options)


def peak_memory():
    """Return the largest amount of memory that the process has had, in MB."""
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class Watch(keras.callbacks.Callback):
    """Takes time and memory after the first execution of some steps, which traces the graph."""

    start = None

    def on_train_batch_end(self, batch, logs=None):
        if self.start is None:
            self.start, self.first = time.perf_counter(), batch + 1
            self.memory = peak_memory()

    def on_train_end(self, logs=None):
        self.seconds = time.perf_counter() - self.start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="FILE", help="default: drawn rows")
    parser.add_argument("--rows", type=int, default=1_000_000, help="to draw")
    parser.add_argument("--features", type=int, default=6, help="of rows to draw")
    parser.add_argument("--format", choices=["npy", "tfrecord"], default="npy")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--buffer", type=int, default=65536, help="rows to shuffle")
    parser.add_argument("--batch-size", type=int, default=1024, help="of all workers together")
    parser.add_argument("--steps-per-execution", type=int, default=32)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--units", type=int, nargs="+", default=[128, 128], help="of networks")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("large"), help="folder of the shards")
    options = parser.parse_args()

    # Before all else that TensorFlow does.
    strategy = tf.distribute.get_strategy()
    is_worker = "TF_CONFIG" in os.environ
    if is_worker:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    is_chief = strategy.cluster_resolver is None or strategy.cluster_resolver.task_id == 0

    suffix = f".{options.format}"
    if not list(options.out.glob(f"rows-*{suffix}")):
        if is_worker:
            raise SystemExit(
                f"Expected shards in {options.out}, from which all workers read. Received: none. "
                "Write them before, without TF_CONFIG and with --epochs 0."
            )
        options.out.mkdir(parents=True, exist_ok=True)
        if options.data:
            shape, chunks = read_rows(options.data)
        else:
            shape, chunks = draw_rows(options.rows, options.features, options.seed)
        write_shards(shape, chunks, options.out, options.shards, suffix)
        np.savez(options.out / "about.npz", shape=shape, is_drawn=options.data is None)
    with np.load(options.out / "about.npz") as about:
        (rows, size), is_drawn = about["shape"].tolist(), bool(about["is_drawn"])
    print(
        f"{rows:,} rows of {size} numbers, {rows * size * DTYPE.itemsize / 1e6:.1f} MB", flush=True
    )
    if not options.epochs:
        return

    keras.utils.set_random_seed(options.seed)
    batches = stream(options.out, suffix, size, options.batch_size, options.buffer, options.seed)
    with strategy.scope():
        flow = keras_nf.maf(size, layers=options.layers, hidden_units=tuple(options.units))
        model = keras_nf.FlowModel(flow)
        steps = rows // options.batch_size
        schedule = keras.optimizers.schedules.CosineDecay(
            options.learning_rate, options.epochs * steps
        )
        model.compile(
            keras.optimizers.Adam(schedule),
            # Workers exchange gradients after each step, by operations that XLA lacks on CPUs.
            steps_per_execution=1 if is_worker else options.steps_per_execution,
            jit_compile=not is_worker,
        )
    watch = Watch()
    model.fit(batches, steps_per_epoch=steps, epochs=options.epochs, callbacks=[watch], verbose=2)
    if is_chief:
        model.save(options.out / "model.keras")
    rate = (options.epochs * steps - watch.first) * options.batch_size / watch.seconds
    print(f"{rate:,.0f} rows per second on {strategy.num_replicas_in_sync} device(s)")
    print(f"{watch.memory:.0f} MB after the first steps, {peak_memory():.0f} MB at the end")
    if is_drawn:
        print(f"{entropy(size):.3f} nats is the loss of the true density")


if __name__ == "__main__":
    main()
