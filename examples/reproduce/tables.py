"""The five sets of the density benchmark, from the files in which they go round.

George Papamakarios, Theo Pavlakou and Iain Murray (arXiv:1705.07057, appendix D) prepared them;
what is done here is what the paper and its code say. Each is looked for in a folder, or in a
folder of its name there:

- POWER: `data.npy`, or `power.npz` with what comes of it
- GAS: `ethylene_CO.pickle`, a pandas frame, for which pandas must be installed. To open a pickle
  runs what is in it: take it from somebody you trust
- HEPMASS: `1000_train.csv` and `1000_test.csv`
- MINIBOONE: `data.npy`, or `miniboone_part.npz`, whose training data are a part
- BSDS300: `BSDS300.hdf5`, or `bsds300_patches.npz`, of 8 x 8 patches in 256 grey levels

An npz file has the arrays `train`, `val` and `test`.
"""

import csv
from pathlib import Path

import numpy as np

__all__ = ["NAMES", "dequantize", "load"]


def tenths(x, *, normalize):
    """Split off the last tenth for tests, and that of the rest for validation."""
    x, test = np.split(x, [len(x) - len(x) // 10])
    if normalize:
        mean, deviation = x.mean(axis=0), x.std(axis=0)
        x, test = (x - mean) / deviation, (test - mean) / deviation
    train, val = np.split(x, [len(x) - len(x) // 10])
    return train, val, test


def power(path):
    """Voltage, power, three meters and the time of the day; noise fills the steps of each."""
    x, rng = np.load(path), np.random.RandomState(42)
    rng.shuffle(x)
    x = np.delete(x, [1, 3], axis=1)
    rows = len(x)
    voltage, active = 0.01 * rng.rand(rows, 1), 0.001 * rng.rand(rows, 1)
    meters = rng.rand(rows, 3)
    x = x + np.hstack([active, voltage, meters, np.zeros((rows, 1))])
    return tenths(x, normalize=True)


def gas(path):
    """Sensors of which no two are correlated by more than 0.98."""
    import pandas

    frame = pandas.read_pickle(path).drop(columns=["Meth", "Eth", "Time"])
    x = frame.to_numpy("float64")
    while True:
        partners = (np.corrcoef(x.T) > 0.98).sum(axis=1)
        if not (partners > 1).any():
            break
        x = np.delete(x, np.argmax(partners > 1), axis=1)
    x = (x - x.mean(axis=0)) / x.std(axis=0, ddof=1)
    return tenths(x, normalize=False)


def hepmass(train_path, test_path):
    """Signals of mass 1000, without columns in which a value comes more than five times."""

    def signals(path):
        with path.open(newline="") as file:
            names = [name.strip("# ") for name in next(csv.reader(file))]
        columns = [i for i, name in enumerate(names) if name.startswith("f")]
        rows = np.loadtxt(path, delimiter=",", skiprows=1, usecols=[0, *columns])
        return rows[rows[:, 0] == 1.0, 1:]

    x, test = signals(train_path), signals(test_path)
    mean, deviation = x.mean(axis=0), x.std(axis=0, ddof=1)
    x, test = (x - mean) / deviation, (test - mean) / deviation
    most = np.array([np.unique(column, return_counts=True)[1].max() for column in x.T])
    x, test = x[:, most <= 5], test[:, most <= 5]
    train, val = np.split(x, [len(x) - len(x) // 10])
    return train, val, test


def miniboone(path):
    return tenths(np.load(path), normalize=True)


def miniboone_part(path):
    """The first rows of the training data, nine tenths of the validation data, and the rest."""
    with np.load(path) as arrays:
        val = arrays["val"]
        kept = len(val) - len(val) // 10
        return np.concatenate([arrays["train_head"], val[:kept]]), val[kept:], arrays["test"]


def bsds300(path):
    import h5py

    with h5py.File(path, "r") as file:
        return tuple(file[name][:] for name in ("train", "validation", "test"))


def parts(path):
    with np.load(path) as arrays:
        return arrays["train"], arrays["val"], arrays["test"]


# File names and the function of them, the first that are there; the shape of the paper's training
# data.
FILES = {
    "power": ([(["power.npz"], parts), (["data.npy"], power)], (1_659_917, 6)),
    "gas": ([(["ethylene_CO.pickle"], gas)], (852_174, 8)),
    "hepmass": ([(["1000_train.csv", "1000_test.csv"], hepmass)], (315_123, 21)),
    "miniboone": (
        [(["data.npy"], miniboone), (["miniboone_part.npz"], miniboone_part)],
        (29_556, 43),
    ),
    "bsds300": (
        [(["BSDS300.hdf5"], bsds300), (["bsds300_patches.npz"], parts)],
        (1_000_000, 63),
    ),
}
NAMES = list(FILES)


def load(name, folder):
    """Return training, validation and test data of a set, float32, or uint8 of patches."""
    sources, expected = FILES[name]
    for names, read in sources:
        for place in (Path(folder) / name, Path(folder)):
            paths = [place / each for each in names]
            if all(path.is_file() for path in paths):
                arrays = read(*paths)
                if arrays[0].shape != expected:
                    print(f"{name}: {arrays[0].shape} training data; the paper has {expected}.")
                return tuple(x if x.dtype == np.uint8 else x.astype("float32") for x in arrays)
    wanted = "; or ".join(" and ".join(names) for names, _ in sources)
    raise SystemExit(f"Expected in {folder}, or in its folder {name}: {wanted}. Found neither.")


def dequantize(levels, rng):
    """Return the vectors of 63 components that the paper makes of patches in 256 levels."""
    x = (levels + rng.random(levels.shape)) / 256.0
    return (x - x.mean(axis=1, keepdims=True))[:, :63].astype("float32")
