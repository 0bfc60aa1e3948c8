"""Files of another time, of another model, or broken: loaded rightly, or refused with a reason."""

import inspect
import io
import json
import pathlib
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_nf
from keras_nf import FlowModel
from keras_nf.config import FORMAT_VERSION
from keras_nf.elementwise import Affine

pytestmark = pytest.mark.usefixtures("without_xla")

DATA = pathlib.Path(__file__).parent / "data"
EVENT = 4
X = np.random.default_rng(0).normal(size=(6, EVENT)).astype("float32")


class TestFormat:
    """A file in the repository, with the numbers of the day on which it was written."""

    @pytest.fixture(scope="class", params=range(1, FORMAT_VERSION + 1))
    def written(self, request):
        path = DATA / f"format_{request.param}.keras"
        return keras.models.load_model(path), np.load(path.with_suffix(".npz"))

    def test_density(self, written):
        model, values = written
        log_prob = model.log_prob(values["x"], values["condition"])
        np.testing.assert_allclose(log_prob, values["log_prob"], rtol=1e-5, atol=1e-5)

    def test_latents(self, written):
        model, values = written
        latents = model.flow.inverse(values["x"], condition=values["condition"])
        np.testing.assert_allclose(latents, values["latents"], rtol=1e-5, atol=1e-5)

    def test_samples(self, written):
        model, values = written
        samples = model.sample(3, values["condition"], seed=0)
        np.testing.assert_allclose(samples, values["samples"], rtol=1e-5, atol=1e-5)

    def test_training_state(self, written):
        model, _ = written
        assert int(model.optimizer.iterations) == 2

    def test_holds_every_flow(self, written):
        model, _ = written
        held = {type(layer) for layer in model.flow._flatten_layers()}
        public = [getattr(keras_nf, name) for name in keras_nf.__all__]
        flows = {c for c in public if inspect.isclass(c) and issubclass(c, keras_nf.Flow)}
        schemes = {keras_nf.Flow, keras_nf.Coupling, keras_nf.Autoregressive}
        newer = {keras_nf.ActNorm, keras_nf.LULinear, keras_nf.BatchNormalization}
        newer |= {keras_nf.Dequantize, keras_nf.Squeeze, keras_nf.Multiscale, keras_nf.Log}
        newer |= {keras_nf.SplineCoupling, keras_nf.SplineAutoregressive}
        assert flows - held == schemes | newer


def model_of(*flows, **kwargs):
    model = FlowModel(keras_nf.Chain(list(flows)), **kwargs)
    model.build((None, EVENT))
    return model


def flows(hidden_units=8):
    return [
        keras_nf.AffineCoupling(hidden_units=(hidden_units,)),
        keras_nf.Permute((2, 0, 3, 1)),
        keras_nf.MaskedAutoregressive(hidden_units=(8,)),
        keras_nf.Scaling(name="scaling"),
    ]


def later_format(config):
    config["format_version"] = FORMAT_VERSION + 1


@pytest.mark.parametrize(
    "make", [keras_nf.Scaling, lambda: model_of(*flows())], ids=["flow", "model"]
)
class TestFormatVersion:
    def test_is_in_the_config_and_no_argument(self, make):
        config = make().get_config()
        assert config["format_version"] == FORMAT_VERSION
        assert "format_version" not in inspect.signature(type(make()).__init__).parameters

    @pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 0, "later", None])
    def test_of_another_version(self, version, make):
        config = {**make().get_config(), "format_version": version}
        with pytest.raises(ValueError, match=rf"format {version!r}.*up to {FORMAT_VERSION}.*pip"):
            type(make()).from_config(config)

    def test_without_one(self, make):
        config = make().get_config()
        del config["format_version"]
        assert type(make()).from_config(config).get_config()["format_version"] == FORMAT_VERSION

    def test_config_is_left_as_it_is(self, make):
        config = make().get_config()
        type(make()).from_config(config)
        assert config["format_version"] == FORMAT_VERSION


class Doubling(keras_nf.Scaling):
    """A user's flow that reads its config on its own."""

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def test_flow_with_a_from_config_of_its_own():
    config = Doubling(name="twice").get_config()
    assert Doubling.from_config(config).name == "twice"
    later = {**config, "format_version": FORMAT_VERSION + 1}
    with pytest.raises(ValueError, match=f"format {FORMAT_VERSION + 1} of keras_nf"):
        Doubling.from_config(later)


class Bounded(keras_nf.Scaling):
    """A user's flow with an argument that some of ours have as well."""

    def __init__(self, log_scale_bound=1.0, **kwargs):
        super().__init__(**kwargs)
        self.log_scale_bound = log_scale_bound

    def get_config(self):
        return {**super().get_config(), "log_scale_bound": self.log_scale_bound}


AFFINE = [
    keras_nf.AffineCoupling,
    keras_nf.MaskedAutoregressive,
    keras_nf.InverseAutoregressive,
]


@pytest.mark.parametrize("flow", AFFINE)
@pytest.mark.parametrize("shift_first", [True, False])
def test_config_keeps_the_form_of_an_affine_map(shift_first, flow):
    config = flow(shift_first=shift_first).get_config()
    assert flow.from_config(config).elementwise.shift_first is shift_first


@pytest.mark.parametrize("flow", AFFINE)
def test_affine_flows_of_format_1_shift_last(flow):
    config = {**flow().get_config(), "format_version": 1}
    del config["shift_first"]
    assert flow.from_config(config).elementwise.shift_first is False
    assert Affine.from_config({"log_scale_bound": 7.0}).shift_first is False


def test_format_1_of_a_flow_of_a_user():
    config = {**Bounded(3.0).get_config(), "format_version": 1}
    assert Bounded.from_config(config).log_scale_bound == 3.0


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A trained model, and its two files as bytes."""
    folder = tmp_path_factory.mktemp("saved")
    model = model_of(*flows())
    model.compile("adam")
    model.fit(X, verbose=0)
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    content = {path.suffix: path.read_bytes() for path in folder.iterdir()}
    return model, content[".keras"], content[".h5"]


def members(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def without(name):
    return lambda content: packed({k: v for k, v in members(content).items() if k != name})


def flipped(anchor):
    """Flip a bit a little after the first place of some bytes."""

    def change(content):
        at = content.index(anchor) + 3
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return change


def with_config(change):
    """Rewrite the config of a `.keras` file."""

    def rewrite(content):
        files = members(content)
        config = json.loads(files["config.json"])
        change(config)
        return packed({**files, "config.json": json.dumps(config)})

    return rewrite


def with_weights(change):
    """Rewrite the HDF5 file, by itself or in a `.keras` file."""

    def rewrite(content):
        if zipfile.is_zipfile(io.BytesIO(content)):
            files = members(content)
            name = "model.weights.h5"
            return packed({**files, name: rewrite(files[name])})
        target = io.BytesIO(content)
        with h5py.File(target, "r+") as file:
            change(file)
        return target.getvalue()

    return rewrite


SCALING = "flow/flows/scaling/vars"


def delete(path):
    return with_weights(lambda file: file.pop(path))


def of_another_shape(file):
    del file[f"{SCALING}/0"]
    file[f"{SCALING}/0"] = np.zeros(EVENT + 1, "float32")


def without_shapes(content):
    """Lose the shapes from which layers are built."""
    files = members(content)
    config = files["config.json"].replace(b'"build_config"', b'"unused_config"')
    return packed({**files, "config.json": config})


CANNOT_OPEN = "Unable to.*open file"
NO_ZIP = "ensure the file is an accessible `.keras` zip file"
# Keras counts what it finds under the last path by which it comes to a layer, which is none.
WRONG_VARIABLES = "'scaling' expected 1 variables, but received"
BROKEN = {
    "empty": (lambda content: b"", ValueError, NO_ZIP),
    "noise": (lambda content: bytes(range(256)) * 9, ValueError, NO_ZIP),
    "truncated": (lambda content: content[: len(content) // 2], ValueError, NO_ZIP),
    "last-byte-missing": (lambda content: content[:-1], ValueError, NO_ZIP),
    "other-zip": (lambda content: packed({"a.txt": b"a"}), KeyError, "no item named 'config.json'"),
    "no-config": (without("config.json"), KeyError, "no item named 'config.json'"),
    "no-weights": (without("model.weights.h5"), ValueError, "Expected a model.weights.h5"),
    "flipped-config": (flipped(b'"flow"'), zipfile.BadZipFile, "Bad CRC-32.*config.json"),
    # Keras asks HDF5 where the archive refuses; from Python 3.12 on this comes past the checksum.
    "flipped-weights": (
        flipped(b"\x89HDF"),
        (zipfile.BadZipFile, OSError),
        f"Bad CRC-32.*model.weights|{CANNOT_OPEN}",
    ),
    "flipped-number": (
        lambda content: flipped(content[len(content) // 2 :])(content),
        (zipfile.BadZipFile, ValueError),
        "Bad CRC-32.*model.weights|could not be loaded",
    ),
    "config-is-no-json": (
        lambda content: packed({**members(content), "config.json": b"{no"}),
        ValueError,
        "Expecting property name",
    ),
    "weights-are-no-hdf5": (
        lambda content: packed({**members(content), "model.weights.h5": b"no" * 99}),
        OSError,
        CANNOT_OPEN,
    ),
    "missing-variable": (delete(f"{SCALING}/0"), ValueError, WRONG_VARIABLES),
    "missing-layer": (delete(SCALING), ValueError, WRONG_VARIABLES),
    "other-shape": (with_weights(of_another_shape), ValueError, WRONG_VARIABLES),
    "no-shapes": (without_shapes, ValueError, "weights of another model.*this one has"),
    "later-format": (
        with_config(lambda config: later_format(config["config"])),
        ValueError,
        f"has format {FORMAT_VERSION + 1} of keras_nf.*pip install --upgrade keras_nf",
    ),
    "later-format-of-a-flow": (
        with_config(lambda config: later_format(config["config"]["flow"]["config"])),
        ValueError,
        f"has format {FORMAT_VERSION + 1} of keras_nf",
    ),
    "no-flow": (
        with_config(lambda config: config["config"].pop("flow")),
        TypeError,
        "missing 1 required positional argument: 'flow'",
    ),
    "unknown-argument": (
        with_config(lambda config: config["config"]["flow"]["config"].update(surprise=1)),
        ValueError,
        "Unrecognized keyword arguments passed to Chain.*surprise",
    ),
}


@pytest.mark.parametrize(("change", "error", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_keras_file(change, error, words, saved, tmp_path):
    path = tmp_path / "broken.keras"
    path.write_bytes(change(saved[1]))
    with pytest.raises(error, match=f"(?s){words}"):
        keras.models.load_model(path)


# A flipped bit among the numbers passes: HDF5 keeps no checksum of them. The zip archive does.
BROKEN_WEIGHTS = {
    "empty": (lambda content: b"", OSError, CANNOT_OPEN),
    "noise": (lambda content: bytes(range(256)) * 9, OSError, CANNOT_OPEN),
    "truncated": (lambda content: content[: len(content) // 2], OSError, CANNOT_OPEN),
    "last-byte-missing": (lambda content: content[:-1], OSError, CANNOT_OPEN),
    "flipped-header": (flipped(b"\x89HDF"), OSError, CANNOT_OPEN),
    "missing-variable": (delete(f"{SCALING}/0"), ValueError, WRONG_VARIABLES),
    "missing-layer": (delete(SCALING), ValueError, WRONG_VARIABLES),
    "other-shape": (with_weights(of_another_shape), ValueError, WRONG_VARIABLES),
}


@pytest.mark.parametrize(
    ("change", "error", "words"), BROKEN_WEIGHTS.values(), ids=BROKEN_WEIGHTS.keys()
)
def test_broken_weights_file(change, error, words, saved, tmp_path):
    path = tmp_path / "broken.weights.h5"
    path.write_bytes(change(saved[2]))
    with pytest.raises(error, match=f"(?s){words}"):
        model_of(*flows()).load_weights(path)


def dense():
    return keras.Sequential([keras.Input((EVENT,)), keras.layers.Dense(3)])


# Models that take some or all of the numbers in the file, were it not for what stands beside them.
OTHERS = {
    "fewer-flows": (lambda: model_of(*[flows()[i] for i in (0, 2, 3)]), "another model: Permute"),
    "more-flows": (lambda: model_of(*flows(), keras_nf.Permute()), "nothing, where.*has Permute"),
    "other-sequence": (lambda: model_of(*flows()[::-1]), "another model: .*, where this one has"),
    "wider-network": (lambda: model_of(*flows(9)), "MLP 2x8 .*where this one has MLP 2x9"),
    "other-permutation": (
        lambda: model_of(flows()[0], keras_nf.Permute("random", seed=1), *flows()[2:]),
        "Permute order .*where this one has Permute order .*seeds",
    ),
    "other-order": (
        lambda: model_of(
            *flows()[:2],
            keras_nf.MaskedAutoregressive(hidden_units=(8,), order="random", seed=1),
            flows()[3],
        ),
        "MADE .*where this one has MADE .*seeds",
    ),
    "other-mask": (
        lambda: model_of(
            keras_nf.AffineCoupling(mask="random", seed=0, hidden_units=(8,)), *flows()[1:]
        ),
        "AffineCoupling order .*where this one has AffineCoupling order .*seeds",
    ),
    "other-form": (
        lambda: model_of(
            keras_nf.AffineCoupling(shift_first=False, hidden_units=(8,)), *flows()[1:]
        ),
        "AffineCoupling order .* shift first, where this one has AffineCoupling order",
    ),
    "layer": (dense, "could not be loaded"),
}


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize(("make", "words"), OTHERS.values(), ids=OTHERS.keys())
def test_weights_of_another_model(make, words, suffix, saved, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(saved[1] if suffix == ".keras" else saved[2])
    with pytest.raises(ValueError, match=f"(?s){words}"):
        make().load_weights(path)


def test_file_of_a_model_without_flows(tmp_path):
    dense().save_weights(tmp_path / "dense.weights.h5")
    with pytest.raises(ValueError, match="objects could not be loaded"):
        model_of(*flows()).load_weights(tmp_path / "dense.weights.h5")


def test_weights_for_a_model_that_is_not_built(saved, tmp_path):
    path = tmp_path / "model.weights.h5"
    path.write_bytes(saved[2])
    with pytest.raises(ValueError, match="not yet been built"):
        FlowModel(keras_nf.Chain(flows())).load_weights(path)


def test_weights_of_flows_that_compute_the_same(saved, tmp_path):
    """The mask, not the words that name it, must be that of the file; so must not the base."""
    model, _, content = saved
    path = tmp_path / "model.weights.h5"
    path.write_bytes(content)
    mask = (True, True, False, False)
    same = keras_nf.AffineCoupling(mask=mask, hidden_units=(8,), name="by_hand")
    other = model_of(same, *flows()[1:], base="logistic")
    other.load_weights(path)
    np.testing.assert_array_equal(other.flow.inverse(X), model.flow.inverse(X))


def test_mismatch_can_be_skipped(saved, tmp_path):
    path = tmp_path / "model.weights.h5"
    path.write_bytes(saved[2])
    other = model_of(*flows(9))
    with pytest.warns(UserWarning, match="weights of another model"):
        other.load_weights(path, skip_mismatch=True)
    np.testing.assert_array_equal(other.flow.flows[3].log_scale, saved[0].flow.flows[3].log_scale)


def test_optimizer_without_its_state(saved, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(delete("optimizer")(saved[1]))
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer 'adam"):
        keras.models.load_model(path)


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


LAMBDA = {"class_name": "__lambda__", "config": {"value": ["4wEA", None, None]}}
CODE = {
    "function-of-os": (function("os", "system"), "system"),
    "builtin": (function("builtins", "eval"), "eval"),
    "class": ({**function("subprocess", "Popen"), "class_name": "Popen", "config": {}}, "Popen"),
    "lambda": (LAMBDA, "lambda|not known here"),
}
PLACES = {
    "base": lambda config, value: config["config"].update(base=value),
    "flow": lambda config, value: config["config"].update(flow=value),
    "conditioner": lambda config, value: coupling_of(config).update(conditioner=value),
    "activation": lambda config, value: coupling_of(config).update(activation=value),
    "elementwise": lambda config, value: coupling_of(config).update(elementwise=value),
}


def coupling_of(config):
    return config["config"]["flow"]["config"]["flows"][0]["config"]


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize(("value", "words"), CODE.values(), ids=CODE.keys())
def test_code_in_a_config(value, words, place, saved, tmp_path):
    path = tmp_path / "code.keras"
    path.write_bytes(with_config(lambda config: place(config, value))(saved[1]))
    with pytest.raises((TypeError, ValueError), match=f"(?s){words}"):
        keras.models.load_model(path)


def test_lambda_layer_in_a_conditioner(tmp_path):
    network = keras.Sequential([keras.layers.Dense(4), keras.layers.Lambda(lambda x: 2.0 * x)])
    model_of(keras_nf.AffineCoupling(conditioner=network)).save(tmp_path / "code.keras")
    with pytest.raises(ValueError, match=r"Python lambda.*safe_mode=False"):
        keras.models.load_model(tmp_path / "code.keras")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model"
    keras_nf.export_saved_model(model_of(keras_nf.Scaling()), path)
    return path


VARIABLES = "variables/variables.data-00000-of-00001"
BROKEN_FOLDERS = {
    "no-graph": ("saved_model.pb", None, OSError, "SavedModel file does not exist"),
    "truncated-graph": ("saved_model.pb", 1000, OSError, "Cannot parse file"),
    "no-variables": (VARIABLES, None, tf.errors.OpError, "variables.*No such file"),
    "truncated-variables": (VARIABLES, 5, IndexError, "Read less bytes than requested"),
    "no-index": ("variables/variables.index", None, FileNotFoundError, "Failed to find.*variables"),
}


@pytest.mark.parametrize(
    ("name", "size", "error", "words"), BROKEN_FOLDERS.values(), ids=BROKEN_FOLDERS.keys()
)
def test_broken_saved_model(name, size, error, words, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if size is not None:
        (folder / name).write_bytes(content[:size])
    with pytest.raises(error, match=f"(?s){words}"):
        tf.saved_model.load(str(folder))
