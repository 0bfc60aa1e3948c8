"""Signatures `cdf` and `quantile` of events of one component, answered by TensorFlow alone."""

import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import perturb
from processes import compile_program, run_python

import keras_nf

pytestmark = pytest.mark.usefixtures("without_xla")

RNG = np.random.default_rng(0)
P = np.array([1e-4, 0.05, 0.5, 0.8, 1.0 - 1e-4], "float32")
C = RNG.normal(size=(5, 3)).astype("float32")


def make(name):
    """A head with an encoder, or a flow without conditions that decreases."""
    if name == "head":
        encoder = keras.Sequential([keras.layers.Dense(4, activation="tanh")])
        flow = keras_nf.nsf(event_size=1, layers=2, hidden_units=(8,), bins=4)
        model = keras_nf.FlowModel(flow, encoder=encoder)
        model.build({"x": (None, 1), "condition": (None, 3)})
        perturb(model.flow)
        return model
    flow = keras_nf.Chain([keras_nf.LULinear(), keras_nf.Planar(folds=2)], event_size=1)
    model = keras_nf.FlowModel(flow, "logistic")
    model.build((None, 1))
    perturb(model.flow)
    return model


@pytest.fixture(scope="module", params=["head", "plain"])
def exported(request, tmp_path_factory):
    model, path = make(request.param), tmp_path_factory.mktemp("exported") / request.param
    model.export(path)
    return model, path


def inputs_of(model, **inputs):
    return inputs if model.encoder is None else {**inputs, "condition": C}


def test_served_answers(exported, tmp_path):
    model, path = exported
    x = model.quantile(P, **inputs_of(model))
    np.savez(tmp_path / "in.npz", **inputs_of(model, p=P, x=x))
    script = """
        import sys
        for name in ("keras", "keras_nf", "tensorflow_probability", "tf_keras"):
            sys.modules[name] = None
        import numpy as np
        import tensorflow as tf

        path, file, results = sys.argv[1:]
        served, inputs = tf.saved_model.load(path).signatures, dict(np.load(file))
        x, p = (tf.constant(inputs.pop(name)) for name in ("x", "p"))
        condition = {name: tf.constant(value) for name, value in inputs.items()}
        answers = {**served["quantile"](p=p, **condition), **served["cdf"](x=x, **condition)}
        np.savez(results, **answers)
    """
    run_python(script, path, tmp_path / "in.npz", tmp_path / "out.npz")
    answers = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(answers["x"], x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(answers["cdf"], P, atol=1e-5)


def test_no_rows(exported):
    model, path = exported
    served = tf.saved_model.load(str(path)).signatures
    condition = {"condition": tf.zeros((0, 3))} if model.encoder is not None else {}
    assert served["quantile"](p=tf.zeros(0), **condition)["x"].shape == (0, 1)
    assert served["cdf"](x=tf.zeros((0, 1)), **condition)["cdf"].shape == (0,)


def test_more_components_have_none(tmp_path):
    model = keras_nf.FlowModel(keras_nf.Scaling(event_size=2))
    model.build((None, 2))
    model.export(tmp_path)
    assert not {"cdf", "quantile"} & set(tf.saved_model.load(str(tmp_path)).signatures)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return compile_program("log_prob.c", tmp_path_factory.mktemp("program") / "log_prob")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize(
    ("signature", "given", "returned", "size"),
    [("cdf", "x", "cdf", 1), pytest.param("quantile", "p", "x", 0, marks=pytest.mark.long)],
)
def test_program_without_python(signature, given, returned, size, program, tmp_path):
    model = make("plain")
    model.export(tmp_path / "model")
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "model"))
    tensors = meta.signature_def[signature]
    names = tensors.inputs[given].name, tensors.outputs[returned].name
    numbers = {"p": P, "x": np.ravel(model.quantile(P))}[given]
    result = subprocess.run(
        [program, tmp_path / "model", *names, str(size)],
        input=" ".join(map(str, numbers)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    expected = model.cdf(numbers[:, None]) if signature == "cdf" else model.quantile(numbers)[:, 0]
    np.testing.assert_allclose(np.array(result.stdout.split(), float), expected, 1e-5, 1e-5)
