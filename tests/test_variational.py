"""Flows fitted to unnormalized densities by their own draws."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb

import keras_nf
from keras_nf import VariationalModel, datasets

pytestmark = pytest.mark.usefixtures("without_xla")

MEAN, SCALE, LOG_Z = np.array([1.0, -2.0], "float32"), np.array([0.5, 3.0], "float32"), 1.3


@keras.saving.register_keras_serializable("variational_tests")
def gaussian(x):
    """ln p with ln Z = 1.3."""
    log_norm = np.sum(np.log(SCALE)) + np.log(2 * np.pi)
    return LOG_Z - log_norm - 0.5 * tf.reduce_sum(((x - MEAN) / SCALE) ** 2, axis=-1)


def affine():
    return keras_nf.Scaling(use_shift=True, event_size=2)


def model_of(flow=None, target=gaussian, optimizer="adam", inverse_temperature=1.0, **kwargs):
    model = VariationalModel(affine() if flow is None else flow, target, **kwargs)
    model.compile(optimizer, inverse_temperature=inverse_temperature, jit_compile=False)
    return model


def fit(model, **options):
    options = {"batch_size": 16, "steps_per_epoch": 4, "seed": 0, "verbose": 0, **options}
    return model.fit(**options).history


def evaluate(model, **options):
    options = {"batch_size": 16, "steps": 4, "seed": 0, "verbose": 0, **options}
    return model.evaluate(return_dict=True, **options)


class TestEnergies:
    def log_z(self, energy, reach, points):
        """Midpoint rule, whose error falls faster than any power of the step for smooth maps."""
        edges = np.linspace(-reach, reach, points + 1)
        centres = 0.5 * (edges[1:] + edges[:-1])
        z = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1)
        return np.log(np.sum(np.exp(-np.asarray(energy(z)))) * (edges[1] - edges[0]) ** 2)

    @pytest.mark.parametrize(
        ("energy", "reach", "log_z"),
        [
            (datasets.u1, 8.0, 1.87750),
            (datasets.u2, 4.0, 2.08209),
            (datasets.u3, 4.0, 2.64171),
            (datasets.u4, 4.0, 2.68457),
        ],
    )
    def test_integrals(self, energy, reach, log_z):
        # The published figures have five decimals; the density is cut off at the edge of the box.
        assert self.log_z(energy, reach, 400) == pytest.approx(log_z, abs=1e-5)

    def test_formulas(self):
        z = np.random.default_rng(0).normal(scale=2.0, size=(50, 2))
        first, second = z.T

        def bump(a, scale):
            return np.exp(-0.5 * (a / scale) ** 2)

        w1 = np.sin(np.pi * first / 2)
        w2 = 3 * bump(first - 1, 0.6)
        w3 = 3 / (1 + np.exp(-(first - 1) / 0.3))
        ring = 0.5 * ((np.hypot(first, second) - 2) / 0.4) ** 2
        expected = [
            ring - np.log(bump(first - 2, 0.6) + bump(first + 2, 0.6)),
            0.5 * ((second - w1) / 0.4) ** 2,
            -np.log(bump(second - w1, 0.35) + bump(second - w1 + w2, 0.35)),
            -np.log(bump(second - w1, 0.4) + bump(second - w1 + w3, 0.35)),
        ]
        energies = datasets.u1, datasets.u2, datasets.u3, datasets.u4
        for energy, values in zip(energies, expected, strict=True):
            np.testing.assert_allclose(energy(z), values, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("energy", [datasets.u1, datasets.u2, datasets.u3, datasets.u4])
    def test_gradients_are_finite(self, energy):
        z = tf.constant([[0.0, 0.0], [50.0, -50.0], [-50.0, 50.0], [1.0, 0.0]])
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = energy(z)
        assert np.isfinite(value).all()
        assert np.isfinite(tape.gradient(value, z)).all()


class TestBound:
    def test_of_the_density_itself_is_the_integral(self):
        model = model_of()
        model.flow.log_scale.assign(np.log(SCALE))
        model.flow.shift.assign(MEAN)
        # ln p - ln q is the same number for each draw.
        result = evaluate(model)
        assert result["bound"] == pytest.approx(LOG_Z, abs=1e-5)
        assert result["loss"] == pytest.approx(-LOG_Z, abs=1e-5)

    def test_falls_short_by_the_divergence(self):
        model = model_of()
        # Between normals, as q is the standard one.
        divergence = np.sum(np.log(SCALE) + (1 + MEAN**2) / (2 * SCALE**2) - 0.5)
        # The bound of one draw has a standard deviation of about 7; of all, 0.01.
        result = evaluate(model, batch_size=10_000, steps=50)
        assert result["bound"] == pytest.approx(LOG_Z - divergence, abs=0.05)

    def test_training_closes_the_gap(self):
        rate = keras.optimizers.schedules.CosineDecay(0.1, 400)
        model = model_of(optimizer=keras.optimizers.Adam(rate))
        history = fit(model, batch_size=256, steps_per_epoch=100, epochs=4)
        assert history["bound"][-1] > history["bound"][0]
        # The gradient of some draws is noise where the one of all is zero.
        assert evaluate(model)["bound"] == pytest.approx(LOG_Z, abs=5e-3)
        np.testing.assert_allclose(model.flow.shift, MEAN, atol=0.05)
        np.testing.assert_allclose(np.exp(model.flow.log_scale), SCALE, rtol=0.05)

    @pytest.mark.parametrize("make", [keras_nf.planar_flow, keras_nf.iaf, keras_nf.real_nvp])
    def test_every_weight_is_trained(self, make):
        options = {} if make is keras_nf.planar_flow else {"hidden_units": (8,)}
        model = model_of(make(2, layers=2, **options), lambda x: -datasets.u1(x))
        perturb(model.flow)
        before = model.get_weights()
        fit(model)
        for a, b in zip(before, model.get_weights(), strict=True):
            assert (a != b).any()

    def test_is_below_the_integral_for_a_ring(self):
        keras.utils.set_random_seed(0)
        flow = keras_nf.Chain([affine(), keras_nf.Planar(folds=8)], event_size=2)
        model = VariationalModel(flow, lambda x: -datasets.u1(x))
        model.compile(keras.optimizers.Adam(1e-2))
        fit(model, batch_size=256, steps_per_epoch=800)
        bound = evaluate(model, batch_size=20_000)["bound"]
        assert 1.65 < bound < 1.8775


class TestAnnealing:
    schedule = keras.optimizers.schedules.PolynomialDecay(0.25, 2, 1.0)

    def test_loss_is_weighted_by_the_schedule(self):
        # At rate zero, the draws of a step depend on its number alone.
        losses, bounds = {}, {}
        for name, beta in [("zero", 0.0), ("one", 1.0), ("schedule", self.schedule)]:
            model = model_of(optimizer=keras.optimizers.SGD(0.0), inverse_temperature=beta)
            history = fit(model, steps_per_epoch=1, epochs=4)
            losses[name], bounds[name] = (np.array(history[key]) for key in ("loss", "bound"))
        betas = np.array([0.25, 0.625, 1.0, 1.0])
        expected = losses["zero"] + betas * (losses["one"] - losses["zero"])
        np.testing.assert_allclose(losses["schedule"], expected, rtol=1e-5)
        for bound in bounds.values():
            np.testing.assert_allclose(bound, -losses["one"], rtol=1e-5)

    def test_evaluation_is_not_annealed(self):
        result = evaluate(model_of(inverse_temperature=0.1))
        assert result["loss"] == pytest.approx(-result["bound"], rel=1e-6)

    def test_at_zero_the_entropy_grows(self):
        model = model_of(optimizer=keras.optimizers.SGD(0.1), inverse_temperature=0.0)
        fit(model, steps_per_epoch=10)
        np.testing.assert_allclose(model.flow.log_scale, [1.0, 1.0], rtol=1e-5)


class TestDraws:
    def test_follow_from_the_seed(self):
        runs = [fit(model_of(), seed=seed, epochs=3)["bound"] for seed in (0, 0, 1)]
        assert runs[0] == runs[1] != runs[2]

    def test_follow_from_the_global_seed(self):
        runs = []
        for seed in (0, 0, 1):
            keras.utils.set_random_seed(seed)
            runs.append(fit(model_of(), seed=None)["bound"])
        assert runs[0] == runs[1] != runs[2]

    def test_differ_from_step_to_step(self):
        model = model_of(optimizer=keras.optimizers.SGD(0.0))
        bounds = fit(model, steps_per_epoch=1, epochs=6)["bound"]
        assert len(set(bounds)) == 6

    def test_of_evaluation_differ_from_those_of_training(self):
        model = model_of(optimizer=keras.optimizers.SGD(0.0))
        bounds = fit(model, steps_per_epoch=1, epochs=6)["bound"]
        assert evaluate(model, steps=1)["bound"] not in bounds
        assert evaluate(model, steps=1) == evaluate(model, steps=1)
        assert evaluate(model, steps=2) != evaluate(model, steps=1)

    def test_are_as_many_as_asked_for(self):
        counts = []

        def target(x):
            counts.append(tuple(x.shape))
            return gaussian(x)

        model = VariationalModel(affine(), target)
        model.compile("adam", run_eagerly=True)
        fit(model, batch_size=5, steps_per_epoch=3, epochs=2)
        assert counts == [(5, 2)] * 6

    def test_do_not_depend_on_epochs(self):
        one, two = model_of(), model_of()
        fit(one, steps_per_epoch=12)
        fit(two, steps_per_epoch=3, epochs=4)
        for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_of_an_interrupted_run_go_on(self, tmp_path):
        schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 20, 1.0)
        whole, first = (
            model_of(inverse_temperature=schedule),
            model_of(inverse_temperature=schedule),
        )
        bounds = fit(whole, epochs=4)["bound"]
        fit(first, epochs=2)
        first.save(tmp_path / "model.keras")
        second = keras.models.load_model(tmp_path / "model.keras")
        assert fit(second, epochs=4, initial_epoch=2)["bound"] == pytest.approx(bounds[2:])
        for a, b in zip(whole.get_weights(), second.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


class TestTraining:
    def test_early_stopping(self):
        model = model_of(optimizer=keras.optimizers.SGD(0.0))
        stop = keras.callbacks.EarlyStopping("bound", mode="max", min_delta=100.0, patience=2)
        assert len(fit(model, epochs=20, callbacks=[stop])["bound"]) == 3

    @pytest.mark.usefixtures("with_xla")
    @pytest.mark.parametrize(
        ("options", "others"),
        [
            ({"jit_compile": False, "steps_per_execution": 4}, {"jit_compile": False}),
            ({"jit_compile": False, "run_eagerly": True}, {"jit_compile": False}),
            # XLA has generators of its own.
            ({"jit_compile": True}, {"jit_compile": True}),
        ],
    )
    def test_options_of_compile(self, options, others):
        model, expected = model_of(), model_of()
        model.compile("adam", **options)
        expected.compile("adam", **others)
        fit(model, epochs=2)
        fit(expected, epochs=2)
        for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    def test_mixed_precision(self):
        flow = keras_nf.iaf(2, layers=1, hidden_units=(8,), dtype="mixed_float16")
        model = model_of(flow)
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        before = model.get_weights()
        assert np.isfinite(fit(model)["loss"]).all()
        assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))

    def test_step_is_traced_once(self):
        traces = []

        def target(x):
            traces.append(x)
            return gaussian(x)

        fit(model_of(target=target), epochs=3)
        assert len(traces) == 1

    def test_model_is_a_density(self):
        model = model_of()
        fit(model)
        x = model.sample(7, seed=0)
        np.testing.assert_allclose(model.log_prob(x), model.predict(x, verbose=0), rtol=1e-6)

    def test_logistic_base_in_a_box_starts_uniform(self):
        box = keras_nf.Logit(-4.0, 4.0, margin=0.0)
        chain = keras_nf.Chain([affine(), box], event_size=2)
        model = model_of(chain, lambda x: -datasets.u2(x), base="logistic")
        x = model.sample(100, seed=0)
        assert np.abs(x).max() < 4.0
        np.testing.assert_allclose(model.log_prob(x), np.full(100, -2 * np.log(8.0)), rtol=1e-5)


class TestFiles:
    def test_keras_file(self, tmp_path):
        schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 20, 1.0)
        model = model_of(inverse_temperature=schedule)
        fit(model)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert isinstance(loaded, VariationalModel)
        assert loaded.target_log_prob is gaussian
        assert loaded.inverse_temperature.get_config() == schedule.get_config()
        assert evaluate(loaded) == evaluate(model)

    def test_saved_model(self, tmp_path):
        model = model_of()
        keras_nf.export_saved_model(model, tmp_path / "served")
        served = tf.saved_model.load(str(tmp_path / "served"))
        x = model.sample(3, seed=0)
        np.testing.assert_allclose(
            served.signatures["log_prob"](x=x)["log_prob"], model.log_prob(x)
        )

    def test_unregistered_target(self, tmp_path):
        with pytest.raises(ValueError, match=r"target_log_prob .* is not registered"):
            model_of(target=lambda x: gaussian(x)).save(tmp_path / "model.keras")


class TestErrors:
    def test_target_is_no_function(self):
        with pytest.raises(ValueError, match="must be a function of x"):
            VariationalModel(affine(), 3.0)

    def test_event_size_is_unknown(self):
        with pytest.raises(ValueError, match=r"event size .* is not known"):
            VariationalModel(keras_nf.Scaling(), gaussian)

    @pytest.mark.parametrize("name", ["x", "y", "validation_data", "sample_weight"])
    def test_data(self, name):
        with pytest.raises(ValueError, match=f"takes no {name}"):
            fit(model_of(), **{name: np.zeros((4, 2), "float32")})

    @pytest.mark.parametrize("name", ["loss", "metrics"])
    def test_loss(self, name):
        with pytest.raises(ValueError, match=f"takes no {name}"):
            VariationalModel(affine(), gaussian).compile("adam", **{name: ["mse"]})

    @pytest.mark.parametrize(
        "target", [lambda x: -(x**2), lambda x: -tf.reduce_sum(x**2)], ids=["events", "scalar"]
    )
    def test_shape_of_the_target(self, target):
        with pytest.raises(ValueError, match="a number for each draw"):
            fit(model_of(target=target))

    def test_flow_needs_a_condition(self):
        with pytest.raises(ValueError, match="needs a condition"):
            VariationalModel(keras_nf.planar_flow(2, amortized=True), gaussian)
