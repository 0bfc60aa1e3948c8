"""Distribution functions and quantiles of events of one component."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from cases import perturb
from tensorflow_probability import distributions as tfd

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

RNG = np.random.default_rng(0)
C = RNG.normal(size=(4, 2)).astype("float32")


class Mirror(keras_nf.Flow):
    """x = -z, or z where the first component of a condition is positive."""

    @property
    def uses_condition(self):
        return True

    def _sign(self, condition):
        return -1.0 if condition is None else tf.sign(condition[..., :1])

    def _forward_and_log_det(self, x, condition=None):
        return x * self._sign(condition), tf.zeros_like(x[..., 0])

    _inverse_and_log_det = _forward_and_log_det


def spline():
    return keras_nf.SplineAutoregressive(hidden_units=(8,), bins=4)


# Flows of one component, the last of which decreases.
HEADS = {
    "spline": lambda: [spline()],
    "planar": lambda: [keras_nf.Planar(folds=2), keras_nf.LULinear(), keras_nf.Scaling()],
    "recipe": lambda: [keras_nf.nsf(event_size=1, layers=2, hidden_units=(8,), bins=4)],
    "mirrored": lambda: [spline(), Mirror()],
}


def model_of(flows, base="normal", conditional=False):
    model = keras_nf.FlowModel(
        keras_nf.Chain(flows, event_size=1, dtype=flows[0].dtype_policy), base
    )
    x_shape = (None, 1)
    model.build({"x": x_shape, "condition": (None, 2)} if conditional else x_shape)
    perturb(model.flow)
    return model


@pytest.mark.parametrize("base", ["normal", "logistic", "student"])
@pytest.mark.parametrize("head", HEADS)
def test_integral_of_the_density(head, base):
    base = keras_nf.bases.StudentT(3.0) if base == "student" else base
    model = model_of(HEADS[head](), base)
    low, high = np.ravel(model.quantile([0.01, 0.99]))
    x = np.linspace(low, high, 4001, dtype="float32")[:, None]
    density = np.exp(model.log_prob(x)).astype("float64")
    steps = 0.5 * (density[1:] + density[:-1]) * np.diff(x[:, 0])
    np.testing.assert_allclose(0.01 + np.cumsum(steps), model.cdf(x)[1:], atol=2e-4)


@pytest.mark.parametrize(
    ("head", "conditional"),
    # Planar flows take conditions where an encoder gives their weights.
    [(head, False) for head in HEADS] + [(head, True) for head in HEADS if head != "planar"],
)
def test_quantiles_undo_the_distribution_function(head, conditional):
    model = model_of(HEADS[head](), conditional=conditional)
    p = np.array([0.001, 0.05, 0.5, 0.8, 0.999], "float32")
    condition = {"condition": C} if conditional else {}
    x = model.quantile(p[:, None] if conditional else p, **condition)
    assert x.shape == ((5, 4, 1) if conditional else (5, 1))
    np.testing.assert_allclose(
        model.cdf(x, **condition),
        np.broadcast_to(p[:, None], (5, 4)) if conditional else p,
        atol=1e-5,
    )
    assert np.all(np.diff(x, axis=0) > 0.0)


def test_samples_have_the_quantiles():
    model = model_of([spline(), Mirror()])
    draws = model.sample(20_000, seed=0).numpy()
    p = scipy.stats.kstest(np.ravel(model.cdf(draws)), "uniform").pvalue
    assert p > 1e-3


def test_each_condition_decides_whether_the_map_increases():
    model = keras_nf.FlowModel(Mirror(event_size=1), keras_nf.bases.Normal(trainable=True))
    model.build({"x": (None, 1), "condition": (None, 2)})
    model.base.loc.assign([1.0])
    condition = np.array([[1.0, 0.0], [-1.0, 0.0]], "float32")
    expected = scipy.stats.norm([1.0, -1.0]).cdf(0.3)
    x = np.full((2, 1), 0.3, "float32")
    np.testing.assert_allclose(model.cdf(x, condition), expected, atol=1e-6)
    x = model.quantile(0.3, condition)
    np.testing.assert_allclose(x[:, 0], scipy.stats.norm([1.0, -1.0]).ppf(0.3), atol=1e-6)


def test_conditional_base():
    base = keras_nf.bases.Normal(trainable=True, conditional=True)
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=1), base)
    model.build({"x": (None, 1), "condition": (None, 2)})
    base.loc_kernel.assign([[1.0], [-2.0]])
    expected = scipy.stats.norm(C @ [1.0, -2.0]).ppf(0.7)
    np.testing.assert_allclose(model.quantile(0.7, C)[:, 0], expected, atol=1e-5)


def test_in_a_graph_and_as_a_distribution():
    model = model_of([spline()])
    x = tf.constant([[-1.0], [0.3]])
    graph = tf.function(lambda x: model.quantile(model.cdf(x)))
    np.testing.assert_allclose(graph(x), x, atol=1e-4)
    np.testing.assert_array_equal(model.distribution.cdf(x), model.cdf(x))


def test_more_components_than_one():
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2))
    model.build((None, 2))
    with pytest.raises(ValueError, match=r"events of one component. Received: .*\(2,\)"):
        model.cdf(np.zeros((3, 2), "float32"))
    with pytest.raises(ValueError, match="events of one component"):
        model.quantile(0.5)


def test_base_without_them():
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=1), keras_nf.bases.Mixture(2))
    model.build((None, 1))
    with pytest.raises(ValueError, match="base of independent components"):
        model.quantile(0.5)


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan"), [0.5, 2.0]])
def test_probabilities_out_of_range(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        model_of([keras_nf.Scaling()]).quantile(p)


def test_distributions_of_tfp_do_not_know_whether_a_flow_increases():
    scaling = keras_nf.Scaling(event_size=1)
    base = tfd.Independent(tfd.Normal([0.0], 1.0), 1)
    with pytest.raises(NotImplementedError, match=r"whether it increases. `flow\(base\)\.cdf`"):
        tfd.TransformedDistribution(base, scaling).cdf([0.5])
    np.testing.assert_allclose(scaling(base).cdf([0.5]), scipy.stats.norm.cdf(0.5), atol=1e-6)
