"""Partitions of an event into what a coupling keeps and what it transforms."""

import numpy as np
import tensorflow as tf
from keras import ops

from keras_nf.layout import by_parameter, feature_major, flat_batch
from keras_nf.permutation import invert_permutation, permute

__all__ = ["check_partition", "partition", "parts_of"]

PARTITIONS = ("half", "alternating", "random", "checkerboard")


def check_partition(mask, event_ndims=1):
    """Return the argument as it goes into a config: a known name, or tuples of booleans."""
    if isinstance(mask, str):
        names = PARTITIONS if event_ndims > 1 else PARTITIONS[:-1]
        if mask not in names:
            raise ValueError(
                f"`mask` must be one of {', '.join(map(repr, names))} or one boolean per "
                f"component of the event. Received: {mask!r}."
            )
        return mask
    array = np.asarray(mask)
    if array.ndim not in (1, event_ndims) or not np.isin(array, (0, 1)).all():
        raise ValueError(
            "`mask` must hold one boolean per component of the event: true for those that stay "
            f"as they are, false for those that are transformed. Received: {mask!r}."
        )
    array = array.astype(bool)
    if array.all() or not array.any():
        raise ValueError(
            f"`mask` is {bool(array.all())} for every component, so that the coupling would "
            + ("transform nothing." if array.all() else "have nothing to condition on.")
            + " Keep at least one component and transform at least one."
        )
    return _as_tuples(array.tolist())


def _as_tuples(values):
    return tuple(map(_as_tuples, values)) if isinstance(values, list) else values


def partition(mask, event_shape, swap, seed):
    """Return a boolean array of what a coupling keeps: of components, or of the whole event."""
    size = event_shape[-1]
    if mask == "checkerboard":
        kept = np.indices(event_shape[:-1] + (1,)).sum(axis=0) % 2 == 0
        kept = np.broadcast_to(kept, event_shape)
        if kept.all():
            raise ValueError(
                "A checkerboard needs an event of several positions. Received: an event of shape "
                f"{event_shape}. Use a mask of its last axis."
            )
    elif isinstance(mask, tuple):
        kept = np.array(mask)
        expected = event_shape if kept.ndim > 1 else (size,)
        if kept.shape != expected:
            raise ValueError(
                f"`mask` has {'x'.join(map(str, kept.shape))} entries, but the event has "
                f"{'x'.join(map(str, expected))}. Give one boolean per component."
            )
    elif size < 2:
        advice = (
            "keras_nf.MaskedAutoregressive, which also serves single components"
            if len(event_shape) == 1
            else "mask='checkerboard', or a Squeeze before it"
        )
        raise ValueError(
            f"A coupling keeps one part of the event and transforms the other, so event_size must "
            f"be at least 2. Received: event_size={size}. Use {advice}."
        )
    else:
        kept = np.arange(size) < (size + 1) // 2
        if mask == "alternating":
            kept = np.arange(size) % 2 == 0
        elif mask == "random":
            # The legacy generator's stream is frozen: files must load the same under any NumPy.
            kept = np.random.RandomState(seed).permutation(kept)
    return ~kept if swap else kept


def parts_of(kept, event_shape):
    """Return the parts of events of a shape, for an array that `partition` returned.

    `inputs_shape` is what a network sees of an event, and `units` how many numbers per position a
    parameter of the map has. `apply(x, condition, network, map_rest, count)` maps what is not
    kept, by `map_rest(rest, parameters)` with `count` parameters that the network gives, and
    returns the event and the log-determinant.
    """
    if len(event_shape) == 1:
        return _Components(kept)
    return _Channels(kept, event_shape) if kept.ndim == 1 else _Positions(kept)


class _Components:
    """Parts of a vector."""

    def __init__(self, kept) -> None:
        order = np.concatenate([np.flatnonzero(kept), np.flatnonzero(~kept)])
        size = int(kept.sum())
        self.inputs_shape, self.units = (size,), len(kept) - size
        # The part of component 0 comes first, also in a layer that exchanges the parts: it then
        # needs the order that the layer before has undone, and compilers drop both.
        self._rest_comes_first = not kept[0]
        self._by_part = np.roll(order, -size if self._rest_comes_first else 0)

    def _arrange(self, parts):
        """Bring what is kept and the rest into the order of the parts, or back."""
        return parts[::-1] if self._rest_comes_first else parts

    def apply(self, x, condition, network, map_rest, count):
        x, restore = feature_major(x)
        sizes = self._arrange([*self.inputs_shape, self.units])
        kept, rest = self._arrange(tf.split(permute(x, self._by_part), sizes))
        inputs = kept
        if condition is not None:
            inputs = ops.concatenate([kept, feature_major(condition)[0]])
        parameters = by_parameter(ops.transpose(network(ops.transpose(inputs))), count)
        rest, log_derivatives = map_rest(rest, parameters)
        y = ops.concatenate(self._arrange([kept, rest]))
        y = permute(y, invert_permutation(self._by_part))
        return restore(y), restore(ops.sum(log_derivatives, axis=0))


class _Image:
    """Parts of an event of several axes, which a network sees as it is, with a batch axis."""

    def _parameters(self, kept, condition, network, count):
        inputs = kept
        if condition is not None:
            # The same at each position.
            condition = flat_batch(condition, 1)[0]
            ones = [1] * (kept.shape.rank - 2)
            condition = ops.reshape(condition, (-1, *ones, condition.shape[-1]))
            condition = condition * ops.ones_like(kept[..., :1])
            inputs = ops.concatenate([kept, condition], axis=-1)
        return ops.stack(ops.split(network(inputs), count, axis=-1))


class _Channels(_Image):
    """Channels, kept or not at all positions alike."""

    def __init__(self, kept, event_shape) -> None:
        self._kept, self._rest = np.flatnonzero(kept), np.flatnonzero(~kept)
        self._back = invert_permutation(np.concatenate([self._kept, self._rest]))
        self.inputs_shape, self.units = (*event_shape[:-1], len(self._kept)), len(self._rest)

    def apply(self, x, condition, network, map_rest, count):
        ndims = len(self.inputs_shape)
        x, restore = flat_batch(x, ndims)
        kept, rest = (_take_channels(x, part) for part in (self._kept, self._rest))
        rest, log_derivatives = map_rest(rest, self._parameters(kept, condition, network, count))
        y = _take_channels(ops.concatenate([kept, rest], axis=-1), self._back)
        return restore(y), restore(ops.sum(log_derivatives, axis=list(range(1, 1 + ndims))))


class _Positions(_Image):
    """Any entries of an event; the network sees zeros where they are not kept."""

    def __init__(self, kept) -> None:
        self._kept = kept
        self.inputs_shape, self.units = kept.shape, kept.shape[-1]

    def apply(self, x, condition, network, map_rest, count):
        ndims = len(self.inputs_shape)
        x, restore = flat_batch(x, ndims)
        seen = ops.where(self._kept, x, 0)
        y, log_derivatives = map_rest(x, self._parameters(seen, condition, network, count))
        log_derivatives = ops.where(self._kept, 0, log_derivatives)
        axes = list(range(1, 1 + ndims))
        return restore(ops.where(self._kept, x, y)), restore(ops.sum(log_derivatives, axis=axes))


def _take_channels(x, indices):
    """Return some entries of the last axis, by a slice where they lie in a row."""
    first, last = int(indices[0]), int(indices[-1])
    if np.array_equal(indices, np.arange(first, last + 1)):
        return x[..., first : last + 1]
    return ops.take(x, indices, axis=-1)
