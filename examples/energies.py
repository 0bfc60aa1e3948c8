"""Variational inference on the four energies of Rezende and Mohamed (2015).

Fits a flow to exp(-U) by its own draws, without data, and prints the bound E[-U - ln q] <= ln Z
beside ln Z, in nats. Writes the densities and their fits to `energies.png` in the folder given by
`--out`.

    python examples/energies.py --flow planar --layers 32

The first energy lives on the plane. The others have no integral there: they are fitted in the
square [-4, 4]^2, into which the flow ends (`Logit`), from a logistic base, so that a fresh flow is
uniform in the square and nothing lies beyond its edge.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib as mpl
import numpy as np

import keras_nf
from keras_nf import plot

mpl.use("Agg")
import matplotlib.pyplot as plt

REACH = 4.0
LOG_Z = {"u1": 1.87750, "u2": 2.08209, "u3": 2.64171, "u4": 2.68457}


def target_of(name):
    energy = getattr(keras_nf.datasets, name)
    return lambda x: -energy(x)


def make_model(name, arguments):
    layers = arguments.layers
    flows = {
        "planar": lambda: keras_nf.planar_flow(2, layers=layers),
        "iaf": lambda: keras_nf.iaf(2, layers=layers, hidden_units=(64, 64)),
        "real_nvp": lambda: keras_nf.real_nvp(2, layers=layers, hidden_units=(64, 64)),
    }
    # The first trains the mean and the scale of the base.
    chain = [keras_nf.Scaling(use_shift=True), flows[arguments.flow]()]
    on_the_plane = name == "u1"
    if not on_the_plane:
        chain.append(keras_nf.Logit(-REACH, REACH, margin=0.0))
    return keras_nf.VariationalModel(
        keras_nf.Chain(chain, event_size=2),
        target_of(name),
        base="normal" if on_the_plane else "logistic",
    )


def fit(name, arguments):
    schedules = keras.optimizers.schedules
    model = make_model(name, arguments)
    model.compile(
        keras.optimizers.Adam(schedules.CosineDecay(arguments.rate, arguments.steps)),
        inverse_temperature=schedules.PolynomialDecay(0.01, arguments.steps // 3, 1.0),
        steps_per_execution=10,
    )
    start = time.perf_counter()
    model.fit(
        batch_size=arguments.batch_size,
        steps_per_epoch=arguments.steps // 10,
        epochs=10,
        seed=arguments.seed,
        verbose=arguments.verbose,
    )
    seconds = time.perf_counter() - start
    result = model.evaluate(batch_size=10_000, steps=50, seed=1, verbose=0, return_dict=True)
    print(
        f"{name} {arguments.flow} {arguments.layers}: bound {result['bound']:.4f}, ln Z "
        f"{LOG_Z[name]:.4f}, gap {LOG_Z[name] - result['bound']:.4f}, {seconds:.0f} s",
        flush=True,
    )
    return model


def draw(models, path):
    figure, axes = plt.subplots(
        2, len(models), figsize=(3.6 * len(models), 6.4), layout="constrained", squeeze=False
    )
    grid = np.linspace(-REACH, REACH, 200)
    x = np.stack(np.meshgrid(grid, grid), axis=-1).astype("float32")
    for (above, below), (name, model) in zip(axes.T, models.items()):
        density = np.exp(target_of(name)(x) - LOG_Z[name])
        image = above.pcolormesh(grid, grid, density, shading="gouraud")
        figure.colorbar(image, cax=above.inset_axes((1.04, 0.0, 0.05, 1.0)), label="density")
        above.set_title(f"exp(-{name.upper()}) / Z")
        plot.density(model, -REACH, REACH, axes=below, vmax=density.max())
        below.set_title("fit")
        for panel in (above, below):
            panel.set_aspect("equal")
            panel.set_xlabel("")
            panel.set_ylabel("")
    figure.savefig(path, dpi=60)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--energies", nargs="+", choices=list(LOG_Z), default=list(LOG_Z))
    parser.add_argument("--flow", choices=["planar", "iaf", "real_nvp"], default="planar")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15_000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("energies"))
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    models = {name: fit(name, arguments) for name in arguments.energies}
    draw(models, arguments.out / "energies.png")


if __name__ == "__main__":
    main()
