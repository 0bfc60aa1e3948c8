"""Recipe of neural spline flows."""

from collections.abc import Sequence
from typing import Any

from keras_nf.flows.autoregressive import SplineAutoregressive
from keras_nf.flows.chain import Chain
from keras_nf.flows.coupling import SplineCoupling
from keras_nf.flows.lu_linear import LULinear
from keras_nf.recipes.layers import Activation, autoregressive_layers, couplings

__all__ = ["nsf"]


def nsf(
    event_size: int,
    *,
    layers: int = 5,
    hidden_units: Sequence[int] = (128, 128),
    activation: Activation = "relu",
    residual: bool = False,
    dropout: float = 0.0,
    bins: int = 8,
    bound: float = 5.0,
    coupling: bool = False,
    dtype: str | None = None,
    **kwargs: Any,
) -> Chain:
    """Neural spline flow: rational-quadratic splines (Durkan and others, 2019).

    Between its layers lie linear maps of all components. Density is cheap; sampling is sequential,
    or as cheap with couplings. Splines act within their bound: standardize the data, or put a
    `Standardize` last.

    Args:
      event_size: size of the event; with couplings at least 2.
      layers: number of `SplineAutoregressive` or `SplineCoupling` layers.
      hidden_units: width of each hidden layer of their networks.
      activation: activation of their networks.
      residual: whether their networks have residual blocks; see `keras_nf.MLP`.
      dropout: rate of dropout in their networks, in training.
      bins: number of bins of each spline.
      bound: splines act on (-bound, bound).
      coupling: whether the layers are couplings.
      dtype: dtype or policy of every layer.
      **kwargs: `validate_args`, `recompute`, `name` of the chain.

    Returns:
      A `Chain`.

    Raises:
      ValueError: if there is a single component, and `coupling` asks to partition it.

    Example:

    >>> import keras_nf
    >>> [type(flow).__name__ for flow in keras_nf.nsf(event_size=2, layers=2).flows]
    ['SplineAutoregressive', 'LULinear', 'SplineAutoregressive']

    References:
      Conor Durkan, Artur Bekasov, Iain Murray, George Papamakarios. Neural Spline Flows. 2019.
      arXiv:1906.04032
    """
    options: dict[str, Any] = {
        "hidden_units": hidden_units,
        "activation": activation,
        "residual": residual,
        "dropout": dropout,
        "bins": bins,
        "bound": bound,
        "dtype": dtype,
    }
    if coupling:
        splines = couplings(SplineCoupling, event_size, layers, "half", 0, options)
    else:
        splines = autoregressive_layers(SplineAutoregressive, layers, "sequential", None, options)
    flows = splines[:1]
    for spline in splines[1:]:
        flows += [LULinear(dtype=dtype), spline]
    return Chain(flows, event_size=event_size, dtype=dtype, **kwargs)
