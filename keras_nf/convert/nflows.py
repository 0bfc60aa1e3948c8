"""Flows of nflows."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_nf.convert.arrays import Arrays, Layer, count_bins
from keras_nf.convert.maps import NflowsAffine, NflowsSpline
from keras_nf.convert.networks import autoregressive, by_parameter, chain, coupling
from keras_nf.flows.autoregressive import Autoregressive
from keras_nf.flows.chain import Chain
from keras_nf.flows.coupling import Coupling
from keras_nf.flows.invert import Invert
from keras_nf.flows.lu_linear import LULinear
from keras_nf.flows.permute import Permute

__all__ = ["nflows_maf", "nflows_rq_nsf"]

_SUPPORTED = (
    "state dict of an nflows Flow (nflows 0.14) over StandardNormal, of permutations, LULinear and "
    "{}, alone or in CompositeTransforms; without batch norm and, but for couplings, a context"
)

# What nflows adds to the diagonal of an LULinear.
_EPSILON = 1e-3


def nflows_maf(
    state: Mapping[str, Any],
    *,
    activation: str | Callable[[Any], Any] = "relu",
    dtype: str | None = None,
) -> Chain:
    """Return the flow of an nflows `MaskedAutoregressiveFlow`.

    Also that of a `Flow` of `MaskedAffineAutoregressiveTransform`, `Permutation`,
    `RandomPermutation`, `ReversePermutation` and `LULinear`, in a `CompositeTransform` or in
    several, one in the other.

    Args:
      state: its state dict, as NumPy arrays.
      activation: activation of its networks, as in `keras.layers.Dense`.
      dtype: dtype or policy of every layer.

    Returns:
      A `Chain` of `Permute`, `Invert(LULinear)` and `Autoregressive`.

    Raises:
      ValueError: if arrays are missing, left over, or of other shapes.

    Example:

    >>> import numpy as np, keras_nf
    >>> state = {"_transform._transforms.0._permutation": np.array([2, 0, 1])}
    >>> chain = keras_nf.convert.nflows_maf(state)
    >>> np.asarray(chain.inverse(np.array([[1.0, 2.0, 3.0]], "float32"))).tolist()
    [[3.0, 1.0, 2.0]]
    """
    arrays = Arrays(state, _SUPPORTED.format("MaskedAffineAutoregressiveTransform"))

    def elementwise(outputs, size):
        if outputs != 2 * size:
            raise arrays.error(f"a last layer of {outputs} units for {size} components")
        return NflowsAffine()

    return _convert(arrays, elementwise, activation, dtype)


def nflows_rq_nsf(
    state: Mapping[str, Any],
    *,
    tail_bound: float,
    min_bin_width: float = 1e-3,
    min_bin_height: float = 1e-3,
    min_derivative: float = 1e-3,
    activation: str | Callable[[Any], Any] = "relu",
    dtype: str | None = None,
) -> Chain:
    """Return the flow of rational-quadratic splines of nflows.

    That is a `Flow` of `MaskedPiecewiseRationalQuadraticAutoregressiveTransform`, or of
    `PiecewiseRationalQuadraticCouplingTransform` with a `ResidualNet`, with `tails="linear"`, and
    of `Permutation`, `RandomPermutation`, `ReversePermutation` and `LULinear`, in a
    `CompositeTransform` or in several, one in the other.

    Args:
      state: its state dict, as NumPy arrays.
      tail_bound: argument of that name of its splines, as the others below.
      min_bin_width: smallest width of a bin, as a part of the interval.
      min_bin_height: smallest height of a bin, as a part of the interval.
      min_derivative: smallest slope at a knot.
      activation: activation of its networks, as in `keras.layers.Dense`.
      dtype: dtype or policy of every layer.

    Returns:
      A `Chain` of `Permute`, `Invert(LULinear)` and `Autoregressive` or `Coupling`; conditional
      where the networks of couplings have a context.

    Raises:
      ValueError: if arrays are missing, left over, or of other shapes.

    Example:

    >>> import numpy as np, keras_nf
    >>> state = {"_transform.bias": np.zeros(2)}
    >>> state["_transform.lower_entries"] = np.ones(1)
    >>> state["_transform.upper_entries"] = np.zeros(1)
    >>> raw_diagonal = np.log(np.exp([0.999, 1.999]) - 1.0)
    >>> state["_transform.unconstrained_upper_diag"] = raw_diagonal
    >>> chain = keras_nf.convert.nflows_rq_nsf(state, tail_bound=3.0)
    >>> np.round(chain.inverse(np.array([[1.0, 2.0]], "float32")), 4).tolist()
    [[1.0, 5.0]]
    """
    name = (
        "MaskedPiecewiseRationalQuadraticAutoregressiveTransform, or "
        "PiecewiseRationalQuadraticCouplingTransform with a ResidualNet and without an "
        "unconditional transform, with linear tails"
    )
    arrays = Arrays(state, _SUPPORTED.format(name))

    def elementwise(outputs, size):
        return NflowsSpline(
            count_bins(arrays, outputs, size),
            tail_bound,
            min_bin_width=min_bin_width,
            min_bin_height=min_bin_height,
            min_derivative=min_derivative,
        )

    return _convert(arrays, elementwise, activation, dtype, couplings=True)


def _convert(arrays, elementwise, activation, dtype, couplings=False):
    """Return the chain; `elementwise` takes outputs of a network and components, returns a map."""
    flows = []
    for prefix in _transforms(arrays, "_transform."):
        if f"{prefix}_permutation" in arrays:
            flows.append(_permutation(arrays, prefix, dtype))
        elif f"{prefix}lower_entries" in arrays:
            flows.append(_lu_linear(arrays, prefix, dtype))
        elif f"{prefix}autoregressive_net.initial_layer.weight" in arrays:
            flows.append(_autoregressive(arrays, prefix, elementwise, activation, dtype))
        elif couplings and f"{prefix}transform_net.initial_layer.weight" in arrays:
            flows.append(_coupling(arrays, prefix, elementwise, activation, dtype))
        else:
            names = [name.removeprefix(prefix) for name in arrays.names(prefix)]
            raise arrays.error(f"a transform {prefix!r} of {', '.join(names[:8]) or 'no arrays'}")
    # nflows lists them from the data to the base.
    return chain(arrays, flows[::-1], dtype)


def _transforms(arrays, prefix):
    """Return the prefixes of all transforms that are no CompositeTransform, in turn."""
    prefixes, i = [], 0
    while arrays.names(f"{prefix}_transforms.{i}."):
        prefixes += _transforms(arrays, f"{prefix}_transforms.{i}.")
        i += 1
    return prefixes or [prefix]


def _permutation(arrays, prefix, dtype):
    indices = arrays.take(f"{prefix}_permutation", 1, "iu")
    flow = Permute(np.argsort(indices).tolist(), dtype=dtype)
    flow.build((None, len(indices)))
    return flow


def _lu_linear(arrays, prefix, dtype):
    names = ("bias", "unconstrained_upper_diag", "lower_entries", "upper_entries")
    bias, raw, lower, upper = (arrays.take(prefix + name, 1) for name in names)
    size = len(bias)
    if [len(raw), len(lower), len(upper)] != [size, *[size * (size - 1) // 2] * 2]:
        raise arrays.error(f"an LULinear {prefix!r} whose arrays do not go together")
    diagonal = np.logaddexp(0.0, raw.astype("float64")) + _EPSILON
    kernel = np.diag(np.log(diagonal))
    kernel[np.tril_indices(size, -1)] = lower
    rows, columns = np.triu_indices(size, 1)
    # nflows has U, ours the diagonal times a matrix with ones there.
    kernel[rows, columns] = upper / diagonal[rows]
    linear = LULinear(dtype=dtype)
    flow = Invert(linear, dtype=dtype)
    flow.build((None, size))
    linear.kernel.assign(kernel)
    linear.shift.assign(bias)
    return flow


def _autoregressive(arrays, prefix, elementwise, activation, dtype):
    names, residual = _layers(arrays, f"{prefix}autoregressive_net.")
    degrees = [arrays.take(f"{name}.degrees", 1, "iu") for name in names]
    layers = [arrays.take_layer(name, masked=True) for name in names]
    size = layers[0].kernel.shape[0]
    degrees = degrees[:-1]
    make = functools.partial(Autoregressive, elementwise(len(layers[-1].bias), size))
    order = np.arange(size)
    return autoregressive(arrays, make, layers, order, degrees, activation, dtype, residual)


def _coupling(arrays, prefix, elementwise, activation, dtype):
    kept, rest = (
        arrays.take(f"{prefix}{name}_features", 1, "iu") for name in ("identity", "transform")
    )
    size, net = len(kept) + len(rest), f"{prefix}transform_net."
    names, residual = _layers(arrays, net)
    layers = [arrays.take_layer(name) for name in names]
    gates, i = [], 0
    while f"{net}blocks.{i}.context_layer.weight" in arrays:
        gates.append(arrays.take_layer(f"{net}blocks.{i}.context_layer"))
        i += 1
    spline = elementwise(len(layers[-1].bias), len(rest))
    last = by_parameter(layers[-1], spline.parameters)
    # nflows divides the raw widths and heights by the root of the width of the network.
    divisor = np.ones(spline.parameters)
    divisor[: 2 * spline.bins] = np.sqrt(len(layers[0].bias))
    divisor = np.repeat(divisor, len(rest))
    layers[-1] = Layer(last.kernel / divisor, last.bias / divisor)
    make = functools.partial(Coupling, spline)
    kept = np.isin(np.arange(size), kept)
    return coupling(arrays, make, layers, kept, activation, dtype, residual, gates)


def _layers(arrays, prefix):
    """Return the names of the dense layers of a network, and whether its blocks are residual."""
    residual = f"{prefix}blocks.0.linear_layers.0.weight" in arrays
    parts = ["linear_layers.0", "linear_layers.1"] if residual else ["linear"]
    names = [f"{prefix}initial_layer"]
    while f"{prefix}blocks.{(len(names) - 1) // len(parts)}.{parts[0]}.weight" in arrays:
        block = (len(names) - 1) // len(parts)
        names += [f"{prefix}blocks.{block}.{part}" for part in parts]
    if len(names) == 1:
        raise arrays.error(f"a network {prefix!r} without blocks, or with others")
    return [*names, f"{prefix}final_layer"], residual
