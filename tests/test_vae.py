"""The example autoencoder: its bound, its gradients, its graph, its command line."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb
from processes import load_example, run_example

import keras_nf

pytest.importorskip("matplotlib")

PIXELS = 64
SIZES = {"latent_size": 4, "hidden_units": (16, 8)}
STEPS = {"diagonal": 0, "planar": 3, "iaf": 2}
X = np.random.default_rng(0).random((6, PIXELS), dtype="float32").round()
FLOWS = pytest.mark.parametrize("posterior", ["planar", "iaf"])


@pytest.fixture(scope="module")
def example():
    return load_example("vae")


def make(example, posterior, **options):
    keras.utils.set_random_seed(0)
    return example.make_vae(PIXELS, posterior, STEPS[posterior], **SIZES, **options)


def flow_of(vae):
    (flow,) = (layer for layer in vae.layers if isinstance(layer, keras_nf.Flow))
    return flow


def perturb_all(vae):
    for flow in (flow_of(vae), vae.get_layer("prior").flow):
        perturb(flow)
    return vae


def around_the_flow(vae):
    """Model of what enters the flow and what leaves it, beside the outputs of the autoencoder."""
    flow = flow_of(vae)
    names = ("z0", "condition", "z", "log_det")
    return keras.Model(vae.input, {**dict(zip(names, [*flow.input, *flow.output])), **vae.output})


def log_normal(z):
    return -0.5 * (z**2 + np.log(2.0 * np.pi)).sum(axis=-1)


def test_kl_without_a_flow_is_the_closed_form(example):
    vae = make(example, "diagonal")
    mean, log_scale, _ = (np.asarray(part) for part in vae.get_layer("encoder")(X))
    closed = 0.5 * (mean**2 + np.exp(2.0 * log_scale) - 1.0 - 2.0 * log_scale).sum(axis=-1)
    draws = 4000
    terms = vae.predict(np.repeat(X, draws, axis=0), batch_size=4000, verbose=0)
    kl = terms["kl"].reshape(len(X), draws)
    error = kl.std(axis=1) / np.sqrt(draws)
    np.testing.assert_array_less(np.abs(kl.mean(axis=1) - closed), 5.0 * error)


@pytest.mark.parametrize("posterior", STEPS)
def test_terms_are_the_log_densities_of_the_draw(example, posterior):
    vae = make(example, posterior)
    perturb(flow_of(vae))
    mean, log_scale, _ = (np.asarray(part) for part in vae.get_layer("encoder")(X))
    terms = around_the_flow(vae).predict(X, verbose=0)
    noise = (terms["z0"] - mean) / np.exp(log_scale)
    log_q = log_normal(noise) - log_scale.sum(axis=-1) - terms["log_det"]
    np.testing.assert_allclose(terms["kl"], log_q - log_normal(terms["z"]), rtol=1e-4, atol=1e-4)
    logits = np.asarray(vae.get_layer("decoder")(terms["z"]), "float64")
    # Of p = 1 / (1 + exp(-l)) where the pixel is set, of 1 - p where it is not.
    log_likelihood = -np.logaddexp(0.0, np.where(X == 1.0, -logits, logits)).sum(axis=-1)
    np.testing.assert_allclose(terms["log_likelihood"], log_likelihood, rtol=1e-4)


@pytest.mark.parametrize("posterior", STEPS)
def test_graph_and_eager_flow_agree(example, posterior):
    vae = make(example, posterior)
    flow = perturb(flow_of(vae))
    terms = around_the_flow(vae).predict(X, verbose=0)
    z, log_det = flow(terms["z0"], condition=terms["condition"], return_log_det=True)
    np.testing.assert_allclose(terms["z"], z, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(terms["log_det"], log_det, rtol=1e-5, atol=1e-5)
    assert np.any(terms["log_det"]) == (posterior != "diagonal")


@FLOWS
def test_gradients_reach_encoder_and_flow(example, posterior):
    vae = make(example, posterior)
    flow = perturb(flow_of(vae))
    weights = vae.get_layer("encoder").trainable_weights + flow.trainable_weights
    with tf.GradientTape() as tape:
        loss = vae.compute_loss(X, y_pred=vae(X))
    for weight, gradient in zip(weights, tape.gradient(loss, [w.value for w in weights])):
        assert gradient is not None, weight.path
        gradient = np.asarray(gradient)
        assert np.all(np.isfinite(gradient)), weight.path
        assert np.any(gradient), weight.path


@pytest.mark.parametrize("prior", ["normal", "flow"])
def test_prior_is_the_density_of_the_latents(example, prior):
    vae = perturb_all(make(example, "iaf", prior=prior))
    terms = around_the_flow(vae).predict(X, verbose=0)
    mean, log_scale, _ = (np.asarray(part) for part in vae.get_layer("encoder")(X))
    noise = (terms["z0"] - mean) / np.exp(log_scale)
    log_q = log_normal(noise) - log_scale.sum(axis=-1) - terms["log_det"]
    log_prior = np.asarray(vae.get_layer("prior").log_prob(terms["z"]))
    np.testing.assert_allclose(terms["kl"], log_q - log_prior, rtol=1e-4, atol=1e-4)
    is_normal = np.allclose(log_prior, log_normal(terms["z"]), atol=1e-4)
    assert is_normal == (prior == "normal")


def test_prior_is_trained(example):
    vae = perturb_all(make(example, "iaf", prior="flow"))
    weights = vae.get_layer("prior").trainable_weights
    assert weights
    with tf.GradientTape() as tape:
        loss = vae.compute_loss(X, y_pred=vae(X))
    for weight, gradient in zip(weights, tape.gradient(loss, [w.value for w in weights])):
        assert np.any(np.asarray(gradient)), weight.path


def test_file_holds_the_whole_model(example, tmp_path):
    vae = perturb_all(make(example, "planar", prior="flow"))
    vae.compile("adam")
    vae.fit(X, epochs=1, verbose=0)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    for ours, theirs in zip(vae.weights, loaded.weights):
        np.testing.assert_array_equal(ours, theirs)
    z = vae.get_layer("prior").sample(3, seed=0)
    np.testing.assert_allclose(loaded.get_layer("prior").sample(3, seed=0), z, rtol=1e-5)
    images, again = (each.get_layer("decoder")(z) for each in (vae, loaded))
    np.testing.assert_allclose(images, again, rtol=1e-5)
    assert np.isfinite(loaded.fit(X, epochs=1, verbose=0).history["loss"][0])


def test_importance_weighting_of_an_exact_posterior(example):
    """With weights that do not vary, both estimates are the number itself."""

    class Constant:
        def predict(self, x, **kwargs):
            return {"log_likelihood": np.full(len(x), -2000.0), "kl": np.full(len(x), 25.0)}

    assert example.bounds(Constant(), X, samples=3) == pytest.approx((-2025.0, -2025.0))


def test_binarization_is_fresh_and_keeps_binary_pixels(example):
    binarize = example.Binarize()
    np.testing.assert_array_equal(binarize(X), X)
    grey = np.full((2000, 2), [0.2, 0.7], "float32")
    first, second = (np.asarray(binarize(grey)) for _ in range(2))
    assert np.any(first != second)
    np.testing.assert_array_equal(np.unique(first), [0.0, 1.0])
    np.testing.assert_allclose(first.mean(axis=0), grey[0], atol=0.06)


@pytest.mark.parametrize(
    ("posterior", "jit_compile"),
    [
        ("planar", False),
        ("iaf", False),
        pytest.param("iaf", True, marks=pytest.mark.long),
        pytest.param("planar", True, marks=pytest.mark.long),
    ],
)
def test_same_seed_same_losses(example, posterior, jit_compile):
    grey = np.random.default_rng(1).random((40, PIXELS), dtype="float32")

    def losses():
        vae = make(example, posterior)
        vae.warm_up_steps = 4
        vae.compile("adam", jit_compile=jit_compile)
        return vae.fit(grey, batch_size=10, epochs=2, verbose=0).history["loss"]

    first = losses()
    assert np.all(np.isfinite(first))
    assert first == losses()


def test_digits_are_the_default(example):
    train, test, shape = example.load(None)
    assert (train.shape, test.shape, shape) == ((1500, PIXELS), (297, PIXELS), (8, 8))
    np.testing.assert_array_equal(np.unique(train), np.linspace(0.0, 1.0, 17, dtype="float32"))
    np.testing.assert_array_equal(np.unique(test), [0.0, 1.0])
    # Binary pixels have the mean of the grey levels; five standard errors.
    assert abs(train.mean() - test.mean()) < 5.0 * 0.5 / np.sqrt(test.size)


def test_file_that_is_missing(example, tmp_path):
    with pytest.raises(SystemExit, match=r"x_train and x_test.*Received.*none\.npz.*load_data"):
        example.load(tmp_path / "none.npz")


@pytest.mark.parametrize("given", [False, True], ids=["digits", "file"])
@pytest.mark.slow
def test_command_writes_the_pictures(tmp_path, given):
    rng = np.random.default_rng(0)
    images = {"x_train": (60, 8, 8), "x_test": (20, 8, 8)}
    images = {name: rng.integers(256, size=s).astype("uint8") for name, s in images.items()}
    np.savez(tmp_path / "images.npz", **images)
    options = {
        "--posterior": "planar",
        "--layers": 2,
        "--epochs": 1,
        "--batch-size": 10,
        "--importance-samples": 2,
        "--out": tmp_path / "out",
    }
    if given:
        options["--data"] = tmp_path / "images.npz"
    arguments = [word for option in options.items() for word in option]
    printed = run_example("vae", *arguments)
    assert re.search(r"^-ELBO \d+\.\d\d, -log p\(x\) \d+\.\d\d nats", printed, re.MULTILINE)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"log.csv", "reconstructions.png", "samples.png", "vae.keras"}
    for name in ("reconstructions.png", "samples.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
