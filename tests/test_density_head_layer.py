"""`DensityHead`: in models of several outputs, files, other precisions, errors."""

import keras
import numpy as np
import pytest
import scipy.stats

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

RNG = np.random.default_rng(0)
X = RNG.uniform(-1.0, 1.0, size=(2000, 2)).astype("float32")
# Positive, with a deviation that depends on the features; and a class beside it.
PRICE = np.exp(X[:, 0] + (0.3 + 0.2 * X[:, 1]) * RNG.normal(size=2000)).astype("float32")
SOLD = (X[:, 1] > 0.0).astype("float32")
NEW = X[:4]


def model_of(head, units=16):
    inputs = keras.Input((2,))
    features = keras.layers.Dense(units, activation="relu")(inputs)
    sold = keras.layers.Dense(1, activation="sigmoid", name="sold")(features)
    return keras.Model(inputs, {"price": head(features), "sold": sold})


def compiled(head, rate=1e-2):
    model = model_of(head)
    loss = {"price": head.loss, "sold": "binary_crossentropy"}
    model.compile(keras.optimizers.Adam(rate), loss=loss)
    return model


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(0)
    head = keras_nf.DensityHead(low=0.0, name="price")
    head.adapt(PRICE)
    model = compiled(head)
    targets = {"price": PRICE, "sold": SOLD}
    history = model.fit(X, targets, epochs=10, batch_size=50, verbose=0)
    return model, head, history.history


def test_learns_beside_another_output(trained):
    model, head, history = trained
    outputs = model.predict(X, verbose=0)
    truth = scipy.stats.lognorm(0.3 + 0.2 * X[:, 1], scale=np.exp(X[:, 0]))
    log_prob = head.distribution(outputs["price"]).log_prob(PRICE[:, None])
    assert np.mean(truth.logpdf(PRICE) - log_prob) < 0.06
    assert history["price_loss"][-1] == pytest.approx(-np.mean(log_prob), abs=0.1)
    assert np.mean((outputs["sold"][:, 0] > 0.5) == SOLD) > 0.95


def test_quantiles(trained):
    model, head, _ = trained
    density = head.distribution(model.predict(NEW, verbose=0)["price"])
    x = density.quantile(np.array([0.1, 0.5, 0.9], "float32")[:, None])
    np.testing.assert_allclose(density.cdf(x), np.tile([[0.1], [0.5], [0.9]], 4), atol=1e-5)
    draws = density.sample(1000, seed=0)
    assert np.min(draws) > 0.0
    np.testing.assert_allclose(np.median(draws, axis=0), x[1], rtol=0.15)


def test_a_file_predicts_and_trains_on(trained, tmp_path):
    model, _, _ = trained
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(NEW, verbose=0)["price"], model.predict(NEW, verbose=0)["price"]
    )
    targets = {"price": PRICE, "sold": SOLD}
    own = model.evaluate(X, targets, verbose=0, return_dict=True)
    assert loaded.evaluate(X, targets, verbose=0, return_dict=True) == pytest.approx(own)
    head = loaded.get_layer("price")
    assert head.loss.get_config() == model.get_layer("price").loss.get_config()
    loaded.fit(X, targets, verbose=0)


@pytest.mark.parametrize("size", [1, 3])
def test_fresh_head_is_the_normal_of_the_targets(size):
    y = RNG.normal(5.0, 3.0, size=(500, size))
    head = keras_nf.DensityHead(size)
    head.adapt(y)
    outputs = head(X[:500])
    expected = scipy.stats.norm(y.mean(axis=0), y.std(axis=0)).logpdf(y).sum(axis=1)
    log_prob = head.distribution(outputs).log_prob(y.astype("float32"))
    np.testing.assert_allclose(log_prob, expected, atol=1e-4)
    assert float(head.loss(y, outputs)) == pytest.approx(-expected.mean(), abs=1e-4)


def test_bounded_targets_become_unbounded_before_their_mean_is_taken():
    y = RNG.uniform(2.0, 4.0, size=200)
    head = keras_nf.DensityHead(low=2.0, high=4.0)
    head.adapt(y)
    p = (y - 2.0) / 2.0
    logits = np.log(p) - np.log1p(-p)
    np.testing.assert_allclose(head.mean, [logits.mean()], atol=1e-4)
    np.testing.assert_allclose(head.std, [logits.std()], rtol=1e-4)


def test_every_weight_is_trained():
    head = keras_nf.DensityHead(2)
    head.adapt(RNG.normal(size=(100, 2)))
    inputs = keras.Input((2,))
    model = keras.Model(inputs, head(keras.layers.Dense(4)(inputs)))
    model.compile("adam", loss=head.loss)
    before = [weight.numpy() for weight in model.trainable_weights]
    model.fit(X, np.stack([PRICE, SOLD], axis=1), epochs=2, verbose=0)
    assert len(before) == 4
    # No target came to the outermost bins.
    for old, new in zip(before, model.trainable_weights):
        assert np.mean(old != new.numpy()) > 0.8, new.path


def test_mixed_precision():
    head = keras_nf.DensityHead(dtype="mixed_bfloat16")
    head.adapt(PRICE)
    model = keras.Sequential([keras.layers.Dense(8, dtype="mixed_bfloat16"), head])
    model.compile("adam", loss=head.loss)
    history = model.fit(X, PRICE, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert model.predict(NEW, verbose=0).dtype == np.float32


def test_loss_before_adapt():
    with pytest.raises(ValueError, match=r"has not seen targets. Call `head.adapt\(y\)`"):
        _ = keras_nf.DensityHead().loss


def test_outputs_of_another_head():
    head, other = keras_nf.DensityHead(), keras_nf.DensityHead(bins=4)
    head.adapt(PRICE)
    outputs = other(X)
    with pytest.raises(ValueError, match=r"outputs of a keras_nf.DensityHead, .* \(batch, 27\)"):
        head.loss(PRICE, outputs)
    with pytest.raises(ValueError, match=r"of shape \(..., 27\). Received: shape \(2000, 15\)"):
        head.distribution(outputs)


def test_features_of_several_axes():
    with pytest.raises(ValueError, match="Flatten or pool them"):
        keras_nf.DensityHead()(X[:, :, None])


def test_constant_targets():
    with pytest.raises(ValueError, match="Constant components"):
        keras_nf.DensityHead().adapt(np.ones(5))
