"""What the pictures share: matplotlib where it is installed, axes, colours, dots, checks."""

import importlib

import numpy as np

from keras_nf.models.density import DensityModel

__all__ = [
    "BLUE",
    "COLOURS",
    "VERMILLION",
    "axes_or_current",
    "check_model",
    "dots",
    "ends_of",
    "is_single",
    "legend_above",
    "matplotlib",
    "set_limits",
    "to_rows",
]

# Of Okabe and Ito, told apart by all kinds of colour vision.
BLUE, VERMILLION = "#0072B2", "#D55E00"
COLOURS = (BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def matplotlib(module):
    """Return a module of matplotlib by its name; none is imported before it is needed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in ("matplotlib", "mpl_toolkits"):
            raise
        raise ModuleNotFoundError(
            'Pictures need matplotlib, which is not installed. Install it: pip install "keras_nf'
            '[plot]".',
            name="matplotlib",
        ) from None


def axes_or_current(axes):
    """Return the axes that were given, or those that are pyplot's current ones."""
    if axes is None:
        pyplot = matplotlib("matplotlib.pyplot")
        if not pyplot.get_fignums():
            # What stands beside an image of equal aspect, as its colour bar, needs room.
            pyplot.figure(layout="constrained")
        return pyplot.gca()
    if not hasattr(axes, "plot"):
        raise ValueError(
            f"`axes` must be the axes of a figure of matplotlib. Received: {axes!r}. Of an array "
            "of axes, as plt.subplots returns it, pass an entry."
        )
    return axes


def check_model(model):
    """Refuse what is no model of a density."""
    if not isinstance(model, DensityModel):
        raise ValueError(
            f"Expected a keras_nf.FlowModel or a keras_nf.VariationalModel. Received: {model!r}. "
            "Put a flow into a FlowModel."
        )


def is_single(model, condition):
    """Return whether a condition is none at all, or that of a single row."""
    encoded = model.encode(condition)
    return encoded is None or encoded.shape[:-1].num_elements() == 1


def to_rows(values, what, size=None):
    """Return rows of numbers as an array, after a check of their shape."""
    rows = np.asarray(values)
    if rows.ndim != 2 or size not in (None, rows.shape[1]):
        raise ValueError(
            f"{what} must have the shape (rows, {size or 'components'}). Received: shape "
            f"{rows.shape}."
        )
    return rows


def ends_of(*sets, margin=0.05):
    """Return the lower and the upper ends of all components of rows, with a margin."""
    rows = np.concatenate(sets)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not len(rows):
        raise ValueError("The limits of a picture cannot be told from no finite rows. Give some.")
    low, high = rows.min(axis=0), rows.max(axis=0)
    room = margin * np.where(high > low, high - low, 1.0)
    return low - room, high + room


def set_limits(axes, low, high):
    """Let axes of two components show what lies between two corners, in equal units."""
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")


def dots(axes, points, colour, *, size=1.0, alpha=0.6, label=None):
    """Draw points that stay apart, as far as their number lets them."""
    area = size * float(np.clip(8_000.0 / max(len(points), 1), 1.0, 16.0))
    options = {"s": area, "alpha": alpha, "label": label}
    return axes.scatter(*points.T, color=colour, linewidths=0.0, rasterized=True, **options)


def legend_above(axes):
    """Add a legend above all that is drawn, with dots large enough to tell their colours."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.2 * (high - low))
    legend = axes.legend(loc="upper center", ncols=2, frameon=False)
    for handle in legend.legend_handles:
        handle.set_alpha(1.0)
        if hasattr(handle, "set_sizes"):
            handle.set_sizes([30.0])
