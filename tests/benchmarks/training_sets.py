"""Data sets of the study of training: for each the rows to train with and those held out."""

from typing import NamedTuple

import numpy as np

__all__ = ["SETS", "Data", "load"]


class Data(NamedTuple):
    """Rows of a set, standardized, with their conditions where the density is conditional."""

    train: np.ndarray
    test: np.ndarray
    train_condition: np.ndarray | None = None
    test_condition: np.ndarray | None = None


def two_moons(n, rng):
    angle, upper = rng.uniform(0.0, np.pi, n), rng.random(n) < 0.5
    x = np.where(upper, np.cos(angle), 1.0 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack([x, y], axis=1) + 0.05 * rng.normal(size=(n, 2))


def eight_gaussians(n, rng):
    angle = rng.integers(8, size=n) * np.pi / 4.0
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) + 0.1 * rng.normal(size=(n, 2))


def checkerboard(n, rng):
    x = rng.uniform(-2.0, 2.0, n)
    return np.stack([x, rng.random(n) + 2.0 * rng.integers(2, size=n) - 2.0 + np.floor(x) % 2], 1)


def rings(n, rng):
    angle, radius = rng.uniform(0.0, 2.0 * np.pi, n), 0.5 * rng.integers(1, 5, size=n)
    circle = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return circle + 0.05 * rng.normal(size=(n, 2))


def two_spirals(n, rng):
    angle = 3.0 * np.pi * np.sqrt(rng.random(n))
    arm = np.stack([-np.cos(angle), np.sin(angle)], axis=1) * (angle / 3.0)[:, None]
    return arm * rng.choice([-1.0, 1.0], size=(n, 1)) + 0.1 * rng.normal(size=(n, 2))


def slcp(n, rng):
    """Parameters and data of the task "SLCP" of simulation-based inference: 5 given 8."""
    theta = rng.uniform(-3.0, 3.0, size=(n, 5))
    first, second = theta[:, 2:3] ** 2, theta[:, 3:4] ** 2
    correlation = np.tanh(theta[:, 4:5])
    a, b = rng.normal(size=(2, n, 4))
    x = theta[:, :1] + first * a
    y = theta[:, 1:2] + second * (correlation * a + np.sqrt(1.0 - correlation**2) * b)
    return np.concatenate([theta, np.arcsinh(x), np.arcsinh(y)], axis=1)


def power(folder, rng):
    arrays = np.load(folder / "power.npz")
    return arrays["train"][:300_000], arrays["test"][:20_000]


def miniboone(folder, rng):
    arrays = np.load(folder / "miniboone_part.npz")
    return np.concatenate([arrays["train_head"], arrays["val"]]), arrays["test"]


# Units in which the columns of diamonds are given: carat, three grades, depth, table, price, sizes.
_UNITS = np.array([0.01, 1.0, 1.0, 1.0, 0.1, 0.1, 1.0, 0.01, 0.01, 0.01])


def diamonds(folder, rng):
    x = np.load(folder / "diamonds.npz")["x"]
    return _split(x + _UNITS * rng.random(x.shape), 5_000, rng)


def _uci(name, rows):
    def read(folder, rng):
        arrays = np.load(folder / "uci_regression.npz")
        return _split(np.column_stack([arrays[f"{name}_x"], arrays[f"{name}_y"]]), rows, rng)

    return read


def digits(folder, rng):
    from sklearn.datasets import load_digits

    x = (load_digits().data + rng.random((1797, 64))) / 17.0
    return _split(np.log(x) - np.log1p(-x), 397, rng)


def _split(x, held_out, rng):
    x = x[rng.permutation(len(x))]
    return x[held_out:], x[:held_out]


_DRAWN = {
    "two_moons": (two_moons, 9_000),
    "eight_gaussians": (eight_gaussians, 9_000),
    "checkerboard": (checkerboard, 9_000),
    "rings": (rings, 9_000),
    "two_spirals": (two_spirals, 9_000),
    "slcp": (slcp, 20_000),
}
_READ = {
    "power_plant": _uci("power_plant", 1_500),
    "power": power,
    "kin8nm": _uci("kin8nm", 1_500),
    "diamonds": diamonds,
    "protein": _uci("protein", 5_000),
    "miniboone": miniboone,
    "digits": digits,
}
# Columns that are modelled, in sets whose other columns are the condition.
_EVENT_SIZES = {"slcp": 5}

SETS = (*_DRAWN, *_READ)


def load(name, folder):
    """Return a set by its name; `folder` holds the archives of those that are read from files."""
    rng = np.random.default_rng(0)
    if name in _DRAWN:
        draw, rows = _DRAWN[name]
        train, test = draw(rows, rng), draw(10_000, rng)
    else:
        train, test = _READ[name](folder, rng)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    train, test = (((x - mean) / deviation).astype("float32") for x in (train, test))
    if name not in _EVENT_SIZES:
        return Data(train, test)
    size = _EVENT_SIZES[name]
    return Data(train[:, :size], test[:, :size], train[:, size:], test[:, size:])
