"""Invertible scalar maps whose parameters are given: what couplings and autoregression apply.

A map has a number of `parameters` per component and two methods, `forward(x, parameters)` and
`inverse(y, parameters)`, with the parameters as one tensor of shape `(parameters, *x.shape)`. Both
return the value and the log-derivative of each component. Parameters of zero give the identity.

Example:

>>> import numpy as np, keras_nf
>>> x = np.ones((3, 5), "float32")
>>> affine, zero = keras_nf.elementwise.Affine(), np.zeros((2, 3, 5), "float32")
>>> y, log_derivative = affine.forward(x, zero)
>>> np.asarray(y)[0, 0].item(), np.asarray(log_derivative)[0, 0].item()
(1.0, 0.0)
"""

from keras_nf.elementwise.affine import Affine, Shift
from keras_nf.elementwise.spline import RationalQuadraticSpline

__all__ = ["Affine", "RationalQuadraticSpline", "Shift"]
