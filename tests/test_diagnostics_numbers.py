"""Numbers of the diagnostics: closed forms, pictures, callbacks, and what is refused."""

import sys

import keras
import matplotlib as mpl
import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from tensorflow_probability import distributions as tfd

import keras_nf
from keras_nf import diagnostics
from keras_nf.diagnostics import statistics

mpl.use("Agg")

import matplotlib.pyplot as plt

pytestmark = pytest.mark.usefixtures("without_xla")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1000, 2)).astype("float32")


@pytest.fixture
def axes():
    _, axes = plt.subplots()
    return axes


def affine(scale, shift, **options):
    """Return the model of x = scale z + shift."""
    flow = keras_nf.Scaling(use_shift=True, event_size=len(scale))
    flow.build((None, len(scale)))
    flow.log_scale.assign(np.log(scale))
    flow.shift.assign(shift)
    return keras_nf.FlowModel(flow, **options)


def conditional():
    """Return a model of theta ~ N(x, 1), both of two components."""
    base = keras_nf.bases.Normal(trainable=True, conditional=True)
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2), base=base)
    model.build({"x": (None, 2), "condition": (None, 2)})
    base.loc_kernel.assign(np.eye(2))
    return model


# P-values, against SciPy.


@pytest.mark.parametrize("rows", [20, 100, 1000])
@pytest.mark.parametrize("p_value", [0.5, 1e-2, 1e-3, 1e-4])
def test_kolmogorov(rows, p_value):
    distance = stats.kstwo.isf(p_value, rows)
    assert statistics.kolmogorov(distance, rows) == pytest.approx(p_value, rel=0.2)
    if p_value < 0.1:
        assert statistics.critical_distance(p_value, rows) == pytest.approx(distance, rel=0.01)


def test_distances_from_uniform():
    u = RNG.beta(2.0, 1.0, size=(300, 2))
    expected = [stats.kstest(column, "uniform").statistic for column in u.T]
    np.testing.assert_allclose(statistics.distances_from_uniform(u), expected)


def test_p_values_of_moments():
    totals = np.array([60.0, 100.0, 140.0])
    sides = stats.chi2.cdf(totals, 100), stats.chi2.sf(totals, 100)
    expected = 2.0 * np.minimum(*sides)
    np.testing.assert_allclose(statistics.chi_squared(totals, 100.0), expected, rtol=1e-9)
    np.testing.assert_allclose(statistics.standard_normal(3.0), 2.0 * stats.norm.sf(3.0))
    x = RNG.normal(size=(2, 50))
    r, expected = stats.pearsonr(*x)
    np.testing.assert_allclose(statistics.correlation(r, 50), expected, rtol=1e-9)


@pytest.mark.parametrize(("successes", "trials", "q"), [(0, 20, 0.5), (45, 50, 0.9), (30, 30, 0.8)])
def test_binomial(successes, trials, q):
    below, above = stats.binom.cdf(successes, trials, q), stats.binom.sf(successes - 1, trials, q)
    expected = min(1.0, 2.0 * min(below, above))
    assert statistics.binomial(successes, trials, q) == pytest.approx(expected)


def test_holm():
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(statistics.holm([[0.6], [0.9]]), [[1.0], [1.0]])


# Values of a Gaussian model.


def test_pit_of_a_gaussian():
    result = diagnostics.pit(affine([2.0, 0.5], [1.0, -1.0]), X)
    expected = stats.norm.cdf((X - [1.0, -1.0]) / [2.0, 0.5])
    np.testing.assert_allclose(result.values, expected, atol=1e-6)
    tests = [stats.kstest(column, "uniform") for column in expected.T]
    np.testing.assert_allclose(result.distances, [test.statistic for test in tests], atol=1e-5)
    assert not result.passed


@pytest.mark.parametrize("base", ["logistic", "uniform", "student", "mixture"])
def test_pit_of_another_base(base):
    """Data are draws of the base."""
    bases = {"student": keras_nf.bases.StudentT(2.0), "mixture": keras_nf.bases.Mixture(3)}
    keras.utils.set_random_seed(0)
    model = affine([1.0, 1.0], [0.0, 0.0], base=bases.get(base, base))
    model.build((None, 2))
    x = model.distribution.sample(2000, seed=(0, 0))
    result = diagnostics.pit(model, x)
    assert result.passed
    assert diagnostics.normality(model, x).passed
    known = {"logistic": stats.logistic.cdf, "uniform": np.asarray, "student": stats.t(2.0).cdf}
    if base in known:
        np.testing.assert_allclose(result.values, known[base](x), atol=1e-5)
    else:
        mixture = bases["mixture"]
        weights, ends = (
            np.full(3, 1.0 / 3.0),
            (x[:, None] - mixture.loc) / np.exp(mixture.log_scale),
        )
        expected = np.einsum("k,rki->ri", weights, stats.norm.cdf(ends))
        np.testing.assert_allclose(result.values, expected, atol=1e-5)


def test_moments():
    scale, shift = [2.0, 0.5], [1.0, -1.0]
    result = diagnostics.normality(affine(scale, shift), X)
    z = (X.astype("float64") - shift) / scale
    np.testing.assert_allclose(result.means, z.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(result.variances, np.mean(z**2, axis=0), atol=1e-5)
    np.testing.assert_allclose(result.correlations, np.corrcoef(z.T), atol=1e-5)
    assert set(result.p_values) == {"mean", "variance", "dependence"}
    # Of three kinds of tests, of two means.
    expected = min(1.0, 6 * np.min(2.0 * stats.norm.sf(np.abs(z.mean(axis=0)) * 1000**0.5)))
    assert result.p_values["mean"] == pytest.approx(expected, rel=1e-3, abs=1e-300)


@pytest.mark.parametrize("bend", [lambda x: x**2, np.abs, lambda x: 3.0 * np.sin(2.0 * x)])
def test_dependence_without_correlation(bend):
    z = np.array(X)
    z[:, 1] = 0.5 * z[:, 1] + bend(z[:, 0])
    z[:, 1] = (z[:, 1] - z[:, 1].mean()) / z[:, 1].std()
    # Normal by itself, so that dependence alone is left.
    z[:, 1] = stats.norm.ppf((stats.rankdata(z[:, 1]) - 0.5) / len(z))
    result = diagnostics.normality(affine([1.0, 1.0], [0.0, 0.0]), z)
    assert result.worst["dependence"] == (0, 1)
    assert result.p_values["dependence"] < 1e-6
    assert min(result.p_values["mean"], result.p_values["variance"]) > 0.1


def test_coverage_of_central_intervals():
    result = diagnostics.coverage(affine([0.8], [0.3]), X[:, :1], levels=[0.5, 0.9])
    assert result.regions == "central intervals"
    ends = 0.8 * stats.norm.ppf([0.75, 0.95])
    expected = [np.mean(np.abs(X[:, 0] - 0.3) <= end) for end in ends]
    np.testing.assert_allclose(result.shares, expected, atol=1e-3)


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.25])
def test_coverage_of_densest_regions(scale):
    """Of N(0, s^2 I) they are circles, of radius s (-2 log(1 - q))^(1/2)."""
    levels = np.array([0.5, 0.8, 0.95])
    result = diagnostics.coverage(affine([scale] * 2, [0.0, 0.0]), X, levels=levels)
    expected = [np.mean(np.sum(X**2, axis=1) <= -2.0 * scale**2 * np.log1p(-q)) for q in levels]
    np.testing.assert_allclose(result.shares, expected, atol=0.02)
    assert result.rows == pytest.approx(1000 * 10 / 11)
    assert result.passed == (scale == 1.0)


def test_coverage_with_conditions():
    theta = X + RNG.normal(size=X.shape).astype("float32")
    result = diagnostics.coverage(conditional(), theta, X, levels=[0.9], draws=50)
    expected = 1.0 - np.exp(-0.5 * np.sum((theta - X) ** 2, axis=1))
    np.testing.assert_allclose(result.places, expected, atol=0.35)
    assert np.mean(np.abs(result.places - expected)) < 0.07
    assert result.rows == 1000


def test_ranks():
    theta = X + RNG.normal(size=X.shape).astype("float32")
    result = diagnostics.sbc(conditional(), theta, X, draws=400)
    expected = stats.norm.cdf(theta - X)
    assert np.max(np.abs(result.values - expected)) < 0.12
    again = diagnostics.sbc(conditional(), theta, X, draws=400)
    np.testing.assert_array_equal(again.values, result.values)
    other = diagnostics.sbc(conditional(), theta, X, draws=400, seed=1)
    assert np.any(other.values != result.values)


def test_blocks_of_rows_draw_what_is_theirs(monkeypatch):
    monkeypatch.setattr("keras_nf.diagnostics.subject._NUMBERS", 100 * 2 * 300)
    theta = X + RNG.normal(size=X.shape).astype("float32")
    result = diagnostics.sbc(conditional(), theta, X, draws=100)
    assert result.values.shape == (1000, 2)
    assert np.max(np.abs(result.values - stats.norm.cdf(theta - X))) < 0.25


# Draws and weights.


def test_classifier_of_shifted_gaussians():
    """The best accuracy is that of a threshold between the means."""
    draws, data = RNG.normal(size=(2, 1000, 2)) + [[[1.0, 0.0]], [[0.0, 0.0]]]
    result = diagnostics.c2st(draws, data, classifier=LogisticRegression())
    assert abs(result.accuracy - stats.norm.cdf(0.5)) < 4.0 * result.standard_error
    # Of five folds: 1.5 times the deviation of a binomial share.
    expected = 1.5 * np.sqrt(result.accuracy * (1.0 - result.accuracy) / 2000)
    assert result.standard_error == pytest.approx(expected)
    assert not result.passed
    assert "draws and data differ" in str(result)
    same = diagnostics.c2st(data, data[::-1] + 1e-9, classifier=LogisticRegression())
    assert same.passed
    assert "no more than chance" in str(same)


def test_classifier_of_the_benchmark():
    draws, data = RNG.normal(size=(2, 40, 1))
    assert diagnostics.c2st(draws + 5.0, data, folds=2).accuracy > 0.95
    assert diagnostics.c2st(draws, data, folds=2).accuracy < 0.7


def test_effective_sample_size():
    """E[w]^2 / E[w^2] = sqrt(2 s^2 - 1) / s^2 for p = N(0, 1) and q = N(0, s^2)."""
    x = 2.0 * np.random.default_rng(1).normal(size=20_000)
    result = diagnostics.importance(-0.5 * x**2 + 0.5 * (x / 2.0) ** 2 + 100.0)
    assert result.effective / 20_000 == pytest.approx(np.sqrt(7.0) / 4.0, rel=0.02)
    assert result.weights.sum() == pytest.approx(1.0)
    assert result.pareto_k < 0.2
    assert "finite variance" in str(result)


@pytest.mark.parametrize(("k", "verdict"), [(0.2, "below"), (0.55, "between"), (1.0, "above")])
def test_pareto_k(k, verdict):
    weights = stats.genpareto(k).rvs(size=50_000, random_state=0)
    result = diagnostics.importance(np.log(weights))
    # Of the largest 671, with the deviation of a maximum-likelihood estimate.
    assert abs(result.pareto_k - k) < 3.0 * (1.0 + k) / np.sqrt(671)
    tail = np.sort(weights)[-672:]
    likeliest = stats.genpareto.fit(tail[1:] - tail[0], floc=0.0)[0]
    assert result.pareto_k == pytest.approx((671 * likeliest + 5.0) / 681, abs=0.02)
    assert verdict in str(result)
    assert result.passed == (verdict != "above")


def test_pareto_k_of_a_narrow_proposal():
    """p = N(0, 1) and q = N(0, s^2) have weights of tail index k = 1 - s^2."""
    x = 0.3 * np.random.default_rng(0).normal(size=100_000)
    result = diagnostics.importance(-0.5 * x**2 + 0.5 * (x / 0.3) ** 2)
    assert result.pareto_k == pytest.approx(0.91, abs=0.15)
    assert not result.passed
    assert "outweigh" in str(result)


def test_equal_weights():
    result = diagnostics.importance(np.zeros(100))
    assert result.effective == pytest.approx(100.0)
    assert result.threshold == pytest.approx(0.5)
    assert result.passed


def test_zero_weights():
    result = diagnostics.importance(np.where(np.arange(1000) % 2, 0.0, -np.inf))
    assert result.effective == pytest.approx(500.0)


@pytest.mark.parametrize(
    "wrong", [np.zeros(10), np.full(50, -np.inf), [np.nan] * 50, [np.inf] * 50]
)
def test_weights_that_tell_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="`log_weights` must be at least 25 numbers"):
        diagnostics.importance(wrong)


# The map.


def test_places_among_draws_of_another_base():
    """The components of the base depend on each other."""

    def base(event_size):
        return tfd.MultivariateNormalTriL(np.zeros(2, "float32"), np.float32([[1, 0], [1, 1]]))

    result = diagnostics.pit(keras_nf.FlowModel(keras_nf.Scaling(event_size=2), base=base), X)
    expected = stats.norm.cdf(X / np.sqrt([1.0, 2.0]))
    assert np.max(np.abs(result.values - expected)) < 0.25
    assert np.mean(np.abs(result.values - expected)) < 0.05


@keras.saving.register_keras_serializable("diagnostics_tests")
class Inexact(keras_nf.Scaling):
    """The inverse is off by a hundredth of each number."""

    def _inverse_and_log_det(self, y, condition=None):
        x, log_det = super()._inverse_and_log_det(y, condition)
        return 1.01 * x, log_det


def test_errors_of_round_trips():
    result = diagnostics.round_trip(keras_nf.FlowModel(Inexact(event_size=2)), X)
    largest = np.max(np.abs(X))
    assert result.inverse_forward == pytest.approx(0.01 * largest / (1.0 + largest), rel=0.5)
    assert result.tolerance == pytest.approx(2.0**-11.5)
    assert not result.passed
    exact = diagnostics.round_trip(keras_nf.FlowModel(keras_nf.Scaling(event_size=2)), X)
    assert exact.passed
    assert exact.rows == 1000
    assert "`forward` undoes `inverse` to" in str(exact)


def test_log_det_of_each_direction():
    result = diagnostics.log_det(keras_nf.FlowModel(Inexact(event_size=2)), X)
    inverse, forward = result.errors
    true = 2.0 * np.log(1.01)
    assert inverse == pytest.approx(true / (1.0 + true), rel=1e-4)
    assert forward < 1e-12
    assert "that of `inverse` is wrong" in str(result)


def test_every_component_of_an_affine_flow_is_untouched():
    result = diagnostics.untouched(affine([2.0, 3.0], [0.0, 1.0]), 2.0 * X)
    assert result.components == result.latents == (0, 1)
    assert not result.passed
    assert "components 0, 1 are" in str(result)


# Data of other kinds.


def test_integers_get_noise():
    flow = keras_nf.Chain(
        [
            keras_nf.Scaling(event_size=2),
            keras_nf.Logit(0.0, 1.0, margin=0.0),
            keras_nf.Dequantize(8),
        ]
    )
    model = keras_nf.FlowModel(flow, base="logistic")
    x = RNG.integers(8, size=(2000, 2)).astype("uint8")
    assert diagnostics.report(model, x).passed


def test_positions_of_a_base():
    """The flow acts on the last axis of events of two."""

    def base(event_size):
        return tfd.Independent(tfd.Normal(np.zeros((3, 2), "float32"), np.float32(1.0)), 2)

    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2), base=base)
    x = RNG.normal(size=(500, 3, 2)).astype("float32")
    report = diagnostics.report(model, x)
    assert report.passed
    assert report["pit"].values.shape == (500, 6)
    assert not diagnostics.report(model, 2.0 * x)["untouched"].passed


def test_large_events_have_no_jacobians():
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=1100))
    x = RNG.normal(size=(50, 1100)).astype("float32")
    report = diagnostics.report(model, x)
    assert list(report.results) == ["round_trip", "pit", "normality", "coverage"]
    assert report.passed
    assert report["normality"].correlations.shape == (256, 256)
    with pytest.raises(ValueError, match="up to 1024 components"):
        diagnostics.log_det(model, x)


def test_rows_without_a_density():
    model = keras_nf.FlowModel(
        keras_nf.Chain([keras_nf.Scaling(event_size=2), keras_nf.Logit(0.0, 1.0, margin=0.0)])
    )
    x = RNG.uniform(0.1, 0.9, size=(100, 2)).astype("float32")
    x[3] = 1.5
    report = diagnostics.report(model, x)
    assert "latents" in report.failed
    assert "those of 1 of 100 rows are not finite" in str(report)
    with pytest.raises(ValueError, match="latents of 1 of 100 rows are not finite"):
        diagnostics.pit(model, x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: diagnostics.pit(m, X[:5]), "at least 20 rows"),
        (lambda m: diagnostics.report(m, X[0]), "Expected data of shape"),
        (lambda m: diagnostics.pit(m.flow, X), r"Expected a keras_nf\.FlowModel"),
        (lambda m: diagnostics.coverage(m, X, levels=[1.0]), "between 0 and 1"),
        (lambda m: diagnostics.sbc(m, X, None), "must hold the observations"),
        (lambda m: diagnostics.sbc(m, X, X), "uses a condition"),
        (lambda m: diagnostics.sbc(conditional(), X, X, draws=0), "`draws` must be a positive"),
        (lambda m: diagnostics.c2st(X[:10], X), "about as many rows"),
        (lambda m: diagnostics.c2st(X[:, :1], X), "must have the shape"),
        (lambda m: diagnostics.Calibration(X, every=0), "`every` must be a positive"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(affine([1.0, 1.0], [0.0, 0.0]))


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(ModuleNotFoundError, match=r"keras_nf\[sklearn\]"):
        diagnostics.c2st(X, X)


# Pictures.


def test_picture_of_uniformity(axes):
    result = diagnostics.pit(affine([1.0, 1.0], [0.0, 0.0]), X)
    assert result.plot(axes) is axes
    curves = axes.lines[1:]
    for curve, distance in zip(curves, result.distances, strict=True):
        assert np.max(np.abs(curve.get_ydata())) == pytest.approx(distance, abs=0.003)
    (band,) = axes.patches
    assert band.get_y() == pytest.approx(-stats.kstwo.isf(0.005, 1000), rel=0.01)


def test_picture_of_coverage(axes):
    result = diagnostics.coverage(affine([1.0, 1.0], [0.0, 0.0]), X)
    result.plot(axes)
    levels, shares = axes.lines[2].get_data()
    np.testing.assert_array_equal(levels, [0.5, 0.8, 0.9, 0.95])
    np.testing.assert_array_equal(shares, result.shares)
    np.testing.assert_allclose(np.interp(levels, *axes.lines[1].get_data()), shares, atol=0.005)


def test_picture_of_dependence(axes):
    result = diagnostics.normality(affine([1.0, 1.0], [0.0, 0.0]), X)
    result.plot(axes)
    np.testing.assert_array_equal(axes.images[0].get_array(), result.correlations)


def test_picture_of_weights(axes):
    result = diagnostics.importance(np.log(stats.genpareto(0.9).rvs(size=2000, random_state=0)))
    result.plot(axes)
    weights, shares = axes.lines[0].get_data()
    np.testing.assert_allclose(weights, np.sort(result.weights)[::-1] * 2000)
    assert shares[0] == pytest.approx(1.0 / 2000)
    line = axes.lines[1].get_data()
    slope = np.diff(np.log(line[1])) / np.diff(np.log(line[0]))
    np.testing.assert_allclose(slope, -1.0 / result.pareto_k)


# Callbacks.


def test_callbacks_log():
    model = keras_nf.FlowModel(keras_nf.real_nvp(2, layers=2, hidden_units=(4,)))
    model.compile("sgd")
    seen = []
    callbacks = [
        diagnostics.Calibration(X[800:], level=0.8, every=2),
        diagnostics.RoundTripError(X[800:], every=2),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs))),
    ]
    history = model.fit(X[:800], epochs=4, batch_size=400, verbose=0, callbacks=callbacks)
    names = ("val_pit_distance", "val_coverage", "val_round_trip")
    assert [names[0] in logs for logs in seen] == [False, True, False, True]
    for name in names:
        assert history.history[name] == [logs[name] for logs in seen[1::2]]
    assert history.history["val_pit_distance"][-1] == pytest.approx(
        diagnostics.pit(model, X[800:]).distances.max()
    )
    assert history.history["val_coverage"][-1] == pytest.approx(
        diagnostics.coverage(model, X[800:], levels=[0.8]).shares[0]
    )
    assert history.history["val_round_trip"][-1] < 1e-5
    axes = keras_nf.plot.history(history, validation_freq=2)
    assert len(axes.lines) == 4
