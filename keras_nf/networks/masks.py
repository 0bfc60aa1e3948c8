"""NumPy masks: connections of MADE."""

import itertools

import numpy as np

from keras_nf.permutation import invert_permutation


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
