"""Configs of flows and models: their format, and the layers that they hold."""

import inspect
import warnings

import keras

__all__ = [
    "FORMAT_VERSION",
    "automatic_arguments",
    "check_format",
    "deserialize",
    "map_config",
    "serialize_layer",
]

# Raised by one when files of an earlier version could no longer be read in the same way.
FORMAT_VERSION = 2

# What is written twice in one file is marked as shared, and so tells whether a file is written.
_PROBE = keras.initializers.Zeros()


def check_format(config):
    """Return the config of a flow or a model without its format version, which must be known."""
    config = dict(config)
    version = config.pop("format_version", FORMAT_VERSION)
    if version not in range(1, FORMAT_VERSION + 1):
        raise ValueError(
            f"This file or config has format {version!r} of keras_nf. The installed version reads "
            f"formats up to {FORMAT_VERSION}. Update it: pip install --upgrade keras_nf."
        )
    return config


def deserialize(config):
    """Return the arguments in a config, with a policy by its name, as Keras's own layers get it."""
    config = keras.saving.deserialize_keras_object(config)
    dtype = config.get("dtype")
    if isinstance(dtype, keras.DTypePolicy) and dtype.quantization_mode is None:
        config["dtype"] = dtype.name
    return config


def automatic_arguments(layer, base):
    """Return the arguments of a layer that has no `get_config`, as Keras keeps them for its own.

    Args:
      layer: the layer.
      base: the class whose arguments are not asked for; the layer must take them as `**kwargs`.
    """
    name = type(layer).__name__
    parameters = inspect.signature(type(layer).__init__).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        raise ValueError(
            f"{name}.__init__ must take `**kwargs` and hand them to `super().__init__`: a copy of "
            "the layer, as one in a file, gets its name and dtype by them."
        )
    known = inspect.signature(base.__init__).parameters
    own = [p for p in parameters if p.name not in known and p.kind is not p.VAR_KEYWORD]
    if not own:
        return {}
    if layer._auto_config is None:
        raise NotImplementedError(
            f"{name} must implement `get_config`, so that it can be saved: its arguments "
            f"({', '.join(p.name for p in own)}) came as other things than numbers, strings and "
            "booleans. Return {**super().get_config(), 'argument': value, ...}."
        )
    return dict(layer._auto_config.config)


def map_config(elementwise, fixed):
    """Return what the config of a flow says of its map, or of one that its class fixes."""
    if fixed:
        return elementwise.get_config()
    return {"elementwise": keras.saving.serialize_keras_object(elementwise)}


def serialize_layer(layer):
    """Return the config of a layer that another one holds, or `None` for none.

    Keras marks objects that a file holds more than once, but copies the configs of nested ones
    before it knows. A mark from the start keeps a layer shared that is used beside its holder, too.
    """
    if layer is None:
        return None
    config = keras.saving.serialize_keras_object(layer)
    if _writes_file():
        config["shared_object_id"] = id(layer)
    elif _is_used_by_itself(layer):
        warnings.warn(
            f"The layer '{layer.name}' is used by itself and inside of another layer, whose config "
            "alone cannot say so: a copy made of it, as by keras.models.clone_model, gets weights "
            "of its own in each place. Save and load the whole model to copy it.",
            stacklevel=3,
        )
    return config


def _writes_file():
    for _ in range(2):
        config = keras.saving.serialize_keras_object(_PROBE)
    return "shared_object_id" in config


def _is_used_by_itself(layer):
    """Return whether a functional model calls the layer; models count their own making as one."""
    return not isinstance(layer, keras.Model) and bool(layer._inbound_nodes)
