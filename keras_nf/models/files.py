"""Files of models: written whole or not at all, and loaded as nothing else than what was saved."""

import contextlib
import itertools
import json
import os
import pathlib
import zlib

import numpy as np

__all__ = ["check_description", "describe", "replacing"]

# Arguments that leave the meaning of the weights alone, or show in their shapes or in the order.
_OTHER_ARGUMENTS = {
    *("name", "dtype", "trainable", "format_version", "validate_args", "event_size", "seed"),
    *("mask", "swap", "order", "permutation", "hidden_units", "units", "parameters", "layers"),
    *("flow", "flows", "conditioner", "build_input_shape", "batch_shape"),
}
_OTHER_ENDINGS = ("initializer", "regularizer", "constraint")


@contextlib.contextmanager
def replacing(path, suffix):
    """Give the path of a file to be written, which replaces the one at `path` when it is whole."""
    path = pathlib.Path(os.path.realpath(path))
    new = path.with_name(f".{os.getpid()}.{path.name.removesuffix(suffix)}{suffix}")
    try:
        yield new
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def describe(model):
    """Say what decides the meaning of a model's weights, as the bytes of a JSON list.

    Each entry has a few words, with the shapes of the weights and the order of the components, and
    a dictionary of arguments.
    """
    layers = [*model.flow._flatten_layers()]
    if model.encoder is not None:
        layers += model.encoder._flatten_layers()
    return json.dumps([_describe(layer) for layer in layers]).encode()


def _describe(layer):
    words = [type(layer).__name__]
    for variable in layer._trainable_variables + layer._non_trainable_variables:
        words.append("x".join(map(str, variable.shape)) or "scalar")
    order = getattr(layer, "_order", getattr(layer, "_indices", None))
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


def check_description(saved, model):
    """Refuse weights of another model, of which Keras would load what happens to fit.

    Args:
      saved: description in the file; of earlier versions, a line for each flow.
      model: the model that is to take the weights.

    Raises:
      ValueError: if the descriptions differ, in an argument that both know.
    """
    text, here = saved.decode(), json.loads(describe(model))
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
