"""Layers of one kind, as recipes put them into a chain."""

from collections.abc import Callable
from typing import Any

from keras_nf.arguments import check_count
from keras_nf.permutation import check_permutation, reverse
from keras_nf.seeds import draw_seed

__all__ = ["Activation", "autoregressive_layers", "couplings"]

Activation = str | Callable[[Any], Any]


def couplings(coupling, event_size, layers, mask, seed, options):
    """Return couplings each of which exchanges the parts of the one before.

    Args:
      coupling: their class.
      event_size: size of the event.
      layers: how many.
      mask: partition of the event; with `"random"` each pair of layers has its own.
      seed: seed of random masks; drawn when `None`.
      options: the other arguments of the class.
    """
    layers, event_size = check_count(layers, "layers"), check_count(event_size, "event_size")
    if event_size < 2:
        raise ValueError(
            "A coupling keeps one part of the event and transforms the other, so event_size must "
            f"be at least 2. Received: event_size={event_size}. Use keras_nf.maf, which also "
            "serves single components."
        )
    seed = draw_seed() if seed is None else seed
    # A random mask is shared by a layer and the next, which exchanges its parts.
    return [
        coupling(mask=mask, swap=i % 2 == 1, seed=seed + i // 2, **options) for i in range(layers)
    ]


def autoregressive_layers(flow, layers, order, seed, options):
    """Return autoregressive flows each of which reverses the order of the one before.

    Args:
      flow: their class.
      layers: how many.
      order: order of the first; with `"random"` each has its own.
      seed: seed of random orders; drawn when `None`.
      options: the other arguments of the class.
    """
    layers = check_count(layers, "layers")
    if order == "random":
        seed = draw_seed() if seed is None else seed
        return [flow(order="random", seed=seed + i, **options) for i in range(layers)]
    orders = order, reverse(check_permutation(order, "order"))
    return [flow(order=orders[i % 2], **options) for i in range(layers)]
