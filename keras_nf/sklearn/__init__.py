"""Flows as estimators of scikit-learn (extra `sklearn`).

`import keras_nf` leaves this package alone, which needs scikit-learn: import it by its own name.

Example:

>>> import numpy as np
>>> from keras_nf.sklearn import FlowDensity
>>> x = np.random.default_rng(0).gamma(2.0, size=(200, 2))
>>> density = FlowDensity("maf", epochs=2, random_state=0).fit(x)
>>> density.score_samples(x[:3]).shape
(3,)
"""

try:
    import sklearn  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "sklearn":
        raise
    raise ModuleNotFoundError(
        "keras_nf.sklearn needs scikit-learn, which is not installed. Install it: pip install "
        '"keras_nf[sklearn]".',
        name="sklearn",
    ) from None

from keras_nf.sklearn.conditional import ConditionalFlowDensity
from keras_nf.sklearn.density import FlowDensity

__all__ = ["ConditionalFlowDensity", "FlowDensity"]
