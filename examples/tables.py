"""A density of a table as it is: numbers, counts, grades and gaps, and a synthetic table.

    python examples/tables.py --data diamonds.npz --out tables

The file holds 53,940 diamonds: `x` of shape (rows, 10) and the names in `columns`, with the three
grades cut, color and clarity as integers from worst to best, as in `diamonds.csv` of
github.com/mwaskom/seaborn-data. The program makes a frame of pandas of it, fits a
`keras_nf.tables.TablePreparation` and a neural spline flow, and prints the log-likelihood of
held-out rows beside those of independent columns and of a Gaussian, then how the columns of a
synthetic table, and their correlations, differ from held-out rows. Into the folder `--out` it
writes `density.keras`, `table.json`, `synthetic.csv` and `corner.png`.
"""

import argparse
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd

import keras_nf
from keras_nf.tables import TablePreparation

GRADES = {
    "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
    "color": list("JIHGFED"),
    "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
}
SIZES = ["x", "y", "z"]
SHOWN = ["carat", "price", "depth", "x", "clarity"]


def read(path):
    """Return the diamonds as a frame."""
    with np.load(path) as file:
        frame = pd.DataFrame(file["x"], columns=file["columns"])
    for name, grades in GRADES.items():
        frame[name] = pd.Categorical.from_codes(frame[name].astype(int), grades, ordered=True)
    frame["price"] = frame["price"].astype("int32")
    # A length of zero stands for one that was not measured.
    frame[SIZES] = frame[SIZES].where(frame[SIZES] > 0.0)
    return frame


def split(frame, seed):
    """Return rows to train on, to stop by, and to test with."""
    order = np.random.default_rng(seed).permutation(len(frame))
    ends = [int(0.8 * len(frame)), int(0.9 * len(frame))]
    return [frame.iloc[rows].reset_index(drop=True) for rows in np.split(order, ends)]


def make_preparation(encoding, ordinal):
    """Say what the numbers are; categories speak for themselves."""
    steps = {"carat": 0.01, "depth": 0.1, "table": 0.1, **dict.fromkeys(SIZES, 0.01)}
    bounds = {"carat": (0, 6), "table": (40, 100), **dict.fromkeys(["price", *SIZES], (0, None))}
    categorical = {**dict.fromkeys(GRADES, encoding), **dict.fromkeys(ordinal, "ordinal")}
    return TablePreparation(categorical=categorical, steps=steps, bounds=bounds)


def train(z, z_val, arguments):
    """Train on several draws of the noise, and stop where fresh rows say so."""
    flow = keras_nf.nsf(
        event_size=z.shape[1], layers=arguments.layers, hidden_units=(128, 128), bins=8
    )
    model = keras_nf.FlowModel(flow)
    steps = arguments.epochs * -(-len(z) // 512)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=5.0))
    model.fit(
        z,
        validation_data=z_val,
        batch_size=512,
        epochs=arguments.epochs,
        verbose=2,
        callbacks=[
            keras.callbacks.ModelCheckpoint(
                arguments.out / "best.weights.h5", save_best_only=True, save_weights_only=True
            )
        ],
    )
    model.load_weights(arguments.out / "best.weights.h5")
    (arguments.out / "best.weights.h5").unlink()
    return model


def log_likelihood(log_prob, preparation, frame, draws=1, seed=0):
    """Return log p of each row: a bound of it by one draw, and closer to it by several."""
    values = []
    for draw in range(draws):
        z = preparation.transform(frame, seed=seed + draw)
        values.append(log_prob(z) + preparation.log_det(z))
    return np.logaddexp.reduce(values, axis=0) - np.log(draws)


def gaussian(z):
    """Return the log-density of a Gaussian with the mean and the covariance of rows."""
    mean, covariance = z.mean(axis=0), np.cov(z.T)
    inverse, log_det = np.linalg.inv(covariance), np.linalg.slogdet(2.0 * np.pi * covariance)[1]

    def log_prob(z):
        return -0.5 * (np.einsum("ri,ij,rj->r", z - mean, inverse, z - mean) + log_det)

    return log_prob


def standard_normal(z):
    return -0.5 * np.sum(z**2 + np.log(2.0 * np.pi), axis=1)


def numbers(frame):
    """Return a frame with grades as numbers from 0."""
    codes = {name: frame[name].cat.codes for name in frame.select_dtypes("category")}
    return frame.assign(**codes).astype("float64")


def distance(a, b):
    """Return the largest difference of two distribution functions (Kolmogorov-Smirnov)."""
    a, b = np.sort(a.dropna()), np.sort(b.dropna())
    x = np.union1d(a, b)
    below = [np.searchsorted(rows, x, side="right") / len(rows) for rows in (a, b)]
    return np.abs(below[0] - below[1]).max()


def compare(test, train, synthetic):
    """Print how columns and their rank correlations differ from held-out rows."""
    test, train, synthetic = map(numbers, (test, train, synthetic))
    table = pd.DataFrame(
        {
            "mean, test": test.mean(),
            "synthetic": synthetic.mean(),
            "std, test": test.std(),
            "synthetic ": synthetic.std(),
            "KS, train": {name: distance(test[name], train[name]) for name in test},
            "KS, synthetic": {name: distance(test[name], synthetic[name]) for name in test},
        }
    )
    print(table.round(3).to_string())
    rank = test.corr("spearman")
    for name, frame in (("train", train), ("synthetic", synthetic)):
        off = (frame.corr("spearman") - rank).abs().to_numpy()
        largest = np.unravel_index(off.argmax(), off.shape)
        pair = " and ".join(test.columns[list(largest)])
        print(f"rank correlations, {name}: off by at most {off.max():.3f} ({pair})")
    for name, frame in (("test", test), ("synthetic", synthetic)):
        weight = 1e3 * frame["carat"] / frame[SIZES].prod(axis=1, skipna=False)
        shown = " ".join(f"{weight.quantile(share):.2f}" for share in (0.05, 0.5, 0.95))
        print(f"carat of 1,000 cubic mm, {name}: {shown} (quantiles of 5, 50 and 95 %)")


def draw_corner(test, synthetic, path):
    """Draw some rows of both tables by pairs of columns; grades are spread a little."""
    rng = np.random.default_rng(0)
    rows = [numbers(frame)[SHOWN][:2000].to_numpy() for frame in (test, synthetic)]
    for points in rows:
        points[:, SHOWN.index("clarity")] += rng.uniform(-0.35, 0.35, len(points))
    figure = keras_nf.plot.corner(*rows, labels=SHOWN, names=["held-out", "synthetic"])
    figure.set_size_inches(8.5, 8.5)
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="npz file with x and columns")
    parser.add_argument("--out", type=Path, default=Path("tables"), help="folder for the results")
    parser.add_argument("--encoding", choices=["ordinal", "one_hot"], default="ordinal")
    parser.add_argument(
        "--ordinal", nargs="*", default=["carat", "table"], help="numbers that prefer round values"
    )
    parser.add_argument("--epochs", type=int, default=20, help="epochs of four draws of each row")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rows", type=int, help="use the first of the shuffled rows alone")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(arguments.seed)

    rows = read(arguments.data).sample(frac=1.0, random_state=arguments.seed)
    x_train, x_val, x_test = split(rows[: arguments.rows], arguments.seed)
    preparation = make_preparation(arguments.encoding, arguments.ordinal).fit(x_train)
    z = np.concatenate([preparation.transform(x_train, seed=seed) for seed in range(4)])
    print(f"{len(x_train)} rows to train on, {preparation.event_size} components:")
    print(", ".join(preparation.components))

    start = time.perf_counter()
    model = train(z, preparation.transform(x_val, seed=10), arguments)
    print(f"training: {time.perf_counter() - start:.0f} s")

    densities = {
        "independent normals": standard_normal,
        "Gaussian": gaussian(z),
        "flow": lambda z: model.predict(z, verbose=0),
    }
    for name, log_prob in densities.items():
        for draws in (1, 16):
            values = log_likelihood(log_prob, preparation, x_test, draws, seed=100)
            error = values.std() / np.sqrt(len(values))
            print(
                f"log p of held-out rows, {name}, {draws} draws: {values.mean():.3f} ± {error:.3f}"
            )

    samples = np.asarray(model.sample(20_000, seed=arguments.seed))
    synthetic = preparation.inverse_transform(samples)
    compare(x_test, x_train, synthetic)
    print(synthetic.head().to_string())
    synthetic.to_csv(arguments.out / "synthetic.csv", index=False)
    draw_corner(x_test, synthetic, arguments.out / "corner.png")
    model.save(arguments.out / "density.keras")
    preparation.save(arguments.out / "table.json")


if __name__ == "__main__":
    main()
