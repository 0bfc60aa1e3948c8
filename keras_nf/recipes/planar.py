"""Recipe of planar flows."""

from typing import Any

from keras_nf.arguments import check_count
from keras_nf.flows.chain import Chain
from keras_nf.flows.planar import Planar

__all__ = ["planar_flow"]


def planar_flow(
    event_size: int,
    *,
    layers: int = 16,
    activation: str = "tanh",
    amortized: bool = False,
    dtype: str | None = None,
    **kwargs: Any,
) -> Chain:
    """Planar flows, one after another (Rezende and Mohamed, 2015).

    Sampling is cheap; the density of given data runs one scalar root search per layer.

    Args:
      event_size: size of the event.
      layers: number of folds of its one `Planar`.
      activation: their activation.
      amortized: whether the weights of each event follow from its condition.
      dtype: dtype or policy of every layer.
      **kwargs: `validate_args`, `name` of the chain.

    Returns:
      A `Chain`.

    Example:

    >>> import keras_nf
    >>> keras_nf.planar_flow(event_size=2, layers=8).flows[0].folds
    8

    References:
      Danilo Jimenez Rezende, Shakir Mohamed. Variational Inference with Normalizing Flows. 2015.
      arXiv:1505.05770
    """
    folds = check_count(layers, "layers")
    planar = Planar(activation, folds=folds, amortized=amortized, dtype=dtype)
    return Chain([planar], event_size=event_size, dtype=dtype, **kwargs)
