"""NumPy masks: partitions of an event for couplings, connections of MADE."""

import itertools

import numpy as np

from keras_nf.permutation import invert_permutation

PARTITIONS = ("half", "alternating", "random")


def check_partition(mask):
    """Return the argument as it goes into a config: a known name, or a tuple of booleans."""
    if isinstance(mask, str):
        if mask not in PARTITIONS:
            raise ValueError(
                f"`mask` must be one of {', '.join(map(repr, PARTITIONS))} or one boolean per "
                f"component of the event. Received: {mask!r}."
            )
        return mask
    array = np.asarray(mask)
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
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
    return tuple(bool(b) for b in array)


def partition(mask, size, swap, seed):
    """Return the boolean array of the components that a coupling keeps."""
    if size < 2:
        raise ValueError(
            f"A coupling keeps one part of the event and transforms the other, so event_size must "
            f"be at least 2. Received: event_size={size}. Use keras_nf.MaskedAutoregressive, which "
            "also serves single components."
        )
    if isinstance(mask, tuple):
        if len(mask) != size:
            raise ValueError(
                f"`mask` has {len(mask)} entries, but the event has {size}. Give one boolean per "
                "component."
            )
        kept = np.array(mask)
    else:
        kept = np.arange(size) < (size + 1) // 2
        if mask == "alternating":
            kept = np.arange(size) % 2 == 0
        elif mask == "random":
            # The legacy generator's stream is frozen: files must load the same under any NumPy.
            kept = np.random.RandomState(seed).permutation(kept)
    return ~kept if swap else kept


def hidden_degrees(size, hidden_units, conditional):
    """Return the degrees of MADE's hidden units, one sorted array per layer.

    The k-th component in order, counted from one, has degree k; a hidden unit of degree m sees
    the components of degree at most m. Degrees are spread evenly over a layer: the numbers of
    units per degree differ by one at most. With a condition there are units of degree 0, which see
    the condition alone: the first component needs them.
    """
    lowest = 0 if conditional or size == 1 else 1
    groups = max(size - lowest, 1)
    degrees = []
    for units in hidden_units:
        if units == 1 and conditional and size > 1:
            raise ValueError(
                "A hidden layer of a conditional MADE needs at least 2 units, one that sees only "
                f"the condition and one that sees the event. Received: hidden_units={hidden_units}."
            )
        if units < groups:
            # A single unit takes the highest degree, so that something depends on everything.
            spread = np.linspace(lowest + groups - 1, lowest, units)[::-1]
            degrees.append(np.rint(spread).astype(int))
        else:
            degrees.append(lowest + np.arange(units) * groups // units)
    return degrees


def check_degrees(degrees, hidden_units, residual):
    """Return given degrees of MADE's hidden units as they go into a config."""
    layers = [np.asarray(layer) for layer in degrees]
    if [layer.shape for layer in layers] != [(units,) for units in hidden_units] or not all(
        layer.dtype.kind in "iu" and (layer >= 0).all() for layer in layers
    ):
        raise ValueError(
            "`degrees` must hold a sequence for each hidden layer, of an integer for each unit: "
            f"how many components it sees. Received: {degrees!r} for hidden_units={hidden_units}."
        )
    degrees = tuple(tuple(layer.tolist()) for layer in layers)
    if residual and len(set(degrees)) > 1:
        raise ValueError(
            "With `residual=True`, where layers are added, `degrees` must be the same for all. "
            f"Received: {degrees!r}."
        )
    return degrees


def given_degrees(degrees, size):
    """Return checked degrees as arrays, for events of the given size."""
    highest = max(itertools.chain.from_iterable(degrees), default=0)
    if highest >= size:
        raise ValueError(
            "A hidden unit of MADE sees all components but the last one at most, so that degrees "
            f"are less than event_size={size}. Received: a degree of {highest}."
        )
    return [np.array(layer) for layer in degrees]


def made_levels(order, degrees, parameters):
    """Return a pair of arrays per layer of MADE: i feeds j where `rows[i] <= columns[j]`.

    A hidden unit sees units of degree at most its own; the parameters of a component see hidden
    units of lower degree. The component `order[k]` has degree k + 1.
    """
    previous = component_degrees = invert_permutation(order) + 1
    levels = []
    for current in degrees:
        levels.append((previous, current))
        previous = current
    return [*levels, (previous, np.tile(component_degrees - 1, parameters))]
