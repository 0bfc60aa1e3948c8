"""Sets of points in the plane: moons, rings, spirals, checkerboard, pinwheel, eight Gaussians.

All are centred at zero and lie roughly within [-4, 4]^2. Their rows are independent draws.

Example:

>>> import keras_nf
>>> x = keras_nf.datasets.two_moons(1000, seed=0)
>>> x.shape, x.dtype
((1000, 2), dtype('float32'))
"""

import numbers
from typing import Any

import numpy as np

__all__ = ["checkerboard", "eight_gaussians", "pinwheel", "rings", "spirals", "two_moons"]


def _generator(n, seed):
    """Return the generator of a set, after the check of the number of its points."""
    if isinstance(n, bool) or not isinstance(n, numbers.Integral) or n < 0:
        raise ValueError(
            f"`n`, the number of points, must be an integer of at least 0. Received: {n!r}."
        )
    return np.random.default_rng(seed)


def _circle(angle):
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def two_moons(n: int, *, seed: Any = None) -> np.ndarray:
    """Draw points of two half circles that reach into each other.

    x = 2 (m - (1/2, 1/4) + 0.1 e) with e of the standard normal distribution, t uniform in
    [0, pi], and m = (cos t, sin t) or (1 - cos t, 1/2 - sin t), each with probability 1/2. These
    are the moons of scikit-learn with noise of 0.1, centred and twice as large.

    Args:
      n: number of points.
      seed: seed, or `numpy.random.Generator`; `None` gives other points at every call.

    Returns:
      Array of shape `(n, 2)`, float32.

    Example:

    >>> import keras_nf
    >>> keras_nf.datasets.two_moons(500, seed=0).shape
    (500, 2)

    References:
      Fabian Pedregosa et al. Scikit-learn: Machine Learning in Python. 2011. arXiv:1201.0490

      Will Grathwohl, Ricky T. Q. Chen, Jesse Bettencourt, Ilya Sutskever, David Duvenaud. FFJORD:
      Free-form Continuous Dynamics for Scalable Reversible Generative Models. 2018.
      arXiv:1810.01367
    """
    rng = _generator(n, seed)
    moon = _circle(rng.uniform(0.0, np.pi, n))
    lower = rng.integers(2, size=(n, 1)) == 1
    moon = np.where(lower, [1.0, 0.5] - moon, moon) - [0.5, 0.25]
    return (2.0 * (moon + 0.1 * rng.normal(size=(n, 2)))).astype("float32")


def rings(n: int, *, seed: Any = None) -> np.ndarray:
    """Draw points of four concentric circles.

    x = r (cos t, sin t) + 0.08 e with e of the standard normal distribution, t uniform in
    [0, 2 pi], and r one of 3/4, 3/2, 9/4 and 3, each with probability 1/4.

    Args:
      n: number of points.
      seed: seed, or `numpy.random.Generator`; `None` gives other points at every call.

    Returns:
      Array of shape `(n, 2)`, float32.

    Example:

    >>> import keras_nf
    >>> keras_nf.datasets.rings(500, seed=0).shape
    (500, 2)

    References:
      Will Grathwohl, Ricky T. Q. Chen, Jesse Bettencourt, Ilya Sutskever, David Duvenaud. FFJORD:
      Free-form Continuous Dynamics for Scalable Reversible Generative Models. 2018.
      arXiv:1810.01367
    """
    rng = _generator(n, seed)
    radius = 0.75 * rng.integers(1, 5, size=(n, 1))
    points = radius * _circle(rng.uniform(0.0, 2.0 * np.pi, n))
    return (points + 0.08 * rng.normal(size=(n, 2))).astype("float32")


def spirals(n: int, *, seed: Any = None) -> np.ndarray:
    """Draw points of two spirals, each the other one turned by half a circle.

    x = s (t / 3) (-cos t, sin t) + 0.1 e with e of the standard normal distribution, s = -1 or 1,
    each with probability 1/2, and t = 3 pi sqrt(u) with u uniform in [0, 1]. In the code of
    FFJORD, the points of an arm have uniform noise besides.

    Args:
      n: number of points.
      seed: seed, or `numpy.random.Generator`; `None` gives other points at every call.

    Returns:
      Array of shape `(n, 2)`, float32.

    Example:

    >>> import keras_nf
    >>> keras_nf.datasets.spirals(500, seed=0).shape
    (500, 2)

    References:
      Will Grathwohl, Ricky T. Q. Chen, Jesse Bettencourt, Ilya Sutskever, David Duvenaud. FFJORD:
      Free-form Continuous Dynamics for Scalable Reversible Generative Models. 2018.
      arXiv:1810.01367
    """
    rng = _generator(n, seed)
    angle = 3.0 * np.pi * np.sqrt(rng.random(n))
    arm = _circle(np.pi - angle) * (angle / 3.0)[:, None]
    points = rng.choice([-1.0, 1.0], size=(n, 1)) * arm
    return (points + 0.1 * rng.normal(size=(n, 2))).astype("float32")


def checkerboard(n: int, *, seed: Any = None) -> np.ndarray:
    """Draw points of eight squares of a board of four by four.

    Uniform on the points of [-4, 4]^2 where floor(x_1 / 2) + floor(x_2 / 2) is even: the density
    is 1/32 there and 0 elsewhere, and the entropy is ln 32 = 3.4657 nats.

    Args:
      n: number of points.
      seed: seed, or `numpy.random.Generator`; `None` gives other points at every call.

    Returns:
      Array of shape `(n, 2)`, float32.

    Example:

    >>> import keras_nf, numpy as np
    >>> x = keras_nf.datasets.checkerboard(500, seed=0)
    >>> bool(np.all(np.floor(x / 2.0).sum(axis=1) % 2 == 0))
    True

    References:
      Will Grathwohl, Ricky T. Q. Chen, Jesse Bettencourt, Ilya Sutskever, David Duvenaud. FFJORD:
      Free-form Continuous Dynamics for Scalable Reversible Generative Models. 2018.
      arXiv:1810.01367
    """
    rng = _generator(n, seed)
    column, row = rng.integers(4, size=n), 2 * rng.integers(2, size=n)
    corner = np.stack([column, row + column % 2], axis=1) - 2.0
    return (2.0 * (corner + rng.random((n, 2)))).astype("float32")


def pinwheel(n: int, *, seed: Any = None) -> np.ndarray:
    """Draw points of five blades of a wheel.

    x = 2 R(a) (r, 0.1 e_2) with e of the standard normal distribution, r = 1 + 0.3 e_1, and R(a)
    the rotation by the angle a = -(2 pi k / 5 + exp(r) / 4), where k is one of 0, ..., 4, each
    with probability 1/5.

    Args:
      n: number of points.
      seed: seed, or `numpy.random.Generator`; `None` gives other points at every call.

    Returns:
      Array of shape `(n, 2)`, float32.

    Example:

    >>> import keras_nf
    >>> keras_nf.datasets.pinwheel(500, seed=0).shape
    (500, 2)

    References:
      Matthew J. Johnson, David Duvenaud, Alexander B. Wiltschko, Sandeep R. Datta, Ryan P. Adams.
      Composing graphical models with neural networks for structured representations and fast
      inference. 2016. arXiv:1603.06277
    """
    rng = _generator(n, seed)
    along, across = (rng.normal(size=(n, 2)) * [0.3, 0.1] + [1.0, 0.0]).T
    angle = -2.0 * np.pi * rng.integers(5, size=n) / 5.0 - 0.25 * np.exp(along)
    blade, aside = _circle(angle), _circle(angle + 0.5 * np.pi)
    return (2.0 * (along[:, None] * blade + across[:, None] * aside)).astype("float32")


def eight_gaussians(n: int, *, seed: Any = None) -> np.ndarray:
    """Draw points of eight Gaussians on a circle.

    x = (4 (cos t, sin t) + e / 2) / sqrt(2) with e of the standard normal distribution and t one of
    0, pi/4, ..., 7 pi/4, each with probability 1/8.

    Args:
      n: number of points.
      seed: seed, or `numpy.random.Generator`; `None` gives other points at every call.

    Returns:
      Array of shape `(n, 2)`, float32.

    Example:

    >>> import keras_nf
    >>> keras_nf.datasets.eight_gaussians(500, seed=0).shape
    (500, 2)

    References:
      Will Grathwohl, Ricky T. Q. Chen, Jesse Bettencourt, Ilya Sutskever, David Duvenaud. FFJORD:
      Free-form Continuous Dynamics for Scalable Reversible Generative Models. 2018.
      arXiv:1810.01367
    """
    rng = _generator(n, seed)
    centre = 4.0 * _circle(rng.integers(8, size=n) * np.pi / 4.0)
    return ((centre + 0.5 * rng.normal(size=(n, 2))) / np.sqrt(2.0)).astype("float32")
