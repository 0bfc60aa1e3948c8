"""Estimators of scikit-learn: its conventions, densities of raw rows, files."""

import importlib
import io
import pickle
import random
import re
import sys

import joblib
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from processes import run_example
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import check_estimator

import keras_nf
from keras_nf.sklearn import ConditionalFlowDensity, FlowDensity
from keras_nf.sklearn.estimator import _with_noise

pytestmark = pytest.mark.usefixtures("without_xla")

TINY = {"flow_options": {"layers": 2, "hidden_units": (8,)}, "epochs": 2, "random_state": 0}
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(1e3 * RNG.gamma(2.0, size=(120, 2)), columns=["length", "width"])
FEATURES = 10.0 + RNG.normal(size=(120, 2))
TARGETS = 5.0 + FEATURES @ [[1.0, 0.0], [1.0, 2.0]] + 0.1 * RNG.normal(size=(120, 2))


@pytest.fixture(scope="module")
def density():
    return FlowDensity("maf", **TINY).fit(FRAME)


@pytest.fixture(scope="module")
def conditional():
    options = {**TINY, "epochs": 5, "learning_rate": 1e-2}
    return ConditionalFlowDensity("maf", **options).fit(FEATURES, TARGETS[:, 0])


@pytest.fixture(scope="module")
def joint():
    return ConditionalFlowDensity("maf", **TINY).fit(FEATURES, TARGETS)


@pytest.fixture
def eagerly():
    """A training of one step takes less time than its graph."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


# One step of all rows in float64, so that a weight of two is the same as two rows, to 1e-7.
@pytest.mark.slow
@pytest.mark.parametrize("estimator", [FlowDensity, ConditionalFlowDensity])
def test_estimator_keeps_the_conventions(estimator, eagerly):
    options = {"layers": 1, "hidden_units": (8,), "dtype": "float64"}
    one_step = {"epochs": 1, "batch_size": 1000, "validation_fraction": 0.0, "noise": 0.0}
    results = check_estimator(
        estimator("maf", flow_options=options, random_state=0, **one_step), on_skip=None
    )
    assert {each["check_name"] for each in results if each["status"] != "passed"} <= {
        "check_array_api_input"
    }


def test_density_is_that_of_raw_rows(density):
    z, log_det = density.model_.flow.inverse_and_log_det(FRAME.to_numpy("float32"))
    expected = -0.5 * np.sum(np.square(z), axis=1) - np.log(2.0 * np.pi) + log_det
    np.testing.assert_allclose(density.score_samples(FRAME), expected, rtol=1e-5)
    assert np.std(z) < 2.0  # of lengths in the thousands
    assert density.score_samples(FRAME).dtype == "float32"


@pytest.mark.parametrize("standardize", [True, False])
def test_density_of_one_column_sums_to_one(standardize):
    x = 3.0 + 2.0 * RNG.normal(size=(100, 1))
    fitted = FlowDensity("maf", standardize=standardize, **TINY).fit(x)
    points = np.linspace(-60.0, 60.0, 20_001)
    total = np.sum(np.exp(fitted.score_samples(points[:, None]))) * (points[1] - points[0])
    np.testing.assert_allclose(total, 1.0, atol=1e-4)


def test_score_is_the_mean_of_the_log_densities(density):
    values = density.score_samples(FRAME)
    assert density.score(FRAME) == pytest.approx(values.mean(), rel=1e-6)
    weight = np.arange(len(FRAME))
    expected = np.sum(weight * values) / np.sum(weight)
    assert density.score(FRAME, sample_weight=weight) == pytest.approx(expected, rel=1e-6)


def test_frames_give_names(density):
    assert density.feature_names_in_.tolist() == ["length", "width"]
    assert density.n_features_in_ == 2
    with pytest.raises(ValueError, match="feature names should match"):
        density.score_samples(FRAME[["width", "length"]])


def test_samples_have_seeds(density):
    first, again, other = (density.sample(4, random_state=seed) for seed in (0, 0, 1))
    assert first.shape == (4, 2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_training_has_a_seed_and_leaves_others_alone(density):
    random.seed(5)
    np.random.seed(5)
    states = random.getstate(), np.random.get_state()[1].tolist()
    again = clone(density).fit(FRAME)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    np.testing.assert_array_equal(again.score_samples(FRAME), density.score_samples(FRAME))
    other = clone(density).set_params(random_state=1).fit(FRAME)
    assert not np.allclose(other.score_samples(FRAME), density.score_samples(FRAME))


def test_search_through_a_pipeline():
    pipeline = make_pipeline(MinMaxScaler(), FlowDensity("maf", **TINY))
    grid = {"flowdensity__learning_rate": [1e-3, 1e-2]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(FRAME)
    scores = search.cv_results_["mean_test_score"]
    assert scores.shape == (2,)
    assert search.best_score_ == max(scores)
    assert np.isfinite(search.score_samples(FRAME)).all()


def test_files_hold_the_estimator_exactly(density, joint, tmp_path):
    joblib.dump((density, joint), tmp_path / "both.joblib")
    loaded, loaded_joint = joblib.load(tmp_path / "both.joblib")
    np.testing.assert_array_equal(loaded.score_samples(FRAME), density.score_samples(FRAME))
    assert loaded.history_ == density.history_
    assert loaded.get_params() == density.get_params()
    np.testing.assert_array_equal(loaded_joint.predict(FEATURES), joint.predict(FEATURES))


def coupling_with_a_lambda(event_size):
    conditioner = keras.Sequential(
        [keras.layers.Dense(8), keras.layers.Lambda(lambda x: x**2), keras.layers.Dense(2)]
    )
    return keras_nf.AffineCoupling(conditioner=conditioner, event_size=event_size)


def test_files_do_not_run_code_of_a_layer():
    fitted = FlowDensity(coupling_with_a_lambda, epochs=1, random_state=0).fit(FRAME)
    file = io.BytesIO(pickle.dumps(fitted))
    with pytest.raises(ValueError, match="Lambda"):
        pickle.load(file)


def test_constant_columns_are_refused_by_name():
    frame = FRAME.assign(height=2.5)
    with pytest.raises(ValueError, match=re.escape("Column height is constant, 2.5 in all rows")):
        FlowDensity("maf", **TINY).fit(frame)


def test_columns_that_float32_does_not_tell_apart():
    x = np.column_stack([1.7e9 + RNG.normal(size=120), RNG.normal(size=120)])
    with pytest.raises(ValueError, match=r"Column 0 .* which float32 tells apart badly"):
        FlowDensity("maf", **TINY).fit(x)
    options = {**TINY, "flow_options": {**TINY["flow_options"], "dtype": "float64"}}
    scores = FlowDensity("maf", **options).fit(x).score_samples(x)
    assert scores.dtype == "float64"
    assert len(np.unique(scores)) == len(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flow": "realnvp"}, "`flow` must be one of 'iaf', 'maf', 'nice', 'nsf'"),
        ({"validation_fraction": 1.0}, r"`validation_fraction` must be in \[0, 1\)"),
    ],
)
def test_wrong_parameters_are_told_in_fit(options, message):
    with pytest.raises(ValueError, match=message):
        FlowDensity(**options).fit(FRAME)


def test_training_stops_by_rows_held_out():
    options = {**TINY, "epochs": 60, "learning_rate": 0.3, "patience": 2}
    history = FlowDensity("maf", **options).fit(FRAME[:40]).history_
    losses = history["val_loss"]
    assert len(losses) < 60
    assert np.argmin(losses) == len(losses) - 3
    assert history["learning_rate"][-1] == pytest.approx(0.3**2)


def test_without_rows_held_out_the_rate_falls_to_zero():
    fitted = FlowDensity("maf", validation_fraction=0.0, **TINY).fit(FRAME)
    assert len(fitted.history_["loss"]) == TINY["epochs"]
    assert "val_loss" not in fitted.history_
    assert float(fitted.model_.optimizer.learning_rate) == pytest.approx(0.0, abs=1e-9)


def test_flows_that_need_data_adapt_to_standardized_rows():
    fitted = FlowDensity(lambda size: keras_nf.ActNorm(event_size=size), epochs=1).fit(FRAME)
    act_norm, _ = fitted.model_.flow.flows
    assert act_norm.adapted
    np.testing.assert_allclose(act_norm.shift, 0.0, atol=0.05)


def test_noise_is_fresh_and_has_its_size():
    zeros = np.zeros((4000, 2), "float32")
    batches = tf.data.Dataset.from_tensors(zeros).map(lambda x: (x, x, x))
    noisy = _with_noise(batches, np.array([0.1, 20.0]), seed=0)
    first, second = (next(iter(noisy))[0].numpy() for _ in range(2))
    assert not np.any(first == second)
    np.testing.assert_allclose(first.std(axis=0), [0.1, 20.0], rtol=0.06)


def test_mean_and_quantiles_are_those_of_the_density(conditional):
    x = FEATURES[:3]
    y = np.linspace(-20.0, 80.0, 20_001)
    grid = np.repeat(x, len(y), axis=0), np.tile(y, 3)
    density = np.exp(conditional.log_density(*grid)).reshape(3, -1) * (y[1] - y[0])
    np.testing.assert_allclose(density.sum(axis=1), 1.0, atol=1e-3)
    np.testing.assert_allclose(conditional.predict(x), density @ y, rtol=1e-3)
    low, high = conditional.predict_interval(x, 0.8).T
    for ends, share in ((low, 0.1), (high, 0.9)):
        below = [np.sum(each[y < end]) for each, end in zip(density, ends)]
        np.testing.assert_allclose(below, share, atol=2e-3)
    median = conditional.predict_quantiles(x, [0.5])
    assert median.shape == (3, 1)
    assert np.all((low < median[:, 0]) & (median[:, 0] < high))


def test_draws_of_several_targets_have_the_mean(joint):
    x = FEATURES[:3]
    draws = joint.sample(x, 4000, random_state=0)
    assert draws.shape == (3, 4000, 2)
    error = 5.0 * draws.std(axis=1) / np.sqrt(4000)
    assert np.all(np.abs(draws.mean(axis=1) - joint.predict(x)) < error)
    with pytest.raises(ValueError, match="Received: 2"):
        joint.predict_interval(x)
    with pytest.raises(ValueError, match="Received: 1"):
        joint.log_density(x, TARGETS[:3, 0])


def test_targets_keep_their_shape(conditional):
    assert conditional.predict(FEATURES[:5]).shape == (5,)
    assert conditional.sample(FEATURES[:5], 2).shape == (5, 2)
    column = clone(conditional).set_params(epochs=1).fit(FEATURES, TARGETS[:, :1])
    assert column.predict(FEATURES[:5]).shape == (5, 1)
    assert column.sample(FEATURES[:5], 2).shape == (5, 2, 1)


def test_score_is_the_mean_log_density_of_targets(conditional):
    values = conditional.log_density(FEATURES, TARGETS[:, 0])
    assert conditional.score(FEATURES, TARGETS[:, 0]) == pytest.approx(values.mean(), rel=1e-5)


def test_a_constant_feature_is_no_harm_but_a_constant_target_is():
    x = np.column_stack([FEATURES, np.full(120, 7.0)])
    fitted = ConditionalFlowDensity("maf", **{**TINY, "epochs": 1}).fit(x, TARGETS[:, 0])
    assert np.isfinite(fitted.log_density(x + 0.01, TARGETS[:, 0])).all()
    with pytest.raises(ValueError, match="Column y is constant"):
        ConditionalFlowDensity("maf", **TINY).fit(FEATURES, np.ones(120))


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("keras_nf.sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape('pip install "keras_nf[sklearn]"')):
        importlib.import_module("keras_nf.sklearn")


@pytest.mark.slow
def test_example_finds_anomalies():
    printed = run_example("anomaly", "--sets", "cancer", "--epochs", "2")
    lines = [re.split(r"\s{2,}", line) for line in printed.splitlines()[3:]]
    table = {name: [float(value) for value in values] for name, *values in lines}
    assert list(table) == ["flow", "Gaussian", "isolation forest"]
    for area, false_alarms, found in table.values():
        assert area > 0.9
        assert found > 0.5 > 2.0 * false_alarms
