"""Densities on which flows are tried, of two components, by their energies.

Example:

>>> import numpy as np, keras_nf
>>> z = np.random.default_rng(0).normal(size=(5, 2))
>>> [energy(z).shape for energy in (keras_nf.datasets.u1, keras_nf.datasets.u2)]
[TensorShape([5]), TensorShape([5])]
"""

import math
from typing import Any

from keras import ops

__all__ = ["u1", "u2", "u3", "u4"]


def _log_sum_exp(a, b):
    """Return ln(e^-a + e^-b)."""
    return -ops.minimum(a, b) + ops.softplus(-ops.abs(a - b))


def _wave(z):
    return ops.sin(0.5 * math.pi * z[..., 0])


def u1(z: Any) -> Any:
    """Energy of two halves of a ring, of density proportional to exp(-U).

    U(z) = 1/2 ((|z| - 2) / 0.4)^2
           - ln(e^(-1/2 ((z_1 - 2) / 0.6)^2) + e^(-1/2 ((z_1 + 2) / 0.6)^2)).
    Its integral over the plane is Z = e^1.87750.

    Args:
      z: tensor of shape `(..., 2)`.

    Returns:
      U, of shape `(...)`, in nats.

    Example:

    >>> import numpy as np, keras_nf
    >>> round(float(keras_nf.datasets.u1(np.array([0.0, 2.0]))), 6)
    4.862408

    References:
      Danilo Jimenez Rezende, Shakir Mohamed. Variational Inference with Normalizing Flows. 2015.
      arXiv:1505.05770
    """
    z = ops.convert_to_tensor(z)
    # A norm has no gradient at the origin.
    radius = ops.sqrt(ops.sum(z**2, axis=-1) + 1e-12)
    left, right = (0.5 * ((z[..., 0] + centre) / 0.6) ** 2 for centre in (2.0, -2.0))
    return 0.5 * ((radius - 2.0) / 0.4) ** 2 - _log_sum_exp(left, right)


def u2(z: Any) -> Any:
    """Energy of a wave, of density proportional to exp(-U).

    U(z) = 1/2 ((z_2 - w_1) / 0.4)^2 with w_1 = sin(pi z_1 / 2). Its integral over the square
    [-4, 4]^2 is Z = e^2.08209; over the plane it has none.

    Args:
      z: tensor of shape `(..., 2)`.

    Returns:
      U, of shape `(...)`, in nats.

    Example:

    >>> import numpy as np, keras_nf
    >>> round(float(keras_nf.datasets.u2(np.array([1.0, 1.0]))), 6)
    0.0

    References:
      Danilo Jimenez Rezende, Shakir Mohamed. Variational Inference with Normalizing Flows. 2015.
      arXiv:1505.05770
    """
    z = ops.convert_to_tensor(z)
    return 0.5 * ((z[..., 1] - _wave(z)) / 0.4) ** 2


def u3(z: Any) -> Any:
    """Energy of a wave that splits in the middle, of density proportional to exp(-U).

    U(z) = -ln(e^(-1/2 ((z_2 - w_1) / 0.35)^2) + e^(-1/2 ((z_2 - w_1 + w_2) / 0.35)^2)) with
    w_1 = sin(pi z_1 / 2) and w_2 = 3 e^(-1/2 ((z_1 - 1) / 0.6)^2). Its integral over the square
    [-4, 4]^2 is Z = e^2.64171; over the plane it has none.

    Args:
      z: tensor of shape `(..., 2)`.

    Returns:
      U, of shape `(...)`, in nats.

    Example:

    >>> import numpy as np, keras_nf
    >>> round(float(keras_nf.datasets.u3(np.array([-3.0, 1.0]))), 6)
    -0.693147

    References:
      Danilo Jimenez Rezende, Shakir Mohamed. Variational Inference with Normalizing Flows. 2015.
      arXiv:1505.05770
    """
    z = ops.convert_to_tensor(z)
    offset = z[..., 1] - _wave(z)
    split = 3.0 * ops.exp(-0.5 * ((z[..., 0] - 1.0) / 0.6) ** 2)
    return -_log_sum_exp(0.5 * (offset / 0.35) ** 2, 0.5 * ((offset + split) / 0.35) ** 2)


def u4(z: Any) -> Any:
    """Energy of a wave that splits to one side, of density proportional to exp(-U).

    U(z) = -ln(e^(-1/2 ((z_2 - w_1) / 0.4)^2) + e^(-1/2 ((z_2 - w_1 + w_3) / 0.35)^2)) with
    w_1 = sin(pi z_1 / 2) and w_3 = 3 sigmoid((z_1 - 1) / 0.3). Its integral over the square
    [-4, 4]^2 is Z = e^2.68457; over the plane it has none.

    Args:
      z: tensor of shape `(..., 2)`.

    Returns:
      U, of shape `(...)`, in nats.

    Example:

    >>> import numpy as np, keras_nf
    >>> round(float(keras_nf.datasets.u4(np.array([-3.0, 1.0]))), 6)
    -0.693147

    References:
      Danilo Jimenez Rezende, Shakir Mohamed. Variational Inference with Normalizing Flows. 2015.
      arXiv:1505.05770
    """
    z = ops.convert_to_tensor(z)
    offset = z[..., 1] - _wave(z)
    split = 3.0 * ops.sigmoid((z[..., 0] - 1.0) / 0.3)
    return -_log_sum_exp(0.5 * (offset / 0.4) ** 2, 0.5 * ((offset + split) / 0.35) ** 2)
