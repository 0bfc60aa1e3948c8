"""Style of the pictures: colours, fonts, arguments and small files."""

import argparse
import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image

mpl.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["BLUE", "GALLERY", "GREEN", "GREY", "INK", "ORANGE", "PALE", "PURPLE", "SKY"]
__all__ += ["VERMILLION", "density", "parse", "plt", "save"]

GALLERY = Path(__file__).resolve().parents[2] / "docs" / "images" / "gallery"

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"
INK, GREY, PALE = "#333333", "#8a8a8a", "#e4e4e4"

plt.rcParams.update(
    {
        "figure.dpi": 150,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "image.cmap": "viridis",
        "svg.hashsalt": "keras_nf",
    }
)


def parse(text, name, *, steps=None):
    """Return the arguments of a script: `output`, `seed` and, where it trains, `steps`.

    Args:
      text: docstring of the script.
      name: file of the picture in the gallery.
      steps: number of training steps, by default.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=GALLERY / name)
    parser.add_argument("--seed", type=int, default=0)
    if steps is not None:
        parser.add_argument("--steps", type=int, default=steps)
    return parser.parse_args()


def save(figure, path, *, palette=True):
    """Write a figure: an SVG as it is, a PNG with a palette, which is half as large.

    Args:
      figure: the figure.
      path: the file.
      palette: whether 256 colours are enough; shades of densities show steps then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    else:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.06)
        image = Image.open(buffer).convert("RGB")
        if palette:
            image = image.quantize(256, kmeans=3, dither=Image.Dither.NONE)
        image.save(path, optimize=True)
    plt.close(figure)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def density(axes, log_prob, reach, *, points=300, vmax=None):
    """Draw a density over the square [-reach, reach]^2, without ticks; return the image.

    Args:
      axes: where to draw.
      log_prob: function of an array of shape (rows, 2), float32.
      reach: half a side of the square.
      points: number of points along a side.
      vmax: density that has the brightest colour.
    """
    side = np.linspace(-reach, reach, points, dtype="float32")
    x = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    p = np.exp(np.asarray(log_prob(x))).reshape(points, points)
    extent = (-reach, reach, -reach, reach)
    image = axes.imshow(p, origin="lower", extent=extent, vmin=0.0, vmax=vmax)
    axes.set(xticks=[], yticks=[])
    return image
