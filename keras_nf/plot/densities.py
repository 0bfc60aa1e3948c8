"""The density of a model, as a curve or as an image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_nf.arguments import check_count
from keras_nf.models.flow_model import FlowModel
from keras_nf.models.variational import VariationalModel
from keras_nf.plot.figures import (
    BLUE,
    axes_or_current,
    check_model,
    dots,
    ends_of,
    is_single,
    matplotlib,
    set_limits,
    to_rows,
)

__all__ = ["density"]


def density(
    model: FlowModel | VariationalModel,
    low: float | Sequence[float] | None = None,
    high: float | Sequence[float] | None = None,
    *,
    condition: Any = None,
    points: int = 200,
    data: Any = None,
    axes: Any = None,
    vmax: float | None = None,
    colorbar: bool = True,
    cmap: Any = "viridis",
) -> Any:
    """Draw the density of a model with one or two components.

    One component gives a curve of p(x) over x, two an image of p(x) over the plane, in equal units,
    with a colour bar in units of density. Data are drawn along with it: as dots over the image, or
    as a histogram behind the curve.

    Pictures side by side compare only if they share a scale: give all of them the same `vmax`,
    such as that of the first, `first.images[0].get_clim()[1]`. Where a density exceeds it, its
    colour bar ends in an arrow. In figures of `layout="constrained"` there is room for colour bars
    beside the axes, and images with and without one are of the same size.

    Args:
      model: the model; its event size must be known.
      low: lower end of the picture, for all components or for each; where data are given, by
        default a little below them.
      high: upper end of the picture, likewise.
      condition: one condition, of shape `(condition_size,)`, or a single one of what the encoder
        takes, where the model has one.
      points: number of points of the curve, or of rows and of columns of the image, at whose
        centres the density is evaluated.
      data: rows of shape `(rows, event_size)` to draw along with the density.
      axes: matplotlib axes to draw in; the current ones when `None`.
      vmax: density at the upper end of the colours, which begin at 0, or of the axis of a curve.
      colorbar: whether an image gets a colour bar.
      cmap: colour map of an image, by its name, or of matplotlib.

    Returns:
      The matplotlib axes.

    Raises:
      ValueError: if the model has more than two components, there are neither limits nor data,
        the data have another shape, or there are several conditions.
      ModuleNotFoundError: if matplotlib is not installed.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import keras_nf
    >>> x = keras_nf.datasets.two_moons(1000, seed=0)
    >>> model = keras_nf.FlowModel(keras_nf.maf(event_size=2))
    >>> axes = keras_nf.plot.density(model, data=x, points=50)
    >>> float(axes.get_aspect())
    1.0
    """
    size = _size_of(model)
    if not is_single(model, condition):
        raise ValueError(
            "A density is drawn for one condition. Received: several. Draw one picture for each, "
            "with the same `vmax`."
        )
    data = None if data is None else to_rows(data, "`data`", size)
    low, high = _ends(low, high, data, size)
    axes = axes_or_current(axes)
    draw = _curve if size == 1 else _image
    draw(model, low, high, condition, check_count(points, "points"), data, axes, vmax)
    if size == 2:
        image = axes.images[-1]
        image.set_cmap(cmap)
        if colorbar:
            _colorbar(axes, image)
    return axes


def _size_of(model):
    check_model(model)
    shape = tuple(model.distribution.event_shape)
    if len(shape) > 1 or shape[0] > 2:
        what = f"{shape[0]} components" if len(shape) == 1 else f"events of shape {shape}"
        raise ValueError(
            f"A density of one or two components can be drawn. Received: a model of {what}. Draw "
            "its samples instead, with plot.corner, or those of images with plot.images."
        )
    return shape[0]


def _ends(low, high, data, size):
    if data is None and (low is None or high is None):
        raise ValueError("Give `low` and `high`, the ends of the picture, or `data` to tell them.")
    if low is None or high is None:
        low_of_data, high_of_data = ends_of(data, margin=0.1)
        low = low_of_data if low is None else low
        high = high_of_data if high is None else high
    try:
        low, high = np.broadcast_to(low, size), np.broadcast_to(high, size)
    except ValueError:
        raise ValueError(
            f"`low` and `high` must be a number or {size} of them. Received: low={low!r}, "
            f"high={high!r}."
        ) from None
    if not np.all(low < high):
        raise ValueError(f"`low` must be below `high`. Received: low={low}, high={high}.")
    return low, high


def _density_at(model, x, condition):
    return np.exp(model.log_prob(x.astype(model.flow.dtype.name), condition=condition))


def _curve(model, low, high, condition, points, data, axes, vmax):
    x = np.linspace(low, high, points)
    if data is not None:
        # Of all rows, those beyond the picture too.
        counts, edges = np.histogram(data, bins=50, range=(low[0], high[0]))
        heights = counts / (len(data) * np.diff(edges))
        axes.stairs(heights, edges, fill=True, color="#BBBBBB", label="data")
    axes.plot(x[:, 0], _density_at(model, x, condition), color=BLUE, label="model")
    if data is not None:
        axes.legend()
    axes.set(xlabel="x", ylabel="density", xlim=(low[0], high[0]), ylim=(0.0, vmax))


def _image(model, low, high, condition, points, data, axes, vmax):
    centres = (np.arange(points) + 0.5) / points
    grids = [a + (b - a) * centres for a, b in zip(low, high)]
    x = np.stack(np.meshgrid(*grids), axis=-1).reshape(-1, 2)
    values = _density_at(model, x, condition).reshape(points, points)
    axes.imshow(
        values,
        extent=(low[0], high[0], low[1], high[1]),
        origin="lower",
        interpolation="bilinear",
        vmin=0.0,
        vmax=np.nanmax(values) if vmax is None else vmax,
    )
    if data is not None:
        dots(axes, data, "white", size=0.5, alpha=0.5)
    set_limits(axes, low, high)
    axes.set(xlabel="x[0]", ylabel="x[1]")


def _colorbar(axes, image):
    """Add a colour bar of the height of the image."""
    exceeds = np.nanmax(image.get_array()) > image.get_clim()[1]
    axes.figure.colorbar(
        image,
        cax=_beside(axes),
        label="density",
        extend="max" if exceeds else "neither",
        # Few digits, and as many in pictures side by side.
        ticks=matplotlib("matplotlib.ticker").MaxNLocator(nbins=5, steps=[1, 2, 5, 10]),
    )


def _beside(axes):
    """Return axes beside others: outside of them where a layout makes room, else of their own."""
    if axes.figure.get_layout_engine() is not None:
        return axes.inset_axes((1.04, 0.0, 0.05, 1.0))
    divider = matplotlib("mpl_toolkits.axes_grid1").make_axes_locatable(axes)
    return divider.append_axes("right", size="5%", pad=0.1)
