"""What the experiments share: training that can be resumed, a limit of time, a table of results."""

import argparse
import csv
import datetime
import json
import math
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_nf

# How many times a training validates and saves.
LOOKS = 50
# What is told of a training: steps done and planned, log-density of the validation data.
PROGRESS = ("batch_size", "learning_rate", "steps", "planned", "validation", "minutes")


def parser_of(description, *, data):
    """Return a parser of the options that every experiment has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=data)
    parser.add_argument("--epochs", type=float, help="over which the rate falls to zero")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which to stop")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--rows", type=int, help="at most, for a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("reproduce"), help="folder to write")
    return parser


def fill_in(options, defaults):
    """Take epochs, rows in a batch and learning rate of an experiment, where none are given."""
    for name, value in zip(("epochs", "batch_size", "learning_rate"), defaults):
        if getattr(options, name) is None:
            setattr(options, name, value)


class Clock(keras.callbacks.Callback):
    """Counts the seconds of training, also of earlier starts, and stops when time is over."""

    def __init__(self, path, minutes):
        super().__init__()
        self.path, self.seconds = path, 60.0 * minutes
        self.before = json.loads(path.read_text())["seconds"] if path.exists() else 0.0

    def on_train_begin(self, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self.start
        self.path.write_text(json.dumps({"seconds": self.before + seconds}))
        if seconds > self.seconds:
            self.model.stop_training = True


def batches_of(x, batch_size, transform):
    """Return endless shuffled batches, as `transform` makes them of rows."""
    x = tf.nest.map_structure(tf.constant, x)
    rows = len(tf.nest.flatten(x)[0])

    def shuffled(_):
        order = tf.random.shuffle(tf.range(rows))
        return tf.nest.map_structure(lambda array: tf.gather(array, order), x)

    # All rows at once: one by one, they cost as much as the steps of a small network.
    data = tf.data.Dataset.range(1).repeat().map(shuffled)
    batches = data.rebatch(batch_size, drop_remainder=True)
    batches = batches.apply(tf.data.experimental.assert_cardinality(data.cardinality()))
    return batches.map(transform, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def check_settings(path, options):
    """Refuse to go on with a run that has other settings than its start; a new one leaves them."""
    names = ("epochs", "batch_size", "learning_rate", "dropout", "rows")
    given = {name: options[name] for name in names if name in options}
    if not path.exists():
        path.write_text(json.dumps(given))
    if (known := json.loads(path.read_text())) != given:
        raise SystemExit(
            f"Expected the settings of the run that is in {path.parent}: {known}. Received: "
            f"{given}. Give the same ones to go on with it, or another folder by --out."
        )


def least_loss(log):
    """Return the least validation loss of a log, or `None` if there is none yet."""
    if not log.exists():
        return None
    with log.open() as file:
        return min(float(row["val_loss"]) for row in csv.DictReader(file))


def train(model, batches, validation, rows, options, folder):
    """Train until the planned steps or the time are over, from where an earlier start ended.

    The rate falls to zero along a cosine. The weights with the least validation loss are those that
    the model has in the end.

    Args:
      model: the model, built.
      batches: endless dataset.
      validation: validation data.
      rows: how many there are in an epoch.
      options: of the command line: `epochs`, `batch_size`, `learning_rate`, `minutes`.
      folder: where log, backup and best weights are.

    Returns:
      A dictionary for the table: settings, steps done of those planned, validation loss, minutes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(folder / "settings.json", {**vars(options), "rows": rows})
    planned = max(LOOKS, int(options.epochs * rows / options.batch_size))
    steps = -(-planned // LOOKS)
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, planned)
    model.compile(
        keras.optimizers.Adam(schedule, global_clipnorm=5.0),
        steps_per_execution=math.gcd(steps, 20),
    )
    log, best = folder / "log.csv", folder / "best.weights.h5"
    clock = Clock(folder / "clock.json", options.minutes)
    model.fit(
        batches,
        steps_per_epoch=steps,
        epochs=LOOKS,
        validation_data=validation,
        validation_batch_size=2000,
        callbacks=[
            keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False),
            keras.callbacks.CSVLogger(log, append=True),
            keras.callbacks.ModelCheckpoint(
                best,
                save_best_only=True,
                save_weights_only=True,
                initial_value_threshold=least_loss(log),
            ),
            keras.callbacks.TerminateOnNaN(),
            clock,
        ],
        verbose=2,
    )
    # The weights' file has those of the optimizer too.
    done = int(model.optimizer.iterations.numpy())
    if best.exists():
        model.load_weights(best)
    minutes = json.loads(clock.path.read_text())["seconds"] / 60.0
    numbers = (
        options.batch_size,
        options.learning_rate,
        done,
        LOOKS * steps,
        round(-least_loss(log), 4),
        round(minutes, 1),
    )
    return dict(zip(PROGRESS, numbers, strict=True))


def gaussian_log_prob(x_train, x):
    """Return log-densities of the normal distribution of the mean and covariance of other data."""
    x_train, x = x_train.astype("float64"), x.astype("float64")
    centred, covariance = x - x_train.mean(axis=0), np.cov(x_train.T)
    distance = np.sum(centred @ np.linalg.inv(covariance) * centred, axis=1)
    return -0.5 * (distance + np.linalg.slogdet(2.0 * np.pi * covariance)[1])


def mean_and_error(values, name="log_prob"):
    """Return the mean of numbers and two standard errors, as columns of a table."""
    values = np.asarray(values, "float64")
    error = 2.0 * values.std(ddof=1) / math.sqrt(len(values))
    return {name: round(float(values.mean()), 4), "error": round(float(error), 4)}


def processor():
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def record(path, run, parameters, results, progress=None):
    """Append a row to a table of results, with date, machine and versions, and print it.

    Args:
      path: csv file, which is made where there is none.
      run: what tells the runs of an experiment apart.
      parameters: their number.
      results: what was measured.
      progress: what `train` returns; `None` where nothing was trained.
    """
    row = {
        "date": datetime.date.today().isoformat(),
        **run,
        "parameters": parameters,
        **(progress or dict.fromkeys(PROGRESS, "")),
        **results,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "processor": processor(),
        "keras_nf": keras_nf.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }
    print(", ".join(f"{name} {value}" for name, value in row.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", newline="") as file:
        file.seek(0)
        known = next(csv.reader(file), None)
        if known is not None and known != list(row):
            raise SystemExit(
                f"Expected a table with the columns {', '.join(row)}. Received, in {path}: "
                f"{', '.join(known)}. Move it away; the same command then starts a new one."
            )
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if known is None:
            writer.writeheader()
        writer.writerow(row)
