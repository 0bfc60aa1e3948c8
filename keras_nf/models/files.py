"""Files of models: written whole or not at all, and loaded as nothing else than what was saved."""

import contextlib
import itertools
import json
import os
import pathlib
import zlib

import keras
import numpy as np

from keras_nf.config import FORMAT_VERSION, check_format, serialize_layer
from keras_nf.models.replicas import ReplicatedModel, by_chief

__all__ = ["StoredModel"]

# Name of the description of the model among the weights in a file.
_DESCRIPTION = "structure"

# Arguments that leave the meaning of the weights alone, or show in their shapes or in the order.
_OTHER_ARGUMENTS = {
    *("name", "dtype", "trainable", "format_version", "validate_args", "event_size", "seed"),
    *("mask", "swap", "order", "permutation", "hidden_units", "units", "parameters"),
    *("layers", "folds", "flow", "flows", "conditioner", "build_input_shape", "batch_shape"),
    *("momentum", "always", "dropout", "rate"),
}
_OTHER_ENDINGS = ("initializer", "regularizer", "constraint")


class StoredModel(ReplicatedModel):
    """Model of a `flow` and an `encoder` with files that say what their weights mean."""

    # Arguments that may be functions of the user's own.
    _FUNCTIONS: tuple[str, ...] = ("base",)

    @by_chief
    def save(self, filepath, overwrite=True, **kwargs):
        """Write the model to a file: `keras.Model.save`, which keeps the old one until it is done.

        Args:
          filepath: path that ends with `.keras`.
          overwrite: whether to replace an existing file without asking.
          **kwargs: the other arguments of `keras.Model.save`.
        """
        with _new_file(filepath, ".keras", overwrite, kwargs) as new:
            super().save(new, overwrite, **kwargs)

    @by_chief
    def save_weights(self, filepath, overwrite=True, **kwargs):
        """Write the weights to a file: `keras.Model.save_weights`, which keeps the old one so long.

        Args:
          filepath: path that ends with `.weights.h5`.
          overwrite: whether to replace an existing file without asking.
          **kwargs: the other arguments of `keras.Model.save_weights`.
        """
        with _new_file(filepath, ".weights.h5", overwrite, kwargs) as new:
            super().save_weights(new, overwrite, **kwargs)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self.flow.built:
            store[_DESCRIPTION] = np.frombuffer(_describe(self), "uint8")

    def load_own_variables(self, store):
        own = {name: store[name] for name in store.keys() if name != _DESCRIPTION}  # noqa: SIM118
        super().load_own_variables(own)
        if _DESCRIPTION in store.keys():  # noqa: SIM118
            _check_description(np.asarray(store[_DESCRIPTION]).tobytes(), self)

    def get_config(self):
        return {
            **super().get_config(),
            "format_version": FORMAT_VERSION,
            "flow": serialize_layer(self.flow),
            "encoder": serialize_layer(self.encoder),
            **{name: _serialize(getattr(self, name), name) for name in self._FUNCTIONS},
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = check_format(config)
        for name in cls._FUNCTIONS:
            _check_known(config.get(name), name, custom_objects)
        return cls(**keras.saving.deserialize_keras_object(config, custom_objects=custom_objects))

    def get_compile_config(self):
        config = super().get_compile_config()
        if not config:
            return config
        del config["loss"]
        return {**config, "jit_compile": self.jit_compile}

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self._build_optimizer()

    def _build_optimizer(self):
        with self._weights_scope():
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)


@contextlib.contextmanager
def _new_file(filepath, suffix, overwrite, options):
    """Give the path to write to: one beside a single local file, replaced when the new is whole."""
    path = str(filepath)
    asks = not overwrite and os.path.exists(path)
    if asks or options or "://" in path or not path.endswith(suffix):
        yield filepath
        return
    path = pathlib.Path(os.path.realpath(path))
    new = path.with_name(f".{os.getpid()}.{path.name.removesuffix(suffix)}{suffix}")
    try:
        yield new
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _serialize(function, name):
    """Return the config of a function of the user's own, of a layer, or of a name."""
    if isinstance(function, keras.layers.Layer):
        return serialize_layer(function)
    if not callable(function):
        return function
    if keras.saving.get_registered_name(function) == getattr(function, "__name__", None):
        raise ValueError(
            f"The {name} {function!r} is not registered, so that a saved model could not be "
            "loaded. Decorate the function with "
            "@keras.saving.register_keras_serializable('your_package')."
        )
    return keras.saving.serialize_keras_object(function)


def _check_known(function, name, custom_objects):
    """Refuse the config of a function that is not registered in this program."""
    if not isinstance(function, dict):
        return
    known = function.get(
        "config" if function.get("class_name") == "function" else "registered_name"
    )
    if keras.saving.get_registered_object(known, custom_objects) is None:
        raise ValueError(
            f"The {name} of this model is a function registered as {known!r}, which is not "
            "known here. Import the module that registers it with "
            "@keras.saving.register_keras_serializable before loading."
        )


def _describe(model):
    """Say what decides the meaning of a model's weights, as the bytes of a JSON list.

    Each entry has a few words, with the shapes of the weights and the order of the components, and
    a dictionary of arguments.
    """
    layers = [*model.flow._flatten_layers()]
    for other in (model.encoder, model.base):
        if isinstance(other, keras.layers.Layer):
            layers += other._flatten_layers()
    return json.dumps([_words_of(layer) for layer in layers]).encode()


def _words_of(layer):
    words = [type(layer).__name__]
    for variable in layer._trainable_variables + layer._non_trainable_variables:
        if variable.name == "is_adapted":
            # Not in earlier files, and it changes no meaning.
            continue
        words.append("x".join(map(str, variable.shape)) or "scalar")
    order = getattr(layer, "component_order", None)
    if order is not None:
        words.append(f"order {zlib.crc32(np.asarray(order, '<i4').tobytes()):08x}")
    if getattr(getattr(layer, "elementwise", None), "shift_first", False):
        words.append("shift first")
    arguments = {
        name: value
        for name, value in layer.get_config().items()
        if name not in _OTHER_ARGUMENTS and not name.endswith(_OTHER_ENDINGS)
    }
    return [" ".join(words), arguments]


def _check_description(saved, model):
    """Refuse weights of another model, of which Keras would load what happens to fit.

    Args:
      saved: description in the file; of earlier versions, a line for each flow.
      model: the model that is to take the weights.

    Raises:
      ValueError: if the descriptions differ, in an argument that both know.
    """
    text, here = saved.decode(), json.loads(_describe(model))
    if text.startswith("["):
        there = json.loads(text)
    else:
        there = [[words, {}] for words in text.split("\n")]
        here = here[: len([*model.flow._flatten_layers()])]
    nothing = ["nothing", {}]
    for (words, arguments), (own_words, own_arguments) in itertools.zip_longest(
        there, here, fillvalue=nothing
    ):
        differing = [
            name
            for name in arguments.keys() & own_arguments.keys()
            if arguments[name] != own_arguments[name]
        ]
        if words == own_words and not differing:
            continue
        differences = "".join(
            f"; there {name}={arguments[name]!r}, here {name}={own_arguments[name]!r}"
            for name in sorted(differing)
        )
        raise ValueError(
            f"The file holds the weights of another model: {words}, where this one has "
            f"{own_words}{differences}. Make the model with the arguments of the saved one, with "
            "the seeds where masks or orders are random; or save it as a .keras file and load that "
            "with keras.models.load_model."
        )
