"""Recipes for images: Glow, and the multiscale architecture of Real NVP."""

import itertools
from collections.abc import Sequence
from typing import Any

from keras_nf.arguments import check_count
from keras_nf.flows.chain import Chain
from keras_nf.flows.coupling import AffineCoupling
from keras_nf.flows.diagonal import ActNorm
from keras_nf.flows.lu_linear import LULinear
from keras_nf.flows.multiscale import Multiscale
from keras_nf.flows.squeeze import Squeeze
from keras_nf.recipes.layers import Activation
from keras_nf.seeds import draw_seed

__all__ = ["glow", "image_real_nvp"]


def glow(
    event_shape: Sequence[int],
    *,
    levels: int = 3,
    steps: int = 8,
    hidden_units: Sequence[int] = (64, 64),
    activation: Activation = "relu",
    residual: bool = False,
    dropout: float = 0.0,
    seed: int | None = None,
    log_scale_bound: float | None = 2.0,
    dtype: str | None = None,
    **kwargs: Any,
) -> Chain:
    """Glow: normalizations, linear maps and couplings on several scales (Kingma and others, 2018).

    From the data to the base, a level squeezes the image, where height and width are even, and
    takes its steps: an `ActNorm`, a `LULinear` of the channels, which is an invertible 1x1
    convolution, and an affine coupling of the channels by a `ConvNet`. Half of the channels then go
    on to the next level, and one coupling more standardizes the others, given those. Both
    directions are cheap. Call `adapt` before `fit`. The networks also see the condition, if there
    is one, at each position.

    Args:
      event_shape: shape of an image, `(height, width, channels)`.
      levels: number of scales.
      steps: number of steps on each.
      hidden_units: channels of each hidden layer of the networks.
      activation: activation of the networks.
      residual: whether they have residual blocks.
      dropout: rate of their dropout in training.
      seed: seed of the permutations that the linear maps start with; drawn when `None`.
      log_scale_bound: largest |log-scale| of a coupling, in nats.
      dtype: dtype or policy of every layer.
      **kwargs: `validate_args`, `recompute`, `name` of the chain.

    Returns:
      A `Chain`.

    Raises:
      ValueError: if the event is no image.

    Example:

    >>> import keras_nf
    >>> flow = keras_nf.glow((28, 28, 1), levels=2, steps=4)
    >>> flow.inverse_event_shape((28, 28, 1))
    TensorShape([7, 7, 16])

    References:
      Diederik P. Kingma, Prafulla Dhariwal. Glow: Generative Flow with Invertible 1x1 Convolutions.
      2018. arXiv:1807.03039
    """
    steps = check_count(steps, "steps")
    options: dict[str, Any] = {
        "event_ndims": 3,
        "hidden_units": hidden_units,
        "activation": activation,
        "residual": residual,
        "dropout": dropout,
        "log_scale_bound": log_scale_bound,
        "dtype": dtype,
    }
    seeds = itertools.count(draw_seed() if seed is None else seed)

    def level(shape, is_last):
        flows = [] if is_last else [AffineCoupling(**options)]
        for _ in range(steps):
            linear = LULinear("random", use_shift=False, seed=next(seeds), dtype=dtype)
            flows += [AffineCoupling(**options), linear, ActNorm(dtype=dtype)]
        return flows + _squeezes(shape, dtype)

    return Chain(_scales(event_shape, levels, level, dtype), dtype=dtype, **kwargs)


def image_real_nvp(
    event_shape: Sequence[int],
    *,
    levels: int = 2,
    hidden_units: Sequence[int] = (64, 64),
    activation: Activation = "relu",
    residual: bool = False,
    dropout: float = 0.0,
    log_scale_bound: float | None = 2.0,
    dtype: str | None = None,
    **kwargs: Any,
) -> Chain:
    """Real NVP for images: couplings on several scales (Dinh, Sohl-Dickstein and Bengio, 2016).

    From the data to the base, a level has three affine couplings of a checkerboard, squeezes the
    image, where height and width are even, and has three couplings of the channels, after which
    half of them go on to the next level; the last level has four couplings of a checkerboard. Each
    coupling exchanges the kept and the transformed part of the one before. Both directions are
    cheap. An `ActNorm` after each coupling takes the place of the paper's batch normalization: call
    `adapt` before `fit`. The networks also see the condition, if there is one, at each position.

    Args:
      event_shape: shape of an image, `(height, width, channels)`.
      levels: number of scales.
      hidden_units: channels of each hidden layer of the networks, which are `ConvNet`s.
      activation: activation of the networks.
      residual: whether they have residual blocks.
      dropout: rate of their dropout in training.
      log_scale_bound: largest |log-scale| of a coupling, in nats.
      dtype: dtype or policy of every layer.
      **kwargs: `validate_args`, `recompute`, `name` of the chain.

    Returns:
      A `Chain`.

    Raises:
      ValueError: if the event is no image.

    Example:

    >>> import keras_nf
    >>> flow = keras_nf.image_real_nvp((32, 32, 3), levels=3)
    >>> flow.inverse_event_shape((32, 32, 3))
    TensorShape([8, 8, 48])

    References:
      Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio. Density Estimation using Real NVP. 2016.
      arXiv:1605.08803
    """
    options: dict[str, Any] = {
        "event_ndims": 3,
        "hidden_units": hidden_units,
        "activation": activation,
        "residual": residual,
        "dropout": dropout,
        "log_scale_bound": log_scale_bound,
        "dtype": dtype,
    }

    def couplings(mask, count):
        flows = []
        for i in range(count):
            coupling = AffineCoupling(mask=mask, swap=i % 2 == 1, **options)
            flows += [coupling, ActNorm(dtype=dtype)]
        return flows

    def level(shape, is_last):
        if is_last:
            return couplings("checkerboard", 4)
        squeezes = _squeezes(shape, dtype)
        return couplings("half", 3) + squeezes + couplings("checkerboard", 3)

    return Chain(_scales(event_shape, levels, level, dtype), dtype=dtype, **kwargs)


def _scales(shape, levels, level, dtype):
    """Return the flows of all levels, from the base to the data.

    Args:
      shape: shape of an image.
      levels: number of levels; half of the channels of each go on to the next.
      level: function of the shape of an image, and of whether it is the last, that returns the
        flows of a level.
      dtype: dtype or policy.
    """
    shape = tuple(shape)
    if len(shape) != 3:
        raise ValueError(
            f"`event_shape` must be (height, width, channels). Received: {shape!r}. A recipe like "
            "keras_nf.real_nvp serves events of one axis."
        )
    levels = check_count(levels, "levels")
    flows = level(shape, levels == 1)
    if levels == 1:
        return flows
    for flow in reversed(flows):
        shape = flow.inverse_event_shape(shape)
    *positions, channels = shape
    half = (*positions, channels - channels // 2)
    coarser = Chain(_scales(half, levels - 1, level, dtype), dtype=dtype)
    return [Multiscale(coarser), *flows]


def _squeezes(shape, dtype):
    """Return a `Squeeze`, or nothing for images of odd height or width."""
    return [] if any(size % 2 for size in shape[:2]) else [Squeeze(dtype=dtype)]
