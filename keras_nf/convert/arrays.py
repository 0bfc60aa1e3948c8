"""Arrays by name, each of which is read once: what is missing and what is left are errors."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Arrays", "Layer", "count_bins"]


class Layer(NamedTuple):
    """A dense layer: kernel of shape (inputs, units), bias, and the mask of the kernel, if any."""

    kernel: Any
    bias: Any
    mask: Any = None


class Arrays:
    """The arrays of a state dict, of which `take` gives each once.

    Args:
      state: dictionary of arrays by name.
      supported: what can be converted, as errors say it.
    """

    def __init__(self, state, supported):
        if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
            raise ValueError(
                "`state` must be a dictionary of NumPy arrays by name, as {name: array.numpy() for "
                f"name, array in model.state_dict().items()}}. Received: {type(state).__name__}."
            )
        self._arrays = {name: np.asarray(array) for name, array in state.items()}
        self._supported = supported

    def __contains__(self, name):
        return name in self._arrays

    def names(self, prefix=""):
        """Return the names, with some prefix, that were not taken yet."""
        return [name for name in self._arrays if name.startswith(prefix)]

    def shape(self, name):
        """Return the shape of an array that was not taken yet."""
        return self._arrays[name].shape

    def take(self, name, ndim, kinds="f"):
        """Return an array, which must have a number of axes and a kind of dtype."""
        if name not in self._arrays:
            raise self.error(f"there is no {name!r}")
        array = self._arrays.pop(name)
        if array.ndim != ndim or array.dtype.kind not in kinds:
            raise self.error(
                f"{name!r} is an array of shape {array.shape} and dtype {array.dtype}, where one "
                f"with {ndim} axes of {'floats' if kinds == 'f' else 'integers or booleans'} was "
                "expected"
            )
        return array

    def take_layer(self, prefix, masked=False):
        """Return a dense layer of torch, whose weight is a transposed kernel."""
        kernel, bias = self.take(f"{prefix}.weight", 2).T, self.take(f"{prefix}.bias", 1)
        mask = self.take(f"{prefix}.mask", 2, "biuf").T.astype(bool) if masked else None
        if bias.shape != kernel.shape[1:] or (masked and mask.shape != kernel.shape):
            raise self.error(f"the shapes of the arrays of {prefix!r} do not go together")
        return Layer(kernel, bias, mask)

    def finish(self):
        """Refuse arrays that nobody took."""
        if self._arrays:
            first = ", ".join(list(map(repr, self._arrays))[:4])
            more = f" and {len(self._arrays) - 4} more" if len(self._arrays) > 4 else ""
            raise self.error(f"there are also {first}{more}")

    def error(self, found):
        """Return the error that says what was found and what can be converted."""
        return ValueError(f"Supported: {self._supported}. Received other arrays: {found}.")


def count_bins(arrays, outputs, size):
    """Return the bins of the splines of `size` components that a layer of `outputs` units gives."""
    bins, rest = divmod(outputs // size + 1, 3)
    if rest or outputs % size or bins < 2:
        raise arrays.error(
            f"a last layer of {outputs} units for {size} components, where splines with linear "
            "tails have 3 * bins - 1 for each"
        )
    return bins
