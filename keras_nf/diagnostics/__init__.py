"""When to trust a flow: tests of a model on data, of a posterior, of draws, of weights, of a flow.

A function returns a `Result`: named numbers, `passed`, a sentence by `str(result)` and, most of
them, a picture by `result.plot(axes)`, with matplotlib (extra `plot`). A right model fails a test
with probability `alpha`, 0.01 by default, at most. `report` runs all that a model and data take.

Example:

>>> import numpy as np, keras_nf
>>> model = keras_nf.FlowModel(keras_nf.Scaling(event_size=1))
>>> x = np.random.default_rng(0).normal(0.5, 1.0, size=(400, 1))
>>> keras_nf.diagnostics.report(model, x).failed
['untouched', 'pit', 'normality']
"""

from keras_nf.diagnostics.callbacks import Calibration, RoundTripError
from keras_nf.diagnostics.check import check_flow as check_flow
from keras_nf.diagnostics.classifier import c2st
from keras_nf.diagnostics.maps import log_det, round_trip, untouched
from keras_nf.diagnostics.moments import normality
from keras_nf.diagnostics.regions import coverage
from keras_nf.diagnostics.result import Result
from keras_nf.diagnostics.summary import report
from keras_nf.diagnostics.uniform import pit, sbc
from keras_nf.diagnostics.weights import importance

__all__ = [
    "Calibration",
    "Result",
    "RoundTripError",
    "c2st",
    "coverage",
    "importance",
    "log_det",
    "normality",
    "pit",
    "report",
    "round_trip",
    "sbc",
    "untouched",
]
