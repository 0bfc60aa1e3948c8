"""Derivatives in forward mode: right, or refused."""

import numpy as np
import pytest
import tensorflow as tf
from cases import perturb

import keras_nf

SMALL = {"hidden_units": (8,), "activation": "tanh", "dtype": "float64"}
FLOWS = {
    "coupling": lambda: keras_nf.AffineCoupling(**SMALL),
    "random": lambda: keras_nf.real_nvp(3, layers=2, mask="random", **SMALL),
    "maf": lambda: keras_nf.MaskedAutoregressive(**SMALL),
    "iaf": lambda: keras_nf.InverseAutoregressive(**SMALL),
    "planar": lambda: keras_nf.Planar(folds=3, dtype="float64"),
    "logit": lambda: keras_nf.Invert(keras_nf.Logit(-9.0, 9.0, dtype="float64")),
}
REFUSED = {
    *(("maf", "forward", where) for where in ("eager", "inside", "around")),
    *(("iaf", "inverse", where) for where in ("eager", "inside", "around")),
    ("planar", "forward", "inside"),
    ("planar", "inverse", "inside"),
}


@pytest.mark.parametrize("where", ["eager", "inside", "around"])
@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("name", FLOWS)
def test_forward_mode(name, direction, where):
    """Without a graph, with the accumulator inside of one, and around it."""
    rng = np.random.default_rng(0)
    x, tangent = (tf.constant(rng.uniform(-1.0, 1.0, size=(4, 3))) for _ in range(2))
    flow = FLOWS[name]()
    flow(x)
    perturb(flow)
    function = getattr(flow, f"{direction}_and_log_det")
    if where == "around":
        function = tf.function(function, autograph=False)

    def derivatives(x, tangent):
        with tf.autodiff.ForwardAccumulator(x, tangent) as accumulator:
            results = function(x)
        return [accumulator.jvp(result) for result in results]

    if where == "inside":
        derivatives = tf.function(derivatives, autograph=False)
    if (name, direction, where) in REFUSED:
        with pytest.raises(NotImplementedError, match=r"in forward mode.*Use a tf.GradientTape"):
            derivatives(x, tangent)
        return
    step = 1e-5
    for actual, high, low in zip(
        derivatives(x, tangent), function(x + step * tangent), function(x - step * tangent)
    ):
        np.testing.assert_allclose(actual, (high - low) / (2.0 * step), atol=1e-8)
