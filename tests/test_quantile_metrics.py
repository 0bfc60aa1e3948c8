"""Metrics of quantiles: by themselves, and of a FlowModel."""

import keras
import numpy as np
import pytest
import scipy.stats

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

RNG = np.random.default_rng(0)
C = RNG.normal(size=(300, 2)).astype("float32")
# Of a normal distribution of mean 3 c_1 and deviation 2.
Y = (3.0 * C[:, :1] + 2.0 * RNG.normal(size=(300, 1))).astype("float32")
DATA = {"x": Y, "condition": C}
TRUTH = scipy.stats.norm(3.0 * C[:, :1], 2.0)


def true_model(**kwargs):
    base = keras_nf.bases.Normal(trainable=True, conditional=True)
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=1), base)
    model.build({"x": (None, 1), "condition": (None, 2)})
    model.base.loc_kernel.assign([[1.5], [0.0]])
    model.flow.log_scale.assign([np.log(2.0)])
    model.compile("sgd", **kwargs)
    return model


def pinball(y, quantile, level):
    return np.where(y > quantile, level * (y - quantile), (1.0 - level) * (quantile - y))


def crps_of_a_normal(y, mean, deviation):
    """In closed form: Gneiting and Raftery (2007), equation 21."""
    z, normal = (y - mean) / deviation, scipy.stats.norm
    return deviation * (z * (2 * normal.cdf(z) - 1) + 2 * normal.pdf(z) - np.pi**-0.5)


def metrics():
    return [keras_nf.Coverage(0.8), keras_nf.PinballLoss(0.3), keras_nf.CRPS()]


def expected():
    low, high = TRUTH.ppf(0.1), TRUTH.ppf(0.9)
    return {
        "coverage": np.mean((low <= Y) & (high >= Y)),
        "pinball_loss": np.mean(pinball(Y, TRUTH.ppf(0.3), 0.3)),
        "crps": np.mean(crps_of_a_normal(Y, 3.0 * C[:, :1], 2.0)),
    }


def test_a_model_gives_its_own_quantiles():
    model = true_model(metrics=metrics())
    results = model.evaluate(DATA, batch_size=64, return_dict=True, verbose=0)
    assert results.pop("loss") == pytest.approx(-TRUTH.logpdf(Y).mean(), rel=1e-4)
    for name, value in expected().items():
        # The CRPS is a sum over 50 quantiles.
        assert results.pop(name) == pytest.approx(value, rel=5e-3 if name == "crps" else 1e-4)
    assert not results


def test_of_predicted_quantiles():
    for metric, levels in zip(metrics(), ([0.1, 0.9], [0.3], np.arange(0.01, 1.0, 0.02))):
        np.testing.assert_allclose(metric.levels, levels, rtol=1e-12)
        value = metric(Y[:, 0], TRUTH.ppf(levels))
        assert float(value) == pytest.approx(expected()[metric.name], rel=1e-2)


def test_without_a_condition():
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=1))
    model.compile("sgd", metrics=[keras_nf.Coverage(0.5)])
    x = np.linspace(-2.0, 2.0, 101, dtype="float32")[:, None]
    share = np.mean(np.abs(x) <= scipy.stats.norm.ppf(0.75))
    assert model.evaluate(x, verbose=0, return_dict=True)["coverage"] == pytest.approx(share)


def test_weights():
    weights = (Y[:, 0] > 0.0).astype("float32")
    model = true_model(weighted_metrics=[keras_nf.PinballLoss(0.3)])
    results = model.evaluate(DATA, sample_weight=weights, return_dict=True, verbose=0)
    value = np.mean(pinball(Y, TRUTH.ppf(0.3), 0.3)[Y > 0.0])
    assert results["pinball_loss"] == pytest.approx(value, rel=1e-4)


def test_in_training_and_after_loading(tmp_path):
    model = true_model(metrics=metrics())
    history = model.fit(DATA, epochs=1, validation_data=DATA, verbose=0).history
    assert {"coverage", "crps", "pinball_loss", "val_coverage"} <= set(history)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    own = model.evaluate(DATA, verbose=0, return_dict=True)
    assert loaded.evaluate(DATA, verbose=0, return_dict=True) == pytest.approx(own, rel=1e-6)


def test_an_encoder():
    encoder = keras.Sequential([keras.layers.Dense(3)])
    model = keras_nf.FlowModel(keras_nf.density_head(), encoder=encoder)
    model.adapt(DATA)
    model.compile("sgd", metrics=[keras_nf.PinballLoss(0.5)])
    value = model.evaluate(DATA, verbose=0, return_dict=True)["pinball_loss"]
    median = model.median(condition=C)
    assert value == pytest.approx(np.mean(np.abs(Y - median)) / 2.0, rel=1e-4)


def test_events_of_more_components_have_no_quantiles():
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2))
    model.compile("sgd", metrics=[keras_nf.CRPS()])
    with pytest.raises(ValueError, match=r"'crps' needs quantiles, .* events of shape \(2,\)"):
        model.evaluate(C, verbose=0)


def test_other_predictions_are_refused():
    with pytest.raises(ValueError, match=r"of shape \(batch, 2\), of the levels 0.05, 0.95"):
        keras_nf.Coverage(0.9)(Y, TRUTH.ppf(0.5))


@pytest.mark.parametrize("level", [0.0, 1.0, 90, "0.9", True])
@pytest.mark.parametrize("metric", [keras_nf.Coverage, keras_nf.PinballLoss])
def test_levels_that_are_none(metric, level):
    with pytest.raises(ValueError, match="`level` must be a number between 0 and 1"):
        metric(level)
