"""Flows trained on the toy sets, with the settings of each, and a folder that keeps them.

One model serves all sets: a training begins with `reset`, so that XLA compiles a flow once.
"""

import json
import os
import platform
import time
from datetime import date
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_nf

__all__ = ["CACHE", "FLOWS", "SETS", "Training", "processor"]

CACHE = Path(__file__).resolve().parents[2] / "gallery_cache"
BATCH, ROWS, HELD_OUT = 250, 75_000, 20_000
UNITS = {"hidden_units": (64, 64)}


class About(NamedTuple):
    """The title of a set, and half a side of its picture."""

    title: str
    reach: float


SETS = {
    "two_moons": About("two moons", 3.6),
    "eight_gaussians": About("eight Gaussians", 4.0),
    "pinwheel": About("pinwheel", 4.0),
    "rings": About("rings", 3.7),
    "spirals": About("spirals", 3.9),
    "checkerboard": About("checkerboard", 4.4),
}


class Settings(NamedTuple):
    """A recipe and its options, the learning rate at the start, the number of steps, the base."""

    title: str
    recipe: str
    options: dict
    rate: float
    steps: int
    base: str = "normal"


FLOWS = {
    "planar": Settings("planar", "planar_flow", {"layers": 32}, 5e-3, 9000),
    # A shift lowers the mean square, all that a normal base sees, only where a component has a mean
    # given the other one, which symmetric sets have not: trainings with it never began.
    "nice": Settings("NICE", "nice", {"layers": 10, **UNITS}, 1e-3, 6000, "logistic"),
    "real_nvp": Settings("Real NVP", "real_nvp", {"layers": 12, **UNITS}, 3e-3, 9000),
    "maf": Settings("MAF", "maf", {"layers": 10, **UNITS}, 3e-3, 3000),
    "iaf": Settings("IAF", "iaf", {"layers": 10, **UNITS}, 3e-3, 3000),
    "nsf_coupling": Settings(
        "NSF, coupling", "nsf", {"layers": 4, "bins": 16, "coupling": True, **UNITS}, 3e-3, 3000
    ),
    "nsf": Settings("NSF", "nsf", {"layers": 4, "bins": 16, **UNITS}, 3e-3, 3000),
}


def processor():
    """Return the name of the processor, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


class Training:
    """A flow, by its name in `FLOWS`, to be trained on one set after another.

    Args:
      name: name of the flow.
      settings: other settings than those of the table.
      steps: another number of steps.
      seed: seed of weights and of batches; the points of a set always are the same.
      cache: folder that keeps weights and results.
    """

    def __init__(self, name, *, settings=None, steps=None, seed=0, cache=CACHE):
        self.name, self.cache, self.seed = name, Path(cache), seed
        settings = settings or FLOWS[name]
        self.settings = settings._replace(steps=steps or settings.steps)
        self._model = self._initial = None

    def fit(self, points):
        """Return the model, with weights for a set: trained, or as the cache has them."""
        self._reset()
        weights, record = self._file(points, "weights.h5"), self.record(points)
        if record:
            self._model.load_weights(weights)
            return self._model
        x = getattr(keras_nf.datasets, points)(ROWS, seed=0)
        start = time.process_time()
        self._model.adapt(x)
        steps = self.settings.steps
        epochs = max(steps * BATCH // ROWS, 1)
        self._model.fit(x[: steps * BATCH], batch_size=BATCH, epochs=epochs, verbose=0)
        seconds = time.process_time() - start
        held_out = getattr(keras_nf.datasets, points)(HELD_OUT, seed=1)
        nats = float(np.mean(self._model.predict(held_out, batch_size=1000, verbose=0)))
        self.cache.mkdir(parents=True, exist_ok=True)
        self._model.save_weights(weights)
        record = {**self._key(), "nats": nats, "seconds": seconds}
        record |= {"processor": processor(), "date": date.today().isoformat()}
        self._file(points, "json").write_text(json.dumps(record))
        print(f"{self.name} {points}: {nats:.3f} nats, {seconds:.0f} s", flush=True)
        return self._model

    def record(self, points):
        """Return what is known of a finished training, or `None`."""
        path = self._file(points, "json")
        record = json.loads(path.read_text()) if path.exists() else {}
        return record if self._key().items() <= record.items() else None

    def density(self, points, number):
        """Return p(x) at the centres of `number` by `number` cells of the picture of a set."""
        path, reach = self._file(points, "npy"), SETS[points].reach
        if self.record(points) and path.exists():
            values = np.load(path)
            if len(values) == number and path.stat().st_mtime >= self._time(points):
                return values
        model = self.fit(points)
        side = reach * (2.0 * (np.arange(number) + 0.5) / number - 1.0)
        x = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2).astype("float32")
        values = np.exp(model.predict(x, batch_size=1000, verbose=0)).reshape(number, number)
        np.save(path, values)
        return values

    def _reset(self):
        """Give the model its initial weights, and the optimizer no memory."""
        keras.utils.set_random_seed(self.seed)
        if self._model is None:
            recipe = getattr(keras_nf, self.settings.recipe)(2, **self.settings.options)
            chain = keras_nf.Chain([recipe, keras_nf.Standardize()])
            self._model = keras_nf.FlowModel(chain, self.settings.base)
            schedule = keras.optimizers.schedules.CosineDecay(
                self.settings.rate, self.settings.steps
            )
            self._model.compile(
                keras.optimizers.Adam(schedule), jit_compile=True, steps_per_execution=20
            )
            self._model.build((None, 2))
            self._model.optimizer.build(self._model.trainable_variables)
            self._initial = self._model.get_weights()
        self._model.set_weights(self._initial)
        for variable in self._model.optimizer.variables:
            variable.assign(np.zeros(variable.shape))

    def _key(self):
        settings = json.loads(json.dumps(self.settings._asdict()))
        return {**settings, "seed": self.seed}

    def _time(self, points):
        return self._file(points, "json").stat().st_mtime

    def _file(self, points, suffix):
        return self.cache / f"{self.name}-{points}.{suffix}"
