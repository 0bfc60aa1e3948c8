"""What waits for what: the two directions of a MAF, and the samples of an IAF.

    python examples/gallery/dependencies.py

Grey lines go into the network, red arrows are what it scales and shifts. Takes two seconds.
"""

from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch
from style import GREY, INK, ORANGE, SKY, VERMILLION, parse, plt, save

SIZE, RADIUS = 4, 0.27
BASE, DATA = 0.0, 2.0  # heights of the two rows
GIVEN, FOUND = SKY, ORANGE


def arrow(axes, start, end, color, bend=0.0, **options):
    style = {"arrowstyle": "-|>", "mutation_scale": 11, "shrinkA": 14, "shrinkB": 14}
    curve = f"arc3,rad={bend}"
    axes.add_patch(
        FancyArrowPatch(start, end, color=color, connectionstyle=curve, **style, **options)
    )


def nodes(axes, name, height, color, steps=None):
    for i in range(SIZE):
        axes.add_patch(Circle((i, height), RADIUS, facecolor=color, edgecolor=INK, zorder=3))
        position = {"ha": "center", "va": "center", "zorder": 4}
        axes.text(i, height, f"${name}_{i + 1}$", color="black", **position)
        if steps is not None:
            side = 0.5 if height > 1.0 else -0.5
            axes.text(i, height + side, f"step {steps[i]}", fontsize=8, color=INK, **position)


def panel(axes, title, source, target, network):
    """Draw one direction.

    Args:
      axes: where to draw.
      title: its title.
      source: name and height of the row that is given.
      target: name and height of the row that is computed.
      network: height of the row that the network sees.
    """
    sequential = network == target[1]
    nodes(axes, *source, GIVEN)
    nodes(axes, *target, FOUND, range(1, SIZE + 1) if sequential else [1] * SIZE)
    for i in range(SIZE):
        for j in range(i):
            bend = 0.0 if not sequential else 0.35 + 0.07 * (i - j)
            options = {"linewidth": 1.0, "zorder": 1}
            arrow(axes, (j, network), (i, target[1]), GREY, bend, **options)
        arrow(axes, (i, source[1]), (i, target[1]), VERMILLION, linewidth=2.2, zorder=2)
    axes.set(title=title, xlim=(-0.45, SIZE - 0.55), ylim=(-0.75, 2.75), aspect="equal")
    axes.axis("off")


def main():
    arguments = parse(__doc__, "dependencies.png")
    figure, panels = plt.subplots(1, 3, figsize=(7.0, 3.1), layout="constrained")
    z, x = ("z", BASE), ("x", DATA)
    panel(panels[0], "MAF, density: x to z", x, z, DATA)
    panel(panels[1], "MAF, sampling: z to x", z, x, DATA)
    panel(panels[2], "IAF, sampling: z to x", z, x, BASE)
    dots = {"marker": "o", "linestyle": "", "markersize": 10, "markeredgecolor": INK}
    handles = [
        Line2D([], [], color=GIVEN, label="given", **dots),
        Line2D([], [], color=FOUND, label="computed", **dots),
        Line2D([], [], color=VERMILLION, linewidth=2.2, label="scaled and shifted ..."),
        Line2D([], [], color=GREY, label="... by the network of these"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    save(figure, arguments.output)


if __name__ == "__main__":
    main()
