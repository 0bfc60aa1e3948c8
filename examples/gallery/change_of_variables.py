"""Change of variables in one dimension: x = 4 z and x = exp(z), histograms against the formula.

    python examples/gallery/change_of_variables.py

One interval of z and its image are filled: they hold the same probability. Takes two seconds.
"""

from typing import NamedTuple

import numpy as np
from style import BLUE, INK, SKY, VERMILLION, parse, plt, save

INTERVAL = np.array([0.5, 1.0])  # of z, with a probability of 15 %


class Map(NamedTuple):
    """A map of z, the density of x, and the part of the line that both panels show."""

    title: str
    forward: callable
    density: callable
    base_ends: tuple
    ends: tuple
    top: float | None


def normal(z):
    return np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)


MAPS = [
    Map(
        "$x = 4 z$:  $p_X(x) = p_Z(x/4) / 4$",
        lambda z: 4.0 * z,
        lambda x: normal(x / 4.0) / 4.0,
        (-11.0, 11.0),
        (-11.0, 11.0),
        0.42,
    ),
    Map(
        r"$x = e^z$:  $p_X(x) = p_Z(\log x) / x$",
        np.exp,
        lambda x: normal(np.log(x)) / x,
        (-3.0, 7.0),
        (0.002, 7.0),
        0.7,
    ),
]


def panel(axes, draws, density, ends, interval):
    """Draw a histogram, the density on a fine grid, and the area over an interval."""
    x = np.linspace(*ends, 1000)
    bins = np.linspace(*ends, 61)
    heights = np.histogram(draws, bins)[0] / len(draws) / np.diff(bins)
    axes.bar(bins[:-1], heights, np.diff(bins), align="edge", color=SKY, alpha=0.45, label="draws")
    axes.plot(x, density(x), color=BLUE, linewidth=2.0, label="formula")
    inside = np.linspace(*interval, 100)
    axes.fill_between(inside, density(inside), color=VERMILLION, alpha=0.85, linewidth=0.0)
    middle = np.mean(interval)
    axes.annotate(
        "15 %",
        (middle, 0.7 * density(middle)),
        (0.8, 0.55),
        textcoords="axes fraction",
        arrowprops={"arrowstyle": "-", "color": VERMILLION},
        color=VERMILLION,
        ha="center",
        weight="bold",
    )


def main():
    arguments = parse(__doc__, "change_of_variables.png")
    z = np.random.default_rng(arguments.seed).normal(size=100_000)
    figure, rows = plt.subplots(2, 2, figsize=(7.0, 4.6), layout="constrained")
    for (left, right), row in zip(rows, MAPS):
        panel(left, z, normal, row.base_ends, INTERVAL)
        panel(right, row.forward(z), row.density, row.ends, row.forward(INTERVAL))
        left.set(xlabel="z", ylabel="density", title="base: $p_Z(z)$")
        right.set(xlabel="x", title=row.title)
        for axes in (left, right):
            axes.set(xlim=row.base_ends, ylim=(0.0, row.top))
        arrow = {"arrowstyle": "-|>", "color": INK}
        left.annotate("", (1.14, 0.72), (1.0, 0.72), xycoords="axes fraction", arrowprops=arrow)
    rows[0, 1].legend(frameon=False, loc="upper left")
    figure.get_layout_engine().set(wspace=0.12, hspace=0.08)
    save(figure, arguments.output)


if __name__ == "__main__":
    main()
