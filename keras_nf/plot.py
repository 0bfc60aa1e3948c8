"""Pictures of densities, with matplotlib (`pip install keras_nf[plot]`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_nf.models.flow_model import FlowModel
from keras_nf.models.variational import VariationalModel

__all__ = ["plot_density"]


def plot_density(
    model: FlowModel | VariationalModel,
    low: float | Sequence[float],
    high: float | Sequence[float],
    *,
    condition: Any = None,
    points: int = 200,
    axes: Any = None,
) -> Any:
    """Draw the density of a model with one or two components.

    One component gives a curve of p(x) over x, two an image of p(x) over the plane, with a
    colour bar in units of density.

    Args:
      model: the model; its event size must be known.
      low: lower end of the picture, for all components or for each.
      high: upper end of the picture, for all components or for each.
      condition: condition of shape `(condition_size,)`, where the model has one.
      points: number of grid points per component.
      axes: matplotlib axes to draw in; the current ones when `None`.

    Returns:
      The matplotlib axes.

    Raises:
      ValueError: if the model has more than two components.
      ModuleNotFoundError: if matplotlib is not installed.

    Example:

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import keras_nf
    >>> from keras_nf.plot import plot_density
    >>> model = keras_nf.FlowModel(keras_nf.maf(event_size=2))
    >>> axes = plot_density(model, low=-3.0, high=3.0, points=50)
    """
    import matplotlib.pyplot as plt

    size = int(model.distribution.event_shape[-1])
    if size > 2:
        raise ValueError(
            f"A density of one or two components can be drawn. Received: a model of {size}. Draw "
            "two columns of its samples instead."
        )
    axes = plt.gca() if axes is None else axes
    ends = np.broadcast_to(low, size), np.broadcast_to(high, size)
    grids = [np.linspace(a, b, points) for a, b in zip(*ends)]
    x = np.stack(np.meshgrid(*grids, indexing="xy"), axis=-1).reshape(-1, size)
    density = np.exp(model.log_prob(x.astype(model.flow.dtype.name), condition=condition))
    if size == 1:
        axes.plot(grids[0], density)
        axes.set_xlabel("x")
        axes.set_ylabel("density")
    else:
        image = axes.pcolormesh(*grids, density.reshape(points, points), shading="gouraud")
        axes.figure.colorbar(image, ax=axes, label="density")
        axes.set_xlabel("x[0]")
        axes.set_ylabel("x[1]")
    return axes
