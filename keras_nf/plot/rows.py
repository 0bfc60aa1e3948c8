"""Rows of data and of draws: dots of two components, corners of several, images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_nf.arguments import check_count
from keras_nf.models.density import DensityModel
from keras_nf.plot.figures import (
    BLUE,
    COLOURS,
    VERMILLION,
    axes_or_current,
    dots,
    ends_of,
    is_single,
    legend_above,
    matplotlib,
    set_limits,
    to_rows,
)

__all__ = ["corner", "images", "samples"]


def samples(
    model: Any,
    x: Any,
    *,
    condition: Any = None,
    seed: Any = 0,
    axes: Any = None,
) -> Any:
    """Draw samples of two components over data, or beside them, within the same limits.

    Data are blue, samples vermillion. A model draws as many as there are data: one for each row of
    the condition, if it has several.

    Args:
      model: a model, or samples of shape `(number, 2)`.
      x: data of shape `(rows, 2)`.
      condition: condition of the rows, or of all of them, where the model has one.
      seed: seed of the samples of a model; with `None` they differ at every call.
      axes: matplotlib axes to draw in, the current ones when `None`; or two of them, for the data
        and the samples side by side.

    Returns:
      The matplotlib axes, as they were given.

    Raises:
      ValueError: on data or samples of another shape.
      ModuleNotFoundError: if matplotlib is not installed.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import keras_nf
    >>> x = keras_nf.datasets.two_moons(1000, seed=0)
    >>> axes = keras_nf.plot.samples(keras_nf.datasets.rings(1000, seed=0), x)
    >>> axes.get_legend_handles_labels()[1]
    ['data', 'samples']
    """
    x = to_rows(x, "`x`, the data,", 2)
    draws = _draw(model, x, condition, seed) if isinstance(model, DensityModel) else model
    draws = to_rows(draws, "Samples", 2)
    pair = np.ndim(axes) == 1
    if np.ndim(axes) > 1 or (pair and len(axes) != 2):
        raise ValueError(
            "`axes` must be the axes for data and samples together, or two of them for the one "
            f"and the other. Received: an array of shape {np.shape(axes)}."
        )
    both = [axes_or_current(each) for each in (axes if pair else (axes, axes))]
    low, high = ends_of(x, draws)
    sets = (("data", x, BLUE), ("samples", draws, VERMILLION))
    for panel, (name, points, colour) in zip(both, sets):
        dots(panel, points, colour, alpha=0.4, label=name)
        set_limits(panel, low, high)
        panel.set(xlabel="x[0]", ylabel="x[1]")
        if pair:
            panel.set_title(name)
    if not pair:
        legend_above(both[0])
    return axes if pair else both[0]


def _draw(model, x, condition, seed):
    if is_single(model, condition):
        return np.reshape(model.sample(len(x), condition=condition, seed=seed), (len(x), -1))
    draws = np.asarray(model.sample(1, condition=condition, seed=seed))[0]
    if len(draws) != len(x):
        raise ValueError(
            f"`condition` must have one row, or as many as there are data. Received: {len(draws)} "
            f"for {len(x)} rows of data."
        )
    return draws


def corner(
    *arrays: Any,
    labels: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    bins: int = 40,
    limits: Sequence[tuple[float, float]] | None = None,
    figure: Any = None,
) -> Any:
    """Draw sets of rows by all pairs of their components, and by each component alone.

    The panel in row i and column j < i has dots of component i over component j, one on the
    diagonal has histograms of a component, each of area 1. Sets have colours of their own.

    Args:
      *arrays: sets of shape `(rows, components)`, such as data and samples of a model.
      labels: names of the components, by default `x[0]`, `x[1]`, ...
      names: names of the sets, for a legend.
      bins: number of bins of the histograms.
      limits: lower and upper end of each component; by default those of 99.8 % of every set.
      figure: empty matplotlib figure to draw in; a new one of pyplot when `None`.

    Returns:
      The matplotlib figure.

    Raises:
      ValueError: on sets of other shapes, no set, or too few labels, names or limits.
      ModuleNotFoundError: if matplotlib is not installed.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import numpy as np, keras_nf
    >>> x = np.random.default_rng(0).normal(size=(2, 500, 3))
    >>> figure = keras_nf.plot.corner(*x, names=["data", "samples"])
    >>> len(figure.axes)
    6
    """
    sets = [to_rows(array, "A set") for array in arrays]
    sizes = {rows.shape[1] for rows in sets}
    if len(sizes) != 1 or not all(map(len, sets)) or len(sets) > len(COLOURS):
        raise ValueError(
            f"Expected one to {len(COLOURS)} sets of rows, of the same number of components. "
            f"Received: shapes {[rows.shape for rows in sets]}."
        )
    (size,) = sizes
    labels = [f"x[{index}]" for index in range(size)] if labels is None else labels
    limits = _limits_of(sets) if limits is None else limits
    for what, given, number in (
        ("labels", labels, size),
        ("limits", limits, size),
        ("names", names, len(sets)),
    ):
        if given is not None and len(given) != number:
            raise ValueError(f"`{what}` must have {number} entries. Received: {given!r}.")
    if figure is None:
        inches = 1.9 * size + 0.6
        figure = matplotlib("matplotlib.pyplot").figure(
            figsize=(inches, inches), layout="constrained"
        )
    grid = figure.add_gridspec(size, size)
    for row in range(size):
        for column in range(row + 1):
            panel = figure.add_subplot(grid[row, column])
            _corner_panel(panel, sets, row, column, check_count(bins, "bins"), limits)
            _label_outside(panel, row, column, labels)
    if names is not None:
        _legend_of_sets(figure, names, beside=size == 1)
    return figure


def _limits_of(sets):
    ends = [np.quantile(rows, [0.001, 0.999], axis=0) for rows in sets]
    return list(zip(*ends_of(*ends)))


def _corner_panel(panel, sets, row, column, bins, limits):
    panel.set_xlim(limits[column])
    for rows, colour in zip(sets, COLOURS):
        if row != column:
            dots(panel, rows[:, [column, row]], colour, alpha=0.4)
            continue
        counts, edges = np.histogram(rows[:, row], bins=bins, range=limits[row])
        heights = counts / (len(rows) * np.diff(edges))
        panel.stairs(heights, edges, color=colour, linewidth=1.5)
    if row != column:
        panel.set_ylim(limits[row])


def _label_outside(panel, row, column, labels):
    """Label a panel where no other one stands between it and the edge."""
    size = len(labels)
    panel.label_outer()
    if row == size - 1:
        panel.set_xlabel(labels[column])
    if column == 0 < row:
        panel.set_ylabel(labels[row])
    if row == column:
        panel.set_yticks([])
        panel.spines[["left", "right", "top"]].set_visible(False)


def _legend_of_sets(figure, names, beside):
    patch = matplotlib("matplotlib.patches").Patch
    handles = [patch(color=colour, label=name) for name, colour in zip(names, COLOURS)]
    figure.legend(handles=handles, loc="outside right upper" if beside else "upper right")


def images(
    images: Any,
    *,
    columns: int | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: Any = "gray",
    axes: Any = None,
) -> Any:
    """Draw images in a grid, with a gap between them.

    Args:
      images: integers or floats of shape `(number, height, width)`, or `(number, height, width,
        channels)` with one channel or the three of red, green and blue.
      columns: number of images in a row; by default as many rows as columns.
      vmin: value that is black; by default 0 for uint8, else the smallest of all.
      vmax: value that is white; by default 255 for uint8, else the largest of all.
      cmap: colour map of images of one channel, by its name, or of matplotlib.
      axes: matplotlib axes to draw in; the current ones when `None`.

    Returns:
      The matplotlib axes.

    Raises:
      ValueError: on images of another shape, or none.
      ModuleNotFoundError: if matplotlib is not installed.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import numpy as np, keras_nf
    >>> rng = np.random.default_rng(0)
    >>> noise = rng.integers(256, size=(6, 8, 8), dtype="uint8")
    >>> axes = keras_nf.plot.images(noise, columns=3)
    >>> axes.images[0].get_array().shape
    (17, 26, 3)
    """
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            "Expected images of shape (number, height, width), or with an axis of one or three "
            f"channels besides. Received: shape {images.shape}."
        )
    colours = _colours_of(images, vmin, vmax, cmap)
    number, height, width = colours.shape[:3]
    columns = int(np.ceil(np.sqrt(number))) if columns is None else check_count(columns, "columns")
    columns = min(columns, number)
    rows = -(-number // columns)
    gap = 1 + min(height, width) // 16
    down, right = height + gap, width + gap
    sheet = np.ones((rows * down - gap, columns * right - gap, 3), "float32")
    for index, image in enumerate(colours):
        top, left = index // columns * down, index % columns * right
        sheet[top : top + height, left : left + width] = image
    axes = axes_or_current(axes)
    axes.imshow(sheet, interpolation="nearest")
    axes.set_axis_off()
    return axes


def _colours_of(images, vmin, vmax, cmap):
    """Return images as red, green and blue between 0 and 1."""
    is_bytes = images.dtype == "uint8"
    vmin = (0 if is_bytes else np.nanmin(images)) if vmin is None else vmin
    vmax = (255 if is_bytes else np.nanmax(images)) if vmax is None else vmax
    span = float(vmax) - float(vmin)
    scaled = np.clip((images.astype("float32") - vmin) / (span if span > 0.0 else 1.0), 0.0, 1.0)
    if images.shape[-1] == 3:
        return scaled
    return matplotlib("matplotlib.cm").ScalarMappable(cmap=cmap).cmap(scaled[..., 0])[..., :3]
