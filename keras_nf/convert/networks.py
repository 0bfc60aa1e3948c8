"""Flows whose networks have the layers of others: units sorted by degree, outputs by parameter."""

import itertools

import numpy as np

from keras_nf.convert.arrays import Layer
from keras_nf.flows.chain import Chain
from keras_nf.networks.made import MADE
from keras_nf.networks.masks import made_levels
from keras_nf.networks.mlp import MLP

__all__ = ["autoregressive", "by_parameter", "chain", "coupling"]


def by_parameter(layer, parameters):
    """Return a last layer with all outputs of a parameter in a row, not all of a component."""
    units = np.arange(len(layer.bias)).reshape(-1, parameters).T.ravel()
    mask = None if layer.mask is None else layer.mask[:, units]
    return Layer(layer.kernel[:, units], layer.bias[units], mask)


def autoregressive(arrays, make, layers, order, degrees, activation, dtype, residual=False):
    """Return a flow with a MADE of given layers.

    Args:
      arrays: where they are from, for its errors.
      make: constructor of the flow; takes `conditioner` and `dtype`.
      layers: the layers; inputs of the first beyond the components are the condition, outputs of
        the last are all parameters of a component in a row.
      order: which component comes first.
      degrees: how many components each unit sees, an array for each hidden layer.
      activation: activation of the hidden layers.
      dtype: dtype or policy of the flow.
      residual: whether the hidden layers after the first are residual blocks.
    """
    _check_shapes(arrays, layers)
    size = len(order)
    condition_size, parameters = layers[0].kernel.shape[0] - size, len(layers[-1].bias) // size
    layers = [*layers[:-1], by_parameter(layers[-1], parameters)]
    for i, (rows, columns) in enumerate(made_levels(order, degrees, parameters)):
        mask = rows[:, None] <= columns[None, :]
        if i == 0:
            mask = np.pad(mask, [[0, condition_size], [0, 0]], constant_values=True)
        _check_mask(arrays, layers[i], mask, i)
    # Units in the order of their degrees make masks that leave out whole tiles of a kernel.
    orders = [np.argsort(units, kind="stable") for units in degrees]
    orders.append(np.arange(size * parameters))
    weights, inputs = {}, np.arange(size)
    for i, (layer, units) in enumerate(zip(layers, orders)):
        weights[f"kernel_{i}"] = layer.kernel[inputs][:, units]
        weights[f"bias_{i}"] = layer.bias[units]
        inputs = units
    if condition_size:
        weights["condition_kernel"] = layers[0].kernel[size:, orders[0]]
    made = MADE(
        [len(units) for units in degrees],
        parameters,
        activation=activation,
        residual=residual,
        order=order.tolist(),
        degrees=[np.sort(units) for units in degrees],
        dtype=dtype,
        name="conditioner",
    )
    return _loaded(make(conditioner=made, dtype=dtype), size, condition_size, weights)


def coupling(arrays, make, layers, kept, activation, dtype, residual=False, gates=()):
    """Return a coupling with an MLP of given layers.

    Args:
      arrays: where they are from, for its errors.
      make: constructor of the coupling; takes `mask`, `conditioner` and `dtype`.
      layers: the layers; inputs of the first beyond the components that are kept are the condition,
        outputs of the last are all components of a parameter in a row.
      kept: array of booleans, true for the components that stay as they are.
      activation: activation of the hidden layers.
      dtype: dtype or policy of the flow.
      residual: whether the hidden layers after the first are residual blocks.
      gates: layers that give the gate of each block from the condition, if there is one.
    """
    _check_shapes(arrays, layers)
    condition_size = layers[0].kernel.shape[0] - int(kept.sum())
    blocks = len(layers) // 2 - 1 if condition_size else 0
    shapes = [(condition_size, len(layers[0].bias))] * blocks
    if condition_size < 0 or [gate.kernel.shape for gate in gates] != shapes:
        raise arrays.error(
            f"a network of {layers[0].kernel.shape[0]} inputs in a coupling that keeps "
            f"{kept.sum()} components, with {len(gates)} gates for a condition"
        )
    weights = {f"kernel_{i}": layer.kernel for i, layer in enumerate(layers)}
    weights |= {f"bias_{i}": layer.bias for i, layer in enumerate(layers)}
    weights |= {f"gate_kernel_{2 * i + 2}": gate.kernel for i, gate in enumerate(gates)}
    weights |= {f"gate_bias_{2 * i + 2}": gate.bias for i, gate in enumerate(gates)}
    mlp = MLP(
        [len(layer.bias) for layer in layers[:-1]],
        len(layers[-1].bias),
        activation=activation,
        residual=residual,
        condition_size=condition_size,
        dtype=dtype,
        name="conditioner",
    )
    flow = make(mask=kept.tolist(), conditioner=mlp, dtype=dtype)
    return _loaded(flow, len(kept), condition_size, weights)


def chain(arrays, flows, dtype):
    """Return the chain of built flows, from the base to the data."""
    sizes = sorted({flow.event_size for flow in flows})
    conditions = sorted({flow.condition_size for flow in flows if flow.condition_size})
    if len(sizes) != 1 or len(conditions) > 1:
        raise arrays.error(f"layers for events of sizes {sizes} and conditions of {conditions}")
    arrays.finish()
    joined = Chain(flows, event_size=sizes[0], dtype=dtype)
    joined.build((None, sizes[0]), (None, conditions[0]) if conditions else None)
    return joined


def _check_shapes(arrays, layers):
    """Refuse layers each of which does not take what the one before gives."""
    for before, after in itertools.pairwise(layers):
        if len(before.bias) != after.kernel.shape[0]:
            raise arrays.error(
                f"a layer of {len(before.bias)} units before one of {after.kernel.shape[0]} inputs"
            )


def _check_mask(arrays, layer, mask, i):
    """Refuse a layer with another mask; without one, its kernel must have the zeros of the mask."""
    if layer.mask is None:
        agree = not layer.kernel[~mask].any()
    else:
        agree = np.array_equal(layer.mask, mask)
    if not agree:
        raise arrays.error(
            f"the mask of layer {i} is another than its order and degrees make of the components"
        )


def _loaded(flow, size, condition_size, weights):
    """Return the flow, built, with the weights of its network, by name."""
    flow.build((None, size), (None, condition_size) if condition_size else None)
    for variable in flow.conditioner.weights:
        variable.assign(weights[variable.name])
    return flow
