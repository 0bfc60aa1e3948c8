"""Numbers that are multiples of a step."""

import math

import numpy as np

__all__ = ["check_grid", "multiples"]


def check_grid(name: str, x: np.ndarray, step: float) -> None:
    """Refuse numbers that are no multiples of the step."""
    places = x / step
    # What float32 rounds is no fault of the numbers.
    if (np.abs(places - np.rint(places)) > 1e-3 + 2e-7 * np.abs(places)).any():
        raise ValueError(
            f"Column {name!r} has numbers, or bounds, that are no multiples of its step, {step:g}. "
            "Give a smaller step, or round them."
        )


def multiples(places: np.ndarray, step: float) -> np.ndarray:
    """Return multiples of the step as their decimals are read: 0.35, not 35 * 0.01."""
    decimals = max(0, 4 - math.floor(math.log10(step)))
    x = places * step
    return np.round(x, decimals) if round(step, decimals) == step else x
