"""Draw the curves of docs/results.md, from the results in docs/results.

    python examples/reproduce/curves.py

Validation log-likelihood against epochs, of the runs of which docs/results/curves has the log.
"""

import csv

import matplotlib as mpl
import numpy as np
from harness import LOOKS
from page import DENSITY, DOCS, IMAGES, TITLES, runs

mpl.use("Agg")
import matplotlib.pyplot as plt

# Rows of an epoch, and what is above the axis: most runs lie between the ends.
SETS = {"power": (1_659_917, "POWER", (-0.6, 0.7)), "bsds300": (300_000, "BSDS300", (150.0, 176.0))}
IMAGE_ROWS = 50_000
MODELS = [name for name in TITLES if name != "gaussian"]


def curve(run, row, rows):
    """Return epochs and validation log-likelihoods of a run."""
    path = DOCS / "results" / "curves" / f"{run}.csv"
    with path.open() as file:
        values = [-float(look["val_loss"]) for look in csv.DictReader(file)]
    epochs_of_plan = int(row["planned"]) * int(row["batch_size"]) / rows
    return np.arange(1, len(values) + 1) * epochs_of_plan / LOOKS, values


def draw_tables():
    figure, panels = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    found = runs("density", ("set", "model", "seed"))
    for axes, (name, (rows, title, ends)) in zip(panels, SETS.items()):
        for model in MODELS:
            row = found.get((name, model, "0"))
            if row is not None:
                color = f"C{MODELS.index(model)}"
                epochs, values = curve(f"density-{name}-{model}-0", row, rows)
                label = ",".join(TITLES[model].split(",")[:2])
                axes.plot(epochs, values, color=color, label=label)
                if name == "power":
                    # The photographs to validate with are others than those of the test.
                    axes.axhline(DENSITY[name][model], color=color, linewidth=0.7, linestyle=":")
        axes.set(title=title, xlabel="epochs", ylim=ends)
        axes.legend(fontsize=7, frameon=False, ncols=2, loc="lower right")
    panels[0].set_ylabel("validation, nats")
    figure.savefig(DOCS / "images" / "results" / "tables.png", dpi=110)


def draw_nice(row):
    figure, axes = plt.subplots(figsize=(5.5, 3.0), layout="constrained")
    axes.plot(*curve("images-nice-0", row, IMAGE_ROWS), label="NICE, validation")
    axes.axhline(IMAGES["nice"], color="C7", linestyle=":", label="paper, test, 1,500 epochs")
    axes.set(xlabel="epochs", ylabel="nats", ylim=(1000.0, 2050.0))
    axes.legend(frameon=False)
    figure.savefig(DOCS / "images" / "results" / "nice.png", dpi=110)


def main():
    (DOCS / "images" / "results").mkdir(exist_ok=True)
    draw_tables()
    row = runs("images", ("model", "seed")).get(("nice", "0"))
    if row is not None:
        draw_nice(row)


if __name__ == "__main__":
    main()
