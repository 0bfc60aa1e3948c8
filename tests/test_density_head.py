"""`density_head`: kinds of targets, exact answers, errors."""

import keras
import numpy as np
import pytest
import scipy.stats

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

RNG = np.random.default_rng(0)
FEATURES = RNG.uniform(-1.0, 1.0, size=(2000, 1)).astype("float32")
NEW = np.array([[-0.5], [0.0], [0.8]], "float32")


def fit(y, **kwargs):
    """Return a head trained on targets, of the features themselves."""
    keras.utils.set_random_seed(0)
    model = keras_nf.FlowModel(keras_nf.density_head(**kwargs))
    data = {"x": y.astype("float32"), "condition": FEATURES}
    model.adapt(data)
    epochs, batch_size = 10, 100
    rate = keras.optimizers.schedules.CosineDecay(3e-2, epochs * len(y) // batch_size)
    model.compile(keras.optimizers.Adam(rate))
    model.fit(data, epochs=epochs, batch_size=batch_size, verbose=0)
    return model


def test_positive_targets():
    y = np.exp(2.0 * FEATURES + 0.5 * RNG.normal(size=FEATURES.shape))
    model = fit(y, low=0.0)
    truth = scipy.stats.lognorm(0.5, scale=np.exp(2.0 * NEW[:, 0]))
    p = np.array([0.05, 0.5, 0.95])
    x = model.quantile(p[:, None], condition=NEW)[..., 0]
    np.testing.assert_allclose(truth.cdf(x), np.tile(p[:, None], 3), atol=0.03)
    np.testing.assert_allclose(model.mean(condition=NEW)[:, 0], truth.mean(), rtol=0.1)
    assert np.min(model.sample(1000, condition=NEW, seed=0)) > 0.0


def test_bounded_targets():
    y = scipy.stats.beta(2.0, 5.0).rvs(size=FEATURES.shape, random_state=0)
    model = fit(1.0 + 2.0 * y, low=1.0, high=3.0)
    low, high = model.interval(0.8, condition=NEW)
    truth = scipy.stats.beta(2.0, 5.0, loc=1.0, scale=2.0)
    np.testing.assert_allclose(truth.cdf(low), 0.1, atol=0.03)
    np.testing.assert_allclose(truth.cdf(high), 0.9, atol=0.03)
    draws = model.sample(1000, condition=NEW, seed=0)
    # The margin of the logit reaches a little beyond.
    assert np.min(draws) > 1.0 - 1e-4
    assert np.max(draws) < 3.0 + 1e-4


def test_grades():
    truth = scipy.stats.binom(5, 1.0 / (1.0 + np.exp(-FEATURES)))
    model = fit(3 + truth.rvs(random_state=0), low=3, high=8, integers=True)
    edges = (np.arange(3, 10) - 0.5).astype("float32")
    cdf = model.cdf(np.tile(edges[:, None, None], (1, 3, 1)), condition=NEW).numpy()
    np.testing.assert_allclose(cdf[[0, -1]], [[0.0] * 3, [1.0] * 3], atol=1e-6)
    expected = scipy.stats.binom(5, 1.0 / (1.0 + np.exp(-NEW[:, 0]))).pmf(np.arange(6)[:, None])
    np.testing.assert_allclose(np.diff(cdf, axis=0), expected, atol=0.05)


def test_fresh_head_is_a_normal_of_the_targets():
    y = RNG.normal(5.0, 3.0, size=(1000, 2)).astype("float32")
    model = keras_nf.FlowModel(keras_nf.density_head(2))
    model.adapt({"x": y, "condition": y})
    expected = scipy.stats.norm(y.mean(axis=0), y.std(axis=0)).logpdf(y).sum(axis=1)
    np.testing.assert_allclose(model.log_prob(y, condition=y), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"high": 1.0}, "`high` needs `low` beside it. Received: high=1.0"),
        ({"integers": True}, "as integers. Received: low=None, high=None"),
        ({"low": 0, "integers": True}, "as integers. Received: low=0, high=None"),
        ({"low": 0.5, "high": 4.5, "integers": True}, "as integers. Received: low=0.5, high=4.5"),
        ({"low": 2.0, "high": 1.0}, "`low` must be less than `high`"),
    ],
)
def test_bounds_that_do_not_fit(options, words):
    with pytest.raises(ValueError, match=words):
        keras_nf.density_head(**options)
