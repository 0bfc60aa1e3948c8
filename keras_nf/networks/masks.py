"""NumPy masks: connections of MADE."""

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
