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
    p = np.array([1e-4, 0.05, 0.5, 0.8, 1.0 - 1e-4], "float32")
    condition = {"condition": C} if conditional else {}
    x = model.quantile(p[:, None] if conditional else p, **condition)
    assert x.shape == ((5, 4, 1) if conditional else (5, 1))
    np.testing.assert_allclose(
        model.cdf(x, **condition),
        np.broadcast_to(p[:, None], (5, 4)) if conditional else p,
        atol=1e-5,
    )
    assert np.all(np.diff(x, axis=0) > 0.0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_beyond_what_the_flow_reaches(mirrored):
    """All of the probability lies on one side of what is out of reach."""
    flows = [keras_nf.Scaling(), *([Mirror()] if mirrored else []), keras_nf.Logit(1.0, 3.0)]
    model = model_of(flows)
    x = np.array([[-5.0], [0.5], [3.5], [99.0], [np.nan]], "float32")
    np.testing.assert_array_equal(model.cdf(x), [0.0, 0.0, 1.0, 1.0, np.nan])


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


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("head", ["recipe", "mirrored"])
def test_moments_are_those_of_many_quantiles(head, conditional):
    model = model_of(HEADS[head](), conditional=conditional)
    condition = {"condition": C} if conditional else {}
    p = ((np.arange(200_000) + 0.5) / 200_000).astype("float32")
    x = model.quantile(p[:, None] if conditional else p, **condition).numpy().astype("float64")
    np.testing.assert_allclose(model.mean(**condition), x.mean(axis=0), atol=3e-4)
    np.testing.assert_allclose(model.stddev(**condition), x.std(axis=0), atol=3e-4)
    np.testing.assert_array_equal(model.median(**condition), model.quantile(0.5, **condition))
    low, high = model.interval(0.8, **condition)
    assert low.shape == x.shape[1:]
    np.testing.assert_allclose(model.cdf(low, **condition), 0.1, atol=1e-5)
    np.testing.assert_allclose(model.cdf(high, **condition), 0.9, atol=1e-5)


def test_moments_in_closed_form():
    model = keras_nf.FlowModel(keras_nf.Scaling(use_shift=True, event_size=1), "logistic")
    model.build((None, 1))
    model.flow.log_scale.assign([np.log(2.0)])
    model.flow.shift.assign([-3.0])
    assert float(model.mean()[0]) == pytest.approx(-3.0, abs=1e-4)
    assert float(model.stddev()[0]) == pytest.approx(2.0 * np.pi / 3.0**0.5, rel=1e-4)


class TestMoreComponents:
    """Marginals from draws, of events and bases that have no exact ones."""

    @pytest.fixture(scope="class")
    def model(self):
        base = keras_nf.bases.Normal(trainable=True, conditional=True)
        model = keras_nf.FlowModel(keras_nf.Scaling(event_size=3), base)
        model.build({"x": (None, 3), "condition": (None, 2)})
        model.base.loc_kernel.assign([[1.0, 0.0, 2.0], [0.0, -3.0, 0.0]])
        model.flow.log_scale.assign(np.log([1.0, 2.0, 0.5]))
        return model

    @pytest.fixture
    def expected(self, model):
        scale = np.array([1.0, 2.0, 0.5])
        return scipy.stats.norm(scale * (C @ model.base.loc_kernel.numpy()), scale)

    def test_they_are_not_exact(self, model):
        assert not model.has_exact_quantiles

    def test_cdf(self, model, expected):
        x = np.ones((4, 3), "float32")
        cdf = model.cdf(x, C, draws=10_000, seed=0)
        np.testing.assert_allclose(cdf, expected.cdf(x), atol=0.02)

    @pytest.mark.parametrize("p", [0.3, [0.1, 0.4, 0.6, 0.9], [[0.2], [0.9]]])
    def test_quantiles(self, model, expected, p):
        p = np.array(p)
        x = model.quantile(p, C, draws=10_000, seed=0)
        assert x.shape == (*np.broadcast_shapes(p.shape, (4,)), 3)
        np.testing.assert_allclose(x, expected.ppf(p[..., None]), atol=0.1)

    def test_interval_and_moments(self, model, expected):
        options = {"draws": 10_000, "seed": 1}
        low, high = model.interval(0.5, C, **options)
        np.testing.assert_allclose(low, expected.ppf(0.25), atol=0.1)
        np.testing.assert_allclose(high, expected.ppf(0.75), atol=0.1)
        np.testing.assert_allclose(model.median(C, **options), expected.mean(), atol=0.1)
        np.testing.assert_allclose(model.mean(C, **options), expected.mean(), atol=0.1)
        np.testing.assert_allclose(model.stddev(C, **options), expected.std(), rtol=0.05)

    def test_the_quantiles_are_those_of_the_draws(self, model):
        draws = model.sample(101, C, seed=3).numpy()
        levels = np.linspace(0.0, 1.0, 7)
        x = model.quantile(levels[:, None], C, draws=101, seed=3)
        np.testing.assert_allclose(x, np.quantile(draws, levels, axis=0), atol=1e-6)

    def test_without_a_condition(self):
        model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2), "uniform")
        model.build((None, 2))
        places = np.linspace(0.0, 1.0, 10, dtype="float32").reshape(5, 2)
        np.testing.assert_allclose(model.cdf(places, draws=10_000, seed=0), places, atol=0.02)
        np.testing.assert_array_equal(model.cdf(places[0], draws=100).shape, (2,))
        x = model.quantile([[0.25, 0.5, 0.75]], draws=10_000, seed=0)
        assert x.shape == (1, 3, 2)
        np.testing.assert_allclose(x[0, :, 0], [0.25, 0.5, 0.75], atol=0.02)
        assert model.mean(draws=100, seed=0).shape == (2,)

    def test_a_base_without_quantiles(self):
        model = keras_nf.FlowModel(keras_nf.Scaling(event_size=1), keras_nf.bases.Mixture(2))
        model.build((None, 1))
        assert not model.has_exact_quantiles
        draws = np.sort(model.sample(1000, seed=0), axis=0)
        np.testing.assert_allclose(model.median(seed=0), draws[499:501].mean(axis=0), atol=1e-6)
        with pytest.raises(ValueError, match="base of independent components"):
            model.distribution.quantile(0.5)

    def test_images(self):
        model = keras_nf.FlowModel(keras_nf.Permute(event_ndims=3), "uniform")
        model.build((None, 2, 2, 1))
        assert model.quantile([0.1, 0.2], draws=5, seed=0).shape == (2, 2, 2, 1)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 90, [0.5, 0.9]])
def test_levels_that_are_none(level):
    with pytest.raises(ValueError, match="`level` must be a number between 0 and 1"):
        model_of([keras_nf.Scaling()]).interval(level)


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
