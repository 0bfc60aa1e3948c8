"""Files: what is loaded computes, to the last bit, what was saved."""

import copy
import json
import pickle
import zipfile

import keras
import numpy as np
import pytest
from cases import perturb
from models import EVENT, SMALL, X, condition_of, inputs_of, laplace, make, names, selected
from processes import run_python

import keras_nf
from keras_nf import FlowModel

pytestmark = pytest.mark.usefixtures("without_xla")


def assert_same(loaded, model, name):
    """Compare densities to the last bit."""
    condition = condition_of(name)
    np.testing.assert_array_equal(loaded.log_prob(X, condition), model.log_prob(X, condition))


@names
def test_keras_file(name, tmp_path):
    model = make(name)
    model.save(tmp_path / "model.keras")
    assert_same(keras.models.load_model(tmp_path / "model.keras"), model, name)


@names
def test_weights_file(name, tmp_path):
    model = make(name)
    model.save_weights(tmp_path / "model.weights.h5")
    other = FlowModel.from_config(model.get_config())
    other(inputs_of(name))
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same(other, model, name)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "pickle"],
)
@pytest.mark.parametrize("name", ["maf", "pixels", "conditional-network"])
def test_copies(name, copied):
    model = make(name)
    assert_same(copied(model), model, name)


@pytest.mark.parametrize("name", ["maf", "pixels", "standardized", "conditional-real-nvp"])
def test_copy_does_not_share_weights(name):
    model = make(name)
    clone = copy.deepcopy(model)
    before = model.log_prob(X, condition_of(name)).numpy()
    perturb(clone.flow, seed=1)
    np.testing.assert_array_equal(model.log_prob(X, condition_of(name)), before)


@pytest.mark.parametrize("name", ["maf", "pixels", "standardized", "conditional-network"])
def test_clone_has_the_architecture(name):
    model = make(name)
    clone = keras.models.clone_model(model)
    clone(inputs_of(name))
    clone.set_weights(model.get_weights())
    assert_same(clone, model, name)


@names
def test_config_is_json(name):
    config = make(name).get_config()
    assert json.loads(json.dumps(config)) == json.loads(
        json.dumps(FlowModel.from_config(config).get_config())
    )


@pytest.fixture(scope="module")
def elsewhere(request, tmp_path_factory):
    """Densities and samples of models, loaded in a process that did not make them."""
    folder = tmp_path_factory.mktemp("saved")
    models = {name: make(name) for name in selected(request)}
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
    script = """
        import pathlib, sys
        import conftest
        import keras
        import numpy as np
        import tensorflow as tf

        tf.function = conftest.graph  # without XLA, as here
        sys.path.insert(0, "tests")
        from models import X, condition_of

        folder = pathlib.Path(sys.argv[1])
        for path in folder.glob("*.keras"):
            model = keras.models.load_model(path)
            condition = condition_of(path.stem)
            np.savez(
                folder / f"{path.stem}.npz",
                log_prob=model.log_prob(X, condition),
                sample=model.sample(3, condition, seed=1),
            )
    """
    run_python(script, folder)
    return models, {name: np.load(folder / f"{name}.npz") for name in models}


@names
def test_another_process_computes_the_same_densities(name, elsewhere):
    models, results = elsewhere
    expected = models[name].log_prob(X, condition_of(name))
    np.testing.assert_array_equal(results[name]["log_prob"], expected)


@names
def test_another_process_draws_the_same_samples(name, elsewhere):
    models, results = elsewhere
    expected = models[name].sample(3, condition_of(name), seed=1)
    np.testing.assert_array_equal(results[name]["sample"], expected)


class TestTrainingState:
    def fit(self, model, epochs=2):
        model.fit(np.tile(X, (4, 1)), batch_size=8, epochs=epochs, shuffle=False, verbose=0)

    def trained(self):
        keras.utils.set_random_seed(1)
        model = FlowModel(keras_nf.maf(EVENT, **SMALL))
        model.compile(keras.optimizers.Adam(0.01), metrics=[keras.metrics.MeanMetricWrapper(bits)])
        self.fit(model)
        return model

    def loaded(self, model, path):
        model.save(path / "model.keras")
        return keras.models.load_model(path / "model.keras")

    def test_training_goes_on_as_if_uninterrupted(self, tmp_path):
        model = self.trained()
        loaded = self.loaded(model, tmp_path)
        self.fit(model)
        self.fit(loaded)
        for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_optimizer_comes_back(self, tmp_path):
        model = self.trained()
        loaded = self.loaded(model, tmp_path)
        assert type(loaded.optimizer) is keras.optimizers.Adam
        assert int(loaded.optimizer.iterations) == 6
        for a, b in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_loss_and_metrics_come_back(self, tmp_path):
        model = self.trained()
        loaded = self.loaded(model, tmp_path)
        assert loaded.evaluate(X, verbose=0) == model.evaluate(X, verbose=0)

    def test_a_file_without_compilation_stays_without(self, tmp_path):
        model = make("maf")
        model.save(tmp_path / "model.keras")
        assert not keras.models.load_model(tmp_path / "model.keras").compiled


@keras.saving.register_keras_serializable("saving_tests")
def bits(y_true, y_pred):
    return -y_pred / np.log(2.0)


class TestRefusals:
    @pytest.mark.parametrize("write", ["save", "config"])
    def test_base_that_is_not_registered(self, write, tmp_path):
        def unknown(event_size):
            return laplace(event_size)

        model = FlowModel(keras_nf.maf(EVENT, **SMALL), base=unknown)
        with pytest.raises(
            ValueError, match=r"unknown.*not registered.*register_keras_serializable"
        ):
            model.save(tmp_path / "model.keras") if write == "save" else model.get_config()

    def test_base_that_is_not_registered_where_the_file_is_loaded(self, tmp_path):
        make("user-base").save(tmp_path / "model.keras")
        path = rewritten(
            tmp_path / "model.keras", lambda c: c["base"].update(config="nobody>nothing")
        )
        with pytest.raises((TypeError, ValueError), match="nobody>nothing"):
            keras.models.load_model(path)

    def test_unknown_class(self, tmp_path):
        make("maf").save(tmp_path / "model.keras")
        stranger = {"module": None, "class_name": "Stranger", "registered_name": "nobody>Stranger"}
        path = rewritten(tmp_path / "model.keras", lambda c: c["flow"].update(stranger))
        with pytest.raises(TypeError, match="Stranger"):
            keras.models.load_model(path)

    @pytest.mark.parametrize("module", ["os", "builtins"])
    def test_function_of_another_module_as_a_base(self, module, tmp_path):
        make("user-base").save(tmp_path / "model.keras")
        function = {"module": module, "config": "system", "registered_name": "system"}
        path = rewritten(tmp_path / "model.keras", lambda c: c["base"].update(function))
        with pytest.raises((TypeError, ValueError), match="system"):
            keras.models.load_model(path)

    def test_flow_of_a_class_that_is_not_registered(self, tmp_path):
        class Twice(keras_nf.Flow):
            def _forward_and_log_det(self, x, condition=None):
                return 2.0 * x, self._constant_log_det(x, EVENT * np.log(2.0))

            def _inverse_and_log_det(self, y, condition=None):
                return 0.5 * y, self._constant_log_det(y, -EVENT * np.log(2.0))

        model = FlowModel(Twice(event_size=EVENT))
        model(X)
        model.save(tmp_path / "model.keras")
        with pytest.raises(TypeError, match="Twice"):
            keras.models.load_model(tmp_path / "model.keras")


def rewritten(path, change):
    """Return the path of a copy of a `.keras` file with another model config."""
    target = path.with_name("rewritten.keras")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copied:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config["config"])
                content = json.dumps(config)
            copied.writestr(name, content)
    return target
