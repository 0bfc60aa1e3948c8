"""Densities that every flow learns on six toy sets, and a strip of the best of them.

    python examples/gallery/densities.py
    python examples/gallery/densities.py --only planar nice --output planar_and_nice.png

Writes a row for each flow, to `densities.png` in the gallery, and to `--strip` the sets above the
densities of the best flow. Prints the tables of docs/gallery.md. The settings stand in
`trained.py`; what lies in the folder `--cache` is not trained again.
"""

import argparse
from pathlib import Path

import numpy as np
from style import BLUE, GALLERY, GREY, plt, save
from trained import CACHE, FLOWS, SETS, Training

import keras_nf

BEST = "nsf"
POINTS = 3000  # of a picture of data
SHADES = plt.get_cmap("viridis", 64)  # as many as keep the file small


def draw_points(axes, name):
    reach = SETS[name].reach
    x = getattr(keras_nf.datasets, name)(POINTS, seed=2)
    axes.plot(*x.T, ".", color=BLUE, markersize=1.3, markeredgewidth=0.0)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach))


def draw(rows, tops, path, *, width, dpi):
    """Draw a row of points, and a row for each title and its densities, one for each set."""
    shape = 1 + len(rows), len(SETS)
    cell = (width - 0.3) / shape[1]
    size = width, cell * shape[0] + 0.25
    figure, panels = plt.subplots(*shape, figsize=size, layout="constrained", dpi=dpi)
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)
    for axes, (name, about) in zip(panels[0], SETS.items()):
        draw_points(axes, name)
        axes.set_title(about.title)
    for line, densities in zip(panels[1:], rows.values()):
        for axes, name in zip(line, SETS):
            top = tops[name]
            axes.imshow(densities[name], origin="lower", vmin=0.0, vmax=top, cmap=SHADES)
    for axes, title in zip(panels[:, 0], ("data", *rows)):
        axes.set_ylabel(title)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set(visible=True, color=GREY, linewidth=0.5)
    save(figure, path)


def print_tables(records):
    """Print the settings, and the mean log-densities of points that were held out."""
    print("\n| flow | recipe | base | rate | steps | seconds |\n|---|---|---|--:|--:|--:|")
    for results in records.values():
        last = [*results.values()][-1]
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in last["options"].items()}
        options = ", ".join(f"{key}={value}" for key, value in options.items())
        seconds = [record["seconds"] for record in results.values()]
        print(
            f"| {last['title']} | `{last['recipe']}(2, {options})` | {last['base']} "
            f"| {last['rate']:g} | {last['steps']:,} | {min(seconds):.0f} to {max(seconds):.0f} |"
        )
    print("\n| flow |", " | ".join(about.title for about in SETS.values()), "|")
    print("|---|" + "--:|" * len(SETS))
    for flow, results in records.items():
        nats = " | ".join(f"{record['nats']:.3f}" for record in results.values())
        print(f"| {FLOWS[flow].title} | {nats} |")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(FLOWS), default=list(FLOWS))
    parser.add_argument("--steps", type=int, help="another number of steps for all flows")
    parser.add_argument("--cells", type=int, default=220, help="of a density, along a side")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--output", type=Path, default=GALLERY / "densities.png")
    parser.add_argument("--strip", type=Path, default=GALLERY / "strip.png")
    arguments = parser.parse_args(arguments)
    densities, records = {}, {}
    for flow in arguments.only:
        training = Training(flow, steps=arguments.steps, cache=arguments.cache)
        densities[flow] = {name: training.density(name, arguments.cells) for name in SETS}
        records[flow] = {name: training.record(name) for name in SETS}
    # Of the best flow that there is: its colours end where a cell in two hundred is denser.
    best = densities.get(BEST, densities[arguments.only[-1]])
    tops = {name: np.quantile(values, 0.995) for name, values in best.items()}
    rows = {FLOWS[flow].title: values for flow, values in densities.items()}
    draw(rows, tops, arguments.output, width=7.0, dpi=104)
    draw({"flow": best}, tops, arguments.strip, width=9.0, dpi=150)
    print_tables(records)


if __name__ == "__main__":
    main()
