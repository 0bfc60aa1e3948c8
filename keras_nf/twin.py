"""Copies of a flow: made of its config, also in float64, with its weights."""

import keras
import numpy as np

__all__ = ["assign_weights", "copy_flow", "move_weights"]


def copy_flow(flow, inputs, dtype=None):
    """Return a new flow made of the config of another, with its weights.

    Args:
      flow: the flow to copy, which is built.
      inputs: what the inverse takes, points and perhaps a condition, to build the copy with.
      dtype: floating-point dtype of the copy and of all layers in it; the flow's own when `None`.

    Returns:
      A flow of the same class, which shares no weights with the flow.

    Raises:
      ValueError: if the config makes no such flow.
    """
    config = flow.get_config()
    copy = type(flow).from_config(config if dtype is None else _in_dtype(config, dtype))
    copy.inverse_and_log_det(*inputs)
    made, expected = ([tuple(weight.shape) for weight in f.weights] for f in (copy, flow))
    shared = {id(weight) for weight in copy.weights} & {id(weight) for weight in flow.weights}
    if made != expected or shared:
        raise ValueError(
            f"Expected a config that makes new weights of shapes {expected}. Received: "
            f"{'the same weights' if shared else made}. Return every argument of `__init__` "
            "from `get_config`, and layers with `keras.saving.serialize_keras_object`."
        )
    assign_weights(copy, flow)
    return copy


def assign_weights(flow, other):
    """Give a flow the weights of another, cast to its dtype."""
    for weight, value in zip(flow.weights, other.weights):
        weight.assign(keras.ops.convert_to_numpy(value))


def move_weights(weights):
    """Move weights a little, always in the same way: by about a tenth of a unit's input."""
    rng = np.random.default_rng(0)
    for weight in weights:
        noise = rng.standard_normal(weight.shape) / np.prod(weight.shape[:-1]) ** 0.5
        weight.assign_add(0.1 * noise)
        if weight.constraint is not None:
            weight.assign(weight.constraint(weight))


def _in_dtype(config, dtype):
    """Return a config in another floating-point dtype, with the configs that it holds."""
    if isinstance(config, (list, tuple)):
        return type(config)(_in_dtype(entry, dtype) for entry in config)
    if not isinstance(config, dict):
        return config
    config = {key: _in_dtype(value, dtype) for key, value in config.items()}
    policy = config.get("dtype")
    name = policy.get("config", {}).get("name") if isinstance(policy, dict) else policy
    return {**config, "dtype": dtype} if "float" in str(name) else config
