"""Ready-made flows: plain functions that return a `Chain`."""

from collections.abc import Callable, Sequence
from typing import Any

from keras_nf.arguments import check_count
from keras_nf.flows.autoregressive import (
    InverseAutoregressive,
    MaskedAutoregressive,
    SplineAutoregressive,
)
from keras_nf.flows.chain import Chain
from keras_nf.flows.coupling import AdditiveCoupling, AffineCoupling, SplineCoupling
from keras_nf.flows.diagonal import Scaling
from keras_nf.flows.lu_linear import LULinear
from keras_nf.flows.planar import Planar
from keras_nf.permutation import check_permutation, reverse
from keras_nf.seeds import draw_seed

Activation = str | Callable[[Any], Any]

__all__ = ["iaf", "maf", "nice", "nsf", "planar_flow", "real_nvp"]


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
    """
    folds = check_count(layers, "layers")
    planar = Planar(activation, folds=folds, amortized=amortized, dtype=dtype)
    return Chain([planar], event_size=event_size, dtype=dtype, **kwargs)


def nice(
    event_size: int,
    *,
    layers: int = 4,
    hidden_units: Sequence[int] = (128, 128),
    activation: Activation = "relu",
    mask: str | Sequence[bool] = "half",
    seed: int | None = None,
    dtype: str | None = None,
    **kwargs: Any,
) -> Chain:
    """NICE: additive couplings and a final scaling (Dinh, Krueger and Bengio, 2014).

    Each coupling exchanges the kept and the transformed part of the one before. The paper uses a
    logistic base: `FlowModel(nice(...), base="logistic")`. Both directions are cheap.

    Args:
      event_size: size of the event, at least 2.
      layers: number of `AdditiveCoupling` layers.
      hidden_units: width of each hidden layer of their networks.
      activation: activation of their networks.
      mask: partition of the event; with `"random"` each layer has its own.
      seed: seed of random masks; drawn when `None`.
      dtype: dtype or policy of every layer.
      **kwargs: `validate_args`, `name` of the chain.

    Returns:
      A `Chain`.

    Raises:
      ValueError: if the event cannot be partitioned.

    Example:

    >>> import keras_nf
    >>> [type(flow).__name__ for flow in keras_nf.nice(event_size=4, layers=2).flows]
    ['AdditiveCoupling', 'AdditiveCoupling', 'Scaling']
    """
    options = {"hidden_units": hidden_units, "activation": activation, "dtype": dtype}
    couplings = _couplings(AdditiveCoupling, event_size, layers, mask, seed, options)
    flows = [*couplings, Scaling(dtype=dtype)]
    return Chain(flows, event_size=event_size, dtype=dtype, **kwargs)


def real_nvp(
    event_size: int,
    *,
    layers: int = 8,
    hidden_units: Sequence[int] = (128, 128),
    activation: Activation = "relu",
    mask: str | Sequence[bool] = "half",
    seed: int | None = None,
    log_scale_bound: float | None = 2.0,
    dtype: str | None = None,
    **kwargs: Any,
) -> Chain:
    """Real NVP: affine couplings (Dinh, Sohl-Dickstein and Bengio, 2016).

    Each coupling exchanges the kept and the transformed part of the one before. Both directions
    are cheap.

    Args:
      event_size: size of the event, at least 2.
      layers: number of `AffineCoupling` layers.
      hidden_units: width of each hidden layer of their networks.
      activation: activation of their networks.
      mask: partition of the event; with `"random"` each layer has its own.
      seed: seed of random masks; drawn when `None`.
      log_scale_bound: largest |log-scale| of a layer, in nats.
      dtype: dtype or policy of every layer.
      **kwargs: `validate_args`, `name` of the chain.

    Returns:
      A `Chain`.

    Raises:
      ValueError: if the event cannot be partitioned.

    Example:

    >>> import keras_nf
    >>> len(keras_nf.real_nvp(event_size=2, layers=6, hidden_units=(64, 64)).flows)
    6
    """
    options = {
        "hidden_units": hidden_units,
        "activation": activation,
        "log_scale_bound": log_scale_bound,
        "dtype": dtype,
    }
    couplings = _couplings(AffineCoupling, event_size, layers, mask, seed, options)
    return Chain(couplings, event_size=event_size, dtype=dtype, **kwargs)


def _couplings(coupling, event_size, layers, mask, seed, options):
    layers, event_size = check_count(layers, "layers"), check_count(event_size, "event_size")
    if event_size < 2:
        raise ValueError(
            "A coupling keeps one part of the event and transforms the other, so event_size must "
            f"be at least 2. Received: event_size={event_size}. Use keras_nf.maf, which also "
            "serves single components."
        )
    seed = draw_seed() if seed is None else seed
    # A random mask is shared by a layer and the next, which exchanges its parts.
    return [
        coupling(mask=mask, swap=i % 2 == 1, seed=seed + i // 2, **options) for i in range(layers)
    ]


def maf(
    event_size: int,
    *,
    layers: int = 5,
    hidden_units: Sequence[int] = (128, 128),
    activation: Activation = "relu",
    order: str | Sequence[int] = "sequential",
    seed: int | None = None,
    log_scale_bound: float | None = 2.0,
    dtype: str | None = None,
    **kwargs: Any,
) -> Chain:
    """Masked autoregressive flow (Papamakarios, Pavlakou and Murray, 2017).

    Density is cheap, sampling sequential.

    Args:
      event_size: size of the event.
      layers: number of `MaskedAutoregressive` layers.
      hidden_units: width of each hidden layer of their networks.
      activation: activation of their networks.
      order: which component comes first, as for the layers: `"sequential"`, `"reversed"`, or a
        permutation, each reversed from layer to layer, as in the paper; or `"random"`, one for each
        layer.
      seed: seed of random orders; drawn when `None`.
      log_scale_bound: largest |log-scale| of a layer, in nats.
      dtype: dtype or policy of every layer.
      **kwargs: `validate_args`, `name` of the chain.

    Returns:
      A `Chain`.

    Raises:
      ValueError: if the order is no permutation of the components.

    Example:

    >>> import keras_nf
    >>> len(keras_nf.maf(event_size=64, layers=5, hidden_units=(512, 512)).flows)
    5
    """
    options = (hidden_units, activation, log_scale_bound, dtype)
    flows = _autoregressive_layers(MaskedAutoregressive, layers, order, seed, *options)
    return Chain(flows, event_size=event_size, dtype=dtype, **kwargs)


def iaf(
    event_size: int,
    *,
    layers: int = 5,
    hidden_units: Sequence[int] = (128, 128),
    activation: Activation = "relu",
    order: str | Sequence[int] = "sequential",
    seed: int | None = None,
    log_scale_bound: float | None = 2.0,
    dtype: str | None = None,
    **kwargs: Any,
) -> Chain:
    """Inverse autoregressive flow (Kingma and others, 2016).

    Sampling is cheap, the density of given data sequential.

    Args:
      event_size: size of the event.
      layers: number of `InverseAutoregressive` layers.
      hidden_units: width of each hidden layer of their networks.
      activation: activation of their networks.
      order: which component comes first, as for the layers: `"sequential"`, `"reversed"`, or a
        permutation, each reversed from layer to layer, as in the paper; or `"random"`, one for each
        layer.
      seed: seed of random orders; drawn when `None`.
      log_scale_bound: largest |log-scale| of a layer, in nats.
      dtype: dtype or policy of every layer.
      **kwargs: `validate_args`, `name` of the chain.

    Returns:
      A `Chain`.

    Raises:
      ValueError: if the order is no permutation of the components.

    Example:

    >>> import keras_nf
    >>> type(keras_nf.iaf(event_size=2).flows[0]).__name__
    'InverseAutoregressive'
    """
    options = (hidden_units, activation, log_scale_bound, dtype)
    flows = _autoregressive_layers(InverseAutoregressive, layers, order, seed, *options)
    return Chain(flows, event_size=event_size, dtype=dtype, **kwargs)


def _autoregressive_layers(
    flow, layers, order, seed, hidden_units, activation, log_scale_bound, dtype
):
    layers = check_count(layers, "layers")
    options = {
        "hidden_units": hidden_units,
        "activation": activation,
        "log_scale_bound": log_scale_bound,
        "dtype": dtype,
    }
    if order == "random":
        seed = draw_seed() if seed is None else seed
        return [flow(order="random", seed=seed + i, **options) for i in range(layers)]
    orders = order, reverse(check_permutation(order, "order"))
    return [flow(order=orders[i % 2], **options) for i in range(layers)]


def nsf(
    event_size: int,
    *,
    layers: int = 5,
    hidden_units: Sequence[int] = (128, 128),
    activation: Activation = "relu",
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
      bins: number of bins of each spline.
      bound: splines act on (-bound, bound).
      coupling: whether the layers are couplings.
      dtype: dtype or policy of every layer.
      **kwargs: `validate_args`, `name` of the chain.

    Returns:
      A `Chain`.

    Raises:
      ValueError: if there is a single component, and `coupling` asks to partition it.

    Example:

    >>> import keras_nf
    >>> [type(flow).__name__ for flow in keras_nf.nsf(event_size=2, layers=2).flows]
    ['SplineAutoregressive', 'LULinear', 'SplineAutoregressive']
    """
    options: dict[str, Any] = {
        "hidden_units": hidden_units,
        "activation": activation,
        "bins": bins,
        "bound": bound,
        "dtype": dtype,
    }
    if coupling:
        splines = _couplings(SplineCoupling, event_size, layers, "half", 0, options)
    else:
        layers = check_count(layers, "layers")
        orders = "sequential", "reversed"
        splines = [SplineAutoregressive(order=orders[i % 2], **options) for i in range(layers)]
    flows = splines[:1]
    for spline in splines[1:]:
        flows += [LULinear(dtype=dtype), spline]
    return Chain(flows, event_size=event_size, dtype=dtype, **kwargs)
