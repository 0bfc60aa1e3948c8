"""SavedModels: what is served, where, and by which operations."""

import functools
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import runtimes
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from models import EVENT, C, X, condition_of, make, names, selected
from processes import compile_program, run_python

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

ROOT = pathlib.Path(keras_nf.__file__).parents[1]
SIGNATURES = ["log_prob", "sample", "forward", "inverse"]
SEEDS = [(1, 2), (1, 3)]

# A graph may fuse what eager mode computes one by one. In bfloat16 a network keeps 8 bits.
TOLERANCE = {"float64": 1e-13, "mixed": 5e-2}


def tolerance_of(name):
    return TOLERANCE.get(name, 1e-5)


def arguments_of(name, rows=slice(None), **inputs):
    """Return the inputs of a signature as tensors; those that are floats in the model's dtype."""
    dtype = "float64" if name == "float64" else "float32"
    if condition_of(name) is not None:
        inputs["condition"] = C[rows]
    return {
        key: tf.constant(value, "int32" if key in ("n", "seed") else dtype)
        for key, value in inputs.items()
    }


@pytest.fixture(scope="module")
def exported(request, tmp_path_factory):
    """The models, and the folder with the SavedModel of each."""
    folder, files = (tmp_path_factory.mktemp(name) for name in ("exported", "models"))
    # In a process of its own: what it takes to trace all these graphs goes with it.
    script = """
        import pathlib, sys
        sys.path.insert(0, "tests")
        import keras_nf
        from models import make

        folder, files = map(pathlib.Path, sys.argv[1:3])
        for name in sys.argv[3:]:
            model = make(name)
            model.save(files / f"{name}.keras")
            keras_nf.export_saved_model(model, folder / name)
    """
    run_python(script, folder, files, *selected(request))
    models = {path.stem: keras.models.load_model(path) for path in files.iterdir()}
    return models, folder


@pytest.fixture(scope="module")
def load(exported):
    """Function that loads the SavedModel of a name; it keeps the last one."""
    return functools.lru_cache(1)(lambda name: tf.saved_model.load(str(exported[1] / name)))


@pytest.fixture(scope="module")
def served(exported, tmp_path_factory):
    """Answers of a process that has neither this package nor Keras nor TFP."""
    models, folder = exported
    results = tmp_path_factory.mktemp("results")
    for name in models:
        for rows in (6, 2):
            inputs = {
                "log_prob": arguments_of(name, slice(rows), x=X[:rows]),
                "inverse": arguments_of(name, slice(rows), x=X[:rows]),
                "forward": arguments_of(name, slice(rows), z=X[:rows]),
                "sample": arguments_of(name, slice(rows), n=5, seed=SEEDS[0]),
                "sample_again": arguments_of(name, slice(rows), n=5, seed=SEEDS[0]),
                "sample_other": arguments_of(name, slice(rows), n=5, seed=SEEDS[1]),
            }
            flat = {f"{call}.{key}": v for call, kw in inputs.items() for key, v in kw.items()}
            np.savez(results / f"{name}.{rows}.in.npz", **flat)
    script = """
        import pathlib, sys
        for name in ("keras", "keras_nf", "tensorflow_probability", "tf_keras"):
            sys.modules[name] = None
        import numpy as np
        import tensorflow as tf

        folder, results = map(pathlib.Path, sys.argv[1:])
        for path in folder.iterdir():
            served = tf.saved_model.load(str(path))
            for rows in (6, 2):
                flat = np.load(results / f"{path.name}.{rows}.in.npz")
                outputs = {}
                for call in sorted({key.split(".")[0] for key in flat}):
                    inputs = {
                        key.split(".")[1]: tf.constant(value)
                        for key, value in flat.items()
                        if key.split(".")[0] == call
                    }
                    signature = call.replace("_again", "").replace("_other", "")
                    (value,) = served.signatures[signature](**inputs).values()
                    outputs[call] = value
                np.savez(results / f"{path.name}.{rows}.out.npz", **outputs)
    """
    run_python(script, folder, results)
    return {
        (name, rows): np.load(results / f"{name}.{rows}.out.npz")
        for name in models
        for rows in (6, 2)
    }


def assert_close(actual, expected, name):
    scale = 1.0 + np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0.0, atol=scale * tolerance_of(name))


@pytest.mark.parametrize("rows", [6, 2])
@names
def test_served_log_density(name, rows, exported, served):
    model, condition = exported[0][name], condition_of(name)
    expected = model.log_prob(X, condition).numpy()[:rows]
    assert_close(served[name, rows]["log_prob"], expected, name)


@pytest.mark.parametrize("rows", [6, 2])
@names
def test_served_directions(name, rows, exported, served):
    flow, condition = exported[0][name].flow, condition_of(name)
    for direction in ("forward", "inverse"):
        expected = getattr(flow, direction)(X, condition=condition).numpy()[:rows]
        assert_close(served[name, rows][direction], expected, name)


@names
def test_served_samples_are_those_of_the_model(name, exported, served):
    expected = exported[0][name].sample(5, condition_of(name), seed=SEEDS[0]).numpy()
    assert served[name, 6]["sample"].shape == expected.shape
    assert_close(served[name, 6]["sample"], expected, name)


@names
def test_seed_fixes_the_served_samples(name, served):
    result = served[name, 6]
    np.testing.assert_array_equal(result["sample_again"], result["sample"])
    assert np.all(result["sample_other"] != result["sample"])


@names
def test_samples_of_another_process_are_the_same(name, load, served):
    here = load(name).signatures["sample"]
    arguments = arguments_of(name, n=5, seed=SEEDS[0])
    np.testing.assert_array_equal(here(**arguments)["x"], served[name, 6]["sample"])


@pytest.mark.parametrize("name", ["maf", "conditional-maf"])
def test_signatures(name, load):
    loaded = load(name)
    shapes = {
        signature: {
            key: spec.shape.as_list()
            for key, spec in function.structured_input_signature[1].items()
        }
        for signature, function in loaded.signatures.items()
    }
    condition = {"condition": [None, C.shape[1]]} if condition_of(name) is not None else {}
    assert shapes == {
        "serving_default": {"x": [None, EVENT], **condition},
        "log_prob": {"x": [None, EVENT], **condition},
        "sample": {"n": [], "seed": [2], **condition},
        "forward": {"z": [None, EVENT], **condition},
        "inverse": {"x": [None, EVENT], **condition},
    }
    outputs = {key: list(f.structured_outputs) for key, f in loaded.signatures.items()}
    assert outputs == {
        "serving_default": ["log_prob"],
        "log_prob": ["log_prob"],
        "sample": ["x"],
        "forward": ["x"],
        "inverse": ["z"],
    }


@pytest.mark.parametrize("name", ["planar", "nice", "maf", "iaf", "conditional-maf"])
def test_no_rows(name, load):
    signatures = load(name).signatures
    nothing = slice(0)
    for signature, key in (("log_prob", "x"), ("forward", "z"), ("inverse", "x")):
        (result,) = signatures[signature](**arguments_of(name, nothing, **{key: X[:0]})).values()
        assert result.shape == ((0,) if signature == "log_prob" else (0, EVENT))
    draws = signatures["sample"](**arguments_of(name, n=0, seed=SEEDS[0]))["x"]
    assert draws.shape == ((0, *C.shape[:1], EVENT) if name.startswith("cond") else (0, EVENT))


def test_negative_number_of_draws(load):
    sample = load("maf").signatures["sample"]
    with pytest.raises(tf.errors.InvalidArgumentError):
        sample(**arguments_of("maf", n=-1, seed=SEEDS[0]))


def test_export_of_the_model_is_the_same(exported, load, tmp_path):
    model = exported[0]["maf"]
    model.export(tmp_path)
    loaded = tf.saved_model.load(str(tmp_path))
    other = load("maf")
    assert set(loaded.signatures) == set(other.signatures)
    arguments = arguments_of("maf", n=3, seed=SEEDS[0])
    expected = other.signatures["sample"](**arguments)["x"]
    np.testing.assert_array_equal(loaded.signatures["sample"](**arguments)["x"], expected)


def test_weights_of_an_export_stay(tmp_path):
    model = make("maf")
    before = model.log_prob(X).numpy()
    model.export(tmp_path)
    for weight in model.trainable_variables:
        weight.assign(weight + 1.0)
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(loaded.log_prob(X)["log_prob"], before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["planar", "nice", "real-nvp", "maf", "iaf"])
def test_gradient_of_a_loaded_density(name, exported):
    model, x = exported[0][name], tf.constant(X)
    loaded = tf.saved_model.load(str(exported[1] / name))

    def gradient(log_prob):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = log_prob(x)
        return tape.gradient(value, x).numpy()

    actual = gradient(lambda x: loaded.log_prob(x)["log_prob"])
    assert_close(actual, gradient(model), name)


# Operations.


DEPLOY = (ROOT / "docs" / "deploy.md").read_text()


@names
def test_operations_are_those_of_a_stock_server(name, load):
    used = set().union(*map(runtimes.operations, load(name).signatures.values()))
    documented = set(re.findall(r"`([A-Z]\w+)`", DEPLOY.partition("## Operations")[2]))
    assert used <= documented


# Ways to load.


@pytest.mark.slow
def test_saved_model_cli_shows_the_signatures(exported):
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "show", "--all"]
    shown = subprocess.run(
        [*command, "--dir", exported[1] / "maf"], capture_output=True, text=True, check=True
    ).stdout
    for signature in SIGNATURES:
        assert f"signature_def['{signature}']" in shown
    assert "inputs['seed']" in shown


def test_saved_model_cli_runs_a_signature(exported, tmp_path):
    models, folder = exported
    np.save(tmp_path / "x.npy", X)
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "run"]
    options = ["--tag_set", "serve", "--signature_def", "log_prob", "--outdir", tmp_path]
    subprocess.run(
        [*command, "--dir", folder / "maf", *options, "--inputs", f"x={tmp_path / 'x.npy'}"],
        capture_output=True,
        check=True,
    )
    expected = models["maf"].log_prob(X)
    np.testing.assert_allclose(np.load(tmp_path / "log_prob.npy"), expected, rtol=1e-5, atol=1e-5)


def test_layer_of_another_model(exported):
    models, folder = exported
    layer = keras.layers.TFSMLayer(str(folder / "maf"), call_endpoint="log_prob")
    inputs = keras.Input((EVENT,))
    other = keras.Model(inputs, layer(keras.layers.Rescaling(2.0)(inputs))["log_prob"])
    expected = models["maf"].log_prob(2.0 * X)
    np.testing.assert_allclose(other.predict(X, verbose=0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("name", ["planar", "nice", "real-nvp", "maf", "iaf"])
def test_program_without_python(name, exported, program):
    models, folder = exported
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(folder / name))
    signature = meta.signature_def["log_prob"]
    tensors = signature.inputs["x"].name, signature.outputs["log_prob"].name
    numbers = " ".join(str(value) for value in X.ravel())
    result = subprocess.run(
        [program, folder / name, *tensors, str(EVENT)],
        input=numbers,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    expected = models[name].log_prob(X)
    np.testing.assert_allclose(np.array(result.stdout.split(), float), expected, 1e-5, 1e-5)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return compile_program("log_prob.c", tmp_path_factory.mktemp("program") / "log_prob")


# Requests that warm up a server.

# The parts of TensorFlow Serving's messages that a request has, with the numbers of its protocol.
MESSAGES = {
    "ModelSpec": [("name", 1, "string"), ("signature_name", 3, "string")],
    "PredictRequest": [("model_spec", 1, "ModelSpec"), ("inputs", 2, "InputsEntry")],
    "InputsEntry": [("key", 1, "string"), ("value", 2, "tensorflow.TensorProto")],
    "PredictLog": [("request", 1, "PredictRequest")],
    "PredictionLog": [("predict_log", 6, "PredictLog")],
}


@functools.cache
def prediction_log_class():
    file = descriptor_pb2.FileDescriptorProto(
        name="serving.proto",
        package="serving",
        syntax="proto3",
        dependency=["tensorflow/core/framework/tensor.proto"],
    )
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            added = message.field.add(name=field, number=number, label=1)
            added.type = 9 if kind == "string" else 11
            if kind != "string":
                added.type_name = kind if "." in kind else f".serving.{kind}"
            if field == "inputs":
                added.label = 3
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("serving.PredictionLog"))


@pytest.mark.parametrize("name", ["maf", "conditional-maf", "float64"])
def test_warmup_requests_can_be_answered(name, exported, load):
    prediction_log = prediction_log_class()
    path = exported[1] / name / "assets.extra" / "tf_serving_warmup_requests"
    signatures, records = load(name).signatures, tf.data.TFRecordDataset(str(path))
    asked = []
    for record in records.as_numpy_iterator():
        request = prediction_log.FromString(record).predict_log.request
        inputs = {entry.key: tf.make_ndarray(entry.value) for entry in request.inputs}
        signature = signatures[request.model_spec.signature_name]
        (answer,) = signature(**{k: tf.constant(v) for k, v in inputs.items()}).values()
        assert np.all(np.isfinite(answer))
        asked.append(request.model_spec.signature_name)
    assert asked == SIGNATURES


# Errors.


def test_export_of_a_flow():
    with pytest.raises(
        ValueError, match=r"Expected a keras_nf.FlowModel.*keras_nf.FlowModel\(flow"
    ):
        keras_nf.export_saved_model(keras_nf.maf(2), "model")


def test_export_without_weights(tmp_path):
    model = keras_nf.FlowModel(keras_nf.maf(2))
    with pytest.raises(ValueError, match=r"no weights yet\. Build it first"):
        keras_nf.export_saved_model(model, tmp_path)


def test_export_with_a_signature_of_ones_own(tmp_path):
    with pytest.raises(ValueError, match=r"from the model\. Received: input_signature="):
        make("maf").export(tmp_path, input_signature=[tf.TensorSpec((None, EVENT))])
