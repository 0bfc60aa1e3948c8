"""Flows of TensorFlow Probability."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_nf.convert.arrays import Arrays, Layer
from keras_nf.convert.networks import autoregressive, chain, coupling
from keras_nf.flows.autoregressive import MaskedAutoregressive
from keras_nf.flows.chain import Chain
from keras_nf.flows.coupling import AdditiveCoupling, AffineCoupling

__all__ = ["tfp_maf", "tfp_real_nvp"]


def tfp_maf(
    weights: Sequence[Any],
    *,
    activation: str | Callable[[Any], Any] | None = None,
    input_order: str | Sequence[int] = "left-to-right",
    dtype: str | None = None,
) -> Chain:
    """Return the flow of a TFP `MaskedAutoregressiveFlow` with an `AutoregressiveNetwork`.

    Args:
      weights: the network's `get_weights()`; not the variables of the bijector, which have another
        order.
      activation: the network's argument of that name, as in `keras.layers.Dense`.
      input_order: the network's argument of that name; a drawn order as the sequence of integers.
      dtype: dtype or policy of every layer.

    Returns:
      A `Chain` of one `MaskedAutoregressive`; conditional where the network is, with
      `conditional_input_layers="first_layer"`.

    Raises:
      ValueError: if the arrays are others, or not those of such an order.

    Example:

    >>> import numpy as np, keras_nf
    >>> kernel = np.array([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    >>> weights = [kernel, np.zeros(4)]
    >>> chain = keras_nf.convert.tfp_maf(weights)
    >>> np.asarray(chain(np.array([[1.0, 2.0]], "float32"))).tolist()
    [[1.0, 3.0]]
    """
    arrays = _list_of(
        weights,
        "weights of a tfb.AutoregressiveNetwork (TFP 0.25) with params=2, biases, and "
        "hidden_degrees='equal', with or without a condition, which the first layer alone sees: "
        "conditional_input_layers='first_layer'",
    )
    layers = _take_layers(arrays)
    size, rest = divmod(len(layers[-1].bias), 2)
    if rest or layers[0].kernel.shape[0] < size:
        raise arrays.error(
            f"a first layer of {layers[0].kernel.shape[0]} inputs and a last one of "
            f"{len(layers[-1].bias)} units"
        )
    places = _places(input_order, size)
    degrees = _equal_degrees(size, [len(layer.bias) for layer in layers[:-1]])
    make = functools.partial(MaskedAutoregressive, log_scale_bound=None, shift_first=False)
    order = np.argsort(places)
    activation = "linear" if activation is None else activation
    flow = autoregressive(arrays, make, layers, order, degrees, activation, dtype)
    return chain(arrays, [flow], dtype)


def tfp_real_nvp(
    weights: Sequence[Any],
    *,
    num_masked: int | None = None,
    shift_only: bool = False,
    activation: str | Callable[[Any], Any] = "relu",
    dtype: str | None = None,
) -> Chain:
    """Return the flow of a TFP `RealNVP` with a `real_nvp_default_template`.

    Args:
      weights: kernels and biases of the template, layer by layer, as its `variables` are.
      num_masked: the bijector's argument of that name: negative, where the last components are
        kept. `None` for the first ones, as many as the network has inputs.
      shift_only: the template's argument of that name.
      activation: the template's argument of that name, as in `keras.layers.Dense`.
      dtype: dtype or policy of every layer.

    Returns:
      A `Chain` of one `AffineCoupling`, or with `shift_only` one `AdditiveCoupling`.

    Raises:
      ValueError: if the arrays are others, or do not go with the arguments.

    Example:

    >>> import numpy as np, keras_nf
    >>> weights = [np.array([[1.0, 0.0]]), np.zeros(2)]
    >>> chain = keras_nf.convert.tfp_real_nvp(weights)
    >>> np.asarray(chain(np.array([[1.0, 2.0]], "float32"))).tolist()
    [[1.0, 3.0]]
    """
    arrays = _list_of(
        weights,
        "variables of a tfb.real_nvp_default_template (TFP 0.25), a kernel and a bias for each "
        "layer, with num_masked inputs",
    )
    layers = _take_layers(arrays)
    kept_size = layers[0].kernel.shape[0]
    num_masked = kept_size if num_masked is None else num_masked
    units, rest = divmod(len(layers[-1].bias), 1 if shift_only else 2)
    if rest or abs(num_masked) != kept_size:
        raise arrays.error(
            f"a first layer of {kept_size} inputs and a last one of {len(layers[-1].bias)} units "
            f"for num_masked={num_masked} and shift_only={shift_only}"
        )
    kept = np.arange(kept_size + units) < kept_size
    kept = kept if num_masked > 0 else kept[::-1]
    make: Callable[..., Any] = AdditiveCoupling
    if not shift_only:
        make = functools.partial(AffineCoupling, log_scale_bound=None, shift_first=False)
    flow = coupling(arrays, make, layers, kept, activation, dtype)
    return chain(arrays, [flow], dtype)


def _list_of(weights, supported):
    """Return the arrays of a list, by their numbers."""
    if not isinstance(weights, (list, tuple)):
        raise ValueError(
            f"`weights` must be a list of NumPy arrays: {supported}. "
            f"Received: {type(weights).__name__}."
        )
    return Arrays({str(i): array for i, array in enumerate(weights)}, supported)


def _take_layers(arrays):
    """Return the layers, whose biases may come before or after their kernels.

    A lone kernel after the first pair is that of a condition.
    """
    shapes = [arrays.shape(name) for name in arrays.names()]
    conditional = len(shapes) % 2 == 1
    layers = []
    for i in range(0, len(shapes) - 1, 2):
        first = i + (conditional and i > 0)
        names = sorted(map(str, (first, first + 1)), key=lambda n: -len(shapes[int(n)]))
        kernel, bias = arrays.take(names[0], 2), arrays.take(names[1], 1)
        parts = [kernel, arrays.take("2", 2)] if i == 0 and conditional else [kernel]
        if any(part.shape[1:] != bias.shape for part in parts):
            raise arrays.error(f"a bias of shape {bias.shape} beside a kernel of {kernel.shape}")
        kernel = np.concatenate(parts)
        layers.append(Layer(kernel, bias))
    if not layers:
        raise arrays.error(f"shapes {shapes}")
    return layers


def _places(input_order, size):
    """Return the place of each component in the order, counted from one."""
    known = {"left-to-right": range(1, size + 1), "right-to-left": range(size, 0, -1)}
    places = known.get(input_order) if isinstance(input_order, str) else input_order
    if places is None or sorted(places) != [*range(1, size + 1)]:
        raise ValueError(
            "`input_order` must be 'left-to-right', 'right-to-left', or the place of each of the "
            f"{size} components, counted from one. Received: {input_order!r}."
        )
    return np.array(places)


def _equal_degrees(size, hidden_units):
    """Return the degrees of the hidden layers, by the rule of hidden_degrees='equal'."""
    degrees, lowest = [], 1
    for units in hidden_units:
        lowest = min(lowest, size - 1)
        parts = np.ceil(np.arange(1, units + 1) * (size - 1) / (units + 1)).astype(int)
        degrees.append(np.maximum(lowest, parts))
        lowest = degrees[-1].min()
    return degrees
