"""What a flow does to the plane: a grid bent by it, and the latents of data."""

from typing import Any

import numpy as np

from keras_nf.arguments import batch_shape, check_count
from keras_nf.flow.contract import Flow
from keras_nf.flow.distribution import ConditionalBase
from keras_nf.models.flow_model import FlowModel
from keras_nf.models.variational import VariationalModel
from keras_nf.plot.figures import (
    BLUE,
    COLOURS,
    VERMILLION,
    axes_or_current,
    check_model,
    dots,
    ends_of,
    is_single,
    legend_above,
    matplotlib,
    set_limits,
)
from keras_nf.seeds import two_seeds

__all__ = ["grid", "latents"]

# Points along a line, which may be bent a lot.
_POINTS = 400
_DRAWS = 20_000
# Bounds the memory that draws of large events take.
_NUMBERS = 4_000_000
_SHARES = (0.99, 0.9, 0.5)


def grid(
    flow: Flow,
    low: float = -3.0,
    high: float = 3.0,
    *,
    lines: int = 21,
    condition: Any = None,
    axes: Any = None,
) -> Any:
    """Draw a grid of the base, as the flow bends it.

    Lines along which z[0] grows are blue, those along which z[1] grows are vermillion. Both are
    light where the other component is low and dark where it is high, which shows how the flow
    turns the plane. Where lines lie close together the flow compresses, and its density is high.

    Args:
      flow: a flow of two components, as `model.flow`.
      low: lower end of the grid, in both components.
      high: upper end of the grid, in both components.
      lines: number of lines in each direction.
      condition: one condition, of shape `(condition_size,)`, where the flow uses one.
      axes: matplotlib axes to draw in; the current ones when `None`.

    Returns:
      The matplotlib axes.

    Raises:
      ValueError: if the flow has another number of components, or `low` is not below `high`.
      ModuleNotFoundError: if matplotlib is not installed.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import keras_nf
    >>> model = keras_nf.FlowModel(keras_nf.maf(event_size=2))
    >>> axes = keras_nf.plot.grid(model.flow, lines=11)
    >>> [len(lines.get_segments()) for lines in axes.collections]
    [11, 11]
    """
    if not isinstance(flow, Flow):
        raise ValueError(f"Expected a keras_nf flow, as `model.flow`. Received: {flow!r}.")
    if flow.event_shape not in (None, (2,)):
        raise ValueError(
            f"A grid is drawn of flows of two components. Received: {type(flow).__name__} "
            f"'{flow.name}' of event shape {flow.event_shape}."
        )
    if not low < high:
        raise ValueError(f"`low` must be below `high`. Received: low={low!r}, high={high!r}.")
    axes = axes_or_current(axes)
    line_collection = matplotlib("matplotlib.collections").LineCollection
    levels = np.linspace(low, high, check_count(lines, "lines"))
    across = np.stack(np.meshgrid(np.linspace(low, high, _POINTS), levels), axis=-1)
    along = (across, BLUE, "along z[0]"), (across[..., ::-1], VERMILLION, "along z[1]")
    for z, colour, name in along:
        x = np.asarray(flow.forward(z.astype(flow.dtype.name), condition=condition))
        shades = _shades(colour, lines)
        axes.add_collection(line_collection(x, colors=shades, linewidths=1.0))
        axes.plot([], [], color=colour, label=name)
    axes.autoscale_view()
    axes.set(xlabel="x[0]", ylabel="x[1]", aspect="equal")
    legend_above(axes)
    return axes


def _shades(colour, number):
    """Return shades of a colour from light to dark, all of which show on white."""
    colour = np.array(matplotlib("matplotlib.colors").to_rgb(colour))
    light, dark = 0.45 * colour + 0.55, 0.6 * colour
    weights = np.linspace(0.0, 1.0, number)[:, None]
    return (1.0 - weights) * light + weights * dark


def latents(
    model: FlowModel | VariationalModel,
    x: Any,
    *,
    condition: Any = None,
    axes: Any = None,
) -> Any:
    """Draw the latents of data, z = f^{-1}(x), against the base, which they follow in a good fit.

    Events of two components give dots over contours of the base: within them lie 50 %, 90 % and
    99 % of its probability. Others, whose marginals alone can be seen in one picture, give a
    quantile-quantile plot: for each component a curve of the quantiles of the latents over those of
    the base, from 0.5 % to 99.5 %, beside the diagonal. So does a conditional base with several
    conditions, which is another for each. Quantiles and contours of the base are those of 20,000
    draws, fewer of large events.

    Args:
      model: the model.
      x: data of shape `(rows, *event_shape)`.
      condition: condition of the rows, or of all of them, where the model has one.
      axes: matplotlib axes to draw in; the current ones when `None`.

    Returns:
      The matplotlib axes.

    Raises:
      ValueError: on data of another shape.
      ModuleNotFoundError: if matplotlib is not installed.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import keras_nf
    >>> x = keras_nf.datasets.two_moons(1000, seed=0)
    >>> model = keras_nf.FlowModel(keras_nf.maf(event_size=2))
    >>> axes = keras_nf.plot.latents(model, x)
    >>> axes.get_xlabel(), axes.get_ylabel()
    ('z[0]', 'z[1]')
    """
    check_model(model)
    if not model.built:
        model.log_prob(x, condition)
    encoded = model.encode(condition)
    z = np.asarray(model.flow.inverse(x, condition=encoded))
    distribution = model.distribution
    base, event_shape = distribution.distribution, tuple(distribution.distribution.event_shape)
    if z.shape[1:] != event_shape or not len(z):
        raise ValueError(
            f"Expected data of shape {batch_shape(distribution.event_shape)}, of at least one row. "
            f"Received: shape {np.shape(x)}."
        )
    if isinstance(base, ConditionalBase):
        single = is_single(model, condition)
        base = base.given(encoded[(0,) * (len(encoded.shape) - 1)] if single else encoded)
    axes = axes_or_current(axes)
    draws = _draws_of(base, size=int(np.prod(event_shape)))
    if event_shape == (2,) and base.batch_shape.rank == 0:
        _over_contours(z, base, draws, axes)
    else:
        _quantiles(z.reshape(len(z), -1), draws, axes)
    return axes


def _draws_of(base, size):
    number = max(100, min(_DRAWS, _NUMBERS // size))
    each = -(-number // (base.batch_shape.num_elements() or 1))
    return np.asarray(base.sample(each, seed=two_seeds(0))).reshape(-1, size)


def _over_contours(z, base, draws, axes):
    dots(axes, z, BLUE)
    inner = np.quantile(draws, [0.0005, 0.9995], axis=0)
    low, high = ends_of(z, inner)
    grids = np.linspace(low, high, 200).T
    plane = np.stack(np.meshgrid(*grids), axis=-1).astype(z.dtype)
    # The border of a region that holds a share of the draws, each denser than all without.
    levels = np.quantile(np.exp(base.log_prob(draws)), [1.0 - share for share in _SHARES])
    levels = np.unique(levels * (1.0 - 1e-6))
    density = np.exp(base.log_prob(plane))
    contours = axes.contour(*grids, density, levels=levels, colors="black", linewidths=1.0)
    if len(levels) == len(_SHARES):
        names = {level: f"{100 * share:.0f} %" for level, share in zip(contours.levels, _SHARES)}
        axes.clabel(contours, fmt=names, fontsize="small")
    set_limits(axes, low, high)
    axes.set(xlabel="z[0]", ylabel="z[1]")


def _quantiles(z, draws, axes):
    shares = np.linspace(0.005, 0.995, 199)
    theirs, ours = np.quantile(draws, shares, axis=0), np.quantile(z, shares, axis=0)
    ends = [min(theirs.min(), ours.min()), max(theirs.max(), ours.max())]
    axes.plot(ends, ends, color="black", linestyle=":", linewidth=1.0)
    size = z.shape[1]
    few = size <= len(COLOURS)
    for index in range(size):
        axes.plot(
            theirs[:, index],
            ours[:, index],
            color=COLOURS[index] if few else BLUE,
            alpha=1.0 if few else max(0.05, size**-0.5),
            label=f"z[{index}]" if few else None,
        )
    if few and size > 1:
        axes.legend()
    axes.set(xlabel="quantiles of the base", ylabel="quantiles of the latents", aspect="equal")
